//! Errands: what is sent for an account without being a payment.
//!
//! An errand has an entry of its own, under a key of its own, and takes the same road as a payment:
//! entered, signed, journalled, sent, followed to its end, and taken up after a crash. What differs
//! is who may be told: an errand grants nothing, so whoever asks is told how it ended, as often as
//! it asks.

use std::sync::Arc;

use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::journal::{Entered, Entry, NewEntry, Outcome, Stage};
use pay402_core::network::{Errand, Identified, Unverified};
use pay402_core::{Amount, Digest, PaymentKey, Refusal, Refused};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::desk::{Desk, unreachable_journal};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::funds;
use crate::pulse;
use crate::recover;
use crate::run::Run;
use crate::seal::Content;
use crate::settle::{hash, refused_by};
use crate::trace;
use crate::waiters::Role;
use crate::worker::{Crew, Job};

/// Seconds in a day; the days of [`Errand::daily_max`] begin at midnight UTC.
const DAY_S: u64 = 24 * 60 * 60;
/// What stands in the place of an asset in the keys of turns.
const TURN: &str = "turn";
/// When something expires that does not: the year 2106.
const NEVER_S: u64 = u32::MAX as u64;

/// Where an errand stands for the one who asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// It is done, by this transaction.
    Done(String),
    /// It is over and was not done.
    Failed(Refused),
    /// It is not over; this transaction may do it.
    Open(Option<String>),
}

impl Ended {
    fn of(entry: &Entry) -> Self {
        match &entry.stage {
            Stage::Final(Outcome::Settled { transaction, .. }) => Self::Done(transaction.clone()),
            _ => refused_by(entry).map_or_else(|| Self::Open(hash(entry)), Self::Failed),
        }
    }
}

/// Whose room among the unfinished of its account an errand takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Room {
    /// That of the payment which waits for it.
    OfItsPayment,
    /// Its own.
    Own,
}

/// One request to send something for an account.
pub(crate) struct Request {
    pub(crate) crew: Crew,
    pub(crate) request: Map<String, Value>,
    pub(crate) identified: Identified,
    pub(crate) deadline: Instant,
}

impl Request {
    /// Carries the request out. Runs to its end whether or not the caller stays.
    ///
    /// # Errors
    /// When nothing was entered by this call.
    pub(crate) async fn run(self) -> Result<Settled, Unavailable> {
        let desk = &self.crew.desk;
        let Identified { key, fingerprint, payer } = &self.identified;
        let found = desk.journal.find(key).await.map_err(|error| unreachable_journal(&error))?;
        let ended = match found {
            Some(entry) if entry.new.fingerprint != *fingerprint => {
                let message = "another request with this authorization was taken before";
                let mut refused = Refused::new(Refusal::DuplicateSettlement, message).by(payer);
                refused.transaction = hash(&entry);
                return Ok(Settled::Refused(refused));
            }
            Some(entry) => wait(&self.crew, &entry, self.deadline).await,
            // Errands that failed at our cost count against their account, as payments do.
            None if let Some(refused) = desk.suspension(payer).await? => Ended::Failed(refused),
            None => match desk.in_time(desk.network.check_account(&self.request)).await? {
                Ok(Some(errand)) if errand.key == *key && errand.fingerprint == *fingerprint => {
                    carry_out(&self.crew, errand, self.deadline, Room::Own).await?
                }
                Ok(Some(_)) => return Err(Unavailable::new("the check", "it contradicts itself")),
                Ok(None) => Ended::Done(String::new()),
                Err(Unverified::Invalid(refused)) => Ended::Failed(refused),
                Err(Unverified::Unavailable(error)) => return Err(error),
            },
        };
        Ok(match ended {
            Ended::Done(transaction) => Settled::Done(Settlement {
                transaction,
                network: desk.id.clone(),
                payer: Some(payer.clone()),
                charged: None,
            }),
            Ended::Failed(refused) => Settled::Refused(refused),
            Ended::Open(transaction) => Settled::Pending { transaction },
        })
    }
}

/// Enters an errand unless its key was entered before, and waits for its end until `deadline`.
///
/// # Errors
/// When this call entered nothing and the journal knows nothing of it.
pub(crate) async fn carry_out(
    crew: &Crew,
    errand: Errand,
    deadline: Instant,
    room: Room,
) -> Result<Ended, Unavailable> {
    let desk = &crew.desk;
    let key = errand.key.clone();
    if let Some(entry) =
        desk.journal.find(&key).await.map_err(|error| unreachable_journal(&error))?
    {
        return Ok(wait(crew, &entry, deadline).await);
    }
    if let Some(refused) = enter(crew, errand, room).await? {
        return Ok(Ended::Failed(refused));
    }
    match desk.journal.find(&key).await {
        Ok(Some(entry)) => Ok(wait(crew, &entry, deadline).await),
        Ok(None) | Err(_) => Ok(Ended::Open(None)),
    }
}

/// Enters an errand and hands it to the worker. Says why it is not entered, if it is not.
async fn enter(crew: &Crew, errand: Errand, room: Room) -> Result<Option<Refused>, Unavailable> {
    let desk = &crew.desk;
    let what = || format!("settling on {}", desk.id);
    if desk.run() != Run::Settling {
        return Err(Unavailable::new(what(), "it is stopping"));
    }
    funds::check(desk)?;
    pulse::check(desk)?;
    desk.pass_breaker()?;
    let place = Arc::clone(&desk.places)
        .try_acquire_owned()
        .map_err(|_| Unavailable::new(what(), "too many are unfinished"))?;
    let Errand { key, fingerprint, account, expires, plan, daily_max } = errand;
    // Held until the entry is in hand, where it is counted in its own right.
    let _share =
        match room {
            Room::OfItsPayment => None,
            Room::Own => Some(desk.try_share(&account, &key).ok_or_else(|| {
                Unavailable::new(what(), "too much is unfinished for this account")
            })?),
        };
    if let Some(max) = daily_max
        && !take_turn(crew, &key, &account, max).await?
    {
        return Ok(Some(Refused::from(Refusal::SponsoringLimit).by(account)));
    }
    let sealed = desk.sealer.seal(Content::Plan, &key, &plan)?;
    let new = new_entry(desk, (key.clone(), fingerprint), &account, sealed, expires.0);
    match desk.journal.enter(new).await {
        Ok(Entered::New) => desk.bell.ring(),
        Ok(Entered::Known(_)) => return Ok(None),
        // It may have been entered all the same; then it is carried out, by us or later.
        Err(error) => {
            return match desk.journal.find(&key).await {
                Ok(None) => Err(unreachable_journal(&error)),
                Ok(Some(_)) | Err(_) => Ok(None),
            };
        }
    }
    desk.options.failpoints.pass(Failpoint::AfterEnter).await;
    tracing::info!(errand = %key, "entered");
    if let Some(mut custody) = desk.take(&key, Some(place)) {
        trace::entered(&custody.span);
        custody.count_for(&account);
        // A worker that is gone leaves the entry to its successor.
        _ = crew.inbox.send(Job::errand(custody, plan, expires)).await;
    }
    Ok(None)
}

/// Takes one of the turns that an account has in a day, durably: each is an entry that ends at once.
/// `false` when none is left. Errands and payments that adopt share them.
pub(crate) async fn take_turn(
    crew: &Crew,
    key: &PaymentKey,
    account: &str,
    max: u32,
) -> Result<bool, Unavailable> {
    let desk = &crew.desk;
    let day = desk.clock.now().0 / DAY_S;
    let fingerprint = Digest::of(&[key.as_str().as_bytes()]);
    for turn in 0..max {
        let name = PaymentKey::new(&desk.id, TURN, account, &format!("{day}/{turn}"));
        let new = new_entry(desk, (name.clone(), fingerprint), account, Vec::new(), 0);
        match desk.journal.enter(new).await.map_err(|error| unreachable_journal(&error))? {
            Entered::New => {
                desk.bell.ring();
                if let Some(custody) = desk.take(&name, None) {
                    desk.spawn(follow::close_uncharged(crew.clone(), custody));
                }
                desk.options.failpoints.pass(Failpoint::AfterTurnBeforeEnter).await;
                return Ok(true);
            }
            // Taken for this very errand before a crash.
            Entered::Known(entry) if entry.new.fingerprint == fingerprint => return Ok(true),
            Entered::Known(_) => {}
        }
    }
    Ok(false)
}

/// Whether a key is that of a turn. Whoever takes one asks for those of the day alone.
pub(crate) fn is_turn(key: &PaymentKey) -> bool {
    key.asset() == TURN
}

/// The entry of a cancellation for one of our signers.
pub(crate) fn cancelling(desk: &Desk, key: &PaymentKey, signer: &str, plan: Vec<u8>) -> NewEntry {
    let fingerprint = Digest::of(&[key.as_str().as_bytes()]);
    new_entry(desk, (key.clone(), fingerprint), signer, plan, NEVER_S)
}

fn new_entry(
    desk: &Desk,
    (key, fingerprint): (PaymentKey, Digest),
    account: &str,
    plan: Vec<u8>,
    expires_s: u64,
) -> NewEntry {
    NewEntry {
        key,
        fingerprint,
        network: desk.id.clone(),
        payer: account.to_owned(),
        // No payment is collected.
        amount: Amount::ZERO,
        expires: pay402_core::time::UnixTime(expires_s),
        caller: None,
        entered_by: None,
        plan,
        entered_at: desk.clock.now(),
    }
}

/// Waits until the entry is final, at most until `deadline`.
async fn wait(crew: &Crew, entry: &Entry, deadline: Instant) -> Ended {
    let desk = &crew.desk;
    let key = &entry.new.key;
    if matches!(entry.stage, Stage::Final(_)) {
        return Ended::of(entry);
    }
    if !desk.in_hand(key)
        && let Err(error) = recover::take_up(crew, key).await
    {
        tracing::warn!(errand = %key, %error, "not taken up");
    }
    let Some(mut ticket) = desk.waiters.take(key, Role::Follower) else {
        return Ended::of(entry);
    };
    // Closed before we sat down: nobody would tell us.
    match desk.journal.find(key).await {
        Ok(Some(now)) if matches!(now.stage, Stage::Final(_)) => return Ended::of(&now),
        _ => {}
    }
    let told = tokio::select! {
        biased;
        outcome = ticket.outcome() => outcome,
        () = desk.halted() => None,
        () = tokio::time::sleep_until(deadline) => None,
    };
    match told {
        Some(entry) => Ended::of(&entry),
        None => match desk.journal.find(key).await {
            Ok(Some(now)) => Ended::of(&now),
            Ok(None) | Err(_) => Ended::of(entry),
        },
    }
}
