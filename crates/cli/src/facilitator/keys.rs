//! `pay402 facilitator keys`: API keys for callers.
//!
//! **Invariant:** a key is in the file that it is written to and nowhere else: never in arguments, in what is
//! printed, or in the configuration, which holds its hash.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use alloy::hex;
use pay402_core::error::Misconfigured;
use pay402_facilitator::api::KeyHash;
use serde_json::json;
use zeroize::Zeroizing;

use super::caller::{CallerRole, check_name};
use super::config::{self, Config};
use super::named;
use crate::error::CliError;
use crate::{secret, terminal};

/// Random bytes of a key: it cannot be guessed, so that a plain hash of it tells nothing.
const KEY_BYTES: usize = 32;
/// Digits of a hash by which people tell keys apart.
const HASH_DIGITS: usize = 8;

/// What is done with keys.
#[derive(Clone, Debug, Eq, PartialEq, clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a key, write it to a new file for its owner alone, and print what to add to the configuration.
    ///
    /// The key itself is not printed. Hand the file to the caller; its server takes it as
    /// FACILITATOR_API_KEY_FILE. The same caller may have a second key under another name, or a new one in
    /// the place of the old: its payments are known by its name.
    New(New),
    /// List the callers of the configuration, with the first digits of their keys' hashes.
    List(List),
    /// Say whose key it is that is in FACILITATOR_API_KEY, in the file that FACILITATOR_API_KEY_FILE names, or
    /// on standard input.
    ///
    /// Exit code 5 when it is nobody's.
    Whose,
}

/// A key to make.
#[derive(Clone, Debug, Eq, PartialEq, clap::Args)]
pub(crate) struct New {
    /// What the caller is called; no other caller's name.
    name: String,
    /// Where the key goes; nothing may be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Have it see what happens to everybody's payments.
    #[arg(long)]
    operator: bool,
}

/// How callers are listed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::Args)]
pub(crate) struct List {
    /// Print JSON on a terminal too.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(verb: &Verb, path: &Path) -> Result<(), CliError> {
    match verb {
        Verb::New(new) => make(new, path),
        Verb::List(list) => {
            say_callers(*list, &config::read(path)?);
            Ok(())
        }
        Verb::Whose => whose(&config::read(path)?),
    }
}

fn make(new: &New, path: &Path) -> Result<(), CliError> {
    // Before there is a configuration, somebody may want the key for it.
    if path.exists() {
        let config = config::read(path)?;
        if config.callers.iter().any(|caller| caller.name == new.name) {
            let problem = format!("{:?} is a caller of {} already", new.name, path.display());
            return Err(Misconfigured::new("NAME", format!("{problem}; choose another")).into());
        }
    }
    check_name("NAME", &new.name)?;
    let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
    getrandom::fill(&mut bytes[..])
        .map_err(|error| CliError::general(format!("the system gives no randomness: {error}")))?;
    let mut key = Zeroizing::new(hex::encode(bytes.as_slice()));
    let hash = hex::encode(KeyHash::of(&key).as_bytes());
    key.push('\n');
    secret::write_new(&new.out, key.as_bytes()).map_err(|error| {
        let problem = format!("{} cannot be written: {error}", new.out.display());
        Misconfigured::new("--out", problem)
    })?;
    terminal::note(&format!("the key is in {}; add this:", new.out.display()));
    let name = toml::Value::String(new.name.clone());
    terminal::say(&format!("[[caller]]\nname = {name}\nkey_sha256 = \"{hash}\""));
    if new.operator {
        terminal::say("role = \"operator\"");
    }
    Ok(())
}

fn say_callers(list: List, config: &Config) {
    let callers = config.callers.iter().map(|caller| {
        let role = match caller.role {
            CallerRole::Caller => "caller",
            CallerRole::Operator => "operator",
        };
        let hash = caller.key_sha256.get(..HASH_DIGITS).unwrap_or_default().to_lowercase();
        (&caller.name, role, hash)
    });
    if list.json || !std::io::stdout().is_terminal() {
        let callers = callers.map(
            |(name, role, hash)| json!({ "name": name, "role": role, "key_sha256_begins": hash }),
        );
        terminal::say(&json!({ "callers": callers.collect::<Vec<_>>() }).to_string());
        return;
    }
    if config.callers.is_empty() {
        terminal::note("no callers: programs on this machine call without a key");
        return;
    }
    terminal::say(&format!("{:<8}  {:<8}  name", "hash", "role"));
    for (name, role, hash) in callers {
        terminal::say(&format!("{hash:<8}  {role:<8}  {}", name.escape_debug()));
    }
}

fn whose(config: &Config) -> Result<(), CliError> {
    let key = match secret::from_environment(secret::API_KEY)? {
        Some(key) => key,
        None => {
            let mut line = Zeroizing::new(String::new());
            let read = std::io::stdin().lock().read_line(&mut line);
            read.map_err(|error| CliError::general(format!("standard input: {error}")))?;
            line
        }
    };
    let key = key.trim();
    if key.is_empty() {
        return Err(CliError::usage(
            "no key is given, in FACILITATOR_API_KEY or on standard input",
        ));
    }
    let hash = KeyHash::of(key);
    match named(config)?.into_iter().find(|caller| caller.key == hash) {
        Some(caller) => {
            terminal::say(&caller.name);
            Ok(())
        }
        None => Err(CliError::refused("unknown_key", "it is no caller's key here")),
    }
}
