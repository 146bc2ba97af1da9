//! What is sold.

use serde_json::{Map, Value};

/// The resource a payment buys, as the resource server describes it (spec v2, `ResourceInfo`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ResourceInfo {
    /// The URL of the resource.
    pub url: String,
    /// One sentence for people.
    pub description: Option<String>,
    /// The media type of the paid response.
    pub mime_type: Option<String>,
    /// Fields this version does not know, kept for the echo.
    pub other: Map<String, Value>,
}

impl ResourceInfo {
    /// A resource at `url` with nothing else said about it.
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }
}
