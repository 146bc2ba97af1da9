//! One authorization, at most one grant and one transaction, however often it is presented.

use alloy::providers::Provider as _;
use pay402_core::transport::http::write_payment;
use pay402_core::{Payment, Presented, Refusal, Requirements, WireVersion, wire};
use pay402_e2e::{Market, PATHS, PRICE_ATOMIC};
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::task::JoinSet;

/// How many copies race.
const COPIES: usize = 200;

fn headers(presented: &Presented) -> HeaderMap {
    let mut headers = HeaderMap::new();
    write_payment(&mut headers, presented).unwrap();
    headers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_copies_at_four_routes_are_one_handler_run_and_one_transaction() {
    let market = Market::start().await;
    // Without a resource, which no one has to name, every route is a candidate for it.
    let presented = Presented { resource: None, ..market.signed("/paid", WireVersion::V2).await };
    let before = market.tokens().await;
    let http = reqwest::Client::new();
    let mut copies = JoinSet::new();
    for index in 0..COPIES {
        let url = market.url(PATHS[index % PATHS.len()]);
        let request = http.get(url).headers(headers(&presented));
        copies.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    let statuses = copies.join_all().await;
    assert_eq!(statuses.len(), COPIES);
    let count = |status| statuses.iter().filter(|found| **found == status).count();
    assert_eq!(count(200), 1, "{statuses:?}");
    assert_eq!(count(200) + count(409) + count(503), COPIES, "{statuses:?}");
    assert_eq!(market.runs(), 1, "handler runs");
    assert_eq!(market.chain.block_number(), 1, "transactions");
    let after = market.tokens().await;
    let price = u128::from(PRICE_ATOMIC);
    assert_eq!((before.0 - after.0, after.1 - before.1), (price, price));

    // And later: refused, without a run or a transaction.
    let again = http.get(market.url("/paid")).headers(headers(&presented)).send().await.unwrap();
    assert_eq!(again.status(), 409);
    assert_eq!((market.runs(), market.chain.block_number()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_facilitator_tells_one_caller_of_the_success() {
    let market = Market::start().await;
    let presented = market.signed("/paid", WireVersion::V2).await;
    let terms: Requirements = presented.accepted.clone().unwrap();
    let payment = Payment::pair(terms, presented).unwrap();
    let body = wire::encode_facilitator_request(&payment, wire::Endpoint::Settle).to_string();
    let http = reqwest::Client::new();
    let mut copies = JoinSet::new();
    for _ in 0..COPIES {
        let request = http
            .post(market.facilitator_url("/settle"))
            .header("content-type", "application/json")
            .body(body.clone());
        copies.spawn(async move {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap()
        });
    }
    let answers = copies.join_all().await;
    let told: Vec<_> = answers.iter().filter(|answer| answer["success"] == true).collect();
    assert_eq!(told.len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer["success"] == false) {
        let reason = answer["errorReason"].as_str().unwrap();
        let expected = [Refusal::DuplicateSettlement.code(), Refusal::SettlementPending.code()];
        assert!(expected.contains(&reason), "{answer}");
    }
    assert_eq!(market.chain.block_number(), 1, "transactions");
    let hash = told[0]["transaction"].as_str().unwrap().parse().unwrap();
    let receipt = market.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
    assert!(receipt.status());
}
