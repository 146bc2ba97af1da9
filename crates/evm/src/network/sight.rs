//! What the chain shows of a mandate: unused, used and by what, or cancelled.

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::sol_types::{SolCall as _, SolEvent as _};
use pay402_core::error::Unavailable;
use pay402_core::time::UnixTime;
use serde_json::{Value, json};

use super::account::on_code;
use super::adoption::calls_of;
use crate::account::{Contract as AgentAccount, PaymentContext};
use crate::contracts::{
    Call3, DelegationManager, Eip3009, ExactProxy, Permit2, PermitTransferFrom, UptoProxy,
};
use crate::mandate::{Delegation, Mandate};
use crate::permit2::nonce_position;
use crate::rpc::{Answer, Block, Call, Log, Rpc, RpcError};
use crate::typed_data::{PERMIT2, PermitTransfer};

/// Blocks that one log query spans, by turns. Most uses are a few blocks old, and nodes refuse
/// spans above a bound of their own, some above ten blocks: therefore the first is small.
pub const LOG_SPANS_BLOCKS: [u64; 4] = [8, 100, 500, 2_000];
/// Most log queries for one authorization: with 2 s blocks the widest reach back a day.
pub const LOG_QUERIES_MAX: usize = 26;
/// Most transactions of one log query that are looked at for a permit.
const CANDIDATES_MAX: usize = 64;

/// How long after its end, by chain time, an unused authorization is called dead, in seconds: long
/// enough that no reorganization brings back a block in which it could be used.
pub const FINALITY_MARGIN_S: u64 = 60;
/// How deep a cancellation must be before it is believed, in blocks.
pub const CANCEL_DEPTH_BLOCKS: u64 = 12;

/// What is looked up: a mandate and its token.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) token: Address,
    pub(crate) mandate: &'a Mandate,
    /// The code by which the payer's account tells, where it may not run it yet.
    pub(crate) delegate: Option<Address>,
}

/// What the chain shows of a mandate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sighting {
    /// It is unused in the block with this time.
    Unused { head_time: UnixTime },
    /// A transaction in `block` used it, and moved so much if the log says so.
    Used { transaction: B256, block: u64, head: u64, moved: Option<U256> },
    /// The payer cancelled it in `block`.
    Cancelled { block: u64, head: u64 },
    /// It is used, but by what is out of sight: too long ago, or the node has no logs, or (for a
    /// permit, and a payment of `AgentAccount`) within another call.
    UsedUnseen { head_time: UnixTime },
}

/// Looks a mandate up.
pub(crate) async fn sight(rpc: &Rpc, subject: &Subject<'_>) -> Result<Sighting, Unavailable> {
    sight_near(rpc, subject, None).await
}

/// Looks a mandate up; if it is used, that may be in this block or shortly before.
pub(crate) async fn sight_near(
    rpc: &Rpc,
    subject: &Subject<'_>,
    near: Option<u64>,
) -> Result<Sighting, Unavailable> {
    // Of most delegations no trace is left that we could read: they count as unused.
    let mut calls = vec![Call::head()];
    calls.extend(subject.used_calls(None));
    let mut answers = rpc.ask_many(calls).await?;
    let used = answers.split_off(1);
    let head: Block = rpc.read(answers.pop().expect("one answer per call"))?;
    if subject.read_used(rpc, used)? {
        return find_use(rpc, subject, &head, near).await;
    }
    if U256::from(head.time()) < subject.mandate.ends() {
        return Ok(Sighting::Unused { head_time: UnixTime(head.time()) });
    }
    // Behind a load balancer the two answers may come from different blocks. The end of an
    // authorization is believed only when both are from one.
    match used_at(rpc, subject, head.number()).await? {
        true => find_use(rpc, subject, &head, near).await,
        false => Ok(Sighting::Unused { head_time: UnixTime(head.time()) }),
    }
}

/// Whether a mandate that is unused in a block of this time can never be used any more.
pub(crate) fn is_over(mandate: &Mandate, block_time: UnixTime) -> bool {
    U256::from(block_time.0) >= mandate.ends().saturating_add(U256::from(FINALITY_MARGIN_S))
}

/// Whether no reorganization is to be expected that undoes a cancellation in `block`.
pub(crate) const fn is_cancelled_for_good(block: u64, head: u64) -> bool {
    head.saturating_sub(block) >= CANCEL_DEPTH_BLOCKS
}

impl Subject<'_> {
    /// The questions whether the chain took the mandate; none when nothing on it tells.
    fn used_calls(&self, block: Option<u64>) -> Vec<Call> {
        let at = |contract, data| match block {
            None => Call::view(contract, data),
            Some(number) => Call::view_at(contract, data, number),
        };
        match self.mandate {
            Mandate::Authorization(authorization) => {
                let call = Eip3009::authorizationStateCall {
                    authorizer: authorization.from,
                    nonce: authorization.nonce,
                };
                vec![at(self.token, call.abi_encode())]
            }
            Mandate::Permit(permit) => {
                let (word, _) = nonce_position(permit.nonce);
                let call = Permit2::nonceBitmapCall { owner: permit.from, word };
                vec![at(PERMIT2, call.abi_encode())]
            }
            Mandate::Delegation(Delegation { delegator, agent: Some(agent), .. }) => {
                let call = AgentAccount::isNonceUsedCall { key: agent.key, nonce: agent.nonce };
                let calls = [call.abi_encode(), AgentAccount::epochCall {}.abi_encode()];
                let ask = |data| match self.delegate {
                    Some(delegate) => on_code(*delegator, delegate, at(*delegator, data)),
                    None => at(*delegator, data),
                };
                calls.map(ask).into()
            }
            Mandate::Delegation(_) => Vec::new(),
        }
    }

    fn read_used(&self, rpc: &Rpc, answers: Vec<Answer>) -> Result<bool, Unavailable> {
        let mut words = Vec::with_capacity(answers.len());
        for answer in answers {
            words.push(rpc.read_call(answer)?.word());
        }
        let silent = || rpc.unavailable("the contract does not tell the state of an authorization");
        match (self.mandate, words.as_slice()) {
            (Mandate::Authorization(_), [state]) => Ok(!state.ok_or_else(silent)?.is_zero()),
            (Mandate::Permit(permit), [bitmap]) => {
                Ok(bitmap.ok_or_else(silent)?.bit(nonce_position(permit.nonce).1))
            }
            // It speaks of its present epoch, and only while it runs this code. After that what it
            // did in this one is in its logs alone.
            (Mandate::Delegation(Delegation { agent: Some(agent), .. }), [used, epoch]) => {
                let is_unused =
                    *used == Some(U256::ZERO) && *epoch == Some(U256::from(agent.epoch));
                Ok(!is_unused)
            }
            (Mandate::Delegation(_), _) => Ok(false),
            _ => Err(silent()),
        }
    }

    /// The log queries that may show what used or cancelled the mandate in these blocks.
    fn log_queries(&self, blocks: Blocks) -> Vec<Call> {
        let filter = |address: Address, topics: Value| {
            let filter = json!({
                "address": address,
                "fromBlock": U64::from(blocks.from),
                "toBlock": blocks.to.map_or_else(|| json!("latest"), |to| json!(U64::from(to))),
                "topics": topics,
            });
            Call::new("eth_getLogs", json!([filter]))
        };
        match self.mandate {
            Mandate::Authorization(authorization) => {
                let used = Eip3009::AuthorizationUsed::SIGNATURE_HASH;
                let cancelled = Eip3009::AuthorizationCanceled::SIGNATURE_HASH;
                let payer = authorization.from.into_word();
                vec![filter(self.token, json!([[used, cancelled], payer, authorization.nonce]))]
            }
            Mandate::Permit(permit) => {
                let (payer, payee) = (permit.from.into_word(), permit.to.into_word());
                let invalidated = Permit2::UnorderedNonceInvalidation::SIGNATURE_HASH;
                vec![
                    filter(self.token, json!([Eip3009::Transfer::SIGNATURE_HASH, payer, payee])),
                    filter(PERMIT2, json!([invalidated, payer])),
                ]
            }
            Mandate::Delegation(Delegation { delegator, to, agent: Some(agent), .. }) => {
                let (key, token) = (agent.key.into_word(), self.token.into_word());
                let paid = AgentAccount::Paid::SIGNATURE_HASH;
                vec![filter(*delegator, json!([paid, key, token, to.into_word()]))]
            }
            Mandate::Delegation(_) => Vec::new(),
        }
    }
}

/// Whether the chain took the mandate by the end of this block.
pub(crate) async fn used_at(
    rpc: &Rpc,
    subject: &Subject<'_>,
    block: u64,
) -> Result<bool, Unavailable> {
    match subject.used_calls(Some(block)) {
        calls if calls.is_empty() => Ok(false),
        calls => subject.read_used(rpc, rpc.ask_many(calls).await?),
    }
}

/// Finds what used a mandate shortly before `head` or since, in one small query. `None` if it was
/// earlier or the node does not say.
pub(crate) async fn find_recent_use(
    rpc: &Rpc,
    subject: &Subject<'_>,
    head: u64,
) -> Option<Sighting> {
    let blocks = Blocks { from: head.saturating_sub(LOG_SPANS_BLOCKS[0] - 1), to: None };
    uses_in(rpc, subject, blocks, head).await.ok()?.ok()?
}

/// Finds what used a mandate: first where it is likely (`near` and shortly before), then from the
/// newest blocks back.
pub(crate) async fn find_use(
    rpc: &Rpc,
    subject: &Subject<'_>,
    newest: &Block,
    near: Option<u64>,
) -> Result<Sighting, Unavailable> {
    let head = newest.number();
    let mut queries = 0..LOG_QUERIES_MAX;
    if let Some(near) = near.filter(|near| *near < head) {
        queries.next();
        let from = near.saturating_sub(LOG_SPANS_BLOCKS[0] - 1);
        let likely = Blocks { from, to: Some(near) };
        if let Ok(Some(found)) = uses_in(rpc, subject, likely, head).await? {
            return Ok(found);
        }
    }
    // The newest query is open-ended: the head may have moved since it was read.
    let (mut to, mut open_ended) = (head, true);
    let (mut rung, mut highest) = (0, LOG_SPANS_BLOCKS.len() - 1);
    for _ in queries {
        let from = to.saturating_sub(LOG_SPANS_BLOCKS[rung] - 1);
        let blocks = Blocks { from, to: (!open_ended).then_some(to) };
        match uses_in(rpc, subject, blocks, head).await? {
            Ok(Some(found)) => return Ok(found),
            Ok(None) if from == 0 => break,
            Ok(None) => {
                (to, open_ended) = (from - 1, false);
                rung = (rung + 1).min(highest);
            }
            // It may be too wide for this node: narrower, and stay there.
            Err(_) if open_ended => open_ended = false,
            Err(_) if rung > 0 => {
                rung -= 1;
                highest = rung;
            }
            Err(error) => return Err(rpc.unavailable(&error.public_text())),
        }
    }
    Ok(Sighting::UsedUnseen { head_time: UnixTime(newest.time()) })
}

/// A range of blocks; without an end, up to the newest.
#[derive(Clone, Copy)]
struct Blocks {
    from: u64,
    to: Option<u64>,
}

/// One query for what used or cancelled a mandate in these blocks. The inner error is the node's
/// own: it does not want to answer this.
async fn uses_in(
    rpc: &Rpc,
    subject: &Subject<'_>,
    blocks: Blocks,
    head: u64,
) -> Result<Result<Option<Sighting>, RpcError>, Unavailable> {
    let mut logs: Vec<Log> = Vec::new();
    for answer in rpc.ask_many(subject.log_queries(blocks)).await? {
        match answer {
            Ok(found) => logs.extend(rpc.read::<Vec<Log>>(Ok(found))?),
            Err(error) => return Ok(Err(error)),
        }
    }
    match subject.mandate {
        Mandate::Authorization(_) => Ok(Ok(logs.iter().find_map(|log| use_in(log, head)))),
        Mandate::Permit(permit) => permit_in(rpc, subject, permit, &logs, head).await.map(Ok),
        Mandate::Delegation(Delegation { delegator, agent: Some(agent), .. }) => {
            let candidates = logs.iter().filter_map(|log| paid_in(log, agent)).collect();
            caller_in(rpc, candidates, head, |sent| sent.redeems(*delegator, agent)).await.map(Ok)
        }
        Mandate::Delegation(_) => Ok(Ok(None)),
    }
}

/// What the token logs of an authorization names it by its nonce.
fn use_in(log: &Log, head: u64) -> Option<Sighting> {
    let (block, transaction) = (log.block()?, log.transaction_hash?);
    let head = head.max(block);
    match *log.topics.first()? {
        Eip3009::AuthorizationUsed::SIGNATURE_HASH => {
            Some(Sighting::Used { transaction, block, head, moved: None })
        }
        Eip3009::AuthorizationCanceled::SIGNATURE_HASH => Some(Sighting::Cancelled { block, head }),
        _ => None,
    }
}

/// Nothing that is logged names a permit's nonce. A transfer is a permit's when its transaction
/// calls the proxy with that very permit.
async fn permit_in(
    rpc: &Rpc,
    subject: &Subject<'_>,
    permit: &PermitTransfer,
    logs: &[Log],
    head: u64,
) -> Result<Option<Sighting>, Unavailable> {
    let mut candidates = Vec::new();
    let mut invalidated = None;
    for log in logs {
        let (Some(block), Some(transaction)) = (log.block(), log.transaction_hash) else {
            continue;
        };
        if log.address == PERMIT2 {
            if invalidates(log, permit) {
                invalidated = invalidated.or(Some(block));
            }
        } else {
            candidates.push((block, transaction, U256::try_from_be_slice(&log.data)));
        }
    }
    let used = caller_in(rpc, candidates, head, |sent| sent.spends(permit)).await?;
    match (used, invalidated) {
        // Permit2 lets an owner invalidate what was spent before: that cancels nothing. A node that
        // does not know the block before leaves it open.
        (None, Some(block))
            if used_at(rpc, subject, block.saturating_sub(1)).await.is_ok_and(|used| !used) =>
        {
            Ok(Some(Sighting::Cancelled { block, head: head.max(block) }))
        }
        (used, _) => Ok(used),
    }
}

/// What `AgentAccount` logs names a payment by key and nonce, but not by its epoch: the same nonce
/// may have paid the same in another one.
fn paid_in(log: &Log, agent: &PaymentContext) -> Option<Candidate> {
    let paid = AgentAccount::Paid::abi_decode_data(&log.data).ok();
    let (value, _) = paid.filter(|(_, nonce)| *nonce == agent.nonce)?;
    Some((log.block()?, log.transaction_hash?, Some(value)))
}

/// A log that may be of the use: its block, its transaction, and what it says moved.
type Candidate = (u64, B256, Option<U256>);

/// The first of these transactions whose call is the use.
async fn caller_in(
    rpc: &Rpc,
    mut candidates: Vec<Candidate>,
    head: u64,
    is_use: impl Fn(&SentCall) -> bool,
) -> Result<Option<Sighting>, Unavailable> {
    candidates.truncate(CANDIDATES_MAX);
    if candidates.is_empty() {
        return Ok(None);
    }
    let calls = candidates.iter().map(|(_, transaction, _)| Call::transaction(*transaction));
    let answers = rpc.ask_many(calls.collect()).await?;
    for ((block, transaction, moved), answer) in candidates.into_iter().zip(answers) {
        let sent: Option<SentCall> = rpc.read(answer)?;
        if sent.is_some_and(|sent| is_use(&sent)) {
            return Ok(Some(Sighting::Used { transaction, block, head: head.max(block), moved }));
        }
    }
    Ok(None)
}

fn invalidates(log: &Log, permit: &PermitTransfer) -> bool {
    let (word, bit) = nonce_position(permit.nonce);
    Permit2::UnorderedNonceInvalidation::abi_decode_data(&log.data)
        .is_ok_and(|(of, mask)| of == word && mask.bit(bit))
}

/// A transaction's call, as far as we read it.
#[derive(serde::Deserialize)]
struct SentCall {
    to: Option<Address>,
    input: Bytes,
}

impl SentCall {
    /// Whether it has the account make this very payment, among others perhaps.
    fn redeems(&self, account: Address, agent: &PaymentContext) -> bool {
        let is = |context: &Bytes| {
            PaymentContext::decode(context).is_some_and(|read| {
                (read.key, read.epoch, read.nonce) == (agent.key, agent.epoch, agent.nonce)
            })
        };
        // One that may have failed proves nothing.
        let redeems = |call: &Call3| {
            !call.allowFailure
                && DelegationManager::redeemDelegationsCall::abi_decode(&call.callData)
                    .is_ok_and(|call| call.permissionContexts.iter().any(is))
        };
        calls_of(account, self.to, &self.input).iter().any(redeems)
    }

    /// Whether it calls the proxy with this permit. The call may be one of ours or another's: the
    /// proxy lets nobody change what the payer signed.
    fn spends(&self, permit: &PermitTransfer) -> bool {
        if self.to != Some(permit.spender()) {
            return false;
        }
        let is = |called: PermitTransferFrom, owner: Address| {
            owner == permit.from && called.nonce == permit.nonce
        };
        // Some append a mark of their own to the call data, so the rest is not looked at.
        let data = &self.input;
        let selector = data.first_chunk().copied().unwrap_or_default();
        match selector {
            ExactProxy::settleCall::SELECTOR => ExactProxy::settleCall::abi_decode(data)
                .is_ok_and(|call| is(call.permit, call.owner)),
            ExactProxy::settleWithPermitCall::SELECTOR => {
                ExactProxy::settleWithPermitCall::abi_decode(data)
                    .is_ok_and(|call| is(call.permit, call.owner))
            }
            UptoProxy::settleCall::SELECTOR => UptoProxy::settleCall::abi_decode(data)
                .is_ok_and(|call| is(call.permit, call.owner)),
            UptoProxy::settleWithPermitCall::SELECTOR => {
                UptoProxy::settleWithPermitCall::abi_decode(data)
                    .is_ok_and(|call| is(call.permit, call.owner))
            }
            _ => false,
        }
    }
}
