//! `[[caller]]` in the configuration: who may call, for what and how often.

use std::ops::RangeInclusive;

use pay402_core::error::Misconfigured;
use pay402_facilitator::api::Limits;
use serde::Deserialize;

use super::config::contracts;
use super::webhooks;

/// Longest name of a caller, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// What `calls_per_minute` may be.
const CALLS_PER_MINUTE: RangeInclusive<u32> = 1..=10_000_000;

/// `[[caller]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Caller {
    /// No other caller's: its payments are known by it, whichever key it has later.
    pub(crate) name: String,
    /// SHA-256 of the API key, 64 hexadecimal digits; `keys new` prints it.
    pub(crate) key_sha256: String,
    /// What it is. Default a caller.
    #[serde(default)]
    pub(crate) role: CallerRole,
    /// Where it is sent events.
    pub(crate) webhook: Option<webhooks::Settings>,
    /// Addresses that its payments may be made to. Default anybody's.
    payees: Option<Vec<String>>,
    /// Contracts of the assets that its payments may be made in. Default all that are settled.
    assets: Option<Vec<String>>,
    /// How often it may ask for `/verify`, `/settle` and `/account` in a minute, up to ten seconds of that
    /// at once. Default as often as it likes.
    calls_per_minute: Option<u32>,
}

/// Whether a caller may be called so.
pub(super) fn check_name(setting: &str, name: &str) -> Result<(), Misconfigured> {
    match name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        true => {
            let problem = format!("must be text of 1 to {NAME_BYTES_MAX} bytes");
            Err(Misconfigured::new(setting, problem))
        }
        false => Ok(()),
    }
}

impl Caller {
    /// Its limits; `index` is its place in the file.
    pub(crate) fn limits(&self, index: usize) -> Result<Limits, Misconfigured> {
        let setting = |field: &str| format!("caller[{index}].{field}");
        let addresses = |field: &str, texts: &Option<Vec<String>>| match texts.as_deref() {
            Some([]) => {
                let problem = "is empty, so nothing of this caller's could be settled; add an \
                               address, or remove it";
                Err(Misconfigured::new(setting(field), problem))
            }
            Some(texts) => {
                contracts(&setting(field), texts)?;
                Ok(texts.to_vec())
            }
            None => Ok(Vec::new()),
        };
        if self.calls_per_minute.is_some_and(|calls| !CALLS_PER_MINUTE.contains(&calls)) {
            let (from, to) = (CALLS_PER_MINUTE.start(), CALLS_PER_MINUTE.end());
            let problem = format!("must be from {from} to {to}");
            return Err(Misconfigured::new(setting("calls_per_minute"), problem));
        }
        Ok(Limits {
            payees: addresses("payees", &self.payees)?,
            assets: addresses("assets", &self.assets)?,
            calls_per_minute: self.calls_per_minute,
        })
    }
}

/// `role` of a `[[caller]]`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CallerRole {
    /// It settles, and sees what it entered.
    #[default]
    Caller,
    /// It sees everybody's settlements too.
    Operator,
}
