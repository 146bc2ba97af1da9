-- Failures that cost a fee are counted by payer (amounts are decimal text: zero is '0').
CREATE INDEX entry_costly_failure ON entry (network, payer, entered_at)
WHERE stage = 'failed' AND fee <> '0';
