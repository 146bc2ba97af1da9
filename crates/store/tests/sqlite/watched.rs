//! What is watched, over an earlier format, and what SQL may do to it.

use pay402_core::journal::{Event, Journal};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_store::SqliteJournal;
use rusqlite::Connection;

use crate::samples::{
    LASTS, change, entry, goes_on_as_before, holder, in_every_state, key, network, settled,
};

/// Takes a journal in SQLite back to its sixth format.
pub(crate) const BACK_TO_6: &str = "
    DROP INDEX history_costly;
    DROP TRIGGER entry_stays; DROP TRIGGER history_stays; DROP TRIGGER signed_transaction_stays;
    DROP TABLE forgetting; DROP TABLE forgotten; DROP TABLE forgotten_nonce;
    CREATE TRIGGER entry_stays BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'journal entries are never deleted'); END;
    CREATE TRIGGER history_stays BEFORE DELETE ON history
    BEGIN SELECT RAISE(ABORT, 'the history is never forgotten'); END;
    CREATE TRIGGER signed_transaction_stays BEFORE DELETE ON signed_transaction
    BEGIN SELECT RAISE(ABORT, 'signed transactions are never forgotten'); END;
    DROP TRIGGER entry_final; DROP TABLE watched; ALTER TABLE entry DROP COLUMN reverted;
    CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON entry
    WHEN OLD.stage IN ('settled', 'failed')
    BEGIN SELECT RAISE(ABORT, 'a final journal entry does not move'); END;
    PRAGMA user_version = 6";
#[tokio::test]
async fn a_journal_of_the_sixth_format_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let mut before = Vec::new();
    for name in in_every_state(&journal, &lease).await {
        before.push(journal.find(&key(name)).await.unwrap().unwrap());
    }
    assert_eq!(journal.move_hook(&lease, "shop", None, 3).await, Ok(true));
    drop(journal);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(BACK_TO_6).unwrap();
    let third =
        "SELECT count(*) FROM sqlite_schema WHERE name = 'watched' OR sql LIKE '%reverted%'";
    let left: i64 = file.query_row(third, [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "the test would prove nothing");
    drop(file);

    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.watched_blocks(&network()).await, Ok(Vec::new()));
    assert_eq!(journal.hook("shop", &network()).await, Ok(Some(3)));
    goes_on_as_before(&journal, &lease, before).await;
}

#[tokio::test]
async fn a_final_row_moves_only_while_it_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    journal.enter(entry("one")).await.unwrap();
    let block = BlockId { number: 9, hash: "0xblock".into() };
    let close = change("one", Event::ClosedIn(settled(), block));
    journal.advance(&lease, vec![close]).await.unwrap();
    let file = Connection::open(&path).unwrap();
    let plan: i64 = file.query_row("SELECT length(plan) FROM entry", [], |row| row.get(0)).unwrap();
    assert_eq!(plan, 0, "the plan of a final entry is among what is watched");
    assert_eq!(journal.bury(&lease, 9, 9).await, Ok(1));
    let moved = file.execute("UPDATE entry SET stage = 'failed', reason = 'x', block = NULL", []);
    assert!(moved.unwrap_err().to_string().contains("does not move"));
}
