//! Which hosts are this machine.

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
}
