//! Fees that rise while a transaction waits: it is replaced at higher ones, and whichever of them is
//! mined settles the payment, once.

use std::time::Duration;

use alloy::primitives::{B256, U256};
use alloy::providers::Provider as _;
use pay402_core::Refusal;
use pay402_devchain::genesis::DEV_ACCOUNTS;
use pay402_devchain::{Devchain, Mining};
use pay402_facilitator::Options;
use pay402_facilitator::failpoint::{Failpoint, Failpoints};

use crate::bed::{LONG, SHORT, done, options, pending, refused, settle, until};
use crate::evm::{PRICE, SIGNERS, balance, chain, payee, payment, start};

/// In wei: what the first offer does not reach, and what a higher one does.
const DEAR: u64 = 50_000_000_000;
/// In wei: more than the operator pays.
const TOO_DEAR: u64 = 300_000_000_000;

fn hurried() -> Options {
    Options { replace_first: Duration::from_millis(30), lease: Duration::from_secs(3), ..options() }
}

/// A chain that makes blocks when it is told to.
fn slow_chain() -> Devchain {
    let chain = chain();
    chain.set_mining(Mining::Manual);
    chain
}

fn waiting(chain: &Devchain) -> Option<B256> {
    chain.pending_transactions().first().copied()
}

/// Has the next block ask for so much, and makes it.
fn block_at(chain: &Devchain, wei: u64) {
    chain.set_next_base_fee(wei);
    chain.mine(1);
}

async fn nonces(chain: &Devchain) -> u64 {
    let mut all = 0;
    for signer in SIGNERS {
        all += chain.provider().get_transaction_count(DEV_ACCOUNTS[signer]).await.unwrap();
    }
    all
}

#[tokio::test]
async fn what_is_not_mined_for_want_of_fees_is_replaced_and_settles_once() {
    let chain = slow_chain();
    let (paid, folder) = (payment(1).await, tempfile::tempdir().unwrap());
    let engine = start(&chain, &folder.path().join("journal.db"), hurried()).await;
    pending(settle(&engine, paid.clone(), SHORT).await);
    until("it is sent", || async { waiting(&chain).is_some() }).await;
    let first = waiting(&chain);
    block_at(&chain, DEAR);
    until("it is replaced", || async { waiting(&chain) != first }).await;
    chain.mine(1);
    let hash = done(&settle(&engine, paid.clone(), LONG).await);
    assert_ne!(Some(hash.parse().unwrap()), first, "the first offered too little");
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE));
    assert_eq!(nonces(&chain).await, 1);
    refused(settle(&engine, paid.clone(), LONG).await, Refusal::DuplicateSettlement);
}

#[tokio::test]
async fn an_offer_that_is_good_enough_is_not_replaced_nor_one_beyond_the_bound() {
    let chain = slow_chain();
    let (paid, folder) = (payment(1).await, tempfile::tempdir().unwrap());
    let engine = start(&chain, &folder.path().join("journal.db"), hurried()).await;
    pending(settle(&engine, paid.clone(), SHORT).await);
    until("it is sent", || async { waiting(&chain).is_some() }).await;
    let first = waiting(&chain);
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(waiting(&chain), first, "replaced without need");
    // As far as the operator pays, once; blocks ask for more, and it waits.
    block_at(&chain, TOO_DEAR);
    until("it is replaced", || async { waiting(&chain) != first }).await;
    let most = waiting(&chain).unwrap();
    let offered = chain.provider().get_transaction_by_hash(most).await.unwrap().unwrap();
    use alloy::consensus::Transaction as _;
    assert_eq!(offered.inner.max_fee_per_gas(), 177_777_777_777, "8 of 9 parts of the bound");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(waiting(&chain), Some(most), "offered more than the operator pays");
    block_at(&chain, DEAR);
    assert_eq!(done(&settle(&engine, paid.clone(), LONG).await), most.to_string());
    assert_eq!(nonces(&chain).await, 1);
}

#[tokio::test]
async fn a_crash_around_a_replacement_settles_once_by_whichever_is_mined() {
    let points = [
        Failpoint::AfterReplaceBeforeJournal,
        Failpoint::AfterReplaceJournalBeforeSend,
        Failpoint::AfterReplaceSendBeforeSent,
    ];
    let cases = points.into_iter().flat_map(|point| [(point, true), (point, false)]);
    // A node that has the second has the first no more.
    let cases = cases.filter(|case| *case != (Failpoint::AfterReplaceSendBeforeSent, true));
    futures_util::future::join_all(cases.map(|(point, first)| replace_and_crash(point, first)))
        .await;
}

async fn replace_and_crash(point: Failpoint, first_is_mined: bool) {
    let chain = slow_chain();
    let (paid, folder) = (payment(1).await, tempfile::tempdir().unwrap());
    let journal = folder.path().join("journal.db");
    let (failpoints, reached) = Failpoints::hold_at(point);
    let engine = start(&chain, &journal, Options { failpoints, ..hurried() }).await;
    pending(settle(&engine, paid.clone(), SHORT).await);
    until("it is sent", || async { waiting(&chain).is_some() }).await;
    let first = waiting(&chain).unwrap();
    block_at(&chain, DEAR);
    let held = tokio::time::timeout(LONG, reached.notified()).await;
    assert!(held.is_ok(), "no scenario reaches {point}");
    engine.crash();
    drop(engine);
    if first_is_mined {
        // Blocks ask for less again before anything else is sent.
        block_at(&chain, 1);
    }
    let engine = start(&chain, &journal, hurried()).await;
    if !first_is_mined {
        until("it is replaced", || async { waiting(&chain) != Some(first) }).await;
        chain.mine(1);
    }
    let hash = done(&settle(&engine, paid.clone(), LONG).await);
    assert_eq!(hash == first.to_string(), first_is_mined, "{point}");
    assert_eq!(balance(&chain, payee()).await, U256::from(PRICE), "{point}");
    assert_eq!(nonces(&chain).await, 1, "{point}");
}
