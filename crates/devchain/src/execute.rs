//! Running one transaction or call on a state, with revm.
//!
//! Pure: a state and an environment go in, a result and the changes come out; nothing is committed here. The invariant
//! kept: a mined transaction is checked in full (nonce, funds, base fee, gas caps); only calls may skip checks.

use std::convert::Infallible;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Header, Transaction, TxEnvelope, Typed2718};
use alloy::primitives::{Address, TxKind, U256};
use alloy::rpc::types::{BlockOverrides, TransactionRequest};
use revm::context::result::{EVMError, ExecResultAndState, ExecutionResult, HaltReason};
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::context_interface::block::BlobExcessGasAndPrice;
use revm::context_interface::cfg::gas::calculate_initial_tx_gas_for_tx;
use revm::context_interface::either::Either;
use revm::database_interface::WrapDatabaseRef;
use revm::primitives::hardfork::SpecId;
use revm::state::EvmState;
use revm::{ExecuteEvm, MainBuilder, MainContext};

use crate::error::{Rejection, RpcError};
use crate::state::State;

/// The rules of the chain.
pub(crate) const SPEC: SpecId = SpecId::OSAKA;
/// Most gas a transaction may ask for (EIP-7825).
pub(crate) const TX_GAS_CAP: u64 = 1 << 24;
/// Most creation code, in bytes (EIP-3860).
pub(crate) const INIT_CODE_LIMIT: usize = 49_152;
/// Gas of a call that names none.
pub(crate) const CALL_GAS: u64 = 50_000_000;
/// A gas estimate may be this many thousandths above the least that works.
const ESTIMATE_TOLERANCE_PER_MILLE: u64 = 15;
/// Gas that a CALL with value hands to its target on top (EIP-150), which an estimate must leave room for.
const CALL_STIPEND: u64 = 2_300;

/// What running something gave.
pub(crate) type Outcome = ExecResultAndState<ExecutionResult, EvmState>;
/// Why something could not start.
pub(crate) type NotExecutable = EVMError<Infallible>;

/// Which checks a run skips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checks {
    /// All apply: the run is for a block.
    Mined,
    /// Nonce, sender's code, gas caps, and, where no fee is named, the base fee are not looked at.
    Call,
}

/// A state to read and run calls on, with the block they see.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) chain_id: u64,
    pub(crate) state: State,
    pub(crate) block: BlockEnv,
}

/// Runs `tx` on `state`.
pub(crate) fn run(
    chain_id: u64,
    state: &State,
    block: BlockEnv,
    tx: TxEnv,
    checks: Checks,
) -> Result<Outcome, NotExecutable> {
    let mut cfg = CfgEnv::new().with_spec_and_mainnet_gas_params(SPEC).with_chain_id(chain_id);
    if checks == Checks::Call {
        cfg.disable_nonce_check = true;
        cfg.disable_eip3607 = true;
        cfg.disable_block_gas_limit = true;
        cfg.tx_gas_limit_cap = Some(u64::MAX);
        cfg.disable_base_fee = tx.gas_price == 0 && tx.gas_priority_fee.unwrap_or_default() == 0;
    }
    let context =
        Context::mainnet().with_db(WrapDatabaseRef(state)).with_cfg(cfg).with_block(block);
    context.build_mainnet().transact(tx)
}

/// The environment that transactions of the block with `header` see.
pub(crate) fn block_env(header: &Header) -> BlockEnv {
    BlockEnv {
        number: U256::from(header.number),
        beneficiary: header.beneficiary,
        timestamp: U256::from(header.timestamp),
        gas_limit: header.gas_limit,
        basefee: header.base_fee_per_gas.unwrap_or_default(),
        difficulty: U256::ZERO,
        prevrandao: Some(header.mix_hash),
        blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new_with_spec(0, SPEC)),
        slot_num: header.number,
    }
}

/// A signed transaction as revm takes it.
pub(crate) fn signed_env(tx: &Recovered<TxEnvelope>) -> TxEnv {
    TxEnv {
        tx_type: tx.ty(),
        caller: tx.signer(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: tx
            .authorization_list()
            .unwrap_or_default()
            .iter()
            .cloned()
            .map(Either::Left)
            .collect(),
    }
}

/// Least gas limit that lets `tx` start: intrinsic gas and the call data floor (EIP-7623).
pub(crate) fn least_gas(tx: &TxEnv) -> u64 {
    let gas = calculate_initial_tx_gas_for_tx(tx, SPEC, None);
    gas.initial_total_gas().max(gas.floor_gas())
}

impl View {
    /// Changes what the call's block looks like.
    pub(crate) fn override_block(&mut self, overrides: &BlockOverrides) {
        let block = &mut self.block;
        let narrow = |value: U256| u64::try_from(value).unwrap_or(u64::MAX);
        overrides.number.inspect(|number| block.number = *number);
        overrides.time.inspect(|time| block.timestamp = U256::from(*time));
        overrides.gas_limit.inspect(|gas| block.gas_limit = *gas);
        overrides.coinbase.inspect(|coinbase| block.beneficiary = *coinbase);
        overrides.random.inspect(|random| block.prevrandao = Some(*random));
        overrides.base_fee.inspect(|base_fee| block.basefee = narrow(*base_fee));
    }

    /// Runs a call and gives its result; nothing is changed.
    pub(crate) fn call(&self, request: &TransactionRequest) -> Result<ExecutionResult, RpcError> {
        let mut tx = self.request_env(request)?;
        tx.gas_limit = request.gas.unwrap_or(CALL_GAS).min(CALL_GAS);
        if request.gas.is_none() {
            tx.gas_limit = tx.gas_limit.min(self.affordable_gas(&tx)?);
        }
        self.run(tx)
    }

    /// The gas limit that `request` needs, at most 1.5 % above the least that works.
    pub(crate) fn estimate_gas(&self, request: &TransactionRequest) -> Result<u64, RpcError> {
        let mut tx = self.request_env(request)?;
        let ceiling = self.block.gas_limit.min(TX_GAS_CAP);
        let highest = request.gas.unwrap_or(ceiling).min(ceiling).min(self.affordable_gas(&tx)?);
        let too_little = || RpcError::server(format!("gas required exceeds allowance ({highest})"));
        if highest < least_gas(&tx) {
            return Err(too_little());
        }
        tx.gas_limit = highest;
        let gas = match self.run(tx.clone())? {
            ExecutionResult::Success { gas, .. } => gas,
            ExecutionResult::Revert { output, .. } => return Err(RpcError::revert(output)),
            ExecutionResult::Halt { reason, .. } => {
                let out_of_gas = matches!(reason, HaltReason::OutOfGas(_));
                return Err(if out_of_gas { too_little() } else { RpcError::halt(&reason) });
            }
        };
        // Most calls need what they spent before refunds; a call that forwards gas needs a 64th more (EIP-150).
        let spent = gas.total_gas_spent().max(gas.floor_gas());
        let roomy = spent.saturating_add(CALL_STIPEND).saturating_mul(64) / 63;
        let mut low = spent.saturating_sub(1);
        let mut high = highest;
        for guess in [spent, roomy] {
            if guess > low && guess < high {
                if self.succeeds(&tx, guess)? {
                    high = guess;
                    break;
                }
                low = guess;
            }
        }
        while low + 1 < high && (high - low) * 1_000 > high * ESTIMATE_TOLERANCE_PER_MILLE {
            let middle = low + (high - low) / 2;
            if self.succeeds(&tx, middle)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }

    fn succeeds(&self, tx: &TxEnv, gas_limit: u64) -> Result<bool, RpcError> {
        Ok(self.run(TxEnv { gas_limit, ..tx.clone() })?.is_success())
    }

    fn run(&self, tx: TxEnv) -> Result<ExecutionResult, RpcError> {
        run(self.chain_id, &self.state, self.block.clone(), tx, Checks::Call)
            .map(|outcome| outcome.result)
            .map_err(RpcError::not_executable)
    }

    /// Gas that the sender can pay for at the price it names, besides the value; without a price, any.
    fn affordable_gas(&self, tx: &TxEnv) -> Result<u64, RpcError> {
        let balance = self.state.balance(tx.caller);
        let Some(spendable) = balance.checked_sub(tx.value) else {
            return Err(Rejection::InsufficientFunds { balance, cost: tx.value }.into());
        };
        if tx.gas_price == 0 {
            return Ok(u64::MAX);
        }
        Ok(u64::try_from(spendable / U256::from(tx.gas_price)).unwrap_or(u64::MAX))
    }

    fn request_env(&self, request: &TransactionRequest) -> Result<TxEnv, RpcError> {
        let data = request
            .input
            .unique_input()
            .map_err(|_| RpcError::params("both \"data\" and \"input\" are set and differ"))?
            .cloned()
            .unwrap_or_default();
        if request.gas_price.is_some() && request.max_fee_per_gas.is_some() {
            return Err(RpcError::params("both gasPrice and maxFeePerGas are set"));
        }
        if request.blob_versioned_hashes.as_ref().is_some_and(|hashes| !hashes.is_empty()) {
            return Err(RpcError::params("blob transactions are not supported"));
        }
        let authorizations = request.authorization_list.clone().unwrap_or_default();
        let dynamic_fee = request.max_fee_per_gas.or(request.max_priority_fee_per_gas).is_some();
        let tx_type = match (authorizations.is_empty(), dynamic_fee, &request.access_list) {
            (false, _, _) => 4,
            (true, true, _) => 2,
            (true, false, Some(_)) => 1,
            (true, false, None) => 0,
        };
        let max_fee = request.max_fee_per_gas.or(request.gas_price);
        let caller = request.from.unwrap_or(Address::ZERO);
        Ok(TxEnv {
            tx_type,
            caller,
            gas_limit: 0,
            gas_price: max_fee.or(request.max_priority_fee_per_gas).unwrap_or_default(),
            kind: request.to.unwrap_or(TxKind::Create),
            value: request.value.unwrap_or_default(),
            data,
            nonce: self.state.nonce(caller),
            chain_id: Some(request.chain_id.unwrap_or(self.chain_id)),
            access_list: request.access_list.clone().unwrap_or_default(),
            gas_priority_fee: dynamic_fee
                .then(|| request.max_priority_fee_per_gas.unwrap_or_default()),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: authorizations.into_iter().map(Either::Left).collect(),
        })
    }
}
