//! How much of a payment a handler charges.
//!
//! A metered route ([`crate::Route::metered`]) is sold at a ceiling, and its handler says what it
//! used of it: with a [`Charge`] among the extensions of its response. Without one the ceiling is
//! charged. In axum:
//!
//! ```
//! use axum::Extension;
//! use axum::response::IntoResponse;
//! use pay402_core::amount::AmountError;
//! use pay402_server::{Charge, PaidBy};
//!
//! async fn handler(Extension(paid_by): Extension<PaidBy>) -> Result<impl IntoResponse, String> {
//!     let used = "0.0031"; // of at most paid_by.amount
//!     let charge = Charge::usd(used).map_err(|error: AmountError| error.to_string())?;
//!     Ok((Extension(charge), "what was asked for"))
//! }
//! ```
//!
//! **Invariant:** only code of this process can say what is charged. No header is read for it,
//! neither of a request nor of a response.
//!
//! **Invariant:** what the offer does not allow is not charged. More than the ceiling, or anything
//! but the price where the route is not metered, is a mistake of the handler: its answer is
//! withheld with 500, nothing is settled, and the payment is free again.

use std::cmp::Ordering;
use std::fmt;

use pay402_core::amount::AmountError;
use pay402_core::{Amount, Price, Requirements};

/// What a handler charges for its answer. Only answers that are paid for are charged at all: see
/// [`crate::Disposal`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Charge(Said);

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Said {
    #[default]
    Ceiling,
    Atomic(Amount),
    Usd(Price),
}

/// A charge that its offer does not allow. For the log of the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BadCharge {
    AboveCeiling { charge: Amount, ceiling: Amount },
    NotThePrice { charge: Amount, price: Amount },
    NotInDollars,
    NoAmount(AmountError),
}

impl fmt::Display for BadCharge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AboveCeiling { charge, ceiling } => {
                write!(f, "{charge} is more than the ceiling of {ceiling}")
            }
            Self::NotThePrice { charge, price } => {
                write!(f, "{charge} is not the price of {price}; a metered route can charge less")
            }
            Self::NotInDollars => {
                f.write_str("the route is not priced in dollars; charge atomic units")
            }
            Self::NoAmount(error) => error.fmt(f),
        }
    }
}

impl Charge {
    /// All that the payer allowed: the ceiling of a metered route, the price of any other.
    pub const fn ceiling() -> Self {
        Self(Said::Ceiling)
    }

    /// Atomic units of the asset that is paid with ([`crate::PaidBy::asset`]). Zero delivers the
    /// answer without charging anything; the payment is used up all the same.
    pub const fn atomic(amount: Amount) -> Self {
        Self(Said::Atomic(amount))
    }

    /// Dollars, written `"0.0031"` or `"$0.0031"`, on a route that is priced in dollars.
    ///
    /// They become atomic units of the asset that is paid with, rounded up to a whole one: by less
    /// than one unit, never above the ceiling unless the dollars were above it themselves, and
    /// never from something to nothing.
    ///
    /// # Errors
    /// When the text is no amount of dollars: see [`Price::parse`].
    pub fn usd(text: &str) -> Result<Self, AmountError> {
        let price = Price::parse_plain(text.strip_prefix('$').unwrap_or(text))?;
        Ok(Self(Said::Usd(price)))
    }

    /// The amount under `terms`, in atomic units. `dollar_decimals` are those of the asset, when the
    /// terms are a price in dollars.
    pub(crate) fn under(
        self,
        terms: &Requirements,
        dollar_decimals: Option<u8>,
    ) -> Result<Amount, BadCharge> {
        let ceiling = terms.amount;
        let charge = match self.0 {
            Said::Ceiling => ceiling,
            Said::Atomic(amount) => amount,
            Said::Usd(price) => {
                let decimals = dollar_decimals.ok_or(BadCharge::NotInDollars)?;
                price.to_amount_rounded_up(decimals).map_err(BadCharge::NoAmount)?
            }
        };
        match charge.cmp(&ceiling) {
            Ordering::Equal => Ok(charge),
            Ordering::Less if terms.scheme.has_ceiling() => Ok(charge),
            Ordering::Greater if terms.scheme.has_ceiling() => {
                Err(BadCharge::AboveCeiling { charge, ceiling })
            }
            Ordering::Less | Ordering::Greater => {
                Err(BadCharge::NotThePrice { charge, price: ceiling })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::{NetworkId, Scheme};
    use serde_json::Map;

    use super::*;

    fn terms(scheme: Scheme) -> Requirements {
        Requirements {
            scheme,
            network: NetworkId::eip155(84_532),
            amount: 100_000.into(),
            asset: "0xA".into(),
            pay_to: "0xB".into(),
            max_timeout_seconds: 60,
            extra: Map::new(),
            other: Map::new(),
        }
    }

    fn charged(charge: Charge) -> Result<Amount, BadCharge> {
        charge.under(&terms(Scheme::UPTO), Some(6))
    }

    #[test]
    fn a_metered_charge_is_anything_up_to_the_ceiling() {
        for amount in [0, 1, 99_999, 100_000] {
            assert_eq!(charged(Charge::atomic(amount.into())), Ok(amount.into()));
        }
        let above = charged(Charge::atomic(100_001.into()));
        assert!(matches!(above, Err(BadCharge::AboveCeiling { .. })), "{above:?}");
        assert_eq!(charged(Charge::ceiling()), Ok(100_000.into()));
        assert_eq!(charged(Charge::default()), Ok(100_000.into()));
    }

    #[test]
    fn dollars_become_atomic_units_rounded_up_and_never_above_the_ceiling() {
        let cases = [
            ("0", 0),
            ("$0", 0),
            ("0.0031", 3_100),
            ("$0.0031", 3_100),
            ("0.000000000000000001", 1),
            ("0.0000010", 1),
            ("0.000001000000000001", 2),
            ("0.099999999999999999", 100_000),
            ("0.1", 100_000),
        ];
        for (text, expected) in cases {
            assert_eq!(charged(Charge::usd(text).unwrap()), Ok(expected.into()), "{text}");
        }
        for above in ["0.100000000000000001", "0.100001", "1", "999999999999999"] {
            let charge = charged(Charge::usd(above).unwrap());
            assert!(matches!(charge, Err(BadCharge::AboveCeiling { .. })), "{above}: {charge:?}");
        }
        for bad in ["", "$", "$$1", "-1", "1,0", ".5", "1e3", "1.0000000000000000001"] {
            assert!(Charge::usd(bad).is_err(), "{bad:?} was read");
        }
    }

    #[test]
    fn dollars_need_a_price_in_dollars() {
        let charge = Charge::usd("0.01").unwrap().under(&terms(Scheme::UPTO), None);
        assert_eq!(charge, Err(BadCharge::NotInDollars));
    }

    #[test]
    fn without_a_ceiling_only_the_price_can_be_charged() {
        let charge = |charge: Charge| charge.under(&terms(Scheme::EXACT), Some(6));
        assert_eq!(charge(Charge::ceiling()), Ok(100_000.into()));
        assert_eq!(charge(Charge::atomic(100_000.into())), Ok(100_000.into()));
        assert_eq!(charge(Charge::usd("0.1").unwrap()), Ok(100_000.into()));
        for amount in [0, 99_999, 100_001] {
            let other = charge(Charge::atomic(amount.into()));
            assert!(matches!(other, Err(BadCharge::NotThePrice { .. })), "{amount}: {other:?}");
        }
    }
}
