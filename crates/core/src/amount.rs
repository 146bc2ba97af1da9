//! Amounts of money: integers in atomic units, and the one grammar that reads them.
//!
//! No floating point, no implicit decimals, no rounding that is not asked for by name. An [`Amount`] means nothing without its
//! asset; a [`Price`] is money in US dollars that becomes an [`Amount`] only when the decimals of
//! an asset are known.

use std::fmt;
use std::str::FromStr;

pub use ruint::aliases::U256;

/// Atomic units of an asset, 0 to 2^256 − 1.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Amount(U256);

impl Amount {
    /// No money.
    pub const ZERO: Self = Self(U256::ZERO);
    /// The largest amount, 2^256 − 1.
    pub const MAX: Self = Self(U256::MAX);
    /// Decimal digits of 2^256 − 1: the longest amount that can be written.
    pub const DIGITS_MAX: usize = 78;

    /// An amount from its integer value.
    pub const fn new(atomic: U256) -> Self {
        Self(atomic)
    }

    /// Reads a decimal string of atomic units: `0|[1-9][0-9]{0,77}`, at most 2^256 − 1.
    ///
    /// # Errors
    /// Everything else: empty, signs, leading zeros, hexadecimal, exponents, separators, spaces.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        parse_digits(text).map(Self)
    }

    /// The integer value.
    pub const fn to_u256(self) -> U256 {
        self.0
    }

    /// Whether this is no money at all.
    pub fn is_zero(self) -> bool {
        self.0 == U256::ZERO
    }

    /// The sum, or `None` when it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference, or `None` when it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The difference, or zero when it would be negative. For what remains of a limit.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The amount in whole units with `decimals` places, trailing zeros removed: `"0.01"`.
    ///
    /// For people only; nothing reads this form back into a book.
    pub fn to_units(self, decimals: u8) -> String {
        let digits = self.0.to_string();
        let places = usize::from(decimals);
        if places == 0 {
            return digits;
        }
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
    }

    /// Reads whole units with up to `decimals` places, such as `"0.01"`, into atomic units.
    ///
    /// # Errors
    /// As [`Price::parse`], and when the text has more places than the asset.
    pub fn parse_units(text: &str, decimals: u8) -> Result<Self, AmountError> {
        Price::parse_plain(text)?.to_amount(decimals)
    }
}

impl From<u64> for Amount {
    fn from(atomic: u64) -> Self {
        Self(U256::from(atomic))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::parse(text)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl serde::Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Amount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Money in US dollars, exact, as people write it: `"$0.01"`.
///
/// It becomes an [`Amount`] of a dollar-denominated asset by [`Price::to_amount`].
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Price {
    digits: u128,
    places: u8,
}

impl Price {
    /// Digits allowed before the point.
    pub const WHOLE_DIGITS_MAX: usize = 15;
    /// Digits allowed after the point.
    pub const PLACES_MAX: usize = 18;

    /// Reads `"$" (0|[1-9][0-9]{0,14}) ("." [0-9]{1,18})?`.
    ///
    /// # Errors
    /// Everything else; a comma in particular, which some parsers read as the end of the number.
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        match text.strip_prefix('$') {
            Some(rest) => Self::parse_plain(rest),
            None => Err(AmountError::NoDollarSign),
        }
    }

    /// Reads the same grammar without the dollar sign.
    ///
    /// # Errors
    /// As [`Price::parse`].
    pub fn parse_plain(text: &str) -> Result<Self, AmountError> {
        let (whole, fraction) = match text.split_once('.') {
            Some((_, "")) => return Err(AmountError::Empty),
            Some((whole, fraction)) => (whole, fraction),
            None => (text, ""),
        };
        check_digits(whole)?;
        if let Some(stranger) = fraction.chars().find(|c| !c.is_ascii_digit()) {
            return Err(AmountError::NotADigit(stranger));
        }
        if whole.len() > Self::WHOLE_DIGITS_MAX {
            return Err(AmountError::TooLarge);
        }
        if fraction.len() > Self::PLACES_MAX {
            return Err(AmountError::TooManyPlaces { places: fraction.len(), decimals: 18 });
        }
        let digits = whole
            .bytes()
            .chain(fraction.bytes())
            .fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
        let places = u8::try_from(fraction.len()).expect("at most PLACES_MAX");
        Ok(Self { digits, places })
    }

    /// The amount in atomic units of a dollar asset with `decimals` places. Exact or an error.
    ///
    /// # Errors
    /// When the price has more places than the asset, or the product does not fit.
    pub fn to_amount(self, decimals: u8) -> Result<Amount, AmountError> {
        let too_many = AmountError::TooManyPlaces { places: self.places.into(), decimals };
        if self.places <= decimals {
            let shift = U256::from(10_u8).checked_pow(U256::from(decimals - self.places));
            return shift
                .and_then(|scale| U256::from(self.digits).checked_mul(scale))
                .map(Amount)
                .ok_or(AmountError::TooLarge);
        }
        // More places than the asset has are fine while they are zeros: "$0.0100000" is a cent.
        let scale = 10_u128.pow(u32::from(self.places - decimals));
        if self.digits.is_multiple_of(scale) {
            Ok(Amount(U256::from(self.digits / scale)))
        } else {
            Err(too_many)
        }
    }

    /// The amount in atomic units of a dollar asset with `decimals` places, rounded up to a whole
    /// one. For what was metered; what is offered is exact, by [`Price::to_amount`].
    ///
    /// # Errors
    /// When the product does not fit.
    pub fn to_amount_rounded_up(self, decimals: u8) -> Result<Amount, AmountError> {
        if self.places <= decimals {
            return self.to_amount(decimals);
        }
        let scale = 10_u128.pow(u32::from(self.places - decimals));
        Ok(Amount(U256::from(self.digits.div_ceil(scale))))
    }

    /// Whether the price is `"$0"`.
    pub const fn is_zero(self) -> bool {
        self.digits == 0
    }
}

impl FromStr for Price {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        Self::parse(text)
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", Amount(U256::from(self.digits)).to_units(self.places))
    }
}

impl fmt::Debug for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> serde::Deserialize<'de> for Price {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Why a text is not an amount, and what to write instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// Nothing where digits belong.
    #[error("digits are missing; write a number such as 1000, or $0.01 for a price")]
    Empty,
    /// A zero before other digits.
    #[error("leading zero; write the number without it")]
    LeadingZero,
    /// A price without its dollar sign.
    #[error("a price begins with a dollar sign; write $0.01")]
    NoDollarSign,
    /// A sign, separator, exponent, hexadecimal digit, space or other stranger.
    #[error("{0:?} is not a digit; write decimal digits only: no sign, comma, exponent or 0x")]
    NotADigit(char),
    /// Above 2^256 − 1, or above what a price may be.
    #[error("too large; the limit is 2^256 - 1 atomic units, or 15 digits of dollars")]
    TooLarge,
    /// Finer than the asset can express; amounts are never rounded.
    #[error("{places} decimal places, but the asset has {decimals}; write fewer places")]
    TooManyPlaces {
        /// Places in the text.
        places: usize,
        /// Places of the asset.
        decimals: u8,
    },
}

fn check_digits(text: &str) -> Result<(), AmountError> {
    if let Some(stranger) = text.chars().find(|c| !c.is_ascii_digit()) {
        return Err(AmountError::NotADigit(stranger));
    }
    match text.as_bytes() {
        [] => Err(AmountError::Empty),
        [b'0', _, ..] => Err(AmountError::LeadingZero),
        _ => Ok(()),
    }
}

fn parse_digits(text: &str) -> Result<U256, AmountError> {
    check_digits(text)?;
    if text.len() > Amount::DIGITS_MAX {
        return Err(AmountError::TooLarge);
    }
    // 19 digits fit a u64, so most amounts take one step.
    text.as_bytes().chunks(19).try_fold(U256::ZERO, |sum, chunk| {
        let digits = chunk.iter().fold(0_u64, |part, digit| part * 10 + u64::from(digit - b'0'));
        let scale = 10_u64.pow(u32::try_from(chunk.len()).expect("at most 19"));
        sum.checked_mul(U256::from(scale))
            .and_then(|shifted| shifted.checked_add(U256::from(digits)))
            .ok_or(AmountError::TooLarge)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: &str =
        "115792089237316195423570985008687907853269984665640564039457584007913129639935";

    #[test]
    fn atomic_amounts_follow_one_strict_grammar() {
        for good in ["0", "1", "1000", "18446744073709551615", "18446744073709551616", TOP] {
            assert_eq!(Amount::parse(good).unwrap().to_string(), good);
        }
        let above =
            "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        let bad = [
            "",
            " ",
            "-1",
            "+1",
            "01",
            "00",
            "0x10",
            "1e3",
            "1_0",
            "1,000",
            "1.0",
            " 7",
            "7\n",
            "٣",
            "NaN",
            "1000000000000000000000000000000000000000000000000000000000000000000000000000000",
            above,
        ];
        for text in bad {
            assert!(Amount::parse(text).is_err(), "{text:?} was read as an amount");
        }
    }

    #[test]
    fn prices_are_exact() {
        let atomic = |text: &str, decimals| {
            Price::parse(text).and_then(|price| price.to_amount(decimals)).map(|a| a.to_string())
        };
        assert_eq!(atomic("$0.01", 6).unwrap(), "10000");
        assert_eq!(atomic("$1", 18).unwrap(), "1000000000000000000");
        assert_eq!(atomic("$0.0100000", 6).unwrap(), "10000");
        assert_eq!(
            atomic("$0.0000001", 6),
            Err(AmountError::TooManyPlaces { places: 7, decimals: 6 })
        );
        let bad = [
            "",
            "$",
            "0.01",
            "$.5",
            "$1.",
            "$1,000",
            "$-1",
            "$ 1",
            "$01",
            "$1e3",
            "$1.2.3",
            "€1",
            "$1000000000000000",
            "$0x1",
        ];
        for text in bad {
            assert!(Price::parse(text).is_err(), "{text:?} was read as a price");
        }
    }

    #[test]
    fn what_was_metered_is_rounded_up_to_a_whole_unit() {
        let up = |text: &str, decimals| {
            let price = Price::parse_plain(text).unwrap();
            price.to_amount_rounded_up(decimals).map(|amount| amount.to_string())
        };
        for (text, decimals, expected) in [
            ("0.0031", 6, "3100"),
            ("0.0000010", 6, "1"),
            ("0.000000000000000001", 6, "1"),
            ("0.000001000000000001", 6, "2"),
            ("0", 6, "0"),
            ("0.000", 0, "0"),
            ("0.1", 0, "1"),
            ("999999999999999.999999999999999999", 0, "1000000000000000"),
            ("1", 18, "1000000000000000000"),
        ] {
            assert_eq!(up(text, decimals).unwrap(), expected, "{text} of {decimals} places");
        }
        assert_eq!(up("1", 255), Err(AmountError::TooLarge));
    }

    #[test]
    fn units_are_written_without_rounding() {
        assert_eq!(Amount::from(10_000).to_units(6), "0.01");
        assert_eq!(Amount::from(1).to_units(6), "0.000001");
        assert_eq!(Amount::from(2_000_000).to_units(6), "2");
        assert_eq!(Amount::from(7).to_units(0), "7");
        assert_eq!(Amount::parse_units("0.01", 6).unwrap(), Amount::from(10_000));
    }
}
