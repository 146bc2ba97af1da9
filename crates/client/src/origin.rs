//! Origins: where a request goes, and whether what a server says of itself is about that place.

use pay402_core::host::is_loopback;
use url::Url;

/// The origin of a URL as text: `https://api.example.com`, without default port, path, query or
/// credentials.
pub(crate) fn origin_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// A URL for people: origin and path. Query and credentials may be secrets.
pub(crate) fn describe(url: &Url) -> String {
    format!("{}{}", origin_of(url), url.path())
}

/// Whether both have one origin: scheme, host and port.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin().is_tuple() && one.origin() == other.origin()
}

/// Whether `claimed`, the resource a server names in its offer, belongs to the origin that was
/// asked. A relative or absent name does.
///
/// Two spellings pass although they are different origins to a browser, because the payment goes
/// to `requested` all the same: servers behind a TLS-terminating proxy name `http` with the default
/// port, and this machine has several names.
pub(crate) fn names_requested(requested: &Url, claimed: &str) -> bool {
    let Ok(claimed) = requested.join(claimed) else { return false };
    if same_origin(requested, &claimed) {
        return true;
    }
    let web = |url: &Url| matches!(url.scheme(), "http" | "https");
    let default_port = |url: &Url| url.port().is_none();
    let same_port = requested.port_or_known_default() == claimed.port_or_known_default()
        || (default_port(requested) && default_port(&claimed));
    let same_host =
        requested.host() == claimed.host() || (is_loopback(requested) && is_loopback(&claimed));
    web(requested) && web(&claimed) && same_port && same_host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_compared_by_canonical_origin() {
        let cases = [
            ("https://api.example.com/a?x=1", "https://api.example.com/b", true),
            ("https://api.example.com/a", "https://API.example.com:443/a", true),
            ("https://api.example.com/a", "http://api.example.com/a", true),
            ("https://api.example.com/a", "/a", true),
            ("https://api.example.com/a", "", true),
            ("http://127.0.0.1:4021/a", "http://localhost:4021/a", true),
            ("http://127.0.0.1:4021/a", "http://localhost:4022/a", false),
            ("https://api.example.com/a", "https://evil.example/a", false),
            ("https://api.example.com/a", "https://api.example.com.evil.example/a", false),
            ("https://api.example.com/a", "https://api.example.com@evil.example/a", false),
            ("https://api.example.com/a", "//evil.example/a", false),
            ("https://api.example.com/a", "https://api.example.com:8443/a", false),
            ("https://api.example.com/a", "http://api.example.com:8080/a", false),
            ("https://api.example.com/a", "mcp://tool/weather", false),
            ("https://api.example.com/a", "https://[", false),
        ];
        for (requested, claimed, expected) in cases {
            let requested = Url::parse(requested).unwrap();
            assert_eq!(names_requested(&requested, claimed), expected, "{requested} / {claimed}");
        }
    }

    #[test]
    fn descriptions_hold_no_secret() {
        let url = Url::parse("https://user:pass@api.example.com/a?key=secret#part").unwrap();
        assert_eq!(describe(&url), "https://api.example.com/a");
    }
}
