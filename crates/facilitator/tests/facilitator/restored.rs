//! A journal that was restored from a copy: no nonce that was used since is used again, and no success that may
//! have been told since is told again.

use pay402_core::facilitator::{Facilitator as _, Verdict};
use pay402_core::{Digest, Refusal};
use pay402_facilitator::Options;
use pay402_facilitator::failpoint::{Failpoint, Failpoints};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{key, network, payment};

const SIGNER: &str = "0xsigner";

#[tokio::test]
async fn what_may_have_been_told_before_a_copy_was_restored_is_told_to_nobody() {
    let bed = Bed::new();
    let engine = bed.start().await;
    // As the copy has them: one is on its way, one is owed, one is a known caller's.
    bed.chain.state().automine = false;
    let shop = Some(Digest::of(&[b"shop"]));
    pending(settle(&engine, payment("owed"), SHORT).await);
    pending(engine.settle_for(shop, payment("keyed"), SHORT).await.unwrap());
    bed.chain.state().mine();
    until("it is owed", || async { stage(&engine, "owed").await == "settled" }).await;
    pending(settle(&engine, payment("sent"), SHORT).await);
    // What was done since is in no journal.
    {
        let mut state = bed.chain.state();
        state.mine();
        state.make_unseen(SIGNER, &key("unseen"));
        state.automine = true;
    }
    let engine = bed.restart(engine).await;
    until("it is closed", || async { stage(&engine, "sent").await == "settled" }).await;
    for nonce in ["owed", "sent"] {
        refused(settle(&engine, payment(nonce), LONG).await, Refusal::DuplicateSettlement);
        let verdict = engine.verify(&payment(nonce)).await.unwrap();
        assert!(matches!(verdict, Verdict::Invalid(_)), "{nonce}: {verdict:?}");
    }
    refused(settle(&engine, payment("unseen"), LONG).await, Refusal::NonceAlreadyUsed);
    done(&engine.settle_for(shop, payment("keyed"), LONG).await.unwrap());
    // Whatever is entered from now on is as ever; and so is what was, after another start.
    done(&settle(&engine, payment("new"), LONG).await);
    let engine = bed.restart(engine).await;
    for nonce in ["owed", "sent"] {
        refused(settle(&engine, payment(nonce), LONG).await, Refusal::DuplicateSettlement);
    }
    assert_eq!(bed.chain.state().transfers, 5);
}

#[tokio::test]
async fn no_nonce_that_was_used_since_is_used_again() {
    let bed = Bed::new();
    let engine = bed.start().await;
    done(&settle(&engine, payment("1"), LONG).await);
    engine.crash();
    // Three of them wait in a pool, and one is mined.
    bed.chain.state().make_unseen(SIGNER, &key("unseen"));
    bed.chain.state().waiting = 3;
    let engine = bed.restart(engine).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("2"), SHORT).await);
    let next = bed.journal().next_nonce(&network(), SIGNER).await.unwrap();
    assert_eq!(next, Some(6), "0 to 4 are somebody else's by now");
}

/// The copy is so early that no nonce is in it.
#[tokio::test]
async fn a_copy_of_what_was_only_entered_is_noticed_too() {
    let bed = Bed::new();
    let (failpoints, reached) = Failpoints::hold_at(Failpoint::AfterSignBeforeJournal);
    let engine = bed.start_with(Options { failpoints, ..options() }).await;
    let asking = tokio::spawn({
        let engine = engine.clone();
        async move { engine.settle_for(None, payment("1"), LONG).await }
    });
    reached.notified().await;
    bed.chain.state().make_unseen(SIGNER, &key("1"));
    let engine = bed.restart(engine).await;
    drop(asking);
    until("it is closed", || async { stage(&engine, "1").await == "settled" }).await;
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn a_new_journal_casts_no_doubt_on_a_signer_that_was_used() {
    let bed = Bed::new();
    bed.chain.state().make_unseen(SIGNER, &key("elsewhere"));
    // It ends before it has recorded a nonce.
    let (failpoints, reached) = Failpoints::hold_at(Failpoint::AfterSignBeforeJournal);
    let engine = bed.start_with(Options { failpoints, ..options() }).await;
    let asking = tokio::spawn({
        let engine = engine.clone();
        async move { engine.settle_for(None, payment("1"), LONG).await }
    });
    reached.notified().await;
    let engine = bed.restart(engine).await;
    drop(asking);
    until("it is settled", || async { stage(&engine, "1").await == "settled" }).await;
    done(&settle(&engine, payment("1"), LONG).await);
}

#[tokio::test]
async fn a_restart_alone_casts_no_doubt() {
    let bed = Bed::new();
    let engine = bed.start().await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().mine();
    let engine = bed.restart(engine).await;
    until("it is settled", || async { stage(&engine, "1").await == "settled" }).await;
    done(&settle(&engine, payment("1"), LONG).await);
}
