//! What the chain shows of an account: its delegate, its epoch, its sessions and their budgets.
//!
//! Epoch, sessions and used nonces are read from the account's storage, which outlives a change of
//! its delegate and keeps what belongs to earlier epochs; the contract's views know the present one
//! only. **Invariant:** the layout is that of the code at [`AGENT_ACCOUNT`], which nobody can
//! change; a test compares it with the views.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U64, U256, keccak256, uint};
use alloy::sol_types::{SolCall, SolEvent as _, SolValue as _};
use pay402_core::error::Unavailable;
use pay402_core::time::UnixTime;
use serde_json::json;

use super::AGENT_ACCOUNT;
use super::abi::AgentAccount as Contract;
use super::session::{Session, TokenLimit};
use crate::contracts::{Eip3009, Erc20};
use crate::network::adoption::calls_of;
use crate::rpc::{Answer, Block, Call, Log, Rpc};

/// Where the account's state begins (ERC-7201, `pay402.storage.AgentAccount`): the epoch, and after
/// it the policies by epoch and key.
const ACCOUNT_SLOT: U256 =
    uint!(0x9b290f66145173c350b73b85902e2a0d43e94c0ad3832d5bcf0978e534063b00_U256);
/// Position of the used nonces within a policy.
const NONCES_OFFSET: U256 = uint!(3_U256);

/// What the code of an account begins with that delegated itself; the delegate follows.
const DELEGATION_PREFIX: [u8; 3] = [0xef, 0x01, 0x00];

/// Blocks that one search for registrations spans, by turns: as many as the node lets it.
const SEARCH_SPANS_BLOCKS: [u64; 4] = [u64::MAX, 10_000, 2_000, 500];
/// Most queries of one search for registrations.
const SEARCH_QUERIES_MAX: usize = 200;
/// Most keys that one search finds; the newest count.
pub const KEYS_MAX: usize = 64;

/// What an account runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delegate {
    /// Nothing: a plain account.
    None,
    /// The agent account.
    AgentAccount,
    /// Another delegate.
    Other(Address),
    /// Code of its own: it is a contract, and has no key that could adopt anything.
    Contract,
}

impl Delegate {
    /// Reads the code of an account.
    fn of(code: &[u8]) -> Self {
        let delegate = code.strip_prefix(&DELEGATION_PREFIX).map(Address::try_from);
        match delegate {
            _ if code.is_empty() => Self::None,
            Some(Ok(AGENT_ACCOUNT)) => Self::AgentAccount,
            Some(Ok(other)) => Self::Other(other),
            Some(Err(_)) | None => Self::Contract,
        }
    }
}

/// Where an account stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// What it runs.
    pub delegate: Delegate,
    /// Whether the agent account's code is on the chain.
    pub is_deployed: bool,
    /// The number of transactions that it has had mined.
    pub nonce: u64,
    /// What everything that is signed for it names.
    pub epoch: u64,
    /// Its balance, in wei.
    pub wei: U256,
    /// The newest block.
    pub block: u64,
    /// The newest block's time.
    pub time: UnixTime,
}

/// Looks an account up.
///
/// # Errors
/// When the node does not answer.
pub async fn standing(rpc: &Rpc, account: Address) -> Result<Standing, Unavailable> {
    let [head, code, delegate, nonce, epoch, wei] = rpc
        .ask_all([
            Call::head(),
            Call::code(account),
            Call::code(AGENT_ACCOUNT),
            Call::mined_nonces(account),
            storage(account, ACCOUNT_SLOT, None),
            Call::new("eth_getBalance", json!([account, "latest"])),
        ])
        .await?;
    let head: Block = rpc.read(head)?;
    Ok(Standing {
        delegate: Delegate::of(&rpc.read_bytes(code)?),
        is_deployed: !rpc.read_bytes(delegate)?.is_empty(),
        nonce: rpc.read::<U64>(nonce)?.to(),
        epoch: epoch_in(rpc.read(epoch)?),
        wei: rpc.read(wei)?,
        block: head.number(),
        time: UnixTime(head.time()),
    })
}

/// What the account knows of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyState {
    /// Nothing: it may be registered.
    Unknown,
    /// It has a session, which may have ended.
    Registered,
    /// It is revoked for the rest of the epoch.
    Revoked,
}

impl KeyState {
    /// Reads it as the contract stores and tells it.
    pub(super) const fn of(number: u64) -> Self {
        match number {
            0 => Self::Unknown,
            1 => Self::Registered,
            _ => Self::Revoked,
        }
    }

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Registered => "registered",
            Self::Revoked => "revoked",
        }
    }
}

/// What is stored of a key in one epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// What is known of it.
    pub state: KeyState,
    /// The first second in which it may pay.
    pub valid_after: UnixTime,
    /// The first second in which it may not any more.
    pub expiry: UnixTime,
    /// Whether it may pay anybody.
    pub any_payee: bool,
}

impl Policy {
    /// Reads the first word of a policy.
    fn of(word: U256) -> Self {
        let bits = |from: usize, count: usize| -> u64 {
            ((word >> from) & ((U256::from(1) << count) - U256::from(1))).to()
        };
        Self {
            state: KeyState::of(bits(96, 8)),
            valid_after: UnixTime(bits(0, 48)),
            expiry: UnixTime(bits(48, 48)),
            any_payee: bits(104, 8) != 0,
        }
    }
}

/// What a key may spend of a token, and what is left of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allowance {
    /// What was granted.
    pub limit: TokenLimit,
    /// What may still be spent in this window, in atomic units.
    pub left: U256,
    /// When the next window begins; `None` when the key may not spend at all.
    pub resets: Option<UnixTime>,
}

/// Asks what `key` may spend of each of `tokens`; those without a limit are left out. The account
/// must run the agent account.
///
/// # Errors
/// When the node does not answer.
pub async fn allowances(
    rpc: &Rpc,
    account: Address,
    key: Address,
    tokens: &[Address],
) -> Result<Vec<Allowance>, Unavailable> {
    let mut calls = Vec::with_capacity(2 * tokens.len());
    for &token in tokens {
        calls.push(view(account, &Contract::tokenLimitCall { key, token }));
        calls.push(view(account, &Contract::remainingCall { key, token }));
    }
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let mut answers = rpc.ask_many(calls).await?.into_iter();
    let mut allowances = Vec::new();
    for &token in tokens {
        let mut next = || answers.next().expect("one answer per call");
        let (limit, left) = (next(), next());
        let limit = returned::<Contract::tokenLimitCall>(rpc, limit)?;
        let left = returned::<Contract::remainingCall>(rpc, left)?;
        if limit.window == 0 {
            continue;
        }
        let (cap, budget, window_s, slots) = (limit.cap, limit.budget, limit.window, limit.slots);
        let resets = (!left.windowEnd.is_zero()).then(|| UnixTime(left.windowEnd.saturating_to()));
        let limit = TokenLimit { token, cap, budget, window_s, slots };
        allowances.push(Allowance { limit, left: left.left, resets });
    }
    Ok(allowances)
}

/// The decimals that a token says it has; `None` when it says none, or is no token.
///
/// # Errors
/// When the node does not answer.
pub async fn decimals(rpc: &Rpc, token: Address) -> Result<Option<u8>, Unavailable> {
    let call = Call::view(token, Erc20::decimalsCall {}.abi_encode());
    let word = rpc.read_call(rpc.ask(call).await?)?.word();
    Ok(word.and_then(|word| u8::try_from(word).ok()))
}

/// What `account` holds of a token, in atomic units; `None` when it is no token.
///
/// # Errors
/// When the node does not answer.
pub async fn balance(
    rpc: &Rpc,
    token: Address,
    account: Address,
) -> Result<Option<U256>, Unavailable> {
    let call = Call::view(token, Eip3009::balanceOfCall { account }.abi_encode());
    Ok(rpc.read_call(rpc.ask(call).await?)?.word())
}

/// What is stored of `keys` in `epoch`, in their order.
///
/// # Errors
/// When the node does not answer.
pub async fn policies(
    rpc: &Rpc,
    account: Address,
    epoch: u64,
    keys: &[Address],
) -> Result<Vec<Policy>, Unavailable> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let calls = keys.iter().map(|key| storage(account, policy_slot(epoch, *key), None)).collect();
    let answers = rpc.ask_many(calls).await?;
    answers.into_iter().map(|answer| rpc.read(answer).map(Policy::of)).collect()
}

/// A registration as the chain records it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registration {
    /// The key.
    pub key: Address,
    /// The epoch that it was registered in.
    pub epoch: u64,
    /// What was granted, when its transaction shows it; it was compared with the hash in the log.
    pub session: Option<Session>,
}

/// Keys that were registered, as far back as the node let us look.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct History {
    /// The newest first; at most [`KEYS_MAX`].
    pub registrations: Vec<Registration>,
    /// The oldest block that was looked at.
    pub from_block: u64,
}

/// Looks for the keys of `account`, from the block `standing` saw back to `from_block`.
///
/// # Errors
/// When the node does not answer, or refuses every span of blocks.
pub async fn registrations(
    rpc: &Rpc,
    account: Address,
    from_block: u64,
    to_block: u64,
) -> Result<History, Unavailable> {
    let (mut to, mut rung) = (to_block, 0);
    let mut logs: Vec<Log> = Vec::new();
    let mut reached = to_block.saturating_add(1);
    for _ in 0..SEARCH_QUERIES_MAX {
        if reached <= from_block || logs.len() >= KEYS_MAX {
            break;
        }
        let from = to.saturating_sub(SEARCH_SPANS_BLOCKS[rung] - 1).max(from_block);
        let filter = json!({
            "address": account,
            "fromBlock": U64::from(from),
            "toBlock": U64::from(to),
            "topics": [Contract::SessionRegistered::SIGNATURE_HASH],
        });
        match rpc.ask(Call::new("eth_getLogs", json!([filter]))).await? {
            Ok(found) => {
                let found: Vec<Log> = rpc.read(Ok(found))?;
                logs.extend(found.into_iter().rev());
                (reached, to) = (from, from.saturating_sub(1));
            }
            Err(_) if rung + 1 < SEARCH_SPANS_BLOCKS.len() => rung += 1,
            Err(error) => return Err(rpc.unavailable(&error.public_text())),
        }
    }
    let registrations = read_registrations(rpc, account, &logs).await?;
    Ok(History { registrations, from_block: reached })
}

async fn read_registrations(
    rpc: &Rpc,
    account: Address,
    logs: &[Log],
) -> Result<Vec<Registration>, Unavailable> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for log in logs {
        let [_, key, epoch] = log.topics[..] else { continue };
        let (Ok(policy), Some(transaction)) =
            (B256::try_from(log.data.as_ref()), log.transaction_hash)
        else {
            continue;
        };
        let epoch: u64 = U256::from_be_bytes(epoch.0).saturating_to();
        let key = Address::from_word(key);
        if found.len() < KEYS_MAX && seen.insert((key, epoch)) {
            found.push((key, epoch, policy, transaction));
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let calls = found.iter().map(|(.., transaction)| Call::transaction(*transaction)).collect();
    let answers = rpc.ask_many(calls).await?;
    let mut registrations = Vec::with_capacity(found.len());
    for ((key, epoch, policy, _), answer) in found.into_iter().zip(answers) {
        let sent: Option<Sent> = rpc.read(answer)?;
        let session = sent.and_then(|sent| sent.granted(account, policy));
        registrations.push(Registration { key, epoch, session });
    }
    Ok(registrations)
}

/// A transaction's call, as far as we read it.
#[derive(serde::Deserialize)]
struct Sent {
    to: Option<Address>,
    input: Bytes,
}

impl Sent {
    /// The session of its registration whose hash is `policy`.
    fn granted(&self, account: Address, policy: B256) -> Option<Session> {
        calls_of(account, self.to, &self.input).iter().find_map(|call| {
            let call = Contract::registerSessionsCall::abi_decode_validate(&call.callData).ok()?;
            call.sessions.iter().map(Session::from_abi).find(|session| session.policy() == policy)
        })
    }
}

/// The storage of an account that says what became of a payment: as of `block` what is used and
/// until when it could be, and as of an older block what has ended for good.
pub(super) struct Traces {
    /// Whether the payment's nonce is used in its epoch.
    pub(super) is_used: bool,
    /// The epoch as of the older block.
    pub(super) settled_epoch: u64,
    /// The key's policy in the payment's epoch, as of the older block.
    pub(super) settled_policy: Policy,
}

/// Reads the traces of a payment by `key` in `epoch`; `settled` is the older block.
pub(super) async fn traces(
    rpc: &Rpc,
    account: Address,
    (epoch, key, nonce): (u64, Address, U256),
    block: u64,
    settled: u64,
) -> Result<Traces, Unavailable> {
    let policy = policy_slot(epoch, key);
    let word: U256 = nonce >> 8;
    let bit = nonce.byte(0);
    let nonces = map_slot(policy.wrapping_add(NONCES_OFFSET), word.into());
    let [used, epoch_then, policy_then] = rpc
        .ask_all([
            storage(account, nonces, Some(block)),
            storage(account, ACCOUNT_SLOT, Some(settled)),
            storage(account, policy, Some(settled)),
        ])
        .await?;
    Ok(Traces {
        is_used: rpc.read::<U256>(used)?.bit(usize::from(bit)),
        settled_epoch: epoch_in(rpc.read(epoch_then)?),
        settled_policy: Policy::of(rpc.read(policy_then)?),
    })
}

/// A read-only call of the account.
pub(super) fn view<C: SolCall>(account: Address, call: &C) -> Call {
    Call::view(account, call.abi_encode())
}

/// Reads the answer to a [`view`].
pub(super) fn returned<C: SolCall>(rpc: &Rpc, answer: Answer) -> Result<C::Return, Unavailable> {
    let bytes = match rpc.read_call(answer)? {
        crate::rpc::Called::Returned(bytes) => bytes,
        crate::rpc::Called::Failed(why) => return Err(rpc.unavailable(&why)),
    };
    C::abi_decode_returns_validate(&bytes)
        .map_err(|_| rpc.unavailable("the account does not answer as an agent account does"))
}

fn storage(account: Address, slot: U256, block: Option<u64>) -> Call {
    let block = block.map_or_else(|| json!("latest"), |block| json!(U64::from(block)));
    Call::new("eth_getStorageAt", json!([account, slot, block]))
}

/// The epoch has the low 64 bits of its word.
fn epoch_in(word: U256) -> u64 {
    word.as_limbs()[0]
}

fn policy_slot(epoch: u64, key: Address) -> U256 {
    let of_epoch = map_slot(ACCOUNT_SLOT.wrapping_add(U256::from(1)), U256::from(epoch).into());
    map_slot(of_epoch, key.into_word())
}

/// Where Solidity keeps the value of `key` of the mapping at `slot`.
fn map_slot(slot: U256, key: B256) -> U256 {
    keccak256((key, slot).abi_encode()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_tells_the_delegate() {
        let delegated = |to: Address| [&DELEGATION_PREFIX[..], to.as_slice()].concat();
        let other = Address::repeat_byte(7);
        assert_eq!(Delegate::of(&[]), Delegate::None);
        assert_eq!(Delegate::of(&delegated(AGENT_ACCOUNT)), Delegate::AgentAccount);
        assert_eq!(Delegate::of(&delegated(other)), Delegate::Other(other));
        for code in [&[0x60, 0x80][..], &DELEGATION_PREFIX, &[&delegated(other)[..], &[0]].concat()]
        {
            assert_eq!(Delegate::of(code), Delegate::Contract, "{code:?}");
        }
    }
}
