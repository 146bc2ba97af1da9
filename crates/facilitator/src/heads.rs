//! When blocks come, so that those who wait for one look at the chain then, and one question is enough for all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Wakes those who wait for a block.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    count: AtomicU64,
    came: Notify,
    wanted: Notify,
}

impl Heads {
    /// Somebody waits for a block from now on, where nobody did.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until somebody waits for a block.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A new block came.
    fn came(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.came.notify_waiters();
    }

    /// How many have come; to be asked before one looks at the chain, and given to [`Heads::after`] then.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until more have come.
    pub(crate) async fn after(&self, count: u64) {
        loop {
            // Before it is looked at: this counts from when it is made, not from when it is awaited.
            let came = self.came.notified();
            if self.count() != count {
                return;
            }
            came.await;
        }
    }
}

/// Intervals between blocks that are remembered.
const INTERVALS: usize = 8;

/// Notices each new block soon after it came, with few questions: none while the next cannot have come yet, as
/// the shortest interval of late says.
#[derive(Debug, Default)]
pub(crate) struct Lookahead {
    newest: Option<String>,
    /// When the newest came, where that was noticed soon.
    since: Option<Instant>,
    intervals: VecDeque<Duration>,
}

impl Lookahead {
    /// Takes note of the newest block, and tells those who wait when it is another one. `soon` says that it was
    /// asked for a moment before too.
    pub(crate) fn note(&mut self, hash: &str, now: Instant, soon: bool, heads: &Heads) {
        if self.newest.as_deref() == Some(hash) {
            return;
        }
        self.newest = Some(hash.to_owned());
        let before = std::mem::replace(&mut self.since, soon.then_some(now));
        if let Some((before, since)) = before.zip(self.since) {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(since.duration_since(before));
        }
        heads.came();
    }

    /// How long to wait before the newest block is asked for again, `every` so often where one may have come.
    pub(crate) fn pause(&self, now: Instant, every: Duration) -> Duration {
        let expected = self.intervals.iter().min().zip(self.since).map(|(shortest, since)| {
            // Blocks come a little early too.
            (since + *shortest * 7 / 8).saturating_duration_since(now)
        });
        every.max(expected.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const EVERY: Duration = Duration::from_millis(25);

    #[test]
    fn nothing_is_asked_while_no_block_can_have_come() {
        let (heads, mut ahead) = (Heads::default(), Lookahead::default());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut number = 0;
        let mut came = |ahead: &mut Lookahead, ms, soon| {
            number += 1;
            ahead.note(&number.to_string(), at(ms), soon, &heads);
            assert_eq!(heads.count(), number);
            ahead.note(&number.to_string(), at(ms) + EVERY, true, &heads);
            assert_eq!(heads.count(), number, "it was the same one");
        };
        assert_eq!(ahead.pause(start, EVERY), EVERY);
        for ms in [0, 1_000, 2_040, 3_000] {
            came(&mut ahead, ms, true);
        }
        // The shortest was 960 ms.
        assert_eq!(ahead.pause(at(3_000), EVERY), Duration::from_millis(840));
        assert_eq!(ahead.pause(at(3_800), EVERY), Duration::from_millis(40));
        assert_eq!(ahead.pause(at(3_835), EVERY), EVERY);
        assert_eq!(ahead.pause(at(9_000), EVERY), EVERY);
        // Who asks seldom does not learn when blocks come.
        came(&mut ahead, 9_100, false);
        assert_eq!(ahead.pause(at(9_100), EVERY), EVERY);
        came(&mut ahead, 9_110, true);
        assert_eq!(ahead.pause(at(9_110), EVERY), Duration::from_millis(840));
        // Those that come faster are soon believed, and soon forgotten.
        came(&mut ahead, 9_610, true);
        assert_eq!(ahead.pause(at(9_610), EVERY), Duration::from_micros(437_500));
        for ms in (1..=8).map(|blocks| 9_610 + 1_000 * blocks) {
            came(&mut ahead, ms, true);
        }
        assert_eq!(ahead.pause(at(17_610), EVERY), Duration::from_millis(875));
    }

    #[tokio::test]
    async fn a_block_that_comes_while_one_looks_is_not_missed() {
        let heads = Arc::new(Heads::default());
        let seen = heads.count();
        heads.came();
        heads.after(seen).await;
        let seen = heads.count();
        let waits = tokio::spawn({
            let heads = Arc::clone(&heads);
            async move { heads.after(seen).await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        heads.came();
        waits.await.unwrap();
    }
}
