//! pay402 e2e.
