//! pay402 store.
