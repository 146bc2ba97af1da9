//! Follows payments on the chain until the chain closes them.
//!
//! **Invariants:** only chain evidence closes an entry of which anything is charged, never our own
//! clock; what was signed is sent again with the same bytes; an entry that was signed is closed only
//! when its signer's nonce is consumed. The last one keeps lanes without gaps: a transaction that
//! has become pointless (somebody else delivered the same authorization first) is still seen through, so
//! that those behind it can be mined, and cancelled when all that it carries has expired (see
//! [`replace`](crate::replace)). Its bytes stay in the journal until then, across restarts, and until the
//! block that closed it is buried (see [`watch`](crate::watch)).
//!
//! What one transaction carries is followed together, and each payment is judged by its own proof. One
//! that it left out is signed by itself, once; what its share of the fee was stays on its account.

use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::journal::{Event, Outcome};
use pay402_core::network::{BlockId, ChainStatus, Header, SendError, SentAs};
use pay402_core::{Amount, Refusal, Refused};
use tokio::time::Instant;

use crate::desk::Custody;
use crate::failpoint::Failpoint;
use crate::replace::{self, Pace};
use crate::trace;
use crate::worker::{Crew, Flight, Job, Member};

/// Looks in a row that must show a transaction displaced before its payment is signed anew, or no cost of
/// it before the payment is closed without, the longest delay between two looks apart. Behind a load
/// balancer one node may count our own transaction while another does not show it yet.
const LOOKS_MIN: u32 = 3;

/// The looks in a row that showed the same: a transaction displaced, or one of ours that cost nothing.
#[derive(Debug, Default)]
struct Looks {
    looks: u32,
    last: Option<Instant>,
}

impl Looks {
    /// Counts one more look at `now`, unless it is too close to the last, and tells whether they
    /// are enough.
    fn is_certain(&mut self, now: Instant, apart: Duration) -> bool {
        if self.last.is_none_or(|last| now.duration_since(last) >= apart) {
            self.looks += 1;
            self.last = Some(now);
        }
        self.looks >= LOOKS_MIN
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
    let Some(raw) = &flight.raw else { return Handed::Taken };
    let lane = crew.desk.lane_of(&flight.sent().signer);
    let (payment, transaction) = (flight.name(), &flight.sent().transaction);
    match crew.desk.send(raw).await {
        Ok(()) => {
            tracing::debug!(%payment, transaction, "sent");
            if let Some(lane) = lane {
                lane.accepted();
            }
            let failpoints = &crew.desk.options.failpoints;
            failpoints.pass(Failpoint::AfterSendBeforeSent).await;
            if flight.members.len() > 1 {
                failpoints.pass(Failpoint::AfterPackSendBeforeSent).await;
            }
            if let Some(point) = flight.before_sent {
                failpoints.pass(point).await;
            }
            for Member { custody, sent, .. } in &flight.members {
                trace::sent(&custody.span, sent);
            }
            crew.scribe.note_sent(flight.members.iter().map(|it| it.custody.key.clone())).await;
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
#[derive(Clone, Debug, Eq, PartialEq)]
enum Next {
    /// It is over, by what this block shows.
    Close(Outcome, BlockId),
    /// It is over, and its transaction may not be mined yet.
    CloseWhenConsumed,
    /// It is over and its nonce is consumed, and yet this look showed no cost of its transaction: the node may
    /// be behind.
    CloseUncosted(Outcome, BlockId),
    /// The transaction that carried it among others was mined without it, and cost it so much: sign it
    /// by itself.
    Alone(Amount),
    /// Ours can never be mined: sign again with another nonce.
    SignAgain,
    /// Nothing is mined: the bytes may have to be sent again.
    Resend,
    /// Nothing is mined, and the authorization can no longer be used.
    Lapsed,
    /// Nothing is known. Not being able to look must not keep the bytes from the node.
    Unknown,
    /// Wait.
    Look,
}

/// Follows the payments of a signed transaction to their end.
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
    let (mut displaced, mut uncosted) = (Looks::default(), Looks::default());
    // The newest block when the nonce was last seen to be consumed.
    let mut consumed_at = None;
    let mut flight = flight;
    let mut pace = Pace::begin(&crew, &flight);
    // Blocks that came before the last look.
    let mut blocks = crew.desk.heads.count();
    let mut is_unseen = false;
    loop {
        tokio::select! {
            biased;
            () = crew.desk.heads.after(blocks), if !is_unseen => {}
            () = tokio::time::sleep(poll) => {}
        }
        blocks = crew.desk.heads.count();
        let nexts = look(&crew, &mut flight).await;
        let has = |wanted: &Next| nexts.contains(wanted);
        // What the node cannot show is asked for less and less often: there may be many of those, made
        // so by whoever wants the others to wait.
        is_unseen = nexts.iter().all(|next| *next == Next::Unknown);
        let longest = match is_unseen {
            true => options.poll_unknown_max,
            false => options.poll_max,
        };
        poll = (poll * 2).min(longest);
        let is_open = has(&Next::Resend) || has(&Next::Lapsed);
        let is_displaced = has(&Next::SignAgain);
        let (is_waited_for, is_unknown) = (has(&Next::CloseWhenConsumed), has(&Next::Unknown));
        let is_uncosted = nexts.iter().any(|next| matches!(next, Next::CloseUncosted(..)));
        let now = Instant::now();
        let certain = Certain {
            displaced: is_displaced && displaced.is_certain(now, options.poll_max),
            uncosted: match is_uncosted && uncosted.is_certain(now, options.poll_max) {
                true => consumed_at.take(),
                false => None,
            },
        };
        if !is_uncosted {
            uncosted = Looks::default();
        }
        let has_lapsed = has_lapsed(&crew, &flight, &nexts);
        if !settle_up(&crew, &mut flight, nexts, certain).await {
            return;
        }
        if is_waited_for || is_uncosted {
            // Again before each look: a block that consumed it may be undone.
            consumed_at = find_consumed(&crew, &mut flight).await;
        }
        let is_open = is_open || (is_waited_for && !flight.consumed);
        if is_displaced && !is_open {
            continue;
        }
        displaced = Looks::default();
        if is_open && pace.is_due(has_lapsed, options) {
            if replace::replace(&crew, &mut flight, has_lapsed).await.is_err() {
                return;
            }
            _ = send(&crew, &flight).await;
            pace.next(&crew, &flight);
        } else if (is_open || is_unknown) && Instant::now() >= resend_at {
            _ = send(&crew, &flight).await;
            resend = (resend * 2).min(options.resend_max);
            resend_at = Instant::now() + resend;
        }
    }
}

/// Whether a look showed that the transaction is of no use to any of its payments and may be cancelled: each has
/// expired by the chain's time, or is over without it and past its end.
fn has_lapsed(crew: &Crew, flight: &Flight, nexts: &[Next]) -> bool {
    let now = crew.desk.clock.now();
    let each = flight.members.iter().zip(nexts);
    let mut lapsed = each.map(|(member, next)| is_of_no_use(next, now >= member.expires));
    lapsed.all(|lapsed| lapsed) && replace::may_be_cancelled(crew, flight)
}

const fn is_of_no_use(next: &Next, is_past: bool) -> bool {
    match next {
        Next::Lapsed => true,
        Next::CloseWhenConsumed | Next::CloseUncosted(..) => is_past,
        Next::Close(..) | Next::Alone(_) | Next::SignAgain => false,
        Next::Resend | Next::Unknown | Next::Look => false,
    }
}

/// What enough looks in a row have shown.
#[derive(Clone, Debug)]
struct Certain {
    /// The transaction is displaced.
    displaced: bool,
    /// It cost nothing, with the nonce consumed up to this block.
    uncosted: Option<BlockId>,
}

/// Does what one look at each of the payments asks for. `false` when none of them stays.
async fn settle_up(crew: &Crew, flight: &mut Flight, nexts: Vec<Next>, certain: Certain) -> bool {
    let is_pack = flight.members.len() > 1;
    let (mut closing, mut again, mut staying) = (Vec::new(), Vec::new(), Vec::new());
    for (member, next) in std::mem::take(&mut flight.members).into_iter().zip(nexts) {
        let payment = &member.custody.key;
        let transaction = &member.sent.transaction;
        match next {
            Next::Close(outcome, block) => {
                closing.push((member.custody, Event::ClosedIn(outcome, block)));
            }
            Next::Alone(fee) => {
                tracing::warn!(%payment, transaction, "mined without its transfer; signing it alone");
                again.push(member.alone(fee));
            }
            Next::CloseUncosted(outcome, block) if let Some(consumed_at) = &certain.uncosted => {
                // Should what consumed the nonce be undone, ours may be mined after all, and cost.
                let later = consumed_at.number > block.number;
                let block = if later { consumed_at.clone() } else { block };
                closing.push((member.custody, Event::ClosedIn(outcome, block)));
            }
            Next::SignAgain if certain.displaced => {
                tracing::warn!(%payment, transaction, "displaced by another transaction; signing anew");
                again.push(member.anew());
            }
            Next::CloseWhenConsumed
            | Next::CloseUncosted(..)
            | Next::SignAgain
            | Next::Resend
            | Next::Lapsed
            | Next::Unknown
            | Next::Look => staying.push(member),
        }
    }
    flight.members = staying;
    if !closing.is_empty() {
        if is_pack {
            crew.desk.options.failpoints.pass(Failpoint::AfterPackProofBeforeClose).await;
        }
        write_ends(crew, closing).await;
    }
    if is_pack && !again.is_empty() {
        crew.desk.options.failpoints.pass(Failpoint::AfterPackCloseBeforeAlone).await;
    }
    for job in again {
        hand_in(crew, job).await;
    }
    !flight.members.is_empty()
}

/// Looks where the payments of a flight stand.
async fn look(crew: &Crew, flight: &mut Flight) -> Vec<Next> {
    // What somebody else signed is in no lane of ours, and costs us nothing.
    let ours = crew.desk.lane_of(&flight.sent().signer).is_some();
    let nonce = match flight.consumed {
        _ if !ours => Nonce::NotOurs,
        true => Nonce::Consumed,
        false => Nonce::Open,
    };
    let asked: Vec<_> = flight.members.iter().map(|it| (&it.plan, &it.sent)).collect();
    let mut statuses = crew.desk.statuses(&asked).await;
    let bytes = flight.raw.is_some();
    let is_over = |status: &Result<ChainStatus, Unavailable>| matches!(status, Ok(ChainStatus::Open { expired: true, displaced }) if *displaced || !bytes);
    let mut head = None;
    if statuses.iter().any(is_over) {
        // What has expired is closed by a block: it must still be so after that was seen.
        head = crew.desk.in_time(crew.desk.network.head()).await.ok().and_then(Result::ok);
        statuses = crew.desk.statuses(&asked).await;
    }
    note_mined(flight, &statuses);
    let next = |(member, status)| next(member, status, (bytes, nonce), head.as_ref());
    let nexts: Vec<_> = flight.members.iter().zip(statuses).map(next).collect();
    if nonce != Nonce::Open || !is_contradicted(&nexts) {
        return nexts;
    }
    // One whose payer has just cancelled it is open although it is mined.
    find_consumed(crew, flight).await;
    if flight.consumed { nexts } else { nexts.into_iter().map(unless_final).collect() }
}

/// Whether a look showed one transaction mined for one of its payments and open for another: then a node is behind,
/// or makes something up. Whoever was closed by that would not know what takes the place of the transaction.
fn is_contradicted(nexts: &[Next]) -> bool {
    let is_open = nexts.iter().any(|next| matches!(next, Next::Resend | Next::Lapsed));
    is_open && nexts.iter().any(|next| matches!(next, Next::Close(..) | Next::Alone(_)))
}

/// The same, unless it ends something.
fn unless_final(next: Next) -> Next {
    match next {
        Next::Close(..) | Next::Alone(_) => Next::Unknown,
        next => next,
    }
}

/// Notes whether the transaction of a flight is in a block, as far as a look at its payments shows that.
fn note_mined(flight: &mut Flight, statuses: &[Result<ChainStatus, Unavailable>]) {
    let shown = |(member, status): (&Member, &Result<ChainStatus, Unavailable>)| match status {
        // Displaced it is in no pool any more.
        Ok(ChainStatus::Open { displaced, .. }) => Some(*displaced),
        Ok(ChainStatus::LeftOut { .. }) => Some(true),
        Ok(ChainStatus::Proven { transaction, .. } | ChainStatus::Shallow { transaction }) => {
            // Where somebody else made the transfer, nothing is said of ours.
            member.sent.is_any(transaction).then_some(true)
        }
        Ok(ChainStatus::Failed { fee, .. }) => (!fee.is_zero()).then_some(true),
        Err(_) => None,
    };
    let shown: Vec<bool> = flight.members.iter().zip(statuses).filter_map(shown).collect();
    if let Some(berth) = &mut flight.berth
        && !shown.is_empty()
    {
        berth.mined(shown.contains(&true));
    }
}

/// What was known of a transaction's nonce before a look at it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Nonce {
    /// It may not be consumed.
    Open,
    /// It is consumed.
    Consumed,
    /// It is that of an account which is none of our signers.
    NotOurs,
}

/// What `status` means for a payment whose transaction we have the `bytes` of, or have not.
fn next(
    member: &Member,
    status: Result<ChainStatus, Unavailable>,
    (bytes, nonce): (bool, Nonce),
    head: Option<&Header>,
) -> Next {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            tracing::debug!(payment = %member.custody.key, %error, "status unknown");
            return Next::Unknown;
        }
    };
    let moved = matches!(status, ChainStatus::Shallow { .. } | ChainStatus::Proven { .. });
    member.custody.mined(moved);
    let over = |outcome, block| Next::Close(with_spent(outcome, member.spent), block);
    match status {
        // Bytes that nobody has are as good as displaced.
        ChainStatus::Open { expired: false, displaced } if displaced || !bytes => Next::SignAgain,
        ChainStatus::Open { expired: true, displaced } if displaced || !bytes => match head {
            // It was unused after this block, which is past its end: so it is wherever the block is.
            Some(head) if head.time >= member.expires => {
                let outcome = failed(Refusal::ValidBefore.into(), Amount::ZERO);
                match nonce {
                    Nonce::NotOurs => over(outcome, head.block.clone()),
                    // What has its place may be ours, and its receipt not shown yet: a cancellation for
                    // example. And bytes that nobody here has may be in a node's pool all the same.
                    Nonce::Open | Nonce::Consumed => {
                        let outcome = with_spent(outcome, member.spent);
                        Next::CloseUncosted(outcome, head.block.clone())
                    }
                }
            }
            _ => Next::Unknown,
        },
        ChainStatus::Open { expired: true, .. } => Next::Lapsed,
        ChainStatus::Open { expired: false, .. } => Next::Resend,
        ChainStatus::Shallow { .. } => Next::Look,
        ChainStatus::LeftOut { expired: false, fee, .. } => Next::Alone(fee),
        ChainStatus::LeftOut { expired: true, block, fee } => {
            over(failed(Refusal::ValidBefore.into(), fee), block)
        }
        ChainStatus::Proven { transaction, number, block, fee } => {
            let is_sent = member.sent.is_any(&transaction);
            let outcome = Outcome::Settled { transaction, block: number, fee };
            let outcome = with_spent(outcome, member.spent);
            close_by(nonce, is_sent || !fee.is_zero(), is_sent, (outcome, block))
        }
        ChainStatus::Failed { refused, block, fee } => {
            let outcome = with_spent(failed(refused, fee), member.spent);
            close_by(nonce, !fee.is_zero(), false, (outcome, block))
        }
    }
}

/// Closed only when our nonce is consumed, so that nothing behind it waits for bytes nobody holds; and by a
/// look after that, which has seen what ours cost.
fn close_by(
    nonce: Nonce,
    is_costed: bool,
    is_sent: bool,
    (outcome, block): (Outcome, BlockId),
) -> Next {
    match nonce {
        _ if is_sent => Next::Close(outcome, block),
        Nonce::Open => Next::CloseWhenConsumed,
        Nonce::Consumed if !is_costed => Next::CloseUncosted(outcome, block),
        Nonce::Consumed | Nonce::NotOurs => Next::Close(outcome, block),
    }
}

/// Asks whether the nonce of a flight is consumed. If so, gives a block that was the newest before that was
/// asked.
async fn find_consumed(crew: &Crew, flight: &mut Flight) -> Option<BlockId> {
    let desk = &crew.desk;
    let SentAs { signer, nonce, .. } = flight.sent();
    let head = desk.in_time(desk.network.head()).await;
    let consumed = match desk.in_time(desk.network.consumed_nonces(signer)).await {
        Ok(Ok(next)) => next > *nonce,
        Ok(Err(_)) | Err(_) => false,
    };
    flight.consumed = consumed;
    if consumed && let Some(berth) = &mut flight.berth {
        berth.mined(true);
    }
    match head {
        Ok(Ok(head)) if flight.consumed => Some(head.block),
        Ok(Ok(_) | Err(_)) | Err(_) => None,
    }
}

/// Looks what became of a payment that is not signed, or whose transaction can never be mined:
/// the chain may have closed it. Otherwise it is signed.
pub(crate) async fn recheck(crew: Crew, mut job: Job, delay: Duration) {
    let options = &crew.desk.options;
    let mut pause = delay;
    loop {
        tokio::time::sleep(pause).await;
        pause = pause.max(options.poll_first).saturating_mul(2).min(options.resend_max);
        match crew.desk.status(&job.plan, job.displaced.as_ref()).await {
            Ok(ChainStatus::Proven { transaction, number, block, fee }) => {
                let outcome = Outcome::Settled { transaction, block: number, fee };
                return close_job(&crew, job, outcome, block).await;
            }
            Ok(ChainStatus::Failed { refused, block, fee }) => {
                return close_job(&crew, job, failed(refused, fee), block).await;
            }
            Ok(ChainStatus::Open { expired: true, .. }) => {
                if let Some(block) = expired_at(&crew, &job).await {
                    let outcome = failed(Refusal::ValidBefore.into(), Amount::ZERO);
                    return close_job(&crew, job, outcome, block).await;
                }
            }
            // It was mined after all, without this one.
            Ok(ChainStatus::LeftOut { fee, block, expired: true }) => {
                let outcome = failed(Refusal::ValidBefore.into(), fee);
                return close_job(&crew, job, outcome, block).await;
            }
            Ok(ChainStatus::LeftOut { fee, expired: false, .. }) => {
                job.spent = sum(job.spent, fee);
                job.displaced = None;
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
    write_ends(&crew, vec![(custody, Event::Closed(outcome))]).await;
}

async fn close_job(crew: &Crew, job: Job, outcome: Outcome, block: BlockId) {
    let event = Event::ClosedIn(with_spent(outcome, job.spent), block);
    write_ends(crew, vec![(job.custody, event)]).await;
}

/// Writes how entries end, in one commit. The scribe reports what goes wrong, and what came of it; an
/// entry that is not written stays open for the next start.
async fn write_ends(crew: &Crew, ending: Vec<(Custody, Event)>) {
    crew.desk.options.failpoints.pass(Failpoint::AfterProofBeforeClose).await;
    for (custody, event) in &ending {
        if let Event::Closed(Outcome::Settled { .. })
        | Event::ClosedIn(Outcome::Settled { .. }, _) = event
        {
            // Before anybody is told: who is told may present the next payment at once.
            custody.mined(true);
        }
    }
    let change = |(custody, event): &(Custody, Event)| (custody.key.clone(), event.clone());
    let written = crew.scribe.write(ending.iter().map(change).collect()).await;
    for ((custody, event), written) in ending.iter().zip(written) {
        if written.is_ok() {
            trace::closed(&custody.span, event);
        }
    }
}

/// A block by which an unsigned payment has expired unused. `None` when that cannot be told: it must be
/// so after the block was seen to be the newest, so that it is so on every chain that has the block.
async fn expired_at(crew: &Crew, job: &Job) -> Option<BlockId> {
    let desk = &crew.desk;
    let head = desk.in_time(desk.network.head()).await.ok()?.ok()?;
    let again = desk.status(&job.plan, job.displaced.as_ref()).await.ok()?;
    let is_over = matches!(again, ChainStatus::Open { expired: true, .. });
    (is_over && head.time >= job.expires).then_some(head.block)
}

/// What two transactions cost together, in wei.
pub(crate) fn sum(a: Amount, b: Amount) -> Amount {
    a.checked_add(b).expect("no chain has so much gas to pay")
}

/// The outcome with what earlier transactions cost.
fn with_spent(outcome: Outcome, spent: Amount) -> Outcome {
    match outcome {
        Outcome::Settled { transaction, block, fee } => {
            Outcome::Settled { transaction, block, fee: sum(fee, spent) }
        }
        Outcome::Failed { reason, message, transaction, fee } => {
            Outcome::Failed { reason, message, transaction, fee: sum(fee, spent) }
        }
        Outcome::Reverted { reason, message, transaction, fee } => {
            Outcome::Reverted { reason, message, transaction, fee: sum(fee, spent) }
        }
    }
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
    fn a_transaction_is_mined_for_all_of_its_payments_or_for_none() {
        let block = BlockId { number: 1, hash: "0x1".into() };
        let close =
            || Next::Close(failed(Refusal::ValidBefore.into(), Amount::ZERO), block.clone());
        let alone = || Next::Alone(Amount::ZERO);
        for agreed in [vec![close(), alone()], vec![close(), Next::Look], vec![Next::Resend]] {
            assert!(!is_contradicted(&agreed), "{agreed:?}");
        }
        for open in [|| Next::Resend, || Next::Lapsed] {
            for mined in [close(), alone()] {
                assert!(is_contradicted(&[mined.clone(), open()]));
                assert_eq!(unless_final(mined), Next::Unknown);
            }
            assert_eq!(unless_final(open()), open());
        }
    }

    #[test]
    fn looks_close_together_are_one() {
        let (start, apart) = (Instant::now(), Duration::from_millis(500));
        let mut displaced = Looks::default();
        let mut at = |ms| displaced.is_certain(start + Duration::from_millis(ms), apart);
        for ms in [5, 15, 35, 75, 155, 504, 505, 700, 1004] {
            assert!(!at(ms), "certain after {ms} ms");
        }
        assert!(at(1005));
    }
}
