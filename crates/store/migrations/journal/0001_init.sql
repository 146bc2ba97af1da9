-- The facilitator's journal. Whole numbers of 64 bits are text of 20 digits, so that they fit and
-- that their order is the order of numbers; amounts are decimal text of any length.

CREATE TABLE lease (
    network TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    token TEXT NOT NULL CHECK (length(token) = 20),
    until TEXT NOT NULL CHECK (length(until) = 20)
) STRICT, WITHOUT ROWID;

CREATE TABLE entry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    network TEXT NOT NULL,
    payer TEXT NOT NULL,
    amount TEXT NOT NULL,
    expires TEXT NOT NULL CHECK (length(expires) = 20),
    caller BLOB CHECK (length(caller) = 32),
    plan BLOB NOT NULL,
    entered_at TEXT NOT NULL CHECK (length(entered_at) = 20),
    delivery TEXT NOT NULL CHECK (delivery IN ('waiting', 'owed', 'delivered')),
    stage TEXT NOT NULL CHECK (stage IN ('due', 'signed', 'sent', 'settled', 'failed')),
    -- While signed or sent: what was signed last.
    signer TEXT,
    nonce TEXT CHECK (length(nonce) = 20),
    raw BLOB,
    -- While signed or sent: its hash. Settled or failed: the transaction that closed it, if any.
    transaction_hash TEXT,
    -- Settled or failed.
    block TEXT CHECK (length(block) = 20),
    fee TEXT,
    reason TEXT,
    message TEXT,
    CHECK ((stage IN ('signed', 'sent')) = (signer IS NOT NULL)),
    CHECK ((stage IN ('signed', 'sent')) = (nonce IS NOT NULL)),
    CHECK ((stage IN ('signed', 'sent')) = (raw IS NOT NULL)),
    CHECK ((stage IN ('settled', 'failed')) = (fee IS NOT NULL)),
    CHECK ((stage = 'settled') = (block IS NOT NULL)),
    CHECK ((stage = 'failed') = (reason IS NOT NULL)),
    CHECK (stage IN ('due', 'failed') OR transaction_hash IS NOT NULL),
    -- Nothing spendable at rest.
    CHECK (stage NOT IN ('settled', 'failed') OR length(plan) = 0)
) STRICT;

CREATE INDEX entry_unfinished ON entry (network, seq) WHERE stage IN ('due', 'signed', 'sent');
CREATE INDEX entry_waiting ON entry (network) WHERE delivery = 'waiting';

CREATE TRIGGER entry_stays BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'journal entries are never deleted'); END;

CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON entry WHEN OLD.stage IN ('settled', 'failed')
BEGIN SELECT RAISE(ABORT, 'a final journal entry does not move'); END;

-- Every transaction that was ever signed, replaced ones too, without its bytes.
CREATE TABLE signed_transaction (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    entry INTEGER NOT NULL REFERENCES entry (seq),
    network TEXT NOT NULL,
    signer TEXT NOT NULL,
    nonce TEXT NOT NULL CHECK (length(nonce) = 20),
    transaction_hash TEXT NOT NULL
) STRICT;

CREATE INDEX signed_transaction_nonce ON signed_transaction (network, signer, nonce);
CREATE INDEX signed_transaction_entry ON signed_transaction (entry);

CREATE TRIGGER signed_transaction_stays BEFORE DELETE ON signed_transaction
BEGIN SELECT RAISE(ABORT, 'signed transactions are never forgotten'); END;

CREATE TRIGGER signed_transaction_fixed BEFORE UPDATE ON signed_transaction
BEGIN SELECT RAISE(ABORT, 'signed transactions are never changed'); END;
