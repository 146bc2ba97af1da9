//! One EVM network, to the facilitator: configuration, checks at start, signing and sending.
//!
//! The verification of a payment is in [`verify`], what the chain shows of it in [`sight`], its proof
//! in [`status`], and what nodes' error texts mean in `errors`. What is sent beside payments is in
//! [`account`], `approval` and `errand`, and what takes the place of a transaction in `replace`.

pub mod account;
pub(crate) mod adoption;
mod approval;
pub(crate) mod errand;
pub(crate) mod errors;
mod funds;
pub mod glance;
pub mod guard;
mod lookout;
pub mod nodes;
pub mod pack;
pub(crate) mod plan;
mod replace;
pub mod setup;
pub mod sight;
pub mod status;
mod submit;
pub mod survey;
pub mod tier;
mod together;
mod trial;
pub mod verify;

use std::fmt;
use std::sync::{Arc, OnceLock};

use alloy::primitives::{Address, Bytes, U64, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use async_trait::async_trait;
use pay402_core::error::{Malformed, Misconfigured, Unavailable};
use pay402_core::facilitator::Kind;
use pay402_core::network::{
    Bid, ChainStatus, Errand, Funds, Header, Identified, Network, Pack, Packing, SecretBytes,
    SendError, SentAs, SignedTransaction, Unverified, Verified,
};
use pay402_core::time::Clock;
use pay402_core::{
    Amount, Digest, NetworkId, Payment, PaymentKey, Presented, Refused, Requirements, Scheme,
    WireVersion,
};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::address::canonical;
use crate::assets::{Asset, AssetTable};
use crate::contracts::{Eip3009, Erc20};
use crate::mandate::{Delegation, is_over_for_good};
use crate::pool::{Nodes, Pool};
use crate::read::{SETTLEMENT_MARGIN_S_MIN, check_form, check_terms_form};
use crate::rpc::{Answer, Call, Rpc};
use crate::sponsor::{ACCOUNT_ADOPTION, EIP2612_GAS_SPONSORING, ERC20_APPROVAL_GAS_SPONSORING};
use crate::typed_data::{EXACT_PROXY, PERMIT2, PermitTransfer, UPTO_PROXY};
use account::AccountRequest;
pub(crate) use adoption::Brought;
use errand::{Cancellation, ErrandPlan};
use glance::Glances;
use guard::Guard;
use lookout::Lookout;
use pack::{PACKER, PackSettings};
use plan::{Account, MULTICALL3, Plan};
use submit::FeesSeen;
use tier::Tier;

/// Gas that one settlement may use unless configured otherwise. A plain USDC transfer takes about
/// 80,000; smart accounts more.
pub const GAS_LIMIT_MAX_DEFAULT: u64 = 400_000;
/// Gas that a settlement may use beyond [`Settings::gas_limit_max`] when it deploys the payer's wallet
/// first. Small wallets take about 300,000, accounts with modules 400,000 and more.
pub const DEPLOYMENT_GAS_MAX: u64 = 600_000;
/// Highest fee per gas unless configured otherwise, in wei: 200 gwei.
pub const FEE_PER_GAS_MAX_DEFAULT: u128 = 200_000_000_000;
/// Adoptions and operations that are begun for one account in a day unless configured otherwise.
pub const OPERATIONS_PER_ACCOUNT_MAX_DEFAULT: u32 = 8;
/// Most that is advanced to a payer unless configured otherwise, in wei: 100,000 gas at 1 gwei.
pub const ADVANCE_WEI_MAX_DEFAULT: u128 = 100_000_000_000_000;
/// Most gas of an approval unless configured otherwise. Official clients ask for 70,000.
pub const APPROVAL_GAS_MAX_DEFAULT: u64 = 100_000;
/// Gas of a usual settlement: a little more than a wallet's payment by Permit2 takes.
const SETTLEMENT_GAS: u64 = 100_000;
/// Settlements that a signer must be able to pay for, unless configured otherwise.
pub const SETTLEMENTS_IN_HAND: u64 = 20;
/// Time between blocks unless configured otherwise, in seconds.
pub const BLOCK_TIME_S_DEFAULT: u64 = 2;

/// The key of `extra` by which `upto` payers learn who must settle.
pub(crate) const FACILITATOR_ADDRESS: &str = "facilitatorAddress";

/// Separates the journal's sealing key from every other use of the signer's secret.
const SEALING_LABEL: &[u8] = b"pay402 journal sealing key v1";

/// How a network is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the network stands in the configuration, for errors: `network[0]`.
    pub setting: String,
    /// Depth at which a block is believed, below every tier; 1 is the head itself.
    pub confirmations: u64,
    /// Payments that must be more certain, in any order.
    pub tiers: Vec<Tier>,
    /// Time between blocks, in seconds. Payments must have two of them left to settle in, and
    /// never less than [`SETTLEMENT_MARGIN_S_MIN`].
    pub block_time_s: u64,
    /// Most gas that one settlement may use; bounds what a payer's contract can make us spend. One
    /// that deploys the payer's wallet may use [`DEPLOYMENT_GAS_MAX`] more; one by which the payer's
    /// account adopts its code, twice as much.
    pub gas_limit_max: u64,
    /// Highest fee per gas that is paid, in wei. Payments and errands offer 8 of 9 parts of it at most, so that
    /// a cancellation, for which nodes ask an eighth more, is within it too.
    pub fee_per_gas_max: u128,
    /// What a signer must have for new work to be accepted, in wei; `None` for what
    /// [`SETTLEMENTS_IN_HAND`] settlements may cost at the fees of the present.
    pub signer_wei_min: Option<u128>,
    /// Contracts that may be called to deploy a payer's wallet (ERC-6492). None unless set: a call
    /// into one is at our cost.
    pub factories: Vec<Address>,
    /// Contracts that may be called to carry out what payers delegated (ERC-7710). None unless set:
    /// a call into one is at our cost.
    pub delegation_managers: Vec<Address>,
    /// Contracts that payers may have delegated their account to (EIP-7702) and pay by their own
    /// `redeemDelegations`.
    pub delegates: Vec<Address>,
    /// What is sent for accounts at our cost, beside payments.
    pub sponsoring: Sponsoring,
    /// Whether several payments go in one transaction, and how many.
    pub packing: PackSettings,
    /// What settling a payment may cost.
    pub guard: Guard,
}

impl Settings {
    /// Highest fee per gas that anything but a cancellation offers, in wei.
    pub(crate) const fn offer_max(&self) -> u128 {
        submit::a_step_below(self.fee_per_gas_max)
    }
}

/// What is sent for accounts at our cost, beside payments. Nothing unless set.
#[derive(Clone, Debug)]
pub struct Sponsoring {
    /// Whether accounts may have us send their adoption of one of the delegates (EIP-7702), alone or
    /// with a payment, and the operations that their root signed.
    pub adoptions: bool,
    /// How many of these are begun for one account in a day (UTC).
    pub operations_per_account_max: u32,
    /// Whether approvals of Permit2 that payers sign as transactions are broadcast
    /// (`erc20ApprovalGasSponsoring`).
    pub approvals: bool,
    /// Most that is sent to a payer, once for all, for the gas of its approval, in wei. Zero: payers
    /// have it themselves.
    pub advance_wei_max: u128,
    /// Most gas that an approval may ask for.
    pub approval_gas_max: u64,
}

impl Default for Sponsoring {
    fn default() -> Self {
        Self {
            adoptions: false,
            operations_per_account_max: OPERATIONS_PER_ACCOUNT_MAX_DEFAULT,
            approvals: false,
            advance_wei_max: ADVANCE_WEI_MAX_DEFAULT,
            approval_gas_max: APPROVAL_GAS_MAX_DEFAULT,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            setting: "network".into(),
            confirmations: 1,
            tiers: Vec::new(),
            block_time_s: BLOCK_TIME_S_DEFAULT,
            gas_limit_max: GAS_LIMIT_MAX_DEFAULT,
            fee_per_gas_max: FEE_PER_GAS_MAX_DEFAULT,
            signer_wei_min: None,
            factories: Vec::new(),
            delegation_managers: Vec::new(),
            delegates: Vec::new(),
            sponsoring: Sponsoring::default(),
            packing: PackSettings::default(),
            guard: Guard::default(),
        }
    }
}

/// What is there on the chain, as found at start.
#[derive(Clone, Debug, Default)]
struct Found {
    exact_proxy: bool,
    upto_proxy: bool,
    /// The code of Multicall3; empty where there is none.
    multicall: Bytes,
    /// Whether our own contract that packs payments is there.
    packer: bool,
}

impl Settings {
    /// Shortest time that must remain before an authorization expires, in seconds.
    pub(crate) fn margin_s(&self) -> u64 {
        self.block_time_s.saturating_mul(2).max(SETTLEMENT_MARGIN_S_MIN)
    }
}

/// An EVM network on which a facilitator settles payments by `exact` and `upto`.
pub struct EvmNetwork {
    pub(crate) id: NetworkId,
    pub(crate) chain_id: u64,
    pub(crate) rpc: Rpc,
    signers: Arc<[PrivateKeySigner]>,
    pub(crate) assets: AssetTable,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    glances: Glances,
    lookout: Lookout,
    fees_seen: FeesSeen,
    found: Arc<OnceLock<Found>>,
    pool: Arc<Pool>,
    /// The same network as the nodes beside the first show it.
    others: Vec<EvmNetwork>,
}

impl EvmNetwork {
    /// The network `id`, reached through its `nodes`; transactions are sent from `signers`, and only the
    /// tokens that `assets` has for this network are settled.
    ///
    /// # Errors
    /// When `id` is not an EVM network, or signers or assets are missing.
    pub fn new(
        id: NetworkId,
        nodes: impl Into<Nodes>,
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
        let assets = assets.only(|asset: &Asset| asset.info.id.network == id);
        if assets.iter().next().is_none() {
            return bad("assets", format!("no token is known on {id}; add one"));
        }
        let nodes = nodes.into();
        settings.check_tiers(&assets, nodes.len())?;
        settings.check_guard(&assets, clock.now())?;
        let (pool, rpcs) = nodes.seat();
        let (signers, found) = (Arc::from(signers), Arc::new(OnceLock::new()));
        let through = |rpc: Rpc| Self {
            id: id.clone(),
            chain_id,
            signers: Arc::clone(&signers),
            assets: assets.clone(),
            clock: Arc::clone(&clock),
            glances: Glances::new(rpc.clone(), settings.gas_limit_max),
            lookout: Lookout::new(rpc.clone()),
            settings: settings.clone(),
            fees_seen: FeesSeen::default(),
            found: Arc::clone(&found),
            pool: Arc::clone(&pool),
            others: Vec::new(),
            rpc,
        };
        let mut rpcs = rpcs.into_iter();
        let first = through(rpcs.next().expect("a network has a node at least"));
        Ok(Self { others: rpcs.map(through).collect(), ..first })
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

    /// Whether the proxy that a permit names is on this network.
    pub(crate) fn has_proxy(&self, permit: &PermitTransfer) -> bool {
        self.found.get().is_some_and(|found| match permit.facilitator {
            None => found.exact_proxy,
            Some(_) => found.upto_proxy,
        })
    }

    /// Whether payments may bring their account's adoption along.
    pub(crate) fn adopts_with_payments(&self) -> bool {
        !self.multicall_code().is_empty() && self.settings.sponsoring.adoptions
    }

    /// Whether we call what carries this delegation out: a manager that the operator allows, or the
    /// payer's own account where it runs a delegate that we know.
    pub(crate) fn carries_out(&self, delegation: &Delegation, delegate: Option<Address>) -> bool {
        let is_known = |delegate: Address| self.settings.delegates.contains(&delegate);
        let own = delegation.manager == delegation.delegator && delegate.is_some_and(is_known);
        own || self.settings.delegation_managers.contains(&delegation.manager)
    }

    /// The code of Multicall3 as it is on this network; empty where there is none.
    pub(crate) fn multicall_code(&self) -> Bytes {
        self.found.get().map(|found| found.multicall.clone()).unwrap_or_default()
    }

    fn misconfigured(&self, key: &str, problem: impl Into<String>) -> Misconfigured {
        Misconfigured::new(format!("{}.{key}", self.settings.setting), problem)
    }

    /// The questions whose answers [`EvmNetwork::check_asset`] reads.
    fn asset_calls(asset: &Asset) -> [Call; 3] {
        let domain = Eip3009::DOMAIN_SEPARATORCall {}.abi_encode();
        [
            Call::code(asset.token()),
            Call::view(asset.token(), Erc20::decimalsCall {}.abi_encode()),
            Call::view(asset.token(), domain),
        ]
    }

    /// The token is there, with the decimals and the domain of our table. Tokens without EIP-3009
    /// need no domain here: nobody signs for them.
    fn check_asset(
        &self,
        asset: &Asset,
        [code, decimals, domain]: [Answer; 3],
    ) -> Result<(), Misconfigured> {
        let down = |error: Unavailable| self.misconfigured("rpc", error.problem);
        let name = format!("{} at {}", asset.info.symbol, asset.info.address);
        let code = self.rpc.read_bytes(code).map_err(down)?;
        if code.is_empty() {
            let problem = format!("{name} has no contract on {}", self.id);
            return Err(self.misconfigured("assets", problem));
        }
        let decimals = self.rpc.read_call(decimals).map_err(down)?.word();
        if decimals.is_some_and(|decimals| decimals != U256::from(asset.info.decimals)) {
            let problem =
                format!("{name} does not have {} decimals; correct them", asset.info.decimals);
            return Err(self.misconfigured("assets", problem));
        }
        let separator = self.rpc.read_call(domain).map_err(down)?.word();
        let expected = asset.separator();
        let needs_domain = asset.method == crate::assets::TransferMethod::Eip3009;
        if needs_domain && separator != Some(expected.into()) {
            let problem = format!(
                "{name} does not have the EIP-712 domain {:?}, version {:?}; correct them",
                asset.info.domain_name, asset.info.domain_version
            );
            return Err(self.misconfigured("assets", problem));
        }
        Ok(())
    }

    /// Which of the contracts that payments go through are on the chain.
    fn check_contracts(&self, codes: [Answer; 5]) -> Result<(), Misconfigured> {
        let mut found: [Bytes; 5] = Default::default();
        for (found, code) in found.iter_mut().zip(codes) {
            let code = self.rpc.read_bytes(code);
            *found = code.map_err(|error| self.misconfigured("rpc", error.problem))?;
        }
        let [permit2, exact_proxy, upto_proxy, multicall, packer] = found;
        let [permit2, exact_proxy, upto_proxy] =
            [permit2, exact_proxy, upto_proxy].map(|code| !code.is_empty());
        let without = |key: &str, what: &str| {
            let problem = format!(
                "{what} through Multicall3, and {} has none at {MULTICALL3}; remove the {key}",
                self.id
            );
            Err(self.misconfigured(key, problem.replace('_', " ")))
        };
        if multicall.is_empty() && !self.settings.factories.is_empty() {
            return without("factories", "wallets are deployed");
        }
        if multicall.is_empty() && !self.settings.delegation_managers.is_empty() {
            return without("delegation_managers", "what a delegation moves is looked at");
        }
        let (exact_proxy, upto_proxy) = (permit2 && exact_proxy, permit2 && upto_proxy);
        let packer = pack::is_packer(&packer);
        let found = Found { exact_proxy, upto_proxy, multicall, packer };
        // A second check of the same network finds the same.
        _ = self.found.set(found);
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
        let kind =
            |version, scheme, extra| Kind { version, scheme, network: self.id.clone(), extra };
        let mut kinds = vec![kind(WireVersion::V2, Scheme::EXACT, Map::new())];
        if self.found.get().is_some_and(|found| found.upto_proxy) {
            // One for all: whoever settles must be the one that the payer named.
            let facilitator = self.first_signer().to_checksum(None);
            let extra = Map::from_iter([(FACILITATOR_ADDRESS.to_owned(), facilitator.into())]);
            kinds.push(kind(WireVersion::V2, Scheme::UPTO, extra));
        }
        if self.id.v1_name().is_some() {
            kinds.push(kind(WireVersion::V1, Scheme::EXACT, Map::new()));
        }
        kinds
    }

    fn extensions(&self) -> Vec<String> {
        let proxies = self.found.get().is_some_and(|found| found.exact_proxy || found.upto_proxy);
        let mut extensions = Vec::new();
        if proxies {
            extensions.push(EIP2612_GAS_SPONSORING.to_owned());
        }
        if proxies && self.settings.sponsoring.approvals {
            extensions.push(ERC20_APPROVAL_GAS_SPONSORING.to_owned());
        }
        if self.adopts_with_payments() {
            extensions.push(ACCOUNT_ADOPTION.to_owned());
        }
        extensions
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
        let mut checked = Ok(());
        for node in self.check_nodes().await? {
            checked = node.check_here().await;
            // What is said of the node may be otherwise with the next.
            if !checked.as_ref().is_err_and(|error| error.key.ends_with(".rpc")) {
                break;
            }
        }
        checked
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        check_form(presented)
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        check_terms_form(terms)
    }

    fn identify(&self, payment: &Payment) -> Result<Identified, Refused> {
        verify::identify(self, payment)
    }

    async fn verify(&self, payment: &Payment) -> Result<Verified, Unverified> {
        self.decide(|node| verify::verify(node, payment)).await
    }

    fn account_form(&self, request: &Map<String, Value>) -> Result<(), Malformed> {
        AccountRequest::parse(request).map(drop)
    }

    fn identify_account(&self, request: &Map<String, Value>) -> Result<Identified, Refused> {
        account::identify(self, request)
    }

    async fn check_account(
        &self,
        request: &Map<String, Value>,
    ) -> Result<Option<Errand>, Unverified> {
        self.decide(|node| account::check(node, request)).await
    }

    fn sender(&self, plan: &SecretBytes) -> Option<String> {
        Some(Plan::decode(plan)?.sender()?.to_checksum(None))
    }

    fn sources(&self, plan: &SecretBytes) -> Vec<String> {
        Plan::decode(plan).map(|plan| plan.sources()).unwrap_or_default()
    }

    fn refuses_again(&self, key: &PaymentKey) -> bool {
        is_over_for_good(key)
    }

    fn cost_max(&self, plan: &SecretBytes) -> Option<Amount> {
        Some(Amount::new(self.cost_wei_max(&Plan::decode(plan)?)?))
    }

    fn gas(&self, plan: &SecretBytes) -> u64 {
        Plan::decode(plan).map_or(0, |plan| match plan.account {
            Account::Plain => SETTLEMENT_GAS.min(self.settings.gas_limit_max),
            account => plan.gas_max(&self.settings, account),
        })
    }

    async fn gas_price(&self) -> Result<Amount, Unavailable> {
        let price = self.decide(Self::price_of_gas).await?;
        Ok(Amount::new(U256::from(price)))
    }

    fn signed_elsewhere(&self, plan: &SecretBytes) -> Option<(SentAs, SecretBytes)> {
        match ErrandPlan::decode(plan)? {
            ErrandPlan::Approval(approval) => Some(approval.signed()),
            ErrandPlan::Account(_) | ErrandPlan::Advance(_) | ErrandPlan::Cancellation(_) => None,
        }
    }

    async fn funds(&self) -> Result<Vec<Funds>, Unavailable> {
        self.decide(Self::funds_here).await
    }

    async fn consumed_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        self.decide(|node| node.consumed_nonces_here(signer)).await
    }

    async fn known_nonces(&self, signer: &str) -> Result<u64, Unavailable> {
        let consumed = self.consumed_nonces(signer).await?;
        let signer = self.signer(signer).ok_or_else(|| self.rpc.unavailable("unknown signer"))?;
        let pending = self.rpc.ask(Call::pending_nonces(signer.address())).await?;
        self.rpc.read::<U64>(pending).map(|pending| consumed.max(pending.to()))
    }

    fn cancellation(&self, signer: &str, nonce: u64) -> Option<SecretBytes> {
        let signer = self.signer(signer)?.address();
        Some(Cancellation { signer, nonce }.encode())
    }

    fn cancels(&self, plan: &SecretBytes) -> Option<(String, u64)> {
        match ErrandPlan::decode(plan)? {
            ErrandPlan::Cancellation(Cancellation { signer, nonce }) => {
                Some((signer.to_checksum(None), nonce))
            }
            ErrandPlan::Account(_) | ErrandPlan::Advance(_) | ErrandPlan::Approval(_) => None,
        }
    }

    async fn sign(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        self.decide(|node| node.sign_here(signer, nonce, plan, cost_max)).await
    }

    fn packing(&self) -> Option<Packing> {
        self.packing_here()
    }

    fn may_be_packed(&self, plan: &SecretBytes) -> bool {
        Plan::decode(plan).is_some_and(|plan| self.is_packable(&plan))
    }

    async fn pack(&self, plans: &[&SecretBytes]) -> Vec<Pack> {
        let plans = plans.iter().map(|plan| Plan::decode(plan)).collect();
        self.preferred().pack_together(plans).await
    }

    async fn sign_pack(
        &self,
        signer: &str,
        nonce: u64,
        plans: &[&SecretBytes],
        item_gas: u64,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        let plans = plans.iter().map(|plan| self.plan(plan)).collect::<Result<Vec<_>, _>>()?;
        let gas = (item_gas, cost_max);
        self.decide(|node| submit::sign_pack(node, signer, nonce, &plans, gas)).await
    }

    async fn statuses(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        self.agreed_statuses(members).await
    }

    async fn second_look(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        self.statuses_of_two(members).await
    }

    async fn replacement(
        &self,
        sent: &SentAs,
        raw: &SecretBytes,
        bid: Bid,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        self.decide(|node| replace::replacement(node, sent, raw, bid)).await
    }

    fn lapses(&self, plan: &SecretBytes) -> bool {
        // Errands have no end on the chain: what was signed may be of use at any time.
        Plan::decode(plan).is_some()
    }

    async fn cancel(
        &self,
        sent: &SentAs,
        raw: &SecretBytes,
    ) -> Result<Option<SignedTransaction>, Unavailable> {
        self.decide(|node| replace::cancel(node, sent, raw)).await
    }

    async fn send(&self, raw: &SecretBytes) -> Result<(), SendError> {
        self.broadcast(raw).await
    }

    async fn head(&self) -> Result<Header, Unavailable> {
        self.decide(Self::head_here).await
    }

    async fn common_head(&self, seen: Header) -> Result<Header, Unavailable> {
        self.agreed_head(seen).await
    }

    async fn headers(&self, numbers: &[u64]) -> Result<Vec<Option<Header>>, Unavailable> {
        self.agreed_headers(numbers).await
    }

    async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        self.agreed_status(plan, sent, self.nodes_to_close(plan)?).await
    }
}

impl EvmNetwork {
    /// What [`Network::check`] looks at beside the chain id, as one node shows it.
    async fn check_here(&self) -> Result<(), Misconfigured> {
        let down = |error: Unavailable| self.misconfigured("rpc", error.problem);
        let mut calls = Vec::new();
        for asset in self.assets.iter() {
            calls.extend(Self::asset_calls(asset));
        }
        calls.extend([PERMIT2, EXACT_PROXY, UPTO_PROXY, MULTICALL3, PACKER].map(Call::code));
        for signer in self.signers.iter() {
            calls.push(Call::balance(signer.address()));
        }
        let mut answers = self.rpc.ask_many(calls).await.map_err(down)?.into_iter();
        let mut next = || answers.next().expect("one answer per call");

        for asset in self.assets.iter() {
            self.check_asset(asset, [next(), next(), next()])?;
        }
        self.check_contracts([next(), next(), next(), next(), next()])?;
        for signer in self.signers.iter() {
            let wei: U256 = self.rpc.read(next()).map_err(down)?;
            if wei.is_zero() {
                let problem =
                    format!("{} has nothing to pay gas with; send it some", signer.address());
                return Err(self.misconfigured("signers", problem));
            }
        }
        Ok(())
    }

    async fn consumed_nonces_here(&self, signer: &str) -> Result<u64, Unavailable> {
        let signer = self.signer(signer).ok_or_else(|| self.rpc.unavailable("unknown signer"))?;
        let mut calls = self.head_beside_others();
        calls.push(Call::mined_nonces(signer.address()));
        let mut answers = self.rpc.ask_many(calls).await?;
        let count = answers.pop().expect("one answer per call");
        self.rpc.read::<U64>(count).map(|count| count.to())
    }

    /// The question that tells whether a node is behind the others; none where there are none.
    fn head_beside_others(&self) -> Vec<Call> {
        if self.is_alone() { Vec::new() } else { vec![Call::head()] }
    }

    async fn sign_here(
        &self,
        signer: &str,
        nonce: u64,
        plan: &SecretBytes,
        cost_max: Option<Amount>,
    ) -> Result<SignedTransaction, Unavailable> {
        match ErrandPlan::decode(plan) {
            Some(errand) => submit::sign_errand(self, signer, nonce, &errand).await,
            None => submit::sign(self, signer, nonce, &self.plan(plan)?, cost_max).await,
        }
    }

    /// Where a payment or an errand stands, as this node shows it.
    async fn status_here(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        match ErrandPlan::decode(plan) {
            Some(ErrandPlan::Account(errand)) => errand.status(self, sent).await,
            Some(ErrandPlan::Advance(advance)) => advance.status(self, sent).await,
            Some(ErrandPlan::Approval(approval)) => approval.status(self, sent).await,
            Some(ErrandPlan::Cancellation(cancellation)) => cancellation.status(self, sent).await,
            None => status::status(self, &self.plan(plan)?, sent).await,
        }
    }

    /// Where payments of one transaction stand, as this node shows them; an error if it shows none.
    async fn statuses_here(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Result<Vec<Result<ChainStatus, Unavailable>>, Unavailable> {
        if let [(plan, sent)] = members {
            return Ok(vec![Ok(self.status_here(plan, Some(sent)).await?)]);
        }
        let plans = members.iter().map(|(plan, sent)| Ok((self.plan(plan)?, *sent)));
        let plans = plans.collect::<Result<Vec<_>, Unavailable>>()?;
        let statuses = status::statuses(self, &plans).await;
        match statuses.iter().find_map(|status| status.as_ref().err()) {
            Some(error) if statuses.iter().all(Result::is_err) => Err(error.clone()),
            _ => Ok(statuses),
        }
    }

    /// How many nodes must show what closes the entry of this plan.
    fn nodes_to_close(&self, plan: &SecretBytes) -> Result<u32, Unavailable> {
        // The least is one of them everywhere: no plan has to be read for it.
        if self.is_alone() || self.settings.tiers.is_empty() || ErrandPlan::decode(plan).is_some() {
            return Ok(self.settings.least().nodes);
        }
        let plan = self.plan(plan)?;
        Ok(self.settings.certainty(plan.token, plan.charge).nodes)
    }

    fn plan(&self, plan: &SecretBytes) -> Result<Plan, Unavailable> {
        Plan::decode(plan).ok_or_else(|| {
            self.rpc.unavailable("the settlement plan is damaged, or of a later version")
        })
    }
}
