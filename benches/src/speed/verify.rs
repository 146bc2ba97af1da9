//! `POST /verify`: different valid EIP-3009 payments, each presented once.

use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use super::anvil::Anvil;
use super::process::{Process, free_address};
use super::proxy::Proxy;
use super::town::{Payers, facilitator};
use super::{Bound, Figure, LIMIT_ARGUMENT, median};
use crate::load::{self, Shape, Target};
use crate::{Extent, Result};

/// Connections, and the bound on CPU time per verification beside the limit's.
const CONNECTIONS: [(usize, Bound); 3] =
    [(1, Bound::None), (16, Bound::AtMost(1.6)), (64, Bound::AtMost(1.6))];
/// Verifications of a round, over all connections.
const PER_ROUND: usize = 4_096;
const ROUNDS_MAX: usize = 5;
const PAYERS: usize = 64;
/// How long a slow node takes.
const SLOW_NODE: Duration = Duration::from_millis(25);
/// Verifications against a slow node, one after the other.
const SLOW_COUNT: usize = 100;
/// JSON-RPC requests per verification.
const REQUESTS_MAX: [f64; 3] = [1.0, f64::INFINITY, 0.1];

pub(super) async fn run(extent: Extent) -> Result<Vec<Figure>> {
    // Authorizations are valid from a moment on that an idle chain has not come to.
    let anvil = Anvil::start(&["--block-time", "1"]).await?;
    let proxy = Proxy::start(anvil.address()).await?;
    let mut payers = Payers::new(PAYERS)?;
    payers.fund(&anvil).await?;
    let folder = TempDir::new()?;
    // CPU time is measured with the node asked directly, and what it is asked through the proxy.
    let direct = facilitator(anvil.address(), folder.path()).await?;
    let folder = TempDir::new()?;
    let counted = facilitator(proxy.address, folder.path()).await?;
    let limit = limit().await?;
    let mut figures = Vec::new();
    for ((connections, bound), requests_max) in CONNECTIONS.into_iter().zip(REQUESTS_MAX) {
        let each = (extent.count(PER_ROUND) / connections).max(1);
        let shape = Shape { connections, each };
        let rounds = extent.rounds.min(ROUNDS_MAX);
        let (mut ratios, mut costs, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        let mut rates = Vec::new();
        for _ in 0..rounds {
            let bodies = payers.sign(connections, each).await?;
            let count = (connections * each) as f64;
            let (subject, rate) = cpu_us(&direct, &bodies, shape).await?;
            let (reference, _) = cpu_us(&limit, &bodies, shape).await?;
            ratios.push(subject / reference);
            costs.push(subject);
            rates.push(rate);
            let bodies = payers.sign(connections, each).await?;
            let before = proxy.asked();
            cpu_us(&counted, &bodies, shape).await?;
            asked.push((proxy.asked().0 - before.0) as f64 / count);
        }
        let worst = ratios.iter().copied().fold(f64::NAN, f64::max);
        let shown = format!(
            "{connections} connections, {each} payments each, {rounds} rounds; median of {:.0} µs, \
             worst ratio {worst:.2}, {:.0}/s",
            median(costs),
            median(rates)
        );
        figures.push(Figure {
            name: format!("speed_verify_cpu_{connections}"),
            value: median(ratios),
            unit: "of the limit's CPU time",
            bound,
            load: shown.clone(),
        });
        figures.push(Figure {
            name: format!("speed_verify_rpc_{connections}"),
            value: median(asked),
            unit: "requests to the node each",
            bound: match requests_max.is_finite() {
                true => Bound::AtMost(requests_max),
                false => Bound::None,
            },
            load: shown,
        });
    }
    figures.push(slow_node(&proxy, &counted, &mut payers).await?);
    Ok(figures)
}

/// What a node that answers late adds to the median verification.
async fn slow_node(proxy: &Proxy, counted: &Process, payers: &mut Payers) -> Result<Figure> {
    let fast = median_ms(counted, &payers.sign(1, SLOW_COUNT).await?).await?;
    proxy.delay(SLOW_NODE);
    let slow = median_ms(counted, &payers.sign(1, SLOW_COUNT).await?).await?;
    proxy.delay(Duration::ZERO);
    Ok(Figure {
        name: "speed_verify_slow_node".into(),
        value: slow - fast,
        unit: "ms added to the median",
        bound: Bound::AtMost(30.0),
        load: format!(
            "1 connection, {SLOW_COUNT} payments; a node 25 ms away; {fast:.2} ms without"
        ),
    })
}

async fn median_ms(process: &Process, bodies: &[String]) -> Result<f64> {
    let target = Target::post(process.address, "/verify", bodies).answering("\"isValid\":true");
    let times = load::each_ms(&target, Shape { connections: 1, each: bodies.len() }).await?;
    Ok(median(times))
}

/// CPU time of the process per request, in microseconds, and requests per second.
async fn cpu_us(process: &Process, bodies: &[String], shape: Shape) -> Result<(f64, f64)> {
    let target = Target::post(process.address, "/verify", bodies).answering("\"isValid\":true");
    let before = process.cpu_s()?;
    let rate = load::per_second(&target, shape).await?;
    let taken = process.cpu_s()? - before;
    Ok((taken * 1e6 / (shape.connections * shape.each) as f64, rate))
}

async fn limit() -> Result<Process> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(LIMIT_ARGUMENT).arg(address.to_string());
    Process::start(command, address, None).await
}
