//! `[[caller]]` in the configuration: who may call, for what and how often.

use std::ops::RangeInclusive;

use pay402_core::Amount;
use pay402_core::amount::U256;
use pay402_core::error::Misconfigured;
use pay402_facilitator::api::Limits;
use serde::Deserialize;

use super::config::{COST_MAX_GWEI, WEI_PER_GWEI, contracts};
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
    /// What its entries may cost in gas in an hour on each network, in 10⁻⁹ of the coin. Default as much as
    /// they like.
    gas_per_hour_max_gwei: Option<u64>,
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
        if self.gas_per_hour_max_gwei.is_some_and(|gwei| !COST_MAX_GWEI.contains(&gwei)) {
            let (from, to) = (COST_MAX_GWEI.start(), COST_MAX_GWEI.end());
            let problem = format!("must be from {from} to {to}");
            return Err(Misconfigured::new(setting("gas_per_hour_max_gwei"), problem));
        }
        Ok(Limits {
            payees: addresses("payees", &self.payees)?,
            assets: addresses("assets", &self.assets)?,
            calls_per_minute: self.calls_per_minute,
        })
    }
}

impl Caller {
    /// What its entries may cost in gas in an hour, in wei, by its name.
    pub(crate) fn gas_budget(&self) -> Option<(String, Amount)> {
        let gwei = U256::from(self.gas_per_hour_max_gwei?);
        Some((self.name.clone(), Amount::new(gwei.saturating_mul(U256::from(WEI_PER_GWEI)))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_so_many_wei_of_that_caller() {
        let read = |more: &str| {
            toml::from_str::<Caller>(&format!("name = \"shop\"\nkey_sha256 = \"\"\n{more}"))
                .unwrap()
        };
        assert_eq!(read("").gas_budget(), None);
        let shop = read("gas_per_hour_max_gwei = 3");
        assert_eq!(shop.gas_budget(), Some(("shop".into(), Amount::from(3_000_000_000))));
        shop.limits(0).unwrap();
        for bad in [0, COST_MAX_GWEI.end() + 1] {
            let shop = read(&format!("gas_per_hour_max_gwei = {bad}"));
            let error = shop.limits(1).unwrap_err();
            assert_eq!(error.key, "caller[1].gas_per_hour_max_gwei");
            assert!(error.problem.contains("must be from 1 to"), "{error}");
        }
    }
}
