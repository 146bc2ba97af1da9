//! Fills a journal in SQLite with what is over, for measurements of a journal that has grown.
//!
//! **Invariant:** every row is a copy of one that a facilitator wrote, under another key, by another payer, with
//! another nonce and at another time. What a later format adds is copied as it stands.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use pay402_core::error::Misconfigured;
use rusqlite::Connection;

use crate::database::{self, JOURNAL};

/// Memory for pages meanwhile, in KiB: keys come in no order, and each belongs on another page.
const CACHE_KIB: i64 = 800_000;

/// How a journal is filled.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    /// Entries that are added at least; so many more that each of those that are copied is copied as often.
    pub entries: u64,
    /// By how many payers, in turn.
    pub payers: u64,
    /// How long before now the oldest was entered.
    pub over: Duration,
}

/// Copies what is settled, told and buried in the journal at `path`, which nothing else has open, and returns
/// how many entries were added. Nonces go on behind those that are recorded.
///
/// It is not done in one piece: a journal that this ends early in is good for nothing.
///
/// # Errors
/// When the file is not a journal, or nothing in it can be copied.
pub fn seed(path: impl AsRef<Path>, seed: Seed) -> Result<u64, Misconfigured> {
    let path = path.as_ref();
    // Brings it to the present format, and shows that it is a journal.
    drop(database::open(&JOURNAL, path)?);
    let wrong = |problem: String| Misconfigured::new(JOURNAL.name, problem);
    let added = fill(path, seed).map_err(|error| wrong(error.to_string()))?;
    if added == 0 {
        return Err(wrong("nothing in it is settled, told and buried".into()));
    }
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| wrong(error.to_string()))?;
    Ok(added)
}

fn fill(path: &Path, seed: Seed) -> rusqlite::Result<u64> {
    let connection = Connection::open(path)?;
    let ignored = |_row: &rusqlite::Row<'_>| Ok(());
    for mode in ["DELETE", "OFF"] {
        connection.pragma_update_and_check(None, "journal_mode", mode, ignored)?;
    }
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    let payers = seed.payers.max(1);
    connection.execute_batch(&format!(
        "BEGIN;
         CREATE TEMP TABLE original AS
             SELECT row_number() OVER (ORDER BY seq) AS rank, seq FROM main.entry
             WHERE stage = 'settled' AND delivery = 'delivered'
               AND seq NOT IN (SELECT entry FROM watched)
               AND instr(key, '/' || lower(payer) || '/') > 0;
         CREATE TEMP TABLE payer (number INTEGER PRIMARY KEY, address TEXT NOT NULL);
         WITH RECURSIVE payer_number (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM payer_number WHERE n + 1 < {payers})
         INSERT INTO payer SELECT n, '0x' || lower(hex(randomblob(20))) FROM payer_number;"
    ))?;
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let count = one("SELECT count(*) FROM original")?;
    if count == 0 {
        return Ok(0);
    }
    let wanted = i64::try_from(seed.entries).unwrap_or(i64::MAX);
    let copies = Copies {
        count,
        copies: wanted / count + i64::from(wanted % count > 0),
        entry: one("SELECT max(seq) FROM entry")?,
        nonces: one("SELECT 1 + max(CAST(nonce AS INTEGER)) FROM signed_transaction")?,
        payers: i64::try_from(payers).unwrap_or(i64::MAX),
        over_s: i64::try_from(seed.over.as_secs()).unwrap_or(i64::MAX),
    };
    for (table, of) in [("entry", "seq"), ("signed_transaction", "entry"), ("history", "entry")] {
        connection.execute_batch(&copies.sql(&connection, table, of)?)?;
    }
    connection.execute_batch("COMMIT")?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", ignored)?;
    Ok(u64::try_from(copies.copies * count).unwrap_or_default())
}

/// How often what is copied.
struct Copies {
    /// Entries that are copied.
    count: i64,
    copies: i64,
    /// The highest number of an entry.
    entry: i64,
    /// One more than the highest nonce.
    nonces: i64,
    payers: i64,
    over_s: i64,
}

impl Copies {
    /// Copies the rows of a table whose column `of` names one of the originals, in their order.
    fn sql(&self, connection: &Connection, table: &str, of: &str) -> rusqlite::Result<String> {
        let mut select = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
        let names = select.query_map([table], |row| row.get::<_, String>(0))?;
        let names = names.collect::<rusqlite::Result<Vec<_>>>()?;
        // The rows of the others are numbered as they come.
        let names: Vec<_> =
            names.into_iter().filter(|it| table == "entry" || it != "seq").collect();
        let values: Vec<_> = names.iter().map(|name| self.value(table, name)).collect();
        let (names, values, copies) = (names.join(", "), values.join(", "), self.copies);
        // Loops stand as they are written, so that copies come one after the other, each in the order of what
        // is copied.
        Ok(format!(
            "CREATE TEMP TABLE {table}_copied AS
                 SELECT it.*, original.rank AS rank FROM original JOIN main.{table} AS it
                 ON it.{of} = original.seq ORDER BY it.seq;
             WITH RECURSIVE copy (c) AS (SELECT 1 UNION ALL SELECT c + 1 FROM copy WHERE c < {copies})
             INSERT INTO main.{table} ({names})
             SELECT {values}
             FROM copy CROSS JOIN {table}_copied AS it CROSS JOIN payer
             WHERE payer.number = {number} % {payers};",
            number = self.number(),
            payers = self.payers,
        ))
    }

    /// The number of a copied entry.
    fn number(&self) -> String {
        format!("({} + (c - 1) * {} + it.rank)", self.entry, self.count)
    }

    fn value(&self, table: &str, column: &str) -> String {
        let whole = |value: String| {
            format!("CASE WHEN it.{column} IS NULL THEN NULL ELSE printf('%020d', {value}) END")
        };
        match (table, column) {
            ("entry", "seq") | (_, "entry") => self.number(),
            ("entry", "key") => "substr(it.key, 1, instr(it.key, '/' || lower(it.payer) || '/')) || payer.address || '/0x' || lower(hex(randomblob(32)))".into(),
            ("entry", "payer") => "payer.address".into(),
            ("entry", "fingerprint") => "randomblob(32)".into(),
            (_, "nonce") => whole(format!("CAST(it.nonce AS INTEGER) + c * {}", self.nonces)),
            (_, "at" | "entered_at" | "expires") => whole(format!(
                "CAST(it.{column} AS INTEGER) - ({copies} - c + 1) * {over} / {copies}",
                copies = self.copies,
                over = self.over_s,
            )),
            // The same in what shares a transaction.
            (_, "transaction_hash") => "substr(it.transaction_hash, 1, 2) || printf('%08x', c) || substr(it.transaction_hash, 11)".into(),
            (_, column) => format!("it.{column}"),
        }
    }
}
