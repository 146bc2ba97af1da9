//! How many settlements a second a facilitator with one signer makes, where blocks come every second:
//! beside the most that can be, one answer for each connection and block.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use pay402::stack::{CHAIN_ID, PAYEE_INDEX, SIGNER_INDEX, Served, serve};
use pay402_client::OwnerPolicy;
use pay402_core::network::Network;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{
    Digest, NetworkId, Payment, Presented, Price, Requirements, Scheme, WireVersion,
};
use pay402_devchain::genesis::{self, USDC_ADDRESS, usdc_balance_slot};
use pay402_devchain::{Config, Devchain, Mining};
use pay402_evm::network::pack::{PACK_WAIT_DEFAULT, PackSettings};
use pay402_evm::{AssetTable, EvmNetwork, ExactClient, ExactServer, Settings};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::{Engine, Options};
use pay402_store::{SqliteJournal, SqliteLedger};
use serde_json::Map;
use tempfile::TempDir;

use crate::load::{self, Shape, Target};
use crate::report::{Bench, Round, Unit};
use crate::{Extent, Result};

pub(crate) const NAMES: &[&str] =
    &["settle_rate_64", "settle_rate_512", "settle_rate_packed_64", "settle_rate_packed_512"];

/// Connections at once, and how long a payment waits to be packed, for each of [`NAMES`].
const LOADS: [(usize, Option<Duration>); 4] =
    [(64, None), (512, None), (64, Some(PACK_WAIT_DEFAULT)), (512, Some(PACK_WAIT_DEFAULT))];
/// Settlements on each connection, per round.
const EACH: usize = 4;
/// Rounds at most: each takes as many seconds as a connection has settlements.
const ROUNDS_MAX: usize = 3;
const BLOCK_TIME: Duration = Duration::from_secs(1);
/// Enough for 1,500 settlements in a block.
const BLOCK_GAS: u64 = 120_000_000;
/// Who pays, in turns: a facilitator lets one payer have 16 settlements under way.
const PAYERS: usize = 64;
const PRICE: &str = "$0.001";
/// How long a payment may take, in seconds.
const MAX_TIMEOUT_S: u64 = 300;

/// Settles over HTTP, with a node over HTTP and the journal on disk.
pub(crate) async fn run(extent: Extent) -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for (name, (connections, wait)) in NAMES.iter().zip(LOADS) {
        let town = Town::start(wait).await?;
        let mut rounds = Vec::new();
        for _ in 0..extent.rounds.min(ROUNDS_MAX) {
            let each = if extent.divisor > 1 { 2 } else { EACH };
            let bodies = town.payments(connections, each).await?;
            let settle = Target::post(town.facilitator, "/settle", &bodies);
            let settle = settle.answering("\"success\":true");
            let subject = load::per_second(&settle, Shape { connections, each }).await?;
            let reference = connections as f64 / BLOCK_TIME.as_secs_f64();
            rounds.push(Round { subject, reference });
        }
        town.finish().await?;
        let against = "one answer for each connection and block";
        benches.push(Bench { name, against, unit: Unit::PerSecond, rounds });
    }
    Ok(benches)
}

/// A chain behind a port, a facilitator, and many payers.
struct Town {
    chain: Devchain,
    facilitator: SocketAddr,
    payers: Vec<ExactClient<PrivateKeySigner>>,
    offer: Requirements,
    settled: std::cell::Cell<usize>,
    packs: bool,
    _node: pay402_devchain::Serving,
    _served: Served,
    _folder: TempDir,
}

impl Town {
    async fn start(wait: Option<Duration>) -> Result<Self> {
        let folder = TempDir::new()?;
        let chain = Devchain::start(Config {
            chain_id: CHAIN_ID,
            mining: Mining::Interval(BLOCK_TIME),
            gas_limit: BLOCK_GAS,
            ..Config::default()
        });
        let node = chain.serve(([127, 0, 0, 1], 0).into()).await?;
        let id = NetworkId::eip155(CHAIN_ID);
        let signers = vec![genesis::dev_signer(SIGNER_INDEX)];
        let (assets, clock) = (AssetTable::defaults(), Arc::new(SystemClock));
        let network = EvmNetwork::connect(
            id.clone(),
            &node.http_url(),
            signers,
            assets,
            clock.clone(),
            Settings {
                packing: PackSettings { wait, ..PackSettings::default() },
                ..Settings::default()
            },
        )?;
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network)];
        let journal = Arc::new(SqliteJournal::open(folder.path().join("journal.db"))?);
        let engine = Engine::start(networks, journal, clock, Options::default()).await?;
        let served = serve(router(engine, Access::Open), 0).await?;
        let facilitator = served.url.trim_start_matches("http://").parse()?;
        let payers = (0..PAYERS).map(|index| {
            let key = keccak256(format!("bench payer {index}"));
            let signer = PrivateKeySigner::from_bytes(&key).expect("a hash is a key");
            let slot = usdc_balance_slot(signer.address());
            chain.set_storage(USDC_ADDRESS, slot, U256::from(1_000_000_000_u64));
            ExactClient::new(signer, AssetTable::defaults())
        });
        let payers = payers.collect();
        let offer = ExactServer::new(AssetTable::defaults()).requirements(
            &id,
            &Tariff::Usd(Price::parse(PRICE)?),
            &genesis::dev_signer(PAYEE_INDEX).address().to_string(),
            MAX_TIMEOUT_S,
        )?;
        let settled = std::cell::Cell::new(0);
        let (_node, _served, _folder) = (node, served, folder);
        let packs = wait.is_some();
        Ok(Self { chain, facilitator, payers, offer, settled, packs, _node, _served, _folder })
    }

    /// Bodies of `POST /settle`: so many for each connection, which has one payer.
    async fn payments(&self, connections: usize, each: usize) -> Result<Vec<String>> {
        let count = connections * each;
        let ledger = SqliteLedger::open_in_memory()?;
        let policy = OwnerPolicy::new().total(Price::parse("$100000")?);
        let first = self.settled.get();
        let mut bodies = Vec::with_capacity(count);
        for index in first..first + count {
            let payer = &self.payers[index / each % PAYERS];
            let quote = payer.quote(&self.offer)?;
            let id = Digest::of(&[b"settle", &index.to_be_bytes()]);
            let origin = "http://127.0.0.1".to_owned();
            let intent = Intent { id, resource: format!("{origin}/{index}"), origin };
            let now = SystemClock.now();
            let clearance = clear(&policy, &ledger, payer, quote, intent, id.0, now).await?;
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
        self.settled.set(first + count);
        Ok(bodies)
    }

    /// Compares what was answered with what was mined: the payee has it all, by one transaction for each
    /// settlement, or by fewer where they are packed.
    async fn finish(self) -> Result<()> {
        use alloy::providers::Provider as _;
        let signer = genesis::dev_signer(SIGNER_INDEX).address();
        let sent = self.chain.provider().get_transaction_count(signer).await?;
        let settled = self.settled.get();
        let sent = usize::try_from(sent)?;
        let is_right = if self.packs { sent > 0 && sent < settled } else { sent == settled };
        if !is_right {
            return Err(format!("{settled} settlements, and {sent} transactions").into());
        }
        if self.packs {
            eprintln!("bench: {settled} settlements in {sent} transactions");
        }
        Ok(())
    }
}
