//! What callers are told: one success, to one of them.

use std::time::Duration;

use pay402_core::facilitator::{Facilitator as _, Settled, Verdict};
use pay402_core::journal::Delivery;
use pay402_core::refusal::Reason;
use pay402_core::{Digest, NetworkId, Payment, Refusal, Requirements, Scheme, WireVersion};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{CANARY, key, payment, payment_by, payment_on, presented, terms};

#[tokio::test]
async fn a_payment_settles_once_and_says_so_once() {
    let bed = Bed::new();
    let engine = bed.start().await;
    assert!(matches!(engine.verify(&payment("1")).await.unwrap(), Verdict::Valid { .. }));
    assert_eq!(engine.status(&key("1")).await.unwrap(), None, "verify wrote to the journal");

    let transaction = done(&engine.settle(&payment("1")).await.unwrap());
    assert_eq!(bed.chain.state().hashes(), std::slice::from_ref(&transaction));
    let standing = engine.status(&key("1")).await.unwrap().unwrap();
    assert_eq!((standing.stage, standing.delivery), ("settled", Delivery::Delivered));
    assert_eq!(standing.transaction.as_ref(), Some(&transaction));

    for _ in 0..3 {
        let repeat = settle(&engine, payment("1"), LONG).await;
        let repeat = refused(repeat, Refusal::DuplicateSettlement);
        assert_eq!(repeat.transaction.as_ref(), Some(&transaction));
    }
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted, state.handed.len()), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_200_copies_at_once_one_succeeds() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let copies = (0..200).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { settle(&engine, payment("1"), LONG).await })
    });
    let mut successes = 0;
    for copy in copies.collect::<Vec<_>>() {
        match copy.await.unwrap() {
            Settled::Done(_) => successes += 1,
            Settled::Pending { .. } => {}
            Settled::Refused(other) => {
                assert_eq!(other.reason, Reason::Known(Refusal::DuplicateSettlement));
            }
        }
    }
    assert_eq!(successes, 1);
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted, state.hashes().len()), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_payments_settle_without_a_nonce_collision() {
    let bed = Bed::with_signers(&["0xa", "0xb", "0xc"]);
    let engine = bed.start().await;
    let many = (0..150).map(|number| {
        let engine = engine.clone();
        tokio::spawn(async move { settle(&engine, payment(&number.to_string()), LONG).await })
    });
    for one in many.collect::<Vec<_>>() {
        done(&one.await.unwrap());
    }
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted, state.hashes().len()), (150, 0, 150));
    for signer in ["0xa", "0xb", "0xc"] {
        let of_signer = state.handed.iter().filter(|tx| tx.signer == signer);
        let nonces: std::collections::BTreeSet<_> = of_signer.map(|tx| tx.nonce).collect();
        assert_eq!(nonces.len(), 50, "{signer} did not get its turn");
        assert_eq!(nonces.last(), Some(&49), "{signer} left a nonce out");
    }
}

#[tokio::test]
async fn the_same_key_with_other_content_is_told_nothing() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);

    let other = || payment_on(Requirements { pay_to: "0xthief".into(), ..terms() }, "1");
    let early = refused(settle(&engine, other(), LONG).await, Refusal::DuplicateSettlement);
    assert_eq!(early.transaction, None, "a stranger learnt a hash that is not public yet");

    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    let late = refused(settle(&engine, other(), LONG).await, Refusal::DuplicateSettlement);
    assert!(late.transaction.is_some());
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_pending_is_collected_once() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    let sent = pending(settle(&engine, payment("1"), SHORT).await);
    assert!(sent.is_some(), "pending without the hash of what was sent");
    // Presented again before it is mined, it is waited for again.
    assert_eq!(pending(settle(&engine, payment("1"), SHORT).await), sent);

    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    assert!(
        matches!(engine.verify(&payment("1")).await.unwrap(), Verdict::Valid { .. }),
        "a success that is still owed cannot be collected through verify"
    );
    let many = (0..20).map(|_| {
        let engine = engine.clone();
        tokio::spawn(async move { settle(&engine, payment("1"), LONG).await })
    });
    let mut successes = Vec::new();
    for one in many.collect::<Vec<_>>() {
        match one.await.unwrap() {
            Settled::Done(settlement) => successes.push(settlement.transaction),
            other => _ = refused(other, Refusal::DuplicateSettlement),
        }
    }
    assert_eq!(successes, [sent.unwrap()]);
    match engine.verify(&payment("1")).await.unwrap() {
        Verdict::Invalid(told) => assert!(told.reason.is(Refusal::NonceAlreadyUsed)),
        valid @ Verdict::Valid { .. } => panic!("told already: {valid:?}"),
    }
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn one_caller_at_a_time_waits() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    let first = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    until("sent", || async { !bed.chain.state().handed.is_empty() }).await;
    let second = settle(&engine, payment("1"), LONG).await;
    let second = refused(second, Refusal::DuplicateSettlement);
    bed.chain.state().mine();
    let transaction = done(&first.await.unwrap());
    assert_eq!(second.transaction, Some(transaction));
}

#[tokio::test]
async fn caller_keys_prove_a_repeat() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let (ours, theirs) = (Some(Digest::of(&[b"ours"])), Some(Digest::of(&[b"theirs"])));
    let ask = async |caller| engine.settle_for(caller, payment("1"), LONG).await.unwrap();
    bed.chain.state().automine = false;
    let early = engine.settle_for(ours, payment("1"), SHORT).await.unwrap();
    let transaction = pending(early).unwrap();

    // While it is unfinished, both of the same caller wait; others do not.
    let waiting = async { (ask(ours).await, ask(ours).await) };
    let others = async {
        refused(ask(theirs).await, Refusal::DuplicateSettlement);
        refused(ask(None).await, Refusal::DuplicateSettlement);
        bed.chain.state().mine();
    };
    let ((first, second), ()) = tokio::join!(waiting, others);
    assert_eq!((done(&first), done(&second)), (transaction.clone(), transaction.clone()));
    for stranger in [theirs, None] {
        let told = refused(ask(stranger).await, Refusal::DuplicateSettlement);
        assert_eq!(told.transaction.as_ref(), Some(&transaction));
    }
    assert_eq!(done(&ask(ours).await), transaction, "the same request was not told again");
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn keys_prove_nothing_about_what_was_entered_without() {
    let bed = Bed::new();
    let engine = bed.start().await;
    done(&settle(&engine, payment("1"), LONG).await);
    let keyed = engine.settle_for(Some(Digest::of(&[b"k"])), payment("1"), LONG).await.unwrap();
    refused(keyed, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn a_failure_is_told_again_and_not_tried_again() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().reverts_next = true;
    let first = refused(settle(&engine, payment("1"), LONG).await, Refusal::TransactionReverted);
    assert!(first.transaction.is_some());
    let second = refused(settle(&engine, payment("1"), LONG).await, Refusal::TransactionReverted);
    assert_eq!((&second.transaction, &second.message), (&first.transaction, &first.message));
    let state = bed.chain.state();
    assert_eq!((state.verifications, state.handed.len(), state.transfers), (1, 1, 0));
}

#[tokio::test]
async fn an_invalid_payment_is_refused_and_not_entered() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let mut forged = presented(WireVersion::V2, &terms(), "1");
    forged.payload.insert("signature".into(), "forged".into());
    let forged = Payment::pair(terms(), forged).unwrap();
    let told = refused(settle(&engine, forged, LONG).await, Refusal::InvalidSignature);
    assert_eq!(told.payer.as_deref(), Some("0xpayer"));

    bed.chain.state().preempt(&key("2"));
    refused(settle(&engine, payment("2"), LONG).await, Refusal::NonceAlreadyUsed);
    bed.chain.state().time = crate::chain::EXPIRES;
    refused(settle(&engine, payment("3"), LONG).await, Refusal::ValidBefore);

    let elsewhere = Requirements { network: NetworkId::eip155(1), ..terms() };
    refused(settle(&engine, payment_on(elsewhere, "4"), LONG).await, Refusal::InvalidNetwork);
    let later = Requirements { scheme: Scheme::new("later-scheme"), ..terms() };
    let verdict = engine.verify(&payment_on(later.clone(), "5")).await.unwrap();
    assert!(
        matches!(verdict, Verdict::Invalid(told) if told.reason.is(Refusal::UnsupportedScheme))
    );
    refused(settle(&engine, payment_on(later, "5"), LONG).await, Refusal::UnsupportedScheme);
    for nonce in ["1", "2", "3", "4", "5"] {
        assert_eq!(stage(&engine, nonce).await, "", "payment {nonce} was entered");
    }
    assert!(bed.chain.state().handed.is_empty());
}

#[tokio::test]
async fn too_many_unfinished_turn_new_ones_away() {
    let bed = Bed::new();
    let engine =
        bed.start_with(pay402_facilitator::Options { unfinished_max: 2, ..options() }).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    pending(settle(&engine, payment("2"), SHORT).await);
    let third = engine.settle_for(None, payment("3"), SHORT).await;
    assert!(third.unwrap_err().problem.contains("too many"));
    // Known ones are still answered, and room comes back.
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().mine();
    until("both settled", || async { stage(&engine, "2").await == "settled" }).await;
    until("room", || async { engine.health()[0].unfinished == 0 }).await;
    bed.chain.state().automine = true;
    done(&settle(&engine, payment("3"), LONG).await);
}

#[tokio::test]
async fn one_payer_cannot_have_more_than_its_share_unfinished() {
    let bed = Bed::new();
    let limited = || pay402_facilitator::Options { unfinished_per_payer_max: 2, ..options() };
    let engine = bed.start_with(limited()).await;
    bed.chain.state().automine = false;
    // All at once: every one of them verifies.
    let many: Vec<_> = (0..20)
        .map(|number| {
            let engine = engine.clone();
            let payment = payment(&number.to_string());
            tokio::spawn(async move { engine.settle_for(None, payment, SHORT).await })
        })
        .collect();
    let mut entered = Vec::new();
    for (number, one) in many.into_iter().enumerate() {
        match one.await.unwrap() {
            Ok(settled) => {
                pending(settled);
                entered.push(number.to_string());
            }
            Err(error) => {
                assert_eq!(error.problem, "too many unfinished settlements of this payer");
                assert_eq!(stage(&engine, &number.to_string()).await, "");
            }
        }
    }
    assert_eq!(entered.len(), 2);
    // Known ones are still answered, others are not kept out, and a restart forgets nothing.
    pending(settle(&engine, payment(&entered[0]), SHORT).await);
    pending(settle(&engine, payment_by("0xother", "x"), SHORT).await);
    engine.stop(Duration::ZERO).await;
    let engine = bed.start_with(limited()).await;
    assert!(engine.settle_for(None, payment("new"), SHORT).await.is_err());
    // Room comes back.
    bed.chain.state().mine();
    for nonce in &entered {
        until("settled", || async { stage(&engine, nonce).await == "settled" }).await;
    }
    bed.chain.state().automine = true;
    for nonce in ["a", "b", "c", "d"] {
        until("room", || async { engine.health()[0].unfinished == 0 }).await;
        done(&settle(&engine, payment(nonce), LONG).await);
    }
}

#[tokio::test]
async fn nothing_spendable_is_at_rest() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    for entry in std::fs::read_dir(bed.file().parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "the journal holds a plan or a transaction in the clear");
    }
}

#[tokio::test]
async fn stopping_finishes_what_callers_wait_for() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("1"), LONG).await }
    });
    until("sent", || async { !bed.chain.state().handed.is_empty() }).await;
    let stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.stop(LONG).await }
    });
    until("draining", || async { engine.health()[0].status == "draining" }).await;
    let new = engine.settle_for(None, payment("2"), LONG).await;
    assert!(new.unwrap_err().problem.contains("stopping"));
    bed.chain.state().mine();
    done(&waiting.await.unwrap());
    stopping.await.unwrap();
    assert_eq!(engine.health()[0].status, "stopped");
    // The lease was released: a successor need not wait for it, and the clock stands still here.
    let successor = tokio::time::timeout(Duration::from_secs(2), bed.start()).await.unwrap();
    bed.chain.state().automine = true;
    done(&settle(&successor, payment("2"), LONG).await);
}
