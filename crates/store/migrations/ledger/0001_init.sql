-- The payer's ledger. Amounts are decimal text (256 bits do not fit a number here), summed by the
-- program; times are text of 20 digits, so that their order is the order of numbers.

CREATE TABLE reservation (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What is, or will be, signed. Never the signature.
    nonce BLOB NOT NULL UNIQUE CHECK (length(nonce) = 32),
    valid_after TEXT NOT NULL CHECK (length(valid_after) = 20),
    valid_before TEXT NOT NULL CHECK (length(valid_before) = 20),
    -- What is bought.
    intent BLOB NOT NULL CHECK (length(intent) = 32),
    origin TEXT NOT NULL,
    resource TEXT NOT NULL,
    -- What it may cost whom.
    payer TEXT NOT NULL,
    network TEXT NOT NULL,
    asset TEXT NOT NULL,
    amount TEXT NOT NULL,
    scheme TEXT NOT NULL,
    pay_to TEXT NOT NULL,
    symbol TEXT NOT NULL,
    decimals INTEGER NOT NULL CHECK (decimals BETWEEN 0 AND 255),
    is_dollar INTEGER NOT NULL CHECK (is_dollar IN (0, 1)),
    offer TEXT NOT NULL,
    reserved_at TEXT NOT NULL CHECK (length(reserved_at) = 20),
    -- How it ended.
    state TEXT NOT NULL CHECK (state IN ('reserved', 'posted', 'void')),
    charged TEXT,
    transaction_hash TEXT,
    void_proof TEXT CHECK (void_proof IN ('never_signed', 'chain_dead')),
    closed_at TEXT CHECK (length(closed_at) = 20),
    CHECK ((state = 'posted') = (charged IS NOT NULL)),
    CHECK ((state = 'posted') = (transaction_hash IS NOT NULL)),
    CHECK ((state = 'void') = (void_proof IS NOT NULL)),
    CHECK ((state = 'reserved') = (closed_at IS NULL))
) STRICT;

-- One purchase, one authorization.
CREATE UNIQUE INDEX reservation_open ON reservation (intent) WHERE state = 'reserved';
CREATE INDEX reservation_pending ON reservation (payer, seq) WHERE state = 'reserved';

CREATE TRIGGER reservation_stays BEFORE DELETE ON reservation
BEGIN SELECT RAISE(ABORT, 'reservations are never deleted'); END;

CREATE TRIGGER reservation_closed BEFORE UPDATE ON reservation WHEN OLD.state <> 'reserved'
BEGIN SELECT RAISE(ABORT, 'a closed reservation does not change'); END;

-- Running sums, changed in the same transaction as the reservation.
CREATE TABLE total (
    payer TEXT NOT NULL,
    network TEXT NOT NULL,
    asset TEXT NOT NULL,
    posted TEXT NOT NULL,
    reserved TEXT NOT NULL,
    PRIMARY KEY (payer, network, asset)
) STRICT, WITHOUT ROWID;

-- Every change of state, in order.
CREATE TABLE ledger_event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    reservation INTEGER NOT NULL REFERENCES reservation (seq),
    event TEXT NOT NULL CHECK (event IN ('reserved', 'posted', 'void')),
    amount TEXT NOT NULL,
    transaction_hash TEXT,
    void_proof TEXT,
    at TEXT NOT NULL CHECK (length(at) = 20)
) STRICT;

CREATE INDEX ledger_event_reservation ON ledger_event (reservation);

CREATE TRIGGER ledger_event_stays BEFORE DELETE ON ledger_event
BEGIN SELECT RAISE(ABORT, 'ledger events are never deleted'); END;

CREATE TRIGGER ledger_event_fixed BEFORE UPDATE ON ledger_event
BEGIN SELECT RAISE(ABORT, 'ledger events are never changed'); END;
