//! What is special to stores in files: who may open what, several processes, crashes, lost power,
//! and what remains of the bytes that were wiped. The ports' own rules are in `conformance.rs`.

#![allow(clippy::unwrap_used)] // this is all test code

mod disk;
mod file;
mod forgotten;
mod history;
mod power_cut;
mod processes;
mod samples;
#[cfg(feature = "seed")]
mod seeded;
mod watched;
mod wiped;
