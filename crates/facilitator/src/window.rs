//! What entries cost within the last hour, added up by the minute: all together, and for each name that they
//! count for.
//!
//! **Invariants:** an entry counts once. Memory is bounded: a name that does not fit in it counts for all
//! together alone, and an entry that does not is not taken back, the oldest first.

use std::collections::{HashMap, VecDeque};

use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};

/// How long a cost counts, in seconds; up to a minute longer.
pub(crate) const WINDOW_S: u64 = 60 * 60;
/// Costs are added up by the minute.
const MINUTE_S: u64 = 60;
/// Names that are told apart in one hour, in each minute anew.
pub(crate) const NAMES_MAX: usize = 2 * 16_384;
/// Entries that can be taken back. At 450 a second they are those of more than two minutes, as long as the
/// blocks take that are not buried yet where blocks come so fast.
pub(crate) const ENTRIES_MAX: usize = 131_072;

/// Somebody has cost as much as may be in an hour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Over {
    /// What counts, in wei.
    pub(crate) cost: Amount,
    /// What may be, in wei.
    pub(crate) bound: Amount,
    /// When it is below the bound again, if nothing more is spent.
    pub(crate) resets: UnixTime,
    /// In how many seconds that is.
    pub(crate) wait_s: u64,
}

/// Whose costs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of<'a> {
    /// Everybody's.
    All,
    /// Those that count for a name in the book with this number.
    Name(usize, &'a str),
}

/// The costs of an hour, with so many books of names.
#[derive(Debug, Default)]
pub(crate) struct Window<const BOOKS: usize> {
    /// The latest last.
    minutes: VecDeque<Minute<BOOKS>>,
}

/// The costs of one minute.
#[derive(Debug)]
struct Minute<const BOOKS: usize> {
    /// Its number since the Unix epoch.
    number: u64,
    total: Amount,
    books: [HashMap<String, Amount>; BOOKS],
    entries: HashMap<PaymentKey, Amount>,
}

impl<const BOOKS: usize> Minute<BOOKS> {
    fn new(number: u64) -> Self {
        let books = std::array::from_fn(|_| HashMap::new());
        Self { number, total: Amount::ZERO, books, entries: HashMap::new() }
    }

    /// From when on it counts no more.
    const fn ends(&self) -> u64 {
        self.number.saturating_add(1).saturating_mul(MINUTE_S).saturating_add(WINDOW_S)
    }

    fn names(&self) -> usize {
        self.books.iter().map(HashMap::len).sum()
    }

    fn of(&self, of: Of<'_>) -> Amount {
        match of {
            Of::All => self.total,
            Of::Name(book, name) => self.books[book].get(name).copied().unwrap_or(Amount::ZERO),
        }
    }
}

impl<const BOOKS: usize> Window<BOOKS> {
    /// Counts what an entry cost, for one name of each book; without its key it cannot be taken back.
    pub(crate) fn add(
        &mut self,
        key: Option<&PaymentKey>,
        names: [Option<&str>; BOOKS],
        cost: Amount,
        at: UnixTime,
    ) {
        if let Some(key) = key {
            self.take_back(key, names);
        }
        while self.minutes.front().is_some_and(|minute| minute.ends() <= at.0) {
            self.minutes.pop_front();
        }
        let number = at.0 / MINUTE_S;
        // A clock that was set back: what is spent now counts as long as what was spent last.
        if self.minutes.back().is_none_or(|minute| minute.number < number) {
            self.minutes.push_back(Minute::new(number));
        }
        let known: usize = self.minutes.iter().map(Minute::names).sum();
        let may_be_kept = self.make_room();
        let Some(minute) = self.minutes.back_mut() else { return };
        minute.total = plus(minute.total, cost);
        for (book, name) in minute.books.iter_mut().zip(names) {
            let Some(name) = name else { continue };
            if let Some(sum) = book.get_mut(name) {
                *sum = plus(*sum, cost);
            } else if known < NAMES_MAX {
                book.insert(name.to_owned(), cost);
            }
        }
        if let Some(key) = key.filter(|_| may_be_kept) {
            minute.entries.insert(key.clone(), cost);
        }
    }

    /// Forgets the entries of the oldest minute, but not of the last, if there are too many. Says whether there
    /// is room for one more.
    fn make_room(&mut self) -> bool {
        let known: usize = self.minutes.iter().map(|minute| minute.entries.len()).sum();
        if known < ENTRIES_MAX {
            return true;
        }
        let before_last = self.minutes.len().saturating_sub(1);
        let mut oldest = self.minutes.iter_mut().take(before_last);
        let oldest = oldest.find(|minute| !minute.entries.is_empty());
        oldest.map(|minute| minute.entries = HashMap::new()).is_some()
    }

    /// Counts an entry no more.
    pub(crate) fn take_back(&mut self, key: &PaymentKey, names: [Option<&str>; BOOKS]) {
        for minute in &mut self.minutes {
            let Some(cost) = minute.entries.remove(key) else { continue };
            minute.total = minute.total.saturating_sub(cost);
            for (book, name) in minute.books.iter_mut().zip(names) {
                if let Some(sum) = name.and_then(|name| book.get_mut(name)) {
                    *sum = sum.saturating_sub(cost);
                }
            }
        }
    }

    /// What was spent in the last hour, in wei.
    pub(crate) fn sum(&self, of: Of<'_>, now: UnixTime) -> Amount {
        self.counting(now).map(|minute| minute.of(of)).fold(Amount::ZERO, plus)
    }

    /// Whether as much was spent in the last hour as may be.
    pub(crate) fn over(&self, of: Of<'_>, bound: Amount, now: UnixTime) -> Option<Over> {
        let cost = self.sum(of, now);
        if cost < bound || cost.is_zero() {
            return None;
        }
        let mut left = cost;
        let mut resets = now.0;
        for minute in self.counting(now) {
            left = left.saturating_sub(minute.of(of));
            resets = minute.ends();
            if left < bound {
                break;
            }
        }
        let wait_s = resets.saturating_sub(now.0);
        Some(Over { cost, bound, resets: UnixTime(resets), wait_s })
    }

    fn counting(&self, now: UnixTime) -> impl Iterator<Item = &Minute<BOOKS>> {
        self.minutes.iter().filter(move |minute| now.0 < minute.ends())
    }
}

/// What two things cost together, in wei.
pub(crate) fn plus(a: Amount, b: Amount) -> Amount {
    a.checked_add(b).unwrap_or(Amount::MAX)
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;

    const START: u64 = 600_000;
    const ALICE: [Option<&str>; 1] = [Some("alice")];
    const OF_ALICE: Of<'static> = Of::Name(0, "alice");

    fn wei(wei: u64) -> Amount {
        Amount::from(wei)
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime(START + seconds)
    }

    fn key(name: &str) -> PaymentKey {
        PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", name)
    }

    #[test]
    fn it_is_told_when_it_is_below_the_bound_again() {
        let mut window = Window::default();
        window.add(Some(&key("1")), ALICE, wei(6), at(0));
        assert_eq!(window.over(OF_ALICE, wei(10), at(0)), None);
        window.add(Some(&key("2")), ALICE, wei(5), at(90));
        let over = window.over(OF_ALICE, wei(10), at(100)).unwrap();
        // Without the first six there are five left.
        let ends = 60 + WINDOW_S;
        assert_eq!((over.cost, over.resets, over.wait_s), (wei(11), at(ends), ends - 100));
        assert!(window.over(OF_ALICE, wei(10), at(ends - 1)).is_some());
        assert_eq!(window.over(OF_ALICE, wei(10), at(ends)), None);
        assert_eq!(window.over(Of::Name(0, "bob"), wei(10), at(100)), None);
        assert_eq!(window.sum(Of::All, at(100)), wei(11));
    }

    #[test]
    fn memory_is_bounded_and_all_together_are_counted() {
        let mut window: Window<2> = Window::default();
        let count = u64::try_from(ENTRIES_MAX).unwrap() + 1_000;
        for number in 0..count {
            let name = number.to_string();
            window.add(Some(&key(&name)), [Some(&name), None], wei(1), at(0));
        }
        assert_eq!(window.minutes[0].names(), NAMES_MAX);
        assert_eq!(window.minutes[0].entries.len(), ENTRIES_MAX);
        assert_eq!(window.sum(Of::All, at(0)), wei(count));
        // The oldest are forgotten for the newest.
        let new = key("new");
        window.add(Some(&new), [None; 2], wei(1), at(60));
        assert_eq!(window.minutes.iter().map(|minute| minute.entries.len()).sum::<usize>(), 1);
        window.take_back(&key("0"), [None; 2]);
        window.take_back(&new, [None; 2]);
        assert_eq!(window.sum(Of::All, at(60)), wei(count));
        for hour in 1..100 {
            window.add(None, [None; 2], wei(1), at(hour * (WINDOW_S / 2)));
        }
        assert!(window.minutes.len() <= 3);
    }

    #[test]
    fn an_entry_counts_once_and_not_while_it_is_open_again() {
        let mut window = Window::default();
        window.add(None, ALICE, wei(4), at(0));
        window.add(Some(&key("one")), ALICE, wei(10), at(0));
        window.add(Some(&key("one")), ALICE, wei(11), at(90));
        assert_eq!(window.sum(OF_ALICE, at(90)), wei(15));
        for _ in 0..2 {
            window.take_back(&key("one"), ALICE);
            assert_eq!(window.sum(Of::All, at(90)), wei(4));
            assert_eq!(window.sum(OF_ALICE, at(90)), wei(4));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_forgets_nothing() {
        let mut window = Window::default();
        window.add(Some(&key("1")), ALICE, wei(5), at(600));
        window.add(Some(&key("2")), ALICE, wei(5), at(0));
        assert!(window.over(OF_ALICE, wei(10), at(0)).is_some());
        assert!(window.over(OF_ALICE, wei(10), at(600 + WINDOW_S)).is_some());
    }
}
