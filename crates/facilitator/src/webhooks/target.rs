//! Where webhooks may go. Their URLs come from a configuration, and their names from DNS, which may
//! answer with the address of something inside: a database, or the cloud's metadata service.
//!
//! **Invariant:** no connection is made to an address that was not looked at: names are resolved
//! here, the client connects to what was found good, and follows no redirect and no proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Which targets are allowed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Targets {
    /// Public ones, by HTTPS.
    #[default]
    Public,
    /// This machine's and those of private networks too, and plain HTTP.
    DangerousPrivate,
}

impl Targets {
    /// Whether webhooks may be sent to `url`, as far as it says by itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(self, url: &Url) -> Result<(), String> {
        let scheme = url.scheme();
        match self {
            Self::Public if scheme != "https" => {
                return Err("must begin with https://".to_owned());
            }
            Self::DangerousPrivate if !["http", "https"].contains(&scheme) => {
                return Err("must begin with https:// or http://".to_owned());
            }
            _ => {}
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must hold no user and password".to_owned());
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::from(address),
            Some(Host::Ipv6(address)) => IpAddr::from(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err("must name a host".to_owned()),
        };
        if self.allows(address) {
            Ok(())
        } else {
            Err(format!("{address} is not a public address"))
        }
    }

    /// Whether a connection to `address` may be made.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        let address = embedded(address);
        match self {
            Self::Public => is_public(address),
            Self::DangerousPrivate => !is_never(address),
        }
    }
}

/// Names are looked up, and refused when any of their addresses is.
pub(super) struct Guard(pub(super) Targets);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let targets = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.collect();
            if found.is_empty() || found.iter().any(|at| !targets.allows(at.ip())) {
                return Err("its name leads to an address that is not public".into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The address that an address stands for: those of IPv4 are written in several forms of IPv6.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::from(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        // NAT64, and addresses that are only compatible.
        (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0, 0, 0, 0, 0, 0) if g != 0 => v4(g, h),
        // 6to4.
        (0x2002, ..) => v4(b, c),
        _ => address,
    }
}

/// Never a receiver of webhooks: metadata services and what is not one host.
fn is_never(address: IpAddr) -> bool {
    /// The metadata service of AWS by IPv6.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified() || v6 == METADATA
        }
    }
}

fn is_public(address: IpAddr) -> bool {
    if is_never(address) {
        return false;
    }
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            // Private, this machine, shared by carriers, documentation, benchmarks, reserved.
            [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => false,
            [192, 0, 0 | 2, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => false,
            [192, 88, 99, _] | [240..=255, ..] => false,
            _ => true,
        },
        IpAddr::V6(v6) => match v6.segments() {
            // Only what is given out to be routed, without documentation, Teredo and the like.
            [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
            [0x2000..=0x3fff, ..] => true,
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(targets: Targets, url: &str) -> bool {
        targets.check(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn only_public_addresses_by_https_unless_it_is_said() {
        for good in ["https://shop.example/hook", "https://8.8.8.8/", "https://[2606:4700::1]/"] {
            assert!(check(Targets::Public, good), "{good}");
        }
        for inside in [
            "https://127.0.0.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://[::1]/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://172.31.9.9/",
            "https://192.168.1.1/",
            "https://100.64.0.1/",
            "https://[fd12::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[2002:a00:1::]/",
            "https://198.18.0.1/",
            "http://shop.example/hook",
        ] {
            assert!(!check(Targets::Public, inside), "{inside}");
            let allowed = !inside.contains("no");
            assert_eq!(check(Targets::DangerousPrivate, inside), allowed, "{inside}");
        }
        for never in [
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[::ffff:169.254.169.254]/",
            "https://0.0.0.0/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::]/",
            "ftp://8.8.8.8/",
            "https://user:pass@shop.example/",
            "https://[64:ff9b::a9fe:a9fe]/",
        ] {
            assert!(!check(Targets::Public, never), "{never}");
            assert!(!check(Targets::DangerousPrivate, never), "{never}");
        }
        for documentation in
            ["https://203.0.113.9/", "https://[2001:db8::1]/", "https://[2001::1]/"]
        {
            assert!(!check(Targets::Public, documentation), "{documentation}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_where_they_lead() {
        let resolve = |targets| Guard(targets).resolve("localhost".parse().unwrap());
        assert!(resolve(Targets::Public).await.is_err());
        let found: Vec<_> = resolve(Targets::DangerousPrivate).await.unwrap().collect();
        assert!(found.iter().all(|at| at.ip().is_loopback()), "{found:?}");
    }
}
