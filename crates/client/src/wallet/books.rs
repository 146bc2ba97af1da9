//! The books: what becomes of reservations once the chain has spoken.
//!
//! **Invariant:** a reservation is voided only on chain evidence, or when its authorization cannot
//! have left the process; and a payment that may still bring its content is not posted behind the
//! back of the purchase that could fetch it.

use std::sync::Arc;
use std::time::Duration;

use pay402_core::Amount;
use pay402_core::error::Unavailable;
use pay402_core::scheme::{ClientScheme, Fate};
use pay402_core::spend::{Clearance, Quote, Reservation, VoidProof};
use serde::Serialize;

use super::Wallet;
use crate::error::PayError;

/// Longest wait for the chain's word on one authorization.
pub(crate) const FATE_WAIT: Duration = Duration::from_secs(5);
/// Open reservations that the pass before a payment looks at.
pub(crate) const PASS_MAX: usize = 16;
/// Longest that the pass before a payment may take.
pub(crate) const PASS_WAIT: Duration = Duration::from_secs(5);
/// Open reservations that [`Wallet::reconcile`] looks at, per payer.
pub const RECONCILE_MAX: usize = 1_000;

/// What was charged, if it can be: nobody can take more than was signed, so that such a figure
/// says nothing.
pub(crate) fn within(quote: &Quote, charged: Option<Amount>) -> Option<Amount> {
    charged.filter(|charged| *charged <= quote.amount)
}

/// What [`Wallet::reconcile`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Reconciled {
    /// Found used on the chain, and booked as spent.
    pub posted: usize,
    /// Proven dead by the chain, and released.
    pub voided: usize,
    /// Can still be used: kept.
    pub live: usize,
    /// The chain could not be asked: kept.
    pub unknown: usize,
}

/// Which reservations a pass may close.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// Those whose authorization has expired by our clock: nobody waits for their content.
    Expired,
    /// All.
    All,
}

impl Wallet {
    /// Compares every open reservation with the chain: books what was used, releases what is
    /// provably dead, keeps the rest. Looks at up to [`RECONCILE_MAX`] per payer.
    ///
    /// A purchase whose answer was lost and whose payment settled is closed by this: repeating it
    /// afterwards pays again. Repeat it first if its content is still wanted.
    ///
    /// # Errors
    /// When the ledger cannot be used.
    pub async fn reconcile(&self) -> Result<Reconciled, PayError> {
        self.sweep(Scope::All, RECONCILE_MAX).await.map_err(PayError::Ledger)
    }

    /// The bounded pass before a payment. It only makes room in the budget, so that nothing it
    /// meets stops the payment.
    pub(crate) async fn reconcile_expired(&self) {
        let pass = self.sweep(Scope::Expired, PASS_MAX);
        match tokio::time::timeout(PASS_WAIT, pass).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "open payments could not be reconciled"),
            Err(_) => tracing::warn!("reconciling open payments took too long"),
        }
    }

    async fn sweep(&self, scope: Scope, limit: usize) -> Result<Reconciled, Unavailable> {
        let mut done = Reconciled::default();
        let mut silent: Vec<String> = Vec::new();
        let now = self.clock.now();
        for payer in self.payers() {
            for reservation in self.ledger.pending(&payer, limit).await? {
                if scope == Scope::Expired && now <= reservation.plan.valid_before {
                    continue;
                }
                let network = reservation.quote.asset.network.as_str().to_owned();
                let scheme = self.scheme_of(&reservation).filter(|_| !silent.contains(&network));
                let Some(scheme) = scheme else {
                    done.unknown += 1;
                    continue;
                };
                let clearance = Clearance::resume(reservation);
                match self.fate(&scheme, &clearance).await {
                    Ok(Fate::Used { transaction, charged }) => {
                        let transaction = transaction.unwrap_or_default();
                        self.post(&clearance, charged, &transaction).await?;
                        done.posted += 1;
                    }
                    Ok(Fate::Dead) => {
                        self.void(&clearance, VoidProof::ChainDead).await?;
                        done.voided += 1;
                    }
                    Ok(Fate::Live) => done.live += 1,
                    // One node that does not answer is not asked for every reservation.
                    Err(_) => {
                        silent.push(network);
                        done.unknown += 1;
                    }
                }
            }
        }
        Ok(done)
    }

    /// The scheme that can sign `reservation` again.
    pub(crate) fn scheme_of(&self, reservation: &Reservation) -> Option<Arc<dyn ClientScheme>> {
        let fits = |scheme: &&Arc<dyn ClientScheme>| {
            scheme.scheme() == reservation.quote.scheme
                && scheme.payer() == reservation.payer
                && scheme.quote(&reservation.quote.offer).is_ok()
        };
        self.schemes.iter().find(fits).cloned()
    }

    /// What the chain says, asked with a bounded wait.
    pub(crate) async fn fate(
        &self,
        scheme: &Arc<dyn ClientScheme>,
        clearance: &Clearance,
    ) -> Result<Fate, Unavailable> {
        match tokio::time::timeout(FATE_WAIT, scheme.fate(clearance)).await {
            Ok(fate) => fate,
            Err(_) => Err(Unavailable::new("chain", "the node did not answer in time")),
        }
    }

    /// Books what the chain shows to be charged, or the whole reserved amount when it shows no
    /// figure. What a server says it charged less is no proof: it could have taken all, and to book
    /// too much errs on the owner's side.
    pub(crate) async fn post(
        &self,
        clearance: &Clearance,
        charged: Option<Amount>,
        transaction: &str,
    ) -> Result<(), Unavailable> {
        let Reservation { intent, plan, quote, .. } = clearance.reservation();
        let charged = within(quote, charged).unwrap_or(quote.amount);
        let posted = self.ledger.post(plan, charged, transaction, self.clock.now()).await;
        let Err(error) = posted else { return Ok(()) };
        // Another request with the same payment may have booked it first, under another spelling
        // of the transaction.
        match self.ledger.open(&intent.id).await {
            Ok(Some(open)) if open.plan == *plan => Err(error),
            Ok(_) => Ok(()),
            Err(_) => Err(error),
        }
    }

    pub(crate) async fn void(
        &self,
        clearance: &Clearance,
        proof: VoidProof,
    ) -> Result<(), Unavailable> {
        self.ledger.void(&clearance.reservation().plan, proof, self.clock.now()).await
    }
}
