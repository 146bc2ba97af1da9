//! Where a settlement stands, and who is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use pay402_core::{Digest, Refusal};
use pay402_facilitator::Options;
use pay402_facilitator::api::{Access, KeyHash, router};
use serde_json::{Value, json};

use crate::api::{Answer, ask, body, open, read};
use crate::bed::{Bed, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, NOW, key, payment};
use crate::faults::flaky;

const ID: &str = "eip155:84532~0xasset~0xpayer~1";

async fn call(api: &Router, request: Request<Body>, key: &str, id: Option<&str>) -> Answer {
    let mut request = request;
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    if let Some(id) = id {
        request.headers_mut().insert("idempotency-key", id.parse().unwrap());
    }
    ask(api, request).await
}

async fn look(api: &Router, key: &str, id: Option<&str>) -> Answer {
    look_at(api, ID, key, id).await
}

async fn look_at(api: &Router, what: &str, key: &str, id: Option<&str>) -> Answer {
    let request = Request::get(format!("/settlements/{what}")).body(Body::empty()).unwrap();
    call(api, request, key, id).await
}

async fn pay(api: &Router, nonce: &str, key: &str, id: Option<&str>) -> Answer {
    let request = Request::post("/settle").body(Body::from(body(nonce).to_string())).unwrap();
    call(api, request, key, id).await
}

fn keyed(engine: &pay402_facilitator::Engine) -> Router {
    router(engine.clone(), Access::Keys(["alice", "bob"].map(KeyHash::of).to_vec()))
}

#[tokio::test]
async fn a_settlement_is_followed_from_entry_to_end() {
    let bed = Bed::new();
    let settle_wait_max = Duration::from_millis(400);
    let engine = bed.start_with(Options { settle_wait_max, ..options() }).await;
    let api = keyed(&engine);
    bed.chain.state().automine = false;
    let first = pay(&api, "1", "alice", Some("order-1")).await;
    assert_eq!(first.settlement_id.as_deref(), Some(ID));
    let hash = pending(first.settled()).unwrap();
    until("sent", || async { stage(&engine, "1").await == "sent" }).await;
    let expected = |stage: &str, is_final: bool| {
        json!({
            "id": ID, "network": "eip155:84532", "stage": stage, "final": is_final,
            "watched": is_final,
            "payer": "0xpayer", "amount": "10000", "enteredAt": NOW, "expiresAt": EXPIRES,
            "transaction": hash,
        })
    };
    let told = look(&api, "alice", Some("order-1")).await;
    assert_eq!((told.status, told.json()), (StatusCode::OK, expected("sent", false)));
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    for _ in 0..3 {
        assert_eq!(look(&api, "alice", Some("order-1")).await.json(), expected("settled", true));
    }
    // Having looked changes nothing for the one who settles again.
    assert_eq!(done(&pay(&api, "1", "alice", Some("order-1")).await.settled()), hash);
}

#[tokio::test]
async fn a_failure_says_why_and_what_of_the_money() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine);
    bed.chain.state().reverts_next = true;
    let failed = pay(&api, "1", "alice", Some("order-1")).await;
    refused(failed.settled(), Refusal::TransactionReverted);
    let told = look(&api, "alice", Some("order-1")).await.json();
    assert_eq!((&told["stage"], &told["final"]), (&json!("failed"), &json!(true)));
    assert_eq!(told["refusal"]["code"], Refusal::TransactionReverted.code());
    assert_eq!(told["refusal"]["retry"], "new_payment");
    assert_eq!(told["refusal"]["funds"], "maybe_moved");
    assert!(!told["refusal"]["message"].as_str().unwrap().is_empty());
    assert!(told["transaction"].is_string());
}

/// Whoever reads the chain or the logs knows the id; whoever holds one of the keys does not have the
/// other. None of them learns more than of an id that never was.
#[tokio::test]
async fn only_who_entered_it_is_told() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = keyed(&engine);
    done(&pay(&api, "1", "alice", Some("order-1")).await.settled());
    let nothing = look_at(&api, "eip155:84532~0xasset~0xpayer~9", "alice", Some("order-1")).await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    for (who, id) in [("bob", "order-1"), ("alice", "order-2"), ("bob", "order-2")] {
        let told = look(&api, who, Some(id)).await;
        assert_eq!(
            (told.status, told.json()),
            (StatusCode::NOT_FOUND, nothing.json()),
            "{who} {id}"
        );
    }
    assert_eq!(look(&api, "mallory", Some("order-1")).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(read(&api, &format!("/settlements/{ID}")).await.status, StatusCode::UNAUTHORIZED);
    for id in [None, Some("")] {
        let told = look(&api, "alice", id).await;
        assert_eq!(
            (told.status, &told.json()["field"]),
            (StatusCode::BAD_REQUEST, &json!("Idempotency-Key"))
        );
    }
    for strange in ["%ff", "~", "%2e%2e", "a%2Fb", &"x".repeat(5_000)] {
        let told = look_at(&api, strange, "alice", Some("order-1")).await.status;
        assert!(
            matches!(told, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST),
            "{strange}: {told}"
        );
    }
}

/// The one success of an entry without keys is told by settling, to whoever comes first. A look-up
/// must neither be that telling nor take it away.
#[tokio::test]
async fn an_entry_without_keys_is_nobodys_to_look_at() {
    let bed = Bed::new();
    let settle_wait_max = Duration::from_millis(400);
    let engine = bed.start_with(Options { settle_wait_max, ..options() }).await;
    let api = keyed(&engine);
    bed.chain.state().automine = false;
    let first = pay(&api, "1", "alice", None).await;
    assert_eq!(first.settlement_id, None, "told of an id that leads nowhere");
    let hash = pending(first.settled()).unwrap();
    let nothing = look_at(&api, "eip155:84532~0xasset~0xpayer~9", "alice", Some("order-1")).await;
    let hidden = async || {
        for (who, id) in [("alice", "order-1"), ("bob", "order-1")] {
            let told = look(&api, who, Some(id)).await;
            assert_eq!((told.status, told.json()), (StatusCode::NOT_FOUND, nothing.json()));
        }
    };
    hidden().await;
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    hidden().await;
    let delivery = async || engine.status(&key("1")).await.unwrap().unwrap().delivery;
    assert_eq!(delivery().await, pay402_core::journal::Delivery::Owed);
    assert_eq!(
        done(&pay(&api, "1", "bob", None).await.settled()),
        hash,
        "the success is still owed"
    );
    refused(pay(&api, "1", "alice", None).await.settled(), Refusal::DuplicateSettlement);
    hidden().await;
}

/// The digest of keys that were never given must not be found.
#[tokio::test]
async fn a_look_up_needs_keys_to_exist() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let digest = Some(Digest::of(&[b"anything"]));
    engine.settle_for(digest, payment("1"), Duration::from_secs(5)).await.unwrap();
    settle(&engine, payment("2"), Duration::from_secs(5)).await;
    let api = open(&engine);
    let told = read(&api, &format!("/settlements/{ID}")).await;
    assert_eq!(told.status, StatusCode::FORBIDDEN);
    assert!(told.json()["message"].as_str().unwrap().contains("[[caller]]"));
}

#[tokio::test]
async fn a_journal_that_is_away_is_said_to_be() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let engine = bed.start_on(journal, options()).await;
    let api = keyed(&engine);
    faults.down.store(true, Ordering::SeqCst);
    let told = look(&api, "alice", Some("order-1")).await;
    let error: Value = told.json();
    assert_eq!(
        (told.status, &error["error"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
    );
    assert_eq!(told.retry_after.as_deref(), Some("1"));
}
