-- Payments that share a transaction. While signed or sent: the entry's place in it, from zero, and how many it has; null where
-- it carries nothing else. Its bytes are with one of them, the others' are empty.
ALTER TABLE pay402_journal.entry ADD COLUMN part BIGINT CHECK (part >= 0);
ALTER TABLE pay402_journal.entry ADD COLUMN parts BIGINT
    CHECK ((parts IS NULL) = (part IS NULL) AND (parts IS NULL OR parts > part));
-- While signed or sent: its share of what earlier such transactions cost that were mined without its transfer, in wei; null
-- for nothing.
ALTER TABLE pay402_journal.entry ADD COLUMN spent TEXT COLLATE "C";
