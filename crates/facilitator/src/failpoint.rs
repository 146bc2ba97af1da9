//! Failpoints: named places between a durable write and an outside effect.
//!
//! A test stops the process, or this engine alone, exactly there, starts again and looks whether
//! the payment settles once. Every such edge has a point in [`Failpoint::ALL`]; the campaign `crash`
//! walks that list, and a new edge without a scenario does not compile there. Without the feature
//! `failpoints` nothing here does anything.

use std::fmt;
#[cfg(feature = "failpoints")]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

#[cfg(feature = "failpoints")]
use tokio::sync::Notify;

/// The variable that names the point at which the process aborts, such as `after-enter`, and how
/// often it is passed before, such as `after-enter@2`.
pub const VARIABLE: &str = "PAY402_FAILPOINT";

macro_rules! failpoints {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// A place at which a test can stop everything.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Failpoint { $($(#[doc = $doc])+ $variant,)+ }

        impl Failpoint {
            /// Every point, about in the order in which they are passed.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name that [`VARIABLE`] takes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

failpoints! {
    /// The journal says that this process leads; it has taken nothing up.
    AfterLeaseBeforeTakeUp = "after-lease-before-take-up";
    /// What was left behind is in hand; nothing of it is sent.
    AfterTakeUpBeforeLaunch = "after-take-up-before-launch";
    /// What was left behind is on its way; no call is taken yet.
    AfterTakeUpBeforeCalls = "after-take-up-before-calls";
    /// The journal has the lease renewed; this process does not know.
    AfterRenewalBeforeHeard = "after-renewal-before-heard";
    /// What a payment had to wait for is done, and closed in the journal; the payment is not entered.
    AfterErrandBeforePayment = "after-errand-before-payment";
    /// One of an account's turns of the day is taken, in the journal; what it was taken for is not entered.
    AfterTurnBeforeEnter = "after-turn-before-enter";
    /// The payment is in the journal; the worker does not know of it.
    AfterEnter = "after-enter";
    /// The transaction is signed; the journal does not know of it.
    AfterSignBeforeJournal = "after-sign-before-journal";
    /// The signed bytes are in the journal; no node has them.
    AfterJournalBeforeSend = "after-journal-before-send";
    /// A transaction that carries several payments is signed; the journal knows of it for none of them.
    AfterPackSignBeforeJournal = "after-pack-sign-before-journal";
    /// The journal has its bytes, and every payment that it carries; no node has them.
    AfterPackJournalBeforeSend = "after-pack-journal-before-send";
    /// The chain proved what became of several payments of one transaction; the journal does not have it.
    AfterPackProofBeforeClose = "after-pack-proof-before-close";
    /// The payments that a transaction made are closed; one that it left out is not signed anew.
    AfterPackCloseBeforeAlone = "after-pack-close-before-alone";
    /// A replacement at higher fees is signed; the journal does not know of it.
    AfterReplaceBeforeJournal = "after-replace-before-journal";
    /// The replacement is in the journal; no node has it.
    AfterReplaceJournalBeforeSend = "after-replace-journal-before-send";
    /// A replacement of a transaction with several payments is signed; the journal knows of it for none.
    AfterPackReplaceBeforeJournal = "after-pack-replace-before-journal";
    /// That replacement is in the journal, for every payment that it carries; no node has it.
    AfterPackReplaceJournalBeforeSend = "after-pack-replace-journal-before-send";
    /// The cancellation of a transaction that has expired is signed; the journal does not know of it.
    AfterCancelBeforeJournal = "after-cancel-before-journal";
    /// That cancellation is in the journal; no node has it.
    AfterCancelJournalBeforeSend = "after-cancel-journal-before-send";
    /// The cancellation of a nonce that nobody holds the bytes for is in the journal; the worker does not know
    /// of it.
    AfterGapEnter = "after-gap-enter";
    /// Its transaction is signed; the journal does not know of that.
    AfterGapSignBeforeJournal = "after-gap-sign-before-journal";
    /// Its signed bytes are in the journal; no node has them.
    AfterGapJournalBeforeSend = "after-gap-journal-before-send";
    /// A node has the bytes; the journal does not say so.
    AfterSendBeforeSent = "after-send-before-sent";
    /// A node has the bytes of several payments; the journal does not say so of any.
    AfterPackSendBeforeSent = "after-pack-send-before-sent";
    /// A node has a replacement; the journal does not say so.
    AfterReplaceSendBeforeSent = "after-replace-send-before-sent";
    /// A node has a replacement with several payments; the journal does not say so of any.
    AfterPackReplaceSendBeforeSent = "after-pack-replace-send-before-sent";
    /// A node has the cancellation of a transaction that has expired; the journal does not say so.
    AfterCancelSendBeforeSent = "after-cancel-send-before-sent";
    /// A node has the cancellation of a nonce that nobody holds the bytes for; the journal does not say so.
    AfterGapSendBeforeSent = "after-gap-send-before-sent";
    /// The journal says that a caller has left without the outcome; it was not told so.
    AfterLeaveBeforePending = "after-leave-before-pending";
    /// The journal says that a caller who came again waits; nobody does.
    AfterSeatBeforeWait = "after-seat-before-wait";
    /// The chain proved the outcome; the journal does not have it.
    AfterProofBeforeClose = "after-proof-before-close";
    /// The chain undid the block that closed an entry; the journal does not know of it.
    AfterUndoneBeforeReopen = "after-undone-before-reopen";
    /// The journal has the entry open again; nobody works on it.
    AfterReopenBeforeResend = "after-reopen-before-resend";
    /// The journal has the outcome; the caller was not told.
    AfterCloseBeforeAnswer = "after-close-before-answer";
    /// Several were closed in one commit; the caller of one was told, those of the others were not.
    AfterTellBeforeOthers = "after-tell-before-others";
    /// The journal says that an owed success was told; the caller was not told.
    AfterCollectBeforeAnswer = "after-collect-before-answer";
    /// Blocks are deep enough; the journal still has what was kept for them.
    AfterDeepBeforeBury = "after-deep-before-bury";
    /// Where a webhook begins is in the journal; it was sent nothing.
    AfterHookBeginsBeforePost = "after-hook-begins-before-post";
    /// A receiver has an event; the journal does not say so.
    AfterPostBeforeNoted = "after-post-before-noted";
    /// The journal says how far a webhook has come; the events after that are not sent.
    AfterNotedBeforePost = "after-noted-before-post";
    /// The desk has stopped; the lease is not released.
    AfterStopBeforeRelease = "after-stop-before-release";
    /// The lease is released; the process has not ended.
    AfterReleaseBeforeEnd = "after-release-before-end";
}

impl Failpoint {
    /// Those that every payment passes, and every errand, whatever else is under way.
    pub const PLAIN: [Self; 6] = [
        Self::AfterEnter,
        Self::AfterSignBeforeJournal,
        Self::AfterJournalBeforeSend,
        Self::AfterSendBeforeSent,
        Self::AfterProofBeforeClose,
        Self::AfterCloseBeforeAnswer,
    ];
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happens at the points of one engine.
#[derive(Clone, Debug, Default)]
pub struct Failpoints {
    #[cfg(feature = "failpoints")]
    armed: Option<Armed>,
}

#[cfg(feature = "failpoints")]
#[derive(Clone, Debug)]
enum Armed {
    /// Where, and how often it is passed before.
    Abort(Failpoint, Passes),
    /// Where, who is told, and how often it is passed before.
    Hold(Failpoint, Arc<Notify>, Passes),
}

/// How often a point may still be passed.
#[cfg(feature = "failpoints")]
#[derive(Clone, Debug)]
struct Passes(Arc<AtomicUsize>);

#[cfg(feature = "failpoints")]
impl Passes {
    fn new(passes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(passes)))
    }

    /// Takes one; `false` when none is left.
    fn take(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Failpoints {
    /// Aborts the process at the point that [`VARIABLE`] names.
    ///
    /// # Errors
    /// When the variable names no point, or the feature is off.
    pub fn from_env() -> Result<Self, pay402_core::error::Misconfigured> {
        let Ok(text) = std::env::var(VARIABLE) else { return Ok(Self::default()) };
        let wrong = |problem| pay402_core::error::Misconfigured::new(VARIABLE, problem);
        let (point, passes) = read(&text).map_err(wrong)?;
        Self::abort_after(passes, point)
            .ok_or_else(|| wrong("this program was built without the feature failpoints".into()))
    }

    #[cfg(feature = "failpoints")]
    #[allow(clippy::unnecessary_wraps)] // the other build has none to give
    fn abort_after(passes: usize, point: Failpoint) -> Option<Self> {
        Some(Self { armed: Some(Armed::Abort(point, Passes::new(passes))) })
    }

    #[cfg(not(feature = "failpoints"))]
    const fn abort_after(_: usize, _: Failpoint) -> Option<Self> {
        None
    }

    /// Whoever comes to `point` tells the returned signal and goes no further.
    #[cfg(feature = "failpoints")]
    pub fn hold_at(point: Failpoint) -> (Self, Arc<Notify>) {
        Self::hold_after(0, point)
    }

    /// As [`Failpoints::hold_at`], for whoever comes to `point` after `passes` others.
    #[cfg(feature = "failpoints")]
    pub fn hold_after(passes: usize, point: Failpoint) -> (Self, Arc<Notify>) {
        let reached = Arc::new(Notify::new());
        let armed = Armed::Hold(point, Arc::clone(&reached), Passes::new(passes));
        (Self { armed: Some(armed) }, reached)
    }

    /// Passes `point`, or does not.
    #[cfg(feature = "failpoints")]
    pub(crate) async fn pass(&self, point: Failpoint) {
        match &self.armed {
            Some(Armed::Abort(armed, passes)) if *armed == point && !passes.take() => {
                std::process::abort();
            }
            Some(Armed::Hold(armed, reached, passes)) if *armed == point && !passes.take() => {
                reached.notify_one();
                std::future::pending::<()>().await;
            }
            _ => {}
        }
    }

    /// Passes `point`.
    #[cfg(not(feature = "failpoints"))]
    #[allow(clippy::unused_async)] // as the other build
    pub(crate) async fn pass(&self, _: Failpoint) {}
}

/// A point by its name, and how often it is passed before.
fn read(text: &str) -> Result<(Failpoint, usize), String> {
    let (name, passes) = text.split_once('@').unwrap_or((text, "0"));
    let point = Failpoint::ALL.iter().copied().find(|point| point.name() == name);
    let point = point.ok_or_else(|| {
        let names = Failpoint::ALL.iter().map(|point| point.name()).collect::<Vec<_>>();
        format!("no such failpoint; one of: {}", names.join(", "))
    })?;
    let passes = passes.parse();
    let passes = passes.map_err(|_| "what follows @ must be how often the failpoint is passed")?;
    Ok((point, passes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_named_with_how_often_it_is_passed() {
        assert_eq!(read("after-enter"), Ok((Failpoint::AfterEnter, 0)));
        assert_eq!(read("after-enter@2"), Ok((Failpoint::AfterEnter, 2)));
        for wrong in ["", "@1", "after", "after-enter@", "after-enter@-1", "after-enter@1@1"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn passes_are_counted() {
        let passes = Passes::new(1);
        assert_eq!([passes.take(), passes.take(), passes.take()], [true, false, false]);
    }
}
