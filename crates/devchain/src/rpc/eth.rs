//! The `eth_` methods: reading the chain, calls, estimates and sending.

use std::sync::Arc;

use alloy::consensus::TxEnvelope;
use alloy::consensus::transaction::SignerRecoverable;
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::rpc::types::state::{AccountOverride, StateOverride};
use alloy::rpc::types::{BlockOverrides, TransactionRequest};

use super::convert::{self, Listing};
use super::params::{Params, Quantity};
use super::{Answer, hash, maybe, result};
use crate::block::Block;
use crate::error::{Rejection, RpcError};
use crate::execute::View;
use crate::fee::{self, PERCENTILE_LIMIT, SUGGESTED_TIP};
use crate::genesis::{DEV_ACCOUNTS, dev_signer};
use crate::handle::Devchain;
use crate::state::State;

/// Answers `method` if it is one of these.
pub(crate) fn answer(chain: &Devchain, method: &str, params: &Params<'_>) -> Option<Answer> {
    Some(match method {
        "eth_chainId" => result(U64::from(chain.chain_id())),
        "eth_blockNumber" => result(U64::from(chain.block_number())),
        "eth_syncing" | "eth_mining" => result(false),
        "eth_protocolVersion" => result("0x44"),
        "eth_accounts" => result(DEV_ACCOUNTS),
        "eth_coinbase" => result(Address::ZERO),
        "eth_gasPrice" => {
            result(U256::from(u128::from(chain.lock().next_base_fee()) + SUGGESTED_TIP))
        }
        "eth_maxPriorityFeePerGas" => result(U256::from(SUGGESTED_TIP)),
        "eth_blobBaseFee" => result(U256::from(fee::BLOB_BASE_FEE)),
        "eth_feeHistory" => fee_history(chain, params),
        "eth_getBalance" => account(chain, params, 1, |state, address| state.balance(address)),
        "eth_getCode" => account(chain, params, 1, State::code),
        "eth_getStorageAt" => storage_at(chain, params),
        "eth_getTransactionCount" => transaction_count(chain, params),
        "eth_call" => call(chain, params),
        "eth_estimateGas" => estimate_gas(chain, params),
        "eth_sendRawTransaction" => send_raw_transaction(chain, params),
        "eth_sendTransaction" => send_transaction(chain, params),
        _ => return lookup(chain, method, params),
    })
}

/// Methods that find blocks, transactions and receipts.
fn lookup(chain: &Devchain, method: &str, params: &Params<'_>) -> Option<Answer> {
    Some(match method {
        "eth_getBlockByNumber" => {
            block_by(chain, by_number(params), params.optional(1, "full transactions"))
        }
        "eth_getBlockByHash" => {
            block_by(chain, by_hash(params), params.optional(1, "full transactions"))
        }
        "eth_getBlockReceipts" => block_receipts(chain, params),
        "eth_getBlockTransactionCountByNumber" => {
            count(chain, by_number(params), |block| block.transactions.len())
        }
        "eth_getBlockTransactionCountByHash" => {
            count(chain, by_hash(params), |block| block.transactions.len())
        }
        "eth_getUncleCountByBlockNumber" => count(chain, by_number(params), |_| 0),
        "eth_getUncleCountByBlockHash" => count(chain, by_hash(params), |_| 0),
        "eth_getTransactionByBlockNumberAndIndex" => indexed(chain, by_number(params), params),
        "eth_getTransactionByBlockHashAndIndex" => indexed(chain, by_hash(params), params),
        "eth_getTransactionByHash" => transaction_by_hash(chain, params),
        "eth_getRawTransactionByHash" => raw_transaction_by_hash(chain, params),
        "eth_getTransactionReceipt" => transaction_receipt(chain, params),
        _ => return None,
    })
}

fn by_number(params: &Params<'_>) -> Result<BlockId, RpcError> {
    params.required::<BlockNumberOrTag>(0, "block number").map(BlockId::Number)
}

fn by_hash(params: &Params<'_>) -> Result<BlockId, RpcError> {
    params.required::<B256>(0, "block hash").map(BlockId::from)
}

/// The block a state is read at; the head if none is named.
fn at(params: &Params<'_>, index: usize) -> Result<BlockId, RpcError> {
    Ok(params.optional(index, "block")?.unwrap_or_else(BlockId::latest))
}

fn account<T: serde::Serialize>(
    chain: &Devchain,
    params: &Params<'_>,
    block: usize,
    read: impl FnOnce(&State, Address) -> T,
) -> Answer {
    let address = params.required(0, "address")?;
    let state = chain.lock().state(at(params, block)?)?;
    result(read(&state, address))
}

fn storage_at(chain: &Devchain, params: &Params<'_>) -> Answer {
    let slot: Quantity = params.required(1, "position")?;
    account(chain, params, 2, |state, address| B256::from(state.storage(address, slot.0)))
}

fn transaction_count(chain: &Devchain, params: &Params<'_>) -> Answer {
    let address = params.required(0, "address")?;
    let id = at(params, 1)?;
    let chain = chain.lock();
    if id == BlockId::pending() {
        let next = chain.history().head_state().nonce(address);
        return result(U64::from(chain.pool().next_nonce(address, next)));
    }
    result(U64::from(chain.state(id)?.nonce(address)))
}

fn fee_history(chain: &Devchain, params: &Params<'_>) -> Answer {
    let count = params.required::<Quantity>(0, "block count")?.to_u64()?;
    let newest: BlockNumberOrTag = params.required(1, "newest block")?;
    let percentiles: Option<Vec<f64>> = params.optional(2, "reward percentiles")?;
    if let Some(percentiles) = &percentiles {
        let ordered =
            percentiles.is_sorted() && percentiles.iter().all(|p| (0.0..=100.0).contains(p));
        if percentiles.len() > PERCENTILE_LIMIT || !ordered {
            return Err(RpcError::server("invalid reward percentile"));
        }
    }
    let chain = chain.lock();
    let newest = match newest {
        BlockNumberOrTag::Pending => chain.history().head().number(),
        other => {
            chain.number(other).ok_or_else(|| RpcError::server("request beyond head block"))?
        }
    };
    let next = chain.next_base_fee();
    result(fee::fee_history(chain.history(), count, newest, percentiles.as_deref(), next))
}

/// The state a call runs on, with what the caller overrides.
fn view(chain: &Devchain, params: &Params<'_>) -> Result<View, RpcError> {
    let overrides: Option<StateOverride> = params.optional(2, "state overrides")?;
    let block_overrides: Option<BlockOverrides> = params.optional(3, "block overrides")?;
    let id = at(params, 1)?;
    let mut view = chain.lock().view(id)?;
    for (address, account) in overrides.into_iter().flatten() {
        apply_override(&mut view.state, address, account)?;
    }
    if let Some(overrides) = block_overrides {
        view.override_block(&overrides);
    }
    Ok(view)
}

fn apply_override(
    state: &mut State,
    address: Address,
    account: AccountOverride,
) -> Result<(), RpcError> {
    if account.state.is_some() && account.state_diff.is_some() {
        return Err(RpcError::params(format!(
            "account {address} has both 'state' and 'stateDiff'"
        )));
    }
    if account.move_precompile_to.is_some() {
        return Err(RpcError::params("movePrecompileToAddress is not supported"));
    }
    account.balance.inspect(|wei| state.set_balance(address, *wei));
    account.nonce.inspect(|nonce| state.set_nonce(address, *nonce));
    if let Some(code) = account.code {
        state.set_code(address, code);
    }
    if account.state.is_some() {
        state.clear_storage(address);
    }
    for (slot, value) in account.state.or(account.state_diff).into_iter().flatten() {
        state.set_storage(address, slot.into(), value.into());
    }
    Ok(())
}

fn call(chain: &Devchain, params: &Params<'_>) -> Answer {
    use revm::context::result::ExecutionResult;
    let request: TransactionRequest = params.required(0, "transaction")?;
    match view(chain, params)?.call(&request)? {
        ExecutionResult::Success { output, .. } => result(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(RpcError::revert(output)),
        ExecutionResult::Halt { reason, .. } => Err(RpcError::halt(&reason)),
    }
}

fn estimate_gas(chain: &Devchain, params: &Params<'_>) -> Answer {
    let request: TransactionRequest = params.required(0, "transaction")?;
    result(U64::from(view(chain, params)?.estimate_gas(&request)?))
}

fn send_raw_transaction(chain: &Devchain, params: &Params<'_>) -> Answer {
    let raw: Bytes = params.required(0, "transaction")?;
    let mut rest = raw.as_ref();
    let tx = TxEnvelope::decode_2718(&mut rest)
        .map_err(|error| RpcError::server(format!("transaction could not be decoded: {error}")))?;
    if !rest.is_empty() {
        return Err(RpcError::server("transaction could not be decoded: trailing bytes"));
    }
    let tx = tx.try_into_recovered().map_err(|_| Rejection::Sender)?;
    result(chain.submit(tx)?)
}

/// Fills in what is missing, signs with the account's public development key, and sends.
fn send_transaction(chain: &Devchain, params: &Params<'_>) -> Answer {
    let mut request: TransactionRequest = params.required(0, "transaction")?;
    let from = request.from.ok_or_else(RpcError::unknown_account)?;
    let index = DEV_ACCOUNTS
        .iter()
        .position(|account| *account == from)
        .ok_or_else(RpcError::unknown_account)?;
    let (next_nonce, base_fee, view) = {
        let chain = chain.lock();
        let next = chain.history().head_state().nonce(from);
        let view = chain.view(BlockId::latest())?;
        (chain.pool().next_nonce(from, next), chain.next_base_fee(), view)
    };
    if request.gas.is_none() {
        request.gas = Some(view.estimate_gas(&request)?);
    }
    request.nonce.get_or_insert(next_nonce);
    request.chain_id.get_or_insert(view.chain_id);
    if request.gas_price.is_none() {
        let tip = *request.max_priority_fee_per_gas.get_or_insert(SUGGESTED_TIP);
        request.max_fee_per_gas.get_or_insert(u128::from(base_fee) * 2 + tip);
    }
    if request.to.is_none() {
        request.to = Some(alloy::primitives::TxKind::Create);
    }
    request.normalize_input();
    let mut tx = request
        .build_typed_tx()
        .map_err(|_| RpcError::params("the fields do not make a transaction of any type"))?;
    let signature = dev_signer(index)
        .sign_transaction_sync(&mut tx)
        .map_err(|_| RpcError::server("the transaction could not be signed"))?;
    let tx = tx.into_envelope(signature).try_into_recovered().map_err(|_| Rejection::Sender)?;
    result(chain.submit(tx)?)
}

fn block_by(
    chain: &Devchain,
    id: Result<BlockId, RpcError>,
    full: Result<Option<bool>, RpcError>,
) -> Answer {
    let listing = if full?.unwrap_or_default() { Listing::Full } else { Listing::Hashes };
    maybe(find(chain, id?).map(|block| convert::block(&block, listing)))
}

fn block_receipts(chain: &Devchain, params: &Params<'_>) -> Answer {
    maybe(find(chain, at(params, 0)?).map(|block| {
        (0..block.transactions.len())
            .filter_map(|index| convert::receipt(&block, index))
            .collect::<Vec<_>>()
    }))
}

fn count(
    chain: &Devchain,
    id: Result<BlockId, RpcError>,
    of: impl FnOnce(&Block) -> usize,
) -> Answer {
    maybe(find(chain, id?).map(|block| U64::from(of(&block))))
}

fn indexed(chain: &Devchain, id: Result<BlockId, RpcError>, params: &Params<'_>) -> Answer {
    let index = params.required::<Quantity>(1, "index")?.to_u64()?;
    let index = usize::try_from(index).map_err(|_| RpcError::params("index too large"))?;
    maybe(find(chain, id?).and_then(|block| convert::transaction(&block, index)))
}

fn find(chain: &Devchain, id: BlockId) -> Option<Arc<Block>> {
    chain.lock().block(id)
}

fn mined(chain: &Devchain, hash: B256) -> Option<(Arc<Block>, usize)> {
    let chain = chain.lock();
    let (block, index, _) = chain.history().transaction(hash)?;
    Some((Arc::clone(block), index))
}

fn transaction_by_hash(chain: &Devchain, params: &Params<'_>) -> Answer {
    let hash = hash(params, 0)?;
    if let Some((block, index)) = mined(chain, hash) {
        return maybe(convert::transaction(&block, index));
    }
    let waiting = chain.lock().pool().by_hash(hash).cloned();
    maybe(waiting.map(|waiting| convert::waiting_transaction(&waiting.tx)))
}

fn raw_transaction_by_hash(chain: &Devchain, params: &Params<'_>) -> Answer {
    let hash = hash(params, 0)?;
    let chain = chain.lock();
    let tx = match chain.history().transaction(hash) {
        Some((_, _, mined)) => Some(Arc::clone(&mined.tx)),
        None => chain.pool().by_hash(hash).map(|waiting| Arc::clone(&waiting.tx)),
    };
    drop(chain);
    maybe(tx.map(|tx| Bytes::from(tx.encoded_2718())))
}

fn transaction_receipt(chain: &Devchain, params: &Params<'_>) -> Answer {
    let hash = hash(params, 0)?;
    maybe(mined(chain, hash).and_then(|(block, index)| convert::receipt(&block, index)))
}
