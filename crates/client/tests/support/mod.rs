//! A chain and a scheme that are tables, and an HTTP server that follows a script.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

pub mod server;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use pay402_client::{OwnerPolicy, PayingClient, RetryRules, Wallet};
use pay402_core::asset::{AssetId, canonical_address};
use pay402_core::error::Unavailable;
use pay402_core::payment::PaymentRequired;
use pay402_core::resource::ResourceInfo;
use pay402_core::scheme::{Authorized, ClientScheme, Decline, Fate, Unplanned};
use pay402_core::spend::{Clearance, Ledger, Quote, Spent};
use pay402_core::time::{Clock, ManualClock, UnixTime};
use pay402_core::{Digest, NetworkId, Requirements, Scheme, WireVersion};
use pay402_store::SqliteLedger;
use serde_json::{Map, Value, json};

pub const PAYER: &str = "0x70997970c51812dc3a010c7d01b50e0d17dc79c8";
pub const PAYEE: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
/// 6 decimals, a dollar.
pub const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
/// 18 decimals, a dollar.
pub const DAI: &str = "0x00000000000000000000000000000000000000da";
/// 6 decimals, no dollar.
pub const EURC: &str = "0x00000000000000000000000000000000000000e0";
pub const NOW: u64 = 1_800_000_000;
pub const TX: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

pub fn network() -> NetworkId {
    NetworkId::eip155(84532)
}

/// What the chain knows of nonces. Without an entry an authorization is live until it expires.
pub struct Chain {
    clock: Arc<ManualClock>,
    used: Mutex<HashMap<[u8; 32], Took>>,
    pub down: AtomicBool,
    pub asked: AtomicUsize,
}

impl Chain {
    pub fn settle(&self, nonce: [u8; 32]) {
        self.settle_for(nonce, Took::All);
    }

    pub fn settle_for(&self, nonce: [u8; 32], took: Took) {
        self.used.lock().expect("no panic while held").insert(nonce, took);
    }
}

/// How much of an authorization was taken, as the chain shows it.
#[derive(Clone, Copy, Debug)]
pub enum Took {
    All,
    Part(u64),
    /// The chain shows that it was used, but not for how much.
    Unseen,
}

/// A scheme whose "signature" is a digest of what is signed.
pub struct FakeScheme {
    pub kind: Scheme,
    /// What it adds to extensions.
    pub extensions: Mutex<Map<String, Value>>,
    pub chain: Arc<Chain>,
    pub signed: Mutex<Vec<Clearance>>,
    pub broken: AtomicBool,
    /// What a plan in an asset fails with, by the asset's address.
    pub unplanned: Mutex<HashMap<String, Unplanned>>,
    pub planned: AtomicUsize,
}

/// What every nonce that [`FakeScheme`] plans begins with.
pub const NONCE_BEGINS: [u8; 4] = *b"plan";

impl FakeScheme {
    pub fn signed(&self) -> Vec<Clearance> {
        self.signed.lock().expect("no panic while held").clone()
    }

    pub fn nonces(&self) -> Vec<[u8; 32]> {
        let mut nonces: Vec<_> =
            self.signed().iter().map(|clearance| clearance.reservation().plan.nonce).collect();
        nonces.sort_unstable();
        nonces.dedup();
        nonces
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl ClientScheme for FakeScheme {
    fn scheme(&self) -> Scheme {
        self.kind.clone()
    }

    fn payer(&self) -> String {
        PAYER.into()
    }

    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline> {
        if offer.scheme != self.kind || offer.network != network() {
            return Err(Decline("another scheme or network".into()));
        }
        let asset = AssetId::new(offer.network.clone(), &offer.asset);
        let (symbol, decimals, is_dollar) = match asset.address.as_str() {
            address if address == canonical_address(USDC) => ("USDC", 6, true),
            DAI => ("DAI", 18, true),
            EURC => ("EURC", 6, false),
            _ => return Err(Decline("the asset is not in the table".into())),
        };
        Ok(Quote {
            offer: offer.clone(),
            scheme: self.kind.clone(),
            asset,
            symbol: symbol.into(),
            decimals,
            amount: offer.amount,
            pay_to: canonical_address(&offer.pay_to),
            is_dollar,
        })
    }

    async fn plan_nonce(&self, quote: &Quote, fresh: [u8; 32]) -> Result<[u8; 32], Unplanned> {
        self.planned.fetch_add(1, Ordering::SeqCst);
        let unplanned = self.unplanned.lock().expect("no panic while held");
        if let Some(why) = unplanned.get(&quote.asset.address) {
            return Err(why.clone());
        }
        let mut nonce = fresh;
        nonce[..4].copy_from_slice(&NONCE_BEGINS);
        Ok(nonce)
    }

    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(Unavailable::new("signer", "switched off"));
        }
        self.signed.lock().expect("no panic while held").push(clearance.clone());
        let plan = &clearance.reservation().plan;
        let value = clearance.reservation().quote.amount.to_string();
        let signature = Digest::of(&[&plan.nonce, value.as_bytes()]);
        let payload = json!({
            "signature": hex(&signature.0),
            "authorization": {
                "from": PAYER, "value": value, "nonce": hex(&plan.nonce),
                "validAfter": plan.valid_after.to_string(),
                "validBefore": plan.valid_before.to_string(),
            },
        });
        let Value::Object(payload) = payload else { unreachable!("an object was written") };
        Ok(Authorized { payload })
    }

    async fn extensions(&self, _: &Clearance, _: &Map<String, Value>) -> Map<String, Value> {
        self.extensions.lock().expect("no panic while held").clone()
    }

    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        Ok(hex(&Digest::of(&[b"id", &clearance.reservation().plan.nonce]).0))
    }

    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        self.chain.asked.fetch_add(1, Ordering::SeqCst);
        if self.chain.down.load(Ordering::SeqCst) {
            return Err(Unavailable::new("rpc", "switched off"));
        }
        let plan = &clearance.reservation().plan;
        let used = self.chain.used.lock().expect("no panic while held").get(&plan.nonce).copied();
        Ok(match used {
            Some(took) => {
                let charged = match took {
                    Took::All => Some(clearance.reservation().quote.amount),
                    Took::Part(amount) => Some(amount.into()),
                    Took::Unseen => None,
                };
                Fate::Used { transaction: Some(TX.to_owned()), charged }
            }
            None if self.chain.clock.now() >= plan.valid_before => Fate::Dead,
            None => Fate::Live,
        })
    }
}

/// Everything a paying process has, with handles to look inside.
pub struct World {
    pub clock: Arc<ManualClock>,
    pub chain: Arc<Chain>,
    pub scheme: Arc<FakeScheme>,
    /// Pays metered offers.
    pub meter: Arc<FakeScheme>,
    pub ledger: Arc<SqliteLedger>,
    pub policy: OwnerPolicy,
    pub retry: RetryRules,
}

impl World {
    pub fn new() -> Self {
        Self::on(SqliteLedger::open_in_memory().expect("a ledger in memory opens"))
    }

    pub fn on(ledger: SqliteLedger) -> Self {
        let clock = Arc::new(ManualClock::new(UnixTime(NOW)));
        let chain = Arc::new(Chain {
            clock: Arc::clone(&clock),
            used: Mutex::default(),
            down: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
        });
        let scheme = |kind| {
            Arc::new(FakeScheme {
                kind,
                extensions: Mutex::default(),
                chain: Arc::clone(&chain),
                signed: Mutex::default(),
                broken: AtomicBool::new(false),
                unplanned: Mutex::default(),
                planned: AtomicUsize::new(0),
            })
        };
        let (scheme, meter) = (scheme(Scheme::EXACT), scheme(Scheme::UPTO));
        let retry = RetryRules {
            presentations_max: 3,
            window: Duration::from_secs(20),
            first_pause: Duration::from_millis(5),
        };
        let policy = OwnerPolicy::new();
        Self { clock, chain, scheme, meter, ledger: Arc::new(ledger), policy, retry }
    }

    pub fn wallet(&self) -> Wallet {
        Wallet::builder(Arc::clone(&self.ledger) as Arc<dyn Ledger>)
            .scheme(Arc::clone(&self.scheme) as Arc<dyn ClientScheme>)
            .scheme(Arc::clone(&self.meter) as Arc<dyn ClientScheme>)
            .policy(self.policy.clone())
            .clock(Arc::clone(&self.clock) as Arc<dyn Clock>)
            .build()
            .expect("the wallet has a scheme")
    }

    /// A new client over the same ledger and chain: what a restart leaves.
    pub fn client(&self) -> PayingClient {
        PayingClient::builder(self.wallet())
            .retry(self.retry)
            .answer_wait(Duration::from_secs(2))
            .http(|| reqwest::Client::builder().no_proxy())
            .build()
            .expect("the settings are right")
    }

    pub async fn spent(&self) -> Spent {
        let asset = AssetId::new(network(), USDC);
        self.ledger.spent(PAYER, &asset).await.expect("the ledger answers")
    }

    /// (posted, reserved) in atomic units of USDC.
    pub async fn books(&self) -> (u64, u64) {
        let spent = self.spent().await;
        let small = |amount: pay402_core::Amount| {
            amount.to_string().parse().expect("tests use small amounts")
        };
        (small(spent.posted), small(spent.reserved))
    }
}

pub fn offer(amount: &str, asset: &str) -> Requirements {
    Requirements {
        scheme: Scheme::EXACT,
        network: network(),
        amount: amount.parse().expect("an amount"),
        asset: asset.into(),
        pay_to: PAYEE.into(),
        max_timeout_seconds: 60,
        extra: Map::from_iter([("name".to_owned(), json!("USDC")), ("version".into(), json!("2"))]),
        other: Map::new(),
    }
}

/// A metered offer with this ceiling.
pub fn metered(ceiling: &str) -> Requirements {
    Requirements { scheme: Scheme::UPTO, ..offer(ceiling, USDC) }
}

pub fn required(url: &str, accepts: Vec<Requirements>) -> PaymentRequired {
    PaymentRequired {
        version: WireVersion::V2,
        error: None,
        resource: ResourceInfo::at(url),
        accepts,
        extensions: Map::new(),
        other: Map::new(),
    }
}

pub fn get(url: &str) -> reqwest::Request {
    let url = reqwest::Url::parse(url).expect("a URL");
    reqwest::Request::new(reqwest::Method::GET, url)
}
