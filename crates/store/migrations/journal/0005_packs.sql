-- Payments that share a transaction. While signed or sent: the entry's place in it, from zero, and how many it has; null where
-- it carries nothing else. Its bytes are with one of them, the others' are empty.
ALTER TABLE entry ADD COLUMN part INTEGER CHECK (part >= 0);
ALTER TABLE entry ADD COLUMN parts INTEGER CHECK ((parts IS NULL) = (part IS NULL) AND (parts IS NULL OR parts > part));
-- While signed or sent: its share of what earlier such transactions cost that were mined without its transfer, in wei; null
-- for nothing.
ALTER TABLE entry ADD COLUMN spent TEXT;
