//! Networks by their CAIP-2 id, and the names that v1 used for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A network by its CAIP-2 id, such as `eip155:8453`. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NetworkId(Arc<str>);

/// Names that protocol version 1 puts on the wire, with the CAIP-2 id each stands for. Official v1
/// clients throw a whole 402 away in which one entry names another network.
pub const V1_NAMES: &[(&str, &str)] = &[
    ("abstract", "eip155:2741"),
    ("abstract-testnet", "eip155:11124"),
    ("avalanche", "eip155:43114"),
    ("avalanche-fuji", "eip155:43113"),
    ("base", "eip155:8453"),
    ("base-sepolia", "eip155:84532"),
    ("educhain", "eip155:41923"),
    ("iotex", "eip155:4689"),
    ("peaq", "eip155:3338"),
    ("polygon", "eip155:137"),
    ("polygon-amoy", "eip155:80002"),
    ("sei", "eip155:1329"),
    ("sei-testnet", "eip155:1328"),
    ("skale-base-sepolia", "eip155:324705682"),
    ("solana", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"),
    ("solana-devnet", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"),
    ("story", "eip155:1514"),
];

/// Names that only later implementations of version 1 know.
pub const V1_LATER_NAMES: &[(&str, &str)] = &[
    ("celo", "eip155:42220"),
    ("megaeth", "eip155:4326"),
    ("monad", "eip155:143"),
    ("monad-testnet", "eip155:10143"),
];

impl NetworkId {
    /// Reads a CAIP-2 id: `[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}`; an `eip155` reference must be a
    /// canonical decimal chain id.
    ///
    /// # Errors
    /// Everything else, v1 names included: see [`NetworkId::parse_any`].
    pub fn parse(text: &str) -> Result<Self, NetworkIdError> {
        let error = || NetworkIdError { text: text.chars().take(64).collect() };
        let (namespace, reference) = text.split_once(':').ok_or_else(error)?;
        let namespace_ok = (3..=8).contains(&namespace.len())
            && namespace.bytes().all(|b| matches!(b, b'-' | b'a'..=b'z' | b'0'..=b'9'));
        let reference_ok = (1..=32).contains(&reference.len())
            && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let chain_id_ok = namespace != "eip155"
            || reference.parse::<u64>().is_ok_and(|id| id.to_string() == reference && id != 0);
        if namespace_ok && reference_ok && chain_id_ok {
            Ok(Self(text.into()))
        } else {
            Err(error())
        }
    }

    /// Reads a CAIP-2 id or a v1 name. For people's input; the wire says which of the two it uses.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse_any(text: &str) -> Result<Self, NetworkIdError> {
        Self::from_v1_name(text).map_or_else(|| Self::parse(text), Ok)
    }

    /// The network that v1 calls `name`.
    pub fn from_v1_name(name: &str) -> Option<Self> {
        let (_, id) = V1_NAMES.iter().chain(V1_LATER_NAMES).find(|(v1, _)| *v1 == name)?;
        Some(Self((*id).into()))
    }

    /// The EVM network with this chain id.
    pub fn eip155(chain_id: u64) -> Self {
        Self(format!("eip155:{chain_id}").into())
    }

    /// The name v1 uses, where it has one.
    pub fn v1_name(&self) -> Option<&'static str> {
        let mut names = V1_NAMES.iter().chain(V1_LATER_NAMES);
        names.find(|(_, id)| *id == &*self.0).map(|(name, _)| *name)
    }

    /// The family, such as `eip155`.
    pub fn namespace(&self) -> &str {
        self.0.split_once(':').map_or("", |(namespace, _)| namespace)
    }

    /// The network within its family.
    pub fn reference(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, reference)| reference)
    }

    /// The chain id of an EVM network.
    pub fn evm_chain_id(&self) -> Option<u64> {
        (self.namespace() == "eip155").then(|| self.reference().parse().ok()).flatten()
    }

    /// The CAIP-2 id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetworkId {
    type Err = NetworkIdError;

    fn from_str(text: &str) -> Result<Self, NetworkIdError> {
        Self::parse_any(text)
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for NetworkId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for NetworkId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_any(&text).map_err(serde::de::Error::custom)
    }
}

/// The text is no network id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a network; write a CAIP-2 id such as eip155:8453")]
pub struct NetworkIdError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names() {
        let base = NetworkId::parse("eip155:8453").unwrap();
        assert_eq!((base.evm_chain_id(), base.v1_name()), (Some(8453), Some("base")));
        assert_eq!(NetworkId::from_v1_name("base"), Some(base));
        assert_eq!(NetworkId::parse_any("base-sepolia").unwrap().as_str(), "eip155:84532");
        for bad in [
            "",
            "base",
            "eip155",
            "eip155:",
            "eip155:0",
            "eip155:0x1",
            "eip155:01",
            "EIP155:1",
            "eip155:-1",
            "ei:1",
            "eip155:1:2",
            "eip155: 1",
            "solana:ü",
        ] {
            assert!(NetworkId::parse(bad).is_err(), "{bad:?} was read as a network");
        }
        assert_eq!(V1_NAMES.len(), 17);
        for (_, id) in V1_NAMES.iter().chain(V1_LATER_NAMES) {
            NetworkId::parse(id).unwrap();
        }
    }
}
