//! One binary for every end-to-end test: linking is the dear part.
#![allow(clippy::unwrap_used)] // tests

mod account;
mod crash;
mod errands;
mod hostile;
mod malformed;
mod matrix;
mod metered;
mod once;
mod process;
mod purchase;
