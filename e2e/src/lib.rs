//! End-to-end tests: all roles on the embedded chain, wired exactly as the command line wires them.
//!
//! The oracle of every test is one coherence check, [`pay402::books`]: what the chain says equals
//! what every role remembers.

pub mod den;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::providers::Provider as _;
use axum::Router;
use axum::body::Bytes;
use axum::response::Json;
use axum::routing::get;
use pay402::books::{self, Books, Coherent};
use pay402::stack::{self, Served};
use pay402_client::{Entropy as _, OwnerPolicy, PayingClient, SystemEntropy, Wallet};
use pay402_core::facilitator::Facilitator;
use pay402_core::payment::Digest;
use pay402_core::scheme::ClientScheme as _;
use pay402_core::spend::{Intent, Policy, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::transport::http::read_payment_required;
use pay402_core::{Presented, WireVersion, wire};
use pay402_server::{Gate, Route};
use pay402_store::SqliteLedger;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Paths that are for sale, each for [`PRICE`].
pub const PATHS: [&str; 4] = ["/paid", "/other", "/third", "/fourth"];
/// What each of them costs.
pub const PRICE: &str = "$0.001";
/// The same in atomic units of USDC.
pub const PRICE_ATOMIC: u64 = 1000;

/// A stack with an API of four paid routes and one that always fails.
pub struct Market {
    /// Chain, facilitator and books.
    pub stack: stack::Stack,
    /// The folder of the books.
    pub folder: TempDir,
    api: Served,
    runs: Arc<AtomicUsize>,
}

impl Deref for Market {
    type Target = stack::Stack;

    fn deref(&self) -> &stack::Stack {
        &self.stack
    }
}

impl Market {
    /// Starts everything, the resource server paying through the facilitator's HTTP API.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stack = stack::Stack::start(folder.path()).await.expect("the stack starts");
        let remote = stack.remote().expect("a client of the facilitator");
        let runs = Arc::new(AtomicUsize::new(0));
        let api = api(&stack, Arc::new(remote), &runs).await;
        Self { stack, folder, api, runs }
    }

    /// The URL of a path of the API.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.api.url)
    }

    /// The URL of a path of the facilitator.
    pub fn facilitator_url(&self, path: &str) -> String {
        format!("{}{path}", self.stack.facilitator.url)
    }

    /// A gate like those of the API, without a server in front of it.
    pub async fn gate(&self) -> Gate {
        let remote = self.stack.remote().expect("a client of the facilitator");
        let server = self.stack.resource_server(Arc::new(remote)).await;
        let server = server.expect("the facilitator answers");
        server.gate(route(&self.stack)).expect("a route")
    }

    /// How often a handler ran.
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// An agent with these rules and the stack's own ledger.
    pub fn agent(&self, policy: impl Policy + 'static) -> PayingClient {
        let wallet = Wallet::builder(self.stack.ledger.clone())
            .scheme(Arc::new(self.stack.payer_scheme()))
            .policy(policy)
            .build()
            .expect("a wallet with a scheme");
        PayingClient::new(wallet).expect("an HTTP client")
    }

    /// A payment for `path`, signed and never presented. It is not in the stack's ledger.
    pub async fn signed(&self, path: &str, version: WireVersion) -> Presented {
        let answer = reqwest::get(self.url(path)).await.expect("the API answers");
        let headers = match version {
            WireVersion::V2 => answer.headers().clone(),
            WireVersion::V1 => HeaderMap::new(),
        };
        let body = answer.bytes().await.expect("a body");
        let asked = read_payment_required(&headers, &body).expect("a 402");
        let offer = asked.accepts.into_iter().next().expect("an offer");
        let scheme = self.stack.payer_scheme();
        let quote = scheme.quote(&offer).expect("an offer that can be paid");
        let ledger = SqliteLedger::open_in_memory().expect("a ledger in memory");
        let intent =
            Intent { id: Digest([0; 32]), origin: self.api.url.clone(), resource: path.into() };
        let nonce = SystemEntropy.nonce().expect("randomness");
        let now = SystemClock.now();
        let policy = OwnerPolicy::new();
        let clearance = clear(&policy, &ledger, &scheme, quote, intent, nonce, now)
            .await
            .expect("within the default limits");
        let authorized = scheme.authorize(&clearance).await.expect("a signature");
        Presented {
            version,
            scheme: offer.scheme.clone(),
            network: offer.network.clone(),
            accepted: (version == WireVersion::V2).then_some(offer),
            payload: authorized.payload,
            resource: (version == WireVersion::V2).then_some(asked.resource),
            extensions: serde_json::Map::new(),
            other: serde_json::Map::new(),
        }
    }

    /// The JSON of a v2 payment for `path`, signed and never presented.
    pub async fn signed_payment(&self, path: &str) -> Value {
        wire::encode_presented(&self.signed(path, WireVersion::V2).await)
    }

    /// Asserts that nothing happened: no transaction, no handler run.
    pub async fn assert_untouched(&self) {
        let head = self.stack.provider().get_block_number().await.expect("the chain answers");
        assert_eq!((head, self.runs()), (0, 0), "blocks mined, handler runs");
    }

    /// Asserts that the books of all roles agree with the chain, and returns the figures.
    pub async fn assert_coherent(&self) -> Coherent {
        let stack = &self.stack;
        let books =
            Books { ledger: &*stack.ledger, grants: &*stack.grants, journal: &*stack.journal };
        let compared = books::compare(&stack.provider(), &stack.accounts, &books).await;
        compared.unwrap_or_else(|error| panic!("the books differ: {error}"))
    }

    /// The payer's and the payee's tokens, now.
    pub async fn tokens(&self) -> (u128, u128) {
        let (chain, accounts) = (self.stack.provider(), &self.stack.accounts);
        let of = async |account| {
            let (_, now) = books::balances(&chain, accounts, account).await.expect("a balance");
            u128::try_from(now).expect("a dev balance")
        };
        (of(accounts.payer).await, of(accounts.payee).await)
    }
}

async fn api(
    stack: &stack::Stack,
    facilitator: Arc<dyn Facilitator>,
    runs: &Arc<AtomicUsize>,
) -> Served {
    let server = stack.resource_server(facilitator).await.expect("the facilitator answers");
    let mut app = Router::new();
    for path in PATHS {
        let runs = runs.clone();
        let answer = async move |body: Bytes| {
            runs.fetch_add(1, Ordering::SeqCst);
            Json(json!({ "ok": true, "path": path, "bytes": body.len() }))
        };
        let handler = get(answer.clone()).post(answer);
        app = app.route(path, handler.layer(server.layer(route(stack)).expect("a route")));
    }
    let failing = async || (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "out of order");
    let layer = server.layer(route(stack)).expect("a route");
    app = app.route("/failing", get(failing).layer(layer));
    stack::serve(app, 0).await.expect("a free port")
}

fn route(stack: &stack::Stack) -> Route {
    Route::new(PRICE, stack.accounts.payee.to_checksum(None))
        .on(stack.accounts.network.as_str())
        .description("end to end")
        .mime_type("application/json")
}
