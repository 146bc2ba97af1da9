//! Transactions that wait: by sender and nonce, with replacement.
//!
//! It knows nothing of the state beyond the nonces it is told; what is valid is decided in `chain`. The invariants
//! kept: one transaction per sender and nonce; the size is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Transaction, TxEnvelope};
use alloy::primitives::map::HashMap;
use alloy::primitives::{Address, B256};

use crate::error::Rejection;

/// Most transactions that wait at a time.
pub const MEMPOOL_CAPACITY: usize = 16_384;
/// Fee cap and tip of a replacement must be at least this many percent of the replaced ones.
const REPLACEMENT_PERCENT: u128 = 110;

/// A waiting transaction.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) tx: Arc<Recovered<TxEnvelope>>,
    /// Order of arrival, which decides between equal tips.
    pub(crate) arrival: u64,
}

/// The mempool.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mempool {
    by_sender: HashMap<Address, BTreeMap<u64, Waiting>>,
    by_hash: HashMap<B256, (Address, u64)>,
    arrivals: u64,
}

impl Waiting {
    pub(crate) fn hash(&self) -> B256 {
        *self.tx.tx_hash()
    }
}

impl Mempool {
    /// Adds `tx`, or replaces the one with its sender and nonce if it pays enough more.
    pub(crate) fn insert(&mut self, tx: Arc<Recovered<TxEnvelope>>) -> Result<(), Rejection> {
        let (sender, nonce, hash) = (tx.signer(), tx.nonce(), *tx.tx_hash());
        if self.by_hash.contains_key(&hash) {
            return Err(Rejection::AlreadyKnown);
        }
        let replaced = self.by_sender.get(&sender).and_then(|queue| queue.get(&nonce));
        match replaced {
            Some(old) if !outbids(&tx, &old.tx) => return Err(Rejection::ReplacementUnderpriced),
            Some(old) => {
                let old = old.hash();
                self.by_hash.remove(&old);
            }
            None if self.by_hash.len() >= MEMPOOL_CAPACITY => return Err(Rejection::PoolFull),
            None => {}
        }
        self.arrivals += 1;
        self.by_hash.insert(hash, (sender, nonce));
        let waiting = Waiting { tx, arrival: self.arrivals };
        self.by_sender.entry(sender).or_default().insert(nonce, waiting);
        Ok(())
    }

    pub(crate) fn by_hash(&self, hash: B256) -> Option<&Waiting> {
        let (sender, nonce) = self.by_hash.get(&hash)?;
        self.at(*sender, *nonce)
    }

    pub(crate) fn at(&self, sender: Address, nonce: u64) -> Option<&Waiting> {
        self.by_sender.get(&sender)?.get(&nonce)
    }

    pub(crate) fn remove(&mut self, hash: B256) -> bool {
        let Some((sender, nonce)) = self.by_hash.remove(&hash) else {
            return false;
        };
        if let Some(queue) = self.by_sender.get_mut(&sender) {
            queue.remove(&nonce);
            if queue.is_empty() {
                self.by_sender.remove(&sender);
            }
        }
        true
    }

    /// Forgets what `sender` can no longer send, because its next nonce is `next`.
    pub(crate) fn forget_below(&mut self, sender: Address, next: u64) {
        let Some(queue) = self.by_sender.get_mut(&sender) else {
            return;
        };
        let alive = queue.split_off(&next);
        for stale in queue.values() {
            self.by_hash.remove(&stale.hash());
        }
        *queue = alive;
        if queue.is_empty() {
            self.by_sender.remove(&sender);
        }
    }

    /// The nonce after `next` and every waiting transaction that follows it without a gap.
    pub(crate) fn next_nonce(&self, sender: Address, next: u64) -> u64 {
        let Some(queue) = self.by_sender.get(&sender) else {
            return next;
        };
        let mut nonce = next;
        while queue.contains_key(&nonce) {
            nonce += 1;
        }
        nonce
    }

    pub(crate) fn senders(&self) -> impl Iterator<Item = Address> + '_ {
        self.by_sender.keys().copied()
    }

    /// Every waiting transaction, by sender and nonce.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> + '_ {
        self.by_sender.values().flat_map(BTreeMap::values)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }
}

fn outbids(new: &TxEnvelope, old: &TxEnvelope) -> bool {
    let enough = |new: u128, old: u128| {
        new > old && new.saturating_mul(100) >= old.saturating_mul(REPLACEMENT_PERCENT)
    };
    let tip =
        |tx: &TxEnvelope| tx.max_priority_fee_per_gas().unwrap_or_else(|| tx.max_fee_per_gas());
    enough(new.max_fee_per_gas(), old.max_fee_per_gas()) && enough(tip(new), tip(old))
}
