//! Strict reading of JSON objects: each error names the field by its path in the message.

use alloy::primitives::{Address, B256, Bytes, U256};
use pay402_core::Amount;
use pay402_core::error::Malformed;
use serde_json::{Map, Value};

use crate::address::parse_address;
use crate::signature::SignatureBytes;

/// An object and where it stands in its message.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, path: impl Into<String>) -> Self {
        Self { map, path: path.into() }
    }

    pub(crate) fn object(&self, key: &str) -> Result<Self, Malformed> {
        match self.map.get(key) {
            Some(Value::Object(map)) => Ok(Self::new(map, self.at(key))),
            Some(_) => Err(self.bad(key, "must be an object")),
            None => Err(self.bad(key, "is missing; it must be an object")),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, Malformed> {
        match self.map.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.bad(key, "must be a string")),
            None => Err(self.bad(key, "is missing; it must be a string")),
        }
    }

    pub(crate) fn address(&self, key: &str) -> Result<Address, Malformed> {
        parse_address(self.text(key)?).map_err(|error| self.bad(key, error.to_string()))
    }

    /// A decimal string without any ornament, below 2^256.
    pub(crate) fn number(&self, key: &str) -> Result<U256, Malformed> {
        let number = Amount::parse(self.text(key)?).map(Amount::to_u256);
        number.map_err(|error| self.bad(key, error.to_string()))
    }

    pub(crate) fn word(&self, key: &str) -> Result<B256, Malformed> {
        let text = self.text(key)?;
        let digits = text
            .strip_prefix("0x")
            .filter(|digits| digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()));
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| self.bad(key, "must be 0x and 64 hexadecimal digits (32 bytes)"))
    }

    /// A whole number as nodes write it, or as JSON does.
    pub(crate) fn quantity(&self, key: &str) -> Result<U256, Malformed> {
        let number = match self.map.get(key) {
            Some(Value::Number(number)) => number.as_u64().map(U256::from),
            Some(Value::String(text)) => text
                .strip_prefix("0x")
                .filter(|digits| (1..=64).contains(&digits.len()))
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|digits| U256::from_str_radix(digits, 16).ok()),
            None => return Err(self.bad(key, "is missing; it must be a number")),
            Some(_) => None,
        };
        number.ok_or_else(|| self.bad(key, "must be a whole number, or 0x and hexadecimal digits"))
    }

    /// As [`Fields::quantity`], below 2^64.
    pub(crate) fn quantity_u64(&self, key: &str) -> Result<u64, Malformed> {
        let number = self.quantity(key)?;
        number.try_into().map_err(|_| self.bad(key, "is too large"))
    }

    /// At most `max` bytes, as `0x` and hexadecimal digits.
    pub(crate) fn bytes(&self, key: &str, max: usize) -> Result<Bytes, Malformed> {
        let digits = self.text(key)?.strip_prefix("0x");
        let bytes = digits
            .filter(|digits| digits.len() <= 2 * max)
            .and_then(|digits| alloy::hex::decode(digits).ok());
        bytes.map(Bytes::from).ok_or_else(|| {
            self.bad(key, format!("must be 0x and hexadecimal digits, at most {max} bytes"))
        })
    }

    /// Bytes that are a signature or stand for one.
    pub(crate) fn signature(&self, key: &str) -> Result<SignatureBytes, Malformed> {
        SignatureBytes::parse(self.text(key)?).map_err(|error| self.bad(key, error.to_string()))
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn bad(&self, key: &str, problem: impl Into<String>) -> Malformed {
        Malformed::new(self.at(key), problem)
    }
}

/// An object of texts, in this order.
pub(crate) fn texts<const N: usize>(fields: [(&str, String); N]) -> Map<String, Value> {
    fields.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect()
}
