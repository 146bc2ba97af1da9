-- How far each webhook has come in the history, on each network.
CREATE TABLE pay402_journal.hook (
    name TEXT COLLATE "C" NOT NULL,
    network TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL CHECK (seq >= 0),
    PRIMARY KEY (name, network)
);
