-- What is kept, sealed, of final entries while the block that closed them may still be undone.
CREATE TABLE watched (
    entry INTEGER PRIMARY KEY REFERENCES entry (seq),
    network TEXT NOT NULL,
    block TEXT NOT NULL CHECK (length(block) = 20),
    block_hash TEXT NOT NULL,
    plan BLOB NOT NULL,
    -- What was signed last, when something was.
    signer TEXT,
    nonce TEXT CHECK (length(nonce) = 20),
    raw BLOB,
    transaction_hash TEXT,
    part INTEGER,
    parts INTEGER,
    spent TEXT,
    CHECK ((signer IS NULL) = (nonce IS NULL)),
    CHECK ((signer IS NULL) = (raw IS NULL)),
    CHECK ((signer IS NULL) = (transaction_hash IS NULL))
) STRICT;

CREATE INDEX watched_block ON watched (network, block, block_hash);

-- 1 of a failed entry whose success somebody was told of before its block was undone.
ALTER TABLE entry ADD COLUMN reverted INTEGER NOT NULL DEFAULT 0
    CHECK (reverted = 0 OR (reverted = 1 AND stage = 'failed'));

DROP TRIGGER entry_final;

CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON entry
WHEN OLD.stage IN ('settled', 'failed')
    AND NOT EXISTS (SELECT 1 FROM watched WHERE watched.entry = OLD.seq)
BEGIN SELECT RAISE(ABORT, 'a final journal entry does not move'); END;
