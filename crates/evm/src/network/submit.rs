//! Signing and sending transactions: those that settle payments, and errands.
//!
//! **Invariant:** what is signed here is returned to be journalled; nothing is sent by signing.

use alloy::consensus::transaction::RlpEcdsaEncodableTx;
use alloy::consensus::{SignableTransaction, TxEip1559, TxEip7702};
use alloy::eips::Encodable2718;
use alloy::eips::eip2930::AccessList;
use alloy::eips::eip7702::SignedAuthorization;
use alloy::primitives::{Address, Bytes, Signature, TxKind, U64, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use pay402_core::error::Unavailable;
use pay402_core::network::{SecretBytes, SendError, SignedTransaction};
use serde_json::json;

use super::account::delegate_of;
use super::adoption::{self, Adoption};
use super::errand::{Advance, ErrandPlan};
use super::plan::{Account, Plan};
use super::{EvmNetwork, errors};
use crate::mandate::Mandate;
use crate::rpc::{Answer, Block, Call, Rpc};

/// Tip where the node proposes none, in wei: 1 gwei.
const TIP_FALLBACK: u128 = 1_000_000_000;
/// Gas limit of a settlement that fails when its gas is estimated: enough for its revert to be on
/// chain for everyone to see, and for a plain account's transfer should the node be behind. What
/// a payer's contract can burn by failing late is bounded by it.
const GAS_LIMIT_FAILING: u64 = 120_000;
/// Gas that each authorization of a transaction costs beforehand (EIP-7702).
const AUTHORIZATION_GAS: u64 = 25_000;

/// Signs the transaction that carries out `plan`. The payer's code is looked at again: it decides
/// how the signature is presented, and it may have changed since the payment was verified.
pub(super) async fn sign(
    network: &EvmNetwork,
    signer: &str,
    nonce: u64,
    plan: &Plan,
) -> Result<SignedTransaction, Unavailable> {
    let rpc = &network.rpc;
    let signer = network.signer(signer).ok_or_else(|| rpc.unavailable("unknown signer"))?;
    if plan.sender().is_some_and(|sender| sender != signer.address()) {
        return Err(rpc.unavailable("the payment names another sender than this signer"));
    }
    let call = |account: Account| {
        let (target, calldata) = plan.call(account);
        (target, Bytes::from(calldata))
    };
    let estimate = |call: &(Address, Bytes), account: Account| {
        let gas_max = plan.gas_max(&network.settings, account);
        plan.as_it_will_be(account, estimate(signer.address(), call.0, &call.1, gas_max))
    };

    let expected = call(plan.account);
    let [code, head, tip, gas] = rpc
        .ask_all([
            Call::code(plan.mandate.payer()),
            Call::head(),
            Call::tip(),
            estimate(&expected, plan.account),
        ])
        .await?;
    let code = rpc.read_bytes(code)?;
    let account = plan.account_with(&code);
    if !may_call(network, plan, &code) {
        let problem = "the payer's account runs other code by now, which is not called here";
        return Err(rpc.unavailable(problem));
    }
    let ((target, input), gas) = match account == plan.account {
        true => (expected, gas),
        false => {
            let changed = call(account);
            let gas = rpc.ask(estimate(&changed, account)).await?;
            (changed, gas)
        }
    };
    let fees = Fees::read(network, head, tip)?;
    let gas_max = plan.gas_max(&network.settings, account);
    let (gas_limit, authorization) = match &plan.adoption {
        Some(adoption) if account == Account::Unadopted => {
            let gas_limit = adopting_gas_limit(network, plan, adoption, gas, gas_max).await?;
            (gas_limit, Some(adoption.authorization.clone()))
        }
        Some(_) | None => (gas_limit(gas, gas_max), None),
    };
    let draft = Draft { to: target, value: U256::ZERO, input, gas_limit, authorization };
    sign_draft(network, (signer, nonce), fees, draft)
}

/// Whether the operator has us call what `plan` calls, now that the payer's account has this code.
fn may_call(network: &EvmNetwork, plan: &Plan, code: &[u8]) -> bool {
    let Mandate::Delegation(delegation) = &plan.mandate else { return true };
    let settings = &network.settings;
    let delegate = match &plan.adoption {
        Some(adoption) => Some(adoption.delegate()),
        None => delegate_of(code),
    };
    let own = delegation.manager == delegation.delegator
        && delegate.is_some_and(|delegate| settings.delegates.contains(&delegate));
    own || settings.delegation_managers.contains(&delegation.manager)
}

/// The gas limit of a payment whose account adopts its code first. One that would be skipped, or would
/// fail, is not sent: nothing on the chain would end it, and its time does.
async fn adopting_gas_limit(
    network: &EvmNetwork,
    plan: &Plan,
    adoption: &Adoption,
    estimate: Answer,
    max: u64,
) -> Result<u64, Unavailable> {
    let rpc = &network.rpc;
    let nonce = rpc.ask(Call::mined_nonces(plan.mandate.payer())).await?;
    if adoption::nonce(rpc, nonce)? != adoption.authorization.nonce {
        return Err(rpc.unavailable("the account's authorization cannot take effect any more"));
    }
    gas_limit_that_works(network, estimate, (1, max)).map_err(|why| no_gas(rpc, why))
}

/// Signs the transaction of an errand. One that would fail is not signed: what it is for is closed by
/// its time.
pub(super) async fn sign_errand(
    network: &EvmNetwork,
    signer: &str,
    nonce: u64,
    plan: &ErrandPlan,
) -> Result<SignedTransaction, Unavailable> {
    let rpc = &network.rpc;
    let signer = network.signer(signer).ok_or_else(|| rpc.unavailable("unknown signer"))?;
    let (estimate, authorizations) = match plan {
        ErrandPlan::Account(errand) => {
            let authorizations = u64::from(errand.authorization.is_some());
            (errand.estimate(network, signer.address()), authorizations)
        }
        ErrandPlan::Advance(Advance { payer, wei, .. }) => {
            let call = json!({ "from": signer.address(), "to": payer, "value": wei });
            (Call::new("eth_estimateGas", json!([call, "latest"])), 0)
        }
        ErrandPlan::Approval(_) => {
            return Err(rpc.unavailable("this transaction is its payer's to sign"));
        }
    };
    let [head, tip, gas] = rpc.ask_all([Call::head(), Call::tip(), estimate]).await?;
    let fees = Fees::read(network, head, tip)?;
    let limits = (authorizations, network.settings.gas_limit_max);
    let gas_limit = gas_limit_that_works(network, gas, limits).map_err(|why| no_gas(rpc, why))?;
    let (to, value, input, authorization) = match plan {
        ErrandPlan::Account(errand) => {
            (errand.account, U256::ZERO, errand.call.clone(), errand.authorization.clone())
        }
        ErrandPlan::Advance(advance) => (advance.payer, advance.wei, Bytes::new(), None),
        ErrandPlan::Approval(_) => unreachable!("turned away above"),
    };
    let draft = Draft { to, value, input, gas_limit, authorization };
    sign_draft(network, (signer, nonce), fees, draft)
}

fn no_gas(rpc: &Rpc, why: NoGas) -> Unavailable {
    match why {
        NoGas::Fails(why) => rpc.unavailable(&format!("the transaction would fail: {why}")),
        NoGas::TooMuch => rpc.unavailable("it needs more gas than is paid"),
        NoGas::Unknown(error) => error,
    }
}

/// Why there is no gas limit.
pub(super) enum NoGas {
    Fails(String),
    TooMuch,
    Unknown(Unavailable),
}

/// The gas limit, up to a bound, of a transaction that is sent only if it works, with so many
/// authorizations, after what the node says to an estimate without them.
pub(super) fn gas_limit_that_works(
    network: &EvmNetwork,
    estimate: Answer,
    (authorizations, max): (u64, u64),
) -> Result<u64, NoGas> {
    let rpc = &network.rpc;
    let estimated = match estimate {
        Ok(value) => rpc.read::<U64>(Ok(value)).map_err(NoGas::Unknown)?.to::<u64>(),
        Err(error) => {
            return Err(match errors::execution_failure(&error) {
                Some(why) => NoGas::Fails(why),
                None => NoGas::Unknown(rpc.unavailable(&error.public_text())),
            });
        }
    };
    let needed = estimated.saturating_add(authorizations.saturating_mul(AUTHORIZATION_GAS));
    if needed > max { Err(NoGas::TooMuch) } else { Ok(with_headroom(needed, max)) }
}

/// A transaction, less what its sender adds.
struct Draft {
    to: Address,
    /// In wei.
    value: U256,
    input: Bytes,
    gas_limit: u64,
    /// The code that an account adopts with it (EIP-7702).
    authorization: Option<SignedAuthorization>,
}

fn sign_draft(
    network: &EvmNetwork,
    (signer, nonce): (&PrivateKeySigner, u64),
    fees: Fees,
    draft: Draft,
) -> Result<SignedTransaction, Unavailable> {
    let Draft { to, value, input, gas_limit, authorization } = draft;
    let chain_id = network.chain_id;
    let (max_fee_per_gas, max_priority_fee_per_gas) = (fees.cap, fees.tip);
    let access_list = AccessList::default();
    match authorization {
        None => {
            let to = TxKind::Call(to);
            let transaction = TxEip1559 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list,
                input,
            };
            sealed(network, signer, transaction)
        }
        Some(authorization) => {
            let authorization_list = vec![authorization];
            let transaction = TxEip7702 {
                chain_id,
                nonce,
                gas_limit,
                max_fee_per_gas,
                max_priority_fee_per_gas,
                to,
                value,
                access_list,
                authorization_list,
                input,
            };
            sealed(network, signer, transaction)
        }
    }
}

fn sealed<T>(
    network: &EvmNetwork,
    signer: &PrivateKeySigner,
    transaction: T,
) -> Result<SignedTransaction, Unavailable>
where
    T: SignableTransaction<Signature> + RlpEcdsaEncodableTx,
{
    let signature = signer
        .sign_hash_sync(&transaction.signature_hash())
        .map_err(|_| network.rpc.unavailable("the signer did not sign"))?;
    let signed = transaction.into_signed(signature);
    Ok(SignedTransaction {
        transaction: signed.hash().to_string(),
        raw: SecretBytes::new(signed.encoded_2718()),
    })
}

/// Sends signed bytes. What a node's answer means is decided in [`errors`].
pub(super) async fn send(rpc: &Rpc, raw: &SecretBytes) -> Result<(), SendError> {
    let raw = Bytes::copy_from_slice(raw.expose());
    match rpc.ask(Call::new("eth_sendRawTransaction", json!([raw]))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => errors::sent(&error),
        Err(unavailable) => Err(SendError::Unknown(unavailable.problem)),
    }
}

/// Asks how much gas a call from `from` takes, up to `gas_max`: beyond it, it fails.
pub(super) fn estimate(from: Address, to: Address, data: &Bytes, gas_max: u64) -> Call {
    let gas = U64::from(gas_max);
    let call = json!({ "from": from, "to": to, "gas": gas, "data": data });
    Call::new("eth_estimateGas", json!([call, "latest"]))
}

/// The gas limit after what the node says to [`estimate`]. What fails is sent nevertheless: it is
/// over only once that is on chain.
fn gas_limit(estimate: Answer, max: u64) -> u64 {
    match estimate.map(serde_json::from_value::<U64>) {
        Ok(Ok(gas)) => with_headroom(gas.to(), max),
        Err(error) if errors::execution_failure(&error).is_some() => GAS_LIMIT_FAILING.min(max),
        // The node does not say: the limit is the most that we are ready to lose.
        Ok(Err(_)) | Err(_) => max,
    }
}

/// A quarter more than estimated, since the state may differ by then, but never above `max`.
fn with_headroom(estimate: u64, max: u64) -> u64 {
    estimate.saturating_add(estimate / 4).min(max)
}

/// Fees per gas, in wei.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Fees {
    cap: u128,
    tip: u128,
}

impl Fees {
    fn read(network: &EvmNetwork, head: Answer, tip: Answer) -> Result<Self, Unavailable> {
        let rpc = &network.rpc;
        let head: Block = rpc.read(head)?;
        let tip = rpc.read::<U256>(tip).ok().and_then(|tip| tip.try_into().ok());
        Self::new(
            head.base_fee_per_gas.unwrap_or_default(),
            tip.unwrap_or(TIP_FALLBACK),
            network.settings.fee_per_gas_max,
        )
        .ok_or_else(|| rpc.unavailable("gas costs more than the configured cap"))
    }

    /// Twice the base fee, so that the transaction stays valid while the base fee rises for five
    /// blocks, and the tip; at most `max`. `None` when not even the base fee fits under `max`.
    fn new(base: U256, tip: u128, max: u128) -> Option<Self> {
        let base: u128 = base.try_into().ok()?;
        if base > max {
            return None;
        }
        let cap = base.saturating_mul(2).saturating_add(tip).min(max);
        Some(Self { cap, tip: tip.min(cap) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RpcError;

    #[test]
    fn fees_stay_under_the_cap() {
        let fees = |base: u64, tip, max| Fees::new(U256::from(base), tip, max);
        assert_eq!(fees(10, 3, 100), Some(Fees { cap: 23, tip: 3 }));
        assert_eq!(fees(60, 3, 100), Some(Fees { cap: 100, tip: 3 }));
        assert_eq!(fees(1, 300, 100), Some(Fees { cap: 100, tip: 100 }));
        assert_eq!(fees(101, 0, 100), None);
        assert_eq!(Fees::new(U256::MAX, 1, u128::MAX), None);
    }

    #[test]
    fn the_estimate_sets_the_gas_limit() {
        let limit = |estimate: Answer| gas_limit(estimate, 400_000);
        let error =
            |message: &str| Err(RpcError { code: -32000, message: message.into(), data: None });
        assert_eq!(limit(Ok(json!("0x13880"))), 100_000);
        assert_eq!(limit(error("execution reverted")), GAS_LIMIT_FAILING);
        assert_eq!(limit(error("gas required exceeds allowance (400000)")), GAS_LIMIT_FAILING);
        assert_eq!(gas_limit(error("out of gas"), 90_000), 90_000);
        assert_eq!(limit(error("too many requests")), 400_000);
        assert_eq!(limit(Ok(json!("lots"))), 400_000);
    }

    #[test]
    fn gas_stays_under_the_cap() {
        assert_eq!(with_headroom(80_000, 400_000), 100_000);
        assert_eq!(with_headroom(390_000, 400_000), 400_000);
        assert_eq!(with_headroom(u64::MAX, 400_000), 400_000);
    }
}
