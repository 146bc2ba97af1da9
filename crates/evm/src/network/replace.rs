//! Signing what takes the place of a transaction that is not mined.
//!
//! **Invariant:** it has the same signer and the same nonce, at fees that nodes take for it: of two with one
//! nonce a chain mines one at most. What is signed here is returned to be journalled.

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
use alloy::primitives::{Address, Bytes, U64, U256};
use alloy::signers::local::PrivateKeySigner;
use pay402_core::error::Unavailable;
use pay402_core::network::{Bid, SecretBytes, SentAs, SignedTransaction};
use serde_json::json;

use super::EvmNetwork;
use super::submit::{Draft, Fees, GAS_INTRINSIC, dearest, sealed, sign_draft};
use crate::fees::TIP_FALLBACK;
use crate::rpc::{Answer, Block, Call};

/// A transaction that is not mined.
struct Old<'a> {
    signer: &'a PrivateKeySigner,
    transaction: TxEnvelope,
    offered: Fees,
}

impl<'a> Old<'a> {
    fn read(
        network: &'a EvmNetwork,
        sent: &SentAs,
        raw: &SecretBytes,
    ) -> Result<Self, Unavailable> {
        let signer = network.signer(&sent.signer);
        let signer = signer.ok_or_else(|| network.rpc.unavailable("unknown signer"))?;
        let transaction = TxEnvelope::decode_2718(&mut raw.expose());
        let transaction = transaction.map_err(|_| damaged(network))?;
        if transaction.nonce() != sent.nonce {
            return Err(damaged(network));
        }
        let offered = Fees {
            cap: transaction.max_fee_per_gas(),
            tip: transaction.max_priority_fee_per_gas().unwrap_or_default(),
            base: 0,
        };
        Ok(Self { signer, transaction, offered })
    }

    fn is_cancellation(&self) -> bool {
        self.transaction.to() == Some(self.signer.address()) && self.transaction.input().is_empty()
    }
}

fn damaged(network: &EvmNetwork) -> Unavailable {
    network.rpc.unavailable("the journal's transaction is damaged")
}

/// What blocks ask for now: the base fee and the tip, in wei.
fn asked(network: &EvmNetwork, head: Answer, tip: Answer) -> Result<(u128, u128), Unavailable> {
    let head: Block = network.rpc.read(head)?;
    let base: u128 = head.base_fee_per_gas.unwrap_or_default().saturating_to();
    let tip = network.rpc.read::<U256>(tip).ok().and_then(|tip| tip.try_into().ok());
    Ok((base, tip.unwrap_or(TIP_FALLBACK)))
}

/// Signs the same call at the fees that blocks ask for now. `None` where the offer is good enough, or the
/// operator's bound does not let it be raised.
pub(super) async fn replacement(
    network: &EvmNetwork,
    sent: &SentAs,
    raw: &SecretBytes,
    bid: Bid,
) -> Result<Option<SignedTransaction>, Unavailable> {
    let old = Old::read(network, sent, raw)?;
    let [head, tip] = network.rpc.ask_all([Call::head(), Call::tip()]).await?;
    let asked = asked(network, head, tip)?;
    let max = network.settings.offer_max().min(dearest(bid.cost_max, old.transaction.gas_limit()));
    let Some(fees) = old.offered.raised(asked, max, bid.is_last) else { return Ok(None) };
    match old.transaction {
        TxEnvelope::Eip1559(transaction) => {
            let mut transaction = transaction.strip_signature();
            transaction.max_fee_per_gas = fees.cap;
            transaction.max_priority_fee_per_gas = fees.tip;
            sealed(network, old.signer, transaction).map(Some)
        }
        TxEnvelope::Eip7702(transaction) => {
            let mut transaction = transaction.strip_signature();
            transaction.max_fee_per_gas = fees.cap;
            transaction.max_priority_fee_per_gas = fees.tip;
            sealed(network, old.signer, transaction).map(Some)
        }
        _ => Err(damaged(network)),
    }
}

/// Signs a transaction of nothing to the signer itself. It moves nothing and frees what waits behind it, so that
/// only the network's own bound holds it back.
pub(super) async fn cancel(
    network: &EvmNetwork,
    sent: &SentAs,
    raw: &SecretBytes,
) -> Result<Option<SignedTransaction>, Unavailable> {
    let old = Old::read(network, sent, raw)?;
    let signer = old.signer.address();
    let [head, tip, gas] =
        network.rpc.ask_all([Call::head(), Call::tip(), estimate(signer)]).await?;
    let asked = asked(network, head, tip)?;
    let max = network.settings.fee_per_gas_max;
    let fees = match old.is_cancellation() {
        true => old.offered.raised(asked, max, false),
        false => old.offered.outbid(asked, max),
    };
    let Some(fees) = fees else { return Ok(None) };
    let (value, input, authorization) = (U256::ZERO, Bytes::new(), None);
    let gas_limit = gas_limit(gas, network.settings.gas_limit_max);
    let draft = Draft { to: signer, value, input, gas_limit, authorization };
    sign_draft(network, (old.signer, sent.nonce), fees, draft).map(Some)
}

fn estimate(signer: Address) -> Call {
    Call::new("eth_estimateGas", json!([{ "from": signer, "to": signer }, "latest"]))
}

/// The gas limit of a transaction that does nothing: what it takes anywhere, and more where a network asks for
/// more.
fn gas_limit(estimate: Answer, max: u64) -> u64 {
    let estimated = estimate.ok().and_then(|gas| serde_json::from_value::<U64>(gas).ok());
    match estimated.map(|gas| gas.to::<u64>()) {
        Some(gas) if gas > GAS_INTRINSIC => gas.saturating_add(gas / 4).min(max),
        Some(_) | None => GAS_INTRINSIC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RpcError;

    #[test]
    fn a_cancellation_takes_no_more_gas_than_it_needs() {
        assert_eq!(gas_limit(Ok(json!("0x5208")), 400_000), 21_000);
        assert_eq!(gas_limit(Ok(json!("0x7530")), 400_000), 37_500);
        assert_eq!(gas_limit(Ok(json!("0xffffff")), 400_000), 400_000);
        let error = RpcError { code: -32000, message: "busy".into(), data: None };
        assert_eq!(gas_limit(Err(error), 400_000), 21_000);
    }
}
