//! Nonces that nobody holds the bytes for.

use std::time::Duration;

use pay402_core::Amount;
use pay402_core::journal::{Entry, Outcome, Stage};
use pay402_core::time::UnixTime;
use pay402_facilitator::Options;
use pay402_facilitator::failpoint::{Failpoint, Failpoints};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, settle, stage, until};
use crate::chain::{Chain, NOW, Undone, key, network, payment};

/// How often is looked for gaps here.
const QUICK: Duration = Duration::from_millis(20);

fn quick(gap_patience: Duration) -> Options {
    Options { gap_patience, gap_every: QUICK, ..options() }
}

/// Settles payments and waits until nothing is kept of them.
async fn bury(bed: &Bed, nonces: &[&str]) {
    let watch_every = Duration::from_millis(2);
    let engine = bed.start_with(Options { watch_every, burial_blocks: 1, ..options() }).await;
    for nonce in nonces {
        done(&settle(&engine, payment(nonce), LONG).await);
    }
    (0..2).for_each(|_| bed.chain.state().mine());
    for nonce in nonces {
        until("it is buried", || async {
            bed.journal().find(&key(nonce)).await.unwrap().unwrap().watch.is_none()
        })
        .await;
    }
    engine.stop(Duration::ZERO).await;
}

#[tokio::test]
async fn a_chain_behind_the_journal_is_waited_for_and_then_filled_up() {
    let mut bed = Bed::new();
    bury(&bed, &["1", "2", "3"]).await;
    // Another chain, or one that lost its newest blocks.
    bed.chain = Chain::new(&["0xsigner"]);
    let gap_patience = Duration::from_millis(700);
    let engine = bed.start_with(quick(gap_patience)).await;
    assert_eq!(pending(settle(&engine, payment("4"), SHORT).await), None);
    assert!(bed.chain.state().handed.is_empty(), "a nonce that may come back was used at once");
    done(&settle(&engine, payment("4"), LONG).await);
    done(&settle(&engine, payment("5"), LONG).await);
    assert_eq!(
        carried(&bed),
        [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1)],
        "no nonce for two payments"
    );
    // What that cost is in the books.
    let records = bed.journal().newest(100).await.unwrap();
    let fee = |entry: &Entry| match &entry.stage {
        Stage::Final(Outcome::Settled { fee, .. }) => *fee,
        stage => panic!("{stage:?}"),
    };
    let after = records.iter().take(5).map(fee);
    let booked = after.fold(Amount::ZERO, |sum, fee| sum.checked_add(fee).unwrap());
    assert_eq!(booked, bed.chain.state().spent.into());
}

/// Nonces and how many payments each carries, in the order in which they were first handed in.
fn carried(bed: &Bed) -> Vec<(u64, usize)> {
    let mut carried = Vec::new();
    for tx in &bed.chain.state().handed {
        let one = (tx.nonce, tx.authorizations.len());
        if !carried.contains(&one) {
            carried.push(one);
        }
    }
    carried
}

/// Of a buried settlement nothing is kept. The chain loses it all the same, while others wait behind it and
/// no new payment comes.
#[tokio::test]
async fn a_gap_is_cancelled_while_payments_wait_behind_it() {
    let bed = Bed::new();
    let watching =
        Options { watch_every: Duration::from_millis(2), burial_blocks: 1, ..quick(QUICK * 5) };
    let engine = bed.start_with(watching).await;
    done(&settle(&engine, payment("1"), LONG).await);
    done(&settle(&engine, payment("2"), LONG).await);
    until("the first is buried", || async {
        bed.journal().find(&key("1")).await.unwrap().unwrap().watch.is_none()
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
    assert!(carried(&bed).contains(&(0, 0)), "{:?}", carried(&bed));
    // Mined in the same block, and closed by itself.
    until("the second is settled again", || async { stage(&engine, "2").await == "settled" }).await;
    assert_eq!(bed.chain.state().transfers, 2);
}

/// The chain loses a payment that was closed, and nobody can look at where it stands.
#[tokio::test]
async fn what_was_closed_at_a_nonce_that_the_chain_waits_for_is_opened_again() {
    let bed = Bed::new();
    let engine = bed.start_with(quick(LONG)).await;
    done(&settle(&engine, payment("1"), LONG).await);
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("2"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.hidden.push(key("1"));
        state.undo(1, Undone::Lost);
        state.mine();
        state.automine = true;
    }
    until("both are made", || async { bed.chain.state().transfers == 2 }).await;
    bed.chain.state().hidden.clear();
    for nonce in ["1", "2"] {
        until("it is settled", || async { stage(&engine, nonce).await == "settled" }).await;
    }
    assert_eq!(carried(&bed), [(0, 1), (1, 1)], "nothing is cancelled");
}

/// What had been lost comes back before the cancellation is mined: that one is void, and costs nothing.
#[tokio::test]
async fn a_cancellation_that_comes_too_late_is_void() {
    let mut bed = Bed::new();
    bury(&bed, &["1"]).await;
    bed.chain = Chain::new(&["0xsigner"]);
    bed.chain.state().automine = false;
    let engine = bed.start_with(quick(QUICK)).await;
    pending(settle(&engine, payment("2"), SHORT).await);
    until("it is cancelled", || async { carried(&bed).contains(&(0, 0)) }).await;
    bed.chain.state().steal_nonce("0xsigner");
    until("the second is sent", || async { carried(&bed).contains(&(1, 1)) }).await;
    bed.chain.state().mine();
    until("the second is settled", || async { stage(&engine, "2").await == "settled" }).await;
    until("nothing is open", || async {
        let unfinished = bed.journal().unfinished(&network(), 10).await.unwrap();
        unfinished.is_empty()
    })
    .await;
    assert_eq!(bed.chain.state().spent, 21_000, "for the payment alone");
}

#[tokio::test]
async fn a_crash_around_a_cancellation_fills_the_gap_once() {
    for point in [
        Failpoint::AfterGapEnter,
        Failpoint::AfterGapSignBeforeJournal,
        Failpoint::AfterGapJournalBeforeSend,
        Failpoint::AfterGapSendBeforeSent,
    ] {
        let mut bed = Bed::new();
        bury(&bed, &["1"]).await;
        bed.chain = Chain::new(&["0xsigner"]);
        bed.chain.state().automine = false;
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..quick(QUICK) }).await;
        pending(settle(&engine, payment("2"), SHORT).await);
        let held = tokio::time::timeout(LONG, reached.notified()).await;
        assert!(held.is_ok(), "no scenario reaches {point}");
        engine.crash();
        drop(engine);
        bed.clock.set(UnixTime(NOW + 30));
        bed.chain.state().automine = true;
        let engine = bed.start_with(quick(QUICK)).await;
        until("the second is settled", || async { stage(&engine, "2").await == "settled" }).await;
        assert_eq!(carried(&bed), [(0, 0), (1, 1)], "{point}");
        let recorded = bed.journal().newest(100).await.unwrap();
        let of_gaps = recorded.iter().filter(|entry| entry.new.key.asset() == "cancel");
        assert_eq!(of_gaps.count(), 1, "{point}");
    }
}
