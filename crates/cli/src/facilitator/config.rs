//! The configuration file of the facilitator: typed, complete, refused at start when it is wrong.
//!
//! Long because every setting of one file is here, with the test of what each refuses.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy::primitives::{Address, U256};
use pay402_core::error::Misconfigured;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::address::parse_address;
use pay402_evm::network::pack::PackSettings;
use pay402_evm::{AssetTable, Certainty, Guard, Rate, Settings, Stale, Tier};
use pay402_facilitator::{LossBounds, Options};
use serde::Deserialize;

use super::caller::Caller;
use super::nodes::{self, Node, NodeSection, Urls};
use super::sponsor::Sponsor;
use super::webhooks;

/// The chain id of Ethereum, whose blocks are slower than those of the others.
const ETHEREUM: u64 = 1;
/// What `block_time_s` may be.
const BLOCK_TIME_S: RangeInclusive<u64> = 1..=600;
/// What `gas_limit_max` may be; the least that a token transfer with its checks takes is the start.
const GAS_LIMIT_MAX: RangeInclusive<u64> = 60_000..=10_000_000;
/// What `fee_per_gas_max_gwei` may be.
const FEE_PER_GAS_MAX_GWEI: RangeInclusive<u64> = 1..=100_000;
/// What `operations_per_account_max` may be: each asks the journal for every turn before it.
const OPERATIONS_PER_ACCOUNT_MAX: RangeInclusive<u64> = 1..=100;
/// What `advance_wei_max` may be; whoever makes a new key may be sent it once.
const ADVANCE_WEI_MAX: RangeInclusive<u64> = 0..=10_000_000_000_000_000;
/// What `approval_gas_max` may be.
const APPROVAL_GAS_MAX: RangeInclusive<u64> = 30_000..=1_000_000;
/// What a bound on what gas costs may be, in gwei: up to a hundred thousand coins.
pub(super) const COST_MAX_GWEI: RangeInclusive<u64> = 1..=100_000_000_000_000;
/// What `in_flight_per_signer_max` may be: more is never unfinished.
const IN_FLIGHT_PER_SIGNER_MAX: RangeInclusive<u64> = 1..=4096;
/// What `cost_percent_max` may be: up to a hundred times what is charged.
const COST_PERCENT_MAX: RangeInclusive<u64> = 1..=10_000;
/// What `rate_age_max_h` may be: up to a year.
const RATE_AGE_MAX_H: RangeInclusive<u64> = 1..=365 * 24;
/// What `failures_in_a_row_max` may be.
const FAILURES_IN_A_ROW_MAX: RangeInclusive<u64> = 1..=10_000;
/// What `pack_wait_ms` may be; 0 packs only what is due at the same time.
const PACK_WAIT_MS: RangeInclusive<u64> = 0..=1_000;
/// What `pack_members_max` may be.
const PACK_MEMBERS_MAX: RangeInclusive<u64> = 2..=64;
/// What `pack_gas_max` may be: from two payments to the most that a transaction may use (EIP-7825).
const PACK_GAS_MAX: RangeInclusive<u64> = 400_000..=16_777_216;
pub(super) const WEI_PER_GWEI: u128 = 1_000_000_000;
/// What `strikes_max` may be: so many times are remembered of one payer.
const STRIKES_MAX: RangeInclusive<u32> = 1..=1_000;
/// What `strikes_window_s` may be: up to a week.
const STRIKES_WINDOW_S: RangeInclusive<u64> = 1..=7 * 24 * 60 * 60;
/// What `settle_wait_s` may be: official servers give up on their facilitator after 90 s.
const SETTLE_WAIT_S: RangeInclusive<u64> = 1..=75;
/// What `lease_s` may be.
const LEASE_S: RangeInclusive<u64> = 3..=60;
/// What `drain_delay_s` may be.
const DRAIN_DELAY_S: RangeInclusive<u64> = 0..=300;
/// Most signers of one network.
const SIGNERS_MAX: usize = 64;
/// What `burial_blocks` may be. What is watched is in memory by block, and in the journal by entry.
const BURIAL_BLOCKS: RangeInclusive<u64> = 1..=10_000;
/// What `halt_after_s` may be.
const HALT_AFTER_S: RangeInclusive<u64> = 10..=86_400;
/// What `retain_days` may be: from a day to a hundred years.
const RETAIN_DAYS: RangeInclusive<u64> = 1..=36_500;
const DAY_S: u64 = 24 * 60 * 60;
/// Hexadecimal digits of a private key.
const KEY_DIGITS: usize = 64;
/// How the URL of a PostgreSQL database begins.
const POSTGRES: [&str; 2] = ["postgres://", "postgresql://"];
/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// `facilitator.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Address and port to listen on.
    pub(crate) listen: SocketAddr,
    /// Where the journal is: a file for SQLite, relative to the configuration file, or the URL of a
    /// PostgreSQL database, which may hold a password, so it is never printed. `${VAR}` is replaced.
    database: Secret,
    /// The environment variable with the password of the PostgreSQL database, or `<name>_FILE`.
    pub(crate) database_password_env: Option<String>,
    /// Where the other facilitators on the same PostgreSQL database reach this one, to forward calls
    /// to it while it leads. Default nowhere.
    pub(crate) advertise: Option<String>,
    /// How long the lease of a network lasts when it is not renewed, in seconds: after a crash nobody
    /// settles that long. Default 10.
    pub(crate) lease_s: Option<u64>,
    /// The folder of the configuration file.
    #[serde(skip)]
    folder: PathBuf,
    /// Failed settlements of one payer that cost gas, within `strikes_window_s`, from which on its
    /// payments are refused. Default 3.
    pub(crate) strikes_max: Option<u32>,
    /// How long a failed settlement is held against its payer, in seconds. Default an hour.
    pub(crate) strikes_window_s: Option<u64>,
    /// Longest that one settle call waits for the outcome, in seconds, where the terms allow as much.
    /// Default 75.
    pub(crate) settle_wait_s: Option<u64>,
    /// How long after a signal to stop payments are still taken while `/readyz` says 503 already, in
    /// seconds. Default none.
    pub(crate) drain_delay_s: Option<u64>,
    /// How deep a block is beyond doubt: until then what it closed is watched. Default 64.
    burial_blocks: Option<u64>,
    /// How long no block may come while settlements wait for one, before nothing new is accepted, in
    /// seconds. Default 120.
    halt_after_s: Option<u64>,
    /// How long payments are kept after they are over for good, in days. Default for ever.
    retain_days: Option<u64>,
    /// Where the operator is sent events.
    pub(crate) webhook: Option<webhooks::Settings>,
    /// Whether webhooks may go to this machine and to private networks, and by plain HTTP. Default no.
    #[serde(default)]
    pub(crate) dangerous_private_webhooks: bool,
    /// Networks to settle on.
    #[serde(default, rename = "network")]
    pub(crate) networks: Vec<Network>,
    /// Who may call; without any, everybody on this machine may.
    #[serde(default, rename = "caller")]
    pub(crate) callers: Vec<Caller>,
}

/// `[[network]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// CAIP-2 id or v1 name.
    pub(crate) id: NetworkId,
    /// URL of a JSON-RPC node, or several; may hold keys, so they are never printed. `${VAR}` is
    /// replaced.
    rpc: Option<Urls>,
    /// The nodes, where they have names.
    #[serde(default, rename = "node")]
    nodes: Vec<NodeSection>,
    /// The account that sends the transactions and pays their gas.
    signer: Option<Signer>,
    /// Several of them instead, which take turns. What the journal keeps sealed is sealed with the
    /// first one's key.
    #[serde(default)]
    signers: Vec<Signer>,
    /// Blocks, the one with the transaction included, before a settlement counts. Default 1; on
    /// Ethereum 2.
    pub(crate) confirmations: Option<u64>,
    /// Seconds between blocks: payments must leave time for two. Default 2; on Ethereum 12.
    pub(crate) block_time_s: Option<u64>,
    /// Most gas that one settlement may use. Default 400,000.
    pub(crate) gas_limit_max: Option<u64>,
    /// Highest fee per gas that is paid, in gwei. Default 200.
    pub(crate) fee_per_gas_max_gwei: Option<u64>,
    /// What the signer must have for new settlements to be accepted, in gwei. Default what 20 of them, or
    /// a pack, may cost at the fees of the present.
    pub(crate) signer_min_gwei: Option<u64>,
    /// What failed settlements may cost in an hour before nothing new is accepted, in gwei. Default
    /// 50,000,000 (0.05 ETH).
    loss_max_gwei: Option<u64>,
    /// The same of one payer: then its payments are refused. Default 5,000,000.
    loss_per_payer_max_gwei: Option<u64>,
    /// The same of what one caller entered: then what it enters is refused. Default 20,000,000.
    loss_per_caller_max_gwei: Option<u64>,
    /// Transactions of one signer that wait to be mined, from which on it is given nothing new. Default 1024.
    in_flight_per_signer_max: Option<u64>,
    /// Settlements in a row that fail at a price from which on nothing new is accepted for a while.
    /// Default 20.
    failures_in_a_row_max: Option<u64>,
    /// Whether several payments go in one transaction where the contract for it is there. Default so.
    #[serde(default)]
    pub(crate) packing: Packs,
    /// How long a payment that is not the only one due waits for others, in milliseconds. Default 20.
    pub(crate) pack_wait_ms: Option<u64>,
    /// Most payments of one transaction. Default 50.
    pub(crate) pack_members_max: Option<u64>,
    /// Most gas of one such transaction. Default 6,000,000.
    pub(crate) pack_gas_max: Option<u64>,
    /// Contracts that may be called to deploy a payer's wallet (ERC-6492). Default none.
    #[serde(default)]
    pub(crate) factories: Vec<String>,
    /// Contracts that may be called to carry out delegations (ERC-7710). Default none.
    #[serde(default)]
    pub(crate) delegation_managers: Vec<String>,
    /// Code that payers' accounts may have adopted (EIP-7702) to pay by ERC-7710 themselves. Default
    /// `AgentAccount`.
    pub(crate) delegates: Option<Vec<String>>,
    /// What is sent for accounts at the signer's cost, beside payments. Default nothing.
    #[serde(default)]
    pub(crate) sponsor: Sponsor,
    /// Assets beside the default ones of the network.
    #[serde(default, rename = "asset")]
    pub(crate) assets: Vec<Asset>,
    /// What settling a payment may cost. Default anything within the gas limits.
    #[serde(default)]
    guard: GuardSection,
    /// What the network's own coin is worth in tokens, on a day. Default not known.
    #[serde(default, rename = "rate")]
    rates: Vec<RateSection>,
    /// Payments that must be more certain than others. Default none.
    #[serde(default, rename = "tier")]
    tiers: Vec<TierSection>,
}

/// `[network.guard]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuardSection {
    /// Most that the gas of a payment may cost, in hundredths of what is charged: needs a rate of every
    /// token.
    cost_percent_max: Option<u64>,
    /// Most that the gas of a payment may cost, in gwei.
    cost_max_gwei: Option<u64>,
    /// The least that is settled, each in whole units of the token that is written behind it.
    #[serde(default)]
    least: Vec<String>,
    /// How old a rate may be, in hours. Default a week.
    rate_age_max_h: Option<u64>,
    /// What becomes of payments whose rate is older. Default they are refused.
    #[serde(default)]
    old_rates: OldRates,
}

/// `old_rates`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum OldRates {
    /// Payments are refused.
    #[default]
    Refuse,
    /// The rate is used all the same.
    Use,
}

/// `[[network.rate]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateSection {
    /// What one whole coin is worth, in whole units of the token that is written behind it: `"3000.00 USDC"`.
    coin: String,
    /// The day (UTC) on which it was: `2026-11-26`.
    date: toml::value::Datetime,
}

/// `[[network.tier]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TierSection {
    /// The least charge, in whole units of the token that is written behind it: `"100.00 USDC"`.
    from: String,
    /// Blocks, the one with the transaction included, before such a settlement counts.
    confirmations: u64,
    /// How many of the network's nodes must show its proof. Default 1.
    nodes: Option<u32>,
}

/// `packing`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Packs {
    /// Where the contract for it is on the chain.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// `[[network.asset]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asset {
    /// The token's address.
    pub(crate) address: String,
    /// Short name for people. This and the decimals are needed unless the default table knows the
    /// asset.
    symbol: Option<String>,
    /// Decimal places.
    decimals: Option<u8>,
    /// `name` of the token's EIP-712 domain. It and the version may be left out of a token without
    /// EIP-3009: it is settled through Permit2 then.
    name: Option<String>,
    /// `version` of the token's EIP-712 domain.
    version: Option<String>,
    /// Whether several payments of it may go in one transaction. Default no; of an asset in the default
    /// table, as that says.
    packs: Option<bool>,
}

/// What is needed of an asset that is not in the default table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AssetDetails<'a> {
    /// Short name for people.
    pub(crate) symbol: &'a str,
    /// Decimal places.
    pub(crate) decimals: u8,
    /// Name and version of the token's EIP-712 domain; `None` for a token without EIP-3009.
    pub(crate) domain: Option<(&'a str, &'a str)>,
    /// Whether several payments of it may go in one transaction.
    pub(crate) packs: bool,
}

impl Asset {
    /// What is said about the asset beside its address; `None` when nothing is.
    pub(crate) fn details(&self, setting: &str) -> Result<Option<AssetDetails<'_>>, Misconfigured> {
        let Self { symbol, decimals, name, version, packs, .. } = self;
        let domain = match (name, version) {
            (Some(name), Some(version)) => Some((name.as_str(), version.as_str())),
            _ => None,
        };
        let given = [
            ("symbol", symbol.is_some()),
            ("decimals", decimals.is_some()),
            ("name", name.is_some() || version.is_none()),
            ("version", version.is_some() || name.is_none()),
        ];
        let missing: Vec<_> =
            given.iter().filter(|(_, given)| !given).map(|(field, _)| *field).collect();
        match (symbol, decimals) {
            (Some(symbol), Some(decimals)) if missing.is_empty() => {
                let packs = packs.unwrap_or_default();
                if packs && domain.is_none() {
                    let problem = "has packs without name and version; only EIP-3009 is packed";
                    return Err(Misconfigured::new(setting, problem));
                }
                Ok(Some(AssetDetails { symbol, decimals: *decimals, domain, packs }))
            }
            (None, None) if domain.is_none() && missing.len() == 2 && packs.is_none() => Ok(None),
            _ => {
                let missing = missing.join(", ");
                let problem = format!("lacks {missing}; give all of the details, or none");
                Err(Misconfigured::new(setting, problem))
            }
        }
    }
}

/// Where the journal is.
#[derive(Debug)]
pub(crate) enum Database<'a> {
    /// A file for SQLite.
    File(PathBuf),
    /// A PostgreSQL database, by its URL; not for printing.
    Postgres(&'a Secret),
}

impl Config {
    /// Where the journal is.
    pub(crate) fn database(&self) -> Database<'_> {
        let is_url = POSTGRES.iter().any(|scheme| self.database.0.starts_with(scheme));
        if is_url {
            Database::Postgres(&self.database)
        } else {
            Database::File(self.folder.join(&self.database.0))
        }
    }

    /// What is set here of the engine's options; the rest as by default.
    pub(crate) fn options(&self) -> Options {
        let default = Options::default();
        let window = self.strikes_window_s.map(Duration::from_secs);
        let wait = self.settle_wait_s.map(Duration::from_secs);
        Options {
            // A database that several facilitators reach is there so that one stands in for another.
            follows: matches!(self.database(), Database::Postgres(_)),
            advertise: self.advertise.clone(),
            lease: self.lease_s.map_or(default.lease, Duration::from_secs),
            strikes_max: self.strikes_max.unwrap_or(default.strikes_max),
            strikes_window: window.unwrap_or(default.strikes_window),
            burial_blocks: self.burial_blocks.unwrap_or(default.burial_blocks),
            halt_after: self.halt_after_s.map_or(default.halt_after, Duration::from_secs),
            retain: self.retain_days.map(|days| Duration::from_secs(days.saturating_mul(DAY_S))),
            settle_wait_max: wait.unwrap_or(default.settle_wait_max),
            losses: self.networks.iter().map(|it| (it.id.clone(), it.losses())).collect(),
            in_flight_per_signer_max: self.networks.iter().filter_map(Network::in_flight).collect(),
            gas_budgets: self.callers.iter().filter_map(Caller::gas_budget).collect(),
            ..default
        }
    }

    fn check(&self) -> Result<(), Misconfigured> {
        if self.networks.is_empty() {
            return Err(Misconfigured::new("network", "is missing; add a [[network]] section"));
        }
        match (self.database(), &self.database_password_env) {
            (Database::Postgres(_), Some(name)) => check_variable("database_password_env", name)?,
            (Database::Postgres(_), None) => {}
            (Database::File(_), Some(_)) => {
                let problem = "is for a PostgreSQL database, and database names a file; remove it, \
                               or write database = \"postgres://user@host/name\"";
                return Err(Misconfigured::new("database_password_env", problem));
            }
            (Database::File(_), None) if self.database.0.contains("://") => {
                let problem = "is a URL of no kind that is known; write the path of a file, or \
                               postgres://user@host/name";
                return Err(Misconfigured::new("database", problem));
            }
            (Database::File(_), None) => {}
        }
        let outside = |setting: &str, from: u64, to: u64| {
            Err(Misconfigured::new(setting, format!("must be from {from} to {to}")))
        };
        if self.strikes_max.is_some_and(|max| !STRIKES_MAX.contains(&max)) {
            let (from, to) = (*STRIKES_MAX.start(), *STRIKES_MAX.end());
            return outside("strikes_max", from.into(), to.into());
        }
        if self.strikes_window_s.is_some_and(|window| !STRIKES_WINDOW_S.contains(&window)) {
            return outside("strikes_window_s", *STRIKES_WINDOW_S.start(), *STRIKES_WINDOW_S.end());
        }
        if self.settle_wait_s.is_some_and(|wait| !SETTLE_WAIT_S.contains(&wait)) {
            return outside("settle_wait_s", *SETTLE_WAIT_S.start(), *SETTLE_WAIT_S.end());
        }
        if self.advertise.is_some() && matches!(self.database(), Database::File(_)) {
            let problem = "is where facilitators on one PostgreSQL database reach this one, and database \
                           names a file; remove it, or write database = \"postgres://user@host/name\"";
            return Err(Misconfigured::new("advertise", problem));
        }
        if self.lease_s.is_some_and(|lease| !LEASE_S.contains(&lease)) {
            return outside("lease_s", *LEASE_S.start(), *LEASE_S.end());
        }
        if self.burial_blocks.is_some_and(|blocks| !BURIAL_BLOCKS.contains(&blocks)) {
            return outside("burial_blocks", *BURIAL_BLOCKS.start(), *BURIAL_BLOCKS.end());
        }
        if self.halt_after_s.is_some_and(|after| !HALT_AFTER_S.contains(&after)) {
            return outside("halt_after_s", *HALT_AFTER_S.start(), *HALT_AFTER_S.end());
        }
        if self.retain_days.is_some_and(|days| !RETAIN_DAYS.contains(&days)) {
            return outside("retain_days", *RETAIN_DAYS.start(), *RETAIN_DAYS.end());
        }
        let deepest = self.networks.iter().map(Network::deepest).max().unwrap_or(0);
        if deepest > self.options().burial_blocks {
            let problem =
                format!("must be at least {deepest}, the most confirmations of a network");
            return Err(Misconfigured::new("burial_blocks", problem));
        }
        if self.drain_delay_s.is_some_and(|delay| !DRAIN_DELAY_S.contains(&delay)) {
            return outside("drain_delay_s", *DRAIN_DELAY_S.start(), *DRAIN_DELAY_S.end());
        }
        Ok(())
    }
}

impl Network {
    /// Its signers, each with the name of its setting.
    pub(crate) fn signers(&self, setting: &str) -> Result<Vec<(String, &Signer)>, Misconfigured> {
        match (&self.signer, &self.signers[..]) {
            (Some(signer), []) => Ok(vec![(format!("{setting}.signer"), signer)]),
            (None, signers @ [_, ..]) if signers.len() <= SIGNERS_MAX => {
                let named = signers.iter().enumerate();
                Ok(named.map(|(at, signer)| (format!("{setting}.signers[{at}]"), signer)).collect())
            }
            (None, [_, ..]) => {
                let problem = format!("must be {SIGNERS_MAX} at most");
                Err(Misconfigured::new(format!("{setting}.signers"), problem))
            }
            (None, []) => {
                let problem = "is missing; write signer = { env = \"…\" }, or signers with several";
                Err(Misconfigured::new(format!("{setting}.signer"), problem))
            }
            (Some(_), [_, ..]) => {
                let problem = "stands beside signers; keep one of them";
                Err(Misconfigured::new(format!("{setting}.signer"), problem))
            }
        }
    }

    /// How the network is served: what is set here, else what suits the chain.
    pub(crate) fn settings(&self, setting: &str) -> Result<Settings, Misconfigured> {
        let default = Settings::default();
        let (confirmations, block_time_s) = match self.id.evm_chain_id() {
            Some(ETHEREUM) => (2, 12),
            _ => (default.confirmations, default.block_time_s),
        };
        let delegates = match &self.delegates {
            Some(delegates) => contracts(&format!("{setting}.delegates"), delegates)?,
            None => vec![AGENT_ACCOUNT],
        };
        let packs = PackSettings::default();
        let wait = self.pack_wait_ms.map(Duration::from_millis).or(packs.wait);
        let members_max = self.pack_members_max.map_or(packs.members_max, |members| {
            usize::try_from(members).expect("its bound is small")
        });
        let packing = PackSettings {
            wait: wait.filter(|_| self.packing == Packs::Auto),
            members_max,
            gas_max: self.pack_gas_max.unwrap_or(packs.gas_max),
        };
        let fee_per_gas_max = self.fee_per_gas_max_gwei.map(|gwei| u128::from(gwei) * WEI_PER_GWEI);
        Ok(Settings {
            setting: setting.to_owned(),
            confirmations: self.confirmations.unwrap_or(confirmations),
            // Amounts are read where the tokens are known.
            tiers: Vec::new(),
            guard: Guard::default(),
            block_time_s: self.block_time_s.unwrap_or(block_time_s),
            gas_limit_max: self.gas_limit_max.unwrap_or(default.gas_limit_max),
            fee_per_gas_max: fee_per_gas_max.unwrap_or(default.fee_per_gas_max),
            signer_wei_min: self.signer_min_gwei.map(|gwei| u128::from(gwei) * WEI_PER_GWEI),
            factories: contracts(&format!("{setting}.factories"), &self.factories)?,
            delegation_managers: contracts(
                &format!("{setting}.delegation_managers"),
                &self.delegation_managers,
            )?,
            delegates,
            sponsoring: self.sponsor.settings(),
            packing,
        })
    }

    /// The nodes that the network is reached through, the preferred one first.
    pub(crate) fn nodes(&self, setting: &str) -> Vec<Node<'_>> {
        nodes::all(setting, self.rpc.as_ref(), &self.nodes)
    }

    /// The most confirmations that are set here.
    fn deepest(&self) -> u64 {
        let tiers = self.tiers.iter().map(|tier| tier.confirmations);
        tiers.chain(self.confirmations).max().unwrap_or(0)
    }

    /// Where more certainty is asked for, of the tokens that are settled here.
    pub(crate) fn tiers(
        &self,
        setting: &str,
        assets: &AssetTable,
    ) -> Result<Vec<Tier>, Misconfigured> {
        let read = |(index, section): (usize, &TierSection)| {
            let (token, from) = Tier::parse_from(&section.from, assets).map_err(|problem| {
                Misconfigured::new(format!("{setting}.tier[{index}].from"), problem)
            })?;
            let nodes = section.nodes.unwrap_or(1);
            let certainty = Certainty { confirmations: section.confirmations, nodes };
            Ok(Tier { token, from, certainty })
        };
        self.tiers.iter().enumerate().map(read).collect()
    }

    /// How many transactions of one signer may wait to be mined, where that is set.
    fn in_flight(&self) -> Option<(NetworkId, usize)> {
        let max = usize::try_from(self.in_flight_per_signer_max?).expect("its bound is small");
        Some((self.id.clone(), max))
    }

    /// What may be lost in an hour.
    fn losses(&self) -> LossBounds {
        let default = LossBounds::default();
        let wei = |gwei: Option<u64>, default: Amount| {
            gwei.map_or(default, |gwei| Amount::new(U256::from(gwei) * U256::from(WEI_PER_GWEI)))
        };
        let in_a_row = self.failures_in_a_row_max.map(|max| u32::try_from(max).unwrap_or(u32::MAX));
        LossBounds {
            per_payer: wei(self.loss_per_payer_max_gwei, default.per_payer),
            per_caller: wei(self.loss_per_caller_max_gwei, default.per_caller),
            total: wei(self.loss_max_gwei, default.total),
            failures_in_a_row_max: in_a_row.unwrap_or(default.failures_in_a_row_max),
        }
    }

    /// What settling may cost, of the tokens that are settled here.
    pub(crate) fn guard(&self, setting: &str, assets: &AssetTable) -> Result<Guard, Misconfigured> {
        let wrong = |field: String, problem: String| {
            Misconfigured::new(format!("{setting}.{field}"), problem)
        };
        let rate = |(index, section): (usize, &RateSection)| {
            let day = match section.date {
                toml::value::Datetime { date: Some(date), time: None, offset: None } => {
                    UnixTime::of_day(date.year.into(), date.month.into(), date.day.into())
                }
                _ => None,
            };
            let at = day.ok_or_else(|| {
                wrong(format!("rate[{index}].date"), "write the day, such as 2026-11-26".into())
            })?;
            Rate::parse(&section.coin, at, assets)
                .map_err(|problem| wrong(format!("rate[{index}].coin"), problem))
        };
        let least = |(index, text): (usize, &String)| {
            Tier::parse_from(text, assets)
                .map_err(|problem| wrong(format!("guard.least[{index}]"), problem))
        };
        let section = &self.guard;
        Ok(Guard {
            cost_percent_max: section.cost_percent_max,
            cost_wei_max: section.cost_max_gwei.map(|gwei| u128::from(gwei) * WEI_PER_GWEI),
            least: section.least.iter().enumerate().map(least).collect::<Result<_, _>>()?,
            rates: self.rates.iter().enumerate().map(rate).collect::<Result<_, _>>()?,
            rate_age_s_max: section.rate_age_max_h.map(|hours| hours * 60 * 60),
            stale: match section.old_rates {
                OldRates::Refuse => Stale::Refuse,
                OldRates::Use => Stale::Use,
            },
        })
    }

    fn check(&self, setting: &str) -> Result<(), Misconfigured> {
        nodes::check(setting, self.rpc.as_ref(), &self.nodes)?;
        if self.confirmations == Some(0) {
            let problem = "must be 1 or more: a block is the least a settlement needs";
            return Err(Misconfigured::new(format!("{setting}.confirmations"), problem));
        }
        let operations = self.sponsor.operations_per_account_max.map(u64::from);
        for (field, value, allowed) in [
            ("sponsor.operations_per_account_max", operations, OPERATIONS_PER_ACCOUNT_MAX),
            ("sponsor.advance_wei_max", self.sponsor.advance_wei_max, ADVANCE_WEI_MAX),
            ("sponsor.approval_gas_max", self.sponsor.approval_gas_max, APPROVAL_GAS_MAX),
            ("loss_max_gwei", self.loss_max_gwei, COST_MAX_GWEI),
            ("loss_per_payer_max_gwei", self.loss_per_payer_max_gwei, COST_MAX_GWEI),
            ("loss_per_caller_max_gwei", self.loss_per_caller_max_gwei, COST_MAX_GWEI),
            ("failures_in_a_row_max", self.failures_in_a_row_max, FAILURES_IN_A_ROW_MAX),
            ("guard.cost_percent_max", self.guard.cost_percent_max, COST_PERCENT_MAX),
            ("guard.cost_max_gwei", self.guard.cost_max_gwei, COST_MAX_GWEI),
            ("guard.rate_age_max_h", self.guard.rate_age_max_h, RATE_AGE_MAX_H),
            ("in_flight_per_signer_max", self.in_flight_per_signer_max, IN_FLIGHT_PER_SIGNER_MAX),
            ("pack_wait_ms", self.pack_wait_ms, PACK_WAIT_MS),
            ("pack_members_max", self.pack_members_max, PACK_MEMBERS_MAX),
            ("pack_gas_max", self.pack_gas_max, PACK_GAS_MAX),
            ("block_time_s", self.block_time_s, BLOCK_TIME_S),
            ("gas_limit_max", self.gas_limit_max, GAS_LIMIT_MAX),
            ("fee_per_gas_max_gwei", self.fee_per_gas_max_gwei, FEE_PER_GAS_MAX_GWEI),
        ] {
            if value.is_some_and(|value| !allowed.contains(&value)) {
                let problem = format!("must be from {} to {}", allowed.start(), allowed.end());
                return Err(Misconfigured::new(format!("{setting}.{field}"), problem));
            }
        }
        Ok(())
    }
}

pub(super) fn contracts(
    setting: &str,
    addresses: &[String],
) -> Result<Vec<Address>, Misconfigured> {
    let read = |(index, text): (usize, &String)| {
        parse_address(text)
            .map_err(|error| Misconfigured::new(format!("{setting}[{index}]"), error.to_string()))
    };
    addresses.iter().enumerate().map(read).collect()
}

/// Where a signer's key comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, untagged)]
pub(crate) enum Signer {
    /// An environment variable with the key, or `<name>_FILE` with the path of a file.
    Environment {
        /// Its name.
        env: String,
    },
    /// A Web3 Secret Storage v3 file, and where its password comes from.
    Keystore {
        /// Path, relative to the configuration file.
        keystore: PathBuf,
        /// The environment variable with the password, or `<name>_FILE`.
        password_env: Option<String>,
        /// A file with the password, relative to the configuration file.
        password_file: Option<PathBuf>,
    },
}

/// A text that may hold a secret.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Reads the file and makes its paths absolute or relative to the working folder.
pub(crate) fn read(path: &Path) -> Result<Config, Misconfigured> {
    let shown = path.display();
    let fail = |problem: String| Misconfigured::new("--config", format!("{shown}: {problem}"));
    let metadata = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(fail(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let mut config = parse(&text).map_err(|error| {
        Misconfigured::new(error.key, format!("{} (in {shown})", error.problem))
    })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let anchor = |path: &mut PathBuf| *path = folder.join(&*path);
    config.folder = folder.to_owned();
    for network in &mut config.networks {
        for signer in network.signer.iter_mut().chain(&mut network.signers) {
            if let Signer::Keystore { keystore, password_file, .. } = signer {
                anchor(keystore);
                password_file.iter_mut().for_each(anchor);
            }
        }
    }
    Ok(config)
}

pub(super) fn parse(text: &str) -> Result<Config, Misconfigured> {
    let mut config: Config = toml::from_str(text).map_err(|error| {
        // The parser's message quotes the line, which may hold a URL with a key: only its own
        // words and the place are shown.
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        Misconfigured::new(format!("line {line}"), error.message().to_owned())
    })?;
    config.database.0 = expand("database", &config.database.0)?;
    config.check()?;
    let mut seen = Vec::new();
    for (index, network) in config.networks.iter_mut().enumerate() {
        for (setting, signer) in network.signers(&format!("network[{index}]"))? {
            check_variables(&setting, signer)?;
        }
        if seen.contains(&network.id) {
            let problem = format!("{} is configured twice", network.id);
            return Err(Misconfigured::new(format!("network[{index}].id"), problem));
        }
        seen.push(network.id.clone());
        let setting = format!("network[{index}]");
        for (place, url) in nodes::urls(&setting, network.rpc.as_mut(), &mut network.nodes) {
            url.0 = expand(&place, &url.0)?;
        }
        network.check(&format!("network[{index}]"))?;
    }
    Ok(config)
}

fn check_variables(setting: &str, signer: &Signer) -> Result<(), Misconfigured> {
    match signer {
        Signer::Environment { env } => check_variable(&format!("{setting}.env"), env),
        Signer::Keystore { password_env: Some(name), .. } => {
            check_variable(&format!("{setting}.password_env"), name)
        }
        Signer::Keystore { password_env: None, .. } => Ok(()),
    }
}

/// Refuses what is no name of a variable, without repeating it: it may well be the secret itself.
pub(super) fn check_variable(setting: &str, name: &str) -> Result<(), Misconfigured> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let begins_well = !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit());
    // A key without 0x may look like a name.
    let is_key = name.len() == KEY_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if letters && begins_well && !is_key {
        return Ok(());
    }
    let problem = "must be the name of an environment variable (letters, digits and _); the \
                   secret itself does not belong in this file";
    Err(Misconfigured::new(setting, problem))
}

/// Replaces `${VAR}` by the variable's value.
pub(super) fn expand(setting: &str, text: &str) -> Result<String, Misconfigured> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| Misconfigured::new(setting, "has a ${ without its closing }"))?;
        let value = std::env::var(name).map_err(|_| {
            Misconfigured::new(setting, format!("needs the environment variable {name}"))
        })?;
        expanded.push_str(before);
        expanded.push_str(&value);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        listen = "127.0.0.1:4020"
        database = "facilitator.db"
        [[network]]
        id = "base-sepolia"
        rpc = "http://127.0.0.1:8545"
        signer = { env = "FACILITATOR_PRIVATE_KEY" }
        [[network.asset]]
        address = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
    "#;

    #[test]
    fn a_small_file_is_enough() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.networks[0].id.as_str(), "eip155:84532");
        assert_eq!(config.networks[0].assets[0].details("asset"), Ok(None));
        let settings = config.networks[0].settings("network[0]").unwrap();
        assert_eq!((settings.confirmations, settings.block_time_s), (1, 2));
    }

    #[test]
    fn a_network_is_served_as_its_chain_and_its_owner_want() {
        let ethereum = GOOD.replace("base-sepolia", "eip155:1");
        let settings =
            |text: &str| parse(text).unwrap().networks[0].settings("network[0]").unwrap();
        let slow = settings(&ethereum);
        assert_eq!((slow.confirmations, slow.block_time_s), (2, 12));
        let set = "confirmations = 5\nblock_time_s = 7\ngas_limit_max = 90000\n\
                   fee_per_gas_max_gwei = 3\nrpc =";
        let set = settings(&ethereum.replace("rpc =", set));
        assert_eq!((set.confirmations, set.block_time_s), (5, 7));
        assert_eq!((set.gas_limit_max, set.fee_per_gas_max), (90_000, 3_000_000_000));
    }

    #[test]
    fn tiers_are_amounts_of_tokens_that_are_settled() {
        let usdc =
            AssetTable::defaults().only(|asset| asset.info.id.network.as_str() == "eip155:84532");
        let tiers = |lines: &str| {
            let config = parse(&format!("{GOOD}\n[[network.tier]]\n{lines}"))?;
            config.networks[0].tiers("network[0]", &usdc)
        };
        let read = tiers("from = \"100.00 USDC\"\nconfirmations = 12").unwrap();
        let certainty = Certainty { confirmations: 12, nodes: 1 };
        let from = U256::from(100_000_000);
        let token = usdc.iter().next().unwrap().token();
        assert_eq!(read, [Tier { token, from, certainty }]);
        let read = tiers("from = \"1 USDC\"\nconfirmations = 1\nnodes = 2").unwrap();
        assert_eq!(read[0].certainty, Certainty { confirmations: 1, nodes: 2 });
        for (lines, expected) in [
            ("from = \"100\"\nconfirmations = 12", "network[0].tier[0].from"),
            ("from = 100\nconfirmations = 12", "expected a string"),
            ("from = \"100 USDC\"", "missing field `confirmations`"),
            ("from = \"100 USDC\"\nconfirmation = 12", "unknown field"),
        ] {
            let error = tiers(lines).unwrap_err().to_string();
            assert!(error.contains(expected), "{lines}: {error}");
        }
    }

    #[test]
    fn strikes_are_set_for_all_networks() {
        let options = |text: &str| parse(text).unwrap().options();
        let default = options(GOOD);
        assert_eq!((default.strikes_max, default.strikes_window.as_secs()), (3, 3_600));
        let set = options(&format!("strikes_max = 10\nstrikes_window_s = 60\n{GOOD}"));
        assert_eq!((set.strikes_max, set.strikes_window.as_secs()), (10, 60));
        for line in
            ["strikes_max = 0", "strikes_max = 1001", "strikes_window_s = 0", "strikes_max = -1"]
        {
            let error = parse(&format!("{line}\n{GOOD}")).unwrap_err().to_string();
            assert!(error.contains("must be from 1 to") || error.contains("line 1"), "{error}");
        }
    }

    #[test]
    fn everything_is_kept_unless_it_is_said_how_long() {
        let options = |text: &str| parse(text).map(|config| config.options());
        assert_eq!(options(GOOD).unwrap().retain, None);
        let set = options(&format!("retain_days = 30\n{GOOD}")).unwrap();
        assert_eq!(set.retain, Some(Duration::from_secs(30 * 24 * 60 * 60)));
        for line in ["retain_days = 0", "retain_days = 36501"] {
            let error = options(&format!("{line}\n{GOOD}")).unwrap_err().to_string();
            assert_eq!(error, "retain_days: must be from 1 to 36500");
        }
    }

    #[test]
    fn nothing_is_buried_before_it_counts() {
        let options = |text: &str| parse(text).map(|config| config.options());
        let default = options(GOOD).unwrap();
        assert_eq!((default.burial_blocks, default.halt_after.as_secs()), (64, 120));
        let set = options(&format!("burial_blocks = 9\nhalt_after_s = 30\n{GOOD}")).unwrap();
        assert_eq!((set.burial_blocks, set.halt_after.as_secs()), (9, 30));
        let tier = "[[network.tier]]\nfrom = \"1 USDC\"\nconfirmations = 10";
        let deep = GOOD.replace("rpc =", "confirmations = 10\nrpc =");
        for text in [deep, format!("{GOOD}\n{tier}")] {
            assert!(options(&format!("burial_blocks = 10\n{text}")).is_ok());
            let error = options(&format!("burial_blocks = 9\n{text}")).unwrap_err();
            assert_eq!(
                error.to_string(),
                "burial_blocks: must be at least 10, the most \
                                           confirmations of a network"
            );
        }
        for line in ["burial_blocks = 0", "burial_blocks = 10001", "halt_after_s = 9"] {
            let error = options(&format!("{line}\n{GOOD}")).unwrap_err().to_string();
            assert!(error.contains("must be from"), "{error}");
        }
    }

    #[test]
    fn what_settling_may_cost_is_set_in_shares_and_rates_have_a_day() {
        let usdc =
            AssetTable::defaults().only(|asset| asset.info.id.network.as_str() == "eip155:84532");
        let guard = |lines: &str| {
            let config = parse(&format!("{GOOD}\n{lines}"))?;
            config.networks[0].guard("network[0]", &usdc)
        };
        assert_eq!(guard("").unwrap(), Guard::default());
        let read = guard(
            "[network.guard]\ncost_percent_max = 50\ncost_max_gwei = 2\nleast = [\"0.001 USDC\"]\n\
             rate_age_max_h = 3\nold_rates = \"use\"\n\
             [[network.rate]]\ncoin = \"3000.00 USDC\"\ndate = 2026-11-26",
        );
        let read = read.unwrap();
        let token = usdc.iter().next().unwrap().token();
        assert_eq!((read.cost_percent_max, read.cost_wei_max), (Some(50), Some(2_000_000_000)));
        assert_eq!(read.least, [(token, U256::from(1_000))]);
        assert_eq!((read.rate_age_s_max, read.stale), (Some(10_800), Stale::Use));
        let (per_coin, at) = (U256::from(3_000_000_000_u64), UnixTime(1_795_651_200));
        assert_eq!(read.rates, [Rate { token, per_coin, at }]);
        let rate = "[[network.rate]]\ncoin = \"1 USDC\"\n";
        for (lines, expected) in [
            ("[network.guard]\ncost_percent_max = 0", "network[0].guard.cost_percent_max"),
            ("[network.guard]\ncost_max_gwei = 0", "network[0].guard.cost_max_gwei"),
            ("[network.guard]\nrate_age_max_h = 0", "network[0].guard.rate_age_max_h"),
            ("[network.guard]\nleast = [\"1\"]", "network[0].guard.least[0]"),
            ("[network.guard]\nold_rates = \"warn\"", "unknown variant"),
            (&format!("{rate}date = 2026-11-26T10:00:00Z"), "network[0].rate[0].date"),
            (&format!("{rate}date = \"2026-11-26\""), "invalid type"),
            (rate, "missing field `date`"),
            ("[[network.rate]]\ncoin = \"x USDC\"\ndate = 2026-11-26", "network[0].rate[0].coin"),
        ] {
            let error = guard(lines).unwrap_err().to_string();
            assert!(error.contains(expected), "{lines}: {error}");
        }
    }

    #[test]
    fn a_settle_call_waits_as_long_as_is_set() {
        let wait =
            |text: &str| parse(text).map(|config| config.options().settle_wait_max.as_secs());
        assert_eq!(wait(GOOD).unwrap(), 75);
        assert_eq!(wait(&format!("settle_wait_s = 8\n{GOOD}")).unwrap(), 8);
        for seconds in ["0", "76"] {
            let error = wait(&format!("settle_wait_s = {seconds}\n{GOOD}")).unwrap_err();
            assert_eq!(error.to_string(), "settle_wait_s: must be from 1 to 75");
        }
    }

    #[test]
    fn how_many_may_be_in_flight_is_set_for_each_network() {
        let set = |lines: &str| {
            let config = parse(&GOOD.replace("rpc =", &format!("{lines}\nrpc =")))?;
            let id = config.networks[0].id.clone();
            Ok::<_, Misconfigured>(config.options().in_flight_per_signer_max.get(&id).copied())
        };
        assert_eq!(set("").unwrap(), None);
        assert_eq!(set("in_flight_per_signer_max = 16").unwrap(), Some(16));
        for bad in ["0", "4097"] {
            let error = set(&format!("in_flight_per_signer_max = {bad}")).unwrap_err();
            assert_eq!(error.key, "network[0].in_flight_per_signer_max");
            assert!(error.problem.contains("must be from 1 to 4096"), "{error}");
        }
    }

    #[test]
    fn what_may_be_lost_is_set_for_each_network() {
        let losses = |lines: &str| {
            let config = parse(&GOOD.replace("rpc =", &format!("{lines}\nrpc =")))?;
            let id = config.networks[0].id.clone();
            Ok::<_, Misconfigured>(config.options().losses[&id])
        };
        assert_eq!(losses("").unwrap(), LossBounds::default());
        let set = "loss_max_gwei = 3\nloss_per_caller_max_gwei = 2\n\
                   loss_per_payer_max_gwei = 1\nfailures_in_a_row_max = 4";
        let gwei = |gwei: u64| Amount::from(gwei * 1_000_000_000);
        let (per_payer, per_caller, total) = (gwei(1), gwei(2), gwei(3));
        let expected = LossBounds { per_payer, per_caller, total, failures_in_a_row_max: 4 };
        assert_eq!(losses(set).unwrap(), expected);
        for line in ["loss_max_gwei", "loss_per_payer_max_gwei", "failures_in_a_row_max"] {
            let error = losses(&format!("{line} = 0")).unwrap_err();
            assert_eq!(error.key, format!("network[0].{line}"));
            assert!(error.problem.contains("must be from 1 to"), "{error}");
        }
    }

    #[test]
    fn leaving_takes_as_long_as_is_set() {
        assert_eq!(parse(GOOD).unwrap().drain_delay_s, None);
        let set = parse(&format!("drain_delay_s = 300\n{GOOD}")).unwrap();
        assert_eq!(set.drain_delay_s, Some(300));
        let error = parse(&format!("drain_delay_s = 301\n{GOOD}")).unwrap_err();
        assert_eq!(error.to_string(), "drain_delay_s: must be from 0 to 300");
    }

    #[test]
    fn several_signers_are_named_each() {
        let with = |signers: &str| {
            parse(&GOOD.replace("signer = { env = \"FACILITATOR_PRIVATE_KEY\" }", signers))
        };
        let config = with("signers = [{ env = \"A\" }, { env = \"B\" }]").unwrap();
        let signers = config.networks[0].signers("network[0]").unwrap();
        let names: Vec<_> = signers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["network[0].signers[0]", "network[0].signers[1]"]);
        let error = with("signers = [{ env = \"A\" }, { env = \"b c\" }]").unwrap_err();
        assert_eq!(error.key, "network[0].signers[1].env");
        let many = vec!["{ env = \"A\" }"; SIGNERS_MAX + 1].join(", ");
        let error = with(&format!("signers = [{many}]")).unwrap_err();
        assert_eq!(error.to_string(), "network[0].signers: must be 64 at most");
    }

    #[test]
    fn a_replica_has_an_address_and_a_lease() {
        let with = |lines: &str, database: &str| {
            let text = GOOD.replace("database = \"facilitator.db\"", database);
            parse(&format!("{lines}\n{text}"))
        };
        let postgres = "database = \"postgres://me@db/books\"";
        let default = with("", postgres).unwrap().options();
        assert_eq!((default.advertise, default.lease.as_secs()), (None, 10));
        let lines = "advertise = \"http://10.0.0.5:4020\"\nlease_s = 3";
        let set = with(lines, postgres).unwrap().options();
        let url = Some("http://10.0.0.5:4020".to_owned());
        assert_eq!((set.advertise, set.lease.as_secs()), (url, 3));
        let error = with(lines, "database = \"x.db\"").unwrap_err();
        assert!(error.to_string().starts_with("advertise: is where facilitators"), "{error}");
        for lease in ["2", "61"] {
            let error = with(&format!("lease_s = {lease}"), postgres).unwrap_err();
            assert_eq!(error.to_string(), "lease_s: must be from 3 to 60");
        }
    }

    #[test]
    fn an_asset_has_all_of_its_details_or_none() {
        let all =
            ["symbol = \"X\"\n", "decimals = 6\n", "name = \"X Coin\"\n", "version = \"2\"\n"];
        let with = |lines: &[&str]| parse(&format!("{GOOD}\n{}", lines.concat()));
        let config = with(&all).unwrap();
        let details = config.networks[0].assets[0].details("asset").unwrap().unwrap();
        assert_eq!(
            details,
            AssetDetails { symbol: "X", decimals: 6, domain: Some(("X Coin", "2")), packs: false }
        );
        for left_out in 0..all.len() {
            let mut some = all.to_vec();
            let field = some.remove(left_out).split(' ').next().unwrap();
            let config = with(&some).unwrap();
            let error = config.networks[0].assets[0].details("asset").unwrap_err().to_string();
            assert!(error.contains(&format!("lacks {field};")), "{error}");
        }
        let plain = with(&all[..2]).unwrap();
        let plain = plain.networks[0].assets[0].details("asset").unwrap().unwrap();
        assert_eq!(plain, AssetDetails { symbol: "X", decimals: 6, domain: None, packs: false });
        assert!(with(&["decimal = 6\n"]).unwrap_err().to_string().contains("decimal"));
        assert!(with(&[all[0], "decimals = \"6\"\n", all[2], all[3]]).is_err());
    }

    #[test]
    fn payments_are_packed_as_it_is_set() {
        let settings = |lines: &str| {
            let config = parse(&GOOD.replace("rpc =", &format!("{lines}\nrpc ="))).unwrap();
            config.networks[0].settings("network[0]").unwrap().packing
        };
        assert_eq!(settings(""), PackSettings::default());
        assert_eq!(settings("packing = \"off\"\npack_wait_ms = 5").wait, None);
        let set = settings("pack_wait_ms = 0\npack_members_max = 2\npack_gas_max = 400000");
        let (wait, members_max, gas_max) = (Some(Duration::ZERO), 2, 400_000);
        assert_eq!(set, PackSettings { wait, members_max, gas_max });
        let with = |lines: &str| {
            let config = parse(&format!("{GOOD}\nsymbol = \"X\"\ndecimals = 6\n{lines}")).unwrap();
            config.networks[0].assets[0].details("asset").map(|details| details.unwrap().packs)
        };
        let domain = "name = \"X Coin\"\nversion = \"2\"\n";
        assert_eq!(with(domain), Ok(false));
        assert_eq!(with(&format!("{domain}packs = true")), Ok(true));
        assert!(with("packs = true").is_err(), "without EIP-3009");
    }

    #[test]
    fn nothing_is_sponsored_unless_it_is_set() {
        let settings = |text: &str| {
            parse(text).unwrap().networks[0].settings("network[0]").unwrap().sponsoring
        };
        assert!(!settings(GOOD).adoptions && !settings(GOOD).approvals);
        let with = |lines: &str| format!("{GOOD}\n[network.sponsor]\n{lines}");
        let set = settings(&with("adoptions = true\noperations_per_account_max = 3"));
        assert_eq!((set.adoptions, set.operations_per_account_max), (true, 3));
        let set =
            settings(&with("approvals = true\nadvance_wei_max = 0\napproval_gas_max = 50000"));
        assert_eq!((set.approvals, set.advance_wei_max, set.approval_gas_max), (true, 0, 50_000));
        for bad in [
            "adoption = true",
            "operations_per_account_max = 0",
            "advance_wei_max = 10000000000000001",
            "approval_gas_max = 21000",
        ] {
            assert!(parse(&with(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn contracts_that_are_called_are_addresses() {
        let with = |line: &str| parse(&GOOD.replace("rpc =", &format!("{line}\nrpc =")));
        let address = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
        let config = with(&format!("factories = [\"{address}\"]")).unwrap();
        let settings = config.networks[0].settings("network[0]").unwrap();
        assert_eq!(settings.factories, [address.parse::<Address>().unwrap()]);
        assert!(settings.delegation_managers.is_empty());
        assert_eq!(settings.delegates, [AGENT_ACCOUNT], "unless others are named");
        let config = with("delegates = []").unwrap();
        assert!(config.networks[0].settings("network[0]").unwrap().delegates.is_empty());
        let config = with(&format!("delegation_managers = [\"{address}\", \"0x1\"]")).unwrap();
        let error = config.networks[0].settings("network[0]").unwrap_err();
        assert_eq!(error.key, "network[0].delegation_managers[1]");
    }

    #[test]
    fn mistakes_are_named() {
        for (from, to, expected) in [
            ("listen", "lisen", "line 2: unknown field `lisen`"),
            ("base-sepolia", "bse", "is not a network"),
            ("http://127.0.0.1:8545", "http://node/${PAY402_NO_SUCH_VARIABLE}", "network[0].rpc"),
            ("signer = { env = \"FACILITATOR_PRIVATE_KEY\" }", "", "network[0].signer: is missing"),
            (
                "rpc =",
                "signers = [{ env = \"B\" }]\nrpc =",
                "network[0].signer: stands beside signers",
            ),
            ("rpc =", "confirmations = 0\nrpc =", "network[0].confirmations"),
            ("rpc =", "block_time_s = 0\nrpc =", "network[0].block_time_s"),
            ("rpc =", "block_time_s = 601\nrpc =", "network[0].block_time_s"),
            ("rpc =", "gas_limit_max = 21000\nrpc =", "network[0].gas_limit_max"),
            (
                "[[network.asset]]",
                "[network.sponsor]\noperations_per_account_max = 101\n[[network.asset]]",
                "network[0].sponsor.operations_per_account_max",
            ),
            ("rpc =", "fee_per_gas_max_gwei = 0\nrpc =", "network[0].fee_per_gas_max_gwei"),
            ("rpc =", "packing = \"on\"\nrpc =", "line 6"),
            ("rpc =", "pack_wait_ms = 1001\nrpc =", "network[0].pack_wait_ms"),
            ("rpc =", "pack_members_max = 1\nrpc =", "network[0].pack_members_max"),
            ("rpc =", "pack_gas_max = 16777217\nrpc =", "network[0].pack_gas_max"),
            ("rpc =", "fee_per_gas_max_gwei = -1\nrpc =", "line 6"),
        ] {
            let error = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let twice = format!(
            "{GOOD}\n[[network]]\nid = \"eip155:84532\"\nrpc = \"x\"\nsigner = {{ env = \"X\" }}"
        );
        assert!(parse(&twice).unwrap_err().to_string().contains("configured twice"));
    }

    #[test]
    fn a_key_in_the_place_of_its_variable_is_never_shown() {
        let digits = "ac".repeat(32);
        for secret in [format!("0x{digits}"), digits, "pass word".into(), String::new()] {
            for (field, signer) in [
                ("env", format!("{{ env = \"{secret}\" }}")),
                (
                    "password_env",
                    format!("{{ keystore = \"x.json\", password_env = \"{secret}\" }}"),
                ),
            ] {
                let text = GOOD.replace("{ env = \"FACILITATOR_PRIVATE_KEY\" }", &signer);
                let error = parse(&text).unwrap_err();
                assert_eq!(error.key, format!("network[0].signer.{field}"));
                assert!(secret.is_empty() || !error.to_string().contains(&secret), "{error}");
            }
        }
        for name in ["A", "_x9", "FACILITATOR_PRIVATE_KEY"] {
            assert!(parse(&GOOD.replace("FACILITATOR_PRIVATE_KEY", name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_rpc_url_is_never_shown() {
        let text = GOOD.replace("http://127.0.0.1:8545", "https://node/secret-key");
        let config = parse(&text).unwrap();
        assert!(!format!("{config:?}").contains("secret-key"));
        let broken = text.replace("rpc = \"", "rpc = bad\"");
        assert!(!parse(&broken).unwrap_err().to_string().contains("secret-key"));
    }

    #[test]
    fn a_journal_is_in_a_file_or_in_postgresql() {
        let with = |line: &str| parse(&GOOD.replace("database = \"facilitator.db\"", line));
        let config = with("database = \"facilitator.db\"").unwrap();
        assert!(
            matches!(config.database(), Database::File(path) if path.ends_with("facilitator.db"))
        );
        assert!(!config.options().follows);
        for url in ["postgres://me:hunter2@db/books", "postgresql://me:hunter2@db/books"] {
            let config = with(&format!("database = \"{url}\"")).unwrap();
            assert!(matches!(config.database(), Database::Postgres(found) if found.0 == url));
            assert!(config.options().follows);
            assert!(!format!("{config:?} {:?}", config.database()).contains("hunter2"));
        }
        // A variable that cargo sets for its tests.
        let config = with("database = \"postgres://me@${CARGO_PKG_NAME}/books\"").unwrap();
        let expected = format!("postgres://me@{}/books", env!("CARGO_PKG_NAME"));
        assert!(matches!(config.database(), Database::Postgres(found) if found.0 == expected));
        for (line, key) in [
            ("database = \"postgres://me:${PAY402_NO_SUCH_VARIABLE}@db/books\"", "database"),
            ("database = \"mysql://me:hunter2@db/books\"", "database"),
            ("database = \"x.db\"\ndatabase_password_env = \"A\"", "database_password_env"),
            (
                "database = \"postgres://me@db/books\"\ndatabase_password_env = \"hunter2!\"",
                "database_password_env",
            ),
        ] {
            let error = with(line).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
