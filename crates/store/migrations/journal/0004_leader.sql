-- Where calls for the network may be forwarded to, while the lease has not run out.
ALTER TABLE lease ADD COLUMN url TEXT;
