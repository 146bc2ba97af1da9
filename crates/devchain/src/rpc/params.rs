//! Reading positional JSON-RPC parameters.

use alloy::primitives::U256;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::RpcError;

/// The parameters of one request.
pub(crate) struct Params<'a>(Vec<&'a RawValue>);

/// A number that clients write as hexadecimal string, decimal string or JSON number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity(pub(crate) U256);

impl<'a> Params<'a> {
    pub(crate) fn parse(raw: Option<&'a RawValue>) -> Result<Self, RpcError> {
        let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
            return Ok(Self(Vec::new()));
        };
        serde_json::from_str(raw.get())
            .map(Self)
            .map_err(|_| RpcError::params("params must be an array"))
    }

    /// The parameter at `index`, which must be there.
    pub(crate) fn required<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<T, RpcError> {
        self.optional(index, name)?.ok_or_else(|| {
            RpcError::params(format!("missing value for required argument {index}: {name}"))
        })
    }

    /// The parameter at `index`, if it is there and not null.
    pub(crate) fn optional<T: DeserializeOwned>(
        &self,
        index: usize,
        name: &str,
    ) -> Result<Option<T>, RpcError> {
        let Some(raw) = self.0.get(index).filter(|raw| raw.get() != "null") else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map(Some).map_err(|error| {
            RpcError::params(format!("invalid argument {index} ({name}): {error}"))
        })
    }
}

impl Quantity {
    pub(crate) fn to_u64(self) -> Result<u64, RpcError> {
        u64::try_from(self.0).map_err(|_| RpcError::params("number does not fit 64 bits"))
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number
                .as_u64()
                .map(|number| Self(U256::from(number)))
                .ok_or_else(|| D::Error::custom("not a natural number")),
            Value::String(text) => text.parse().map(Self).map_err(D::Error::custom),
            _ => Err(D::Error::custom("not a number")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_in_every_spelling() {
        for text in ["16", "\"0x10\"", "\"16\""] {
            assert_eq!(serde_json::from_str::<Quantity>(text).unwrap().to_u64().unwrap(), 16);
        }
        for text in ["-1", "1.5", "\"x\"", "[]"] {
            assert!(serde_json::from_str::<Quantity>(text).is_err(), "{text}");
        }
    }
}
