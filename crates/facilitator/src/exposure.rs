//! What payers' money is promised to: nobody is granted the same money twice.
//!
//! A payment that was verified is reserved against what its payer holds, softly and for a short time: its
//! handler runs, and it may never be settled. One that is being settled is reserved firmly, until its entry
//! is final. A new payment needs what is left of the payer's holdings; a repeat never stands in its own
//! way.
//!
//! **Invariant:** the firm reservations are those of the entries in hand, so that they come back with them
//! after a crash. A transfer that is mined is in what the payer holds, and reserved no longer; but for whoever
//! began to look at the holdings before that was known.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pay402_core::amount::U256;
use pay402_core::network::{Backing, Verified};
use pay402_core::{Amount, PaymentKey, Refusal, Refused};
use tokio::time::Instant;

/// How long a verified payment stays reserved: longer than most handlers run, and short enough for a payer
/// whose purchase came to nothing.
const SOFT: Duration = Duration::from_secs(15);
/// By how much a soft reservation is renewed at least.
const RENEWED_AFTER: Duration = Duration::from_secs(1);
/// How long it is known what was mined: longer than anybody looks at holdings.
const MOVED_KEPT: Duration = Duration::from_secs(60);
/// Payments of which that is known at a time, at most.
const MOVED_MAX: usize = 65_536;
/// Payments reserved softly at a time. More are not reserved before they are settled.
const SOFT_MAX: usize = 65_536;
/// Soft reservations from which on those that are over are looked for.
const SWEEP_MIN: usize = 1_024;
/// How often a payment that would overdraw its payer is looked at again while others of that payer move:
/// one of them may be mined, and reserved still.
pub(crate) const LOOKS_MAX: usize = 4;
/// Pause between these looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The reservations of one network.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By what the money is taken from.
    sources: HashMap<String, Purse>,
    /// What was reserved firmly and is no longer, the oldest first.
    moved: VecDeque<Moved>,
    /// Soft reservations, those that are over and not yet forgotten too.
    soft: usize,
    /// How many of them there are when the next ones are forgotten.
    sweep_at: usize,
}

/// What is taken from one source. The sums are kept with each change: a payer may have thousands of payments
/// verified, and each more one asks for the sum of the others.
#[derive(Debug, Default)]
struct Purse {
    payments: HashMap<PaymentKey, Reserved>,
    /// When soft reservations end, the first first; some were renewed since, made firm, or given up.
    ends: VecDeque<(Instant, PaymentKey)>,
    /// What counts of all of them.
    total: Total,
    /// How many of those that count are firm.
    firm: usize,
}

#[derive(Clone, Debug, Default)]
struct Reserved {
    amount: Amount,
    /// Entries in hand, and calls about to enter, that hold it firmly.
    firm: usize,
    soft_until: Option<Instant>,
    /// Whether the transfer is in a block.
    mined: bool,
}

/// A sum that is exact however large, so that what was added can be taken out again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Total {
    /// The sum, modulo 2^256.
    low: U256,
    /// How often it was more than that.
    high: u64,
}

impl Total {
    fn add(&mut self, amount: Amount) {
        let (low, over) = self.low.overflowing_add(amount.to_u256());
        (self.low, self.high) = (low, self.high + u64::from(over));
    }

    fn take(&mut self, amount: Amount) {
        let (low, under) = self.low.overflowing_sub(amount.to_u256());
        (self.low, self.high) = (low, self.high.saturating_sub(u64::from(under)));
    }

    /// The sum, or the largest amount where it is larger.
    const fn amount(self) -> Amount {
        if self.high == 0 { Amount::new(self.low) } else { Amount::MAX }
    }
}

/// What may have left its payer's holdings.
#[derive(Debug)]
struct Moved {
    at: Instant,
    source: String,
    key: PaymentKey,
    amount: Amount,
}

impl Reserved {
    /// Whether it counts, when what has ended is taken out.
    const fn counts(&self) -> bool {
        !self.mined && (self.firm > 0 || self.soft_until.is_some())
    }

    const fn is_over(&self) -> bool {
        self.firm == 0 && self.soft_until.is_none()
    }
}

impl Purse {
    /// Changes the reservation of a payment, and what it counts for.
    fn change<T>(&mut self, key: &PaymentKey, change: impl FnOnce(&mut Reserved) -> T) -> T {
        let reserved = self.payments.entry(key.clone()).or_default();
        if reserved.counts() {
            self.total.take(reserved.amount);
            self.firm -= usize::from(reserved.firm > 0);
        }
        let changed = change(reserved);
        if reserved.counts() {
            self.total.add(reserved.amount);
            self.firm += usize::from(reserved.firm > 0);
        }
        if reserved.is_over() {
            self.payments.remove(key);
        }
        changed
    }

    /// Takes out the soft reservations that have ended. Returns how many.
    fn expire(&mut self, now: Instant) -> usize {
        let mut ended = 0;
        while let Some((until, key)) = self.ends.pop_front_if(|(until, _)| *until <= now) {
            let is_of_it = |reserved: &Reserved| reserved.soft_until == Some(until);
            if self.payments.get(&key).is_some_and(is_of_it) {
                self.change(&key, |reserved| reserved.soft_until = None);
                ended += 1;
            }
        }
        ended
    }

    /// What others than this payment have reserved, and whether part of that is being settled.
    fn of_others(&self, key: &PaymentKey) -> (Amount, bool) {
        let (mut total, mut firm) = (self.total, self.firm);
        if let Some(own) = self.payments.get(key).filter(|own| own.counts()) {
            total.take(own.amount);
            firm -= usize::from(own.firm > 0);
        }
        (total.amount(), firm > 0)
    }
}

/// The payer's holdings do not cover one more payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Short {
    held: Amount,
    reserved: Amount,
    /// Whether part of it is being settled: it may have moved since the holdings were looked at.
    moving: bool,
}

impl Short {
    /// Whether a later look may show something else.
    pub(crate) const fn may_pass(&self) -> bool {
        self.moving
    }

    /// The refusal to answer with.
    pub(crate) fn refuse(self, payer: &str) -> Refused {
        let Self { held, reserved, .. } = self;
        let message = format!(
            "the payer has {held} atomic units that may be moved, of which {reserved} are reserved for \
             payments of this payer that are verified or being settled"
        );
        Refused::new(Refusal::InsufficientFunds, message).by(payer)
    }
}

/// A firm reservation; given up on drop.
#[derive(Debug)]
pub(crate) struct Firm {
    exposure: Arc<Exposure>,
    key: PaymentKey,
    sources: Vec<String>,
}

impl Firm {
    /// Notes whether the transfer is in a block: then the payer's holdings are without it.
    pub(crate) fn mined(&self, mined: bool) {
        self.exposure.each(&self.key, &self.sources, |reserved| {
            let was_mined = std::mem::replace(&mut reserved.mined, mined);
            mined && !was_mined
        });
    }
}

impl Drop for Firm {
    fn drop(&mut self) {
        self.exposure.each(&self.key, &self.sources, |reserved| {
            reserved.firm = reserved.firm.saturating_sub(1);
            reserved.firm == 0 && !reserved.mined
        });
    }
}

impl Exposure {
    /// Reserves a payment whose verification began at `since`, for a short time.
    pub(crate) fn reserve_softly(
        &self,
        verified: &Verified,
        since: Instant,
        now: Instant,
    ) -> Result<(), Short> {
        let mut state = self.lock();
        state.check(&verified.key, verified.amount, &verified.backing, (since, now))?;
        if state.soft >= state.sweep_at {
            state.sweep(now);
        }
        if state.soft >= SOFT_MAX {
            return Ok(());
        }
        for Backing { source, .. } in &verified.backing {
            let purse = state.purse(source);
            let until = now + SOFT;
            let (is_new, is_later) = purse.change(&verified.key, |reserved| {
                reserved.amount = verified.amount;
                // A payment that is verified again and again is not noted each time.
                let is_later = reserved.soft_until.is_none_or(|old| old + RENEWED_AFTER <= until);
                let is_new = reserved.soft_until.is_none();
                if is_later {
                    reserved.soft_until = Some(until);
                }
                (is_new, is_later)
            });
            if is_later {
                purse.ends.push_back((until, verified.key.clone()));
            }
            state.soft += usize::from(is_new);
        }
        Ok(())
    }

    /// Reserves what a payment whose verification began at `since` is about to be settled for.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        verified: &Verified,
        charge: Amount,
        since: Instant,
        now: Instant,
    ) -> Result<Firm, Short> {
        let sources = verified.backing.iter().map(|backing| backing.source.clone()).collect();
        let mut state = self.lock();
        state.check(&verified.key, charge, &verified.backing, (since, now))?;
        Ok(self.hold(&mut state, &verified.key, charge, sources))
    }

    /// Reserves what an entry that was made before is settled for, whatever its payer holds.
    pub(crate) fn restore(
        self: &Arc<Self>,
        key: &PaymentKey,
        charge: Amount,
        sources: Vec<String>,
    ) -> Firm {
        self.hold(&mut self.lock(), key, charge, sources)
    }

    fn hold(
        self: &Arc<Self>,
        state: &mut State,
        key: &PaymentKey,
        charge: Amount,
        sources: Vec<String>,
    ) -> Firm {
        for source in &sources {
            let was_soft = state.purse(source).change(key, |reserved| {
                reserved.amount = charge;
                reserved.firm += 1;
                reserved.soft_until.take().is_some()
            });
            state.soft -= usize::from(was_soft);
        }
        Firm { exposure: Arc::clone(self), key: key.clone(), sources }
    }

    /// Changes reservations; `change` tells whether they are counted no more and may have moved.
    fn each(&self, key: &PaymentKey, sources: &[String], change: impl Fn(&mut Reserved) -> bool) {
        let at = Instant::now();
        let mut state = self.lock();
        let state = &mut *state;
        for source in sources {
            let Some(purse) = state.sources.get_mut(source) else { continue };
            if !purse.payments.contains_key(key) {
                continue;
            }
            let moved = purse.change(key, |reserved| change(reserved).then_some(reserved.amount));
            if let Some(amount) = moved {
                let (source, key) = (source.clone(), key.clone());
                state.moved.push_back(Moved { at, source, key, amount });
            }
            if purse.payments.is_empty() {
                state.sources.remove(source);
            }
        }
        while state.moved.len() > MOVED_MAX
            || state.moved.front().is_some_and(|moved| moved.at + MOVED_KEPT < at)
        {
            state.moved.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether every source covers `amount` beside what others have reserved.
    fn check(
        &mut self,
        key: &PaymentKey,
        amount: Amount,
        backing: &[Backing],
        (since, now): (Instant, Instant),
    ) -> Result<(), Short> {
        let late = self.moved.iter().rev().take_while(|moved| moved.at >= since);
        let late: Vec<&Moved> = late.filter(|moved| moved.key != *key).collect();
        for Backing { source, held } in backing {
            let (mut reserved, mut moving) = (Amount::ZERO, false);
            if let Some(purse) = self.sources.get_mut(source) {
                self.soft = self.soft.saturating_sub(purse.expire(now));
                (reserved, moving) = purse.of_others(key);
                if purse.payments.is_empty() {
                    self.sources.remove(source);
                }
            }
            for moved in late.iter().filter(|moved| moved.source == *source) {
                moving = true;
                reserved = reserved.checked_add(moved.amount).unwrap_or(Amount::MAX);
            }
            let wanted = reserved.checked_add(amount).unwrap_or(Amount::MAX);
            if wanted > *held && !reserved.is_zero() {
                return Err(Short { held: *held, reserved, moving });
            }
        }
        Ok(())
    }

    fn purse(&mut self, source: &str) -> &mut Purse {
        if !self.sources.contains_key(source) {
            self.sources.insert(source.to_owned(), Purse::default());
        }
        self.sources.get_mut(source).expect("it was made")
    }

    /// Forgets what was reserved softly and is over.
    fn sweep(&mut self, now: Instant) {
        let mut ended = 0;
        self.sources.retain(|_, purse| {
            ended += purse.expire(now);
            !purse.payments.is_empty()
        });
        self.soft = self.soft.saturating_sub(ended);
        self.sweep_at = self.soft.saturating_mul(2).clamp(SWEEP_MIN, SOFT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::network::SecretBytes;
    use pay402_core::time::UnixTime;
    use pay402_core::{Digest, NetworkId};

    use super::*;

    fn payment(nonce: u64, amount: u64, held: u64) -> Verified {
        let key = PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", &nonce.to_string());
        let (fingerprint, plan) = (Digest::of(&[b"x"]), SecretBytes::new(Vec::new()));
        let amount = Amount::from(amount);
        Verified::attest(key, fingerprint, "0xb".into(), amount, UnixTime(1), plan)
            .backed_by(vec![Backing { source: "0xa/0xb".into(), held: Amount::from(held) }])
    }

    #[test]
    fn nobody_is_promised_what_another_was() {
        let exposure = Arc::new(Exposure::default());
        let now = Instant::now();
        let (first, second) = (payment(1, 10, 19), payment(2, 10, 19));
        exposure.reserve_softly(&first, now, now).unwrap();
        exposure.reserve_softly(&first, now, now).unwrap();
        let short = exposure.reserve_softly(&second, now, now).unwrap_err();
        assert!(!short.may_pass() && short.reserved == Amount::from(10_u64), "{short:?}");
        assert!(exposure.reserve(&second, second.amount, now, now).is_err());
        let firm = exposure.reserve(&first, first.amount, now, now).unwrap();
        assert!(exposure.reserve_softly(&second, now, now).unwrap_err().may_pass());
        // Enough for both.
        exposure.reserve_softly(&payment(3, 9, 19), now, now).unwrap();
        drop(firm);
        let late = exposure.reserve_softly(&second, now, now).unwrap_err();
        assert!(late.may_pass(), "the holdings may have been looked at before it moved");
        let now = Instant::now() + Duration::from_millis(1);
        exposure.reserve_softly(&second, now, now).unwrap();
        assert_eq!(exposure.lock().soft, 2);
    }

    #[test]
    fn what_was_verified_is_reserved_for_a_short_time() {
        let exposure = Exposure::default();
        let now = Instant::now();
        exposure.reserve_softly(&payment(1, 10, 10), now, now).unwrap();
        let early = now + SOFT - Duration::from_millis(1);
        assert!(exposure.reserve_softly(&payment(2, 10, 10), early, early).is_err());
        exposure.reserve_softly(&payment(2, 10, 10), now + SOFT, now + SOFT).unwrap();
    }

    #[test]
    fn copies_hold_one_reservation_and_a_mined_one_counts_no_more() {
        let exposure = Arc::new(Exposure::default());
        let now = Instant::now();
        let (first, second) = (payment(1, 10, 10), payment(2, 10, 10));
        let one = exposure.reserve(&first, first.amount, now, now).unwrap();
        let two = exposure.reserve(&first, first.amount, now, now).unwrap();
        drop(one);
        assert!(exposure.reserve(&second, second.amount, now, now).is_err());
        two.mined(true);
        assert!(exposure.reserve(&second, second.amount, now, now).is_err(), "looked at too early");
        let now = Instant::now() + Duration::from_millis(1);
        drop(exposure.reserve(&second, second.amount, now, now).unwrap());
        two.mined(false);
        assert!(exposure.reserve(&second, second.amount, now, now).is_err());
        drop(two);
        assert!(exposure.lock().sources.is_empty(), "something is left");
    }

    #[test]
    fn a_reservation_lasts_from_its_renewal() {
        let exposure = Exposure::default();
        let now = Instant::now();
        let first = payment(1, 10, 10);
        exposure.reserve_softly(&first, now, now).unwrap();
        let later = now + SOFT / 2;
        exposure.reserve_softly(&first, later, later).unwrap();
        let end = now + SOFT;
        assert!(exposure.reserve_softly(&payment(2, 10, 10), end, end).is_err());
        exposure.reserve_softly(&payment(2, 10, 10), later + SOFT, later + SOFT).unwrap();
        assert_eq!(exposure.lock().soft, 1);
        for _ in 0..1_000 {
            exposure.reserve_softly(&payment(2, 10, 10), later + SOFT, later + SOFT).unwrap();
        }
        let state = exposure.lock();
        assert!(state.sources.values().all(|purse| purse.ends.len() < 5), "{state:?}");
    }

    /// Whatever is done, the sums are those of what is there.
    #[test]
    fn the_sums_are_those_of_the_reservations() {
        let exposure = Arc::new(Exposure::default());
        let mut now = Instant::now();
        let mut firm: Vec<Firm> = Vec::new();
        let mut number = 7_u64;
        let mut draw = |below: usize| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(number >> 33).unwrap() % below
        };
        for _ in 0..5_000 {
            let [nonce, amount] = [draw(8), 1 + draw(9)].map(|it| u64::try_from(it).unwrap());
            let verified = payment(nonce, amount, 1_000);
            now += Duration::from_millis(u64::try_from(draw(2_000)).unwrap());
            let place = draw(firm.len().max(1));
            match draw(6) {
                0 | 1 => exposure.reserve_softly(&verified, now, now).unwrap(),
                2 => firm.push(exposure.reserve(&verified, verified.amount, now, now).unwrap()),
                3 if !firm.is_empty() => drop(firm.swap_remove(place)),
                4 if !firm.is_empty() => firm[place].mined(true),
                5 if !firm.is_empty() => firm[place].mined(false),
                _ => {}
            }
            let mut state = exposure.lock();
            state.sweep(now);
            for purse in state.sources.values() {
                let counting = || purse.payments.values().filter(|reserved| reserved.counts());
                let mut total = Total::default();
                counting().for_each(|reserved| total.add(reserved.amount));
                assert_eq!(purse.total, total);
                assert_eq!(purse.firm, counting().filter(|reserved| reserved.firm > 0).count());
            }
            let soft = state.sources.values().flat_map(|purse| purse.payments.values());
            assert_eq!(state.soft, soft.filter(|reserved| reserved.soft_until.is_some()).count());
        }
    }

    #[test]
    fn sums_are_exact_however_large() {
        let mut total = Total::default();
        for amount in [Amount::MAX, Amount::MAX, Amount::from(3_u64)] {
            total.add(amount);
        }
        assert_eq!(total.amount(), Amount::MAX);
        total.take(Amount::MAX);
        assert_eq!(total.amount(), Amount::MAX);
        total.take(Amount::MAX);
        assert_eq!(total.amount(), Amount::from(3_u64));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let exposure = Exposure::default();
        let now = Instant::now();
        for nonce in 0..10_000 {
            let later = now + SOFT * u32::try_from(nonce).unwrap();
            exposure.reserve_softly(&payment(nonce, 1, 10_000), later, later).unwrap();
        }
        let soft = exposure.lock().soft;
        assert!(soft <= SWEEP_MIN, "{soft}");
    }
}
