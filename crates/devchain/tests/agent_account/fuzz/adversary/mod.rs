//! The adversary: it holds every session key and one that was never registered, sees all that the roots sign, and may
//! call anything at any time.

mod making;

use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolInterface, SolStruct};
use pay402_devchain::genesis::USDC_ADDRESS;

use super::audit::{Audit, Hand, TOKENS};
use super::machine::{Done, Machine};
use super::model::{Account, Order, Policy, Slot};
use super::random::Random;
use super::{Tally, WORKED};
use crate::signed::{
    self, AgentAccount, TransferWithAuthorization, USDC_DOMAIN, VALID, seconds, token_domain,
};
use crate::support::Usdc;
use crate::world::{CHAIN, Mood, PUPPET, Puppet};
use making::{flip, remember};

const START: u64 = 1_900_000_000;
const PAYEES: [Address; 4] = [
    Address::repeat_byte(0xe1),
    Address::repeat_byte(0xe2),
    Address::repeat_byte(0xe3),
    Address::repeat_byte(0xe4),
];
/// Bytes that fill up a signature of 65 bytes in call data.
const SIGNATURE_PADDING: usize = 31;
/// Payments and authorizations that are remembered, to be presented again.
const POOL: usize = 64;

static ROOTS: LazyLock<[PrivateKeySigner; 2]> =
    LazyLock::new(|| ["root 0", "root 1"].map(signed::signer));
/// The last is never registered.
static KEYS: LazyLock<Vec<PrivateKeySigner>> =
    LazyLock::new(|| (0..6).map(|number| signed::signer(&format!("key {number}"))).collect());

/// A payment by ERC-7710 as it would be presented.
#[derive(Clone, Debug)]
struct Item {
    /// The account that it was signed for.
    account: usize,
    order: Order,
    /// Signed by the order's key, and nothing was changed after.
    genuine: bool,
    context: Bytes,
    mode: B256,
    execution: Bytes,
}

/// An EIP-3009 authorization as it would be presented to the token.
#[derive(Clone, Debug)]
struct Claim {
    account: usize,
    slot: Slot,
    genuine: bool,
    nonce: B256,
    signature: Bytes,
}

#[derive(Clone, Debug)]
enum Wish {
    Register(Vec<(Address, Policy)>),
    Revoke(Address),
    RevokeAll,
}

/// An operation of a root, or a forgery of one.
#[derive(Clone, Debug)]
struct Operation {
    account: usize,
    epoch: u64,
    deadline: u64,
    wish: Wish,
    genuine: bool,
    data: Vec<u8>,
}

pub(super) struct Adversary {
    random: Random,
    machine: Machine,
    accounts: [Account; 2],
    now: u64,
    mood: Mood,
    /// What the puppet does in [`Mood::Reenter`].
    reentry: (usize, Vec<Item>),
    audit: Audit,
    items: Vec<Item>,
    claims: Vec<Claim>,
    operations: Vec<Operation>,
    last: String,
}

impl Adversary {
    pub(super) fn new(episode: u64) -> Self {
        let accounts = [0, 1].map(|index: usize| Account::at(ROOTS[index].address()));
        let machine = Machine::new(&[accounts[0].address, accounts[1].address]);
        let mut adversary = Self {
            random: Random::new(episode),
            machine,
            accounts,
            now: START,
            mood: Mood::Plain,
            reentry: (0, Vec::new()),
            audit: Audit::default(),
            items: Vec::new(),
            claims: Vec::new(),
            operations: Vec::new(),
            last: String::new(),
        };
        for account in [0, 1] {
            let sessions = (0..4).map(|key| (KEYS[key].address(), adversary.policy())).collect();
            let operation = adversary.operation(account, Wish::Register(sessions));
            adversary.operate(&operation, &mut Tally::default());
        }
        adversary
    }

    /// What was called last, for whoever has to see it again.
    pub(super) fn last_call(&self) -> &str {
        &self.last
    }

    /// One call.
    pub(super) fn step(&mut self, tally: &mut Tally) {
        if self.random.chance(30) {
            self.pass_time();
        }
        match self.random.weighted(&[46, 26, 8, 6, 4, 4, 4, 2]) {
            0 => self.redeem(tally),
            1 => self.authorize(tally),
            2 => self.root_operates(tally),
            3 => self.forge_operation(tally),
            4 => self.root_pays(tally),
            5 => self.tell_puppet(),
            6 => self.ask_to_sign_anything(tally),
            _ => self.call_anything(tally),
        }
    }

    /// The account says of itself what the root configured.
    pub(super) fn check_views(&mut self) {
        for account in self.accounts.clone() {
            let address = account.address;
            let now = self.now;
            assert_eq!(self.machine.read(address, &AgentAccount::epochCall {}, now), account.epoch);
            for key in KEYS.iter().map(PrivateKeySigner::address) {
                let seen = self.machine.read(address, &AgentAccount::sessionCall { key }, now);
                let policy = account.policy(account.epoch, key);
                let standing = account.standings.get(&(account.epoch, key));
                let state =
                    u8::from(standing.is_some()) + u8::from(standing.is_some() && policy.is_none());
                assert_eq!(seen.state, state);
                let Some(policy) = policy else { continue };
                assert_eq!(seen.validAfter, seconds(policy.valid_after));
                assert_eq!(seen.expiry, seconds(policy.expiry));
                for payee in PAYEES {
                    let allowed = policy.payees.as_ref().is_none_or(|list| list.contains(&payee));
                    let asked = AgentAccount::isPayeeAllowedCall { key, payee };
                    assert_eq!(self.machine.read(address, &asked, now), allowed);
                }
                for token in TOKENS {
                    let asked = AgentAccount::tokenLimitCall { key, token };
                    let seen = self.machine.read(address, &asked, now);
                    let limit = policy.limits.get(&token);
                    let cap = limit.map_or(0, |limit| limit.cap);
                    let budget = limit.map_or(0, |limit| limit.budget);
                    let window = limit.map_or(0, |limit| limit.window);
                    let slots = limit.map_or(0, |limit| limit.slots);
                    assert_eq!((seen.cap, seen.budget), (cap, budget));
                    assert_eq!((u64::from(seen.window), seen.slots), (window, slots));
                    let asked = AgentAccount::remainingCall { key, token };
                    let seen = self.machine.read(address, &asked, now);
                    let mute = self.mood == Mood::Mute;
                    assert_eq!(seen.left, U256::from(account.left(key, token, now, mute)));
                }
            }
        }
    }

    // ---- calls

    fn redeem(&mut self, tally: &mut Tally) {
        let account = self.account();
        let count = match self.random.weighted(&[70, 16, 8, 4, 1, 1]) {
            4 => 0,
            5 => 17,
            few => few + 1,
        };
        let items: Vec<Item> = (0..count).map(|_| self.item(account)).collect();
        let mut call = redemption(&items);
        let uneven = self.random.chance(2);
        if uneven {
            call.modes.push(B256::ZERO);
        }
        let before = self.accounts.clone();
        let expected = !uneven && self.carry_out(account, &items, true);
        let to = before[account].address;
        self.submit("redeem", to, call.abi_encode(), expected, &before, Hand::Anyone, tally);
    }

    /// The model's word on a batch, which it carries out if it is good.
    fn carry_out(&mut self, account: usize, items: &[Item], from_outside: bool) -> bool {
        let before = self.accounts.clone();
        let mut good = (1..=16).contains(&items.len());
        for item in items {
            let mute = self.mood == Mood::Mute;
            good = good
                && item.genuine
                && item.account == account
                && item.mode.is_zero()
                && TOKENS.contains(&item.order.token)
                && self.accounts[account].pay(&item.order, self.now, mute);
            if !good {
                self.accounts = before;
                return false;
            }
            if from_outside && item.order.token == PUPPET && self.mood == Mood::Reenter {
                let (account, items) = self.reentry.clone();
                self.carry_out(account, &items, false);
            }
        }
        good
    }

    fn authorize(&mut self, tally: &mut Tally) {
        let account = self.account();
        let claim = self.claim(account);
        let slot = claim.slot;
        let from = self.accounts[account].address;
        let call = Usdc::transferWithAuthorization_1Call {
            from,
            to: slot.to,
            value: U256::from(slot.value),
            validAfter: U256::from(slot.valid_after),
            validBefore: U256::from(slot.valid_before),
            nonce: claim.nonce,
            signature: claim.signature.clone(),
        };
        if self.random.chance(20) {
            let digest = transfer_digest(&call);
            self.ask(account, digest, claim.signature.clone(), tally);
        }
        let before = self.accounts.clone();
        let meant = claim.genuine && claim.account == account;
        let expected = meant && self.accounts[account].authorize(&slot, self.now);
        let data = call.abi_encode();
        self.submit("authorization", USDC_ADDRESS, data, expected, &before, Hand::Anyone, tally);
    }

    /// Why the account says no, for the tally; that it answers both questions alike.
    fn ask(&mut self, account: usize, digest: B256, signature: Bytes, tally: &mut Tally) -> bool {
        let address = self.accounts[account].address;
        let asked = AgentAccount::signatureRefusalCall { digest, signature: signature.clone() };
        let why = self.machine.read(address, &asked, self.now).0;
        let asked = AgentAccount::isValidSignatureCall { digest, signature };
        let valid = self.machine.read(address, &asked, self.now).0 == VALID;
        assert_eq!(valid, why == [0; 4]);
        tally.count("question", &if valid { WORKED.to_owned() } else { error_name(&why) });
        valid
    }

    fn root_operates(&mut self, tally: &mut Tally) {
        let account = self.account();
        let wish = match self.random.weighted(&[75, 18, 7]) {
            0 => {
                let count = self.random.between(1, 2);
                let sessions = (0..count).map(|_| {
                    let index = self.random.index(KEYS.len() - 1);
                    (KEYS[index].address(), self.policy())
                });
                let mut sessions: Vec<_> = sessions.collect();
                sessions.dedup_by_key(|(key, _)| *key);
                Wish::Register(sessions)
            }
            1 => Wish::Revoke(self.random.pick(&KEYS).address()),
            _ => Wish::RevokeAll,
        };
        let operation = self.operation(account, wish);
        // The relayer is the adversary: it may keep an operation for later.
        if self.random.chance(70) {
            self.operate(&operation, tally);
        } else {
            remember(&mut self.random, &mut self.operations, operation);
            self.redeem(tally);
        }
    }

    fn forge_operation(&mut self, tally: &mut Tally) {
        if self.operations.is_empty() {
            return self.redeem(tally);
        }
        let mut operation = self.random.pick(&self.operations).clone();
        match self.random.below(4) {
            0 => {}
            1 => operation.account = 1 - operation.account,
            2 => {
                // What pads the signature, which comes last, means nothing and is not signed.
                let meant = operation.data.len() - SIGNATURE_PADDING;
                flip(&mut self.random, &mut operation.data[..meant], 4);
            }
            _ => {
                let key = self.random.pick(&KEYS).clone();
                operation = self.operation_by(&key, operation.account, operation.wish);
            }
        }
        let changed = !self
            .operations
            .iter()
            .any(|kept| kept.data == operation.data && kept.account == operation.account);
        operation.genuine &= !changed;
        self.operate(&operation, tally);
    }

    fn operate(&mut self, operation: &Operation, tally: &mut Tally) {
        let before = self.accounts.clone();
        let account = &mut self.accounts[operation.account];
        let good = operation.genuine && self.now <= operation.deadline;
        let expected = good
            && match &operation.wish {
                Wish::Register(sessions) => account.register(operation.epoch, sessions, self.now),
                Wish::Revoke(key) => account.revoke(operation.epoch, *key),
                Wish::RevokeAll => account.revoke_all(operation.epoch),
            };
        let hand = if expected { Hand::Root } else { Hand::Anyone };
        let to = account.address;
        let kept = operation.clone();
        if kept.genuine {
            remember(&mut self.random, &mut self.operations, kept);
        }
        let data = operation.data.clone();
        self.submit("operation", to, data, expected, &before, hand, tally);
    }

    /// The owner pays, by both roads and without limits; the adversary may present it again.
    fn root_pays(&mut self, tally: &mut Tally) {
        let account = self.account();
        let root = &ROOTS[account];
        let (to, value) = (*self.random.pick(&PAYEES), u128::from(self.random.below(10_000)));
        if self.random.chance(50) {
            let order = Order {
                key: root.address(),
                epoch: self.accounts[account].epoch,
                nonce: U256::from(self.random.below(300)),
                valid_after: self.now - self.random.below(10),
                deadline: self.now + self.random.below(1_000_000),
                token: *self.random.pick(&TOKENS),
                to,
                value: U256::from(value),
            };
            let item = self.sign(account, root, order);
            remember(&mut self.random, &mut self.items, item.clone());
            let before = self.accounts.clone();
            let expected = self.carry_out(account, std::slice::from_ref(&item), true);
            let data = redemption(&[item]).abi_encode();
            let to = before[account].address;
            return self.submit("root payment", to, data, expected, &before, Hand::Anyone, tally);
        }
        let nonce = B256::from(U256::from(self.random.below(50)));
        let times = (self.now - 1, self.now + self.random.below(100));
        let mut call = Usdc::transferWithAuthorization_1Call {
            from: root.address(),
            to,
            value: U256::from(value),
            validAfter: U256::from(times.0),
            validBefore: U256::from(times.1),
            nonce,
            signature: Bytes::new(),
        };
        let signed = root.sign_hash_sync(&transfer_digest(&call)).unwrap();
        call.signature = signed.as_bytes().into();
        let before = self.accounts.clone();
        let expected = self.accounts[account].authorize_by_root(nonce, times, self.now);
        if expected {
            self.audit.signed_by_root(root.address(), nonce, to, U256::from(value));
        }
        let data = call.abi_encode();
        self.submit("root payment", USDC_ADDRESS, data, expected, &before, Hand::Anyone, tally);
    }

    fn tell_puppet(&mut self) {
        let moods = [Mood::Plain, Mood::Silent, Mood::Bomb, Mood::Reenter, Mood::Mute];
        // A megabyte of answer is slow; once in a while will do.
        self.mood = moods[self.random.weighted(&[30, 10, 1, 40, 19])];
        let account = self.account();
        let count = self.random.between(1, 2);
        let items: Vec<Item> = (0..count).map(|_| self.item(account)).collect();
        let obey = Puppet::obeyCall {
            mood: self.mood as u8,
            target: self.accounts[account].address,
            data: redemption(&items).abi_encode().into(),
        };
        self.reentry = (account, items);
        assert!(self.machine.call(PUPPET, obey.abi_encode(), self.now).output.is_ok());
    }

    /// Digests that a session key signs and that mean anything but a bounded payment.
    fn ask_to_sign_anything(&mut self, tally: &mut Tally) {
        let account = self.account();
        let from = self.accounts[account].address;
        let key = self.random.pick(&KEYS).clone();
        let mut claim = self.claim(account);
        let value = U256::from(self.random.below(1_000));
        let nonce = claim.nonce;
        let usdc = token_domain(USDC_DOMAIN, CHAIN, USDC_ADDRESS);
        let deadline = U256::from(self.now + 60);
        let spender = *self.random.pick(&PAYEES);
        let digest = match self.random.below(4) {
            0 => Permit { owner: from, spender, value, nonce: U256::ZERO, deadline }
                .eip712_signing_hash(&usdc),
            1 => CancelAuthorization { authorizer: from, nonce }.eip712_signing_hash(&usdc),
            2 => ReceiveWithAuthorization {
                from,
                to: spender,
                value,
                validAfter: U256::ZERO,
                validBefore: deadline,
                nonce,
            }
            .eip712_signing_hash(&usdc),
            _ => B256::from(U256::from(self.random.next())),
        };
        let signature = key.sign_hash_sync(&digest).unwrap().as_bytes();
        let story = claim.signature.len().saturating_sub(65);
        let embedded = [&claim.signature[..story], &signature].concat();
        claim.signature = if self.random.chance(50) { embedded } else { signature.into() }.into();
        assert!(!self.ask(account, digest, claim.signature.clone(), tally));
        let before = self.accounts.clone();
        let signature = claim.signature;
        let permit = Usdc::permit_1Call { holder: from, spender, value, deadline, signature };
        let data = permit.abi_encode();
        self.submit("permit", USDC_ADDRESS, data, false, &before, Hand::Anyone, tally);
    }

    fn call_anything(&mut self, tally: &mut Tally) {
        let account = self.account();
        let mut data = match self.random.below(3) {
            0 => Usdc::transferCall { to: PAYEES[0], value: U256::from(1) }.abi_encode(),
            1 => redemption(&[self.item(account)]).abi_encode(),
            _ => Vec::new(),
        };
        data.splice(0..4.min(data.len()), self.random.next().to_be_bytes()[..4].to_vec());
        let before = self.accounts.clone();
        let to = before[account].address;
        self.submit("anything", to, data, false, &before, Hand::Anyone, tally);
    }

    /// Makes the call, compares with the forecast, and has it audited.
    #[allow(clippy::too_many_arguments, reason = "each is a fact about one call")]
    fn submit(
        &mut self,
        kind: &'static str,
        to: Address,
        data: Vec<u8>,
        expected: bool,
        before: &[Account; 2],
        hand: Hand,
        tally: &mut Tally,
    ) {
        self.last.clear();
        let Done { output, logs, changes } = self.machine.call(to, data.clone(), self.now);
        let outcome = match &output {
            Ok(_) => WORKED.to_owned(),
            Err(data) => error_name(data),
        };
        self.last = format!("{kind} at {}, {outcome}: {to} {}", self.now, Bytes::from(data));
        assert_eq!(output.is_ok(), expected, "{kind}: the model says otherwise, {outcome}");
        let done = Done { output, logs, changes };
        self.audit.check(&self.machine, &done, before, self.now, hand);
        tally.count(kind, &outcome);
    }
}

alloy::sol! {
    struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
    struct CancelAuthorization { address authorizer; bytes32 nonce; }
    struct ReceiveWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }
}

fn redemption(items: &[Item]) -> AgentAccount::redeemDelegationsCall {
    AgentAccount::redeemDelegationsCall {
        permissionContexts: items.iter().map(|item| item.context.clone()).collect(),
        modes: items.iter().map(|item| item.mode).collect(),
        executionCallDatas: items.iter().map(|item| item.execution.clone()).collect(),
    }
}

fn transfer_digest(call: &Usdc::transferWithAuthorization_1Call) -> B256 {
    TransferWithAuthorization {
        from: call.from,
        to: call.to,
        value: call.value,
        validAfter: call.validAfter,
        validBefore: call.validBefore,
        nonce: call.nonce,
    }
    .eip712_signing_hash(&token_domain(USDC_DOMAIN, CHAIN, USDC_ADDRESS))
}

/// The name of the account's error, or a word for what else came back.
fn error_name(data: &[u8]) -> String {
    match AgentAccount::AgentAccountErrors::abi_decode(data) {
        Ok(error) => {
            let name = format!("{error:?}");
            name.split(['(', ' ']).next().unwrap_or_default().to_owned()
        }
        Err(_) if data.is_empty() => "reverted".to_owned(),
        Err(_) => alloy::sol_types::decode_revert_reason(data).unwrap_or_default(),
    }
}
