//! Where a resource is: the URL that is sold, and the request that a payment is bound to.
//!
//! **Invariant:** the URL comes from configuration. Only where the operator allowed it, for
//! development, does it come from the `Host` header, and then only for loopback names.

use http::uri::Authority;
use http::{HeaderMap, Method, Uri, header};
use pay402_core::error::{Malformed, Misconfigured};
use pay402_core::host::is_loopback;
use pay402_core::{Digest, Requirements};
use url::Url;

/// Longest path and query that can be sold, in bytes. The URL is part of the 402's header, which
/// proxies cut off at about 8 KB.
pub const PATH_BYTES_MAX: usize = 2048;

/// The parts of a request that the gate looks at.
#[derive(Clone, Copy)]
pub struct RequestMeta<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI, of which path and query count.
    pub uri: &'a Uri,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestMeta<'a> {
    /// The parts of `parts`.
    pub const fn of(parts: &'a http::request::Parts) -> Self {
        Self { method: &parts.method, uri: &parts.uri, headers: &parts.headers }
    }

    /// Path and query as they were asked for, byte for byte.
    pub(crate) fn path(&self) -> &'a str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// A browser's question whether it may ask (Fetch standard, CORS-preflight request). It never
    /// carries a payment.
    pub(crate) fn is_preflight(&self) -> bool {
        self.method == Method::OPTIONS
            && self.headers.contains_key(header::ORIGIN)
            && self.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }
}

/// Where the origin of resource URLs comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Base {
    /// Configuration; without a trailing slash.
    Public(String),
    /// The `Host` header, for loopback names only.
    LoopbackHost,
}

/// Where one request goes: the URL that is sold, and the request that a payment is bound to.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) url: String,
    method: Method,
    path: String,
}

impl Place {
    pub(crate) fn new(request: &RequestMeta<'_>, origin: &str, mounted_at: &str) -> Self {
        let path = format!("{mounted_at}{}", request.path());
        Self { url: format!("{origin}{path}"), method: request.method.clone(), path }
    }

    /// Method, path and query byte for byte, and the terms. A different spelling is a different
    /// request, which fails closed.
    pub(crate) fn fingerprint(&self, terms: &Requirements) -> Digest {
        Digest::of(&[
            b"pay402 request v1",
            self.method.as_str().as_bytes(),
            self.path.as_bytes(),
            terms.scheme.as_str().as_bytes(),
            terms.network.as_str().as_bytes(),
            terms.amount.to_string().as_bytes(),
            terms.asset.as_bytes(),
            terms.pay_to.as_bytes(),
            &terms.max_timeout_seconds.to_be_bytes(),
        ])
    }
}

impl Base {
    /// Whether the path alone decides the URL.
    pub(crate) const fn is_fixed(&self) -> bool {
        matches!(self, Self::Public(_))
    }

    pub(crate) fn public(text: &str) -> Result<Self, Misconfigured> {
        let wrong = |problem: &str| Misconfigured::new("public_url", format!("{text:?} {problem}"));
        let url = Url::parse(text)
            .map_err(|_| wrong("is no URL; write one such as https://api.example.com"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(wrong("must begin with https:// or http:// and name a host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Misconfigured::new("public_url", "must not carry credentials"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must end with the path, without ? or #"));
        }
        Ok(Self::Public(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// Scheme, host and base path for one request.
    pub(crate) fn origin(&self, request: &RequestMeta<'_>) -> Result<String, Malformed> {
        match self {
            Self::Public(base) => Ok(base.clone()),
            Self::LoopbackHost => {
                let host = request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
                let host = host.or_else(|| request.uri.authority().map(Authority::as_str));
                let problem = "must be a loopback name; on any other, configure public_url";
                host.filter(|host| is_loopback_name(host))
                    .map(|host| format!("http://{host}"))
                    .ok_or_else(|| Malformed::new("Host", problem))
            }
        }
    }
}

fn is_loopback_name(authority: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{authority}/")) else { return false };
    let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
    plain && url.query().is_none() && url.fragment().is_none() && is_loopback(&url)
}

/// Whether `claimed`, the URL a client says it pays for, has the path of `ours`. Origin and query
/// may differ: proxies rewrite the one, and terms that a client remembers keep an older other.
pub(crate) fn names_same_path(claimed: &str, ours: &str) -> bool {
    match (Url::parse(claimed), Url::parse(ours)) {
        (Ok(claimed), Ok(ours)) => claimed.path() == ours.path(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_as_host() {
        for good in ["localhost", "localhost:4021", "127.0.0.1:80", "127.9.9.9", "[::1]:4021"] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "127.0.0.1@example.com",
            "user@127.0.0.1",
            "127.0.0.1/x",
            "127.0.0.1?x",
            "127.0.0.1#x",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
        ] {
            assert!(!is_loopback_name(bad), "{bad} passed");
        }
    }

    #[test]
    fn a_public_url_is_an_origin_with_a_path() {
        let base = |text| Base::public(text).map_err(|error| error.key);
        assert_eq!(base("https://a.example/"), Ok(Base::Public("https://a.example".into())));
        assert_eq!(base("https://a.example/b/"), Ok(Base::Public("https://a.example/b".into())));
        for bad in ["", "a.example", "ftp://a", "https://u:p@a", "https://a/?q", "https://a/#f"] {
            assert_eq!(base(bad), Err("public_url".into()), "{bad}");
        }
    }

    #[test]
    fn the_claimed_path_counts() {
        let ours = "https://a.example/weather/berlin?unit=c";
        assert!(names_same_path("http://127.0.0.1/weather/berlin", ours));
        for other in ["", "weather/berlin", "https://a.example/weather", "mcp://tool/weather"] {
            assert!(!names_same_path(other, ours), "{other}");
        }
    }
}
