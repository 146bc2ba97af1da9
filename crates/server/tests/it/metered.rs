//! Metered routes: what the handler charges of the ceiling, and who can say it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use http::StatusCode;
use pay402_core::asset::{AssetId, AssetInfo};
use pay402_core::facilitator::{Settled, Settlement, Verdict};
use pay402_core::grants::GrantState;
use pay402_core::scheme::Tariff;
use pay402_core::transport::http::read_payment_required;
use pay402_core::{Amount, Refusal, Requirements, Scheme, WireVersion};
use pay402_server::{Charge, PaidBy, Route};

use crate::stage::{
    self, ASSET, FakeFacilitator, Got, HASH, IDENTIFIER, NETWORK, PAY_TO, PAYER, SPONSORING, Stage,
    network, offers, paid, pending, presented_for, refused, route, send, terms, with,
};

/// The metered route's ceiling, in atomic units.
const CEILING: u64 = 10_000;

fn metered_terms() -> Requirements {
    Requirements { scheme: Scheme::UPTO, ..terms() }
}

/// `GET /paid`, paid with `nonce` up to the ceiling.
fn paid_up_to(nonce: &str, identifier: Option<&str>) -> Request {
    with(stage::get("/paid"), &presented_for(metered_terms(), nonce, identifier))
}

/// A metered route whose handler charges `charge`, or says nothing of it.
fn charging(stage: &Stage, charge: Option<Charge>) -> Router {
    let runs = stage.runs.clone();
    stage.app(route().metered(), move |_request| {
        let number = runs.load(std::sync::atomic::Ordering::SeqCst);
        async move {
            let mut response = Response::new(Body::from(format!("data {number}")));
            if let Some(charge) = charge {
                response.extensions_mut().insert(charge);
            }
            response
        }
    })
}

#[track_caller]
fn settlement(got: &Got) -> Settlement {
    match got.outcome() {
        Some(Settled::Done(settlement)) if got.status.is_success() => settlement,
        _ => panic!("not paid: {got:?}"),
    }
}

fn amounts(amounts: &[u64]) -> Vec<Amount> {
    amounts.iter().copied().map(Amount::from).collect()
}

#[tokio::test]
async fn the_handler_says_what_is_charged() {
    let stage = Stage::new().await;
    let cases = [
        (Some(Charge::atomic(2_500.into())), 2_500),
        (Some(Charge::atomic(CEILING.into())), CEILING),
        (Some(Charge::ceiling()), CEILING),
        (Some(Charge::usd("0.0031").unwrap()), 3_100),
        (Some(Charge::usd("$0.00310001").unwrap()), 3_101),
        (Some(Charge::usd("0.01").unwrap()), CEILING),
        (None, CEILING),
    ];
    for (number, (charge, expected)) in cases.into_iter().enumerate() {
        let nonce = number.to_string();
        let got = send(&charging(&stage, charge), paid_up_to(&nonce, None)).await;
        let settlement = settlement(&got);
        assert_eq!(settlement.charged, Some(expected.into()), "{charge:?}");
        assert_eq!(settlement.transaction, HASH);
        assert_eq!(stage.facilitator.charges().last(), Some(&expected.into()), "{charge:?}");
        let charged = Some(expected.into());
        let delivered = GrantState::Delivered { transaction: HASH.into(), charged, sealed: None };
        assert_eq!(stage.state(&nonce).await, Some(delivered));
    }
    // It was verified for all that it allows.
    let verified = stage.facilitator.terms.lock().unwrap().clone().unwrap();
    assert_eq!(verified.amount, Amount::from(CEILING));
}

/// As a handler of axum does it.
#[tokio::test]
async fn an_axum_handler_charges_with_an_extension() {
    let stage = Stage::new().await;
    let layer = stage.server.layer(route().metered()).unwrap();
    let handler = async |Extension(paid_by): Extension<PaidBy>| {
        assert_eq!(paid_by.scheme, Scheme::UPTO);
        assert_eq!((paid_by.amount, paid_by.decimals), (CEILING.into(), 6));
        let half = Amount::from(CEILING / 2);
        (Extension(Charge::atomic(half)), [("x-used", "half")], "data")
    };
    let app = Router::new().route("/paid", get(handler).layer(layer));
    let got = send(&app, paid_up_to("1", None)).await;
    assert_eq!((got.text(), got.header("x-used")), ("data", Some("half")));
    assert_eq!(settlement(&got).charged, Some((CEILING / 2).into()));
}

#[tokio::test]
async fn nothing_can_be_charged_and_uses_the_payment_up() {
    let stage = Stage::new().await;
    let app = charging(&stage, Some(Charge::atomic(Amount::ZERO)));
    let first = send(&app, paid_up_to("1", Some(IDENTIFIER))).await;
    let told = settlement(&first);
    assert_eq!((told.charged, told.transaction.as_str()), (Some(Amount::ZERO), ""));
    assert_eq!(first.text(), "data 1");
    // It is settled like any other, so that the facilitator can make it final.
    assert_eq!(stage.facilitator.charges(), amounts(&[0]));

    // The payer has its answer again; another request gets nothing for the same payment.
    let again = send(&app, paid_up_to("1", Some(IDENTIFIER))).await;
    assert_eq!((&again.body, &again.headers), (&first.body, &first.headers));
    for stranger in [
        paid_up_to("1", None),
        with(stage::get("/paid/x"), &presented_for(metered_terms(), "1", Some(IDENTIFIER))),
    ] {
        let got = send(&app, stranger).await;
        assert_eq!(got.status, StatusCode::CONFLICT);
        assert_eq!(got.refusal(), Some(Refusal::DuplicateSettlement));
        assert!(!got.text().contains("transaction"), "{}", got.text());
    }
    assert_eq!((stage.runs(), stage.settled()), (1, 1));
}

#[tokio::test]
async fn what_the_offer_does_not_allow_is_not_charged() {
    let stage = Stage::new().await;
    let above = [
        Charge::atomic((CEILING + 1).into()),
        Charge::atomic(Amount::MAX),
        Charge::usd("0.010001").unwrap(),
        Charge::usd("0.010000000000000001").unwrap(),
        Charge::usd("999999999999999").unwrap(),
    ];
    for (number, charge) in above.into_iter().enumerate() {
        let nonce = number.to_string();
        let got = send(&charging(&stage, Some(charge)), paid_up_to(&nonce, None)).await;
        assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR, "{charge:?}");
        assert!(got.text().contains("bad_charge"), "{}", got.text());
        assert!(!got.text().contains("data"), "{}", got.text());
        assert!(got.outcome().is_none(), "{charge:?}");
        assert!(stage.state(&nonce).await.is_none(), "{charge:?} kept the payment");
        // The mistake was the handler's: the payment is good for the next attempt.
        let got = send(&charging(&stage, None), paid_up_to(&nonce, None)).await;
        assert_eq!(settlement(&got).charged, Some(CEILING.into()));
    }
    assert_eq!(stage.facilitator.charges(), vec![Amount::from(CEILING); above.len()]);
}

#[tokio::test]
async fn a_fixed_price_is_charged_as_it_is() {
    let stage = Stage::new().await;
    let app = |charge: Charge| {
        stage.app(route(), move |_| async move {
            let mut response = Response::new(Body::from("data"));
            response.extensions_mut().insert(charge);
            response
        })
    };
    for (nonce, charge) in [
        ("1", Charge::ceiling()),
        ("2", Charge::atomic(CEILING.into())),
        ("3", Charge::usd("$0.01").unwrap()),
    ] {
        let got = send(&app(charge), paid(nonce, None)).await;
        assert_eq!(settlement(&got).charged, None, "{charge:?}");
        assert_eq!(stage.facilitator.charges().last(), Some(&CEILING.into()));
    }
    for (nonce, charge) in [
        ("4", Charge::atomic(Amount::ZERO)),
        ("5", Charge::atomic((CEILING - 1).into())),
        ("6", Charge::atomic((CEILING + 1).into())),
    ] {
        let got = send(&app(charge), paid(nonce, None)).await;
        assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR, "{charge:?}");
        assert!(got.text().contains("bad_charge"), "{}", got.text());
        assert!(stage.state(nonce).await.is_none(), "{charge:?} kept the payment");
    }
    assert_eq!(stage.settled(), 3);
}

/// Threat A19: official handlers say the charge in a header.
#[tokio::test]
async fn no_header_says_what_is_charged() {
    const OVERRIDES: &str = "settlement-overrides";
    let stage = Stage::new().await;
    for (number, (status, value)) in
        [(200, r#"{"amount":"1"}"#), (200, "1"), (404, r#"{"amount":"1"}"#)].into_iter().enumerate()
    {
        let app = stage.app(route().metered(), move |_| async move {
            let response = Response::builder().status(status).header("Settlement-Overrides", value);
            response.header("Settlement-Overrides", "0").body(Body::from("data")).unwrap()
        });
        let nonce = number.to_string();
        let mut request = paid_up_to(&nonce, Some(IDENTIFIER));
        request.headers_mut().insert(OVERRIDES, r#"{"amount":"0"}"#.parse().unwrap());
        let got = send(&app, request).await;
        assert_eq!(got.status.as_u16(), status);
        assert!(!got.headers.contains_key(OVERRIDES), "{got:?}");
        // Nor is it in the answer that is kept.
        if status == 200 {
            let again = send(&app, paid_up_to(&nonce, Some(IDENTIFIER))).await;
            assert!(again.paid() && !again.headers.contains_key(OVERRIDES), "{again:?}");
        }
    }
    assert_eq!(stage.facilitator.charges(), vec![Amount::from(CEILING); 2]);
}

#[tokio::test]
async fn an_answer_that_is_not_sold_is_not_charged_whatever_it_says() {
    let stage = Stage::new().await;
    for status in [302, 404, 500] {
        let app = stage.app(route().metered(), move |_| async move {
            let mut response = Response::builder().status(status).body(Body::empty()).unwrap();
            response.extensions_mut().insert(Charge::atomic(1.into()));
            response
        });
        let nonce = status.to_string();
        assert_eq!(send(&app, paid_up_to(&nonce, None)).await.status.as_u16(), status);
        assert!(stage.state(&nonce).await.is_none());
    }
    assert_eq!(stage.settled(), 0);
}

#[tokio::test]
async fn a_route_offers_one_scheme_and_a_metered_one_only_in_version_2() {
    let stage = Stage::new().await;
    for (sold, scheme, counts) in
        [(route(), Scheme::EXACT, (1, 1)), (route().metered(), Scheme::UPTO, (1, 0))]
    {
        let app = stage.app(sold, |_| async { Response::new(Body::from("data")) });
        let got = send(&app, stage::get("/paid")).await;
        assert_eq!(offers(&got), counts, "{scheme}");
        let required = read_payment_required(&got.headers, &[]).unwrap();
        assert_eq!(required.accepts[0].scheme, scheme);
        assert_eq!(required.accepts[0].amount, Amount::from(CEILING));
    }
    // Not even where the facilitator would settle it.
    let app = charging(&stage, None);
    let v1 = pay402_core::Presented {
        version: WireVersion::V1,
        accepted: None,
        ..presented_for(metered_terms(), "1", None)
    };
    let got = send(&app, with(stage::get("/paid"), &v1)).await;
    assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(got.refusal(), Some(Refusal::UnsupportedScheme));
    // And one scheme does not pay for the other.
    let got = send(&app, paid("2", None)).await;
    assert_eq!(got.refusal(), Some(Refusal::UnsupportedScheme));
    assert_eq!((stage.runs(), stage.settled()), (0, 0));
}

/// A restart between the request to settle and its outcome must not charge the ceiling.
#[tokio::test(start_paused = true)]
async fn what_was_to_be_charged_is_asked_for_again_unchanged() {
    let first = Stage::new().await;
    let app = charging(&first, Some(Charge::atomic(2_500.into())));
    for _ in 0..100 {
        first.facilitator.will_settle(pending());
    }
    let got = send(&app, paid_up_to("1", Some(IDENTIFIER))).await;
    assert_eq!(got.refusal(), Some(Refusal::SettlementPending));
    let state = first.state("1").await;
    assert!(
        matches!(state, Some(GrantState::Settling { charge: Some(charge), .. }) if charge == 2_500.into()),
        "{state:?}"
    );
    assert!(first.facilitator.charges().iter().all(|charge| *charge == 2_500.into()));

    let facilitator = FakeFacilitator::default();
    *facilitator.kinds.lock().unwrap() =
        vec![FakeFacilitator::metered_kind(WireVersion::V2, NETWORK)];
    let restarted = Stage::with(facilitator, first.grants.clone()).await;
    // The handler would charge something else by now, and is not asked.
    let app = charging(&restarted, Some(Charge::atomic(1.into())));
    let got = send(&app, paid_up_to("1", Some(IDENTIFIER))).await;
    assert_eq!(settlement(&got).charged, Some(2_500.into()));
    assert_eq!(restarted.facilitator.charges(), amounts(&[2_500]));
    let again = send(&app, paid_up_to("1", Some(IDENTIFIER))).await;
    assert_eq!((again.body, again.headers), (got.body, got.headers));
    assert_eq!(restarted.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_success_that_charged_something_else_grants_nothing() {
    let stage = Stage::new().await;
    let app = charging(&stage, Some(Charge::atomic(2_500.into())));
    for (nonce, charged) in [("1", CEILING), ("2", 2_501), ("3", 2_499), ("4", 0)] {
        let lie = Settlement {
            transaction: HASH.into(),
            network: network(),
            payer: Some(PAYER.into()),
            charged: Some(charged.into()),
        };
        for _ in 0..100 {
            stage.facilitator.will_settle(Settled::Done(lie.clone()));
        }
        let got = send(&app, paid_up_to(nonce, None)).await;
        assert_eq!(got.refusal(), Some(Refusal::SettlementPending), "charged {charged}");
        tokio::time::sleep(Duration::from_secs(100)).await;
        stage.facilitator.settles.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_charge_that_the_facilitator_refuses_frees_the_payment() {
    let stage = Stage::new().await;
    stage.facilitator.will_settle(refused(Refusal::SettlementExceedsAmount));
    let got = send(&charging(&stage, None), paid_up_to("1", None)).await;
    // Our own fault: not a fresh offer, which the payer would sign in vain.
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(got.refusal(), Some(Refusal::SettlementExceedsAmount));
    assert!(got.header("payment-required").is_none());
    assert!(stage.state("1").await.is_none());
}

#[tokio::test]
async fn dollars_are_charged_by_the_decimals_of_the_asset() {
    let stage = Stage::new().await;
    let asset = AssetInfo {
        id: AssetId::new(network(), ASSET),
        address: ASSET.into(),
        decimals: 18,
        symbol: "T".into(),
        domain_name: "T".into(),
        domain_version: "1".into(),
    };
    let tariff = Tariff::Atomic { amount: CEILING.into(), asset };
    let sold = || Route::priced(tariff.clone(), PAY_TO).on(NETWORK).metered();
    let app = |charge: Charge| {
        stage.app(sold(), move |request: Request| async move {
            let paid_by = request.extensions().get::<PaidBy>().unwrap();
            let mut response = Response::new(Body::from(paid_by.decimals.to_string()));
            response.extensions_mut().insert(charge);
            response
        })
    };
    let got = send(&app(Charge::atomic(7.into())), paid_up_to("1", None)).await;
    assert_eq!((got.text(), settlement(&got).charged), ("18", Some(7.into())));
    // Whether such an asset is worth a dollar is not known.
    let got = send(&app(Charge::usd("0").unwrap()), paid_up_to("2", None)).await;
    assert_eq!(got.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(got.text().contains("bad_charge"), "{}", got.text());
}

#[tokio::test]
async fn what_the_facilitator_supports_is_advertised_once_and_nothing_else() {
    let with_extensions = async |extensions: &[&str]| {
        let facilitator = FakeFacilitator {
            extensions: extensions.iter().map(|name| (*name).to_owned()).collect(),
            ..FakeFacilitator::default()
        };
        *facilitator.kinds.lock().unwrap() = vec![
            FakeFacilitator::kind(WireVersion::V2, NETWORK),
            FakeFacilitator::metered_kind(WireVersion::V2, NETWORK),
        ];
        Stage::with(facilitator, Arc::default()).await
    };
    let advertised = async |stage: &Stage, sold: Route| {
        let app = stage.app(sold, |_| async { Response::new(Body::empty()) });
        let got = send(&app, stage::get("/paid")).await;
        read_payment_required(&got.headers, &[]).unwrap().extensions
    };
    let stage = with_extensions(&[SPONSORING, "other"]).await;
    let metered = advertised(&stage, route().metered()).await;
    let names: Vec<_> = metered.keys().map(String::as_str).collect();
    assert_eq!(names, ["payment-identifier", SPONSORING]);
    assert_eq!(metered[SPONSORING]["info"]["version"], "1");
    // What the gate itself advertises stays its own.
    assert_eq!(metered["payment-identifier"]["info"]["required"], false);
    // A route is not told of what its scheme does not use.
    assert_eq!(advertised(&stage, route()).await.len(), 1);
    let without = with_extensions(&[]).await;
    assert_eq!(advertised(&without, route().metered()).await.len(), 1);
}

#[tokio::test]
async fn a_missing_allowance_is_a_precondition_and_keeps_the_payment_good() {
    let stage = Stage::new().await;
    let app = charging(&stage, None);
    let verdict = Verdict::Invalid(Refusal::Permit2AllowanceRequired.into());
    stage.facilitator.verdicts.lock().unwrap().push_back(Ok(verdict));
    let got = send(&app, paid_up_to("1", None)).await;
    assert_eq!(got.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(got.refusal(), Some(Refusal::Permit2AllowanceRequired));
    assert_eq!(got.header("cache-control"), Some("no-store"));
    // The offer stands: once the allowance is there, the same payment pays.
    let required = read_payment_required(&got.headers, &[]).unwrap();
    assert_eq!(required.accepts, [metered_terms()]);
    assert!(required.error.unwrap().starts_with("permit2_allowance_required"));
    assert_eq!((stage.runs(), stage.settled()), (0, 0));
    assert!(stage.state("1").await.is_none());
    assert!(send(&app, paid_up_to("1", None)).await.paid());

    // The same when it went away while the handler ran.
    stage.facilitator.will_settle(refused(Refusal::Permit2AllowanceRequired));
    let got = send(&app, paid_up_to("2", None)).await;
    assert_eq!(got.status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(got.refusal(), Some(Refusal::Permit2AllowanceRequired));
    assert!(!got.text().contains("data"), "{}", got.text());
    assert!(stage.state("2").await.is_none());
    assert!(send(&app, paid_up_to("2", None)).await.paid());
}
