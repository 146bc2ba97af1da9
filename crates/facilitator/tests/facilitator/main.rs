//! The engine and its API against a scripted chain and the real SQLite journal.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(unreachable_pub)] // modules of one test program

#[path = "../../../devchain/tests/account/mod.rs"]
mod account;
mod api;
mod bed;
mod chain;
mod crash;
mod errands;
mod evm;
mod faults;
mod flaky;
mod metered;
mod settle;
mod strikes;
