//! Follows payments on the chain until the chain closes them.
//!
//! **Invariants:** only chain evidence closes an entry of which anything is charged, never our own
//! clock; what was signed is sent again with the same bytes; an entry that was signed is closed only
//! when its signer's nonce is consumed. The last one keeps lanes without gaps: a transaction that
//! has become pointless (expired, or somebody else delivered the same authorization first) is still
//! seen through, so that those behind it can be mined. Its bytes stay in the journal until then,
//! across restarts.

use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::journal::{Entry, Event, Outcome, REPLACEMENTS_MAX, SignedAs, Stage};
use pay402_core::network::{ChainStatus, SendError, SentAs};
use pay402_core::{Amount, Refusal, Refused};
use tokio::time::Instant;

use crate::desk::Custody;
use crate::failpoint::Failpoint;
use crate::scribe::Unwritten;
use crate::seal::Content;
use crate::worker::{Crew, Flight, Job};

/// Looks in a row that must show a transaction displaced before its payment is signed anew, the
/// longest delay between two looks apart. Behind a load balancer one node may count our own
/// transaction while another does not show it yet.
const DISPLACED_LOOKS: u32 = 3;

/// The looks in a row that showed a transaction displaced.
#[derive(Debug, Default)]
struct Displaced {
    looks: u32,
    last: Option<Instant>,
}

impl Displaced {
    /// Counts one more look at `now`, unless it is too close to the last, and tells whether they
    /// are enough.
    fn is_certain(&mut self, now: Instant, apart: Duration) -> bool {
        if self.last.is_none_or(|last| now.duration_since(last) >= apart) {
            self.looks += 1;
            self.last = Some(now);
        }
        self.looks >= DISPLACED_LOOKS
    }
}

/// What a node said to a transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Handed {
    /// It has it.
    Taken,
    /// It may have it, or it has to be sent again for another reason.
    Untold,
}

/// Sends the bytes of `flight` once.
pub(crate) async fn send(crew: &Crew, flight: &Flight) -> Handed {
    let lane = crew.desk.lane_of(&flight.sent.signer);
    let (payment, transaction) = (&flight.custody.key, &flight.sent.transaction);
    match crew.desk.send(&flight.raw).await {
        Ok(()) => {
            tracing::debug!(%payment, transaction, "sent");
            if let Some(lane) = lane {
                lane.accepted();
            }
            crew.desk.options.failpoints.pass(Failpoint::AfterSendBeforeSent).await;
            crew.scribe.note_sent(flight.custody.key.clone()).await;
            Handed::Taken
        }
        Err(SendError::NonceSpent) => Handed::Taken,
        Err(SendError::Rejected(problem)) => {
            tracing::warn!(%payment, transaction, problem, "the node refused a transaction");
            if let Some(lane) = lane {
                lane.rejected();
            }
            Handed::Untold
        }
        Err(SendError::Unknown(problem)) => {
            tracing::warn!(%payment, transaction, problem, "unknown whether a node has it");
            Handed::Untold
        }
    }
}

/// What one look at the chain means for a payment.
enum Next {
    /// It is over.
    Close(Outcome),
    /// Ours can never be mined: sign again with another nonce.
    SignAgain,
    /// Nothing is mined: the bytes may have to be sent again.
    Resend,
    /// Nothing is known. Not being able to look must not keep the bytes from the node.
    Unknown,
    /// Wait.
    Look,
}

/// Follows a signed payment to its end.
pub(crate) async fn follow(crew: Crew, flight: Flight, first: Handed) {
    let options = &crew.desk.options;
    let mut poll = options.poll_first;
    let mut resend = options.resend_first;
    // A node that did not take it is asked again soon.
    let mut resend_at = Instant::now()
        + match first {
            Handed::Taken => resend,
            Handed::Untold => poll.max(Duration::from_millis(1)) * 10,
        };
    let mut displaced = Displaced::default();
    let mut flight = flight;
    let mut replace = options.replace_first;
    let mut replace_at = Instant::now() + replace;
    loop {
        tokio::time::sleep(poll).await;
        let status = crew.desk.status(&flight.plan, Some(&flight.sent)).await;
        let next = look(&crew, &flight, status).await;
        // What the node cannot show is asked for less and less often: there may be many of those, made
        // so by whoever wants the others to wait.
        let longest = match next {
            Next::Unknown => options.poll_unknown_max,
            _ => options.poll_max,
        };
        poll = (poll * 2).min(longest);
        match next {
            Next::Close(outcome) => return close(&crew, flight.custody, outcome).await,
            Next::SignAgain if !displaced.is_certain(Instant::now(), options.poll_max) => {}
            Next::SignAgain => {
                tracing::warn!(payment = %flight.custody.key, transaction = flight.sent.transaction,
                    "displaced by another transaction; signing anew");
                let Flight { custody, plan, expires, sent, .. } = flight;
                let job = Job { custody, plan, expires, displaced: Some(sent), failures: 0 };
                return hand_in(&crew, job).await;
            }
            Next::Resend if Instant::now() >= replace_at => {
                if self::replace(&crew, &mut flight).await.is_err() {
                    return;
                }
                _ = send(&crew, &flight).await;
                replace = (replace * 2).min(options.replace_max);
                replace_at = Instant::now() + replace;
                displaced = Displaced::default();
            }
            Next::Resend | Next::Unknown if Instant::now() >= resend_at => {
                _ = send(&crew, &flight).await;
                resend = (resend * 2).min(options.resend_max);
                resend_at = Instant::now() + resend;
                displaced = Displaced::default();
            }
            Next::Resend | Next::Unknown | Next::Look => displaced = Displaced::default(),
        }
    }
}

/// The desk has stopped: nothing more is written.
struct Stopped;

/// Signs the transaction of `flight` anew at higher fees if it is not mined for want of them. Both
/// have the same nonce, so that one of them is mined at most; which, is for the chain to say.
async fn replace(crew: &Crew, flight: &mut Flight) -> Result<(), Stopped> {
    let desk = &crew.desk;
    let (key, failpoints) = (flight.custody.key.clone(), &desk.options.failpoints);
    if flight.sent.replaced.len() >= REPLACEMENTS_MAX || desk.lane_of(&flight.sent.signer).is_none()
    {
        return Ok(());
    }
    let signed = match desk.in_time(desk.network.replacement(&flight.sent, &flight.raw)).await {
        Ok(Ok(Some(signed))) => signed,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(error)) | Err(error) => {
            tracing::debug!(payment = %key, %error, "fees unknown");
            return Ok(());
        }
    };
    failpoints.pass(Failpoint::AfterReplaceBeforeJournal).await;
    let raw = match desk.sealer.seal(Content::Raw, &key, &signed.raw) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::warn!(payment = %key, %error, "not sealed");
            return Ok(());
        }
    };
    let SentAs { signer, nonce, transaction: old, .. } = flight.sent.clone();
    let sent = SentAs { signer, nonce, transaction: signed.transaction, replaced: Vec::new() };
    let event = Event::Replaced(SignedAs { sent, raw });
    let written = crew.scribe.write(vec![(key.clone(), event)]).await.pop();
    failpoints.pass(Failpoint::AfterReplaceJournalBeforeSend).await;
    match written {
        Some(Ok(Entry { stage: Stage::Signed(recorded), .. })) => {
            let new = &recorded.sent.transaction;
            tracing::warn!(payment = %key, old, new, "not mined; offering more for it");
            flight.sent = recorded.sent;
            flight.raw = signed.raw;
            Ok(())
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(Unwritten::Forbidden(problem))) => {
            tracing::error!(payment = %key, problem, "a replacement was not recorded");
            Ok(())
        }
        Some(Err(Unwritten::Stopped)) | None => Err(Stopped),
    }
}

async fn look(crew: &Crew, flight: &Flight, status: Result<ChainStatus, Unavailable>) -> Next {
    let payment = &flight.custody.key;
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            tracing::debug!(%payment, %error, "status unknown");
            return Next::Unknown;
        }
    };
    let is_ours = |transaction: &str| flight.sent.is_any(transaction);
    match status {
        ChainStatus::Open { expired: false, displaced: true } => Next::SignAgain,
        ChainStatus::Open { expired: true, displaced: true } => {
            Next::Close(failed(Refusal::ValidBefore.into(), Amount::ZERO))
        }
        ChainStatus::Open { displaced: false, .. } => Next::Resend,
        ChainStatus::Shallow { .. } => Next::Look,
        ChainStatus::Proven { transaction, block, fee } => {
            let mined = is_ours(&transaction);
            let outcome = Outcome::Settled { transaction, block, fee };
            close_when_consumed(crew, flight, mined, outcome).await
        }
        ChainStatus::Failed { refused, fee } => {
            let outcome = failed(refused, fee);
            close_when_consumed(crew, flight, false, outcome).await
        }
    }
}

/// Closes if our nonce is consumed, so that nothing behind it waits for bytes nobody holds.
async fn close_when_consumed(crew: &Crew, flight: &Flight, mined: bool, outcome: Outcome) -> Next {
    let desk = &crew.desk;
    // What somebody else signed is in no lane of ours.
    let consumed = mined
        || desk.lane_of(&flight.sent.signer).is_none()
        || match desk.in_time(desk.network.consumed_nonces(&flight.sent.signer)).await {
            Ok(Ok(next)) => next > flight.sent.nonce,
            Ok(Err(_)) | Err(_) => false,
        };
    if consumed { Next::Close(outcome) } else { Next::Resend }
}

/// Looks what became of a payment that is not signed, or whose transaction can never be mined:
/// the chain may have closed it. Otherwise it is signed.
pub(crate) async fn recheck(crew: Crew, job: Job, delay: Duration) {
    let options = &crew.desk.options;
    let mut pause = delay;
    loop {
        tokio::time::sleep(pause).await;
        pause = pause.max(options.poll_first).saturating_mul(2).min(options.resend_max);
        match crew.desk.status(&job.plan, job.displaced.as_ref()).await {
            Ok(ChainStatus::Proven { transaction, block, fee }) => {
                let outcome = Outcome::Settled { transaction, block, fee };
                return close(&crew, job.custody, outcome).await;
            }
            Ok(ChainStatus::Failed { refused, fee }) => {
                return close(&crew, job.custody, failed(refused, fee)).await;
            }
            Ok(ChainStatus::Open { expired: true, .. }) => {
                let outcome = failed(Refusal::ValidBefore.into(), Amount::ZERO);
                return close(&crew, job.custody, outcome).await;
            }
            // By our clock it is too late to begin; the chain's clock decides when it is over.
            Ok(ChainStatus::Open { .. }) if crew.desk.clock.now() >= job.expires => {}
            Ok(ChainStatus::Open { .. }) => return hand_in(&crew, job).await,
            Ok(ChainStatus::Shallow { .. }) => {}
            Err(error) => tracing::debug!(payment = %job.custody.key, %error, "status unknown"),
        }
    }
}

pub(crate) async fn hand_in(crew: &Crew, job: Job) {
    // The worker ends only with its desk, and then so do we.
    _ = crew.inbox.send(job).await;
}

/// Closes an entry of which nothing is charged: nothing is sent for it, so that there is nothing to
/// wait for. Closed it is for good: the authorization can never be settled for more.
pub(crate) async fn close_uncharged(crew: Crew, custody: Custody) {
    let outcome = Outcome::Settled { transaction: String::new(), block: 0, fee: Amount::ZERO };
    close(&crew, custody, outcome).await;
}

async fn close(crew: &Crew, custody: Custody, outcome: Outcome) {
    crew.desk.options.failpoints.pass(Failpoint::AfterProofBeforeClose).await;
    let payment = custody.key.clone();
    match &outcome {
        Outcome::Settled { transaction, block, .. } => {
            tracing::info!(%payment, transaction, block, "settled");
        }
        Outcome::Failed { reason, transaction, .. } => {
            tracing::info!(%payment, reason, transaction, "failed");
        }
    }
    // The scribe reports what goes wrong; the entry then stays open for the next start.
    _ = crew.scribe.write(vec![(payment, Event::Closed(outcome))]).await;
}

fn failed(refused: Refused, fee: Amount) -> Outcome {
    Outcome::Failed {
        reason: refused.reason.code().to_owned(),
        message: refused.message,
        transaction: refused.transaction,
        fee,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_close_together_are_one() {
        let (start, apart) = (Instant::now(), Duration::from_millis(500));
        let mut displaced = Displaced::default();
        let mut at = |ms| displaced.is_certain(start + Duration::from_millis(ms), apart);
        for ms in [5, 15, 35, 75, 155, 504, 505, 700, 1004] {
            assert!(!at(ms), "certain after {ms} ms");
        }
        assert!(at(1005));
    }
}
