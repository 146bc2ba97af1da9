//! Facilitators that stand in for one another, on one journal in PostgreSQL, and a server that stops.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use pay402_core::Refusal;
use pay402_core::journal::Journal;
use pay402_core::network::Network;
use pay402_core::time::Clock as _;
use pay402_facilitator::{Engine, Options};
use pay402_store::PgJournal;

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{key, payment};
use crate::cluster::{Cluster, Database};

async fn journal(database: &Database<'_>) -> Arc<dyn Journal> {
    Arc::new(PgJournal::open(&database.url(), None).await.unwrap())
}

fn short_lease() -> Options {
    Options { lease: Duration::from_secs(3), follows: true, ..options() }
}

/// How often a transaction was recorded for the payment with this nonce.
fn signatures(database: &Database<'_>, nonce: &str) -> String {
    let sql = "SELECT count(*) FROM pay402_journal.signed_transaction
               JOIN pay402_journal.entry ON entry.seq = signed_transaction.entry WHERE key =";
    database.sql(&format!("{sql} '{}'", key(nonce))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_over_and_finishes_what_was_signed_with_the_same_bytes() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let first = bed.start_on(journal(&database).await, short_lease()).await;
    bed.chain.state().automine = false;
    let sent = pending(settle(&first, payment("1"), SHORT).await).unwrap();
    until("sent", || async { stage(&first, "1").await == "sent" }).await;

    let second = bed.start_on(journal(&database).await, short_lease()).await;
    // Nobody can forward calls to the first, which has no address.
    assert_eq!(second.health()[0].status, "leaderless");
    let refused_here = second.settle_for(None, payment("1"), LONG).await.unwrap_err();
    assert!(refused_here.problem.contains("another process settles here"), "{refused_here}");
    // A clock that runs ahead takes no lease: the server's is the one that counts.
    bed.clock.set(bed.clock.now().plus_s(100));
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    assert_eq!(second.health()[0].status, "leaderless");
    assert_eq!(first.health()[0].status, "ok");

    first.crash();
    drop(first);
    until("it leads", || async { second.health()[0].status == "ok" }).await;
    {
        let mut state = bed.chain.state();
        state.mine();
        state.automine = true;
    }
    assert_eq!(done(&settle(&second, payment("1"), LONG).await), sent);
    refused(settle(&second, payment("1"), LONG).await, Refusal::DuplicateSettlement);
    done(&settle(&second, payment("2"), LONG).await);
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted), (2, 0));
    assert_eq!(state.hashes().len(), 2, "other bytes were sent by the successor");
    assert_eq!(signatures(&database, "1"), "1");
}

/// A process that is stopped while it signs, and goes on after another one took over.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_frozen_and_wakes_writes_and_sends_nothing_and_may_lead_again() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let (freeze, frozen) = mpsc::channel::<mpsc::Receiver<()>>();
    let (started, first) = tokio::sync::oneshot::channel();
    // One thread for everything that the first engine does: when it sleeps, so does the process.
    let process = std::thread::spawn({
        let (chain, clock, url) = (bed.chain.clone(), Arc::clone(&bed.clock), database.url());
        move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let journal = Arc::new(PgJournal::open(&url, None).await.unwrap());
                let networks: Vec<Arc<dyn Network>> = vec![Arc::new(chain)];
                let engine = Engine::start(networks, journal, clock, short_lease()).await.unwrap();
                assert!(started.send(engine.clone()).is_ok());
                loop {
                    match frozen.try_recv() {
                        Ok(thaw) => _ = thaw.recv(),
                        Err(mpsc::TryRecvError::Empty) => {}
                        Err(mpsc::TryRecvError::Disconnected) => return,
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
    let first = first.await.unwrap();
    done(&settle_on(&first, "1", LONG).await);
    bed.chain.state().automine = false;
    bed.chain.state().sign_takes = Duration::from_millis(200);
    let asked = tokio::spawn({
        let first = first.clone();
        async move { settle_on(&first, "2", LONG).await }
    });
    until("signing", || async {
        bed.chain.state().sign_takes > Duration::ZERO && stage(&first, "2").await == "due"
    })
    .await;
    let (thaw, sleep) = mpsc::channel();
    freeze.send(sleep).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    bed.chain.state().sign_takes = Duration::ZERO;
    let second = bed.start_on(journal(&database).await, short_lease()).await;
    until("sent by the successor", || async { stage(&second, "2").await == "sent" }).await;
    let before = database.sql("SELECT * FROM pay402_journal.entry ORDER BY seq").unwrap();

    drop(thaw);
    until("it follows", || async { first.health()[0].status == "leaderless" }).await;
    let ended = tokio::time::timeout(SHORT, first.taken_over()).await;
    assert!(ended.is_err(), "it is to stay, and follow");
    pending(tokio::time::timeout(LONG, asked).await.unwrap().unwrap());
    assert!(first.settle_for(None, payment("3"), LONG).await.is_err());
    let after = database.sql("SELECT * FROM pay402_journal.entry ORDER BY seq").unwrap();
    assert_eq!(after, before, "the one that woke wrote");
    assert_eq!(signatures(&database, "2"), "1");

    bed.chain.state().mine();
    bed.chain.state().automine = true;
    done(&settle(&second, payment("2"), LONG).await);
    assert_eq!(bed.chain.state().hashes().len(), 2);
    second.stop(SHORT).await;
    until("it leads again", || async { first.health()[0].status == "ok" }).await;
    done(&settle_on(&first, "4", LONG).await);
    assert_eq!(signatures(&database, "4"), "1");
    drop(first);
    drop(freeze);
    process.join().unwrap();
}

/// Calls from here run the engine's work here too; what it started before runs where it started.
async fn settle_on(
    engine: &Engine,
    nonce: &str,
    wait: Duration,
) -> pay402_core::facilitator::Settled {
    settle(engine, payment(nonce), wait).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_grants_nothing_and_settling_goes_on_after_it() {
    let bed = Bed::new();
    let cluster = Cluster::own();
    let database = cluster.database();
    let engine = bed.start_on(journal(&database).await, short_lease()).await;
    done(&settle(&engine, payment("0"), LONG).await);
    bed.chain.state().automine = false;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    until("sent", || async { bed.chain.state().handed.len() == 2 }).await;

    cluster.stop();
    // The money of the first moves while nothing can be written, and more is asked for.
    bed.chain.state().mine();
    for nonce in ["2", "3"] {
        let told = engine.settle_for(None, payment(nonce), LONG).await;
        assert!(!matches!(told, Ok(pay402_core::facilitator::Settled::Done(_))), "{told:?}");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "told without a record");
    assert_eq!(bed.chain.state().handed.iter().filter(|tx| tx.nonce > 1).count(), 0, "sent more");
    assert_eq!(engine.health()[0].status, "journal_down");

    bed.chain.state().automine = true;
    cluster.start();
    done(&tokio::time::timeout(LONG, waiting).await.unwrap().unwrap());
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
    for nonce in ["2", "3"] {
        done(&settle(&engine, payment(nonce), LONG).await);
    }
    until("it is well", || async { engine.health()[0].status == "ok" }).await;
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (4, 4));
}
