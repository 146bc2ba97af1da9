//! Nodes, signers, callers, journals and leases that fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pay402_core::Refusal;
use pay402_core::facilitator::{Facilitator as _, Settled};
use pay402_core::journal::Delivery;
use pay402_core::time::{Clock as _, UnixTime};
use pay402_facilitator::Options;

use crate::bed::{
    Bed, LONG, SHORT, done, options, pending, refused, settle, stage, take_over, until,
};
use crate::chain::{EXPIRES, Node, Tx, key, network, payment};
use crate::flaky::{Faults, Flaky, LINGERS};

#[tokio::test]
async fn a_lost_answer_to_the_broadcast_is_no_failure() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().script.extend([Node::TakesSilently; 1]);
    done(&settle(&engine, payment("1"), LONG).await);
    assert_eq!(bed.chain.state().hashes().len(), 1);
}

#[tokio::test]
async fn lost_and_dropped_transactions_are_sent_again_unchanged() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let faults = [Node::Loses, Node::Drops, Node::Refuses, Node::Loses];
    bed.chain.state().script.extend(faults);
    done(&settle(&engine, payment("1"), LONG).await);
    let state = bed.chain.state();
    assert_eq!(state.handed.len(), faults.len() + 1);
    assert_eq!(state.hashes().len(), 1, "a retry changed the bytes");
}

#[tokio::test]
async fn a_node_that_cannot_be_asked_still_gets_the_bytes() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().status_fails = true;
    bed.chain.state().script.extend([Node::Loses, Node::Loses]);
    pending(settle(&engine, payment("1"), SHORT).await);
    until("sent again", || async { bed.chain.state().transfers == 1 }).await;
    bed.chain.state().status_fails = false;
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test]
async fn a_signer_without_gas_is_passed_over() {
    let bed = Bed::with_signers(&["0xpoor", "0xrich"]);
    let engine = bed.start().await;
    bed.chain.state().out_of_gas.push("0xpoor".into());
    // The first goes to the poor signer and has to wait; the others go past it.
    let first = pending(settle(&engine, payment("1"), SHORT).await);
    assert!(first.is_some());
    for nonce in ["2", "3", "4"] {
        done(&settle(&engine, payment(nonce), LONG).await);
    }
    let of_poor = |tx: &&Tx| tx.signer == "0xpoor";
    let hashes = |bed: &Bed| {
        let state = bed.chain.state();
        let mut hashes: Vec<_> =
            state.handed.iter().filter(of_poor).map(|t| t.hash.clone()).collect();
        hashes.dedup();
        hashes
    };
    assert_eq!(hashes(&bed).len(), 1, "the poor signer was given more");
    bed.chain.state().out_of_gas.clear();
    assert_eq!(done(&settle(&engine, payment("1"), LONG).await), first.unwrap());
}

#[tokio::test]
async fn a_displaced_transaction_is_signed_anew() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().script.extend([Node::Drops]);
    bed.chain.state().automine = false;
    let lost = pending(settle(&engine, payment("1"), SHORT).await).unwrap();
    // Somebody else sent with our signer's nonce before the bytes could be sent again.
    {
        let mut state = bed.chain.state();
        state.steal_nonce("0xsigner");
        state.mine();
        state.automine = true;
    }
    let settled = done(&settle(&engine, payment("1"), LONG).await);
    assert_ne!(settled, lost);
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (1, 2));
    assert_eq!(state.handed.last().map(|tx| tx.nonce), Some(1));
}

#[tokio::test]
async fn what_could_not_be_signed_in_time_expires() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().sign_fails = true;
    assert_eq!(pending(settle(&engine, payment("1"), SHORT).await), None);
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    // Our clock alone closes nothing.
    bed.clock.set(UnixTime(EXPIRES + 10));
    tokio::time::sleep(SHORT).await;
    assert_eq!(stage(&engine, "1").await, "due");
    bed.chain.state().time = EXPIRES;
    refused(waiting.await.unwrap(), Refusal::ValidBefore);
    assert!(bed.chain.state().handed.is_empty());
}

#[tokio::test]
async fn signing_that_recovers_settles() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().sign_fails = true;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().sign_fails = false;
    done(&settle(&engine, payment("1"), LONG).await);
    let state = bed.chain.state();
    assert_eq!(state.handed.last().map(|tx| tx.nonce), Some(0), "a failed signature used a nonce");
}

#[tokio::test]
async fn payments_that_cannot_be_signed_leave_no_gap_between_the_others() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let is_bad = |number: usize| number % 7 == 3;
    let bad = (0..60).filter(|number| is_bad(*number)).map(|number| key(&number.to_string()));
    bed.chain.state().unsignable.extend(bad);
    let asked: Vec<_> = (0..60)
        .map(|number| {
            let engine = engine.clone();
            let wait = if is_bad(number) { SHORT } else { LONG };
            tokio::spawn(async move { settle(&engine, payment(&number.to_string()), wait).await })
        })
        .collect();
    for (number, one) in asked.into_iter().enumerate() {
        let told = one.await.unwrap();
        if is_bad(number) {
            assert_eq!(pending(told), None, "payment {number} was signed");
        } else {
            done(&told);
        }
    }
    let state = bed.chain.state();
    let nonces: std::collections::BTreeSet<_> = state.handed.iter().map(|tx| tx.nonce).collect();
    assert_eq!(nonces.len(), state.transfers);
    assert_eq!(nonces.last().map(|last| *last + 1), u64::try_from(state.transfers).ok(), "a gap");
    assert_eq!(state.hashes().len(), state.transfers, "a nonce was given out twice");
}

#[tokio::test]
async fn payments_that_cannot_be_signed_hold_no_others_back() {
    const BAD: usize = 40;
    let bed = Bed::new();
    let engine = bed.start().await;
    let bad = |number: usize| format!("bad{number}");
    bed.chain.state().unsignable.extend((0..BAD).map(|number| key(&bad(number))));
    // They come back all the time, never together.
    for number in 0..BAD {
        pending(settle(&engine, payment(&bad(number)), Duration::from_millis(12)).await);
    }
    bed.chain.state().sign_takes = Duration::from_millis(20);
    let asked: Vec<_> = (0..BAD)
        .map(|number| {
            let engine = engine.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(8) * u32::try_from(number).unwrap()).await;
                settle(&engine, payment(&number.to_string()), LONG).await
            })
        })
        .collect();
    for one in asked {
        done(&one.await.unwrap());
    }
    let state = bed.chain.state();
    for number in 0..BAD {
        let good = key(&number.to_string());
        let times = state.asked_to_sign.iter().filter(|asked| **asked == good.as_str()).count();
        assert_eq!(times, 1, "payment {number} was held back");
    }
}

#[tokio::test]
async fn one_that_cannot_be_signed_is_asked_for_less_and_less() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().unsignable.push(key("1"));
    pending(settle(&engine, payment("1"), Duration::from_millis(3200)).await);
    // At once, and after 0.5 and 1.5 s; without growing pauses it would be seven times.
    assert_eq!(bed.chain.state().asked_to_sign.len(), 3);
}

#[tokio::test]
async fn an_expired_transaction_is_cancelled_so_that_the_lane_has_no_gap() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    bed.chain.state().script.extend([Node::Drops]);
    let stuck = pending(settle(&engine, payment("1"), SHORT).await);
    assert!(stuck.is_some());
    bed.chain.state().time = EXPIRES;
    // Not final while the transaction could still block its lane; something is still sent, also by a successor.
    let engine = bed.restart(engine).await;
    let cancels = |tx: &Tx| (tx.nonce, tx.authorizations.len()) == (0, 0);
    until("cancelled", || async { bed.chain.state().handed.iter().any(cancels) }).await;
    assert_ne!(stage(&engine, "1").await, "failed");
    bed.chain.state().mine();
    refused(settle(&engine, payment("1"), LONG).await, Refusal::ValidBefore);
    // The next nonce is free to be mined.
    bed.chain.state().time = EXPIRES - 100;
    bed.chain.state().automine = true;
    done(&settle(&engine, payment("2"), LONG).await);
    assert_eq!(bed.chain.state().handed.last().map(|tx| tx.nonce), Some(1));
}

/// Somebody else was first, and ours was mined for nothing. The node that is asked next is behind and shows
/// that nonce as consumed and no transaction of ours.
#[tokio::test]
async fn a_node_that_is_behind_hides_no_cost() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.preempt(&key("1"));
        state.mine();
        // The look that finds it settled, and the one after the nonce was asked for.
        state.hides_ours = 2;
    }
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    let fee = engine.status(&key("1")).await.unwrap().unwrap().fee;
    assert_eq!(fee, bed.chain.state().spent.into(), "the fee is not in the books");
    assert!(!fee.is_zero());
}

/// The entry is closed for the caller in the moment in which it stops to wait, and the journal cannot be
/// told that it left.
#[tokio::test]
async fn a_close_that_overtakes_a_failed_hand_over_is_told() {
    let bed = Bed::new();
    let faults = Arc::new(Faults::default());
    let journal = Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) });
    let engine = bed.start_on(journal, options()).await;
    bed.chain.state().automine = false;
    let waits = LINGERS / 2;
    let asked = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), waits).await }
    });
    until("sent", || async { !bed.chain.state().handed.is_empty() }).await;
    faults.hand_over_fails.store(true, Ordering::SeqCst);
    faults.advance_lingers.store(true, Ordering::SeqCst);
    bed.chain.state().mine();
    done(&asked.await.unwrap());
    faults.hand_over_fails.store(false, Ordering::SeqCst);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn a_preempted_payment_is_settled_by_the_other_transaction() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().preempt(&key("1"));
    // Settled already, but our own transaction still has to be mined.
    tokio::time::sleep(SHORT).await;
    assert_ne!(stage(&engine, "1").await, "settled", "closed with a gap in the lane");
    bed.chain.state().mine();
    assert_eq!(done(&settle(&engine, payment("1"), LONG).await), "0xsomebody-else");
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted), (1, 1));
}

#[tokio::test]
async fn a_shallow_settlement_is_not_yet_one() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().shallow = true;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().shallow = false;
    done(&settle(&engine, payment("1"), LONG).await);
    assert_eq!(bed.chain.state().handed.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hang_up_cancel_nothing_and_lose_nothing() {
    let bed = Bed::new();
    let engine = bed.start().await;
    for round in 0..30_u64 {
        let nonce = round.to_string();
        let asked = engine.settle_for(None, payment(&nonce), LONG);
        let left = tokio::time::timeout(Duration::from_micros(round * 300), asked).await;
        let collected = settle(&engine, payment(&nonce), LONG).await;
        match left {
            Ok(told) => {
                done(&told.unwrap());
                refused(collected, Refusal::DuplicateSettlement);
            }
            // The one who left may still be waited for at this moment: ask until it is handed over.
            Err(_) => {
                let mut collected = collected;
                while matches!(&collected, Settled::Refused(_)) {
                    refused(collected, Refusal::DuplicateSettlement);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    collected = settle(&engine, payment(&nonce), LONG).await;
                }
                done(&collected);
                let third = settle(&engine, payment(&nonce), LONG).await;
                refused(third, Refusal::DuplicateSettlement);
            }
        }
    }
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted, state.hashes().len()), (30, 0, 30));
}

#[tokio::test]
async fn an_answer_that_reached_nobody_is_given_to_the_next() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let mut asked = Box::pin(engine.settle_for(None, payment("1"), LONG));
    assert!(futures_util::poll!(asked.as_mut()).is_pending());
    // Closed as delivered, and the answer lies in the channel, unread.
    let delivery = async || engine.status(&key("1")).await.unwrap().map(|s| s.delivery);
    until("delivered", || async { delivery().await == Some(Delivery::Delivered) }).await;
    drop(asked);
    until("given back", || async { delivery().await == Some(Delivery::Owed) }).await;
    done(&settle(&engine, payment("1"), LONG).await);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn who_sits_down_while_the_entry_is_closed_is_told() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    bed.chain.state().automine = false;
    let sent = pending(settle(&engine, payment("1"), SHORT).await).unwrap();
    // The next one waits; before it looks once more, the entry is closed, and told to it.
    faults.finds_late.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    let delivery = async || bed.journal().find(&key("1")).await.unwrap().map(|it| it.delivery);
    until("waited for", || async { delivery().await == Some(Delivery::Waiting) }).await;
    {
        let mut state = bed.chain.state();
        state.automine = true;
        state.mine();
    }
    assert_eq!(done(&waiting.await.unwrap()), sent);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

pub fn flaky(bed: &Bed) -> (Arc<Flaky>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    (Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) }), faults)
}

#[tokio::test]
async fn without_a_journal_nothing_is_sent() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    faults.down.store(true, Ordering::SeqCst);
    let told = engine.settle_for(None, payment("1"), LONG).await.unwrap_err();
    assert_eq!(told.what, "journal");
    faults.down.store(false, Ordering::SeqCst);
    faults.enter_fails.store(true, Ordering::SeqCst);
    let told = engine.settle_for(None, payment("1"), LONG).await.unwrap_err();
    assert_eq!(told.what, "journal");
    assert_eq!(stage(&engine, "1").await, "");
    assert!(bed.chain.state().handed.is_empty());
    faults.enter_fails.store(false, Ordering::SeqCst);
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test]
async fn a_journal_that_goes_down_before_signing_keeps_the_bytes_from_the_node() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    bed.chain.state().sign_fails = true;
    pending(settle(&engine, payment("1"), SHORT).await);
    faults.down.store(true, Ordering::SeqCst);
    bed.chain.state().sign_fails = false;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(bed.chain.state().handed.is_empty(), "sent without being journalled");
    // In hand: it may be sent at any moment, so this is no error.
    assert_eq!(pending(settle(&engine, payment("1"), SHORT).await), None);
    faults.down.store(false, Ordering::SeqCst);
    done(&settle(&engine, payment("1"), LONG).await);
    assert_eq!(bed.chain.state().hashes().len(), 1);
}

#[tokio::test]
async fn commits_that_report_an_error_are_looked_up() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    faults.advance_lies.store(2, Ordering::SeqCst);
    done(&settle(&engine, payment("1"), LONG).await);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (1, 1));
}

#[tokio::test]
async fn a_close_that_reports_an_error_is_told_all_the_same() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    bed.chain.state().automine = false;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    until("sent", || async { !bed.chain.state().handed.is_empty() }).await;
    faults.advance_lies.store(1, Ordering::SeqCst);
    bed.chain.state().mine();
    done(&tokio::time::timeout(LONG / 2, waiting).await.unwrap().unwrap());
    assert_eq!(faults.advance_lies.load(Ordering::SeqCst), 0);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn a_journal_that_is_down_shows_in_health() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let options = Options { lease: Duration::from_secs(3), ..options() };
    let engine = bed.start_on(journal, options).await;
    faults.down.store(true, Ordering::SeqCst);
    until("down", || async { engine.health()[0].status == "journal_down" }).await;
    faults.down.store(false, Ordering::SeqCst);
    until("up", || async { engine.health()[0].status == "ok" }).await;
}

#[tokio::test]
async fn an_entry_whose_commit_reported_an_error_is_settled_once() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    faults.enter_lies.store(true, Ordering::SeqCst);
    done(&settle(&engine, payment("1"), LONG).await);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn strays_in_the_journal_are_taken_up() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let options = Options { rescan: Duration::from_millis(50), ..options() };
    let engine = bed.start_on(journal, options).await;
    faults.enter_goes_down.store(true, Ordering::SeqCst);
    // Whether it was entered cannot be told, so it is not called a failure.
    assert_eq!(pending(settle(&engine, payment("1"), LONG).await), None);
    assert!(bed.chain.state().handed.is_empty());
    faults.down.store(false, Ordering::SeqCst);
    until("taken up", || async { stage(&engine, "1").await == "settled" }).await;
    done(&settle(&engine, payment("1"), LONG).await);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

/// The journal fails just when a caller wants a stray entry worked on, and then the caller sits down to wait.
#[tokio::test]
async fn strays_that_somebody_waits_for_are_taken_up_too() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let options = Options { rescan: Duration::from_millis(500), ..options() };
    let engine = bed.start_on(journal, options).await;
    faults.enter_goes_down.store(true, Ordering::SeqCst);
    pending(settle(&engine, payment("1"), LONG).await);
    faults.down.store(false, Ordering::SeqCst);
    // The first two looks find an entry that nobody waits for; the third is that of whoever would take it up.
    faults.find_fails.store(3, Ordering::SeqCst);
    done(&settle(&engine, payment("1"), LONG).await);
    assert_eq!(faults.find_fails.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_stray_that_does_not_open_holds_nobody_up() {
    let bed = Bed::new();
    let (flaky, faults) = flaky(&bed);
    let options = Options { rescan: Duration::from_millis(20), ..options() };
    let engine = bed.start_on(flaky, options).await;
    bed.chain.state().sign_fails = true;
    pending(settle(&engine, payment("1"), SHORT).await);
    // Another payment's plan under this key: bytes are sealed to their payment.
    let journal = bed.journal();
    let mut stray = journal.find(&key("1")).await.unwrap().unwrap().new;
    stray.key = key("2");
    journal.enter(stray).await.unwrap();
    bed.chain.state().sign_fails = false;
    done(&settle(&engine, payment("1"), LONG).await);
    // A good stray behind it is taken up all the same.
    faults.enter_goes_down.store(true, Ordering::SeqCst);
    pending(settle(&engine, payment("3"), LONG).await);
    faults.down.store(false, Ordering::SeqCst);
    until("taken up", || async { stage(&engine, "3").await == "settled" }).await;
    assert_eq!(stage(&engine, "2").await, "due");
    assert_eq!(bed.chain.state().transfers, 2);
}

#[tokio::test]
async fn a_lost_lease_stops_the_worker() {
    let bed = Bed::new();
    let options = Options { lease: Duration::from_secs(3), ..options() };
    let engine = bed.start_with(options).await;
    done(&settle(&engine, payment("1"), LONG).await);
    bed.chain.state().automine = false;
    bed.clock.set(bed.clock.now().plus_s(60));
    let now = bed.clock.now();
    take_over(&bed).await;
    // Its next write is refused by the fencing token, before anything is sent.
    pending(settle(&engine, payment("2"), LONG).await);
    assert_eq!(engine.health()[0].status, "lease_lost");
    assert_eq!(tokio::time::timeout(SHORT, engine.taken_over()).await, Ok(network()));
    assert_eq!(bed.chain.state().handed.len(), 1, "sent without the lease");
    let told = engine.settle_for(None, payment("3"), LONG).await.unwrap_err();
    assert!(told.what.contains("settling"));
    assert_eq!(stage(&engine, "3").await, "");
    drop(engine);

    // Whoever has the lease next settles what was left.
    bed.chain.state().automine = true;
    bed.clock.set(now.plus_s(100));
    let successor = bed.start().await;
    until("taken up", || async { stage(&successor, "2").await == "settled" }).await;
    done(&settle(&successor, payment("2"), LONG).await);
}

#[tokio::test]
async fn two_engines_do_not_share_a_network() {
    let bed = Bed::new();
    let lease = Duration::from_secs(3);
    let _first = bed.start_with(Options { lease, ..options() }).await;
    let networks: Vec<Arc<dyn pay402_core::network::Network>> = vec![Arc::new(bed.chain.clone())];
    let second = pay402_facilitator::Engine::start(
        networks,
        bed.journal(),
        Arc::clone(&bed.clock) as _,
        Options { lease, ..options() },
    );
    let error = second.await.unwrap_err();
    assert_eq!(error.key, "journal");
    assert!(error.problem.contains("another running process"), "{error}");
}

#[tokio::test]
async fn other_signers_cannot_open_the_journal() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    engine.stop(Duration::ZERO).await;
    let other = crate::chain::Chain::new(&["0xother"]);
    let started = pay402_facilitator::Engine::start(
        vec![Arc::new(other) as _],
        bed.journal(),
        Arc::clone(&bed.clock) as _,
        options(),
    );
    let error = started.await.unwrap_err();
    assert!(error.problem.contains("signers"), "{error}");
}

#[tokio::test]
async fn a_hanging_node_hangs_nobody() {
    let bed = Bed::new();
    let call_timeout = Duration::from_millis(50);
    let engine = bed.start_with(Options { call_timeout, ..options() }).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().hangs = true;
    let begun = std::time::Instant::now();
    assert!(engine.verify(&payment("2")).await.is_err());
    assert!(engine.settle_for(None, payment("2"), LONG).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(2), "hung for {:?}", begun.elapsed());
    assert_eq!(stage(&engine, "2").await, "", "entered without being verified");
    bed.chain.state().hangs = false;
    bed.chain.state().mine();
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test]
async fn what_the_chain_does_not_show_is_asked_for_less_and_less() {
    let bed = Bed::new();
    let options = Options { poll_unknown_max: Duration::from_secs(2), ..options() };
    let engine = bed.start_with(options).await;
    bed.chain.state().status_fails = true;
    for number in 0..16 {
        pending(settle(&engine, payment(&number.to_string()), SHORT).await);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = bed.chain.state().looks;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let looks = bed.chain.state().looks - before;
    // At the ordinary pace there would be some 3,200.
    assert!((1..=64).contains(&looks), "{looks} looks in 2 s at 16 payments");
    bed.chain.state().status_fails = false;
    for number in 0..16 {
        done(&settle(&engine, payment(&number.to_string()), LONG).await);
    }
}
