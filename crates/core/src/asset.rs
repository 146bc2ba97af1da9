//! Assets: what an amount is an amount of.

use std::fmt;

use crate::NetworkId;

/// One asset on one network. Budgets and books are kept per asset, never across assets.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AssetId {
    /// The network the asset lives on.
    pub network: NetworkId,
    /// The canonical address in its network family's own spelling; lower case for EVM.
    pub address: String,
}

impl AssetId {
    /// The asset at `address`; the hexadecimal spelling of EVM addresses is made canonical.
    pub fn new(network: NetworkId, address: &str) -> Self {
        let address = canonical_address(address);
        Self { network, address }
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

/// What people and signatures need to know about an asset, from our own table or configuration,
/// never from a 402.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssetInfo {
    /// Which asset.
    pub id: AssetId,
    /// The address as it is written on the wire.
    pub address: String,
    /// Short name for people, such as `USDC`.
    pub symbol: String,
    /// Decimal places between atomic and whole units.
    pub decimals: u8,
    /// The `name` of the token's EIP-712 domain, where it has one.
    pub domain_name: String,
    /// The `version` of the token's EIP-712 domain, where it has one.
    pub domain_version: String,
}

/// Lower case for `0x…` addresses, unchanged for families whose addresses are case-sensitive.
pub fn canonical_address(address: &str) -> String {
    if address.starts_with("0x") || address.starts_with("0X") {
        address.to_ascii_lowercase()
    } else {
        address.to_owned()
    }
}

/// Whether two spellings mean one address.
pub fn same_address(one: &str, other: &str) -> bool {
    one == other || (one.starts_with("0x") && one.eq_ignore_ascii_case(other))
}
