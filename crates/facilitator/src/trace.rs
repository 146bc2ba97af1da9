//! What is told of calls and settlements to whoever traces them, by spans of `tracing` under one target.
//!
//! **Invariants:** nothing that could be spent, no key and no text of a caller's choice is in a span: attributes
//! are names of the configuration, codes of the registry, and what the chain shows to everybody. Where nobody
//! listens to the target, a span costs one look at that.

use pay402_core::error::Unavailable;
use pay402_core::facilitator::{Settled, Verdict};
use pay402_core::journal::{Event, Outcome};
use pay402_core::network::SentAs;
use pay402_core::refusal::Reason;
use pay402_core::{NetworkId, PaymentKey};
use tracing::Span;
use tracing::field::Empty;

use crate::api::id_of;

/// The target of every span and event that is for tracing alone, and no log line.
pub const TARGET: &str = "pay402_trace";
/// What stands for a network, a scheme or a reason that is not ours.
const OTHER: &str = "other";

/// One verification.
pub(crate) fn verification(network: Option<&NetworkId>, scheme: Option<&str>) -> Span {
    let (network, scheme) = (network.map_or(OTHER, NetworkId::as_str), scheme.unwrap_or(OTHER));
    tracing::info_span!(target: TARGET, "verify", network, scheme, outcome = Empty, reason = Empty)
}

/// One settle call.
pub(crate) fn settling(network: Option<&NetworkId>, scheme: Option<&str>) -> Span {
    let (network, scheme) = (network.map_or(OTHER, NetworkId::as_str), scheme.unwrap_or(OTHER));
    tracing::info_span!(
        target: TARGET, "settle", network, scheme, outcome = Empty, reason = Empty, transaction = Empty
    )
}

/// The life of an entry in the hands of this process, from where it is taken up to its end.
pub(crate) fn settlement(network: &NetworkId, key: &PaymentKey) -> Span {
    let network = network.as_str();
    let span = tracing::info_span!(
        target: TARGET, "settlement", network, settlement = Empty, outcome = Empty, reason = Empty,
        transaction = Empty
    );
    if !span.is_disabled() {
        span.record("settlement", id_of(key));
    }
    span
}

/// Says how a verification ended.
pub(crate) fn verified(span: &Span, answer: &Result<Verdict, Unavailable>) {
    if span.is_disabled() {
        return;
    }
    match answer {
        Ok(Verdict::Valid { .. }) => _ = span.record("outcome", "valid"),
        Ok(Verdict::Invalid(refused)) => {
            span.record("outcome", "invalid").record("reason", code(&refused.reason));
        }
        Err(_) => _ = span.record("outcome", "unavailable"),
    }
}

/// Says how a settle call ended.
pub(crate) fn answered(span: &Span, answer: &Result<Settled, Unavailable>) {
    if span.is_disabled() {
        return;
    }
    let transaction = match answer {
        Ok(Settled::Done(settlement)) => {
            span.record("outcome", "settled");
            Some(settlement.transaction.as_str()).filter(|hash| !hash.is_empty())
        }
        Ok(Settled::Refused(refused)) => {
            span.record("outcome", "refused").record("reason", code(&refused.reason));
            refused.transaction.as_deref()
        }
        Ok(Settled::Pending { transaction }) => {
            span.record("outcome", "pending");
            transaction.as_deref()
        }
        Err(_) => {
            span.record("outcome", "unavailable");
            None
        }
    };
    if let Some(transaction) = transaction {
        span.record("transaction", transaction);
    }
}

/// The entry is in the journal.
pub(crate) fn entered(span: &Span) {
    tracing::info!(target: TARGET, parent: span, "entered");
}

/// The entry was found unfinished, as an earlier process left it.
pub(crate) fn taken_up(span: &Span) {
    tracing::info!(target: TARGET, parent: span, "taken_up");
}

/// The journal has a signed transaction for it.
pub(crate) fn signed(span: &Span, sent: &SentAs) {
    let SentAs { transaction, signer, nonce, .. } = sent;
    tracing::info!(target: TARGET, parent: span, transaction, signer, nonce, "signed");
}

/// A node has it.
pub(crate) fn sent(span: &Span, sent: &SentAs) {
    let transaction = &sent.transaction;
    tracing::info!(target: TARGET, parent: span, transaction, "sent");
}

/// The journal has how it ended.
pub(crate) fn closed(span: &Span, event: &Event) {
    let (Event::Closed(outcome) | Event::ClosedIn(outcome, _)) = event else { return };
    if span.is_disabled() {
        return;
    }
    let (name, transaction) = match outcome {
        Outcome::Settled { transaction, .. } => {
            ("settled", Some(transaction).filter(|hash| !hash.is_empty()))
        }
        Outcome::Failed { reason, transaction, .. } => {
            span.record("reason", code(&Reason::parse(reason)));
            ("failed", transaction.as_ref())
        }
        Outcome::Reverted { reason, transaction, .. } => {
            span.record("reason", code(&Reason::parse(reason)));
            ("reverted", transaction.as_ref())
        }
    };
    span.record("outcome", name);
    if let Some(transaction) = transaction {
        span.record("transaction", transaction.as_str());
    }
    tracing::info!(target: TARGET, parent: span, "closed");
}

/// A code of the registry.
fn code(reason: &Reason) -> &str {
    match reason {
        Reason::Known(refusal) => refusal.code(),
        Reason::Foreign(_) => OTHER,
    }
}
