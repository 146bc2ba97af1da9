//! Answers as JSON, and what a caller may read in an error.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pay402_core::error::Malformed;
use pay402_core::transport::http::malformed_response;
use pay402_core::wire::MESSAGE_BYTES_MAX;
use serde_json::{Value, json};

use crate::metrics::Count;

/// What `Retry-After` says, in seconds.
const RETRY_AFTER_S: u16 = 1;

/// `value` as the body of an answer that no cache keeps.
pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response {
    raw_answer(status, value.to_string())
}

/// JSON that somebody else wrote, as such an answer.
pub(super) fn raw_answer(status: StatusCode, json: impl Into<Body>) -> Response {
    let mut answer = Response::new(json.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// 503: nothing is known; ask again.
pub(super) fn retry_later(value: &Value) -> Response {
    let mut answer = json_answer(StatusCode::SERVICE_UNAVAILABLE, value);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    answer
}

/// Why a request does not reach the engine.
#[derive(Debug)]
pub(super) enum TurnedAway {
    /// A field is wrong: 400.
    Malformed(Malformed),
    /// The body is above the limit: 413.
    TooLarge,
    /// The body did not arrive in time: 408.
    TooSlow,
    /// No known API key: 401.
    Unauthorized,
    /// Open access, and this header says that it comes through a browser or a proxy: 403.
    NotFromHere(&'static str),
    /// Open access, and the body is not declared as JSON: 415.
    NotJson,
    /// Open access, and what is asked for is for this machine, by another name: 403.
    NotByName,
    /// Open access, and what is asked for is told only to holders of a key: 403.
    Nobody,
    /// The key has no name, so nothing was entered by it: 403.
    Nameless,
    /// The caller asks more often than it may, and may again after so long: 429.
    TooManyCalls(Duration),
    /// There are as many streams as there may be: 503.
    TooManyStreams,
    /// Some of the events after the one that was named are deleted; all are there after this one: 410.
    Forgotten(u64),
    /// The engine is still starting: 503.
    Starting,
}

/// How many requests did not reach the engine, by reason.
#[derive(Debug, Default)]
pub(super) struct Turned([Count; TurnedAway::LABELS.len()]);

impl Turned {
    pub(super) fn add(&self, why: &TurnedAway) {
        if let Some(place) = TurnedAway::LABELS.iter().position(|label| *label == why.label()) {
            self.0[place].add(1);
        }
    }

    /// Every reason and how often it was told.
    pub(super) fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TurnedAway::LABELS.into_iter().zip(self.0.iter().map(Count::read))
    }
}

impl TurnedAway {
    /// What `error` says in the answers.
    const LABELS: [&'static str; 10] = [
        "malformed",
        "too_large",
        "timeout",
        "unauthorized",
        "forbidden",
        "unsupported_media_type",
        "too_many_calls",
        "too_many_streams",
        "gone",
        "starting",
    ];

    const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLarge => "too_large",
            Self::TooSlow => "timeout",
            Self::Unauthorized => "unauthorized",
            Self::NotFromHere(_) | Self::NotByName | Self::Nobody | Self::Nameless => "forbidden",
            Self::TooManyCalls(_) => "too_many_calls",
            Self::TooManyStreams => "too_many_streams",
            Self::Forgotten(_) => "gone",
            Self::NotJson => "unsupported_media_type",
            Self::Starting => "starting",
        }
    }
}

impl From<Malformed> for TurnedAway {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl IntoResponse for TurnedAway {
    fn into_response(self) -> Response {
        let error = self.label();
        let answer = |status, message: &str| {
            json_answer(status, &json!({"error": error, "message": message}))
        };
        match self {
            Self::Malformed(malformed) => {
                let (status, body) = malformed_response(&malformed);
                json_answer(status, &body)
            }
            Self::TooLarge => {
                let message = format!("the body is above {MESSAGE_BYTES_MAX} bytes");
                answer(StatusCode::PAYLOAD_TOO_LARGE, &message)
            }
            Self::TooSlow => answer(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"),
            Self::NotFromHere(header) => {
                let message = format!(
                    "without API keys only programs on this machine may call, and a request with \
                     {header} comes through a browser or a proxy; configure a [[caller]]"
                );
                answer(StatusCode::FORBIDDEN, &message)
            }
            Self::NotByName => {
                let message = "without API keys this is told on this machine only; ask 127.0.0.1 \
                               or localhost, or configure a [[caller]]";
                answer(StatusCode::FORBIDDEN, message)
            }
            Self::Nobody => {
                let message = "where a settlement stands is told only to the API key that it was \
                               entered with, and there are none here; configure a [[caller]]";
                answer(StatusCode::FORBIDDEN, message)
            }
            Self::Nameless => {
                let message = "events are told by the name of a [[caller]], and this key has none";
                answer(StatusCode::FORBIDDEN, message)
            }
            Self::TooManyCalls(wait) => {
                let seconds = wait.as_secs().saturating_add(1);
                let message =
                    format!("this key has used up its calls_per_minute; ask again in {seconds} s");
                let mut answer = answer(StatusCode::TOO_MANY_REQUESTS, &message);
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                answer
            }
            Self::TooManyStreams => {
                let message = "there are as many streams of events as there may be; end one";
                retry_later(&json!({"error": error, "message": message}))
            }
            Self::Forgotten(last) => {
                let message = format!(
                    "some events up to {last} are deleted, as long as they were retained; begin after \
                     {last}, or anew without Last-Event-ID"
                );
                let gone = json!({"error": error, "message": message, "after": last});
                json_answer(StatusCode::GONE, &gone)
            }
            Self::Starting => {
                let message = "the facilitator checks its networks and takes its leases; ask again";
                retry_later(&json!({"error": error, "message": message}))
            }
            Self::NotJson => {
                let message = "send the body with content-type: application/json";
                answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
            }
            Self::Unauthorized => {
                let message = "send a known API key as Authorization: Bearer";
                let mut answer = answer(StatusCode::UNAUTHORIZED, message);
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                answer
            }
        }
    }
}

/// What callers read when something is unavailable: which part, not what it said.
pub(super) mod unavailable {
    use pay402_core::error::Unavailable;
    use pay402_core::{Refusal, Refused};

    /// Verification could not be answered.
    pub(in crate::api) fn verify(error: &Unavailable) -> Refused {
        Refused::new(Refusal::UnexpectedVerifyError, message(error))
    }

    /// Settlement was not begun.
    pub(in crate::api) fn settle(error: &Unavailable) -> Refused {
        Refused::new(Refusal::UnexpectedSettleError, message(error))
    }

    fn message(error: &Unavailable) -> String {
        format!("{} is unavailable; present the same payment again later", error.what)
    }
}
