//! Who may call: everybody on this machine, or whoever holds an API key.
//!
//! Keys are kept as SHA-256 hashes and compared in constant time. They are random and long, so a
//! plain hash is enough.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use pay402_core::error::Misconfigured;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::answer::TurnedAway;
use super::limits::Limits;

/// Headers that browsers and proxies add, and programs on this machine do not.
const NOT_FROM_HERE: [&str; 4] = ["origin", "forwarded", "x-forwarded-for", "x-real-ip"];

/// The SHA-256 of an API key.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct KeyHash([u8; 32]);

/// A text that is not a key's hash.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeyHashError {
    /// It has another form.
    #[error("not the SHA-256 of a key; write 64 hexadecimal digits")]
    Form,
    /// It is what a shell hashes when the variable with the key is not set.
    #[error("the SHA-256 of nothing; was the key empty when it was hashed?")]
    OfNothing,
}

impl KeyHash {
    /// The hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// Everything else, and the hash of the empty text.
    pub fn parse(text: &str) -> Result<Self, KeyHashError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(KeyHashError::Form);
        }
        let mut hash = [0_u8; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (high, low) = digit(pair[0]).zip(digit(pair[1])).ok_or(KeyHashError::Form)?;
            *byte = high << 4 | low;
        }
        let hash = Self(hash);
        if hash == Self::of("") { Err(KeyHashError::OfNothing) } else { Ok(hash) }
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(..)")
    }
}

/// A caller by the name that the configuration gives it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Named {
    /// The hash of its key.
    pub key: KeyHash,
    /// What it is called: its payments are known by that name, whichever key it has later.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// What it may have settled, and how often it may ask.
    pub limits: Limits,
}

/// What the holder of a key is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Role {
    /// It settles, and sees what it entered.
    #[default]
    Caller,
    /// It sees everybody's settlements.
    Operator,
}

/// Who reads what happens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reader {
    /// Whoever operates the facilitator.
    Operator,
    /// The caller of this name.
    Caller(String),
    /// Somebody with a key and without a name.
    Nameless,
}

/// Who may verify and settle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Access {
    /// Everybody. For loopback only: whoever can settle spends the signers' gas.
    Open,
    /// Holders of one of these keys, sent as `Authorization: Bearer …`.
    Keys(Vec<KeyHash>),
}

impl Access {
    /// Refuses open access on an address that others can reach.
    ///
    /// # Errors
    /// Names the setting `api_keys`, also when the list of keys is empty.
    pub fn check_listen(&self, listen: SocketAddr) -> Result<(), Misconfigured> {
        match self {
            Self::Open if !listen.ip().is_loopback() => {
                let problem = format!(
                    "without API keys everybody who reaches {listen} can spend the signers' gas; \
                     add the SHA-256 of a key, or listen on 127.0.0.1"
                );
                Err(Misconfigured::new("api_keys", problem))
            }
            Self::Keys(keys) if keys.is_empty() => {
                Err(Misconfigured::new("api_keys", "is empty, so nobody could call; add one"))
            }
            Self::Open | Self::Keys(_) => Ok(()),
        }
    }

    /// As [`Access::admit`], of a request to read, which has no body.
    pub(super) fn admit_reading(&self, headers: &HeaderMap) -> Result<Option<KeyHash>, TurnedAway> {
        let Self::Keys(keys) = self else {
            comes_directly(headers)?;
            return by_local_name(headers).map(|()| None);
        };
        known(keys, headers).map(Some)
    }

    /// The hash of `key`, if it is known.
    pub(super) fn find(&self, key: &str) -> Option<KeyHash> {
        let Self::Keys(keys) = self else { return None };
        if key.is_empty() { None } else { among(keys, KeyHash::of(key)) }
    }

    /// The key a request came with; `None` where none is needed.
    ///
    /// Open access is for programs on this machine. A page in its browser can also send here, and
    /// a proxy can bring anybody: both show in the headers.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<Option<KeyHash>, TurnedAway> {
        let Self::Keys(keys) = self else { return from_here(headers).map(|()| None) };
        known(keys, headers).map(Some)
    }
}

/// The key that the request came with, if it is one of `keys`.
fn known(keys: &[KeyHash], headers: &HeaderMap) -> Result<KeyHash, TurnedAway> {
    let presented = bearer(headers).map(KeyHash::of).ok_or(TurnedAway::Unauthorized)?;
    among(keys, presented).ok_or(TurnedAway::Unauthorized)
}

fn among(keys: &[KeyHash], presented: KeyHash) -> Option<KeyHash> {
    // Every key is looked at, so that the time says nothing about which one matched.
    let known = keys.iter().fold(Choice::from(0), |known, key| known | key.0.ct_eq(&presented.0));
    bool::from(known).then_some(presented)
}

/// Whether a request names this machine as its host.
pub(super) fn is_by_local_name(headers: &HeaderMap) -> bool {
    headers.contains_key(HOST) && by_local_name(headers).is_ok()
}

fn comes_directly(headers: &HeaderMap) -> Result<(), TurnedAway> {
    match NOT_FROM_HERE.into_iter().find(|name| headers.contains_key(*name)) {
        Some(name) => Err(TurnedAway::NotFromHere(name)),
        None => Ok(()),
    }
}

/// Refuses a request for another host than this machine: a page whose name was made to lead here
/// may read what it asks for, and sends no `Origin` with it.
fn by_local_name(headers: &HeaderMap) -> Result<(), TurnedAway> {
    // Browsers always send it.
    let Some(host) = headers.get(HOST) else { return Ok(()) };
    let name = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    let local = name.is_some_and(|authority| {
        let name = authority.host();
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    });
    if local { Ok(()) } else { Err(TurnedAway::NotByName) }
}

/// Refuses what a web page or a proxy sends.
fn from_here(headers: &HeaderMap) -> Result<(), TurnedAway> {
    comes_directly(headers)?;
    // What a page may send without asking first is never of this type.
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    let json = media_type.trim().eq_ignore_ascii_case("application/json");
    if json { Ok(()) } else { Err(TurnedAway::NotJson) }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (kind, key) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = key.trim();
    (kind.eq_ignore_ascii_case("bearer") && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_access_stays_on_this_machine() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for loopback in ["127.0.0.1:4020", "127.3.2.1:1", "[::1]:4020"] {
            assert_eq!(Access::Open.check_listen(at(loopback)), Ok(()));
        }
        for reachable in ["0.0.0.0:4020", "10.0.0.1:80", "[::]:4020", "[2001:db8::1]:1"] {
            let error = Access::Open.check_listen(at(reachable)).unwrap_err();
            assert_eq!(error.key, "api_keys");
            let keys = Access::Keys(vec![KeyHash::of("a")]);
            assert_eq!(keys.check_listen(at(reachable)), Ok(()));
        }
        assert!(Access::Keys(vec![]).check_listen(at("127.0.0.1:1")).is_err());
    }

    #[test]
    fn hashes_are_read_strictly() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::parse(abc), Ok(KeyHash::of("abc")));
        assert_eq!(KeyHash::parse(&abc.to_uppercase()), Ok(KeyHash::of("abc")));
        for bad in ["", "abc", &abc[1..], &abc.replace('b', "g"), &format!("{abc}0")] {
            assert_eq!(KeyHash::parse(bad), Err(KeyHashError::Form), "{bad:?}");
        }
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(KeyHash::parse(nothing), Err(KeyHashError::OfNothing));
    }

    #[test]
    fn only_a_known_key_gets_in() {
        let access = Access::Keys(vec![KeyHash::of("first"), KeyHash::of("second")]);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            access.admit(&headers)
        };
        assert_eq!(with("Bearer second").unwrap(), Some(KeyHash::of("second")));
        assert_eq!(with("bearer first").unwrap(), Some(KeyHash::of("first")));
        for bad in ["Bearer third", "Bearer", "Bearer ", "Basic first", "first", "Bearer firs"] {
            assert!(matches!(with(bad), Err(TurnedAway::Unauthorized)), "{bad}");
        }
        assert!(access.admit(&HeaderMap::new()).is_err());
        // Not even where the hash of nothing came in by another way.
        let careless = Access::Keys(vec![KeyHash::of("")]);
        for nothing in ["Bearer ", "Bearer", "Bearer  "] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, nothing.parse().unwrap())]);
            assert!(careless.admit(&headers).is_err(), "{nothing:?}");
        }
    }

    #[test]
    fn open_access_is_neither_for_pages_nor_behind_proxies() {
        let with = |more: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in more {
                headers.insert(*name, value.parse().unwrap());
            }
            Access::Open.admit(&headers)
        };
        for json in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(with(&[("content-type", json)]).unwrap(), None);
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            let told = with(&[("content-type", other)]);
            assert!(matches!(told, Err(TurnedAway::NotJson)), "{other}");
        }
        assert!(matches!(with(&[]), Err(TurnedAway::NotJson)));
        for name in ["origin", "forwarded", "x-forwarded-for", "x-real-ip"] {
            let told = with(&[("content-type", "application/json"), (name, "null")]);
            assert!(matches!(told, Err(TurnedAway::NotFromHere(told)) if told == name), "{name}");
        }
    }

    #[test]
    fn what_is_for_this_machine_is_asked_for_by_its_own_name() {
        let with = |access: &Access, name: &'static str, value: &str| {
            access.admit_reading(&HeaderMap::from_iter([(
                name.parse().unwrap(),
                value.parse().unwrap(),
            )]))
        };
        for local in ["127.0.0.1:4020", "127.9.9.9", "localhost:1", "LOCALHOST", "[::1]:4020"] {
            assert_eq!(with(&Access::Open, "host", local).unwrap(), None, "{local}");
        }
        for elsewhere in
            ["page.example", "10.0.0.1", "localhost.example", "127.0.0.1.nip.io", "[2001:db8::1]"]
        {
            let told = with(&Access::Open, "host", elsewhere);
            assert!(matches!(told, Err(TurnedAway::NotByName)), "{elsewhere}");
        }
        let told = with(&Access::Open, "x-forwarded-for", "127.0.0.1");
        assert!(matches!(told, Err(TurnedAway::NotFromHere(_))));
        // Behind keys the place does not matter, and being here is not enough.
        let keys = Access::Keys(vec![KeyHash::of("key")]);
        assert!(with(&keys, "authorization", "Bearer key").is_ok());
        for (name, value) in [("host", "127.0.0.1"), ("authorization", "Bearer other")] {
            assert!(matches!(with(&keys, name, value), Err(TurnedAway::Unauthorized)), "{name}");
        }
    }
}
