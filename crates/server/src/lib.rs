//! pay402 server.
