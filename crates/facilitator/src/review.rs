//! Looks a second time at what closed entries, before it is left to its block.
//!
//! What a block shows does not change while the chain has it: whoever watches the block watches the outcome,
//! if the outcome was read rightly. A node may have told of a receipt that is not in that block, or of
//! another cost. So each outcome that rests on a transaction of ours is looked at once more as soon as its block
//! has a child, of several nodes by two of them, and not by the one that is asked first.
//!
//! **Invariants:** no block is buried before its outcomes were seen twice. One that several looks do not
//! show is opened again, and closes by what the chain shows then, while the payment can still be made.

use futures_util::{StreamExt as _, stream};
use pay402_core::Amount;
use pay402_core::amount::U256;
use pay402_core::error::Unavailable;
use pay402_core::journal::{Entry, Outcome, Stage};
use pay402_core::network::{BlockId, ChainStatus, SecretBytes, SentAs};

use crate::seal::Content;
use crate::watch::{BLOCKS_AT_ONCE, Unfinished, by_transaction, name, reopen, signed};
use crate::worker::Crew;

/// Blocks that are reviewed in one look at the chain.
const BLOCKS_MAX: usize = 16;
/// Transactions of a block that are looked at together.
const LOOKS_MAX: usize = 64;
/// Looks in a row that must not show an outcome before it is opened again: a node may be behind.
const DOUBTS_MIN: u32 = 3;
/// How often what one block closed is opened again by a review.
const REOPENED_MAX: u32 = 3;

/// How far the review of a block has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Review {
    pub(crate) is_done: bool,
    /// Looks that came to no end.
    tries: u32,
    /// Of these, the last ones that did not show some outcome.
    doubts: u32,
    reopened: u32,
}

impl Review {
    /// Begins anew, since more was closed in the block.
    pub(crate) const fn again(self) -> Self {
        Self { is_done: false, tries: 0, doubts: 0, ..self }
    }

    /// The order in which blocks are reviewed: one that does not come to an end lets the others go first.
    pub(crate) const fn turn(&self) -> u32 {
        self.tries
    }
}

/// Reviews what the blocks below this one closed.
pub(crate) async fn look(crew: &Crew, head: u64) -> Result<(), Unfinished> {
    let watched = &crew.desk.watched;
    let blocks = watched.unreviewed(head).into_iter().take(BLOCKS_MAX);
    let review = async |block: BlockId| (review(crew, &block).await, block);
    // To the end of each: one that was begun counts as done.
    let reviews: Vec<_> =
        stream::iter(blocks).map(review).buffer_unordered(BLOCKS_AT_ONCE).collect().await;
    let mut failed = None;
    for (reviewed, block) in reviews {
        let Err(error) = reviewed else { continue };
        watched.review(&block, |review| Review {
            is_done: false,
            tries: review.tries.saturating_add(1),
            ..review
        });
        match error {
            // Another block may be clear.
            Unfinished::Chain(error) => {
                tracing::debug!(network = %crew.desk.id, number = block.number, %error, "not reviewed");
            }
            error => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn review(crew: &Crew, block: &BlockId) -> Result<(), Unfinished> {
    let desk = &crew.desk;
    // Before it is read what the block closed: what is closed by it meanwhile has it reviewed again.
    desk.watched.review(block, |review| Review { is_done: true, ..review });
    let entries = desk.journal.watched_in(&desk.id, block).await?;
    let fallen = fallen(crew, entries).await?;
    if fallen.is_empty() {
        return Ok(());
    }
    let mut doubted = Review::default();
    desk.watched.review(block, |review| {
        let (tries, doubts) = (review.tries.saturating_add(1), review.doubts.saturating_add(1));
        doubted = Review { is_done: false, tries, doubts, ..review };
        doubted
    });
    if doubted.doubts < DOUBTS_MIN {
        return Ok(());
    }
    if doubted.reopened >= REOPENED_MAX {
        for entry in &fallen {
            let (payment, was) = (&entry.new.key, name(entry));
            tracing::error!(%payment, was, "closed so {REOPENED_MAX} times, and looked at again never shown so");
        }
        desk.watched.review(block, |review| Review { is_done: true, ..review });
        return Ok(());
    }
    desk.watched.review(block, |review| Review {
        reopened: review.reopened.saturating_add(1),
        ..review.again()
    });
    for entry in &fallen {
        let (payment, was) = (&entry.new.key, name(entry));
        tracing::error!(%payment, was, "the chain does not show what closed it");
    }
    reopen(crew, &fallen).await
}

/// Those of the entries of a block that a second look does not show closed as they are, with what shares their
/// transactions.
async fn fallen(crew: &Crew, entries: Vec<Entry>) -> Result<Vec<Entry>, Unfinished> {
    // What nothing of ours was signed for rests on nothing that this could show; and an errand collects
    // nothing, and may have been undone since by its account.
    let is_of_ours = |entry: &Entry| signed(entry).is_some() && !entry.new.amount.is_zero();
    let groups = by_transaction(entries.into_iter().filter(is_of_ours).collect());
    let look = async |group: Vec<Entry>| {
        let stands = stand(crew, &group).await;
        stands.map(|stands| (group, stands))
    };
    let looks: Vec<_> = stream::iter(groups).map(look).buffer_unordered(LOOKS_MAX).collect().await;
    let mut fallen = Vec::new();
    let mut failed = None;
    for look in looks {
        match look {
            // Its bytes are with one of them: they go on together.
            Ok((group, false)) => fallen.extend(group),
            Ok((_, true)) => {}
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if fallen.is_empty() => Err(error),
        _ => Ok(fallen),
    }
}

/// Whether all entries of one transaction stand as they were closed.
async fn stand(crew: &Crew, group: &[Entry]) -> Result<bool, Unfinished> {
    let desk = &crew.desk;
    let open = |entry: &Entry| desk.sealer.open(Content::Plan, &entry.new.key, &entry.new.plan);
    let plans = group.iter().map(open).collect::<Result<Vec<SecretBytes>, _>>()?;
    let signed = group.iter().filter_map(signed);
    let asked: Vec<(&SecretBytes, &SentAs)> =
        plans.iter().zip(signed).map(|(plan, signed)| (plan, &signed.sent)).collect();
    let statuses = desk.second_look(&asked).await;
    let statuses = statuses.into_iter().collect::<Result<Vec<ChainStatus>, Unavailable>>()?;
    Ok(group.iter().zip(&statuses).all(|(entry, status)| stands(entry, status)))
}

/// Whether what was seen again agrees with how an entry was closed.
fn stands(entry: &Entry, status: &ChainStatus) -> bool {
    let Stage::Final(outcome) = &entry.stage else { return true };
    let spent = signed(entry).map_or(Amount::ZERO, |signed| signed.spent);
    let cost = |fee: Amount| U256::saturating_add(fee.to_u256(), spent.to_u256());
    match (outcome, status) {
        (
            Outcome::Settled { transaction, block, fee },
            ChainStatus::Proven { transaction: there, number, fee: shown, .. },
        ) => (transaction, block) == (there, number) && fee.to_u256() == cost(*shown),
        (
            Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. },
            ChainStatus::Failed { fee: shown, .. } | ChainStatus::LeftOut { fee: shown, .. },
        ) => fee.to_u256() == cost(*shown),
        // Nothing is mined for it, and nothing can be: what it cost was spent before.
        (
            Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. },
            ChainStatus::Open { expired: true, .. },
        ) => fee.to_u256() == cost(Amount::ZERO),
        (
            Outcome::Settled { .. },
            ChainStatus::Failed { .. }
            | ChainStatus::LeftOut { .. }
            | ChainStatus::Open { .. }
            | ChainStatus::Shallow { .. },
        )
        | (
            Outcome::Failed { .. } | Outcome::Reverted { .. },
            ChainStatus::Proven { .. }
            | ChainStatus::Open { expired: false, .. }
            | ChainStatus::Shallow { .. },
        ) => false,
    }
}
