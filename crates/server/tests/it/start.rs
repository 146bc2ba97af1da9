//! What cannot be paid does not start.

use std::sync::Arc;

use pay402_core::WireVersion;
use pay402_core::error::Misconfigured;
use pay402_server::{MemoryGrants, ResourceServer, Route};

use crate::stage::{FakeFacilitator, FakeMeter, FakeScheme, NETWORK, PAY_TO, Stage, route};

fn builder(facilitator: FakeFacilitator) -> pay402_server::server::Builder {
    ResourceServer::builder(Arc::new(facilitator), Arc::<MemoryGrants>::default())
        .scheme(Arc::new(FakeScheme))
}

fn key<T>(result: Result<T, Misconfigured>) -> String {
    result.err().map(|error| error.key).unwrap_or_default()
}

#[tokio::test]
async fn a_facilitator_that_is_down_stops_the_start() {
    let facilitator = FakeFacilitator { down: true, ..FakeFacilitator::default() };
    let started = builder(facilitator).public_url("https://api.example.com").start().await;
    assert_eq!(key(started), "facilitator");
}

#[tokio::test]
async fn settings_that_are_missing_or_wrong_stop_the_start() {
    assert_eq!(key(builder(FakeFacilitator::default()).start().await), "public_url");
    let wrong = builder(FakeFacilitator::default()).public_url("api.example.com").start().await;
    assert_eq!(key(wrong), "public_url");
    let none = ResourceServer::builder(
        Arc::new(FakeFacilitator::default()),
        Arc::<MemoryGrants>::default(),
    );
    assert_eq!(key(none.loopback_urls().start().await), "scheme");
}

#[tokio::test]
async fn a_route_that_cannot_be_paid_is_an_error_naming_the_setting() {
    let server = Stage::new().await.server;
    let at = |price: &str| Route::new(price, PAY_TO).on(NETWORK);
    let cases = [
        (at("$0"), "price"),
        (at("0.01"), "price"),
        (at("$1,000"), "price"),
        (at("$0.0000001"), "price"),
        (Route::new("$0.01", "me").on(NETWORK), "pay_to"),
        (Route::new("$0.01", PAY_TO), "network"),
        (Route::new("$0.01", PAY_TO).on("mainnet"), "network"),
        (Route::new("$0.01", PAY_TO).on("solana"), "network"),
        (route().max_timeout_seconds(0), "max_timeout_seconds"),
        (route().max_timeout_seconds(u64::MAX), "max_timeout_seconds"),
        (route().mounted_at("v1"), "mounted_at"),
        (route().description("x".repeat(10_000)), "description"),
        (Route::new("$0.01", PAY_TO).on("eip155:8453"), "facilitator"),
    ];
    for (route, setting) in cases {
        assert_eq!(key(server.gate(route.clone())), setting, "{route:?}");
    }
    server.gate(route()).unwrap();
}

#[tokio::test]
async fn a_metered_route_needs_its_scheme_and_its_kind() {
    let facilitator = FakeFacilitator::default();
    *facilitator.kinds.lock().unwrap() = vec![
        FakeFacilitator::kind(WireVersion::V2, NETWORK),
        FakeFacilitator::metered_kind(WireVersion::V1, NETWORK),
    ];
    let facilitator = Arc::new(facilitator);
    let builder = || {
        let grants = Arc::<MemoryGrants>::default();
        ResourceServer::builder(facilitator.clone(), grants).loopback_urls()
    };
    let exact = builder().scheme(Arc::new(FakeScheme)).start().await.unwrap();
    assert_eq!(key(exact.gate(route().metered())), "scheme");
    exact.gate(route()).unwrap();
    let metered = builder().scheme(Arc::new(FakeMeter)).start().await.unwrap();
    assert_eq!(key(metered.gate(route())), "scheme");
    // Settled only in a version that has no words for it: not settled at all.
    assert_eq!(key(metered.gate(route().metered())), "facilitator");
    assert_eq!(key(metered.gate(route().metered().on("solana"))), "facilitator");
}

#[tokio::test]
async fn a_kind_in_version_1_alone_is_not_enough() {
    let facilitator = FakeFacilitator::default();
    *facilitator.kinds.lock().unwrap() = vec![FakeFacilitator::kind(WireVersion::V1, NETWORK)];
    let server = builder(facilitator).loopback_urls().start().await.unwrap();
    let error = server.gate(route()).err().unwrap();
    assert_eq!(error.key, "facilitator");
    assert!(error.problem.contains("exact on eip155:84532 (version 1)"), "{error}");
}

#[tokio::test]
async fn what_the_facilitator_needs_in_extra_is_offered() {
    let facilitator = FakeFacilitator::default();
    let mut kind = FakeFacilitator::kind(WireVersion::V2, NETWORK);
    kind.extra.insert("feePayer".into(), "0xfee".into());
    kind.extra.insert("name".into(), "Not ours".into());
    *facilitator.kinds.lock().unwrap() = vec![kind];
    let stage = Stage::with(facilitator, Arc::default()).await;
    let got = crate::stage::send(&stage.data(), crate::stage::get("/paid")).await;
    let required = pay402_core::transport::http::read_payment_required(&got.headers, &[]).unwrap();
    let extra = &required.accepts[0].extra;
    assert_eq!((&extra["feePayer"], &extra["name"]), (&"0xfee".into(), &"USDC".into()));
}
