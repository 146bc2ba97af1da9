//! The engine: starts a worker per network and answers the facilitator port in process.
//!
//! [`api`](crate::api) puts the same answers on HTTP.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::facilitator::{Facilitator, Settled, Supported, Verdict};
use pay402_core::history::{Record, Span};
use pay402_core::journal::{Backlog, Delivery, Entry, Holder, Journal, Outcome, Stage};
use pay402_core::network::{Network, Unverified, Verified};
use pay402_core::time::Clock;
use pay402_core::{
    Digest, NetworkId, Payment, PaymentKey, Refusal, Refused, Requirements, WireVersion,
};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::api;
use crate::desk::Desk;
use crate::errand;
use crate::exposure;
use crate::feed::{Bell, Feed};
use crate::metrics::{Calls, NetworkMetrics};
use crate::options::Options;
use crate::post::{Place, Post};
use crate::restored;
use crate::run::Run;
use crate::settle::{Call, refused_by};
use crate::standing::Standing;
use crate::trace;
use crate::webhooks::Webhook;
use crate::worker::Crew;

/// Shortest lease that leaves time to renew it: leases are counted in whole seconds.
const LEASE_MIN: Duration = Duration::from_secs(3);
/// What `strikes_max` may be: so many times are remembered of one payer.
const STRIKES: RangeInclusive<u32> = 1..=1_000;
/// How often a stopping engine looks whether everything is finished.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The facilitator, in process. Cheap to clone; the last clone that goes stops the workers.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    posts: HashMap<NetworkId, Arc<Post>>,
    feed: Feed,
    journal: Arc<dyn Journal>,
    supported: Supported,
    options: Arc<Options>,
    /// Calls about networks that nobody here serves.
    elsewhere: Calls,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for post in self.posts.values() {
            post.turn(Run::Stopped);
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("networks", &self.0.posts.keys()).finish_non_exhaustive()
    }
}

/// How one network fares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkHealth {
    /// The network.
    pub network: NetworkId,
    /// `ok`, `journal_down`, `draining`, `stopped` or `lease_lost`; where another process may lead,
    /// also `following`, or `leaderless` while none is known that calls could be forwarded to.
    pub status: &'static str,
    /// Settlements being worked on.
    pub unfinished: usize,
}

impl Engine {
    /// Starts settling on `networks`: checks each, takes its lease, takes up what an earlier
    /// process left unfinished, and spawns its worker; or follows whoever holds the lease, where the
    /// options say so. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong, named by setting: a network that is not what was configured, or is given
    /// twice, or without a signer; a lease that another process keeps; a journal that cannot be
    /// used or was sealed with other signers.
    pub async fn start(
        networks: Vec<Arc<dyn Network>>,
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Self, Misconfigured> {
        check_options(&options)?;
        let options = Arc::new(options);
        // Built first, so that a failure below stops what was started already.
        let bell = Bell::default();
        let mut inner = Inner {
            posts: HashMap::new(),
            feed: Feed::start(Arc::clone(&journal), bell.clone()),
            journal,
            supported: Supported::default(),
            options: Arc::clone(&options),
            elsewhere: Calls::default(),
        };
        let served = networks.clone();
        for (index, network) in networks.into_iter().enumerate() {
            let id = network.id().clone();
            if inner.posts.contains_key(&id) {
                let problem = format!("{id} is configured twice; keep one");
                return Err(Misconfigured::new(format!("network[{index}]"), problem));
            }
            if network.signers().is_empty() {
                let problem = format!("{id} has no signer; give it at least one key");
                return Err(Misconfigured::new(format!("network[{index}].signers"), problem));
            }
            network.check().await?;
            let desk = Desk::new(
                network,
                Arc::clone(&inner.journal),
                Arc::clone(&clock),
                Arc::clone(&options),
                bell.clone(),
            );
            inner.posts.insert(id, Post::open(desk).await?);
        }
        // What a network serves depends on what its check found on the chain.
        inner.supported = supported_by(&served);
        Ok(Self(Arc::new(inner)))
    }

    /// Verifies for a caller, without writing anything.
    ///
    /// A payment that the chain refuses because it was settled, and whose success this caller may
    /// still be told, is valid: settling it answers at once.
    ///
    /// # Errors
    /// When it could not be told.
    pub async fn verify_for(
        &self,
        caller: Option<Digest>,
        payment: &Payment,
    ) -> Result<Verdict, Unavailable> {
        self.verify_known(caller, None, payment).await
    }

    /// As [`Engine::verify_for`], for the caller of that name.
    pub(crate) async fn verify_known(
        &self,
        caller: Option<Digest>,
        name: Option<&str>,
        payment: &Payment,
    ) -> Result<Verdict, Unavailable> {
        let begun = Instant::now();
        let (network, scheme) = self.served_by(payment);
        let span = trace::verification(network, scheme);
        let answer = self.judge(caller, name, payment).instrument(span.clone()).await;
        trace::verified(&span, &answer);
        self.calls(payment.terms()).verifications.add(&answer);
        if let Some(metrics) = self.metrics(&payment.terms().network) {
            metrics.verifying.add(begun.elapsed());
        }
        answer
    }

    async fn judge(
        &self,
        caller: Option<Digest>,
        name: Option<&str>,
        payment: &Payment,
    ) -> Result<Verdict, Unavailable> {
        let desk = match self.serving(payment) {
            Ok(post) => &*post.desk(),
            Err(refused) => return Ok(Verdict::Invalid(refused)),
        };
        if let Some(refused) = too_costly(desk, name, payment).await? {
            return Ok(Verdict::Invalid(refused));
        }
        let mut looks = 0;
        loop {
            looks += 1;
            let since = Instant::now();
            let verified = match desk.in_time(desk.network.verify(payment)).await? {
                Ok(verified) => verified,
                Err(Unverified::Unavailable(error)) => return Err(error),
                Err(Unverified::Invalid(refused)) => {
                    let collectable = collectable(desk, caller, payment, &refused).await?;
                    return Ok(collectable.unwrap_or(Verdict::Invalid(refused)));
                }
            };
            if let Some(refused) = suspended(desk, &verified).await? {
                return Ok(Verdict::Invalid(refused));
            }
            let refused = match uncharged(desk, caller, payment, &verified).await? {
                Some(refused) => Some(refused),
                None => waits_in_vain(desk, &verified).await?,
            };
            if let Some(refused) = refused {
                return Ok(Verdict::Invalid(refused));
            }
            match desk.exposure.reserve_softly(&verified, since, Instant::now()) {
                Ok(()) => return Ok(Verdict::Valid { payer: verified.payer }),
                Err(short) if short.may_pass() && looks < exposure::LOOKS_MAX => {
                    tokio::time::sleep(exposure::LOOK_AGAIN).await;
                }
                Err(short) => return Ok(Verdict::Invalid(short.refuse(&verified.payer))),
            }
        }
    }

    /// Settles for a caller and waits for the outcome at most `wait`.
    ///
    /// `caller` is the digest of API key and idempotency key when both were given: only the same
    /// digest is told of the success again. The settlement goes on when this future is dropped;
    /// an answer that thereby reaches nobody is kept for the next one who asks.
    ///
    /// # Errors
    /// Only when this call has nothing sent and nothing entered.
    pub async fn settle_for(
        &self,
        caller: Option<Digest>,
        payment: Payment,
        wait: Duration,
    ) -> Result<Settled, Unavailable> {
        self.settle_known(caller, None, payment, wait).await.1
    }

    /// As [`Engine::settle_for`], for the caller of that name, with the key of the payment where it
    /// could be read.
    pub(crate) async fn settle_known(
        &self,
        caller: Option<Digest>,
        entered_by: Option<String>,
        payment: Payment,
        wait: Duration,
    ) -> (Option<PaymentKey>, Result<Settled, Unavailable>) {
        let begun = Instant::now();
        let calls = self.calls(payment.terms());
        let metrics = self.metrics(&payment.terms().network);
        let mut key = None;
        let (network, scheme) = self.served_by(&payment);
        let span = trace::settling(network, scheme);
        let settling = self.carry_out(caller, entered_by, payment, wait, &mut key);
        let answer = settling.instrument(span.clone()).await;
        trace::answered(&span, &answer);
        calls.settlements.add(&answer);
        if let (Some(metrics), Ok(Settled::Done(_))) = (metrics, &answer) {
            metrics.settling.add(begun.elapsed());
        }
        (key, answer)
    }

    async fn carry_out(
        &self,
        caller: Option<Digest>,
        entered_by: Option<String>,
        payment: Payment,
        wait: Duration,
        key: &mut Option<PaymentKey>,
    ) -> Result<Settled, Unavailable> {
        let crew = match self.serving(&payment) {
            Ok(post) => crew_of(post)?,
            Err(refused) => return Ok(Settled::Refused(refused)),
        };
        let desk = Arc::clone(&crew.desk);
        let identified = match desk.network.identify(&payment) {
            Ok(identified) => identified,
            Err(refused) => return Ok(Settled::Refused(refused)),
        };
        *key = Some(identified.key.clone());
        let deadline = Instant::now() + wait.min(desk.options.settle_wait_max);
        let call = Call { crew, caller, entered_by, payment, identified, deadline };
        let (reply, answer) = oneshot::channel();
        let running = async move {
            tokio::select! {
                biased;
                () = desk.crashed() => {}
                () = call.run(reply) => {}
            }
        };
        tokio::spawn(running.in_current_span());
        match answer.await {
            Ok(answer) => Ok(answer?.received()),
            // The task died; what it had done is in the journal.
            Err(_) => Ok(Settled::Pending { transaction: None }),
        }
    }

    /// Sends what somebody asks to have sent for an account, in the form of `network`'s family, and
    /// waits for the outcome at most `wait`. A success moved no money. Whoever repeats the request is
    /// told the same again; it goes on when this future is dropped.
    ///
    /// # Errors
    /// Only when this call has nothing sent and nothing entered.
    pub async fn account_for(
        &self,
        network: &NetworkId,
        request: Map<String, Value>,
        wait: Duration,
    ) -> Result<Settled, Unavailable> {
        let Some(post) = self.0.posts.get(network) else {
            return Ok(Settled::Refused(Refusal::InvalidNetwork.into()));
        };
        let answer = self.carry_out_for(post, request, wait).await;
        post.idle.metrics.accounts.add(&answer);
        answer
    }

    async fn carry_out_for(
        &self,
        post: &Post,
        request: Map<String, Value>,
        wait: Duration,
    ) -> Result<Settled, Unavailable> {
        let crew = crew_of(post)?;
        let desk = Arc::clone(&crew.desk);
        let identified = match desk.network.identify_account(&request) {
            Ok(identified) => identified,
            Err(refused) => return Ok(Settled::Refused(refused)),
        };
        let deadline = Instant::now() + wait.min(desk.options.settle_wait_max);
        let request = errand::Request { crew, request, identified, deadline };
        let running = async move {
            tokio::select! {
                biased;
                () = desk.crashed() => Ok(Settled::Pending { transaction: None }),
                told = request.run() => told,
            }
        };
        let running = tokio::spawn(running.in_current_span());
        // A task that died: what it had done is in the journal.
        running.await.unwrap_or(Ok(Settled::Pending { transaction: None }))
    }

    /// Where a payment stands; `None` when it was never entered.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn status(&self, key: &PaymentKey) -> Result<Option<Standing>, Unavailable> {
        let found = self.0.journal.find(key).await;
        let found = found.map_err(|error| Unavailable::new("journal", error.to_string()))?;
        Ok(found.map(Standing::from))
    }

    /// How each network fares.
    pub fn health(&self) -> Vec<NetworkHealth> {
        let of = |post: &Arc<Post>| {
            let desk = post.desk();
            NetworkHealth {
                network: desk.id.clone(),
                status: match (desk.run(), post.place()) {
                    (Run::Settling | Run::Following, _)
                        if desk.journal_down.load(Ordering::Relaxed) =>
                    {
                        "journal_down"
                    }
                    (Run::Settling, _) => "ok",
                    (Run::Following, Place::There(Holder { url: Some(_), .. })) => "following",
                    (Run::Following, _) => "leaderless",
                    (Run::Draining, _) => "draining",
                    (Run::Stopped | Run::Crashed, _) => "stopped",
                    (Run::LeaseLost, _) => "lease_lost",
                },
                unfinished: desk.busy(),
            }
        };
        let mut health: Vec<_> = self.0.posts.values().map(of).collect();
        health.sort_by(|a, b| a.network.cmp(&b.network));
        health
    }

    /// Waits until another process has taken a network over from this one, which does not follow, and
    /// says which. This one settles nothing there any more, and nothing gives it the network back but
    /// a new start.
    pub async fn taken_over(&self) -> NetworkId {
        let alone = self.0.posts.values().filter(|post| !post.idle.options.follows);
        let waiting = alone.map(|post| {
            Box::pin(async {
                post.desk().lease_lost().await;
                post.idle.id.clone()
            })
        });
        let waiting: Vec<_> = waiting.collect();
        if waiting.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(waiting).await.0
    }

    /// What can be settled, without waiting.
    pub fn kinds(&self) -> &Supported {
        &self.0.supported
    }

    /// Stops: takes nothing new, finishes for at most `grace` what callers wait for, then releases
    /// the leases. Where others follow, the leases go first, and callers are told what the one says
    /// who leads then. What is unfinished is taken up by the next who leads.
    pub async fn stop(&self, grace: Duration) {
        let posts = &self.0.posts;
        for post in posts.values() {
            post.leave();
        }
        let drained = async {
            while posts.values().any(|post| !post.is_finished()) {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        _ = tokio::time::timeout(grace, drained).await;
        for post in posts.values() {
            post.end().await;
        }
    }

    /// Stops as a crash would: nothing more is written, said or released.
    #[cfg(feature = "failpoints")]
    pub fn crash(&self) {
        for post in self.0.posts.values() {
            post.turn(Run::Crashed);
        }
    }

    /// The longest a settle call for `payment` waits: what its terms allow, within our bound.
    pub fn wait_for(&self, payment: &Payment) -> Duration {
        let asked = Duration::from_secs(payment.terms().max_timeout_seconds);
        asked.min(self.0.options.settle_wait_max)
    }

    /// The longest that any call waits.
    pub(crate) fn wait_max(&self) -> Duration {
        self.0.options.settle_wait_max
    }

    /// What happens to settlements, as it happens.
    pub(crate) fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Who is sent events.
    pub(crate) fn webhooks(&self) -> &[Webhook] {
        &self.0.options.webhooks
    }

    /// The network with this id.
    pub(crate) fn network(&self, id: &NetworkId) -> Option<&dyn Network> {
        self.0.posts.get(id).map(|post| &*post.idle.network)
    }

    /// The posts of all networks, by the network's name.
    pub(crate) fn posts(&self) -> Vec<&Arc<Post>> {
        let mut posts: Vec<_> = self.0.posts.values().collect();
        posts.sort_by(|a, b| a.idle.id.cmp(&b.idle.id));
        posts
    }

    /// The post on a network.
    pub(crate) fn post(&self, network: &NetworkId) -> Option<&Post> {
        self.0.posts.get(network).map(|post| &**post)
    }

    /// The unfinished entries of a network, in figures.
    ///
    /// # Errors
    /// When the journal does not answer within `patience`.
    pub(crate) async fn backlog(
        &self,
        network: &NetworkId,
        patience: Duration,
    ) -> Result<Backlog, Unavailable> {
        let asked = tokio::time::timeout(patience, self.0.journal.backlog(network)).await;
        let unavailable = |problem: String| Unavailable::new("journal", problem);
        asked
            .map_err(|_| unavailable("no answer in time".into()))?
            .map_err(|error| unavailable(error.to_string()))
    }

    /// The journal's entry of a payment.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) async fn entry(&self, key: &PaymentKey) -> Result<Option<Entry>, Unavailable> {
        let found = self.0.journal.find(key).await;
        found.map_err(|error| Unavailable::new("journal", error.to_string()))
    }

    /// The entries that were entered last, newest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) async fn newest(&self, limit: usize) -> Result<Vec<Entry>, Unavailable> {
        let found = self.0.journal.newest(limit).await;
        found.map_err(|error| Unavailable::new("journal", error.to_string()))
    }

    /// What happened to a payment.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) async fn history_of(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, Unavailable> {
        let found = self.0.journal.history_of_payment(key, span).await;
        found.map_err(|error| Unavailable::new("journal", error.to_string()))
    }

    fn metrics(&self, network: &NetworkId) -> Option<&NetworkMetrics> {
        self.0.posts.get(network).map(|post| &*post.idle.metrics)
    }

    /// Where calls about these terms are counted.
    pub(crate) fn calls(&self, terms: &Requirements) -> &Calls {
        self.metrics(&terms.network)
            .map_or(&self.0.elsewhere, |metrics| metrics.calls(&terms.scheme))
    }

    /// The calls about networks that nobody here serves.
    pub(crate) fn calls_elsewhere(&self) -> &Calls {
        &self.0.elsewhere
    }

    /// The network that serves these terms, for what can be checked without asking it.
    pub(crate) fn network_serving(
        &self,
        version: WireVersion,
        terms: &Requirements,
    ) -> Option<&dyn Network> {
        self.post_serving(version, terms).ok().map(|post| &*post.idle.network)
    }

    /// The network and the scheme of a payment, where they are served here.
    fn served_by(&self, payment: &Payment) -> (Option<&NetworkId>, Option<&str>) {
        let terms = payment.terms();
        let post = self.0.posts.get(&terms.network);
        let scheme = post.and_then(|post| {
            let mut schemes = post.idle.schemes.iter().map(|(_, scheme)| scheme.as_str());
            schemes.find(|scheme| *scheme == terms.scheme.as_str())
        });
        (post.map(|post| &post.idle.id), scheme)
    }

    fn serving(&self, payment: &Payment) -> Result<&Post, Refused> {
        self.post_serving(payment.presented().version, payment.terms())
    }

    fn post_serving(&self, version: WireVersion, terms: &Requirements) -> Result<&Post, Refused> {
        let post = self.0.posts.get(&terms.network).ok_or(Refusal::InvalidNetwork)?;
        let served = post.idle.schemes.iter().any(|(v, s)| *v == version && *s == terms.scheme);
        if served { Ok(post) } else { Err(Refusal::UnsupportedScheme.into()) }
    }
}

#[async_trait]
impl Facilitator for Engine {
    async fn supported(&self) -> Result<Supported, Unavailable> {
        Ok(self.0.supported.clone())
    }

    async fn verify(&self, payment: &Payment) -> Result<Verdict, Unavailable> {
        self.verify_for(None, payment).await
    }

    async fn settle(&self, payment: &Payment) -> Result<Settled, Unavailable> {
        self.settle_for(None, payment.clone(), self.wait_for(payment)).await
    }
}

fn check_options(options: &Options) -> Result<(), Misconfigured> {
    if options.lease < LEASE_MIN {
        return Err(Misconfigured::new("lease", "must be at least 3 seconds"));
    }
    if let Some(url) = &options.advertise {
        api::check_advertised(url)?;
    }
    if options.burial_blocks == 0 {
        return Err(Misconfigured::new("burial_blocks", "must be at least 1"));
    }
    if options.unfinished_max == 0 {
        return Err(Misconfigured::new("unfinished_max", "must be at least 1"));
    }
    if options.unfinished_per_payer_max == 0 {
        return Err(Misconfigured::new("unfinished_per_payer_max", "must be at least 1"));
    }
    if !STRIKES.contains(&options.strikes_max) {
        let problem = format!("must be from {} to {}", STRIKES.start(), STRIKES.end());
        return Err(Misconfigured::new("strikes_max", problem));
    }
    if options.strikes_window.as_secs() == 0 {
        return Err(Misconfigured::new("strikes_window", "must be at least 1 second"));
    }
    if options.in_flight_per_signer_max.values().any(|max| *max == 0) {
        return Err(Misconfigured::new("in_flight_per_signer_max", "must be at least 1"));
    }
    if options.gas_budgets.values().any(|wei| wei.is_zero()) {
        return Err(Misconfigured::new("gas_per_hour_max_gwei", "must be at least 1"));
    }
    if options.losses.values().any(|bounds| bounds.failures_in_a_row_max == 0) {
        return Err(Misconfigured::new("failures_in_a_row_max", "must be at least 1"));
    }
    Ok(())
}

/// The crew that settles here, where this process leads.
fn crew_of(post: &Post) -> Result<Crew, Unavailable> {
    let problem = match post.crew() {
        Some(crew) if !crew.desk.run().is_over() => return Ok(crew),
        Some(_) => "this process does not settle here any more",
        None => "another process settles here",
    };
    Err(Unavailable::new(format!("settling on {}", post.idle.id), problem))
}

fn supported_by(networks: &[Arc<dyn Network>]) -> Supported {
    let mut signers: Map<String, Value> = Map::new();
    for network in networks {
        let pattern = format!("{}:*", network.id().namespace());
        let known = signers.entry(pattern).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(known) = known {
            for signer in network.signers() {
                if !known.iter().any(|other| other.as_str() == Some(signer.as_str())) {
                    known.push(signer.into());
                }
            }
        }
    }
    let kinds = networks.iter().flat_map(|network| network.kinds()).collect();
    let mut extensions: Vec<String> = Vec::new();
    for extension in networks.iter().flat_map(|network| network.extensions()) {
        if !extensions.contains(&extension) {
            extensions.push(extension);
        }
    }
    Supported { kinds, extensions, signers }
}

/// The refusal of a payment that waits for what was done before, or failed.
async fn waits_in_vain(desk: &Desk, verified: &Verified) -> Result<Option<Refused>, Unavailable> {
    let Some(first) = &verified.first else { return Ok(None) };
    let found = desk.journal.find(&first.errand.key).await;
    let found = found.map_err(|error| Unavailable::new("journal", error.to_string()))?;
    Ok(found.and_then(|entry| match entry.stage {
        Stage::Final(Outcome::Settled { .. }) => Some(first.in_vain.clone()),
        _ => refused_by(&entry),
    }))
}

/// Whether `refused` only says that the payment was settled here, and this caller may be told.
async fn collectable(
    desk: &Desk,
    caller: Option<Digest>,
    payment: &Payment,
    refused: &Refused,
) -> Result<Option<Verdict>, Unavailable> {
    // What the chain says once the money moved or the authorization ran out.
    const SETTLED_LOOKS_LIKE: [Refusal; 17] = [
        Refusal::NonceAlreadyUsed,
        Refusal::PermitNonceUsed,
        Refusal::ValidBefore,
        Refusal::PermitExpired,
        Refusal::InsufficientFunds,
        Refusal::Permit2AllowanceRequired,
        Refusal::SimulationFailed,
        Refusal::PermitSimulationFailed,
        Refusal::DelegationSimulationFailed,
        Refusal::TokenPermitExpired,
        // The payer's account may run other code by now, or have another key.
        Refusal::ManagerNotAllowed,
        Refusal::InvalidSignature,
        Refusal::PermitInvalidSignature,
        Refusal::AdoptionInvalid,
        Refusal::OperationFailed,
        // It is on its way, or was when gas was cheaper or less could be settled.
        Refusal::SettlementTooCostly,
        Refusal::AmountTooSmall,
    ];
    if !SETTLED_LOOKS_LIKE.iter().any(|refusal| refused.reason.is(*refusal)) {
        return Ok(None);
    }
    let Ok(identified) = desk.network.identify(payment) else { return Ok(None) };
    let found = desk.journal.find(&identified.key).await;
    let found = found.map_err(|error| Unavailable::new("journal", error.to_string()))?;
    let told = match found {
        Some(entry) if may_be_told(&entry, caller, &identified.fingerprint) => {
            !restored::may_have_been_told(desk, &entry).await?
        }
        Some(_) | None => false,
    };
    Ok(told.then_some(Verdict::Valid { payer: identified.payer }))
}

/// Whether this caller may still be told of the success of `entry`.
fn may_be_told(entry: &Entry, caller: Option<Digest>, fingerprint: &Digest) -> bool {
    entry.new.fingerprint == *fingerprint
        && !matches!(entry.stage, Stage::Final(Outcome::Failed { .. } | Outcome::Reverted { .. }))
        && match entry.new.caller {
            Some(keyed) => caller == Some(keyed),
            None => entry.delivery == Delivery::Owed,
        }
}

/// The refusal of a payer with too many strikes. A payment that was entered before is let through:
/// its money may be moving.
async fn suspended(desk: &Desk, verified: &Verified) -> Result<Option<Refused>, Unavailable> {
    let Some(refused) = desk.suspension(&verified.payer).await? else { return Ok(None) };
    let found = desk.journal.find(&verified.key).await;
    let found = found.map_err(|error| Unavailable::new("journal", error.to_string()))?;
    Ok(found.is_none().then_some(refused))
}

/// The refusal of a payment that would not be entered for what others cost, before the chain is asked. One
/// that was entered before is let through.
async fn too_costly(
    desk: &Desk,
    caller: Option<&str>,
    payment: &Payment,
) -> Result<Option<Refused>, Unavailable> {
    let open = desk.check_breaker();
    let suspended = match desk.caller_suspension(caller) {
        Some(suspended) => Some(suspended),
        None => desk.budget_spent(caller).await?,
    };
    if open.is_ok() && suspended.is_none() {
        return Ok(None);
    }
    let identified = match desk.network.identify(payment) {
        Ok(identified) => identified,
        Err(refused) => return Ok(Some(refused)),
    };
    let found = desk.journal.find(&identified.key).await;
    if found.map_err(|error| Unavailable::new("journal", error.to_string()))?.is_some() {
        return Ok(None);
    }
    open.map(|()| suspended)
}

/// The refusal of a payment of which nothing was charged. The chain knows nothing of that, and
/// calls it good until it expires.
async fn uncharged(
    desk: &Desk,
    caller: Option<Digest>,
    payment: &Payment,
    verified: &Verified,
) -> Result<Option<Refused>, Unavailable> {
    if !payment.terms().scheme.has_ceiling() {
        return Ok(None);
    }
    let found = desk.journal.find(&verified.key).await;
    let found = found.map_err(|error| Unavailable::new("journal", error.to_string()))?;
    let over = match found {
        Some(entry) if entry.new.amount.is_zero() => {
            !may_be_told(&entry, caller, &verified.fingerprint)
                || restored::may_have_been_told(desk, &entry).await?
        }
        Some(_) | None => false,
    };
    Ok(over.then(|| Refused::from(Refusal::DuplicateSettlement).by(&verified.payer)))
}
