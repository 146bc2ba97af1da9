//! Gas prices: the next base fee and what clients are told about past ones.
//!
//! Base fees follow EIP-1559 with Ethereum's parameters. Nothing here decides whether a transaction is taken.

use alloy::consensus::{Header, Transaction};
use alloy::eips::eip1559::BaseFeeParams;
use alloy::rpc::types::FeeHistory;

use crate::block::Block;
use crate::history::History;

/// Base fee of block 0, wei per gas.
pub const GENESIS_BASE_FEE: u64 = 1_000_000_000;
/// Tip that `eth_maxPriorityFeePerGas` suggests, wei per gas.
pub const SUGGESTED_TIP: u128 = 1_000_000_000;
/// Most blocks one `eth_feeHistory` covers.
pub const FEE_HISTORY_LIMIT: u64 = 1_024;
/// Most percentiles one `eth_feeHistory` asks for.
pub const PERCENTILE_LIMIT: usize = 100;
/// Price of blob gas on a chain without blobs, wei per gas.
pub(crate) const BLOB_BASE_FEE: u128 = 1;

/// Base fee of the block after `parent`, wei per gas.
pub(crate) fn next_base_fee(parent: &Header) -> u64 {
    parent.next_block_base_fee(BaseFeeParams::ethereum()).unwrap_or(GENESIS_BASE_FEE)
}

/// Base fees, fullness and tips of the `count` blocks up to `newest`; `next` is the base fee after the head.
pub(crate) fn fee_history(
    history: &History,
    count: u64,
    newest: u64,
    percentiles: Option<&[f64]>,
    next: u64,
) -> FeeHistory {
    let count = count.min(FEE_HISTORY_LIMIT).min(newest - history.first() + 1);
    let oldest = newest + 1 - count;
    let blocks: Vec<&Block> =
        (oldest..=newest).filter_map(|number| history.block(number).map(AsRef::as_ref)).collect();
    let mut base_fees: Vec<u128> = blocks.iter().map(|block| base_fee(block).into()).collect();
    base_fees.push(match history.block(newest + 1) {
        Some(following) => base_fee(following).into(),
        None => next.into(),
    });
    FeeHistory {
        base_fee_per_blob_gas: vec![BLOB_BASE_FEE; base_fees.len()],
        base_fee_per_gas: base_fees,
        gas_used_ratio: blocks.iter().map(|block| fullness(&block.header)).collect(),
        blob_gas_used_ratio: vec![0.0; blocks.len()],
        oldest_block: oldest,
        reward: percentiles
            .map(|percentiles| blocks.iter().map(|block| tips(block, percentiles)).collect()),
    }
}

fn base_fee(block: &Block) -> u64 {
    block.header.base_fee_per_gas.unwrap_or_default()
}

#[allow(
    clippy::cast_precision_loss,
    clippy::float_arithmetic,
    reason = "the RPC reports fullness as a float; it is not money"
)]
fn fullness(header: &Header) -> f64 {
    header.gas_used as f64 / header.gas_limit as f64
}

/// Tips at percentiles of the gas used in `block`.
fn tips(block: &Block, percentiles: &[f64]) -> Vec<u128> {
    let base_fee = base_fee(block);
    let mut tips: Vec<(u128, u64)> = block
        .transactions
        .iter()
        .map(|mined| (mined.tx.effective_tip_per_gas(base_fee).unwrap_or_default(), mined.gas_used))
        .collect();
    tips.sort_unstable();
    percentiles
        .iter()
        .map(|percentile| {
            let threshold = gas_at(block.header.gas_used, *percentile);
            let mut gas = 0;
            tips.iter()
                .find(|(_, used)| {
                    gas += used;
                    gas >= threshold
                })
                .or(tips.last())
                .map_or(0, |(tip, _)| *tip)
        })
        .collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_arithmetic,
    reason = "percentiles are floats on the wire and were checked to be within 0 and 100; this is gas, not money"
)]
fn gas_at(gas_used: u64, percentile: f64) -> u64 {
    (gas_used as f64 * percentile / 100.0) as u64
}
