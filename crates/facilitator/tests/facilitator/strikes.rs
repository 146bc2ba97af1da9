//! Payers whose settlements keep failing at our cost are refused for a while.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pay402_core::Refusal;
use pay402_core::facilitator::{Facilitator as _, Verdict};
use pay402_core::journal::Journal;
use pay402_core::time::UnixTime;
use pay402_facilitator::options::{STRIKES_MAX, STRIKES_WINDOW};
use pay402_facilitator::{Engine, Options};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, until};
use crate::chain::{NOW, key, network, payment, payment_by};
use crate::flaky::{Faults, Flaky};

fn striking() -> Options {
    Options { strikes_max: STRIKES_MAX, ..options() }
}

/// Settles a payment whose transaction reverts.
async fn strike(bed: &Bed, engine: &Engine, nonce: &str) {
    bed.chain.state().reverts_next = true;
    let failed = settle(engine, payment(nonce), LONG).await;
    refused(failed, Refusal::TransactionReverted);
}

async fn verify(engine: &Engine, nonce: &str) -> Verdict {
    engine.verify(&payment(nonce)).await.unwrap()
}

#[track_caller]
fn suspended(verdict: &Verdict) {
    let Verdict::Invalid(told) = verdict else { panic!("{verdict:?}") };
    assert!(told.reason.is(Refusal::PayerSuspended), "{told}");
    assert_eq!(told.payer.as_deref(), Some("0xpayer"));
}

#[tokio::test]
async fn a_payer_with_three_strikes_is_refused_until_the_window_has_passed() {
    let bed = Bed::new();
    let engine = bed.start_with(striking()).await;
    for nonce in ["1", "2", "3"] {
        assert!(matches!(verify(&engine, nonce).await, Verdict::Valid { .. }));
        strike(&bed, &engine, nonce).await;
    }
    let handed = bed.chain.state().handed.len();
    suspended(&verify(&engine, "4").await);
    let told = refused(settle(&engine, payment("4"), LONG).await, Refusal::PayerSuspended);
    assert_eq!(told.payer.as_deref(), Some("0xpayer"));
    assert_eq!(bed.chain.state().handed.len(), handed, "it was sent");
    // Others are not meant, and what failed is still told as it was.
    done(&settle(&engine, payment_by("0xother", "4"), LONG).await);
    refused(settle(&engine, payment("3"), LONG).await, Refusal::TransactionReverted);
    let window = STRIKES_WINDOW.as_secs();
    bed.clock.set(UnixTime(NOW + window));
    suspended(&verify(&engine, "4").await);
    bed.clock.set(UnixTime(NOW + window + 1));
    assert!(matches!(verify(&engine, "4").await, Verdict::Valid { .. }));
}

#[tokio::test]
async fn the_settlement_is_refused_when_only_the_facilitator_saw_the_strikes() {
    let bed = Bed::new();
    let engine = bed.start_with(Options { strikes_max: 1, ..striking() }).await;
    // Verified before the strike, settled after it.
    assert!(matches!(verify(&engine, "2").await, Verdict::Valid { .. }));
    strike(&bed, &engine, "1").await;
    refused(settle(&engine, payment("2"), LONG).await, Refusal::PayerSuspended);
    assert_eq!(bed.chain.state().handed.len(), 1);
}

#[tokio::test]
async fn strikes_survive_a_restart() {
    let bed = Bed::new();
    let engine = bed.start_with(striking()).await;
    for nonce in ["1", "2"] {
        strike(&bed, &engine, nonce).await;
    }
    engine.stop(LONG).await;
    let engine = bed.start_with(striking()).await;
    assert!(matches!(verify(&engine, "3").await, Verdict::Valid { .. }));
    strike(&bed, &engine, "3").await;
    suspended(&verify(&engine, "4").await);
    engine.stop(LONG).await;
    let engine = bed.start_with(striking()).await;
    suspended(&verify(&engine, "4").await);
    refused(settle(&engine, payment("4"), LONG).await, Refusal::PayerSuspended);
    // Old ones do not count for ever.
    bed.clock.set(UnixTime(NOW + STRIKES_WINDOW.as_secs() + 1));
    assert!(matches!(verify(&engine, "4").await, Verdict::Valid { .. }));
}

#[tokio::test]
async fn a_failure_that_costs_nothing_is_no_strike() {
    let bed = Bed::new();
    let engine = bed.start_with(Options { strikes_max: 1, ..striking() }).await;
    // Another transaction takes our nonce: signed again, settled.
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().steal_nonce("0xsigner");
    bed.chain.state().automine = true;
    until("it is settled", || async { crate::bed::stage(&engine, "1").await == "settled" }).await;
    // Never mined, and over.
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("2"), SHORT).await);
    bed.chain.state().steal_nonce("0xsigner");
    bed.chain.state().time = crate::chain::EXPIRES;
    bed.clock.set(UnixTime(crate::chain::EXPIRES));
    until("it has failed", || async { crate::bed::stage(&engine, "2").await == "failed" }).await;
    bed.chain.state().time = NOW;
    assert!(matches!(verify(&engine, "3").await, Verdict::Valid { .. }));
}

#[tokio::test]
async fn what_is_under_way_is_not_called_refused() {
    let bed = Bed::new();
    let engine = bed.start_with(Options { strikes_max: 1, ..striking() }).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    pending(settle(&engine, payment("2"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.reverts_next = true;
        state.mine();
    }
    // The journal has the failure a moment before it is counted.
    until("the payer is suspended", || async {
        matches!(verify(&engine, "3").await, Verdict::Invalid(_))
    })
    .await;
    suspended(&verify(&engine, "3").await);
    // The second went through in the same block, and is told as settled.
    done(&settle(&engine, payment("2"), LONG).await);
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn what_was_entered_before_the_strike_is_neither_refused_nor_lost() {
    let bed = Bed::new();
    let engine = bed.start_with(Options { strikes_max: 1, ..striking() }).await;
    bed.chain.state().unsignable = vec![key("1")];
    pending(settle(&engine, payment("1"), SHORT).await);
    strike(&bed, &engine, "2").await;
    suspended(&verify(&engine, "3").await);
    assert!(matches!(verify(&engine, "1").await, Verdict::Valid { .. }), "its money may move");
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().unsignable.clear();
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test]
async fn a_journal_that_is_down_lets_nobody_through_and_is_asked_once() {
    let bed = Bed::new();
    let faults = Arc::new(Faults::default());
    let journal: Arc<dyn Journal> =
        Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) });
    let engine = bed.start_on(journal, striking()).await;
    faults.down.store(true, Ordering::SeqCst);
    assert!(engine.verify(&payment("1")).await.is_err(), "nobody knows of strikes before");
    faults.down.store(false, Ordering::SeqCst);
    assert!(matches!(verify(&engine, "1").await, Verdict::Valid { .. }));
    // From now on this payer's strikes are known.
    faults.down.store(true, Ordering::SeqCst);
    assert!(matches!(verify(&engine, "2").await, Verdict::Valid { .. }));
    faults.down.store(false, Ordering::SeqCst);
    assert_eq!(bed.journal().failures(&network(), "0xpayer", UnixTime(0)).await, Ok(0));
}

#[tokio::test]
async fn a_payer_loses_us_a_bounded_amount() {
    let bed = Bed::new();
    let engine =
        bed.start_with(Options { unfinished_per_payer_max: 4, strikes_max: 2, ..striking() }).await;
    for nonce in 0..50 {
        bed.chain.state().reverts_next = true;
        _ = settle(&engine, payment(&nonce.to_string()), LONG).await;
    }
    assert_eq!(bed.chain.state().reverted, 2);
    // At once, as many as may be unfinished pass before the first has failed.
    bed.clock.set(UnixTime(NOW + STRIKES_WINDOW.as_secs() + 1));
    bed.chain.state().automine = false;
    for nonce in 100..150 {
        _ = engine.settle_for(None, payment(&nonce.to_string()), Duration::ZERO).await;
    }
    let state = bed.chain.state();
    assert!(state.handed.len() <= 2 + 4, "{}", state.handed.len());
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let bed = Bed::new();
    for (bad, key) in [
        (Options { strikes_max: 0, ..options() }, "strikes_max"),
        (Options { strikes_max: 1_001, ..options() }, "strikes_max"),
        (Options { strikes_window: Duration::from_millis(900), ..options() }, "strikes_window"),
    ] {
        let error = Engine::start(vec![], bed.journal(), Arc::clone(&bed.clock) as _, bad).await;
        assert_eq!(error.unwrap_err().key, key);
    }
}
