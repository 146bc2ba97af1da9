//! Who, in this process, waits for which settlement.
//!
//! The journal's `Waiting` says that one caller waits; the seat here is that caller. While this
//! process holds the lease, an entry that waits without a seat has nobody waiting for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pay402_core::PaymentKey;
use pay402_core::journal::Entry;
use tokio::sync::oneshot;

/// Most callers that wait for one payment at a time, with the same proof of who they are.
pub(crate) const FOLLOWERS_MAX: usize = 16;

/// What a seat is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// Its holder is entering the payment and may turn out to be the one who waits.
    Entering,
    /// The one for whom the journal says `Waiting`.
    Owner,
    /// The same request once more, proven by its caller keys.
    Follower,
}

#[derive(Debug)]
struct Seat {
    id: u64,
    role: Role,
    tell: oneshot::Sender<Arc<Entry>>,
}

/// The seats of one network. The lock is never held across an await.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    seats: Mutex<HashMap<PaymentKey, Vec<Seat>>>,
    next_id: AtomicU64,
}

/// A seat taken; given up on drop.
#[derive(Debug)]
pub(crate) struct Ticket {
    waiters: Arc<Waiters>,
    key: PaymentKey,
    id: u64,
    outcome: oneshot::Receiver<Arc<Entry>>,
}

impl Waiters {
    /// Takes a seat. `None` when too many wait already.
    pub(crate) fn take(self: &Arc<Self>, key: &PaymentKey, role: Role) -> Option<Ticket> {
        let (tell, outcome) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut seats = self.lock();
        let here = seats.entry(key.clone()).or_default();
        let followers = here.iter().filter(|seat| seat.role == Role::Follower).count();
        if role == Role::Follower && followers >= FOLLOWERS_MAX {
            return None;
        }
        here.push(Seat { id, role, tell });
        drop(seats);
        Some(Ticket { waiters: Arc::clone(self), key: key.clone(), id, outcome })
    }

    /// Whether somebody is, or may turn out to be, the one who waits.
    pub(crate) fn may_be_owned(&self, key: &PaymentKey) -> bool {
        let owns = |seat: &Seat| matches!(seat.role, Role::Entering | Role::Owner);
        self.lock().get(key).is_some_and(|seats| seats.iter().any(owns))
    }

    /// Whether somebody is entering it, or about to wait for it.
    pub(crate) fn entering(&self, key: &PaymentKey) -> bool {
        let enters = |seat: &Seat| seat.role == Role::Entering;
        self.lock().get(key).is_some_and(|seats| seats.iter().any(enters))
    }

    /// Whether somebody is the one who waits.
    pub(crate) fn owned(&self, key: &PaymentKey) -> bool {
        let owns = |seat: &Seat| seat.role == Role::Owner;
        self.lock().get(key).is_some_and(|seats| seats.iter().any(owns))
    }

    /// How many payments somebody waits for.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells everybody who waits for this entry that it is final.
    pub(crate) fn tell(&self, entry: &Arc<Entry>) {
        let seats = self.lock().remove(&entry.new.key).unwrap_or_default();
        for seat in seats {
            // Whoever left has handed over; nothing is lost by not reaching them.
            _ = seat.tell.send(Arc::clone(entry));
        }
    }

    /// Sends away whoever sits as the one who waits: the journal says that nobody does, so that the success
    /// may be told to somebody else, and whoever sits would take that one's for its own.
    pub(crate) fn unseat_owner(&self, key: &PaymentKey) {
        let mut seats = self.lock();
        if let Some(here) = seats.get_mut(key) {
            here.retain(|seat| seat.role != Role::Owner);
            if here.is_empty() {
                seats.remove(key);
            }
        }
    }

    /// Sends everybody away: this process no longer settles on the network.
    pub(crate) fn dismiss(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PaymentKey, Vec<Seat>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The holder is the one for whom the journal says `Waiting`.
    pub(crate) fn own(&self) {
        if let Some(seats) = self.waiters.lock().get_mut(&self.key)
            && let Some(seat) = seats.iter_mut().find(|seat| seat.id == self.id)
        {
            seat.role = Role::Owner;
        }
    }

    /// Waits for the final entry. `None` when everybody was sent away.
    pub(crate) async fn outcome(&mut self) -> Option<Arc<Entry>> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut seats = self.waiters.lock();
        if let Some(here) = seats.get_mut(&self.key) {
            here.retain(|seat| seat.id != self.id);
            if here.is_empty() {
                seats.remove(&self.key);
            }
        }
    }
}
