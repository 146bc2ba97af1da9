//! What a price costs those who do not pay yet: the 402 of a gate beside a bare axum route.

use crate::load::{self, Shape, Target};
use crate::report::{Bench, Round, Unit};
use crate::stack::Stack;
use crate::{Extent, Result, bare};

pub(crate) const NAMES: &[&str] = &["unpaid_402"];

const CONNECTIONS: usize = 16;
/// Requests on each connection, per round.
const EACH: usize = 500;

/// Drives the same handler with and without a gate in front of it.
pub(crate) async fn run(extent: Extent) -> Result<Vec<Bench>> {
    let stack = Stack::start().await?;
    let gated = Target::get(stack.server, "/data", 402);
    let bare = Target::get(bare::serve().await?, "/data", 200).answering("temperature");
    let shape = Shape { connections: CONNECTIONS, each: extent.count(EACH) };
    // Warm: allocations, branch predictors, the encoded offer.
    load::per_second(&gated, shape).await?;
    load::per_second(&bare, shape).await?;
    let mut rounds = Vec::new();
    for _ in 0..extent.rounds {
        let subject = load::per_second(&gated, shape).await?;
        let reference = load::per_second(&bare, shape).await?;
        rounds.push(Round { subject, reference });
    }
    let against = "the same handler on a bare axum route";
    Ok(vec![Bench { name: NAMES[0], against, unit: Unit::PerSecond, rounds }])
}
