//! The worker of one network: gives due payments a signer and a nonce, signs them, has the bytes
//! journalled, and only then sends.
//!
//! **Invariants:** nonces of a signer are given out in one place, here, without gaps; nothing is
//! sent before its signed bytes are in the journal; a nonce that may have been recorded is never
//! given out again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use pay402_core::error::Unavailable;
use pay402_core::journal::{Event, SignedAs};
use pay402_core::network::{SecretBytes, SentAs};
use pay402_core::time::UnixTime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::desk::{Custody, Desk, LaneHealth};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::scribe::{Scribe, Unwritten};
use crate::seal::Content;

/// Payments signed and journalled together.
const BATCH_MAX: usize = 64;
/// Transactions that are being sent at a time.
const SEND_CONCURRENCY: usize = 16;
/// Transactions that are being signed at a time; each looks at the chain, many of them together.
const SIGN_CONCURRENCY: usize = BATCH_MAX;
/// Pause before a payment that could not be signed is looked at again; it doubles.
pub(crate) const SIGN_RETRY: Duration = Duration::from_millis(500);
/// Longest pause before a payment that could not be signed is looked at again.
const SIGN_RETRY_MAX: Duration = Duration::from_secs(8);
/// How often a batch is signed: once, and again what lay behind one that could not be.
const SIGN_PASSES: usize = 2;
/// Most missing nonces that are used again.
const GAP_MAX: u64 = 4096;

/// A payment that has to be signed.
pub(crate) struct Job {
    pub(crate) custody: Custody,
    pub(crate) plan: SecretBytes,
    pub(crate) expires: UnixTime,
    /// The transaction that was signed for it before and can never be mined.
    pub(crate) displaced: Option<SentAs>,
    /// How often in a row it could not be signed.
    pub(crate) failures: u32,
}

impl Job {
    /// How long to let it rest after its failures.
    fn rest(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        SIGN_RETRY.saturating_mul(1 << doublings).min(SIGN_RETRY_MAX)
    }
}

/// A payment whose transaction is signed and journalled.
pub(crate) struct Flight {
    pub(crate) custody: Custody,
    pub(crate) plan: SecretBytes,
    pub(crate) expires: UnixTime,
    pub(crate) sent: SentAs,
    pub(crate) raw: SecretBytes,
}

/// The parts of a running worker that its tasks need.
#[derive(Clone)]
pub(crate) struct Crew {
    pub(crate) desk: Arc<Desk>,
    pub(crate) scribe: Scribe,
    pub(crate) inbox: mpsc::Sender<Job>,
}

/// Starts the worker and returns the way to it.
pub(crate) fn start(desk: &Arc<Desk>, scribe: Scribe) -> Crew {
    let (inbox, jobs) = mpsc::channel(desk.options.unfinished_max.max(1));
    let crew = Crew { desk: Arc::clone(desk), scribe, inbox };
    let lane = |index| Lane {
        index,
        next: None,
        spare: VecDeque::new(),
        rest_until: None,
        seen: 0,
        gap_since: None,
    };
    let lanes = (0..desk.lanes.len()).map(lane).collect();
    let worker = Worker { crew: crew.clone(), lanes, turn: 0 };
    desk.spawn(worker.run(jobs));
    crew
}

/// Sends signed transactions in the order given and follows each to its end.
pub(crate) async fn launch(crew: Crew, flights: Vec<Flight>) {
    let crew = &crew;
    stream::iter(flights)
        .for_each_concurrent(SEND_CONCURRENCY, |flight| async move {
            let first = follow::send(crew, &flight).await;
            crew.desk.spawn(follow::follow(crew.clone(), flight, first));
        })
        .await;
}

/// One signer and its nonces.
struct Lane {
    index: usize,
    /// The next nonce; `None` while it has to be asked for.
    next: Option<u64>,
    /// Nonces below `next` that the chain misses and nobody holds bytes for, ascending.
    spare: VecDeque<u64>,
    rest_until: Option<Instant>,
    /// How many refusals in a row were accounted for in `rest_until`.
    seen: u32,
    gap_since: Option<Instant>,
}

struct Worker {
    crew: Crew,
    lanes: Vec<Lane>,
    turn: usize,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            let mut batch = vec![job];
            while batch.len() < BATCH_MAX
                && let Ok(job) = jobs.try_recv()
            {
                batch.push(job);
            }
            // What could not be signed before probably cannot be now: it goes by itself, so that
            // nothing good is ever behind it.
            let (again, fresh): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|job| job.failures > 0);
            for batch in [fresh, again] {
                if !batch.is_empty() {
                    self.carry_out(batch).await;
                }
            }
        }
    }

    async fn carry_out(&mut self, batch: Vec<Job>) {
        let desk = Arc::clone(&self.crew.desk);
        let signed = self.sign_gapless(batch).await;
        let mut flights = Vec::with_capacity(signed.len());
        let mut changes = Vec::with_capacity(signed.len());
        for (job, signed, raw) in signed {
            changes.push((job.custody.key.clone(), Event::Signed(signed.clone())));
            let Job { custody, plan, expires, .. } = job;
            flights.push(Flight { custody, plan, expires, sent: signed.sent, raw });
        }
        if flights.is_empty() {
            return;
        }
        desk.options.failpoints.pass(Failpoint::AfterSignBeforeJournal).await;
        let written = self.crew.scribe.write(changes).await;
        desk.options.failpoints.pass(Failpoint::AfterJournalBeforeSend).await;
        let mut ready = Vec::with_capacity(flights.len());
        for (flight, written) in flights.into_iter().zip(written) {
            match written {
                Ok(_) => ready.push(flight),
                Err(Unwritten::Stopped) => return,
                // The nonce was not recorded, so later ones would wait for it in vain.
                Err(Unwritten::Forbidden(_)) => self.forget_nonces(&flight.sent.signer),
            }
        }
        desk.spawn(launch(self.crew.clone(), ready));
    }

    /// Signs a batch with nonces that have no gap. What is left over is handed in again.
    async fn sign_gapless(&mut self, batch: Vec<Job>) -> Vec<Ready> {
        let desk = Arc::clone(&self.crew.desk);
        // Before any nonce of this batch is handed out: one that is learnt anew knows nothing of
        // those that are not recorded yet.
        for lost in batch.iter().filter_map(|job| job.displaced.as_ref()) {
            self.forget_nonces(&lost.signer);
        }
        let mut ready = Vec::with_capacity(batch.len());
        let mut batch = self.pass_signed(batch, &mut ready);
        for _ in 0..SIGN_PASSES {
            let planned = self.plan(batch).await;
            let tried = sign_all(&desk, planned).await;
            batch = self.keep_gapless(tried, &mut ready);
            if batch.is_empty() {
                break;
            }
        }
        for job in batch {
            let crew = self.crew.clone();
            desk.spawn(async move { follow::hand_in(&crew, job).await });
        }
        ready
    }

    /// Passes on what somebody else signed, which needs no nonce of ours. The others are returned.
    fn pass_signed(&self, batch: Vec<Job>, ready: &mut Vec<Ready>) -> Vec<Job> {
        let desk = &self.crew.desk;
        let mut others = Vec::with_capacity(batch.len());
        for mut job in batch {
            let late = desk.clock.now() >= job.expires;
            let Some((sent, raw)) = desk.network.signed_elsewhere(&job.plan).filter(|_| !late)
            else {
                others.push(job);
                continue;
            };
            match desk.sealer.seal(Content::Raw, &job.custody.key, &raw) {
                Ok(sealed) => ready.push((job, SignedAs { sent, raw: sealed }, raw)),
                Err(error) => {
                    tracing::warn!(payment = %job.custody.key, %error, "not sealed yet");
                    job.failures = job.failures.saturating_add(1);
                    let rest = job.rest();
                    desk.spawn(follow::recheck(self.crew.clone(), job, rest));
                }
            }
        }
        others
    }

    /// Gives each payment a signer and a nonce. Those that are late, or that no signer is fit for,
    /// are looked up on the chain instead.
    async fn plan(&mut self, batch: Vec<Job>) -> Vec<Planned> {
        let desk = Arc::clone(&self.crew.desk);
        let mut planned = Vec::with_capacity(batch.len());
        for job in batch {
            if desk.clock.now() >= job.expires {
                desk.spawn(follow::recheck(self.crew.clone(), job, Duration::ZERO));
                continue;
            }
            // Some payments name the only one who may send them.
            let sender = desk.network.sender(&job.plan);
            match self.fit_lane(sender.as_deref()).await {
                Ok(lane) => match self.lanes[lane].hand_out() {
                    Some(nonce) => planned.push(Planned { job, lane, nonce }),
                    None => desk.spawn(follow::recheck(self.crew.clone(), job, SIGN_RETRY)),
                },
                Err(error) => {
                    tracing::warn!(payment = %job.custody.key, %error, "no signer is fit");
                    desk.spawn(follow::recheck(self.crew.clone(), job, SIGN_RETRY));
                }
            }
        }
        planned
    }

    /// Keeps, of each lane, what was signed before the first that could not be: what comes after it
    /// would wait for a nonce that nobody uses. It was not sent, so it can be signed anew, and is
    /// returned for that.
    fn keep_gapless(&mut self, tried: Vec<Tried>, kept: &mut Vec<Ready>) -> Vec<Job> {
        let mut behind = Vec::new();
        let mut unused: HashMap<usize, Vec<u64>> = HashMap::new();
        for Tried { planned: Planned { mut job, lane, nonce }, outcome } in tried {
            match outcome {
                Ok((signed, raw)) if !unused.contains_key(&lane) => kept.push((job, signed, raw)),
                Ok(_) => {
                    unused.entry(lane).or_default().push(nonce);
                    behind.push(job);
                }
                Err(error) => {
                    tracing::warn!(payment = %job.custody.key, %error, "not signed yet");
                    unused.entry(lane).or_default().push(nonce);
                    job.failures = job.failures.saturating_add(1);
                    let rest = job.rest();
                    self.crew.desk.spawn(follow::recheck(self.crew.clone(), job, rest));
                }
            }
        }
        for (lane, nonces) in unused {
            self.lanes[lane].take_back(&nonces);
        }
        behind
    }

    /// The next lane in turn that does not rest and whose nonce is known; only that of `sender`
    /// when there is one.
    async fn fit_lane(&mut self, sender: Option<&str>) -> Result<usize, Unavailable> {
        let mut problem = Unavailable::new("signer", "every signer's transactions are refused");
        // Signers that have too little come last: what was accepted is settled all the same.
        let count = self.lanes.len();
        for low in [false, true].into_iter().flat_map(|low| std::iter::repeat_n(low, count)) {
            let index = self.turn % self.lanes.len();
            self.turn = self.turn.wrapping_add(1);
            let lane = &self.crew.desk.lanes[index];
            let signer = &lane.signer;
            if lane.is_low() != low {
                continue;
            }
            if sender.is_some_and(|sender| sender != signer)
                || self.lanes[index].rests(&self.crew.desk)
            {
                continue;
            }
            if self.lanes[index].next.is_some() {
                return Ok(index);
            }
            match self.lanes[index].learn_nonces(&self.crew.desk).await {
                Ok(()) => return Ok(index),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn forget_nonces(&mut self, signer: &str) {
        let desk = &self.crew.desk;
        if let Some(lane) =
            self.lanes.iter_mut().find(|lane| desk.lanes[lane.index].signer == signer)
        {
            lane.next = None;
            lane.spare.clear();
        }
    }
}

/// A payment with the signer and nonce it is to be signed with.
struct Planned {
    job: Job,
    lane: usize,
    nonce: u64,
}

/// A payment with its signed transaction, not journalled yet.
type Ready = (Job, SignedAs, SecretBytes);

/// A payment and whether it could be signed.
struct Tried {
    planned: Planned,
    outcome: Result<(SignedAs, SecretBytes), Unavailable>,
}

/// Signs everything planned, some at a time, and keeps the order.
async fn sign_all(desk: &Desk, planned: Vec<Planned>) -> Vec<Tried> {
    let sign = async |planned: Planned| {
        let outcome = sign(desk, &planned).await;
        Tried { planned, outcome }
    };
    stream::iter(planned).map(sign).buffered(SIGN_CONCURRENCY).collect().await
}

async fn sign(desk: &Desk, planned: &Planned) -> Result<(SignedAs, SecretBytes), Unavailable> {
    let Planned { job, lane, nonce } = planned;
    let signer = &desk.lanes[*lane].signer;
    let signed = desk.in_time(desk.network.sign(signer, *nonce, &job.plan)).await??;
    let sealed = desk.sealer.seal(Content::Raw, &job.custody.key, &signed.raw)?;
    let (signer, transaction) = (signer.clone(), signed.transaction);
    let sent = SentAs { signer, nonce: *nonce, transaction, replaced: Vec::new() };
    Ok((SignedAs { sent, raw: sealed }, signed.raw))
}

impl Lane {
    /// The next nonce, missing ones first.
    fn hand_out(&mut self) -> Option<u64> {
        if let Some(spare) = self.spare.pop_front() {
            return Some(spare);
        }
        let nonce = self.next?;
        self.next = nonce.checked_add(1);
        Some(nonce)
    }

    /// Takes back nonces that nothing was recorded for: the last ones that were handed out.
    fn take_back(&mut self, nonces: &[u64]) {
        // Forgotten meanwhile: the next is learnt from chain and journal.
        if self.next.is_none() {
            return;
        }
        for nonce in nonces.iter().rev() {
            if self.next == nonce.checked_add(1) {
                self.next = Some(*nonce);
            } else {
                self.spare.push_front(*nonce);
            }
        }
    }

    /// Whether the signer rests after refusals (it may be out of gas).
    fn rests(&mut self, desk: &Desk) -> bool {
        let rejections = desk.lanes[self.index].rejections();
        let now = Instant::now();
        if rejections == 0 {
            self.rest_until = None;
        } else if rejections != self.seen {
            self.rest_until = Some(now + LaneHealth::rest(rejections));
        }
        self.seen = rejections;
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Learns where to go on: behind everything that the chain consumed and the journal recorded.
    ///
    /// When the chain is behind the journal and nobody holds the bytes in between, a closed
    /// transaction is missing: a reorganisation, or another chain. It may come back, so its nonce
    /// is not touched at first; after `gap_patience` new payments fill the gap. Should the old
    /// transaction be mined after all, the new one is displaced and signed anew.
    async fn learn_nonces(&mut self, desk: &Desk) -> Result<(), Unavailable> {
        let signer = &desk.lanes[self.index].signer;
        let consumed = desk.in_time(desk.network.consumed_nonces(signer)).await??;
        let journal = |error: pay402_core::journal::JournalError| {
            Unavailable::new("journal", error.to_string())
        };
        let recorded =
            desk.journal.next_nonce(&desk.id, signer).await.map_err(journal)?.unwrap_or(0);
        if recorded > consumed {
            let limit = desk.options.unfinished_max.saturating_mul(2);
            let unfinished = desk.journal.unfinished(&desk.id, limit).await.map_err(journal)?;
            let held: HashSet<u64> = unfinished
                .iter()
                .filter_map(|entry| crate::recover::signed(&entry.stage))
                .filter(|signed| signed.sent.signer == *signer)
                .map(|signed| signed.sent.nonce)
                .collect();
            let missing = (consumed..recorded).take(usize::try_from(GAP_MAX).unwrap_or(usize::MAX));
            let missing: VecDeque<u64> = missing.filter(|nonce| !held.contains(nonce)).collect();
            if !missing.is_empty() {
                let since = *self.gap_since.get_or_insert_with(Instant::now);
                if since.elapsed() < desk.options.gap_patience {
                    tracing::warn!(network = %desk.id, signer, consumed, recorded, "nonce gap");
                    let problem = "the chain misses settled transactions of this signer";
                    return Err(Unavailable::new("signer", problem));
                }
                tracing::error!(network = %desk.id, signer, count = missing.len(), "filling a nonce gap");
                self.spare = missing;
            }
        }
        self.gap_since = None;
        self.next = Some(consumed.max(recorded));
        Ok(())
    }
}
