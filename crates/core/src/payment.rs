//! The messages of a payment, in the one shape that everything but the wire sees.
//!
//! **Invariant:** a [`Payment`] pairs what a client presented with *our own* terms. It is built in
//! one place, [`Payment::pair`]; the client's claim of what it accepted is compared there and used
//! nowhere else, but for a ceiling that [`Payment::pair_to_settle`] takes from it.
//!
//! **Invariant:** what is charged never exceeds the terms' amount ([`Payment::charging`]).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::asset::{AssetId, same_address};
use crate::resource::ResourceInfo;
use crate::{Amount, NetworkId, Refusal, Refused};

/// Which version a message came in, so that the reply can use the same. Only `wire` and
/// `transport` look at it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum WireVersion {
    /// Protocol version 1.
    V1,
    /// Protocol version 2.
    V2,
}

/// The extension by which a client says who it is, off chain (spec `extensions/payment_identifier`).
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// A payment scheme by its name on the wire.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Scheme(Cow<'static, str>);

impl Scheme {
    /// A fixed amount, transferred as signed.
    pub const EXACT: Self = Self(Cow::Borrowed("exact"));
    /// A metered amount: the payer signs a ceiling, and at most that is charged.
    pub const UPTO: Self = Self(Cow::Borrowed("upto"));

    /// The scheme called `name`.
    pub fn new(name: &str) -> Self {
        match name {
            "exact" => Self::EXACT,
            "upto" => Self::UPTO,
            _ => Self(Cow::Owned(name.to_owned())),
        }
    }

    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the terms' amount is a ceiling: the charge may be lower (`scheme_upto.md`, and spec
    /// v2 §6 for the settle-time amount).
    pub fn has_ceiling(&self) -> bool {
        matches!(&*self.0, "upto" | "batch-settlement")
    }

    /// Whether a charge of this scheme may have no transaction of its own.
    pub fn charges_off_chain(&self) -> bool {
        self.0 == "batch-settlement"
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One way to pay for a resource (spec v2 §5.1.2, `PaymentRequirements`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirements {
    /// How the money moves.
    pub scheme: Scheme,
    /// Where it moves.
    pub network: NetworkId,
    /// How much, in atomic units of `asset`; the ceiling, where the scheme has one.
    pub amount: Amount,
    /// The asset's address, spelled as offered.
    pub asset: String,
    /// Who is paid, spelled as offered.
    pub pay_to: String,
    /// Longest time from signing to settlement, in seconds.
    pub max_timeout_seconds: u64,
    /// What the scheme adds; for EIP-3009 the token's EIP-712 `name` and `version`.
    pub extra: Map<String, Value>,
    /// Fields this version does not know, kept for the echo.
    pub other: Map<String, Value>,
}

impl Requirements {
    /// The asset that is asked for.
    pub fn asset_id(&self) -> AssetId {
        AssetId::new(self.network.clone(), &self.asset)
    }

    /// A text field of `extra`.
    pub fn extra_str(&self, key: &str) -> Option<&str> {
        self.extra.get(key).and_then(Value::as_str)
    }

    /// Whether `claim`, which a client says it accepted, is this offer. Further keys in the
    /// claim's `extra` pass, as they do with the official servers.
    pub fn is_met_by(&self, claim: &Self) -> bool {
        self.scheme == claim.scheme
            && self.network == claim.network
            && self.amount == claim.amount
            && same_address(&self.asset, &claim.asset)
            && same_address(&self.pay_to, &claim.pay_to)
            && self.max_timeout_seconds == claim.max_timeout_seconds
            && self.extra.iter().all(|(key, value)| claim.extra.get(key) == Some(value))
    }
}

/// What a resource server asks for (spec v2 §5.1, `PaymentRequired`).
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentRequired {
    /// Which version the message came in; ours are written in both.
    pub version: WireVersion,
    /// Why payment is required, or why the last one was refused.
    pub error: Option<String>,
    /// What is sold.
    pub resource: ResourceInfo,
    /// The ways to pay, in the server's order.
    pub accepts: Vec<Requirements>,
    /// Extensions by name, each with `info` and `schema`.
    pub extensions: Map<String, Value>,
    /// Fields this version does not know.
    pub other: Map<String, Value>,
}

/// What a client presents: decoded, not believed (spec v2 §5.2, `PaymentPayload`).
///
/// It is a bearer capability: whoever holds it can have it settled. `Debug` hides it.
#[derive(Clone, PartialEq)]
pub struct Presented {
    /// The version to answer in.
    pub version: WireVersion,
    /// The scheme the client says it used.
    pub scheme: Scheme,
    /// The network the client says it used.
    pub network: NetworkId,
    /// The requirements the client says it accepted; version 1 does not say.
    pub accepted: Option<Requirements>,
    /// What the scheme needs: authorization and signature.
    pub payload: Map<String, Value>,
    /// What the client says it pays for.
    pub resource: Option<ResourceInfo>,
    /// Extensions, as the client echoed and extended them.
    pub extensions: Map<String, Value>,
    /// Fields this version does not know.
    pub other: Map<String, Value>,
}

impl Presented {
    /// The id of the `payment-identifier` extension, when it has the required form (16 to 128
    /// characters of `[A-Za-z0-9_-]`). It never touches the chain, so it proves who presents.
    pub fn payment_identifier(&self) -> Option<&str> {
        let id = self.extensions.get(PAYMENT_IDENTIFIER)?.get("info")?.get("id")?.as_str()?;
        let form = (16..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        form.then_some(id)
    }
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("version", &self.version)
            .field("scheme", &self.scheme)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A presented payment beside the terms that *we* set. Evidence that the two belong together.
#[derive(Clone, Debug)]
pub struct Payment {
    terms: Requirements,
    presented: Presented,
    /// What is to be collected, where that is not simply the terms' amount.
    charge: Option<Amount>,
}

impl Payment {
    /// Pairs a presented payment with our own terms. The whole amount is to be collected, until
    /// [`Payment::charging`] says less.
    ///
    /// # Errors
    /// [`Refusal::InvalidScheme`], [`Refusal::InvalidNetwork`] or
    /// [`Refusal::InvalidPaymentRequirements`] when the client answered something else.
    pub fn pair(terms: Requirements, presented: Presented) -> Result<Self, Refused> {
        if presented.scheme != terms.scheme {
            return Err(Refusal::InvalidScheme.into());
        }
        if presented.network != terms.network {
            return Err(Refusal::InvalidNetwork.into());
        }
        match &presented.accepted {
            Some(claim) if !terms.is_met_by(claim) => {
                Err(Refusal::InvalidPaymentRequirements.into())
            }
            _ => Ok(Self { terms, presented, charge: None }),
        }
    }

    /// Pairs a presented payment with the requirements of a request to settle it. Where the scheme
    /// has a ceiling, their amount is the charge, and the ceiling is what the client says that it
    /// accepted: the scheme has yet to find it under the signature.
    ///
    /// # Errors
    /// As [`Payment::pair`] and [`Payment::charging`].
    pub fn pair_to_settle(
        requirements: Requirements,
        presented: Presented,
    ) -> Result<Self, Refused> {
        match presented.accepted.as_ref().map(|accepted| accepted.amount) {
            Some(ceiling) if requirements.scheme.has_ceiling() => {
                let charge = requirements.amount;
                let terms = Requirements { amount: ceiling, ..requirements };
                Self::pair(terms, presented)?.charging(charge)
            }
            _ => Self::pair(requirements, presented),
        }
    }

    /// The same payment, of which `amount` is to be collected: at most the ceiling, and nothing but
    /// the amount itself where the scheme has none.
    ///
    /// # Errors
    /// [`Refusal::SettlementExceedsAmount`] above the ceiling,
    /// [`Refusal::InvalidPaymentRequirements`] for a scheme without one.
    pub fn charging(mut self, amount: Amount) -> Result<Self, Refused> {
        if !self.terms.scheme.has_ceiling() {
            if amount == self.terms.amount {
                return Ok(self);
            }
            let message = format!("{} charges its amount and nothing else", self.terms.scheme);
            return Err(Refused::new(Refusal::InvalidPaymentRequirements, message));
        }
        if amount > self.terms.amount {
            return Err(Refusal::SettlementExceedsAmount.into());
        }
        self.charge = Some(amount);
        Ok(self)
    }

    /// Our own terms. The truth about asset and payee, and about the amount or its ceiling.
    pub const fn terms(&self) -> &Requirements {
        &self.terms
    }

    /// What the client presented.
    pub const fn presented(&self) -> &Presented {
        &self.presented
    }

    /// How much is to be collected, in atomic units: the terms' amount unless less was said.
    pub fn charge(&self) -> Amount {
        self.charge.unwrap_or(self.terms.amount)
    }
}

/// What the chain would refuse twice: network, asset, payer and nonce, canonical.
///
/// **Invariant:** a payment is identified by this and never by signature bytes or by an id that a
/// client chose.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PaymentKey(Arc<str>);

impl PaymentKey {
    /// The key of an authorization with `nonce`, given to `asset` by `payer`. All three in their
    /// family's canonical spelling.
    pub fn new(network: &NetworkId, asset: &str, payer: &str, nonce: &str) -> Self {
        Self(format!("{network}/{asset}/{payer}/{nonce}").into())
    }

    /// The asset, in its family's canonical spelling.
    pub fn asset(&self) -> &str {
        self.0.split('/').nth(1).unwrap_or_default()
    }

    /// A key as it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The text that is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PaymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PaymentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A SHA-256 digest: fingerprints of requests and hashes of secrets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `parts`, each preceded by its length so that no two lists collide.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(scheme: Scheme, amount: u64) -> Requirements {
        Requirements {
            scheme,
            network: NetworkId::eip155(84_532),
            amount: amount.into(),
            asset: "0xA".into(),
            pay_to: "0xB".into(),
            max_timeout_seconds: 60,
            extra: Map::new(),
            other: Map::new(),
        }
    }

    fn presented(accepted: Requirements) -> Presented {
        Presented {
            version: WireVersion::V2,
            scheme: accepted.scheme.clone(),
            network: accepted.network.clone(),
            accepted: Some(accepted),
            payload: Map::new(),
            resource: None,
            extensions: Map::new(),
            other: Map::new(),
        }
    }

    #[test]
    fn a_request_to_settle_says_the_charge_and_keeps_the_ceiling() {
        let settle = |asked: Requirements| {
            Payment::pair_to_settle(asked, presented(terms(Scheme::UPTO, 100)))
        };
        for amount in [0, 1, 99, 100] {
            let payment = settle(terms(Scheme::UPTO, amount)).unwrap();
            assert_eq!(payment.charge(), Amount::from(amount));
            assert_eq!(payment.terms().amount, Amount::from(100));
        }
        let refused = settle(terms(Scheme::UPTO, 101)).unwrap_err();
        assert!(refused.reason.is(Refusal::SettlementExceedsAmount), "{refused}");
        let other = Requirements { pay_to: "0xC".into(), ..terms(Scheme::UPTO, 50) };
        let refused = settle(other).unwrap_err();
        assert!(refused.reason.is(Refusal::InvalidPaymentRequirements), "{refused}");
        // To verify, the ceiling itself is asked for.
        let lower = Payment::pair(terms(Scheme::UPTO, 50), presented(terms(Scheme::UPTO, 100)));
        assert!(lower.unwrap_err().reason.is(Refusal::InvalidPaymentRequirements));
    }

    #[test]
    fn a_scheme_without_a_ceiling_charges_its_amount() {
        let exact = presented(terms(Scheme::EXACT, 100));
        for amount in [0, 99, 101] {
            let asked = terms(Scheme::EXACT, amount);
            let refused = Payment::pair_to_settle(asked, exact.clone()).unwrap_err();
            assert!(refused.reason.is(Refusal::InvalidPaymentRequirements), "{refused}");
            let payment = Payment::pair(terms(Scheme::EXACT, 100), exact.clone()).unwrap();
            assert!(payment.charging(amount.into()).is_err(), "{amount} was charged");
        }
        let payment = Payment::pair(terms(Scheme::EXACT, 100), exact).unwrap();
        assert_eq!(payment.charging(100.into()).unwrap().charge(), Amount::from(100));
    }

    #[test]
    fn a_charge_is_at_most_the_ceiling() {
        let pair = || Payment::pair(terms(Scheme::UPTO, 100), presented(terms(Scheme::UPTO, 100)));
        assert_eq!(pair().unwrap().charge(), Amount::from(100));
        let charging = |amount: u64| pair().unwrap().charging(amount.into());
        assert_eq!(charging(0).unwrap().charge(), Amount::ZERO);
        assert_eq!(charging(100).unwrap().charge(), Amount::from(100));
        let refused = charging(101).unwrap_err();
        assert!(refused.reason.is(Refusal::SettlementExceedsAmount), "{refused}");
    }
}
