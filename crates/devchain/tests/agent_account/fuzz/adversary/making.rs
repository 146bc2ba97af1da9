//! What the adversary calls with: policies, payments, authorizations and operations, good ones and spoilt ones.

use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use pay402_devchain::genesis::USDC_ADDRESS;

use super::{Adversary, Claim, Item, KEYS, Operation, PAYEES, POOL, ROOTS, Wish};
use crate::fuzz::audit::TOKENS;
use crate::fuzz::model::{Limit, Order, Policy, Slot};
use crate::fuzz::random::Random;
use crate::signed::{self, Payment, Session, Slotted, TokenLimit, USDC_DOMAIN, seconds};
use crate::world::{CHAIN, PUPPET};

impl Adversary {
    pub(super) fn account(&mut self) -> usize {
        usize::from(self.random.chance(20))
    }

    /// A key, mostly one that may pay at `account` now.
    pub(super) fn key(&mut self, account: usize) -> &'static PrivateKeySigner {
        let state = &self.accounts[account];
        let live = |key: &&PrivateKeySigner| {
            let policy = state.policy(state.epoch, key.address());
            policy.is_some_and(|policy| policy.live(self.now))
        };
        let live: Vec<&'static PrivateKeySigner> = KEYS.iter().filter(live).collect();
        match live.is_empty() || self.random.chance(15) {
            true => self.random.pick(&KEYS),
            false => live[self.random.index(live.len())],
        }
    }

    pub(super) fn pass_time(&mut self) {
        let index = self.account();
        let account = &self.accounts[index];
        let key = self.random.pick(&KEYS).address();
        let policy = account.policy(account.epoch, key);
        let limit = policy.and_then(|policy| policy.limits.values().next());
        let jump = match (self.random.below(10), policy, limit) {
            (0..4, Some(policy), Some(limit)) if policy.valid_after <= self.now => {
                // To the last second of a window, or the first of the next.
                let window = policy.window(limit, self.now);
                let next = policy.valid_after + (window + 1) * limit.window;
                (next - self.now).saturating_sub(self.random.below(2))
            }
            (4, Some(policy), _) if self.random.chance(20) => {
                policy.expiry.saturating_sub(self.now + self.random.below(2))
            }
            (5, ..) if self.random.chance(20) => self.random.below(1_000),
            _ => self.random.below(4),
        };
        self.now += jump;
    }

    pub(super) fn policy(&mut self) -> Policy {
        let valid_after = self.now - 20 + self.random.below(40);
        let expiry = valid_after + self.random.between(41, 6_000);
        let payees = (!self.random.chance(30)).then(|| {
            let count = self.random.between(1, 2);
            (0..count).map(|_| *self.random.pick(&PAYEES)).collect()
        });
        let mut policy = Policy { valid_after, expiry, payees, limits: Default::default() };
        for token in TOKENS {
            if self.random.chance(85) || policy.limits.is_empty() && token == PUPPET {
                let cap = u128::from(self.random.between(1, 100));
                let limit = Limit {
                    cap,
                    budget: cap * u128::from(self.random.between(1, 5))
                        + u128::from(self.random.below(100)),
                    window: self.random.between(1, 500),
                    slots: u8::try_from(self.random.below(7)).unwrap(),
                };
                policy.limits.insert(token, limit);
            }
        }
        policy
    }

    /// A payment that is more or less good, new or known.
    pub(super) fn item(&mut self, account: usize) -> Item {
        let mut item = if !self.items.is_empty() && self.random.chance(25) {
            self.random.pick(&self.items).clone()
        } else {
            let key = self.key(account);
            let order = self.order(account, key.address());
            let item = self.sign(account, key, order);
            remember(&mut self.random, &mut self.items, item.clone());
            item
        };
        if self.random.chance(10) {
            self.mutate(&mut item);
        }
        item
    }

    pub(super) fn order(&mut self, account: usize, key: Address) -> Order {
        let state = &self.accounts[account];
        let policy = state.policy(state.epoch, key).cloned();
        let tokens: Vec<Address> = match &policy {
            Some(policy) if self.random.chance(95) => policy.limits.keys().copied().collect(),
            _ => TOKENS.to_vec(),
        };
        let token = *self.random.pick(&tokens);
        let limit = policy.as_ref().and_then(|policy| policy.limits.get(&token));
        let cap = limit.map_or(50, |limit| limit.cap);
        let epoch = match self.random.below(40) {
            0 => state.epoch + 1,
            1 => state.epoch.saturating_sub(1),
            _ => state.epoch,
        };
        let value = match self.random.below(20) {
            0 => U256::from(cap + 1),
            1 => U256::from(self.random.next()) << self.random.below(190),
            2..12 => U256::from(cap),
            _ => U256::from(self.random.below(101)).min(U256::from(cap)),
        };
        let known = policy.and_then(|policy| policy.payees).filter(|_| !self.random.chance(5));
        let to = *self.random.pick(known.as_deref().unwrap_or(&PAYEES));
        let (valid_after, deadline) = match self.random.below(30) {
            0 => (self.now + 1, self.now + 100),
            1 => (self.now - 100, self.now - 1),
            2 => (self.now - 1, self.now + 3_600),
            3 => (self.now, self.now),
            _ => (self.now - self.random.below(50), self.now + self.random.below(3_000)),
        };
        let wide = self.random.chance(10);
        let nonce = U256::from(self.random.below(500)) << if wide { 64 } else { 0 };
        Order { key, epoch, nonce, valid_after, deadline, token, to, value }
    }

    pub(super) fn sign(&mut self, account: usize, key: &PrivateKeySigner, order: Order) -> Item {
        let address = self.accounts[account].address;
        let payment = Payment {
            token: order.token,
            to: order.to,
            value: order.value,
            nonce: order.nonce,
            validAfter: seconds(order.valid_after),
            deadline: seconds(order.deadline),
            epoch: order.epoch,
        };
        self.audit.signed_order(address, order);
        let domain = signed::Account { chain_id: CHAIN, address };
        Item {
            account,
            order,
            genuine: true,
            context: domain.context(key, &payment),
            mode: B256::ZERO,
            execution: signed::execution(order.token, order.to, order.value),
        }
    }

    /// Changes something after it was signed.
    pub(super) fn mutate(&mut self, item: &mut Item) {
        item.genuine = false;
        let mut context = item.context.to_vec();
        let mut execution = item.execution.to_vec();
        match self.random.below(9) {
            0 | 1 => flip(&mut self.random, &mut context, 0),
            2 => flip(&mut self.random, &mut execution, 0),
            3 => context[..20].copy_from_slice(self.random.pick(&KEYS).address().as_slice()),
            4 => item.mode[self.random.index(32)] = 1,
            5 => execution.push(0),
            6 => context.truncate(136),
            7 => {
                let (spender, value) = (item.order.to, item.order.value);
                let approve = approveCall { spender, value }.abi_encode();
                execution = signed::packed_call(item.order.token, U256::ZERO, &approve).to_vec();
            }
            _ => execution[51] = 1,
        }
        // Its own key written over itself changes nothing.
        let unchanged = context[..] == item.context[..] && execution[..] == item.execution[..];
        item.genuine = unchanged && item.mode.is_zero();
        item.context = context.into();
        item.execution = execution.into();
    }

    pub(super) fn claim(&mut self, account: usize) -> Claim {
        let mut claim = if !self.claims.is_empty() && self.random.chance(25) {
            self.random.pick(&self.claims).clone()
        } else {
            let key = self.key(account);
            let slot = self.slot(account, key.address());
            let claim = self.sign_slot(account, key, slot);
            remember(&mut self.random, &mut self.claims, claim.clone());
            claim
        };
        if self.random.chance(10) {
            let mut signature = claim.signature.to_vec();
            match self.random.below(3) {
                0 => flip(&mut self.random, &mut signature, 0),
                1 => signature.truncate(self.random.index(198)),
                _ => claim.slot.value ^= 1,
            }
            claim.genuine = false;
            claim.signature = signature.into();
        }
        claim
    }

    pub(super) fn slot(&mut self, account: usize, key: Address) -> Slot {
        let order = self.order(account, key);
        let state = &self.accounts[account];
        let policy = state.policy(state.epoch, key).filter(|policy| policy.valid_after <= self.now);
        let limit = policy.and_then(|policy| policy.limits.get(&USDC_ADDRESS));
        let (window, slots, cap) = match (policy, limit) {
            (Some(policy), Some(limit)) => {
                (policy.window(limit, self.now), u64::from(limit.slots), limit.cap)
            }
            _ => (0, 3, 50),
        };
        let window = match self.random.below(12) {
            0 => window.saturating_sub(1),
            // The adversary signs in advance what only later windows may take.
            1 | 2 => window + self.random.between(1, 3),
            _ => window,
        };
        let slot = match self.random.chance(90) {
            true => self.random.below(slots.max(1)),
            false => self.random.below(256),
        };
        let value = match self.random.below(20) {
            0 => cap + 1,
            1 => u128::MAX - u128::from(self.random.below(9)),
            2..12 => cap,
            _ => u128::from(self.random.below(101)).min(cap),
        };
        Slot {
            key,
            epoch: order.epoch,
            window,
            slot: u8::try_from(slot).unwrap(),
            valid_after: order.valid_after.saturating_sub(1),
            valid_before: order.deadline + 1,
            to: order.to,
            value,
        }
    }

    pub(super) fn sign_slot(
        &mut self,
        account: usize,
        key: &PrivateKeySigner,
        slot: Slot,
    ) -> Claim {
        let address = self.accounts[account].address;
        let slotted = Slotted {
            account: signed::Account { chain_id: CHAIN, address },
            token: USDC_ADDRESS,
            domain: USDC_DOMAIN,
            to: slot.to,
            value: slot.value,
            valid_after: slot.valid_after,
            valid_before: slot.valid_before,
            epoch: slot.epoch,
            window: slot.window,
            slot: slot.slot,
        };
        let nonce = slotted.nonce(key.address());
        self.audit.signed_slot(address, nonce, slot);
        Claim { account, slot, genuine: true, nonce, signature: slotted.signature(key) }
    }

    pub(super) fn operation(&mut self, account: usize, wish: Wish) -> Operation {
        let mut operation = self.operation_by(&ROOTS[account], account, wish);
        operation.genuine = true;
        operation
    }

    /// An operation that `signer` signed.
    pub(super) fn operation_by(
        &mut self,
        signer: &PrivateKeySigner,
        account: usize,
        wish: Wish,
    ) -> Operation {
        let state = &self.accounts[account];
        let epoch = state.epoch;
        let deadline = self.now + self.random.below(200);
        let domain = signed::Account { chain_id: CHAIN, address: state.address };
        let data = match &wish {
            Wish::Register(sessions) => {
                let sessions = sessions.iter().map(|(key, policy)| session(*key, policy)).collect();
                domain.register(signer, sessions, epoch, deadline).abi_encode()
            }
            Wish::Revoke(key) => domain.revoke(signer, *key, epoch, deadline).abi_encode(),
            Wish::RevokeAll => domain.revoke_all(signer, epoch, deadline).abi_encode(),
        };
        Operation { account, epoch, deadline, wish, genuine: false, data }
    }
}

/// Keeps `thing`, in the place of another if there are many.
pub(super) fn remember<T>(random: &mut Random, pool: &mut Vec<T>, thing: T) {
    if pool.len() < POOL {
        pool.push(thing);
    } else {
        let at = random.index(POOL);
        pool[at] = thing;
    }
}

/// Changes one bit of `bytes`, from byte `first` on.
pub(super) fn flip(random: &mut Random, bytes: &mut [u8], first: usize) {
    let at = first + random.index(bytes.len() - first);
    bytes[at] ^= 1 << random.below(8);
}

fn session(key: Address, policy: &Policy) -> Session {
    Session {
        key,
        validAfter: seconds(policy.valid_after),
        expiry: seconds(policy.expiry),
        anyPayee: policy.payees.is_none(),
        payees: policy.payees.clone().unwrap_or_default(),
        tokens: policy
            .limits
            .iter()
            .map(|(token, limit)| TokenLimit {
                token: *token,
                cap: limit.cap,
                budget: limit.budget,
                window: u32::try_from(limit.window).unwrap(),
                slots: limit.slots,
            })
            .collect(),
    }
}

alloy::sol! {
    function approve(address spender, uint256 value) returns (bool);
}
