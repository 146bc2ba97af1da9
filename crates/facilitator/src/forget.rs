//! Forgets what is over for good, where an operator wants that.
//!
//! **Invariants:** a claim is forgotten only when the chain refuses its payment by itself, by a block that is
//! buried and by our clock, and as long ago as the operator retains it: presented again, it is refused by
//! verification and never entered. Errands are kept for ever, since each is a promise that something is
//! done once; but for the turns of days that are over. Whatever is forgotten goes in small lots, each in one
//! transaction that looks at it again and compares the lease.

use std::sync::Arc;
use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::journal::{Horizon, JournalError, Lease};

use crate::desk::Desk;
use crate::errand;
use crate::window::WINDOW_S;

/// Entries that are looked at together, and forgotten in one commit at most.
const LOT: usize = 128;
/// Pause between two of them, so that who settles need not wait.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
enum Unfinished {
    #[error(transparent)]
    Chain(#[from] Unavailable),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Forgets from time to time, until the lease is lost; at once returns where everything is kept.
pub(crate) async fn watch(desk: Arc<Desk>, lease: Lease) {
    let Some(retain) = desk.options.retain else { return };
    loop {
        tokio::time::sleep(desk.options.forget_every).await;
        match sweep(&desk, &lease, retain).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(network = %desk.id, count, "forgot entries that are over"),
            Err(Unfinished::Journal(JournalError::LeaseLost(_))) => return,
            Err(error) => tracing::warn!(network = %desk.id, %error, "forgetting is held up"),
        }
    }
}

/// Looks at everything that is old enough, and forgets what is past.
async fn sweep(desk: &Desk, lease: &Lease, retain: Duration) -> Result<u64, Unfinished> {
    let Some(horizon) = horizon(desk, retain).await? else { return Ok(0) };
    let (mut after, mut count) = (0, 0);
    loop {
        let looked = desk.journal.forgettable(&desk.id, after, LOT, &horizon).await?;
        let mut past = looked.past;
        past.retain(|key| errand::is_turn(key) || desk.network.refuses_again(key));
        if !past.is_empty() {
            let gone = desk.journal.forget(lease, past, &horizon).await?;
            desk.metrics.forgotten.add(gone);
            count += gone;
        }
        if looked.is_end {
            return Ok(count);
        }
        after = looked.at;
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is past: by our clock, and by the newest block that is buried. `None` while none is.
async fn horizon(desk: &Desk, retain: Duration) -> Result<Option<Horizon>, Unfinished> {
    let head = desk.in_time(desk.network.head()).await??;
    let head = desk.in_time(desk.network.common_head(head)).await??;
    let Some(buried) = head.block.number.checked_sub(desk.options.burial_blocks) else {
        return Ok(None);
    };
    let buried = desk.in_time(desk.network.headers(&[buried])).await??;
    let Some(buried) = buried.into_iter().flatten().next() else { return Ok(None) };
    let now = desk.clock.now();
    // What a caller has spent is told by what is retained.
    let counted = if desk.budgets.callers().is_empty() { 0 } else { WINDOW_S };
    let retain = retain.max(Duration::from_secs(counted));
    let counts = desk.options.strikes_window.max(Duration::from_secs(WINDOW_S));
    Ok(Some(Horizon {
        before: buried.time.min(now).minus_s(retain.as_secs()),
        losses_before: now.minus_s(retain.max(counts).as_secs()),
        hooks: desk.options.webhooks.iter().map(|hook| hook.name().to_owned()).collect(),
    }))
}
