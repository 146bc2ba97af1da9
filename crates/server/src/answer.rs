//! A whole HTTP response in memory: what the gate answers with, and what it holds back until the
//! money has moved.

use std::fmt;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;

/// A response that is complete: status, headers and every byte of the body.
#[derive(Clone, Eq, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// JSON that no cache may keep.
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Self { status, headers, body: body.to_string().into() }
    }

    /// A problem that is neither the payer's nor the payment's, as JSON.
    pub(crate) fn problem(status: StatusCode, code: &str, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error": code, "message": message }))
    }

    /// The same answer, saying when to come back.
    pub(crate) fn retry_after_s(mut self, seconds: u64) -> Self {
        self.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        self
    }
}

// Headers and body may be what somebody paid for.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}
