//! Whether the chain moves.
//!
//! A chain on which nothing happens may make no blocks for hours, and that is no fault. One on which
//! transactions of ours wait and no block comes has halted, or our node has: nothing new is accepted then,
//! since it would only expire. **Invariant:** what was accepted before is seen through.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::network::Header;
use tokio::time::Instant;

use crate::desk::Desk;

/// The newest block, and since when it has been the newest while something waited for the next.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<Beat>>);

#[derive(Debug)]
struct Beat {
    hash: String,
    since: Instant,
}

impl Pulse {
    /// Notes what the newest block is, and whether anything waits for the next.
    pub(crate) fn note(&self, head: &Header, waits: bool) {
        let mut beat = self.lock();
        let is_same = beat.as_ref().is_some_and(|beat| beat.hash == head.block.hash);
        if !waits || !is_same {
            *beat = Some(Beat { hash: head.block.hash.clone(), since: Instant::now() });
        }
    }

    /// Nothing waits.
    pub(crate) fn rest(&self) {
        *self.lock() = None;
    }

    /// For how long no block has come although something waited for one.
    pub(crate) fn still(&self) -> Duration {
        self.lock().as_ref().map_or(Duration::ZERO, |beat| beat.since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses new work while the chain stands still.
///
/// # Errors
/// When it does.
pub(crate) fn check(desk: &Desk) -> Result<(), Unavailable> {
    if desk.pulse.still() < desk.options.halt_after {
        return Ok(());
    }
    let problem = "the chain has made no block for too long while settlements wait for one";
    Err(Unavailable::new(format!("settling on {}", desk.id), problem))
}
