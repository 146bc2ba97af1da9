//! What the entries of a caller may cost in gas in an hour, whatever becomes of them.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use pay402_core::facilitator::Settled;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal};
use pay402_facilitator::{Engine, Options};

use crate::api::ask;
use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, until};
use crate::chain::{NOW, Undone};
use crate::losses::{post, served};

/// What one transaction of the scripted chain costs.
const FEE: u64 = 21_000;
/// Longer than a cost counts.
const HOUR: u64 = 60 * 60 + 60;

/// Alice may spend this much, and bob as much as he likes.
fn budgeted(wei: u64) -> Options {
    Options { gas_budgets: [("alice".to_owned(), Amount::from(wei))].into(), ..options() }
}

#[tokio::test]
async fn a_caller_spends_so_much_gas_in_an_hour() {
    let bed = Bed::new();
    // Each process is called differently.
    let options = || budgeted(2 * FEE);
    let (router, engine) = served(&bed, options()).await;
    done(&post(&router, "/settle", "alice", "0xa").await.settled());
    bed.chain.state().reverts_next = true;
    let told = post(&router, "/settle", "alice", "0xb").await.settled();
    refused(told, Refusal::TransactionReverted);
    let asked = bed.chain.state().verifications;
    let told = post(&router, "/settle", "alice", "0xc").await.settled();
    let told = refused(told, Refusal::GasBudgetSpent);
    assert!(told.message.contains("cost 42000 wei of gas within an hour; 42000"), "{told}");
    assert!(told.message.contains(&format!("settled again in {} s", 3_660 - NOW % 60)), "{told}");
    let verdict = post(&router, "/verify", "alice", "0xc").await.json();
    assert_eq!(verdict["invalidReason"], Refusal::GasBudgetSpent.code());
    assert_eq!(bed.chain.state().verifications, asked, "the chain was asked");
    done(&post(&router, "/settle", "bob", "0xc").await.settled());

    // The journal remembers.
    engine.stop(LONG).await;
    let (router, _engine) = served(&bed, options()).await;
    let again = post(&router, "/settle", "alice", "0xd").await.settled();
    assert_eq!(refused(again, Refusal::GasBudgetSpent).message, told.message);
    done(&post(&router, "/settle", "bob", "0xd").await.settled());
    bed.clock.set(UnixTime(NOW + HOUR));
    assert_eq!(post(&router, "/verify", "alice", "0xe").await.json()["isValid"], true);
}

#[tokio::test]
async fn what_was_accepted_goes_on_and_is_told() {
    let bed = Bed::new();
    let (router, _engine) = served(&bed, Options { settle_wait_max: SHORT, ..budgeted(FEE) }).await;
    bed.chain.state().automine = false;
    pending(post(&router, "/settle", "alice", "0xa").await.settled());
    let told = post(&router, "/settle", "alice", "0xb").await.settled();
    let told = refused(told, Refusal::GasBudgetSpent);
    assert!(told.message.contains("cost 0 wei of gas within an hour, and those"), "{told}");
    assert!(told.message.contains("again when enough of those under way are over"), "{told}");
    bed.chain.state().mine();
    let again = async || post(&router, "/settle", "alice", "0xa").await.settled();
    until("it is told", || async { matches!(again().await, Settled::Done(_)) }).await;
    // A repeat of what is settled is no new payment.
    refused(again().await, Refusal::DuplicateSettlement);
    let told = post(&router, "/settle", "alice", "0xb").await.settled();
    assert!(refused(told, Refusal::GasBudgetSpent).message.contains("cost 21000 wei"));
}

/// As many as there is room for in the budget are entered, however many come at once.
#[tokio::test]
async fn what_is_in_hand_counts() {
    let bed = Bed::new();
    let options = Options { settle_wait_max: Duration::from_millis(500), ..budgeted(10 * FEE) };
    let (router, engine) = served(&bed, options.clone()).await;
    bed.chain.state().automine = false;
    let one = async |number: usize| {
        post(&router, "/settle", "alice", &format!("0x{number}")).await.settled()
    };
    let told = futures_util::future::join_all((0..40).map(one)).await;
    let is_refused = |told: &&Settled| matches!(told, Settled::Refused(it) if it.reason.is(Refusal::GasBudgetSpent));
    assert_eq!(told.iter().filter(is_refused).count(), 30, "{told:?}");
    let verdict = post(&router, "/verify", "alice", "0xnew").await.json();
    assert_eq!(verdict["invalidReason"], Refusal::GasBudgetSpent.code());

    // What is taken up is in hand again.
    engine.stop(Duration::ZERO).await;
    let (router, engine) = served(&bed, budgeted(10 * FEE)).await;
    let told = post(&router, "/settle", "alice", "0xnew").await.settled();
    let told = refused(told, Refusal::GasBudgetSpent);
    assert!(told.message.contains(&format!("about {} more", 10 * FEE)), "{told}");
    bed.chain.state().mine();
    until("all are over", || async { engine.health()[0].unfinished == 0 }).await;
    let told = post(&router, "/settle", "alice", "0xnew").await.settled();
    assert!(refused(told, Refusal::GasBudgetSpent).message.contains("cost 210000 wei"));
}

/// Starts, has a payment settled, and undoes its block: then it is in hand, and has cost nothing yet.
async fn undo(bed: &Bed, restarts: bool) {
    let watching = || Options { watch_every: Duration::from_millis(2), ..budgeted(FEE) };
    let (mut router, mut engine): (_, Engine) = served(bed, watching()).await;
    done(&post(&router, "/settle", "alice", "0xa").await.settled());
    if restarts {
        engine.stop(LONG).await;
        (router, engine) = served(bed, watching()).await;
    }
    refused(post(&router, "/settle", "alice", "0xb").await.settled(), Refusal::GasBudgetSpent);
    {
        let mut state = bed.chain.state();
        state.automine = false;
        // So that what is in hand does not count.
        state.gas_price = 0;
        state.reorganize(1, Undone::Lost);
    }
    let is_valid =
        async || post(&router, "/verify", "alice", "0xb").await.json()["isValid"] == true;
    until("it is taken back", || async { is_valid().await }).await;
    bed.chain.state().gas_price = 1;
    assert!(!is_valid().await, "it is in hand, and does not count");
    let mine = async || {
        bed.chain.state().mine();
        engine.health()[0].unfinished == 0
    };
    until("it is settled again", || async { mine().await }).await;
    let told = post(&router, "/settle", "alice", "0xb").await.settled();
    let told = refused(told, Refusal::GasBudgetSpent);
    assert!(told.message.contains("cost 21000 wei of gas within an hour; 21000"), "{told}");
}

#[tokio::test]
async fn what_an_undone_block_closed_is_taken_back() {
    undo(&Bed::new(), false).await;
}

#[tokio::test]
async fn what_was_spent_before_a_restart_is_taken_back_too() {
    undo(&Bed::new(), true).await;
}

#[tokio::test]
async fn operators_see_what_is_spent() {
    let bed = Bed::new();
    let gwei = 1_000_000_000;
    let (router, _engine) = served(&bed, budgeted(5 * gwei)).await;
    done(&post(&router, "/settle", "alice", "0xa").await.settled());
    let figures = Request::get("/metrics").header("authorization", "Bearer alice");
    let figures = ask(&router, figures.body(Body::empty()).unwrap()).await;
    let figures = String::from_utf8(figures.body).unwrap();
    for figure in ["caller_gas_last_hour_gwei", "caller_gas_per_hour_max_gwei"] {
        let of = format!("x402_{figure}{{network=\"eip155:84532\",caller=\"alice\"}}");
        let value = if figure.contains("max") { 5 } else { 0 };
        assert!(figures.contains(&format!("{of} {value}\n")), "{of} is not in {figures}");
        assert!(!figures.contains("caller=\"bob\""), "who has no budget");
    }
}

#[tokio::test]
async fn a_budget_of_nothing_is_refused() {
    let bed = Bed::new();
    let clock = std::sync::Arc::clone(&bed.clock) as _;
    let error = Engine::start(vec![], bed.journal(), clock, budgeted(0)).await.unwrap_err();
    assert_eq!(error.key, "gas_per_hour_max_gwei");
}
