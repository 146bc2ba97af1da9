//! Why a request was not paid for, by culprit, and what became of the money.

use pay402_core::error::{Malformed, Unavailable};
use pay402_core::refusal::{Refusal, Retry};
use pay402_core::spend::Denied;
use pay402_core::{Amount, Refused};
use serde::Serialize;

use crate::receipt::Terms;
use crate::router::Declined;

/// How far a payment came.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// Nothing was reserved, signed or sent for this attempt.
    NotSent,
    /// Reserved in the ledger; the authorization has not left this process.
    Reserved,
    /// Sent, and not settled as far as the server says. Stays reserved.
    Sent,
    /// The money moved.
    Settled,
    /// The chain proves that the authorization was not and cannot be used. Released.
    Failed,
    /// Sent; whether the money moved is not known. Stays reserved.
    Unknown,
}

impl PaymentStatus {
    /// The status as a word: `not_sent`, `reserved`, `sent`, `settled`, `failed`, `unknown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Reserved => "reserved",
            Self::Sent => "sent",
            Self::Settled => "settled",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a request was not paid for, or its payment brought no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// The caller's request or settings cannot be used.
    #[error("{problem}")]
    Misuse {
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The server could not be reached, before any payment.
    #[error("{origin}: {problem}; nothing was paid")]
    Network {
        /// Who was asked.
        origin: String,
        /// What happened.
        problem: String,
    },
    /// The 402 cannot be read.
    #[error("the payment request of {origin} cannot be read: {error}")]
    MalformedOffer {
        /// Who asked.
        origin: String,
        /// What is wrong with it.
        error: Malformed,
    },
    /// None of the offers can be paid with this wallet.
    #[error("none of the offers of {origin} can be paid{}", listed(.declined))]
    NoRail {
        /// Who asked.
        origin: String,
        /// Each offer and why not.
        declined: Vec<Declined>,
    },
    /// The owner's rules forbid it.
    #[error("{denied}{}", listed(.declined))]
    Denied {
        /// The rule and its figures, for the best of the offers.
        denied: Box<Denied>,
        /// The other offers and why they were not taken either.
        declined: Vec<Declined>,
    },
    /// The owner has to approve it first.
    #[error("the owner has to approve: {0}")]
    NeedsApproval(Box<Denied>),
    /// The ledger could not be used, so nothing was signed.
    #[error("{0}; nothing was signed")]
    Ledger(Unavailable),
    /// Nothing could be signed.
    #[error("the payment could not be signed: {error}")]
    Signer {
        /// What happened.
        error: Unavailable,
        /// What was to be paid.
        terms: Box<Terms>,
        /// How far the payment came: an earlier attempt may have sent it.
        status: PaymentStatus,
    },
    /// The server refused the payment. No new one is made for this purchase as long as this one
    /// could still be used.
    #[error("the payment of {} was refused: {refused}{}{}", .terms.units(), remedy_of(.refused), fate_of(*.status))]
    Refused {
        /// The server's reason.
        refused: Box<Refused>,
        /// What was offered.
        terms: Box<Terms>,
        /// How far the payment came.
        status: PaymentStatus,
    },
    /// The payment settled, and the server does not deliver its content (again).
    #[error("the payment of {} settled, but its content was already delivered to an earlier request or is withheld", .terms.charged_units(*.charged))]
    AlreadySettled {
        /// The transaction that paid, when it is known.
        transaction: Option<String>,
        /// How much it took, in atomic units, when the chain shows it.
        charged: Option<Amount>,
        /// What was paid, or the most that could be.
        terms: Box<Terms>,
    },
    /// The payment was sent and no answer tells what became of it. It stays reserved; the same
    /// request presents it again.
    #[error("the payment of {} was not answered: {problem}; it stays reserved, and repeating the request presents the same payment again", .terms.units())]
    Ambiguous {
        /// What happened.
        problem: String,
        /// The transaction that may pay, when the server named one.
        transaction: Option<String>,
        /// What was, or may have been, paid.
        terms: Box<Terms>,
        /// [`PaymentStatus::Unknown`], or [`PaymentStatus::Reserved`] when it never left.
        status: PaymentStatus,
    },
}

impl PayError {
    /// The error as a stable word, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Misuse { .. } => "usage",
            Self::Network { .. } => "network",
            Self::MalformedOffer { .. } => "malformed_offer",
            Self::NoRail { .. } => "no_payable_offer",
            Self::Denied { denied, .. } if denied.rule == "max_per_payment" => "over_max",
            Self::Denied { .. } => "policy_denied",
            Self::NeedsApproval(_) => "approval_pending",
            Self::Ledger(_) => "ledger_unavailable",
            Self::Signer { .. } => "signing_failed",
            Self::Refused { refused, .. } if refused.reason.is(Refusal::InsufficientFunds) => {
                "insufficient_funds"
            }
            Self::Refused { refused, .. }
                if refused.reason.is(Refusal::Permit2AllowanceRequired) =>
            {
                "allowance_required"
            }
            Self::Refused { .. } => "payment_refused",
            Self::AlreadySettled { .. } => "already_settled",
            Self::Ambiguous { .. } => "ambiguous_payment",
        }
    }

    /// The exit code of a command line.
    pub fn exit_code(&self) -> u8 {
        match self.code() {
            "usage" => 2,
            "network" => 4,
            "over_max" | "insufficient_funds" => 6,
            "signing_failed" => 8,
            "policy_denied" => 11,
            "approval_pending" => 12,
            "ambiguous_payment" => 13,
            "ledger_unavailable" => 1,
            _ => 5,
        }
    }

    /// How far the payment came.
    pub const fn payment_status(&self) -> PaymentStatus {
        match self {
            Self::Signer { status, .. }
            | Self::Refused { status, .. }
            | Self::Ambiguous { status, .. } => *status,
            Self::AlreadySettled { .. } => PaymentStatus::Settled,
            _ => PaymentStatus::NotSent,
        }
    }

    /// Whether and how to try again.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Misuse { .. }
            | Self::MalformedOffer { .. }
            | Self::NoRail { .. }
            | Self::Denied { .. } => Retry::Never,
            Self::Network { .. }
            | Self::NeedsApproval(_)
            | Self::Ledger(_)
            | Self::Signer { .. }
            | Self::Ambiguous { .. } => Retry::Same,
            // As long as the authorization could be used, only it may be presented.
            Self::Refused { status: PaymentStatus::Failed, .. } | Self::AlreadySettled { .. } => {
                Retry::NewPayment
            }
            Self::Refused { .. } => Retry::Same,
        }
    }

    /// What was, or was to be, paid.
    pub const fn terms(&self) -> Option<&Terms> {
        match self {
            Self::Signer { terms, .. }
            | Self::Refused { terms, .. }
            | Self::AlreadySettled { terms, .. }
            | Self::Ambiguous { terms, .. } => Some(terms),
            _ => None,
        }
    }

    /// The transaction that paid, or may have, when it is known.
    pub fn transaction(&self) -> Option<&str> {
        match self {
            Self::AlreadySettled { transaction, .. } | Self::Ambiguous { transaction, .. } => {
                transaction.as_deref()
            }
            Self::Refused { refused, .. } => refused.transaction.as_deref(),
            _ => None,
        }
    }

    /// The rule that forbids the payment, with its figures.
    pub const fn denied(&self) -> Option<&Denied> {
        match self {
            Self::Denied { denied, .. } | Self::NeedsApproval(denied) => Some(denied),
            _ => None,
        }
    }
}

fn listed(declined: &[Declined]) -> String {
    let lines = declined.iter().map(|d| format!("\n  {} on {}: {}", d.scheme, d.network, d.reason));
    lines.collect()
}

/// What the payer can do about it, in our words; the server's may be anything.
fn remedy_of(refused: &Refused) -> String {
    let needed = Refusal::Permit2AllowanceRequired;
    if refused.reason.is(needed) { format!("; {}", needed.describe()) } else { String::new() }
}

const fn fate_of(status: PaymentStatus) -> &'static str {
    match status {
        PaymentStatus::Failed => "; the chain proves that it cannot be used, so it is released",
        _ => "; it stays reserved until the chain proves that it can no longer be used",
    }
}
