//! Many callers at once, and alloy's own way of waiting for a receipt.

mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::BlockNumberOrTag;
use pay402_devchain::Mining;
use support::{Harness, PAYEE, transfer};

/// Generous, because the machine may be busy; what is tested would otherwise never come.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_senders_each_find_their_receipt() {
    let harness = Harness::new();
    let tasks: Vec<_> = (0..8)
        .map(|account| {
            let provider = harness.chain.provider();
            let txs: Vec<_> =
                (0..20).map(|nonce| harness.signed(account, transfer(nonce))).collect();
            tokio::spawn(async move {
                let mut blocks = Vec::new();
                for tx in txs {
                    let hash =
                        *provider.send_raw_transaction(&tx.encoded_2718()).await.unwrap().tx_hash();
                    let receipt = provider.get_transaction_receipt(hash).await.unwrap();
                    blocks.push(receipt.expect("mined before sending returned").block_number);
                }
                blocks
            })
        })
        .collect();
    let mut blocks = HashSet::new();
    for task in tasks {
        let mined = task.await.unwrap();
        assert!(mined.is_sorted());
        blocks.extend(mined);
    }
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(160));
    assert_eq!(harness.chain.block_number(), 160);
    assert_eq!(blocks.len(), 160);
    assert!(harness.chain.pending_transactions().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_transaction_from_many_callers_runs_once() {
    let harness = Harness::new();
    let tx = harness.signed(0, transfer(0)).encoded_2718();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (provider, tx) = (harness.chain.provider(), tx.clone());
            tokio::spawn(async move { provider.send_raw_transaction(&tx).await.map(|_| ()) })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => accepted += 1,
            Err(error) => {
                let message = error.as_error_resp().unwrap().message.to_string();
                assert!(message.starts_with("nonce too low"), "{message}");
            }
        }
    }
    assert_eq!(accepted, 1);
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::from(1));
}

#[tokio::test]
async fn alloy_waits_for_receipts() {
    for mining in [Mining::Instant, Mining::Interval(Duration::from_millis(30))] {
        let harness = Harness::with(mining);
        let tx = harness.signed(0, transfer(0)).encoded_2718();
        let sent = harness.provider.send_raw_transaction(&tx).await.unwrap();
        let receipt = tokio::time::timeout(LIMIT, sent.get_receipt()).await.unwrap().unwrap();
        assert!(receipt.status());
    }
}

#[tokio::test]
async fn reading_does_not_change_the_pending_block() {
    let harness = Harness::with(Mining::Manual);
    let hash = harness.raw(&harness.signed(0, transfer(0))).await.unwrap();
    let pending = async || {
        let block = harness.provider.get_block_by_number(BlockNumberOrTag::Pending);
        let block = block.await.unwrap().unwrap();
        block.transactions.hashes().collect::<Vec<B256>>()
    };
    assert_eq!(pending().await, [hash]);
    assert_eq!(pending().await, [hash]);
    let balance = harness.provider.get_balance(PAYEE);
    assert_eq!(balance.pending().await.unwrap(), U256::from(1));
    assert_eq!(harness.provider.get_balance(PAYEE).await.unwrap(), U256::ZERO);
    assert_eq!(harness.chain.block_number(), 0);
}

#[tokio::test]
async fn a_timer_ends_when_it_is_replaced_or_the_chain_is_gone() {
    let threads = || std::fs::read_dir("/proc/self/task").map(Iterator::count);
    let harness = Harness::with(Mining::Interval(Duration::from_millis(10)));
    let start = Instant::now();
    while harness.chain.block_number() < 3 {
        assert!(start.elapsed() < LIMIT, "no block came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..50 {
        harness.chain.set_mining(Mining::Interval(Duration::from_secs(3_600)));
    }
    let stopped = harness.chain.block_number();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(harness.chain.block_number(), stopped);
    drop(harness);
    // Where the system tells, no thread is left that would have slept for an hour.
    let start = Instant::now();
    while threads().is_ok_and(|count| count > 10) {
        assert!(start.elapsed() < LIMIT, "timers are still there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
