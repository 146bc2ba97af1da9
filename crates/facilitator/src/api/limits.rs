//! What the holder of a key may have settled, and how often it may ask.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pay402_core::{Refusal, Refused, Requirements};

/// The time of which a caller that was silent may have its calls at once.
const BURST: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);

/// The limits of a caller; by default none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// The addresses that its payments may be made to; anybody's where there are none.
    pub payees: Vec<String>,
    /// The contracts of the assets that its payments may be made in; any that is settled where there are
    /// none.
    pub assets: Vec<String>,
    /// How often it may ask for `/verify`, `/settle` and `/account` in a minute, all together; up to ten
    /// seconds of that at once. As often as it likes where it is not set.
    pub calls_per_minute: Option<u32>,
}

impl Limits {
    /// The refusal of terms that its payments may not have.
    pub(super) fn refuse(&self, terms: &Requirements) -> Option<Refused> {
        let has = |allowed: &[String], name: &str| {
            allowed.is_empty() || allowed.iter().any(|one| one.eq_ignore_ascii_case(name))
        };
        if !has(&self.payees, &terms.pay_to) {
            return Some(Refusal::PayeeNotAllowed.into());
        }
        if !has(&self.assets, &terms.asset) {
            let message = "the asset is not one that this API key may settle";
            return Some(Refused::new(Refusal::AssetNotAllowed, message));
        }
        None
    }
}

/// Counts a caller's calls.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two calls on average; zero without a limit.
    each: Duration,
    /// When the calls that were let through would have come one after the other.
    paid_until: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn of(limits: &Limits) -> Self {
        let each = limits.calls_per_minute.map_or(Duration::ZERO, |calls| MINUTE / calls.max(1));
        Self { each, paid_until: Mutex::new(None) }
    }

    /// Lets a call through, or says how long the caller is to wait.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        if self.each.is_zero() {
            return Ok(());
        }
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid_until.map_or(now, |until| until.max(now));
        let ahead = from.saturating_duration_since(now);
        // One call is always let through, however few there may be.
        let most = BURST.max(self.each) - self.each;
        if ahead > most {
            return Err(ahead - most);
        }
        *paid_until = Some(from + self.each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(calls_per_minute: u32) -> Pace {
        Pace::of(&Limits { calls_per_minute: Some(calls_per_minute), ..Limits::default() })
    }

    #[test]
    fn so_many_at_once_and_then_one_after_the_other() {
        let (pace, now) = (pace(60), Instant::now());
        for _ in 0..10 {
            pace.take(now).unwrap();
        }
        assert_eq!(pace.take(now), Err(Duration::from_secs(1)));
        let later = now + Duration::from_secs(1);
        pace.take(later).unwrap();
        assert!(pace.take(later).is_err());
        // Who was silent has ten seconds' worth again, and no more.
        let much_later = now + Duration::from_secs(3_600);
        let let_through = (0..100).filter(|_| pace.take(much_later).is_ok()).count();
        assert_eq!(let_through, 10);
    }

    #[test]
    fn a_call_a_minute_is_let_through_once_a_minute() {
        let (pace, now) = (pace(1), Instant::now());
        pace.take(now).unwrap();
        assert_eq!(pace.take(now), Err(Duration::from_secs(60)));
        assert!(pace.take(now + Duration::from_secs(59)).is_err());
        pace.take(now + Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let pace = Pace::of(&Limits::default());
        let now = Instant::now();
        assert!((0..10_000).all(|_| pace.take(now).is_ok()));
    }
}
