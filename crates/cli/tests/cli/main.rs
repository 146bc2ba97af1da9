//! The real binary, as its users start it: demo, exit codes, errors for programs, and what it logs.
#![allow(clippy::unwrap_used)] // tests

mod account;
mod again;
mod broken;
mod canary;
#[cfg(unix)]
#[allow(dead_code, unreachable_pub, reason = "other tests and benches use the rest")]
#[path = "../../../store/tests/postgres/cluster.rs"]
mod cluster;
mod commands;
mod operate;
#[cfg(unix)]
mod otlp;
#[cfg(unix)]
mod postgres;
mod process;
#[cfg(unix)]
mod reconcile;
