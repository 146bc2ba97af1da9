//! Rounds of `storage` in which the journal is put back to what it was some time ago, while the chain went on.
//!
//! What was entered and told since is in no journal any more. **Violations:** a success told to two; a nonce that
//! a node has seen used since and that is used for another payment; a payment that is presented until its end is known, and never
//! moved; an answer that a good payment does not have, but that it is used.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use alloy::primitives::{Address, B256, b256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use pay402_core::PaymentKey;
use pay402_devchain::genesis::USDC_ADDRESS;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Result;
use crate::crash::scene::Scene;
use crate::crash::shop::Shop;
use crate::crash::{BLOCK_TIME, LOAD, PAYERS, RESOLVED_MAX};
use crate::postgres::Cluster;
use crate::replicas::network;
use crate::rounds::{Plan, Random, Store};
use crate::site::{Ground, Shelf, Site};

/// How often something is presented between copy and restoring.
const OFFER_EVERY: Duration = Duration::from_millis(200);
/// How long payments are on their way before the journal is copied, at most, in milliseconds.
const ALIVE_MS: u64 = 150;
/// `AuthorizationUsed(address,bytes32)`.
const USED: B256 = b256!("98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5");

/// By signer and nonce: the hashes of what was signed.
type Nonces = BTreeMap<(String, u64), BTreeSet<String>>;

/// So many runs on one site, on each of which the journal is put back to a copy of that age.
pub(super) async fn round(plan: &Plan, number: u64, runs: u64, age: Duration) -> Result<Value> {
    let mut random = Random(plan.seed_of(number));
    let lines = "strikes_max = 1000\n".to_owned();
    let ground = Ground { store: plan.store, block_time: BLOCK_TIME, payers: PAYERS, lines };
    // A server of its own: it is stopped and its files are put back.
    let server: Option<&'static Cluster> = match plan.store {
        Store::Sqlite => None,
        Store::Postgres => Some(Box::leak(Box::new(Cluster::own()))),
    };
    let done = async {
        let mut site = Site::on(&plan.bin, &ground, server.map(Cluster::database)).await?;
        let mut shop = Shop::open(&site, Scene::Burst)?;
        shop.allow("nonce_already_used");
        for run in 0..runs {
            let done = restore(&mut site, &mut shop, server, &mut random, age).await;
            done.map_err(|error| format!("run {run}: {error}; {:?}", site.keep()))?;
        }
        let (payments, told) = (shop.keys().len(), shop.told().len());
        Ok(
            json!({ "restored": runs, "payments": payments, "settled": payments, "untold": payments - told }),
        )
    };
    let done = done.await;
    if let Some(server) = server {
        server.end();
    }
    done
}

async fn restore(
    site: &mut Site,
    shop: &mut Shop,
    server: Option<&Cluster>,
    random: &mut Random,
    age: Duration,
) -> Result<()> {
    site.start(None)?;
    site.until_ready().await?;
    shop.offer(site, LOAD, random).await?;
    tokio::time::sleep(Duration::from_millis(random.below(ALIVE_MS))).await;
    let folder = tempfile::tempdir()?;
    let copy = Copy { folder: folder.path(), server };
    copy.take(site)?;
    let until = Instant::now() + age;
    while Instant::now() < until {
        shop.offer(site, 1 + random.below(3), random).await?;
        tokio::time::sleep(OFFER_EVERY).await;
    }
    // Some of it is on its way when the process ends.
    shop.offer(site, LOAD, random).await?;
    tokio::time::sleep(Duration::from_millis(random.below(ALIVE_MS))).await;
    site.process.kill()?;
    let lost = known(site, nonces(site).await?).await?;
    copy.put_back(site)?;
    site.start(None)?;
    let restarted = Instant::now();
    shop.all_answered(restarted + RESOLVED_MAX * 3).await?;
    shop.present_again().await?;
    finished(site).await?;
    judge(site, shop, &lost).await?;
    site.process.kill()?;
    Ok(())
}

/// A copy of a journal, as it lies on the disk in one moment.
struct Copy<'a> {
    folder: &'a Path,
    server: Option<&'a Cluster>,
}

impl Copy<'_> {
    fn take(&self, site: &mut Site) -> Result<()> {
        match (&site.shelf, self.server) {
            (Shelf::File(journal), _) => {
                let disk = journal.parent().ok_or("a folder")?.to_owned();
                site.process.freeze();
                let copied = copy_files(&disk, self.folder);
                site.process.wake();
                copied
            }
            (Shelf::Database(_), Some(server)) => {
                server.stop();
                let copied = copy_tree(&server.data(), &self.folder.join("data"));
                server.start();
                copied
            }
            (Shelf::Database(_), None) => Err("no server".into()),
        }
    }

    fn put_back(&self, site: &Site) -> Result<()> {
        match (&site.shelf, self.server) {
            (Shelf::File(journal), _) => {
                let disk = journal.parent().ok_or("a folder")?;
                for entry in std::fs::read_dir(disk)? {
                    std::fs::remove_file(entry?.path())?;
                }
                copy_files(self.folder, disk)
            }
            (Shelf::Database(_), Some(server)) => {
                server.stop();
                std::fs::remove_dir_all(server.data())?;
                copy_tree(&self.folder.join("data"), &server.data())?;
                server.start();
                Ok(())
            }
            (Shelf::Database(_), None) => Err("no server".into()),
        }
    }
}

/// Copies a file and its log; what is shared in memory is no part of it.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name: PathBuf = entry.file_name().into();
        if name.extension().is_none_or(|end| end != "db-shm") {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// Copies a folder with its owners.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(format!("{} is not copied", from.display()).into()) }
}

/// What was signed for payments, by the journal.
async fn nonces(site: &Site) -> Result<Nonces> {
    let journal = site.shelf.open().await?;
    let mut nonces = Nonces::new();
    for booked in journal.books(&network(), 0, usize::MAX).await? {
        // What only consumes a nonce is no payment.
        if booked.key.asset() == "cancel" {
            continue;
        }
        for sent in booked.signed {
            nonces.entry((sent.signer, sent.nonce)).or_default().insert(sent.transaction);
        }
    }
    Ok(nonces)
}

/// Those of which the node has a transaction, mined or waiting. What was signed and reached nobody is lost with the
/// journal, and can do nothing any more.
async fn known(site: &Site, signed: Nonces) -> Result<Nonces> {
    let provider = site.chain.provider();
    let mut known = Nonces::new();
    for (place, hashes) in signed {
        for hash in hashes {
            if provider.get_transaction_by_hash(hash.parse()?).await?.is_some() {
                known.entry(place.clone()).or_default().insert(hash);
            }
        }
    }
    Ok(known)
}

/// Waits until nothing is unfinished.
async fn finished(site: &Site) -> Result<()> {
    let begun = Instant::now();
    let journal = site.shelf.open().await?;
    loop {
        let unfinished = journal.unfinished(&network(), 1).await?;
        let Some(first) = unfinished.first() else { return Ok(()) };
        if begun.elapsed() > RESOLVED_MAX {
            return Err(format!("{} is unfinished", first.new.key).into());
        }
        tokio::time::sleep(BLOCK_TIME).await;
    }
}

async fn judge(site: &Site, shop: &mut Shop, lost: &Nonces) -> Result<()> {
    let mut violations = shop.take_strange();
    for ((signer, nonce), now) in nonces(site).await? {
        let before = lost.get(&(signer.clone(), nonce));
        if before.is_some_and(|before| before.is_disjoint(&now)) {
            violations
                .push(format!("nonce {nonce} of {signer} was used for {before:?}, then {now:?}"));
        }
    }
    let used = used(site).await?;
    for key in shop.keys().iter().filter(|key| !used.contains(*key)) {
        violations.push(format!("{key} never moved"));
    }
    for (key, times) in shop.told().iter().filter(|(_, times)| **times > 1) {
        violations.push(format!("{key} was told {times} times"));
    }
    if violations.is_empty() { Ok(()) } else { Err(violations.join("; ").into()) }
}

/// The authorizations that the token has taken.
async fn used(site: &Site) -> Result<HashSet<PaymentKey>> {
    let filter = Filter::new().address(USDC_ADDRESS).event_signature(USED).from_block(0);
    let logs = site.chain.provider().get_logs(&filter).await?;
    let key = |log: &alloy::rpc::types::Log| {
        let [_, payer, nonce] = log.topics() else { return None };
        let payer = format!("{:#x}", Address::from_word(*payer));
        let asset = format!("{USDC_ADDRESS:#x}");
        Some(PaymentKey::new(&network(), &asset, &payer, &nonce.to_string()))
    };
    Ok(logs.iter().filter_map(key).collect())
}
