//! Whether the process lives and is ready, as its operator's machinery asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use pay402_core::time::Clock as _;
use pay402_facilitator::Options;
use pay402_facilitator::api::{Access, Api, KeyHash};
use serde_json::json;

use crate::api::{Answer, body, open, post, read};
use crate::bed::{Bed, LONG, done, options, settle, take_over, until};
use crate::chain::{network, payment};
use crate::faults::flaky;

/// Longer than what is told of the journal is kept.
const STALE: Duration = Duration::from_millis(1_100);

fn parts(answer: &Answer) -> Vec<String> {
    let told = answer.json();
    let problems = told["problems"].as_array().unwrap();
    assert!(problems.iter().all(|problem| !problem["message"].as_str().unwrap().is_empty()));
    problems.iter().map(|problem| problem["part"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn it_lives_before_it_is_ready_and_says_so() {
    let bed = Bed::new();
    let api = Api::new(Access::Keys(vec![KeyHash::of("key")]));
    let routes = api.router();
    // Nobody needs a key for these.
    assert_eq!(read(&routes, "/livez").await.json(), json!({"status": "alive"}));
    let starting = read(&routes, "/readyz").await;
    assert_eq!(starting.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts(&starting), ["start"]);
    for path in ["/supported", "/health"] {
        let answer = read(&routes, path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.json()["error"], "starting", "{path}");
        assert_eq!(answer.retry_after.as_deref(), Some("1"), "{path}");
    }
    for path in ["/verify", "/settle", "/account"] {
        let answer = post(&routes, path, body("1").to_string()).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.retry_after.as_deref(), Some("1"), "{path}");
    }
    api.open(bed.start().await);
    let ready = read(&routes, "/readyz").await;
    assert_eq!((ready.status, ready.json()), (StatusCode::OK, json!({"status": "ready"})));
    assert_eq!(read(&routes, "/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn it_is_not_ready_without_its_journal() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let api = open(&bed.start_on(journal, options()).await);
    faults.down.store(true, Ordering::SeqCst);
    let answer = read(&api, "/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts(&answer), ["journal"]);
    assert_eq!(answer.json()["problems"][0]["network"], network().as_str());
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    assert_eq!(read(&api, "/livez").await.status, StatusCode::OK, "it lives all the same");
    faults.down.store(false, Ordering::SeqCst);
    tokio::time::sleep(STALE).await;
    assert_eq!(read(&api, "/readyz").await.status, StatusCode::OK);
    // One that does not answer at all is down too, and nobody waits for it for long.
    faults.backlog_hangs.store(true, Ordering::SeqCst);
    tokio::time::sleep(STALE).await;
    let hanging = tokio::time::timeout(STALE, read(&api, "/readyz")).await.unwrap();
    assert_eq!(parts(&hanging), ["journal"]);
}

#[tokio::test]
async fn many_probes_are_one_look_at_the_journal() {
    let bed = Bed::new();
    let (journal, faults) = flaky(&bed);
    let api = open(&bed.start_on(journal, options()).await);
    let answers = join_all((0..200).map(|_| read(&api, "/readyz"))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    assert_eq!(faults.backlogs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn it_is_not_ready_once_another_process_settles() {
    let bed = Bed::new();
    let options = Options { lease: Duration::from_secs(3), ..options() };
    let engine = bed.start_with(options).await;
    let api = open(&engine);
    assert_eq!(read(&api, "/readyz").await.status, StatusCode::OK);
    bed.clock.set(bed.clock.now().plus_s(60));
    take_over(&bed).await;
    until("lost", || async { engine.health()[0].status == "lease_lost" }).await;
    let answer = read(&api, "/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(parts(&answer), ["lease"]);
}

#[tokio::test]
async fn who_leaves_says_so_first_then_refuses_then_tells_who_waits() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = Api::new(Access::Open);
    api.open(engine.clone());
    let routes = api.router();
    api.retire();
    let leaving = read(&routes, "/readyz").await;
    assert_eq!(
        (leaving.status, parts(&leaving)),
        (StatusCode::SERVICE_UNAVAILABLE, vec!["process".into()])
    );
    // Whoever has not noticed yet is still served.
    done(&post(&routes, "/settle", body("1").to_string()).await.settled());
    bed.chain.state().automine = false;
    let waiting = tokio::spawn({
        let engine = engine.clone();
        async move { settle(&engine, payment("2"), LONG).await }
    });
    until("sent", || async { bed.chain.state().handed.len() == 2 }).await;
    let stopping = tokio::spawn({
        let engine = engine.clone();
        async move { engine.stop(LONG).await }
    });
    until("draining", || async { engine.health()[0].status == "draining" }).await;
    let refused = post(&routes, "/settle", body("3").to_string()).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    bed.chain.state().mine();
    done(&waiting.await.unwrap());
    stopping.await.unwrap();
    assert_eq!(parts(&read(&routes, "/readyz").await), ["process"]);
}

#[tokio::test]
async fn an_engine_that_stops_by_itself_is_not_ready() {
    let bed = Bed::new();
    let engine = bed.start().await;
    let api = open(&engine);
    engine.stop(Duration::ZERO).await;
    let answer = read(&api, "/readyz").await;
    assert_eq!(
        (answer.status, parts(&answer)),
        (StatusCode::SERVICE_UNAVAILABLE, vec!["process".into()])
    );
}

#[tokio::test]
async fn it_is_not_ready_when_no_signer_can_pay_for_gas() {
    use pay402_devchain::genesis::DEV_ACCOUNTS;

    let chain = crate::evm::chain();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { funds_every: Duration::from_millis(20), ..options() };
    let engine = crate::evm::start(&chain, &folder.path().join("journal.db"), options).await;
    let api = open(&engine);
    let low = async || {
        let text = String::from_utf8(read(&api, "/metrics").await.body).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("x402_lane_low{"));
        lines.filter(|line| line.ends_with(" 1")).count()
    };
    assert_eq!((read(&api, "/readyz").await.status, low().await), (StatusCode::OK, 0));
    for (index, signer) in crate::evm::SIGNERS.into_iter().enumerate() {
        assert_eq!(read(&api, "/readyz").await.status, StatusCode::OK, "one is enough");
        chain.set_balance(DEV_ACCOUNTS[signer], alloy::primitives::U256::from(1));
        until("it is seen", || async { low().await == index + 1 }).await;
    }
    let answer = read(&api, "/readyz").await;
    assert_eq!(
        (answer.status, parts(&answer)),
        (StatusCode::SERVICE_UNAVAILABLE, vec!["funds".into()])
    );
}
