//! What the parts that settle on one network share: its ports, its waiters, its bounds, and the
//! switch that stops them all.
//!
//! **Invariant:** a desk lives as long as one tenure of the lease. Whoever loses the lease and gets it
//! again sits down at a fresh one, so that nothing of the old one is ever written.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::journal::{Delivery, Holder, Journal, JournalError, Lease};
use pay402_core::network::{ChainStatus, Network, SecretBytes, SendError, SentAs};
use pay402_core::time::Clock;
use pay402_core::{Amount, NetworkId, PaymentKey, Refusal, Refused, Scheme, WireVersion};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Span;

use crate::berths::{Berth, Berths};
use crate::budgets::{Budgets, Earmark, Spent};
use crate::exposure::{Exposure, Firm};
use crate::feed::Bell;
use crate::heads::Heads;
use crate::losses::{self, Losses, Stopped};
use crate::metrics::{Count, NetworkMetrics};
use crate::options::Options;
use crate::pulse::Pulse;
use crate::run::{Run, Switch};
use crate::seal::Sealer;
use crate::strikes::Strikes;
use crate::trace;
use crate::waiters::Waiters;
use crate::watch::Watched;

/// Questions about the status of payments that one network is asked at a time.
const STATUS_CONCURRENCY: usize = 64;

/// One network and everything around it.
pub(crate) struct Desk {
    pub(crate) id: NetworkId,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Arc<Options>,
    pub(crate) sealer: Sealer,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) strikes: Strikes,
    pub(crate) losses: Losses,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) exposure: Arc<Exposure>,
    pub(crate) metrics: Arc<NetworkMetrics>,
    pub(crate) schemes: Vec<(WireVersion, Scheme)>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) lanes: Arc<[LaneHealth]>,
    /// How many transactions of each lane wait to be mined.
    pub(crate) berths: Arc<Berths>,
    /// Rung after every change of an entry.
    pub(crate) bell: Bell,
    /// As whom the lease is held; `None` without one.
    pub(crate) holder: Option<Holder>,
    /// The lease itself; `None` without one.
    lease: Option<Lease>,
    /// Whether the lease could not be renewed for want of the journal.
    pub(crate) journal_down: AtomicBool,
    /// The blocks whose end is not beyond doubt yet.
    pub(crate) watched: Watched,
    /// Held while entries are closed until their blocks are watched, and while blocks are buried: what is closed by a
    /// deep block is not buried with it before anybody has looked at it.
    pub(crate) closing: tokio::sync::Mutex<()>,
    pub(crate) heads: Heads,
    /// Held while unfinished entries are taken up.
    pub(crate) recovering: tokio::sync::Mutex<()>,
    /// Whether the chain moves.
    pub(crate) pulse: Pulse,
    /// The last record before a journal was restored from a copy, if one was.
    doubt: OnceLock<u64>,
    status_calls: Semaphore,
    in_hand: Mutex<HashSet<PaymentKey>>,
    shares: Mutex<Shares>,
    switch: Switch,
}

/// An entry in the hands of this worker: nobody else here works on it. Holds the entry's place in
/// the bounds on unfinished settlements.
pub(crate) struct Custody {
    pub(crate) key: PaymentKey,
    /// What is traced of it while it is in hand.
    pub(crate) span: Span,
    desk: Arc<Desk>,
    _place: Option<OwnedSemaphorePermit>,
    share: Option<Share>,
    firm: Option<Firm>,
    earmark: Option<Earmark>,
}

/// Unfinished payments by payer, each with the number of its [`Share`]s.
type Shares = HashMap<String, HashMap<PaymentKey, usize>>;

/// A payment's part of what one payer may have unfinished. Copies of a payment share it.
pub(crate) struct Share {
    desk: Arc<Desk>,
    payer: String,
    key: PaymentKey,
}

impl Custody {
    /// Counts the entry among the unfinished ones of its payer. One that is in the journal counts
    /// whatever the bound.
    pub(crate) fn count_for(&mut self, payer: &str) {
        let desk = &self.desk;
        self.share = Some(desk.count(&mut desk.lock_shares(), payer, &self.key));
    }

    /// Holds what the payment is taken from as long as the entry is in hand.
    pub(crate) fn hold(&mut self, firm: Firm) {
        self.firm = Some(firm);
    }

    /// Takes its gas out of its caller's budget as long as the entry is in hand.
    pub(crate) fn earmark(&mut self, earmark: Option<Earmark>) {
        self.earmark = earmark;
    }

    /// Notes whether its transfer is in a block.
    pub(crate) fn mined(&self, mined: bool) {
        if let Some(firm) = &self.firm {
            firm.mined(mined);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.desk.lock_shares();
        let Some(payments) = shares.get_mut(&self.payer) else { return };
        if let Some(count) = payments.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                payments.remove(&self.key);
            }
        }
        if payments.is_empty() {
            shares.remove(&self.payer);
        }
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        self.desk.lock_in_hand().remove(&self.key);
    }
}

/// How a signer has fared with its node lately.
#[derive(Debug)]
pub(crate) struct LaneHealth {
    pub(crate) signer: String,
    rejected_in_a_row: AtomicU32,
    /// Whether the signer has too little to pay gas with.
    low: AtomicBool,
    /// What the signer had when it was last looked at, in wei.
    wei: Mutex<Option<Amount>>,
    /// Sendings that were refused since the start.
    pub(crate) rejected: Count,
    /// No nonce below this is given out, whatever the journal knows.
    begins: AtomicU64,
}

impl LaneHealth {
    /// Shortest rest of a lane whose transaction was refused; it doubles.
    const REST_FIRST: Duration = Duration::from_millis(250);
    /// Longest rest of a lane.
    const REST_MAX: Duration = Duration::from_secs(30);

    /// Has no nonce below `nonce` given out.
    pub(crate) fn begin_at(&self, nonce: u64) {
        self.begins.fetch_max(nonce, Ordering::Relaxed);
    }

    /// The first nonce that may be given out.
    pub(crate) fn begins(&self) -> u64 {
        self.begins.load(Ordering::Relaxed)
    }

    /// Notes whether the signer has too little; gives what was noted before.
    pub(crate) fn mark(&self, low: bool) -> bool {
        self.low.swap(low, Ordering::Relaxed)
    }

    /// Notes what the signer has, in wei.
    pub(crate) fn has(&self, wei: Amount) {
        *self.wei.lock().unwrap_or_else(PoisonError::into_inner) = Some(wei);
    }

    /// What the signer had when it was last looked at, in wei.
    pub(crate) fn wei(&self) -> Option<Amount> {
        *self.wei.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    pub(crate) fn accepted(&self) {
        self.rejected_in_a_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self) {
        self.rejected_in_a_row.fetch_add(1, Ordering::Relaxed);
        self.rejected.add(1);
    }

    /// How many sendings in a row were refused.
    pub(crate) fn rejections(&self) -> u32 {
        self.rejected_in_a_row.load(Ordering::Relaxed)
    }

    /// How long to give the lane nothing new after that many refusals in a row.
    pub(crate) fn rest(rejections: u32) -> Duration {
        let doublings = rejections.saturating_sub(1).min(16);
        Self::REST_FIRST.saturating_mul(1 << doublings).min(Self::REST_MAX)
    }
}

/// What a caller is told when the journal does not answer.
pub(crate) fn unreachable_journal(error: &JournalError) -> Unavailable {
    Unavailable::new("journal", error.to_string())
}

impl Desk {
    /// A desk without a lease.
    pub(crate) fn new(
        network: Arc<dyn Network>,
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        options: Arc<Options>,
        bell: Bell,
    ) -> Self {
        let schemes: Vec<_> =
            network.kinds().into_iter().map(|kind| (kind.version, kind.scheme)).collect();
        let lane = |signer| LaneHealth {
            signer,
            rejected_in_a_row: AtomicU32::new(0),
            rejected: Count::default(),
            low: AtomicBool::new(false),
            wei: Mutex::default(),
            begins: AtomicU64::new(0),
        };
        Self {
            id: network.id().clone(),
            sealer: Sealer::new(&network.sealing_key()),
            metrics: Arc::new(NetworkMetrics::new(
                schemes.iter().map(|(_, scheme)| scheme.clone()),
            )),
            schemes,
            berths: Arc::new(Berths::new(
                network.signers().len(),
                options.in_flight_max(network.id()),
            )),
            lanes: network.signers().into_iter().map(lane).collect(),
            places: Arc::new(Semaphore::new(options.unfinished_max.min(Semaphore::MAX_PERMITS))),
            strikes: Strikes::new(&options, clock.now()),
            losses: Losses::new(options.losses.get(network.id()).copied().unwrap_or_default()),
            budgets: Arc::new(Budgets::new(options.gas_budgets.clone())),
            exposure: Arc::default(),
            network,
            journal,
            clock,
            options,
            bell,
            waiters: Arc::default(),
            journal_down: AtomicBool::new(false),
            watched: Watched::default(),
            closing: tokio::sync::Mutex::default(),
            heads: Heads::default(),
            recovering: tokio::sync::Mutex::default(),
            pulse: Pulse::default(),
            doubt: OnceLock::new(),
            status_calls: Semaphore::new(STATUS_CONCURRENCY),
            in_hand: Mutex::default(),
            shares: Mutex::default(),
            switch: Switch::new(Run::Following),
            holder: None,
            lease: None,
        }
    }

    /// A desk for one tenure of the lease, with the figures of this one and nothing else of it.
    pub(crate) fn fresh(&self, holder: Holder, lease: Lease, run: Run) -> Self {
        let ports = (Arc::clone(&self.network), Arc::clone(&self.journal), Arc::clone(&self.clock));
        let (network, journal, clock) = ports;
        // What nodes refused in an earlier tenure says nothing about now.
        for lane in self.lanes.iter() {
            lane.accepted();
        }
        Self {
            metrics: Arc::clone(&self.metrics),
            lanes: Arc::clone(&self.lanes),
            switch: Switch::new(run),
            holder: Some(holder),
            lease: Some(lease),
            ..Self::new(network, journal, clock, Arc::clone(&self.options), self.bell.clone())
        }
    }

    /// Notes up to which record a success may have been told by a process whose journal is lost.
    pub(crate) fn doubt(&self, upto: Option<u64>) {
        if let Some(upto) = upto {
            _ = self.doubt.set(upto);
        }
    }

    /// Up to which record a success may have been told by a process whose journal is lost.
    pub(crate) fn doubts_up_to(&self) -> Option<u64> {
        self.doubt.get().copied()
    }

    /// Takes an entry into hand. `None` when it is in hand already.
    pub(crate) fn take(
        self: &Arc<Self>,
        key: &PaymentKey,
        place: Option<OwnedSemaphorePermit>,
    ) -> Option<Custody> {
        let (is_first, fresh) = {
            let mut in_hand = self.lock_in_hand();
            (in_hand.is_empty(), in_hand.insert(key.clone()))
        };
        if is_first {
            self.heads.want();
        }
        let desk = Arc::clone(self);
        let (share, firm, earmark) = (None, None, None);
        fresh.then(|| {
            let span = trace::settlement(&desk.id, key);
            Custody { key: key.clone(), span, desk, _place: place, share, firm, earmark }
        })
    }

    /// A share for a payment whose payer is proven; `None` when the payer has too many unfinished.
    pub(crate) fn try_share(self: &Arc<Self>, payer: &str, key: &PaymentKey) -> Option<Share> {
        let mut shares = self.lock_shares();
        let room = shares.get(payer).is_none_or(|payments| {
            payments.len() < self.options.unfinished_per_payer_max || payments.contains_key(key)
        });
        room.then(|| self.count(&mut shares, payer, key))
    }

    fn count(self: &Arc<Self>, shares: &mut Shares, payer: &str, key: &PaymentKey) -> Share {
        let payments = shares.entry(payer.to_owned()).or_default();
        *payments.entry(key.clone()).or_default() += 1;
        Share { desk: Arc::clone(self), payer: payer.to_owned(), key: key.clone() }
    }

    /// The refusal of every payment by `payer`, when it has too many strikes or has cost too much.
    pub(crate) async fn suspension(&self, payer: &str) -> Result<Option<Refused>, Unavailable> {
        let now = self.clock.now();
        if let Some(over) = self.losses.of_payer(payer, now) {
            return Ok(Some(losses::refuse_payer(over, payer)));
        }
        let suspended = self.strikes.suspended(&*self.journal, &self.id, payer, now).await?;
        Ok(suspended.then(|| Refused::from(Refusal::PayerSuspended).by(payer)))
    }

    /// Fails while the circuit breaker is open.
    pub(crate) fn check_breaker(&self) -> Result<(), Unavailable> {
        self.losses.stopped(self.clock.now()).map_or(Ok(()), |stopped| Err(self.broken(stopped)))
    }

    /// Lets one payment or errand through the circuit breaker that is about to be entered.
    pub(crate) fn pass_breaker(&self) -> Result<(), Unavailable> {
        self.losses.begin(self.clock.now()).map_err(|stopped| self.broken(stopped))
    }

    fn broken(&self, stopped: Stopped) -> Unavailable {
        let what = format!("settling on {}, which its circuit breaker stopped,", self.id);
        Unavailable::new(what, stopped.to_string())
    }

    /// The refusal of every payment that `caller` enters, when those that failed cost too much.
    pub(crate) fn caller_suspension(&self, caller: Option<&str>) -> Option<Refused> {
        let over = self.losses.of_caller(caller?, self.clock.now())?;
        Some(losses::refuse_caller(over))
    }

    /// The refusal of every payment that `caller` enters, when it has spent its budget of gas.
    pub(crate) async fn budget_spent(
        &self,
        caller: Option<&str>,
    ) -> Result<Option<Refused>, Unavailable> {
        let price = self.gas_price(self.budgets.needs_price(caller)).await?;
        let spent = self.budgets.spent(caller, price, self.clock.now());
        Ok(spent.map(Spent::refuse))
    }

    /// Takes the gas of a payment that `caller` is about to enter out of its budget, if it has one; the refusal
    /// when that is spent.
    pub(crate) async fn earmark(
        &self,
        caller: Option<&str>,
        gas: u64,
    ) -> Result<Result<Option<Earmark>, Refused>, Unavailable> {
        // Whether or not anything is in hand yet: others may be about to enter theirs.
        let price = self.gas_price(self.budgets.has(caller)).await?;
        let earmark = self.budgets.try_earmark(caller, gas, (price, self.clock.now()));
        Ok(earmark.map_err(Spent::refuse))
    }

    /// What a unit of gas costs, where a budget depends on it.
    async fn gas_price(&self, is_needed: bool) -> Result<Amount, Unavailable> {
        match is_needed {
            true => self.in_time(self.network.gas_price()).await?,
            false => Ok(Amount::ZERO),
        }
    }

    /// Changes who may be told of a success, now, if it still is `from`. Says whether it was.
    pub(crate) async fn hand_over(
        &self,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
    ) -> Result<bool, JournalError> {
        let lost = || JournalError::LeaseLost(self.id.clone());
        let lease = self.lease.as_ref().ok_or_else(lost)?;
        let moved = self.journal.hand_over(Some(lease), key, from, to, self.clock.now()).await;
        self.bell.ring();
        moved
    }

    /// Changes who may be told, by the one who waits or was told, whoever leads by now.
    ///
    /// # Errors
    /// When storage failed.
    pub(crate) async fn give_up(
        &self,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
    ) -> Result<bool, JournalError> {
        let moved = self.journal.hand_over(None, key, from, to, self.clock.now()).await;
        self.bell.ring();
        moved
    }

    /// Whether an entry is in hand.
    pub(crate) fn in_hand(&self, key: &PaymentKey) -> bool {
        self.lock_in_hand().contains(key)
    }

    /// How many entries are in hand.
    pub(crate) fn busy(&self) -> usize {
        self.lock_in_hand().len()
    }

    fn lock_in_hand(&self) -> MutexGuard<'_, HashSet<PaymentKey>> {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn run(&self) -> Run {
        self.switch.run()
    }

    /// Turns the switch, unless everything stands still already.
    pub(crate) fn turn(&self, to: Run) {
        self.switch.turn(to);
        if to.is_over() {
            self.waiters.dismiss();
        }
    }

    /// Waits until nothing more may be done on this network.
    pub(crate) async fn halted(&self) {
        self.switch.turned(Run::is_over).await;
    }

    /// Waits until another process has taken the lease over.
    pub(crate) async fn lease_lost(&self) {
        self.switch.turned(|run| *run == Run::LeaseLost).await;
    }

    /// Waits until the engine is treated as crashed.
    pub(crate) async fn crashed(&self) {
        self.switch.turned(|run| *run == Run::Crashed).await;
    }

    /// Runs `work` until it ends or the desk halts.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let desk = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = desk.halted() => {}
                () = work => {}
            }
        });
    }

    /// Asks the network where a payment stands; bounded in number and in time.
    pub(crate) async fn status(
        &self,
        plan: &SecretBytes,
        sent: Option<&SentAs>,
    ) -> Result<ChainStatus, Unavailable> {
        let _slot = self.status_calls.acquire().await;
        self.in_time(self.network.status(plan, sent)).await?
    }

    /// Asks the network where the payments of one transaction stand, in their order.
    pub(crate) async fn statuses(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        if let [(plan, sent)] = members {
            return vec![self.status(plan, Some(sent)).await];
        }
        let _slot = self.status_calls.acquire().await;
        match self.in_time(self.network.statuses(members)).await {
            Ok(statuses) => statuses,
            Err(late) => members.iter().map(|_| Err(late.clone())).collect(),
        }
    }

    /// As [`Desk::statuses`], of what is closed already.
    pub(crate) async fn second_look(
        &self,
        members: &[(&SecretBytes, &SentAs)],
    ) -> Vec<Result<ChainStatus, Unavailable>> {
        let _slot = self.status_calls.acquire().await;
        match self.in_time(self.network.second_look(members)).await {
            Ok(statuses) => statuses,
            Err(late) => members.iter().map(|_| Err(late.clone())).collect(),
        }
    }

    /// Sends the bytes, in bounded time. No answer means that nothing is known.
    pub(crate) async fn send(&self, raw: &SecretBytes) -> Result<(), SendError> {
        match self.in_time(self.network.send(raw)).await {
            Ok(answer) => answer,
            Err(late) => Err(SendError::Unknown(late.problem)),
        }
    }

    /// Bounds the time of a question to the network.
    pub(crate) async fn in_time<T>(&self, ask: impl Future<Output = T>) -> Result<T, Unavailable> {
        tokio::time::timeout(self.options.call_timeout, ask)
            .await
            .map_err(|_| Unavailable::new(format!("network {}", self.id), "no answer in time"))
    }

    /// A berth for a transaction that is recorded already; `None` where its signer is none of ours.
    pub(crate) fn berth(&self, signer: &str) -> Option<Berth> {
        let lane = self.lanes.iter().position(|lane| lane.signer == signer)?;
        Some(self.berths.take(lane))
    }

    pub(crate) fn lane_of(&self, signer: &str) -> Option<&LaneHealth> {
        self.lanes.iter().find(|lane| lane.signer == signer)
    }
}
