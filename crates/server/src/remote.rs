//! A facilitator behind HTTP (spec v2 §7).
//!
//! **Invariant:** once a settlement may have reached the facilitator, every failure is
//! [`Settled::Pending`]; only a strictly read answer is an outcome. A verification that is not
//! answered in full grants nothing.

use std::time::Duration;

use async_trait::async_trait;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::facilitator::{Facilitator, Settled, Settlement, Supported, Verdict};
use pay402_core::host::is_loopback;
use pay402_core::wire::{
    Endpoint, decode_settled, decode_supported, decode_verdict, encode_facilitator_request,
};
use pay402_core::{Digest, Payment, Refused};
use url::Url;

/// Longest wait for a connection, in seconds.
pub const CONNECT_WAIT_S: u64 = 5;
/// Longest wait for `GET /supported`, in seconds.
pub const SUPPORTED_WAIT_S: u64 = 10;
/// Longest wait for `POST /verify`, retries included, in seconds.
pub const VERIFY_WAIT_S: u64 = 30;
/// Longest wait for `POST /settle`, in seconds. Official facilitators wait up to 90 s for a
/// receipt.
pub const SETTLE_WAIT_S: u64 = 90;
/// Largest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest reason that is passed on, in characters: it goes out in headers.
pub const REASON_CHARS_MAX: usize = 256;
/// Longest transaction or account that is believed to be one, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// How often a request that was turned away with 429 is sent, the first time included.
const TRIES: u32 = 3;
/// Longest `Retry-After` that is waited for, in seconds.
const RETRY_AFTER_S_MAX: u64 = 5;

/// Why no secret goes there.
const READABLE: &str = "is not encrypted, so anybody on the way could read the API key; use \
                        https://, or send no key";

/// A facilitator at a URL.
pub struct RemoteFacilitator {
    client: reqwest::Client,
    base: Url,
    /// For errors: scheme, host and port only; a path or query may carry a key.
    name: String,
    headers: HeaderMap,
    /// The name under which settlements are asked for again.
    claims: Option<String>,
}

// The URL may carry credentials, and so may the headers.
impl std::fmt::Debug for RemoteFacilitator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteFacilitator").field(&self.name).finish()
    }
}

/// Why a call has no answer.
enum NoAnswer {
    /// Nothing reached the facilitator.
    NotSent(Unavailable),
    /// It may have.
    MaybeSent(Unavailable),
}

impl NoAnswer {
    fn into_inner(self) -> Unavailable {
        match self {
            Self::NotSent(error) | Self::MaybeSent(error) => error,
        }
    }
}

struct Reply {
    status: StatusCode,
    retry_after_s: Option<u64>,
    body: Vec<u8>,
}

impl RemoteFacilitator {
    /// The facilitator at `url`, below which `/verify`, `/settle` and `/supported` lie.
    ///
    /// # Errors
    /// `facilitator` when the URL cannot be one.
    pub fn new(url: &str) -> Result<Self, Misconfigured> {
        // The text is not repeated: it may carry credentials.
        let wrong = |problem: &str| Misconfigured::new("facilitator", problem);
        let mut base = Url::parse(url)
            .map_err(|_| wrong("is no URL; write one such as https://facilitator.example.com"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(wrong("must be a URL with https:// (or http://) and a host"));
        }
        if base.fragment().is_some() {
            return Err(wrong("must not have a fragment"));
        }
        let has_credentials = !base.username().is_empty() || base.password().is_some();
        if has_credentials && is_open(&base) {
            return Err(wrong(READABLE));
        }
        let path = format!("{}/", base.path().trim_end_matches('/'));
        base.set_path(&path);
        let host = base.host().map(|host| host.to_string()).unwrap_or_default();
        let port = base.port().map(|port| format!(":{port}")).unwrap_or_default();
        let name = format!("facilitator {}://{host}{port}", base.scheme());
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(CONNECT_WAIT_S))
            // A payment goes to whom it was configured for, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            // What may have been sent is not sent again behind our back.
            .retry(reqwest::retry::never());
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|error| wrong(&format!("no HTTP client can be made: {}", plain(error))))?;
        Ok(Self { client, base, name, headers: HeaderMap::new(), claims: None })
    }

    /// Sends `name: value` with every request, an API key for example. It is never printed.
    ///
    /// # Errors
    /// `facilitator.headers` when name or value cannot be a header; `facilitator` when the header
    /// would go unencrypted to another machine.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Misconfigured> {
        let key = "facilitator.headers";
        if is_open(&self.base) {
            return Err(Misconfigured::new("facilitator", READABLE));
        }
        let name = HeaderName::try_from(name)
            .map_err(|_| Misconfigured::new(key, format!("{name:?} is no header name")))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            Misconfigured::new(key, format!("the value of {name} has characters no header may"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Sends an `Idempotency-Key` with every settlement, made of the payment and `claims`, the name
    /// of the store that this server keeps its claims in. A facilitator that knows this server by
    /// an API key may then repeat a success whose answer was lost on the way.
    ///
    /// Servers that share one store of claims give the same name. Servers that do not **must** give
    /// different ones: each would be told of the same success and deliver for it.
    #[must_use]
    pub fn idempotent_for(mut self, claims: impl Into<String>) -> Self {
        self.claims = Some(claims.into());
        self
    }

    /// Stable for one payment, and says nothing about it to who reads logs.
    fn idempotency_key(&self, payment: &Payment) -> Option<HeaderValue> {
        use std::fmt::Write as _;
        let claims = self.claims.as_ref()?;
        let payload = serde_json::to_vec(&payment.presented().payload).ok()?;
        let Digest(bytes) = Digest::of(&[b"pay402 settle v1", claims.as_bytes(), &payload]);
        let text = bytes.iter().fold(String::new(), |mut text, byte| {
            _ = write!(text, "{byte:02x}");
            text
        });
        HeaderValue::try_from(text).ok()
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        wait_s: u64,
    ) -> Result<Reply, NoAnswer> {
        self.send(method, path, body, wait_s, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        wait_s: u64,
        idempotency_key: Option<HeaderValue>,
    ) -> Result<Reply, NoAnswer> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        let mut request = self
            .client
            .request(method, url)
            .timeout(Duration::from_secs(wait_s))
            .headers(self.headers.clone());
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|error| {
            let never_left = error.is_connect() || error.is_builder();
            let error = self.unavailable(plain(error));
            if never_left { NoAnswer::NotSent(error) } else { NoAnswer::MaybeSent(error) }
        })?;
        let status = response.status();
        let retry_after_s = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(Reply { status, retry_after_s, body }),
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    let problem = format!("its answer is larger than {ANSWER_BYTES_MAX} bytes");
                    return Err(NoAnswer::MaybeSent(self.unavailable(problem)));
                }
                Err(error) => return Err(NoAnswer::MaybeSent(self.unavailable(plain(error)))),
            }
        }
    }

    /// A call that changes nothing and may therefore be repeated when it is turned away.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        wait_s: u64,
    ) -> Result<Reply, Unavailable> {
        let asking = async {
            let mut tries = 1;
            loop {
                let reply = self.call(method.clone(), path, body.clone(), wait_s).await;
                let reply = reply.map_err(NoAnswer::into_inner)?;
                if reply.status != StatusCode::TOO_MANY_REQUESTS || tries == TRIES {
                    return Ok(reply);
                }
                tries += 1;
                let pause = reply.retry_after_s.unwrap_or(1).min(RETRY_AFTER_S_MAX);
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
        };
        let longest = Duration::from_secs(wait_s);
        let late = |_| Err(self.unavailable(format!("no answer within {wait_s} s")));
        tokio::time::timeout(longest, asking).await.unwrap_or_else(late)
    }

    fn unavailable(&self, problem: impl Into<String>) -> Unavailable {
        Unavailable::new(self.name.clone(), problem)
    }

    fn bad_status(&self, path: &str, status: StatusCode) -> Unavailable {
        let hint = match status.as_u16() {
            300..=399 => "; redirects are not followed, configure the final URL",
            401 | 403 => "; is the API key right?",
            _ => "",
        };
        self.unavailable(format!("/{path} answered {}{hint}", status.as_u16()))
    }
}

#[async_trait]
impl Facilitator for RemoteFacilitator {
    async fn supported(&self) -> Result<Supported, Unavailable> {
        let reply = self.ask(Method::GET, "supported", None, SUPPORTED_WAIT_S).await?;
        if reply.status != StatusCode::OK {
            return Err(self.bad_status("supported", reply.status));
        }
        decode_supported(&reply.body)
            .map_err(|error| self.unavailable(format!("/supported cannot be read: {error}")))
    }

    async fn verify(&self, payment: &Payment) -> Result<Verdict, Unavailable> {
        let body = encode_facilitator_request(payment, Endpoint::Verify).to_string();
        let reply = self.ask(Method::POST, "verify", Some(body), VERIFY_WAIT_S).await?;
        match (reply.status, decode_verdict(&reply.body).map(fit_verdict)) {
            (StatusCode::OK, Ok(verdict)) => Ok(verdict),
            // Some facilitators put their refusal on a 400. A success on anything but 200 is none.
            (status, Ok(Verdict::Invalid(refused))) if status.is_client_error() => {
                Ok(Verdict::Invalid(refused))
            }
            (StatusCode::OK, Err(error)) => {
                Err(self.unavailable(format!("/verify cannot be read: {error}")))
            }
            (status, _) => Err(self.bad_status("verify", status)),
        }
    }

    async fn settle(&self, payment: &Payment) -> Result<Settled, Unavailable> {
        let body = encode_facilitator_request(payment, Endpoint::Settle).to_string();
        let key = self.idempotency_key(payment);
        let sent = self.send(Method::POST, "settle", Some(body), SETTLE_WAIT_S, key).await;
        let reply = match sent {
            Ok(reply) => reply,
            Err(NoAnswer::NotSent(error)) => return Err(error),
            Err(NoAnswer::MaybeSent(error)) => {
                tracing::warn!(%error, "settlement was not answered");
                return Ok(Settled::Pending { transaction: None });
            }
        };
        let status = reply.status;
        let settled = decode_settled(&reply.body, payment.terms()).map(fit_settled);
        match (status, settled) {
            (StatusCode::OK, Ok(settled)) => Ok(settled),
            (StatusCode::OK, Err(error)) => {
                tracing::warn!(%error, "the answer to settle cannot be read");
                Ok(Settled::Pending { transaction: None })
            }
            (_, Ok(Settled::Refused(refused))) if status.is_client_error() => {
                Ok(Settled::Refused(refused))
            }
            // What the payer may look up is kept, but none of these is an outcome.
            (_, Ok(Settled::Pending { transaction })) => Ok(Settled::Pending { transaction }),
            (_, Ok(Settled::Done(done))) => {
                Ok(Settled::Pending { transaction: Some(done.transaction) })
            }
            (_, Ok(Settled::Refused(refused))) => {
                Ok(Settled::Pending { transaction: refused.transaction })
            }
            // Turned away before it was looked at.
            (_, Err(_)) if matches!(status.as_u16(), 401 | 403 | 404 | 405 | 413 | 415 | 429) => {
                Err(self.bad_status("settle", status))
            }
            (_, Err(_)) => {
                let error = self.bad_status("settle", status);
                tracing::warn!(%error, "settlement was not answered");
                Ok(Settled::Pending { transaction: None })
            }
        }
    }
}

/// A facilitator's words, fit for strangers: bounded, and without URLs. Reasons are often the text
/// of an error of its node, whose URL carries a key.
fn fit(refused: Refused) -> Refused {
    let word = |word| if str::contains(word, "://") { "[url]" } else { word };
    let words: Vec<_> = refused.message.split_whitespace().map(word).collect();
    let words = words.join(" ");
    let message = words.chars().filter(|c| !c.is_control());
    Refused {
        message: message.take(REASON_CHARS_MAX).collect(),
        payer: name(refused.payer),
        transaction: name(refused.transaction),
        ..refused
    }
}

fn fit_verdict(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Invalid(refused) => Verdict::Invalid(fit(refused)),
        // The payment itself says who pays.
        Verdict::Valid { payer } => Verdict::Valid { payer: name(Some(payer)).unwrap_or_default() },
    }
}

fn fit_settled(settled: Settled) -> Settled {
    match settled {
        Settled::Refused(refused) => Settled::Refused(fit(refused)),
        // No hash is as long as that: not a success that can be recorded.
        Settled::Done(done) if done.transaction.len() > NAME_BYTES_MAX => {
            Settled::Pending { transaction: None }
        }
        Settled::Done(done) => Settled::Done(Settlement { payer: name(done.payer), ..done }),
        Settled::Pending { transaction } => Settled::Pending { transaction: name(transaction) },
    }
}

fn name(text: Option<String>) -> Option<String> {
    text.filter(|text| text.len() <= NAME_BYTES_MAX)
}

/// Whether anybody between here and there could read what is sent.
fn is_open(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

/// What went wrong, without the URL, which may carry a key.
fn plain(error: reqwest::Error) -> String {
    use std::error::Error as _;
    let timed_out = error.is_timeout();
    let error = error.without_url();
    let mut cause = error.source();
    let mut text = error.to_string();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    if timed_out { "no answer in time".to_owned() } else { text }
}
