//! pay402 evm.
