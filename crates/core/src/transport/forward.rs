//! How facilitators that share a journal forward calls to the one that leads: the headers of ours
//! that only they read and write.
//!
//! **Invariant:** a call that carries [`read_forwarded`]'s header is never forwarded again. It gives
//! no right to anything: who calls is told by the caller's own credentials, which travel along.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::error::Malformed;

/// How long the call may take yet, in milliseconds.
static FORWARDED: HeaderName = HeaderName::from_static("pay402-forwarded");
/// The answer of one that does not lead.
static NOT_LEADING: HeaderName = HeaderName::from_static("pay402-not-leading");
const UNTOUCHED: HeaderValue = HeaderValue::from_static("untouched");
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// What one that does not lead knows of a call that was forwarded to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotLeading {
    /// Nothing was entered for it.
    Untouched,
    /// It led when the call arrived: something may have been entered.
    Unknown,
}

/// Marks a request as forwarded, with the time that is left for it, in whole milliseconds.
pub fn write_forwarded(headers: &mut HeaderMap, left: Duration) {
    let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    headers.insert(&FORWARDED, HeaderValue::from(ms));
}

/// The time that is left for a request that was forwarded; `None` for any other.
///
/// # Errors
/// When the header is there and holds no number of milliseconds.
pub fn read_forwarded(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let Some(value) = headers.get(&FORWARDED) else { return Ok(None) };
    let ms = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let ms = ms.and_then(|text| text.parse().ok());
    let wrong = || Malformed::new(FORWARDED.as_str(), "must be a number of milliseconds");
    ms.map(Duration::from_millis).ok_or_else(wrong).map(Some)
}

/// Marks an answer as that of one that does not lead.
pub fn write_not_leading(headers: &mut HeaderMap, known: NotLeading) {
    let value = match known {
        NotLeading::Untouched => UNTOUCHED,
        NotLeading::Unknown => UNKNOWN,
    };
    headers.insert(&NOT_LEADING, value);
}

/// Whether an answer is that of one that does not lead. Anything but the certainty that nothing was
/// entered is none.
pub fn read_not_leading(headers: &HeaderMap) -> Option<NotLeading> {
    let value = headers.get(&NOT_LEADING)?;
    Some(if value == UNTOUCHED { NotLeading::Untouched } else { NotLeading::Unknown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_comes_through_and_nothing_else_does() {
        let mut headers = HeaderMap::new();
        assert_eq!(read_forwarded(&headers), Ok(None));
        write_forwarded(&mut headers, Duration::from_micros(59_999_900));
        assert_eq!(read_forwarded(&headers), Ok(Some(Duration::from_millis(59_999))));
        for bad in ["", "-1", "+1", "1.5", "soon", "99999999999999999999"] {
            headers.insert(&FORWARDED, bad.parse().unwrap());
            assert!(read_forwarded(&headers).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_certainty_is_certain() {
        let mut headers = HeaderMap::new();
        assert_eq!(read_not_leading(&headers), None);
        for known in [NotLeading::Untouched, NotLeading::Unknown] {
            write_not_leading(&mut headers, known);
            assert_eq!(read_not_leading(&headers), Some(known));
        }
        headers.insert(&NOT_LEADING, "whatever".parse().unwrap());
        assert_eq!(read_not_leading(&headers), Some(NotLeading::Unknown));
    }
}
