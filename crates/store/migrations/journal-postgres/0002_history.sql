-- What happened to entries, one row for each change, in the transaction of the change. Entries of
-- earlier formats have a history from here on.
ALTER TABLE pay402_journal.entry ADD COLUMN entered_by TEXT COLLATE "C";

CREATE TABLE pay402_journal.history (
    -- Numbers are given before they are committed: readers stop at a gap that may still be filled.
    -- For that a number must be taken only after its transaction has an id of its own, and none be
    -- kept in store by a connection.
    seq BIGINT GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    entry BIGINT NOT NULL REFERENCES pay402_journal.entry (seq),
    at TEXT COLLATE "C" NOT NULL CHECK (length(at) = 20),
    change TEXT COLLATE "C" NOT NULL,
    -- Who may be told of a success from then on.
    delivery TEXT COLLATE "C" NOT NULL CHECK (delivery IN ('waiting', 'owed', 'delivered')),
    -- As of the entry, so that one caller's records are found without the others'.
    entered_by TEXT COLLATE "C",
    -- Of changes that have them.
    transaction_hash TEXT COLLATE "C",
    signer TEXT COLLATE "C",
    nonce TEXT COLLATE "C" CHECK (length(nonce) = 20),
    block TEXT COLLATE "C" CHECK (length(block) = 20),
    fee TEXT COLLATE "C",
    reason TEXT COLLATE "C"
);

CREATE INDEX history_entry ON pay402_journal.history (entry, seq);
CREATE INDEX history_entered_by ON pay402_journal.history (entered_by, seq) WHERE entered_by IS NOT NULL;

CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON pay402_journal.history
EXECUTE FUNCTION pay402_journal.refuse('the history is never forgotten');

CREATE TRIGGER history_fixed BEFORE UPDATE ON pay402_journal.history
EXECUTE FUNCTION pay402_journal.refuse('the history is never changed');
