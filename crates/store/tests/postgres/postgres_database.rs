//! Opening databases: ours, others', and again; what SQL may do to a journal; take-overs.

use std::time::{Duration, Instant};

use pay402_core::Amount;
use pay402_core::journal::{Entered, Event, Holder, Journal, JournalError, Leased, Outcome, Stage};
use pay402_core::time::{ManualClock, UnixTime};
use pay402_store::{PgJournal, SKEW_S_MAX};

use crate::cluster::{Cluster, Database};
use crate::postgres_history::BACK_TO_5;
use crate::samples::{LASTS, change, entry, holder, key, network, settled, signed};

async fn open(database: &Database<'_>) -> PgJournal {
    PgJournal::open(&database.url(), None).await.unwrap()
}

#[tokio::test]
async fn a_journal_is_there_again() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    assert_eq!(journal.enter(entry("one")).await, Ok(Entered::New));
    assert_eq!(journal.enter(entry("two")).await, Ok(Entered::New));
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let sign = change("one", Event::Signed(signed(4, vec![1, 2, 3])));
    journal.advance(&lease, vec![sign, change("one", Event::Sent)]).await.unwrap();
    let before = journal.find(&key("one")).await.unwrap();
    drop(journal);

    let journal = open(&database).await;
    assert_eq!(journal.find(&key("one")).await.unwrap(), before);
    assert_eq!(before.unwrap().stage, Stage::Sent(signed(4, vec![1, 2, 3])));
    assert_eq!(journal.next_nonce(&network(), "0xsigner").await, Ok(Some(5)));
    let other = journal.lease(&network(), &holder("there"), UnixTime(29), LASTS).await;
    assert_eq!(other, Ok(Leased::Held(holder("here"))), "the lease was forgotten");
    journal.advance(&lease, vec![change("two", Event::Closed(settled()))]).await.unwrap();
    assert_eq!(journal.unfinished(&network(), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_journal_is_looked_at_and_left_as_it_is() {
    let database = Cluster::shared().database();
    let look = || async { PgJournal::look(&database.url(), None).await };
    let missing = look().await.map(drop).unwrap_err();
    assert!(missing.problem.contains("holds no journal"), "{missing}");
    let schemas = database.sql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pay402%'");
    assert_eq!(schemas.as_deref(), Ok("0"), "looking made a journal");
    let journal = open(&database).await;
    journal.enter(entry("one")).await.unwrap();
    let looking = look().await.unwrap();
    assert_eq!(looking.books(&network(), 0, 10).await.unwrap().len(), 1);
    database.sql(BACK_TO_5).unwrap();
    let early = look().await.map(drop).unwrap_err();
    assert!(early.problem.contains("a journal of format 5"), "{early}");
}

#[tokio::test]
async fn an_answer_is_committed() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    for number in 1..=10 {
        journal.enter(entry(&number.to_string())).await.unwrap();
        let seen = database.sql("SELECT count(*) FROM pay402_journal.entry").unwrap();
        assert_eq!(seen, number.to_string(), "the answer left before the commit");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_takes_nothing_back() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    for number in 0..20 {
        let mut entering = Box::pin(journal.enter(entry(&number.to_string())));
        let once = |context: &mut std::task::Context<'_>| {
            std::task::Poll::Ready(entering.as_mut().poll(context).is_ready())
        };
        assert!(!std::future::poll_fn(once).await, "it was answered at once");
    }
    let began = Instant::now();
    while database.sql("SELECT count(*) FROM pay402_journal.entry").as_deref() != Ok("20") {
        assert!(began.elapsed() < Duration::from_secs(10), "what was begun did not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn schemas_of_strangers_and_of_the_future_are_refused_and_left_alone() {
    let database = Cluster::shared().database();
    database.sql("CREATE SCHEMA pay402_journal; CREATE TABLE pay402_journal.mine (a int)").unwrap();
    let refused = PgJournal::open(&database.url(), None).await.unwrap_err();
    assert_eq!(refused.key, "journal");
    assert!(refused.problem.contains("no journal of pay402"), "{refused}");
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class
                  WHERE relnamespace = 'pay402_journal'::regnamespace AND relkind = 'r'";
    assert_eq!(database.sql(tables).as_deref(), Ok("mine"));

    let database = Cluster::shared().database();
    drop(open(&database).await);
    for format in ["9", "99", "-1", "0"] {
        let set = "DELETE FROM pay402_journal.migration; INSERT INTO pay402_journal.migration";
        database.sql(&format!("{set} VALUES ({format})")).unwrap();
        let refused = PgJournal::open(&database.url(), None).await.unwrap_err();
        assert!(refused.problem.contains("upgrade pay402"), "{refused}");
    }
}

#[tokio::test]
async fn databases_that_cannot_hold_a_journal_are_refused() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let latin = format!("{}_latin", database.name());
    let make = format!("CREATE DATABASE {latin} ENCODING 'LATIN1' TEMPLATE template0");
    database.sql(&make).unwrap();
    let url = database.url().replace(database.name(), &latin);
    let refused = PgJournal::open(&url, None).await.unwrap_err();
    assert!(refused.problem.contains("LATIN1; make one with"), "{refused}");

    // A user who may not make the schema.
    let user = format!("{}_poor", database.name());
    database.sql(&format!("CREATE ROLE {user} LOGIN")).unwrap();
    let url = database.url().replace("postgres@", &format!("{user}@"));
    let refused = PgJournal::open(&url, None).await.unwrap_err();
    assert!(refused.problem.contains("needs CREATE on it"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_without_the_password() {
    let began = Instant::now();
    for url in ["postgres://me:hunter2@127.0.0.1:1/x", "postgres://me:hunter2@%2Fnowhere/x"] {
        let refused = PgJournal::open(url, None).await.unwrap_err().to_string();
        assert!(refused.contains("cannot be reached"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
    }
    assert!(began.elapsed() < Duration::from_secs(12), "waited without a bound");
}

#[tokio::test]
async fn nobody_undoes_what_the_journal_says() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    journal.enter(entry("one")).await.unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let sign = change("one", Event::Signed(signed(4, b"canary".to_vec())));
    journal.advance(&lease, vec![sign, change("one", Event::Closed(settled()))]).await.unwrap();
    let row = database.sql("SELECT * FROM pay402_journal.entry").unwrap();
    assert!(row.contains("|settled|") && !row.contains("63616e617279"), "{row}");
    for sql in [
        "DELETE FROM pay402_journal.entry",
        "TRUNCATE pay402_journal.entry CASCADE",
        "INSERT INTO pay402_journal.forgetting VALUES (7)",
        "UPDATE pay402_journal.entry SET stage = 'due'",
        "UPDATE pay402_journal.entry SET plan = 'x'",
        "DELETE FROM pay402_journal.signed_transaction",
        "TRUNCATE pay402_journal.signed_transaction",
        "DELETE FROM pay402_journal.history",
        "TRUNCATE pay402_journal.history",
        "UPDATE pay402_journal.history SET change = 'settled'",
        "UPDATE pay402_journal.signed_transaction SET nonce = '00000000000000000000'",
    ] {
        assert!(database.sql(sql).is_err(), "{sql}");
    }
}

#[tokio::test]
async fn a_damaged_row_is_an_error_and_no_other_payment() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    for damage in ["amount = '+1'", "expires = '+0000000000000000001'", "network = 'x'"] {
        let name = damage.split(' ').next().unwrap();
        journal.enter(entry(name)).await.unwrap();
        let sql = format!("UPDATE pay402_journal.entry SET {damage} WHERE key = '{}'", key(name));
        database.sql(&sql).unwrap();
        let read = journal.find(&key(name)).await;
        assert!(matches!(read, Err(JournalError::Unavailable(_))), "{damage}: {read:?}");
    }
}

/// What a contract says can hold the character 0, which PostgreSQL's own texts cannot. It must not
/// keep an entry from being closed.
#[tokio::test]
async fn any_message_is_stored_and_a_name_that_cannot_be_is_refused() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    journal.enter(entry("one")).await.unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let odd = Outcome::Failed {
        reason: "reverted".into(),
        message: "a\0b \u{1f980} 'c'\\x00".into(),
        transaction: None,
        fee: Amount::ZERO,
    };
    let close = change("one", Event::Closed(odd.clone()));
    journal.advance(&lease.unwrap().granted().unwrap(), vec![close]).await.unwrap();
    let read = journal.find(&key("one")).await.unwrap().unwrap();
    assert_eq!(read.stage, Stage::Final(odd));
    let refused = journal.enter(entry("a\0b")).await.unwrap_err();
    assert!(matches!(refused, JournalError::Unavailable(_)), "{refused}");
    assert_eq!(journal.enter(entry("two")).await, Ok(Entered::New));
}

#[tokio::test]
async fn a_journal_of_the_second_format_keeps_its_leases() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    let here = Holder { name: "here".into(), url: Some("http://here".into()) };
    let ask = async |journal: &PgJournal, name: &str| {
        journal.lease(&network(), &holder(name), UnixTime(0), LASTS).await.unwrap()
    };
    let lease = journal.lease(&network(), &here, UnixTime(0), LASTS).await.unwrap();
    journal.enter(entry("one")).await.unwrap();
    drop(journal);
    let back = "DROP TABLE pay402_journal.hook;
                ALTER TABLE pay402_journal.lease DROP COLUMN url;
                ALTER TABLE pay402_journal.entry DROP COLUMN parts, DROP COLUMN part,
                    DROP COLUMN spent;
                DELETE FROM pay402_journal.migration WHERE format > 2";
    database.sql(BACK_TO_5).unwrap();
    database.sql(back).unwrap();
    let journal = open(&database).await;
    assert_eq!(ask(&journal, "there").await, Leased::Held(holder("here")), "without an address");
    assert_eq!(ask(&journal, "here").await, lease);
    let close = change("one", Event::Closed(settled()));
    journal.advance(&lease.granted().unwrap(), vec![close]).await.unwrap();
}

#[tokio::test]
async fn a_clock_far_from_the_servers_is_refused_with_the_figures() {
    let database = Cluster::shared().database();
    let journal = open(&database).await;
    let now = database.sql("SELECT floor(extract(epoch FROM clock_timestamp()))").unwrap();
    let now: u64 = now.parse().unwrap();
    for near in [now - SKEW_S_MAX + 5, now, now + SKEW_S_MAX - 5] {
        journal.check_clock(&ManualClock::new(UnixTime(near))).await.unwrap();
    }
    for (far, way) in [(now - 600, " s behind "), (now + 605, " s ahead of "), (0, " s behind ")] {
        let refused = journal.check_clock(&ManualClock::new(UnixTime(far))).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains(way) && refused.contains(&far.to_string()), "{refused}");
        assert!(refused.contains(&now.to_string()[..8]), "without the server's time: {refused}");
    }
}

/// A holder writes as fast as it can while another takes the lease over. Whatever the successor
/// found stays as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_written_after_a_take_over() {
    let database = Cluster::shared().database();
    let (first, second) = (open(&database).await, open(&database).await);
    first.enter(entry("one")).await.unwrap();
    let zero = Duration::ZERO;
    let take = async |journal: &PgJournal, name: &str| {
        let asked = journal.lease(&network(), &holder(name), UnixTime(0), zero).await;
        asked.unwrap().granted().unwrap()
    };
    for round in 0..40_u64 {
        let old = take(&first, "first").await;
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (journal, old) = (first.clone(), old.clone());
                tokio::spawn(async move {
                    for nonce in 0..2_000 {
                        let sign = Event::Signed(signed(nonce, vec![1]));
                        match journal.advance(&old, vec![change("one", sign)]).await {
                            Ok(_) => {}
                            Err(JournalError::LeaseLost(_)) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    panic!("whoever was taken over writes on and on");
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(round % 7)).await;
        let taken = take(&second, "second").await;
        assert!(taken.token > old.token);
        let found = second.find(&key("one")).await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(second.find(&key("one")).await.unwrap(), found, "round {round}");
    }
}
