//! What happened since the process started, in figures that cost one atomic addition each.
//!
//! Every set of labels is made at start, from the configuration and from the refusal registry: no
//! request, whatever it says, makes a new one. No payer and no payee is in any of them. How they are
//! written for a monitor is in `api::exposition`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::journal::{Entry, Outcome, Stage};
use pay402_core::refusal::Reason;
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Refusal, Scheme};

/// Upper bounds of the buckets for calls, in milliseconds. The last is [`SETTLE_WAIT_MAX`], longer
/// than which no call takes.
///
/// [`SETTLE_WAIT_MAX`]: crate::options::SETTLE_WAIT_MAX
const CALL_MS: &[u64] =
    &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 75_000];
/// Upper bounds of the buckets for entries, in milliseconds: the journal counts whole seconds.
const ENTRY_MS: &[u64] =
    &[1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000, 120_000, 300_000, 900_000, 3_600_000];
const WEI_PER_GWEI: u64 = 1_000_000_000;
/// JSON-RPC methods that are told apart; others are counted together, as the last.
const RPC_METHODS: [&str; 13] = [
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_getBalance",
    "eth_getBlockByNumber",
    "eth_getCode",
    "eth_getLogs",
    "eth_getStorageAt",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
];
const OTHER_METHOD: &str = "other";

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often something ended with which refusal.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// By the place of the refusal in the registry; the last is for codes of strangers.
    by_code: Box<[Count]>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { by_code: (0..=Refusal::ALL.len()).map(|_| Count::default()).collect() }
    }
}

impl Refusals {
    fn add(&self, reason: &Reason) {
        let place = match reason {
            Reason::Known(refusal) => *refusal as usize,
            Reason::Foreign(_) => Refusal::ALL.len(),
        };
        if let Some(count) = self.by_code.get(place) {
            count.add(1);
        }
    }

    /// Those that happened, by wire code.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let codes = Refusal::ALL.iter().map(|refusal| refusal.code()).chain(["foreign"]);
        codes.zip(self.by_code.iter().map(Count::read)).filter(|(_, count)| *count > 0)
    }
}

/// What became of spans that were to be exported.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: Count,
    dropped: Count,
}

impl SpanCounts {
    /// So many were taken.
    pub fn exported(&self, count: u64) {
        self.exported.add(count);
    }

    /// There was no room for so many, or they were not taken.
    pub fn dropped(&self, count: u64) {
        self.dropped.add(count);
    }

    pub(crate) fn read(&self) -> [(&'static str, u64); 2] {
        [("exported", self.exported.read()), ("dropped", self.dropped.read())]
    }
}

/// How long something took.
#[derive(Debug)]
pub(crate) struct Durations {
    bounds_ms: &'static [u64],
    /// One for each bound, and one for what is above them all.
    buckets: Box<[Count]>,
    sum_us: Count,
}

impl Durations {
    fn new(bounds_ms: &'static [u64]) -> Self {
        let buckets = (0..=bounds_ms.len()).map(|_| Count::default()).collect();
        Self { bounds_ms, buckets, sum_us: Count::default() }
    }

    pub(crate) fn of_calls() -> Self {
        Self::new(CALL_MS)
    }

    pub(crate) fn of_entries() -> Self {
        Self::new(ENTRY_MS)
    }

    pub(crate) fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds_ms.partition_point(|bound| bound.saturating_mul(1_000) < us);
        self.buckets[bucket].add(1);
        self.sum_us.add(us);
    }

    /// The upper bound of each bucket, `None` for the last, and how many are in it alone.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = self.bounds_ms.iter().map(|ms| Some(Duration::from_millis(*ms)));
        bounds.chain([None]).zip(self.buckets.iter().map(Count::read))
    }

    pub(crate) fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us.read())
    }
}

/// What verify calls were answered.
#[derive(Debug, Default)]
pub(crate) struct Verifications {
    pub(crate) valid: Count,
    pub(crate) invalid: Refusals,
    pub(crate) unavailable: Count,
}

impl Verifications {
    pub(crate) fn add(&self, answer: &Result<Verdict, Unavailable>) {
        match answer {
            Ok(Verdict::Valid { .. }) => self.valid.add(1),
            Ok(Verdict::Invalid(refused)) => self.invalid.add(&refused.reason),
            Err(_) => self.unavailable.add(1),
        }
    }
}

/// What settle calls were answered.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    pub(crate) settled: Count,
    pub(crate) refused: Refusals,
    pub(crate) pending: Count,
    pub(crate) unavailable: Count,
}

impl Settlements {
    pub(crate) fn add(&self, answer: &Result<Settled, Unavailable>) {
        match answer {
            Ok(Settled::Done(_)) => self.settled.add(1),
            Ok(Settled::Refused(refused)) => self.refused.add(&refused.reason),
            Ok(Settled::Pending { .. }) => self.pending.add(1),
            Err(_) => self.unavailable.add(1),
        }
    }
}

/// What became of calls that were forwarded to whoever leads.
#[derive(Debug, Default)]
pub(crate) struct Forwards {
    pub(crate) answered: Count,
    /// Nothing was entered for them.
    pub(crate) untouched: Count,
    /// Nobody knows.
    pub(crate) lost: Count,
}

/// The calls about one scheme on one network.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) verifications: Verifications,
    pub(crate) settlements: Settlements,
}

/// Whole gwei of an amount of wei.
pub(crate) fn gwei_of(wei: Amount) -> u64 {
    let wei = u128::try_from(wei.to_u256()).unwrap_or(u128::MAX);
    u64::try_from(wei / u128::from(WEI_PER_GWEI)).unwrap_or(u64::MAX)
}

/// Gas that was paid for, in whole gwei; what is left over is kept until it makes one.
#[derive(Debug, Default)]
pub(crate) struct GasSpent {
    gwei: Count,
    /// The rests below a gwei of every fee: 10^10 fees before it could overflow.
    wei: Count,
}

impl GasSpent {
    fn add(&self, fee_wei: u128) {
        let per_gwei = u128::from(WEI_PER_GWEI);
        self.gwei.add(u64::try_from(fee_wei / per_gwei).unwrap_or(u64::MAX));
        self.wei.add(u64::try_from(fee_wei % per_gwei).unwrap_or(0));
    }

    pub(crate) fn gwei(&self) -> u64 {
        self.gwei.read().wrapping_add(self.wei.read() / WEI_PER_GWEI)
    }
}

/// Settlements that were told, undone and lost, by asset. Only assets that are settled come here.
#[derive(Debug, Default)]
pub(crate) struct Losses(Mutex<BTreeMap<String, Loss>>);

/// What was lost of one asset.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    pub(crate) count: u64,
    /// In atomic units; no more than fits.
    pub(crate) amount: u64,
}

impl Losses {
    fn add(&self, asset: &str, amount: Amount) {
        let mut losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let loss = losses.entry(asset.to_owned()).or_default();
        loss.count = loss.count.saturating_add(1);
        let amount = u64::try_from(amount.to_u256()).unwrap_or(u64::MAX);
        loss.amount = loss.amount.saturating_add(amount);
    }

    pub(crate) fn read(&self) -> Vec<(String, Loss)> {
        let losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        losses.iter().map(|(asset, loss)| (asset.clone(), *loss)).collect()
    }
}

/// What happened on one network.
#[derive(Debug)]
pub(crate) struct NetworkMetrics {
    schemes: Vec<(Scheme, Calls)>,
    other_schemes: Calls,
    pub(crate) verifying: Durations,
    /// Settle calls that ended with a settlement.
    pub(crate) settling: Durations,
    pub(crate) accounts: Settlements,
    pub(crate) forwards: Forwards,
    pub(crate) settled: Count,
    pub(crate) failed: Refusals,
    /// From the entry to its end, whatever end.
    pub(crate) entries: Durations,
    pub(crate) gas: GasSpent,
    /// Entries that were opened again since their block was undone.
    pub(crate) reopened: Count,
    /// Entries that were forgotten.
    pub(crate) forgotten: Count,
    /// Transactions that were signed to cancel others of which all had expired.
    pub(crate) cancelled: Count,
    /// Settlements that were told and are lost.
    pub(crate) reverted: Losses,
}

impl NetworkMetrics {
    pub(crate) fn new(schemes: impl IntoIterator<Item = Scheme>) -> Self {
        let mut told_apart: Vec<(Scheme, Calls)> = Vec::new();
        for scheme in schemes {
            if !told_apart.iter().any(|(known, _)| *known == scheme) {
                told_apart.push((scheme, Calls::default()));
            }
        }
        Self {
            schemes: told_apart,
            other_schemes: Calls::default(),
            verifying: Durations::of_calls(),
            settling: Durations::of_calls(),
            accounts: Settlements::default(),
            forwards: Forwards::default(),
            settled: Count::default(),
            failed: Refusals::default(),
            entries: Durations::of_entries(),
            gas: GasSpent::default(),
            reopened: Count::default(),
            forgotten: Count::default(),
            cancelled: Count::default(),
            reverted: Losses::default(),
        }
    }

    pub(crate) fn calls(&self, scheme: &Scheme) -> &Calls {
        let known = self.schemes.iter().find(|(known, _)| known == scheme);
        known.map_or(&self.other_schemes, |(_, calls)| calls)
    }

    /// The calls by scheme; `other` are those of schemes that are not served.
    pub(crate) fn by_scheme(&self) -> impl Iterator<Item = (&str, &Calls)> {
        let known = self.schemes.iter().map(|(scheme, calls)| (scheme.as_str(), calls));
        known.chain([("other", &self.other_schemes)])
    }

    /// An entry was closed.
    pub(crate) fn closed(&self, entry: &Entry, now: UnixTime) {
        let Stage::Final(outcome) = &entry.stage else { return };
        let fee = match outcome {
            Outcome::Settled { fee, .. } => {
                self.settled.add(1);
                fee
            }
            Outcome::Failed { reason, fee, .. } => {
                self.failed.add(&Reason::parse(reason));
                fee
            }
            Outcome::Reverted { fee, .. } => {
                self.reverted.add(entry.new.key.asset(), entry.new.amount);
                fee
            }
        };
        self.gas.add(u128::try_from(fee.to_u256()).unwrap_or(u128::MAX));
        self.entries.add(Duration::from_secs(now.0.saturating_sub(entry.new.entered_at.0)));
    }
}

/// How a question to a node ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RpcOutcome {
    /// With a result.
    Answered,
    /// With an error of the node. A simulation that reverts is one too.
    Failed,
    /// Without an answer.
    Unanswered,
}

/// How a node stands among those of its network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NodeStanding {
    /// It is asked.
    Well,
    /// It keeps failing, and is left alone for a while.
    Resting,
    /// It is on another chain.
    OtherChain,
}

/// The questions to one node, by method, and how it stands.
#[derive(Debug)]
pub struct RpcCounts {
    network: String,
    node: String,
    by_method: [[Count; 3]; RPC_METHODS.len() + 1],
    took: Durations,
    head: AtomicU64,
    /// As [`NodeStanding`] is numbered.
    standing: AtomicU8,
    disagreed: Count,
}

impl RpcCounts {
    /// Counts for a node of a network, which the labels `network` and `node` name.
    pub fn new(network: &pay402_core::NetworkId, node: &str) -> Self {
        Self {
            network: network.as_str().to_owned(),
            node: node.to_owned(),
            by_method: Default::default(),
            took: Durations::of_calls(),
            head: AtomicU64::new(0),
            standing: AtomicU8::new(NodeStanding::Well as u8),
            disagreed: Count::default(),
        }
    }

    /// Notes how long a round trip took.
    pub fn took(&self, time: Duration) {
        self.took.add(time);
    }

    /// Notes what the node shows to be its newest block.
    pub fn saw(&self, head: u64) {
        self.head.store(head, Ordering::Relaxed);
    }

    /// Notes how the node stands.
    pub fn stands(&self, standing: NodeStanding) {
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Counts that what the node showed of a payment was not what another one showed.
    pub fn disagreed(&self) {
        self.disagreed.add(1);
    }

    /// Counts a question. Methods that are not known to this list are counted together.
    pub fn add(&self, method: &str, outcome: RpcOutcome) {
        let place = RPC_METHODS.iter().position(|known| *known == method);
        self.by_method[place.unwrap_or(RPC_METHODS.len())][outcome as usize].add(1);
    }

    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) const fn durations(&self) -> &Durations {
        &self.took
    }

    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    pub(crate) fn is_well(&self) -> bool {
        self.standing.load(Ordering::Relaxed) == NodeStanding::Well as u8
    }

    pub(crate) fn disagreements(&self) -> u64 {
        self.disagreed.read()
    }

    /// Method, outcome and count of what was asked.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let methods = RPC_METHODS.into_iter().chain([OTHER_METHOD]);
        methods.zip(&self.by_method).flat_map(|(method, counts)| {
            let outcomes = ["answered", "error", "unanswered"].into_iter().zip(counts);
            let counted = outcomes.map(move |(outcome, count)| (method, outcome, count.read()));
            counted.filter(|(.., count)| *count > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_place_of_its_own() {
        let refusals = Refusals::default();
        for refusal in Refusal::ALL {
            refusals.add(&Reason::Known(*refusal));
        }
        refusals.add(&Reason::Foreign("anything".into()));
        refusals.add(&Reason::Foreign("anything else".into()));
        let read: Vec<_> = refusals.read().collect();
        let expected: Vec<_> = Refusal::ALL.iter().map(|refusal| (refusal.code(), 1)).collect();
        assert_eq!(read, [expected, vec![("foreign", 2)]].concat());
    }

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let durations = Durations::of_calls();
        for us in [0, 1_000, 1_001, 2_000, 75_000_000, 75_000_001] {
            durations.add(Duration::from_micros(us));
        }
        let buckets: Vec<_> = durations.buckets().collect();
        assert_eq!(buckets[0], (Some(Duration::from_millis(1)), 2));
        assert_eq!(buckets[1], (Some(Duration::from_millis(2)), 2));
        assert_eq!(buckets[CALL_MS.len() - 1], (Some(Duration::from_secs(75)), 1));
        assert_eq!(buckets[CALL_MS.len()], (None, 1));
        assert_eq!(durations.sum(), Duration::from_micros(150_004_002));
    }

    #[test]
    fn gas_below_a_gwei_is_not_lost() {
        let gas = GasSpent::default();
        for _ in 0..3 {
            gas.add(1_999_999_999);
        }
        assert_eq!(gas.gwei(), 5, "3 × 1.999999999 gwei");
        gas.add(3);
        assert_eq!(gas.gwei(), 6);
        // A hundred ether, more than 64 bits of wei.
        gas.add(100 * 10_u128.pow(18));
        assert_eq!(gas.gwei(), 100_000_000_006);
    }

    #[test]
    fn methods_that_are_not_known_share_a_label() {
        let counts = RpcCounts::new(&pay402_core::NetworkId::eip155(1), "0");
        counts.add("eth_call", RpcOutcome::Failed);
        for method in ["eth_evil{payer=\"0x1\"}", "", "debug_x"] {
            counts.add(method, RpcOutcome::Unanswered);
        }
        let read: Vec<_> = counts.read().collect();
        assert_eq!(read, [("eth_call", "error", 1), ("other", "unanswered", 3)]);
    }
}
