//! Before the handler: who is asked for money, who is refused and why, and who holds a payment.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use pay402_core::facilitator::Verdict;
use pay402_core::resource::ResourceInfo;
use pay402_core::transport::http::read_payment_required;
use pay402_core::{Refusal, Scheme, WireVersion};

use crate::stage::{
    FakeFacilitator, Got, NETWORK, PAYER, Stage, get, offers, paid, presented, request, route,
    send, with,
};

#[tokio::test]
async fn an_unpaid_request_is_asked_for_money_in_both_versions() {
    let stage = Stage::new().await;
    let app = stage.data();
    for path in ["/paid", "/paid?unit=c", "/paid/%2Fx", "/paid"] {
        let got = send(&app, get(path)).await;
        assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED);
        assert_eq!(got.header("cache-control"), Some("no-store"));
        assert_eq!(offers(&got), (1, 1));
        let required = read_payment_required(&got.headers, &[]).unwrap();
        assert_eq!(required.resource.url, format!("https://api.example.com{path}"));
        assert_eq!(required.resource.description.as_deref(), Some("data"));
        let info = &required.extensions["payment-identifier"];
        assert_eq!(info["info"]["required"], false);
        assert_eq!(info["schema"]["properties"]["id"]["minLength"], 16);
        assert!(required.error.unwrap().contains("payment is required"));
        assert!(got.outcome().is_none());
    }
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn version_1_is_offered_only_where_the_facilitator_settles_it() {
    let facilitator = FakeFacilitator::default();
    *facilitator.kinds.lock().unwrap() = vec![FakeFacilitator::kind(WireVersion::V2, NETWORK)];
    let stage = Stage::with(facilitator, std::sync::Arc::default()).await;
    let app = stage.data();
    let got = send(&app, get("/paid")).await;
    assert_eq!(read_payment_required(&got.headers, &[]).unwrap().accepts.len(), 1);
    assert!(got.text().contains(r#""accepts":[]"#), "{}", got.text());

    let v1 = presented_v1("1");
    let got = send(&app, with(get("/paid"), &v1)).await;
    assert_eq!(got.refusal(), Some(Refusal::UnsupportedScheme));
    assert_eq!(stage.runs(), 0);
}

fn presented_v1(nonce: &str) -> pay402_core::Presented {
    pay402_core::Presented { version: WireVersion::V1, accepted: None, ..presented(nonce, None) }
}

#[tokio::test]
async fn a_version_1_payment_is_answered_in_version_1() {
    let stage = Stage::new().await;
    let app = stage.data();
    let got = send(&app, with(get("/paid"), &presented_v1("1"))).await;
    assert!(got.paid(), "{got:?}");
    assert!(got.header("x-payment-response").is_some());
    assert!(got.header("payment-response").is_none());
    // Version 1 facilitators expect to be told of the resource.
    let terms = stage.facilitator.terms.lock().unwrap().clone().unwrap();
    assert_eq!(terms.other["resource"], "https://api.example.com/paid");
    assert_eq!(terms.other["mimeType"], "application/json");
}

#[tokio::test]
async fn malformed_payments_are_told_the_field() {
    let stage = Stage::new().await;
    let app = stage.data();
    let raw = |json: &str| STANDARD.encode(json);
    let good = |request: axum::extract::Request| {
        request.headers().get("payment-signature").unwrap().to_str().unwrap().to_owned()
    };
    let mut no_nonce = presented("1", None);
    no_nonce.payload.clear();
    let short_id = presented("1", Some("short"));
    let cases = [
        ("payment-signature", "%%%".to_owned(), "PAYMENT-SIGNATURE"),
        ("payment-signature", raw("{"), "PAYMENT-SIGNATURE.message"),
        ("payment-signature", raw("[]"), "PAYMENT-SIGNATURE.message"),
        ("payment-signature", raw(r#"{"x402Version":3}"#), "PAYMENT-SIGNATURE.x402Version"),
        ("x-payment", raw(r#"{"x402Version":1}"#), "X-PAYMENT.scheme"),
        ("payment-signature", good(with(get("/paid"), &no_nonce)), "payload.nonce"),
        (
            "payment-signature",
            good(with(get("/paid"), &short_id)),
            "extensions.payment-identifier.info.id",
        ),
        ("payment-signature", "A".repeat(1024 * 1024), "PAYMENT-SIGNATURE"),
    ];
    for (header, value, field) in cases {
        let mut request = get("/paid");
        request.headers_mut().insert(header, value.parse().unwrap());
        let got = send(&app, request).await;
        assert_eq!(got.status, StatusCode::BAD_REQUEST, "{field}: {got:?}");
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert!(body["field"].as_str().unwrap().ends_with(field), "{field}: {body}");
        assert_eq!(got.header("cache-control"), Some("no-store"));
    }
    assert_eq!((stage.runs(), stage.facilitator.verified.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn two_payments_in_one_request_are_refused() {
    let stage = Stage::new().await;
    let app = stage.data();
    let mut both = with(paid("1", None), &presented_v1("1"));
    assert_eq!(both.headers().len(), 2);
    let got = send(&app, std::mem::replace(&mut both, get("/paid"))).await;
    assert_eq!(got.status, StatusCode::BAD_REQUEST);

    let mut twice = paid("1", None);
    let value = twice.headers()["payment-signature"].clone();
    twice.headers_mut().append("payment-signature", value);
    assert_eq!(send(&app, twice).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn a_refused_payment_is_told_why_and_asked_again() {
    let stage = Stage::new().await;
    let app = stage.data();
    let unpaid = send(&app, get("/paid")).await;

    let mut forged = presented("1", None);
    forged.payload.insert("signature".into(), "forged".into());
    let got = send(&app, with(get("/paid"), &forged)).await;
    assert_refused(&got, Refusal::InvalidSignature);
    assert_ne!(got.headers["payment-required"], unpaid.headers["payment-required"]);
    assert!(stage.state("1").await.is_none(), "a forged payment was claimed");

    let mut cheap = presented("1", None);
    cheap.accepted.as_mut().unwrap().amount = 1.into();
    assert_refused(
        &send(&app, with(get("/paid"), &cheap)).await,
        Refusal::InvalidPaymentRequirements,
    );

    let mut elsewhere = presented("1", None);
    elsewhere.resource = Some(ResourceInfo::at("https://api.example.com/other"));
    assert_refused(
        &send(&app, with(get("/paid"), &elsewhere)).await,
        Refusal::InvalidPaymentRequirements,
    );

    let mut scheme = presented("1", None);
    scheme.accepted.as_mut().unwrap().scheme = Scheme::UPTO;
    assert_refused(&send(&app, with(get("/paid"), &scheme)).await, Refusal::UnsupportedScheme);
    assert_eq!((stage.runs(), stage.facilitator.verified.load(Ordering::SeqCst)), (0, 0));
}

fn assert_refused(got: &Got, refusal: Refusal) {
    assert_eq!(got.status, StatusCode::PAYMENT_REQUIRED, "{got:?}");
    assert_eq!(got.refusal(), Some(refusal));
    let required = read_payment_required(&got.headers, &[]).unwrap();
    assert!(required.error.unwrap().starts_with(refusal.code()));
    assert_eq!(offers(got), (1, 1));
    assert_eq!(got.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn every_leaf_of_the_accepted_terms_is_compared() {
    let stage = Stage::new().await;
    let app = stage.data();
    type Change = fn(&mut pay402_core::Requirements);
    let changes: [(&str, Change); 6] = [
        ("amount up", |terms| terms.amount = 10_001.into()),
        ("amount down", |terms| terms.amount = 9_999.into()),
        ("asset", |terms| terms.asset = PAYER.into()),
        ("pay_to", |terms| terms.pay_to = PAYER.into()),
        ("timeout", |terms| terms.max_timeout_seconds = 61),
        ("extra", |terms| _ = terms.extra.insert("name".into(), "Other".into())),
    ];
    for (what, change) in changes {
        let mut payment = presented("1", None);
        change(payment.accepted.as_mut().unwrap());
        let got = send(&app, with(get("/paid"), &payment)).await;
        assert_eq!(got.refusal(), Some(Refusal::InvalidPaymentRequirements), "{what}");
    }
    let mut network = presented("1", None);
    network.accepted.as_mut().unwrap().network = "eip155:8453".parse().unwrap();
    let got = send(&app, with(get("/paid"), &network)).await;
    assert_eq!(got.refusal(), Some(Refusal::UnsupportedScheme));
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn an_invalid_payment_is_released_and_an_unclear_one_grants_nothing() {
    let stage = Stage::new().await;
    let app = stage.data();
    let verdicts = || stage.facilitator.verdicts.lock().unwrap();

    verdicts().push_back(Ok(Verdict::Invalid(Refusal::InsufficientFunds.into())));
    assert_refused(&send(&app, paid("1", None)).await, Refusal::InsufficientFunds);
    assert!(stage.state("1").await.is_none());

    verdicts().push_back(Err(crate::stage::down()));
    let got = send(&app, paid("1", None)).await;
    assert_eq!(got.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(got.refusal(), Some(Refusal::UnexpectedVerifyError));
    assert!(got.header("retry-after").is_some());
    assert_eq!(got.header("cache-control"), Some("no-store"));
    assert!(!got.text().contains("refused"), "internals leaked: {}", got.text());
    assert!(stage.state("1").await.is_none());
    assert_eq!(stage.runs(), 0);

    // Nothing stands in the way once it works again.
    assert!(send(&app, paid("1", None)).await.paid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_copies_run_the_handler_once() {
    let stage = Stage::new().await;
    let runs = stage.runs.clone();
    let app = stage.app(route(), move |_request| {
        let number = runs.load(Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Response::new(Body::from(format!("data {number}")))
        }
    });
    let copies = (0..1_000).map(|number| {
        let app = app.clone();
        let path = format!("/paid/{}", number % 10);
        tokio::spawn(async move { send(&app, with(get(&path), &presented("1", None))).await })
    });
    let mut served = 0;
    for copy in copies.collect::<Vec<_>>() {
        let got = copy.await.unwrap();
        match got.status {
            StatusCode::OK => served += 1,
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE => {
                let expected = [Refusal::DuplicateSettlement, Refusal::SettlementPending];
                assert!(expected.contains(&got.refusal().unwrap()), "{got:?}");
            }
            other => panic!("{other}: {got:?}"),
        }
    }
    assert_eq!((served, stage.runs(), stage.settled()), (1, 1, 1));
}

#[tokio::test]
async fn a_payment_in_use_is_a_conflict() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |_request| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Response::new(Body::from("data"))
    });
    let first = tokio::spawn({
        let app = app.clone();
        async move { send(&app, paid("1", None)).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let same = send(&app, paid("1", None)).await;
    assert_eq!(
        (same.status, same.refusal()),
        (StatusCode::CONFLICT, Some(Refusal::SettlementPending))
    );
    assert!(same.header("retry-after").is_some());
    let other = send(&app, with(get("/paid/other"), &presented("1", None))).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!(other.refusal(), Some(Refusal::DuplicateSettlement));
    assert!(first.await.unwrap().paid());
    assert_eq!(stage.runs(), 1);
}

#[tokio::test]
async fn no_spelling_of_a_path_goes_around_the_gate() {
    let stage = Stage::new().await;
    let app = stage.data();
    let pieces =
        ["/", "//", "%2F", "%2f", "%5C", "%252F", ".", "..", "%2e%2e", ";x", "x", "?", "%"];
    let mut tried = 0;
    for one in pieces {
        for two in pieces {
            for three in ["", "/", "paid", "PAID"] {
                for path in [format!("/paid{one}{two}{three}"), format!("/{one}paid{two}{three}")] {
                    let Ok(uri) = path.parse::<http::Uri>() else { continue };
                    let mut request = get("/");
                    *request.uri_mut() = uri;
                    let got = send(&app, request).await;
                    let safe = [StatusCode::PAYMENT_REQUIRED, StatusCode::NOT_FOUND];
                    assert!(safe.contains(&got.status), "{path}: {got:?}");
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1_000, "only {tried} paths were tried");
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn a_long_path_is_not_sold() {
    let stage = Stage::new().await;
    let app = stage.data();
    let long = format!("/paid/{}", "x".repeat(4_000));
    assert_eq!(send(&app, get(&long)).await.status, StatusCode::URI_TOO_LONG);
    let got = send(&app, with(get(&long), &presented("1", None))).await;
    assert_eq!(got.status, StatusCode::URI_TOO_LONG);
    assert_eq!(stage.runs(), 0);
}

#[tokio::test]
async fn only_a_preflight_passes_without_payment_and_gets_no_body() {
    let stage = Stage::new().await;
    let app = stage.app(route(), |request| async move {
        assert!(request.headers().get("payment-signature").is_none());
        let response = Response::builder()
            .header("access-control-allow-methods", "GET")
            .header("location", "https://files.example/content?signed")
            .header("set-cookie", "content=1");
        response.body(Body::from("content")).unwrap()
    });
    assert_eq!(
        send(&app, request(Method::OPTIONS, "/paid")).await.status,
        StatusCode::PAYMENT_REQUIRED
    );
    let mut preflight = request(Method::OPTIONS, "/paid");
    preflight.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
    preflight.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
    let got = send(&app, preflight).await;
    assert_eq!((got.status, got.text()), (StatusCode::OK, ""));
    assert_eq!(got.header("access-control-allow-methods"), Some("GET"));
    for name in ["location", "set-cookie"] {
        assert_eq!(got.header(name), None, "content went out in a header");
    }

    let mut not_options = get("/paid");
    not_options.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
    not_options.headers_mut().insert("access-control-request-method", "GET".parse().unwrap());
    assert_eq!(send(&app, not_options).await.status, StatusCode::PAYMENT_REQUIRED);

    assert_eq!(
        send(&app, request(Method::HEAD, "/paid")).await.status,
        StatusCode::PAYMENT_REQUIRED
    );
    let got = send(&app, with(request(Method::HEAD, "/paid"), &presented("1", None))).await;
    assert!(got.paid(), "{got:?}");
}
