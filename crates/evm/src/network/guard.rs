//! What settling a payment may cost, beside what it pays.
//!
//! Gas is paid in the network's own coin, payments in tokens: what one is worth in the other is a rate that the
//! operator sets, with its date. Rates are for this guard alone, never for books.
//!
//! **Invariant:** what is refused is refused before anything is sent, and what is sent never offers more than
//! its payment may cost, replacements included.

use alloy::primitives::{Address, U256};
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal, Refused};

use super::plan::Plan;
use super::tier::Tier;
use super::{EvmNetwork, Settings};
use crate::assets::{Asset, AssetTable};

/// Atomic units of a network's own coin.
const WEI_PER_COIN: u64 = 1_000_000_000_000_000_000;
/// How old a rate may be unless configured otherwise, in seconds: a week.
pub const RATE_AGE_S_MAX_DEFAULT: u64 = 7 * 24 * 60 * 60;
/// How far ahead of our clock the day of a rate may begin, in seconds: somewhere it is that day already.
const RATE_AHEAD_S_MAX: u64 = 24 * 60 * 60;
/// Most rates and most minimums of one network.
pub const RATES_MAX: usize = 256;
const HUNDRED: u64 = 100;

/// What one whole coin of the network was worth in a token on a day, as the operator says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// The token.
    pub token: Address,
    /// What one whole coin is worth, in atomic units of the token.
    pub per_coin: U256,
    /// When the day began.
    pub at: UnixTime,
}

/// What becomes of payments whose rate is too old.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stale {
    /// They are refused.
    #[default]
    Refuse,
    /// The old rate goes on being used; whoever looks at the network is told.
    Use,
}

/// What settling may cost. By default anything within the network's gas limits.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Guard {
    /// Most that the gas of a payment may cost, in hundredths of what is charged.
    pub cost_percent_max: Option<u64>,
    /// Most that the gas of a payment may cost, in wei.
    pub cost_wei_max: Option<u128>,
    /// The least that is settled, of tokens that have one, in atomic units. A charge of zero sends nothing and
    /// is always settled.
    pub least: Vec<(Address, U256)>,
    /// What the coin is worth: needed of every token where there is a bound in hundredths.
    pub rates: Vec<Rate>,
    /// How old a rate may be, in seconds; [`RATE_AGE_S_MAX_DEFAULT`] where it is not set.
    pub rate_age_s_max: Option<u64>,
    /// What becomes of payments whose rate is too old.
    pub stale: Stale,
}

impl Guard {
    /// Whether what gas costs has to be known.
    pub(super) const fn looks_at_cost(&self) -> bool {
        self.cost_percent_max.is_some() || self.cost_wei_max.is_some()
    }

    fn rate(&self, token: Address) -> Option<&Rate> {
        self.rates.iter().find(|rate| rate.token == token)
    }

    /// Whether a rate is too old to go by.
    pub(super) fn is_old(&self, rate: &Rate, now: UnixTime) -> bool {
        let age_max = self.rate_age_s_max.unwrap_or(RATE_AGE_S_MAX_DEFAULT);
        now.0.saturating_sub(rate.at.0) > age_max
    }

    /// Most that settling so much of a token may cost, in wei; `None` without a bound.
    fn wei_max(&self, token: Address, charge: U256) -> Option<U256> {
        let share = self.cost_percent_max.map(|percent| {
            // Without a rate nothing is known to be worth it. The check at start demands one.
            self.rate(token).map_or(U256::ZERO, |rate| rate.wei_of(charge, percent))
        });
        let absolute = self.cost_wei_max.map(U256::from);
        match (share, absolute) {
            (Some(share), Some(absolute)) => Some(share.min(absolute)),
            (bound, None) | (None, bound) => bound,
        }
    }

    /// The refusal of a charge that is too small to be settled.
    fn refuse_small(&self, token: &Asset, charge: U256) -> Option<Refused> {
        let (_, least) = self.least.iter().find(|(of, _)| *of == token.token())?;
        (!charge.is_zero() && charge < *least).then(|| {
            let (symbol, decimals) = (&token.info.symbol, token.info.decimals);
            let units = |atomic: U256| Amount::new(atomic).to_units(decimals);
            let message = format!(
                "the charge is {} {symbol}, and the least that is settled here is {}",
                units(charge),
                units(*least)
            );
            Refused::new(Refusal::AmountTooSmall, message)
        })
    }

    /// The refusal of every charge in a token whose rate is needed and too old. `setting` is where the
    /// network is configured.
    fn refuse_old(&self, token: &Asset, now: UnixTime, setting: &str) -> Option<Refused> {
        self.cost_percent_max.filter(|_| self.stale == Stale::Refuse)?;
        let is_of_it = |rate: &Rate| rate.token == token.token();
        let index = self.rates.iter().position(is_of_it)?;
        let rate = self.rates.get(index).filter(|rate| self.is_old(rate, now))?;
        let message = format!(
            "what the gas of a payment in {} is worth is not known: {setting}.rate[{index}] is of {}, which \
             is older than {setting}.guard.rate_age_max_h allows; the operator has to renew it",
            token.info.symbol,
            rate.at.to_utc()
        );
        Some(Refused::new(Refusal::SettlementTooCostly, message))
    }

    /// The refusal of a charge whose gas costs too much: so much, at `wei_per_gas`.
    fn refuse_cost(
        &self,
        token: &Asset,
        charge: U256,
        (gas, wei_per_gas): (u64, u128),
    ) -> Option<Refused> {
        let rate = self.rate(token.token()).filter(|_| self.cost_percent_max.is_some());
        let bound = self.wei_max(token.token(), charge)?;
        let cost = U256::from(gas).saturating_mul(U256::from(wei_per_gas));
        if cost <= bound {
            return None;
        }
        let (symbol, decimals) = (&token.info.symbol, token.info.decimals);
        let units = |atomic: U256| format!("{} {symbol}", Amount::new(atomic).to_units(decimals));
        let worth = rate.map_or_else(String::new, |rate| {
            let coin = U256::from(WEI_PER_COIN);
            let worth = cost.saturating_mul(rate.per_coin).div_ceil(coin);
            format!(
                " ({}, at {} for the network's coin on {})",
                units(worth),
                units(rate.per_coin),
                rate.at.to_utc()
            )
        });
        let message = format!(
            "settling {} would cost up to {cost} wei of gas{worth}, and {bound} wei is the most that is \
             spent on it; present the same payment again when gas is cheaper",
            units(charge)
        );
        Some(Refused::new(Refusal::SettlementTooCostly, message))
    }
}

impl Settings {
    /// Checks the guard for a network with these tokens.
    pub(super) fn check_guard(
        &self,
        assets: &AssetTable,
        now: UnixTime,
    ) -> Result<(), Misconfigured> {
        let guard = &self.guard;
        let bad = |key: String, problem: String| {
            Err(Misconfigured::new(format!("{}.{key}", self.setting), problem))
        };
        for (key, count) in [("rate", guard.rates.len()), ("guard.least", guard.least.len())] {
            if count > RATES_MAX {
                return bad(key.into(), format!("there may be {RATES_MAX} of them at most"));
            }
        }
        for (index, rate) in guard.rates.iter().enumerate() {
            if guard.rates[..index].iter().any(|other| other.token == rate.token) {
                let problem = "is of a token that another rate is of; keep the newest";
                return bad(format!("rate[{index}].coin"), problem.into());
            }
            if rate.per_coin.is_zero() || rate.hundredfold().is_none() {
                let problem = "must be above zero, and below a hundredth of what a token can count";
                return bad(format!("rate[{index}].coin"), problem.into());
            }
            if rate.at.0 > now.0.saturating_add(RATE_AHEAD_S_MAX) {
                let problem = "is in the future; write the day on which the coin was worth that";
                return bad(format!("rate[{index}].date"), problem.into());
            }
        }
        for (index, (token, _)) in guard.least.iter().enumerate() {
            if guard.least[..index].iter().any(|(other, _)| other == token) {
                let problem = "is of a token that has one already; keep one";
                return bad(format!("guard.least[{index}]"), problem.into());
            }
        }
        if guard.cost_percent_max.is_some() {
            for asset in assets.iter() {
                if guard.rate(asset.token()).is_none() {
                    let problem = format!(
                        "has none of {symbol}, which guard.cost_percent_max needs; add a [[network.rate]] with \
                         coin = \"… {symbol}\" and its date",
                        symbol = asset.info.symbol
                    );
                    return bad("rate".into(), problem);
                }
            }
        }
        Ok(())
    }
}

impl Rate {
    /// Reads what one whole coin is worth, as in `"3000.00 USDC"`, on the day that began at `at`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str, at: UnixTime, assets: &AssetTable) -> Result<Self, String> {
        let (token, per_coin) = Tier::parse_from(text, assets)?;
        Ok(Self { token, per_coin, at })
    }

    fn hundredfold(&self) -> Option<U256> {
        self.per_coin.checked_mul(U256::from(HUNDRED))
    }

    /// So many hundredths of a charge, in wei, rounded down; nothing by a rate that the check at start
    /// refuses.
    fn wei_of(&self, charge: U256, percent: u64) -> U256 {
        let Some(divisor) = self.hundredfold().filter(|it| !it.is_zero()) else {
            return U256::ZERO;
        };
        let wei = U256::from(WEI_PER_COIN).saturating_mul(U256::from(percent));
        match charge.checked_mul(wei) {
            Some(worth) => worth / divisor,
            // Rounded down before it is multiplied: never more than it is.
            None => (charge / divisor).saturating_mul(wei),
        }
    }
}

impl EvmNetwork {
    fn asset_of(&self, token: Address) -> Option<&Asset> {
        self.assets.iter().find(|asset| asset.token() == token)
    }

    /// Refuses a charge that is too small, or that nobody knows the worth of, without asking the chain.
    pub(super) fn guard_charge(&self, token: Address, charge: U256) -> Result<(), Refused> {
        let Some(asset) = self.asset_of(token).filter(|_| !charge.is_zero()) else { return Ok(()) };
        let Settings { guard, setting, .. } = &self.settings;
        let old = || guard.refuse_old(asset, self.clock.now(), setting);
        guard.refuse_small(asset, charge).or_else(old).map_or(Ok(()), Err)
    }

    /// Refuses a payment whose gas would cost too much now. `taken` is what its transfer took when it was
    /// tried, where that is known.
    pub(super) async fn guard_cost(
        &self,
        plan: &Plan,
        taken: Option<u64>,
    ) -> Result<Option<Refused>, Unavailable> {
        let guard = &self.settings.guard;
        // Of what is not charged nothing is sent.
        if !guard.looks_at_cost() || plan.charge.is_zero() {
            return Ok(None);
        }
        let Some(asset) = self.asset_of(plan.token) else { return Ok(None) };
        let gas = self.gas_limit_now(plan, taken).await?;
        let price = self.price_of_gas().await?;
        Ok(guard.refuse_cost(asset, plan.charge, (gas, price)))
    }

    /// Most that settling a payment may cost, in wei; `None` without a bound.
    pub(super) fn cost_wei_max(&self, plan: &Plan) -> Option<U256> {
        self.settings.guard.wei_max(plan.token, plan.charge)
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;
    use crate::assets::Peg;

    const DAY_S: u64 = 24 * 60 * 60;
    const NOW: UnixTime = UnixTime(1_000 * DAY_S);

    fn token(byte: u8) -> Address {
        Address::repeat_byte(byte)
    }

    fn assets() -> AssetTable {
        let here = NetworkId::eip155(84_532);
        let asset = |byte: u8, symbol: &str, decimals: u8| {
            let address = token(byte).to_checksum(None);
            Asset::erc20(&here, &address, symbol, decimals, Peg::Other).unwrap()
        };
        AssetTable::empty().with(asset(1, "USDC", 6)).with(asset(2, "DAI", 18))
    }

    fn usdc() -> Asset {
        assets().iter().find(|asset| asset.token() == token(1)).unwrap().clone()
    }

    fn rate(text: &str, days_ago: u64) -> Rate {
        Rate::parse(text, NOW.minus_s(days_ago * DAY_S), &assets()).unwrap()
    }

    fn half() -> Guard {
        Guard {
            cost_percent_max: Some(50),
            rates: vec![rate("3000.00 USDC", 1)],
            ..Guard::default()
        }
    }

    fn wei_max(guard: &Guard, atomic: u64) -> Option<U256> {
        guard.wei_max(token(1), U256::from(atomic))
    }

    #[test]
    fn a_share_of_the_charge_is_so_many_wei() {
        assert_eq!(wei_max(&Guard::default(), 1), None);
        // A cent is 10^18 / 300,000 wei, and half of that may be spent.
        assert_eq!(wei_max(&half(), 10_000), Some(U256::from(1_666_666_666_666_u64)));
        assert_eq!(wei_max(&half(), 0), Some(U256::ZERO));
        assert_eq!(half().wei_max(token(1), U256::MAX), Some(U256::MAX));
        // What does not fit in between is rounded down, never up.
        let dai = Rate { token: token(2), ..rate("1 USDC", 1) };
        let per_coin = U256::from(10_u64).pow(U256::from(42_u64));
        let huge = Guard { rates: vec![Rate { per_coin, ..dai }], ..half() };
        let charge = U256::MAX >> 8_usize;
        let (bound, ten) = (huge.wei_max(token(2), charge).unwrap(), U256::from(10_u64));
        // 50 × 10^18 hundredths of 10^42.
        let exact = charge / (ten.pow(U256::from(24_u64)) * U256::from(2_u64));
        let step = U256::from(WEI_PER_COIN) * U256::from(50_u64);
        assert!(bound <= exact && exact - bound < step, "{bound} of {exact}");
        for per_coin in [U256::ZERO, U256::MAX] {
            let broken = Rate { per_coin, ..rate("1 USDC", 1) };
            let guard = Guard { rates: vec![broken], ..half() };
            assert_eq!(wei_max(&guard, 1_000_000), Some(U256::ZERO), "a rate of {per_coin}");
        }
        assert_eq!(half().wei_max(token(2), U256::from(1)), Some(U256::ZERO), "without a rate");
        let both = Guard { cost_wei_max: Some(1_000), ..half() };
        assert_eq!(wei_max(&both, 10_000), Some(U256::from(1_000)));
        assert_eq!(wei_max(&both, 1), Some(U256::from(1_000)).min(wei_max(&half(), 1)));
        let absolute = Guard { cost_wei_max: Some(1_000), ..Guard::default() };
        assert_eq!(wei_max(&absolute, 1), Some(U256::from(1_000)));
    }

    #[test]
    fn what_costs_too_much_is_refused_with_the_figures() {
        let refuse = |guard: &Guard, price: u128| {
            guard.refuse_cost(&usdc(), U256::from(10_000), (100_000, price))
        };
        assert_eq!(refuse(&half(), 16_666_666), None);
        let refused = refuse(&half(), 16_666_667).unwrap();
        assert!(refused.reason.is(Refusal::SettlementTooCostly));
        for figure in [
            "settling 0.01 USDC",
            "1666666700000 wei",
            "(0.005001 USDC, at 3000 USDC",
            "1972-09-26 00:00:00 UTC",
            "1666666666666 wei is the most",
        ] {
            assert!(refused.message.contains(figure), "{figure}: {}", refused.message);
        }
        assert_eq!(refuse(&Guard::default(), u128::MAX), None);
        assert!(refuse(&half(), u128::MAX).is_some());
    }

    #[test]
    fn an_old_rate_refuses_unless_it_is_said_to_be_used() {
        let of_days = |days: u64, stale: Stale| {
            let guard = Guard { rates: vec![rate("3000 USDC", days)], stale, ..half() };
            guard.refuse_old(&usdc(), NOW, "network[2]")
        };
        assert_eq!(of_days(7, Stale::Refuse), None);
        let refused = of_days(8, Stale::Refuse).unwrap();
        assert!(refused.reason.is(Refusal::SettlementTooCostly));
        for part in ["1972-09-19", "network[2].rate[0]", "network[2].guard.rate_age_max_h"] {
            assert!(refused.message.contains(part), "{part}: {}", refused.message);
        }
        assert_eq!(of_days(8, Stale::Use), None);
        // A bound in wei needs no rate.
        let absolute = Guard { cost_percent_max: None, cost_wei_max: Some(1), ..half() };
        let absolute = Guard { rates: vec![rate("3000 USDC", 100)], ..absolute };
        assert_eq!(absolute.refuse_old(&usdc(), NOW, "network[2]"), None);
        assert_eq!(absolute.refuse_cost(&usdc(), U256::from(1), (1, 1)), None);
    }

    #[test]
    fn dust_is_refused_and_nothing_at_all_is_not() {
        let guard = Guard { least: vec![(token(1), U256::from(1_000))], ..Guard::default() };
        let refuse = |atomic: u64| guard.refuse_small(&usdc(), U256::from(atomic));
        let refused = refuse(999).unwrap();
        assert!(refused.reason.is(Refusal::AmountTooSmall));
        assert!(refused.message.contains("0.000999 USDC") && refused.message.contains("0.001"));
        assert_eq!([refuse(0), refuse(1_000)], [None, None]);
        assert_eq!(Guard::default().refuse_small(&usdc(), U256::from(1)), None);
    }

    #[test]
    fn guards_that_make_no_sense_are_named() {
        let both = || vec![rate("3000 USDC", 1), rate("3000 DAI", 1)];
        let zero = Rate { per_coin: U256::ZERO, ..rate("1 USDC", 0) };
        let ahead = Rate { at: NOW.plus_s(DAY_S + 1), ..rate("1 USDC", 0) };
        let rates = |rates: Vec<Rate>| Guard { rates, ..Guard::default() };
        let one = (token(1), U256::from(1));
        for (guard, key) in [
            (half(), "network.rate"),
            (Guard { rates: vec![], ..half() }, "network.rate"),
            (rates([both(), both()].concat()), "network.rate[2].coin"),
            (rates(vec![zero]), "network.rate[0].coin"),
            (rates(vec![Rate { per_coin: U256::MAX, ..zero }]), "network.rate[0].coin"),
            (rates(vec![ahead]), "network.rate[0].date"),
            (rates(vec![zero; RATES_MAX + 1]), "network.rate"),
            (Guard { least: vec![one, one], ..Guard::default() }, "network.guard.least[1]"),
        ] {
            let settings = Settings { guard, ..Settings::default() };
            let error = settings.check_guard(&assets(), NOW).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
        let settings = Settings { guard: Guard { rates: both(), ..half() }, ..Settings::default() };
        settings.check_guard(&assets(), NOW).unwrap();
    }
}
