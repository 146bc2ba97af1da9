//! The payer's side of money: quotes, policy, ledger, and the clearance to sign.
//!
//! Every behaviour derives from these rules, stated here once:
//!
//! - **No signature without a [`Clearance`].** The only road to one is [`clear`]: the owner's
//!   policy judges, then the ledger reserves, durably and within the limits, in one transaction.
//!   [`Clearance::resume`] gives back a clearance for a reservation that already stands.
//! - **One purchase, one authorization.** A reservation is found again by its [`Intent`]; as long
//!   as it is open, the same authorization is presented again. A new one is cleared only after the
//!   old is posted or provably dead.
//! - **Reserved counts as spent.** reserved + posted ≤ limit, at every instant, across threads,
//!   processes and restarts.
//! - **Void needs proof.** A reservation whose authorization may have left the process is released
//!   only when the chain shows it unused and expired ([`VoidProof`]).
//! - **Nothing spendable at rest.** The ledger holds the plan (nonce and times), not the
//!   signature; the signer makes the same bytes again.

use async_trait::async_trait;

use crate::asset::AssetId;
use crate::error::Unavailable;
use crate::scheme::{ClientScheme, Unplanned};
use crate::time::UnixTime;
use crate::{Amount, Digest, Requirements, Scheme};

/// What taking up an offer costs, from our own asset table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// The offer, unchanged, for the echo.
    pub offer: Requirements,
    /// The scheme.
    pub scheme: Scheme,
    /// The asset.
    pub asset: AssetId,
    /// Short name of the asset, from our table.
    pub symbol: String,
    /// Decimal places of the asset, from our table.
    pub decimals: u8,
    /// The most that can be charged, in atomic units.
    pub amount: Amount,
    /// Who is paid, canonical.
    pub pay_to: String,
    /// Whether one unit of the asset is one dollar, by our own table.
    pub is_dollar: bool,
}

/// One purchase: the request that is paid for. A retry of the same request has the same intent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intent {
    /// Digest of payer, method, URL and body (and of a caller's own id, if it gave one).
    pub id: Digest,
    /// The origin that asked for payment, such as `https://api.example.com`.
    pub origin: String,
    /// The resource, for people. No credentials, no query.
    pub resource: String,
}

/// What was spent of an asset so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// Settled.
    pub posted: Amount,
    /// Reserved and not yet settled or voided. Counts as spent.
    pub reserved: Amount,
}

/// Limits that the ledger enforces in the same transaction as the reservation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// posted + reserved + this may not exceed it, in atomic units of the quote's asset.
    pub total: Option<Amount>,
}

/// The owner's decision about one quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Allowed, as long as the limits hold.
    Allow(Limits),
    /// The owner has to be asked.
    Ask(Denied),
    /// Not allowed.
    Deny(Denied),
}

/// Why a payment is not allowed: the rule, and the figures behind it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// The rule, such as `max_per_payment`.
    pub rule: &'static str,
    /// For people: what was asked, what is allowed, what remains, how to change it.
    pub message: String,
    /// What was asked for, in atomic units.
    pub asked: Amount,
    /// What the rule allows, in atomic units, when it is a figure.
    pub limit: Option<Amount>,
    /// What remains under the rule, in atomic units, when it is a figure.
    pub remaining: Option<Amount>,
}

/// The owner's rules.
pub trait Policy: Send + Sync {
    /// Judges a quote given what was spent of its asset. Pure.
    fn judge(&self, quote: &Quote, intent: &Intent, spent: &Spent) -> Verdict;

    /// Longest lifetime of a signed authorization, in seconds.
    fn lifetime_s_max(&self) -> u64;
}

/// What will be signed, fixed before it is signed, so that it can be signed again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The authorization's nonce.
    pub nonce: [u8; 32],
    /// Valid strictly after this.
    pub valid_after: UnixTime,
    /// Valid strictly before this.
    pub valid_before: UnixTime,
}

/// A standing reservation.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// What is bought.
    pub intent: Intent,
    /// The account that pays, canonical.
    pub payer: String,
    /// What it may cost.
    pub quote: Quote,
    /// What is, or will be, signed.
    pub plan: Plan,
    /// When it was reserved.
    pub reserved_at: UnixTime,
}

/// Why the ledger did not reserve.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ReserveError {
    /// A limit would be exceeded.
    #[error("the total budget would be exceeded: {spent_and_reserved} of {limit} is used")]
    OverLimit {
        /// posted + reserved.
        spent_and_reserved: Amount,
        /// The limit.
        limit: Amount,
    },
    /// The intent already has an open reservation; present that authorization again.
    #[error("this purchase already has an open payment")]
    Open(Box<Reservation>),
    /// Storage failed: nothing is reserved and nothing may be signed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a reservation may be released.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VoidProof {
    /// It was never signed: signing failed, or the process died before.
    NeverSigned,
    /// The chain shows the authorization unused and no longer usable.
    ChainDead,
}

/// Durable storage for what was spent. See the module for its rules.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// What was spent of an asset by a payer.
    ///
    /// # Errors
    /// When storage failed.
    async fn spent(&self, payer: &str, asset: &AssetId) -> Result<Spent, Unavailable>;

    /// Reserves, within `limits`, in one transaction.
    ///
    /// # Errors
    /// See [`ReserveError`].
    async fn reserve(&self, reservation: &Reservation, limits: &Limits)
    -> Result<(), ReserveError>;

    /// Books what was charged, at most what was reserved, with the transaction that proves it.
    /// Posting the same again changes nothing.
    ///
    /// # Errors
    /// When storage failed, or more than reserved would be booked.
    async fn post(
        &self,
        plan: &Plan,
        charged: Amount,
        transaction: &str,
        at: UnixTime,
    ) -> Result<(), Unavailable>;

    /// Releases a reservation.
    ///
    /// # Errors
    /// When storage failed: it stays reserved.
    async fn void(&self, plan: &Plan, proof: VoidProof, at: UnixTime) -> Result<(), Unavailable>;

    /// The open reservation of an intent.
    ///
    /// # Errors
    /// When storage failed.
    async fn open(&self, intent: &Digest) -> Result<Option<Reservation>, Unavailable>;

    /// Open reservations of a payer, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When storage failed.
    async fn pending(&self, payer: &str, limit: usize) -> Result<Vec<Reservation>, Unavailable>;
}

/// Leave to sign one authorization. Evidence: built only by [`clear`] and [`Clearance::resume`].
#[derive(Clone, Debug, PartialEq)]
pub struct Clearance {
    reservation: Reservation,
}

impl Clearance {
    /// The clearance of a reservation that stands in the ledger, to present the same
    /// authorization again.
    pub const fn resume(reservation: Reservation) -> Self {
        Self { reservation }
    }

    /// What may be signed.
    pub const fn reservation(&self) -> &Reservation {
        &self.reservation
    }
}

/// Why no clearance was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotCleared {
    /// The policy denies it.
    #[error(transparent)]
    Denied(Denied),
    /// The owner has to approve it.
    #[error("the owner has to approve: {0}")]
    Ask(Denied),
    /// The purchase already has an open payment.
    #[error("this purchase already has an open payment")]
    Open(Box<Reservation>),
    /// The scheme could not plan what to sign.
    #[error(transparent)]
    Unplanned(Unavailable),
    /// The ledger could not be used: nothing may be signed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Judges, plans and reserves a payment by `scheme`. The only road to a new [`Clearance`].
///
/// `fresh` must be fresh randomness. The lifetime is the offer's, clamped to the policy's.
///
/// # Errors
/// See [`NotCleared`]; nothing is reserved then.
pub async fn clear(
    policy: &dyn Policy,
    ledger: &dyn Ledger,
    scheme: &dyn ClientScheme,
    quote: Quote,
    intent: Intent,
    fresh: [u8; 32],
    now: UnixTime,
) -> Result<Clearance, NotCleared> {
    let payer = scheme.payer();
    let spent = ledger.spent(&payer, &quote.asset).await?;
    let limits = match policy.judge(&quote, &intent, &spent) {
        Verdict::Allow(limits) => limits,
        Verdict::Ask(why) => return Err(NotCleared::Ask(why)),
        Verdict::Deny(why) => return Err(NotCleared::Denied(why)),
    };
    let nonce = scheme.plan_nonce(&quote, fresh).await.map_err(|error| match error {
        Unplanned::Denied(why) => NotCleared::Denied(*why),
        Unplanned::Unavailable(error) => NotCleared::Unplanned(error),
    })?;
    let lifetime_s = quote.offer.max_timeout_seconds.min(policy.lifetime_s_max());
    let plan = Plan {
        nonce,
        // Clocks differ by seconds between machines; a start in the past costs nothing.
        valid_after: now.minus_s(CLOCK_SKEW_S),
        valid_before: now.plus_s(lifetime_s),
    };
    let reservation = Reservation { intent, payer, quote, plan, reserved_at: now };
    match ledger.reserve(&reservation, &limits).await {
        Ok(()) => Ok(Clearance { reservation }),
        Err(ReserveError::OverLimit { spent_and_reserved, limit }) => {
            Err(NotCleared::Denied(over_total(&reservation.quote, spent_and_reserved, limit)))
        }
        Err(ReserveError::Open(open)) => Err(NotCleared::Open(open)),
        Err(ReserveError::Unavailable(error)) => Err(error.into()),
    }
}

/// The denial of a payment that would exceed the total budget.
pub fn over_total(quote: &Quote, used: Amount, limit: Amount) -> Denied {
    let units = |amount: Amount| amount.to_units(quote.decimals);
    let remaining = limit.saturating_sub(used);
    Denied {
        rule: "total_budget",
        message: format!(
            "the payment of {asked} {symbol} exceeds what remains of the account's total budget for \
             {symbol} on {network}: {remaining} of {limit} {symbol}; the owner can raise it",
            network = quote.asset.network,
            asked = units(quote.amount),
            remaining = units(remaining),
            limit = units(limit),
            symbol = quote.symbol,
        ),
        asked: quote.amount,
        limit: Some(limit),
        remaining: Some(remaining),
    }
}

/// How far `valid_after` lies in the past, in seconds, to bear the skew between clocks.
pub const CLOCK_SKEW_S: u64 = 60;
