//! The resource server's claims: which payment was granted to which request.
//!
//! Every behaviour derives from these rules, stated here once:
//!
//! - **One claim per payment.** [`Grants::claim`] is insert-if-absent on the [`PaymentKey`] and is
//!   durable before the handler runs. Every other request with the same payment finds it held.
//! - **Released only before settling.** [`Grants::release`] frees a claim whose settlement was
//!   never asked for or certainly failed; from [`Grants::settling`] on, only an outcome ends it.
//! - **One charge.** What is to be collected is recorded before it is asked for, and is asked for
//!   again unchanged: a repeat, after a crash above all, never charges something else.
//! - **A paid answer is given again only on proof.** A delivered claim may hold the response,
//!   sealed with a key made from the off-chain secret that the payer presented. The store knows
//!   the hash of the secret and cannot open the seal; who reads the chain has neither.
//! - **Claims outlive the authorization.** They are pruned only after it can no longer be used.

use async_trait::async_trait;

use crate::error::Unavailable;
use crate::time::UnixTime;
use crate::{Amount, Digest, PaymentKey};

/// A request that wants to be granted by a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The payment.
    pub key: PaymentKey,
    /// The request: method, path and query, and the terms it was offered.
    pub request: Digest,
    /// Hash of the secret that came with the payment, when one did.
    pub proof: Option<Digest>,
    /// When it was claimed.
    pub claimed_at: UnixTime,
    /// When the claim may be forgotten: after the authorization can no longer be used.
    pub forget_at: UnixTime,
}

/// The answer to [`Grants::claim`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// This request holds the payment now.
    Granted,
    /// The payment is held by an earlier request.
    Held(Held),
}

/// An earlier request's claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held {
    /// Whether it was for the same request.
    pub same_request: bool,
    /// Whether both presented the same secret; false when either presented none.
    pub same_proof: bool,
    /// How far it has come.
    pub state: GrantState,
}

/// How far a claim has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GrantState {
    /// Its handler runs.
    Claimed,
    /// Settlement was asked for; the outcome is not known. The sealed response waits for it.
    Settling {
        /// How much is collected, in atomic units; `None` means the amount of the terms.
        charge: Option<Amount>,
        /// The response to be delivered, sealed; `None` without a secret or above the bound.
        sealed: Option<Vec<u8>>,
    },
    /// Settled and answered.
    Delivered {
        /// The transaction; empty where nothing was charged.
        transaction: String,
        /// How much was charged, in atomic units; `None` means the amount of the terms.
        charged: Option<Amount>,
        /// The response, sealed; `None` without a secret or above the bound.
        sealed: Option<Vec<u8>>,
    },
}

/// Durable storage for claims. See the module for its rules.
#[async_trait]
pub trait Grants: Send + Sync {
    /// Claims a payment for a request, atomically.
    ///
    /// # Errors
    /// When storage failed: nothing is granted.
    async fn claim(&self, claim: Claim) -> Result<Claimed, Unavailable>;

    /// Records that settlement is about to be asked for: how much of the payment, `None` for the
    /// amount of the terms, and the response that waits for it.
    ///
    /// # Errors
    /// When storage failed: settlement must not be asked for.
    async fn settling(
        &self,
        key: &PaymentKey,
        charge: Option<Amount>,
        sealed: Option<Vec<u8>>,
    ) -> Result<(), Unavailable>;

    /// Records that the payment settled, for what was recorded, and the response was released.
    ///
    /// # Errors
    /// When storage failed. The money moved all the same.
    async fn deliver(&self, key: &PaymentKey, transaction: &str) -> Result<(), Unavailable>;

    /// Frees a claim: settlement was not asked for, or has certainly failed. A delivered claim
    /// stays as it is.
    ///
    /// # Errors
    /// When storage failed: the claim stays held.
    async fn release(&self, key: &PaymentKey) -> Result<(), Unavailable>;

    /// How far the claim on a payment has come; `None` when there is none. For whoever compares
    /// books: it decides nothing.
    ///
    /// # Errors
    /// When storage failed.
    async fn state(&self, key: &PaymentKey) -> Result<Option<GrantState>, Unavailable>;

    /// Forgets claims whose `forget_at` has passed. Returns how many.
    ///
    /// # Errors
    /// When storage failed.
    async fn prune(&self, now: UnixTime) -> Result<u64, Unavailable>;
}
