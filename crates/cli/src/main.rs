//! The pay402 binary.
fn main() {}
