//! Watching without touching: the ports of the demo's roles, recording what passes through them.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Facilitator, Settled, Supported, Verdict};
use pay402_core::scheme::{Authorized, ClientScheme, Decline, Fate, Unplanned};
use pay402_core::spend::{self, Clearance, Intent, Plan, Policy, Quote, Spent};
use pay402_core::{Payment, Requirements, Scheme};
use serde_json::{Map, Value};

/// Something that happened in the stack.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The policy judged a quote.
    Judged { quote: Box<Quote>, spent: Spent, verdict: spend::Verdict },
    /// The agent signed.
    Signed(Plan),
    /// The facilitator was asked to verify.
    Verified(Verdict),
    /// The facilitator was asked to settle.
    Settled(Settled),
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Vec<Event>>>);

impl Watch {
    fn record(&self, event: Event) {
        self.0.lock().expect("no holder panics").push(event);
    }

    /// Takes everything recorded so far.
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().expect("no holder panics"))
    }
}

/// A port with a watch beside it.
pub(super) struct Watched<T> {
    pub(super) inner: T,
    pub(super) watch: Watch,
}

#[async_trait]
impl<T: Facilitator> Facilitator for Watched<T> {
    async fn supported(&self) -> Result<Supported, Unavailable> {
        self.inner.supported().await
    }

    async fn verify(&self, payment: &Payment) -> Result<Verdict, Unavailable> {
        let verdict = self.inner.verify(payment).await?;
        self.watch.record(Event::Verified(verdict.clone()));
        Ok(verdict)
    }

    async fn settle(&self, payment: &Payment) -> Result<Settled, Unavailable> {
        let settled = self.inner.settle(payment).await?;
        self.watch.record(Event::Settled(settled.clone()));
        Ok(settled)
    }
}

impl<T: Policy> Policy for Watched<T> {
    fn judge(&self, quote: &Quote, intent: &Intent, spent: &Spent) -> spend::Verdict {
        let verdict = self.inner.judge(quote, intent, spent);
        self.watch.record(Event::Judged {
            quote: Box::new(quote.clone()),
            spent: *spent,
            verdict: verdict.clone(),
        });
        verdict
    }

    fn lifetime_s_max(&self) -> u64 {
        self.inner.lifetime_s_max()
    }
}

#[async_trait]
impl<T: ClientScheme> ClientScheme for Watched<T> {
    fn scheme(&self) -> Scheme {
        self.inner.scheme()
    }

    fn payer(&self) -> String {
        self.inner.payer()
    }

    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline> {
        self.inner.quote(offer)
    }

    async fn plan_nonce(&self, quote: &Quote, fresh: [u8; 32]) -> Result<[u8; 32], Unplanned> {
        self.inner.plan_nonce(quote, fresh).await
    }

    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable> {
        let authorized = self.inner.authorize(clearance).await?;
        self.watch.record(Event::Signed(clearance.reservation().plan.clone()));
        Ok(authorized)
    }

    async fn extensions(
        &self,
        clearance: &Clearance,
        advertised: &Map<String, Value>,
    ) -> Map<String, Value> {
        self.inner.extensions(clearance, advertised).await
    }

    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable> {
        self.inner.identifier(clearance).await
    }

    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable> {
        self.inner.fate(clearance).await
    }
}
