-- What entries cost that a caller with a name entered is found by caller and time (amounts are decimal text: zero is '0').
CREATE INDEX history_costly ON pay402_journal.history (entered_by, at)
WHERE entered_by IS NOT NULL AND fee <> '0';
