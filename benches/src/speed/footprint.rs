//! What the facilitator's program weighs, how soon it is ready, and what it holds in memory.

use tempfile::TempDir;

use super::anvil::Anvil;
use super::process::pay402;
use super::town::{Payers, facilitator};
use super::{Bound, Figure, median};
use crate::load::{self, Shape, Target};
use crate::{Extent, Result};

const STARTS: usize = 9;
const CONNECTIONS: usize = 512;
const EACH: usize = 4;
const PAYERS: usize = 64;
const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn run(extent: Extent) -> Result<Vec<Figure>> {
    let anvil = Anvil::start(&["--block-time", "1", "--gas-limit", "120000000"]).await?;
    let mut payers = Payers::new(PAYERS)?;
    payers.fund(&anvil).await?;
    let mut starts = Vec::new();
    for _ in 0..extent.rounds.min(STARTS) {
        let folder = TempDir::new()?;
        let process = facilitator(anvil.address(), folder.path()).await?;
        starts.push(process.ready_after.as_secs_f64() * 1_000.0);
        process.kill().await?;
    }
    let worst = starts.iter().copied().fold(f64::NAN, f64::max);
    let folder = TempDir::new()?;
    let process = facilitator(anvil.address(), folder.path()).await?;
    let idle = process.resident_mib()?;
    let bodies = payers.sign(CONNECTIONS, EACH).await?;
    let shape = Shape { connections: CONNECTIONS, each: EACH };
    for path in ["/verify", "/settle"] {
        let target = Target::post(process.address, path, &bodies).answering("true");
        load::per_second(&target, shape).await?;
    }
    let peak = process.peak_mib()?;
    let size = std::fs::metadata(pay402()?)?.len() as f64 / MIB;
    let figure = |name: &str, value, unit, bound, load: String| Figure {
        name: name.to_owned(),
        value,
        unit,
        bound,
        load,
    };
    let at_most = Bound::AtMost;
    let load = format!(
        "{CONNECTIONS} connections, {EACH} payments each, verified and then settled; SQLite; peak"
    );
    Ok(vec![
        figure(
            "speed_ready",
            median(starts.clone()),
            "ms until /readyz is 200",
            at_most(150.0),
            format!("{} starts on a new journal, worst {worst:.0}", starts.len()),
        ),
        figure("speed_memory_idle", idle, "MiB", at_most(25.0), "after the start".into()),
        figure("speed_memory_512", peak, "MiB", at_most(90.0), load),
        figure("speed_binary", size, "MiB", Bound::None, "the whole of pay402".into()),
    ])
}
