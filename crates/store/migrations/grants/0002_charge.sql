-- What is to be collected, or was, where that is not simply the amount of the terms: decimal text of
-- atomic units.

ALTER TABLE claim ADD COLUMN charge TEXT
    CHECK (charge IS NULL OR (state <> 'claimed' AND charge <> '' AND charge NOT GLOB '*[^0-9]*'));
