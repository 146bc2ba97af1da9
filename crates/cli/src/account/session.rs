//! The options that say what a session key may pay, in human units.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use alloy::hex;
use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;
use pay402_core::error::Misconfigured;
use pay402_core::{Amount, asset::AssetId};
use pay402_evm::account::state::{self, Standing};
use pay402_evm::account::{Payees, Session, TokenLimit};
use pay402_evm::address::{canonical, parse_address, parse_payee};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::chain::Chain;
use super::show::{self, Token};
use crate::error::{CliError, exit};
use crate::secret;

/// Most decimal places of a token.
const DECIMALS_MAX: i64 = 36;

/// What the key may pay. The key, the cap, the budget and the payees have to be given.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the session key.
    #[arg(long, value_name = "ADDRESS", value_parser = super::address)]
    key: Option<Address>,
    /// Make a session key and keep it in this file. A file that is there already is not overwritten:
    /// it must be its owner's alone (mode 600), and the key in it is meant, so that a call can be
    /// repeated.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    new_key: Option<PathBuf>,
    /// Token that it may spend: a symbol of the asset table, or an address.
    #[arg(long, value_name = "TOKEN", default_value = "USDC")]
    token: String,
    /// Decimal places of a token that is not in the asset table.
    #[arg(long, value_name = "PLACES", value_parser = clap::value_parser!(u8).range(..=DECIMALS_MAX))]
    decimals: Option<u8>,
    /// Most that one payment may be, in units of the token, such as 0.10.
    #[arg(long, value_name = "AMOUNT")]
    cap: Option<String>,
    /// Most that all payments of one window may be together, in units of the token.
    #[arg(long, value_name = "AMOUNT")]
    budget: Option<String>,
    /// Length of a window, after which the budget is whole again: such as 12h or 1d.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = seconds)]
    window: u64,
    /// When the key stops: a duration from now, such as 30d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = seconds)]
    expires: u64,
    /// Address that may be paid. May be repeated.
    #[arg(long = "payee", value_name = "ADDRESS", value_parser = payee)]
    payees: Vec<Address>,
    /// Let it pay anybody.
    #[arg(long, conflicts_with = "payees")]
    any_payee: bool,
}

fn payee(text: &str) -> Result<Address, String> {
    parse_payee(text).map_err(|error| error.to_string())
}

/// A duration in seconds: digits and one of s, m, h, d.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number and one of s, m, h, d, such as 12h or 30d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let scale: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let seconds = count.checked_mul(scale).ok_or_else(wrong)?;
    if seconds == 0 { Err("must be longer than nothing".into()) } else { Ok(seconds) }
}

/// A session that was put together, and the file of its key if one was named.
pub(super) struct Granted {
    session: Session,
    token: Token,
    file: Option<KeyFile>,
    /// The session that the key was granted before, where it is the same but for its beginning.
    earlier: OnceCell<Session>,
}

/// The file of a session key.
struct KeyFile {
    path: PathBuf,
    signer: PrivateKeySigner,
    is_new: bool,
}

impl KeyFile {
    /// The key in the file, or a new one for it.
    fn of(path: &Path) -> Result<Self, Misconfigured> {
        let path = path.to_owned();
        if !path.exists() {
            return Ok(Self { path, signer: PrivateKeySigner::random(), is_new: true });
        }
        let text = secret::from_file("--new-key", &path)?;
        let signer = secret::signer("--new-key", &text).map_err(|_| {
            let problem = "exists already and holds no session key; name a new file, so that \
                           nothing is overwritten";
            Misconfigured::new("--new-key", format!("{}: {problem}", path.display()))
        })?;
        Ok(Self { path, signer, is_new: false })
    }
}

/// The options that every session needs.
struct Needed<'a> {
    cap: &'a str,
    budget: &'a str,
}

impl Args {
    /// Whether a session is described at all.
    pub(super) const fn is_given(&self) -> bool {
        self.key.is_some()
            || self.new_key.is_some()
            || self.cap.is_some()
            || self.budget.is_some()
            || self.any_payee
            || !self.payees.is_empty()
    }

    fn needed(&self) -> Result<Needed<'_>, CliError> {
        let mut missing = Vec::new();
        if self.key.is_none() && self.new_key.is_none() {
            missing.push("--new-key FILE or --key ADDRESS");
        }
        let (cap, budget) = (self.cap.as_deref(), self.budget.as_deref());
        if cap.is_none() {
            missing.push("--cap AMOUNT");
        }
        if budget.is_none() {
            missing.push("--budget AMOUNT");
        }
        if self.payees.is_empty() && !self.any_payee {
            missing.push("--payee ADDRESS or --any-payee");
        }
        match (cap, budget) {
            (Some(cap), Some(budget)) if missing.is_empty() => Ok(Needed { cap, budget }),
            _ => Err(CliError::usage(format!("a session also needs {}", missing.join(", ")))
                .suggest("see `pay402 account session add --help`")),
        }
    }

    /// The session that these options describe, from the newest block's time on.
    pub(super) async fn session(
        &self,
        chain: &Chain,
        standing: &Standing,
    ) -> Result<Granted, CliError> {
        let needed = self.needed()?;
        let token = self.token(chain).await?;
        let amount = |name: &str, text: &str| -> Result<u128, CliError> {
            let units = text.strip_prefix('$').unwrap_or(text);
            let amount = Amount::parse_units(units, token.decimals)
                .map_err(|error| CliError::usage(format!("--{name} {error}")))?;
            u128::try_from(amount.to_u256())
                .map_err(|_| CliError::usage(format!("--{name} is too large")))
        };
        let window_s = u32::try_from(self.window)
            .map_err(|_| CliError::usage("--window must be shorter than 136 years"))?;
        let limit = TokenLimit {
            token: token.address,
            cap: amount("cap", needed.cap)?,
            budget: amount("budget", needed.budget)?,
            window_s,
            // The road by EIP-3009 stays closed: `pay402 pay` does not take it.
            slots: 0,
        };
        let file = self.new_key.as_deref().map(KeyFile::of).transpose()?;
        let key = file.as_ref().map(|file| file.signer.address()).or(self.key);
        let key = key.expect("one of both is given");
        let session = Session {
            key,
            valid_after: standing.time,
            expiry: standing.time.plus_s(self.expires),
            payees: match self.any_payee {
                true => Payees::Any,
                false => Payees::Only(self.payees.clone()),
            },
            tokens: vec![limit],
        };
        Ok(Granted { session, token, file, earlier: OnceCell::new() })
    }

    async fn token(&self, chain: &Chain) -> Result<Token, CliError> {
        let by_symbol = chain.assets.iter().find(|asset| asset.info.symbol == self.token);
        let known = match (by_symbol, parse_address(&self.token)) {
            (Some(asset), _) => asset,
            (None, Ok(address)) => {
                let id = AssetId::new(chain.network.clone(), &canonical(&address));
                match chain.assets.find(&id) {
                    Some(asset) => asset,
                    None => return self.stranger(chain, address).await,
                }
            }
            (None, Err(_)) => {
                let known: Vec<&str> =
                    chain.assets.iter().map(|asset| asset.info.symbol.as_str()).collect();
                let message = format!("--token {:?} is not known on {}", self.token, chain.network);
                let known = match known.is_empty() {
                    true => "name its address, and its --decimals".to_owned(),
                    false => format!("known are {}; or name its address", known.join(", ")),
                };
                return Err(CliError::usage(message).suggest(known));
            }
        };
        if self.decimals.is_some_and(|decimals| decimals != known.info.decimals) {
            let (symbol, decimals) = (&known.info.symbol, known.info.decimals);
            return Err(CliError::usage(format!("--decimals: {symbol} has {decimals}")));
        }
        Ok(Token {
            address: known.token(),
            symbol: known.info.symbol.clone(),
            decimals: known.info.decimals,
        })
    }

    /// A token outside of the table: its decimals are the owner's word, and the token must agree.
    async fn stranger(&self, chain: &Chain, address: Address) -> Result<Token, CliError> {
        let decimals = self.decimals.ok_or_else(|| {
            CliError::usage(format!("--decimals is missing: {address} is not in the asset table"))
        })?;
        let says = state::decimals(&chain.rpc, address).await?.ok_or_else(|| {
            let message = format!("--token {address} is no token on {}", chain.network);
            CliError::usage(message)
        })?;
        if says != decimals {
            let message = format!("--decimals {decimals}: the token says that it has {says}");
            return Err(CliError::usage(message));
        }
        Ok(Token { address, symbol: show::short_name(address), decimals })
    }
}

impl Granted {
    /// The session: as the chain shows it where it was granted before.
    pub(super) fn session(&self) -> &Session {
        self.earlier.get().unwrap_or(&self.session)
    }

    /// Whether `granted`, which the key has already, is what these options ask for: the same but for
    /// its beginning, which is the time of the call.
    pub(super) fn asks_for(&self, granted: &Session) -> bool {
        let payees = |session: &Session| match &session.payees {
            Payees::Any => None,
            Payees::Only(payees) => Some(payees.iter().copied().collect::<BTreeSet<_>>()),
        };
        let span_s = |session: &Session| session.expiry.0.saturating_sub(session.valid_after.0);
        let asked = &self.session;
        (asked.key, &asked.tokens, payees(asked), span_s(asked))
            == (granted.key, &granted.tokens, payees(granted), span_s(granted))
    }

    /// Notes that `granted` is what the key has.
    pub(super) fn note_earlier(&self, granted: Session) {
        // There is one session for a key, so that a second note would be the same.
        let _ = self.earlier.set(granted);
    }

    /// Writes the key that was made to its file, before anything is granted to it.
    pub(super) fn keep_key(&self) -> Result<(), CliError> {
        match &self.file {
            Some(KeyFile { path, signer, is_new: true }) => {
                write_key(path, signer).map_err(CliError::from)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes the key file that was made for what failed, if nothing can have been granted to it;
    /// else says where it is. A file that was there before stays.
    pub(super) fn drop_key(&self, mut error: CliError) -> CliError {
        let Some(KeyFile { path, is_new, .. }) = &self.file else { return error };
        if error.exit == exit::REFUSED && (!is_new || std::fs::remove_file(path).is_ok()) {
            return error;
        }
        let key = self.session.key;
        let kept = format!(
            "the key {key} is kept in {}, and the same call takes it again, as --key {key} does",
            path.display()
        );
        error.suggestion = Some(match error.suggestion {
            Some(suggestion) => format!("{suggestion}; {kept}"),
            None => kept,
        });
        error
    }

    pub(super) fn json(&self) -> Value {
        let mut value = show::session_json(self.session(), std::slice::from_ref(&self.token));
        if let Some(file) = &self.file {
            value["key_file"] = json!(file.path);
        }
        value
    }

    /// `adoption`: the file that the first payment has to bring along.
    pub(super) fn lines(&self, account: Address, adoption: Option<&Path>) -> Vec<String> {
        let mut lines = vec![format!("granted to the session key {}:", self.session.key)];
        lines.extend(show::session_lines(self.session(), std::slice::from_ref(&self.token)));
        let file = match &self.file {
            Some(file) => {
                lines.push(format!("  its key is in {}", file.path.display()));
                file.path.display().to_string()
            }
            None => "FILE".to_owned(),
        };
        let adoption =
            adoption.map(|file| format!(" --adoption {}", file.display())).unwrap_or_default();
        lines.push(format!(
            "pay with it: pay402 pay --account {account} --session-key {file}{adoption} URL"
        ));
        lines
    }
}

/// Writes a key to a new file that only its owner can read.
fn write_key(path: &Path, signer: &PrivateKeySigner) -> Result<(), Misconfigured> {
    let fail = |error: std::io::Error| {
        let why = match error.kind() {
            // It came to be since it was looked for, or is a link to nowhere.
            std::io::ErrorKind::AlreadyExists => {
                "exists already; name a new file, so that no key is overwritten".to_owned()
            }
            _ => error.to_string(),
        };
        Misconfigured::new("--new-key", format!("{}: {why}", path.display()))
    };
    let bytes = Zeroizing::new(signer.to_bytes().0);
    let mut text = Zeroizing::new(hex::encode_prefixed(&bytes[..]));
    text.push('\n');
    secret::write_new(path, text.as_bytes()).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected) in [("1s", 1), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "d", "1", "1w", "-1d", "1.5h", "0d", "1 d", "99999999999999999d", "1é"] {
            assert!(seconds(bad).is_err(), "{bad:?} was read");
        }
    }

    #[test]
    fn a_key_file_is_new_and_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.key");
        let signer = PrivateKeySigner::random();
        write_key(&path, &signer).unwrap();
        let read = secret::from_file("test", &path).unwrap();
        assert_eq!(secret::signer("test", &read).unwrap().address(), signer.address());
        let error = write_key(&path, &PrivateKeySigner::random()).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(secret::from_file("test", &path).unwrap(), read);
    }
}
