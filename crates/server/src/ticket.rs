//! A ticket: the evidence that a request holds a payment, and the duty to end that hold.
//!
//! **Invariant:** a ticket is made in one place, after a claim was granted, and ends in exactly
//! one way: settled, or released. Dropping it (a client that hung up, a handler that panicked)
//! releases it.

use std::sync::Arc;

use pay402_core::asset::AssetId;
use pay402_core::{Amount, Payment, PaymentKey, Refused, Scheme};

use crate::charge::{BadCharge, Charge};
use crate::place::Place;
use crate::seal::Secret;
use crate::server::{Exposed, Offer, Shared};

/// Who pays for the request at hand. Handlers find it among the request's extensions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PaidBy {
    /// The account that pays.
    pub payer: String,
    /// Which payment it is: unique, public, and good for the handler's own idempotency.
    pub payment: PaymentKey,
    /// How it is paid. By `upto`, a [`crate::Charge`] says how much.
    pub scheme: Scheme,
    /// The most that can be charged, in atomic units of `asset`: the ceiling of a metered route, the
    /// price of any other.
    pub amount: Amount,
    /// Of what.
    pub asset: AssetId,
    /// Decimal places of `asset`: a whole one is 10 to this power atomic units.
    pub decimals: u8,
}

/// A payment that was read, matched with our own terms and identified, and is not claimed yet.
pub(crate) struct Matched {
    pub(crate) offer: Arc<Offer>,
    pub(crate) payment: Payment,
    pub(crate) key: PaymentKey,
    pub(crate) secret: Option<Secret>,
    pub(crate) place: Place,
    /// Why it can no longer be claimed, when its time is over. What was claimed in time can still
    /// be asked for.
    pub(crate) late: Option<Refused>,
}

/// A request that holds a payment and may be served.
#[must_use = "a ticket that is dropped gives the payment back"]
pub struct Ticket {
    hold: Option<Box<Hold>>,
    paid_by: PaidBy,
}

struct Hold {
    shared: Arc<Shared>,
    matched: Matched,
    exposed: Option<Exposed>,
}

impl Ticket {
    /// For a claim that was granted just now, and nothing else.
    pub(crate) fn granted(shared: Arc<Shared>, matched: Matched) -> Self {
        let terms = matched.payment.terms();
        let paid_by = PaidBy {
            payer: String::new(),
            payment: matched.key.clone(),
            scheme: terms.scheme.clone(),
            amount: terms.amount,
            asset: terms.asset_id(),
            decimals: matched.offer.decimals,
        };
        Self { hold: Some(Box::new(Hold { shared, matched, exposed: None })), paid_by }
    }

    /// The same ticket, now that the payer was verified and counted.
    pub(crate) fn verified(mut self, payer: String, exposed: Exposed) -> Self {
        self.paid_by.payer = payer;
        if let Some(hold) = &mut self.hold {
            hold.exposed = Some(exposed);
        }
        self
    }

    /// Who pays, and how much.
    pub const fn paid_by(&self) -> &PaidBy {
        &self.paid_by
    }

    pub(crate) fn matched(&self) -> &Matched {
        &self.hold.as_ref().expect("a ticket holds its payment until it ends").matched
    }

    /// Sets what is to be collected. Nothing changes when the offer does not allow it.
    pub(crate) fn charge(&mut self, charge: Charge) -> Result<(), BadCharge> {
        let hold = self.hold.as_mut().expect("a ticket holds its payment until it ends");
        let matched = &mut hold.matched;
        let Offer { terms, decimals, in_dollars, .. } = &*matched.offer;
        let amount = charge.under(terms, in_dollars.then_some(*decimals))?;
        let charging = matched.payment.clone().charging(amount);
        matched.payment = charging.expect("a charge under an offer is one under its terms");
        Ok(())
    }

    /// Ends the ticket for settlement: from here on only an outcome frees the payment. The payer
    /// stays exposed for as long as the second part lives.
    pub(crate) fn into_settlement(mut self) -> (Matched, Option<Exposed>) {
        let hold = *self.hold.take().expect("a ticket holds its payment until it ends");
        (hold.matched, hold.exposed)
    }

    /// Ends the ticket by giving the payment back.
    pub(crate) async fn release(mut self) {
        if let Some(hold) = self.hold.take() {
            hold.release().await;
        }
    }
}

// Holds the payment itself, a bearer capability.
impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ticket").field(&self.paid_by).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(hold) = self.hold.take() else { return };
        // Outside a runtime, as at the end of the process, the claim stays until it is forgotten.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { hold.release().await });
        }
    }
}

impl Hold {
    async fn release(self) {
        let key = &self.matched.key;
        if let Err(error) = self.shared.grants.release(key).await {
            tracing::warn!(%key, %error, "a claim could not be released");
        }
    }
}
