//! The journal's entries as whoever audits them reads them: what is charged, how it ended, and every
//! transaction that was signed for it. Nothing in it can be spent.

use crate::history::Sent;
use crate::journal::Outcome;
use crate::network::BlockId;
use crate::time::UnixTime;
use crate::{Amount, Digest, PaymentKey};

/// An entry as it stands in the books.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Booked {
    /// Its number: from 1, with gaps, in the order in which entries were made.
    pub seq: u64,
    /// What the chain would refuse twice; of an errand, what is not done twice.
    pub key: PaymentKey,
    /// Everything that identifies the payment.
    pub fingerprint: Digest,
    /// Who pays; of an errand, for whom it is done.
    pub payer: String,
    /// How much is charged, in atomic units; zero for an errand.
    pub amount: Amount,
    /// When it was entered.
    pub entered_at: UnixTime,
    /// How it ended, and what it cost; `None` while it is unfinished.
    pub outcome: Option<Outcome>,
    /// The block that closed it, while that may still be undone.
    pub watched: Option<BlockId>,
    /// Every transaction that was ever signed for it, in that order. Of those with one signer and nonce one
    /// is mined at most.
    pub signed: Vec<Sent>,
}
