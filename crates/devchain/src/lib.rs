//! pay402 devchain.
