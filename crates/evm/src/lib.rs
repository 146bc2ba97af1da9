//! EVM networks: scheme `exact` with EIP-3009, for all three roles.
//!
//! Cut by scheme, then by role: [`exact::client`] signs, [`exact::server`] sells,
//! [`exact::facilitator`] verifies, and [`network::EvmNetwork`] settles. Around them: the
//! [asset table](assets), [typed data](typed_data), [signatures](signature) and the road to a node
//! ([`rpc`]).
//!
//! **Invariants:** decimals and EIP-712 domains come from our own table; a signature over money is
//! made only from a `Clearance`; "settled" is proven by logs.
//!
//! ```
//! use alloy::signers::local::PrivateKeySigner;
//! use pay402_core::NetworkId;
//! use pay402_core::scheme::{ClientScheme, ServerScheme, Tariff};
//! use pay402_evm::assets::AssetTable;
//! use pay402_evm::exact::{client::ExactClient, server::ExactServer};
//!
//! let server = ExactServer::new(AssetTable::defaults());
//! let offer = server.requirements(
//!     &NetworkId::parse("eip155:84532")?,
//!     &Tariff::Usd("$0.01".parse()?),
//!     "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
//!     60,
//! )?;
//! let client = ExactClient::new(PrivateKeySigner::random(), AssetTable::defaults());
//! let quote = client.quote(&offer)?;
//! assert_eq!((quote.amount.to_string().as_str(), quote.symbol.as_str()), ("10000", "USDC"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod address;
pub mod assets;
pub mod contracts;
pub mod exact;
#[cfg(feature = "keystore")]
pub mod keystore;
pub mod network;
pub mod rpc;
pub mod signature;
pub mod typed_data;

pub use assets::{Asset, AssetTable, Peg, TransferMethod};
pub use exact::client::ExactClient;
pub use exact::server::ExactServer;
pub use network::{EvmNetwork, Settings};
pub use rpc::Rpc;
