//! Why the chain refuses something, in the words that Ethereum clients match on.
//!
//! Messages follow geth, because wallets and SDKs decide by them. No state and no formatting of results lives here.

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::{Panic, Revert, SolError};
use revm::context::result::{EVMError, HaltReason, InvalidTransaction};
use serde::Serialize;

/// A transaction that did not enter the mempool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The same transaction waits already; once mined, its nonce is too low.
    #[error("already known")]
    AlreadyKnown,
    /// Its nonce was used.
    #[error("nonce too low: next nonce {expected}, tx nonce {nonce}")]
    NonceTooLow {
        /// Next nonce of the account.
        expected: u64,
        /// Nonce of the transaction.
        nonce: u64,
    },
    /// Another transaction has its nonce and its fees are not 10 % higher.
    #[error("replacement transaction underpriced")]
    ReplacementUnderpriced,
    /// The sender cannot pay for gas and value.
    #[error(
        "insufficient funds for gas * price + value: balance {balance}, tx cost {cost}, overshot {}",
        .cost.saturating_sub(*.balance)
    )]
    InsufficientFunds {
        /// What the sender has, in wei.
        balance: U256,
        /// The most the transaction may cost, in wei.
        cost: U256,
    },
    /// Less gas than the transaction costs before it runs.
    #[error("intrinsic gas too low: gas {gas}, minimum needed {needed}")]
    IntrinsicGas {
        /// Gas limit of the transaction.
        gas: u64,
        /// Least gas limit (EIP-2028, EIP-7623).
        needed: u64,
    },
    /// More gas than a block has.
    #[error("exceeds block gas limit")]
    BlockGasLimit,
    /// More gas than one transaction may ask for (EIP-7825).
    #[error("transaction gas limit too high (cap: {cap}, tx: {gas})")]
    GasCap {
        /// The cap.
        cap: u64,
        /// Gas limit of the transaction.
        gas: u64,
    },
    /// Its fee cap is below the next block's base fee and the chain would never mine it by itself.
    #[error(
        "max fee per gas less than block base fee: maxFeePerGas: {max_fee}, baseFee: {base_fee}"
    )]
    FeeBelowBase {
        /// Fee cap, wei per gas.
        max_fee: u128,
        /// Base fee, wei per gas.
        base_fee: u64,
    },
    /// The tip is above the fee cap.
    #[error(
        "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {max_fee}"
    )]
    TipAboveFee {
        /// Tip, wei per gas.
        tip: u128,
        /// Fee cap, wei per gas.
        max_fee: u128,
    },
    /// Signed for another chain.
    #[error("invalid chain id for signer: have {have} want {want}")]
    ChainId {
        /// Chain id in the transaction.
        have: u64,
        /// Chain id of this chain.
        want: u64,
    },
    /// The signature does not recover.
    #[error("invalid sender")]
    Sender,
    /// The sender runs code that is not a delegation (EIP-3607).
    #[error("sender not an eoa")]
    SenderNotEoa,
    /// Blob transactions are not carried.
    #[error("transaction type not supported")]
    TypeNotSupported,
    /// A type-4 transaction without authorizations (EIP-7702).
    #[error("set code transaction must have at least one authorization")]
    NoAuthorizations,
    /// Creation code above the limit (EIP-3860).
    #[error("max initcode size exceeded")]
    InitCodeSize,
    /// The mempool is at its capacity.
    #[error("txpool is full")]
    PoolFull,
}

/// A JSON-RPC error object.
#[derive(Clone, Debug, Serialize)]
pub struct RpcError {
    /// JSON-RPC error code.
    pub code: i64,
    /// What went wrong.
    pub message: String,
    /// Revert data, where there is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Bytes>,
}

impl RpcError {
    /// A request that is not JSON-RPC.
    pub(crate) fn invalid_request(message: &str) -> Self {
        Self { code: -32600, message: message.to_owned(), data: None }
    }

    /// Bytes that are not JSON.
    pub(crate) fn parse() -> Self {
        Self { code: -32700, message: "parse error".to_owned(), data: None }
    }

    /// A method this chain does not have.
    pub(crate) fn method(name: &str) -> Self {
        let message = format!("the method {name} does not exist/is not available");
        Self { code: -32601, message, data: None }
    }

    /// Parameters that do not fit the method.
    pub(crate) fn params(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into(), data: None }
    }

    /// Anything the chain refuses.
    pub(crate) fn server(message: impl Into<String>) -> Self {
        Self { code: -32000, message: message.into(), data: None }
    }

    /// A limit of this server.
    pub(crate) fn limit(message: impl Into<String>) -> Self {
        Self { code: -32005, message: message.into(), data: None }
    }

    /// A call that reverted, with its data.
    pub(crate) fn revert(output: Bytes) -> Self {
        let message = match reason(&output) {
            Some(reason) => format!("execution reverted: {reason}"),
            None => "execution reverted".to_owned(),
        };
        Self { code: 3, message, data: Some(output) }
    }

    /// A call that ran into a wall.
    pub(crate) fn halt(reason: &HaltReason) -> Self {
        Self::server(match reason {
            HaltReason::OutOfGas(_) => "out of gas".to_owned(),
            HaltReason::InvalidFEOpcode => "invalid opcode: INVALID".to_owned(),
            HaltReason::OpcodeNotFound => "invalid opcode".to_owned(),
            HaltReason::InvalidJump => "invalid jump destination".to_owned(),
            HaltReason::StateChangeDuringStaticCall => "write protection".to_owned(),
            HaltReason::CreateCollision => "contract address collision".to_owned(),
            HaltReason::CreateContractSizeLimit => "max code size exceeded".to_owned(),
            other => other.to_string().to_lowercase(),
        })
    }

    /// A call that could not even start.
    pub(crate) fn not_executable<E: std::fmt::Display>(error: EVMError<E>) -> Self {
        let EVMError::Transaction(invalid) = error else {
            return Self { code: -32603, message: "internal error".to_owned(), data: None };
        };
        Self::server(match invalid {
            InvalidTransaction::LackOfFundForMaxFee { fee, balance } => format!(
                "insufficient funds for gas * price + value: balance {balance}, tx cost {fee}, overshot {}",
                fee.saturating_sub(*balance)
            ),
            InvalidTransaction::CallGasCostMoreThanGasLimit { initial_gas, gas_limit } => {
                format!("intrinsic gas too low: have {gas_limit}, want {initial_gas}")
            }
            InvalidTransaction::GasFloorMoreThanGasLimit { gas_floor, gas_limit } => {
                format!("intrinsic gas too low: have {gas_limit}, want {gas_floor}")
            }
            InvalidTransaction::GasPriceLessThanBasefee => {
                "max fee per gas less than block base fee".to_owned()
            }
            InvalidTransaction::PriorityFeeGreaterThanMaxFee => {
                "max priority fee per gas higher than max fee per gas".to_owned()
            }
            InvalidTransaction::CreateInitCodeSizeLimit => "max initcode size exceeded".to_owned(),
            InvalidTransaction::InvalidChainId => "invalid chain id for signer".to_owned(),
            other => other.to_string(),
        })
    }

    /// A block that is not part of the chain.
    pub(crate) fn block_not_found() -> Self {
        Self::server("header not found")
    }

    /// A block whose state is no longer kept.
    pub(crate) fn state_pruned(number: u64, kept: u64) -> Self {
        Self::server(format!(
            "missing trie node: the state of block {number} is not available, only the last {kept} states are kept"
        ))
    }

    /// A transaction of an account whose key the chain does not hold.
    pub(crate) fn unknown_account() -> Self {
        Self::server("unknown account")
    }
}

impl From<Rejection> for RpcError {
    fn from(rejection: Rejection) -> Self {
        Self::server(rejection.to_string())
    }
}

impl std::fmt::Display for RpcError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

/// The words in revert data, if it has any: `Error(string)` or `Panic(uint256)`.
fn reason(output: &[u8]) -> Option<String> {
    if let Ok(revert) = Revert::abi_decode(output) {
        return Some(revert.reason);
    }
    let panic = Panic::abi_decode(output).ok()?;
    Some(match panic.kind() {
        Some(kind) => kind.as_str().to_owned(),
        None => format!("unknown panic code: {:#x}", panic.code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverts_carry_reason_and_data() {
        let data = Bytes::from(Revert::from("no").abi_encode());
        let error = RpcError::revert(data.clone());
        assert_eq!((error.code, error.message.as_str()), (3, "execution reverted: no"));
        assert_eq!(error.data, Some(data));
        assert_eq!(RpcError::revert(Bytes::new()).message, "execution reverted");
    }
}
