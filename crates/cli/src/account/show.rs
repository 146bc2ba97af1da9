//! What the chain shows of an account and its session keys, for people and for programs.

use std::io::IsTerminal as _;

use alloy::primitives::{Address, U256};
use pay402_core::asset::AssetId;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, NetworkId};
use pay402_evm::account::state::{self, Allowance, Delegate, KeyState, Policy, Standing};
use pay402_evm::account::{Payees, Session};
use pay402_evm::address::canonical;
use serde_json::{Value, json};

use super::chain::Chain;
use crate::error::CliError;
use crate::terminal;

/// Decimal places of a network's own coin.
const COIN_DECIMALS: u8 = 18;

/// A token as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) address: Address,
    pub(super) symbol: String,
    pub(super) decimals: u8,
}

impl Token {
    fn units(&self, amount: U256) -> String {
        format!("{} {}", Amount::new(amount).to_units(self.decimals), self.symbol)
    }
}

/// How a token is called that has no name here.
pub(super) fn short_name(address: Address) -> String {
    let text = address.to_checksum(None);
    format!("{}…{}", &text[..6], &text[text.len() - 4..])
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    /// The account and its keys.
    Account,
    /// The keys alone.
    Sessions,
}

/// Prints a result, as JSON where a program reads it.
pub(super) fn print(json: bool, value: &Value, lines: &[String]) {
    if json || !std::io::stdout().is_terminal() {
        terminal::say(&value.to_string());
    } else {
        for line in lines {
            terminal::say(line);
        }
    }
}

/// A key of the account in its present epoch.
struct Key {
    address: Address,
    policy: Policy,
    /// What was granted, when the registration shows it.
    session: Option<Session>,
    allowances: Vec<(Token, Allowance)>,
}

/// What was found.
pub(super) struct Found {
    account: Address,
    network: NetworkId,
    standing: Standing,
    balances: Vec<(Token, U256)>,
    keys: Vec<Key>,
    /// The oldest block in which registrations were looked for, and the first that was asked for.
    searched: (u64, u64),
}

/// Looks an account up, with the keys that were registered since `from_block` and those named.
pub(super) async fn look_up(
    chain: &Chain,
    account: Address,
    named: &[Address],
    tokens: &[Address],
    from_block: u64,
) -> Result<Found, CliError> {
    let rpc = &chain.rpc;
    let standing = state::standing(rpc, account).await?;
    let history = state::registrations(rpc, account, from_block, standing.block).await?;
    let present = history.registrations.into_iter().filter(|one| one.epoch == standing.epoch);
    let mut found: Vec<(Address, Option<Session>)> =
        present.map(|one| (one.key, one.session)).collect();
    for key in named {
        if !found.iter().any(|(known, _)| known == key) {
            found.push((*key, None));
        }
    }
    let addresses: Vec<Address> = found.iter().map(|(key, _)| *key).collect();
    let policies = state::policies(rpc, account, standing.epoch, &addresses).await?;
    let mut keys = Vec::with_capacity(found.len());
    for ((address, session), policy) in found.into_iter().zip(policies) {
        let mut asked: Vec<Address> = match &session {
            Some(session) => session.tokens.iter().map(|limit| limit.token).collect(),
            None => chain.assets.iter().map(|asset| asset.token()).collect(),
        };
        asked.extend(tokens.iter().filter(|token| !asked.contains(token)).collect::<Vec<_>>());
        let allowances = match standing.delegate {
            Delegate::AgentAccount => state::allowances(rpc, account, address, &asked).await?,
            _ => Vec::new(),
        };
        let mut shown = Vec::with_capacity(allowances.len());
        for allowance in allowances {
            shown.push((token(chain, allowance.limit.token).await?, allowance));
        }
        keys.push(Key { address, policy, session, allowances: shown });
    }
    let mut balances = Vec::new();
    for asset in chain.assets.iter() {
        let held = state::balance(rpc, asset.token(), account).await?;
        balances.extend(held.map(|held| {
            let (symbol, decimals) = (asset.info.symbol.clone(), asset.info.decimals);
            (Token { address: asset.token(), symbol, decimals }, held)
        }));
    }
    let searched = (history.from_block, from_block);
    let network = chain.network.clone();
    Ok(Found { account, network, standing, balances, keys, searched })
}

/// How a token is shown: as the asset table has it, else with the decimals that it says.
async fn token(chain: &Chain, address: Address) -> Result<Token, CliError> {
    let id = AssetId::new(chain.network.clone(), &canonical(&address));
    if let Some(asset) = chain.assets.find(&id) {
        let (symbol, decimals) = (asset.info.symbol.clone(), asset.info.decimals);
        return Ok(Token { address, symbol, decimals });
    }
    let decimals = state::decimals(&chain.rpc, address).await?.unwrap_or(0);
    Ok(Token { address, symbol: short_name(address), decimals })
}

impl Key {
    /// The word for what the key is now.
    fn state(&self, now: UnixTime) -> &'static str {
        match self.policy.state {
            KeyState::Registered if now >= self.policy.expiry => "expired",
            KeyState::Registered if now < self.policy.valid_after => "not started",
            KeyState::Registered => "active",
            KeyState::Unknown | KeyState::Revoked => self.policy.state.word(),
        }
    }

    fn json(&self, now: UnixTime) -> Value {
        let tokens = self.allowances.iter().map(|(token, allowance)| {
            let limit = &allowance.limit;
            json!({
                "token": token.address, "symbol": token.symbol, "decimals": token.decimals,
                "cap": limit.cap.to_string(), "budget": limit.budget.to_string(),
                "window_s": limit.window_s, "slots": limit.slots,
                "remaining": allowance.left.to_string(), "resets_at": allowance.resets,
            })
        });
        json!({
            "key": self.address, "state": self.state(now),
            "valid_after": self.policy.valid_after, "expires_at": self.policy.expiry,
            "any_payee": self.policy.any_payee,
            "payees": self.session.as_ref().map(|session| payees_json(&session.payees)),
            "tokens": tokens.collect::<Value>(),
        })
    }

    fn lines(&self, now: UnixTime) -> Vec<String> {
        let style = terminal::stdout_style();
        let state = self.state(now);
        let shown = match state {
            "active" => style.good(state),
            "revoked" | "expired" => style.bad(state),
            _ => style.dim(state),
        };
        let mut lines = vec![format!("{} {shown}", self.address)];
        if self.policy.state == KeyState::Unknown {
            return lines;
        }
        if state != "revoked" {
            let (from, until) = (self.policy.valid_after.to_utc(), self.policy.expiry.to_utc());
            lines.push(style.dim(&format!("  from {from} until {until}")));
            lines.push(match &self.session {
                _ if self.policy.any_payee => "  pays anybody".to_owned(),
                Some(session) => payees_line(&session.payees),
                None => {
                    "  pays only the payees of its registration, which was not found".to_owned()
                }
            });
        }
        for (token, allowance) in &self.allowances {
            let limit = &allowance.limit;
            let budget = token.units(U256::from(limit.budget));
            lines.push(match allowance.resets {
                Some(resets) => format!(
                    "  {} of {budget} left until {}, at most {} per payment",
                    Amount::new(allowance.left).to_units(token.decimals),
                    resets.to_utc(),
                    token.units(U256::from(limit.cap)),
                ),
                None => style.dim(&format!("  {budget} per {}", duration(limit.window_s))),
            });
        }
        lines
    }
}

impl Found {
    pub(super) fn json(&self, part: Part) -> Value {
        let now = self.standing.time;
        let sessions: Value = self.keys.iter().map(|key| key.json(now)).collect();
        let mut value = json!({ "account": self.account, "network": self.network });
        if part == Part::Account {
            let (delegate, adopted) = match self.standing.delegate {
                Delegate::None | Delegate::Contract => (None, false),
                Delegate::AgentAccount => (Some(pay402_evm::account::AGENT_ACCOUNT), true),
                Delegate::Other(other) => (Some(other), false),
            };
            let balances = self.balances.iter().map(|(token, held)| {
                json!({ "token": token.address, "symbol": token.symbol,
                    "decimals": token.decimals, "amount": held.to_string() })
            });
            value["adopted"] = adopted.into();
            value["delegate"] = json!(delegate);
            value["wei"] = self.standing.wei.to_string().into();
            value["balances"] = balances.collect();
        }
        value["epoch"] = self.standing.epoch.into();
        value["block"] = self.standing.block.into();
        value["time"] = json!(now);
        value["sessions"] = sessions;
        value["searched_from_block"] = self.searched.0.into();
        value
    }

    pub(super) fn lines(&self, part: Part) -> Vec<String> {
        let style = terminal::stdout_style();
        let mut lines = Vec::new();
        if part == Part::Account {
            let (account, network) = (self.account, &self.network);
            lines.push(match self.standing.delegate {
                Delegate::AgentAccount => {
                    format!("{account} is an {} on {network}", style.good("agent account"))
                }
                Delegate::None => {
                    format!("{account} is a plain account on {network}; `pay402 account adopt` changes that")
                }
                Delegate::Other(other) => {
                    format!("{account} runs another contract on {network}: {other}")
                }
                Delegate::Contract => format!("{account} is a contract of its own on {network}"),
            });
            let coin = Amount::new(self.standing.wei).to_units(COIN_DECIMALS);
            let mut held = vec![format!("{coin} of the network's coin")];
            held.extend(self.balances.iter().map(|(token, held)| token.units(*held)));
            lines.push(format!("holds {}", held.join(", ")));
            lines.push(style.dim(&format!(
                "epoch {}, as of block {} ({})",
                self.standing.epoch,
                self.standing.block,
                self.standing.time.to_utc()
            )));
        }
        if self.keys.is_empty() {
            lines.push("no session keys".to_owned());
        }
        for key in &self.keys {
            lines.extend(key.lines(self.standing.time));
        }
        let (reached, wanted) = self.searched;
        if reached > wanted {
            lines.push(style.dim(&format!(
                "registrations before block {reached} were not looked for; --key ADDRESS shows a key all the same"
            )));
        }
        lines
    }
}

/// A session as it was granted just now.
pub(super) fn session_json(session: &Session, tokens: &[Token]) -> Value {
    let limits = session.tokens.iter().zip(tokens).map(|(limit, token)| {
        json!({
            "token": token.address, "symbol": token.symbol, "decimals": token.decimals,
            "cap": limit.cap.to_string(), "budget": limit.budget.to_string(),
            "window_s": limit.window_s, "slots": limit.slots,
        })
    });
    json!({
        "key": session.key, "valid_after": session.valid_after, "expires_at": session.expiry,
        "any_payee": session.payees == Payees::Any, "payees": payees_json(&session.payees),
        "tokens": limits.collect::<Value>(),
    })
}

pub(super) fn session_lines(session: &Session, tokens: &[Token]) -> Vec<String> {
    let limits = session.tokens.iter().zip(tokens).map(|(limit, token)| {
        format!(
            "  {} per payment, {} per {}",
            token.units(U256::from(limit.cap)),
            token.units(U256::from(limit.budget)),
            duration(limit.window_s)
        )
    });
    let mut lines: Vec<String> = limits.collect();
    lines.push(payees_line(&session.payees));
    lines.push(format!("  until {}", session.expiry.to_utc()));
    lines
}

fn payees_json(payees: &Payees) -> Value {
    match payees {
        Payees::Any => Value::Array(Vec::new()),
        Payees::Only(payees) => json!(payees),
    }
}

fn payees_line(payees: &Payees) -> String {
    match payees {
        Payees::Any => "  pays anybody".to_owned(),
        Payees::Only(payees) => {
            let payees: Vec<String> = payees.iter().map(|payee| payee.to_checksum(None)).collect();
            format!("  pays only {}", payees.join(", "))
        }
    }
}

/// A duration as short as it can be said exactly.
fn duration(seconds: u32) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let exact = units.into_iter().find(|(scale, _)| seconds.is_multiple_of(*scale));
    let (scale, unit) = exact.unwrap_or((1, "second"));
    match seconds / scale {
        1 => unit.to_owned(),
        count => format!("{count} {unit}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_exactly() {
        for (seconds, text) in [
            (86_400, "day"),
            (172_800, "2 days"),
            (90_000, "25 hours"),
            (60, "minute"),
            (61, "61 seconds"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn an_unknown_token_is_called_by_its_address() {
        assert_eq!(short_name(Address::repeat_byte(0x11)), "0x1111…1111");
    }
}
