//! The facilitator's journal: every settlement, written before it is acted upon.
//!
//! Every behaviour derives from these rules, stated here once:
//!
//! - **One entry per payment.** [`Journal::enter`] is insert-if-absent on the [`PaymentKey`]; a
//!   second payment with the same key meets the first one's entry, whatever it says itself.
//! - **Durable before visible.** When a method returns, its change survives a power cut.
//! - **One road.** An entry moves Due → Signed → Sent → Final and only by [`step`]; what is
//!   signed stays recorded, so a retry sends the same bytes. An entry without a plan goes from Due
//!   to Final: nothing is sent for it.
//! - **Final is watched.** An entry that a block closed keeps what it needs to go on (its [`Watch`])
//!   until that block is buried. Until then a block that is undone opens it again, or closes it in
//!   another way; after that nothing moves it. A success that somebody was told of and that cannot
//!   be had again ends as [`Outcome::Reverted`], never as a mere failure.
//! - **One writer.** Whoever advances entries holds the network's [`Lease`]; its fencing token is
//!   checked in the same transaction as the change.
//! - **One success.** [`Delivery`] says who may be told that the money moved. `Delivered` is
//!   committed before the answer leaves, so a crash can lose an answer but never give two.
//! - **Nothing unrecorded.** Every change of an entry leaves a [`Record`] in the same transaction
//!   ([`history`](crate::history)).
//! - **A live claim is never forgotten.** What is over for good, and by a [`Horizon`] long enough, is
//!   deleted with its records, where an operator wants that; the highest numbers and nonces of it stay
//!   known.
//! - **Nothing spendable at rest.** `plan` and `raw` arrive sealed by the caller; they are wiped
//!   when the entry is final and its block is buried.

mod figures;
mod forget;
mod lease;

use std::time::Duration;

use async_trait::async_trait;

use crate::books::Booked;
use crate::error::Unavailable;
use crate::history::{Record, Span};
use crate::network::{BlockId, SentAs};
use crate::time::UnixTime;
use crate::{Amount, Digest, NetworkId, PaymentKey};

pub use self::figures::{Backlog, Cost, Loss};
pub use self::forget::{Aged, Forgotten, Horizon, Looked};
pub use self::lease::{Holder, Lease, Leased};

/// How long before it failed an entry may have been entered to be among [`Journal::losses`], in seconds.
pub const LOSS_AGE_S_MAX: u64 = 24 * 60 * 60;
/// Most transactions that one is signed to take the place of. At an eighth more each time the last
/// offers more than six times what the first did.
pub const REPLACEMENTS_MAX: usize = 16;

/// A payment to be settled, as it enters the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEntry {
    /// What the chain would refuse twice.
    pub key: PaymentKey,
    /// Everything that identifies this very payment.
    pub fingerprint: Digest,
    /// The network it settles on.
    pub network: NetworkId,
    /// Who pays.
    pub payer: String,
    /// How much is charged, in atomic units: never more is collected of this authorization. Zero for
    /// an errand, which collects nothing.
    pub amount: Amount,
    /// The last moment (exclusive, chain time) at which settling can succeed.
    pub expires: UnixTime,
    /// Hash of API key and idempotency key, when the caller gave both.
    pub caller: Option<Digest>,
    /// The name of the caller that entered it, where callers have names. It opens nothing; who proves
    /// to be that caller is told what happens to it.
    pub entered_by: Option<String>,
    /// What has to be sent, sealed; empty where there is nothing to send, as for a charge of zero.
    pub plan: Vec<u8>,
    /// When it was entered.
    pub entered_at: UnixTime,
}

/// A journal entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// As entered; `plan` is empty once the entry is final and not watched any more.
    pub new: NewEntry,
    /// How far it has come.
    pub stage: Stage,
    /// Who may be told of a success.
    pub delivery: Delivery,
    /// Of a final entry: what is kept until the block that closed it is buried.
    pub watch: Option<Watch>,
}

/// What a final entry keeps, beside its plan, while the block that closed it may be undone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// The block that has the evidence.
    pub block: BlockId,
    /// What was signed for it, when something was.
    pub signed: Option<SignedAs>,
}

/// How far an entry has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Entered; nothing is signed.
    Due,
    /// Signed and recorded; it may not have been sent.
    Signed(SignedAs),
    /// Handed to a node at least once.
    Sent(SignedAs),
    /// Closed by chain evidence.
    Final(Outcome),
}

/// A recorded signed transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedAs {
    /// Signer, nonce and hash.
    pub sent: SentAs,
    /// The signed bytes, sealed. Empty where another entry with the same transaction has them.
    pub raw: Vec<u8>,
    /// What earlier transactions cost that carried it among others and were mined without its
    /// transfer, in wei: its share of them.
    pub spent: Amount,
}

/// How an entry ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The money moved, proven by logs; or none was charged.
    Settled {
        /// By this transaction; empty where nothing was charged.
        transaction: String,
        /// In this block.
        block: u64,
        /// What it cost us, in wei.
        fee: Amount,
    },
    /// It did not and never will.
    Failed {
        /// The refusal's wire code.
        reason: String,
        /// For people.
        message: String,
        /// The transaction that failed, when there was one.
        transaction: Option<String>,
        /// What it cost us, in wei.
        fee: Amount,
    },
    /// It had moved, and somebody was told so; then its block was undone, and it never will move
    /// again. What is charged is lost to whoever was to have it.
    Reverted {
        /// The wire code of why it cannot move any more.
        reason: String,
        /// For people.
        message: String,
        /// The transaction that failed in the end, when there was one.
        transaction: Option<String>,
        /// What it cost us, in wei.
        fee: Amount,
    },
}

/// Who may be told that the money moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// One caller is waiting for the outcome.
    Waiting,
    /// Nobody waits and nobody was told: the caller left, was told `pending`, or we crashed. The
    /// next one who presents the payment may be told.
    Owed,
    /// Somebody was told. Nobody else ever is, except the same request proven by its caller keys.
    Delivered,
}

/// What happened to an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A transaction was signed for it, or for it and others. From [`Stage::Due`]; also from
    /// `Signed`/`Sent` when the earlier transaction provably can never be mined because its nonce was
    /// consumed by another, or carried it among others and was mined without its transfer.
    Signed(SignedAs),
    /// A transaction with the same signer and nonce was signed, to take the place of the one that is
    /// recorded. From `Signed` and `Sent`; either may be mined from then on.
    Replaced(SignedAs),
    /// The bytes were handed to a node.
    Sent,
    /// It is closed for good.
    Closed(Outcome),
    /// The chain closed it, in a block that may be undone: it is watched from now on. Also of a watched
    /// entry, when another block closes it.
    ClosedIn(Outcome, BlockId),
    /// The block that closed a watched entry is undone, and the outcome with it: it goes on where it
    /// was.
    Reopened,
    /// The block that closed a watched entry is buried.
    Buried,
}

/// An event that does not fit the entry's stage.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a journal entry cannot go from {from} by {event}")]
pub struct IllegalStep {
    from: &'static str,
    event: &'static str,
}

/// The pure step function: the only road an entry can take.
///
/// # Errors
/// When the event does not fit. A final entry that is not watched takes no event at all.
pub fn step(mut entry: Entry, event: Event) -> Result<Entry, IllegalStep> {
    let (from, by) = (entry.stage.name(), event.name());
    entry.stage = match (entry.stage, event, entry.watch.take()) {
        (Stage::Due | Stage::Signed(_) | Stage::Sent(_), Event::Signed(signed), None) => {
            Stage::Signed(signed)
        }
        (Stage::Signed(old) | Stage::Sent(old), Event::Replaced(new), None)
            if old.sent.nonce == new.sent.nonce
                && old.sent.signer == new.sent.signer
                && old.sent.replaced.len() < REPLACEMENTS_MAX =>
        {
            let mut replaced = old.sent.replaced;
            replaced.push(old.sent.transaction);
            Stage::Signed(SignedAs { sent: SentAs { replaced, ..new.sent }, ..new })
        }
        (Stage::Signed(signed) | Stage::Sent(signed), Event::Sent, None) => Stage::Sent(signed),
        (Stage::Due | Stage::Signed(_) | Stage::Sent(_), Event::Closed(outcome), None) => {
            entry.new.plan.clear();
            Stage::Final(outcome.given_told(entry.delivery))
        }
        (Stage::Due, Event::ClosedIn(outcome, block), None) => {
            entry.watch = Some(Watch { block, signed: None });
            Stage::Final(outcome.given_told(entry.delivery))
        }
        (Stage::Signed(signed) | Stage::Sent(signed), Event::ClosedIn(outcome, block), None) => {
            entry.watch = Some(Watch { block, signed: Some(signed) });
            Stage::Final(outcome.given_told(entry.delivery))
        }
        (Stage::Final(old), Event::ClosedIn(outcome, block), Some(watch)) => {
            entry.delivery = old.undone(entry.delivery);
            entry.watch = Some(Watch { block, ..watch });
            Stage::Final(outcome.given_told(entry.delivery))
        }
        (Stage::Final(old), Event::Reopened, Some(watch)) => {
            entry.delivery = old.undone(entry.delivery);
            // No node may have the bytes any more.
            watch.signed.map_or(Stage::Due, Stage::Signed)
        }
        (Stage::Final(outcome), Event::Buried, Some(_)) => {
            entry.new.plan.clear();
            Stage::Final(outcome)
        }
        _ => return Err(IllegalStep { from, event: by }),
    };
    Ok(entry)
}

impl Stage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Signed(_) => "signed",
            Self::Sent(_) => "sent",
            Self::Final(_) => "final",
        }
    }
}

impl Event {
    const fn name(&self) -> &'static str {
        match self {
            Self::Signed(_) => "signed",
            Self::Replaced(_) => "replaced",
            Self::Sent => "sent",
            Self::Closed(_) | Self::ClosedIn(..) => "closed",
            Self::Reopened => "reopened",
            Self::Buried => "buried",
        }
    }
}

impl Outcome {
    /// What it cost us, in wei.
    pub const fn fee(&self) -> Amount {
        match self {
            Self::Settled { fee, .. } | Self::Failed { fee, .. } | Self::Reverted { fee, .. } => {
                *fee
            }
        }
    }

    /// The outcome where somebody may have been told of a success before: a failure is a loss then.
    fn given_told(self, delivery: Delivery) -> Self {
        match (self, delivery) {
            (Self::Failed { reason, message, transaction, fee }, Delivery::Delivered) => {
                Self::Reverted { reason, message, transaction, fee }
            }
            (outcome, _) => outcome,
        }
    }

    /// Who may be told now that this outcome is undone. Of a failure anybody may have been told: a
    /// success that follows is owed to the next who asks.
    const fn undone(&self, delivery: Delivery) -> Delivery {
        match (self, delivery) {
            (Self::Failed { .. }, Delivery::Delivered) => Delivery::Owed,
            (Self::Settled { .. } | Self::Failed { .. } | Self::Reverted { .. }, delivery) => {
                delivery
            }
        }
    }
}

/// The answer to [`Journal::enter`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entered {
    /// It is new; the caller waits for it (`Delivery::Waiting`).
    New,
    /// The key was entered before, possibly by somebody else with other content.
    Known(Box<Entry>),
}

/// Why the journal did not do as asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Storage failed; nothing may be assumed.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// Another process took the lease over.
    #[error("the lease on {0} was taken over by another process")]
    LeaseLost(NetworkId),
    /// There is no such entry.
    #[error("no journal entry for {0}")]
    NoEntry(PaymentKey),
    /// A bug in the caller.
    #[error(transparent)]
    Illegal(#[from] IllegalStep),
}

/// One change by the holder of a lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Advance {
    /// Which entry.
    pub key: PaymentKey,
    /// What happened.
    pub event: Event,
    /// With a closing event: mark it delivered in the same transaction if a caller is waiting.
    pub deliver: bool,
    /// When it happened; for the history.
    pub at: UnixTime,
}

/// Durable storage for settlements. See the module for its rules.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Enters a payment, or finds the entry that has its key.
    ///
    /// # Errors
    /// When storage failed. The payment then is not entered for the caller to act upon.
    async fn enter(&self, new: NewEntry) -> Result<Entered, JournalError>;

    /// The entry of a payment.
    ///
    /// # Errors
    /// When storage failed.
    async fn find(&self, key: &PaymentKey) -> Result<Option<Entry>, JournalError>;

    /// Takes the lease of a network over for `holder`, for as long as `lasts` (whole seconds). Another
    /// holder keeps it until it has run out. The same holder renews it, keeping its token. Taking over
    /// turns every `Waiting` of the network into `Owed`: those callers waited in a process that is
    /// gone.
    ///
    /// Whether a lease has run out is told by one clock: that of the store, where it has one, whatever
    /// the askers' clocks say. A store without one, whose askers are all on one machine, goes by
    /// `now`.
    ///
    /// # Errors
    /// When storage failed.
    async fn lease(
        &self,
        network: &NetworkId,
        holder: &Holder,
        now: UnixTime,
        lasts: Duration,
    ) -> Result<Leased, JournalError>;

    /// Lets a lease run out now, for a successor: its holder does not get it again by that name. One
    /// that was taken over is left alone.
    ///
    /// # Errors
    /// When storage failed; it runs out by itself.
    async fn release(&self, lease: &Lease) -> Result<(), JournalError>;

    /// Applies changes, all or none, by [`step`]. Returns the entries as they are now, in order.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was changed.
    async fn advance(
        &self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError>;

    /// Unfinished entries of a network, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When storage failed.
    async fn unfinished(
        &self,
        network: &NetworkId,
        limit: usize,
    ) -> Result<Vec<Entry>, JournalError>;

    /// The entries that were entered last, newest first, at most `limit`.
    ///
    /// # Errors
    /// When storage failed.
    async fn newest(&self, limit: usize) -> Result<Vec<Entry>, JournalError>;

    /// The unfinished entries of a network, in figures. A store that can count does so instead of
    /// reading them all.
    ///
    /// # Errors
    /// When storage failed.
    async fn backlog(&self, network: &NetworkId) -> Result<Backlog, JournalError> {
        Ok(Backlog::of(&self.unfinished(network, usize::MAX).await?))
    }

    /// One more than the highest nonce ever recorded for `signer` on `network`, be it forgotten by now.
    ///
    /// # Errors
    /// When storage failed.
    async fn next_nonce(
        &self,
        network: &NetworkId,
        signer: &str,
    ) -> Result<Option<u64>, JournalError>;

    /// How many settlements of `payer` on `network`, entered at `since` or later, failed and cost
    /// us a fee. Payers are told apart by their exact spelling.
    ///
    /// # Errors
    /// When storage failed.
    async fn failures(
        &self,
        network: &NetworkId,
        payer: &str,
        since: UnixTime,
    ) -> Result<u64, JournalError>;

    /// The blocks that closed the watched entries of a network, lowest first, each once.
    ///
    /// # Errors
    /// When storage failed.
    async fn watched_blocks(&self, network: &NetworkId) -> Result<Vec<BlockId>, JournalError>;

    /// The watched entries of a network that this block closed: as many as a block has room for.
    ///
    /// # Errors
    /// When storage failed.
    async fn watched_in(
        &self,
        network: &NetworkId,
        block: &BlockId,
    ) -> Result<Vec<Entry>, JournalError>;

    /// Applies [`Event::Buried`] to the watched entries that were closed in blocks up to `through`, at
    /// most to `limit` of them. Returns to how many.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was changed.
    async fn bury(&self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError>;

    /// Looks at the entries of a network with a number above `after`, at most `limit`, the lowest numbers first,
    /// for those that are past `horizon`.
    ///
    /// # Errors
    /// When storage failed.
    async fn forgettable(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
        horizon: &Horizon,
    ) -> Result<Looked, JournalError>;

    /// Forgets those of these entries of the lease's network that are past `horizon` at this moment, with
    /// their records and with what was signed for them. Returns how many.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was changed.
    async fn forget(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError>;

    /// What is still known of the entries of a network that were forgotten.
    ///
    /// # Errors
    /// When storage failed.
    async fn forgotten(&self, network: &NetworkId) -> Result<Forgotten, JournalError>;

    /// The highest number of a record that was forgotten, of any network; 0 when none was. Whoever goes on after
    /// a lower one may miss some.
    ///
    /// # Errors
    /// When storage failed.
    async fn forgotten_records(&self) -> Result<u64, JournalError>;

    /// What the entries of `network` cost that failed or were reverted at `since` or later, each once, in no
    /// particular order. One that is opened again is none of them. Entries that were entered more than
    /// [`LOSS_AGE_S_MAX`] before `since` are left out.
    ///
    /// # Errors
    /// When storage failed.
    async fn losses(&self, network: &NetworkId, since: UnixTime)
    -> Result<Vec<Loss>, JournalError>;

    /// What the entries of `network` cost that were entered by callers of these names and closed at `since` or
    /// later, however they ended, in no particular order. One that is open again is none of them.
    ///
    /// # Errors
    /// When storage failed.
    async fn costs(
        &self,
        network: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError>;

    /// Changes who may be told, from `from` to `to`, if it still is `from`; to
    /// [`Delivery::Delivered`] only of an entry that is settled. Says whether it did. `at` is for the history.
    ///
    /// With a lease, only while that is held: what another process knows of who waits is out of date. Without
    /// one by whom the delivery belongs to: who waits, or was told.
    ///
    /// # Errors
    /// [`JournalError::LeaseLost`], or when storage failed.
    async fn hand_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
        at: UnixTime,
    ) -> Result<bool, JournalError>;

    /// The records after number `after`, at most `limit`, the lowest numbers first. Ends before a
    /// number that may still be committed, so that whoever goes on after the last one misses none.
    ///
    /// # Errors
    /// When storage failed.
    async fn history(&self, after: u64, limit: usize) -> Result<Vec<Record>, JournalError>;

    /// The number after which nothing has happened yet: all records up to it are committed, and
    /// whatever is recorded from now on has a higher number. 0 when there is none.
    ///
    /// # Errors
    /// When storage failed, or changes do not end in time.
    async fn history_end(&self) -> Result<u64, JournalError>;

    /// The records of the payments that one caller entered, in `span`, whose end a reader of all has come to or
    /// [`Journal::history_end`] has told.
    ///
    /// # Errors
    /// When storage failed.
    async fn history_of_caller(&self, name: &str, span: Span) -> Result<Vec<Record>, JournalError>;

    /// The last record that the hook of this name has come to on a network; `None` when it is new there.
    ///
    /// # Errors
    /// When storage failed.
    async fn hook(&self, name: &str, network: &NetworkId) -> Result<Option<u64>, JournalError>;

    /// Notes that a hook has come to record `to`, if it still is at `from`. Says whether it was.
    ///
    /// # Errors
    /// [`JournalError::LeaseLost`] when the lease is another's: then somebody else sends; when storage
    /// failed.
    async fn move_hook(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError>;

    /// Sets a hook back on all networks, so that what is recorded after `after` is sent again. Says on how
    /// many it had come further.
    ///
    /// # Errors
    /// When storage failed.
    async fn replay_hook(&self, name: &str, after: u64) -> Result<u64, JournalError>;

    /// The records of one payment in `span`.
    ///
    /// # Errors
    /// When storage failed.
    async fn history_of_payment(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, JournalError>;

    /// The entries of a network with a number above `after`, at most `limit`, the lowest numbers first, each
    /// with all that was signed for it. What was signed before the call is in the answers of a reader who
    /// goes on to the end.
    ///
    /// # Errors
    /// When storage failed.
    async fn books(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Part;

    fn signed(nonce: u64) -> SignedAs {
        let transaction = format!("0x{nonce}");
        let (replaced, part) = (Vec::new(), Part::WHOLE);
        let sent = SentAs { signer: "0xa".into(), nonce, transaction, replaced, part };
        SignedAs { sent, raw: vec![1], spent: Amount::ZERO }
    }

    fn replacing(nonce: u64, number: usize) -> SignedAs {
        let mut signed = signed(nonce);
        signed.sent.transaction = format!("0x{nonce}/{number}");
        signed
    }

    fn settled() -> Outcome {
        Outcome::Settled { transaction: "0x1".into(), block: 1, fee: Amount::ZERO }
    }

    fn failed() -> Outcome {
        let (reason, message) = ("expired".into(), "too late".into());
        Outcome::Failed { reason, message, transaction: None, fee: Amount::ZERO }
    }

    fn block(hash: &str) -> BlockId {
        BlockId { number: 7, hash: hash.into() }
    }

    fn due() -> Entry {
        let network = NetworkId::eip155(1);
        let new = NewEntry {
            key: PaymentKey::new(&network, "0xasset", "0xpayer", "1"),
            fingerprint: Digest::of(&[b"1"]),
            network,
            payer: "0xpayer".into(),
            amount: Amount::from(5),
            expires: UnixTime(9),
            caller: None,
            entered_by: None,
            plan: vec![1],
            entered_at: UnixTime(1),
        };
        Entry { new, stage: Stage::Due, delivery: Delivery::Waiting, watch: None }
    }

    fn after(entry: &Entry, events: impl IntoIterator<Item = Event>) -> Entry {
        events.into_iter().fold(entry.clone(), |entry, event| step(entry, event).unwrap())
    }

    #[test]
    fn a_replacement_keeps_what_it_replaces_and_its_nonce() {
        let mut entry = after(&due(), [Event::Signed(signed(1))]);
        assert!(step(due(), Event::Replaced(replacing(1, 0))).is_err(), "nothing to replace");
        assert!(step(entry.clone(), Event::Replaced(signed(2))).is_err(), "another nonce");
        let mut elsewhere = replacing(1, 0);
        elsewhere.sent.signer = "0xb".into();
        assert!(step(entry.clone(), Event::Replaced(elsewhere)).is_err(), "another signer");
        for number in 1..=REPLACEMENTS_MAX {
            entry = after(&entry, [Event::Sent, Event::Replaced(replacing(1, number))]);
            let Stage::Signed(now) = &entry.stage else { panic!("{entry:?}") };
            assert_eq!(now.sent.transaction, format!("0x1/{number}"));
            assert_eq!(now.sent.replaced.len(), number);
            assert!(now.sent.is_any("0x1") && now.sent.is_any("0x1/1"));
            assert!(!now.sent.is_any("0x2"));
        }
        assert!(step(entry, Event::Replaced(replacing(1, 99))).is_err(), "without end");
    }

    #[test]
    fn an_entry_takes_one_road() {
        let sent = after(&due(), [Event::Signed(signed(1)), Event::Sent]);
        assert_eq!(sent.stage, Stage::Sent(signed(1)));
        assert!(step(due(), Event::Sent).is_err(), "sent without being signed");
        for event in [Event::Reopened, Event::Buried] {
            assert!(step(sent.clone(), event).is_err(), "it was not closed");
        }
        let closed = after(&sent, [Event::Closed(settled())]);
        let watched = after(&sent, [Event::ClosedIn(settled(), block("0xa"))]);
        assert_eq!((&closed.stage, &watched.stage), (&watched.stage, &Stage::Final(settled())));
        assert!(closed.new.plan.is_empty(), "spendable at rest");
        let buried = after(&watched, [Event::Buried]);
        assert_eq!(buried, closed);
        let replaced = Event::Replaced(replacing(1, 1));
        let forbidden = [Event::Signed(signed(2)), replaced, Event::Sent, Event::Closed(settled())];
        for event in forbidden.clone() {
            assert!(step(watched.clone(), event).is_err(), "a watched entry moved");
        }
        let more = [Event::Reopened, Event::Buried, Event::ClosedIn(settled(), block("0xb"))];
        for event in forbidden.into_iter().chain(more) {
            assert!(step(closed.clone(), event).is_err(), "a final entry moved");
        }
    }

    #[test]
    fn what_is_undone_goes_on_with_the_same_bytes() {
        let sent = after(&due(), [Event::Signed(signed(1)), Event::Sent]);
        let watched = after(&sent, [Event::ClosedIn(settled(), block("0xa"))]);
        assert_eq!(watched.new.plan, [1], "nothing to go on with");
        let open = after(&watched, [Event::Reopened]);
        assert_eq!((&open.stage, &open.watch), (&Stage::Signed(signed(1)), &None));
        let elsewhere = after(&open, [Event::ClosedIn(settled(), block("0xb"))]);
        assert_eq!(elsewhere.watch, Some(Watch { block: block("0xb"), signed: Some(signed(1)) }));
        let moved = after(&watched, [Event::ClosedIn(settled(), block("0xb"))]);
        assert_eq!(moved, elsewhere, "the books follow in one step as in two");
        // Settled by somebody else before anything was signed.
        let unsigned = after(&due(), [Event::ClosedIn(settled(), block("0xa")), Event::Reopened]);
        assert_eq!(unsigned.stage, Stage::Due);
    }

    #[test]
    fn a_success_that_was_told_and_is_undone_for_good_is_a_loss() {
        let settling = after(&due(), [Event::Signed(signed(1))]);
        let watched = after(&settling, [Event::ClosedIn(settled(), block("0xa"))]);
        let told = Entry { delivery: Delivery::Delivered, ..watched.clone() };
        let owed = Entry { delivery: Delivery::Owed, ..watched };
        let fails = || Event::ClosedIn(failed(), block("0xb"));
        for events in [vec![Event::Reopened, fails()], vec![fails()]] {
            let lost = after(&told, events.clone());
            assert!(matches!(lost.stage, Stage::Final(Outcome::Reverted { .. })), "{lost:?}");
            // It may come back yet.
            let back = after(&lost, [Event::Reopened, Event::ClosedIn(settled(), block("0xc"))]);
            assert_eq!(back.stage, Stage::Final(settled()));
            assert_eq!(back.delivery, Delivery::Delivered, "two may be told");
            let unknown = after(&owed, events);
            assert_eq!(unknown.stage, Stage::Final(failed()), "nobody was told");
        }
    }

    #[test]
    fn a_failure_that_was_told_is_no_success_that_was() {
        let open = after(&due(), [Event::Signed(signed(1)), fails_in("0xa")]);
        let told = Entry { delivery: Delivery::Delivered, ..open };
        for events in [vec![Event::Reopened], vec![]] {
            let open = after(&told, events);
            let settled = after(&open, [Event::ClosedIn(settled(), block("0xb"))]);
            assert_eq!(settled.delivery, Delivery::Owed, "nobody was told of the success");
            let again = after(&open, [fails_in("0xb")]);
            assert_eq!(again.stage, Stage::Final(failed()), "nothing was lost");
        }
    }

    fn fails_in(hash: &str) -> Event {
        Event::ClosedIn(failed(), block(hash))
    }
}
