//! The asset table: which tokens we know, and what we know of them.
//!
//! Addresses, decimals and EIP-712 domains are facts of the deployed tokens, the same ones that
//! the official SDKs list as their default assets. Operators and owners add to the table or narrow
//! it. **Invariant:** decimals and domains come from here and never from a 402.

use alloy::primitives::{Address, B256};
use pay402_core::NetworkId;
use pay402_core::asset::{AssetId, AssetInfo};

use crate::address::{AddressError, canonical, parse_address};
use crate::typed_data::token_domain;

/// How a token takes a signed payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransferMethod {
    /// `transferWithAuthorization` of EIP-3009.
    Eip3009,
    /// Through the Permit2 contract: any ERC-20 token, given an allowance.
    Permit2,
    /// By a delegation of the payer's account (ERC-7710): any ERC-20 token.
    Erc7710,
}

impl TransferMethod {
    /// The name on the wire, in `extra.assetTransferMethod`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eip3009 => "eip3009",
            Self::Permit2 => "permit2",
            Self::Erc7710 => "erc7710",
        }
    }

    /// The method with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Eip3009, Self::Permit2, Self::Erc7710].into_iter().find(|m| m.name() == name)
    }
}

/// What one unit of a token stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peg {
    /// One US dollar, by our own judgement; dollar prices can be paid in it.
    Dollar,
    /// Anything else.
    Other,
}

/// One token of the table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asset {
    /// What people and signatures need to know.
    pub info: AssetInfo,
    /// How it takes a payment.
    pub method: TransferMethod,
    /// What a unit stands for.
    pub peg: Peg,
    /// Whether several payments of it may go in one transaction: a token by EIP-3009 whose transfers do
    /// not depend on who sends them, and log the use of the nonce and then the transfer.
    pub packs: bool,
    /// The separator of its EIP-712 domain.
    separator: B256,
}

impl Asset {
    /// A token with EIP-3009 whose EIP-712 domain is `name`, `version`.
    ///
    /// # Errors
    /// When `address` is no address.
    pub fn eip3009(
        network: &NetworkId,
        address: &str,
        symbol: &str,
        decimals: u8,
        (name, version): (&str, &str),
        peg: Peg,
    ) -> Result<Self, AddressError> {
        let address = parse_address(address)?;
        let info = AssetInfo {
            id: AssetId::new(network.clone(), &canonical(&address)),
            address: address.to_checksum(None),
            symbol: symbol.to_owned(),
            decimals,
            domain_name: name.to_owned(),
            domain_version: version.to_owned(),
        };
        let chain_id = network.evm_chain_id().unwrap_or_default();
        let separator = token_domain(&info, chain_id, address).separator();
        Ok(Self { info, method: Eip3009, peg, packs: false, separator })
    }

    /// A token of which only its ERC-20 side is known: paid through Permit2.
    ///
    /// # Errors
    /// When `address` is no address.
    pub fn erc20(
        network: &NetworkId,
        address: &str,
        symbol: &str,
        decimals: u8,
        peg: Peg,
    ) -> Result<Self, AddressError> {
        let asset = Self::eip3009(network, address, symbol, decimals, ("", ""), peg)?;
        Ok(Self { method: Permit2, ..asset })
    }

    /// The same token, paid by `method` unless requirements name another.
    #[must_use]
    pub fn by(self, method: TransferMethod) -> Self {
        Self { method, ..self }
    }

    /// The same token, of which several payments may go in one transaction.
    #[must_use]
    pub fn packing(self) -> Self {
        Self { packs: true, ..self }
    }

    /// Whether the token's EIP-712 domain is known.
    pub fn has_domain(&self) -> bool {
        !self.info.domain_name.is_empty() && !self.info.domain_version.is_empty()
    }

    /// Whether one unit is one dollar.
    pub fn is_dollar(&self) -> bool {
        self.peg == Peg::Dollar
    }

    /// The separator of its EIP-712 domain.
    pub(crate) const fn separator(&self) -> B256 {
        self.separator
    }

    /// Where the token is.
    pub fn token(&self) -> Address {
        parse_address(&self.info.address).expect("checked when the asset was made")
    }
}

/// Known tokens, at most one per address and network; the first of a network is its default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AssetTable(Vec<Asset>);

impl AssetTable {
    /// A table without any token.
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// The default assets of 26 networks.
    pub fn defaults() -> Self {
        let assets = DEFAULTS.iter().map(|row| {
            let network = NetworkId::eip155(row.chain_id);
            let domain = (row.name, row.version);
            let peg = Peg::Dollar;
            let asset =
                Asset::eip3009(&network, row.address, row.symbol, row.decimals, domain, peg);
            let asset = asset.expect("the table's addresses are checked by a test");
            Asset { method: row.method, packs: row.method == Eip3009, ..asset }
        });
        Self(assets.collect())
    }

    /// The same table with `asset`; it replaces what the table said of that address.
    #[must_use]
    pub fn with(mut self, asset: Asset) -> Self {
        match self.0.iter_mut().find(|known| known.info.id == asset.info.id) {
            Some(known) => *known = asset,
            None => self.0.push(asset),
        }
        self
    }

    /// Only the tokens that `keep` keeps.
    #[must_use]
    pub fn only(mut self, keep: impl FnMut(&Asset) -> bool) -> Self {
        self.0.retain(keep);
        self
    }

    /// What is known of an asset.
    pub fn find(&self, id: &AssetId) -> Option<&Asset> {
        self.0.iter().find(|asset| asset.info.id == *id)
    }

    /// The token that dollar prices are paid in on a network.
    pub fn default_dollar(&self, network: &NetworkId) -> Option<&Asset> {
        self.0.iter().find(|asset| asset.info.id.network == *network && asset.is_dollar())
    }

    /// Every token, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Asset> {
        self.0.iter()
    }
}

struct Row {
    chain_id: u64,
    address: &'static str,
    symbol: &'static str,
    decimals: u8,
    name: &'static str,
    version: &'static str,
    method: TransferMethod,
}

const fn row(
    chain_id: u64,
    address: &'static str,
    symbol: &'static str,
    decimals: u8,
    (name, version): (&'static str, &'static str),
    method: TransferMethod,
) -> Row {
    Row { chain_id, address, symbol, decimals, name, version, method }
}

use TransferMethod::{Eip3009, Permit2};

const USD_COIN: (&str, &str) = ("USD Coin", "2");
const USDC_2: (&str, &str) = ("USDC", "2");

/// All of them are dollars.
#[rustfmt::skip]
const DEFAULTS: &[Row] = &[
    row(8_453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USDC", 6, USD_COIN, Eip3009),
    row(84_532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", 6, USDC_2, Eip3009),
    row(1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USDC", 6, USD_COIN, Eip3009),
    row(43_114, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USDC", 6, USD_COIN, Eip3009),
    row(4_326, "0xFAfDdbb3FC7688494971a79cc65DCa3EF82079E7", "MegaUSD", 18, ("MegaUSD", "1"), Permit2),
    row(143, "0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC", 6, USDC_2, Eip3009),
    row(988, "0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", 6, ("USDT0", "1"), Eip3009),
    row(2_201, "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", 6, ("USDT0", "1"), Eip3009),
    row(137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USDC", 6, USD_COIN, Eip3009),
    row(42_161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USDC", 6, USD_COIN, Eip3009),
    row(421_614, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USDC", 6, USD_COIN, Eip3009),
    row(31_612, "0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186", "mUSD", 18, ("Mezo USD", "1"), Permit2),
    row(31_611, "0x118917a40FAF1CD7a13dB0Ef56C86De7973Ac503", "mUSD", 18, ("Mezo USD", "1"), Permit2),
    row(723_487, "0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "SBC", 6, ("Stable Coin", "1"), Permit2),
    row(72_344, "0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "SBC", 6, ("Stable Coin", "1"), Permit2),
    row(36_900, "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", 6, ("USDC.e", "2"), Eip3009),
    row(190_415, "0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", 6, ("Bridged USDC", "2"), Eip3009),
    row(181_228, "0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", 6, ("Bridged USDC", "2"), Eip3009),
    row(50, "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC", 6, USDC_2, Eip3009),
    row(51, "0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC", 6, USDC_2, Eip3009),
    row(38_833, "0xA5b8BF902b2844dA17d4506cc827F7F1681735E7", "USDC", 6, ("USDC", "1"), Permit2),
    row(14, "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USDT0", 6, ("USD₮0", "1"), Eip3009),
    row(42_220, "0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC", 6, USDC_2, Eip3009),
    row(42_220, "0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "USDT", 6, ("Tether USD", "1"), Eip3009),
    row(42_220, "0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "USAT", 6, ("Tether America USD", "1"), Eip3009),
    row(11_142_220, "0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC", 6, USDC_2, Eip3009),
    row(1_329, "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC", 6, USDC_2, Eip3009),
    row(1_328, "0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC", 6, USDC_2, Eip3009),
];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn official() -> Value {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../core/tests/vectors/default-assets.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn the_table_is_that_of_the_official_sdks() {
        let official = official();
        let mut expected = Vec::new();
        for (network, assets) in official.as_object().unwrap() {
            for asset in assets.as_array().unwrap() {
                let text = |key: &str| asset[key].as_str().unwrap().to_owned();
                let method = match asset.get("assetTransferMethod").and_then(Value::as_str) {
                    None => Eip3009,
                    Some("permit2") => Permit2,
                    Some(other) => panic!("{other}"),
                };
                let decimals = u8::try_from(asset["decimals"].as_u64().unwrap()).unwrap();
                let domain = (text("name"), text("version"));
                expected.push((
                    network.clone(),
                    text("asset"),
                    text("symbol"),
                    decimals,
                    domain,
                    method,
                ));
            }
        }
        let ours: Vec<_> = AssetTable::defaults()
            .iter()
            .map(|Asset { info, method, .. }| {
                let domain = (info.domain_name.clone(), info.domain_version.clone());
                let network = info.id.network.to_string();
                let (address, symbol) = (info.address.clone(), info.symbol.clone());
                (network, address, symbol, info.decimals, domain, *method)
            })
            .collect();
        assert_eq!(ours, expected);
        let networks = official.as_object().unwrap().len();
        assert_eq!(networks, 26);
    }

    #[test]
    fn tables_grow_and_narrow() {
        let base_sepolia = NetworkId::eip155(84532);
        let table = AssetTable::defaults();
        let usdc = table.default_dollar(&base_sepolia).unwrap().clone();
        assert_eq!((usdc.info.symbol.as_str(), usdc.info.decimals), ("USDC", 6));
        assert_eq!(table.find(&usdc.info.id), Some(&usdc));

        let mega = table.default_dollar(&NetworkId::eip155(4326)).unwrap();
        assert_eq!((mega.method, mega.info.decimals), (Permit2, 18));

        let other = Asset::eip3009(
            &base_sepolia,
            &usdc.info.address.to_lowercase(),
            "OTHER",
            2,
            ("Other", "1"),
            Peg::Other,
        )
        .unwrap();
        let replaced = table.clone().with(other.clone());
        assert_eq!(replaced.find(&usdc.info.id), Some(&other));
        assert_eq!(replaced.iter().count(), table.iter().count());
        assert!(replaced.default_dollar(&base_sepolia).is_none());
        let narrowed = table.only(|asset| asset.info.id.network == base_sepolia);
        assert_eq!(narrowed.iter().count(), 1);
    }
}
