//! What is forgotten, over an earlier format, and what SQL may do to what stays.

use pay402_core::journal::{Advance, Event, Horizon, Journal, Lease};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_store::SqliteJournal;
use rusqlite::Connection;

use crate::samples::{LASTS, change, entry, holder, key, network, settled, signed};

/// Takes a journal in SQLite back to its seventh format.
const BACK_TO_7: &str = "
    DROP INDEX history_costly;
    DROP TRIGGER entry_stays; DROP TRIGGER history_stays; DROP TRIGGER signed_transaction_stays;
    DROP TABLE forgetting; DROP TABLE forgotten; DROP TABLE forgotten_nonce;
    CREATE TRIGGER entry_stays BEFORE DELETE ON entry
    BEGIN SELECT RAISE(ABORT, 'journal entries are never deleted'); END;
    CREATE TRIGGER history_stays BEFORE DELETE ON history
    BEGIN SELECT RAISE(ABORT, 'the history is never forgotten'); END;
    CREATE TRIGGER signed_transaction_stays BEFORE DELETE ON signed_transaction
    BEGIN SELECT RAISE(ABORT, 'signed transactions are never forgotten'); END;
    PRAGMA user_version = 7";

fn all() -> Horizon {
    let before = UnixTime(5_000);
    Horizon { before, losses_before: before, hooks: Vec::new() }
}

async fn leads(journal: &SqliteJournal) -> Lease {
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    lease.unwrap().granted().unwrap()
}

/// Two that are told: one closed for good, and one whose block is watched.
async fn with_two(path: &std::path::Path) -> (SqliteJournal, Lease) {
    let journal = SqliteJournal::open(path).unwrap();
    let lease = leads(&journal).await;
    let block = BlockId { number: 9, hash: "0xblock".into() };
    for (name, nonce, close) in
        [("buried", 4, Event::Closed(settled())), ("watched", 5, Event::ClosedIn(settled(), block))]
    {
        journal.enter(entry(name)).await.unwrap();
        let close = Advance { deliver: true, ..change(name, close) };
        let sign = change(name, Event::Signed(signed(nonce, vec![1])));
        journal.advance(&lease, vec![sign, close]).await.unwrap();
    }
    (journal, lease)
}

#[tokio::test]
async fn a_journal_of_the_seventh_format_forgets() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    drop(with_two(&path).await);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(BACK_TO_7).unwrap();
    assert!(file.execute("DELETE FROM history", []).is_err(), "the test would prove nothing");
    drop(file);
    let journal = SqliteJournal::open(&path).unwrap();
    let lease = leads(&journal).await;
    let keys = vec![key("buried"), key("watched")];
    assert_eq!(journal.forget(&lease, keys, &all()).await, Ok(1));
    assert_eq!(journal.next_nonce(&network(), "0xsigner").await, Ok(Some(6)));
    assert_eq!(journal.find(&key("buried")).await, Ok(None));
    let stays = journal.find(&key("watched")).await.unwrap().unwrap();
    let open = journal.advance(&lease, vec![change("watched", Event::Reopened)]).await.unwrap();
    assert_eq!(open[0].new, stays.new);
}

#[tokio::test]
async fn nothing_is_deleted_but_what_is_named_and_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let (journal, lease) = with_two(&path).await;
    journal.enter(entry("due")).await.unwrap();
    let file = Connection::open(&path).unwrap();
    file.pragma_update(None, "foreign_keys", true).unwrap();
    for sql in ["DELETE FROM entry", "DELETE FROM history", "DELETE FROM signed_transaction"] {
        assert!(file.execute(sql, []).is_err(), "{sql}");
    }
    for name in ["due", "watched", "nobody"] {
        let sql = "INSERT INTO forgetting SELECT coalesce(max(seq), 99) FROM entry WHERE key = ?1";
        let named = file.execute(sql, [key(name).as_str()]);
        assert!(named.unwrap_err().to_string().contains("final and buried"), "{name}");
    }
    let keys = vec![key("buried"), key("watched"), key("due")];
    assert_eq!(journal.forget(&lease, keys, &all()).await, Ok(1));
    let left: i64 =
        file.query_row("SELECT count(*) FROM forgetting", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "what was named could be deleted later");
}
