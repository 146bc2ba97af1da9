//! The specification of the account in Rust: who may pay what, now. It knows no EVM and no bytes.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, U256};
use pay402_devchain::genesis::USDC_ADDRESS;

use crate::world::PUPPET;

/// Seconds that something signed by a session key may be good for.
const LIFETIME: u64 = 3_600;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) cap: u128,
    pub(super) budget: u128,
    pub(super) window: u64,
    pub(super) slots: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) valid_after: u64,
    pub(super) expiry: u64,
    /// `None` is any.
    pub(super) payees: Option<Vec<Address>>,
    pub(super) limits: BTreeMap<Address, Limit>,
}

#[derive(Clone, Debug)]
pub(super) enum Standing {
    Registered(Policy),
    Revoked,
}

/// A budget: epoch, key, token, window.
pub(super) type Bucket = (u64, Address, Address, u64);

/// One account.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) address: Address,
    pub(super) epoch: u64,
    pub(super) standings: BTreeMap<(u64, Address), Standing>,
    used: BTreeSet<(u64, Address, U256)>,
    /// Atomic units by ERC-7710.
    spent: BTreeMap<Bucket, u128>,
    /// Slots whose authorization was used, as bits.
    slots: BTreeMap<Bucket, u32>,
    /// Nonces of EIP-3009 that the root's authorizations used.
    by_root: BTreeSet<B256>,
}

/// A payment by ERC-7710, as the account sees it; only one that was signed for it by `key` gets here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) key: Address,
    pub(super) epoch: u64,
    pub(super) nonce: U256,
    pub(super) valid_after: u64,
    pub(super) deadline: u64,
    pub(super) token: Address,
    pub(super) to: Address,
    pub(super) value: U256,
}

/// A session key's EIP-3009 authorization of USDC, properly signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) key: Address,
    pub(super) epoch: u64,
    pub(super) window: u64,
    pub(super) slot: u8,
    pub(super) valid_after: u64,
    pub(super) valid_before: u64,
    pub(super) to: Address,
    pub(super) value: u128,
}

impl Policy {
    pub(super) fn live(&self, now: u64) -> bool {
        self.valid_after <= now && now < self.expiry
    }

    /// The limit for `token`, if the session may pay `value` of it to `to` at all.
    fn permits(&self, token: Address, to: Address, value: U256, now: u64) -> Option<Limit> {
        let limit = *self.limits.get(&token)?;
        let payee = self.payees.as_ref().is_none_or(|payees| payees.contains(&to));
        (self.live(now) && payee && value <= U256::from(limit.cap)).then_some(limit)
    }

    pub(super) fn window(&self, limit: &Limit, now: u64) -> u64 {
        (now - self.valid_after) / limit.window
    }
}

impl Account {
    pub(super) fn at(address: Address) -> Self {
        Self { address, ..Self::default() }
    }

    pub(super) fn policy(&self, epoch: u64, key: Address) -> Option<&Policy> {
        match self.standings.get(&(epoch, key)) {
            Some(Standing::Registered(policy)) => Some(policy),
            _ => None,
        }
    }

    /// Carries out `order` and says true, or changes nothing and says false. `mute` is whether the puppet will not
    /// tell which nonces were used.
    pub(super) fn pay(&mut self, order: &Order, now: u64, mute: bool) -> bool {
        let timely = order.valid_after <= now && now <= order.deadline;
        let spent_nonce = (order.epoch, order.key, order.nonce);
        if order.epoch != self.epoch || !timely || self.used.contains(&spent_nonce) {
            return false;
        }
        if order.key != self.address {
            let short = order.deadline - order.valid_after <= LIFETIME;
            let Some(policy) = self.policy(self.epoch, order.key) else { return false };
            let Some(limit) = policy.permits(order.token, order.to, order.value, now) else {
                return false;
            };
            let bucket = (self.epoch, order.key, order.token, policy.window(&limit, now));
            let value: u128 = order.value.to();
            if !short || !self.fits(bucket, &limit, value, None, mute) {
                return false;
            }
            *self.spent.entry(bucket).or_default() += value;
        }
        self.used.insert(spent_nonce)
    }

    /// The same for an EIP-3009 authorization that the token was asked to carry out.
    pub(super) fn authorize(&mut self, slot: &Slot, now: u64) -> bool {
        let token = USDC_ADDRESS;
        // USDC's own rules: both ends are exclusive.
        let timely = slot.valid_after < now && now < slot.valid_before;
        let Some(policy) = self.policy(self.epoch, slot.key) else { return false };
        let Some(limit) = policy.permits(token, slot.to, U256::from(slot.value), now) else {
            return false;
        };
        if slot.slot >= limit.slots {
            return false;
        }
        let current = slot.epoch == self.epoch && slot.window == policy.window(&limit, now);
        let short = slot.valid_before - slot.valid_after <= LIFETIME;
        let bucket = (self.epoch, slot.key, token, slot.window);
        let bit = 1 << slot.slot;
        let fresh = self.slots.get(&bucket).is_none_or(|used| used & bit == 0);
        let allowed = timely && current && short && fresh;
        if !allowed || !self.fits(bucket, &limit, slot.value, Some(slot.slot), false) {
            return false;
        }
        *self.slots.entry(bucket).or_default() |= bit;
        true
    }

    /// An authorization that the root signed: the token's rules alone.
    pub(super) fn authorize_by_root(&mut self, nonce: B256, times: (u64, u64), now: u64) -> bool {
        times.0 < now && now < times.1 && self.by_root.insert(nonce)
    }

    /// One budget for both roads: an authorization counts as a whole cap once it was used.
    fn fits(
        &self,
        bucket: Bucket,
        limit: &Limit,
        value: u128,
        own: Option<u8>,
        mute: bool,
    ) -> bool {
        let spent = self.spent.get(&bucket).copied().unwrap_or_default();
        let others = u128::from(limit.slots) - u128::from(own.is_some());
        // What the puppet says is only asked where it could matter.
        if mute && bucket.2 == PUPPET && spent + value + others * limit.cap > limit.budget {
            return false;
        }
        let used = self.slots.get(&bucket).copied().unwrap_or_default().count_ones();
        spent + value + u128::from(used) * limit.cap <= limit.budget
    }

    /// What the view should say is left.
    pub(super) fn left(&self, key: Address, token: Address, now: u64, mute: bool) -> u128 {
        let Some(policy) = self.policy(self.epoch, key).filter(|policy| policy.live(now)) else {
            return 0;
        };
        let Some(limit) = policy.limits.get(&token) else { return 0 };
        if mute && token == PUPPET && limit.slots > 0 {
            return 0;
        }
        let bucket = (self.epoch, key, token, policy.window(limit, now));
        let spent = self.spent.get(&bucket).copied().unwrap_or_default();
        let used = self.slots.get(&bucket).copied().unwrap_or_default().count_ones();
        limit.budget.saturating_sub(spent + u128::from(used) * limit.cap)
    }

    pub(super) fn register(
        &mut self,
        epoch: u64,
        sessions: &[(Address, Policy)],
        now: u64,
    ) -> bool {
        let free = |key: &Address| !self.standings.contains_key(&(epoch, *key));
        let good = sessions.iter().all(|(key, policy)| free(key) && policy.expiry > now);
        if epoch != self.epoch || !good {
            return false;
        }
        for (key, policy) in sessions {
            self.standings.insert((epoch, *key), Standing::Registered(policy.clone()));
        }
        true
    }

    pub(super) fn revoke(&mut self, epoch: u64, key: Address) -> bool {
        if epoch == self.epoch {
            self.standings.insert((epoch, key), Standing::Revoked);
        }
        epoch == self.epoch
    }

    pub(super) fn revoke_all(&mut self, epoch: u64) -> bool {
        let current = epoch == self.epoch;
        self.epoch += u64::from(current);
        current
    }
}
