//! The crate against captures of the official SDKs and against the embedded chain.
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

mod account;
mod accounts;
mod adoption;
#[allow(dead_code, reason = "tests of the contract itself use the rest")]
#[path = "../../../devchain/tests/agent_account/signed.rs"]
mod agent;
mod approval;
mod client;
mod delegation;
mod faults;
mod first_payment;
mod form;
mod glance;
mod mutations;
mod permit;
mod pool;
mod rpc;
mod server;
mod settle;
mod start;
mod support;
mod vectors;
mod verify;
mod wallets;
