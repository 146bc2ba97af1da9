//! pay402 evm.

#[cfg(feature = "keystore")]
pub mod keystore;
