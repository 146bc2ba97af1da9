//! Where a payment stands, proven by logs.
//!
//! **Invariant:** "settled" takes a receipt with status 1 with the exact `Transfer(from, to, value)`
//! of the token, in a canonical block at the depth asked for, and one transfer settles one mandate,
//! whatever else a transaction does:
//! - by EIP-3009, the token logs the use of the nonce and the transfer as its very next log;
//! - by Permit2, the transaction itself calls the proxy with that very permit;
//! - by ERC-7710, the transaction is our own call of the manager, and no other mandate was used in it;
//! - by ERC-7710 of an `AgentAccount`, the account logs the payment with its nonce, and the token the
//!   transfer as its very next log.
//!
//! "Never" takes block time well past the mandate's end and an unused nonce in that same block, or a
//! cancellation that is deep. All else stays open.

use alloy::primitives::{Address, B256, U64};
use alloy::sol_types::SolEvent as _;
use pay402_core::error::Unavailable;
use pay402_core::network::{BlockId, ChainStatus, Part, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal, Refused};

use super::EvmNetwork;
use super::account::code_at;
use super::adoption::Adoption;
use super::lookout::{Seen, first_of};
use super::pack;
use super::plan::Plan;
use super::sight::{
    CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S, Sighting, Subject, find_use, is_cancelled_for_good,
    is_over, sight_near, used_at,
};
use super::tier::Certainty;
use crate::account::{Contract as AgentAccount, PaymentContext};
use crate::contracts::Eip3009;
use crate::mandate::{Delegation, Mandate};
use crate::rpc::{Block, Call, Log, Receipt, Rpc};
use crate::typed_data::{EXACT_PROXY, PERMIT2, UPTO_PROXY};

/// Where the payment of `plan` stands.
pub(crate) async fn status(
    network: &EvmNetwork,
    plan: &Plan,
    sent: Option<&SentAs>,
) -> Result<ChainStatus, Unavailable> {
    let certainty = network.settings.certainty(plan.token, plan.charge);
    let part = sent.map_or(Part::WHOLE, |sent| sent.part);
    let inquiry = Inquiry { network, rpc: &network.rpc, plan, certainty, part };
    match sent {
        Some(sent) => inquiry.of_sent(sent).await,
        None => inquiry.of_authorization(None, false).await,
    }
}

/// Where payments stand that one transaction was to carry out, in their order. That transaction is looked
/// up once.
pub(super) async fn statuses(
    network: &EvmNetwork,
    members: &[(Plan, &SentAs)],
) -> Vec<Result<ChainStatus, Unavailable>> {
    let Some((_, sent)) = members.first() else { return Vec::new() };
    let certainty = |plan: &Plan| network.settings.certainty(plan.token, plan.charge);
    let mut certainties: Vec<Certainty> = Vec::new();
    for (plan, _) in members {
        if !certainties.contains(&certainty(plan)) {
            certainties.push(certainty(plan));
        }
    }
    let mut found = Vec::with_capacity(certainties.len());
    for certainty in certainties {
        found.push((certainty, mined(network, Some(sent), certainty).await));
    }
    let each = members.iter().map(async |(plan, sent)| {
        let certainty = certainty(plan);
        let inquiry = Inquiry { network, rpc: &network.rpc, plan, certainty, part: sent.part };
        let mined = found.iter().find(|(of, _)| *of == certainty).map(|(_, mined)| mined);
        match mined.expect("each was looked up") {
            Ok(Mined::Deep(receipt)) => inquiry.of_mined(receipt).await,
            Ok(Mined::Shallow { transaction }) => {
                Ok(ChainStatus::Shallow { transaction: transaction.clone() })
            }
            // Nothing is closed before our nonce is consumed, whatever others do with the authorizations; and
            // nothing is cancelled before it is over.
            Ok(Mined::No { head, displaced: false }) if !is_over(&plan.mandate, time(head)) => {
                Ok(ChainStatus::Open { expired: false, displaced: false })
            }
            Ok(Mined::Reorganized) => Ok(ChainStatus::Open { expired: false, displaced: false }),
            Ok(Mined::No { displaced, .. }) => inquiry.of_authorization(None, *displaced).await,
            Err(error) => Err(error.clone()),
        }
    });
    futures_util::future::join_all(each).await
}

struct Inquiry<'a> {
    network: &'a EvmNetwork,
    rpc: &'a Rpc,
    plan: &'a Plan,
    /// How certain the settlement must be.
    certainty: Certainty,
    /// Its part in our transaction.
    part: Part,
}

impl Inquiry<'_> {
    async fn of_sent(&self, sent: &SentAs) -> Result<ChainStatus, Unavailable> {
        let receipt = match mined(self.network, Some(sent), self.certainty).await? {
            Mined::Deep(receipt) => receipt,
            Mined::Shallow { transaction } => return Ok(ChainStatus::Shallow { transaction }),
            Mined::Reorganized => {
                return Ok(ChainStatus::Open { expired: false, displaced: false });
            }
            // What nothing on the chain refuses a second time is not signed a second time either.
            Mined::No { .. } if !self.plan.is_refused_twice() => {
                return Ok(match is_displaced_for_good(self.network, Some(sent)).await? {
                    Some(block) => {
                        let message = "another transaction has the place of the one that was to settle \
                                       the payment; whether that one paid is not known";
                        let refused = Refused::new(self.used_refusal(), message);
                        ChainStatus::Failed { refused, block, fee: Amount::ZERO }
                    }
                    None => ChainStatus::Open { expired: false, displaced: false },
                });
            }
            Mined::No { displaced, .. } => return self.of_authorization(None, displaced).await,
        };
        self.of_mined(&receipt).await
    }

    /// Our transaction was mined: with the transfer, or without it.
    async fn of_mined(&self, receipt: &Receipt) -> Result<ChainStatus, Unavailable> {
        if proves(receipt, self.plan) {
            return Ok(proven_by(receipt, None, self.fee_of(receipt)));
        }
        self.of_authorization(Some(receipt), false).await
    }

    /// The payment's share of what our transaction cost.
    fn fee_of(&self, ours: &Receipt) -> Amount {
        self.part.share(Amount::new(ours.fee()))
    }

    /// Nothing of ours made the transfer: `fruitless` was mined without it, or nothing was mined.
    async fn of_authorization(
        &self,
        fruitless: Option<&Receipt>,
        displaced: bool,
    ) -> Result<ChainStatus, Unavailable> {
        let subject = self.plan.subject();
        let near = fruitless.map(Receipt::block);
        let mut seen = sight_near(self.rpc, &subject, near).await?;
        if let (Some(receipt), Sighting::Unused { .. }) = (fruitless, seen) {
            // A node that lags behind the receipt's would call it unused: ask about that block.
            if used_at(self.rpc, &subject, receipt.block()).await? {
                let block = self.rpc.ask(Call::block(receipt.block())).await?;
                let block: Option<Block> = self.rpc.read(block)?;
                let block =
                    block.ok_or_else(|| self.rpc.unavailable("the receipt's block is missing"))?;
                seen = find_use(self.rpc, &subject, &block, None).await?;
            }
        }
        let fee = fruitless.map_or(Amount::ZERO, |receipt| self.fee_of(receipt));
        match seen {
            Sighting::Unused { head_time } => Ok(match fruitless {
                None => {
                    let expired = is_over(&self.plan.mandate, head_time);
                    ChainStatus::Open { expired, displaced }
                }
                Some(receipt) if is_cancellation(receipt) => {
                    let expired = is_over(&self.plan.mandate, head_time);
                    ChainStatus::LeftOut { expired, block: receipt.block_id(), fee }
                }
                Some(receipt) if self.was_skipped(receipt).await? => {
                    let hash = receipt.transaction_hash.to_string();
                    let refused =
                        Refused::from(Refusal::AdoptionNotEffective).with_transaction(hash);
                    let block = receipt.block_id();
                    ChainStatus::Failed { refused, block, fee }
                }
                Some(receipt) if !self.part.is_whole() => {
                    let expired = is_over(&self.plan.mandate, head_time);
                    ChainStatus::LeftOut { expired, block: receipt.block_id(), fee }
                }
                Some(receipt) => self.failed_of_ours(receipt),
            }),
            Sighting::Used { transaction, .. } => self.of_use(transaction, fruitless).await,
            Sighting::Cancelled { block, head } => {
                if self.is_deep(head, block) && is_cancelled_for_good(block, head) {
                    let refused = Refusal::AuthorizationCanceled.into();
                    let block = newest(block_id(self.rpc, block).await?, fruitless);
                    return Ok(ChainStatus::Failed { refused, block, fee });
                }
                // Displaced or not, it is of no use to send anything while the cancellation stands.
                Ok(ChainStatus::Open { expired: false, displaced: false })
            }
            // A permit that somebody spent within another call leaves no proof, nor does a payment
            // of an account that went on to another epoch or code. After its end it can move no
            // more, and that it may have moved is all that can be said.
            Sighting::UsedUnseen { head_time }
                if !matches!(self.plan.mandate, Mandate::Authorization(_))
                    && is_over(&self.plan.mandate, head_time) =>
            {
                let refused = self.used_refusal().into();
                let head: Block = self.rpc.read(self.rpc.ask(Call::head()).await?)?;
                Ok(ChainStatus::Failed { refused, block: head.id(), fee })
            }
            Sighting::UsedUnseen { .. } => Err(self
                .rpc
                .unavailable("the authorization is used, but the node does not show by what")),
        }
    }

    /// Whether the chain skipped the adoption that our transaction carried, so that it called an account
    /// without code.
    async fn was_skipped(&self, ours: &Receipt) -> Result<bool, Unavailable> {
        let Some(adoption) = &self.plan.adoption else { return Ok(false) };
        let code = code_at(self.network, self.plan.mandate.payer(), ours.block()).await?;
        Ok(!adoption.is_done(&code))
    }

    /// A transaction used the authorization. Did it make the very transfer? `fruitless` is ours: one
    /// that came too late, or this very one, of which a node may have shown only a part.
    async fn of_use(
        &self,
        transaction: B256,
        fruitless: Option<&Receipt>,
    ) -> Result<ChainStatus, Unavailable> {
        let rpc = self.rpc;
        let [head, receipt] = rpc.ask_all([Call::head(), Call::receipt(transaction)]).await?;
        let head: Block = rpc.read(head)?;
        let receipt: Option<Receipt> = rpc.read(receipt)?;
        let Some(receipt) = receipt else {
            return Err(rpc.unavailable("the receipt of the use of the authorization is missing"));
        };
        if !is_canonical(rpc, &head, &receipt).await? {
            return Err(rpc.unavailable("the chain is being reorganized"));
        }
        let name = transaction.to_string();
        if !self.is_deep(head.number(), receipt.block()) {
            return Ok(ChainStatus::Shallow { transaction: name });
        }
        // It may be ours nevertheless: mined a moment ago, or sent before a crash.
        let ours = self.network.sends_from(&receipt.from);
        let late = fruitless.filter(|ours| ours.transaction_hash != transaction);
        let lost = late.map_or(Amount::ZERO, |receipt| self.fee_of(receipt));
        let cost = match fruitless {
            _ if !ours => Amount::ZERO,
            Some(_) if late.is_none() => self.fee_of(&receipt),
            _ => {
                let part = pack::part_of(self.network, &receipt, self.plan).await?;
                part.share(Amount::new(receipt.fee()))
            }
        };
        let fee = Amount::new(lost.to_u256().saturating_add(cost.to_u256()));
        if proves(&receipt, self.plan) {
            return Ok(proven_by(&receipt, late, fee));
        }
        if fruitless.is_some() && late.is_none() {
            // Ours, and not the transfer: the token kept a fee, for example.
            return Ok(self.failed_of_ours(&receipt));
        }
        let refused = Refused::from(self.used_refusal()).with_transaction(name);
        Ok(ChainStatus::Failed { refused, block: newest(receipt.block_id(), late), fee })
    }

    /// The refusal of a mandate that was used for something else, or that may have been.
    const fn used_refusal(&self) -> Refusal {
        match self.plan.mandate {
            Mandate::Permit(_) => Refusal::PermitNonceUsed,
            Mandate::Authorization(_) | Mandate::Delegation(_) => Refusal::NonceAlreadyUsed,
        }
    }

    /// Our transaction was mined without the transfer: it failed by itself.
    fn failed_of_ours(&self, receipt: &Receipt) -> ChainStatus {
        let refusal = match receipt.succeeded() {
            true => Refusal::TransferEventMismatch,
            false => Refusal::TransactionReverted,
        };
        let refused = Refused::from(refusal).with_transaction(receipt.transaction_hash.to_string());
        ChainStatus::Failed { refused, block: receipt.block_id(), fee: self.fee_of(receipt) }
    }

    const fn is_deep(&self, head: u64, block: u64) -> bool {
        is_deep(self.certainty, head, block)
    }
}

/// What became of a transaction.
pub(super) enum Mined {
    /// It is in a canonical block at the depth asked for.
    Deep(Box<Receipt>),
    /// It is in a canonical block, not deep enough yet.
    Shallow { transaction: String },
    /// It was in a block that is no longer canonical.
    Reorganized,
    /// It is in no block; `displaced` when another one has its nonce.
    No { head: Block, displaced: bool },
}

/// Looks up what became of a transaction, if one was signed.
pub(super) async fn mined(
    network: &EvmNetwork,
    sent: Option<&SentAs>,
    certainty: Certainty,
) -> Result<Mined, Unavailable> {
    let rpc = &network.rpc;
    let Some(sent) = sent else {
        let head: Block = rpc.read(rpc.ask(Call::head()).await?)?;
        return Ok(Mined::No { head, displaced: false });
    };
    let (signer, transactions) = read_sent(rpc, sent)?;
    let Seen { head, count, mut receipt } =
        network.lookout.look(signer, transactions.clone()).await?;
    let displaced = count.is_some_and(|count| count > sent.nonce);
    if receipt.is_none() && displaced {
        // In the same block nothing would be said of it, and every look counts that shows it displaced.
        network.lookout.forget(transactions[0]);
        // A node may answer a batch's parts from different moments: ask for the receipts again.
        let again = transactions.into_iter().map(Call::receipt).collect();
        receipt = first_of(rpc, rpc.ask_many(again).await?.into_iter())?;
    }
    let Some(receipt) = receipt else {
        return Ok(Mined::No { head, displaced });
    };
    if !is_canonical(rpc, &head, &receipt).await? {
        return Ok(Mined::Reorganized);
    }
    Ok(match is_deep(certainty, head.number(), receipt.block()) {
        true => Mined::Deep(Box::new(receipt)),
        false => Mined::Shallow { transaction: receipt.transaction_hash.to_string() },
    })
}

/// Who sent it, and the transactions of which one may be mined, the newest first.
fn read_sent(rpc: &Rpc, sent: &SentAs) -> Result<(Address, Vec<B256>), Unavailable> {
    let hashes = [&sent.transaction].into_iter().chain(sent.replaced.iter().rev());
    let hashes: Option<_> = hashes.map(|hash| hash.parse().ok()).collect();
    let damaged = || rpc.unavailable("the journal's record of the transaction is damaged");
    sent.signer.parse().ok().zip(hashes).ok_or_else(damaged)
}

/// The block at which another transaction has the nonce of this one for good: it was consumed so deep
/// that the receipt would have to be there. `None` when that is not so. For what nothing on the chain would refuse a second time.
pub(super) async fn is_displaced_for_good(
    network: &EvmNetwork,
    sent: Option<&SentAs>,
) -> Result<Option<BlockId>, Unavailable> {
    let rpc = &network.rpc;
    let Some(sent) = sent else { return Ok(None) };
    let (signer, transactions) = read_sent(rpc, sent)?;
    let head: Block = rpc.read(rpc.ask(Call::head()).await?)?;
    let Some(deep) = head.number().checked_sub(CANCEL_DEPTH_BLOCKS) else { return Ok(None) };
    let mut calls = vec![Call::mined_nonces_at(signer, deep)];
    calls.extend(transactions.into_iter().map(Call::receipt));
    let mut answers = rpc.ask_many(calls).await?;
    let receipt = first_of(rpc, answers.split_off(1).into_iter())?;
    let count: U64 = rpc.read(answers.pop().expect("one answer per call"))?;
    let is_displaced = count.to::<u64>() > sent.nonce && receipt.is_none();
    Ok(is_displaced.then(|| head.id()))
}

/// Whether a transaction of ours took the place of one that had expired: it goes from a signer to itself, which
/// carries no payment.
fn is_cancellation(ours: &Receipt) -> bool {
    ours.to == Some(ours.from)
}

/// Settled by the transaction of this receipt, while `late` is that of ours which came after it.
pub(super) fn proven_by(receipt: &Receipt, late: Option<&Receipt>, fee: Amount) -> ChainStatus {
    ChainStatus::Proven {
        transaction: receipt.transaction_hash.to_string(),
        number: receipt.block(),
        block: newest(receipt.block_id(), late),
        fee,
    }
}

/// The newest block that an outcome rests on, with that of the transaction of ours which cost something:
/// when that one is undone, what it cost is undone.
fn newest(block: BlockId, ours: Option<&Receipt>) -> BlockId {
    match ours {
        Some(ours) if ours.block() > block.number => ours.block_id(),
        Some(_) | None => block,
    }
}

/// The time of a block.
pub(super) fn time(block: &Block) -> UnixTime {
    UnixTime(block.time())
}

/// Whether a block of this time is so far past an end that no reorganization brings it back.
pub(super) const fn is_past(end_s: u64, time: UnixTime) -> bool {
    time.0 >= end_s.saturating_add(FINALITY_MARGIN_S)
}

const fn is_deep(certainty: Certainty, head: u64, block: u64) -> bool {
    head.saturating_add(1).saturating_sub(block) >= certainty.confirmations
}

async fn is_canonical(rpc: &Rpc, head: &Block, receipt: &Receipt) -> Result<bool, Unavailable> {
    if receipt.block() == head.number() {
        return Ok(receipt.block_hash == head.hash);
    }
    let block = rpc.ask(Call::block(receipt.block())).await?;
    let block: Option<Block> = rpc.read(block)?;
    Ok(block.is_some_and(|block| block.hash == receipt.block_hash))
}

/// The canonical block with this number.
pub(super) async fn block_id(rpc: &Rpc, number: u64) -> Result<BlockId, Unavailable> {
    let block: Option<Block> = rpc.read(rpc.ask(Call::block(number)).await?)?;
    block.map(|block| block.id()).ok_or_else(|| rpc.unavailable("a block is missing"))
}

/// Whether a receipt proves the transfer of `plan`: one of our own transaction, or of one that was
/// found to use this very mandate. Anybody can use several authorizations in one transaction, some
/// of them for nothing; so the transfer must be the one that this use made. Tokens log the use and
/// then the transfer, with nothing of theirs in between: a transfer follows at most one use.
pub(crate) fn proves(receipt: &Receipt, plan: &Plan) -> bool {
    let (payer, payee) = (plan.mandate.payer().into_word(), plan.mandate.payee().into_word());
    let transfer = [Eip3009::Transfer::SIGNATURE_HASH, payer, payee];
    let value = plan.charge.to_be_bytes::<32>();
    let says =
        |log: &Log, topics: &[B256], data: &[u8]| log.topics == topics && log.data.as_ref() == data;
    let logs: Vec<&Log> = receipt.logs.iter().filter(|log| log.address == plan.token).collect();
    let moved = |log: &Log| says(log, &transfer, &value);
    receipt.succeeded()
        && match &plan.mandate {
            Mandate::Authorization(authorization) => {
                let used = [Eip3009::AuthorizationUsed::SIGNATURE_HASH, payer, authorization.nonce];
                logs.windows(2).any(|two| says(two[0], &used, &[]) && moved(two[1]))
            }
            Mandate::Delegation(Delegation { delegator, agent: Some(agent), .. }) => {
                let PaymentContext { key, nonce, .. } = *agent;
                let paid = AgentAccount::Paid::SIGNATURE_HASH;
                let paid = [paid, key.into_word(), plan.token.into_word(), payee];
                let logged = [value, nonce.to_be_bytes()].concat();
                let logs = receipt.logs.iter();
                let logs: Vec<&Log> =
                    logs.filter(|log| [plan.token, *delegator].contains(&log.address)).collect();
                logs.windows(2).any(|two| {
                    (two[0].address, two[1].address) == (*delegator, plan.token)
                        && says(two[0], &paid, &logged)
                        && moved(two[1])
                })
            }
            // What its manager calls may have had another payment of the same payer made: then that
            // one moved the tokens.
            Mandate::Delegation(_) => {
                let is_of_another = |log: &Log| match log.topics.first() {
                    _ if [PERMIT2, EXACT_PROXY, UPTO_PROXY].contains(&log.address) => true,
                    Some(&AgentAccount::Paid::SIGNATURE_HASH) => true,
                    Some(&Eip3009::AuthorizationUsed::SIGNATURE_HASH) => true,
                    _ => false,
                };
                !receipt.logs.iter().any(is_of_another) && logs.iter().any(|log| moved(log))
            }
            Mandate::Permit(_) => {
                let after_use = |index: usize| {
                    index.checked_sub(1).is_some_and(|before| {
                        logs[before].topics.first()
                            == Some(&Eip3009::AuthorizationUsed::SIGNATURE_HASH)
                    })
                };
                (0..logs.len()).any(|index| moved(logs[index]) && !after_use(index))
            }
        }
}

impl Plan {
    /// What is looked up on the chain for it.
    pub(crate) fn subject(&self) -> Subject<'_> {
        let delegate = self.adoption.as_ref().map(Adoption::delegate);
        Subject { token: self.token, mandate: &self.mandate, delegate }
    }
}
