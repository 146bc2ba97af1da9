//! Buying: the ordinary road, and what must not move money.

use pay402_client::{OwnerPolicy, PayError, ReceiptStatus};
use pay402_core::transport::http::{read_outcome, write_payment};
use pay402_core::{Price, Refusal, WireVersion};
use pay402_e2e::{Market, PRICE_ATOMIC};
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use reqwest::{Method, Request};
use serde_json::Value;

fn get(url: &str) -> Request {
    Request::new(Method::GET, url.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_buys_and_every_book_agrees() {
    let market = Market::start().await;
    let agent = market.agent(OwnerPolicy::new());
    let before = market.tokens().await;
    for path in ["/paid", "/other", "/paid"] {
        let paid = agent.execute(get(&market.url(path))).await.unwrap();
        assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
        assert_eq!(paid.response.headers()[CACHE_CONTROL], "private");
        let body: Value = paid.response.json_value().await;
        assert_eq!((&body["ok"], &body["path"]), (&true.into(), &path.into()));
    }
    let after = market.tokens().await;
    let price = u128::from(PRICE_ATOMIC);
    assert_eq!((before.0 - after.0, after.1 - before.1), (3 * price, 3 * price));
    assert_eq!(market.assert_coherent().await.payments, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_buy_at_one_route() {
    let market = Market::start().await;
    for version in [WireVersion::V1, WireVersion::V2] {
        let presented = market.signed("/paid", version).await;
        let mut headers = HeaderMap::new();
        write_payment(&mut headers, &presented).unwrap();
        let request = reqwest::Client::new().get(market.url("/paid")).headers(headers);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let named = match version {
            WireVersion::V1 => "x-payment-response",
            WireVersion::V2 => "payment-response",
        };
        assert!(answer.headers().contains_key(named), "{:?}", answer.headers());
    }
    assert_eq!(market.runs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_is_not_paid() {
    let market = Market::start().await;
    let before = market.tokens().await;
    let agent = market.agent(OwnerPolicy::new());
    let paid = agent.execute(get(&market.url("/failing"))).await.unwrap();
    assert_eq!(paid.response.status(), 500);
    assert_ne!(paid.receipt.status, ReceiptStatus::Settled);
    assert_eq!(market.tokens().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overpriced_or_unfunded_purchase_signs_or_moves_nothing() {
    let market = Market::start().await;
    let before = market.tokens().await;
    let stingy = OwnerPolicy::new().per_payment(Price::parse("$0.0009").unwrap());
    let error = market.agent(stingy).execute(get(&market.url("/paid"))).await.unwrap_err();
    assert!(matches!(&error, PayError::Denied { .. }), "{error}");

    // A payer without a token: verified, refused, never sent.
    let slot = pay402_devchain::genesis::usdc_balance_slot(market.accounts.payer);
    market.chain.set_storage(market.accounts.token, slot, alloy::primitives::U256::ZERO);
    let presented = market.signed("/paid", WireVersion::V2).await;
    let mut headers = HeaderMap::new();
    write_payment(&mut headers, &presented).unwrap();
    let request = reqwest::Client::new().get(market.url("/paid")).headers(headers);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 402);
    let outcome = read_outcome(answer.headers(), &presented.accepted.unwrap()).unwrap().unwrap();
    let pay402_core::facilitator::Settled::Refused(refused) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(refused.reason.is(Refusal::InsufficientFunds), "{refused}");
    assert_eq!(market.runs(), 0);
    assert_eq!(market.tokens().await.1, before.1);
}

/// `reqwest` is built without its JSON feature.
trait JsonValue {
    async fn json_value(self) -> Value;
}

impl JsonValue for reqwest::Response {
    async fn json_value(self) -> Value {
        serde_json::from_slice(&self.bytes().await.unwrap()).unwrap()
    }
}
