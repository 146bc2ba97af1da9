//! Where a payment stands, proven by logs.
//!
//! **Invariant:** "settled" takes a receipt with status 1 in which the token logs the use of the
//! authorization's nonce and, as its very next log, the exact `Transfer(from, to, value)`, in a
//! canonical block at the depth asked for. That they stand next to each other shows that they
//! belong together: one transfer settles one authorization, whatever else a transaction does. "Never" takes block time well past the
//! authorization's end and an unused nonce in that same block, or a cancellation that is deep. All else stays open.

use alloy::primitives::{Address, B256, U64, U256};
use alloy::sol_types::{SolCall as _, SolEvent as _};
use pay402_core::error::Unavailable;
use pay402_core::network::{ChainStatus, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal, Refused};
use serde_json::json;

use super::EvmNetwork;
use super::plan::Plan;
use crate::contracts::Eip3009;
use crate::rpc::{Block, Call, Log, Receipt, Rpc, RpcError};
use crate::typed_data::Authorization;

/// Blocks that one log query spans, by turns. Most uses are a few blocks old, and nodes refuse
/// spans above a bound of their own, some above ten blocks: therefore the first is small.
pub const LOG_SPANS_BLOCKS: [u64; 4] = [8, 100, 500, 2_000];
/// Most log queries for one authorization: with 2 s blocks the widest reach back a day.
pub const LOG_QUERIES_MAX: usize = 26;

/// How long after its end, by chain time, an unused authorization is called dead, in seconds: long
/// enough that no reorganization brings back a block in which it could be used.
pub const FINALITY_MARGIN_S: u64 = 60;
/// How deep a cancellation must be before it is believed, in blocks.
pub const CANCEL_DEPTH_BLOCKS: u64 = 12;

/// What the chain shows of an authorization.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sighting {
    /// It is unused in the block with this time.
    Unused { head_time: UnixTime },
    /// A transaction in `block` used it.
    Used { transaction: B256, block: u64, head: u64 },
    /// The payer cancelled it in `block`.
    Cancelled { block: u64, head: u64 },
    /// It is used, but by what is out of sight: too long ago, or the node has no logs.
    UsedUnseen,
}

/// Looks an authorization up.
pub(crate) async fn sight(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
) -> Result<Sighting, Unavailable> {
    sight_near(rpc, token, authorization, None).await
}

/// Looks an authorization up; if it is used, that may be in this block or shortly before.
async fn sight_near(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
    near: Option<u64>,
) -> Result<Sighting, Unavailable> {
    let [head, used] = rpc.ask_all([Call::head(), used_call(token, authorization, None)]).await?;
    let head: Block = rpc.read(head)?;
    let used = read_used(rpc, used)?;
    let find = || find_use(rpc, token, authorization, head.number(), near);
    if used {
        return find().await;
    }
    if !has_ended(authorization, head.time()) {
        return Ok(Sighting::Unused { head_time: UnixTime(head.time()) });
    }
    // Behind a load balancer the two answers may come from different blocks. The end of an
    // authorization is believed only when both are from one.
    match used_at(rpc, token, authorization, head.number()).await? {
        true => find().await,
        false => Ok(Sighting::Unused { head_time: UnixTime(head.time()) }),
    }
}

/// Where the payment of `plan` stands.
pub(crate) async fn status(
    network: &EvmNetwork,
    plan: &Plan,
    sent: Option<&SentAs>,
) -> Result<ChainStatus, Unavailable> {
    let confirmations = network.settings.confirmations;
    let inquiry = Inquiry { network, rpc: &network.rpc, plan, confirmations };
    match sent {
        Some(sent) => inquiry.of_sent(sent).await,
        None => inquiry.of_authorization(None, false).await,
    }
}

struct Inquiry<'a> {
    network: &'a EvmNetwork,
    rpc: &'a Rpc,
    plan: &'a Plan,
    confirmations: u64,
}

impl Inquiry<'_> {
    async fn of_sent(&self, sent: &SentAs) -> Result<ChainStatus, Unavailable> {
        let rpc = self.rpc;
        let unreadable = || rpc.unavailable("the journal's record of the transaction is damaged");
        let transaction: B256 = sent.transaction.parse().map_err(|_| unreadable())?;
        let signer: Address = sent.signer.parse().map_err(|_| unreadable())?;
        // The count is asked before the receipt: a transaction that raised it has its receipt.
        let [head, count, receipt] = rpc
            .ask_all([Call::head(), Call::mined_nonces(signer), Call::receipt(transaction)])
            .await?;
        let head: Block = rpc.read(head)?;
        let count: U64 = rpc.read(count)?;
        let receipt: Option<Receipt> = rpc.read(receipt)?;
        if let Some(receipt) = receipt {
            return self.of_receipt(&head, receipt).await;
        }
        let displaced = count.to::<u64>() > sent.nonce;
        if displaced {
            // A node may answer a batch's parts from different moments: ask for the receipt again.
            let receipt = rpc.ask(Call::receipt(transaction)).await?;
            if let Some(receipt) = rpc.read(receipt)? {
                return self.of_receipt(&head, receipt).await;
            }
        }
        self.of_authorization(None, displaced).await
    }

    /// Our transaction was mined.
    async fn of_receipt(&self, head: &Block, receipt: Receipt) -> Result<ChainStatus, Unavailable> {
        if !self.is_canonical(head, &receipt).await? {
            return Ok(ChainStatus::Open { expired: false, displaced: false });
        }
        let transaction = receipt.transaction_hash.to_string();
        if !self.is_deep(head.number(), receipt.block()) {
            return Ok(ChainStatus::Shallow { transaction });
        }
        if proves(&receipt, self.plan) {
            let fee = Amount::new(receipt.fee());
            return Ok(ChainStatus::Proven { transaction, block: receipt.block(), fee });
        }
        self.of_authorization(Some(&receipt), false).await
    }

    /// Nothing of ours made the transfer: `fruitless` was mined without it, or nothing was mined.
    async fn of_authorization(
        &self,
        fruitless: Option<&Receipt>,
        displaced: bool,
    ) -> Result<ChainStatus, Unavailable> {
        let Plan { token, authorization, .. } = self.plan;
        let near = fruitless.map(Receipt::block);
        let mut seen = sight_near(self.rpc, *token, authorization, near).await?;
        if let (Some(receipt), Sighting::Unused { .. }) = (fruitless, seen) {
            // A node that lags behind the receipt's would call it unused: ask about that block.
            if used_at(self.rpc, *token, authorization, receipt.block()).await? {
                let block = receipt.block();
                seen = find_use(self.rpc, *token, authorization, block, None).await?;
            }
        }
        let fee = fruitless.map_or(U256::ZERO, Receipt::fee);
        match seen {
            Sighting::Unused { head_time } => Ok(match fruitless {
                None => {
                    let expired = is_over(authorization, head_time);
                    ChainStatus::Open { expired, displaced }
                }
                Some(receipt) => failed_of_ours(receipt),
            }),
            Sighting::Used { transaction, .. } => self.of_use(transaction, fee).await,
            Sighting::Cancelled { block, head } => {
                if self.is_deep(head, block) && is_cancelled_for_good(block, head) {
                    let refused = Refusal::AuthorizationCanceled.into();
                    return Ok(ChainStatus::Failed { refused, fee: Amount::new(fee) });
                }
                // Displaced or not, it is of no use to send anything while the cancellation stands.
                Ok(ChainStatus::Open { expired: false, displaced: false })
            }
            Sighting::UsedUnseen => Err(self
                .rpc
                .unavailable("the authorization is used, but the node does not show by what")),
        }
    }

    /// Another transaction used the authorization. Did it make the very transfer? `fee` is what a
    /// transaction of ours cost that came too late.
    async fn of_use(&self, transaction: B256, fee: U256) -> Result<ChainStatus, Unavailable> {
        let rpc = self.rpc;
        let [head, receipt] = rpc.ask_all([Call::head(), Call::receipt(transaction)]).await?;
        let head: Block = rpc.read(head)?;
        let receipt: Option<Receipt> = rpc.read(receipt)?;
        let Some(receipt) = receipt else {
            return Err(rpc.unavailable("the receipt of the use of the authorization is missing"));
        };
        if !self.is_canonical(&head, &receipt).await? {
            return Err(rpc.unavailable("the chain is being reorganized"));
        }
        let name = transaction.to_string();
        if !self.is_deep(head.number(), receipt.block()) {
            return Ok(ChainStatus::Shallow { transaction: name });
        }
        // It may be ours nevertheless: mined a moment ago, or sent before a crash.
        let ours = self.network.sends_from(&receipt.from);
        let fee = Amount::new(if ours { fee.saturating_add(receipt.fee()) } else { fee });
        if proves(&receipt, self.plan) {
            return Ok(ChainStatus::Proven { transaction: name, block: receipt.block(), fee });
        }
        let refused = Refused::from(Refusal::NonceAlreadyUsed).with_transaction(name);
        Ok(ChainStatus::Failed { refused, fee })
    }

    fn is_deep(&self, head: u64, block: u64) -> bool {
        head.saturating_add(1).saturating_sub(block) >= self.confirmations
    }

    async fn is_canonical(&self, head: &Block, receipt: &Receipt) -> Result<bool, Unavailable> {
        if receipt.block() == head.number() {
            return Ok(receipt.block_hash == head.hash);
        }
        let block = self.rpc.ask(Call::block(receipt.block())).await?;
        let block: Option<Block> = self.rpc.read(block)?;
        Ok(block.is_some_and(|block| block.hash == receipt.block_hash))
    }
}

/// Our transaction was mined, its authorization is unused: it failed by itself.
fn failed_of_ours(receipt: &Receipt) -> ChainStatus {
    let refusal = match receipt.succeeded() {
        true => Refusal::TransferEventMismatch,
        false => Refusal::TransactionReverted,
    };
    let refused = Refused::from(refusal).with_transaction(receipt.transaction_hash.to_string());
    ChainStatus::Failed { refused, fee: Amount::new(receipt.fee()) }
}

/// Whether a receipt proves the transfer of `plan`. Anybody can use several authorizations in one
/// transaction, some of them for nothing; so the transfer must be the one that this use made.
/// Tokens log the use and then the transfer, with nothing of theirs in between: a transfer follows
/// at most one use.
fn proves(receipt: &Receipt, plan: &Plan) -> bool {
    let Authorization { from, to, value, nonce, .. } = plan.authorization;
    let transfer = [Eip3009::Transfer::SIGNATURE_HASH, from.into_word(), to.into_word()];
    let used = [Eip3009::AuthorizationUsed::SIGNATURE_HASH, from.into_word(), nonce];
    let value = value.to_be_bytes::<32>();
    let says =
        |log: &Log, topics: &[B256], data: &[u8]| log.topics == topics && log.data.as_ref() == data;
    let logs: Vec<&Log> = receipt.logs.iter().filter(|log| log.address == plan.token).collect();
    receipt.succeeded()
        && logs.windows(2).any(|two| says(two[0], &used, &[]) && says(two[1], &transfer, &value))
}

/// Whether an authorization that is unused in a block of this time can never be used any more.
pub(crate) fn is_over(authorization: &Authorization, block_time: UnixTime) -> bool {
    let end = authorization.valid_before.saturating_add(U256::from(FINALITY_MARGIN_S));
    U256::from(block_time.0) >= end
}

/// Whether no reorganization is to be expected that undoes a cancellation in `block`.
pub(crate) const fn is_cancelled_for_good(block: u64, head: u64) -> bool {
    head.saturating_sub(block) >= CANCEL_DEPTH_BLOCKS
}

/// Whether no block from this time on can use the authorization: tokens want `now < validBefore`.
fn has_ended(authorization: &Authorization, block_time: u64) -> bool {
    U256::from(block_time) >= authorization.valid_before
}

fn used_call(token: Address, authorization: &Authorization, block: Option<u64>) -> Call {
    let call = Eip3009::authorizationStateCall {
        authorizer: authorization.from,
        nonce: authorization.nonce,
    };
    match block {
        None => Call::view(token, call.abi_encode()),
        Some(number) => Call::view_at(token, call.abi_encode(), number),
    }
}

fn read_used(rpc: &Rpc, answer: crate::rpc::Answer) -> Result<bool, Unavailable> {
    let word = rpc.read_call(answer)?.word();
    word.map(|word| !word.is_zero())
        .ok_or_else(|| rpc.unavailable("the token does not tell the state of an authorization"))
}

async fn used_at(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
    block: u64,
) -> Result<bool, Unavailable> {
    let answer = rpc.ask(used_call(token, authorization, Some(block))).await?;
    read_used(rpc, answer)
}

/// Finds what used an authorization shortly before `head` or since, in one small query. `None` if
/// it was earlier or the node does not say.
pub(crate) async fn find_recent_use(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
    head: u64,
) -> Option<Sighting> {
    let blocks = Blocks { from: head.saturating_sub(LOG_SPANS_BLOCKS[0] - 1), to: None };
    uses_in(rpc, token, authorization, blocks, head).await.ok()?.ok()?
}

/// Finds what used an authorization: first where it is likely (`near` and shortly before), then
/// from the newest blocks back.
async fn find_use(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
    head: u64,
    near: Option<u64>,
) -> Result<Sighting, Unavailable> {
    let mut queries = 0..LOG_QUERIES_MAX;
    if let Some(near) = near.filter(|near| *near < head) {
        queries.next();
        let from = near.saturating_sub(LOG_SPANS_BLOCKS[0] - 1);
        let likely = Blocks { from, to: Some(near) };
        if let Ok(Some(found)) = uses_in(rpc, token, authorization, likely, head).await? {
            return Ok(found);
        }
    }
    // The newest query is open-ended: the head may have moved since it was read.
    let (mut to, mut open_ended) = (head, true);
    let (mut rung, mut highest) = (0, LOG_SPANS_BLOCKS.len() - 1);
    for _ in queries {
        let from = to.saturating_sub(LOG_SPANS_BLOCKS[rung] - 1);
        let blocks = Blocks { from, to: (!open_ended).then_some(to) };
        match uses_in(rpc, token, authorization, blocks, head).await? {
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
    Ok(Sighting::UsedUnseen)
}

/// A range of blocks; without an end, up to the newest.
#[derive(Clone, Copy)]
struct Blocks {
    from: u64,
    to: Option<u64>,
}

/// One query for what used or cancelled an authorization in these blocks. The inner error is the
/// node's own: it does not want to answer this.
async fn uses_in(
    rpc: &Rpc,
    token: Address,
    authorization: &Authorization,
    blocks: Blocks,
    head: u64,
) -> Result<Result<Option<Sighting>, RpcError>, Unavailable> {
    let used = Eip3009::AuthorizationUsed::SIGNATURE_HASH;
    let cancelled = Eip3009::AuthorizationCanceled::SIGNATURE_HASH;
    let filter = json!({
        "address": token,
        "fromBlock": U64::from(blocks.from),
        "toBlock": blocks.to.map_or_else(|| json!("latest"), |to| json!(U64::from(to))),
        "topics": [[used, cancelled], authorization.from.into_word(), authorization.nonce],
    });
    let logs: Vec<Log> = match rpc.ask(Call::new("eth_getLogs", json!([filter]))).await? {
        Ok(logs) => rpc.read(Ok(logs))?,
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(logs.iter().find_map(|log| {
        let (block, transaction) = (log.block()?, log.transaction_hash?);
        let head = head.max(block);
        match log.topics.first()? {
            topic if *topic == used => Some(Sighting::Used { transaction, block, head }),
            topic if *topic == cancelled => Some(Sighting::Cancelled { block, head }),
            _ => None,
        }
    })))
}
