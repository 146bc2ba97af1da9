//! When blocks come, so that those who wait for one look at the chain then, and one question is enough for all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::run::until;

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
        until(&self.came, || self.count() != count).await;
    }
}

/// Intervals between blocks that are remembered.
const INTERVALS: usize = 8;

/// Of the time since the newest block came, the part after which the next is asked for again.
const PART: u32 = 40;
/// A pause of at most this part of an interval says well enough how long that was.
const EXACT: u32 = 16;

/// Notices each new block soon after it came, with few questions: none while the next cannot have come yet, as
/// the shortest interval of late says, and then the fewer the longer it takes.
#[derive(Debug, Default)]
pub(crate) struct Lookahead {
    /// The newest, and when it was noticed.
    newest: Option<(String, Instant)>,
    /// Whether it was noticed soon.
    is_exact: bool,
    intervals: VecDeque<Duration>,
}

impl Lookahead {
    /// Takes note of the newest block, as asked for after a `pause`, and tells those who wait when it is another
    /// one.
    pub(crate) fn note(&mut self, hash: &str, now: Instant, pause: Duration, heads: &Heads) {
        let Some((newest, at)) = &self.newest else {
            self.newest = Some((hash.to_owned(), now));
            return heads.came();
        };
        if newest == hash {
            return;
        }
        let interval = now.duration_since(*at);
        let is_exact = pause * EXACT <= interval;
        if self.is_exact && is_exact {
            if self.intervals.len() == INTERVALS {
                self.intervals.pop_front();
            }
            self.intervals.push_back(interval);
        }
        self.newest = Some((hash.to_owned(), now));
        self.is_exact = is_exact;
        heads.came();
    }

    /// How long to wait before the newest block is asked for again, `every` at the least.
    pub(crate) fn pause(&self, now: Instant, every: Duration) -> Duration {
        let Some((_, at)) = &self.newest else { return every };
        let since = now.duration_since(*at);
        // Blocks come a little early too.
        let shortest = self.intervals.iter().min().filter(|_| self.is_exact);
        let not_yet = shortest.map(|shortest| (*shortest * 7 / 8).saturating_sub(since));
        every.max(since / PART).max(not_yet.unwrap_or_default())
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
        let mut came = |ahead: &mut Lookahead, ms, pause| {
            number += 1;
            ahead.note(&number.to_string(), at(ms), pause, &heads);
            assert_eq!(heads.count(), number);
            ahead.note(&number.to_string(), at(ms) + EVERY, EVERY, &heads);
            assert_eq!(heads.count(), number, "it was the same one");
        };
        assert_eq!(ahead.pause(start, EVERY), EVERY);
        for ms in [0, 1_000, 2_000, 3_040, 4_000] {
            came(&mut ahead, ms, EVERY);
        }
        // The shortest was 960 ms.
        assert_eq!(ahead.pause(at(4_000), EVERY), Duration::from_millis(840));
        assert_eq!(ahead.pause(at(4_800), EVERY), Duration::from_millis(40));
        assert_eq!(ahead.pause(at(4_835), EVERY), EVERY);
        // One that takes its time is asked for less and less often.
        assert_eq!(ahead.pause(at(16_000), EVERY), Duration::from_millis(300));
        // Who asks seldom does not learn when blocks come.
        came(&mut ahead, 16_500, Duration::from_secs(1));
        assert_eq!(ahead.pause(at(16_500), EVERY), EVERY);
        came(&mut ahead, 17_500, EVERY);
        assert_eq!(ahead.pause(at(17_500), EVERY), Duration::from_millis(840));
        // Those that come faster are soon believed, and soon forgotten.
        came(&mut ahead, 18_000, EVERY);
        assert_eq!(ahead.pause(at(18_000), EVERY), Duration::from_micros(437_500));
        for ms in (1..=8).map(|blocks| 18_000 + 1_000 * blocks) {
            came(&mut ahead, ms, EVERY);
        }
        assert_eq!(ahead.pause(at(26_000), EVERY), Duration::from_millis(875));
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
