//! What a facilitator costs whose journal has grown: CPU time of a settlement, and how soon it is ready again
//! after a crash.
//!
//! The rows are copies of those that it wrote itself, under other keys. Beside it runs another one whose journal
//! was empty at the start, on a node of its own, under the same load in turns.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use alloy::hex;
use pay402::stack::{CHAIN_ID, SIGNER_INDEX};
use pay402_core::NetworkId;
use pay402_core::journal::{Entry, Journal as _, Outcome, Stage};
use pay402_devchain::genesis;
use pay402_facilitator::api::KeyHash;
use pay402_store::{Seed, SqliteJournal, seed};
use tempfile::TempDir;

use super::anvil::{Anvil, BLOCK_TIME_S, GAS_LIMIT};
use super::process::Process;
use super::town::{JOURNAL, Payers, Settings, facilitator_with};
use super::{Bound, Figure, median};
use crate::load::{self, Shape, Target};
use crate::{Extent, Result};

/// Final entries of the journal that has grown.
const ROWS: u64 = 1_000_000;
/// The same in brief.
const ROWS_BRIEF: u64 = 20_000;
/// Final entries of one payer, and over how long they were entered.
const ROWS_OF_PAYER: u64 = 10;
const OVER: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Settlements that are copied.
const ORIGINALS: usize = 64;
const SHAPE: Shape = Shape { connections: 64, each: 6 };
/// Those who pay, in the load and of what is open.
const PAYERS: usize = 256;
/// What follows a settlement, and is part of its cost: it is looked at again, and the log goes into the file.
const AFTER: Duration = Duration::from_millis(2_500);
/// Entries that are open at a crash; half of them are signed, the others due.
const OPEN: usize = 1_000;
const SIGNED: usize = OPEN / 2;
/// Crashes and starts.
const STARTS: usize = 3;
/// Longest until something happened that does not take long.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

const CPU_FACTOR: f64 = 1.25;
const READY_MS: f64 = 2_000.0;

/// The caller's key; it opens nothing but what runs here for a minute.
const KEY: &str = "a key for the benches alone";
/// Blocks are buried under the load too.
const GENERAL: &str = "burial_blocks = 4\n";

pub(super) async fn run(extent: Extent) -> Result<Vec<Figure>> {
    let is_brief = extent.divisor > 1;
    let rows = if is_brief { ROWS_BRIEF } else { ROWS };
    let mut grown = Town::new().await?;
    grown.grow(rows).await?;
    let mut fresh = Town::new().await?;
    let (mut rounds, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..=extent.rounds {
        // Who comes first changes.
        let (a, b) = if round % 2 == 0 {
            let a = grown.cpu_us().await?;
            (a, fresh.cpu_us().await?)
        } else {
            let b = fresh.cpu_us().await?;
            (grown.cpu_us().await?, b)
        };
        // The first round is there to warm up.
        if round > 0 {
            rounds[0].push(a);
            rounds[1].push(b);
            ratios.push(a / b);
        }
    }
    let worst = ratios.iter().copied().fold(f64::NAN, f64::max);
    let [grown_us, fresh_us] = rounds.map(median);
    let Shape { connections, each } = SHAPE;
    let flags = format!("anvil --block-time {BLOCK_TIME_S} --gas-limit {GAS_LIMIT}, one signer");
    let journal = format!(
        "{rows} final entries of 30 days by {} payers, SQLite, {:.0} MiB",
        rows / ROWS_OF_PAYER,
        grown.journal_mib()?
    );
    let cpu = Figure {
        name: "speed_growth_cpu".into(),
        value: grown_us / fresh_us,
        unit: "of the CPU time per settlement with an empty journal",
        bound: Bound::AtMost(CPU_FACTOR),
        load: format!(
            "{journal}; {grown_us:.0} beside {fresh_us:.0} us, worst round {worst:.3}; {flags}, \
             burial_blocks 4, {connections} connections, {each} payments each and round, {} rounds in turns",
            extent.rounds
        ),
    };
    let starts = if is_brief { 1 } else { STARTS };
    let (mut grown_ms, mut fresh_ms) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        grown_ms.push(grown.restart_ms().await?);
        fresh_ms.push(fresh.restart_ms().await?);
    }
    let most = |starts: &[f64]| starts.iter().copied().fold(f64::NAN, f64::max);
    let open = format!(
        "{journal}, and {OPEN} open ones, {SIGNED} signed and the others due; killed while the chain stands \
         still, which goes on as it is started; the file in the page cache; {flags}, \
         in_flight_per_signer_max {SIGNED}; all open ones settled; {starts} starts"
    );
    let restart = Figure {
        name: "speed_growth_restart".into(),
        value: most(&grown_ms),
        unit: "ms from the start right after kill -9 until /readyz is 200, the worst",
        bound: Bound::AtMost(READY_MS),
        load: format!(
            "{open}, median {:.0}; as many open ones alone: worst {:.0}",
            median(grown_ms.clone()),
            most(&fresh_ms)
        ),
    };
    Ok(vec![cpu, restart])
}

/// A facilitator, its node, and who pays.
struct Town {
    anvil: Anvil,
    payers: Payers,
    folder: TempDir,
    process: Option<Process>,
}

impl Town {
    async fn new() -> Result<Self> {
        let anvil = Anvil::with_room().await?;
        let payers = Payers::new(PAYERS)?;
        payers.fund(&anvil).await?;
        let mut town = Self { anvil, payers, folder: TempDir::new()?, process: None };
        town.start("").await?;
        Ok(town)
    }

    async fn start(&mut self, network: &str) -> Result<Duration> {
        let hash = hex::encode(KeyHash::of(KEY).as_bytes());
        let tables = format!(
            "[[caller]]\nname = \"shop\"\nkey_sha256 = \"{hash}\"\ngas_per_hour_max_gwei = 1000000000000\n"
        );
        let settings = Settings { general: GENERAL, network, tables: &tables };
        let started = facilitator_with(self.anvil.address(), self.folder.path(), settings).await?;
        let ready_after = started.ready_after;
        self.process = Some(started);
        Ok(ready_after)
    }

    fn process(&self) -> Result<&Process> {
        Ok(self.process.as_ref().ok_or("nothing runs")?)
    }

    async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    fn target(&self, bodies: &[String]) -> Result<Target> {
        let header = format!("Authorization: Bearer {KEY}\r\n");
        let target = Target::post_with(self.process()?.address, "/settle", &header, bodies);
        Ok(target.answering("\"success\":true"))
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(JOURNAL)
    }

    fn journal_mib(&self) -> Result<f64> {
        Ok(std::fs::metadata(self.file())?.len() as f64 / (1024.0 * 1024.0))
    }

    /// Settles some payments, and has its journal filled with copies of them once they are buried.
    async fn grow(&mut self, rows: u64) -> Result<()> {
        let bodies = self.payers.sign(ORIGINALS, 1).await?;
        let shape = Shape { connections: ORIGINALS, each: 1 };
        load::per_second(&self.target(&bodies)?, shape).await?;
        let journal = SqliteJournal::look(self.file())?;
        let began = Instant::now();
        while !journal.watched_blocks(&network()).await?.is_empty() {
            wait(began, "what was settled is not buried").await?;
        }
        drop(journal);
        self.kill().await?;
        let plan = Seed { entries: rows, payers: rows / ROWS_OF_PAYER, over: OVER };
        let file = self.file();
        tokio::task::spawn_blocking(move || seed(file, plan)).await??;
        let journal = SqliteJournal::look(self.file())?;
        let signer = genesis::dev_signer(SIGNER_INDEX).address();
        let next = journal.next_nonce(&network(), &signer.to_checksum(None)).await?;
        self.anvil.set_mined(signer, next.ok_or("the journal knows no nonce")?).await?;
        drop(journal);
        self.start("").await.map(drop)
    }

    /// CPU time of the facilitator for a settlement under load, in microseconds.
    async fn cpu_us(&mut self) -> Result<f64> {
        let Shape { connections, each } = SHAPE;
        let bodies = self.payers.sign(connections, each).await?;
        let target = self.target(&bodies)?;
        let before = self.process()?.cpu_s()?;
        load::per_second(&target, SHAPE).await?;
        tokio::time::sleep(AFTER).await;
        let taken = self.process()?.cpu_s()? - before;
        Ok(taken * 1e6 / (connections * each) as f64)
    }

    /// Kills it while payments are open, and says how long it takes from the next start, at once, until it
    /// is ready, in milliseconds. What was open has to settle then.
    async fn restart_ms(&mut self) -> Result<f64> {
        let in_flight = format!("in_flight_per_signer_max = {SIGNED}\n");
        self.kill().await?;
        self.start(&in_flight).await?;
        self.anvil.set_block_time(0).await?;
        let bodies = self.payers.sign(OPEN, 1).await?;
        let target = self.target(&bodies)?;
        let shape = Shape { connections: OPEN, each: 1 };
        // Their callers wait, and are left alone when it is killed.
        let waiting = tokio::spawn(async move { load::per_second(&target, shape).await });
        let journal = SqliteJournal::look(self.file())?;
        let began = Instant::now();
        loop {
            let open = journal.unfinished(&network(), 2 * OPEN).await?;
            let due = open.iter().filter(|it| it.stage == Stage::Due).count();
            if (open.len(), due) == (OPEN, OPEN - SIGNED) {
                break;
            }
            if waiting.is_finished() {
                return waiting.await?.and(Err("payments settled without a block".into()));
            }
            wait(began, &format!("{} are open, {due} of them due", open.len())).await?;
        }
        self.kill().await?;
        waiting.abort();
        self.anvil.set_block_time(BLOCK_TIME_S).await?;
        let ready_after = self.start(&in_flight).await?;
        let began = Instant::now();
        while !journal.unfinished(&network(), 1).await?.is_empty() {
            wait(began, "what was open has not ended").await?;
        }
        let newest = journal.newest(OPEN).await?;
        let is_settled = |it: &Entry| matches!(it.stage, Stage::Final(Outcome::Settled { .. }));
        let settled = newest.iter().filter(|it| is_settled(it)).count();
        if settled != OPEN {
            return Err(format!("{OPEN} were open, and {settled} are settled").into());
        }
        Ok(ready_after.as_secs_f64() * 1_000.0)
    }
}

fn network() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

/// Waits a little, unless it took too long already.
async fn wait(began: Instant, otherwise: &str) -> Result<()> {
    if began.elapsed() > PATIENCE {
        return Err(format!("{otherwise}, after {} s", PATIENCE.as_secs()).into());
    }
    tokio::time::sleep(LOOK_EVERY).await;
    Ok(())
}
