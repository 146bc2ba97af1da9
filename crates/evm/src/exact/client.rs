//! The payer's side of `exact`: what an offer costs, the signature, and what became of it.
//!
//! **Invariant:** the only road to a signature over money is a [`Clearance`]; what is signed comes
//! from its reservation and from our own asset table. Signing is deterministic (RFC 6979), so that
//! the same clearance always gives the same bytes.

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::{B256, U256, keccak256};
use alloy::signers::Signer;
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use pay402_core::error::Unavailable;
use pay402_core::scheme::{Authorized, ClientScheme, Decline, Fate};
use pay402_core::spend::{Clearance, Quote, Reservation};
use pay402_core::{NetworkId, Requirements, Scheme};

use super::{ExactPayload, domain_of, find_payable, is_eip3009};
use crate::address::{canonical, parse_payee};
use crate::assets::{Asset, AssetTable};
pub use crate::network::status::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use crate::network::status::{Sighting, is_cancelled_for_good, is_over, sight};
use crate::rpc::Rpc;
use crate::signature::Ecdsa;
use crate::typed_data::{Authorization, token_domain};

/// Sets identifiers apart from everything else that the key signs. An EIP-191 message can be
/// neither a transaction nor typed data.
const IDENTIFIER_LABEL: &str = "pay402 payment identifier";

/// Pays by `exact` from one account on every EVM network of its asset table.
pub struct ExactClient<S = PrivateKeySigner> {
    signer: S,
    assets: AssetTable,
    rpcs: BTreeMap<NetworkId, Rpc>,
}

impl<S: Signer + Send + Sync> ExactClient<S> {
    /// A payer with the account of `signer` that pays in the tokens of `assets` and nothing else.
    /// The signer must be deterministic, as local keys are.
    pub const fn new(signer: S, assets: AssetTable) -> Self {
        Self { signer, assets, rpcs: BTreeMap::new() }
    }

    /// Lets the fate of payments on `network` be read from the chain.
    #[must_use]
    pub fn with_rpc(mut self, network: NetworkId, rpc: Rpc) -> Self {
        self.rpcs.insert(network, rpc);
        self
    }

    /// The authorization that a reservation stands for, and the token it is for.
    fn authorization(
        &self,
        reservation: &Reservation,
    ) -> Result<(Authorization, &Asset), Unavailable> {
        let cannot = |problem: &str| Unavailable::new("signer", problem);
        if reservation.payer != self.payer() {
            return Err(cannot("the reservation is for another account"));
        }
        let quote = &reservation.quote;
        if quote.scheme != Scheme::EXACT {
            return Err(cannot("the reservation is for another scheme"));
        }
        let asset = self
            .assets
            .find(&quote.asset)
            .ok_or_else(|| cannot("the asset is no longer in the asset table"))?;
        let to = parse_payee(&quote.pay_to).map_err(|_| cannot("the payee is no address"))?;
        let plan = &reservation.plan;
        let authorization = Authorization {
            from: self.signer.address(),
            to,
            value: quote.amount.to_u256(),
            valid_after: U256::from(plan.valid_after.0),
            valid_before: U256::from(plan.valid_before.0),
            nonce: B256::from(plan.nonce),
        };
        Ok((authorization, asset))
    }
}

impl<S: Signer> fmt::Debug for ExactClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactClient").field("payer", &self.signer.address()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Signer + Send + Sync> ClientScheme for ExactClient<S> {
    fn scheme(&self) -> Scheme {
        Scheme::EXACT
    }

    fn payer(&self) -> String {
        canonical(&self.signer.address())
    }

    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline> {
        let decline = |why: String| Err(Decline(why));
        if offer.scheme != Scheme::EXACT {
            return decline(format!(
                "the scheme {} is not paid here",
                short(offer.scheme.as_str())
            ));
        }
        if offer.network.evm_chain_id().is_none() {
            return decline(format!("{} is not an EVM network", offer.network));
        }
        if !is_eip3009(offer) {
            return decline("only the asset transfer method eip3009 can be paid".into());
        }
        let Some(asset) = find_payable(offer, &self.assets) else {
            let asset = short(&offer.asset);
            return decline(format!("{asset} on {} is not in the asset table", offer.network));
        };
        let info = &asset.info;
        if domain_of(offer) != (Some(&info.domain_name), Some(&info.domain_version)) {
            return decline(format!(
                "the offer's EIP-712 name and version are not those of {} ({}, {})",
                info.symbol, info.domain_name, info.domain_version
            ));
        }
        let pay_to =
            parse_payee(&offer.pay_to).map_err(|error| Decline(format!("payTo {error}")))?;
        if offer.amount.is_zero() {
            return decline("the amount is zero: there is nothing to pay".into());
        }
        Ok(Quote {
            offer: offer.clone(),
            scheme: Scheme::EXACT,
            asset: info.id.clone(),
            symbol: info.symbol.clone(),
            decimals: info.decimals,
            amount: offer.amount,
            pay_to: canonical(&pay_to),
            is_dollar: asset.is_dollar(),
        })
    }

    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        let reservation = clearance.reservation();
        let (authorization, asset) = self.authorization(reservation)?;
        let network = &reservation.quote.asset.network;
        let chain_id = network
            .evm_chain_id()
            .ok_or_else(|| Unavailable::new("signer", "the reservation is for another family"))?;
        let digest = authorization.digest(&token_domain(&asset.info, chain_id, asset.token()));
        let signature = self.signer.sign_hash(&digest).await.map_err(|_| refused_to_sign())?;
        let signature = Ecdsa::from(signature.normalized_s()).to_bytes();
        Ok(Authorized::new(ExactPayload { authorization, signature }.to_json()))
    }

    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        let reservation = clearance.reservation();
        let (authorization, asset) = self.authorization(reservation)?;
        let message = format!("{IDENTIFIER_LABEL}\n{}\n{}", asset.info.id, authorization.nonce);
        let signature =
            self.signer.sign_message(message.as_bytes()).await.map_err(|_| refused_to_sign())?;
        let digest = keccak256(signature.normalized_s().as_bytes());
        Ok(format!("pay_{}", alloy::hex::encode(digest)))
    }

    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        let reservation = clearance.reservation();
        let network = &reservation.quote.asset.network;
        let rpc = self.rpcs.get(network).ok_or_else(|| {
            Unavailable::new(
                format!("rpc {network}"),
                "no RPC URL is configured, so the chain cannot be asked what became of a payment",
            )
        })?;
        let (authorization, asset) = self.authorization(reservation)?;
        let seen = sight(rpc, asset.token(), &authorization).await?;
        let charged = Some(reservation.quote.amount);
        Ok(match seen {
            Sighting::Unused { head_time } => {
                if is_over(&authorization, head_time) {
                    Fate::Dead
                } else {
                    Fate::Live
                }
            }
            Sighting::Cancelled { block, head } => {
                if is_cancelled_for_good(block, head) {
                    Fate::Dead
                } else {
                    Fate::Live
                }
            }
            Sighting::Used { transaction, .. } => {
                Fate::Used { transaction: Some(transaction.to_string()), charged }
            }
            Sighting::UsedUnseen => Fate::Used { transaction: None, charged },
        })
    }
}

fn refused_to_sign() -> Unavailable {
    Unavailable::new("signer", "the key did not sign")
}

/// Keeps a stranger's text short in messages.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
