//! A block with its transactions and receipts, and how its header is made.
//!
//! Hash, transactions root, receipts root and bloom are Ethereum's. The state root is not: it chains the receipts
//! roots, because a Merkle trie over the state would cost more than everything else a block does. No client of this
//! chain can see the difference except by a storage proof, which the chain does not offer.

use std::sync::Arc;

use alloy::consensus::constants::EMPTY_WITHDRAWALS;
use alloy::consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy::consensus::transaction::Recovered;
use alloy::consensus::{EMPTY_OMMER_ROOT_HASH, Header, ReceiptEnvelope, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy::primitives::{Address, B64, B256, Bloom, Bytes, U256, keccak256};

/// A mined transaction with what it did.
#[derive(Clone, Debug)]
pub(crate) struct MinedTransaction {
    pub(crate) tx: Arc<Recovered<TxEnvelope>>,
    pub(crate) receipt: ReceiptEnvelope,
    /// Gas of this transaction alone.
    pub(crate) gas_used: u64,
    /// Wei per gas that was paid.
    pub(crate) effective_gas_price: u128,
    /// Address of the contract it created, if it did.
    pub(crate) created: Option<Address>,
    /// Position in the block of its first log.
    pub(crate) first_log: u64,
}

/// A sealed block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) hash: B256,
    pub(crate) header: Header,
    pub(crate) transactions: Vec<MinedTransaction>,
    /// Length of header and transactions, in bytes.
    pub(crate) size: usize,
}

/// What is known of a block before its transactions ran.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) parent_hash: B256,
    pub(crate) parent_state_root: B256,
    pub(crate) number: u64,
    pub(crate) timestamp: u64,
    pub(crate) base_fee: u64,
    pub(crate) gas_limit: u64,
    pub(crate) beneficiary: Address,
    /// Distinguishes otherwise equal blocks of different forks.
    pub(crate) fork: u64,
}

impl Draft {
    /// The header while transactions run; roots and gas used are not there yet.
    pub(crate) fn header(&self) -> Header {
        Header {
            parent_hash: self.parent_hash,
            ommers_hash: EMPTY_OMMER_ROOT_HASH,
            beneficiary: self.beneficiary,
            difficulty: U256::ZERO,
            number: self.number,
            gas_limit: self.gas_limit,
            timestamp: self.timestamp,
            extra_data: Bytes::from_static(b"pay402 devchain"),
            mix_hash: randao(self.number, self.fork),
            nonce: B64::ZERO,
            base_fee_per_gas: Some(self.base_fee),
            withdrawals_root: Some(EMPTY_WITHDRAWALS),
            blob_gas_used: Some(0),
            excess_blob_gas: Some(0),
            parent_beacon_block_root: Some(B256::ZERO),
            requests_hash: Some(EMPTY_REQUESTS_HASH),
            ..Header::default()
        }
    }

    /// The block, once its transactions ran.
    pub(crate) fn seal(&self, transactions: Vec<MinedTransaction>) -> Block {
        let mut header = self.header();
        let envelopes: Vec<&TxEnvelope> =
            transactions.iter().map(|mined| mined.tx.inner()).collect();
        let receipts: Vec<&ReceiptEnvelope> =
            transactions.iter().map(|mined| &mined.receipt).collect();
        header.transactions_root = calculate_transaction_root(&envelopes);
        header.receipts_root = calculate_receipt_root(&receipts);
        header.state_root = keccak256(
            [self.parent_state_root.as_slice(), header.receipts_root.as_slice()].concat(),
        );
        header.gas_used = receipts.last().map_or(0, |receipt| receipt.cumulative_gas_used());
        header.logs_bloom =
            receipts.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | *receipt.logs_bloom());
        let body: usize = envelopes.iter().map(|tx| tx.encode_2718_len()).sum();
        Block { hash: header.hash_slow(), size: header.size() + body, header, transactions }
    }
}

impl Block {
    pub(crate) fn number(&self) -> u64 {
        self.header.number
    }
}

fn randao(number: u64, fork: u64) -> B256 {
    let mut seed = [0u8; 16];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    seed[8..].copy_from_slice(&fork.to_be_bytes());
    keccak256(seed)
}
