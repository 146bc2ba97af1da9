//! A paid answer that was lost is given again to who proves to be the payer, and to nobody else.

use http::{Method, StatusCode};
use pay402_core::Refusal;
use pay402_core::grants::GrantState;
use pay402_core::time::UnixTime;

use crate::stage::{
    FakeFacilitator, Got, HASH, IDENTIFIER, NETWORK, NOW, Stage, done, get, paid, pending,
    presented, refused, request, route, send, with,
};

const OTHER: &str = "pay_fedcba9876543210";

fn assert_nothing_given(got: &Got, refusal: Refusal) {
    assert!(
        matches!(got.status, StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE),
        "{got:?}"
    );
    assert_eq!(got.refusal(), Some(refusal), "{got:?}");
    assert!(!format!("{got:?}").contains("data"), "content went to a stranger: {got:?}");
    assert!(got.header("payment-required").is_none());
}

#[tokio::test]
async fn the_same_request_with_the_same_secret_gets_the_same_bytes() {
    let stage = Stage::new().await;
    let app = stage.data();
    let first = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert!(first.paid());
    for _ in 0..3 {
        let again = send(&app, paid("1", Some(IDENTIFIER))).await;
        assert_eq!(again.status, first.status);
        assert_eq!(again.body, first.body);
        assert_eq!(again.headers, first.headers);
    }
    assert_eq!((stage.runs(), stage.settled()), (1, 1));
}

#[tokio::test]
async fn who_reads_the_chain_gets_nothing() {
    let stage = Stage::new().await;
    let app = stage.data();
    assert!(send(&app, paid("1", Some(IDENTIFIER))).await.paid());
    // The thief has the payment, but not the identifier.
    for identifier in [None, Some(OTHER)] {
        let got = send(&app, paid("1", identifier)).await;
        assert_nothing_given(&got, Refusal::DuplicateSettlement);
        assert!(got.text().contains(HASH), "the hash is missing: {}", got.text());
    }
    // The payer, but for another request.
    let payment = presented("1", Some(IDENTIFIER));
    for other in [get("/paid?x"), get("/paid/"), request(Method::POST, "/paid")] {
        let got = send(&app, with(other, &payment)).await;
        if got.status != StatusCode::NOT_FOUND {
            assert_nothing_given(&got, Refusal::DuplicateSettlement);
        }
    }
    // Without an identifier nothing can be had again, not even by the payer.
    assert!(send(&app, paid("2", None)).await.paid());
    assert_nothing_given(&send(&app, paid("2", None)).await, Refusal::DuplicateSettlement);
    assert_eq!(stage.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pending_payment_gets_its_content_when_it_settles() {
    let stage = Stage::new().await;
    let app = stage.data();
    for _ in 0..100 {
        stage.facilitator.will_settle(pending());
    }
    let got = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_nothing_given(&got, Refusal::SettlementPending);
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    stage.facilitator.settles.lock().unwrap().clear();

    let asked = stage.settled();
    for identifier in [None, Some(OTHER)] {
        let got = send(&app, paid("1", identifier)).await;
        assert_nothing_given(&got, Refusal::SettlementPending);
    }
    let elsewhere = with(get("/paid/x"), &presented("1", Some(IDENTIFIER)));
    assert_nothing_given(&send(&app, elsewhere).await, Refusal::DuplicateSettlement);
    assert_eq!(stage.settled(), asked, "a stranger made the gate ask");

    stage.facilitator.will_settle(done());
    let got = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!((got.paid(), got.text()), (true, "data 1"));
    let again = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!((again.body, again.headers), (got.body, got.headers));
    assert_eq!(stage.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_nothing_that_was_stored() {
    let stage = Stage::new().await;
    let first = send(&stage.data(), paid("1", Some(IDENTIFIER))).await;
    for _ in 0..100 {
        stage.facilitator.will_settle(pending());
    }
    let waiting = send(&stage.data(), paid("2", Some(IDENTIFIER))).await;
    assert_eq!(waiting.refusal(), Some(Refusal::SettlementPending));

    let facilitator = FakeFacilitator::default();
    *facilitator.kinds.lock().unwrap() =
        vec![FakeFacilitator::kind(pay402_core::WireVersion::V2, NETWORK)];
    let restarted = Stage::with(facilitator, stage.grants.clone()).await;
    let app = restarted.data();
    let again = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!((again.body, again.headers), (first.body, first.headers));
    let delivered = send(&app, paid("2", Some(IDENTIFIER))).await;
    assert_eq!((delivered.paid(), delivered.text()), (true, "data 2"));
    assert_nothing_given(&send(&app, paid("1", None)).await, Refusal::DuplicateSettlement);
    assert_eq!(restarted.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_resumed_payment_that_certainly_failed_is_free_again() {
    let stage = Stage::new().await;
    let app = stage.data();
    for _ in 0..100 {
        stage.facilitator.will_settle(pending());
    }
    let got = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!(got.refusal(), Some(Refusal::SettlementPending));
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    stage.facilitator.settles.lock().unwrap().clear();
    stage.facilitator.will_settle(refused(Refusal::TransactionReverted));
    let got = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(got.refusal(), Some(Refusal::TransactionReverted));
    assert!(stage.state("1").await.is_none());
}

#[tokio::test]
async fn an_answer_too_large_to_keep_is_delivered_once() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_| async {
        axum::response::Response::new(axum::body::Body::from(vec![b'x'; 300 * 1024]))
    });
    assert!(send(&app, paid("1", Some(IDENTIFIER))).await.paid());
    assert_eq!(
        stage.state("1").await,
        Some(GrantState::Delivered { transaction: HASH.into(), charged: None, sealed: None })
    );
    let again = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_nothing_given(&again, Refusal::DuplicateSettlement);
    assert!(again.text().contains("too large to keep"));
}

/// `GET /paid` with a payment that expires a minute after the beginning.
fn expiring(nonce: &str, identifier: Option<&str>) -> axum::extract::Request {
    let mut payment = presented(nonce, identifier);
    payment.payload.insert("validBefore".into(), (NOW + 60).into());
    with(get("/paid"), &payment)
}

#[tokio::test]
async fn a_lost_answer_can_be_had_after_the_payment_has_expired() {
    let stage = Stage::new().await;
    let app = stage.data();
    let first = send(&app, expiring("1", Some(IDENTIFIER))).await;
    assert!(first.paid());
    stage.clock.set(UnixTime(NOW + 600));
    let again = send(&app, expiring("1", Some(IDENTIFIER))).await;
    assert_eq!(
        (again.status, again.body, again.headers),
        (first.status, first.body, first.headers)
    );
    // A fresh offer would have the payer pay twice.
    for identifier in [None, Some(OTHER)] {
        let got = send(&app, expiring("1", identifier)).await;
        assert_nothing_given(&got, Refusal::DuplicateSettlement);
    }
    // What was never claimed in time buys nothing, and leaves nothing behind.
    let got = send(&app, expiring("2", Some(IDENTIFIER))).await;
    assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(got.refusal(), Some(Refusal::ValidBefore));
    assert!(stage.state("2").await.is_none());
    assert_eq!((stage.runs(), stage.settled()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_payment_is_not_collected_later_for_an_answer_that_was_not_kept() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_| async {
        axum::response::Response::new(axum::body::Body::from(vec![b'x'; 300 * 1024]))
    });
    for _ in 0..100 {
        stage.facilitator.will_settle(pending());
    }
    let got = send(&app, expiring("1", Some(IDENTIFIER))).await;
    assert_nothing_given(&got, Refusal::SettlementPending);
    tokio::time::sleep(std::time::Duration::from_secs(200)).await;
    stage.facilitator.settles.lock().unwrap().clear();

    let asked = stage.settled();
    let got = send(&app, expiring("1", Some(IDENTIFIER))).await;
    assert_nothing_given(&got, Refusal::SettlementPending);
    assert_eq!(stage.settled(), asked, "the gate asked to be paid for nothing");
    // Once it cannot be sent any more, asking only tells what became of it.
    stage.clock.set(UnixTime(NOW + 600));
    let got = send(&app, expiring("1", Some(IDENTIFIER))).await;
    assert_nothing_given(&got, Refusal::DuplicateSettlement);
    assert!(got.text().contains(HASH), "the hash is missing: {}", got.text());
}
