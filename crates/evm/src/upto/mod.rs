//! Scheme `upto`: the payer signs a ceiling, the resource server charges at most that (spec
//! `schemes/upto/scheme_upto_evm.md`), by Permit2 and the upto proxy.
//!
//! The permit names the facilitator that alone may settle it, and so decides what is charged. A
//! charge of zero needs no transaction. The facilitator's side is [`crate::network`].

pub mod client;
pub mod server;
