//! Signing and sending transactions: those that settle payments, and errands.
//!
//! **Invariant:** what is signed here is returned to be journalled; nothing is sent by signing.

use std::time::{Duration, Instant};

use alloy::consensus::transaction::RlpEcdsaEncodableTx;
use alloy::consensus::{SignableTransaction, TxEip1559, TxEip7702};
use alloy::eips::Encodable2718;
use alloy::eips::eip2930::AccessList;
use alloy::eips::eip7702::SignedAuthorization;
use alloy::primitives::{Address, Bytes, Signature, TxKind, U64, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use pay402_core::Amount;
use pay402_core::error::Unavailable;
use pay402_core::network::{SecretBytes, SendError, SignedTransaction};
use serde_json::json;

use super::account::delegate_of;
use super::adoption::{self, Adoption};
use super::errand::{Advance, ErrandPlan};
use super::plan::{Account, Plan};
use super::{EvmNetwork, errors, pack};
use crate::fees::TIP_FALLBACK;
use crate::mandate::Mandate;
use crate::rpc::{Answer, Block, Call, Rpc};

/// Gas limit of a settlement that fails when its gas is estimated: enough for its revert to be on
/// chain for everyone to see, and for a plain account's transfer should the node be behind. What
/// a payer's contract can burn by failing late is bounded by it.
const GAS_LIMIT_FAILING: u64 = 120_000;
/// Gas of a transaction before it does anything.
pub(super) const GAS_INTRINSIC: u64 = 21_000;
/// Most gas of a byte of call data.
const GAS_PER_BYTE: u64 = 16;
/// What a transfer takes beyond what it took after the token was looked at: six slots and accounts that
/// are new to the transaction (EIP-2929).
const GAS_COLD: u64 = 15_000;
/// How long fees are taken for the present ones.
const FEES_FRESH: Duration = Duration::from_millis(500);
/// Gas that each authorization of a transaction costs beforehand (EIP-7702).
const AUTHORIZATION_GAS: u64 = 25_000;

/// Most that a unit of gas may cost in a transaction with this gas limit that may cost so much, in wei.
pub(super) fn dearest(cost_max: Option<Amount>, gas_limit: u64) -> u128 {
    let of = |cost_max: Amount| cost_max.to_u256().checked_div(U256::from(gas_limit));
    cost_max.and_then(of).map_or(u128::MAX, |price| price.saturating_to())
}

fn too_dear(rpc: &Rpc) -> Unavailable {
    rpc.unavailable("gas costs more than may be spent on it (guard)")
}

/// Signs the transaction that carries out `plan`. The payer's code is looked at again: it decides
/// how the signature is presented, and it may have changed since the payment was verified.
pub(super) async fn sign(
    network: &EvmNetwork,
    signer: &str,
    nonce: u64,
    plan: &Plan,
    cost_max: Option<Amount>,
) -> Result<SignedTransaction, Unavailable> {
    let rpc = &network.rpc;
    let signer = network.signer(signer).ok_or_else(|| rpc.unavailable("unknown signer"))?;
    if plan.sender().is_some_and(|sender| sender != signer.address()) {
        return Err(rpc.unavailable("the payment names another sender than this signer"));
    }
    if let Some(signed) = sign_known(network, (signer, nonce), plan, cost_max).await? {
        return Ok(signed);
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
    let fees = fees.within(dearest(cost_max, gas_limit)).ok_or_else(|| too_dear(rpc))?;
    let draft = Draft { to: target, value: U256::ZERO, input, gas_limit, authorization };
    sign_draft(network, (signer, nonce), fees, draft)
}

/// Signs what can be looked at together with others: an account without code, and a transfer that works.
async fn sign_known(
    network: &EvmNetwork,
    signer: (&PrivateKeySigner, u64),
    plan: &Plan,
    cost_max: Option<Amount>,
) -> Result<Option<SignedTransaction>, Unavailable> {
    let question = match plan.account {
        Account::Plain => plan.question(),
        _ => None,
    };
    let Some(question) = question else { return Ok(None) };
    let Some(seen) = network.glances.look(question).await else { return Ok(None) };
    let (false, Some(taken)) = (seen.has_code, seen.works) else { return Ok(None) };
    let (to, input) = plan.call(Account::Plain);
    let gas_limit = gas_limit_of(&input, taken, plan.gas_max(&network.settings, Account::Plain));
    let fees = network.fees().await?.within(dearest(cost_max, gas_limit));
    let fees = fees.ok_or_else(|| too_dear(&network.rpc))?;
    let (input, value) = (input.into(), U256::ZERO);
    let draft = Draft { to, value, input, gas_limit, authorization: None };
    sign_draft(network, signer, fees, draft).map(Some)
}

/// Signs a call by the first signer, at the fees of the present.
pub(super) async fn sign_call(
    network: &EvmNetwork,
    nonce: u64,
    (to, input): (Address, Bytes),
    gas_limit: u64,
) -> Result<SignedTransaction, Unavailable> {
    let rpc = &network.rpc;
    let signer = network.signers.first().ok_or_else(|| rpc.unavailable("unknown signer"))?;
    let fees = network.fees().await?;
    let draft = Draft { to, value: U256::ZERO, input, gas_limit, authorization: None };
    sign_draft(network, (signer, nonce), fees, draft)
}

/// Signs one transaction that carries all of these plans out, each with so much gas at most.
pub(super) async fn sign_pack(
    network: &EvmNetwork,
    signer: &str,
    nonce: u64,
    plans: &[Plan],
    (item_gas, cost_max): (u64, Option<Amount>),
) -> Result<SignedTransaction, Unavailable> {
    let rpc = &network.rpc;
    let signer = network.signer(signer).ok_or_else(|| rpc.unavailable("unknown signer"))?;
    let call = pack::call(plans, item_gas);
    let (to, input) = call.ok_or_else(|| rpc.unavailable("a payment cannot be packed"))?;
    let gas_limit = pack::gas_limit(plans.len(), item_gas);
    let fees = network.fees().await?.within(dearest(cost_max, gas_limit));
    let fees = fees.ok_or_else(|| too_dear(rpc))?;
    let draft = Draft { to, value: U256::ZERO, input, gas_limit, authorization: None };
    sign_draft(network, (signer, nonce), fees, draft)
}

/// The gas limit of a transaction with this call, which took so much gas when it was tried.
fn gas_limit_of(input: &[u8], taken: u64, max: u64) -> u64 {
    let words = u64::try_from(input.len()).unwrap_or(u64::MAX);
    let data = words.saturating_mul(GAS_PER_BYTE);
    let needed = taken.saturating_add(data).saturating_add(GAS_INTRINSIC + GAS_COLD);
    with_headroom(needed, max)
}

/// Whether the operator has us call what `plan` calls, now that the payer's account has this code.
fn may_call(network: &EvmNetwork, plan: &Plan, code: &[u8]) -> bool {
    let Mandate::Delegation(delegation) = &plan.mandate else { return true };
    let adopted = plan.adoption.as_ref().map(Adoption::delegate);
    network.carries_out(delegation, adopted.or_else(|| delegate_of(code)))
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
        ErrandPlan::Cancellation(cancellation) => {
            if (cancellation.signer, cancellation.nonce) != (signer.address(), nonce) {
                return Err(rpc.unavailable("the cancellation is of another nonce"));
            }
            let call = json!({ "from": cancellation.signer, "to": cancellation.signer });
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
        ErrandPlan::Cancellation(cancellation) => {
            (cancellation.signer, U256::ZERO, Bytes::new(), None)
        }
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
pub(super) struct Draft {
    pub(super) to: Address,
    /// In wei.
    pub(super) value: U256,
    pub(super) input: Bytes,
    pub(super) gas_limit: u64,
    /// The code that an account adopts with it (EIP-7702).
    pub(super) authorization: Option<SignedAuthorization>,
}

pub(super) fn sign_draft(
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

pub(super) fn sealed<T>(
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
pub(super) struct Fees {
    pub(super) cap: u128,
    pub(super) tip: u128,
    /// What blocks ask for now, without the tip.
    pub(super) base: u128,
}

/// The fees that were read last, and when.
#[derive(Debug, Default)]
pub(super) struct FeesSeen(tokio::sync::Mutex<Option<(Fees, Instant)>>);

impl EvmNetwork {
    /// The fees of the present. Whoever comes while they are read waits for them.
    pub(super) async fn fees(&self) -> Result<Fees, Unavailable> {
        let mut seen = self.fees_seen.0.lock().await;
        if let Some((fees, at)) = *seen
            && at.elapsed() < FEES_FRESH
        {
            return Ok(fees);
        }
        let [head, tip] = self.rpc.ask_all([Call::head(), Call::tip()]).await?;
        let fees = Fees::read(self, head, tip)?;
        *seen = Some((fees, Instant::now()));
        Ok(fees)
    }

    /// What a unit of gas costs in the next block at the most, in wei.
    pub(super) async fn price_of_gas(&self) -> Result<u128, Unavailable> {
        Ok(self.fees().await?.next())
    }

    /// The gas limit that a payment would be signed with now, given what its transfer took where it was
    /// tried.
    pub(super) async fn gas_limit_now(
        &self,
        plan: &Plan,
        taken: Option<u64>,
    ) -> Result<u64, Unavailable> {
        let gas_max = plan.gas_max(&self.settings, plan.account);
        let (to, input) = plan.call(plan.account);
        if let (Some(taken), Account::Plain) = (taken, plan.account) {
            return Ok(gas_limit_of(&input, taken, gas_max));
        }
        let sender = plan.sender().unwrap_or_else(|| self.first_signer());
        let call = estimate(sender, to, &Bytes::from(input), gas_max);
        let estimated = self.rpc.ask(plan.as_it_will_be(plan.account, call)).await?;
        if plan.adoption.is_none() || plan.account != Account::Unadopted {
            return Ok(gas_limit(estimated, gas_max));
        }
        match gas_limit_that_works(self, estimated, (1, gas_max)) {
            Ok(gas_limit) => Ok(gas_limit),
            // It is not signed as long as that is so.
            Err(NoGas::Fails(_) | NoGas::TooMuch) => Ok(gas_max),
            Err(NoGas::Unknown(error)) => Err(error),
        }
    }
}

/// What nodes ask of a replacement, of its fee and of its tip: a tenth more; some ask for an eighth.
const fn a_step_above(fee: u128) -> u128 {
    fee.saturating_add(fee / 8).saturating_add(1)
}

/// The most that is a step below `max`.
pub(super) const fn a_step_below(max: u128) -> u128 {
    let max = max.saturating_sub(1);
    let rest = max % 9;
    max / 9 * 8 + if rest < 8 { rest } else { 7 }
}

impl Fees {
    /// Most that a unit of gas may cost, in wei.
    pub(super) const fn cap(self) -> u128 {
        self.cap
    }

    fn read(network: &EvmNetwork, head: Answer, tip: Answer) -> Result<Self, Unavailable> {
        let rpc = &network.rpc;
        let head: Block = rpc.read(head)?;
        let tip = rpc.read::<U256>(tip).ok().and_then(|tip| tip.try_into().ok());
        Self::new(
            head.base_fee_per_gas.unwrap_or_default(),
            tip.unwrap_or(TIP_FALLBACK),
            network.settings.offer_max(),
        )
        .ok_or_else(|| rpc.unavailable("gas costs more than the configured cap"))
    }

    /// Most that the next block asks for, as far as that is offered: a block's base fee is an eighth above
    /// that of the one before at the most (EIP-1559).
    fn next(self) -> u128 {
        let base = self.base.saturating_add(self.base.div_ceil(8));
        base.saturating_add(self.tip).min(self.cap)
    }

    /// The same, at most `max`. `None` when the next block may ask for more: what is offered less all the
    /// same holds up what comes after it.
    fn within(self, max: u128) -> Option<Self> {
        (self.next() <= max).then(|| Self { cap: self.cap.min(max), ..self })
    }

    /// What to offer in place of these fees, at most `max`, and more of it where it may be the last offer. `None`
    /// where they suffice for the next block and are not a step below what is asked as a tip, or cannot be raised
    /// enough.
    pub(super) fn raised(
        self,
        (base, tip): (u128, u128),
        max: u128,
        is_last: bool,
    ) -> Option<Self> {
        let suffices = self.cap >= base.saturating_add(base / 8).saturating_add(self.tip);
        if suffices && tip < a_step_above(self.tip) {
            return None;
        }
        match is_last {
            true => self.outbid((base.saturating_mul(2), tip.saturating_mul(2)), max),
            false => self.outbid((base, tip), max),
        }
    }

    /// What nodes take in place of these fees, for blocks that ask for this, at most `max`; `None` where that is
    /// less.
    pub(super) fn outbid(self, (base, tip): (u128, u128), max: u128) -> Option<Self> {
        let (least, least_tip) = (a_step_above(self.cap), a_step_above(self.tip));
        let tip = tip.max(least_tip);
        let cap = base.saturating_mul(2).saturating_add(tip).max(least).min(max);
        let raised = Self { cap, tip: tip.min(cap), base };
        (raised.cap >= least && raised.tip >= least_tip).then_some(raised)
    }

    /// Twice the base fee, so that the transaction stays valid while the base fee rises for five
    /// blocks, and the tip; at most `max`. `None` when not even the base fee fits under `max`.
    fn new(base: U256, tip: u128, max: u128) -> Option<Self> {
        let base: u128 = base.try_into().ok()?;
        if base > max {
            return None;
        }
        let cap = base.saturating_mul(2).saturating_add(tip).min(max);
        Some(Self { cap, tip: tip.min(cap), base })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RpcError;

    #[test]
    fn fees_stay_under_the_cap() {
        let fees = |base: u64, tip, max| Fees::new(U256::from(base), tip, max);
        assert_eq!(fees(10, 3, 100), Some(Fees { cap: 23, tip: 3, base: 10 }));
        assert_eq!(fees(60, 3, 100), Some(Fees { cap: 100, tip: 3, base: 60 }));
        assert_eq!(fees(1, 300, 100), Some(Fees { cap: 100, tip: 100, base: 1 }));
        assert_eq!(fees(101, 0, 100), None);
        assert_eq!(Fees::new(U256::MAX, 1, u128::MAX), None);
    }

    #[test]
    fn fees_are_raised_when_they_do_not_suffice_and_as_far_as_nodes_ask() {
        let offered = Fees { cap: 80, tip: 16, base: 32 };
        let raised = |wanted| offered.raised(wanted, 1_000, false);
        assert_eq!(raised((56, 16)), None, "an eighth above the base fee and the tip fit");
        assert_eq!(raised((60, 16)), Some(Fees { cap: 139, tip: 19, base: 60 }));
        assert_eq!(raised((10, 18)), None, "less than a step is no reason");
        assert_eq!(
            raised((10, 19)),
            Some(Fees { cap: 91, tip: 19, base: 10 }),
            "an eighth more at least"
        );
        assert_eq!(raised((10, 40)), Some(Fees { cap: 91, tip: 40, base: 10 }));
        assert_eq!(offered.raised((60, 16), 91, false), Some(Fees { cap: 91, tip: 19, base: 60 }));
        assert_eq!(offered.raised((60, 16), 90, false), None, "less than a replacement needs");
        let huge = Fees { cap: u128::MAX, tip: u128::MAX, base: 1 };
        assert_eq!(huge.raised((1, 1), u128::MAX, false), None);
    }

    #[test]
    fn the_last_offer_has_more_room_and_no_other_reason() {
        let offered = Fees { cap: 80, tip: 16, base: 32 };
        let last = |wanted, max| offered.raised(wanted, max, true).map(|fees| (fees.cap, fees.tip));
        assert_eq!(last((56, 18), 1_000), None, "it suffices");
        assert_eq!(
            last((60, 16), 1_000),
            Some((272, 32)),
            "four times the base fee, twice the tip"
        );
        assert_eq!(last((60, 16), 100), Some((100, 32)));
        assert_eq!(last((60, 16), 90), None);
    }

    #[test]
    fn what_may_be_offered_leaves_room_for_a_cancellation() {
        for max in [0, 1, 2, 9, 10, 100, 199_999_999_999, 200_000_000_000, u128::MAX - 1] {
            let most = a_step_below(max);
            assert!(max < 2 || a_step_above(most) <= max, "{max}");
            assert!(max < 2 || a_step_above(most + 1) > max, "{max}: more would do");
        }
        // The tip may be all of it.
        let most = a_step_below(900);
        let dearest = Fees { cap: most, tip: most, base: 1 };
        assert!(dearest.outbid((5_000, 1), 900).is_some_and(|fees| fees.cap == 900));
    }

    #[test]
    fn a_payment_offers_no_more_than_it_may_cost() {
        let price = |wei: u64, gas| dearest(Some(Amount::from(wei)), gas);
        assert_eq!([price(999, 100), price(1_000, 100), price(1, 100)], [9, 10, 0]);
        assert_eq!([dearest(None, 100), price(1, 0)], [u128::MAX; 2]);
        assert_eq!(dearest(Some(Amount::MAX), 1), u128::MAX);
        let fees = Fees { cap: 23, tip: 3, base: 10 };
        assert_eq!(fees.next(), 15, "ten and an eighth of it, rounded up, and the tip");
        assert_eq!(Fees { cap: 14, ..fees }.next(), 14, "more is not offered");
        let within = |max| fees.within(max).map(|fees| fees.cap);
        assert_eq!(
            [within(14), within(15), within(23), within(99)],
            [None, Some(15), Some(23), Some(23)]
        );
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
    fn gas_that_a_trial_took_sets_the_gas_limit() {
        let call = [1; 300];
        assert_eq!(gas_limit_of(&call, 35_000, 400_000), (35_000 + 4_800 + 36_000) / 4 * 5);
        assert_eq!(gas_limit_of(&call, 350_000, 400_000), 400_000);
        assert_eq!(gas_limit_of(&call, u64::MAX, 400_000), 400_000);
    }

    #[test]
    fn gas_stays_under_the_cap() {
        assert_eq!(with_headroom(80_000, 400_000), 100_000);
        assert_eq!(with_headroom(390_000, 400_000), 400_000);
        assert_eq!(with_headroom(u64::MAX, 400_000), 400_000);
    }
}
