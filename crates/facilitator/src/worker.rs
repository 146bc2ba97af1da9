//! The worker of one network: gives due payments a signer and a nonce, signs them, has the bytes
//! journalled, and only then sends.
//!
//! **Invariants:** nonces of a signer are given out in one place, here, without gaps; nothing is
//! sent before its signed bytes are in the journal; a nonce that may have been recorded is never
//! given out again. Payments that share a transaction are journalled in one commit. A payment is given no
//! nonce of a signer that has no berth free ([`berths`](crate::berths)).

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

use crate::berths::Berth;
use crate::desk::{Custody, Desk};
use crate::failpoint::Failpoint;
use crate::follow;
use crate::gaps;
use crate::lane::Lane;
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
/// How often is looked what waits for a berth, whether or not one is free.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
    /// Whether it is no payment, and does not wait for a berth: payments may wait for it, or it fills a gap.
    pub(crate) is_errand: bool,
    /// What transactions cost it that were mined without its transfer, in wei.
    pub(crate) spent: Amount,
}

impl Job {
    /// A payment that was never signed.
    pub(crate) const fn new(custody: Custody, plan: SecretBytes, expires: UnixTime) -> Self {
        let (displaced, failures, spent) = (None, 0, Amount::ZERO);
        let (alone, is_errand) = (false, false);
        Self { custody, plan, expires, displaced, failures, alone, is_errand, spent }
    }

    /// An errand that was never signed.
    pub(crate) fn errand(custody: Custody, plan: SecretBytes, expires: UnixTime) -> Self {
        Self { is_errand: true, ..Self::new(custody, plan, expires) }
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
    pub(crate) is_errand: bool,
}

impl Member {
    /// To be signed by itself, after a transaction that was mined without its transfer at this cost.
    pub(crate) fn alone(self, fee: Amount) -> Job {
        let spent = follow::sum(self.spent, fee);
        Job { displaced: None, spent, ..self.anew() }
    }

    /// To be signed by itself, since its transaction can never be mined.
    pub(crate) fn anew(self) -> Job {
        let Self { custody, plan, expires, sent, spent, is_errand } = self;
        let (displaced, alone) = (Some(sent), true);
        Job { displaced, alone, is_errand, spent, ..Job::new(custody, plan, expires) }
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
    /// Its place among those of its signer that wait to be mined; `None` where that is none of ours.
    pub(crate) berth: Option<Berth>,
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
    let lanes = (0..desk.lanes.len()).map(Lane::new).collect();
    let (ahead, waiting) = (Vec::new(), VecDeque::new());
    let worker = Worker { crew: crew.clone(), lanes, turn: 0, ahead, waiting, is_full: false };
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

/// A payment that waits for a berth, and the lane that alone may send it, if there is one.
struct Waiting {
    job: Job,
    lane: Option<usize>,
}

/// Where a payment is sent from.
enum Fit {
    Lane(usize),
    /// The lanes that are fit for it have no berth free.
    Full,
}

struct Worker {
    crew: Crew,
    lanes: Vec<Lane>,
    turn: usize,
    /// What does not wait for a berth.
    ahead: Vec<Job>,
    /// What does, in its order.
    waiting: VecDeque<Waiting>,
    /// Whether nothing more of what waits can go, as far as the last look has shown.
    is_full: bool,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut look_at = Instant::now() + LOOK_AGAIN;
        while self.receive(&mut jobs, look_at).await {
            if Instant::now() >= look_at {
                self.sweep();
                look_at = Instant::now() + LOOK_AGAIN;
            }
            let (cancelling, errands): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ahead)
                .into_iter()
                .partition(|job| self.crew.desk.network.cancels(&job.plan).is_some());
            for job in cancelling {
                self.cancel(job).await;
            }
            let batch = errands.into_iter().chain(self.admit());
            // What could not be signed before probably cannot be now: it goes by itself, so that
            // nothing good is ever behind it.
            let (again, fresh): (Vec<_>, Vec<_>) = batch.partition(|job| job.failures > 0);
            let (packable, others) = self.gather(fresh, &mut jobs).await;
            for batch in [others, packable, again] {
                if !batch.is_empty() {
                    self.carry_out(batch).await;
                }
            }
        }
    }

    /// Takes what is handed in, and waits until there is something to do: until `look_at` at the latest while
    /// anything waits for a berth. `false` when nobody hands anything in any more.
    async fn receive(&mut self, jobs: &mut mpsc::Receiver<Job>, look_at: Instant) -> bool {
        if self.waiting.is_empty() && self.ahead.is_empty() {
            match jobs.recv().await {
                Some(job) => self.sort(job),
                None => return false,
            }
        } else if self.ahead.is_empty() && (self.is_full || self.room() == 0) {
            let berths = Arc::clone(&self.crew.desk.berths);
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(job) => self.sort(job),
                    None => return false,
                },
                () = berths.freed() => {}
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
        self.is_full = false;
        while let Ok(job) = jobs.try_recv() {
            self.sort(job);
        }
        true
    }

    fn sort(&mut self, job: Job) {
        if job.is_errand {
            self.ahead.push(job);
        } else {
            let lane = self.only_lane(&job);
            self.waiting.push_back(Waiting { job, lane });
        }
    }

    /// The lane of the signer that alone may send a payment, where it names one of ours.
    fn only_lane(&self, job: &Job) -> Option<usize> {
        let desk = &self.crew.desk;
        let sender = desk.network.sender(&job.plan)?;
        desk.lanes.iter().position(|lane| lane.signer == sender)
    }

    /// How many transactions there are berths for, in all lanes.
    fn room(&self) -> usize {
        let berths = &self.crew.desk.berths;
        (0..self.lanes.len()).map(|lane| berths.room(lane)).fold(0, usize::saturating_add)
    }

    /// The next that there is room for, of what waits.
    fn admit(&mut self) -> Vec<Job> {
        let desk = Arc::clone(&self.crew.desk);
        let most = match desk.network.packing() {
            // Many may go in one transaction.
            Some(_) if self.room() > 0 => BATCH_MAX,
            _ => self.room().min(BATCH_MAX),
        };
        let (mut batch, mut passed) = (Vec::new(), Vec::new());
        while batch.len() < most
            && let Some(waiting) = self.waiting.pop_front()
        {
            match waiting.lane {
                Some(lane) if desk.berths.room(lane) == 0 => passed.push(waiting),
                _ => batch.push(waiting.job),
            }
        }
        self.is_full = batch.is_empty();
        for waiting in passed.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
        batch
    }

    /// Has what waited too long looked up on the chain.
    fn sweep(&mut self) {
        let now = self.crew.desk.clock.now();
        let waiting = std::mem::take(&mut self.waiting);
        let (good, late): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|waiting| now < waiting.job.expires);
        self.waiting = good.into();
        self.look_up(late.into_iter().map(|waiting| waiting.job).collect(), Duration::ZERO);
    }

    /// Lets payments wait on, before all others.
    fn let_wait(&mut self, jobs: Vec<Job>) {
        self.is_full |= !jobs.is_empty();
        for job in jobs.into_iter().rev() {
            let lane = self.only_lane(&job);
            self.waiting.push_front(Waiting { job, lane });
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
            match (job.is_errand, job.may_be_packed(&desk)) {
                (true, _) => self.ahead.push(job),
                (false, true) => packable.push(job),
                (false, false) => others.push(job),
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
        let planned = Planned { lot: Lot::of(job), lane, nonce, berth: desk.berths.take(lane) };
        let outcome = sign(&desk, &planned).await;
        let Planned { lot: Lot { jobs, .. }, berth, .. } = planned;
        match outcome {
            Ok((signed, raw)) => {
                desk.options.failpoints.pass(Failpoint::AfterGapSignBeforeJournal).await;
                let before_sent = Some(Failpoint::AfterGapSendBeforeSent);
                let ready = Ready { jobs, signed, raw, berth: Some(berth) };
                self.record(vec![ready], before_sent).await;
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
        for Ready { jobs, signed, raw, berth } in signed {
            let mut lot = Vec::with_capacity(jobs.len());
            let mut members = Vec::with_capacity(jobs.len());
            for (job, signed) in jobs.into_iter().zip(signed) {
                lot.push((job.custody.key.clone(), Event::Signed(signed.clone())));
                let Job { custody, plan, expires, spent, is_errand, .. } = job;
                let sent = signed.sent;
                members.push(Member { custody, plan, expires, sent, spent, is_errand });
            }
            lots.push(lot);
            let raw = Some(raw);
            flights.push(Flight { members, raw, before_sent, berth, ..Flight::default() });
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
                    ready.push(Ready { jobs: vec![job], signed, raw, berth: None });
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

    /// Gives each lot a signer, a nonce and a berth. Payments that are late, or that no signer is fit for, are
    /// looked up on the chain instead; those that find no berth wait on.
    async fn plan(&mut self, lots: Vec<Lot>) -> Vec<Planned> {
        let desk = Arc::clone(&self.crew.desk);
        let mut planned = Vec::with_capacity(lots.len());
        let mut without = Vec::new();
        for Lot { jobs, item_gas } in lots {
            let now = desk.clock.now();
            let (jobs, late): (Vec<_>, Vec<_>) =
                jobs.into_iter().partition(|job| now < job.expires);
            self.look_up(late, Duration::ZERO);
            let Some(first) = jobs.first() else { continue };
            // Some payments name the only one who may send them. They are not packed.
            let sender = desk.network.sender(&first.plan);
            match self.fit_lane(sender.as_deref(), first.is_errand).await {
                Ok(Fit::Lane(lane)) => match self.lanes[lane].hand_out() {
                    Some(nonce) => {
                        let (lot, berth) = (Lot { jobs, item_gas }, desk.berths.take(lane));
                        planned.push(Planned { lot, lane, nonce, berth });
                    }
                    None => self.look_up(jobs, SIGN_RETRY),
                },
                Ok(Fit::Full) => without.extend(jobs),
                Err(error) => {
                    tracing::warn!(payment = %first.custody.key, %error, "no signer is fit");
                    self.look_up(jobs, SIGN_RETRY);
                }
            }
        }
        self.let_wait(without);
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
        for Tried { planned: Planned { lot, lane, nonce, berth }, outcome } in tried {
            match outcome {
                Ok((signed, raw)) if !unused.contains_key(&lane) => {
                    kept.push(Ready { jobs: lot.jobs, signed, raw, berth: Some(berth) });
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

    /// The next lane in turn that does not rest, has a berth free unless that does not matter, and whose nonce
    /// is known; only that of `sender` when there is one.
    async fn fit_lane(
        &mut self,
        sender: Option<&str>,
        is_errand: bool,
    ) -> Result<Fit, Unavailable> {
        let desk = Arc::clone(&self.crew.desk);
        let mut problem = Unavailable::new("signer", "every signer's transactions are refused");
        // Signers that have too little come last: what was accepted is settled all the same.
        for low in [false, true] {
            let mut is_full = false;
            for _ in 0..self.lanes.len() {
                let index = self.turn % self.lanes.len();
                self.turn = self.turn.wrapping_add(1);
                let lane = &desk.lanes[index];
                let is_other = sender.is_some_and(|sender| sender != lane.signer);
                if lane.is_low() != low || is_other || self.lanes[index].rests(&desk) {
                    continue;
                }
                if !is_errand && desk.berths.room(index) == 0 {
                    is_full = true;
                    continue;
                }
                if self.lanes[index].next.is_some() {
                    return Ok(Fit::Lane(index));
                }
                match self.lanes[index].learn_nonces(&desk).await {
                    Ok(()) => return Ok(Fit::Lane(index)),
                    Err(error) => problem = error,
                }
            }
            // It is not left to a signer that has too little, nor looked up: its turn comes.
            if is_full {
                return Ok(Fit::Full);
            }
        }
        Err(problem)
    }

    fn forget_nonces(&mut self, signer: &str) {
        let desk = &self.crew.desk;
        if let Some(lane) =
            self.lanes.iter_mut().find(|lane| desk.lanes[lane.index].signer == signer)
        {
            lane.forget();
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
    berth: Berth,
}

/// Payments with their signed transaction, not journalled yet.
struct Ready {
    jobs: Vec<Job>,
    signed: Vec<SignedAs>,
    raw: SecretBytes,
    /// `None` of what somebody else signed.
    berth: Option<Berth>,
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
    let Planned { lot: Lot { jobs, item_gas }, lane, nonce, .. } = planned;
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
