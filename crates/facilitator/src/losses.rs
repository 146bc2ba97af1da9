//! What failed settlements cost us in the last hour, held within bounds: of a payer, of a caller, and of
//! the network as a whole, whose circuit breaker it is.
//!
//! The breaker is open, and nothing new is accepted, while the network's bound is reached, and for a while
//! after so many failures in a row that something must be wrong. Then a few payments are let through:
//! one that settles closes it, one that fails opens it again for twice as long.
//!
//! **Invariants:** what counts is what the journal has as failed at a price, so that a restart forgets none of
//! it; memory is bounded, and who does not fit in it still counts for the network. An entry counts once,
//! and not while it is opened again. What was accepted before a bound was reached goes on: the bounds may be
//! exceeded by what that costs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pay402_core::journal::{Entry, Loss, Outcome, Stage};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey, Refusal, Refused};

use crate::options::LossBounds;

/// How long a loss counts, in seconds; up to a minute longer.
pub(crate) const WINDOW_S: u64 = 60 * 60;
/// Losses are added up by the minute.
const MINUTE_S: u64 = 60;
/// Entries, payers and callers that are told apart in one hour. Others count for the network alone, and are
/// not taken back.
const NAMES_MAX: usize = 3 * 16_384;
/// How long the breaker is open after failures in a row, in seconds; it doubles.
const REST_S_FIRST: u64 = 60;
/// Longest that it is open then, in seconds.
const REST_S_MAX: u64 = 15 * 60;
/// Payments that are let through when it is half open; as many again when none of them has ended as long
/// as it was open.
const TRIALS: u32 = 3;

/// Somebody has cost as much as may be lost in an hour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Over {
    lost: Amount,
    bound: Amount,
    /// When it is below the bound again, if nothing more is lost.
    resets: UnixTime,
    wait_s: u64,
}

impl Over {
    fn of(whose: &str, Self { lost, bound, resets, wait_s }: Self) -> String {
        format!(
            "failed settlements {whose} cost {lost} wei of gas within an hour, and {bound} is the most \
             that is lost; settled again in {wait_s} s, at {}",
            resets.to_utc()
        )
    }

    /// The refusal of a payer.
    pub(crate) fn refuse_payer(self, payer: &str) -> Refused {
        Refused::new(Refusal::PayerSuspended, Self::of("of this payer", self)).by(payer)
    }

    /// The refusal of a caller.
    pub(crate) fn refuse_caller(self) -> Refused {
        Refused::new(Refusal::CallerSuspended, Self::of("entered with this API key", self))
    }
}

/// The losses on one network.
pub(crate) struct Losses {
    bounds: LossBounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Those of the window, the latest last.
    minutes: VecDeque<Minute>,
    row: Row,
}

/// The losses of one minute.
#[derive(Default)]
struct Minute {
    /// Its number since the Unix epoch.
    number: u64,
    total: Amount,
    payers: HashMap<String, Amount>,
    callers: HashMap<String, Amount>,
    entries: HashMap<PaymentKey, Amount>,
}

impl Minute {
    /// From when on it counts no more.
    const fn ends(&self) -> u64 {
        self.number.saturating_add(1).saturating_mul(MINUTE_S).saturating_add(WINDOW_S)
    }

    fn names(&self) -> usize {
        self.payers.len() + self.callers.len() + self.entries.len()
    }
}

/// Failures in a row.
#[derive(Default)]
struct Row {
    failures: u32,
    open: Option<Open>,
}

/// The breaker is open for failures in a row, or half open.
#[derive(Clone, Copy)]
struct Open {
    until: UnixTime,
    rest_s: u64,
    trials: u32,
}

/// Why nothing new is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stopped {
    /// As much was lost in an hour as may be.
    Over(Over),
    /// So many settlements in a row failed at a price.
    Row {
        /// How many.
        failures: u32,
        /// When a few are let through.
        until: UnixTime,
    },
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Over(over) => f.write_str(&Over::of("on this network", over)),
            Self::Row { failures, until } => write!(
                f,
                "{failures} settlements in a row failed and cost gas; a few are tried from {} on",
                until.to_utc()
            ),
        }
    }
}

impl Losses {
    pub(crate) fn new(bounds: LossBounds) -> Self {
        Self { bounds, state: Mutex::default() }
    }

    /// Takes note of what was lost before this process led.
    pub(crate) fn remember(&self, losses: Vec<Loss>) {
        let mut losses = losses;
        losses.sort_by_key(|loss| loss.at);
        let mut state = self.lock();
        for Loss { key, payer, entered_by, at, fee } in losses {
            state.add(&key, (&payer, entered_by.as_deref()), fee, at);
        }
    }

    /// Takes note of an entry that was closed at `now`. Says why nothing new is accepted, if that is since
    /// this entry.
    pub(crate) fn note(&self, entry: &Entry, now: UnixTime) -> Option<Stopped> {
        let mut state = self.lock();
        let was_stopped = state.stopped(&self.bounds, now).is_some();
        match &entry.stage {
            Stage::Final(Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. })
                if !fee.is_zero() =>
            {
                state.add(&entry.new.key, parties(entry), *fee, now);
                state.row.fail(self.bounds.failures_in_a_row_max, now);
            }
            // What was not charged was not sent, and shows nothing.
            Stage::Final(Outcome::Settled { transaction, .. }) if !transaction.is_empty() => {
                state.row = Row::default();
            }
            Stage::Final(_) | Stage::Due | Stage::Signed(_) | Stage::Sent(_) => {}
        }
        state.stopped(&self.bounds, now).filter(|_| !was_stopped)
    }

    /// Takes back what an entry was noted for that goes on: its block is undone, and it is closed again later.
    pub(crate) fn take_back(&self, entry: &Entry) {
        self.lock().take_back(&entry.new.key, parties(entry));
    }

    /// Whether nothing new is accepted.
    pub(crate) fn stopped(&self, now: UnixTime) -> Option<Stopped> {
        self.lock().stopped(&self.bounds, now)
    }

    /// Lets one payment through that is about to be entered, or says why not.
    pub(crate) fn begin(&self, now: UnixTime) -> Result<(), Stopped> {
        let mut state = self.lock();
        if let Some(stopped) = state.stopped(&self.bounds, now) {
            return Err(stopped);
        }
        if let Some(open) = &mut state.row.open {
            if open.trials == 0 {
                // None of those that were let through has ended.
                open.until = now;
                open.trials = TRIALS;
            }
            open.trials -= 1;
        }
        Ok(())
    }

    /// Whether a payer has cost as much as may be lost by one.
    pub(crate) fn of_payer(&self, payer: &str, now: UnixTime) -> Option<Over> {
        let of = |minute: &Minute| minute.payers.get(payer).copied();
        self.lock().over(of, self.bounds.per_payer, now)
    }

    /// Whether a caller has cost as much as may be lost by one.
    pub(crate) fn of_caller(&self, caller: &str, now: UnixTime) -> Option<Over> {
        let of = |minute: &Minute| minute.callers.get(caller).copied();
        self.lock().over(of, self.bounds.per_caller, now)
    }

    /// What was lost in the last hour, in wei.
    pub(crate) fn total(&self, now: UnixTime) -> Amount {
        self.lock().sum(|minute| Some(minute.total), now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(
        &mut self,
        key: &PaymentKey,
        (payer, caller): (&str, Option<&str>),
        fee: Amount,
        at: UnixTime,
    ) {
        self.take_back(key, (payer, caller));
        while self.minutes.front().is_some_and(|minute| minute.ends() <= at.0) {
            self.minutes.pop_front();
        }
        let number = at.0 / MINUTE_S;
        // A clock that was set back: what is lost now counts as long as what was lost last.
        if self.minutes.back().is_none_or(|minute| minute.number < number) {
            self.minutes.push_back(Minute { number, ..Minute::default() });
        }
        let known: usize = self.minutes.iter().map(Minute::names).sum();
        let Some(minute) = self.minutes.back_mut() else { return };
        minute.total = plus(minute.total, fee);
        let parties = [(&mut minute.payers, Some(payer)), (&mut minute.callers, caller)];
        for (book, name) in parties {
            let Some(name) = name else { continue };
            if let Some(lost) = book.get_mut(name) {
                *lost = plus(*lost, fee);
            } else if known < NAMES_MAX {
                book.insert(name.to_owned(), fee);
            }
        }
        if known < NAMES_MAX {
            minute.entries.insert(key.clone(), fee);
        }
    }

    fn take_back(&mut self, key: &PaymentKey, (payer, caller): (&str, Option<&str>)) {
        for minute in &mut self.minutes {
            let Some(fee) = minute.entries.remove(key) else { continue };
            minute.total = minute.total.saturating_sub(fee);
            let parties = [(&mut minute.payers, Some(payer)), (&mut minute.callers, caller)];
            for (book, name) in parties {
                if let Some(lost) = name.and_then(|name| book.get_mut(name)) {
                    *lost = lost.saturating_sub(fee);
                }
            }
        }
    }

    fn stopped(&self, bounds: &LossBounds, now: UnixTime) -> Option<Stopped> {
        if let Some(over) = self.over(|minute| Some(minute.total), bounds.total, now) {
            return Some(Stopped::Over(over));
        }
        let Open { until, rest_s, trials } = self.row.open?;
        let until = if trials == 0 { until.plus_s(rest_s) } else { until };
        (now < until).then_some(Stopped::Row { failures: self.row.failures, until })
    }

    fn sum(&self, of: impl Fn(&Minute) -> Option<Amount>, now: UnixTime) -> Amount {
        let counting = self.minutes.iter().filter(|minute| now.0 < minute.ends());
        counting.filter_map(of).fold(Amount::ZERO, plus)
    }

    fn over(
        &self,
        of: impl Fn(&Minute) -> Option<Amount>,
        bound: Amount,
        now: UnixTime,
    ) -> Option<Over> {
        let lost = self.sum(&of, now);
        if lost < bound || lost.is_zero() {
            return None;
        }
        let mut left = lost;
        let mut resets = now.0;
        for minute in self.minutes.iter().filter(|minute| now.0 < minute.ends()) {
            left = left.saturating_sub(of(minute).unwrap_or(Amount::ZERO));
            resets = minute.ends();
            if left < bound {
                break;
            }
        }
        let wait_s = resets.saturating_sub(now.0);
        Some(Over { lost, bound, resets: UnixTime(resets), wait_s })
    }
}

impl Row {
    fn fail(&mut self, max: u32, now: UnixTime) {
        self.failures = self.failures.saturating_add(1);
        if self.failures < max {
            return;
        }
        let rest_s = match self.open {
            None => REST_S_FIRST,
            // Accepted before it was opened.
            Some(open) if now < open.until => return,
            Some(open) => open.rest_s.saturating_mul(2).min(REST_S_MAX),
        };
        self.open = Some(Open { until: now.plus_s(rest_s), rest_s, trials: TRIALS });
    }
}

fn parties(entry: &Entry) -> (&str, Option<&str>) {
    (&entry.new.payer, entry.new.entered_by.as_deref())
}

fn plus(a: Amount, b: Amount) -> Amount {
    a.checked_add(b).unwrap_or(Amount::MAX)
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;

    const START: u64 = 600_000;

    fn wei(wei: u64) -> Amount {
        Amount::from(wei)
    }

    fn bounds() -> LossBounds {
        LossBounds {
            per_payer: wei(10),
            per_caller: wei(20),
            total: wei(100),
            failures_in_a_row_max: 3,
        }
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime(START + seconds)
    }

    fn key(name: &str) -> PaymentKey {
        PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", name)
    }

    /// Each is another entry.
    fn add(losses: &Losses, payer: &str, caller: Option<&str>, fee: u64, seconds: u64) {
        let mut state = losses.lock();
        let number: usize = state.minutes.iter().map(|minute| minute.entries.len()).sum();
        state.add(&key(&number.to_string()), (payer, caller), wei(fee), at(seconds));
    }

    #[test]
    fn each_has_a_bound_and_is_told_when_it_is_below_it_again() {
        let losses = Losses::new(bounds());
        add(&losses, "alice", Some("shop"), 6, 0);
        assert_eq!(losses.of_payer("alice", at(0)), None);
        add(&losses, "alice", Some("shop"), 5, 90);
        let over = losses.of_payer("alice", at(100)).unwrap();
        // Without the first six there are five left.
        let ends = 60 + WINDOW_S;
        assert_eq!((over.lost, over.resets, over.wait_s), (wei(11), at(ends), ends - 100));
        assert!(losses.of_payer("alice", at(ends - 1)).is_some());
        assert_eq!(losses.of_payer("alice", at(ends)), None);
        assert_eq!(losses.of_payer("bob", at(100)), None);
        assert_eq!(losses.of_caller("shop", at(100)), None);
        add(&losses, "bob", Some("shop"), 9, 100);
        assert!(losses.of_caller("shop", at(100)).is_some());
        assert_eq!(losses.of_caller("other", at(100)), None);
        let told = over.refuse_payer("alice").message;
        assert!(told.contains("cost 11 wei") && told.contains("and 10 is the most"), "{told}");
    }

    #[test]
    fn the_network_has_a_bound_over_all_of_them() {
        let losses = Losses::new(bounds());
        for number in 0..11 {
            add(&losses, &number.to_string(), None, 9, 0);
        }
        assert_eq!(losses.stopped(at(0)), None);
        add(&losses, "one more", None, 1, 0);
        assert!(matches!(losses.stopped(at(0)), Some(Stopped::Over(_))));
        assert!(losses.begin(at(0)).is_err());
        assert_eq!(losses.total(at(0)), wei(100));
        assert_eq!(losses.stopped(at(60 + WINDOW_S)), None);
        assert_eq!(losses.total(at(60 + WINDOW_S)), Amount::ZERO);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_few_are_let_through_later() {
        let losses = Losses::new(bounds());
        let fail = |seconds| losses.lock().row.fail(3, at(seconds));
        fail(0);
        fail(0);
        losses.begin(at(0)).unwrap();
        fail(0);
        let stopped = Stopped::Row { failures: 3, until: at(REST_S_FIRST) };
        assert_eq!(losses.stopped(at(0)), Some(stopped));
        // Accepted before.
        fail(1);
        assert!(losses.begin(at(REST_S_FIRST - 1)).is_err());
        for _ in 0..TRIALS {
            losses.begin(at(REST_S_FIRST)).unwrap();
        }
        assert!(losses.begin(at(REST_S_FIRST)).is_err(), "more than a few");
        // None of them ended.
        let again = 2 * REST_S_FIRST;
        for _ in 0..TRIALS {
            losses.begin(at(again)).unwrap();
        }
        assert!(losses.begin(at(again)).is_err());
        fail(again);
        let until = at(again + 2 * REST_S_FIRST);
        assert_eq!(losses.stopped(at(again)), Some(Stopped::Row { failures: 5, until }));
        for round in 0..10 {
            fail(again + round * 2 * REST_S_MAX);
        }
        let rest_s = losses.lock().row.open.unwrap().rest_s;
        assert_eq!(rest_s, REST_S_MAX);
    }

    #[test]
    fn memory_is_bounded_and_the_network_counts_all() {
        let losses = Losses::new(LossBounds { total: Amount::MAX, ..bounds() });
        let count = u64::try_from(NAMES_MAX).unwrap() / 2 + 1_000;
        for number in 0..count {
            add(&losses, &number.to_string(), None, 1, 0);
        }
        assert_eq!(losses.lock().minutes[0].names(), NAMES_MAX);
        assert_eq!(losses.total(at(0)), wei(count));
        for hour in 1..100 {
            add(&losses, "alice", None, 1, hour * (WINDOW_S / 2));
        }
        assert!(losses.lock().minutes.len() <= 3);
    }

    #[test]
    fn an_entry_counts_once_and_not_while_it_is_open_again() {
        let losses = Losses::new(bounds());
        let (one, parties) = (key("one"), ("alice", Some("shop")));
        losses.lock().add(&key("other"), parties, wei(4), at(0));
        losses.lock().add(&one, parties, wei(10), at(0));
        losses.lock().add(&one, parties, wei(11), at(90));
        assert_eq!(losses.total(at(90)), wei(15));
        assert!(losses.of_payer("alice", at(90)).is_some());
        for _ in 0..2 {
            losses.lock().take_back(&one, parties);
            assert_eq!(losses.total(at(90)), wei(4));
            assert_eq!(losses.of_payer("alice", at(90)), None);
            assert_eq!(losses.of_caller("shop", at(90)), None);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let losses = Losses::new(bounds());
        add(&losses, "alice", None, 5, 600);
        add(&losses, "alice", None, 5, 0);
        assert!(losses.of_payer("alice", at(0)).is_some());
        assert!(losses.of_payer("alice", at(600 + WINDOW_S)).is_some());
    }
}
