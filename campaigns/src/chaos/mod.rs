//! `chaos`: a facilitator whose three nodes fail, lag and lie, on a chain that reorganises.
//!
//! The chain is the embedded one: it can reorganise, forget transactions and set its base fee, all of
//! which the weather here does. Each round is a chain, a journal and a facilitator of its own; what was
//! told and what was written is then held against the chain (see `oracle`).

mod faults;
mod load;
mod oracle;
mod proxy;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use alloy::primitives::Address;
use pay402_core::NetworkId;
use pay402_core::journal::Journal;
use pay402_devchain::{Config, Devchain, Mining, ReorgTransactions, genesis};
use pay402_store::{PgJournal, SqliteJournal};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::faults::{Counts, Faults, Odds};
use self::load::{Order, Payers, Told};
use self::oracle::Figures;
use self::proxy::Proxy;
use crate::Result;
use crate::postgres::Cluster;
use crate::replicas::audit;
use crate::rounds::{Extent, Plan, Random, Store};

const CHAIN_ID: u64 = pay402::stack::CHAIN_ID;
const BLOCK_TIME: Duration = Duration::from_secs(1);
/// How deep reorganisations go, in blocks.
const REORG_BLOCKS_MAX: u64 = 8;
/// The block after which reorganisations begin.
const OLD_ENOUGH: u64 = 2 * REORG_BLOCKS_MAX;
/// Confirmations in the tier: one more than a reorganisation reaches.
const CONFIRMATIONS: u64 = REORG_BLOCKS_MAX + 2;
/// Nodes that must agree in the tier.
const AGREEING: usize = 2;
/// Where the tier begins, and what payments below and in it are worth.
const TIER: &str = "10.00 USDC";
const PRICES: (&str, &str) = ("$0.01", "$25");
/// Time between two payments.
const PACE: Duration = Duration::from_millis(300);
/// How much the base fee jumps.
const SPIKE: u64 = 50;
/// Longest until everything is final after the faults have stopped.
const SETTLING_MAX: Duration = Duration::from_secs(5 * 60);
/// How long nothing is open before the facilitator is stopped: what it was told is looked at again meanwhile.
const QUIET: Duration = Duration::from_secs(15);
/// The gauge of what is open, in the facilitator's figures.
const OPEN: &str = "x402_entries{";
/// Longest until the facilitator listens.
const START_MAX: Duration = Duration::from_secs(60);

/// Faults of every node, in a thousand.
const ODDS: Odds = Odds {
    delay: 20,
    timeout: 100,
    lost: 50,
    error: 50,
    stale: 50,
    forged: 0,
    other_chain: 2,
    twice: 20,
    dropped: 10,
};
/// The node that lies, beside that.
const LIAR: usize = 0;
const FORGED: u64 = 20;

/// Rounds, and how long the faults of each last.
const fn rounds(extent: Extent) -> (u64, Duration) {
    match extent {
        Extent::Short => (1, Duration::from_secs(45)),
        Extent::Long => (3, Duration::from_secs(10 * 60)),
    }
}

/// Runs the campaign and returns its line of figures.
///
/// # Errors
/// When it could not be run, or found a violation.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let (count, lasting) = rounds(plan.extent);
    let mut sum = Figures::default();
    let storms = Arc::new(Storms::default());
    let mut counts = Counts::default();
    let (mut ran, mut done) = (0, 0);
    for round in plan.rounds(count) {
        if plan.done(round).is_some() {
            done += 1;
            continue;
        }
        eprintln!("chaos: round {} of {count}", round + 1);
        let town = Town::start(plan, plan.seed_of(round)).await?;
        let figures = town.round(lasting, &storms, &mut counts).await?;
        for violation in &figures.violations {
            eprintln!("VIOLATION {violation}");
        }
        if figures.violations.is_empty() {
            plan.note(round, &figures.to_string().into())?;
        }
        sum.add(figures);
        ran += 1;
    }
    let line = format!(
        "chaos: seed={} store={} rounds={ran} done_before={done} {sum}{counts}{storms}",
        plan.seed,
        plan.store.name(),
    );
    match sum.violations.len() {
        0 => Ok(line),
        count => Err(format!("{count} violations; {line}").into()),
    }
}

/// How often the chain did what chains do.
#[derive(Debug, Default)]
struct Storms {
    reorgs: AtomicU64,
    spikes: AtomicU64,
    forgotten: AtomicU64,
}

impl fmt::Display for Storms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (reorgs, spikes) = (read(&self.reorgs), read(&self.spikes));
        write!(f, " reorgs={reorgs} spikes={spikes} forgotten={}", read(&self.forgotten))
    }
}

/// One round's world.
struct Town {
    chain: Devchain,
    proxies: Vec<Proxy>,
    facilitator: Facilitator,
    journal: Place,
    payee: Address,
    seed: u64,
    folder: tempfile::TempDir,
}

/// Where the journal of a round is.
enum Place {
    File(PathBuf),
    Database { url: String, _cluster: &'static Cluster },
}

impl Place {
    async fn open(&self) -> Result<Box<dyn Journal>> {
        Ok(match self {
            Self::File(path) => Box::new(SqliteJournal::open(path)?),
            Self::Database { url, .. } => Box::new(PgJournal::open(url, None).await?),
        })
    }
}

impl Town {
    async fn start(plan: &Plan, seed: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mining = Mining::Interval(BLOCK_TIME);
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, mining, ..Config::default() });
        let mut proxies = Vec::new();
        for node in 0..3 {
            let forged = if node == LIAR { FORGED } else { 0 };
            let faults = Faults::new(seed.wrapping_mul(3) + node as u64, Odds { forged, ..ODDS });
            proxies.push(Proxy::start(chain.rpc_client(), faults).await?);
        }
        let journal = match plan.store {
            Store::Sqlite => Place::File(folder.path().join("journal.db")),
            Store::Postgres => {
                let cluster = Cluster::shared();
                Place::Database { url: cluster.database().url(), _cluster: cluster }
            }
        };
        let urls: Vec<&str> = proxies.iter().map(|proxy| proxy.url.as_str()).collect();
        let facilitator = Facilitator::start(&plan.bin, folder.path(), &journal, &urls).await?;
        let payee = genesis::dev_signer(pay402::stack::PAYEE_INDEX).address();
        Ok(Self { chain, proxies, facilitator, journal, payee, seed, folder })
    }

    async fn round(
        mut self,
        lasting: Duration,
        storms: &Arc<Storms>,
        counts: &mut Counts,
    ) -> Result<Figures> {
        let mut payers = Payers::new(&self.chain, PRICES, self.payee, self.seed)?;
        let (http, gave_up) = (reqwest::Client::new(), Arc::new(AtomicBool::new(false)));
        let weather = tokio::spawn(weather(self.chain.clone(), self.seed, Arc::clone(storms)));
        let mut presenting: JoinSet<(Order, Told)> = JoinSet::new();
        self.proxies.iter().for_each(|proxy| proxy.faults.turn(true));
        let began = Instant::now();
        while began.elapsed() < lasting {
            let (order, callers) = (payers.next().await?, payers.callers());
            let (http, url) = (http.clone(), self.facilitator.url.clone());
            let gave_up = Arc::clone(&gave_up);
            presenting.spawn(async move {
                let is_over = move || gave_up.load(Ordering::SeqCst);
                let told = order.present(&http, &url, callers, is_over).await;
                (order, told)
            });
            self.facilitator.check()?;
            tokio::time::sleep(PACE).await;
        }
        let stopped = Instant::now();
        weather.abort();
        self.proxies.iter().for_each(|proxy| proxy.faults.turn(false));
        self.proxies.iter().for_each(|proxy| proxy.faults.add_to(counts));
        let mut presented = Vec::new();
        loop {
            let left = SETTLING_MAX.saturating_sub(stopped.elapsed());
            match tokio::time::timeout(left, presenting.join_next()).await {
                Ok(Some(ended)) => presented.push(ended?),
                Ok(None) => break,
                // From now on whoever still asks gives up, and is counted.
                Err(_) => gave_up.store(true, Ordering::SeqCst),
            }
            if gave_up.load(Ordering::SeqCst) {
                while let Some(ended) = presenting.join_next().await {
                    presented.push(ended?);
                }
                break;
            }
        }
        self.facilitator.check()?;
        self.facilitator.wait_until_quiet(stopped + SETTLING_MAX).await?;
        self.facilitator.stop().await?;
        let journal = self.journal.open().await?;
        let network = NetworkId::eip155(CHAIN_ID);
        let provider = self.chain.provider();
        let mut figures =
            oracle::compare(&provider, &*journal, &network, self.payee, &presented).await?;
        if let Err(wrong) = audit(&self.chain, &*journal).await {
            figures.violations.push(wrong.to_string());
        }
        if !figures.violations.is_empty() {
            eprintln!("chaos: what is left of the round is in {}", self.folder.keep().display());
        }
        Ok(figures)
    }
}

/// Reorganisations, jumps of the base fee, and transactions that the chain forgets, until it is ended.
async fn weather(chain: Devchain, seed: u64, storms: Arc<Storms>) {
    let mut random = Random::of(seed, "weather");
    let add = |count: &AtomicU64| _ = count.fetch_add(1, Ordering::Relaxed);
    loop {
        tokio::time::sleep(BLOCK_TIME).await;
        // What the payers were given at the beginning stays.
        if random.happens(120) && chain.block_number() > OLD_ENOUGH {
            let depth = 1 + random.below(REORG_BLOCKS_MAX);
            let forgets = random.happens(200);
            let what = if forgets { ReorgTransactions::Drop } else { ReorgTransactions::Keep };
            chain.reorg(depth, what);
            add(&storms.reorgs);
        }
        if random.happens(15) {
            chain.set_next_base_fee(base_fee(&chain).await.saturating_mul(SPIKE));
            add(&storms.spikes);
        }
        let pending = chain.pending_transactions();
        if let Some(hash) = pending.iter().min().filter(|_| random.happens(100))
            && chain.drop_transaction(*hash)
        {
            add(&storms.forgotten);
        }
    }
}

/// That of the newest block, in wei for a unit of gas.
async fn base_fee(chain: &Devchain) -> u64 {
    use alloy::providers::Provider as _;
    let block = chain.provider().get_block(alloy::eips::BlockId::latest()).await;
    let fee = block.ok().flatten().and_then(|block| block.header.base_fee_per_gas);
    fee.unwrap_or(1_000_000_000)
}

/// The program that is tried, as a process of its own; it ends with this value.
struct Facilitator {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Facilitator {
    async fn start(binary: &Path, folder: &Path, journal: &Place, nodes: &[&str]) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let database = match journal {
            Place::File(path) => path.display().to_string(),
            Place::Database { url, .. } => url.clone(),
        };
        let config = format!(
            "listen = \"127.0.0.1:{port}\"\ndatabase = \"{database}\"\nstrikes_max = 1000\n\
             [[network]]\nid = \"eip155:{CHAIN_ID}\"\nrpc = {nodes:?}\n\
             signer = {{ env = \"PAY402_CHAOS_KEY\" }}\nconfirmations = 1\n\
             [[network.tier]]\nfrom = \"{TIER}\"\nconfirmations = {CONFIRMATIONS}\n\
             nodes = {AGREEING}\n"
        );
        let (file, log) = (folder.join("facilitator.toml"), folder.join("facilitator.log"));
        std::fs::write(&file, config)?;
        let written = std::fs::File::create(&log)?;
        let key = genesis::dev_signer(pay402::stack::SIGNER_INDEX).to_bytes();
        let child = Command::new(binary)
            .args(["facilitator", "--config"])
            .arg(&file)
            .env("PAY402_CHAOS_KEY", key.to_string())
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", binary.display()))?;
        let mut started = Self { child, url: format!("http://127.0.0.1:{port}"), log };
        started.wait_until_ready().await?;
        Ok(started)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < START_MAX {
            self.check()?;
            let ready = reqwest::get(format!("{}/readyz", self.url)).await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(format!("the facilitator is not ready in time:\n{}", self.tail()).into())
    }

    /// Whether it still runs.
    fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                Err(format!("the facilitator ended ({status}):\n{}", self.tail()).into())
            }
        }
    }

    /// Waits until nothing was open for [`QUIET`], or `until`.
    async fn wait_until_quiet(&mut self, until: Instant) -> Result<()> {
        let mut quiet_since = Instant::now();
        while Instant::now() < until && quiet_since.elapsed() < QUIET {
            self.check()?;
            let figures = reqwest::get(format!("{}/metrics", self.url)).await?.text().await?;
            let open: Vec<&str> = figures.lines().filter(|line| line.starts_with(OPEN)).collect();
            if open.is_empty() || open.iter().any(|line| !line.ends_with(" 0")) {
                quiet_since = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// The end of what it logged.
    fn tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
