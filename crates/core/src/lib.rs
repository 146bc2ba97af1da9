//! The nouns, the wire and the ports of pay402.
//!
//! Everything here is deterministic: no I/O, no clock, no randomness. Roles (`client`, `server`,
//! `facilitator`) and network families (`evm`) depend on this crate and not on one another.
//!
//! **Invariant:** only [`wire`] and [`transport`] branch on a protocol version; every other module,
//! here and elsewhere, sees one message shape, that of v2.

pub mod amount;
pub mod asset;
pub mod books;
pub mod error;
pub mod facilitator;
pub mod grants;
pub mod history;
pub mod host;
pub mod journal;
pub mod network;
pub mod network_id;
pub mod payment;
pub mod refusal;
pub mod resource;
pub mod scheme;
pub mod spend;
pub mod time;
pub mod transport;
pub mod wire;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use amount::{Amount, Price, U256};
pub use network_id::NetworkId;
pub use payment::{Digest, Payment, PaymentKey, Presented, Requirements, Scheme, WireVersion};
pub use refusal::{Refusal, Refused};
