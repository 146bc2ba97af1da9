//! pay402 facilitator.
