//! After the handler: what is charged, and what is done when the money does not come.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::grants::GrantState;
use pay402_core::refusal::Reason;
use pay402_core::{Refusal, Refused};
use tokio::sync::Notify;
use tower::ServiceExt as _;

use crate::stage::{
    HASH, IDENTIFIER, PAYER, Stage, Step, done, down, network, offers, paid, pending, refused,
    route, send,
};

#[tokio::test]
async fn a_paid_request_gets_the_content_and_the_outcome() {
    let stage = Stage::new().await;
    let got = send(&stage.data(), paid("1", None)).await;
    assert_eq!((got.status, got.text()), (StatusCode::OK, "data 1"));
    let Some(Settled::Done(settlement)) = got.outcome() else { panic!("{got:?}") };
    assert_eq!(settlement.transaction, HASH);
    assert_eq!(settlement.payer.as_deref(), Some(PAYER));
    assert_eq!(got.header("cache-control"), Some("private"));
    assert!(matches!(stage.state("1").await, Some(GrantState::Delivered { .. })));
}

#[tokio::test]
async fn a_public_cache_is_overruled_and_a_stricter_one_kept() {
    let stage = Stage::new().await;
    for (nonce, set, expected) in
        [("1", "public, max-age=60", "private"), ("2", "no-store", "no-store")]
    {
        let app = stage.app(route(), move |_| async move {
            Response::builder().header("cache-control", set).body(Body::from("data")).unwrap()
        });
        let got = send(&app, paid(nonce, None)).await;
        assert_eq!(got.header("cache-control"), Some(expected));
    }
}

#[tokio::test]
async fn only_success_is_charged() {
    let stage = Stage::new().await;
    let free = [204, 206, 300, 302, 304, 399, 400, 401, 404, 409, 429, 500, 503, 599];
    for status in free.into_iter().chain([100, 101, 103]) {
        let app = stage.app(route(), move |_| async move {
            Response::builder().status(status).body(Body::from("content")).unwrap()
        });
        let nonce = status.to_string();
        let before = stage.settled();
        let got = send(&app, paid(&nonce, None)).await;
        let charged = stage.settled() - before;
        match status {
            200..=299 => {
                assert_eq!((charged, got.paid()), (1, true), "{status}");
            }
            300.. => {
                assert_eq!((charged, got.status.as_u16()), (0, status));
                assert!(got.outcome().is_none(), "{status}");
                assert!(stage.state(&nonce).await.is_none(), "{status} kept the payment");
            }
            _ => {
                assert_eq!((charged, got.status), (0, StatusCode::INTERNAL_SERVER_ERROR));
                assert!(!got.text().contains("content\""), "{status} gave content away");
                assert!(stage.state(&nonce).await.is_none(), "{status} kept the payment");
            }
        }
    }
}

#[tokio::test]
async fn a_failing_handler_costs_nothing_and_the_payment_is_good_again() {
    let stage = Stage::new().await;
    let failing = stage.app(route(), |_| async {
        Response::builder().status(500).body(Body::from("broken")).unwrap()
    });
    let got = send(&failing, paid("1", None)).await;
    assert_eq!((got.status, got.text()), (StatusCode::INTERNAL_SERVER_ERROR, "broken"));
    assert_eq!(stage.settled(), 0);
    assert!(send(&stage.data(), paid("1", None)).await.paid());
}

#[tokio::test]
async fn a_panicking_handler_gives_the_payment_back() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_| async { panic!("handler") });
    let request = tokio::spawn(async move { send(&app, paid("1", None)).await });
    assert!(request.await.unwrap_err().is_panic());
    stage.released("1").await;
    assert_eq!((stage.runs(), stage.settled()), (1, 0));
    assert!(send(&stage.data(), paid("1", None)).await.paid());
}

#[tokio::test]
async fn a_client_that_hangs_up_before_settlement_is_not_charged() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_| std::future::pending());
    let request = tokio::spawn(app.oneshot(paid("1", None)));
    while stage.runs() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.state("1").await, Some(GrantState::Claimed));
    request.abort();
    stage.released("1").await;
    assert_eq!(stage.settled(), 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_during_settlement_does_not_stop_it() {
    let stage = Stage::new().await;
    let until = Arc::new(Notify::new());
    let step = Step::Hold(until.clone(), done());
    stage.facilitator.settles.lock().unwrap().push_back(step);
    let app = stage.data();
    let request = tokio::spawn(app.clone().oneshot(paid("1", Some(IDENTIFIER))));
    while stage.settled() == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    // While it goes on, a repeat neither runs the handler nor settles beside it.
    let again = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!(again.refusal(), Some(Refusal::SettlementPending));
    assert_eq!(stage.settled(), 1);
    until.notify_one();
    while !matches!(stage.state("1").await, Some(GrantState::Delivered { .. })) {
        tokio::task::yield_now().await;
    }
    let got = send(&app, paid("1", Some(IDENTIFIER))).await;
    assert_eq!((got.paid(), got.text()), (true, "data 1"));
    assert_eq!((stage.runs(), stage.settled()), (1, 1));
}

#[tokio::test]
async fn content_is_withheld_when_settlement_is_refused() {
    let stage = Stage::new().await;
    let app = stage.data();
    stage.facilitator.will_settle(refused(Refusal::TransactionReverted));
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(got.refusal(), Some(Refusal::TransactionReverted));
    assert_eq!(offers(&got), (1, 1));
    assert!(!format!("{got:?}").contains("data 1"));
    assert!(stage.state("1").await.is_none());
}

#[tokio::test]
async fn a_duplicate_settlement_is_a_conflict_and_stays_held() {
    let stage = Stage::new().await;
    let app = stage.data();
    let duplicate = Refused::from(Refusal::DuplicateSettlement).with_transaction(HASH);
    stage.facilitator.will_settle(Settled::Refused(duplicate));
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.status, StatusCode::CONFLICT);
    let Some(Settled::Refused(told)) = got.outcome() else { panic!("{got:?}") };
    assert!(told.reason.is(Refusal::DuplicateSettlement));
    assert_eq!(told.transaction.as_deref(), Some(HASH));
    assert!(matches!(stage.state("1").await, Some(GrantState::Settling { .. })));
    assert!(!send(&app, paid("1", None)).await.status.is_success());
    assert_eq!(stage.runs(), 1);
}

#[tokio::test]
async fn a_refusal_that_proves_nothing_keeps_the_payment() {
    let stage = Stage::new().await;
    let app = stage.data();
    let foreign = Refused {
        reason: Reason::parse("their_own_words"),
        ..Refused::new(Refusal::InvalidPayload, "what they say")
    };
    let cases = [
        ("1", Settled::Refused(foreign), 503),
        ("2", refused(Refusal::NonceAlreadyUsed), 409),
        ("3", refused(Refusal::UnexpectedSettleError), 503),
        ("4", refused(Refusal::TransferEventMismatch), 409),
    ];
    for (nonce, settled, status) in cases {
        stage.facilitator.will_settle(settled);
        let got = send(&app, paid(nonce, None)).await;
        assert_eq!(got.status.as_u16(), status, "{nonce}: {got:?}");
        assert!(!got.headers.contains_key("payment-required"), "{nonce}: asks to be paid again");
        assert!(matches!(stage.state(nonce).await, Some(GrantState::Settling { .. })), "{nonce}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_facilitator_costs_nothing() {
    let stage = Stage::new().await;
    let app = stage.data();
    for _ in 0..3 {
        stage.facilitator.settles.lock().unwrap().push_back(Step::Say(Err(down())));
    }
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(got.refusal(), Some(Refusal::UnexpectedSettleError));
    assert!(stage.state("1").await.is_none());
    assert!(send(&app, paid("1", None)).await.paid());
}

#[tokio::test(start_paused = true)]
async fn a_pending_settlement_is_waited_for() {
    let stage = Stage::new().await;
    let app = stage.data();
    for _ in 0..5 {
        stage.facilitator.will_settle(pending());
    }
    let got = send(&app, paid("1", None)).await;
    assert_eq!((got.paid(), got.text()), (true, "data 1"));
    assert_eq!(stage.settled(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_stays_pending_is_told_as_such() {
    let stage = Stage::new().await;
    let app = stage.data();
    for _ in 0..1_000 {
        stage.facilitator.will_settle(pending());
    }
    let started = tokio::time::Instant::now();
    let got = send(&app, paid("1", None)).await;
    assert!(started.elapsed() <= Duration::from_secs(61), "{:?}", started.elapsed());
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE);
    let Some(Settled::Pending { transaction }) = got.outcome() else { panic!("{got:?}") };
    assert_eq!(transaction.as_deref(), Some(HASH));
    assert!(got.header("retry-after").is_some());
    assert!(got.header("payment-required").is_none(), "a payable answer to a pending payment");
    assert!(matches!(stage.state("1").await, Some(GrantState::Settling { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_facilitator_that_hangs_is_pending() {
    let stage = Stage::new().await;
    stage.facilitator.settles.lock().unwrap().push_back(Step::Hang);
    let got = send(&stage.data(), paid("1", None)).await;
    assert_eq!(got.refusal(), Some(Refusal::SettlementPending));
}

#[tokio::test(start_paused = true)]
async fn after_pending_only_the_fate_of_the_transfer_frees_the_payment() {
    let stage = Stage::new().await;
    let app = stage.data();
    // The transfer happened, the balance is gone: no proof that the money stayed.
    stage.facilitator.will_settle(pending());
    stage.facilitator.will_settle(refused(Refusal::InsufficientFunds));
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.refusal(), Some(Refusal::SettlementPending));
    assert!(matches!(stage.state("1").await, Some(GrantState::Settling { .. })));

    for (nonce, proof) in
        [("2", Refusal::TransactionReverted), ("3", Refusal::AuthorizationCanceled)]
    {
        stage.facilitator.will_settle(pending());
        stage.facilitator.will_settle(refused(proof));
        let got = send(&app, paid(nonce, None)).await;
        assert_eq!((got.status.as_u16(), got.refusal()), (402, Some(proof)));
        assert!(stage.state(nonce).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_that_is_about_something_else_grants_nothing() {
    let stage = Stage::new().await;
    let app = stage.data();
    let good = Settlement {
        transaction: HASH.into(),
        network: network(),
        payer: Some(PAYER.into()),
        charged: None,
    };
    let lies = [
        Settlement { network: "eip155:8453".parse().unwrap(), ..good.clone() },
        Settlement { payer: Some(HASH.into()), ..good.clone() },
        Settlement { charged: Some(10_001.into()), ..good.clone() },
        Settlement { charged: Some(9_999.into()), ..good.clone() },
        Settlement { charged: Some(0.into()), transaction: String::new(), ..good.clone() },
        Settlement { transaction: String::new(), ..good.clone() },
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        for _ in 0..100 {
            stage.facilitator.will_settle(Settled::Done(lie.clone()));
        }
        let got = send(&app, paid(&number.to_string(), None)).await;
        assert_eq!(got.refusal(), Some(Refusal::SettlementPending), "{lie:?}");
        assert!(!format!("{got:?}").contains("data"), "{lie:?}");
        // The task goes on a little longer than the client waits; let it end.
        tokio::time::sleep(Duration::from_secs(100)).await;
        stage.facilitator.settles.lock().unwrap().clear();
    }
    for charged in [None, Some(10_000.into())] {
        stage.facilitator.will_settle(Settled::Done(Settlement { charged, ..good.clone() }));
        let nonce = format!("good {charged:?}");
        assert!(send(&app, paid(&nonce, None)).await.paid());
    }
}

#[tokio::test]
async fn an_answer_above_the_bound_is_not_sold() {
    let stage = Stage::new().await;
    let app = |bytes| {
        stage.app(route().response_bytes_max(1_000), move |_| async move {
            Response::new(Body::from(vec![b'x'; bytes]))
        })
    };
    assert!(send(&app(1_000), paid("1", None)).await.paid());
    let got = send(&app(1_001), paid("2", None)).await;
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(got.text().contains("response_too_large"), "{}", got.text());
    assert_eq!(stage.settled(), 1);
    assert!(stage.state("2").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_or_never_ends_is_not_charged() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_| async {
        let pieces = [Ok(Bytes::from("half")), Err(std::io::Error::other("cut"))];
        Response::new(Body::from_stream(futures_util::stream::iter(pieces)))
    });
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.status, StatusCode::BAD_GATEWAY);
    assert!(!got.text().contains("half"));
    let app = stage.app(route(), |_| async {
        Response::new(Body::from_stream(futures_util::stream::pending::<
            Result<Bytes, std::io::Error>,
        >()))
    });
    let got = send(&app, paid("2", None)).await;
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(got.text().contains("response_too_slow"));
    assert_eq!(stage.settled(), 0);
    assert!(stage.state("1").await.is_none() && stage.state("2").await.is_none());
}

#[tokio::test]
async fn one_payer_can_be_kept_from_running_ahead_of_its_balance() {
    let stage = Stage::new().await;
    let server =
        pay402_server::ResourceServer::builder(stage.facilitator.clone(), stage.grants.clone())
            .scheme(Arc::new(crate::stage::FakeScheme))
            .public_url("https://api.example.com")
            .unsettled_per_payer_max(std::num::NonZeroUsize::MIN)
            .start()
            .await
            .unwrap();
    let stage = Stage { server, ..stage };
    let app = stage.app(route(), |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Response::new(Body::from("data"))
    });
    let (mut served, mut later) = (0, 0);
    let requests = (0..100).map(|number| {
        let app = app.clone();
        tokio::spawn(async move { send(&app, paid(&number.to_string(), None)).await })
    });
    for request in requests.collect::<Vec<_>>() {
        let got = request.await.unwrap();
        match got.status {
            StatusCode::OK => served += 1,
            StatusCode::TOO_MANY_REQUESTS => later += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((served, later, stage.runs()), (1, 99, 1));
    // The others were given back, and the count went down again.
    assert!(send(&app, paid("99", None)).await.paid());
    assert!(send(&app, paid("98", None)).await.paid());
}

#[tokio::test]
async fn shutdown_waits_for_settlements_that_nobody_waits_for() {
    let stage = Stage::new().await;
    assert!(stage.server.drain(Duration::ZERO).await);
    let until = Arc::new(Notify::new());
    let step = Step::Hold(until.clone(), done());
    stage.facilitator.settles.lock().unwrap().push_back(step);
    let request = tokio::spawn(stage.data().oneshot(paid("1", None)));
    while stage.settled() == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    assert!(!stage.server.drain(Duration::from_millis(30)).await);
    until.notify_one();
    assert!(stage.server.drain(Duration::from_secs(5)).await);
    assert!(matches!(stage.state("1").await, Some(GrantState::Delivered { .. })));
}
