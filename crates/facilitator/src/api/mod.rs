//! The facilitator over HTTP: `/verify`, `/settle`, `/supported` and `/health` (spec v2 §7), our own
//! `/account`, and what operators and callers ask besides: whether the process is fit, its figures,
//! where a settlement stands, and what there is to ask. What only the leader of a network does is
//! forwarded to it (`lead`).
//!
//! An invalid payment is an answer with status 200; a malformed request is 400 and names the
//! field; what could not be told is 503. Replies are in the version of the request. Nothing here
//! logs a body or a header.

mod access;
mod answer;
mod dashboard;
mod events;
mod exposition;
mod fitness;
mod forward;
mod lead;
mod limits;
mod openapi;
mod settlements;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use pay402_core::error::Malformed;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::transport::forward::read_forwarded;
use pay402_core::wire::account::{AccountRequest, decode_account_request};
use pay402_core::wire::{self, FacilitatorRequest, MESSAGE_BYTES_MAX};
use pay402_core::{Digest, Payment, Refused};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{Engine, RpcCounts, SpanCounts};
pub(crate) use access::Reader;
pub use access::{Access, KeyHash, KeyHashError, Named, Role};
use answer::{Turned, TurnedAway, json_answer, unavailable};
use dashboard::Sessions;
use events::Streams;
pub(crate) use events::event;
use fitness::Look;
pub(crate) use forward::check_advertised;
use forward::{Forwarder, Incoming};
use lead::Asked;
pub use limits::Limits;
use limits::Pace;
pub(crate) use settlements::id_of;

/// How long a client may take to send its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longest `Idempotency-Key`, in bytes.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The API of one process: from its start, over an engine that comes later, to its end. Cheap to
/// clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    access: Access,
    /// Unset while the engine starts.
    engine: OnceLock<Engine>,
    /// Whether the process is going to stop.
    retired: AtomicBool,
    /// Whether streams are to end.
    closing: watch::Sender<bool>,
    callers: Vec<(Named, Pace)>,
    streams: Streams,
    sessions: Sessions,
    rpc: Vec<Arc<RpcCounts>>,
    /// Set where spans are exported.
    spans: OnceLock<Arc<SpanCounts>>,
    turned_away: Turned,
    look: tokio::sync::Mutex<Option<Look>>,
    forwarder: Forwarder,
}

/// One path, and what may be done there.
struct Route {
    path: &'static str,
    /// As in the table of operations; `GET` includes `HEAD`.
    methods: &'static [&'static str],
    handler: MethodRouter<Api>,
}

/// Everything there is: the router, and every text that lists it, is made from this.
fn routes() -> Vec<Route> {
    let route = |path, methods, handler| Route { path, methods, handler };
    vec![
        route("/verify", &["GET", "POST"], get(describe_verify).post(verify)),
        route("/settle", &["GET", "POST"], get(describe_settle).post(settle)),
        route("/settlements/{id}", &["GET"], get(settlements::settlement)),
        route("/events", &["GET"], get(events::events)),
        route("/dashboard", &["GET"], get(dashboard::dashboard)),
        route("/dashboard/payments/{id}", &["GET"], get(dashboard::payment)),
        route("/dashboard/session", &["POST"], post(dashboard::sign_in)),
        route("/account", &["GET", "POST"], get(describe_account).post(account)),
        route("/supported", &["GET"], get(supported)),
        route("/health", &["GET"], get(health)),
        route("/livez", &["GET"], get(fitness::livez)),
        route("/readyz", &["GET"], get(fitness::readyz)),
        route("/metrics", &["GET"], get(exposition::metrics)),
        route("/openapi.json", &["GET"], get(openapi::openapi)),
    ]
}

impl Api {
    /// An API whose engine is still to come: until [`Api::open`], it tells that it starts.
    ///
    /// Whether open access is fit for the address listened on is the listener's to check:
    /// [`Access::check_listen`].
    pub fn new(access: Access) -> Self {
        Self::counting(access, Vec::new(), Vec::new())
    }

    /// The same, of which `callers` have names, and whose metrics tell the questions to nodes that are
    /// counted in `rpc`.
    pub fn counting(access: Access, callers: Vec<Named>, rpc: Vec<Arc<RpcCounts>>) -> Self {
        Self(Arc::new(Shared {
            access,
            engine: OnceLock::new(),
            retired: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            callers: callers
                .into_iter()
                .map(|named| {
                    let pace = Pace::of(&named.limits);
                    (named, pace)
                })
                .collect(),
            streams: Streams::default(),
            sessions: Sessions::default(),
            rpc,
            spans: OnceLock::new(),
            turned_away: Turned::default(),
            look: tokio::sync::Mutex::new(None),
            forwarder: Forwarder::default(),
        }))
    }

    /// Serves what `engine` answers. The first one stays.
    pub fn open(&self, engine: Engine) {
        _ = self.0.engine.set(engine);
    }

    /// Has its metrics tell what becomes of spans. The first counts stay.
    pub fn trace(&self, spans: Arc<SpanCounts>) {
        _ = self.0.spans.set(spans);
    }

    /// Says from now on that the process is not ready, and goes on serving.
    pub fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }

    /// Ends the streams of events, which would otherwise keep their connections open.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }

    /// The engine, once it has started.
    pub fn engine(&self) -> Option<&Engine> {
        self.0.engine.get()
    }

    /// The routes.
    pub fn router(&self) -> Router {
        let router = Router::new();
        let router = routes()
            .into_iter()
            .fold(router, |all, Route { path, handler, .. }| all.route(path, handler));
        router
            .fallback(not_found)
            .method_not_allowed_fallback(wrong_method)
            .with_state(self.clone())
    }

    /// Who asks to read.
    fn reader(&self, headers: &HeaderMap) -> Result<Reader, TurnedAway> {
        if let Some(reader) = self.0.sessions.reader(headers) {
            return Ok(reader);
        }
        let key = self.0.access.admit_reading(headers)?;
        Ok(key.map_or(Reader::Operator, |key| self.reader_of(&key)))
    }

    /// Who holds this key; `None` for one that is not known.
    fn reader_with(&self, key: &str) -> Option<Reader> {
        self.0.access.find(key).map(|key| self.reader_of(&key))
    }

    fn reader_of(&self, key: &KeyHash) -> Reader {
        match self.named(key) {
            Some(Named { role: Role::Operator, .. }) => Reader::Operator,
            Some(Named { role: Role::Caller, name, .. }) => Reader::Caller(name.clone()),
            None => Reader::Nameless,
        }
    }

    fn named(&self, key: &KeyHash) -> Option<&Named> {
        self.place(key).map(|place| &self.0.callers[place].0)
    }

    fn place(&self, key: &KeyHash) -> Option<usize> {
        self.0.callers.iter().position(|(caller, _)| caller.key == *key)
    }

    fn started(&self) -> Result<&Engine, TurnedAway> {
        self.engine().ok_or(TurnedAway::Starting)
    }

    fn turn_away(&self, why: TurnedAway) -> Response {
        self.0.turned_away.add(&why);
        why.into_response()
    }
}

/// The routes over `engine`, as [`Api`] has them once it is open.
pub fn router(engine: Engine, access: Access) -> Router {
    let api = Api::new(access);
    api.open(engine);
    api.router()
}

async fn verify(State(api): State<Api>, request: Request) -> Response {
    let (engine, call, message) = match read(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    let calls = engine.calls(&message.terms);
    let payment = match call.pair(&api, message) {
        Ok(payment) => payment,
        Err(refused) => {
            let invalid = Verdict::Invalid(refused);
            let answer = verdict(&invalid);
            calls.verifications.add(&Ok(invalid));
            return answer;
        }
    };
    match engine.verify_known(call.digest, call.name.as_deref(), &payment).await {
        Ok(answer) => verdict(&answer),
        Err(error) => {
            tracing::warn!(%error, "verify could not be answered");
            let refused = unavailable::verify(&error);
            answer::retry_later(&wire::encode_verdict(&Verdict::Invalid(refused)))
        }
    }
}

fn verdict(verdict: &Verdict) -> Response {
    if let Verdict::Invalid(refused) = verdict {
        tracing::debug!(reason = refused.reason.code(), "verified as invalid");
    }
    json_answer(StatusCode::OK, &wire::encode_verdict(verdict))
}

async fn settle(State(api): State<Api>, request: Request) -> Response {
    let (engine, call, message) = match read(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    let (version, network) = (message.version, message.terms.network.clone());
    let calls = engine.calls(&message.terms);
    let payment = match call.pair(&api, message) {
        Ok(payment) => payment,
        Err(refused) => {
            let refused = Settled::Refused(refused);
            let body = wire::encode_settled(version, &network, &refused);
            calls.settlements.add(&Ok(refused));
            return json_answer(StatusCode::OK, &body);
        }
    };
    let Caller { digest: caller, name, incoming, left, .. } = call;
    let asked = Asked::Settle { version, caller, name, payment: Box::new(payment) };
    lead::carry_out(&api, engine, asked, incoming, left).await
}

async fn account(State(api): State<Api>, request: Request) -> Response {
    let (engine, call, request) = match read_account(&api, request).await {
        Ok(read) => read,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    lead::carry_out(&api, engine, Asked::Account(request), call.incoming, call.left).await
}

async fn supported(State(api): State<Api>) -> Response {
    match api.started() {
        Ok(engine) => json_answer(StatusCode::OK, &wire::encode_supported(engine.kinds())),
        Err(turned_away) => api.turn_away(turned_away),
    }
}

async fn health(State(api): State<Api>) -> Response {
    let engine = match api.started() {
        Ok(engine) => engine,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    let networks = engine.health();
    let is_well = |status| matches!(status, "ok" | "following");
    let well = networks.iter().filter(|network| is_well(network.status)).count();
    let (code, status) = match well {
        _ if well == networks.len() => (StatusCode::OK, "ok"),
        0 => (StatusCode::SERVICE_UNAVAILABLE, "down"),
        _ => (StatusCode::OK, "degraded"),
    };
    let networks: Vec<_> = networks
        .iter()
        .map(|network| {
            json!({
                "network": network.network.as_str(),
                "status": network.status,
                "unfinished": network.unfinished,
            })
        })
        .collect();
    let body = json!({
        "status": status,
        "networks": networks,
        "supported": wire::encode_supported(engine.kinds()),
    });
    json_answer(code, &body)
}

async fn describe_verify() -> Response {
    json_answer(StatusCode::OK, &description("/verify", "checks a payment and moves nothing"))
}

async fn describe_settle() -> Response {
    json_answer(StatusCode::OK, &description("/settle", "settles a payment, at most once"))
}

async fn describe_account() -> Response {
    let body = json!({
        "endpoint": "/account",
        "method": "POST",
        "description": "adopts code for an account (EIP-7702), or carries out what its owner signed",
        "body": {
            "network": "CAIP-2 id",
            "account": "the account's address",
            "authorization": "optional: {chainId, address, nonce, yParity, r, s}",
            "call": "optional: call data of an operation with its owner's signature",
        },
    });
    json_answer(StatusCode::OK, &body)
}

fn description(endpoint: &str, does: &str) -> Value {
    json!({
        "endpoint": endpoint,
        "method": "POST",
        "description": does,
        "body": {
            "x402Version": "1 or 2",
            "paymentPayload": "what the client presented (PaymentPayload)",
            "paymentRequirements": "the server's own terms (PaymentRequirements); of a metered \
                                    payment the ceiling to verify, and the charge to settle",
        },
    })
}

async fn not_found() -> Response {
    let paths: Vec<_> = routes().iter().map(|route| route.path).collect();
    let message = format!("there is {}", paths.join(", "));
    json_answer(StatusCode::NOT_FOUND, &json!({"error": "not_found", "message": message}))
}

async fn wrong_method() -> Response {
    let all = routes();
    let posts = all.iter().filter(|route| route.methods.contains(&"POST"));
    let posts: Vec<_> = posts.map(|route| route.path).collect();
    let message = format!("use POST for {}, GET for the others", posts.join(", "));
    let body = json!({"error": "method_not_allowed", "message": message});
    json_answer(StatusCode::METHOD_NOT_ALLOWED, &body)
}

/// Who calls, and how.
struct Caller {
    /// API key and idempotency key, hashed together, when both were given.
    digest: Option<Digest>,
    /// Its name in the configuration.
    name: Option<String>,
    /// Its place among the callers with names.
    place: Option<usize>,
    incoming: Incoming,
    /// The time that is left for a call that another process forwarded to here.
    left: Option<Duration>,
}

impl Caller {
    /// The payment of a message, if this caller may have it settled.
    fn pair(&self, api: &Api, message: FacilitatorRequest) -> Result<Payment, Refused> {
        let limits = self.place.map(|place| &api.0.callers[place].0.limits);
        match limits.and_then(|limits| limits.refuse(&message.terms)) {
            Some(refused) => Err(refused),
            None => Payment::pair_to_settle(message.terms, message.presented),
        }
    }
}

/// Everything that precedes the engine, the cheapest refusals first.
async fn read(
    api: &Api,
    request: Request,
) -> Result<(&Engine, Caller, FacilitatorRequest), TurnedAway> {
    let engine = api.started()?;
    let caller = receive(api, request, "settle").await?;
    let message = wire::decode_facilitator_request(&caller.incoming.body)?;
    // What nobody here serves is refused by the engine, as an answer.
    if let Some(network) = engine.network_serving(message.version, &message.terms) {
        network.form(&message.presented).map_err(|error| error.within("paymentPayload"))?;
        network.terms_form(&message.terms).map_err(|error| error.within("paymentRequirements"))?;
    }
    Ok((engine, caller, message))
}

async fn read_account(
    api: &Api,
    request: Request,
) -> Result<(&Engine, Caller, AccountRequest), TurnedAway> {
    let engine = api.started()?;
    let caller = receive(api, request, "account").await?;
    let message = decode_account_request(&caller.incoming.body)?;
    if let Some(network) = engine.network(&message.network) {
        network.account_form(&message.request)?;
    }
    Ok((engine, caller, message))
}

/// Admits a caller and takes its body. `path` is where a call like this is forwarded to.
async fn receive(api: &Api, request: Request, path: &'static str) -> Result<Caller, TurnedAway> {
    let (Parts { headers, .. }, body) = request.into_parts();
    let key = api.0.access.admit(&headers)?;
    let id = idempotency_key(&headers)?;
    // Without an API key an idempotency key proves nothing: anybody could have read or guessed it.
    let digest = key.zip(id).map(|(key, id)| Digest::of(&[key.as_bytes(), id]));
    let place = key.and_then(|key| api.place(&key));
    if let Some(place) = place {
        api.0.callers[place].1.take(Instant::now()).map_err(TurnedAway::TooManyCalls)?;
    }
    let name = place.map(|place| api.0.callers[place].0.name.clone());
    let left = read_forwarded(&headers)?;
    let body = read_body(body).await?;
    Ok(Caller { digest, name, place, incoming: Incoming { path, headers, body }, left })
}

/// The idempotency key that came with a request.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Malformed> {
    let Some(id) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    let id = id.as_bytes();
    if id.is_empty() || id.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let problem = format!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Malformed::new("Idempotency-Key", problem));
    }
    Ok(Some(id))
}

async fn read_body(body: Body) -> Result<Bytes, TurnedAway> {
    let whole = Limited::new(body, MESSAGE_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(TurnedAway::TooLarge),
        Ok(Err(_)) => Err(Malformed::new("body", "ended before it was complete").into()),
        Err(_) => Err(TurnedAway::TooSlow),
    }
}
