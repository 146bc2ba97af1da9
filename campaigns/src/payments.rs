//! Payments, and what callers are told who present them as a resource server does: again, wherever
//! somebody answers, until they know.

use std::time::Duration;

use alloy::primitives::{Address, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use pay402_client::OwnerPolicy;
use pay402_core::resource::ResourceInfo;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{
    Digest, Payment, PaymentKey, Presented, Price, Requirements, Scheme, WireVersion,
};
use pay402_devchain::Devchain;
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS, usdc_balance_slot};
use pay402_evm::{AssetTable, ExactClient, ExactServer, Rpc};
use pay402_store::SqliteLedger;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::Result;
use crate::replicas::{PAYEE, network};

pub(crate) const PRICE: &str = "$0.001";
/// The same in atomic units.
pub(crate) const PRICE_ATOMIC: u64 = 1_000;
/// What a payer has at first, in atomic units.
pub(crate) const FUNDS: u64 = 1_000_000_000_000;
/// How long a payment may take, in seconds.
const MAX_TIMEOUT_S: u64 = 120;
/// Longest that one answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(90);
/// Longest that a caller asks again.
const ASK_MAX: Duration = Duration::from_secs(180);
/// Pause before it does.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Who pays, in turns.
pub(crate) struct Payers {
    clients: Vec<(Address, PrivateKeySigner, ExactClient<PrivateKeySigner>)>,
    offer: Requirements,
    ledger: SqliteLedger,
    policy: OwnerPolicy,
    made: u64,
}

/// A payment that can be presented.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) key: PaymentKey,
    payment: Payment,
}

/// What a caller knows at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It was told the success.
    Told,
    /// Somebody else was, or nobody: the success was lost with the process that told it.
    Duplicate,
    /// Something else.
    Other(String),
}

impl Payers {
    pub(crate) fn new(chain: &Devchain, count: usize) -> Result<Self> {
        let clients = (0..count).map(|index| {
            let key = keccak256(format!("campaign payer {index}"));
            let signer = PrivateKeySigner::from_bytes(&key).expect("a hash is a key");
            let address = signer.address();
            chain.set_storage(USDC_ADDRESS, usdc_balance_slot(address), U256::from(FUNDS));
            (address, signer.clone(), ExactClient::new(signer, AssetTable::defaults()))
        });
        let tariff = Tariff::Usd(Price::parse(PRICE)?);
        let payee = DEV_ACCOUNTS[PAYEE].to_string();
        let server = ExactServer::new(AssetTable::defaults());
        let offer = server.requirements(&network(), &tariff, &payee, MAX_TIMEOUT_S)?;
        let policy = OwnerPolicy::new().total(Price::parse("$1000000")?);
        let ledger = SqliteLedger::open_in_memory()?;
        Ok(Self { clients: clients.collect(), offer, ledger, policy, made: 0 })
    }

    /// Sets what the payer whose turn was last has, in atomic units.
    pub(crate) fn fund_last(&self, chain: &Devchain, funds: u64) -> Result<()> {
        let count = u64::try_from(self.clients.len())?;
        let turn = self.made.checked_sub(1).ok_or("nobody had a turn")? % count;
        let (address, ..) = self.clients[usize::try_from(turn)?];
        chain.set_storage(USDC_ADDRESS, usdc_balance_slot(address), U256::from(funds));
        Ok(())
    }

    /// The payers' addresses, as ledgers have them.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.clients.iter().map(|(address, ..)| format!("{address:#x}"))
    }

    /// The payers as wallets have them, who read on `chain` what became of their payments.
    pub(crate) fn schemes(
        &self,
        chain: &Devchain,
    ) -> impl Iterator<Item = ExactClient<PrivateKeySigner>> {
        let rpc = Rpc::provided(&network(), &chain.provider());
        self.clients.iter().map(move |(_, signer, _)| {
            let scheme = ExactClient::new(signer.clone(), AssetTable::defaults());
            scheme.with_rpc(network(), rpc.clone())
        })
    }

    /// A new payment, by the next in turn.
    pub(crate) async fn sign(&mut self) -> Result<Signed> {
        let number = self.made;
        self.made += 1;
        let turn = usize::try_from(number)? % self.clients.len();
        let (address, _, payer) = &self.clients[turn];
        let quote = payer.quote(&self.offer)?;
        let id = Digest::of(&[b"campaign", &number.to_be_bytes()]);
        let origin = "http://127.0.0.1".to_owned();
        let intent = Intent { id, resource: format!("{origin}/{number}"), origin };
        let now = SystemClock.now();
        let clearance = clear(&self.policy, &self.ledger, payer, quote, intent, id.0, now).await?;
        let payload = payer.authorize(&clearance).await?.payload;
        let nonce = payload["authorization"]["nonce"].as_str().ok_or("a payload without nonce")?;
        let asset = format!("{USDC_ADDRESS:#x}");
        let key = PaymentKey::new(&network(), &asset, &format!("{address:#x}"), nonce);
        let presented = Presented {
            version: WireVersion::V2,
            scheme: Scheme::EXACT,
            network: self.offer.network.clone(),
            accepted: Some(self.offer.clone()),
            payload,
            resource: None,
            extensions: Map::new(),
            other: Map::new(),
        };
        Ok(Signed { key, payment: Payment::pair(self.offer.clone(), presented)? })
    }
}

impl Signed {
    /// The body of `POST /verify`.
    pub(crate) fn verify_body(&self) -> String {
        encode_facilitator_request(&self.payment, Endpoint::Verify).to_string()
    }

    /// The body of `POST /settle`.
    pub(crate) fn body(&self) -> String {
        encode_facilitator_request(&self.payment, Endpoint::Settle).to_string()
    }

    /// The same, as one of several resources presents it.
    pub(crate) fn body_for(&self, resource: usize) -> Result<String> {
        let url = format!("http://127.0.0.1/resource/{resource}");
        let presented =
            Presented { resource: Some(ResourceInfo::at(url)), ..self.payment.presented().clone() };
        let payment = Payment::pair(self.payment.terms().clone(), presented)?;
        Ok(encode_facilitator_request(&payment, Endpoint::Settle).to_string())
    }
}

/// A client for callers: no proxy, no redirect.
pub(crate) fn caller() -> Result<reqwest::Client> {
    caller_for(ANSWER_MAX)
}

/// The same, which waits so long for an answer.
pub(crate) fn caller_for(patience: Duration) -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy().timeout(patience);
    Ok(client.connect_timeout(Duration::from_secs(2)).build()?)
}

/// Presents a payment until its fate is known, at `urls` in turn from the `first` on, after a pause each.
pub(crate) async fn buy(
    client: &reqwest::Client,
    urls: &[String],
    first: usize,
    body: &str,
    pause: Duration,
) -> Fate {
    let begun = Instant::now();
    let mut turn = first;
    let mut last = String::new();
    while begun.elapsed() < ASK_MAX {
        let url = format!("{}/settle", urls[turn % urls.len()]);
        match ask(client, &url, body).await {
            Ok(Some(fate)) => return fate,
            Ok(None) => {}
            Err(problem) => last = problem,
        }
        turn += 1;
        tokio::time::sleep(pause).await;
    }
    Fate::Other(format!("no answer in time, at last {last}"))
}

/// Asks once. Nothing when it has to be asked again.
pub(crate) async fn ask(
    client: &reqwest::Client,
    url: &str,
    body: &str,
) -> std::result::Result<Option<Fate>, String> {
    let asking = client.post(url).header("content-type", "application/json").body(body.to_owned());
    let answer = asking.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| error.to_string())?;
    let told: Value = serde_json::from_str(&text).map_err(|_| format!("{status} {text}"))?;
    match told["errorReason"].as_str() {
        None if told["success"] == true => Ok(Some(Fate::Told)),
        Some("duplicate_settlement") => Ok(Some(Fate::Duplicate)),
        Some("settlement_pending") => Ok(None),
        _ if status == reqwest::StatusCode::SERVICE_UNAVAILABLE => Ok(None),
        _ => Ok(Some(Fate::Other(format!("{status} {text}")))),
    }
}

/// Whether a facilitator says of a payment that it would settle.
pub(crate) async fn is_verified(
    client: &reqwest::Client,
    facilitator: &str,
    body: &str,
) -> std::result::Result<bool, String> {
    let asking = client.post(format!("{facilitator}/verify"));
    let asking = asking.header("content-type", "application/json").body(body.to_owned());
    let answer = asking.send().await.map_err(|error| error.to_string())?;
    let told: Value = answer.json().await.map_err(|error| error.to_string())?;
    Ok(told["isValid"] == true)
}
