//! What the holder of a key may have settled, and how often it may ask.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use pay402_core::Refusal;
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role};

use crate::api::{Answer, ask, body};
use crate::bed::{Bed, done, refused};

/// An API of one caller, whose key is its name.
async fn api(bed: &Bed, limits: Limits) -> Router {
    let (name, key) = ("alice".to_owned(), KeyHash::of("alice"));
    let named = Named { key, name, role: Role::Caller, limits };
    let api = Api::counting(Access::Keys(vec![key]), vec![named], Vec::new());
    api.open(bed.start().await);
    api.router()
}

async fn post(api: &Router, path: &str, nonce: &str) -> Answer {
    let request = Request::post(path).header("authorization", "Bearer alice");
    ask(api, request.body(Body::from(body(nonce).to_string())).unwrap()).await
}

#[tokio::test]
async fn a_key_is_for_its_payees_and_assets_alone() {
    let only = |payee: &str, asset: &str| Limits {
        payees: vec!["0xother".into(), payee.into()],
        assets: vec![asset.into()],
        ..Limits::default()
    };
    for (limits, refusal) in [
        (only("0xelse", "0xasset"), Refusal::PayeeNotAllowed),
        (only("0xpayee", "0xelse"), Refusal::AssetNotAllowed),
    ] {
        let bed = Bed::new();
        let api = api(&bed, limits).await;
        let verdict = post(&api, "/verify", "1").await.json();
        assert_eq!(verdict["invalidReason"], refusal.code());
        refused(post(&api, "/settle", "1").await.settled(), refusal);
        assert_eq!(bed.chain.state().verifications, 0, "the chain was asked");
    }
    let bed = Bed::new();
    let api = api(&bed, only("0xPAYEE", "0xAsset")).await;
    done(&post(&api, "/settle", "1").await.settled());
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_ask_again() {
    let bed = Bed::new();
    let limits = Limits { calls_per_minute: Some(12), ..Limits::default() };
    let api = api(&bed, limits).await;
    assert_eq!(post(&api, "/verify", "1").await.status, StatusCode::OK);
    done(&post(&api, "/settle", "1").await.settled());
    let asked = bed.chain.state().verifications;
    for path in ["/verify", "/settle", "/account"] {
        let told = post(&api, path, "2").await;
        assert_eq!(told.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        let wait: u64 = told.retry_after.as_deref().unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{wait} s");
        assert_eq!(told.json()["error"], "too_many_calls");
    }
    assert_eq!(bed.chain.state().verifications, asked, "the chain was asked");
}
