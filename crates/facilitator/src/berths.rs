//! How many transactions of each signer wait to be mined.
//!
//! Nodes keep so many of one account, and forget or refuse the rest. So a lane that has its fill is handed
//! nothing new; payments wait as due, to be packed better, until some of it is mined.
//!
//! **Invariant:** a transaction has a berth from before it is signed until it is seen in a block, and again when
//! that block is undone. What holds a nonce already is never kept waiting for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The berths of all lanes.
#[derive(Debug)]
pub(crate) struct Berths {
    /// Of each lane, at the most; what does not wait for one may exceed it.
    max: usize,
    taken: Box<[AtomicUsize]>,
    freed: Notify,
}

/// A transaction's place among those of its signer that wait to be mined.
#[derive(Debug)]
pub(crate) struct Berth {
    berths: Arc<Berths>,
    lane: usize,
    /// Whether it counts; not while its transaction is in a block.
    is_taken: bool,
}

impl Berths {
    pub(crate) fn new(lanes: usize, max: usize) -> Self {
        let taken = (0..lanes).map(|_| AtomicUsize::new(0)).collect();
        Self { max, taken, freed: Notify::new() }
    }

    /// Takes a berth in a lane, whether or not there is room.
    pub(crate) fn take(self: &Arc<Self>, lane: usize) -> Berth {
        self.taken[lane].fetch_add(1, Ordering::SeqCst);
        Berth { berths: Arc::clone(self), lane, is_taken: true }
    }

    /// How many transactions of a lane wait to be mined.
    pub(crate) fn taken(&self, lane: usize) -> usize {
        self.taken[lane].load(Ordering::SeqCst)
    }

    /// For how many more there is room in a lane.
    pub(crate) fn room(&self, lane: usize) -> usize {
        self.max.saturating_sub(self.taken(lane))
    }

    /// Waits until a berth is free that was not. For one who waits.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn free(&self, lane: usize) {
        self.taken[lane].fetch_sub(1, Ordering::SeqCst);
        self.freed.notify_one();
    }
}

impl Berth {
    /// Notes whether the transaction is in a block.
    pub(crate) fn mined(&mut self, mined: bool) {
        match (mined, self.is_taken) {
            (true, true) => self.berths.free(self.lane),
            (false, false) => {
                self.berths.taken[self.lane].fetch_add(1, Ordering::SeqCst);
            }
            (true, false) | (false, true) => return,
        }
        self.is_taken = !mined;
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.mined(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_berth_is_taken_until_its_transaction_is_mined_and_again_when_it_is_not() {
        let berths = Arc::new(Berths::new(2, 2));
        let (mut first, second) = (berths.take(0), berths.take(0));
        assert_eq!([berths.room(0), berths.room(1)], [0, 2]);
        for _ in 0..2 {
            first.mined(true);
            assert_eq!((berths.room(0), berths.taken(0)), (1, 1));
        }
        let third = berths.take(0);
        for _ in 0..2 {
            first.mined(false);
            assert_eq!((berths.room(0), berths.taken(0)), (0, 3), "a block is undone");
        }
        drop((first, second));
        assert_eq!(berths.taken(0), 1);
        drop(third);
        assert_eq!(berths.taken(0), 0);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_also_of_what_was_freed_before() {
        let berths = Arc::new(Berths::new(1, 1));
        drop(berths.take(0));
        berths.freed().await;
        let waiting = tokio::spawn({
            let berths = Arc::clone(&berths);
            async move { berths.freed().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        berths.take(0).mined(true);
        waiting.await.unwrap();
    }
}
