//! The way of a call to another process that leads: one request, bounded in time and size.
//!
//! The caller's own credentials travel along, so that the leader judges the caller itself; nothing
//! else of the request does but its body. Where to comes from the journal alone, which is trusted with
//! that as with everything else in it.

use std::sync::OnceLock;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use pay402_core::error::Misconfigured;
use pay402_core::transport::forward::{NotLeading, read_not_leading, write_forwarded};
use reqwest::Url;
use tokio::sync::Semaphore;

use super::IDEMPOTENCY_KEY;
use super::answer::raw_answer;
use super::settlements::SETTLEMENT_ID;
use crate::post::Post;

/// Longest wait for a connection to the leader.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How much longer than the call may take its answer is waited for.
const GRACE: Duration = Duration::from_secs(2);
/// How long an answer may still take once another process leads.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Largest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Calls that are forwarded at a time; above, they are turned away.
const FORWARDS_MAX: usize = 4_096;

/// What of a request the leader is sent, beside the time that is left.
const PASSED_ON: [HeaderName; 2] = [AUTHORIZATION, CONTENT_TYPE];
/// What of an answer the caller is sent, beside its status and body.
const PASSED_BACK: [HeaderName; 2] = [RETRY_AFTER, WWW_AUTHENTICATE];

/// What became of a call that was forwarded.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// The leader's answer.
    Answered(Response),
    /// Nothing was entered: it was not reached, or does not lead.
    Untouched,
    /// Nobody knows.
    Lost,
}

/// A request as it came, for sending it on.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) path: &'static str,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Forwards calls. Makes its client when the first one is.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: OnceLock<Option<reqwest::Client>>,
    places: Semaphore,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self { client: OnceLock::new(), places: Semaphore::new(FORWARDS_MAX) }
    }
}

impl Forwarder {
    /// Sends `request` to the leader at `url`, and waits for its answer as long as `left` and a little
    /// longer, or until another one leads.
    pub(super) async fn send(
        &self,
        post: &Post,
        url: &str,
        request: &Incoming,
        left: Duration,
    ) -> Forwarded {
        let Ok(_place) = self.places.try_acquire() else { return Forwarded::Untouched };
        let target = base(url).ok().and_then(|base| base.join(request.path).ok());
        let (Some(client), Some(target)) = (self.client(), target) else {
            tracing::error!(network = %post.idle.id, "the leader has no address that calls can go to");
            return Forwarded::Untouched;
        };
        let mut headers = HeaderMap::new();
        for name in PASSED_ON.iter().chain([&IDEMPOTENCY_KEY]) {
            if let Some(value) = request.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        write_forwarded(&mut headers, left);
        let sending = client.post(target).headers(headers).body(request.body.clone());
        let sending = exchange(sending.timeout(left + GRACE));
        tokio::pin!(sending);
        tokio::select! {
            biased;
            answer = &mut sending => answer,
            () = post.changed() => {
                let last = tokio::time::timeout(LAST_WORDS, sending).await;
                last.unwrap_or(Forwarded::Lost)
            }
        }
    }

    fn client(&self) -> Option<&reqwest::Client> {
        let made = self.client.get_or_init(|| {
            let made = reqwest::Client::builder()
                .connect_timeout(CONNECT_MAX)
                // A call goes to whom the journal names, and nowhere else.
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                // Whether it is sent again is decided where it is known what that means.
                .retry(reqwest::retry::never())
                .build();
            made.inspect_err(|error| tracing::error!(%error, "no HTTP client can be made")).ok()
        });
        made.as_ref()
    }
}

async fn exchange(request: reqwest::RequestBuilder) -> Forwarded {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            let untouched = error.is_connect() || error.is_builder();
            let error = error.without_url();
            tracing::warn!(%error, untouched, "a call was not forwarded, or not answered");
            return if untouched { Forwarded::Untouched } else { Forwarded::Lost };
        }
    };
    match read_not_leading(response.headers()) {
        Some(NotLeading::Untouched) => return Forwarded::Untouched,
        Some(NotLeading::Unknown) => return Forwarded::Lost,
        None => {}
    }
    let status = response.status();
    // Not the leader's words, but those of something on the way that may have asked it.
    if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
        return Forwarded::Lost;
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => break,
            Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) | Err(_) => return Forwarded::Lost,
        }
    }
    let mut answer = raw_answer(status, body);
    for name in PASSED_BACK.iter().chain([&SETTLEMENT_ID]) {
        if let Some(value) = response.headers().get(name) {
            answer.headers_mut().insert(name, HeaderValue::clone(value));
        }
    }
    Forwarded::Answered(answer)
}

/// The address of a facilitator below which its paths lie.
fn base(url: &str) -> Result<Url, &'static str> {
    let mut base =
        Url::parse(url).map_err(|_| "is no URL; write one such as http://10.0.0.5:4020")?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return Err("must be a URL with http:// or https:// and a host");
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err("must hold no user and no password: callers bring their own keys");
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err("must end with its host, its port or a path");
    }
    let path = format!("{}/", base.path().trim_end_matches('/'));
    base.set_path(&path);
    Ok(base)
}

/// Refuses what is no address that others could forward calls to.
///
/// # Errors
/// `advertise`, and what is wrong with it.
pub(crate) fn check_advertised(url: &str) -> Result<(), Misconfigured> {
    base(url).map(drop).map_err(|problem| Misconfigured::new("advertise", problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_facilitators_and_hold_no_secret() {
        for (good, expected) in [
            ("http://10.0.0.5:4020", "http://10.0.0.5:4020/settle"),
            ("https://pay.example/x402/", "https://pay.example/x402/settle"),
            ("http://[::1]:4020/", "http://[::1]:4020/settle"),
        ] {
            assert_eq!(base(good).unwrap().join("settle").unwrap().as_str(), expected);
        }
        for bad in [
            "10.0.0.5:4020",
            "file:///etc/passwd",
            "unix:/run/x",
            "http://",
            "http://me:hunter2@10.0.0.5",
            "http://10.0.0.5/?to=x",
            "http://10.0.0.5/#x",
        ] {
            let error = check_advertised(bad).unwrap_err();
            assert_eq!(error.key, "advertise");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
