//! Sending for roots that pay their own gas. Others have a facilitator send what they signed.
//!
//! **Invariant:** a sent transaction proves nothing about a delegation: one that is not good is
//! skipped, and the transaction succeeds all the same. Whoever adopts looks at the account
//! afterwards ([`super::state::standing`]).

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEip7702};
use alloy::eips::Encodable2718 as _;
use alloy::eips::eip2930::AccessList;
use alloy::primitives::{Address, B256, Bytes, TxKind, U64, U256};
use alloy::signers::Signer;
use pay402_core::error::Unavailable;
use pay402_core::network::SendError;
use serde_json::{Value, json};

use super::abi::AgentAccount as Contract;
use super::state::{KeyState, Standing, view};
use super::{AGENT_ACCOUNT, Adoption, AgentAccount, RootOperation};
use crate::fees::Fees;
use crate::network::errors;
use crate::rpc::{Block, Call, Called, Receipt, Rpc};

/// Gas of a transaction that adopts and calls nothing: 21,000 for itself, 25,000 for the
/// delegation, and what may come on top by later rules.
const GAS_ADOPTION: u64 = 100_000;
/// Gas for each word of call data of a registration: at most one new slot of storage, and what it
/// takes to hash and log it.
const GAS_PER_WORD: u64 = 30_000;
/// Why a transaction comes too late.
const OVERTAKEN: &str = "the account sent another transaction in the meantime; try again";
/// Most gas that is offered.
const GAS_MAX: u64 = 15_000_000;

/// Why nothing was sent, or it is not known what became of it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RelayError {
    /// The account would refuse the call, or the chain the transaction: nothing was sent.
    #[error("{0}")]
    Refused(String),
    /// The root has too little to pay the gas with: nothing was sent.
    #[error("the gas may cost {needed} wei, and the account has {held} wei")]
    Funds {
        /// What it may cost, in wei.
        needed: U256,
        /// What the account has, in wei.
        held: U256,
    },
    /// Another transaction of the account waits with the nonce that this one would need: nothing
    /// was sent.
    #[error("a transaction of the account with nonce {nonce} is not mined yet")]
    Pending {
        /// Its nonce.
        nonce: u64,
    },
    /// The node did not answer: nothing was sent.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The node's answer does not say whether it took the transaction.
    #[error("it is not known whether the transaction {transaction} was sent: {problem}")]
    Unknown {
        /// Its hash.
        transaction: B256,
        /// What the node said.
        problem: String,
    },
}

/// Whether the transaction also adopts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Adopting {
    /// It delegates the account first.
    Yes,
    /// The account runs the agent account already.
    No,
}

/// Sends `call` to the account from the account itself, signed by its root key.
///
/// # Errors
/// See [`RelayError`].
pub async fn send(
    rpc: &Rpc,
    root: &(impl Signer + Sync),
    account: AgentAccount,
    standing: &Standing,
    adopting: Adopting,
    call: Bytes,
) -> Result<B256, RelayError> {
    let trial = trial(account.address, adopting, &call);
    let (mined, pending) =
        (Call::mined_nonces(account.address), Call::pending_nonces(account.address));
    let [head, tip, trial, mined, pending] =
        rpc.ask_all([Call::head(), Call::tip(), trial, mined, pending]).await?;
    if rpc.read::<U64>(mined)?.to::<u64>() != standing.nonce {
        return Err(RelayError::Refused(OVERTAKEN.into()));
    }
    // Beside it, this one would be refused or take its place, and of an account with code most nodes
    // hold one alone. A node that does not tell what is pending refuses it itself.
    if rpc.read::<U64>(pending).is_ok_and(|pending| pending.to::<u64>() > standing.nonce) {
        return Err(RelayError::Pending { nonce: standing.nonce });
    }
    let gas_limit = match trial {
        Err(error) if errors::execution_failure(&error).is_some() => {
            let why = errors::execution_failure(&error).unwrap_or_default();
            return Err(RelayError::Refused(why));
        }
        Ok(gas) if adopting == Adopting::No => {
            let gas: U64 = rpc.read(Ok(gas))?;
            gas.to::<u64>().saturating_mul(5) / 4
        }
        // A node that cannot try a call on an account that is not adopted yet is no obstacle.
        Ok(_) | Err(_) => adoption_gas(&call),
    };
    let head: Block = rpc.read(head)?;
    let Some(fees) = Fees::offered(rpc, &head, tip) else {
        return Err(RelayError::Refused("gas costs more than is paid here; try later".into()));
    };
    let gas = Gas { limit: gas_limit.min(GAS_MAX), fees };
    let needed = U256::from(gas.limit).saturating_mul(U256::from(fees.max));
    if needed > standing.wei {
        return Err(RelayError::Funds { needed, held: standing.wei });
    }
    let (transaction, raw) = sign(root, account, standing.nonce, adopting, call, gas).await?;
    match rpc.ask(Call::new("eth_sendRawTransaction", json!([raw]))).await {
        Ok(Ok(_)) => Ok(transaction),
        Ok(Err(error)) => match errors::sent(&error) {
            Ok(()) => Ok(transaction),
            Err(SendError::Rejected(why)) => Err(RelayError::Refused(why)),
            Err(SendError::NonceSpent) => Err(RelayError::Refused(OVERTAKEN.into())),
            Err(SendError::Unknown(problem)) => Err(RelayError::Unknown { transaction, problem }),
        },
        Err(error) => Err(RelayError::Unknown { transaction, problem: error.problem }),
    }
}

/// Tries an operation on an account that runs another delegate than [`AGENT_ACCOUNT`], such as an
/// older version of it, as if the root had sent it. `Some` is why it would not be carried out. That
/// a call succeeds says nothing of code that takes any call, so the delegate has to know the epoch,
/// and what the account's storage says of `key`.
///
/// # Errors
/// When the node does not answer.
pub async fn rehearse(
    rpc: &Rpc,
    account: Address,
    (epoch, key): (u64, Option<(Address, KeyState)>),
    operation: &RootOperation,
) -> Result<Option<String>, Unavailable> {
    let known = key.map_or(Address::ZERO, |(key, _)| key);
    let call = operation.unsigned().to_vec();
    let [epoch_view, session_view, trial] = rpc
        .ask_all([
            view(account, &Contract::epochCall {}),
            view(account, &Contract::sessionCall { key: known }),
            Call::simulate((account, account), call, GAS_MAX, "latest"),
        ])
        .await?;
    let epoch_said = rpc.read_call(epoch_view)?.word();
    let state_said = rpc.read_call(session_view)?.word().and_then(|word| u64::try_from(word).ok());
    let agrees = state_said.is_some_and(|said| match key {
        Some((_, state)) => KeyState::of(said) == state,
        None => true,
    });
    if epoch_said != Some(U256::from(epoch)) || !agrees {
        return Ok(Some("it does not answer as an agent account does".into()));
    }
    Ok(match rpc.read_call(trial)? {
        Called::Returned(_) => None,
        Called::Failed(why) => Some(why),
    })
}

/// How a transaction ended.
///
/// # Errors
/// When the node does not answer.
pub async fn succeeded(rpc: &Rpc, transaction: B256) -> Result<Option<bool>, Unavailable> {
    let receipt: Option<Receipt> = rpc.read(rpc.ask(Call::receipt(transaction)).await?)?;
    Ok(receipt.map(|receipt| receipt.succeeded()))
}

#[derive(Clone, Copy)]
struct Gas {
    limit: u64,
    fees: Fees,
}

async fn sign(
    root: &(impl Signer + Sync),
    account: AgentAccount,
    nonce: u64,
    adopting: Adopting,
    input: Bytes,
    gas: Gas,
) -> Result<(B256, Bytes), RelayError> {
    let (chain_id, access_list) = (account.chain_id, AccessList::default());
    let refused = |_| Unavailable::new("signer", "the key did not sign");
    let (hash, raw) = match adopting {
        Adopting::Yes => {
            // The transaction's own nonce is spent before its delegations are looked at.
            let adoption = Adoption::new(chain_id, nonce.saturating_add(1))
                .map_err(|error| RelayError::Refused(error.to_string()))?;
            let transaction = TxEip7702 {
                chain_id,
                nonce,
                gas_limit: gas.limit,
                max_fee_per_gas: gas.fees.max,
                max_priority_fee_per_gas: gas.fees.tip,
                to: account.address,
                value: U256::ZERO,
                access_list,
                authorization_list: vec![adoption.sign(root).await?],
                input,
            };
            let signature = root.sign_hash(&transaction.signature_hash()).await;
            let signed = transaction.into_signed(signature.map_err(refused)?);
            (*signed.hash(), signed.encoded_2718())
        }
        Adopting::No => {
            let transaction = TxEip1559 {
                chain_id,
                nonce,
                gas_limit: gas.limit,
                max_fee_per_gas: gas.fees.max,
                max_priority_fee_per_gas: gas.fees.tip,
                to: TxKind::Call(account.address),
                value: U256::ZERO,
                access_list,
                input,
            };
            let signature = root.sign_hash(&transaction.signature_hash()).await;
            let signed = transaction.into_signed(signature.map_err(refused)?);
            (*signed.hash(), signed.encoded_2718())
        }
    };
    Ok((hash, raw.into()))
}

/// Tries the call: an estimate of its gas, or, before the account is adopted, a call as if it were.
fn trial(account: Address, adopting: Adopting, data: &Bytes) -> Call {
    let call = json!({ "from": account, "to": account, "data": data });
    match adopting {
        Adopting::No => Call::new("eth_estimateGas", json!([call])),
        Adopting::Yes => {
            let code = [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat();
            let mut as_if = serde_json::Map::new();
            as_if.insert(account.to_string(), json!({ "code": Bytes::from(code) }));
            Call::new("eth_call", json!([call, "latest", Value::Object(as_if)]))
        }
    }
}

fn adoption_gas(call: &Bytes) -> u64 {
    let words = u64::try_from(call.len().div_ceil(32)).unwrap_or(u64::MAX);
    words.saturating_mul(GAS_PER_WORD).saturating_add(GAS_ADOPTION).min(GAS_MAX)
}
