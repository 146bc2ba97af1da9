//! Takes up, from the journal, what an earlier process began and did not finish.
//!
//! What was signed is sent again with the same bytes; what was only entered is looked up on the
//! chain and then signed, or closed where nothing is charged. Entries that share a transaction are taken up
//! together: its bytes are with one of them, and when that one is final already, the others are closed by
//! what the chain shows, or signed anew by themselves. The same search runs from time to time, for entries whose `enter` was
//! committed although it reported an error, or that a former holder of the lease left behind.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pay402_core::PaymentKey;
use pay402_core::journal::{Delivery, JournalError, SignedAs, Stage};
use pay402_core::network::{SecretBytes, SentAs};

use crate::desk::{Custody, Desk};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::seal::{Content, Unopened};
use crate::trace;
use crate::worker::{Crew, Flight, Job, Member, launch};

/// Unfinished entries read at a time, as a multiple of the bound on them.
const READ_FACTOR: usize = 2;

/// Why unfinished entries cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unrecovered {
    /// The journal did not answer.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The sealed bytes do not open.
    #[error(transparent)]
    Unopened(#[from] Unopened),
}

/// Takes up every unfinished entry that nobody works on. Returns how many there were, or, when all
/// others are taken up, the last error.
pub(crate) async fn recover(crew: &Crew) -> Result<usize, Unrecovered> {
    let desk = &crew.desk;
    // Two at once would each take some of what shares a transaction.
    let _alone = desk.recovering.lock().await;
    let limit = desk.options.unfinished_max.saturating_mul(READ_FACTOR);
    let unfinished = desk.journal.unfinished(&desk.id, limit).await?;
    let bytes_at: HashSet<Lane> = unfinished
        .iter()
        .filter_map(|entry| signed(&entry.stage))
        .filter(|signed| !signed.raw.is_empty())
        .map(|signed| lane(&signed.sent))
        .collect();
    let mut flights: BTreeMap<(Lane, String), Flight> = BTreeMap::new();
    let mut jobs = Vec::new();
    let mut uncharged = Vec::new();
    let mut count = 0;
    // One that cannot be taken up must not keep the others waiting.
    let mut failed = None;
    for entry in unfinished {
        match take(desk, &entry.new.key).await {
            Ok(Some(Taken::Job(job))) => jobs.push(job),
            Ok(Some(Taken::Signed(member, raw))) => {
                let name = (lane(&member.sent), member.sent.transaction.clone());
                let flight = flights.entry(name).or_default();
                flight.members.push(member);
                flight.raw = flight.raw.take().or(raw);
            }
            Ok(Some(Taken::Uncharged(custody))) => uncharged.push(custody),
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(payment = %entry.new.key, %error, "not taken up");
                failed = Some(error);
                continue;
            }
        }
        count += 1;
    }
    // Somebody here works on the entry that has the bytes: what shares its transaction waits for it.
    flights.retain(|(lane, _), flight| flight.raw.is_some() || !bytes_at.contains(lane));
    let mut flights: Vec<Flight> = flights.into_values().collect();
    for flight in &mut flights {
        flight.members.sort_by_key(|member| member.sent.part.index);
        // Before anything that is due is handed in.
        flight.berth = desk.berth(&flight.sent().signer);
    }
    if count > 0 {
        desk.options.failpoints.pass(Failpoint::AfterTakeUpBeforeLaunch).await;
    }
    if !flights.is_empty() {
        desk.spawn(launch(crew.clone(), flights));
    }
    for job in jobs {
        desk.spawn(follow::recheck(crew.clone(), job, Duration::ZERO));
    }
    for custody in uncharged {
        desk.spawn(follow::close_uncharged(crew.clone(), custody));
    }
    failed.map_or(Ok(count), Err)
}

/// A signer and a nonce.
type Lane = (String, u64);

fn lane(sent: &SentAs) -> Lane {
    (sent.signer.clone(), sent.nonce)
}

/// Searches from time to time.
pub(crate) async fn search(crew: Crew) {
    loop {
        tokio::time::sleep(crew.desk.options.rescan).await;
        match recover(&crew).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(network = %crew.desk.id, count, "took up stray entries"),
            Err(error) => tracing::warn!(network = %crew.desk.id, %error, "search failed"),
        }
    }
}

/// The recorded transaction of a stage.
pub(crate) const fn signed(stage: &Stage) -> Option<&SignedAs> {
    match stage {
        Stage::Signed(signed) | Stage::Sent(signed) => Some(signed),
        Stage::Due | Stage::Final(_) => None,
    }
}

/// Takes up one unfinished entry if nobody works on it.
pub(crate) async fn take_up(crew: &Crew, key: &PaymentKey) -> Result<(), Unrecovered> {
    match take(&crew.desk, key).await? {
        Some(Taken::Job(job)) => {
            crew.desk.spawn(follow::recheck(crew.clone(), job, Duration::ZERO));
        }
        Some(Taken::Signed(member, raw)) if raw.is_some() && member.sent.part.is_whole() => {
            let berth = crew.desk.berth(&member.sent.signer);
            let flight = Flight { members: vec![member], raw, berth, ..Flight::default() };
            crew.desk.spawn(launch(crew.clone(), vec![flight]));
        }
        // It shares its transaction with others, which are taken up with it.
        Some(Taken::Signed(member, _)) => {
            drop(member);
            recover(crew).await?;
        }
        Some(Taken::Uncharged(custody)) => {
            crew.desk.spawn(follow::close_uncharged(crew.clone(), custody));
        }
        None => {}
    }
    Ok(())
}

enum Taken {
    Job(Job),
    /// It is signed, and the bytes are here or with another entry.
    Signed(Member, Option<SecretBytes>),
    /// It has no plan, so that nothing is to be sent for it.
    Uncharged(Custody),
}

async fn take(desk: &Arc<Desk>, key: &PaymentKey) -> Result<Option<Taken>, Unrecovered> {
    // Somebody is entering it, and brings it to the worker: not left behind. Who waits for it already may have
    // failed to.
    if desk.waiters.entering(key) {
        return Ok(None);
    }
    // Entries of an earlier process count against the bound as far as there is room.
    let place = Arc::clone(&desk.places).try_acquire_owned().ok();
    let Some(mut custody) = desk.take(key, place) else { return Ok(None) };
    // Read only now: it may have been closed, and let go, since it was listed.
    let Some(entry) = desk.journal.find(key).await? else { return Ok(None) };
    if matches!(entry.stage, Stage::Final(_)) {
        return Ok(None);
    }
    if entry.delivery == Delivery::Waiting && !desk.waiters.may_be_owned(key) {
        desk.hand_over(key, Delivery::Waiting, Delivery::Owed).await?;
    }
    trace::taken_up(&custody.span);
    custody.count_for(&entry.new.payer);
    if entry.new.plan.is_empty() {
        return Ok(Some(Taken::Uncharged(custody)));
    }
    let plan = desk.sealer.open(Content::Plan, key, &entry.new.plan)?;
    custody.hold(desk.exposure.restore(key, entry.new.amount, desk.network.sources(&plan)));
    let (caller, gas) = (entry.new.entered_by.as_deref(), desk.network.gas(&plan));
    custody.earmark(desk.budgets.earmark(caller, gas));
    let expires = entry.new.expires;
    // Of a payment something is charged, or it has no plan.
    let is_errand = entry.new.amount.is_zero();
    let Some(signed) = signed(&entry.stage) else {
        return Ok(Some(Taken::Job(Job { is_errand, ..Job::new(custody, plan, expires) })));
    };
    let raw = match signed.raw.is_empty() {
        true => None,
        false => Some(desk.sealer.open(Content::Raw, key, &signed.raw)?),
    };
    let (sent, spent) = (signed.sent.clone(), signed.spent);
    Ok(Some(Taken::Signed(Member { custody, plan, expires, sent, spent, is_errand }, raw)))
}
