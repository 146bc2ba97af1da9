//! The scheme ports: how a kind of payment is quoted and signed, and how it is sold.
//!
//! The facilitator's side of a scheme is behind [`crate::network::Network`].

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::asset::AssetInfo;
use crate::error::{Malformed, Misconfigured, Unavailable};
use crate::facilitator::{Facilitator, Settled, Verdict};
use crate::spend::{Clearance, Denied, Quote};
use crate::time::UnixTime;
use crate::{
    Amount, NetworkId, Payment, PaymentKey, Presented, Price, Refusal, Refused, Requirements,
    Scheme,
};

/// Why a client scheme does not take up an offer. The next offer may do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Decline(pub String);

/// The scheme's part of a signed payment. A bearer capability: no `Debug` of its content.
pub struct Authorized {
    /// Goes into `payload` of the payment message.
    pub payload: Map<String, Value>,
}

impl Authorized {
    /// A payment with this payload.
    pub const fn new(payload: Map<String, Value>) -> Self {
        Self { payload }
    }
}

impl std::fmt::Debug for Authorized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorized(..)")
    }
}

/// What the chain says about an authorization that was signed earlier.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It was used: the money moved by this transaction, when it can be named.
    Used {
        /// The transaction.
        transaction: Option<String>,
        /// How much was taken, in atomic units, when that can be told. Without a ceiling it is the
        /// whole amount.
        charged: Option<Amount>,
    },
    /// It can still be used.
    Live,
    /// It was not used and never can be: expired on chain time, or cancelled.
    Dead,
}

/// Why no authorization can be planned for a quote. Nothing is reserved then.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unplanned {
    /// What the owner allows on the chain itself does not cover it.
    #[error(transparent)]
    Denied(Box<Denied>),
    /// The chain has to be asked, and cannot be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<Denied> for Unplanned {
    fn from(why: Denied) -> Self {
        Self::Denied(Box::new(why))
    }
}

/// The client's side of a scheme on one network family.
#[async_trait]
pub trait ClientScheme: Send + Sync {
    /// The scheme it pays by.
    fn scheme(&self) -> Scheme;

    /// The account that pays, canonical.
    fn payer(&self) -> String;

    /// What taking up this offer would cost. Signs nothing, asks nobody. Amount, asset, payee and
    /// the EIP-712 domain are checked against our own asset table, never believed.
    ///
    /// # Errors
    /// When the offer is not for this scheme, or cannot be paid safely.
    fn quote(&self, offer: &Requirements) -> Result<Quote, Decline>;

    /// The nonce of a new authorization for `quote`, from `fresh` randomness: as it is, unless
    /// nonces mean something to the network; then enough of it is kept that no other process gets
    /// the same. Whatever is signed has to follow from the plan, so what else it takes goes in here.
    /// Called when the owner's rules allow the quote, and before anything is reserved; also for a
    /// preview, so it changes nothing.
    ///
    /// # Errors
    /// See [`Unplanned`].
    async fn plan_nonce(&self, _quote: &Quote, fresh: [u8; 32]) -> Result<[u8; 32], Unplanned> {
        Ok(fresh)
    }

    /// Signs exactly what was cleared, and nothing else. Deterministic: signing the same clearance
    /// again yields the same bytes, so that nothing spendable needs to be stored.
    ///
    /// # Errors
    /// When the signer cannot be reached.
    async fn authorize(&self, clearance: &Clearance) -> Result<Authorized, Unavailable>;

    /// What goes along with the authorization in those extensions that the server `advertised`, by
    /// their name: an object whose entries are added to the extension's `info`. Nothing is signed
    /// for an extension that was not advertised; it could not be sent. A payment without it may
    /// still be good, so what cannot be made is left out.
    async fn extensions(
        &self,
        _clearance: &Clearance,
        _advertised: &Map<String, Value>,
    ) -> Map<String, Value> {
        Map::new()
    }

    /// A secret id for `clearance`, the same each time, that only the payer's key can make. It is
    /// the off-chain proof of who presents a payment (`payment-identifier`).
    ///
    /// # Errors
    /// When the signer cannot be reached.
    async fn identifier(&self, clearance: &Clearance) -> Result<String, Unavailable>;

    /// What became of an authorization, by chain evidence alone.
    ///
    /// # Errors
    /// When the chain cannot be asked: nothing is known, and nothing may be released.
    async fn fate(&self, clearance: &Clearance) -> Result<Fate, Unavailable>;
}

/// How a resource is priced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tariff {
    /// Dollars, paid in the default asset of the network.
    Usd(Price),
    /// Atomic units of a named asset.
    Atomic {
        /// How much.
        amount: Amount,
        /// Of what.
        asset: AssetInfo,
    },
}

/// The resource server's side of a scheme on one network family.
#[async_trait]
pub trait ServerScheme: Send + Sync {
    /// The scheme it sells by.
    fn scheme(&self) -> Scheme;

    /// Whether it serves `network`.
    fn serves(&self, network: &NetworkId) -> bool;

    /// The requirements for one price on one network.
    ///
    /// # Errors
    /// When payee, asset or price cannot work; named by the route's setting (`pay_to`, `price`, …).
    fn requirements(
        &self,
        network: &NetworkId,
        tariff: &Tariff,
        pay_to: &str,
        max_timeout_seconds: u64,
    ) -> Result<Requirements, Misconfigured>;

    /// Whether a payload has the form its scheme asks for, so that the edge can answer 400 and
    /// name the field (relative to the payment message, such as `payload.authorization.value`).
    /// Passing proves nothing more; [`ServerScheme::identify`] checks the form again.
    ///
    /// # Errors
    /// The field that is wrong.
    fn form(&self, presented: &Presented) -> Result<(), Malformed>;

    /// Whether requirements have the form their scheme asks for: addresses above all. Fields are
    /// named relative to the requirements, such as `payTo`.
    ///
    /// # Errors
    /// The field that is wrong.
    fn terms_form(&self, terms: &Requirements) -> Result<(), Malformed>;

    /// The extensions to advertise beside `terms`, by name, each with `info` and `schema`.
    /// `supported` is what the facilitator names: nothing that it cannot carry out is advertised.
    fn extensions(&self, _terms: &Requirements, _supported: &[String]) -> Map<String, Value> {
        Map::new()
    }

    /// Reads and cheaply checks a payment: form, recipient, value, times at `now`, and the
    /// signature where that needs no chain. No I/O; runs before anything is claimed.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn identify(&self, payment: &Payment, now: UnixTime) -> Result<PaymentKey, Refused>;

    /// Identifies a payment whose time is over, so that a claim made in time is found again. As
    /// [`ServerScheme::identify`], but for the end of its time; grants nothing by itself. Schemes
    /// whose payments expire say it; for the others there is nothing to find.
    ///
    /// # Errors
    /// The refusal to answer with.
    fn recall(&self, _payment: &Payment) -> Result<PaymentKey, Refused> {
        Err(Refusal::ValidBefore.into())
    }

    /// Makes sure, before the handler runs, that the payment would settle.
    ///
    /// # Errors
    /// When that could not be told.
    async fn open(
        &self,
        payment: &Payment,
        facilitator: &dyn Facilitator,
    ) -> Result<Verdict, Unavailable> {
        facilitator.verify(payment).await
    }

    /// Collects the money after the handler succeeded: [`Payment::charge`].
    ///
    /// # Errors
    /// Only when nothing can have been sent.
    async fn close(
        &self,
        payment: &Payment,
        facilitator: &dyn Facilitator,
    ) -> Result<Settled, Unavailable> {
        facilitator.settle(payment).await
    }
}
