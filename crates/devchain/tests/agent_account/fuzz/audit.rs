//! What did happen, from logs, balances and changed storage: nothing here believes the model's forecasts, only the
//! policies that the root set and the list of what was ever signed.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Log, U256};
use alloy::sol_types::SolEvent;
use pay402_devchain::genesis::USDC_ADDRESS;

use super::machine::{Done, FUNDS, Machine, mapped};
use super::model::{Account, Bucket, Order, Slot};
use crate::signed::{AgentAccount, namespace};
use crate::support::Usdc;
use crate::world::PUPPET;

pub(super) const TOKENS: [Address; 2] = [USDC_ADDRESS, PUPPET];
/// The bit of an allowance's second slot from which on it is configuration.
const CONFIGURATION: usize = 128 + 48;

/// Whether the root had a hand in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// Whatever it does, it configures nothing.
    Anyone,
    /// An operation that the root signed and that has not been done.
    Root,
}

#[derive(Default)]
pub(super) struct Audit {
    /// Payments that somebody signed, by account.
    orders: BTreeMap<(Address, Address, u64, U256), Vec<Order>>,
    /// Authorizations that session keys signed, by account and nonce.
    slots: BTreeMap<(Address, B256), Vec<Slot>>,
    /// Authorizations that roots signed, by account and nonce.
    by_root: BTreeMap<(Address, B256), (Address, U256)>,
    paid: BTreeSet<(Address, Address, u64, U256)>,
    used: BTreeSet<(Address, B256)>,
    /// Atomic units that left, by account and budget.
    out: BTreeMap<(Address, Bucket), u128>,
    /// Atomic units that left and came, by account and token.
    moved: BTreeMap<(Address, Address), (u128, u128)>,
}

impl Audit {
    pub(super) fn signed_order(&mut self, account: Address, order: Order) {
        let name = (account, order.key, order.epoch, order.nonce);
        self.orders.entry(name).or_default().push(order);
    }

    pub(super) fn signed_slot(&mut self, account: Address, nonce: B256, slot: Slot) {
        self.slots.entry((account, nonce)).or_default().push(slot);
    }

    pub(super) fn signed_by_root(
        &mut self,
        account: Address,
        nonce: B256,
        to: Address,
        value: U256,
    ) {
        self.by_root.insert((account, nonce), (to, value));
    }

    /// Looks at one call, after it was committed. `before` are the accounts with the epoch that it met.
    pub(super) fn check(
        &mut self,
        machine: &Machine,
        done: &Done,
        before: &[Account; 2],
        now: u64,
        hand: Hand,
    ) {
        for (at, log) in done.logs.iter().enumerate() {
            let cause = at.checked_sub(1).map(|before| &done.logs[before]);
            self.check_log(log, cause, before, now, hand);
        }
        for account in before {
            self.check_storage(machine, done, account, hand);
            for token in TOKENS {
                let (out, back) =
                    self.moved.get(&(account.address, token)).copied().unwrap_or_default();
                assert_eq!(machine.balance(token, account.address), FUNDS - out + back);
            }
        }
    }

    fn check_log(
        &mut self,
        log: &Log,
        cause: Option<&Log>,
        before: &[Account; 2],
        now: u64,
        hand: Hand,
    ) {
        let ours = |address| before.iter().find(|account| account.address == address);
        match log.topics()[0] {
            Usdc::Transfer::SIGNATURE_HASH => {
                let moved = Usdc::Transfer::decode_log(log).unwrap();
                let (token, value) = (log.address, moved.value.to::<u128>());
                if ours(moved.to).is_some() {
                    self.moved.entry((moved.to, token)).or_default().1 += value;
                }
                if let Some(account) = ours(moved.from) {
                    self.moved.entry((moved.from, token)).or_default().0 += value;
                    let cause = cause.expect("money leaves for a reason");
                    self.check_payment(account, token, moved.to, moved.value, cause, now);
                }
            }
            AgentAccount::Paid::SIGNATURE_HASH | Usdc::AuthorizationUsed::SIGNATURE_HASH => {}
            AgentAccount::SessionRegistered::SIGNATURE_HASH
            | AgentAccount::SessionRevoked::SIGNATURE_HASH
            | AgentAccount::AllRevoked::SIGNATURE_HASH => assert_eq!(hand, Hand::Root),
            // An approval, a cancellation, or what nobody has thought of.
            _ => panic!("unexpected log {log:?}"),
        }
    }

    /// Money of `account` moved just after `cause` was logged.
    fn check_payment(
        &mut self,
        account: &Account,
        token: Address,
        to: Address,
        value: U256,
        cause: &Log,
        now: u64,
    ) {
        if cause.address == account.address {
            let paid = AgentAccount::Paid::decode_log(cause).unwrap();
            assert_eq!((paid.token, paid.to, paid.value), (token, to, value));
            let name = (account.address, paid.key, account.epoch, paid.nonce);
            let signed = self.orders.get(&name).expect("somebody signed it");
            let meant = |order: &&Order| {
                (order.token, order.to, order.value) == (token, to, value)
                    && order.valid_after <= now
                    && now <= order.deadline
            };
            signed.iter().find(meant).expect("exactly this was signed for now");
            assert!(self.paid.insert(name), "paid twice");
            if paid.key != account.address {
                self.check_policy(account, paid.key, token, to, value, now);
            }
            return;
        }
        assert_eq!((cause.address, token), (USDC_ADDRESS, USDC_ADDRESS));
        let used = Usdc::AuthorizationUsed::decode_log(cause).unwrap();
        assert_eq!(used.authorizer, account.address);
        let name = (account.address, used.nonce);
        assert!(self.used.insert(name), "authorized twice");
        if self.by_root.get(&name) == Some(&(to, value)) {
            return;
        }
        let signed = self.slots.get(&name).expect("a session key signed it");
        let meant = |slot: &&Slot| (slot.to, U256::from(slot.value)) == (to, value);
        let slot = *signed.iter().find(meant).expect("exactly this was signed");
        assert_eq!(slot.epoch, account.epoch, "nothing outlives its epoch");
        self.check_policy(account, slot.key, token, to, value, now);
    }

    /// The policy that the root gave to `key`, and the sum of all that left under it.
    fn check_policy(
        &mut self,
        account: &Account,
        key: Address,
        token: Address,
        to: Address,
        value: U256,
        now: u64,
    ) {
        let policy = account.policy(account.epoch, key).expect("registered and not revoked");
        assert!(policy.valid_after <= now && now < policy.expiry, "outside of the session");
        let limit = policy.limits.get(&token).expect("an allowed token");
        assert!(policy.payees.as_ref().is_none_or(|payees| payees.contains(&to)), "payee");
        assert!(value <= U256::from(limit.cap), "over the cap");
        let bucket = (account.epoch, key, token, policy.window(limit, now));
        let out = self.out.entry((account.address, bucket)).or_default();
        *out += value.to::<u128>();
        assert!(*out <= limit.budget, "over the budget: {out} of {limit:?}");
    }

    /// A call writes to the account's storage what the payments in it need, and nothing else.
    fn check_storage(&self, machine: &Machine, done: &Done, account: &Account, hand: Hand) {
        let Some(changed) = done.changes.get(&account.address) else { return };
        assert_eq!((changed.info.nonce, changed.info.balance), (1, U256::ZERO));
        assert_eq!(changed.info.code_hash, changed.original_info().code_hash);
        if hand == Hand::Root {
            return;
        }
        let mut may = BTreeMap::new();
        for log in done.logs.iter().filter(|log| log.address == account.address) {
            let paid = AgentAccount::Paid::decode_log(log).unwrap();
            let policies = namespace("pay402.storage.AgentAccount") + U256::from(1);
            let policy = mapped(mapped(policies, &U256::from(account.epoch)), &paid.key);
            let [allowances, nonces] = [1, 3].map(|offset| policy + U256::from(offset));
            may.insert(mapped(nonces, &(paid.nonce >> 8)), false);
            may.insert(mapped(allowances, &paid.token) + U256::from(1), true);
        }
        for (slot, value) in changed.changed_storage_slots() {
            let is_allowance = may.get(slot).expect("a slot that a payment needs");
            let (old, new) = (value.original_value(), value.present_value());
            assert_eq!(machine.storage(account.address, *slot), new);
            match is_allowance {
                true => assert_eq!(old >> CONFIGURATION, new >> CONFIGURATION, "limits changed"),
                false => assert_eq!(old & new, old, "a nonce came back"),
            }
        }
    }
}
