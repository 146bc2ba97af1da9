//! `storage`: what was not synced is lost when the facilitator is killed, or nothing more can be written; it
//! is started again on what is left.
//!
//! `strace` notes what the process writes and syncs, and an image is made of the notes in which only synced
//! bytes last, or those and some of the others. On a full disk it has every write fail from some moment on. In other
//! rounds the journal is put back to a copy that is some time old ([`restored`]); these are all that there are on
//! PostgreSQL, whose server syncs by itself, and is stopped there as by a crash.
//!
//! **Violations:** as in `crash`: what was presented and is not settled once, told to two, or not in the books
//! to the wei, so that a nonce that was used for another payment is seen.

mod restored;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Result;
use crate::crash::scene::Scene;
use crate::crash::shop::Shop;
use crate::crash::{BLOCK_TIME, Figures, LOAD, PAYERS, RESOLVED_MAX};
use crate::disk::{Disk, calls_of};
use crate::rounds::{Extent, Plan, Random, Store};
use crate::site::{Ground, Shelf, Site};

/// Runs in a round, on one site.
const PER_ROUND: u64 = 5;
/// How long a process works before its disk loses something, at most, in milliseconds.
const ALIVE_MS: u64 = 500;
/// After how many writes the disk is full, at most.
const WRITES: u64 = 60;
/// How long a process goes on when nothing can be written.
const FULL: Duration = Duration::from_millis(800);
/// Longest until the notes are complete.
const NOTES_MAX: Duration = Duration::from_secs(20);

/// Runs the campaign and returns its line of figures.
pub(crate) async fn run(plan: &Plan) -> Result<String> {
    // Rounds that lose what was not synced, rounds with a full disk, and those that are restored: how many, of how
    // many runs, from a copy how old.
    let (lossy, full, (restored, runs, age)) = match plan.extent {
        Extent::Short => (2, 1, (1, 5, Duration::from_secs(3))),
        Extent::Long => (40, 4, (4, 5, Duration::from_secs(60))),
    };
    let (lossy, full) = match plan.store {
        Store::Sqlite => (lossy, full),
        Store::Postgres => (0, 0),
    };
    let mut sums = [0_u64; 6];
    for number in plan.rounds(lossy + full + restored) {
        let figures = match plan.done(number) {
            Some(figures) => figures,
            None => {
                let figures = match number.checked_sub(lossy + full) {
                    Some(_) => restored::round(plan, number, runs, age).await,
                    None => round(plan, number, number >= lossy).await,
                };
                let figures = figures.map_err(|error| {
                    let again = plan.again();
                    format!("VIOLATION round {number}: {error}; run again: {again}")
                })?;
                plan.note(number, &figures)?;
                eprintln!("storage: round {number}: {figures}");
                figures
            }
        };
        let names = ["lost", "full", "restored", "payments", "settled", "untold"];
        for (sum, name) in sums.iter_mut().zip(names) {
            *sum += figures[name].as_u64().unwrap_or(0);
        }
    }
    let [lost, full, restored, payments, settled, untold] = sums;
    Ok(format!(
        "storage: {}, seed {}: {lost} runs with unsynced writes dropped, {full} with a full disk, {restored} with \
         a journal put back by {} s: {payments} payments, {settled} settled, {untold} told to nobody, 0 nonces \
         reused, 0 granted twice, books equal the chain where nothing was put back",
        plan.store.name(),
        plan.seed,
        age.as_secs(),
    ))
}

async fn round(plan: &Plan, number: u64, is_full: bool) -> Result<Value> {
    let mut random = Random(plan.seed_of(number));
    let lines = String::new();
    let ground = Ground { store: plan.store, block_time: BLOCK_TIME, payers: PAYERS, lines };
    let mut site = Site::new(&plan.bin, &ground).await?;
    let mut shop = Shop::open(&site, Scene::Burst)?;
    let mut figures = Figures::default();
    for run in 0..PER_ROUND {
        let done = match is_full {
            true => fill(&mut site, &mut shop, &mut random).await,
            false => cut(&mut site, &mut shop, &mut random).await,
        };
        figures.killed += 1;
        let done = match done {
            Ok(()) => crate::crash::resolve(&mut site, &mut shop, Scene::Burst, &mut figures).await,
            Err(error) => Err(error),
        };
        done.map_err(|error| format!("run {run}: {error}; {:?}", site.keep()))?;
    }
    let (lost, full) = if is_full { (0, PER_ROUND) } else { (PER_ROUND, 0) };
    Ok(json!({
        "lost": lost, "full": full, "payments": figures.payments, "settled": figures.settled,
        "untold": figures.untold,
    }))
}

/// Kills the process and loses what was not synced.
async fn cut(site: &mut Site, shop: &mut Shop, random: &mut Random) -> Result<()> {
    let Shelf::File(journal) = &site.shelf else { return Err("no file".into()) };
    let folder = journal.parent().ok_or("a folder")?.to_owned();
    let notes = folder.with_file_name("notes");
    _ = std::fs::remove_file(&notes);
    let mut disk = Disk::holding(&folder);
    let calls = "trace=pwrite64,pwritev,fsync,fdatasync,ftruncate,unlink,openat";
    let name = notes.to_string_lossy();
    let words = ["-D", "-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-o", &name];
    site.process.start_under("strace", &words)?;
    shop.offer(site, LOAD, random).await?;
    site.until_ready().await?;
    shop.offer(site, LOAD, random).await?;
    tokio::time::sleep(Duration::from_millis(random.below(ALIVE_MS))).await;
    site.process.kill()?;
    let text = complete(&notes).await?;
    for call in calls_of(&text) {
        disk.apply(&call);
    }
    let image = tempfile::tempdir()?;
    // Nothing of it, or every other or third.
    let every = [0, 2, 3][usize::try_from(random.below(3))?];
    disk.cut_power(image.path(), every);
    for entry in std::fs::read_dir(&folder)? {
        std::fs::remove_file(entry?.path())?;
    }
    for entry in std::fs::read_dir(image.path())? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

/// Lets the disk be full from some write on, and kills the process later.
async fn fill(site: &mut Site, shop: &mut Shop, random: &mut Random) -> Result<()> {
    let Shelf::File(journal) = &site.shelf else { return Err("no file".into()) };
    let log = format!("{}-wal", journal.display());
    let file = journal.display().to_string();
    let inject = format!("inject=pwrite64:error=ENOSPC:when={}+", 1 + random.below(WRITES));
    let words = ["-D", "-f", "-o", "/dev/null", "-P", &file, "-P", &log];
    let words = [&words[..], &["-e", "trace=pwrite64", "-e", &inject]].concat();
    site.process.start_under("strace", &words)?;
    shop.offer(site, LOAD, random).await?;
    let until = Instant::now() + FULL + Duration::from_millis(random.below(ALIVE_MS));
    while Instant::now() < until {
        shop.offer(site, 1, random).await?;
        tokio::time::sleep(BLOCK_TIME).await;
    }
    // It may have ended because it cannot begin.
    if site.process.ended()?.is_none() {
        site.process.kill()?;
    }
    Ok(())
}

/// The notes, when the one who took them has ended.
async fn complete(notes: &Path) -> Result<String> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(notes)?;
        if text.trim_end().ends_with("+++ killed by SIGKILL +++") {
            // Threads end one by one; the first of them last.
            tokio::time::sleep(BLOCK_TIME).await;
            let now = std::fs::read_to_string(notes)?;
            if now.len() == text.len() {
                return Ok(text);
            }
        }
        if begun.elapsed() > NOTES_MAX.min(RESOLVED_MAX) {
            return Err("the notes of strace do not end".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
