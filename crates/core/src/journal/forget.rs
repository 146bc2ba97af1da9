//! What a journal may forget: the one rule, for every backend.
//!
//! An entry is a claim: while it is there, its payment is told from another one, and a success is told once.
//! It is forgotten only when nobody could have any use of the claim again: its authorization can no
//! longer be used in any block, nothing that closed it can be undone, whom it is owed to has it, and who
//! is sent its records was sent them. What the chain does not refuse by itself for ever after is never
//! named to be forgotten ([`Network::refuses_again`](crate::network::Network::refuses_again)).

use std::collections::BTreeMap;

use super::{Delivery, Outcome};
use crate::time::UnixTime;
use crate::{Amount, PaymentKey};

/// From where on things are past.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Horizon {
    /// What could be used, was entered or changed at this moment or later stays.
    pub before: UnixTime,
    /// The same for what failed at our cost: it is counted against its payer for a while.
    pub losses_before: UnixTime,
    /// The hooks whose records stay until they have come to them.
    pub hooks: Vec<String>,
}

/// What decides whether an entry is past.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Aged {
    /// How much is charged, in atomic units.
    pub amount: Amount,
    /// The first moment at which it can no longer be settled.
    pub expires: UnixTime,
    /// When it was entered.
    pub entered_at: UnixTime,
    /// Who may be told of a success.
    pub delivery: Delivery,
    /// How it ended; `None` while it is unfinished.
    pub outcome: Option<Outcome>,
    /// Whether the block that closed it may still be undone.
    pub watched: bool,
    /// The number and the time of its last record; `None` of an entry that is older than the history.
    pub last: Option<(u64, UnixTime)>,
}

impl Aged {
    /// Whether the entry is past `horizon`, when the hooks that it names have come to record `sent` at
    /// least; `None` where there are none.
    pub fn is_past(&self, horizon: &Horizon, sent: Option<u64>) -> bool {
        let Some(outcome) = &self.outcome else { return false };
        let (is_settled, fee) = match outcome {
            Outcome::Settled { .. } => (true, Amount::ZERO),
            Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. } => (false, *fee),
        };
        // Who paid and was not told may come as late as they like.
        let is_owed = is_settled && !self.amount.is_zero() && self.delivery != Delivery::Delivered;
        let before = match fee.is_zero() {
            true => horizon.before,
            false => horizon.before.min(horizon.losses_before),
        };
        let is_unsent = |(record, _)| sent.is_some_and(|sent| sent < record);
        !self.watched
            && !is_owed
            && self.expires <= before
            && self.entered_at < before
            && self.last.is_none_or(|(_, at)| at < before)
            && !self.last.is_some_and(is_unsent)
    }
}

/// The answer to [`Journal::forgettable`](super::Journal::forgettable).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Looked {
    /// Those that are past the horizon.
    pub past: Vec<PaymentKey>,
    /// The number of the last entry that was looked at, whatever came of it.
    pub at: u64,
    /// Whether the entries after it are too young, or there are none.
    pub is_end: bool,
}

/// What is still known of entries that were forgotten.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forgotten {
    /// How many.
    pub entries: u64,
    /// The highest number of one; 0 when there is none.
    pub entry: u64,
    /// What they cost, as it was booked, in wei.
    pub fees: Amount,
    /// The highest nonce that was recorded for one, of each signer.
    pub nonces: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: UnixTime = UnixTime(1_000);

    fn horizon() -> Horizon {
        Horizon { before: BEFORE, losses_before: UnixTime(500), hooks: Vec::new() }
    }

    fn settled() -> Option<Outcome> {
        Some(Outcome::Settled { transaction: "0x1".into(), block: 1, fee: Amount::from(7) })
    }

    fn failed(fee: u64) -> Option<Outcome> {
        let (reason, message) = ("expired".into(), String::new());
        Some(Outcome::Failed { reason, message, transaction: None, fee: Amount::from(fee) })
    }

    fn reverted(fee: u64) -> Option<Outcome> {
        let (reason, message) = ("expired".into(), String::new());
        Some(Outcome::Reverted { reason, message, transaction: None, fee: Amount::from(fee) })
    }

    fn past() -> Aged {
        Aged {
            amount: Amount::from(5),
            expires: BEFORE,
            entered_at: UnixTime(400),
            delivery: Delivery::Delivered,
            outcome: settled(),
            watched: false,
            last: Some((9, UnixTime(450))),
        }
    }

    #[test]
    fn a_claim_that_lives_is_never_past() {
        assert!(past().is_past(&horizon(), None));
        assert!(Aged { last: None, ..past() }.is_past(&horizon(), None));
        let owed = |delivery| Aged { delivery, ..past() };
        let alive = [
            ("unfinished", Aged { outcome: None, ..past() }),
            ("watched", Aged { watched: true, ..past() }),
            ("it can be used", Aged { expires: UnixTime(1_001), ..past() }),
            ("just entered", Aged { entered_at: BEFORE, ..past() }),
            ("just changed", Aged { last: Some((9, BEFORE)), ..past() }),
            ("owed", owed(Delivery::Owed)),
            ("waited for", owed(Delivery::Waiting)),
        ];
        for (why, aged) in alive {
            assert!(!aged.is_past(&horizon(), None), "{why}");
        }
    }

    #[test]
    fn nothing_is_owed_where_nothing_was_charged_or_nothing_moved() {
        let free = Aged { amount: Amount::ZERO, delivery: Delivery::Owed, ..past() };
        assert!(free.is_past(&horizon(), None));
        let failed = Aged { outcome: failed(0), delivery: Delivery::Owed, ..past() };
        assert!(failed.is_past(&horizon(), None));
    }

    #[test]
    fn what_failed_at_our_cost_is_remembered_as_long_as_it_counts() {
        for outcome in [failed(1), reverted(1)] {
            let early = Aged { outcome, expires: UnixTime(500), ..past() };
            assert!(early.is_past(&horizon(), None));
            for (entered_at, last) in [(500, 450), (400, 500)] {
                let last = Some((9, UnixTime(last)));
                let late = Aged { entered_at: UnixTime(entered_at), last, ..early.clone() };
                assert!(!late.is_past(&horizon(), None), "{entered_at} {last:?}");
            }
        }
        let free = Aged { outcome: failed(0), last: Some((9, UnixTime(999))), ..past() };
        assert!(free.is_past(&horizon(), None));
    }

    #[test]
    fn what_is_to_be_sent_stays() {
        assert!(!past().is_past(&horizon(), Some(8)));
        assert!(past().is_past(&horizon(), Some(9)));
    }
}
