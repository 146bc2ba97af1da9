-- How far each webhook has come in the history, on each network.
CREATE TABLE hook (
    name TEXT NOT NULL,
    network TEXT NOT NULL,
    seq INTEGER NOT NULL CHECK (seq >= 0),
    PRIMARY KEY (name, network)
) STRICT, WITHOUT ROWID;
