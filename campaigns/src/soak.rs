//! `soak`: many payments through all three roles, the facilitator in a process of its own, and then every book
//! beside every other and beside the chain.
//!
//! **Violations:** purchases, runs of the handler, claims, entries and transfers, and their amounts, that are
//! not the same; gas in the journal that is not what the signers spent; memory of the facilitator that, after
//! the warm-up, grows by more than [`GROWTH_MAX_KIB`] and a tenth.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures_util::{StreamExt as _, stream};
use pay402::stack;
use pay402_client::{OwnerPolicy, PayingClient, Wallet};
use pay402_core::Price;
use pay402_core::asset::AssetId;
use pay402_core::grants::{GrantState, Grants as _};
use pay402_core::journal::Outcome;
use pay402_core::spend::Ledger as _;
use pay402_devchain::genesis::{DEV_ACCOUNTS, USDC_ADDRESS};
use pay402_evm::{AssetTable, ExactServer};
use pay402_server::{RemoteFacilitator, ResourceServer, Route};
use pay402_store::{SqliteGrants, SqliteLedger};
use tokio::time::Instant;

use crate::Result;
use crate::payments::{PRICE, PRICE_ATOMIC};
use crate::replicas::{PAYEE, network};
use crate::rounds::{Extent, Plan};
use crate::site::{Ground, Site};

/// Payments of the two forms.
const SHORT: u64 = 300;
const LONG: u64 = 20_000;
/// So that the chain still shows the balances of its beginning at the end.
const BLOCK_TIME: Duration = Duration::from_secs(1);
const PAYERS: usize = 64;
/// Purchases under way at the same time, a few of each payer.
const AT_ONCE: usize = 128;
/// How often the memory of the process is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What the last quarter of the payments may find more than the second, beside a tenth, in KiB.
const GROWTH_MAX_KIB: u64 = 4 * 1_024;
/// Longest until everything is final.
const RESOLVED_MAX: Duration = Duration::from_secs(60);

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    let count = match plan.extent {
        Extent::Short => SHORT,
        Extent::Long => LONG,
    };
    let lines = String::new();
    let ground = Ground { store: plan.store, block_time: BLOCK_TIME, payers: PAYERS, lines };
    let mut site = Site::new(&plan.bin, &ground).await?;
    match soak(&mut site, count).await {
        Ok(figures) => Ok(format!("soak: {}, {figures}", plan.store.name())),
        Err(error) => {
            Err(format!("VIOLATION {error}; {:?}; run again: {}", site.keep(), plan.again()).into())
        }
    }
}

/// What the roles beside the facilitator have in their books.
struct Others {
    grants: Arc<SqliteGrants>,
    ledger: Arc<SqliteLedger>,
    runs: Arc<AtomicU64>,
}

async fn soak(site: &mut Site, count: u64) -> Result<String> {
    site.start(None)?;
    site.until_ready().await?;
    let folder = tempfile::tempdir()?;
    let others = Others {
        grants: Arc::new(SqliteGrants::open(folder.path().join("grants.db"))?),
        ledger: Arc::new(SqliteLedger::open(folder.path().join("ledger.db"))?),
        runs: Arc::default(),
    };
    let api = api(site, &others).await?;
    let clients = clients(site, &others)?;
    let bought = Arc::new(AtomicU64::new(0));
    let memory = Memory::watch(site.process.id().ok_or("the process has ended")?, &bought);
    let begun = Instant::now();
    let buy = |number: u64| {
        let turn = usize::try_from(number).unwrap_or(0) % clients.len();
        let (client, url) = (clients[turn].clone(), format!("{}/paid", api.url));
        let bought = Arc::clone(&bought);
        async move {
            let request = reqwest::Request::new(reqwest::Method::GET, url.parse()?);
            let paid = client.execute_as(request, &format!("soak {number}")).await?;
            if !paid.response.status().is_success() {
                return Err(format!("purchase {number}: {}", paid.response.status()).into());
            }
            bought.fetch_add(1, Ordering::Relaxed);
            Ok::<_, crate::Failure>(())
        }
    };
    let mut buying = stream::iter(0..count).map(buy).buffer_unordered(AT_ONCE);
    while let Some(done) = buying.next().await {
        done?;
    }
    drop(buying);
    let took = begun.elapsed().as_secs_f64();
    let memory = memory.judge(count)?;
    let books = compare(site, &others, count).await?;
    Ok(format!("{count} payments in {took:.0} s: {books}; {memory}"))
}

/// The resource server, paid through the process.
async fn api(site: &Site, others: &Others) -> Result<stack::Served> {
    let facilitator = Arc::new(RemoteFacilitator::new(&site.process.url)?);
    let server = ResourceServer::builder(facilitator, others.grants.clone())
        .scheme(Arc::new(ExactServer::new(AssetTable::defaults())))
        .loopback_urls()
        .start()
        .await?;
    let payee = DEV_ACCOUNTS[PAYEE].to_checksum(None);
    let route = Route::new(PRICE, payee).on(network().as_str());
    let runs = Arc::clone(&others.runs);
    let handler = get(async move || {
        runs.fetch_add(1, Ordering::Relaxed);
        "paid"
    });
    let app = Router::new().route("/paid", handler.layer(server.layer(route)?));
    Ok(stack::serve(app, 0).await?)
}

fn clients(site: &Site, others: &Others) -> Result<Vec<PayingClient>> {
    let client = |scheme| {
        let policy = OwnerPolicy::new().total(Price::parse("$1000000")?);
        let wallet = Wallet::builder(others.ledger.clone()).scheme(Arc::new(scheme));
        Ok(PayingClient::new(wallet.policy(policy).build()?)?)
    };
    site.payers.schemes(&site.chain).map(client).collect()
}

/// Holds every book against every other and against the chain.
async fn compare(site: &Site, others: &Others, count: u64) -> Result<String> {
    let journal = site.shelf.open().await?;
    let entries = journal.books(&network(), 0, usize::MAX).await?;
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
    // Journal, logs and balances, and the gas to the wei.
    let settled = site.resolved(&keys, Instant::now(), RESOLVED_MAX).await?;
    let entries = journal.books(&network(), 0, usize::MAX).await?;
    let (mut claims, mut fees) = (0_u64, alloy::primitives::U256::ZERO);
    for entry in &entries {
        let Some(Outcome::Settled { transaction, fee, .. }) = &entry.outcome else {
            return Err(format!("{} is not settled: {:?}", entry.key, entry.outcome).into());
        };
        fees += fee.to_u256();
        match others.grants.state(&entry.key).await? {
            Some(GrantState::Delivered { transaction: claimed, .. }) if claimed == *transaction => {
                claims += 1;
            }
            other => return Err(format!("claim of {}: {other:?}", entry.key).into()),
        }
    }
    let asset = AssetId::new(network(), &format!("{USDC_ADDRESS:#x}"));
    let (mut posted, mut reserved) = (alloy::primitives::U256::ZERO, alloy::primitives::U256::ZERO);
    for payer in site.payers.names() {
        let spent = others.ledger.spent(&payer, &asset).await?;
        posted += spent.posted.to_u256();
        reserved += spent.reserved.to_u256();
    }
    let paid = alloy::primitives::U256::from(count * PRICE_ATOMIC);
    let runs = others.runs.load(Ordering::Relaxed);
    let told = [u64::try_from(settled)?, u64::try_from(entries.len())?, claims, runs];
    if told.iter().any(|it| *it != count) || posted != paid || !reserved.is_zero() {
        return Err(format!(
            "{count} bought, {told:?} settled, entries, claims and runs; {posted} posted of {paid}, {reserved} \
             reserved"
        )
        .into());
    }
    Ok(format!(
        "client = server = facilitator = logs = balances = {paid} atomic units, gas book = signers' ETH = {fees} wei"
    ))
}

/// The memory of a process over time.
struct Memory {
    /// How many payments were made, and how much it held then, in KiB.
    samples: Arc<Mutex<Vec<(u64, u64)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Memory {
    fn watch(process: u32, bought: &Arc<AtomicU64>) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (seen, bought) = (Arc::clone(&samples), Arc::clone(bought));
        let task = tokio::spawn(async move {
            // Until it is dropped, or the process has ended.
            while let Some(kib) = resident_kib(process) {
                let sample = (bought.load(Ordering::Relaxed), kib);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { samples, task }
    }

    /// What the last quarter of `count` payments found beside the second; the first is the warm-up.
    fn judge(&self, count: u64) -> Result<String> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let warm = median(&samples, (count / 4, count / 2));
        let last = median(&samples, (count - count / 4, count));
        let most = samples.iter().map(|(_, kib)| *kib).max();
        let (Some(warm), Some(last), Some(most)) = (warm, last, most) else {
            return Err("the memory was not seen in every quarter".into());
        };
        let bound = warm + warm / 10 + GROWTH_MAX_KIB;
        let line = format!(
            "facilitator's memory {warm} KiB in the second quarter, {last} KiB in the last (at most {bound}), \
             {most} KiB at most"
        );
        if last > bound { Err(format!("grows: {line}").into()) } else { Ok(line) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn median(samples: &[(u64, u64)], (from, to): (u64, u64)) -> Option<u64> {
    let within = samples.iter().filter(|(bought, _)| (from..=to).contains(bought));
    let mut held: Vec<u64> = within.map(|(_, kib)| *kib).collect();
    held.sort_unstable();
    held.get(held.len() / 2).copied()
}

fn resident_kib(process: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_that_grows_is_seen() {
        let of = |last: u64| {
            let held = |bought| (bought, if bought < 75 { 50_000 } else { last });
            let samples = Arc::new(Mutex::new((0..=100).map(held).collect()));
            Memory { samples, task: tokio::spawn(async {}) }.judge(100)
        };
        assert!(of(50_000).is_ok() && of(59_000).is_ok());
        assert!(of(59_500).is_err());
        assert!(resident_kib(std::process::id()).is_some_and(|kib| kib > 1_000));
    }
}
