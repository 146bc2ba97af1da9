//! The code of README.md, compiled as a doc test so that it cannot rot. The benches are the binary.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
