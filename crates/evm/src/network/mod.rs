//! One EVM network, to the facilitator: configuration, checks at start, signing and sending.
//!
//! The verification of a payment is in [`crate::exact::facilitator`], its proof in [`status`], and
//! what nodes' error texts mean in `errors`.

pub(crate) mod errors;
pub(crate) mod plan;
pub mod status;
mod submit;

use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, U64, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use async_trait::async_trait;
use pay402_core::error::{Malformed, Misconfigured, Unavailable};
use pay402_core::facilitator::Kind;
use pay402_core::network::{
    ChainStatus, Identified, Network, SecretBytes, SendError, SentAs, SignedTransaction,
    Unverified, Verified,
};
use pay402_core::time::Clock;
use pay402_core::{
    Digest, NetworkId, Payment, Presented, Refused, Requirements, Scheme, WireVersion,
};
use serde_json::{Map, json};
use zeroize::Zeroizing;

use crate::address::canonical;
use crate::assets::{Asset, AssetTable};
use crate::contracts::Eip3009;
use crate::exact::{SETTLEMENT_MARGIN_S_MIN, check_form, check_terms_form, facilitator};
use crate::rpc::{Answer, Call, Rpc};
use crate::typed_data::token_domain;
use plan::Plan;

/// Gas that one settlement may use unless configured otherwise. A plain USDC transfer takes about
/// 80,000; smart accounts more.
pub const GAS_LIMIT_MAX_DEFAULT: u64 = 400_000;
/// Highest fee per gas unless configured otherwise, in wei: 200 gwei.
pub const FEE_PER_GAS_MAX_DEFAULT: u128 = 200_000_000_000;
/// Time between blocks unless configured otherwise, in seconds.
pub const BLOCK_TIME_S_DEFAULT: u64 = 2;

/// Separates the journal's sealing key from every other use of the signer's secret.
const SEALING_LABEL: &[u8] = b"pay402 journal sealing key v1";

/// How a network is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the network stands in the configuration, for errors: `network[0]`.
    pub setting: String,
    /// Depth at which a block is believed; 1 is the head itself.
    pub confirmations: u64,
    /// Time between blocks, in seconds. Payments must have two of them left to settle in, and
    /// never less than [`SETTLEMENT_MARGIN_S_MIN`].
    pub block_time_s: u64,
    /// Most gas that one settlement may use; bounds what a payer's contract can make us spend.
    pub gas_limit_max: u64,
    /// Highest fee per gas that is paid, in wei.
    pub fee_per_gas_max: u128,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            setting: "network".into(),
            confirmations: 1,
            block_time_s: BLOCK_TIME_S_DEFAULT,
            gas_limit_max: GAS_LIMIT_MAX_DEFAULT,
            fee_per_gas_max: FEE_PER_GAS_MAX_DEFAULT,
        }
    }
}

impl Settings {
    /// Shortest time that must remain before an authorization expires, in seconds.
    pub(crate) fn margin_s(&self) -> u64 {
        self.block_time_s.saturating_mul(2).max(SETTLEMENT_MARGIN_S_MIN)
    }
}

/// An EVM network on which a facilitator settles `exact` payments.
pub struct EvmNetwork {
    pub(crate) id: NetworkId,
    pub(crate) chain_id: u64,
    pub(crate) rpc: Rpc,
    signers: Vec<PrivateKeySigner>,
    pub(crate) assets: AssetTable,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
}

impl EvmNetwork {
    /// The network `id`, reached through `rpc`; transactions are sent from `signers`, and only the
    /// EIP-3009 tokens that `assets` has for this network are settled.
    ///
    /// # Errors
    /// When `id` is not an EVM network, or signers or assets are missing.
    pub fn new(
        id: NetworkId,
        rpc: Rpc,
        signers: Vec<PrivateKeySigner>,
        assets: AssetTable,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Self, Misconfigured> {
        let bad = |key: &str, problem: String| {
            Err(Misconfigured::new(format!("{}.{key}", settings.setting), problem))
        };
        let Some(chain_id) = id.evm_chain_id() else {
            return bad("id", format!("{id} is not an EVM network; write eip155:<chain id>"));
        };
        if signers.is_empty() {
            return bad("signers", "needs at least one key to send from".into());
        }
        for (index, signer) in signers.iter().enumerate() {
            if signers[..index].iter().any(|other| other.address() == signer.address()) {
                return bad("signers", format!("names {} twice", signer.address()));
            }
        }
        if settings.confirmations == 0 {
            return bad("confirmations", "must be at least 1".into());
        }
        let here = |asset: &Asset| {
            asset.info.id.network == id && asset.method == crate::assets::TransferMethod::Eip3009
        };
        let assets = assets.only(here);
        if assets.iter().next().is_none() {
            return bad("assets", format!("no EIP-3009 token is known on {id}; add one"));
        }
        Ok(Self { id, chain_id, rpc, signers, assets, clock, settings })
    }

    /// As [`EvmNetwork::new`], with a node at an HTTP URL.
    ///
    /// # Errors
    /// As [`EvmNetwork::new`], and when the URL cannot be one.
    pub fn connect(
        id: NetworkId,
        url: &str,
        signers: Vec<PrivateKeySigner>,
        assets: AssetTable,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Self, Misconfigured> {
        let rpc = Rpc::http(&format!("{}.rpc", settings.setting), &id, url)?;
        Self::new(id, rpc, signers, assets, clock, settings)
    }

    /// The account that simulations are sent from.
    pub(crate) fn first_signer(&self) -> Address {
        self.signers.first().map_or(Address::ZERO, PrivateKeySigner::address)
    }

    pub(crate) fn signer(&self, address: &str) -> Option<&PrivateKeySigner> {
        let address = pay402_core::asset::canonical_address(address);
        self.signers.iter().find(|signer| canonical(&signer.address()) == address)
    }

    /// Whether `account` is one of ours.
    pub(crate) fn sends_from(&self, account: &Address) -> bool {
        self.signers.iter().any(|signer| signer.address() == *account)
    }

    fn misconfigured(&self, key: &str, problem: impl Into<String>) -> Misconfigured {
        Misconfigured::new(format!("{}.{key}", self.settings.setting), problem)
    }

    /// The token is there, and its domain is the one in our table.
    fn check_asset(
        &self,
        asset: &Asset,
        code: Answer,
        domain: Answer,
    ) -> Result<(), Misconfigured> {
        let down = |error: Unavailable| self.misconfigured("rpc", error.problem);
        let name = format!("{} at {}", asset.info.symbol, asset.info.address);
        let code = self.rpc.read_bytes(code).map_err(down)?;
        if code.is_empty() {
            let problem = format!("{name} has no contract on {}", self.id);
            return Err(self.misconfigured("assets", problem));
        }
        let expected = token_domain(&asset.info, self.chain_id, asset.token()).separator();
        let separator = self.rpc.read_call(domain).map_err(down)?.word();
        if separator != Some(expected.into()) {
            let problem = format!(
                "{name} does not have the EIP-712 domain {:?}, version {:?}; correct them",
                asset.info.domain_name, asset.info.domain_version
            );
            return Err(self.misconfigured("assets", problem));
        }
        Ok(())
    }
}

impl fmt::Debug for EvmNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvmNetwork")
            .field("id", &self.id)
            .field("signers", &self.signers())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Network for EvmNetwork {
    fn id(&self) -> &NetworkId {
        &self.id
    }

    fn kinds(&self) -> Vec<Kind> {
        let versions = [(WireVersion::V2, true), (WireVersion::V1, self.id.v1_name().is_some())];
        let served = versions.into_iter().filter(|(_, has_name)| *has_name);
        let kind = |version| Kind {
            version,
            scheme: Scheme::EXACT,
            network: self.id.clone(),
            extra: Map::new(),
        };
        served.map(|(version, _)| kind(version)).collect()
    }

    fn signers(&self) -> Vec<String> {
        self.signers.iter().map(|signer| signer.address().to_checksum(None)).collect()
    }

    fn sealing_key(&self) -> Zeroizing<[u8; 32]> {
        let secret = self.signers.first().map(|signer| Zeroizing::new(signer.to_bytes().0));
        let secret = secret.expect("the constructor demands a signer");
        Zeroizing::new(Digest::of(&[SEALING_LABEL, &*secret]).0)
    }

    async fn check(&self) -> Result<(), Misconfigured> {
        let down = |error: Unavailable| self.misconfigured("rpc", error.problem);
        let mut calls = vec![Call::chain_id()];
        for asset in self.assets.iter() {
            calls.push(Call::code(asset.token()));
            let domain = Eip3009::DOMAIN_SEPARATORCall {}.abi_encode();
            calls.push(Call::view(asset.token(), domain));
        }
        for signer in &self.signers {
            calls.push(Call::new("eth_getBalance", json!([signer.address(), "latest"])));
        }
        let mut answers = self.rpc.ask_many(calls).await.map_err(down)?.into_iter();
        let mut next = || answers.next().expect("one answer per call");

        let chain_id: U64 = self.rpc.read(next()).map_err(down)?;
        if chain_id.to::<u64>() != self.chain_id {
            let problem = format!("is a node of eip155:{chain_id}, not of {}", self.id);
            return Err(self.misconfigured("rpc", problem));
        }
        for asset in self.assets.iter() {
            let code = next();
            self.check_asset(asset, code, next())?;
        }
        for signer in &self.signers {
            let wei: U256 = self.rpc.read(next()).map_err(down)?;
            if wei.is_zero() {
                let problem =
                    format!("{} has nothing to pay gas with; send it some", signer.address());
                return Err(self.misconfigured("signers", problem));
            }
        }
        Ok(())
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        check_form(presented)
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        check_terms_form(terms)
    }

    fn identify(&self, payment: &Payment) -> Result<Identified, Refused> {
        facilitator::identify(self, payment)
    }

    async fn verify(&self, payment: &Payment) -> Result<Verified, Unverified> {
        facilitator::verify(self, payment).await
    }

    async fn consumed_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        let signer = self.signer(signer).ok_or_else(|| self.rpc.unavailable("unknown signer"))?;
        let count = self.rpc.ask(Call::mined_nonces(signer.address())).await?;
        self.rpc.read::<U64>(count).map(|count| count.to())
    }

    async fn sign(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
    ) -> Result<SignedTransaction, Unavailable> {
        submit::sign(self, signer, nonce, &self.plan(plan)?).await
    }

    async fn send(&self, raw: &SecretBytes) -> Result<(), SendError> {
        submit::send(&self.rpc, raw).await
    }

    async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        status::status(self, &self.plan(plan)?, sent).await
    }
}

impl EvmNetwork {
    fn plan(&self, plan: &SecretBytes) -> Result<Plan, Unavailable> {
        Plan::decode(plan).ok_or_else(|| {
            self.rpc.unavailable("the settlement plan is damaged, or of a later version")
        })
    }
}
