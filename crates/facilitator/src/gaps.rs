//! Finds nonces that nobody holds the bytes for, and has them cancelled while the facilitator runs.
//!
//! A transaction is mined only behind all of its signer's lower nonces. When the chain loses one that was
//! closed and buried, or another that had displaced one of ours, no entry sends for that nonce any more,
//! and whatever is behind it waits for good. So a transaction that does nothing takes the place. It is an
//! errand with an entry of its own, journalled before it is sent and followed to its end like any other.
//!
//! A payment is closed only when its signer's nonce is consumed, and keeps its bytes while its block is watched. Where the
//! chain still waits for that nonce, what closed it is undone or was made up: it is opened again, without waiting
//! until that is found out, and its bytes take the place that they were signed for.
//!
//! **Invariant:** a nonce that was recorded for one payment is never used for another: a gap is filled by
//! a cancellation and by nothing else. Should what was lost be mined after all, the cancellation is void.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pay402_core::PaymentKey;
use pay402_core::error::Unavailable;
use pay402_core::journal::{Entered, Entry, JournalError, SignedAs, Stage};
use tokio::time::Instant;

use crate::desk::{Desk, unreachable_journal};
use crate::errand;
use crate::failpoint::Failpoint;
use crate::recover;
use crate::seal::Content;
use crate::watch::{self, Unfinished};
use crate::worker::{Crew, Job};

/// Most nonces of a signer that are looked at for gaps.
const LOOKED_AT_MAX: u64 = 4096;
/// Looks in which a signer's count must stand still at the nonce of a closed payment before that one is opened again.
const DOUBTED_LOOKS: u32 = 2;
/// Most gaps of a signer that are filled after one look.
const FILLED_MAX: usize = 64;
/// How often one nonce is cancelled at most: again only after an earlier cancellation became void.
const ATTEMPTS_MAX: u32 = 16;

/// The nonces of a signer that are given out, by chain and journal.
#[derive(Debug)]
pub(crate) struct Standing {
    /// The next nonce to give out.
    pub(crate) next: u64,
    /// Recorded ones that the chain has not consumed and nobody holds the bytes for, ascending.
    pub(crate) missing: Vec<u64>,
}

/// Where a signer's nonces stand.
///
/// # Errors
/// When the chain or the journal does not answer.
pub(crate) async fn standing(desk: &Desk, signer: &str) -> Result<Standing, Unavailable> {
    let consumed = desk.in_time(desk.network.consumed_nonces(signer)).await??;
    let recorded = desk
        .journal
        .next_nonce(&desk.id, signer)
        .await
        .map_err(|error| unreachable_journal(&error))?;
    let recorded = recorded.unwrap_or(0);
    let mut missing = Vec::new();
    if recorded > consumed {
        let limit = desk.options.unfinished_max.saturating_mul(2);
        let unfinished = desk
            .journal
            .unfinished(&desk.id, limit)
            .await
            .map_err(|error| unreachable_journal(&error))?;
        let held: HashSet<u64> = unfinished
            .iter()
            .filter_map(|entry| recover::signed(&entry.stage))
            // Where another entry has the bytes, that one holds the nonce.
            .filter(|signed| signed.sent.signer == signer && !signed.raw.is_empty())
            .map(|signed| signed.sent.nonce)
            .collect();
        let end = recorded.min(consumed.saturating_add(LOOKED_AT_MAX));
        missing.extend((consumed..end).filter(|nonce| !held.contains(nonce)));
    }
    Ok(Standing { next: consumed.max(recorded), missing })
}

/// The closed payments whose bytes are kept for these nonces of a signer, with what shares their transactions.
async fn kept(desk: &Desk, signer: &str, nonces: &[u64]) -> Result<Vec<Entry>, JournalError> {
    let mut at: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    for block in desk.journal.watched_blocks(&desk.id).await? {
        for entry in desk.journal.watched_in(&desk.id, &block).await? {
            let Some(SignedAs { sent, .. }) = watch::signed(&entry) else { continue };
            let (nonce, is_of_it) = (sent.nonce, sent.signer == signer);
            // Of an errand another one may always take the place.
            if is_of_it && nonces.contains(&nonce) && !entry.new.amount.is_zero() {
                at.entry(nonce).or_default().push(entry);
            }
        }
    }
    let has_bytes = |entry: &Entry| watch::signed(entry).is_some_and(|it| !it.raw.is_empty());
    Ok(at.into_values().filter(|entries| entries.iter().any(has_bytes)).flatten().collect())
}

/// The nonce that a lane stands at, and since when.
struct Still {
    consumed: u64,
    since: Instant,
}

/// Looks from time to time, while anything waits.
pub(crate) async fn watch(crew: Crew) {
    let desk = Arc::clone(&crew.desk);
    let mut still: HashMap<String, Still> = HashMap::new();
    loop {
        tokio::time::sleep(desk.options.gap_every).await;
        if desk.busy() == 0 {
            still.clear();
            continue;
        }
        for lane in desk.lanes.iter() {
            if let Err(error) = look(&crew, &lane.signer, &mut still).await {
                tracing::debug!(network = %desk.id, signer = lane.signer, %error, "gaps unknown");
            }
        }
    }
}

/// Opens again what was closed although the chain waits for its nonce, and fills the gaps of a signer whose nonces
/// have stood still for long.
async fn look(
    crew: &Crew,
    signer: &str,
    still: &mut HashMap<String, Still>,
) -> Result<(), Unfinished> {
    let desk = &crew.desk;
    let consumed = desk.in_time(desk.network.consumed_nonces(signer)).await??;
    let now = Instant::now();
    let since = match still.get(signer) {
        Some(still) if still.consumed == consumed => still.since,
        _ => now,
    };
    still.insert(signer.to_owned(), Still { consumed, since });
    let has_lasted = |patience: Duration| now.duration_since(since) >= patience;
    let (doubt, patience) = (desk.options.gap_every * DOUBTED_LOOKS, desk.options.gap_patience);
    if !has_lasted(doubt.min(patience)) {
        return Ok(());
    }
    let missing = standing(desk, signer).await?.missing;
    if missing.first() != Some(&consumed) {
        return Ok(());
    }
    let kept = kept(desk, signer, &missing).await?;
    if !kept.is_empty() {
        tracing::error!(network = %desk.id, signer, first = consumed, count = kept.len(),
            "the chain waits for nonces of payments that are closed");
        return watch::reopen(crew, &kept).await;
    }
    // What a reorganization took out usually comes back.
    if !has_lasted(patience) {
        return Ok(());
    }
    tracing::error!(network = %desk.id, signer, first = consumed, count = missing.len(),
        "nobody holds the bytes for nonces that the chain waits for; cancelling them");
    for nonce in missing.into_iter().take(FILLED_MAX) {
        fill(crew, signer, nonce).await?;
    }
    Ok(())
}

/// Enters the cancellation of a nonce, unless one is under way.
async fn fill(crew: &Crew, signer: &str, nonce: u64) -> Result<(), Unavailable> {
    let desk = &crew.desk;
    let Some(plan) = desk.network.cancellation(signer, nonce) else { return Ok(()) };
    for attempt in 0..ATTEMPTS_MAX {
        let name = PaymentKey::new(&desk.id, "cancel", signer, &format!("{nonce}/{attempt}"));
        let sealed = desk.sealer.seal(Content::Plan, &name, &plan)?;
        let new = errand::cancelling(desk, &name, signer, sealed);
        let expires = new.expires;
        match desk.journal.enter(new).await.map_err(|error| unreachable_journal(&error))? {
            Entered::New => {
                desk.bell.ring();
                desk.options.failpoints.pass(Failpoint::AfterGapEnter).await;
                // It goes ahead of what waits for a place: those wait for it.
                let place = Arc::clone(&desk.places).try_acquire_owned().ok();
                if let Some(custody) = desk.take(&name, place) {
                    _ = crew.inbox.send(Job::errand(custody, plan, expires)).await;
                }
                return Ok(());
            }
            // It is void: by then the chain had consumed the nonce, which it has not any more.
            Entered::Known(entry) if matches!(entry.stage, Stage::Final(_)) => {}
            Entered::Known(_) => return Ok(()),
        }
    }
    let problem = format!("nonce {nonce} was cancelled {ATTEMPTS_MAX} times, and is missing again");
    Err(Unavailable::new("signer", problem))
}
