//! A crash at every failpoint, a restart, and the payment presented again.

use std::time::Duration;

use pay402_core::Refusal;
use pay402_core::facilitator::Settled;
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::payment;

/// Settles until `point` is reached, then crashes. Returns what the caller was told, if anything.
async fn crash_at(bed: &Bed, point: Failpoint) -> Option<Settled> {
    let (failpoints, reached) = Failpoints::hold_at(point);
    let engine = bed.start_with(Options { failpoints, ..options() }).await;
    if point == Failpoint::AfterCollectBeforeAnswer {
        // Reached only by collecting what was pending before.
        bed.chain.state().automine = false;
        pending(settle(&engine, payment("1"), SHORT).await);
        bed.chain.state().mine();
        bed.chain.state().automine = true;
        until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    }
    let asked = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    let waited = tokio::time::timeout(LONG, reached.notified()).await;
    assert!(waited.is_ok(), "no scenario reaches {point}");
    engine.crash();
    drop(engine);
    // What the caller hears of a crash is a broken connection; in process it is `pending`.
    let told = tokio::time::timeout(LONG, asked).await.unwrap().unwrap();
    assert!(!matches!(told, Settled::Done(_)), "{point}: success told by a crashed process");
    Some(told)
}

#[tokio::test]
async fn a_crash_at_any_point_settles_exactly_once() {
    for point in Failpoint::PLAIN.into_iter().chain([Failpoint::AfterCollectBeforeAnswer]) {
        let bed = Bed::new();
        crash_at(&bed, point).await;
        bed.clock.set(pay402_core::time::UnixTime(crate::chain::NOW + 60));
        let engine = bed.start().await;
        // Without anybody asking, the money moves or has moved.
        until("settled", || async { stage(&engine, "1").await == "settled" }).await;
        let again = settle(&engine, payment("1"), LONG).await;
        let told_before_answer =
            [Failpoint::AfterCloseBeforeAnswer, Failpoint::AfterCollectBeforeAnswer];
        if told_before_answer.contains(&point) {
            // The answer is lost, never given twice; the hash is in the refusal.
            let told = refused(again, Refusal::DuplicateSettlement);
            assert!(told.transaction.is_some(), "{point}");
        } else {
            done(&again);
            refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
        }
        let state = bed.chain.state();
        assert_eq!((state.transfers, state.reverted), (1, 0), "{point}");
        assert_eq!(state.hashes().len(), 1, "{point}: other bytes were sent after the restart");
    }
}

#[tokio::test]
async fn a_crash_with_many_in_flight_settles_each_exactly_once() {
    const MANY: usize = 40;
    for point in Failpoint::PLAIN {
        let bed = Bed::with_signers(&["0xa", "0xb"]);
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..options() }).await;
        let asked: Vec<_> = (0..MANY)
            .map(|number| {
                let engine = engine.clone();
                tokio::spawn(
                    async move { settle(&engine, payment(&number.to_string()), LONG).await },
                )
            })
            .collect();
        assert!(tokio::time::timeout(LONG, reached.notified()).await.is_ok(), "{point}");
        tokio::time::sleep(Duration::from_millis(5)).await;
        engine.crash();
        drop(engine);
        let mut told = 0;
        for one in asked {
            told += usize::from(matches!(one.await.unwrap(), Settled::Done(_)));
        }
        bed.clock.set(pay402_core::time::UnixTime(crate::chain::NOW + 60));
        let engine = bed.start().await;
        told += collect(&engine, MANY).await;
        assert!(told <= MANY, "{point}: {told} successes for {MANY} payments");
        let state = bed.chain.state();
        assert_eq!((state.transfers, state.reverted), (MANY, 0), "{point}");
        assert_eq!(state.hashes().len(), MANY, "{point}: a payment was signed twice");
    }
}

/// Presents every payment until it is settled or told to be; counts the successes.
async fn collect(engine: &Engine, many: usize) -> usize {
    let mut told = 0;
    for number in 0..many {
        match settle(engine, payment(&number.to_string()), LONG).await {
            Settled::Done(_) => told += 1,
            other => _ = refused(other, Refusal::DuplicateSettlement),
        }
    }
    told
}

#[test]
fn failpoints_have_names_of_their_own() {
    let names: std::collections::HashSet<_> =
        Failpoint::ALL.iter().map(|point| point.name()).collect();
    assert_eq!(names.len(), Failpoint::ALL.len());
}
