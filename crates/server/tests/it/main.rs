//! The gate and its layer against a scripted scheme and facilitator: no chain, no network.

#![allow(clippy::unwrap_used)] // The lint knows test functions, but not the stage they play on.

mod admit;
mod layer;
mod metered;
mod remote;
mod replay;
mod settle;
mod stage;
mod start;

mod memory {
    pay402_core::grants_conformance!(pay402_server::MemoryGrants::default);
}
