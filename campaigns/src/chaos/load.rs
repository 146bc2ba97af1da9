//! Payments, each presented by several callers who go on asking until they are told how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use pay402_client::OwnerPolicy;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{
    Digest, NetworkId, Payment, Presented, Price, Refusal, Requirements, Scheme, WireVersion,
};
use pay402_devchain::Devchain;
use pay402_devchain::genesis::{USDC_ADDRESS, usdc_balance_slot};
use pay402_evm::{AssetTable, ExactClient, ExactServer};
use pay402_store::SqliteLedger;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::Result;
use crate::rounds::Random;

/// Who pays, in turns.
const PAYERS: u64 = 32;
/// What a payer has, in atomic units.
const FUNDS: u64 = 1_000_000_000_000;
/// How long an authorization is good, in seconds: longer than any fault.
const LIFETIME_S: u64 = 900;
/// Pause of a caller who was told that the outcome is not known yet.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest that a caller waits for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Below the value tier, or in it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Worth {
    Low,
    High,
}

/// A signed payment.
pub(crate) struct Order {
    pub(crate) worth: Worth,
    pub(crate) payer: Address,
    pub(crate) nonce: B256,
    pub(crate) value: U256,
    body: String,
}

/// What callers were told of a payment in the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// The transactions of every success that was told.
    pub(crate) successes: Vec<String>,
    /// The codes of every final refusal.
    pub(crate) refusals: Vec<String>,
    /// Callers who were told nothing final before they gave up.
    pub(crate) given_up: usize,
    /// How long it took until the last was told, since the payment was first presented.
    pub(crate) took: Duration,
}

/// Those who pay, and what for.
pub(crate) struct Payers {
    payers: Vec<ExactClient<PrivateKeySigner>>,
    offers: BTreeMap<Worth, Requirements>,
    random: Random,
    policy: OwnerPolicy,
    ledger: SqliteLedger,
    seed: u64,
    made: u64,
}

impl Payers {
    pub(crate) fn new(
        chain: &Devchain,
        (low, high): (&str, &str),
        payee: Address,
        seed: u64,
    ) -> Result<Self> {
        let payers = (0..PAYERS).map(|index| {
            let key = keccak256(format!("chaos payer {index}"));
            let signer = PrivateKeySigner::from_bytes(&key)?;
            let slot = usdc_balance_slot(signer.address());
            chain.set_storage(USDC_ADDRESS, slot, U256::from(FUNDS));
            Ok(ExactClient::new(signer, AssetTable::defaults()))
        });
        let id = NetworkId::eip155(chain.chain_id());
        let offer = |price: &str| -> Result<Requirements> {
            let tariff = Tariff::Usd(Price::parse(price)?);
            let server = ExactServer::new(AssetTable::defaults());
            Ok(server.requirements(&id, &tariff, &payee.to_string(), LIFETIME_S)?)
        };
        Ok(Self {
            payers: payers.collect::<Result<_>>()?,
            offers: [(Worth::Low, offer(low)?), (Worth::High, offer(high)?)].into(),
            random: Random::of(seed, "load"),
            policy: OwnerPolicy::new()
                .total(Price::parse("$1000000000")?)
                .per_payment(Price::parse("$1000000")?),
            ledger: SqliteLedger::open_in_memory()?,
            seed,
            made: 0,
        })
    }

    /// One more payment, by the next payer.
    pub(crate) async fn next(&mut self) -> Result<Order> {
        let worth = if self.random.happens(300) { Worth::High } else { Worth::Low };
        let payer = &self.payers[usize::try_from(self.made % PAYERS)?];
        let offer = &self.offers[&worth];
        let id = Digest(keccak256([self.seed.to_be_bytes(), self.made.to_be_bytes()].concat()).0);
        self.made += 1;
        let origin = "http://127.0.0.1".to_owned();
        let intent = Intent { id, resource: format!("{origin}/{}", self.made), origin };
        let (quote, now) = (payer.quote(offer)?, SystemClock.now());
        let clearance = clear(&self.policy, &self.ledger, payer, quote, intent, id.0, now).await?;
        let payload = payer.authorize(&clearance).await?.payload;
        let authorization = &payload["authorization"];
        let text = |field: &str| authorization[field].as_str().unwrap_or_default().to_owned();
        let (payer, nonce, value) = (text("from"), text("nonce"), text("value"));
        let presented = Presented {
            version: WireVersion::V2,
            scheme: Scheme::EXACT,
            network: offer.network.clone(),
            accepted: Some(offer.clone()),
            payload,
            resource: None,
            extensions: Map::new(),
            other: Map::new(),
        };
        let payment = Payment::pair(offer.clone(), presented)?;
        Ok(Order {
            worth,
            payer: payer.parse()?,
            nonce: nonce.parse()?,
            value: value.parse()?,
            body: encode_facilitator_request(&payment, Endpoint::Settle).to_string(),
        })
    }

    /// How many callers present the next payment.
    pub(crate) fn callers(&mut self) -> usize {
        [1, 1, 2, 3][usize::try_from(self.random.below(4)).unwrap_or(0)]
    }
}

impl Order {
    /// One that was never signed.
    #[cfg(test)]
    pub(crate) const fn of(worth: Worth, value: U256) -> Self {
        Self { worth, payer: Address::ZERO, nonce: B256::ZERO, value, body: String::new() }
    }

    /// Presents it by so many callers, until each was told how it ended.
    pub(crate) async fn present(
        &self,
        http: &reqwest::Client,
        facilitator: &str,
        callers: usize,
        give_up: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Told {
        let (began, give_up) = (Instant::now(), Arc::new(give_up));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let (http, body) = (http.clone(), self.body.clone());
            let (url, give_up) = (format!("{facilitator}/settle"), Arc::clone(&give_up));
            asking.spawn(async move { ask(&http, &url, &body, &*give_up).await });
        }
        let mut told = Told::default();
        for ended in asking.join_all().await {
            match ended {
                Some(Ok(transaction)) => told.successes.push(transaction),
                Some(Err(code)) => told.refusals.push(code),
                None => told.given_up += 1,
            }
        }
        told.took = began.elapsed();
        told
    }
}

/// Asks until the answer is final: the transaction, or the code of a refusal.
async fn ask(
    http: &reqwest::Client,
    url: &str,
    body: &str,
    give_up: &(impl Fn() -> bool + Send + Sync),
) -> Option<std::result::Result<String, String>> {
    while !give_up() {
        let request = http.post(url).header("content-type", "application/json");
        let answered = async {
            let answer = request.body(body.to_owned()).timeout(ANSWER_MAX).send().await.ok()?;
            let status = answer.status();
            Some((status, answer.json::<Value>().await.ok()?))
        };
        if let Some((status, answer)) = answered.await {
            let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
            if answer["success"] == true {
                return Some(Ok(text("transaction")));
            }
            let code = text("errorReason");
            let is_open = code == Refusal::SettlementPending.code() || status.is_server_error();
            if !is_open && !code.is_empty() {
                return Some(Err(code));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}
