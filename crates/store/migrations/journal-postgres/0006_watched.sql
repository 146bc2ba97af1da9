-- What is kept, sealed, of final entries while the block that closed them may still be undone.
CREATE TABLE pay402_journal.watched (
    entry BIGINT PRIMARY KEY REFERENCES pay402_journal.entry (seq),
    network TEXT COLLATE "C" NOT NULL,
    block TEXT COLLATE "C" NOT NULL CHECK (length(block) = 20),
    block_hash TEXT COLLATE "C" NOT NULL,
    plan BYTEA NOT NULL,
    -- What was signed last, when something was.
    signer TEXT COLLATE "C",
    nonce TEXT COLLATE "C" CHECK (length(nonce) = 20),
    raw BYTEA,
    transaction_hash TEXT COLLATE "C",
    part BIGINT,
    parts BIGINT,
    spent TEXT COLLATE "C",
    CHECK ((signer IS NULL) = (nonce IS NULL)),
    CHECK ((signer IS NULL) = (raw IS NULL)),
    CHECK ((signer IS NULL) = (transaction_hash IS NULL))
);

CREATE INDEX watched_block ON pay402_journal.watched (network, block, block_hash);

-- True of a failed entry whose success somebody was told of before its block was undone.
ALTER TABLE pay402_journal.entry ADD COLUMN reverted BOOLEAN NOT NULL DEFAULT false
    CHECK (NOT reverted OR stage = 'failed');

DROP TRIGGER entry_final ON pay402_journal.entry;

CREATE FUNCTION pay402_journal.refuse_unwatched() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pay402_journal.watched WHERE watched.entry = OLD.seq) THEN
        RAISE EXCEPTION 'a final journal entry does not move'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON pay402_journal.entry
FOR EACH ROW WHEN (OLD.stage IN ('settled', 'failed'))
EXECUTE FUNCTION pay402_journal.refuse_unwatched();
