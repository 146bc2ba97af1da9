//! The HTTP client that pays.
//!
//! A payment goes only to the origin that was asked: redirects are followed by hand, on the unpaid
//! leg, inside one origin. After a payment was sent, only the same bytes are sent again. What is on
//! this machine is asked directly, whatever proxy is set: plain HTTP is allowed there because nobody
//! is on the way.

mod body;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use http::{Method, StatusCode};
use pay402_core::error::Misconfigured;
use pay402_core::host::is_loopback;
use pay402_core::payment::PaymentRequired;
use pay402_core::transport::http::{read_payment_required, strip_payment};
use reqwest::{Request, Response};
use url::Url;

use crate::error::{PayError, PaymentStatus};
use crate::origin::{describe, origin_of, same_origin};
use crate::pay::{Answer, Ready, refusal};
use crate::receipt::{Preview, Receipt};
use crate::wallet::{Purchase, Wallet};
use body::peek;

/// Most redirects that are followed inside one origin.
pub const REDIRECTS_MAX: usize = 5;
/// Largest request body, in bytes: it is kept, to be sent again with the payment.
pub const REQUEST_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest wait for the head of an answer, unless set otherwise.
pub const ANSWER_WAIT: Duration = Duration::from_secs(60);

/// How often, and for how long, the same payment is presented again when its answer is lost or
/// says "not yet".
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryRules {
    /// Most presentations of one payment in one call, the first included; at least 1.
    pub presentations_max: u32,
    /// No new presentation later than this after the first.
    pub window: Duration,
    /// The pause before the second presentation; it doubles each time. A server's `Retry-After`
    /// lengthens a pause.
    pub first_pause: Duration,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            presentations_max: 5,
            window: Duration::from_secs(30),
            first_pause: Duration::from_millis(250),
        }
    }
}

/// A response, and what it cost.
#[derive(Debug)]
pub struct Paid {
    /// The response; its body has not been read. A status of 400 or more is the handler's answer.
    /// A payment that is booked buys once: if this body breaks off, the same request pays again.
    pub response: Response,
    /// What it cost.
    pub receipt: Receipt,
}

/// An HTTP client that pays when it is answered with 402. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PayingClient {
    http: reqwest::Client,
    /// For this machine: without any proxy.
    near: reqwest::Client,
    wallet: Wallet,
    retry: RetryRules,
    answer_wait: Duration,
}

impl PayingClient {
    /// A client with the default settings.
    ///
    /// # Errors
    /// As [`PayingClientBuilder::build`].
    pub fn new(wallet: Wallet) -> Result<Self, Misconfigured> {
        Self::builder(wallet).build()
    }

    /// A client that pays from `wallet`.
    pub fn builder(wallet: Wallet) -> PayingClientBuilder {
        PayingClientBuilder {
            http: reqwest::Client::builder(),
            near: reqwest::Client::builder(),
            wallet,
            retry: RetryRules::default(),
            answer_wait: ANSWER_WAIT,
        }
    }

    /// The wallet it pays from.
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// Sends a request, and pays for it when the server asks and the owner's rules allow.
    ///
    /// The same request is the same purchase as long as an earlier payment for it is open: that
    /// payment is then presented again.
    ///
    /// # Errors
    /// See [`PayError`]. A response that is not 402 is no error, whatever its status.
    pub async fn execute(&self, request: Request) -> Result<Paid, PayError> {
        self.run(Call::new(request, None)?).await
    }

    /// As [`PayingClient::execute`], for the purchase called `id`: equal requests with different
    /// ids are different purchases, paid separately.
    ///
    /// # Errors
    /// As [`PayingClient::execute`].
    pub async fn execute_as(&self, request: Request, id: &str) -> Result<Paid, PayError> {
        self.run(Call::new(request, Some(id))?).await
    }

    /// Asks what a request would cost. Sends it once, unpaid; signs and reserves nothing.
    ///
    /// # Errors
    /// See [`PayError`].
    pub async fn quote_only(&self, request: Request) -> Result<Preview, PayError> {
        let mut call = Call::new(request, None)?;
        match self.ask(&mut call).await? {
            Asked::Free(response) => Ok(Preview::Free { status: response.status().as_u16() }),
            Asked::Priced(required) => {
                let priced = self.wallet.preview(&call.purchase, &required).await?;
                Ok(Preview::Priced(Box::new(priced)))
            }
        }
    }

    async fn run(&self, mut call: Call) -> Result<Paid, PayError> {
        let required = match self.ask(&mut call).await? {
            Asked::Free(response) => return Ok(Paid { response, receipt: Receipt::free() }),
            Asked::Priced(required) => required,
        };
        let ready = self.wallet.prepare(&call.purchase, &required).await?;
        tracing::debug!(
            origin = %origin_of(&call.url),
            amount = %ready.reservation().quote.amount,
            resumed = ready.resumed(),
            "presenting a payment"
        );
        self.present(&call, &ready).await
    }

    /// The unpaid leg: follows redirects inside the origin, and reads the offer of a 402.
    async fn ask(&self, call: &mut Call) -> Result<Asked, PayError> {
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(call, &HeaderMap::new()).await.map_err(|lost| {
                PayError::Network { origin: origin_of(&call.url), problem: lost.problem }
            })?;
            let status = response.status();
            if status == StatusCode::PAYMENT_REQUIRED {
                let unreadable = |_| PayError::Network {
                    origin: origin_of(&call.url),
                    problem: "the connection broke while the payment request was read".into(),
                };
                let (body, response) = self.peek(response).await.map_err(unreadable)?;
                return match read_payment_required(response.headers(), &body) {
                    Ok(required) => Ok(Asked::Priced(Box::new(required))),
                    Err(error) => {
                        Err(PayError::MalformedOffer { origin: origin_of(&call.url), error })
                    }
                };
            }
            match redirect_target(&call.url, &response) {
                None => return Ok(Asked::Free(response)),
                Some(target) if same_origin(&call.url, &target) => call.redirect(status, target),
                Some(target) => {
                    let message = format!(
                        "{} redirects to another origin, {}; nothing was paid. Request that URL \
                         itself if you trust it",
                        describe(&call.url),
                        origin_of(&target),
                    );
                    return Err(refusal("redirect_origin", message));
                }
            }
        }
        Err(PayError::Network {
            origin: origin_of(&call.url),
            problem: format!("more than {REDIRECTS_MAX} redirects"),
        })
    }

    /// The paid leg: the same bytes, until there is an answer or the rules end it.
    async fn present(&self, call: &Call, ready: &Ready) -> Result<Paid, PayError> {
        let started = tokio::time::Instant::now();
        let mut pause = self.retry.first_pause;
        let mut left = ready.resumed();
        let mut count = 0;
        loop {
            count += 1;
            let answered = self.send(call, ready.headers()).await;
            let mut wait = pause;
            let last = match answered {
                Ok(response) => {
                    left = true;
                    wait = wait.max(retry_after(response.headers()));
                    match self.read_answer(response, ready).await {
                        Ok((answer, response)) if !answer.may_change() => {
                            let receipt = self.wallet.conclude(ready, answer).await?;
                            return Ok(Paid { response, receipt });
                        }
                        Ok(answered) => Ok(answered),
                        Err(lost) => Err(lost),
                    }
                }
                Err(lost) => {
                    left |= lost.left;
                    Err(lost)
                }
            };
            pause = pause.saturating_mul(2);
            let over = count >= self.retry.presentations_max
                || started.elapsed().saturating_add(wait) > self.retry.window
                || self.wallet.clock.now() >= ready.reservation().plan.valid_before;
            if over {
                return self.give_up(ready, last, left).await;
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn give_up(
        &self,
        ready: &Ready,
        last: Result<(Answer, Response), Lost>,
        left: bool,
    ) -> Result<Paid, PayError> {
        match last {
            Ok((answer, response)) => {
                let receipt = self.wallet.conclude(ready, answer).await?;
                Ok(Paid { response, receipt })
            }
            Err(lost) => Err(PayError::Ambiguous {
                problem: lost.problem,
                transaction: None,
                terms: Box::new(ready.terms()),
                status: if left { PaymentStatus::Unknown } else { PaymentStatus::Reserved },
            }),
        }
    }

    async fn read_answer(
        &self,
        response: Response,
        ready: &Ready,
    ) -> Result<(Answer, Response), Lost> {
        let status = response.status();
        let (body, response) = if Answer::needs_body(status) {
            self.peek(response).await?
        } else {
            (Bytes::new(), response)
        };
        let terms = &ready.reservation().quote.offer;
        Ok((Answer::read(status, response.headers(), &body, terms), response))
    }

    async fn peek(&self, response: Response) -> Result<(Bytes, Response), Lost> {
        let lost = |problem: &str| Lost { problem: problem.to_owned(), left: true };
        match tokio::time::timeout(self.answer_wait, peek(response)).await {
            Ok(Ok(peeked)) => Ok(peeked),
            Ok(Err(_)) => Err(lost("the connection broke while the answer was read")),
            Err(_) => Err(lost("the answer did not end in time")),
        }
    }

    async fn send(&self, call: &Call, payment: &HeaderMap) -> Result<Response, Lost> {
        let http = if is_loopback(&call.url) { &self.near } else { &self.http };
        let sent = http.execute(call.request(payment));
        match tokio::time::timeout(self.answer_wait, sent).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                // The error's own text holds the URL, query included.
                let error = error.without_url();
                let problem = if error.is_connect() {
                    "the connection could not be opened"
                } else if error.is_timeout() {
                    "no answer in time"
                } else {
                    "the connection broke before an answer came"
                };
                let left = !error.is_connect() && !error.is_builder();
                Err(Lost { problem: problem.to_owned(), left })
            }
            Err(_) => Err(Lost { problem: "no answer in time".to_owned(), left: true }),
        }
    }
}

/// Puts a [`PayingClient`] together.
#[must_use]
pub struct PayingClientBuilder {
    http: reqwest::ClientBuilder,
    near: reqwest::ClientBuilder,
    wallet: Wallet,
    retry: RetryRules,
    answer_wait: Duration,
}

impl PayingClientBuilder {
    /// Settings of the HTTP clients underneath: headers, proxies, certificates. There are two, and
    /// the one for this machine uses no proxy. Redirects are switched off; a total timeout there
    /// would cut long bodies short.
    pub fn http(mut self, settings: impl Fn() -> reqwest::ClientBuilder) -> Self {
        self.http = settings();
        self.near = settings();
        self
    }

    /// How the same payment is presented again.
    pub const fn retry(mut self, retry: RetryRules) -> Self {
        self.retry = retry;
        self
    }

    /// Longest wait for the head of one answer.
    pub const fn answer_wait(mut self, wait: Duration) -> Self {
        self.answer_wait = wait;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// When the HTTP client cannot be made, or the retry rules forbid even one presentation.
    pub fn build(self) -> Result<PayingClient, Misconfigured> {
        if self.retry.presentations_max == 0 {
            return Err(Misconfigured::new("retry.presentations_max", "must be at least 1"));
        }
        // A followed redirect would carry the payment along, to anyone.
        let made = |http: reqwest::ClientBuilder| {
            let http = http.redirect(reqwest::redirect::Policy::none()).build();
            http.map_err(|error| Misconfigured::new("http", error.to_string()))
        };
        let Self { http, near, wallet, retry, answer_wait } = self;
        let (http, near) = (made(http)?, made(near.no_proxy())?);
        Ok(PayingClient { http, near, wallet, retry, answer_wait })
    }
}

enum Asked {
    Free(Response),
    Priced(Box<PaymentRequired>),
}

/// No answer came.
struct Lost {
    problem: String,
    /// Whether the request may have left this machine.
    left: bool,
}

/// A request that can be sent again.
struct Call {
    purchase: Purchase,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    version: http::Version,
}

impl Call {
    fn new(mut request: Request, id: Option<&str>) -> Result<Self, PayError> {
        let misuse = |problem: String| PayError::Misuse { problem };
        if !matches!(request.url().scheme(), "http" | "https") {
            return Err(misuse("only http and https URLs can be requested".into()));
        }
        let body = match request.body().map(reqwest::Body::as_bytes) {
            None => Bytes::new(),
            Some(Some(bytes)) if bytes.len() <= REQUEST_BODY_BYTES_MAX => {
                Bytes::copy_from_slice(bytes)
            }
            Some(Some(_)) => {
                return Err(misuse(format!(
                    "the request body is larger than {REQUEST_BODY_BYTES_MAX} bytes, the most \
                     that is kept to be sent again with a payment"
                )));
            }
            Some(None) => {
                return Err(misuse(
                    "a streaming request body cannot be sent again with a payment; use a buffered \
                     one"
                    .into(),
                ));
            }
        };
        // A payment in the caller's own headers would bypass the rules and every check here.
        strip_payment(request.headers_mut());
        let purchase = Purchase::new(request.method().clone(), request.url().clone(), &body);
        let purchase = match id {
            Some(id) => purchase.with_id(id),
            None => purchase,
        };
        Ok(Self {
            purchase,
            method: request.method().clone(),
            url: request.url().clone(),
            headers: request.headers().clone(),
            body,
            version: request.version(),
        })
    }

    fn request(&self, payment: &HeaderMap) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(payment.clone());
        *request.version_mut() = self.version;
        if !self.body.is_empty() {
            *request.body_mut() = Some(self.body.clone().into());
        }
        request
    }

    /// Goes on at `target` (RFC 9110 §15.4): 303, and by custom a POST answered 301 or 302, become
    /// a GET without body.
    fn redirect(&mut self, status: StatusCode, target: Url) {
        let custom = matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND)
            && self.method == Method::POST;
        let see_other = status == StatusCode::SEE_OTHER && self.method != Method::HEAD;
        if custom || see_other {
            self.method = Method::GET;
            self.body = Bytes::new();
            for name in [CONTENT_LENGTH, CONTENT_TYPE, CONTENT_ENCODING, TRANSFER_ENCODING] {
                self.headers.remove(name);
            }
        }
        self.url = target;
    }
}

fn redirect_target(from: &Url, response: &Response) -> Option<Url> {
    let followed = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(LOCATION).filter(|_| followed)?.to_str().ok()?;
    from.join(location).ok()
}

/// The pause a server asks for in whole seconds; dates are not read. The window bounds it.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}
