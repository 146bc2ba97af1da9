//! A resource server with a scripted scheme and a scripted facilitator, and a client for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use pay402_core::error::{Malformed, Misconfigured, Unavailable};
use pay402_core::facilitator::{Facilitator, Kind, Settled, Settlement, Supported, Verdict};
use pay402_core::grants::{GrantState, Grants};
use pay402_core::payment::Presented;
use pay402_core::scheme::{ServerScheme, Tariff};
use pay402_core::time::{ManualClock, UnixTime};
use pay402_core::transport::http::{read_outcome, read_payment_required, write_payment};
use pay402_core::{
    Amount, NetworkId, Payment, PaymentKey, Refusal, Refused, Requirements, Scheme, WireVersion,
};
use pay402_server::{MemoryGrants, ResourceServer, Route};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tower::ServiceExt as _;

pub(crate) const NETWORK: &str = "eip155:84532";
pub(crate) const PAY_TO: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
pub(crate) const PAYER: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
pub(crate) const ASSET: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
pub(crate) const IDENTIFIER: &str = "pay_0123456789abcdef";
pub(crate) const HASH: &str = "0x203977f29e3fba7dde0884bfa07b76598f92d371b3a8b18d92c48540f21e50d3";

pub(crate) fn network() -> NetworkId {
    NetworkId::parse(NETWORK).unwrap()
}

pub(crate) fn done() -> Settled {
    Settled::Done(Settlement {
        transaction: HASH.into(),
        network: network(),
        payer: Some(PAYER.into()),
        charged: None,
    })
}

/// The success of `payment`.
fn done_of(payment: &Payment) -> Settled {
    let charge = payment.charge();
    let transaction = if charge.is_zero() { String::new() } else { HASH.into() };
    Settled::Done(Settlement {
        transaction,
        network: network(),
        payer: Some(PAYER.into()),
        charged: payment.terms().scheme.has_ceiling().then_some(charge),
    })
}

pub(crate) fn refused(refusal: Refusal) -> Settled {
    Settled::Refused(refusal.into())
}

pub(crate) fn pending() -> Settled {
    Settled::Pending { transaction: Some(HASH.into()) }
}

pub(crate) fn down() -> Unavailable {
    Unavailable::new("facilitator", "connection refused")
}

/// Sells by `exact`; a payload is `{nonce, signature}`.
pub(crate) struct FakeScheme;

#[async_trait]
impl ServerScheme for FakeScheme {
    fn scheme(&self) -> Scheme {
        Scheme::EXACT
    }

    fn serves(&self, network: &NetworkId) -> bool {
        network.namespace() == "eip155"
    }

    fn requirements(
        &self,
        network: &NetworkId,
        tariff: &Tariff,
        pay_to: &str,
        max_timeout_seconds: u64,
    ) -> Result<Requirements, Misconfigured> {
        let (amount, asset) = match tariff {
            Tariff::Usd(price) => (price.to_amount(6), ASSET.to_owned()),
            Tariff::Atomic { amount, asset } => (Ok(*amount), asset.address.clone()),
        };
        let amount = amount.map_err(|error| Misconfigured::new("price", error.to_string()))?;
        Ok(Requirements {
            scheme: Scheme::EXACT,
            network: network.clone(),
            amount,
            asset,
            pay_to: pay_to.into(),
            max_timeout_seconds,
            extra: Map::from_iter([("name".into(), "USDC".into()), ("version".into(), "2".into())]),
            other: Map::new(),
        })
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        match presented.payload.get("nonce") {
            Some(Value::String(_)) => Ok(()),
            _ => Err(Malformed::new("payload.nonce", "must be a string")),
        }
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        let address = terms.pay_to.len() == 42 && terms.pay_to.starts_with("0x");
        if address { Ok(()) } else { Err(Malformed::new("payTo", "must be an address")) }
    }

    fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused> {
        let end = payment.presented().payload.get("validBefore").and_then(Value::as_u64);
        if end.is_some_and(|end| end <= now.0) {
            return Err(Refused::from(Refusal::ValidBefore).by(PAYER));
        }
        self.recall(payment)
    }

    fn recall(&self, payment: &Payment) -> Result<PaymentKey, Refused> {
        let text = |key: &str| payment.presented().payload.get(key).and_then(Value::as_str);
        if text("signature") != Some("good") {
            return Err(Refused::from(Refusal::InvalidSignature).by(PAYER));
        }
        let nonce = text("nonce").expect("the form was checked");
        Ok(PaymentKey::new(&payment.terms().network, &payment.terms().asset, PAYER, nonce))
    }
}

/// Sells by `upto` what [`FakeScheme`] sells by `exact`, and advertises an extension wherever the
/// facilitator names it.
pub(crate) struct FakeMeter;

/// The extension of [`FakeMeter`].
pub(crate) const SPONSORING: &str = "fakeSponsoring";

#[async_trait]
impl ServerScheme for FakeMeter {
    fn scheme(&self) -> Scheme {
        Scheme::UPTO
    }

    fn serves(&self, network: &NetworkId) -> bool {
        FakeScheme.serves(network)
    }

    fn requirements(
        &self,
        network: &NetworkId,
        tariff: &Tariff,
        pay_to: &str,
        max_timeout_seconds: u64,
    ) -> Result<Requirements, Misconfigured> {
        let terms = FakeScheme.requirements(network, tariff, pay_to, max_timeout_seconds)?;
        Ok(Requirements { scheme: Scheme::UPTO, ..terms })
    }

    fn form(&self, presented: &Presented) -> Result<(), Malformed> {
        FakeScheme.form(presented)
    }

    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed> {
        FakeScheme.terms_form(terms)
    }

    fn extensions(&self, terms: &Requirements, supported: &[String]) -> Map<String, Value> {
        assert_eq!(terms.scheme, Scheme::UPTO);
        // A scheme cannot take the place of what the gate itself advertises.
        let theirs = json!({ "info": { "required": true }, "schema": {} });
        let ours = json!({ "info": { "version": "1" }, "schema": {} });
        let named = supported.iter().any(|name| name == SPONSORING);
        let ours = named.then(|| (SPONSORING.to_owned(), ours));
        ours.into_iter().chain([("payment-identifier".to_owned(), theirs)]).collect()
    }

    fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused> {
        FakeScheme.identify(payment, now)
    }

    fn recall(&self, payment: &Payment) -> Result<PaymentKey, Refused> {
        FakeScheme.recall(payment)
    }
}

/// What the facilitator answers to one `settle`.
pub(crate) enum Step {
    /// This, at once.
    Say(Result<Settled, Unavailable>),
    /// This, once it is told to.
    Hold(Arc<Notify>, Settled),
    /// Nothing, ever.
    Hang,
}

/// Answers as scripted; valid and done when the script is over.
#[derive(Default)]
pub(crate) struct FakeFacilitator {
    pub(crate) kinds: Mutex<Vec<Kind>>,
    pub(crate) extensions: Vec<String>,
    pub(crate) verdicts: Mutex<VecDeque<Result<Verdict, Unavailable>>>,
    pub(crate) settles: Mutex<VecDeque<Step>>,
    pub(crate) verified: AtomicUsize,
    pub(crate) settled: AtomicUsize,
    /// What it was to charge, each time it was asked to settle.
    pub(crate) charges: Mutex<Vec<Amount>>,
    /// The terms of the last payment it saw.
    pub(crate) terms: Mutex<Option<Requirements>>,
    pub(crate) down: bool,
}

impl FakeFacilitator {
    pub(crate) fn kind(version: WireVersion, network: &str) -> Kind {
        let network = NetworkId::parse(network).unwrap();
        Kind { version, scheme: Scheme::EXACT, network, extra: Map::new() }
    }

    pub(crate) fn metered_kind(version: WireVersion, network: &str) -> Kind {
        Kind { scheme: Scheme::UPTO, ..Self::kind(version, network) }
    }

    /// What it was to charge so far.
    pub(crate) fn charges(&self) -> Vec<Amount> {
        self.charges.lock().unwrap().clone()
    }

    pub(crate) fn will_settle(&self, settled: Settled) {
        self.settles.lock().unwrap().push_back(Step::Say(Ok(settled)));
    }
}

/// Who forwards the id that opens a sealed answer lets the facilitator open it.
fn assert_no_secret(payment: &Payment) {
    assert!(payment.presented().payment_identifier().is_none(), "the secret was forwarded");
}

#[async_trait]
impl Facilitator for FakeFacilitator {
    async fn supported(&self) -> Result<Supported, Unavailable> {
        if self.down {
            return Err(down());
        }
        let kinds = self.kinds.lock().unwrap().clone();
        let extensions = self.extensions.clone();
        Ok(Supported { kinds, extensions, ..Supported::default() })
    }

    async fn verify(&self, payment: &Payment) -> Result<Verdict, Unavailable> {
        assert_no_secret(payment);
        self.verified.fetch_add(1, Ordering::SeqCst);
        *self.terms.lock().unwrap() = Some(payment.terms().clone());
        let scripted = self.verdicts.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| Ok(Verdict::Valid { payer: PAYER.into() }))
    }

    async fn settle(&self, payment: &Payment) -> Result<Settled, Unavailable> {
        assert_no_secret(payment);
        self.settled.fetch_add(1, Ordering::SeqCst);
        self.charges.lock().unwrap().push(payment.charge());
        let step = self.settles.lock().unwrap().pop_front();
        match step {
            None => Ok(done_of(payment)),
            Some(Step::Say(answer)) => answer,
            Some(Step::Hold(until, answer)) => {
                until.notified().await;
                Ok(answer)
            }
            Some(Step::Hang) => std::future::pending().await,
        }
    }
}

/// A server on its stage.
pub(crate) struct Stage {
    pub(crate) facilitator: Arc<FakeFacilitator>,
    pub(crate) grants: Arc<MemoryGrants>,
    pub(crate) server: ResourceServer,
    pub(crate) clock: Arc<ManualClock>,
    /// How often a handler ran.
    pub(crate) runs: Arc<AtomicUsize>,
}

/// Where the clock stands at first, in seconds.
pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const BASE: &str = "https://api.example.com";

pub(crate) fn route() -> Route {
    Route::new("$0.01", PAY_TO).on(NETWORK).description("data").mime_type("application/json")
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let facilitator = FakeFacilitator::default();
        let versions = [WireVersion::V2, WireVersion::V1];
        // In version 1 nobody has words for a metered payment, whatever a facilitator says.
        *facilitator.kinds.lock().unwrap() = versions
            .into_iter()
            .flat_map(|version| {
                let exact = FakeFacilitator::kind(version, NETWORK);
                [exact, FakeFacilitator::metered_kind(version, NETWORK)]
            })
            .collect();
        Self::with(facilitator, Arc::default()).await
    }

    pub(crate) async fn with(facilitator: FakeFacilitator, grants: Arc<MemoryGrants>) -> Self {
        let facilitator = Arc::new(facilitator);
        let clock = Arc::new(ManualClock::new(UnixTime(NOW)));
        let server = ResourceServer::builder(facilitator.clone(), grants.clone())
            .scheme(Arc::new(FakeScheme))
            .scheme(Arc::new(FakeMeter))
            .clock(clock.clone())
            .public_url(BASE)
            .start()
            .await
            .unwrap();
        Self { facilitator, grants, server, clock, runs: Arc::default() }
    }

    /// `/paid` and everything below `/paid/` sold as `route`, answered by `handler`.
    pub(crate) fn app<H, F>(&self, route: Route, handler: H) -> Router
    where
        H: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let runs = self.runs.clone();
        let counted = move |request: Request| {
            runs.fetch_add(1, Ordering::SeqCst);
            handler(request)
        };
        let layer = self.server.layer(route).unwrap();
        Router::new()
            .route("/paid", any(counted.clone()))
            .route("/paid/{*rest}", any(counted))
            .route_layer(layer)
    }

    /// The same with a handler that answers `data <number of the run>`.
    pub(crate) fn data(&self) -> Router {
        let runs = self.runs.clone();
        self.app(route(), move |_request| {
            let number = runs.load(Ordering::SeqCst);
            async move { Response::new(Body::from(format!("data {number}"))) }
        })
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn settled(&self) -> usize {
        self.facilitator.settled.load(Ordering::SeqCst)
    }

    pub(crate) async fn state(&self, nonce: &str) -> Option<GrantState> {
        let key = PaymentKey::new(&network(), ASSET, PAYER, nonce);
        self.grants.state(&key).await.unwrap()
    }

    /// Waits until the claim of `nonce` is gone, as after a release in the background.
    pub(crate) async fn released(&self, nonce: &str) {
        for _ in 0..1_000 {
            if self.state(nonce).await.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the claim of {nonce} was never released: {:?}", self.state(nonce).await);
    }
}

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn outcome(&self) -> Option<Settled> {
        read_outcome(&self.headers, &terms()).unwrap()
    }

    /// The code of the refusal in the outcome header.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.outcome()? {
            Settled::Refused(refused) => Refusal::from_code(refused.reason.code()),
            Settled::Pending { .. } => Some(Refusal::SettlementPending),
            Settled::Done(_) => None,
        }
    }

    pub(crate) fn paid(&self) -> bool {
        self.status.is_success() && matches!(self.outcome(), Some(Settled::Done(_)))
    }
}

pub(crate) async fn send(app: &Router, request: Request) -> Got {
    let response = app.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Got { status: head.status, headers: head.headers, body }
}

pub(crate) fn request(method: Method, path: &str) -> Request {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request
}

pub(crate) fn get(path: &str) -> Request {
    request(Method::GET, path)
}

/// The terms of [`route`].
pub(crate) fn terms() -> Requirements {
    let tariff = Tariff::Usd("$0.01".parse().unwrap());
    let terms = FakeScheme.requirements(&network(), &tariff, PAY_TO, 60).unwrap();
    assert_eq!(terms.amount, Amount::from(10_000));
    terms
}

/// A good payment of [`terms`] with `nonce`, and with an identifier if there is one.
pub(crate) fn presented(nonce: &str, identifier: Option<&str>) -> Presented {
    presented_for(terms(), nonce, identifier)
}

/// A good payment of these terms.
pub(crate) fn presented_for(
    terms: Requirements,
    nonce: &str,
    identifier: Option<&str>,
) -> Presented {
    let info = |id| json!({ "info": { "required": false, "id": id } });
    let extensions = identifier.map(|id| ("payment-identifier".to_owned(), info(id)));
    Presented {
        version: WireVersion::V2,
        scheme: terms.scheme.clone(),
        network: network(),
        accepted: Some(terms),
        payload: Map::from_iter([
            ("nonce".into(), nonce.into()),
            ("signature".into(), "good".into()),
        ]),
        resource: None,
        extensions: extensions.into_iter().collect(),
        other: Map::new(),
    }
}

pub(crate) fn with(mut request: Request, presented: &Presented) -> Request {
    write_payment(request.headers_mut(), presented).unwrap();
    request
}

/// `GET /paid`, paid with `nonce`.
pub(crate) fn paid(nonce: &str, identifier: Option<&str>) -> Request {
    with(get("/paid"), &presented(nonce, identifier))
}

/// The offers of a 402, in its v2 header and its v1 body.
pub(crate) fn offers(got: &Got) -> (usize, usize) {
    let v2 = read_payment_required(&got.headers, &[]).unwrap();
    let v1 = read_payment_required(&HeaderMap::new(), &got.body).unwrap();
    (v2.accepts.len(), v1.accepts.len())
}
