//! pay402 benches.
