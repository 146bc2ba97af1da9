//! What a journal tells in figures: what is unfinished, and what entries cost.

use std::collections::BTreeMap;

use super::{Entry, Stage};
use crate::time::UnixTime;
use crate::{Amount, PaymentKey};

/// The unfinished entries of a network, in figures.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Backlog {
    /// Entries at [`Stage::Due`].
    pub due: u64,
    /// Entries at [`Stage::Signed`].
    pub signed: u64,
    /// Entries at [`Stage::Sent`].
    pub sent: u64,
    /// When the oldest of them was entered.
    pub oldest: Option<UnixTime>,
    /// How many of those signed or sent each account sends. Not only ours: a payer's own approval is
    /// sent by the payer.
    pub by_signer: BTreeMap<String, u64>,
}

impl Backlog {
    /// The figures of `entries`, all of which are unfinished.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut backlog = Self::default();
        for entry in entries {
            let signed = match &entry.stage {
                Stage::Due => None,
                Stage::Signed(signed) | Stage::Sent(signed) => Some(&signed.sent.signer),
                Stage::Final(_) => continue,
            };
            let stage = match &entry.stage {
                Stage::Signed(_) => &mut backlog.signed,
                Stage::Sent(_) => &mut backlog.sent,
                Stage::Due | Stage::Final(_) => &mut backlog.due,
            };
            *stage += 1;
            if let Some(signer) = signed {
                *backlog.by_signer.entry(signer.clone()).or_default() += 1;
            }
            let entered = entry.new.entered_at;
            backlog.oldest = Some(backlog.oldest.map_or(entered, |oldest| oldest.min(entered)));
        }
        backlog
    }
}

/// What an entry cost us that failed, or was reverted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loss {
    /// The entry.
    pub key: PaymentKey,
    /// Who would have paid.
    pub payer: String,
    /// The name of the caller that entered it, where callers have names.
    pub entered_by: Option<String>,
    /// When it was closed; when it was closed last, where a block was undone.
    pub at: UnixTime,
    /// The fee, in wei; never zero.
    pub fee: Amount,
}

/// What entries cost us that one caller entered: one of them, or all of a minute whose blocks are buried.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cost {
    /// The name of the caller that entered them.
    pub entered_by: String,
    /// The entry, where the block that closed it may still be undone; `None` where it is the sum of others.
    pub key: Option<PaymentKey>,
    /// When the entry was closed last; of a sum the minute in which its entries were, by its first second.
    pub at: UnixTime,
    /// The fee, in wei; never zero.
    pub fee: Amount,
}
