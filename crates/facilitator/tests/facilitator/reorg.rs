//! Blocks that are undone after what they closed was told, and blocks that are buried.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pay402_core::journal::{Delivery, Entry, Outcome, Stage};
use pay402_core::network::{BlockId, Packing};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, Refusal};
use pay402_facilitator::failpoint::{Failpoint, Failpoints};
use pay402_facilitator::{Engine, Options};

use crate::bed::{
    Bed, LONG, SHORT, done, options, pending, refused, settle, stage, take_over, until,
};
use crate::chain::{EXPIRES, NOW, Undone, key, payment};
use crate::flaky::{Faults, Flaky, LINGERS};

/// Blocks until a block is buried.
const BURIAL: u64 = 8;

fn watching() -> Options {
    Options { watch_every: Duration::from_millis(2), burial_blocks: BURIAL, ..options() }
}

async fn entry(bed: &Bed, nonce: &str) -> Entry {
    bed.journal().find(&key(nonce)).await.unwrap().unwrap()
}

/// The block that closed an entry which is still watched.
async fn block_of(bed: &Bed, nonce: &str) -> Option<BlockId> {
    entry(bed, nonce).await.watch.map(|watch| watch.block)
}

/// Waits until the payment is final again, by another block than before.
async fn closed_elsewhere(bed: &Bed, nonce: &str, before: &BlockId) -> Entry {
    until("closed in another block", || async {
        block_of(bed, nonce).await.is_some_and(|block| block != *before)
    })
    .await;
    entry(bed, nonce).await
}

async fn told(bed: &Bed, engine: &Engine, nonce: &str) -> BlockId {
    done(&settle(engine, payment(nonce), LONG).await);
    block_of(bed, nonce).await.expect("it is watched")
}

#[tokio::test]
async fn what_is_undone_is_settled_again_with_the_same_bytes() {
    for undone in [Undone::Lost, Undone::Returned] {
        let bed = Bed::new();
        let engine = bed.start_with(watching()).await;
        let before = told(&bed, &engine, "1").await;
        bed.chain.state().reorganize(1, undone);
        let after = closed_elsewhere(&bed, "1", &before).await;
        assert!(matches!(after.stage, Stage::Final(Outcome::Settled { .. })), "{after:?}");
        assert_eq!(after.delivery, Delivery::Delivered, "it could be told again");
        refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
        let state = bed.chain.state();
        assert_eq!((state.transfers, state.hashes().len()), (1, 1), "{undone:?}");
    }
}

/// Of two nodes that are asked in turn one is behind. What only the other shows is not left to a child of
/// what that one shows.
#[tokio::test]
async fn a_block_above_the_head_that_was_seen_is_looked_at_again() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    bed.chain.state().mine();
    bed.chain.state().heads_behind = 1;
    let before = told(&bed, &engine, "1").await;
    let heads = bed.chain.state().heads;
    until("it was looked at", || async { bed.chain.state().heads > heads + 2 }).await;
    {
        let mut state = bed.chain.state();
        state.reorganize(1, Undone::Lost);
        state.heads_behind = 0;
    }
    closed_elsewhere(&bed, "1", &before).await;
    assert_eq!(bed.chain.state().transfers, 1);
}

/// The write that closes an entry takes so long that its block is undone meanwhile, and found to be.
#[tokio::test]
async fn what_an_undone_block_closes_late_is_opened_again_too() {
    let bed = Bed::new();
    let faults = Arc::new(Faults::default());
    let journal = Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) });
    let engine = bed.start_on(journal, watching()).await;
    bed.chain.state().automine = false;
    for number in ["1", "2"] {
        pending(settle(&engine, payment(number), SHORT).await);
    }
    {
        let mut state = bed.chain.state();
        state.hidden.push(key("2"));
        state.mine();
    }
    until("the first is closed", || async { stage(&engine, "1").await == "settled" }).await;
    let before = block_of(&bed, "1").await.expect("it is watched");
    faults.advance_dawdles.store(true, Ordering::SeqCst);
    {
        let mut state = bed.chain.state();
        state.hidden.clear();
        // No look goes by between these two.
        state.automine = true;
    }
    let looks = bed.chain.state().looks;
    until("the second is seen closed", || async { bed.chain.state().looks > looks }).await;
    tokio::time::sleep(LINGERS / 5).await;
    bed.chain.state().reorganize(1, Undone::Lost);
    for number in ["1", "2"] {
        closed_elsewhere(&bed, number, &before).await;
        let watched = block_of(&bed, number).await;
        assert!(
            watched.is_some_and(|block| block != before),
            "{number} rests on a block that is gone"
        );
    }
    assert_eq!(bed.chain.state().transfers, 2);
}

/// Of one payment nothing can be learned for long, while the blocks of three are undone.
#[tokio::test]
async fn what_cannot_be_looked_at_keeps_nothing_else_waiting() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    bed.chain.state().automine = false;
    for number in ["1", "2"] {
        pending(settle(&engine, payment(number), SHORT).await);
    }
    bed.chain.state().mine();
    let mut before = Vec::new();
    for number in ["1", "2"] {
        until("it is closed", || async { stage(&engine, number).await == "settled" }).await;
        before.push(block_of(&bed, number).await.expect("it is watched"));
    }
    assert_eq!(before[0], before[1], "one block for both");
    bed.chain.state().automine = true;
    before.push(told(&bed, &engine, "3").await);
    {
        let mut state = bed.chain.state();
        state.hidden.push(key("1"));
        state.reorganize(2, Undone::Returned);
    }
    closed_elsewhere(&bed, "2", &before[1]).await;
    closed_elsewhere(&bed, "3", &before[2]).await;
    assert_eq!(block_of(&bed, "1").await.as_ref(), Some(&before[0]));
    bed.chain.state().hidden.clear();
    closed_elsewhere(&bed, "1", &before[0]).await;
    assert_eq!(bed.chain.state().transfers, 3);
}

#[tokio::test]
async fn the_books_follow_whoever_settles_it_then() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    let before = told(&bed, &engine, "1").await;
    {
        let mut state = bed.chain.state();
        state.reorganize(1, Undone::Lost);
        state.preempt(&key("1"));
    }
    let after = closed_elsewhere(&bed, "1", &before).await;
    let Stage::Final(Outcome::Settled { transaction, .. }) = &after.stage else {
        panic!("{after:?}")
    };
    assert_eq!(transaction, "0xsomebody-else");
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn a_settlement_that_was_told_and_is_lost_is_booked_as_lost() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    told(&bed, &engine, "1").await;
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.reorganize(1, Undone::Lost);
    }
    until("lost", || async { stage(&engine, "1").await == "reverted" }).await;
    let told = refused(settle(&engine, payment("1"), LONG).await, Refusal::SettlementReverted);
    assert!(told.message.contains("reorganization"), "{}", told.message);
    let lost = entry(&bed, "1").await;
    assert!(matches!(lost.stage, Stage::Final(Outcome::Reverted { .. })), "{lost:?}");
    assert_eq!(bed.chain.state().transfers, 0);
    let records = bed.journal().history(0, 100).await.unwrap();
    let changes: Vec<_> = records.iter().map(|record| record.change.name()).collect();
    let place = |name: &str| changes.iter().position(|change| *change == name);
    let (reopened, reverted) = (place("reopened"), place("reverted"));
    assert!(reopened.is_some() && reopened < reverted, "{changes:?}");
}

#[tokio::test]
async fn who_proves_to_be_the_same_is_told_of_the_loss_too() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    let caller = Some(Digest([7; 32]));
    done(&engine.settle_for(caller, payment("1"), LONG).await.unwrap());
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.reorganize(1, Undone::Lost);
    }
    until("lost", || async { stage(&engine, "1").await == "reverted" }).await;
    let told = engine.settle_for(caller, payment("1"), LONG).await.unwrap();
    refused(told, Refusal::SettlementReverted);
}

/// Whoever proves to be the same may be told as often as it asks, and only once the journal says that it was.
#[tokio::test]
async fn who_proves_to_be_the_same_is_told_only_of_what_is_booked_as_told() {
    let bed = Bed::new();
    let faults = Arc::new(Faults::default());
    let journal = Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) });
    let engine = bed.start_on(journal, watching()).await;
    bed.chain.state().automine = false;
    let caller = Some(Digest([7; 32]));
    pending(engine.settle_for(caller, payment("1"), SHORT).await.unwrap());
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    faults.hand_over_fails.store(true, Ordering::SeqCst);
    pending(engine.settle_for(caller, payment("1"), LONG).await.unwrap());
    faults.hand_over_fails.store(false, Ordering::SeqCst);
    done(&engine.settle_for(caller, payment("1"), LONG).await.unwrap());
    assert_eq!(entry(&bed, "1").await.delivery, Delivery::Delivered);
}

#[tokio::test]
async fn a_settlement_that_nobody_was_told_of_just_fails() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    bed.chain.state().mine();
    until("settled", || async { stage(&engine, "1").await == "settled" }).await;
    {
        let mut state = bed.chain.state();
        (state.time, state.automine) = (EXPIRES, true);
        state.reorganize(1, Undone::Lost);
    }
    until("failed", || async { stage(&engine, "1").await == "failed" }).await;
    assert_eq!(entry(&bed, "1").await.delivery, Delivery::Owed);
}

#[tokio::test]
async fn a_failure_that_is_undone_may_yet_be_a_settlement() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    bed.chain.state().reverts_next = true;
    refused(settle(&engine, payment("1"), LONG).await, Refusal::TransactionReverted);
    let before = block_of(&bed, "1").await.expect("a failure is watched too");
    bed.chain.state().reorganize(1, Undone::Returned);
    let after = closed_elsewhere(&bed, "1", &before).await;
    assert!(matches!(after.stage, Stage::Final(Outcome::Settled { .. })), "{after:?}");
    // Nobody was told of the success, so the next who asks is, and nobody after.
    done(&settle(&engine, payment("1"), LONG).await);
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn what_is_buried_is_wiped_and_never_opened_again() {
    let bed = Bed::with_signers(&["0xa", "0xb"]);
    let engine = bed.start_with(watching()).await;
    told(&bed, &engine, "1").await;
    assert!(!entry(&bed, "1").await.new.plan.is_empty(), "nothing to settle it again with");
    for _ in 1..BURIAL {
        bed.chain.state().mine();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(block_of(&bed, "1").await.is_some(), "buried too early");
    bed.chain.state().mine();
    until("buried", || async { block_of(&bed, "1").await.is_none() }).await;
    let buried = entry(&bed, "1").await;
    assert!(buried.new.plan.is_empty(), "spendable at rest");
    let depth = usize::try_from(BURIAL).unwrap() + 1;
    bed.chain.state().reorganize(depth, Undone::Lost);
    // Another signer's payment makes the watch look at blocks again.
    done(&settle(&engine, payment("2"), LONG).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(entry(&bed, "1").await, buried);
}

#[tokio::test]
async fn a_watch_is_taken_up_after_a_crash() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    let before = told(&bed, &engine, "1").await;
    engine.crash();
    drop(engine);
    bed.chain.state().reorganize(1, Undone::Lost);
    bed.clock.set(UnixTime(NOW + 60));
    let _engine = bed.start_with(watching()).await;
    closed_elsewhere(&bed, "1", &before).await;
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (1, 1));
}

#[tokio::test]
async fn a_crash_while_it_is_opened_again_loses_nothing() {
    for point in [Failpoint::AfterUndoneBeforeReopen, Failpoint::AfterReopenBeforeResend] {
        let bed = Bed::new();
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..watching() }).await;
        let before = told(&bed, &engine, "1").await;
        bed.chain.state().reorganize(1, Undone::Lost);
        assert!(tokio::time::timeout(LONG, reached.notified()).await.is_ok(), "{point}");
        engine.crash();
        drop(engine);
        let open = entry(&bed, "1").await;
        let is_open = matches!(open.stage, Stage::Signed(_));
        assert_eq!(is_open, point == Failpoint::AfterReopenBeforeResend, "{point}: {open:?}");
        bed.clock.set(UnixTime(NOW + 60));
        let _engine = bed.start_with(watching()).await;
        closed_elsewhere(&bed, "1", &before).await;
        let state = bed.chain.state();
        assert_eq!((state.transfers, state.hashes().len()), (1, 1), "{point}");
    }
}

#[tokio::test]
async fn a_deep_reorganization_opens_everything_above_it_again() {
    const MANY: usize = 60;
    let bed = Bed::with_signers(&["0xa", "0xb"]);
    let engine = bed.start_with(Options { burial_blocks: 1_000, ..watching() }).await;
    let mut before = Vec::new();
    for number in 0..MANY {
        before.push(told(&bed, &engine, &number.to_string()).await);
    }
    bed.chain.state().reorganize(MANY, Undone::Lost);
    for (number, before) in before.iter().enumerate() {
        closed_elsewhere(&bed, &number.to_string(), before).await;
        assert_eq!(stage(&engine, &number.to_string()).await, "settled");
    }
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (MANY, MANY));
}

#[tokio::test]
async fn a_look_costs_the_same_however_much_is_watched() {
    const MANY: usize = 40;
    let bed = Bed::new();
    let engine = bed.start_with(Options { burial_blocks: 10_000, ..watching() }).await;
    for number in 0..MANY {
        done(&settle(&engine, payment(&number.to_string()), LONG).await);
    }
    // Until every block was held against the chain once.
    until("all were held", || async {
        let before = bed.chain.state().headers;
        tokio::time::sleep(Duration::from_millis(50)).await;
        before == bed.chain.state().headers
    })
    .await;
    let heads = bed.chain.state().heads;
    let headers = bed.chain.state().headers;
    let blocks = 20;
    for _ in 0..blocks {
        bed.chain.state().mine();
        let seen = bed.chain.state().heads;
        until("seen", || async { bed.chain.state().heads > seen + 1 }).await;
    }
    let state = bed.chain.state();
    assert!(state.heads > heads, "nothing was looked at");
    let asked = state.headers - headers;
    assert!(asked <= blocks, "{asked} blocks were asked for in {blocks} looks, {MANY} watched");
}

#[tokio::test]
async fn nothing_new_is_accepted_while_the_chain_stands_still() {
    let bed = Bed::new();
    let halt_after = Duration::from_millis(80);
    let engine = bed.start_with(Options { halt_after, ..watching() }).await;
    done(&settle(&engine, payment("1"), LONG).await);
    // Nothing waits for a block: a chain may be idle.
    tokio::time::sleep(halt_after * 2).await;
    done(&settle(&engine, payment("2"), LONG).await);
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("3"), SHORT).await);
    tokio::time::sleep(halt_after * 2).await;
    let error = engine.settle_for(None, payment("4"), SHORT).await.unwrap_err();
    assert!(error.problem.contains("no block"), "{error}");
    assert_eq!(stage(&engine, "4").await, "", "it was entered");
    bed.chain.state().mine();
    bed.chain.state().automine = true;
    until("it moves", || async { stage(&engine, "3").await == "settled" }).await;
    done(&settle(&engine, payment("4"), LONG).await);
}

/// A node shows that blocks come, and answers nothing else.
#[tokio::test]
async fn a_look_that_takes_long_does_not_make_the_chain_stand_still() {
    let bed = Bed::new();
    let halt_after = Duration::from_millis(100);
    let engine = bed.start_with(Options { halt_after, ..watching() }).await;
    told(&bed, &engine, "1").await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("2"), SHORT).await);
    bed.chain.state().status_hangs = true;
    bed.chain.state().reorganize(1, Undone::Returned);
    for _ in 0..30 {
        tokio::time::sleep(halt_after / 10).await;
        bed.chain.state().mine();
    }
    pending(settle(&engine, payment("3"), SHORT).await);
    assert_ne!(stage(&engine, "3").await, "", "it was not entered");
}

#[tokio::test]
async fn payments_that_share_a_transaction_are_settled_again_in_it() {
    const MANY: usize = 8;
    for undone in [Undone::Lost, Undone::Returned] {
        let bed = Bed::new();
        let wait = Duration::from_millis(100);
        bed.chain.state().packing = Some(Packing { wait, members_max: MANY });
        let engine = bed.start_with(watching()).await;
        let asked: Vec<_> = (0..MANY)
            .map(|number| {
                let engine = engine.clone();
                tokio::spawn(
                    async move { settle(&engine, payment(&number.to_string()), LONG).await },
                )
            })
            .collect();
        for one in asked {
            done(&one.await.unwrap());
        }
        let sent = bed.chain.state().hashes();
        let spent = bed.chain.state().spent;
        assert!(sent.len() < MANY, "nothing was packed");
        let mut before = Vec::new();
        for number in 0..MANY {
            before.push(block_of(&bed, &number.to_string()).await.expect("it is watched"));
        }
        let first = before.iter().map(|block| block.number).min().unwrap();
        let top = bed.chain.state().height();
        bed.chain.state().reorganize(usize::try_from(top + 1 - first).unwrap(), undone);
        let mut fees = Amount::ZERO;
        for (number, before) in before.iter().enumerate() {
            let after = closed_elsewhere(&bed, &number.to_string(), before).await;
            let Stage::Final(Outcome::Settled { fee, .. }) = after.stage else {
                panic!("{after:?}")
            };
            fees = fees.checked_add(fee).unwrap();
        }
        let state = bed.chain.state();
        assert_eq!((state.transfers, state.hashes()), (MANY, sent), "{undone:?}");
        assert_eq!((fees, state.spent), (Amount::from(spent), spent), "{undone:?}");
    }
}

#[tokio::test]
async fn a_chain_that_is_shorter_for_a_moment_hides_nothing() {
    const ABOVE: usize = 2;
    let bed = Bed::new();
    bed.chain.state().mine();
    let engine = bed.start_with(watching()).await;
    let before = told(&bed, &engine, "1").await;
    (0..ABOVE).for_each(|_| bed.chain.state().mine());
    let looked = || async {
        let seen = bed.chain.state().heads;
        until("looked at", || async { bed.chain.state().heads > seen + 2 }).await;
    };
    looked().await;
    bed.chain.state().undo(ABOVE + 1, Undone::Returned);
    // Nothing is in its place; then another block is, one that follows the newest.
    looked().await;
    assert_eq!(block_of(&bed, "1").await, Some(before.clone()), "nothing shows that it is undone");
    bed.chain.state().mine();
    let after = closed_elsewhere(&bed, "1", &before).await;
    assert!(matches!(after.stage, Stage::Final(Outcome::Settled { .. })), "{after:?}");
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn money_of_what_is_undone_is_promised_to_nobody_else_until_it_is_lost() {
    let bed = Bed::new();
    bed.chain.state().held = Some(10_000);
    let engine = bed.start_with(watching()).await;
    told(&bed, &engine, "1").await;
    {
        let mut state = bed.chain.state();
        state.automine = false;
        state.reorganize(1, Undone::Lost);
    }
    until("opened", || async { ["signed", "sent"].contains(&stage(&engine, "1").await) }).await;
    // The payer has the money again, and it is the first one's.
    refused(settle(&engine, payment("2"), LONG).await, Refusal::InsufficientFunds);
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        (state.automine, state.reverts_next) = (true, true);
        state.mine();
    }
    until("lost", || async { stage(&engine, "1").await == "reverted" }).await;
    bed.chain.state().time = NOW;
    done(&settle(&engine, payment("2"), LONG).await);
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn it_is_promised_to_nobody_else_either_while_it_is_opened_again() {
    for point in [Failpoint::AfterUndoneBeforeReopen, Failpoint::AfterReopenBeforeResend] {
        let bed = Bed::new();
        bed.chain.state().held = Some(10_000);
        let (failpoints, reached) = Failpoints::hold_at(point);
        let engine = bed.start_with(Options { failpoints, ..watching() }).await;
        told(&bed, &engine, "1").await;
        bed.chain.state().reorganize(1, Undone::Lost);
        assert!(tokio::time::timeout(LONG, reached.notified()).await.is_ok(), "{point}");
        refused(settle(&engine, payment("2"), LONG).await, Refusal::InsufficientFunds);
    }
}

#[tokio::test]
async fn who_does_not_lead_any_more_opens_nothing_again() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    let before = told(&bed, &engine, "1").await;
    bed.clock.set(UnixTime(NOW + 60));
    take_over(&bed).await;
    bed.chain.state().reorganize(1, Undone::Lost);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let entry = entry(&bed, "1").await;
    assert!(matches!(entry.stage, Stage::Final(Outcome::Settled { .. })), "{entry:?}");
    assert_eq!(block_of(&bed, "1").await, Some(before.clone()), "two watch");
    assert_eq!(bed.chain.state().transfers, 0);
    drop(engine);
    // Whoever leads next does.
    bed.clock.set(UnixTime(NOW + 150));
    let _engine = bed.start_with(watching()).await;
    closed_elsewhere(&bed, "1", &before).await;
    assert_eq!(bed.chain.state().transfers, 1);
}

/// Also when the one that its pack left out had the bytes: nobody has them any more then.
#[tokio::test]
async fn what_a_pack_left_out_and_the_rest_of_it_are_settled_again() {
    const MANY: usize = 8;
    for (odd, undone) in [
        (0, Undone::Lost),
        (0, Undone::Returned),
        (1, Undone::Lost),
        (1, Undone::Returned),
        (5, Undone::Lost),
        (5, Undone::Returned),
    ] {
        let bed = Bed::new();
        let wait = Duration::from_millis(100);
        bed.chain.state().packing = Some(Packing { wait, members_max: MANY });
        bed.chain.state().leave_out.push(key(&odd.to_string()));
        // Nor is the nonce left to wait for.
        let gap_patience = Duration::from_millis(200);
        let gap_every = Duration::from_millis(20);
        let engine = bed.start_with(Options { gap_patience, gap_every, ..watching() }).await;
        let asked: Vec<_> = (0..MANY)
            .map(|number| {
                let engine = engine.clone();
                tokio::spawn(
                    async move { settle(&engine, payment(&number.to_string()), LONG).await },
                )
            })
            .collect();
        for one in asked {
            done(&one.await.unwrap());
        }
        let mut before = Vec::new();
        for number in 0..MANY {
            before.push(block_of(&bed, &number.to_string()).await.expect("it is watched"));
        }
        let first = before.iter().map(|block| block.number).min().unwrap();
        let top = bed.chain.state().height();
        bed.chain.state().reorganize(usize::try_from(top + 1 - first).unwrap(), undone);
        for (number, before) in before.iter().enumerate() {
            let after = closed_elsewhere(&bed, &number.to_string(), before).await;
            assert!(matches!(after.stage, Stage::Final(Outcome::Settled { .. })), "{after:?}");
            assert_eq!(after.delivery, Delivery::Delivered, "{odd} {undone:?}");
        }
        assert_eq!(bed.chain.state().transfers, MANY, "{odd} {undone:?}");
        // No nonce is missing: what comes now settles.
        done(&settle(&engine, payment("more"), LONG).await);
    }
}

/// What is kept sealed is wiped also when the journal did not answer in the moment of the burial.
#[tokio::test]
async fn a_burial_that_failed_is_made_again() {
    let bed = Bed::new();
    let faults = Arc::new(Faults::default());
    let journal = Arc::new(Flaky { journal: bed.journal(), faults: Arc::clone(&faults) });
    let engine = bed.start_on(journal, watching()).await;
    told(&bed, &engine, "1").await;
    faults.down.store(true, Ordering::SeqCst);
    (0..=BURIAL).for_each(|_| bed.chain.state().mine());
    let heads = bed.chain.state().heads;
    until("it was looked at", || async { bed.chain.state().heads > heads + 6 }).await;
    assert!(entry(&bed, "1").await.watch.is_some(), "it is buried, and the test proves nothing");
    faults.down.store(false, Ordering::SeqCst);
    until("it is buried", || async { entry(&bed, "1").await.watch.is_none() }).await;
}
