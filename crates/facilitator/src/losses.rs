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

use std::sync::{Mutex, MutexGuard, PoisonError};

use pay402_core::journal::{Entry, Loss, Outcome, Stage};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal, Refused};

use crate::options::LossBounds;
use crate::window::{Of, Over, Window};

/// The books of a [`Window`] of losses.
const PAYERS: usize = 0;
const CALLERS: usize = 1;
/// How long the breaker is open after failures in a row, in seconds; it doubles.
const REST_S_FIRST: u64 = 60;
/// Longest that it is open then, in seconds.
const REST_S_MAX: u64 = 15 * 60;
/// Payments that are let through when it is half open; as many again when none of them has ended as long
/// as it was open.
const TRIALS: u32 = 3;

fn of(whose: &str, Over { cost, bound, resets, wait_s }: Over) -> String {
    format!(
        "failed settlements {whose} cost {cost} wei of gas within an hour, and {bound} is the most \
         that is lost; settled again in {wait_s} s, at {}",
        resets.to_utc()
    )
}

/// The refusal of a payer that has cost too much.
pub(crate) fn refuse_payer(over: Over, payer: &str) -> Refused {
    Refused::new(Refusal::PayerSuspended, of("of this payer", over)).by(payer)
}

/// The refusal of a caller that has cost too much.
pub(crate) fn refuse_caller(over: Over) -> Refused {
    Refused::new(Refusal::CallerSuspended, of("entered with this API key", over))
}

/// The losses on one network.
pub(crate) struct Losses {
    bounds: LossBounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lost: Window<2>,
    row: Row,
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
            Self::Over(over) => f.write_str(&of("on this network", over)),
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
            state.lost.add(Some(&key), names(&payer, entered_by.as_deref()), fee, at);
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
                state.lost.add(Some(&entry.new.key), parties(entry), *fee, now);
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
        self.lock().lost.take_back(&entry.new.key, parties(entry));
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
        self.lock().lost.over(Of::Name(PAYERS, payer), self.bounds.per_payer, now)
    }

    /// Whether a caller has cost as much as may be lost by one.
    pub(crate) fn of_caller(&self, caller: &str, now: UnixTime) -> Option<Over> {
        self.lock().lost.over(Of::Name(CALLERS, caller), self.bounds.per_caller, now)
    }

    /// What was lost in the last hour, in wei.
    pub(crate) fn total(&self, now: UnixTime) -> Amount {
        self.lock().lost.sum(Of::All, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stopped(&self, bounds: &LossBounds, now: UnixTime) -> Option<Stopped> {
        if let Some(over) = self.lost.over(Of::All, bounds.total, now) {
            return Some(Stopped::Over(over));
        }
        let Open { until, rest_s, trials } = self.row.open?;
        let until = if trials == 0 { until.plus_s(rest_s) } else { until };
        (now < until).then_some(Stopped::Row { failures: self.row.failures, until })
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

const fn names<'a>(payer: &'a str, caller: Option<&'a str>) -> [Option<&'a str>; 2] {
    [Some(payer), caller]
}

fn parties(entry: &Entry) -> [Option<&str>; 2] {
    names(&entry.new.payer, entry.new.entered_by.as_deref())
}

#[cfg(test)]
mod tests {
    use pay402_core::{NetworkId, PaymentKey};

    use super::*;
    use crate::window::WINDOW_S;

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

    /// Each is another entry.
    fn add(losses: &Losses, number: u64, payer: &str, caller: Option<&str>, fee: u64) {
        let key = PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", &number.to_string());
        losses.lock().lost.add(Some(&key), names(payer, caller), wei(fee), at(0));
    }

    #[test]
    fn each_has_a_bound_of_its_own() {
        let losses = Losses::new(bounds());
        add(&losses, 1, "alice", Some("shop"), 6);
        assert_eq!(losses.of_payer("alice", at(0)), None);
        add(&losses, 2, "alice", Some("shop"), 5);
        let over = losses.of_payer("alice", at(0)).unwrap();
        assert_eq!(losses.of_payer("bob", at(0)), None);
        assert_eq!(losses.of_caller("shop", at(0)), None);
        add(&losses, 3, "bob", Some("shop"), 9);
        assert!(losses.of_caller("shop", at(0)).is_some());
        assert_eq!(losses.of_caller("other", at(0)), None);
        let told = refuse_payer(over, "alice").message;
        assert!(told.contains("cost 11 wei") && told.contains("and 10 is the most"), "{told}");
    }

    #[test]
    fn the_network_has_a_bound_over_all_of_them() {
        let losses = Losses::new(bounds());
        for number in 0..11 {
            add(&losses, number, &number.to_string(), None, 9);
        }
        assert_eq!(losses.stopped(at(0)), None);
        add(&losses, 11, "one more", None, 1);
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
}
