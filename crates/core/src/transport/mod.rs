//! How messages travel. The only place that knows a header name.

pub mod forward;
pub mod http;
