//! How certain a settlement must be before it counts, by what is charged.
//!
//! **Invariant:** who is charged more waits for no less: depth and nodes never fall from one tier of a
//! token to the next.

use alloy::primitives::{Address, U256};
use pay402_core::Amount;
use pay402_core::error::Misconfigured;

use super::Settings;
use crate::assets::{Asset, AssetTable};

/// Most confirmations that may be asked for: nobody waits for more than that many blocks.
pub const CONFIRMATIONS_MAX: u64 = 1_000;
/// Most tiers of one network.
pub const TIERS_MAX: usize = 64;

/// How certain a settlement must be before it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Certainty {
    /// Depth at which a block is believed; 1 is the head itself.
    pub confirmations: u64,
    /// How many nodes of the network must show the proof.
    pub nodes: u32,
}

/// Payments of one token from an amount on, and how certain their settlement must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tier {
    /// The token.
    pub token: Address,
    /// The least charge in it, in atomic units.
    pub from: U256,
    /// What is asked for.
    pub certainty: Certainty,
}

impl Tier {
    /// Reads where a tier begins: an amount in whole units and the token it is in, by symbol or
    /// address, as in `"100.00 USDC"`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse_from(text: &str, assets: &AssetTable) -> Result<(Address, U256), String> {
        let form = "write the amount and the token it is in, such as \"100.00 USDC\"";
        let (amount, token) = text.trim().split_once(' ').ok_or_else(|| form.to_owned())?;
        let token = token.trim();
        let is_meant = |asset: &&Asset| {
            asset.info.symbol == token || asset.info.address.eq_ignore_ascii_case(token)
        };
        let mut meant = assets.iter().filter(is_meant);
        let asset = match (meant.next(), meant.next()) {
            (Some(asset), None) => asset,
            (None, _) => {
                let known: Vec<_> = assets.iter().map(|asset| &*asset.info.symbol).collect();
                let known = known.join(", ");
                return Err(format!("no token {token:?} is settled here; there is {known}"));
            }
            (Some(_), Some(_)) => {
                return Err(format!("{token:?} are several tokens; write the address of one"));
            }
        };
        let amount = Amount::parse_units(amount, asset.info.decimals)
            .map_err(|error| format!("{amount:?} is no amount of {token}: {error}; {form}"))?;
        Ok((asset.token(), amount.to_u256()))
    }
}

impl Settings {
    /// How certain the settlement of so much of a token must be.
    pub fn certainty(&self, token: Address, charge: U256) -> Certainty {
        let reached = |tier: &&Tier| tier.token == token && tier.from <= charge;
        self.tiers
            .iter()
            .filter(reached)
            .max_by_key(|tier| tier.from)
            .map_or_else(|| self.least(), |tier| tier.certainty)
    }

    /// What is asked for below every tier, and of whatever is no payment.
    pub(crate) const fn least(&self) -> Certainty {
        Certainty { confirmations: self.confirmations, nodes: 1 }
    }

    /// Checks depth and tiers for a network with so many nodes.
    pub(super) fn check_tiers(&self, assets: &AssetTable, nodes: u32) -> Result<(), Misconfigured> {
        let bad = |key: String, problem: String| {
            Err(Misconfigured::new(format!("{}.{key}", self.setting), problem))
        };
        if !(1..=CONFIRMATIONS_MAX).contains(&self.confirmations) {
            let problem = format!("must be at least 1 and at most {CONFIRMATIONS_MAX}");
            return bad("confirmations".into(), problem);
        }
        if self.tiers.len() > TIERS_MAX {
            return bad("tier".into(), format!("there may be {TIERS_MAX} of them at most"));
        }
        for (index, tier) in self.tiers.iter().enumerate() {
            let bad = |key: &str, problem: String| bad(format!("tier[{index}].{key}"), problem);
            let Certainty { confirmations, nodes: agreeing } = tier.certainty;
            if !assets.iter().any(|asset| asset.token() == tier.token) {
                return bad("from", format!("{} is not settled here; add the asset", tier.token));
            }
            if tier.from.is_zero() {
                let problem =
                    "must be above zero; for all payments set the network's confirmations";
                return bad("from", problem.into());
            }
            if !(1..=CONFIRMATIONS_MAX).contains(&confirmations) {
                let problem = format!("must be at least 1 and at most {CONFIRMATIONS_MAX}");
                return bad("confirmations", problem);
            }
            if !(1..=nodes).contains(&agreeing) {
                let problem =
                    format!("must be at least 1 and at most {nodes}, the nodes there are");
                return bad("nodes", problem);
            }
            if self.tiers[..index].iter().any(|o| (o.token, o.from) == (tier.token, tier.from)) {
                return bad("from", "begins where another tier begins; keep one".into());
            }
            let below = self.certainty(tier.token, tier.from - U256::ONE);
            if confirmations < below.confirmations {
                let problem = format!("must be at least {}, as below it", below.confirmations);
                return bad("confirmations", problem);
            }
            if agreeing < below.nodes {
                return bad("nodes", format!("must be at least {}, as below it", below.nodes));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;
    use crate::assets::Peg;

    fn assets() -> AssetTable {
        let here = NetworkId::eip155(84_532);
        let asset = |byte: u8, symbol: &str, decimals: u8| {
            let address = Address::repeat_byte(byte).to_checksum(None);
            Asset::erc20(&here, &address, symbol, decimals, Peg::Other).unwrap()
        };
        let table = AssetTable::empty().with(asset(1, "USDC", 6)).with(asset(2, "DAI", 18));
        table.with(asset(3, "TWICE", 6)).with(asset(4, "TWICE", 6))
    }

    fn tier(byte: u8, from: u64, confirmations: u64) -> Tier {
        let certainty = Certainty { confirmations, nodes: 1 };
        Tier { token: Address::repeat_byte(byte), from: U256::from(from), certainty }
    }

    fn with(tiers: Vec<Tier>) -> Settings {
        Settings { tiers, confirmations: 2, ..Settings::default() }
    }

    #[test]
    fn an_amount_is_written_with_its_token() {
        let read = |text: &str| Tier::parse_from(text, &assets());
        let million = U256::from(1_000_000);
        let token = Address::repeat_byte(1);
        assert_eq!(read("100.00 USDC"), Ok((token, million * U256::from(100))));
        assert_eq!(read(&format!("1 {token}")), Ok((token, million)));
        let atomic = U256::from(10).pow(U256::from(18));
        assert_eq!(read("1 DAI"), Ok((Address::repeat_byte(2), atomic)));
        for (wrong, why) in [
            ("100", "write the amount and the token"),
            ("100USDC", "write the amount and the token"),
            ("1,000 USDC", "no amount"),
            ("-1 USDC", "no amount"),
            ("1.0000001 USDC", "no amount"),
            ("1 usdc", "there is USDC, DAI"),
            ("1 TWICE", "several tokens"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_charge_is_in_the_highest_tier_that_it_reaches() {
        let settings = with(vec![tier(1, 500, 30), tier(1, 100, 12), tier(2, 1, 5)]);
        settings.check_tiers(&assets(), 1).unwrap();
        let depth = |byte: u8, charge: u64| {
            settings.certainty(Address::repeat_byte(byte), U256::from(charge)).confirmations
        };
        let of_one = [0, 99, 100, 499, 500, u64::MAX].map(|charge| depth(1, charge));
        assert_eq!(of_one, [2, 2, 12, 12, 30, 30]);
        assert_eq!([depth(2, 0), depth(2, 1), depth(3, 1_000)], [2, 5, 2]);
    }

    #[test]
    fn tiers_that_make_no_sense_are_named() {
        let nodes = |nodes: u32| {
            let certainty = Certainty { confirmations: 3, nodes };
            Tier { certainty, ..tier(1, 100, 3) }
        };
        for (tiers, key) in [
            (vec![tier(9, 100, 3)], "network.tier[0].from"),
            (vec![tier(1, 0, 3)], "network.tier[0].from"),
            (vec![tier(1, 100, 3), tier(1, 100, 4)], "network.tier[1].from"),
            (vec![tier(1, 100, 0)], "network.tier[0].confirmations"),
            (vec![tier(1, 100, CONFIRMATIONS_MAX + 1)], "network.tier[0].confirmations"),
            (vec![tier(1, 100, 1)], "network.tier[0].confirmations"),
            (vec![tier(1, 100, 5), tier(1, 200, 4)], "network.tier[1].confirmations"),
            (vec![nodes(0)], "network.tier[0].nodes"),
            (vec![nodes(3)], "network.tier[0].nodes"),
            (vec![nodes(2), tier(1, 200, 4)], "network.tier[1].nodes"),
            (vec![tier(1, 1, 3); TIERS_MAX + 1], "network.tier"),
        ] {
            let error = with(tiers).check_tiers(&assets(), 2).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
        assert!(with(vec![nodes(2)]).check_tiers(&assets(), 2).is_ok());
    }
}
