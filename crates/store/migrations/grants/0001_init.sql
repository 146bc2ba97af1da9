-- The resource server's claims. Times are text of 20 digits, so that their order is that of numbers.

CREATE TABLE claim (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    request BLOB NOT NULL CHECK (length(request) = 32),
    proof BLOB CHECK (length(proof) = 32),
    claimed_at TEXT NOT NULL CHECK (length(claimed_at) = 20),
    forget_at TEXT NOT NULL CHECK (length(forget_at) = 20),
    state TEXT NOT NULL CHECK (state IN ('claimed', 'settling', 'delivered')),
    transaction_hash TEXT,
    sealed BLOB,
    CHECK ((state = 'delivered') = (transaction_hash IS NOT NULL)),
    CHECK (state <> 'claimed' OR sealed IS NULL)
) STRICT;

CREATE INDEX claim_forget_at ON claim (forget_at);

CREATE TRIGGER claim_delivered BEFORE UPDATE ON claim WHEN OLD.state = 'delivered'
BEGIN SELECT RAISE(ABORT, 'a delivered claim does not change'); END;
