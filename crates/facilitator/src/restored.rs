//! Notices a journal that is older than what was done with it, as one that was restored from a copy.
//!
//! Every nonce is recorded before a transaction with it is sent. So when the chain, or a node's pool, has a
//! transaction of a signer behind the last that the journal knows, a journal is lost that knew more: of
//! transactions that may be mined yet, and of successes that were told.
//!
//! **Invariants:** none of those nonces is used again, and no success of a payment that was entered before is
//! told any more, unless the caller proves to be the one that it belongs to: it may have been told. How far
//! that reaches is noted in the journal, for those who lead later.

use pay402_core::PaymentKey;
use pay402_core::error::Unavailable;
use pay402_core::history::Span;
use pay402_core::journal::{Entry, JournalError, Lease};

use crate::desk::{Desk, unreachable_journal};

/// As what is noted how far the doubt reaches, among those who have come to some record.
const DOUBT: &str = "doubt";

/// As what is noted at which nonce a signer began, before its address.
const BEGUN: &str = "nonces of";

/// Compares what the journal knows of the signers with what nodes know.
///
/// # Errors
/// When the journal does not answer, or the lease is lost. What a node does not tell is not known: whoever starts on
/// a restored journal has just been answered by one.
pub(crate) async fn look(desk: &Desk, lease: &Lease) -> Result<(), JournalError> {
    let mut is_behind = false;
    for lane in desk.lanes.iter() {
        let signer = &lane.signer;
        let begun = format!("{BEGUN} {signer}");
        let known_here = desk
            .journal
            .next_nonce(&desk.id, signer)
            .await?
            .max(desk.journal.hook(&begun, &desk.id).await?);
        let known = match desk.in_time(desk.network.known_nonces(signer)).await {
            Ok(Ok(known)) => known,
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(network = %desk.id, signer, %error, "its nonces are unknown");
                continue;
            }
        };
        lane.begin_at(known);
        let Some(recorded) = known_here else {
            // What a signer did before this journal knew it is none of its business.
            desk.journal.move_hook(lease, &begun, None, known).await?;
            continue;
        };
        if known > recorded {
            is_behind = true;
            tracing::error!(network = %desk.id, signer, recorded, known, "the journal is older than what was \
                sent: it was restored from a copy, or something else sends from this signer; no success of \
                a payment that was entered before is told any more to whom it is not proven to belong");
        }
    }
    let mut reaches = desk.journal.hook(DOUBT, &desk.id).await?;
    if is_behind {
        let end = desk.journal.history_end().await?;
        desk.journal.move_hook(lease, DOUBT, reaches, end).await?;
        reaches = Some(end);
    }
    desk.doubt(reaches);
    Ok(())
}

/// Whether the success of an entry may have been told by a process whose journal is lost.
///
/// # Errors
/// When the journal does not answer.
pub(crate) async fn may_have_been_told(desk: &Desk, entry: &Entry) -> Result<bool, Unavailable> {
    let Some(upto) = desk.doubts_up_to().filter(|_| entry.new.caller.is_none()) else {
        return Ok(false);
    };
    entered_by_then(desk, &entry.new.key, upto).await.map_err(|error| unreachable_journal(&error))
}

async fn entered_by_then(desk: &Desk, key: &PaymentKey, upto: u64) -> Result<bool, JournalError> {
    let first = Span { after: 0, upto, limit: 1 };
    Ok(!desk.journal.history_of_payment(key, first).await?.is_empty())
}
