//! Time as an argument: nothing in the project reads the wall clock except [`SystemClock`].

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whole seconds since the Unix epoch, the unit of every time on the wire and on chain.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This many seconds later; stops at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This many seconds earlier; stops at the epoch.
    #[must_use]
    pub const fn minus_s(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// The first second of the minute that it is in.
    #[must_use]
    pub const fn minute(self) -> Self {
        Self(self.0 - self.0 % 60)
    }

    /// For people: date and time in UTC, such as `2026-11-25 23:26:18 UTC`.
    pub fn to_utc(self) -> String {
        let (days, seconds) = (self.0 / DAY_S, self.0 % DAY_S);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

const DAY_S: u64 = 24 * 60 * 60;
/// Years that [`UnixTime::of_day`] knows.
const YEARS: std::ops::RangeInclusive<u64> = 1970..=9999;

impl UnixTime {
    /// When a day begins (UTC); `None` for one that the calendar does not have, or before 1970.
    pub fn of_day(year: u64, month: u64, day: u64) -> Option<Self> {
        if !YEARS.contains(&year) {
            return None;
        }
        // A day at most 366 days into the year, found by the same calendar that tells it.
        let first = (year - 1970) * 365;
        let leap_days = (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
        let new_year = first + leap_days;
        (new_year..new_year + 366)
            .find(|days| date(*days) == (year, month, day))
            .map(|days| Self(days * DAY_S))
    }
}

/// Year, month and day of a day since 1970-01-01, by the Gregorian calendar. Years begin in March
/// while it is found, so that the leap day is a year's last.
const fn date(days: u64) -> (u64, u64, u64) {
    /// Days from 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE: u64 = 719_468;
    /// Days in 400 years, after which the calendar repeats.
    const ERA: u64 = 146_097;
    let day = days + DAYS_BEFORE;
    let (era, day) = (day / ERA, day % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + later, month, day)
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where a component gets the time from.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> UnixTime;
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> UnixTime {
        (**self).now()
    }
}

/// The wall clock of the machine.
#[cfg(feature = "system-clock")]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

#[cfg(feature = "system-clock")]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, clippy::disallowed_types)] // the adapter itself
    fn now(&self) -> UnixTime {
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        UnixTime(since.map_or(0, |elapsed| elapsed.as_secs()))
    }
}

/// A clock that stands until it is moved. For tests and replays.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `now`.
    pub const fn new(now: UnixTime) -> Self {
        Self(AtomicU64::new(now.0))
    }

    /// Moves the clock to `now`.
    pub fn set(&self, now: UnixTime) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        UnixTime(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_dates() {
        for (time, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59:59 UTC"),
            (1_795_649_178, "2026-11-25 23:26:18 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(UnixTime(time).to_utc(), text);
        }
        assert!(UnixTime(u64::MAX).to_utc().ends_with(" UTC"));
    }

    #[test]
    fn a_day_begins_when_it_is_told_to() {
        for days in (0..2_932_896).step_by(97).chain([0, 59, 11_016, 2_932_895]) {
            let (year, month, day) = date(days);
            assert_eq!(UnixTime::of_day(year, month, day), Some(UnixTime(days * DAY_S)));
        }
        for (year, month, day) in [
            (1969, 12, 31),
            (2026, 2, 29),
            (2100, 2, 29),
            (2026, 13, 1),
            (2026, 4, 31),
            (2026, 0, 1),
        ] {
            assert_eq!(UnixTime::of_day(year, month, day), None, "{year}-{month}-{day}");
        }
        assert!(
            UnixTime::of_day(2000, 2, 29).is_some() && UnixTime::of_day(10_000, 1, 1).is_none()
        );
    }
}
