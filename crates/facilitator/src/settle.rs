//! One settle call: from the journal's memory to the answer of this one caller.
//!
//! **Invariant: at most one success.** There are two kinds of entries, and they never mix:
//! - *keyed* (entered with caller keys): only a caller with the same keys is ever told of the
//!   success, as often as it asks;
//! - *unkeyed*: whoever moves the journal from `Waiting` or `Owed` to `Delivered` is told, and
//!   nobody else. The only way back is a [`Receipt`] dropped unread, which proves that this one
//!   answer reached nobody.
//!
//! **Invariant: one charge.** An entry holds what is charged, and nothing else is ever collected
//! of its authorization. A charge of zero is final like any other: it has its entry, but no plan
//! and no transaction.

use std::sync::Arc;
use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::journal::{Delivery, Entered, Entry, JournalError, NewEntry, Outcome, Stage};
use pay402_core::network::{Identified, Prerequisite, Unverified, Verified};
use pay402_core::refusal::Reason;
use pay402_core::{Digest, Payment, PaymentKey, Refusal, Refused};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::desk::{Desk, unreachable_journal};
use crate::errand::{self, Ended, Room};
use crate::exposure::{self, Firm};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::funds;
use crate::pulse;
use crate::recover;
use crate::restored;
use crate::run::Run;
use crate::scribe::told_by_close;
use crate::seal::Content;
use crate::trace;
use crate::waiters::{Role, Ticket};
use crate::worker::{Crew, Job};

/// How often a call looks again when others changed the entry under its eyes.
const LOOKS_MAX: usize = 8;
const TOO_MANY: &str = "too many unfinished settlements of this payer";
/// Most things that a payment waits for before it is entered.
const ERRANDS_MAX: usize = 4;
/// How long a call that is too late to hand over waits for the outcome that overtook it.
const OVERTAKEN: Duration = Duration::from_secs(5);

/// An answer on its way to the caller.
pub(crate) struct Answer {
    settled: Settled,
    receipt: Option<Receipt>,
}

impl Answer {
    /// The caller has it now.
    pub(crate) fn received(mut self) -> Settled {
        if let Some(receipt) = &mut self.receipt {
            receipt.unread = false;
        }
        self.settled
    }
}

impl From<Settled> for Answer {
    fn from(settled: Settled) -> Self {
        Self { settled, receipt: None }
    }
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        Settled::Refused(refused).into()
    }
}

/// Travels with the one success of an unkeyed entry. Dropped unread, it gives the success back to
/// the journal, to be told to the next one who asks.
struct Receipt {
    desk: Arc<Desk>,
    key: PaymentKey,
    unread: bool,
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.unread || self.desk.run() == Run::Crashed {
            return;
        }
        let (desk, key) = (Arc::clone(&self.desk), self.key.clone());
        // Without a runtime the process is ending: the answer is lost, but never given twice.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let back = desk.give_up(&key, Delivery::Delivered, Delivery::Owed).await;
                tracing::info!(payment = %key, given_back = ?back.is_ok(), "answer not delivered");
            });
        }
    }
}

/// One settle call.
pub(crate) struct Call {
    pub(crate) crew: Crew,
    pub(crate) caller: Option<Digest>,
    pub(crate) entered_by: Option<String>,
    pub(crate) payment: Payment,
    pub(crate) identified: Identified,
    pub(crate) deadline: Instant,
}

/// Tells when the caller is gone, and takes the answer.
pub(crate) type Reply = oneshot::Sender<Result<Answer, Unavailable>>;

enum Step {
    Answer(Answer),
    /// The entry changed meanwhile: look again.
    Again,
}

impl Call {
    /// Settles. Runs to its end whether or not the caller stays.
    pub(crate) async fn run(self, mut reply: Reply) {
        let answer = self.settle(&mut reply).await;
        let key = &self.identified.key;
        match &answer {
            Ok(answer) => match &answer.settled {
                Settled::Done(done) => {
                    tracing::info!(payment = %key, transaction = done.transaction, "told settled");
                }
                Settled::Refused(refused) => {
                    tracing::info!(payment = %key, reason = refused.reason.code(), "told refused");
                }
                Settled::Pending { transaction } => {
                    tracing::info!(payment = %key, transaction, "told pending");
                }
            },
            Err(error) => tracing::warn!(payment = %key, %error, "told unavailable"),
        }
        // An answer that is not taken is dropped here or by the channel, and its receipt with it.
        _ = reply.send(answer);
    }

    async fn settle(&self, reply: &mut Reply) -> Result<Answer, Unavailable> {
        let desk = &self.crew.desk;
        let key = &self.identified.key;
        let mut known = match desk.journal.find(key).await {
            Ok(found) => found,
            Err(_) if desk.in_hand(key) => return Ok(pending(None)),
            Err(error) => return Err(unreachable_journal(&error)),
        };
        for _ in 0..LOOKS_MAX {
            let step = match &known {
                None => self.first(reply).await?,
                Some(entry) => self.known(entry, reply).await,
            };
            match step {
                Step::Answer(answer) => return Ok(answer),
                Step::Again => {}
            }
            known = match desk.journal.find(key).await {
                Ok(found) => found,
                Err(_) => return Ok(pending(known.as_ref())),
            };
        }
        Ok(pending(known.as_ref()))
    }

    /// The payment is not in the journal: verify it, enter it, wait for it.
    async fn first(&self, reply: &mut Reply) -> Result<Step, Unavailable> {
        let desk = &self.crew.desk;
        if desk.run() != Run::Settling {
            return Err(Unavailable::new(format!("settling on {}", desk.id), "it is stopping"));
        }
        funds::check(desk)?;
        pulse::check(desk)?;
        desk.check_breaker()?;
        let place = Arc::clone(&desk.places).try_acquire_owned().map_err(|_| {
            Unavailable::new(format!("settling on {}", desk.id), "too many are unfinished")
        })?;
        if let Some(refused) = desk.caller_suspension(self.entered_by.as_deref()) {
            return self.refused_or_known(refused).await;
        }
        if let Some(refused) = desk.budget_spent(self.entered_by.as_deref()).await? {
            return self.refused_or_known(refused).await;
        }
        if let Some(refused) = desk.suspension(&self.identified.payer).await? {
            return self.refused_or_known(refused).await;
        }
        let mut share = None;
        let mut done: Vec<PaymentKey> = Vec::new();
        let mut failed: Option<(PaymentKey, Refused)> = None;
        let mut overdrawn = 0;
        for _ in 0..ERRANDS_MAX + exposure::LOOKS_MAX {
            let since = Instant::now();
            let mut verified = match desk.in_time(desk.network.verify(&self.payment)).await? {
                Ok(verified) => verified,
                Err(Unverified::Invalid(refused)) => return self.refused_or_known(refused).await,
                Err(Unverified::Unavailable(error)) => return Err(error),
            };
            if verified.key != self.identified.key
                || verified.fingerprint != self.identified.fingerprint
            {
                tracing::error!(payment = %verified.key, "verified another payment than identified");
                return Err(Unavailable::new("verification", "it contradicts itself"));
            }
            let Some(Prerequisite { errand, in_vain }) = verified.first.take() else {
                let charge = self.payment.charge();
                match desk.exposure.reserve(&verified, charge, since, Instant::now()) {
                    Ok(firm) => return self.enter(verified, firm, place, reply).await,
                    Err(short) if short.may_pass() && overdrawn + 1 < exposure::LOOKS_MAX => {
                        overdrawn += 1;
                        tokio::time::sleep(exposure::LOOK_AGAIN).await;
                        continue;
                    }
                    Err(short) => {
                        return self.refused_or_known(short.refuse(&verified.payer)).await;
                    }
                }
            };
            // Who waits counts too, so that one payer does not take every place.
            if share.is_none() {
                share = desk.try_share(&verified.payer, &verified.key);
            }
            if share.is_none() {
                return Err(Unavailable::new(format!("settling on {}", desk.id), TOO_MANY));
            }
            let errand_key = errand.key.clone();
            if done.contains(&errand_key) {
                return Ok(Step::Answer(in_vain.into()));
            }
            tracing::info!(payment = %self.identified.key, errand = %errand_key, "waits for an errand");
            if let Some((_, refused)) = failed.take_if(|(key, _)| *key == errand_key) {
                return Ok(Step::Answer(refused.into()));
            }
            match errand::carry_out(&self.crew, errand, self.deadline, Room::OfItsPayment).await? {
                Ended::Done(_) => done.push(errand_key),
                // Another errand may have done what this one did not.
                Ended::Failed(refused) => failed = Some((errand_key, refused)),
                Ended::Open(_) => return Ok(Step::Answer(pending(None))),
            }
            desk.options.failpoints.pass(Failpoint::AfterErrandBeforePayment).await;
        }
        Ok(Step::Answer(pending(None)))
    }

    /// Refused; by the chain perhaps because a copy of it was settled since we looked.
    async fn refused_or_known(&self, refused: Refused) -> Result<Step, Unavailable> {
        match self.crew.desk.journal.find(&self.identified.key).await {
            Ok(None) => Ok(Step::Answer(refused.into())),
            Ok(Some(_)) => Ok(Step::Again),
            Err(error) => Err(unreachable_journal(&error)),
        }
    }

    async fn enter(
        &self,
        verified: Verified,
        firm: Firm,
        place: OwnedSemaphorePermit,
        reply: &mut Reply,
    ) -> Result<Step, Unavailable> {
        let desk = &self.crew.desk;
        let key = &verified.key;
        let payer = verified.payer.clone();
        // Held until the entry is in hand, where it is counted in its own right.
        let Some(_share) = desk.try_share(&payer, key) else {
            return Err(Unavailable::new(format!("settling on {}", desk.id), TOO_MANY));
        };
        let gas = match self.payment.charge().is_zero() {
            true => 0,
            false => desk.network.gas(&verified.plan),
        };
        let earmark = match desk.earmark(self.entered_by.as_deref(), gas).await? {
            Ok(earmark) => earmark,
            Err(refused) => return self.refused_or_known(refused).await,
        };
        desk.pass_breaker()?;
        if let Some(max) = verified.daily_max
            && !errand::take_turn(&self.crew, key, &payer, max).await?
        {
            return Ok(Step::Answer(Refused::from(Refusal::SponsoringLimit).by(payer).into()));
        }
        let charge = self.payment.charge();
        let new = NewEntry {
            key: key.clone(),
            fingerprint: verified.fingerprint,
            network: desk.id.clone(),
            payer: verified.payer,
            amount: charge,
            expires: verified.expires,
            caller: self.caller,
            entered_by: self.entered_by.clone(),
            plan: match charge.is_zero() {
                // What is not there cannot be carried out by mistake.
                true => Vec::new(),
                false => desk.sealer.seal(Content::Plan, key, &verified.plan)?,
            },
            entered_at: desk.clock.now(),
        };
        // The seat is taken before the entry is visible, so that whoever closes it finds us.
        let Some(ticket) = desk.waiters.take(key, Role::Entering) else {
            return Ok(Step::Answer(pending(None)));
        };
        match desk.journal.enter(new).await {
            Ok(Entered::New) => desk.bell.ring(),
            Ok(Entered::Known(_)) => return Ok(Step::Again),
            Err(error) => {
                // It may have been entered all the same; then it is settled, by us or later.
                return match desk.journal.find(key).await {
                    Ok(None) => Err(unreachable_journal(&error)),
                    Ok(Some(_)) => Ok(Step::Again),
                    Err(_) => Ok(Step::Answer(pending(None))),
                };
            }
        }
        desk.options.failpoints.pass(Failpoint::AfterEnter).await;
        ticket.own();
        tracing::info!(payment = %key, "entered");
        if let Some(mut custody) = desk.take(key, Some(place)) {
            trace::entered(&custody.span);
            custody.count_for(&payer);
            custody.hold(firm);
            custody.earmark(earmark);
            let (plan, expires) = (verified.plan, verified.expires);
            if charge.is_zero() {
                desk.spawn(follow::close_uncharged(self.crew.clone(), custody));
            } else {
                // A worker that is gone leaves the entry to its successor.
                let job = Job::new(custody, plan, expires);
                _ = self.crew.inbox.send(job).await;
            }
        }
        Ok(self.wait_as_owner(ticket, reply).await)
    }

    /// The payment is in the journal already.
    async fn known(&self, entry: &Entry, reply: &mut Reply) -> Step {
        if entry.new.fingerprint != self.identified.fingerprint {
            // Somebody else's payment with our key: its hash is public once it is settled.
            return Step::Answer(duplicate(entry, settled_hash(entry)));
        }
        match (&entry.stage, entry.new.caller) {
            (Stage::Final(Outcome::Failed { .. } | Outcome::Reverted { .. }), _) => {
                Step::Answer(failed_again(entry))
            }
            // Whatever this caller would like to charge, the first charge stands.
            _ if entry.new.amount != self.payment.charge() => {
                Step::Answer(duplicate(entry, hash(entry)))
            }
            (_, Some(caller)) if self.caller != Some(caller) => {
                Step::Answer(duplicate(entry, hash(entry)))
            }
            (_, None) if !matches!(self.may_have_been_told(entry).await, Ok(false)) => {
                Step::Answer(duplicate(entry, hash(entry)))
            }
            (Stage::Final(Outcome::Settled { .. }), Some(_)) => self.tell_again(entry).await,
            (Stage::Final(Outcome::Settled { .. }), None) => self.collect(entry).await,
            (_, Some(_)) => self.wait_as_follower(entry, reply).await,
            (_, None) => self.wait_for_owed(entry, reply).await,
        }
    }

    async fn may_have_been_told(&self, entry: &Entry) -> Result<bool, Unavailable> {
        restored::may_have_been_told(&self.crew.desk, entry).await
    }

    /// A settled, unkeyed entry: told to whoever gets it from `Owed` to `Delivered`.
    async fn collect(&self, entry: &Entry) -> Step {
        let desk = &self.crew.desk;
        let key = &entry.new.key;
        match entry.delivery {
            Delivery::Delivered => Step::Answer(duplicate(entry, hash(entry))),
            Delivery::Waiting if desk.waiters.may_be_owned(key) => {
                Step::Answer(duplicate(entry, hash(entry)))
            }
            // Nobody waits: the one who did could not write that it left.
            Delivery::Waiting => {
                self.changed(entry, desk.hand_over(key, Delivery::Waiting, Delivery::Owed).await)
            }
            Delivery::Owed => {
                desk.waiters.unseat_owner(key);
                match desk.hand_over(key, Delivery::Owed, Delivery::Delivered).await {
                    Ok(true) => {
                        let failpoints = &desk.options.failpoints;
                        failpoints.pass(Failpoint::AfterCollectBeforeAnswer).await;
                        Step::Answer(self.done_once(entry))
                    }
                    other => self.changed(entry, other),
                }
            }
        }
    }

    /// An unfinished, unkeyed entry: one caller at a time waits for it.
    async fn wait_for_owed(&self, entry: &Entry, reply: &mut Reply) -> Step {
        let desk = &self.crew.desk;
        let key = &entry.new.key;
        if desk.waiters.may_be_owned(key) {
            return Step::Answer(duplicate(entry, hash(entry)));
        }
        match entry.delivery {
            Delivery::Delivered => Step::Answer(duplicate(entry, hash(entry))),
            Delivery::Waiting => {
                let left = desk.hand_over(key, Delivery::Waiting, Delivery::Owed).await;
                self.changed(entry, left)
            }
            Delivery::Owed => {
                self.ensure_worked_on(key).await;
                let Some(ticket) = desk.waiters.take(key, Role::Entering) else {
                    return Step::Answer(pending(Some(entry)));
                };
                let seated = desk.hand_over(key, Delivery::Owed, Delivery::Waiting).await;
                desk.options.failpoints.pass(Failpoint::AfterSeatBeforeWait).await;
                match seated {
                    Ok(true) => ticket.own(),
                    other => return self.changed(entry, other),
                }
                // Closed before we sat down: nobody would tell us. Closed since, it was closed for us, and
                // the scribe's word is on its way: nobody else would be told.
                match desk.journal.find(key).await {
                    Ok(Some(now)) if is_final(&now) && !told_by_close(&now) => Step::Again,
                    _ => self.wait_as_owner(ticket, reply).await,
                }
            }
        }
    }

    /// The same request again, proven by its keys, while the first still waits.
    async fn wait_as_follower(&self, entry: &Entry, reply: &mut Reply) -> Step {
        let desk = &self.crew.desk;
        let key = &entry.new.key;
        self.ensure_worked_on(key).await;
        let Some(mut ticket) = desk.waiters.take(key, Role::Follower) else {
            return Step::Answer(pending(Some(entry)));
        };
        match desk.journal.find(key).await {
            Ok(Some(now)) if is_final(&now) => return Step::Again,
            _ => {}
        }
        tokio::select! {
            biased;
            outcome = ticket.outcome() => match outcome {
                Some(_) => Step::Again,
                None => Step::Answer(pending(Some(entry))),
            },
            () = desk.halted() => Step::Answer(pending(Some(entry))),
            () = tokio::time::sleep_until(self.deadline) => Step::Answer(self.pending_now().await),
            () = reply.closed() => Step::Answer(pending(Some(entry))),
        }
    }

    async fn wait_as_owner(&self, mut ticket: Ticket, reply: &mut Reply) -> Step {
        let desk = &self.crew.desk;
        let key = &self.identified.key;
        let told = tokio::select! {
            biased;
            outcome = ticket.outcome() => Some(outcome),
            () = desk.halted() => Some(None),
            () = tokio::time::sleep_until(self.deadline) => None,
            () = reply.closed() => None,
        };
        if let Some(Some(entry)) = told {
            return self.told(&entry);
        }
        let dismissed = told.is_some();
        let handed_over = desk.give_up(key, Delivery::Waiting, Delivery::Owed).await;
        if let Err(error) = &handed_over {
            tracing::warn!(payment = %key, %error, "not handed over");
        }
        match handed_over {
            // It was closed for us just now, or may be in this moment, as long as the journal does not say
            // that we have left; only the scribe's word says so for certain.
            Ok(false) | Err(_) if !dismissed => {
                match tokio::time::timeout(OVERTAKEN, ticket.outcome()).await {
                    Ok(Some(entry)) => self.told(&entry),
                    Ok(None) => Step::Answer(self.pending_now().await),
                    Err(_) => {
                        // Not closed at all: somebody else wrote that we have left.
                        let is_open = |entry: &Entry| !is_final(entry);
                        let found = desk.journal.find(key).await;
                        if handed_over.is_ok()
                            && !matches!(&found, Ok(Some(entry)) if is_open(entry))
                        {
                            self.give_back(ticket);
                        }
                        Step::Answer(self.pending_now().await)
                    }
                }
            }
            Ok(_) => {
                desk.options.failpoints.pass(Failpoint::AfterLeaveBeforePending).await;
                Step::Answer(self.pending_now().await)
            }
            Err(_) => Step::Answer(pending(None)),
        }
    }

    /// The journal says that the entry is closed for us, and the scribe does not say so in time: when it does,
    /// the success is for the next one who asks.
    fn give_back(&self, mut ticket: Ticket) {
        let (desk, key) = (Arc::clone(&self.crew.desk), self.identified.key.clone());
        self.crew.desk.spawn(async move {
            let closed = ticket.outcome().await;
            let is_success = |entry: &Entry| {
                matches!(entry.stage, Stage::Final(Outcome::Settled { .. }))
                    && told_by_close(entry)
                    && entry.new.caller.is_none()
            };
            if closed.is_some_and(|entry| is_success(&entry)) {
                drop(Receipt { desk, key, unread: true });
            }
        });
    }

    /// The scribe told us, the one who waits, how the entry was closed.
    fn told(&self, entry: &Entry) -> Step {
        match &entry.stage {
            Stage::Final(Outcome::Settled { .. }) if told_by_close(entry) => {
                Step::Answer(self.done_once(entry))
            }
            Stage::Final(Outcome::Failed { .. } | Outcome::Reverted { .. }) => {
                Step::Answer(failed_again(entry))
            }
            _ => Step::Again,
        }
    }

    /// A success that only this answer carries, unless keys prove a repeat.
    fn done_once(&self, entry: &Entry) -> Answer {
        let desk = Arc::clone(&self.crew.desk);
        let receipt = || Receipt { desk, key: entry.new.key.clone(), unread: true };
        let settled = self.done(entry);
        Answer { settled, receipt: entry.new.caller.is_none().then(receipt) }
    }

    /// A success told to the same request again. Nobody without these keys is told either way; and yet not
    /// before the journal says that it was: should it be undone, it is a loss.
    async fn tell_again(&self, entry: &Entry) -> Step {
        if entry.delivery == Delivery::Delivered {
            return Step::Answer(self.done(entry).into());
        }
        let desk = &self.crew.desk;
        match desk.give_up(&entry.new.key, entry.delivery, Delivery::Delivered).await {
            Ok(true) => Step::Answer(self.done(entry).into()),
            other => self.changed(entry, other),
        }
    }

    fn done(&self, entry: &Entry) -> Settled {
        let metered = self.payment.terms().scheme.has_ceiling();
        Settled::Done(Settlement {
            transaction: hash(entry).unwrap_or_default(),
            network: entry.new.network.clone(),
            payer: Some(entry.new.payer.clone()),
            charged: metered.then_some(entry.new.amount),
        })
    }

    /// Makes sure that somebody settles an entry that we are about to wait for.
    async fn ensure_worked_on(&self, key: &PaymentKey) {
        if !self.crew.desk.in_hand(key)
            && let Err(error) = recover::take_up(&self.crew, key).await
        {
            tracing::warn!(payment = %key, %error, "not taken up");
        }
    }

    fn changed(&self, entry: &Entry, moved: Result<bool, JournalError>) -> Step {
        match moved {
            Ok(_) => Step::Again,
            Err(error) => {
                tracing::warn!(payment = %entry.new.key, %error, "delivery unknown");
                Step::Answer(pending(Some(entry)))
            }
        }
    }

    async fn pending_now(&self) -> Answer {
        let found = self.crew.desk.journal.find(&self.identified.key).await;
        pending(found.ok().flatten().as_ref())
    }
}

const fn is_final(entry: &Entry) -> bool {
    matches!(entry.stage, Stage::Final(_))
}

fn pending(entry: Option<&Entry>) -> Answer {
    Settled::Pending { transaction: entry.and_then(hash) }.into()
}

fn duplicate(entry: &Entry, transaction: Option<String>) -> Answer {
    let mut refused = Refused::from(Refusal::DuplicateSettlement);
    refused.transaction = transaction;
    if entry.new.caller.is_none() || refused.transaction.is_some() {
        refused.payer = Some(entry.new.payer.clone());
    }
    refused.into()
}

fn failed_again(entry: &Entry) -> Answer {
    refused_by(entry).map_or_else(|| pending(Some(entry)), Answer::from)
}

/// The refusal with which an entry ended; `None` for one that did not fail.
pub(crate) fn refused_by(entry: &Entry) -> Option<Refused> {
    let (reason, message, transaction) = match &entry.stage {
        Stage::Final(Outcome::Failed { reason, message, transaction, .. }) => {
            (Reason::parse(reason), message.clone(), transaction)
        }
        Stage::Final(Outcome::Reverted { message, transaction, .. }) => {
            let reverted = Refusal::SettlementReverted;
            (reverted.into(), format!("{}: {message}", reverted.describe()), transaction)
        }
        Stage::Final(Outcome::Settled { .. }) | Stage::Due | Stage::Signed(_) | Stage::Sent(_) => {
            return None;
        }
    };
    Some(Refused {
        reason,
        message,
        payer: Some(entry.new.payer.clone()),
        transaction: transaction.clone(),
    })
}

fn settled_hash(entry: &Entry) -> Option<String> {
    match &entry.stage {
        Stage::Final(Outcome::Settled { .. }) => hash(entry),
        _ => None,
    }
}

/// The transaction that moved, or may move, the money; none where nothing was charged.
pub(crate) fn hash(entry: &Entry) -> Option<String> {
    match &entry.stage {
        Stage::Due => None,
        Stage::Signed(signed) | Stage::Sent(signed) => Some(signed.sent.transaction.clone()),
        Stage::Final(Outcome::Settled { transaction, .. }) => {
            Some(transaction.clone()).filter(|transaction| !transaction.is_empty())
        }
        Stage::Final(
            Outcome::Failed { transaction, .. } | Outcome::Reverted { transaction, .. },
        ) => transaction.clone(),
    }
}
