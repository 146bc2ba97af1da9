//! Which hosts are this machine, and which tell its secrets.

use url::{Host, Url};

/// Whether the host of `url` is this machine, so that what is sent there stays on it.
///
/// `localhost` and the loopback addresses, and nothing else: names below `localhost` are asked of
/// DNS on some systems, which may answer with any address.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether the host of `url` is one where clouds tell machines their secrets: link-local addresses
/// (169.254.169.254 among them), the same in IPv6, and the names that lead there.
pub fn is_metadata(url: &Url) -> bool {
    const IPV6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "metadata" || name == "metadata.google.internal"
        }
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => {
            let mapped = address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_link_local());
            mapped || address.is_unicast_link_local() || address == IPV6
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_few_names() {
        for near in [
            "http://localhost",
            "https://LOCALHOST:1",
            "http://127.0.0.1",
            "http://127.9.9.9:1/a",
            "http://0x7f000001",
            "http://[::1]:4021",
        ] {
            assert!(is_loopback(&Url::parse(near).unwrap()), "{near}");
        }
        for far in [
            "http://example.com",
            "http://localhost.example.com",
            "http://shop.localhost",
            "http://localhost.",
            "http://127.0.0.1.example.com",
            "http://127.0.0.1@example.com",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://[::2]",
            "http://[::ffff:10.0.0.1]",
            "data:localhost",
        ] {
            assert!(!is_loopback(&Url::parse(far).unwrap()), "{far}");
        }
    }

    #[test]
    fn where_clouds_tell_secrets_is_known_however_it_is_written() {
        for secret in [
            "http://169.254.169.254/latest/meta-data",
            "http://0xa9fea9fe",
            "http://2852039166/",
            "http://169.254.170.2",
            "http://[::ffff:169.254.169.254]",
            "http://[fe80::1]",
            "http://[fd00:ec2::254]:80",
            "http://METADATA.google.internal",
            "http://metadata.google.internal.",
        ] {
            assert!(is_metadata(&Url::parse(secret).unwrap()), "{secret}");
        }
        for other in
            ["http://127.0.0.1", "http://10.0.0.1", "https://metadata.example", "http://[::1]"]
        {
            assert!(!is_metadata(&Url::parse(other).unwrap()), "{other}");
        }
    }
}
