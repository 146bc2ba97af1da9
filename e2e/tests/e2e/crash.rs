//! The facilitator's process dies at every edge between a durable write and an outside effect, is
//! started again, and the payment settles exactly once.

use pay402_core::{Payment, Refusal, WireVersion, wire};
use pay402_e2e::{Market, PRICE_ATOMIC};
use pay402_facilitator::failpoint::Failpoint;

use crate::process::Wiring;

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_edge_settles_exactly_once() {
    let market = Market::start().await;
    let node = market.chain.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
    let price = u128::from(PRICE_ATOMIC);
    for failpoint in Failpoint::PLAIN {
        let journal = market.folder.path().join(format!("{failpoint}.db"));
        let wiring = Wiring::new(node.http_url(), journal);
        let presented = market.signed("/paid", WireVersion::V2).await;
        let payment = Payment::pair(presented.accepted.clone().unwrap(), presented).unwrap();
        let body = wire::encode_facilitator_request(&payment, wire::Endpoint::Settle).to_string();
        let before = market.tokens().await;

        wiring.crash((failpoint, 0), "/settle", &body).await;

        let process = wiring.start().await;
        let answer = process.told("/settle", &body).await;
        // The first caller may have been told: then nobody is told again, but by the hash.
        if failpoint == Failpoint::AfterCloseBeforeAnswer {
            assert_eq!(answer["errorReason"], Refusal::DuplicateSettlement.code(), "{failpoint}");
        } else {
            assert_eq!(answer["success"], true, "{failpoint}: {answer}");
        }
        assert!(answer["transaction"].as_str().unwrap().starts_with("0x"), "{failpoint}");
        let after = market.tokens().await;
        let moved = (before.0 - after.0, after.1 - before.1);
        assert_eq!(moved, (price, price), "{failpoint}: tokens moved");

        let again = process.ask("/settle", &body).await.unwrap();
        assert_eq!(again["errorReason"], Refusal::DuplicateSettlement.code(), "{failpoint}");
        assert_eq!(again["transaction"], answer["transaction"], "{failpoint}");
    }
    node.shutdown().await;
}
