//! The payer's side of `upto`.

use std::fmt;

use alloy::signers::Signer;
use alloy::signers::local::PrivateKeySigner;
use async_trait::async_trait;
use pay402_core::error::Unavailable;
use pay402_core::scheme::{Authorized, ClientScheme, Decline, Fate};
use pay402_core::spend::{Clearance, Quote};
use pay402_core::{Amount, NetworkId, Requirements, Scheme};
use serde_json::{Map, Value};

use crate::address::canonical;
use crate::assets::AssetTable;
use crate::payer::Payer;
use crate::rpc::Rpc;

/// Pays by `upto` from one account on every EVM network of its asset table. The ceiling is what the
/// owner's rules judge and the ledger reserves.
pub struct UptoClient<S = PrivateKeySigner>(Payer<S>);

impl<S: Signer + Send + Sync> UptoClient<S> {
    /// A payer with the account of `signer` that pays in the tokens of `assets` and nothing else.
    /// The signer must be deterministic, as local keys are.
    pub const fn new(signer: S, assets: AssetTable) -> Self {
        Self(Payer::new(signer, assets))
    }

    /// Lets the fate of payments on `network`, and what they were charged, be read from the chain,
    /// and the allowance of Permit2.
    #[must_use]
    pub fn with_rpc(mut self, network: NetworkId, rpc: Rpc) -> Self {
        self.0.add_rpc(network, rpc);
        self
    }

    /// Lets an approval of Permit2, which is signed for tokens without EIP-2612 where the allowance
    /// is missing, be of this many atomic units instead of what one payment needs. Permit2 moves
    /// nothing of it but by further permits of this key.
    #[must_use]
    pub const fn approving_up_to(mut self, amount: Amount) -> Self {
        self.0.set_approves(amount);
        self
    }
}

impl<S: Signer + Send + Sync> fmt::Debug for UptoClient<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UptoClient").field("payer", &self.0.address()).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: Signer + Send + Sync> ClientScheme for UptoClient<S> {
    fn scheme(&self) -> Scheme {
        Scheme::UPTO
    }

    fn payer(&self) -> String {
        canonical(&self.0.address())
    }

    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline> {
        self.0.quote(&Scheme::UPTO, offer)
    }

    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        self.0.authorize(clearance).await
    }

    async fn extensions(
        &self,
        clearance: &Clearance,
        advertised: &Map<String, Value>,
    ) -> Map<String, Value> {
        self.0.extensions(clearance, advertised).await
    }

    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        self.0.identifier(clearance).await
    }

    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        self.0.fate(clearance).await
    }
}
