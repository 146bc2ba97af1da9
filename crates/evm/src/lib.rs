//! EVM networks: schemes `exact` (by EIP-3009, Permit2 and ERC-7710) and `upto`, for all three roles.
//!
//! Cut by scheme, then by role: [`exact::client`] and [`upto::client`] sign, [`exact::server`] and
//! [`upto::server`] sell, and [`network::EvmNetwork`] verifies and settles. Around them: the
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

pub mod account;
pub mod address;
pub mod assets;
pub mod audit;
pub mod contracts;
pub mod exact;
mod fees;
mod fields;
#[cfg(feature = "keystore")]
pub mod keystore;
mod mandate;
pub mod network;
mod offering;
mod payer;
mod permit2;
pub mod pool;
mod read;
pub mod rpc;
pub mod signature;
mod sponsor;
pub mod typed_data;
pub mod upto;

pub use account::SessionClient;
pub use assets::{Asset, AssetTable, Peg, TransferMethod};
pub use exact::client::ExactClient;
pub use exact::server::ExactServer;
pub use network::guard::{Guard, Rate, Stale};
pub use network::tier::{Certainty, Tier};
pub use network::{EvmNetwork, Settings, Sponsoring};
pub use pool::Nodes;
pub use rpc::{NodeState, Rpc, RpcEnd, RpcWatch};
pub use upto::client::UptoClient;
pub use upto::server::UptoServer;
