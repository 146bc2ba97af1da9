//! What a node shows of the chain.

use pay402_core::network::{ChainStatus, Part, SentAs};
use pay402_core::{Amount, Refusal, Refused};

use super::super::world::Die;
use super::{CANCEL_DEPTH, FINALITY_MARGIN_S, Item, State, Tx, Use, narrow, place};

/// The chain as a node shows it.
pub(super) struct View<'a> {
    pub(super) state: &'a State,
    pub(super) head: u64,
    /// Whether nonces are counted by another node, which is not behind.
    pub(super) is_mixed: bool,
}

impl View<'_> {
    pub(super) fn time(&self) -> u64 {
        self.state.block(self.head).time
    }

    pub(super) fn used(&self, key: &str) -> Option<&Use> {
        self.state.tip.used.get(key).filter(|used| used.height <= self.head)
    }

    pub(super) fn consumed(&self, signer: &str) -> u64 {
        let later = self.state.blocks.iter().skip(place(self.head) + 1);
        let later = later.flat_map(|block| &block.txs).filter(|(tx, _)| tx.signer == signer);
        let all = self.state.tip.consumed.get(signer).copied().unwrap_or(0);
        all - later.count() as u64
    }

    /// How many nonces another node counts, if that one answers.
    pub(super) fn ahead(&self, signer: &str) -> u64 {
        match self.is_mixed {
            true => self.state.tip.consumed.get(signer).copied().unwrap_or(0),
            false => 0,
        }
    }

    pub(super) fn mined(&self, sent: &SentAs) -> Option<(&Tx, u64)> {
        let hashes = [&sent.transaction].into_iter().chain(&sent.replaced);
        let found = hashes.filter_map(|hash| Some((hash, *self.state.tip.mined.get(hash)?)));
        let (hash, height) = found.into_iter().find(|(_, height)| *height <= self.head)?;
        let block = self.state.block(height);
        block.txs.iter().find(|(tx, _)| tx.hash == *hash).map(|(tx, _)| (tx, height))
    }

    pub(super) fn is_deep(&self, height: u64) -> bool {
        self.head + 1 - height >= self.state.confirmations
    }

    /// Where a transaction stands that only consumes a nonce.
    pub(super) fn status_of_cancellation(&self, sent: Option<&SentAs>) -> ChainStatus {
        let Some((tx, height)) = sent.and_then(|sent| self.mined(sent)) else {
            let consumed = |signer: &str| self.consumed(signer).max(self.ahead(signer));
            let displaced = sent.is_some_and(|sent| consumed(&sent.signer) > sent.nonce);
            return ChainStatus::Open { expired: false, displaced };
        };
        let transaction = tx.hash.clone();
        match self.is_deep(height) {
            true => {
                let block = self.state.block_id(height);
                ChainStatus::Proven { transaction, number: height, block, fee: tx.fee().into() }
            }
            false => ChainStatus::Shallow { transaction },
        }
    }

    /// What a node says that makes receipts up: that something is mined which is not, or that what is failed
    /// or had another price.
    pub(super) fn lie(&self, sent: &SentAs, truth: ChainStatus, die: &mut Die) -> ChainStatus {
        match truth {
            ChainStatus::Open { .. } | ChainStatus::Shallow { .. } => {
                let (transaction, number) = (sent.transaction.clone(), self.head);
                let (block, fee) = (self.state.block_id(number), 5_u64.into());
                ChainStatus::Proven { transaction, number, block, fee }
            }
            ChainStatus::Proven { block, fee, .. } if die.below(2) == 0 => {
                let refused = Refused::from(Refusal::TransactionReverted);
                let refused = refused.with_transaction(sent.transaction.clone());
                ChainStatus::Failed { refused, block, fee }
            }
            ChainStatus::Proven { transaction, number, block, fee } => {
                let fee = fee.checked_add(1_u64.into()).expect("small fees");
                ChainStatus::Proven { transaction, number, block, fee }
            }
            other => other,
        }
    }

    /// As the EVM network tells it: see `pay402_evm::network::status`.
    pub(super) fn status(&self, item: &Item, sent: Option<&SentAs>) -> ChainStatus {
        let ours = sent.and_then(|sent| Some((sent, self.mined(sent)?)));
        if let Some((_, (tx, height))) = ours
            && !self.is_deep(height)
        {
            return ChainStatus::Shallow { transaction: tx.hash.clone() };
        }
        let share = |sent: &SentAs, tx: &Tx| sent.part.share(tx.fee().into());
        let cost = ours.map_or(Amount::ZERO, |(sent, (tx, _))| share(sent, tx));
        let expired = self.time() >= item.expires + FINALITY_MARGIN_S;
        let Some(used) = self.used(&item.key) else {
            return match ours {
                Some((sent, (tx, height))) if !sent.part.is_whole() || tx.items.is_empty() => {
                    let block = self.state.block_id(height);
                    ChainStatus::LeftOut { expired, block, fee: cost }
                }
                Some((_, (tx, height))) => {
                    let refused = Refused::from(Refusal::TransactionReverted);
                    let refused = refused.with_transaction(tx.hash.clone());
                    let block = self.state.block_id(height);
                    ChainStatus::Failed { refused, block, fee: cost }
                }
                None => {
                    let consumed = |signer: &str| self.consumed(signer).max(self.ahead(signer));
                    let displaced = sent.is_some_and(|sent| consumed(&sent.signer) > sent.nonce);
                    ChainStatus::Open { expired, displaced }
                }
            };
        };
        let ours_at = ours.map_or(0, |(_, (_, height))| height);
        let newest = self.state.block_id(used.height.max(ours_at));
        let Some((hash, by)) = &used.by else {
            return match self.head - used.height >= CANCEL_DEPTH {
                true => ChainStatus::Failed {
                    refused: Refusal::AuthorizationCanceled.into(),
                    block: newest,
                    fee: cost,
                },
                false => ChainStatus::Open { expired: false, displaced: false },
            };
        };
        if !self.is_deep(used.height) {
            return ChainStatus::Shallow { transaction: hash.clone() };
        }
        let its_own = ours.is_some_and(|(_, (tx, _))| tx.hash == *hash);
        // The share of a transaction of ours that is not the one we looked for.
        let other = match by {
            Some(tx) if !its_own => {
                let at = tx.items.iter().position(|other| other.key == item.key).unwrap_or(0);
                let (index, of) = (narrow(at), narrow(tx.items.len()));
                Part { index, of }.share(tx.fee().into())
            }
            _ => Amount::ZERO,
        };
        let fee = cost.checked_add(other).expect("small fees");
        let number = used.height;
        ChainStatus::Proven { transaction: hash.clone(), number, block: newest, fee }
    }
}
