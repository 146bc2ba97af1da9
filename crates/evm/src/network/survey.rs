//! All that a facilitator would find of a network at its start, and what its operator should know
//! besides. The start itself stops at the first thing that is wrong ([`Network::check`]).
//!
//! [`Network::check`]: pay402_core::network::Network::check

use alloy::primitives::{Address, U64, U256};
use pay402_core::Amount;
use pay402_core::error::Unavailable;
use serde::Deserialize;

use super::EvmNetwork;
use super::guard::Stale;
use super::pack::{PACKER, is_packer};
use super::plan::MULTICALL3;
use crate::account::AGENT_ACCOUNT;
use crate::assets::Asset;
use crate::rpc::{Answer, Call};
use crate::typed_data::{EXACT_PROXY, PERMIT2, UPTO_PROXY};

/// What a settlement is taken to cost when it is told how many a signer can pay for: a plain transfer
/// by EIP-3009 takes about that much.
const SETTLEMENT_GAS: u64 = 80_000;
/// A signer that can pay for fewer settlements than this is told of.
const SETTLEMENTS_MIN: u64 = 100;
/// How far the newest block may be ahead of our clock, in seconds.
const AHEAD_MAX_S: u64 = 30;
const GWEI_DECIMALS: u8 = 9;
/// Decimal places of a network's own coin.
const COIN_DECIMALS: u8 = 18;

/// How something was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grade {
    /// As it should be.
    Good,
    /// The facilitator starts, and the operator may not want it like that.
    Warning,
    /// The facilitator does not start, or settles nothing here.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What kind of thing: `node`, `fee`, `asset`, `rate`, `contract` or `signer`.
    pub part: &'static str,
    /// Which one.
    pub subject: String,
    /// How it was found.
    pub grade: Grade,
    /// What was found, and what to do about it, for people.
    pub message: String,
}

/// A signer as the chain has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignerFound {
    /// Its address.
    pub address: String,
    /// What it holds, in wei.
    pub balance: U256,
    /// How many transactions of it were mined.
    pub nonce: u64,
    /// About how many settlements it can pay for at the present fee; `None` where gas is free.
    pub settlements: Option<u64>,
}

/// Everything that was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Survey {
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
    /// The signers, unless the node is one of another network.
    pub signers: Vec<SignerFound>,
}

impl Survey {
    fn add(&mut self, part: &'static str, subject: String, grade: Grade, message: String) {
        self.findings.push(Finding { part, subject, grade, message });
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    number: U64,
    timestamp: U64,
    base_fee_per_gas: Option<U256>,
}

impl EvmNetwork {
    /// Looks at everything that this network is configured with.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn survey(&self) -> Result<Survey, Unavailable> {
        let mut survey = Survey::default();
        let (mut first, mut failed) = (None, None);
        for node in self.through_each() {
            match node.look_at_node(&mut survey).await {
                Ok(Some(head)) => first = first.or(Some((node, head))),
                Ok(None) => {}
                Err(error) => {
                    let subject = node.node_name();
                    survey.add("node", subject, Grade::Warning, error.problem.clone());
                    failed = Some(error);
                }
            }
        }
        match (first, failed) {
            (Some((node, head)), _) => node.look_further(&head, survey).await,
            (None, Some(error)) => Err(error),
            (None, None) => Ok(survey),
        }
    }

    /// What the node is called where it is told of.
    fn node_name(&self) -> String {
        match self.rpc.name() {
            Some(name) => format!("{} {name}", self.id),
            None => self.id.to_string(),
        }
    }

    /// Looks at all but the nodes, by this one.
    async fn look_further(&self, head: &Head, mut survey: Survey) -> Result<Survey, Unavailable> {
        let fee = self.look_at_fee(head, &mut survey).await?;
        for asset in self.assets.iter() {
            self.look_at_asset(asset, &mut survey).await?;
        }
        self.look_at_rates(&mut survey);
        self.look_at_contracts(&mut survey).await?;
        for signer in self.signers.iter().map(alloy::signers::local::PrivateKeySigner::address) {
            self.look_at_signer(signer, fee, &mut survey).await?;
        }
        Ok(survey)
    }

    /// The node's newest block; none where it is one of another chain.
    async fn look_at_node(&self, survey: &mut Survey) -> Result<Option<Head>, Unavailable> {
        let [chain_id, head] = self.rpc.ask_all([Call::chain_id(), Call::head()]).await?;
        let chain_id: u64 = self.rpc.read::<U64>(chain_id)?.to();
        if chain_id != self.chain_id {
            let message = format!("the node is one of eip155:{chain_id}; correct id or rpc");
            survey.add("node", self.node_name(), Grade::Problem, message);
            return Ok(None);
        }
        let head: Head = self.rpc.read(head)?;
        let (now, time) = (self.clock.now().0, head.timestamp.to::<u64>());
        let number: u64 = head.number.to();
        let (grade, message) = match time.checked_sub(now) {
            Some(ahead) if ahead > AHEAD_MAX_S => {
                let message = format!(
                    "block {number} is {ahead} s ahead of this machine's clock; set the clock"
                );
                (Grade::Warning, message)
            }
            _ => (Grade::Good, format!("block {number}, {} s old", now.saturating_sub(time))),
        };
        survey.add("node", self.node_name(), grade, message);
        Ok(Some(head))
    }

    /// The present fee for a unit of gas, in wei.
    async fn look_at_fee(&self, head: &Head, survey: &mut Survey) -> Result<U256, Unavailable> {
        // Not every node proposes a tip.
        let tip: U256 = match self.rpc.ask(Call::tip()).await? {
            Ok(answer) => self.rpc.read(Ok(answer))?,
            Err(_) => U256::ZERO,
        };
        let fee = head.base_fee_per_gas.unwrap_or_default().saturating_add(tip);
        let (fee_text, max) = (gwei(fee), U256::from(self.settings.offer_max()));
        let (grade, message) = if fee > max {
            let message = format!(
                "{fee_text} gwei, above {} gwei, which is what fee_per_gas_max_gwei lets payments offer: nothing \
                 is settled meanwhile",
                gwei(max)
            );
            (Grade::Warning, message)
        } else {
            (Grade::Good, format!("{fee_text} gwei"))
        };
        survey.add("fee", "gas".into(), grade, message);
        Ok(fee)
    }

    async fn look_at_asset(&self, asset: &Asset, survey: &mut Survey) -> Result<(), Unavailable> {
        let answers: [Answer; 3] = self.rpc.ask_all(Self::asset_calls(asset)).await?;
        let (grade, message) = match self.check_asset(asset, answers) {
            Ok(()) => {
                let decimals = asset.info.decimals;
                let method = if asset.has_domain() { "EIP-3009 or Permit2" } else { "Permit2" };
                (Grade::Good, format!("{} decimals, by {method}", decimals))
            }
            Err(error) => (Grade::Problem, error.problem),
        };
        let subject = format!("{} {}", asset.info.symbol, asset.info.address);
        survey.add("asset", subject, grade, message);
        Ok(())
    }

    fn look_at_rates(&self, survey: &mut Survey) {
        let guard = &self.settings.guard;
        for rate in &guard.rates {
            let Some(asset) = self.assets.iter().find(|it| it.token() == rate.token) else {
                continue;
            };
            let (symbol, decimals) = (&asset.info.symbol, asset.info.decimals);
            let (worth, day) = (units(rate.per_coin, decimals), rate.at.to_utc());
            let (grade, message) = if !guard.is_old(rate, self.clock.now()) {
                (Grade::Good, format!("a coin is worth {worth} as of {day}"))
            } else if guard.stale == Stale::Use {
                (Grade::Warning, format!("of {day}, which is too old, and used all the same"))
            } else {
                let message =
                    format!("of {day}, which is too old: what it is needed for is refused");
                (Grade::Warning, message)
            };
            survey.add("rate", symbol.clone(), grade, message);
        }
    }

    async fn look_at_contracts(&self, survey: &mut Survey) -> Result<(), Unavailable> {
        let settings = &self.settings;
        let called = !settings.factories.is_empty() || !settings.delegation_managers.is_empty();
        let without_multicall = if called { Grade::Problem } else { Grade::Warning };
        let mut wanted: Vec<(&str, Address, Grade, &str)> = vec![
            ("Permit2", PERMIT2, Grade::Warning, "no payments by Permit2, and none by upto"),
            ("exact proxy", EXACT_PROXY, Grade::Warning, "no payments of exact by Permit2"),
            ("upto proxy", UPTO_PROXY, Grade::Warning, "no payments of upto"),
            (
                "Multicall3",
                MULTICALL3,
                without_multicall,
                "no wallets are deployed, and no delegations or adoptions taken with payments",
            ),
        ];
        if settings.packing.wait.is_some() {
            let without = "payments go one by one; pay402 facilitator setup deploys it";
            wanted.push(("packer", PACKER, Grade::Warning, without));
        }
        let named = |name, addresses: &[Address], without| {
            let of = move |address: &Address| (name, *address, Grade::Warning, without);
            addresses.iter().map(of).collect::<Vec<_>>()
        };
        wanted.extend(named("factory", &settings.factories, "it deploys no wallet"));
        let managers = &settings.delegation_managers;
        wanted.extend(named("delegation manager", managers, "it carries out no delegation"));
        // The default is allowed everywhere, and missed only where somebody named it.
        let delegates: Vec<_> =
            settings.delegates.iter().copied().filter(|d| *d != AGENT_ACCOUNT).collect();
        wanted.extend(named("delegate", &delegates, "no account pays by it"));
        let calls = wanted.iter().map(|(_, address, ..)| Call::code(*address)).collect();
        let codes = self.rpc.ask_many(calls).await?;
        for ((name, address, grade, without), code) in wanted.into_iter().zip(codes) {
            let code = self.rpc.read_bytes(code)?;
            let (grade, message) = match code.is_empty() {
                true => (grade, format!("there is no contract: {without}")),
                false if address == PACKER && !is_packer(&code) => {
                    (grade, format!("it is another contract: {without}"))
                }
                false => (Grade::Good, "is there".to_owned()),
            };
            survey.add("contract", format!("{name} {address}"), grade, message);
        }
        Ok(())
    }

    async fn look_at_signer(
        &self,
        signer: Address,
        fee: U256,
        survey: &mut Survey,
    ) -> Result<(), Unavailable> {
        let calls = [Call::balance(signer), Call::mined_nonces(signer)];
        let [balance, nonce] = self.rpc.ask_all(calls).await?;
        let balance: U256 = self.rpc.read(balance)?;
        let nonce: u64 = self.rpc.read::<U64>(nonce)?.to();
        let settlements = balance.checked_div(fee.saturating_mul(U256::from(SETTLEMENT_GAS)));
        let settlements = settlements.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        let holds = units(balance, COIN_DECIMALS);
        let (grade, message) = match settlements {
            _ if balance.is_zero() => {
                (Grade::Problem, "has nothing to pay gas with; send it some".to_owned())
            }
            Some(count) => {
                let grade = if count < SETTLEMENTS_MIN { Grade::Warning } else { Grade::Good };
                let message =
                    format!("holds {holds}, for about {count} settlements at the present fee");
                (grade, message)
            }
            None => (Grade::Good, format!("holds {holds}")),
        };
        let address = signer.to_checksum(None);
        survey.add("signer", address.clone(), grade, message);
        survey.signers.push(SignerFound { address, balance, nonce, settlements });
        Ok(())
    }
}

fn gwei(wei: U256) -> String {
    units(wei, GWEI_DECIMALS)
}

fn units(wei: U256, decimals: u8) -> String {
    Amount::new(wei).to_units(decimals)
}
