//! Blocks, transactions, receipts and logs as JSON-RPC shows them.

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{ReceiptEnvelope, Transaction as _, TxEnvelope};
use alloy::primitives::U256;
use alloy::rpc::types::{
    Block as RpcBlock, BlockTransactions, Filter, Header, Log, Transaction, TransactionReceipt,
};

use crate::block::{Block, MinedTransaction};

/// How a block lists its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listing {
    Full,
    Hashes,
}

pub(crate) fn header(block: &Block) -> Header {
    Header {
        hash: block.hash,
        inner: block.header.clone(),
        total_difficulty: Some(U256::ZERO),
        size: Some(U256::from(block.size)),
    }
}

pub(crate) fn block(block: &Block, listing: Listing) -> RpcBlock {
    let transactions = match listing {
        Listing::Full => BlockTransactions::Full(
            (0..block.transactions.len()).filter_map(|index| transaction(block, index)).collect(),
        ),
        Listing::Hashes => BlockTransactions::Hashes(
            block.transactions.iter().map(|mined| *mined.tx.tx_hash()).collect(),
        ),
    };
    RpcBlock {
        header: header(block),
        uncles: Vec::new(),
        transactions,
        withdrawals: Some(Vec::new().into()),
    }
}

/// The transaction at `index` of `block`.
pub(crate) fn transaction(block: &Block, index: usize) -> Option<Transaction> {
    let mined = block.transactions.get(index)?;
    Some(Transaction {
        inner: mined.tx.as_ref().clone(),
        block_hash: Some(block.hash),
        block_number: Some(block.number()),
        transaction_index: Some(index as u64),
        effective_gas_price: Some(mined.effective_gas_price),
        block_timestamp: Some(block.header.timestamp),
    })
}

pub(crate) fn waiting_transaction(tx: &Recovered<TxEnvelope>) -> Transaction {
    Transaction {
        inner: tx.clone(),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: None,
        block_timestamp: None,
    }
}

/// The receipt of the transaction at `index` of `block`.
pub(crate) fn receipt(block: &Block, index: usize) -> Option<TransactionReceipt> {
    let mined = block.transactions.get(index)?;
    let mut position = 0;
    let inner: ReceiptEnvelope<Log> = mined.receipt.clone().map_logs(|inner| {
        let log = Log { inner, ..log_at(block, mined, index, position) };
        position += 1;
        log
    });
    Some(TransactionReceipt {
        inner,
        transaction_hash: *mined.tx.tx_hash(),
        transaction_index: Some(index as u64),
        block_hash: Some(block.hash),
        block_number: Some(block.number()),
        gas_used: mined.gas_used,
        effective_gas_price: mined.effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: mined.tx.signer(),
        to: mined.tx.to(),
        contract_address: mined.created,
    })
}

/// Whether a log is news, or news of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Canonical,
    Removed,
}

/// The logs of `block` that `filter` asks for; its block range is not looked at.
pub(crate) fn logs(block: &Block, filter: &Filter, standing: Standing) -> Vec<Log> {
    if !filter.matches_bloom(block.header.logs_bloom) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, mined) in block.transactions.iter().enumerate() {
        for (position, inner) in mined.receipt.logs().iter().enumerate() {
            if filter.matches(inner) {
                found.push(Log {
                    inner: inner.clone(),
                    removed: standing == Standing::Removed,
                    ..log_at(block, mined, index, position as u64)
                });
            }
        }
    }
    found
}

fn log_at(block: &Block, mined: &MinedTransaction, index: usize, position: u64) -> Log {
    Log {
        inner: alloy::primitives::Log::default(),
        block_hash: Some(block.hash),
        block_number: Some(block.number()),
        block_timestamp: Some(block.header.timestamp),
        transaction_hash: Some(*mined.tx.tx_hash()),
        transaction_index: Some(index as u64),
        log_index: Some(mined.first_log + position),
        removed: false,
    }
}
