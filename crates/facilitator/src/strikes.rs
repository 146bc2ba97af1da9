//! Strikes: failed settlements that cost us gas, counted against their payer.
//!
//! A settlement that reverts was verified in good faith a moment before, and its gas is lost. A
//! payer who has that happen again and again is refused for a while, whatever the reason.
//!
//! **Invariants:** what counts is what the journal has as failed at a price, so that a restart
//! forgets nothing; memory is bounded, and where it does not reach, the journal is asked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pay402_core::NetworkId;
use pay402_core::error::Unavailable;
use pay402_core::journal::{Entry, Journal, Outcome, Stage};
use pay402_core::time::UnixTime;

use crate::options::Options;

/// Payers of whom something is remembered. When there would be more, everything is forgotten, and
/// the journal is asked instead.
const PAYERS_MAX: usize = 16_384;

/// The strikes on one network.
pub(crate) struct Strikes {
    max: usize,
    window_s: u64,
    book: Mutex<Book>,
}

/// What is remembered.
struct Book {
    /// Every strike from this moment on is in `payers`.
    complete_since: UnixTime,
    payers: HashMap<String, Record>,
}

/// What is remembered of one payer.
#[derive(Default)]
struct Record {
    /// Whether the journal had nothing against the payer beside these.
    complete: bool,
    /// When, the latest last; no more than matter.
    strikes: VecDeque<UnixTime>,
}

impl Record {
    fn since(&self, since: UnixTime) -> usize {
        self.strikes.iter().filter(|at| **at >= since).count()
    }
}

impl Strikes {
    /// No strikes yet, as far as this process knows at `now`.
    pub(crate) fn new(options: &Options, now: UnixTime) -> Self {
        Self {
            max: usize::try_from(options.strikes_max).unwrap_or(usize::MAX),
            window_s: options.strikes_window.as_secs(),
            book: Mutex::new(Book { complete_since: now, payers: HashMap::new() }),
        }
    }

    /// Whether payments by `payer` are refused at `now`.
    ///
    /// # Errors
    /// When the journal has to be asked and does not answer.
    pub(crate) async fn suspended(
        &self,
        journal: &dyn Journal,
        network: &NetworkId,
        payer: &str,
        now: UnixTime,
    ) -> Result<bool, Unavailable> {
        let since = now.minus_s(self.window_s);
        let (remembered, complete) = self.lock().look(payer, since);
        if complete || remembered >= self.max {
            return Ok(remembered >= self.max);
        }
        let failures = journal.failures(network, payer, since).await;
        let failures = failures.map_err(|error| Unavailable::new("journal", error.to_string()))?;
        if failures == 0 {
            self.remember(payer, now, |record| record.complete = true);
        }
        let failures = usize::try_from(failures).unwrap_or(usize::MAX);
        Ok(failures.max(remembered) >= self.max)
    }

    /// Takes note of an entry that was closed at `now`: a failure at a price is a strike.
    pub(crate) fn note(&self, entry: &Entry, now: UnixTime) {
        let Stage::Final(Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. }) =
            &entry.stage
        else {
            return;
        };
        if fee.is_zero() {
            return;
        }
        tracing::warn!(payment = %entry.new.key, payer = entry.new.payer, "strike");
        self.remember(&entry.new.payer, now, |record| {
            record.strikes.push_back(now);
            // More than these decide nothing.
            while record.strikes.len() > self.max {
                record.strikes.pop_front();
            }
        });
    }

    fn remember(&self, payer: &str, now: UnixTime, change: impl FnOnce(&mut Record)) {
        let mut book = self.lock();
        if !book.payers.contains_key(payer) {
            book.make_room(now, now.minus_s(self.window_s));
        }
        change(book.payers.entry(payer.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// How many strikes since then are remembered, and whether these are all.
    fn look(&self, payer: &str, since: UnixTime) -> (usize, bool) {
        let record = self.payers.get(payer);
        let complete = since >= self.complete_since || record.is_some_and(|record| record.complete);
        (record.map_or(0, |record| record.since(since)), complete)
    }

    /// Makes room for one more payer: forgets those without a strike in the window, and everybody
    /// when there are none.
    fn make_room(&mut self, now: UnixTime, since: UnixTime) {
        if self.payers.len() < PAYERS_MAX {
            return;
        }
        self.payers.retain(|_, record| record.since(since) > 0);
        if self.payers.len() >= PAYERS_MAX {
            self.payers.clear();
            self.complete_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_knows_when_it_is_not_whole() {
        let now = UnixTime(10_000);
        let strikes = Strikes::new(&Options { strikes_max: 2, ..Options::default() }, UnixTime(0));
        let look = |payer: &str| strikes.lock().look(payer, now.minus_s(3_600));
        let strike = |payer: &str| {
            strikes.remember(payer, now, |record| record.strikes.push_back(now));
        };
        for number in 0..PAYERS_MAX - 1 {
            strikes.remember(&number.to_string(), now, |record| record.complete = true);
        }
        strike("struck");
        // Those without a strike go first.
        strikes.remember("one more", now, |record| record.complete = true);
        assert_eq!(strikes.lock().payers.len(), 2);
        assert_eq!(look("struck"), (1, true));
        for number in 0..PAYERS_MAX {
            strike(&format!("struck {number}"));
        }
        assert!(strikes.lock().payers.len() <= PAYERS_MAX);
        assert_eq!(look("struck"), (0, false), "the journal has to be asked");
        let later = now.plus_s(3_600);
        assert_eq!(strikes.lock().look("struck", later.minus_s(3_600)), (0, true));
    }
}
