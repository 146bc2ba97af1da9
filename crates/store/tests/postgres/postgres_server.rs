//! Servers that crash, sessions that are ended, and servers that would not keep what they say.

use std::time::{Duration, Instant};

use pay402_core::journal::{Entered, Journal, JournalError};
use pay402_core::time::UnixTime;
use pay402_store::PgJournal;

use crate::cluster::{Cluster, Database};
use crate::samples::{LASTS, entry, holder, key, network};

async fn open(database: &Database<'_>) -> PgJournal {
    PgJournal::open(&database.url(), None).await.unwrap()
}

/// The server is told to answer before it has written, and to write late. Our sessions say otherwise:
/// what was answered is there after the server crashed.
#[tokio::test]
async fn what_was_answered_survives_a_crash_of_the_server() {
    let cluster = Cluster::own();
    let database = cluster.database();
    cluster.stop();
    cluster.start_with("-c synchronous_commit=off -c wal_writer_delay=10s");
    let journal = open(&database).await;
    journal.enter(entry("before")).await.unwrap();
    for round in 0..2 {
        for number in 0..10 {
            journal.enter(entry(&format!("{round} {number}"))).await.unwrap();
        }
        cluster.stop();
        let began = Instant::now();
        let down = journal.enter(entry("down")).await;
        assert!(matches!(down, Err(JournalError::Unavailable(_))), "{down:?}");
        assert!(began.elapsed() < Duration::from_secs(12), "waited without a bound");
        cluster.start_with("-c synchronous_commit=off -c wal_writer_delay=10s");
        // The same journal goes on, without being opened anew.
        for number in 0..10 {
            let known = journal.find(&key(&format!("{round} {number}"))).await.unwrap();
            assert!(known.is_some(), "entry {number} was answered and is gone");
        }
    }
    assert_eq!(journal.enter(entry("down")).await, Ok(Entered::New));

    cluster.stop();
    cluster.start_with("-c fsync=off");
    let refused = PgJournal::open(&database.url(), None).await.unwrap_err();
    assert!(refused.problem.contains("set fsync = on"), "{refused}");
}

#[tokio::test]
async fn sessions_that_are_ended_are_replaced() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    for round in 0..5 {
        journal.enter(entry(&format!("{round}"))).await.unwrap();
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'pay402'";
        assert_ne!(database.sql(end).as_deref(), Ok("0"));
        // Time to notice it; what is asked before that is told that the journal is unavailable.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(journal.enter(entry("last")).await, Ok(Entered::New));
}

/// Somebody holds the lease's lock and does not let it go.
#[test]
fn a_lock_is_waited_for_within_bounds() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = Cluster::shared().database();
    let journal = runtime.block_on(open(&database));
    let here = holder("here");
    let lease = || runtime.block_on(journal.lease(&network(), &here, UnixTime(0), LASTS));
    lease().unwrap().granted().unwrap();
    let hold = "BEGIN; SELECT * FROM pay402_journal.lease FOR UPDATE; SELECT pg_sleep(7)";
    std::thread::scope(|scope| {
        let held = scope.spawn(|| database.sql(hold));
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        let asked = lease();
        assert!(began.elapsed() < Duration::from_secs(7), "waited without a bound");
        assert!(matches!(asked, Err(JournalError::Unavailable(_))), "{asked:?}");
        held.join().unwrap().unwrap();
    });
    assert!(lease().unwrap().granted().is_some());
}
