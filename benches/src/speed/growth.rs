//! Whether a facilitator gets slower as its journal grows: a million settlements are seeded as rows.

use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use super::anvil::Anvil;
use super::process::Process;
use super::town::{Payers, facilitator};
use super::{Bound, Figure, median};
use crate::load::{self, Shape, Target};
use crate::{Extent, Result};

const ROWS: usize = 1_000_000;
/// Settlements that are open when the process is killed.
const OPEN: usize = 1_000;
const CONNECTIONS: usize = 64;
const EACH: usize = 16;
const ROUNDS_MAX: usize = 5;
const PAYERS: usize = 64;

pub(super) async fn run(extent: Extent) -> Result<Vec<Figure>> {
    let rows = extent.count(ROWS);
    let anvil =
        Anvil::start(&["--gas-limit", "120000000", "--block-time", "1", "--mixed-mining"]).await?;
    let mut payers = Payers::new(PAYERS)?;
    payers.fund(&anvil).await?;
    let (small, large) = (TempDir::new()?, TempDir::new()?);
    // The schema is the program's own to make.
    facilitator(anvil.address(), large.path()).await?.kill().await?;
    seed(large.path(), rows)?;
    let small = facilitator(anvil.address(), small.path()).await?;
    let mut ratios = Vec::new();
    {
        let large = facilitator(anvil.address(), large.path()).await?;
        // One signer cannot serve two facilitators at once: they take turns, and each learns its nonce
        // from the chain.
        for _ in 0..extent.rounds.min(ROUNDS_MAX) {
            let subject = cpu_us(&large, &mut payers).await?;
            let reference = cpu_us(&small, &mut payers).await?;
            ratios.push(subject / reference);
        }
        large.kill().await?;
    }
    small.kill().await?;
    let worst = ratios.iter().copied().fold(f64::NAN, f64::max);
    let restart = restart(&anvil, large.path(), &mut payers).await?;
    Ok(vec![
        Figure {
            name: "speed_growth_cpu".into(),
            value: median(ratios),
            unit: "of the CPU time on an empty journal",
            bound: Bound::AtMost(1.25),
            load: format!(
                "{rows} final rows seeded; {CONNECTIONS} connections, {EACH} payments each; worst {worst:.2}"
            ),
        },
        Figure {
            name: "speed_growth_restart".into(),
            value: restart,
            unit: "s until /readyz is 200",
            bound: Bound::AtMost(2.0),
            load: format!("{rows} final rows and {OPEN} open ones, after kill -9"),
        },
    ])
}

/// CPU time of the facilitator per settlement, in microseconds.
async fn cpu_us(process: &Process, payers: &mut Payers) -> Result<f64> {
    let bodies = payers.sign(CONNECTIONS, EACH).await?;
    let shape = Shape { connections: CONNECTIONS, each: EACH };
    let target = Target::post(process.address, "/settle", &bodies).answering("\"success\":true");
    let before = process.cpu_s()?;
    load::per_second(&target, shape).await?;
    Ok((process.cpu_s()? - before) * 1e6 / bodies.len() as f64)
}

/// Fills the journal with settlements that are over.
fn seed(folder: &Path, rows: usize) -> Result<()> {
    let connection = Connection::open(folder.join("journal.db"))?;
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    let insert = "
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO entry (key, fingerprint, network, payer, amount, expires, plan, entered_at,
                           delivery, stage, transaction_hash, block, fee)
        SELECT 'eip155:84532~0x036cbd53842c5426634e7929541ec2318f3dcf7e~'
                   || printf('0x%040x', i % 997) || '~' || printf('0x%064x', i),
               randomblob(32), 'eip155:84532', printf('0x%040x', i % 997), '1000',
               printf('%020d', 1790000000 + i), x'', printf('%020d', 1790000000 + i), 'delivered',
               'settled', printf('0x%064x', i), printf('%020d', i), '65500000000000' FROM n";
    connection.execute(insert, [i64::try_from(rows)?])?;
    let sent = "
        INSERT INTO signed_transaction (entry, network, signer, nonce, transaction_hash)
        SELECT seq, network, '0x0000000000000000000000000000000000000402', printf('%020d', seq),
               transaction_hash FROM entry";
    connection.execute(sent, [])?;
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); ANALYZE")?;
    Ok(())
}

/// Kills a facilitator while payments are open, and says how long the next one takes to be ready, in
/// seconds.
async fn restart(anvil: &Anvil, folder: &Path, payers: &mut Payers) -> Result<f64> {
    let process = facilitator(anvil.address(), folder).await?;
    anvil.stop_mining().await?;
    let bodies = payers.sign(OPEN, 1).await?;
    let target = Target::post(process.address, "/settle", &bodies);
    let shape = Shape { connections: OPEN, each: 1 };
    let asking = tokio::spawn(async move { load::per_second(&target, shape).await });
    let journal = folder.join("journal.db");
    while open(&journal)? < OPEN {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if asking.is_finished() {
            return Err(format!("settled while no block was mined: {:?}", asking.await?).into());
        }
    }
    process.kill().await?;
    asking.abort();
    let process = facilitator(anvil.address(), folder).await?;
    let ready_s = process.ready_after.as_secs_f64();
    anvil.mine().await?;
    while open(&journal)? > 0 {
        anvil.mine().await?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    process.kill().await?;
    Ok(ready_s)
}

/// How many settlements are open.
fn open(journal: &Path) -> Result<usize> {
    let connection = Connection::open(journal)?;
    let count = "SELECT count(*) FROM entry WHERE stage IN ('due', 'signed', 'sent')";
    Ok(connection.query_row(count, [], |row| row.get::<_, i64>(0))?.try_into()?)
}
