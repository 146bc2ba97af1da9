-- Where calls for the network may be forwarded to, while the lease has not run out.
ALTER TABLE pay402_journal.lease ADD COLUMN url TEXT COLLATE "C";
