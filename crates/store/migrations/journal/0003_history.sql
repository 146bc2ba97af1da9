-- What happened to entries, one row for each change, in the transaction of the change. Entries of
-- earlier formats have a history from here on.
ALTER TABLE entry ADD COLUMN entered_by TEXT;

CREATE TABLE history (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL REFERENCES entry (seq),
    at TEXT NOT NULL CHECK (length(at) = 20),
    change TEXT NOT NULL,
    -- Who may be told of a success from then on.
    delivery TEXT NOT NULL CHECK (delivery IN ('waiting', 'owed', 'delivered')),
    -- As of the entry, so that one caller's records are found without the others'.
    entered_by TEXT,
    -- Of changes that have them.
    transaction_hash TEXT,
    signer TEXT,
    nonce TEXT CHECK (length(nonce) = 20),
    block TEXT CHECK (length(block) = 20),
    fee TEXT,
    reason TEXT
) STRICT;

CREATE INDEX history_entry ON history (entry, seq);
CREATE INDEX history_entered_by ON history (entered_by, seq) WHERE entered_by IS NOT NULL;

CREATE TRIGGER history_stays BEFORE DELETE ON history
BEGIN SELECT RAISE(ABORT, 'the history is never forgotten'); END;

CREATE TRIGGER history_fixed BEFORE UPDATE ON history
BEGIN SELECT RAISE(ABORT, 'the history is never changed'); END;
