//! What is measured: the wiring of the command line, with HTTP on the loopback interface between
//! client, resource server and facilitator, and SQLite files in a temporary folder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::routing::get;
use pay402::books::{self, Books};
use pay402_client::{OwnerPolicy, PayingClient, ReceiptStatus, Wallet};
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{Amount, Digest, Payment, Presented, Price, Scheme, WireVersion};
use pay402_devchain::Devchain;
use pay402_evm::{AssetTable, ExactServer};
use pay402_server::Route;
use pay402_store::SqliteLedger;
use serde_json::Map;
use tempfile::TempDir;

use crate::{Result, bare};

const PRICE: &str = "$0.001";
/// The price in atomic units.
const PRICE_ATOMIC: u64 = 1_000;
/// How long a payment may take, in seconds.
const MAX_TIMEOUT_S: u64 = 300;

/// The running whole.
pub(crate) struct Stack {
    /// `/data`, for a price.
    pub(crate) server: SocketAddr,
    inner: pay402::stack::Stack,
    client: PayingClient,
    bought: Arc<AtomicU64>,
    /// Removed with everything in it at the end.
    _folder: TempDir,
}

impl Stack {
    /// Starts it all.
    ///
    /// # Errors
    /// When any part does not start.
    pub(crate) async fn start() -> Result<Self> {
        let folder = TempDir::new()?;
        let inner = pay402::stack::Stack::start(folder.path()).await?;
        let selling = inner.resource_server(Arc::new(inner.remote()?)).await?;
        let route = Route::new(PRICE, inner.accounts.payee.to_string())
            .on(inner.accounts.network.as_str())
            .max_timeout_seconds(MAX_TIMEOUT_S);
        let data = get(bare::data).layer(selling.layer(route)?);
        let server = bare::start(Router::new().route("/data", data)).await?;
        let wallet = Wallet::builder(inner.ledger.clone())
            .scheme(Arc::new(inner.payer_scheme()))
            .policy(generous_policy()?)
            .build()?;
        let client = PayingClient::new(wallet)?;
        let bought = Arc::new(AtomicU64::new(0));
        Ok(Self { server, inner, client, bought, _folder: folder })
    }

    /// The chain.
    pub(crate) const fn chain(&self) -> &Devchain {
        &self.inner.chain
    }

    /// Where the facilitator listens.
    ///
    /// # Errors
    /// When its URL is not an address.
    pub(crate) fn facilitator(&self) -> Result<SocketAddr> {
        Ok(self.inner.facilitator.url.trim_start_matches("http://").parse()?)
    }

    /// Bodies for `POST /verify`: `count` different payments, each signed and payable.
    ///
    /// # Errors
    /// When one cannot be made.
    pub(crate) async fn signed_payments(&self, count: usize) -> Result<Vec<String>> {
        let (payer, accounts) = (self.inner.payer_scheme(), &self.inner.accounts);
        let (ledger, policy) = (SqliteLedger::open_in_memory()?, generous_policy()?);
        let offer = ExactServer::new(AssetTable::defaults()).requirements(
            &accounts.network,
            &Tariff::Usd(Price::parse(PRICE)?),
            &accounts.payee.to_string(),
            MAX_TIMEOUT_S,
        )?;
        let mut bodies = Vec::with_capacity(count);
        for index in 0..count {
            let quote = payer.quote(&offer)?;
            let id = Digest::of(&[b"bench", &index.to_be_bytes()]);
            let origin = "http://127.0.0.1".to_owned();
            let intent = Intent { id, resource: format!("{origin}/data"), origin };
            let now = SystemClock.now();
            let clearance = clear(&policy, &ledger, &payer, quote, intent, id.0, now).await?;
            let presented = Presented {
                version: WireVersion::V2,
                scheme: Scheme::EXACT,
                network: accounts.network.clone(),
                accepted: Some(offer.clone()),
                payload: payer.authorize(&clearance).await?.payload,
                resource: None,
                extensions: Map::new(),
                other: Map::new(),
            };
            let payment = Payment::pair(offer.clone(), presented)?;
            bodies.push(encode_facilitator_request(&payment, Endpoint::Settle).to_string());
        }
        Ok(bodies)
    }

    /// Somebody who buys; shares the wallet with all others.
    pub(crate) fn buyer(&self) -> Buyer {
        Buyer {
            client: self.client.clone(),
            url: format!("http://{}/data", self.server),
            bought: self.bought.clone(),
        }
    }

    /// Checks that the books of all roles agree with the chain, and that what was bought is what
    /// was paid for.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) async fn finish(self) -> Result<()> {
        let books = Books {
            ledger: &*self.inner.ledger,
            grants: &*self.inner.grants,
            journal: &*self.inner.journal,
        };
        let provider = self.inner.provider();
        let coherent = books::compare(&provider, &self.inner.accounts, &books).await?;
        let bought = self.bought.load(Ordering::Relaxed);
        if coherent.paid != Amount::from(bought * PRICE_ATOMIC) {
            return Err(format!("{bought} purchases, and {} was paid", coherent.paid).into());
        }
        Ok(())
    }
}

/// A client that buys the same thing again and again, as different purchases.
pub(crate) struct Buyer {
    client: PayingClient,
    url: String,
    bought: Arc<AtomicU64>,
}

impl Buyer {
    /// Makes purchase number `count`.
    ///
    /// # Errors
    /// When it is not paid for and answered.
    pub(crate) async fn buy(&self, count: usize) -> Result<()> {
        let url = format!("{}?purchase={count}", self.url).parse()?;
        let request = reqwest::Request::new(reqwest::Method::GET, url);
        let paid = self.client.execute(request).await?;
        let status = paid.response.status();
        let text = paid.response.text().await?;
        if !status.is_success() || !text.contains("temperature") {
            return Err(format!("purchase {count} was answered {status}: {text}").into());
        }
        if !matches!(paid.receipt.status, ReceiptStatus::Settled) {
            return Err(format!("purchase {count} was not settled: {:?}", paid.receipt).into());
        }
        self.bought.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Rules wide enough for every round.
fn generous_policy() -> Result<OwnerPolicy> {
    Ok(OwnerPolicy::new().total(Price::parse("$100000")?))
}
