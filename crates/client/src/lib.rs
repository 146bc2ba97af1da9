//! pay402 client.
