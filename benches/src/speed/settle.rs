//! `POST /settle` with one signer, on anvil with a block every second and with one for each transaction.

use pay402::stack::SIGNER_INDEX;
use pay402_devchain::genesis;
use tempfile::TempDir;

use super::anvil::{Anvil, BLOCK_TIME_S, GAS_LIMIT};
use super::town::{Payers, facilitator};
use super::{Bound, Figure, median};
use crate::load::{self, Shape, Target};
use crate::{Extent, Result};

/// Connections, whether the contract is there that packs, and the least rate with a block every second.
const CONNECTIONS: [(usize, bool, Bound); 5] = [
    (64, false, Bound::None),
    (512, false, Bound::AtLeast(450.0)),
    (512, true, Bound::AtLeast(450.0)),
    (2_048, false, Bound::None),
    (2_048, true, Bound::AtLeast(1_000.0)),
];
/// Settlements on each connection.
const EACH: usize = 6;
/// A facilitator lets one payer have 16 settlements under way.
const PAYERS: usize = 256;
/// Settlements one after the other.
const ALONE: usize = 15;
/// What a settlement alone may take beyond the block's time, in milliseconds.
const BEYOND_BLOCK_MS: f64 = 60.0;
/// What a settlement alone may take where blocks do not wait, in milliseconds.
const INSTANT_MS: f64 = 25.0;

pub(super) async fn run(extent: Extent) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let each = if extent.divisor > 1 { 2 } else { EACH };
    for (connections, packs, bound) in CONNECTIONS {
        let (rate, [p50, p99, worst]) = rate(connections, each, packs).await?;
        let (suffix, how) = match packs {
            true => ("_packed", "in packs of 50 at most"),
            false => ("", "a transaction for each"),
        };
        figures.push(Figure {
            name: format!("speed_settle_{connections}{suffix}"),
            value: rate,
            unit: "settled per second",
            bound,
            load: format!(
                "anvil --block-time 1 --gas-limit {GAS_LIMIT}, one signer, {how}, {connections} \
                 connections, {each} payments each, all settled; p50 {p50:.0} ms, p99 {p99:.0} ms, worst {worst:.0} ms"
            ),
        });
    }
    for (name, instant, bound) in [
        ("speed_settle_alone_1s", false, 1_000.0 + BEYOND_BLOCK_MS),
        ("speed_settle_alone_instant", true, INSTANT_MS),
    ] {
        let times = alone(instant).await?;
        let worst = times.iter().copied().fold(f64::NAN, f64::max);
        figures.push(Figure {
            name: name.into(),
            value: median(times),
            unit: "ms, the median settlement",
            bound: Bound::AtMost(bound),
            load: format!("1 connection, {ALONE} payments, one after the other; worst {worst:.1}"),
        });
    }
    Ok(figures)
}

/// Settled per second, and the median, the 99th of 100 and the last of how long one took, in milliseconds.
async fn rate(connections: usize, each: usize, packs: bool) -> Result<(f64, [f64; 3])> {
    let anvil = Anvil::with_room().await?;
    if packs {
        anvil.place_packer().await?;
    }
    let mut payers = Payers::new(PAYERS)?;
    payers.fund(&anvil).await?;
    let folder = TempDir::new()?;
    let process = facilitator(anvil.address(), folder.path()).await?;
    let bodies = payers.sign(connections, each).await?;
    let target = Target::post(process.address, "/settle", &bodies).answering("\"success\":true");
    let began = std::time::Instant::now();
    let mut times = load::each_ms(&target, Shape { connections, each }).await?;
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |hundredth: usize| times[(times.len() - 1) * hundredth / 100];
    let found = [50, 99, 100].map(at);
    process.kill().await?;
    Ok((rate, found))
}

/// How long each settlement took, alone, in milliseconds.
async fn alone(instant: bool) -> Result<Vec<f64>> {
    let block_time = BLOCK_TIME_S.to_string();
    let every_second = ["--block-time", &block_time];
    let at_once_too = ["--block-time", &block_time, "--mixed-mining"];
    let anvil = Anvil::start(if instant { &at_once_too } else { &every_second }).await?;
    let mut payers = Payers::new(1)?;
    payers.fund(&anvil).await?;
    let folder = TempDir::new()?;
    let process = facilitator(anvil.address(), folder.path()).await?;
    let bodies = payers.sign(1, ALONE).await?;
    let target = Target::post(process.address, "/settle", &bodies).answering("\"success\":true");
    let times = load::each_ms(&target, Shape { connections: 1, each: ALONE }).await?;
    let signer = genesis::dev_signer(SIGNER_INDEX).address();
    let mined = usize::try_from(anvil.mined(signer).await?)?;
    if mined != ALONE {
        return Err(format!("{ALONE} settlements, and {mined} transactions").into());
    }
    Ok(times)
}
