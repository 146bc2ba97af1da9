//! What an operator may tune, with the default of each named. Reads no file.

use std::collections::BTreeMap;
use std::time::Duration;

use pay402_core::{Amount, NetworkId};

use crate::failpoint::Failpoints;
use crate::webhooks::Webhook;

/// How long one settle call waits for the outcome before it is told `settlement_pending`. Below
/// the 90 s after which official servers give up on their facilitator.
pub const SETTLE_WAIT_MAX: Duration = Duration::from_secs(75);
/// Unfinished settlements of one network; above, new ones are turned away.
pub const UNFINISHED_MAX: usize = 4096;
/// Unfinished settlements of one payer on one network; above, new ones are turned away. All of them
/// may verify against the same balance, and each that reverts costs us its gas.
pub const UNFINISHED_PER_PAYER_MAX: usize = 16;
/// Transactions of one signer that wait to be mined, from which on it is given nothing new. Enough for blocks of
/// a second with 450 payments each, none of them packed, and for those that were mined just now and are not seen
/// yet.
pub const IN_FLIGHT_PER_SIGNER_MAX: usize = 1024;
/// Failed settlements of one payer that cost us gas, within [`STRIKES_WINDOW`], from which on its
/// payments are refused.
pub const STRIKES_MAX: u32 = 3;
/// How long a failed settlement is held against its payer.
pub const STRIKES_WINDOW: Duration = Duration::from_secs(60 * 60);
/// What failed settlements of one payer may cost us in an hour, in wei: 0.005 of the network's coin.
pub const LOSS_PER_PAYER_WEI_MAX: u64 = 5_000_000_000_000_000;
/// What failed settlements that one caller entered may cost us in an hour, in wei: 0.02 of the coin.
pub const LOSS_PER_CALLER_WEI_MAX: u64 = 20_000_000_000_000_000;
/// What all failed settlements of a network may cost us in an hour, in wei: 0.05 of its coin.
pub const LOSS_WEI_MAX: u64 = 50_000_000_000_000_000;
/// Settlements in a row that fail at our cost from which on nothing new is accepted for a while.
pub const FAILURES_IN_A_ROW_MAX: u32 = 20;
/// How long a lease lasts when it is not renewed. On PostgreSQL a crashed process blocks its successor so long, on a
/// file one that stands still.
pub const LEASE: Duration = Duration::from_secs(10);
/// Longest any single question to a network may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before the first look at the chain after a transaction was sent; then it doubles.
pub const POLL_FIRST: Duration = Duration::from_millis(5);
/// Longest delay between two looks at the chain.
pub const POLL_MAX: Duration = Duration::from_millis(500);
/// Longest delay between two looks while the chain does not show where a payment stands.
pub const POLL_UNKNOWN_MAX: Duration = Duration::from_secs(15);
/// Delay before the same bytes are sent again when the chain has not mined them; then it doubles.
pub const RESEND_FIRST: Duration = Duration::from_millis(500);
/// Longest delay between two sendings of the same bytes.
pub const RESEND_MAX: Duration = Duration::from_secs(10);
/// How long a transaction may wait to be mined before its fees are looked at again; then twice as long.
pub const REPLACE_FIRST: Duration = Duration::from_secs(10);
/// Longest that a transaction waits before its fees are looked at again.
pub const REPLACE_MAX: Duration = Duration::from_secs(60);
/// How often the signers' funds are looked at.
pub const FUNDS_EVERY: Duration = Duration::from_secs(30);
/// How often the journal is searched for entries that nobody works on.
pub const RESCAN: Duration = Duration::from_secs(30);
/// How long a signer's nonces may stand still before those that nobody holds the bytes for are cancelled.
/// What a reorganisation took out usually comes back sooner.
pub const GAP_PATIENCE: Duration = Duration::from_secs(30);
/// How often is looked whether a signer's nonces stand still, while anything waits.
pub const GAP_EVERY: Duration = Duration::from_secs(5);

/// How deep the block that closed an entry is buried, in blocks: from then on nothing is kept to settle
/// it again. Ethereum's own finality takes 64 to 95 blocks.
pub const BURIAL_BLOCKS: u64 = 64;
/// How often is looked for entries that may be forgotten, where any are.
pub const FORGET_EVERY: Duration = Duration::from_secs(10 * 60);
/// How often the newest block is looked at while anything is watched.
pub const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often the newest block is asked for while settlements wait for one that may have come.
pub const HEAD_EVERY: Duration = Duration::from_millis(25);
/// How long no block may come while settlements wait for one, before nothing new is accepted.
pub const HALT_AFTER: Duration = Duration::from_secs(120);

/// What may be lost on a network in an hour. From a bound on, nothing new is accepted of whom it is for until
/// an hour has less; what was accepted goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LossBounds {
    /// What failed settlements of one payer may cost, in wei.
    pub per_payer: Amount,
    /// What failed settlements may cost that one caller entered, in wei.
    pub per_caller: Amount,
    /// What all failed settlements may cost, in wei.
    pub total: Amount,
    /// Settlements in a row that fail at a price from which on nothing new is accepted for a while; at
    /// least 1.
    pub failures_in_a_row_max: u32,
}

impl Default for LossBounds {
    fn default() -> Self {
        Self {
            per_payer: Amount::from(LOSS_PER_PAYER_WEI_MAX),
            per_caller: Amount::from(LOSS_PER_CALLER_WEI_MAX),
            total: Amount::from(LOSS_WEI_MAX),
            failures_in_a_row_max: FAILURES_IN_A_ROW_MAX,
        }
    }
}

/// Settings of an [`Engine`](crate::Engine). Start from [`Options::default`].
#[derive(Clone, Debug)]
pub struct Options {
    /// How this process is called in leases; must differ between processes. By default random.
    pub holder: String,
    /// How long a lease lasts, in whole seconds; at least 3.
    pub lease: Duration,
    /// Whether this process follows another one that holds a network's lease, and leads when that is
    /// gone. Otherwise it gives up at the start after one lease, and for good when it loses one.
    pub follows: bool,
    /// Where those who follow this process may forward calls to while it leads:
    /// `http://10.0.0.5:4020`. It stands in the journal, for each of them to see.
    pub advertise: Option<String>,
    /// Unfinished settlements of one network; above, new ones are turned away.
    pub unfinished_max: usize,
    /// Unfinished settlements of one payer on one network; above, new ones are turned away.
    pub unfinished_per_payer_max: usize,
    /// Transactions of one signer on each network that wait to be mined, from which on it is given nothing new; at
    /// least 1. [`IN_FLIGHT_PER_SIGNER_MAX`] on a network that is not named.
    pub in_flight_per_signer_max: BTreeMap<NetworkId, usize>,
    /// Failed settlements of one payer that cost us gas, within `strikes_window`, from which on its
    /// payments are refused; from 1 to 1,000.
    pub strikes_max: u32,
    /// How long a failed settlement is held against its payer, in whole seconds; at least 1.
    pub strikes_window: Duration,
    /// What may be lost on each network; the default on one that is not named.
    pub losses: BTreeMap<NetworkId, LossBounds>,
    /// What the entries of a caller may cost in gas in an hour on each network, in wei, by its name; above zero.
    /// As much as they like where it is not set.
    pub gas_budgets: BTreeMap<String, Amount>,
    /// Longest that a settle call waits for the outcome.
    pub settle_wait_max: Duration,
    /// Longest any single question to a network may take.
    pub call_timeout: Duration,
    /// Delay before the first look at the chain after sending; then it doubles.
    pub poll_first: Duration,
    /// Longest delay between two looks at the chain.
    pub poll_max: Duration,
    /// Longest delay between two looks while the chain does not show where a payment stands.
    pub poll_unknown_max: Duration,
    /// Delay before the same bytes are sent again; then it doubles.
    pub resend_first: Duration,
    /// Longest delay between two sendings of the same bytes.
    pub resend_max: Duration,
    /// How long a transaction may wait to be mined before its fees are looked at again; then it doubles.
    pub replace_first: Duration,
    /// Longest that a transaction waits before its fees are looked at again.
    pub replace_max: Duration,
    /// How often the signers' funds are looked at.
    pub funds_every: Duration,
    /// How often the journal is searched for entries that nobody works on.
    pub rescan: Duration,
    /// How long a signer's nonces may stand still before those that nobody holds the bytes for are cancelled.
    pub gap_patience: Duration,
    /// How often is looked whether a signer's nonces stand still, while anything waits.
    pub gap_every: Duration,
    /// How deep a block must be for what it closed to be final for good; at least 1, and no less than
    /// any settlement waits for before it is told.
    pub burial_blocks: u64,
    /// How often the newest block is looked at while anything is watched.
    pub watch_every: Duration,
    /// How often the newest block is asked for while settlements wait for one that may have come.
    pub head_every: Duration,
    /// How long no block may come while settlements wait for one, before nothing new is accepted.
    pub halt_after: Duration,
    /// How long after an entry is over for good it is kept, in whole seconds; `None` for ever. What failed at our
    /// cost is kept as long as it counts against its payer, at the least.
    pub retain: Option<Duration>,
    /// How often is looked for entries that may be forgotten.
    pub forget_every: Duration,
    /// Who is sent events.
    pub webhooks: Vec<Webhook>,
    /// Where to stop on purpose. Never without the feature `failpoints`.
    pub failpoints: Failpoints,
}

impl Options {
    /// How many transactions of one signer on `network` may wait to be mined.
    pub(crate) fn in_flight_max(&self, network: &NetworkId) -> usize {
        self.in_flight_per_signer_max.get(network).copied().unwrap_or(IN_FLIGHT_PER_SIGNER_MAX)
    }
}

impl Default for Options {
    fn default() -> Self {
        let mut id = [0_u8; 8];
        // Without randomness sealing fails anyway, and the first settlement says so.
        let holder = match getrandom::fill(&mut id) {
            Ok(()) => format!("{}-{:016x}", std::process::id(), u64::from_be_bytes(id)),
            Err(_) => std::process::id().to_string(),
        };
        Self {
            holder,
            lease: LEASE,
            follows: false,
            advertise: None,
            unfinished_max: UNFINISHED_MAX,
            unfinished_per_payer_max: UNFINISHED_PER_PAYER_MAX,
            in_flight_per_signer_max: BTreeMap::new(),
            strikes_max: STRIKES_MAX,
            strikes_window: STRIKES_WINDOW,
            losses: BTreeMap::new(),
            gas_budgets: BTreeMap::new(),
            settle_wait_max: SETTLE_WAIT_MAX,
            call_timeout: CALL_TIMEOUT,
            poll_first: POLL_FIRST,
            poll_max: POLL_MAX,
            poll_unknown_max: POLL_UNKNOWN_MAX,
            resend_first: RESEND_FIRST,
            resend_max: RESEND_MAX,
            replace_first: REPLACE_FIRST,
            replace_max: REPLACE_MAX,
            funds_every: FUNDS_EVERY,
            rescan: RESCAN,
            gap_patience: GAP_PATIENCE,
            gap_every: GAP_EVERY,
            burial_blocks: BURIAL_BLOCKS,
            watch_every: WATCH_EVERY,
            head_every: HEAD_EVERY,
            halt_after: HALT_AFTER,
            retain: None,
            forget_every: FORGET_EVERY,
            webhooks: Vec::new(),
            failpoints: Failpoints::default(),
        }
    }
}
