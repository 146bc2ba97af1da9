//! What is over for good is forgotten, and presented again it is refused: never granted, never sent.

use std::time::Duration;

use pay402_core::facilitator::{Facilitator as _, Verdict};
use pay402_core::journal::NewEntry;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, Payment, PaymentKey, Refusal};
use pay402_facilitator::options::UNFINISHED_MAX;
use pay402_facilitator::{Engine, Options};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, NOW, metered, network, payment};

/// Blocks until a block is buried.
const BURIAL: u64 = 4;
/// How long everything is kept.
const RETAIN_S: u64 = 100;
/// A moment at which what expired is past.
const PAST: u64 = EXPIRES + RETAIN_S + 1;

pub fn forgetting() -> Options {
    Options {
        watch_every: Duration::from_millis(2),
        burial_blocks: BURIAL,
        retain: Some(Duration::from_secs(RETAIN_S)),
        forget_every: Duration::from_millis(2),
        unfinished_per_payer_max: UNFINISHED_MAX,
        ..options()
    }
}

/// Lets it be so late, by our clock and by the chain's, and buries what was before.
pub fn age(bed: &Bed, now: u64) {
    bed.clock.set(UnixTime(now));
    let mut state = bed.chain.state();
    state.time = now;
    (0..=BURIAL).for_each(|_| state.mine());
}

async fn gone(engine: &Engine, nonce: &str) {
    until("it is forgotten", || async { stage(engine, nonce).await.is_empty() }).await;
}

/// Waits until it was looked for what is past several times.
async fn looks(bed: &Bed) {
    let seen = bed.chain.state().headers;
    until("it is looked", || async { bed.chain.state().headers > seen + 12 }).await;
}

/// Presents it in every way, and asserts that it is refused and nothing is sent.
async fn is_refused(bed: &Bed, engine: &Engine, payment: Payment, refusal: Refusal) {
    let sent = || {
        let state = bed.chain.state();
        (state.hashes(), state.transfers)
    };
    let before = sent();
    let verdict = engine.verify(&payment).await.unwrap();
    let Verdict::Invalid(invalid) = verdict else { panic!("it is called good: {verdict:?}") };
    assert!(invalid.reason.is(refusal), "{invalid:?}");
    refused(settle(engine, payment.clone(), LONG).await, refusal);
    let caller = Some(Digest::of(&[b"shop"]));
    refused(engine.settle_for(caller, payment, LONG).await.unwrap(), refusal);
    assert_eq!(sent(), before);
}

#[tokio::test]
async fn what_is_forgotten_is_refused_by_the_chain_ever_after() {
    let bed = Bed::new();
    let engine = bed.start_with(forgetting()).await;
    done(&settle(&engine, payment("told"), LONG).await);
    let shop = Some(Digest::of(&[b"shop"]));
    done(&engine.settle_for(shop, payment("keyed"), LONG).await.unwrap());
    done(&settle(&engine, metered("free", 0), LONG).await);
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("expired"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.mine();
        state.automine = true;
    }
    until("it failed", || async { stage(&engine, "expired").await == "failed" }).await;
    age(&bed, PAST);
    for nonce in ["told", "keyed", "free"] {
        gone(&engine, nonce).await;
    }
    // What failed at our cost counts for an hour.
    looks(&bed).await;
    assert_eq!(stage(&engine, "expired").await, "failed");
    age(&bed, EXPIRES + 3_600 + RETAIN_S);
    gone(&engine, "expired").await;
    let again = async |engine: &Engine| {
        is_refused(&bed, engine, payment("told"), Refusal::NonceAlreadyUsed).await;
        is_refused(&bed, engine, payment("keyed"), Refusal::NonceAlreadyUsed).await;
        is_refused(&bed, engine, metered("free", 0), Refusal::ValidBefore).await;
        is_refused(&bed, engine, metered("free", 10_000), Refusal::ValidBefore).await;
        is_refused(&bed, engine, payment("expired"), Refusal::ValidBefore).await;
    };
    again(&engine).await;
    let engine = bed.restart(engine).await;
    again(&engine).await;
}

/// Whichever of the two clocks is behind decides, and what is not buried yet is not over.
#[tokio::test]
async fn nothing_is_forgotten_before_both_clocks_and_burial_say_so() {
    for (ours, chains) in [(PAST, PAST - 2), (PAST - 2, PAST)] {
        let bed = Bed::new();
        let engine = bed.start_with(forgetting()).await;
        done(&settle(&engine, metered("free", 0), LONG).await);
        age(&bed, ours);
        bed.chain.state().time = chains;
        looks(&bed).await;
        assert_eq!(stage(&engine, "free").await, "settled", "{ours} {chains}");
        age(&bed, PAST);
        gone(&engine, "free").await;
    }
    let bed = Bed::new();
    let engine = bed.start_with(forgetting()).await;
    done(&settle(&engine, payment("shallow"), LONG).await);
    bed.clock.set(UnixTime(PAST));
    bed.chain.state().time = PAST;
    (1..BURIAL).for_each(|_| bed.chain.state().mine());
    let heads = bed.chain.state().heads;
    until("it is looked", || async { bed.chain.state().heads > heads + 12 }).await;
    assert_eq!(stage(&engine, "shallow").await, "settled", "its block may be undone");
}

#[tokio::test]
async fn everything_is_kept_where_nobody_says_how_long() {
    let bed = Bed::new();
    let engine = bed.start_with(Options { retain: None, ..forgetting() }).await;
    done(&settle(&engine, payment("1"), LONG).await);
    age(&bed, PAST);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage(&engine, "1").await, "settled");
}

/// Who paid may come as late as they like.
#[tokio::test]
async fn a_success_that_nobody_was_told_waits_for_ever() {
    let bed = Bed::new();
    let engine = bed.start_with(forgetting()).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("owed"), SHORT).await);
    bed.chain.state().mine();
    until("it is settled", || async { stage(&engine, "owed").await == "settled" }).await;
    age(&bed, PAST + 1_000_000);
    looks(&bed).await;
    done(&settle(&engine, payment("owed"), LONG).await);
    refused(settle(&engine, payment("owed"), LONG).await, Refusal::DuplicateSettlement);
    age(&bed, PAST + 2_000_000);
    gone(&engine, "owed").await;
    is_refused(&bed, &engine, payment("owed"), Refusal::NonceAlreadyUsed).await;
}

/// What is promised once is promised once for ever; a turn of the day, for the day.
#[tokio::test]
async fn errands_are_kept_and_turns_of_a_day_that_is_over_are_not() {
    let bed = Bed::new();
    let journal = bed.journal();
    let name = |word: &str, name: &str| PaymentKey::new(&network(), word, "0xpayer", name);
    let kept = [
        name("advance", "once"),
        name("approve", "0x01"),
        name("adopt", "1"),
        name("operate", "0x02"),
        name("cancel", "1/0"),
    ];
    let turn = name("turn", "11/0");
    for key in kept.iter().chain([&turn]) {
        // Nothing is sent for what has no plan; it is closed at once.
        let new = NewEntry {
            key: key.clone(),
            fingerprint: Digest::of(&[key.as_str().as_bytes()]),
            network: network(),
            payer: "0xpayer".into(),
            amount: Amount::ZERO,
            expires: UnixTime(0),
            caller: None,
            entered_by: None,
            plan: Vec::new(),
            entered_at: UnixTime(NOW),
        };
        journal.enter(new).await.unwrap();
    }
    let _engine = bed.start_with(forgetting()).await;
    until("they are done", || async {
        journal.unfinished(&network(), 10).await.unwrap().is_empty()
    })
    .await;
    age(&bed, PAST);
    until("the turn is forgotten", || async { journal.find(&turn).await.unwrap().is_none() }).await;
    looks(&bed).await;
    for key in kept {
        assert!(journal.find(&key).await.unwrap().is_some(), "{key} is forgotten");
    }
}

/// What was signed for what is forgotten stays known.
#[tokio::test]
async fn a_nonce_is_never_given_out_again() {
    let bed = Bed::new();
    let engine = bed.start_with(forgetting()).await;
    for nonce in ["1", "2", "3"] {
        done(&settle(&engine, payment(nonce), LONG).await);
    }
    age(&bed, PAST);
    for nonce in ["1", "2", "3"] {
        gone(&engine, nonce).await;
    }
    let next = async || bed.journal().next_nonce(&network(), "0xsigner").await.unwrap();
    assert_eq!(next().await, Some(3));
    // The chain has lost all of it, as a node that is restored from an old copy would.
    bed.chain.state().forget();
    bed.chain.state().time = NOW;
    bed.chain.state().automine = false;
    bed.clock.set(UnixTime(NOW));
    pending(settle(&engine, payment("4"), SHORT).await);
    until("it is signed", || async { next().await == Some(4) }).await;
}
