//! A facilitator in its process, its node, and many payers with money.

use std::fmt::Write as _;
use std::path::Path;

use alloy::primitives::keccak256;
use alloy::signers::local::PrivateKeySigner;
use pay402::stack::{CHAIN_ID, PAYEE_INDEX, SIGNER_INDEX};
use pay402_client::OwnerPolicy;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{
    Digest, NetworkId, Payment, Presented, Price, Requirements, Scheme, WireVersion,
};
use pay402_devchain::genesis;
use pay402_evm::{AssetTable, ExactClient, ExactServer};
use pay402_store::SqliteLedger;
use serde_json::Map;
use std::net::SocketAddr;
use tokio::process::Command;

use super::process::{Process, free_address, pay402};
use crate::Result;

const PRICE: &str = "$0.001";
/// What a payer has, in atomic units: enough for 1,000,000 payments.
const FUNDS: u64 = 1_000_000_000;
/// How long a payment may take, in seconds.
const MAX_TIMEOUT_S: u64 = 300;
/// Where the facilitator finds the key of its signer.
const KEY_VARIABLE: &str = "BENCH_SIGNER_KEY";

/// What a facilitator is told beside what each one is, as TOML.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settings<'a> {
    /// Of the process.
    pub(super) general: &'a str,
    /// Of its network.
    pub(super) network: &'a str,
    /// What has a table of its own.
    pub(super) tables: &'a str,
}

/// The name of the journal in a facilitator's folder.
pub(super) const JOURNAL: &str = "journal.db";

/// Starts a facilitator on `node` with its files in `folder`, and waits until it is ready.
pub(super) async fn facilitator(node: SocketAddr, folder: &Path) -> Result<Process> {
    facilitator_with(node, folder, Settings::default()).await
}

/// The same with more settings.
pub(super) async fn facilitator_with(
    node: SocketAddr,
    folder: &Path,
    settings: Settings<'_>,
) -> Result<Process> {
    let Settings { general, network, tables } = settings;
    let address = free_address()?;
    let mut config = String::new();
    write!(
        config,
        "listen = \"{address}\"\ndatabase = \"{JOURNAL}\"\n{general}\n[[network]]\n\
         id = \"eip155:{CHAIN_ID}\"\nrpc = \"http://{node}\"\n\
         signer = {{ env = \"{KEY_VARIABLE}\" }}\n{network}\n{tables}"
    )?;
    let file = folder.join("facilitator.toml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(pay402()?);
    // A development key, public to all.
    let key = genesis::PUBLIC_DEV_KEYS[SIGNER_INDEX].to_string();
    command.arg("facilitator").arg("--config").arg(&file).env(KEY_VARIABLE, key);
    command.env("RUST_LOG", "warn").current_dir(folder);
    Process::start(command, address, Some("/readyz")).await
}

/// Those who pay.
pub(super) struct Payers {
    payers: Vec<ExactClient<PrivateKeySigner>>,
    offer: Requirements,
    ledger: SqliteLedger,
    policy: OwnerPolicy,
    signed: usize,
}

impl Payers {
    pub(super) fn new(count: usize) -> Result<Self> {
        let payers = (0..count).map(|index| {
            let key = keccak256(format!("bench payer {index}"));
            let signer = PrivateKeySigner::from_bytes(&key).expect("a hash is a key");
            ExactClient::new(signer, AssetTable::defaults())
        });
        let payers = payers.collect();
        let offer = ExactServer::new(AssetTable::defaults()).requirements(
            &NetworkId::eip155(CHAIN_ID),
            &Tariff::Usd(Price::parse(PRICE)?),
            &genesis::dev_signer(PAYEE_INDEX).address().to_string(),
            MAX_TIMEOUT_S,
        )?;
        let policy = OwnerPolicy::new().total(Price::parse("$1000000")?);
        let ledger = SqliteLedger::open_in_memory()?;
        Ok(Self { payers, offer, ledger, policy, signed: 0 })
    }

    /// Gives every payer money on `anvil`.
    pub(super) async fn fund(&self, anvil: &super::anvil::Anvil) -> Result<()> {
        for payer in &self.payers {
            anvil.fund(payer.payer().parse()?, FUNDS).await?;
        }
        Ok(())
    }

    /// Bodies for the facilitator: so many different payments for each connection, which has one
    /// payer, shared with others where there are more connections than payers.
    pub(super) async fn sign(&mut self, connections: usize, each: usize) -> Result<Vec<String>> {
        let count = connections * each;
        let mut bodies = Vec::with_capacity(count);
        for index in 0..count {
            let payer = &self.payers[index / each % self.payers.len()];
            let quote = payer.quote(&self.offer)?;
            let number = self.signed + index;
            let id = Digest::of(&[b"speed", &number.to_be_bytes()]);
            let origin = "http://127.0.0.1".to_owned();
            let intent = Intent { id, resource: format!("{origin}/{number}"), origin };
            let now = SystemClock.now();
            let policy = &self.policy;
            let clearance = clear(policy, &self.ledger, payer, quote, intent, id.0, now).await?;
            let presented = Presented {
                version: WireVersion::V2,
                scheme: Scheme::EXACT,
                network: self.offer.network.clone(),
                accepted: Some(self.offer.clone()),
                payload: payer.authorize(&clearance).await?.payload,
                resource: None,
                extensions: Map::new(),
                other: Map::new(),
            };
            let payment = Payment::pair(self.offer.clone(), presented)?;
            bodies.push(encode_facilitator_request(&payment, Endpoint::Settle).to_string());
        }
        self.signed += count;
        Ok(bodies)
    }
}
