-- What is over for good may be deleted, through this table alone: entries that are named here go within the same
-- transaction, with their history and with what was signed for them.
CREATE TABLE forgetting (
    entry INTEGER PRIMARY KEY
) STRICT;

CREATE TRIGGER forgetting_final BEFORE INSERT ON forgetting
WHEN NOT EXISTS (SELECT 1 FROM entry WHERE seq = NEW.entry AND stage IN ('settled', 'failed'))
    OR EXISTS (SELECT 1 FROM watched WHERE entry = NEW.entry)
BEGIN SELECT RAISE(ABORT, 'a journal entry is forgotten only when it is final and buried'); END;

DROP TRIGGER entry_stays;
CREATE TRIGGER entry_stays BEFORE DELETE ON entry
WHEN OLD.seq NOT IN (SELECT entry FROM forgetting)
BEGIN SELECT RAISE(ABORT, 'journal entries are deleted only when they are forgotten'); END;

DROP TRIGGER signed_transaction_stays;
CREATE TRIGGER signed_transaction_stays BEFORE DELETE ON signed_transaction
WHEN OLD.entry NOT IN (SELECT entry FROM forgetting)
BEGIN SELECT RAISE(ABORT, 'signed transactions are forgotten only with their entries'); END;

DROP TRIGGER history_stays;
CREATE TRIGGER history_stays BEFORE DELETE ON history
WHEN OLD.entry NOT IN (SELECT entry FROM forgetting)
BEGIN SELECT RAISE(ABORT, 'the history is forgotten only with its entries'); END;

-- What stays known of them: how many, the highest numbers of an entry and of a record, and what they cost.
CREATE TABLE forgotten (
    network TEXT PRIMARY KEY,
    entries INTEGER NOT NULL CHECK (entries > 0),
    entry INTEGER NOT NULL,
    record INTEGER NOT NULL,
    fees TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The highest nonce that was recorded for one: a nonce is never given out twice.
CREATE TABLE forgotten_nonce (
    network TEXT NOT NULL,
    signer TEXT NOT NULL,
    nonce TEXT NOT NULL CHECK (length(nonce) = 20),
    PRIMARY KEY (network, signer)
) STRICT, WITHOUT ROWID;
