//! What failed settlements may cost us in an hour, of a payer, of a caller, and of a network.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use pay402_core::Refusal;
use pay402_core::facilitator::{Facilitator as _, Verdict};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Payment};
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role};
use pay402_facilitator::{Engine, LossBounds, Options};

use crate::api::{self, Answer, ask};
use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, NOW, Undone, network, payment, payment_by};

/// What one transaction of the scripted chain costs.
const FEE: u64 = 21_000;
/// Longer than a loss counts.
const HOUR: u64 = 60 * 60 + 60;

fn bounded(bounds: LossBounds) -> Options {
    Options { losses: [(network(), bounds)].into(), ..options() }
}

fn wide() -> LossBounds {
    let all = Amount::MAX;
    LossBounds { per_payer: all, per_caller: all, total: all, failures_in_a_row_max: u32::MAX }
}

/// Settles a payment whose transaction reverts.
async fn fail(bed: &Bed, engine: &Engine, payment: Payment) {
    bed.chain.state().reverts_next = true;
    refused(settle(engine, payment, LONG).await, Refusal::TransactionReverted);
}

/// The payment is accepted. It expires before a loss does, so that it is not settled.
async fn valid(engine: &Engine, nonce: &str) {
    let verdict = engine.verify(&payment(nonce)).await.unwrap();
    assert!(matches!(verdict, Verdict::Valid { .. }), "{verdict:?}");
}

/// Why the payment is not even verified, and that it is not settled either, and that nobody asked the chain.
async fn stopped(bed: &Bed, engine: &Engine, nonce: &str) -> String {
    let asked = bed.chain.state().verifications;
    let error = engine.verify(&payment(nonce)).await.unwrap_err();
    let settled = engine.settle_for(None, payment(nonce), LONG).await.unwrap_err();
    assert_eq!(settled, error);
    assert_eq!(bed.chain.state().verifications, asked, "the chain was asked");
    error.to_string()
}

#[tokio::test]
async fn a_payer_costs_us_so_much_in_an_hour() {
    let bed = Bed::new();
    // Each process is called differently.
    let options = || bounded(LossBounds { per_payer: Amount::from(2 * FEE), ..wide() });
    let engine = bed.start_with(options()).await;
    fail(&bed, &engine, payment("1")).await;
    done(&settle(&engine, payment("2"), LONG).await);
    fail(&bed, &engine, payment("3")).await;
    let told = refused(settle(&engine, payment("4"), LONG).await, Refusal::PayerSuspended);
    assert!(told.message.contains("42000 wei"), "{told}");
    assert_eq!(told.payer.as_deref(), Some("0xpayer"));
    let Verdict::Invalid(verified) = engine.verify(&payment("4")).await.unwrap() else {
        panic!("it is valid")
    };
    assert_eq!(verified, told);
    done(&settle(&engine, payment_by("0xother", "4"), LONG).await);

    // The journal remembers.
    engine.stop(LONG).await;
    let engine = bed.start_with(options()).await;
    let again = refused(settle(&engine, payment("4"), LONG).await, Refusal::PayerSuspended);
    assert_eq!(again, told);
    bed.clock.set(UnixTime(NOW + HOUR));
    valid(&engine, "4").await;
}

#[tokio::test]
async fn a_loss_counts_as_long_as_its_block_stands() {
    let bed = Bed::new();
    let per_payer = Amount::from(FEE);
    let watching = Options {
        watch_every: Duration::from_millis(2),
        burial_blocks: 8,
        gap_patience: Duration::ZERO,
        ..bounded(LossBounds { per_payer, ..wide() })
    };
    let engine = bed.start_with(watching).await;
    fail(&bed, &engine, payment("1")).await;
    refused(settle(&engine, payment("2"), LONG).await, Refusal::PayerSuspended);
    bed.chain.state().reorganize(1, Undone::Lost);
    until("it is settled after all", || async { stage(&engine, "1").await == "settled" }).await;
    done(&settle(&engine, payment("2"), LONG).await);
    // Told and lost, it has cost its gas as well.
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.reorganize(1, Undone::Lost);
    }
    until("it is lost", || async { stage(&engine, "2").await == "reverted" }).await;
    bed.chain.state().time = NOW;
    // It is in the journal a moment before it counts.
    until("it counts", || async {
        let verdict = engine.verify(&payment("3")).await;
        matches!(verdict, Ok(Verdict::Invalid(it)) if it.reason.is(Refusal::PayerSuspended))
    })
    .await;
    refused(settle(&engine, payment("3"), LONG).await, Refusal::PayerSuspended);
}

#[tokio::test]
async fn a_network_costs_us_so_much_in_an_hour() {
    let bed = Bed::new();
    // Each process is called differently.
    let options = || bounded(LossBounds { total: Amount::from(3 * FEE), ..wide() });
    let engine = bed.start_with(options()).await;
    // Accepted before.
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("accepted"), SHORT).await);
    bed.chain.state().mine();
    bed.chain.state().automine = true;
    for payer in ["0xa", "0xb", "0xc"] {
        fail(&bed, &engine, payment_by(payer, "1")).await;
    }
    let told = stopped(&bed, &engine, "2").await;
    assert!(told.contains("circuit breaker") && told.contains("63000 wei"), "{told}");
    done(&settle(&engine, payment("accepted"), LONG).await);

    engine.stop(LONG).await;
    let engine = bed.start_with(options()).await;
    assert_eq!(stopped(&bed, &engine, "2").await, told);
    bed.clock.set(UnixTime(NOW + HOUR));
    valid(&engine, "2").await;
}

#[tokio::test]
async fn after_failures_in_a_row_a_few_are_tried_later() {
    let bed = Bed::new();
    let options = bounded(LossBounds { failures_in_a_row_max: 2, ..wide() });
    let engine = bed.start_with(options).await;
    fail(&bed, &engine, payment("1")).await;
    done(&settle(&engine, payment("2"), LONG).await);
    fail(&bed, &engine, payment("3")).await;
    fail(&bed, &engine, payment("4")).await;
    let told = stopped(&bed, &engine, "5").await;
    assert!(told.contains("2 settlements in a row failed"), "{told}");
    bed.clock.set(UnixTime(NOW + 60));
    fail(&bed, &engine, payment("5")).await;
    bed.clock.set(UnixTime(NOW + 61));
    stopped(&bed, &engine, "6").await;
    bed.clock.set(UnixTime(NOW + 60 + 120));
    done(&settle(&engine, payment("6"), LONG).await);
    for nonce in ["7", "8", "9", "10"] {
        done(&settle(&engine, payment(nonce), LONG).await);
    }
}

#[tokio::test]
async fn what_is_tried_at_once_is_a_few() {
    let bed = Bed::new();
    let options = bounded(LossBounds { failures_in_a_row_max: 1, ..wide() });
    let engine = bed.start_with(options).await;
    fail(&bed, &engine, payment("1")).await;
    bed.clock.set(UnixTime(NOW + 60));
    bed.chain.state().automine = false;
    // All of them look before the first is let through.
    let one = async |nonce: u32| {
        let payer = format!("0xpayer{nonce}");
        engine.settle_for(None, payment_by(&payer, "1"), SHORT).await.is_ok()
    };
    let told = futures_util::future::join_all((0..20).map(one)).await;
    assert_eq!(told.into_iter().filter(|accepted| *accepted).count(), 3);
}

/// An API of two callers, whose keys are their names.
pub async fn served(bed: &Bed, options: Options) -> (Router, Engine) {
    let named = |name: &str| {
        let (key, limits) = (KeyHash::of(name), Limits::default());
        Named { key, name: name.into(), role: Role::Caller, limits }
    };
    let keys = ["alice", "bob"].map(KeyHash::of).to_vec();
    let api = Api::counting(Access::Keys(keys), ["alice", "bob"].map(named).into(), Vec::new());
    let engine = bed.start_with(options).await;
    api.open(engine.clone());
    (api.router(), engine)
}

pub async fn post(router: &Router, path: &str, caller: &str, payer: &str) -> Answer {
    let request = Request::post(path).header("authorization", format!("Bearer {caller}"));
    let body = api::request(&payment_by(payer, "1")).to_string();
    ask(router, request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_caller_costs_us_so_much_in_an_hour() {
    let bed = Bed::new();
    // Each process is called differently.
    let options = || bounded(LossBounds { per_caller: Amount::from(2 * FEE), ..wide() });
    let (router, engine) = served(&bed, options()).await;
    for payer in ["0xa", "0xb"] {
        bed.chain.state().reverts_next = true;
        let told = post(&router, "/settle", "alice", payer).await.settled();
        refused(told, Refusal::TransactionReverted);
    }
    let asked = bed.chain.state().verifications;
    let told = post(&router, "/settle", "alice", "0xc").await.settled();
    let told = refused(told, Refusal::CallerSuspended);
    assert!(told.message.contains("42000 wei"), "{told}");
    let verdict = post(&router, "/verify", "alice", "0xc").await.json();
    assert_eq!(verdict["invalidReason"], Refusal::CallerSuspended.code());
    assert_eq!(bed.chain.state().verifications, asked, "the chain was asked");
    done(&post(&router, "/settle", "bob", "0xd").await.settled());

    engine.stop(LONG).await;
    let (router, _engine) = served(&bed, options()).await;
    let told = post(&router, "/settle", "alice", "0xc").await.settled();
    refused(told, Refusal::CallerSuspended);
    done(&post(&router, "/settle", "bob", "0xe").await.settled());
    bed.clock.set(UnixTime(NOW + HOUR));
    assert_eq!(post(&router, "/verify", "alice", "0xc").await.json()["isValid"], true);
}

#[tokio::test]
async fn an_open_breaker_is_not_ready_and_shows_in_the_figures() {
    let bed = Bed::new();
    let options = bounded(LossBounds { failures_in_a_row_max: 1, ..wide() });
    let (router, engine) = served(&bed, options).await;
    let look = async |path: &str| {
        let request = Request::get(path).header("authorization", "Bearer alice");
        ask(&router, request.body(Body::empty()).unwrap()).await
    };
    let figures = async || String::from_utf8(look("/metrics").await.body).unwrap();
    let open = "x402_breaker_open{network=\"eip155:84532\"}";
    assert_eq!(look("/readyz").await.status, StatusCode::OK);
    assert!(figures().await.contains(&format!("{open} 0")));
    fail(&bed, &engine, payment("1")).await;
    let told = look("/readyz").await;
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(told.json()["problems"][0]["part"], "breaker");
    assert!(figures().await.contains(&format!("{open} 1")));
    let answer = post(&router, "/settle", "alice", "0xc").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.retry_after.is_some());
    let reason = answer.json()["errorMessage"].to_string();
    assert!(reason.contains("circuit breaker"), "{}", answer.json());
    bed.clock.set(UnixTime(NOW + 60));
    until("it is ready", || async { look("/readyz").await.status == StatusCode::OK }).await;
}

#[tokio::test]
async fn a_bound_of_no_failures_is_refused() {
    let bed = Bed::new();
    let bad = bounded(LossBounds { failures_in_a_row_max: 0, ..wide() });
    let error = Engine::start(vec![], bed.journal(), Arc::clone(&bed.clock) as _, bad).await;
    assert_eq!(error.unwrap_err().key, "failures_in_a_row_max");
}
