//! A signer has so many transactions waiting to be mined, and no more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pay402_core::Refusal;
use pay402_core::network::Packing;
use pay402_core::time::UnixTime;
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::{Engine, Options};

use crate::api::read;
use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, Undone, network, payment};

/// Time enough for whatever would be sent too early.
const MOMENT: Duration = Duration::from_millis(150);

fn limited(max: usize) -> Options {
    Options { in_flight_per_signer_max: [(network(), max)].into(), ..options() }
}

/// Enters these payments one after the other, while nothing is mined.
async fn enter(bed: &Bed, engine: &Engine, nonces: &[&str]) {
    bed.chain.state().automine = false;
    for nonce in nonces {
        pending(settle(engine, payment(nonce), SHORT).await);
    }
}

/// What was handed to the node, each once: signer and nonce, and how many payments it carries.
fn handed(bed: &Bed) -> Vec<(String, u64, usize)> {
    let state = bed.chain.state();
    let of = |tx: &crate::chain::Tx| (tx.signer.clone(), tx.nonce, tx.authorizations.len());
    let handed: BTreeSet<_> = state.handed.iter().map(of).collect();
    handed.into_iter().collect()
}

/// The nonces that were given out; one may be used again for what takes the place of a transaction.
fn nonces(bed: &Bed) -> Vec<u64> {
    let nonces: BTreeSet<_> = handed(bed).into_iter().map(|(_, nonce, _)| nonce).collect();
    nonces.into_iter().collect()
}

/// How many transactions wait to be mined, as the figures say.
async fn unmined(engine: &Engine) -> u64 {
    let figures = read(&router(engine.clone(), Access::Open), "/metrics").await;
    let figures = String::from_utf8(figures.body).unwrap();
    let name = "x402_lane_unmined{network=\"eip155:84532\",signer=\"0xsigner\"} ";
    let line = figures.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("it is not in {figures}")).parse().unwrap()
}

async fn all_are(engine: &Engine, nonces: &[&str], wanted: &str) -> bool {
    for nonce in nonces {
        if stage(engine, nonce).await != wanted {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_lane_that_has_its_fill_is_handed_nothing_until_some_is_mined() {
    let bed = Bed::new();
    let engine = bed.start_with(limited(2)).await;
    let all = ["1", "2", "3", "4", "5"];
    enter(&bed, &engine, &all).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(nonces(&bed), [0, 1]);
    assert!(all_are(&engine, &all[2..], "due").await, "who has no nonce waits as due");
    assert_eq!(unmined(&engine).await, 2);
    bed.chain.state().mine();
    until("two more are sent", || async { nonces(&bed) == [0, 1, 2, 3] }).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(nonces(&bed), [0, 1, 2, 3]);
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    until("all are settled", || all_are(&engine, &all, "settled")).await;
    assert_eq!(nonces(&bed), [0, 1, 2, 3, 4], "without a gap");
    // In the order in which they were entered.
    let state = bed.chain.state();
    let order: Vec<_> = state.asked_to_sign.iter().filter_map(|key| key.chars().last()).collect();
    assert_eq!(order, ['1', '2', '3', '4', '5']);
    assert_eq!((state.transfers, state.reverted), (5, 0));
}

#[tokio::test]
async fn another_lane_that_has_room_takes_it() {
    let bed = Bed::with_signers(&["0xa", "0xb"]);
    let engine = bed.start_with(limited(2)).await;
    let all = ["1", "2", "3", "4", "5", "6"];
    enter(&bed, &engine, &all).await;
    tokio::time::sleep(MOMENT).await;
    let one = |signer: &str, nonce| (signer.to_owned(), nonce, 1);
    let four = [one("0xa", 0), one("0xa", 1), one("0xb", 0), one("0xb", 1)];
    assert_eq!(handed(&bed), four);
    bed.chain.state().mine();
    bed.chain.state().automine = true;
    until("all are settled", || all_are(&engine, &all, "settled")).await;
    assert_eq!(bed.chain.state().transfers, 6);
}

#[tokio::test]
async fn what_waits_is_packed_the_better_and_in_its_order() {
    let bed = Bed::new();
    bed.chain.state().packing = Some(Packing { wait: Duration::ZERO, members_max: 2 });
    let engine = bed.start_with(limited(1)).await;
    let all = ["1", "2", "3", "4", "5", "6"];
    enter(&bed, &engine, &all).await;
    assert_eq!(nonces(&bed), [0]);
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    until("all are settled", || all_are(&engine, &all, "settled")).await;
    let last = |key: &String| key.chars().last().unwrap();
    let mut carried: Vec<String> = Vec::new();
    for tx in &bed.chain.state().handed {
        let payments = tx.authorizations.iter().map(last).collect();
        if !carried.contains(&payments) {
            carried.push(payments);
        }
    }
    assert_eq!(carried, ["1", "23", "45", "6"]);
}

/// What was in flight under a higher limit, or is sent again, is in flight all the same.
#[tokio::test]
async fn after_a_restart_what_is_in_flight_counts() {
    let bed = Bed::new();
    let engine = bed.start_with(limited(4)).await;
    enter(&bed, &engine, &["1", "2", "3", "4"]).await;
    engine.stop(Duration::ZERO).await;
    let engine = bed.start_with(limited(2)).await;
    enter(&bed, &engine, &["5"]).await;
    until("they are sent again", || async { bed.chain.state().handed.len() >= 8 }).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(nonces(&bed), [0, 1, 2, 3]);
    assert_eq!(stage(&engine, "5").await, "due");
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    let all = ["1", "2", "3", "4", "5"];
    until("all are settled", || all_are(&engine, &all, "settled")).await;
    assert_eq!(nonces(&bed), [0, 1, 2, 3, 4]);
}

/// A transaction whose block is undone waits to be mined again.
#[tokio::test]
async fn what_a_block_gives_back_counts_again() {
    let bed = Bed::new();
    let watching = Options { watch_every: Duration::from_millis(2), ..limited(1) };
    let engine = bed.start_with(watching).await;
    done(&settle(&engine, payment("1"), LONG).await);
    bed.chain.state().automine = false;
    bed.chain.state().undo(1, Undone::Lost);
    bed.chain.state().preempt(&crate::chain::key("somebody else's"));
    until("it waits again", || async { unmined(&engine).await == 1 }).await;
    enter(&bed, &engine, &["2"]).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(nonces(&bed), [0]);
    bed.chain.state().automine = true;
    bed.chain.state().mine();
    until("both are settled", || all_are(&engine, &["1", "2"], "settled")).await;
}

/// One that is deep in no block yet, but is in one, takes no place in a node's pool.
#[tokio::test]
async fn what_is_mined_and_not_certain_yet_makes_room() {
    let bed = Bed::new();
    let engine = bed.start_with(limited(1)).await;
    bed.chain.state().shallow = true;
    bed.chain.state().automine = true;
    pending(settle(&engine, payment("1"), SHORT).await);
    pending(settle(&engine, payment("2"), SHORT).await);
    until("both are mined", || async { unmined(&engine).await == 0 }).await;
    // Their blocks are undone: they wait again, and the third does for them.
    bed.chain.state().automine = false;
    bed.chain.state().undo(2, Undone::Lost);
    until("both wait again", || async { unmined(&engine).await == 2 }).await;
    enter(&bed, &engine, &["3"]).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(nonces(&bed), [0, 1]);
    bed.chain.state().shallow = false;
    bed.chain.state().automine = true;
    until("all are settled", || all_are(&engine, &["1", "2", "3"], "settled")).await;
}

#[tokio::test]
async fn who_waits_too_long_is_never_sent() {
    let bed = Bed::new();
    let engine = bed.start_with(limited(1)).await;
    enter(&bed, &engine, &["1", "2"]).await;
    bed.clock.set(UnixTime(EXPIRES));
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        // A block, in which the first is not.
        state.preempt(&crate::chain::key("somebody else's"));
    }
    until("it is over", || async { stage(&engine, "2").await == "failed" }).await;
    refused(settle(&engine, payment("2"), LONG).await, Refusal::ValidBefore);
    assert_eq!(nonces(&bed), [0]);
    assert_eq!(unmined(&engine).await, 1, "the first still waits");
}

/// What nobody holds the bytes for is cancelled though the lane has its fill: what fills it waits behind.
#[tokio::test]
async fn a_cancellation_does_not_wait() {
    let bed = Bed::new();
    let quick = Duration::from_millis(20);
    let options = Options {
        watch_every: Duration::from_millis(2),
        burial_blocks: 1,
        gap_patience: quick * 5,
        gap_every: quick,
        ..limited(1)
    };
    let engine = bed.start_with(options).await;
    done(&settle(&engine, payment("1"), LONG).await);
    done(&settle(&engine, payment("2"), LONG).await);
    until("the first is buried", || async {
        let found = bed.journal().find(&crate::chain::key("1")).await.unwrap().unwrap();
        found.watch.is_none()
    })
    .await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("3"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.undo(2, Undone::Lost);
        state.mine();
        state.mine();
        state.automine = true;
    }
    until("the third is settled", || async { stage(&engine, "3").await == "settled" }).await;
    let cancelled = handed(&bed).contains(&("0xsigner".to_owned(), 0, 0));
    assert!(cancelled, "{:?}", handed(&bed));
}

#[tokio::test]
async fn a_limit_of_none_is_refused() {
    let bed = Bed::new();
    let clock = Arc::clone(&bed.clock) as _;
    let error = Engine::start(vec![], bed.journal(), clock, limited(0)).await.unwrap_err();
    assert_eq!(error.key, "in_flight_per_signer_max");
}
