//! One binary for every end-to-end test: linking is the dear part.
#![allow(clippy::unwrap_used)] // tests

mod crash;
mod hostile;
mod malformed;
mod metered;
mod matrix;
mod once;
mod purchase;
