//! One purchase and what makes two requests the same one.

use http::Method;
use pay402_core::Digest;
use pay402_core::spend::Intent;
use url::Url;

use crate::origin::{describe, origin_of};

/// What is bought: one request. The same request again is the same purchase as long as its payment
/// is open; after it is settled, the same request buys again.
#[derive(Clone, Debug)]
pub struct Purchase {
    method: Method,
    url: Url,
    body: Digest,
    id: Option<String>,
}

impl Purchase {
    /// The purchase that a request makes.
    pub fn new(method: Method, mut url: Url, body: &[u8]) -> Self {
        // A fragment is never sent.
        url.set_fragment(None);
        Self { method, url, body: Digest::of(&[body]), id: None }
    }

    /// Sets apart, or holds together, by an id of the caller's: equal requests with different ids
    /// are different purchases.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The URL that is asked.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// The intent of this purchase when `payer` makes it.
    pub fn intent(&self, payer: &str) -> Intent {
        let (marker, id): (&[u8], &[u8]) = match &self.id {
            Some(id) => (b"id", id.as_bytes()),
            None => (b"", b""),
        };
        let id = Digest::of(&[
            b"pay402 intent 1",
            payer.as_bytes(),
            self.method.as_str().as_bytes(),
            self.url.as_str().as_bytes(),
            &self.body.0,
            marker,
            id,
        ]);
        Intent { id, origin: origin_of(&self.url), resource: describe(&self.url) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purchase_is_the_whole_request() {
        let url = |text| Url::parse(text).unwrap();
        let base = Purchase::new(Method::GET, url("https://a.example/x?y=1"), b"");
        let id = |purchase: &Purchase| purchase.intent("0xpayer").id;
        let same = Purchase::new(Method::GET, url("https://A.example:443/x?y=1#z"), b"");
        assert_eq!(id(&base), id(&same));
        let others = [
            Purchase::new(Method::POST, url("https://a.example/x?y=1"), b""),
            Purchase::new(Method::GET, url("https://a.example/x?y=2"), b""),
            Purchase::new(Method::GET, url("https://a.example/x?y=1"), b"b"),
            base.clone().with_id(""),
            base.clone().with_id("1"),
        ];
        for other in &others {
            assert_ne!(id(&base), id(other), "{other:?}");
        }
        assert_ne!(id(&base), base.intent("0xother").id);
        assert_eq!(base.intent("0xpayer").resource, "https://a.example/x");
    }
}
