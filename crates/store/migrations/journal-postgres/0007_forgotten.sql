-- What is over for good may be deleted, through this table alone: entries that are named here go within the same
-- transaction, with their history and with what was signed for them.
CREATE TABLE pay402_journal.forgetting (
    entry BIGINT PRIMARY KEY
);

CREATE FUNCTION pay402_journal.refuse_living() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NOT EXISTS (
        SELECT 1 FROM pay402_journal.entry WHERE seq = NEW.entry AND stage IN ('settled', 'failed')
    ) OR EXISTS (SELECT 1 FROM pay402_journal.watched WHERE watched.entry = NEW.entry) THEN
        RAISE EXCEPTION 'a journal entry is forgotten only when it is final and buried'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER forgetting_final BEFORE INSERT OR UPDATE ON pay402_journal.forgetting
FOR EACH ROW EXECUTE FUNCTION pay402_journal.refuse_living();

CREATE FUNCTION pay402_journal.refuse_entry() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pay402_journal.forgetting WHERE entry = OLD.seq) THEN
        RAISE EXCEPTION 'journal entries are deleted only when they are forgotten'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION pay402_journal.refuse_part() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pay402_journal.forgetting WHERE forgetting.entry = OLD.entry) THEN
        RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;

DROP TRIGGER entry_stays ON pay402_journal.entry;
CREATE TRIGGER entry_stays BEFORE TRUNCATE ON pay402_journal.entry
EXECUTE FUNCTION pay402_journal.refuse('journal entries are deleted only when they are forgotten');
CREATE TRIGGER entry_goes BEFORE DELETE ON pay402_journal.entry
FOR EACH ROW EXECUTE FUNCTION pay402_journal.refuse_entry();

DROP TRIGGER signed_transaction_stays ON pay402_journal.signed_transaction;
CREATE TRIGGER signed_transaction_stays BEFORE TRUNCATE ON pay402_journal.signed_transaction
EXECUTE FUNCTION pay402_journal.refuse('signed transactions are forgotten only with their entries');
CREATE TRIGGER signed_transaction_goes BEFORE DELETE ON pay402_journal.signed_transaction
FOR EACH ROW EXECUTE FUNCTION
    pay402_journal.refuse_part('signed transactions are forgotten only with their entries');

DROP TRIGGER history_stays ON pay402_journal.history;
CREATE TRIGGER history_stays BEFORE TRUNCATE ON pay402_journal.history
EXECUTE FUNCTION pay402_journal.refuse('the history is forgotten only with its entries');
CREATE TRIGGER history_goes BEFORE DELETE ON pay402_journal.history
FOR EACH ROW EXECUTE FUNCTION
    pay402_journal.refuse_part('the history is forgotten only with its entries');

-- What stays known of them: how many, the highest numbers of an entry and of a record, and what they cost.
CREATE TABLE pay402_journal.forgotten (
    network TEXT COLLATE "C" PRIMARY KEY,
    entries BIGINT NOT NULL CHECK (entries > 0),
    entry BIGINT NOT NULL,
    record BIGINT NOT NULL,
    fees TEXT COLLATE "C" NOT NULL
);

-- The highest nonce that was recorded for one: a nonce is never given out twice.
CREATE TABLE pay402_journal.forgotten_nonce (
    network TEXT COLLATE "C" NOT NULL,
    signer TEXT COLLATE "C" NOT NULL,
    nonce TEXT COLLATE "C" NOT NULL CHECK (length(nonce) = 20),
    PRIMARY KEY (network, signer)
);
