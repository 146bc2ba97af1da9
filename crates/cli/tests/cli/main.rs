//! The real binary, as its users start it: demo, exit codes, errors for programs, and what it logs.
#![allow(clippy::unwrap_used)] // tests

mod account;
mod again;
mod broken;
mod canary;
mod commands;
mod operate;
mod process;
