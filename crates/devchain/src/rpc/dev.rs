//! The verbs that test tools know from other development chains: `evm_`, `anvil_` and `hardhat_`.
//!
//! Each is a name for a method of [`Devchain`]; none does anything of its own.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use serde::Deserialize;
use serde_json::Value;

use super::params::{Params, Quantity};
use super::{Answer, hash, result};
use crate::error::RpcError;
use crate::handle::{Devchain, Mining, ReorgTransactions, SnapshotId};

/// Most blocks one request makes.
pub const MINE_LIMIT: u64 = 10_000;

/// Answers `method` if it is one of these.
pub(crate) fn answer(chain: &Devchain, method: &str, params: &Params<'_>) -> Option<Answer> {
    let (family, verb) = method.split_once('_')?;
    if !matches!(family, "evm" | "anvil" | "hardhat") {
        return (method == "txpool_status").then(|| txpool_status(chain));
    }
    Some(match verb {
        "mine" if family == "evm" => evm_mine(chain, params),
        "mine" => mine(chain, params),
        "snapshot" => result(U64::from(chain.snapshot().0)),
        "revert" => {
            quantity(params, "snapshot").and_then(|id| result(chain.revert(SnapshotId(id))))
        }
        "increaseTime" => {
            quantity(params, "seconds").and_then(|seconds| result(chain.increase_time(seconds)))
        }
        "setNextBlockTimestamp" => set_next_block_timestamp(chain, params),
        "setAutomine" => params.required(0, "enabled").and_then(|enabled| {
            chain.set_mining(if enabled { Mining::Instant } else { Mining::Manual });
            result(true)
        }),
        "getAutomine" => result(chain.mining() == Mining::Instant),
        "setIntervalMining" => quantity(params, "seconds").and_then(|seconds| {
            let interval = Mining::Interval(Duration::from_secs(seconds));
            chain.set_mining(if seconds == 0 { Mining::Manual } else { interval });
            result(true)
        }),
        "setNextBlockBaseFeePerGas" => quantity(params, "base fee").and_then(|wei| {
            chain.set_next_base_fee(wei);
            result(())
        }),
        "setBalance" | "setNonce" | "setCode" | "setStorageAt" => edit(chain, verb, params),
        "dropTransaction" => {
            hash(params, 0).and_then(|hash| result(chain.drop_transaction(hash).then_some(hash)))
        }
        "reorg" => reorg(chain, params),
        _ => return None,
    })
}

fn quantity(params: &Params<'_>, name: &str) -> Result<u64, RpcError> {
    params.required::<Quantity>(0, name)?.to_u64()
}

fn evm_mine(chain: &Devchain, params: &Params<'_>) -> Answer {
    let (blocks, time) = match params.optional::<Value>(0, "options")? {
        None => (1, None),
        Some(Value::Object(mut options)) => {
            let mut take = |key: &str| match options.remove(key) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => Quantity::deserialize(value)
                    .map_err(|error| RpcError::params(error.to_string()))
                    .and_then(Quantity::to_u64)
                    .map(Some),
            };
            (take("blocks")?.unwrap_or(1), take("timestamp")?)
        }
        Some(_) => (1, Some(quantity(params, "timestamp")?)),
    };
    if time.is_some_and(|time| !chain.set_next_block_timestamp(time)) {
        return Err(timestamp_too_low());
    }
    make(chain, blocks, 0)?;
    result("0x0")
}

fn mine(chain: &Devchain, params: &Params<'_>) -> Answer {
    let number = |index, name, default| match params.optional::<Quantity>(index, name)? {
        Some(quantity) => quantity.to_u64(),
        None => Ok(default),
    };
    make(chain, number(0, "blocks", 1)?, number(1, "interval", 0)?)?;
    result(())
}

/// Makes `blocks` blocks whose times are at least `interval` seconds apart.
fn make(chain: &Devchain, blocks: u64, interval: u64) -> Result<(), RpcError> {
    if blocks > MINE_LIMIT {
        return Err(RpcError::limit(format!("more than {MINE_LIMIT} blocks at once")));
    }
    for index in 0..blocks {
        if index > 0 && interval > 0 {
            chain.increase_time(interval);
        }
        chain.mine(1);
    }
    Ok(())
}

fn set_next_block_timestamp(chain: &Devchain, params: &Params<'_>) -> Answer {
    if chain.set_next_block_timestamp(quantity(params, "timestamp")?) {
        result(())
    } else {
        Err(timestamp_too_low())
    }
}

fn timestamp_too_low() -> RpcError {
    RpcError::params("timestamp is lower than the previous block's timestamp")
}

fn edit(chain: &Devchain, verb: &str, params: &Params<'_>) -> Answer {
    let address: Address = params.required(0, "address")?;
    match verb {
        "setBalance" => chain.set_balance(address, params.required::<Quantity>(1, "wei")?.0),
        "setNonce" => chain.set_nonce(address, params.required::<Quantity>(1, "nonce")?.to_u64()?),
        "setCode" => chain.set_code(address, params.required::<Bytes>(1, "code")?),
        _ => {
            let slot = params.required::<Quantity>(1, "slot")?.0;
            let value = params.required::<B256>(2, "value")?;
            chain.set_storage(address, slot, U256::from_be_bytes(value.0));
        }
    }
    result(true)
}

/// `[depth, pairs]` or `[{depth, txBlockPairs}]`; transactions of removed blocks are dropped, and none can be put in.
fn reorg(chain: &Devchain, params: &Params<'_>) -> Answer {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Options {
        depth: u64,
        #[serde(default, alias = "tx_block_pairs")]
        tx_block_pairs: Vec<Value>,
    }
    let options = match params.required::<Value>(0, "depth")? {
        Value::Object(object) => Options::deserialize(Value::Object(object))
            .map_err(|error| RpcError::params(error.to_string()))?,
        _ => Options {
            depth: quantity(params, "depth")?,
            tx_block_pairs: params.optional(1, "transactions")?.unwrap_or_default(),
        },
    };
    if !options.tx_block_pairs.is_empty() {
        return Err(RpcError::params("transactions cannot be put into the new blocks"));
    }
    if chain.block_number() < options.depth {
        return Err(RpcError::params("reorg depth is deeper than the chain"));
    }
    chain.reorg(options.depth, ReorgTransactions::Drop);
    result(())
}

fn txpool_status(chain: &Devchain) -> Answer {
    let chain = chain.lock();
    let state = chain.history().head_state();
    let runnable: u64 = chain
        .pool()
        .senders()
        .map(|sender| {
            let next = state.nonce(sender);
            chain.pool().next_nonce(sender, next) - next
        })
        .sum();
    let all = chain.pool().len() as u64;
    result(serde_json::json!({
        "pending": U64::from(runnable),
        "queued": U64::from(all.saturating_sub(runnable)),
    }))
}
