//! The history where a lower number may be committed after a higher one, and over an earlier format.

use std::time::{Duration, Instant};

use pay402_core::journal::{Delivery, Event, Journal, Stage};
use pay402_core::time::UnixTime;
use pay402_store::PgJournal;

use crate::cluster::{Cluster, Database};
use crate::samples::{
    LASTS, change, entry, goes_on_as_before, holder, in_every_state, key, network, settled, signed,
};

/// Takes a journal in PostgreSQL back to its fifth format.
pub(crate) const BACK_TO_5: &str = "
    DROP INDEX pay402_journal.history_costly;
    DROP TRIGGER entry_goes ON pay402_journal.entry;
    DROP TRIGGER entry_stays ON pay402_journal.entry;
    DROP TRIGGER history_goes ON pay402_journal.history;
    DROP TRIGGER history_stays ON pay402_journal.history;
    DROP TRIGGER signed_transaction_goes ON pay402_journal.signed_transaction;
    DROP TRIGGER signed_transaction_stays ON pay402_journal.signed_transaction;
    DROP TABLE pay402_journal.forgetting, pay402_journal.forgotten, pay402_journal.forgotten_nonce;
    DROP FUNCTION pay402_journal.refuse_living, pay402_journal.refuse_entry, pay402_journal.refuse_part;
    CREATE TRIGGER entry_stays BEFORE DELETE OR TRUNCATE ON pay402_journal.entry
    EXECUTE FUNCTION pay402_journal.refuse('journal entries are never deleted');
    CREATE TRIGGER signed_transaction_stays
    BEFORE DELETE OR TRUNCATE ON pay402_journal.signed_transaction
    EXECUTE FUNCTION pay402_journal.refuse('signed transactions are never forgotten');
    CREATE TRIGGER history_stays BEFORE DELETE OR TRUNCATE ON pay402_journal.history
    EXECUTE FUNCTION pay402_journal.refuse('the history is never forgotten');
    DROP TRIGGER entry_final ON pay402_journal.entry;
    DROP FUNCTION pay402_journal.refuse_unwatched; DROP TABLE pay402_journal.watched;
    ALTER TABLE pay402_journal.entry DROP COLUMN reverted;
    CREATE TRIGGER entry_final BEFORE UPDATE OF stage ON pay402_journal.entry
    FOR EACH ROW WHEN (OLD.stage IN ('settled', 'failed'))
    EXECUTE FUNCTION pay402_journal.refuse('a final journal entry does not move');
    DELETE FROM pay402_journal.migration WHERE format > 5";

async fn open(database: &Database<'_>) -> PgJournal {
    PgJournal::open(&database.url(), None).await.unwrap()
}

/// The names of the payments that a reader from the start is told of.
async fn told(journal: &PgJournal, names: &[&str]) -> Vec<String> {
    let records = journal.history(0, 100).await.unwrap();
    let name = |key: &pay402_core::PaymentKey| {
        names.iter().find(|name| crate::samples::key(name) == *key).unwrap().to_string()
    };
    records.iter().map(|record| name(&record.key)).collect()
}

/// What is under way with a lower number holds back what is committed with a higher one.
#[test]
fn readers_wait_for_lower_numbers_and_pass_what_was_undone() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Transactions of other databases of a server hold back its end.
    let cluster = Cluster::own();
    let database = cluster.database();
    let journal = runtime.block_on(open(&database));
    let names = ["first", "second", "third"];
    runtime.block_on(async {
        journal.enter(entry("first")).await.unwrap();
    });
    let add = "INSERT INTO pay402_journal.history (entry, at, change, delivery)
               SELECT seq, entered_at, 'handed_over', 'owed' FROM pay402_journal.entry LIMIT 1";
    for (ending, name, expected) in [
        ("COMMIT", "second", vec!["first", "first", "second"]),
        ("ROLLBACK", "third", vec!["first", "first", "second", "third"]),
    ] {
        let slow = format!("BEGIN; {add}; SELECT pg_sleep(2); {ending}");
        let before = runtime.block_on(told(&journal, &names));
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| database.sql(&slow));
            std::thread::sleep(Duration::from_millis(700));
            runtime.block_on(async {
                journal.enter(entry(name)).await.unwrap();
                assert_eq!(told(&journal, &names).await, before, "a number was passed");
            });
            slow.join().unwrap().unwrap();
        });
        // Other databases of the server have transactions under way too.
        let began = Instant::now();
        while runtime.block_on(told(&journal, &names)) != expected {
            assert!(began.elapsed() < Duration::from_secs(20), "after {ending}");
        }
    }
    // The end is told only when what was under way has ended.
    std::thread::scope(|scope| {
        let slow = format!("BEGIN; {add}; SELECT pg_sleep(2); COMMIT");
        let slow = scope.spawn(move || database.sql(&slow));
        std::thread::sleep(Duration::from_millis(700));
        runtime.block_on(async {
            journal.enter(entry("fourth")).await.unwrap();
            let end = journal.history_end().await.unwrap();
            let seen = journal.history(0, 100).await.unwrap();
            assert_eq!(seen.last().unwrap().seq, end, "something may come before the end");
        });
        slow.join().unwrap().unwrap();
    });
}

#[tokio::test]
async fn entries_of_the_first_format_have_a_history_from_then_on() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    for name in ["due", "signed", "sent", "settled"] {
        journal.enter(entry(name)).await.unwrap();
    }
    for (name, nonce) in [("signed", 1), ("sent", 2), ("settled", 3)] {
        let sign = change(name, Event::Signed(signed(nonce, vec![1])));
        journal.advance(&lease, vec![sign]).await.unwrap();
    }
    let rest = vec![change("sent", Event::Sent), change("settled", Event::Closed(settled()))];
    journal.advance(&lease, rest).await.unwrap();
    drop(journal);
    let back = "DROP TABLE pay402_journal.history; DROP TABLE pay402_journal.hook;
                ALTER TABLE pay402_journal.entry DROP COLUMN entered_by, DROP COLUMN parts,
                    DROP COLUMN part, DROP COLUMN spent;
                ALTER TABLE pay402_journal.lease DROP COLUMN url;
                DELETE FROM pay402_journal.migration WHERE format > 1";
    database.sql(BACK_TO_5).unwrap();
    database.sql(back).unwrap();

    let journal = open(&database).await;
    assert_eq!(journal.history(0, 100).await, Ok(Vec::new()));
    for name in ["due", "signed", "sent"] {
        let close = change(name, Event::Closed(settled()));
        journal.advance(&lease, vec![close]).await.unwrap();
        let entry = journal.find(&key(name)).await.unwrap().unwrap();
        assert_eq!(entry.stage, Stage::Final(settled()), "{name}");
    }
    let owed = (Delivery::Waiting, Delivery::Owed);
    let handed = journal.hand_over(None, &key("settled"), owed.0, owed.1, UnixTime(1)).await;
    assert_eq!(handed, Ok(true));
    let records = journal.history(0, 100).await.unwrap();
    let told: Vec<_> = records.iter().map(|record| record.change.name()).collect();
    assert_eq!(told, ["settled", "settled", "settled", "handed_over"]);
}

#[tokio::test]
async fn a_journal_of_the_fifth_format_goes_on() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let mut before = Vec::new();
    for name in in_every_state(&journal, &lease).await {
        before.push(journal.find(&key(name)).await.unwrap().unwrap());
    }
    assert_eq!(journal.move_hook(&lease, "shop", None, 3).await, Ok(true));
    drop(journal);
    database.sql(BACK_TO_5).unwrap();

    let journal = open(&database).await;
    assert_eq!(journal.watched_blocks(&network()).await, Ok(Vec::new()));
    assert_eq!(journal.hook("shop", &network()).await, Ok(Some(3)));
    goes_on_as_before(&journal, &lease, before).await;
}
