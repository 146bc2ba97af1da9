//! The worker of one network: gives due payments a signer and a nonce, signs them, has the bytes
//! journalled, and only then sends.
//!
//! **Invariants:** nonces of a signer are given out in one place, here, without gaps; nothing is
//! sent before its signed bytes are in the journal; a nonce that may have been recorded is never
//! given out again. Payments that share a transaction are journalled in one commit.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use pay402_core::error::Unavailable;
use pay402_core::journal::{Event, SignedAs};
use pay402_core::network::{Pack, Part, SecretBytes, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::desk::{Custody, Desk, LaneHealth};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::gaps;
use crate::replace;
use crate::scribe::{Scribe, Unwritten};
use crate::seal::Content;
use crate::trace;

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

/// A payment that has to be signed.
pub(crate) struct Job {
    pub(crate) custody: Custody,
    pub(crate) plan: SecretBytes,
    pub(crate) expires: UnixTime,
    /// The transaction that was signed for it before and can never be mined.
    pub(crate) displaced: Option<SentAs>,
    /// How often in a row it could not be signed.
    pub(crate) failures: u32,
    /// Whether it has to go by itself.
    pub(crate) alone: bool,
    /// What transactions cost it that were mined without its transfer, in wei.
    pub(crate) spent: Amount,
}

impl Job {
    /// A payment that was never signed.
    pub(crate) const fn new(custody: Custody, plan: SecretBytes, expires: UnixTime) -> Self {
        let (displaced, failures, alone, spent) = (None, 0, false, Amount::ZERO);
        Self { custody, plan, expires, displaced, failures, alone, spent }
    }

    /// How long to let it rest after its failures.
    fn rest(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        SIGN_RETRY.saturating_mul(1 << doublings).min(SIGN_RETRY_MAX)
    }

    /// Whether it may go with others. One that could not be signed goes by itself, so that nothing good
    /// is held up by it.
    fn may_be_packed(&self, desk: &Desk) -> bool {
        !self.alone && self.failures == 0 && desk.network.may_be_packed(&self.plan)
    }
}

/// A payment whose transaction is signed and journalled.
pub(crate) struct Member {
    pub(crate) custody: Custody,
    pub(crate) plan: SecretBytes,
    pub(crate) expires: UnixTime,
    pub(crate) sent: SentAs,
    pub(crate) spent: Amount,
}

impl Member {
    /// To be signed by itself, after a transaction that was mined without its transfer at this cost.
    pub(crate) fn alone(self, fee: Amount) -> Job {
        let spent = follow::sum(self.spent, fee);
        Job { displaced: None, spent, ..self.anew() }
    }

    /// To be signed by itself, since its transaction can never be mined.
    pub(crate) fn anew(self) -> Job {
        let Self { custody, plan, expires, sent, spent } = self;
        Job { displaced: Some(sent), alone: true, spent, ..Job::new(custody, plan, expires) }
    }
}

/// A transaction that is signed and journalled, and the payments that it carries and that are not
/// over: one at least.
#[derive(Default)]
pub(crate) struct Flight {
    pub(crate) members: Vec<Member>,
    /// The bytes; lost when the entry that had them was closed before a crash.
    pub(crate) raw: Option<SecretBytes>,
    /// Whether its nonce is known to be consumed.
    pub(crate) consumed: bool,
    /// The failpoint of what it was made for last, beside those that all pass: a node has it, and the journal
    /// does not say so.
    pub(crate) before_sent: Option<Failpoint>,
}

impl Flight {
    fn first(&self) -> &Member {
        self.members.first().expect("a flight carries a payment")
    }

    /// How it was put on its way, as far as that is the same for all of its payments.
    pub(crate) fn sent(&self) -> &SentAs {
        &self.first().sent
    }

    /// By what it is called.
    pub(crate) fn name(&self) -> &PaymentKey {
        &self.first().custody.key
    }
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
    let lane =
        |index| Lane { index, next: None, spare: VecDeque::new(), rest_until: None, seen: 0 };
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
    /// Nonces below `next` that were handed out and taken back unused, ascending.
    spare: VecDeque<u64>,
    rest_until: Option<Instant>,
    /// How many refusals in a row were accounted for in `rest_until`.
    seen: u32,
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
            let (cancelling, batch): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .partition(|job| self.crew.desk.network.cancels(&job.plan).is_some());
            for job in cancelling {
                self.cancel(job).await;
            }
            // What could not be signed before probably cannot be now: it goes by itself, so that
            // nothing good is ever behind it.
            let (again, fresh): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|job| job.failures > 0);
            let (packable, others) = self.gather(fresh, &mut jobs).await;
            for batch in [others, packable, again] {
                if !batch.is_empty() {
                    self.carry_out(batch).await;
                }
            }
        }
    }

    /// Waits for more payments to pack, if several are due: what is due alone never waits. Gives what
    /// may be packed, and what may not be and does not wait.
    async fn gather(
        &mut self,
        fresh: Vec<Job>,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> (Vec<Job>, Vec<Job>) {
        let desk = Arc::clone(&self.crew.desk);
        let Some(packing) = desk.network.packing() else { return (Vec::new(), fresh) };
        let until = Instant::now() + packing.wait;
        let (mut packable, mut others): (Vec<_>, Vec<_>) =
            fresh.into_iter().partition(|job| job.may_be_packed(&desk));
        if packable.len() < 2 || packing.wait.is_zero() {
            return (packable, others);
        }
        if !others.is_empty() {
            self.carry_out(std::mem::take(&mut others)).await;
        }
        while packable.len() < packing.members_max.min(BATCH_MAX)
            && others.len() < BATCH_MAX
            && let Ok(Some(job)) = tokio::time::timeout_at(until, jobs.recv()).await
        {
            match job.may_be_packed(&desk) {
                true => packable.push(job),
                false => others.push(job),
            }
        }
        (packable, others)
    }

    /// Signs the cancellation of a nonce, if the nonce is missing still. Only that nonce is used for it, and
    /// each is recorded before the next is looked at.
    async fn cancel(&mut self, job: Job) {
        let desk = Arc::clone(&self.crew.desk);
        let Some((signer, nonce)) = desk.network.cancels(&job.plan) else { return };
        let Some(lane) = desk.lanes.iter().position(|lane| lane.signer == signer) else {
            tracing::warn!(errand = %job.custody.key, signer, "no signer of ours any more");
            return self.look_up(vec![job], SIGN_RETRY_MAX);
        };
        self.forget_nonces(&signer);
        match gaps::standing(&desk, &signer).await {
            Ok(standing) if standing.missing.contains(&nonce) => {}
            // What was lost came back, or was cancelled by another entry.
            Ok(_) => {
                tracing::info!(errand = %job.custody.key, signer, nonce, "not missing any more");
                desk.spawn(follow::close_uncharged(self.crew.clone(), job.custody));
                return;
            }
            Err(error) => {
                tracing::warn!(errand = %job.custody.key, %error, "not cancelled yet");
                return self.look_up(vec![job], SIGN_RETRY);
            }
        }
        let planned = Planned { lot: Lot::of(job), lane, nonce };
        let outcome = sign(&desk, &planned).await;
        let jobs = planned.lot.jobs;
        match outcome {
            Ok((signed, raw)) => {
                desk.options.failpoints.pass(Failpoint::AfterGapSignBeforeJournal).await;
                let before_sent = Some(Failpoint::AfterGapSendBeforeSent);
                self.record(vec![Ready { jobs, signed, raw }], before_sent).await;
            }
            Err(error) => self.rest(jobs, &error),
        }
    }

    async fn carry_out(&mut self, batch: Vec<Job>) {
        let signed = self.sign_gapless(batch).await;
        self.record(signed, None).await;
    }

    /// Has signed transactions journalled, and only then sent. `before_sent` is what else they pass then.
    async fn record(&mut self, signed: Vec<Ready>, before_sent: Option<Failpoint>) {
        let desk = Arc::clone(&self.crew.desk);
        let mut flights = Vec::with_capacity(signed.len());
        let mut lots = Vec::with_capacity(signed.len());
        for Ready { jobs, signed, raw } in signed {
            let mut lot = Vec::with_capacity(jobs.len());
            let mut members = Vec::with_capacity(jobs.len());
            for (job, signed) in jobs.into_iter().zip(signed) {
                lot.push((job.custody.key.clone(), Event::Signed(signed.clone())));
                let Job { custody, plan, expires, spent, .. } = job;
                members.push(Member { custody, plan, expires, sent: signed.sent, spent });
            }
            lots.push(lot);
            flights.push(Flight { members, raw: Some(raw), before_sent, ..Flight::default() });
        }
        if flights.is_empty() {
            return;
        }
        let has_pack = flights.iter().any(|flight| flight.members.len() > 1);
        let failpoints = &desk.options.failpoints;
        if has_pack {
            failpoints.pass(Failpoint::AfterPackSignBeforeJournal).await;
        }
        failpoints.pass(Failpoint::AfterSignBeforeJournal).await;
        let written = self.crew.scribe.write_lots(lots).await;
        if has_pack {
            failpoints.pass(Failpoint::AfterPackJournalBeforeSend).await;
        }
        if before_sent.is_some() {
            failpoints.pass(Failpoint::AfterGapJournalBeforeSend).await;
        }
        failpoints.pass(Failpoint::AfterJournalBeforeSend).await;
        let mut ready = Vec::with_capacity(flights.len());
        for (flight, written) in flights.into_iter().zip(written) {
            match written {
                Ok(_) => {
                    for Member { custody, sent, .. } in &flight.members {
                        trace::signed(&custody.span, sent);
                    }
                    ready.push(flight);
                }
                Err(Unwritten::Stopped) => return,
                // The nonce was not recorded, so later ones would wait for it in vain.
                Err(Unwritten::Forbidden(_)) => self.forget_nonces(&flight.sent().signer),
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
        let batch = self.pass_signed(batch, &mut ready);
        let mut lots = lots(&desk, batch).await;
        for _ in 0..SIGN_PASSES {
            let planned = self.plan(lots).await;
            let tried = sign_all(&desk, planned).await;
            lots = self.keep_gapless(tried, &mut ready);
            if lots.is_empty() {
                break;
            }
        }
        for job in lots.into_iter().flat_map(|lot| lot.jobs) {
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
                Ok(sealed) => {
                    let signed = vec![SignedAs { sent, raw: sealed, spent: job.spent }];
                    ready.push(Ready { jobs: vec![job], signed, raw });
                }
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

    /// Gives each lot a signer and a nonce. Payments that are late, or that no signer is fit for, are
    /// looked up on the chain instead.
    async fn plan(&mut self, lots: Vec<Lot>) -> Vec<Planned> {
        let desk = Arc::clone(&self.crew.desk);
        let mut planned = Vec::with_capacity(lots.len());
        for Lot { jobs, item_gas } in lots {
            let now = desk.clock.now();
            let (jobs, late): (Vec<_>, Vec<_>) =
                jobs.into_iter().partition(|job| now < job.expires);
            self.look_up(late, Duration::ZERO);
            let Some(first) = jobs.first() else { continue };
            // Some payments name the only one who may send them. They are not packed.
            let sender = desk.network.sender(&first.plan);
            match self.fit_lane(sender.as_deref()).await {
                Ok(lane) => match self.lanes[lane].hand_out() {
                    Some(nonce) => {
                        planned.push(Planned { lot: Lot { jobs, item_gas }, lane, nonce })
                    }
                    None => self.look_up(jobs, SIGN_RETRY),
                },
                Err(error) => {
                    tracing::warn!(payment = %first.custody.key, %error, "no signer is fit");
                    self.look_up(jobs, SIGN_RETRY);
                }
            }
        }
        planned
    }

    /// Has what could not be signed looked up after a rest.
    fn rest(&self, jobs: Vec<Job>, error: &Unavailable) {
        for mut job in jobs {
            tracing::warn!(payment = %job.custody.key, %error, "not signed yet");
            job.failures = job.failures.saturating_add(1);
            let rest = job.rest();
            self.look_up(vec![job], rest);
        }
    }

    fn look_up(&self, jobs: Vec<Job>, delay: Duration) {
        for job in jobs {
            self.crew.desk.spawn(follow::recheck(self.crew.clone(), job, delay));
        }
    }

    /// Keeps, of each lane, what was signed before the first that could not be: what comes after it
    /// would wait for a nonce that nobody uses. It was not sent, so it can be signed anew, and is
    /// returned for that.
    fn keep_gapless(&mut self, tried: Vec<Tried>, kept: &mut Vec<Ready>) -> Vec<Lot> {
        let mut behind = Vec::new();
        let mut unused: HashMap<usize, Vec<u64>> = HashMap::new();
        for Tried { planned: Planned { lot, lane, nonce }, outcome } in tried {
            match outcome {
                Ok((signed, raw)) if !unused.contains_key(&lane) => {
                    kept.push(Ready { jobs: lot.jobs, signed, raw });
                }
                Ok(_) => {
                    unused.entry(lane).or_default().push(nonce);
                    behind.push(lot);
                }
                Err(error) => {
                    unused.entry(lane).or_default().push(nonce);
                    self.rest(lot.jobs, &error);
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

/// Payments that are to go in one transaction: one, or a pack.
struct Lot {
    jobs: Vec<Job>,
    /// Most gas of each payment of a pack.
    item_gas: u64,
}

impl Lot {
    fn of(job: Job) -> Self {
        Self { jobs: vec![job], item_gas: 0 }
    }
}

/// A lot with the signer and nonce it is to be signed with.
struct Planned {
    lot: Lot,
    lane: usize,
    nonce: u64,
}

/// Payments with their signed transaction, not journalled yet.
struct Ready {
    jobs: Vec<Job>,
    signed: Vec<SignedAs>,
    raw: SecretBytes,
}

/// What is recorded of each payment of a transaction, and its bytes.
type Signed = (Vec<SignedAs>, SecretBytes);

/// A lot and whether it could be signed.
struct Tried {
    planned: Planned,
    outcome: Result<Signed, Unavailable>,
}

/// Puts together what the network packs; the rest goes one by one.
async fn lots(desk: &Desk, batch: Vec<Job>) -> Vec<Lot> {
    if desk.network.packing().is_none() {
        return batch.into_iter().map(Lot::of).collect();
    }
    let (packable, others): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|job| job.may_be_packed(desk));
    let mut packs = Vec::new();
    if packable.len() > 1 {
        let plans: Vec<&SecretBytes> = packable.iter().map(|job| &job.plan).collect();
        // One that takes too long packs nothing.
        packs = desk.in_time(desk.network.pack(&plans)).await.unwrap_or_default();
    }
    let mut packable: Vec<Option<Job>> = packable.into_iter().map(Some).collect();
    let mut lots = Vec::new();
    for Pack { members, item_gas } in packs {
        let take = |index: usize| packable.get_mut(index).and_then(Option::take);
        let jobs: Vec<Job> = members.into_iter().filter_map(take).collect();
        if !jobs.is_empty() {
            lots.push(Lot { jobs, item_gas });
        }
    }
    lots.extend(packable.into_iter().flatten().chain(others).map(Lot::of));
    lots
}

/// Signs everything planned, some at a time, and keeps the order.
async fn sign_all(desk: &Desk, planned: Vec<Planned>) -> Vec<Tried> {
    let sign = async |planned: Planned| {
        let outcome = sign(desk, &planned).await;
        Tried { planned, outcome }
    };
    stream::iter(planned).map(sign).buffered(SIGN_CONCURRENCY).collect().await
}

async fn sign(desk: &Desk, planned: &Planned) -> Result<Signed, Unavailable> {
    let Planned { lot: Lot { jobs, item_gas }, lane, nonce } = planned;
    let (signer, nonce) = (&desk.lanes[*lane].signer, *nonce);
    let network = &desk.network;
    let bearing = jobs.iter().map(|job| (&job.plan, job.spent));
    let cost_max = replace::cost_max(&**network, bearing, jobs.len());
    let signed = match jobs.as_slice() {
        [job] => desk.in_time(network.sign(signer, nonce, &job.plan, cost_max)).await??,
        jobs => {
            let plans: Vec<&SecretBytes> = jobs.iter().map(|job| &job.plan).collect();
            let signed = network.sign_pack(signer, nonce, &plans, *item_gas, cost_max);
            desk.in_time(signed).await??
        }
    };
    let first = jobs.first().expect("a lot has a payment");
    // The bytes are kept once, with the first.
    let mut sealed = desk.sealer.seal(Content::Raw, &first.custody.key, &signed.raw)?;
    let of = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let record = |(index, job): (u32, &Job)| {
        let (signer, transaction) = (signer.clone(), signed.transaction.clone());
        let (replaced, part) = (Vec::new(), Part { index, of });
        let sent = SentAs { signer, nonce, transaction, replaced, part };
        SignedAs { sent, raw: std::mem::take(&mut sealed), spent: job.spent }
    };
    let records = (0..).zip(jobs).map(record).collect();
    Ok((records, signed.raw))
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
    /// When the chain is behind the journal and nobody holds the bytes in between, nothing is given out:
    /// it would wait in vain until they come back or are cancelled (see [`gaps`]).
    async fn learn_nonces(&mut self, desk: &Desk) -> Result<(), Unavailable> {
        let signer = &desk.lanes[self.index].signer;
        let standing = gaps::standing(desk, signer).await?;
        if let Some(first) = standing.missing.first() {
            let count = standing.missing.len();
            tracing::warn!(network = %desk.id, signer, first, count, "nonce gap");
            let problem = "the chain misses settled transactions of this signer";
            return Err(Unavailable::new("signer", problem));
        }
        self.next = Some(standing.next.max(desk.lanes[self.index].begins()));
        Ok(())
    }
}
