//! Where a payment stands, for those who look.

use pay402_core::journal::{Delivery, Entry, Outcome, Stage};
use pay402_core::{Amount, NetworkId};

/// Where a payment stands in the journal. Holds nothing that could be spent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// The network it settles on.
    pub network: NetworkId,
    /// Who pays.
    pub payer: String,
    /// How much is charged, in atomic units.
    pub amount: Amount,
    /// `due`, `signed`, `sent`, `settled`, `failed` or `reverted`.
    pub stage: &'static str,
    /// The transaction that moved, or may move, the money.
    pub transaction: Option<String>,
    /// Whether somebody was told of the success.
    pub delivery: Delivery,
    /// What the settlement cost the facilitator, in wei; zero until it is final.
    pub fee: Amount,
}

impl From<Entry> for Standing {
    fn from(entry: Entry) -> Self {
        let (stage, transaction, fee) = match entry.stage {
            Stage::Due => ("due", None, Amount::ZERO),
            Stage::Signed(signed) => ("signed", Some(signed.sent.transaction), Amount::ZERO),
            Stage::Sent(signed) => ("sent", Some(signed.sent.transaction), Amount::ZERO),
            Stage::Final(Outcome::Settled { transaction, fee, .. }) => {
                ("settled", Some(transaction).filter(|hash| !hash.is_empty()), fee)
            }
            Stage::Final(Outcome::Failed { transaction, fee, .. }) => ("failed", transaction, fee),
            Stage::Final(Outcome::Reverted { transaction, fee, .. }) => {
                ("reverted", transaction, fee)
            }
        };
        let new = entry.new;
        let (network, payer, amount) = (new.network, new.payer, new.amount);
        Self { network, payer, amount, stage, transaction, delivery: entry.delivery, fee }
    }
}
