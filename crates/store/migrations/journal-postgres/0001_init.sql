-- The facilitator's journal, as migrations/journal leaves it in SQLite, and in the same form: whole
-- numbers of 64 bits are text of 20 digits, amounts are decimal text. COLLATE "C" compares bytes, so
-- that the order of such texts is the order of the numbers whatever the database's language is.

CREATE TABLE pay402_journal.lease (
    network TEXT COLLATE "C" PRIMARY KEY,
    holder TEXT COLLATE "C" NOT NULL,
    token TEXT COLLATE "C" NOT NULL CHECK (length(token) = 20),
    until TEXT COLLATE "C" NOT NULL CHECK (length(until) = 20)
);

CREATE TABLE pay402_journal.entry (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key TEXT COLLATE "C" NOT NULL UNIQUE,
    fingerprint BYTEA NOT NULL CHECK (length(fingerprint) = 32),
    network TEXT COLLATE "C" NOT NULL,
    payer TEXT COLLATE "C" NOT NULL,
    amount TEXT COLLATE "C" NOT NULL,
    expires TEXT COLLATE "C" NOT NULL CHECK (length(expires) = 20),
    caller BYTEA CHECK (length(caller) = 32),
    plan BYTEA NOT NULL,
    entered_at TEXT COLLATE "C" NOT NULL CHECK (length(entered_at) = 20),
    delivery TEXT COLLATE "C" NOT NULL CHECK (delivery IN ('waiting', 'owed', 'delivered')),
    stage TEXT COLLATE "C" NOT NULL
        CHECK (stage IN ('due', 'signed', 'sent', 'settled', 'failed')),
    -- While signed or sent: what was signed last.
    signer TEXT COLLATE "C",
    nonce TEXT COLLATE "C" CHECK (length(nonce) = 20),
    raw BYTEA,
    -- While signed or sent: its hash. Settled or failed: the transaction that closed it, if any.
    transaction_hash TEXT COLLATE "C",
    -- Settled or failed.
    block TEXT COLLATE "C" CHECK (length(block) = 20),
    fee TEXT COLLATE "C",
    reason TEXT COLLATE "C",
    -- Text in UTF-8. A contract may have chosen it, and TEXT refuses the character 0.
    message BYTEA,
    CHECK ((stage IN ('signed', 'sent')) = (signer IS NOT NULL)),
    CHECK ((stage IN ('signed', 'sent')) = (nonce IS NOT NULL)),
    CHECK ((stage IN ('signed', 'sent')) = (raw IS NOT NULL)),
    CHECK ((stage IN ('settled', 'failed')) = (fee IS NOT NULL)),
    CHECK ((stage = 'settled') = (block IS NOT NULL)),
    CHECK ((stage = 'failed') = (reason IS NOT NULL)),
    CHECK (stage IN ('due', 'failed') OR transaction_hash IS NOT NULL),
    -- Nothing spendable at rest.
    CHECK (stage NOT IN ('settled', 'failed') OR length(plan) = 0)
);

CREATE INDEX entry_unfinished ON pay402_journal.entry (network, seq)
WHERE stage IN ('due', 'signed', 'sent');
CREATE INDEX entry_waiting ON pay402_journal.entry (network) WHERE delivery = 'waiting';
-- Failures that cost a fee are counted by payer (amounts are decimal text: zero is '0').
CREATE INDEX entry_costly_failure ON pay402_journal.entry (network, payer, entered_at)
WHERE stage = 'failed' AND fee <> '0';

-- Every transaction that was ever signed, replaced ones too, without its bytes.
CREATE TABLE pay402_journal.signed_transaction (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry BIGINT NOT NULL REFERENCES pay402_journal.entry (seq),
    network TEXT COLLATE "C" NOT NULL,
    signer TEXT COLLATE "C" NOT NULL,
    nonce TEXT COLLATE "C" NOT NULL CHECK (length(nonce) = 20),
    transaction_hash TEXT COLLATE "C" NOT NULL
);

CREATE INDEX signed_transaction_nonce
ON pay402_journal.signed_transaction (network, signer, nonce);
CREATE INDEX signed_transaction_entry ON pay402_journal.signed_transaction (entry);

CREATE FUNCTION pay402_journal.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation'; END $$;

CREATE TRIGGER entry_stays BEFORE DELETE OR TRUNCATE ON pay402_journal.entry
EXECUTE FUNCTION pay402_journal.refuse('journal entries are never deleted');

CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON pay402_journal.entry
FOR EACH ROW WHEN (OLD.stage IN ('settled', 'failed'))
EXECUTE FUNCTION pay402_journal.refuse('a final journal entry does not move');

CREATE TRIGGER signed_transaction_stays
BEFORE DELETE OR TRUNCATE ON pay402_journal.signed_transaction
EXECUTE FUNCTION pay402_journal.refuse('signed transactions are never forgotten');

CREATE TRIGGER signed_transaction_fixed BEFORE UPDATE ON pay402_journal.signed_transaction
EXECUTE FUNCTION pay402_journal.refuse('signed transactions are never changed');
