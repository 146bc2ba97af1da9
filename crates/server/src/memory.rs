//! Claims in memory: for tests, for the demo, and for servers that accept to forget at a restart.
//!
//! What a restart costs: a payment that was settled is still refused by the chain, but its answer
//! cannot be had again, and a settlement that was under way is no longer followed. A server that
//! sells for real keeps its claims in a store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use pay402_core::error::Unavailable;
use pay402_core::grants::{Claim, Claimed, GrantState, Grants, Held};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, PaymentKey};

/// Most claims that are kept, unless set.
pub const CLAIMS_MAX: usize = 65_536;
/// Most bytes of sealed answers that are kept, over all claims. Beyond it answers are delivered
/// but not kept for a repeat.
pub const SEALED_TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// [`Grants`] in memory, bounded. Full means unavailable: nothing is forgotten to make room while
/// it could still matter.
#[derive(Debug)]
pub struct MemoryGrants {
    claims_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<PaymentKey, Entry>,
    sealed_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    request: Digest,
    proof: Option<Digest>,
    forget_at: UnixTime,
    state: GrantState,
}

impl Default for MemoryGrants {
    fn default() -> Self {
        Self::new(CLAIMS_MAX)
    }
}

impl MemoryGrants {
    /// Room for `claims_max` claims.
    pub fn new(claims_max: usize) -> Self {
        Self { claims_max, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, forgotten: impl Fn(&Entry) -> bool) -> u64 {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !forgotten(entry));
        self.sealed_bytes = self.entries.values().map(|entry| sealed_len(&entry.state)).sum();
        (before - self.entries.len()) as u64
    }

    fn entry(&mut self, key: &PaymentKey) -> Result<&mut Entry, Unavailable> {
        let missing = || Unavailable::new("grants", "the payment is not claimed");
        self.entries.get_mut(key).ok_or_else(missing)
    }
}

fn sealed_len(state: &GrantState) -> usize {
    match state {
        GrantState::Settling { sealed: Some(sealed), .. }
        | GrantState::Delivered { sealed: Some(sealed), .. } => sealed.len(),
        _ => 0,
    }
}

#[async_trait]
impl Grants for MemoryGrants {
    async fn claim(&self, claim: Claim) -> Result<Claimed, Unavailable> {
        let mut state = self.state();
        if let Some(entry) = state.entries.get(&claim.key) {
            return Ok(Claimed::Held(Held {
                same_request: entry.request == claim.request,
                same_proof: claim.proof.is_some() && entry.proof == claim.proof,
                state: entry.state.clone(),
            }));
        }
        if state.entries.len() >= self.claims_max {
            state.forget(|entry| entry.forget_at < claim.claimed_at);
        }
        if state.entries.len() >= self.claims_max {
            return Err(Unavailable::new("grants", "no room for another claim in memory"));
        }
        let Claim { key, request, proof, forget_at, .. } = claim;
        state.entries.insert(key, Entry { request, proof, forget_at, state: GrantState::Claimed });
        Ok(Claimed::Granted)
    }

    async fn settling(
        &self,
        key: &PaymentKey,
        charge: Option<Amount>,
        sealed: Option<Vec<u8>>,
    ) -> Result<(), Unavailable> {
        let mut state = self.state();
        let total = state.sealed_bytes;
        let entry = state.entry(key)?;
        if matches!(entry.state, GrantState::Delivered { .. }) {
            return Err(Unavailable::new("grants", "the payment was delivered already"));
        }
        let others = total - sealed_len(&entry.state);
        let fits = |bytes: &Vec<u8>| others.saturating_add(bytes.len()) <= SEALED_TOTAL_BYTES_MAX;
        entry.state = GrantState::Settling { charge, sealed: sealed.filter(fits) };
        let now = others + sealed_len(&entry.state);
        state.sealed_bytes = now;
        Ok(())
    }

    async fn deliver(&self, key: &PaymentKey, transaction: &str) -> Result<(), Unavailable> {
        let mut state = self.state();
        let entry = state.entry(key)?;
        let (charged, sealed) = match &mut entry.state {
            GrantState::Delivered { .. } => return Ok(()),
            GrantState::Settling { charge, sealed } => (*charge, sealed.take()),
            GrantState::Claimed => (None, None),
        };
        let transaction = transaction.to_owned();
        entry.state = GrantState::Delivered { transaction, charged, sealed };
        Ok(())
    }

    async fn release(&self, key: &PaymentKey) -> Result<(), Unavailable> {
        let mut state = self.state();
        let Some(entry) = state.entries.get(key) else { return Ok(()) };
        if !matches!(entry.state, GrantState::Delivered { .. }) {
            let freed = sealed_len(&entry.state);
            state.entries.remove(key);
            state.sealed_bytes -= freed;
        }
        Ok(())
    }

    async fn state(&self, key: &PaymentKey) -> Result<Option<GrantState>, Unavailable> {
        Ok(self.state().entries.get(key).map(|entry| entry.state.clone()))
    }

    async fn prune(&self, now: UnixTime) -> Result<u64, Unavailable> {
        Ok(self.state().forget(|entry| entry.forget_at < now))
    }
}
