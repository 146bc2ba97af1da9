//! What happened to the journal's entries: one record for each change, written in the same
//! transaction as the change, never altered, and deleted only together with its entry.
//!
//! Every behaviour derives from these rules, stated here once:
//!
//! - **Nothing happens unrecorded.** Whatever changes an entry's stage or its delivery leaves a record
//!   in the same transaction; what is refused leaves none.
//! - **Readers skip nothing.** Records are numbered, and the numbers of one payment rise in the order
//!   of its changes. A reader of all who goes on after the last number it was given misses no record,
//!   although with several writers a higher number may be committed before a lower one. What was
//!   forgotten meanwhile it can tell by [`Journal::forgotten_records`](crate::journal::Journal::forgotten_records).
//! - **Time comes from whoever makes the change**: a journal has no clock. Times are for people; the
//!   order is that of the numbers.
//! - **Nothing spendable**: what was signed is told by its hash.

use crate::journal::{Delivery, Event, Outcome, SignedAs, Stage};
use crate::time::UnixTime;
use crate::{Amount, NetworkId, PaymentKey};

/// One change of one entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Its number; from 1, with gaps.
    pub seq: u64,
    /// When it was made, by the clock of whoever made it.
    pub at: UnixTime,
    /// Of which payment.
    pub key: PaymentKey,
    /// The network it settles on.
    pub network: NetworkId,
    /// Who pays.
    pub payer: String,
    /// How much is charged, in atomic units.
    pub amount: Amount,
    /// The name of the caller that entered it, where callers have names.
    pub entered_by: Option<String>,
    /// What happened.
    pub change: Change,
    /// Who may be told of a success from then on.
    pub delivery: Delivery,
}

/// What happened to an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It was entered.
    Entered,
    /// A transaction was signed for it.
    Signed(Sent),
    /// A transaction was signed to take the place of the one before.
    Replaced(Sent),
    /// The transaction was handed to a node.
    Sent {
        /// Its hash.
        transaction: String,
    },
    /// The money moved, or none was charged.
    Settled {
        /// By this transaction; empty where nothing was charged.
        transaction: String,
        /// In this block.
        block: u64,
        /// What it cost us, in wei.
        fee: Amount,
    },
    /// The money did not move and never will.
    Failed {
        /// The refusal's wire code.
        reason: String,
        /// The transaction that failed, when there was one.
        transaction: Option<String>,
        /// What it cost us, in wei.
        fee: Amount,
    },
    /// The money had moved and somebody was told so; the block was undone, and it never will move again.
    Reverted {
        /// The wire code of why.
        reason: String,
        /// The transaction that failed in the end, when there was one.
        transaction: Option<String>,
        /// What it cost us, in wei.
        fee: Amount,
    },
    /// The block that closed it was undone: it goes on where it was.
    Reopened,
    /// Only who may be told of a success changed.
    HandedOver,
}

/// A signed transaction, without its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sent {
    /// Its hash.
    pub transaction: String,
    /// Who signed it.
    pub signer: String,
    /// The signer's nonce.
    pub nonce: u64,
}

impl Change {
    /// The change by `event` of an entry that is at `stage` since. `None` for an event that changes
    /// nothing but what is kept.
    pub fn by(event: &Event, stage: &Stage) -> Option<Self> {
        let sent = |signed: &SignedAs| Sent {
            transaction: signed.sent.transaction.clone(),
            signer: signed.sent.signer.clone(),
            nonce: signed.sent.nonce,
        };
        match (event, stage) {
            (Event::Signed(signed), _) => Some(Self::Signed(sent(signed))),
            (Event::Replaced(signed), _) => Some(Self::Replaced(sent(signed))),
            (Event::Sent, Stage::Signed(signed) | Stage::Sent(signed)) => {
                Some(Self::Sent { transaction: signed.sent.transaction.clone() })
            }
            (Event::Closed(_) | Event::ClosedIn(..), Stage::Final(outcome)) => {
                Some(Self::closed(outcome))
            }
            (Event::Reopened, _) => Some(Self::Reopened),
            // No step leads from the others to where they would stand.
            (Event::Buried | Event::Sent | Event::Closed(_) | Event::ClosedIn(..), _) => None,
        }
    }

    fn closed(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Settled { transaction, block, fee } => {
                Self::Settled { transaction: transaction.clone(), block: *block, fee: *fee }
            }
            Outcome::Failed { reason, transaction, fee, .. } => {
                Self::Failed { reason: reason.clone(), transaction: transaction.clone(), fee: *fee }
            }
            Outcome::Reverted { reason, transaction, fee, .. } => Self::Reverted {
                reason: reason.clone(),
                transaction: transaction.clone(),
                fee: *fee,
            },
        }
    }

    /// What it is called, wherever it is told.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Entered => "entered",
            Self::Signed(_) => "signed",
            Self::Replaced(_) => "replaced",
            Self::Sent { .. } => "sent",
            Self::Settled { .. } => "settled",
            Self::Failed { .. } => "failed",
            Self::Reverted { .. } => "reverted",
            Self::Reopened => "reopened",
            Self::HandedOver => "handed_over",
        }
    }

    /// The transaction it is about.
    pub fn transaction(&self) -> Option<&str> {
        match self {
            Self::Entered | Self::Reopened | Self::HandedOver => None,
            Self::Signed(sent) | Self::Replaced(sent) => Some(&sent.transaction),
            Self::Sent { transaction } => Some(transaction),
            Self::Settled { transaction, .. } => Some(transaction).filter(|hash| !hash.is_empty()),
            Self::Failed { transaction, .. } | Self::Reverted { transaction, .. } => {
                transaction.as_ref()
            }
        }
        .map(String::as_str)
    }
}

/// Some of the records, by their numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// Those with a higher number than this.
    pub after: u64,
    /// Those with this number or a lower one.
    pub upto: u64,
    /// At most so many, the lowest numbers first.
    pub limit: usize,
}
