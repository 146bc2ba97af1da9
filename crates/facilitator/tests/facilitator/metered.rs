//! Metered payments: what is charged of a ceiling, and that it is charged once.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use pay402_core::facilitator::{Facilitator as _, Settled, Settlement, Verdict};
use pay402_core::journal::Delivery;
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{Amount, Digest, Payment, Refusal, Requirements, Scheme};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{CANARY, EXPIRES, NOW, key, metered, presented, terms};

#[track_caller]
fn settlement(settled: Settled) -> Settlement {
    match settled {
        Settled::Done(settlement) => settlement,
        other => panic!("not a success: {other:?}"),
    }
}

#[track_caller]
fn invalid(verdict: Verdict, refusal: Refusal) {
    assert!(matches!(&verdict, Verdict::Invalid(told) if told.reason.is(refusal)), "{verdict:?}");
}

async fn amount(engine: &Engine, nonce: &str) -> Amount {
    engine.status(&key(nonce)).await.unwrap().unwrap().amount
}

#[tokio::test]
async fn the_charge_is_collected_and_not_the_ceiling() {
    let bed = Bed::new();
    let engine = bed.start().await;
    for (nonce, charge) in [("1", 2_500_u64), ("2", 1), ("3", 10_000)] {
        let settled = settlement(settle(&engine, metered(nonce, charge), LONG).await);
        assert_eq!(settled.charged, Some(Amount::from(charge)));
        assert_eq!(amount(&engine, nonce).await, Amount::from(charge));
        let state = bed.chain.state();
        let sent = state.handed.last().unwrap();
        assert_eq!((&sent.hash, &sent.amount), (&settled.transaction, &charge.to_string()));
    }
    // What has no ceiling does not say what it charged.
    let exact = settlement(settle(&engine, crate::chain::payment("4"), LONG).await);
    assert_eq!(exact.charged, None);
}

#[tokio::test]
async fn the_first_charge_of_an_authorization_stands() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let caller = Some(Digest::of(&[b"ours"]));
    let charge = async |nonce: &str, amount: u64| {
        engine.settle_for(caller, metered(nonce, amount), LONG).await.unwrap()
    };
    let first = settlement(charge("1", 2_500).await);
    // The same request is told the same again; another charge is not the same request.
    assert_eq!(settlement(charge("1", 2_500).await), first);
    for other in [0, 2_499, 2_501, 10_000] {
        let told = refused(charge("1", other).await, Refusal::DuplicateSettlement);
        assert_eq!(told.transaction.as_ref(), Some(&first.transaction), "charged {other}");
    }
    assert_eq!(amount(&engine, "1").await, Amount::from(2_500));

    // Nor while the first is under way.
    bed.chain.state().automine = false;
    pending(engine.settle_for(caller, metered("2", 1), SHORT).await.unwrap());
    refused(charge("2", 10_000).await, Refusal::DuplicateSettlement);
    bed.chain.state().mine();
    assert_eq!(settlement(charge("2", 1).await).charged, Some(Amount::from(1)));
    assert_eq!(bed.chain.state().transfers, 2);
}

#[tokio::test]
async fn a_charge_of_nothing_is_final_and_sends_nothing() {
    let bed = Bed::new();
    let engine = bed.start().await;
    assert!(matches!(engine.verify(&metered("1", 0)).await.unwrap(), Verdict::Valid { .. }));
    let settled = settlement(settle(&engine, metered("1", 0), LONG).await);
    assert_eq!(settled.charged, Some(Amount::ZERO));
    assert_eq!(settled.transaction, "");
    let standing = engine.status(&key("1")).await.unwrap().unwrap();
    assert_eq!((standing.stage, standing.delivery), ("settled", Delivery::Delivered));
    assert_eq!((standing.amount, standing.transaction), (Amount::ZERO, None));

    // The authorization is unused on the chain, and settles for nothing more all the same.
    for charge in [0, 1, 10_000] {
        let again = settle(&engine, metered("1", charge), LONG).await;
        let again = refused(again, Refusal::DuplicateSettlement);
        assert_eq!(again.transaction, None, "charged {charge}");
    }
    let again = engine.verify(&metered("1", 10_000)).await.unwrap();
    invalid(again, Refusal::DuplicateSettlement);
    until("room", || async { engine.health()[0].unfinished == 0 }).await;
    let state = bed.chain.state();
    assert_eq!((state.handed.len(), state.asked_to_sign.len(), state.transfers), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_copies_at_once_one_is_told_that_nothing_was_charged() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let copies = (0..100).map(|number| {
        let engine = engine.clone();
        // Half of them would take the whole ceiling.
        let charge = if number % 2 == 0 { 0 } else { 10_000 };
        tokio::spawn(async move { settle(&engine, metered("1", charge), LONG).await })
    });
    let mut successes = Vec::new();
    for copy in copies.collect::<Vec<_>>() {
        match copy.await.unwrap() {
            Settled::Done(settlement) => successes.push(settlement),
            Settled::Pending { .. } => {}
            other => _ = refused(other, Refusal::DuplicateSettlement),
        }
    }
    let [told] = &successes[..] else { panic!("{} successes", successes.len()) };
    let charged = told.charged.unwrap();
    assert_eq!(amount(&engine, "1").await, charged);
    assert_eq!(bed.chain.state().transfers, usize::from(!charged.is_zero()));
}

#[tokio::test]
async fn a_crash_does_not_turn_nothing_into_something() {
    let reached_by = [
        Failpoint::AfterEnter,
        Failpoint::AfterProofBeforeClose,
        Failpoint::AfterCloseBeforeAnswer,
    ];
    for point in reached_by {
        let bed = Bed::new();
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..options() }).await;
        let asked = tokio::spawn({
            let engine = engine.clone();
            async move { settle(&engine, metered("1", 0), LONG).await }
        });
        assert!(tokio::time::timeout(LONG, reached.notified()).await.is_ok(), "{point}");
        engine.crash();
        drop(engine);
        assert!(!matches!(asked.await.unwrap(), Settled::Done(_)), "{point}");

        bed.clock.set(pay402_core::time::UnixTime(NOW + 60));
        let engine = bed.start().await;
        until("closed", || async { stage(&engine, "1").await == "settled" }).await;
        refused(settle(&engine, metered("1", 10_000), LONG).await, Refusal::DuplicateSettlement);
        let again = settle(&engine, metered("1", 0), LONG).await;
        if point == Failpoint::AfterCloseBeforeAnswer {
            refused(again, Refusal::DuplicateSettlement);
        } else {
            assert_eq!(settlement(again).charged, Some(Amount::ZERO), "{point}");
        }
        assert!(bed.chain.state().asked_to_sign.is_empty(), "{point}: it was signed");
    }
}

/// The chain is not asked whether nothing moved: there is nothing to see.
#[tokio::test]
async fn nothing_is_charged_even_when_the_chain_cannot_be_asked() {
    let bed = Bed::new();
    let engine = bed.start().await;
    {
        let mut state = bed.chain.state();
        state.status_fails = true;
        state.sign_fails = true;
    }
    assert_eq!(done(&settle(&engine, metered("1", 0), LONG).await), "");
    // What expired before it was presented is refused as ever.
    bed.chain.state().time = EXPIRES;
    refused(settle(&engine, metered("2", 0), LONG).await, Refusal::ValidBefore);
    assert_eq!(stage(&engine, "2").await, "");
}

#[tokio::test]
async fn an_entry_of_nothing_holds_no_plan() {
    let bed = Bed::new();
    let (failpoints, reached) = Failpoints::hold_at(Failpoint::AfterEnter);
    let engine = bed.start_with(Options { failpoints, ..options() }).await;
    for charge in [0, 1] {
        let nonce = charge.to_string();
        let asked = tokio::spawn({
            let (engine, nonce) = (engine.clone(), nonce.clone());
            async move { settle(&engine, metered(&nonce, charge), LONG).await }
        });
        until("entered", || async { stage(&engine, &nonce).await == "due" }).await;
        let entry = bed.journal().find(&key(&nonce)).await.unwrap().unwrap();
        assert_eq!(entry.new.plan.is_empty(), charge == 0, "a charge of {charge}");
        asked.abort();
    }
    drop(reached);
}

#[tokio::test]
async fn the_api_reads_the_charge_from_the_requirements() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = router(engine.clone(), Access::Open);
    let post = async |path: &str, body: Value| -> Value {
        let request = Request::post(path).header("content-type", "application/json");
        let request = request.body(Body::from(body.to_string())).unwrap();
        let answer = api.clone().oneshot(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    };
    let request = |payment: &Payment, endpoint| encode_facilitator_request(payment, endpoint);

    let payment = metered("1", 2_500);
    let verified = post("/verify", request(&payment, Endpoint::Verify)).await;
    assert_eq!(verified, json!({"isValid": true, "payer": "0xpayer"}));
    let settled = post("/settle", request(&payment, Endpoint::Settle)).await;
    assert_eq!(settled["amount"], json!("2500"), "{settled}");
    assert_eq!(settled["success"], json!(true));
    assert_eq!(bed.chain.state().handed.last().unwrap().amount, "2500");

    let nothing = post("/settle", request(&metered("2", 0), Endpoint::Settle)).await;
    let expected = json!({
        "success": true, "transaction": "", "network": "eip155:84532", "payer": "0xpayer",
        "amount": "0",
    });
    assert_eq!(nothing, expected);

    // Above the ceiling that the payer accepted, nothing is settled.
    let mut above = request(&metered("3", 10_000), Endpoint::Settle);
    above["paymentRequirements"]["amount"] = json!("10001");
    let told = post("/settle", above).await;
    assert_eq!(told["success"], json!(false));
    assert_eq!(told["errorReason"], json!(Refusal::SettlementExceedsAmount.code()));
    assert_eq!(stage(&engine, "3").await, "");
    // A scheme without a ceiling is settled for its amount only.
    let exact = Requirements { scheme: Scheme::EXACT, ..terms() };
    let exact = Payment::pair(exact.clone(), presented(pay402_core::WireVersion::V2, &exact, "4"));
    let mut less = request(&exact.unwrap(), Endpoint::Settle);
    less["paymentRequirements"]["amount"] = json!("9999");
    let told = post("/settle", less).await;
    assert_eq!(told["errorReason"], json!(Refusal::InvalidPaymentRequirements.code()));
    assert_eq!(stage(&engine, "4").await, "");
}

#[tokio::test]
async fn nothing_spendable_of_a_metered_payment_is_at_rest() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, metered("1", 5), SHORT).await);
    done(&settle(&engine, metered("2", 0), LONG).await);
    for entry in std::fs::read_dir(bed.file().parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    }
}
