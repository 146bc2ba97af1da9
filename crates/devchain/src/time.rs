//! The chain's clock: wall time plus whatever tests added to it.
//!
//! This is the only place that reads the machine's clock. The invariant kept: block time never goes backwards.

use std::sync::Arc;

/// Seconds since the Unix epoch, from wherever the owner of the chain wants them.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub fn wall_clock() -> Clock {
    Arc::new(wall_seconds)
}

#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the adapter through which the development chain reads wall time"
)]
fn wall_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// What a test did to time; cheap to copy into a snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimeShift {
    /// Seconds added to the clock; may be negative.
    offset: i64,
    /// Exact time of the next block, if a test asked for one.
    next: Option<u64>,
}

impl TimeShift {
    /// A shift under which `clock` reads `start` now.
    pub(crate) fn starting_at(start: u64, clock: &Clock) -> Self {
        Self { offset: difference(start, clock()), next: None }
    }

    /// When the block after one at `parent` would be made. Equal timestamps are allowed: many blocks a second must not
    /// run ahead of the clock that payers sign against.
    pub(crate) fn next_block_time(&self, parent: u64, clock: &Clock) -> u64 {
        self.next.unwrap_or_else(|| clock().saturating_add_signed(self.offset)).max(parent)
    }

    /// Takes the next block's time and lets later blocks continue from there.
    pub(crate) fn take_block_time(&mut self, parent: u64, clock: &Clock) -> u64 {
        let time = self.next_block_time(parent, clock);
        if self.next.take().is_some() {
            self.offset = difference(time, clock());
        }
        time
    }

    pub(crate) fn increase(&mut self, seconds: u64) {
        self.offset = self.offset.saturating_add_unsigned(seconds);
        if let Some(next) = &mut self.next {
            *next = next.saturating_add(seconds);
        }
    }

    pub(crate) fn set_next(&mut self, time: u64) {
        self.next = Some(time);
    }

    /// Seconds that the chain's clock is ahead of the machine's.
    pub(crate) fn offset(&self) -> i64 {
        self.offset
    }
}

fn difference(a: u64, b: u64) -> i64 {
    if a >= b {
        i64::try_from(a - b).unwrap_or(i64::MAX)
    } else {
        i64::try_from(b - a).map_or(i64::MIN, |behind| -behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_time_is_used_once_and_then_time_flows_from_it() {
        let clock: Clock = Arc::new(|| 1_000);
        let mut shift = TimeShift::default();
        shift.set_next(5_000);
        assert_eq!(shift.take_block_time(900, &clock), 5_000);
        shift.increase(10);
        assert_eq!(shift.take_block_time(5_000, &clock), 5_010);
    }

    #[test]
    fn time_never_goes_backwards() {
        let clock: Clock = Arc::new(|| 1_000);
        let mut shift = TimeShift::default();
        assert_eq!(shift.take_block_time(2_000, &clock), 2_000);
    }
}
