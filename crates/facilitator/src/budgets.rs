//! What the entries of one caller may cost in gas in an hour, on one network.
//!
//! **Invariants:** what counts as spent is what the journal has booked as fees, however the entries ended, so
//! that a restart forgets none of it; an entry counts once, and not while it is opened again. What is in hand
//! counts too, at about what its gas costs now, from before it is entered until it is closed: so many payments
//! at once do not spend what one after the other may not.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pay402_core::amount::U256;
use pay402_core::journal::{Cost, Entry, Outcome, Stage};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey, Refusal, Refused};

use crate::window::{Of, Over, Window, plus};

/// The budgets of callers on one network, and what is spent of them.
#[derive(Debug)]
pub(crate) struct Budgets {
    /// What a caller may cost in an hour, in wei, by its name.
    bounds: BTreeMap<String, Amount>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    booked: Window<1>,
    /// Gas that the entries in hand take, by caller.
    in_hand: HashMap<String, u128>,
}

/// Gas that an entry in hand takes out of a caller's budget.
#[derive(Debug)]
pub(crate) struct Earmark {
    budgets: Arc<Budgets>,
    caller: String,
    gas: u64,
}

/// A caller has spent its budget.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Spent {
    /// What its closed entries cost, in wei.
    booked: Amount,
    /// About what those in hand cost, in wei.
    in_hand: Amount,
    bound: Amount,
    /// When it is below its bound again, and in how many seconds, where what is booked reaches it alone.
    again: Option<(UnixTime, u64)>,
}

/// A budget and what is spent of it, in wei.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Account {
    pub(crate) caller: String,
    pub(crate) booked: Amount,
    pub(crate) bound: Amount,
}

impl Budgets {
    pub(crate) fn new(bounds: BTreeMap<String, Amount>) -> Self {
        Self { bounds, state: Mutex::default() }
    }

    /// The callers that have a budget.
    pub(crate) fn callers(&self) -> Vec<String> {
        self.bounds.keys().cloned().collect()
    }

    /// Takes note of what was spent before this process led.
    pub(crate) fn remember(&self, costs: Vec<Cost>) {
        let mut costs = costs;
        costs.sort_by_key(|cost| cost.at);
        let mut state = self.lock();
        for Cost { entered_by, key, at, fee } in costs {
            state.booked.add(key.as_ref(), [Some(&entered_by)], fee, at);
        }
    }

    /// Takes note of an entry that was closed at `now`.
    pub(crate) fn note(&self, entry: &Entry, now: UnixTime) {
        let Stage::Final(
            Outcome::Settled { fee, .. }
            | Outcome::Failed { fee, .. }
            | Outcome::Reverted { fee, .. },
        ) = &entry.stage
        else {
            return;
        };
        if let Some((caller, _)) = self.of(entry.new.entered_by.as_deref())
            && !fee.is_zero()
        {
            self.lock().booked.add(Some(&entry.new.key), [Some(caller)], *fee, now);
        }
    }

    /// Takes back what an entry was noted for that goes on: its block is undone, and it is closed again later.
    pub(crate) fn take_back(&self, key: &PaymentKey, caller: Option<&str>) {
        if let Some((caller, _)) = self.of(caller) {
            self.lock().booked.take_back(key, [Some(caller)]);
        }
    }

    /// Whether a caller has a budget.
    pub(crate) fn has(&self, caller: Option<&str>) -> bool {
        self.of(caller).is_some()
    }

    /// Whether it takes a price of gas to tell what a caller has spent.
    pub(crate) fn needs_price(&self, caller: Option<&str>) -> bool {
        self.of(caller).is_some_and(|(caller, _)| self.lock().in_hand.contains_key(caller))
    }

    /// Whether a caller has spent its budget, where a unit of gas costs so much.
    pub(crate) fn spent(
        &self,
        caller: Option<&str>,
        price: Amount,
        now: UnixTime,
    ) -> Option<Spent> {
        let (caller, bound) = self.of(caller)?;
        self.lock().spent(caller, bound, price, now)
    }

    /// Earmarks the gas of a payment that is about to be entered, unless its caller has spent its budget. `None`
    /// for a caller without one.
    pub(crate) fn try_earmark(
        self: &Arc<Self>,
        caller: Option<&str>,
        gas: u64,
        (price, now): (Amount, UnixTime),
    ) -> Result<Option<Earmark>, Spent> {
        let Some((caller, bound)) = self.of(caller) else { return Ok(None) };
        let mut state = self.lock();
        match state.spent(caller, bound, price, now) {
            Some(spent) => Err(spent),
            None => Ok(Some(self.put(&mut state, caller, gas))),
        }
    }

    /// Earmarks the gas of an entry that is in the journal, whatever was spent.
    pub(crate) fn earmark(self: &Arc<Self>, caller: Option<&str>, gas: u64) -> Option<Earmark> {
        let (caller, _) = self.of(caller)?;
        Some(self.put(&mut self.lock(), caller, gas))
    }

    /// Every budget, and what is spent of it.
    pub(crate) fn accounts(&self, now: UnixTime) -> Vec<Account> {
        let state = self.lock();
        let account = |(caller, bound): (&String, &Amount)| Account {
            caller: caller.clone(),
            booked: state.booked.sum(Of::Name(0, caller), now),
            bound: *bound,
        };
        self.bounds.iter().map(account).collect()
    }

    fn put(self: &Arc<Self>, state: &mut State, caller: &str, gas: u64) -> Earmark {
        *state.in_hand.entry(caller.to_owned()).or_default() += u128::from(gas);
        Earmark { budgets: Arc::clone(self), caller: caller.to_owned(), gas }
    }

    fn of<'a>(&self, caller: Option<&'a str>) -> Option<(&'a str, Amount)> {
        let caller = caller?;
        Some((caller, *self.bounds.get(caller)?))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spent(&self, caller: &str, bound: Amount, price: Amount, now: UnixTime) -> Option<Spent> {
        let of = Of::Name(0, caller);
        let booked = self.booked.sum(of, now);
        let gas = U256::from(self.in_hand.get(caller).copied().unwrap_or(0));
        let in_hand = Amount::new(gas.saturating_mul(price.to_u256()));
        let over = self.booked.over(of, bound, now);
        let again = over.map(|Over { resets, wait_s, .. }| (resets, wait_s));
        (plus(booked, in_hand) >= bound).then_some(Spent { booked, in_hand, bound, again })
    }
}

impl Drop for Earmark {
    fn drop(&mut self) {
        let mut state = self.budgets.lock();
        if let Some(gas) = state.in_hand.get_mut(&self.caller) {
            *gas = gas.saturating_sub(u128::from(self.gas));
            if *gas == 0 {
                state.in_hand.remove(&self.caller);
            }
        }
    }
}

impl Spent {
    /// The refusal of what the caller enters.
    pub(crate) fn refuse(self) -> Refused {
        let Self { booked, in_hand, bound, again } = self;
        let under_way = match in_hand.is_zero() {
            true => String::new(),
            false => format!(", and those under way about {in_hand} more"),
        };
        let again = match again {
            Some((resets, wait_s)) => format!("in {wait_s} s, at {}", resets.to_utc()),
            None => "when enough of those under way are over".to_owned(),
        };
        let message = format!(
            "settlements entered with this API key cost {booked} wei of gas within an hour{under_way}; \
             {bound} is the most that is spent on them; settled again {again}"
        );
        Refused::new(Refusal::GasBudgetSpent, message)
    }
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;
    use crate::window::WINDOW_S;

    const NOW: UnixTime = UnixTime(600_000);
    const SHOP: Option<&str> = Some("shop");

    fn budgets(bound: u64) -> Arc<Budgets> {
        Arc::new(Budgets::new([("shop".to_owned(), Amount::from(bound))].into()))
    }

    fn booked(fee: u64, name: &str) -> Cost {
        let key = PaymentKey::new(&NetworkId::eip155(1), "0xa", "0xb", name);
        let (entered_by, fee) = ("shop".into(), Amount::from(fee));
        Cost { entered_by, key: Some(key), at: NOW, fee }
    }

    #[test]
    fn what_is_booked_and_what_is_in_hand_is_spent_together() {
        let budgets = budgets(100);
        let price = Amount::from(2);
        assert!(!budgets.needs_price(SHOP));
        budgets.remember(vec![booked(40, "1"), booked(19, "2")]);
        let first = budgets.try_earmark(SHOP, 10, (price, NOW)).unwrap();
        assert!(first.is_some() && budgets.needs_price(SHOP));
        let second = budgets.earmark(SHOP, 11);
        let spent = budgets.spent(SHOP, price, NOW).unwrap();
        assert_eq!((spent.booked, spent.in_hand), (Amount::from(59), Amount::from(42)));
        assert_eq!(budgets.try_earmark(SHOP, 0, (price, NOW)).unwrap_err(), spent);
        let told = spent.refuse().message;
        for part in ["cost 59 wei", "about 42 more", "100 is the most", "when enough of those"] {
            assert!(told.contains(part), "{told}");
        }
        // Gas became cheaper, or some of it is over.
        assert_eq!(budgets.spent(SHOP, Amount::from(1), NOW), None);
        drop(second);
        assert_eq!(budgets.spent(SHOP, price, NOW), None);
        drop(first);
        assert!(!budgets.needs_price(SHOP), "nothing of it is left");
    }

    #[test]
    fn what_is_booked_is_spent_for_an_hour() {
        let budgets = budgets(100);
        budgets.remember(vec![booked(60, "1"), booked(60, "2")]);
        let spent = budgets.spent(SHOP, Amount::ZERO, NOW).unwrap();
        let told = spent.refuse().message;
        assert!(told.contains("cost 120 wei of gas within an hour; 100"), "{told}");
        assert!(told.contains(&format!("settled again in {} s", WINDOW_S + 60)), "{told}");
        let later = NOW.plus_s(WINDOW_S + 60);
        assert_eq!(budgets.spent(SHOP, Amount::ZERO, later), None);
        budgets.take_back(&booked(60, "2").key.unwrap(), SHOP);
        assert_eq!(budgets.spent(SHOP, Amount::ZERO, NOW), None);
        assert_eq!(budgets.accounts(NOW)[0].booked, Amount::from(60));
    }

    #[test]
    fn who_has_no_budget_spends_as_it_likes() {
        let budgets = budgets(1);
        for caller in [None, Some("other")] {
            let earmark = budgets.try_earmark(caller, u64::MAX, (Amount::MAX, NOW));
            assert!(earmark.unwrap().is_none());
            assert_eq!(budgets.spent(caller, Amount::MAX, NOW), None);
        }
    }
}
