//! The facilitator port: verify and settle, by a remote service or by the engine in process.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::error::Unavailable;
use crate::{NetworkId, Payment, Refused, Scheme, WireVersion};

/// What a facilitator can settle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kind {
    /// The version of the messages it takes for this kind.
    pub version: WireVersion,
    /// The scheme.
    pub scheme: Scheme,
    /// The network.
    pub network: NetworkId,
    /// What servers must add to their requirements' `extra`.
    pub extra: Map<String, Value>,
}

/// Everything a facilitator says of itself (`GET /supported`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Supported {
    /// The kinds it settles; kinds of networks and versions unknown to us are left out.
    pub kinds: Vec<Kind>,
    /// Extensions by name.
    pub extensions: Vec<String>,
    /// Addresses it sends from, by network pattern such as `eip155:*`.
    pub signers: Map<String, Value>,
}

impl Supported {
    /// Whether payments of `scheme` on `network` can be settled in `version`.
    pub fn has(&self, version: WireVersion, scheme: &Scheme, network: &NetworkId) -> bool {
        self.kinds
            .iter()
            .any(|k| k.version == version && k.scheme == *scheme && k.network == *network)
    }
}

/// The answer to verify. An invalid payment is an answer, not an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The payment would settle now.
    Valid {
        /// Who pays.
        payer: String,
    },
    /// The payment would not settle.
    Invalid(Refused),
}

/// Money that moved, proven.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// The transaction that moved it; empty where a scheme charges off chain, and where nothing was
    /// charged.
    pub transaction: String,
    /// The network it moved on.
    pub network: NetworkId,
    /// Who paid, when the facilitator says.
    pub payer: Option<String>,
    /// How much was charged, in atomic units; `None` means what was asked for.
    pub charged: Option<crate::Amount>,
}

/// The answer to settle. "Not known yet" is an answer of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Settled {
    /// The money moved, and this caller is the one who is told so.
    Done(Settlement),
    /// The money did not move by this call; a `duplicate_settlement` names the transaction by
    /// which it moved for somebody else.
    Refused(Refused),
    /// The outcome is not known. Present the same payment again to learn it.
    Pending {
        /// The transaction that may move the money, when there is one yet.
        transaction: Option<String>,
    },
}

/// Verifies and settles payments without taking custody.
#[async_trait]
pub trait Facilitator: Send + Sync {
    /// What can be settled.
    ///
    /// # Errors
    /// When the facilitator cannot be asked.
    async fn supported(&self) -> Result<Supported, Unavailable>;

    /// Whether `payment` would settle now.
    ///
    /// # Errors
    /// When it could not be told. Grants nothing.
    async fn verify(&self, payment: &Payment) -> Result<Verdict, Unavailable>;

    /// Settles `payment`, at most once however often it is asked: [`Payment::charge`] is collected.
    /// A charge of zero sends nothing and is final all the same: the authorization cannot be
    /// settled for more later.
    ///
    /// # Errors
    /// Only when nothing can have been sent. Whenever something may have been sent, the answer is
    /// [`Settled::Pending`].
    async fn settle(&self, payment: &Payment) -> Result<Settled, Unavailable>;
}
