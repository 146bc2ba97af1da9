//! A node shows of a block what is not in it. The outcome that it closed is looked at again.

use std::time::Duration;

use pay402_core::journal::{Delivery, Entry, Outcome, Stage};
use pay402_core::network::{BlockId, ChainStatus};
use pay402_core::{Amount, Refusal, Refused};
use pay402_facilitator::{Engine, Options};

use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, settle, stage, until};
use crate::chain::{EXPIRES, State, fee, key, payment};

fn watching() -> Options {
    Options { watch_every: Duration::from_millis(2), burial_blocks: 8, ..options() }
}

async fn entry(bed: &Bed, nonce: &str) -> Entry {
    bed.journal().find(&key(nonce)).await.unwrap().unwrap()
}

/// A block that is there, and what is told of it is not in it.
fn empty_block(state: &mut State) -> (u64, BlockId) {
    state.preempt(&key("nobody's"));
    let number = state.height();
    (number, BlockId { number, hash: format!("0xfork0-{number}") })
}

/// Has payment 1 told as made in a block that has nothing of it.
async fn believed(bed: &Bed, engine: &Engine) {
    bed.chain.state().automine = false;
    pending(settle(engine, payment("1"), SHORT).await);
    {
        let mut state = bed.chain.state();
        // It is in the pool, and not in that block.
        let transaction = state.handed.last().unwrap().hash.clone();
        let (number, block) = empty_block(&mut state);
        let fee = Amount::from(1_u64);
        state.lies.insert(key("1"), ChainStatus::Proven { transaction, number, block, fee });
    }
    until("believed", || async { stage(engine, "1").await == "settled" }).await;
    done(&settle(engine, payment("1"), LONG).await);
    let mut state = bed.chain.state();
    assert_eq!(state.transfers, 1, "that of the empty block");
    state.lies.clear();
}

async fn is_settled_at(bed: &Bed, cost: u64) {
    until("closed by what the chain shows", || async {
        let Stage::Final(Outcome::Settled { fee, .. }) = entry(bed, "1").await.stage else {
            return false;
        };
        fee == Amount::from(cost)
    })
    .await;
}

#[tokio::test]
async fn a_success_that_the_chain_does_not_have_is_settled_after_all() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    believed(&bed, &engine).await;
    {
        let mut state = bed.chain.state();
        state.automine = true;
        state.mine();
    }
    is_settled_at(&bed, fee(1)).await;
    assert_eq!(bed.chain.state().transfers, 2, "with the one that the empty block has");
    assert_eq!(entry(&bed, "1").await.delivery, Delivery::Delivered, "it could be told again");
    refused(settle(&engine, payment("1"), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn one_that_can_be_made_no_more_is_booked_as_lost() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    believed(&bed, &engine).await;
    {
        let mut state = bed.chain.state();
        state.time = EXPIRES;
        state.mine();
    }
    until("lost", || async { stage(&engine, "1").await == "reverted" }).await;
    assert_eq!(bed.chain.state().transfers, 1);
}

#[tokio::test]
async fn a_failure_that_is_none_becomes_the_settlement_that_it_is() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    {
        let mut state = bed.chain.state();
        let (_, block) = empty_block(&mut state);
        let refused = Refused::from(Refusal::TransactionReverted);
        let fee = Amount::from(fee(1));
        state.lies.insert(key("1"), ChainStatus::Failed { refused, block, fee });
    }
    refused(settle(&engine, payment("1"), LONG).await, Refusal::TransactionReverted);
    {
        let mut state = bed.chain.state();
        state.lies.clear();
        state.mine();
    }
    is_settled_at(&bed, fee(1)).await;
    assert_eq!(entry(&bed, "1").await.delivery, Delivery::Owed);
}

#[tokio::test]
async fn a_cost_that_is_told_wrong_is_booked_right() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    bed.chain.state().automine = false;
    pending(settle(&engine, payment("1"), SHORT).await);
    {
        let mut state = bed.chain.state();
        state.mine();
        let (number, hash) = (state.height(), format!("0xfork0-{}", state.height()));
        let transaction = state.handed.last().unwrap().hash.clone();
        let (block, fee) = (BlockId { number, hash }, Amount::from(7_u64));
        state.lies.insert(key("1"), ChainStatus::Proven { transaction, number, block, fee });
    }
    is_settled_at(&bed, 7).await;
    {
        let mut state = bed.chain.state();
        state.lies.clear();
        state.mine();
    }
    is_settled_at(&bed, fee(1)).await;
    assert_eq!(bed.chain.state().transfers, 1);
}

/// A node that is behind for two looks has nothing opened again.
#[tokio::test]
async fn a_node_that_is_behind_for_a_moment_opens_nothing_again() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    done(&settle(&engine, payment("1"), LONG).await);
    let looks = {
        let mut state = bed.chain.state();
        state.denies = 2;
        state.mine();
        state.looks
    };
    until("it was looked at", || async { bed.chain.state().looks >= looks + 3 }).await;
    // One look more goes by before it is seen to be clear, and then none.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bed.chain.state().looks, looks + 3);
    let records = bed.journal().history(0, 100).await.unwrap();
    assert!(records.iter().all(|record| record.change.name() != "reopened"));
}

/// What no second look shows is not buried.
#[tokio::test]
async fn nothing_is_buried_before_it_was_seen_twice() {
    let bed = Bed::new();
    let engine = bed.start_with(watching()).await;
    done(&settle(&engine, payment("1"), LONG).await);
    {
        let mut state = bed.chain.state();
        state.status_fails = true;
        (0..20).for_each(|_| state.mine());
    }
    let heads = bed.chain.state().heads;
    until("it was looked at", || async { bed.chain.state().heads > heads + 20 }).await;
    assert!(entry(&bed, "1").await.watch.is_some(), "buried unseen");
    bed.chain.state().status_fails = false;
    until("buried", || async { entry(&bed, "1").await.watch.is_none() }).await;
    assert!(matches!(entry(&bed, "1").await.stage, Stage::Final(Outcome::Settled { .. })));
}
