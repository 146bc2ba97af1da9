//! The scribe: the one task that writes to a network's entries.
//!
//! It merges whatever is ready into one commit, so that the cost of durability is shared, and it
//! answers only when it knows: a commit that failed is looked up and repeated until the journal
//! says what happened or the lease is gone. **Invariant:** callers are told of a close only after
//! its commit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pay402_core::PaymentKey;
use pay402_core::journal::{
    Advance, Delivery, Entry, Event, JournalError, Lease, Leased, Outcome, Stage,
};
use pay402_core::time::{Clock, UnixTime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::desk::Desk;
use crate::failpoint::Failpoint;
use crate::lease;
use crate::run::Run;

/// Requests that wait for the scribe; above, the askers wait.
const QUEUE: usize = 1024;
/// Requests merged into one commit.
const COMMIT_MAX: usize = 256;
/// How long a note that can wait may wait for a commit to travel with.
const NOTE_DELAY: Duration = Duration::from_secs(1);
/// Notes that may wait.
const NOTES_MAX: usize = 1024;
/// Shortest and longest pause before a failed commit is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The change was not written and will not be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    /// This process no longer writes for the network.
    #[error("the desk has stopped")]
    Stopped,
    /// The journal's rules forbid it: a bug, or the entry was closed by somebody else.
    #[error("{0}")]
    Forbidden(String),
}

/// Changes that are written all or none, whatever becomes of others.
struct Request {
    changes: Vec<Advance>,
    done: Option<oneshot::Sender<Result<Vec<Entry>, Unwritten>>>,
}

/// The way to the scribe.
#[derive(Clone)]
pub(crate) struct Scribe {
    inbox: mpsc::Sender<Vec<Request>>,
    clock: Arc<dyn Clock>,
}

impl Scribe {
    /// Starts the scribe of a desk, with its lease.
    pub(crate) fn start(desk: &Arc<Desk>, lease: Lease) -> Self {
        let (sender, inbox) = mpsc::channel(QUEUE);
        let task = Task { desk: Arc::clone(desk), lease, inbox, notes: Vec::new() };
        desk.spawn(task.run());
        Self { inbox: sender, clock: Arc::clone(&desk.clock) }
    }

    /// Writes changes, in one commit, and returns each entry as it is then. One that is forbidden does
    /// not hold up the others.
    pub(crate) async fn write(
        &self,
        changes: Vec<(PaymentKey, Event)>,
    ) -> Vec<Result<Entry, Unwritten>> {
        let lots = changes.into_iter().map(|change| vec![change]).collect();
        let mut entries = Vec::new();
        for written in self.write_lots(lots).await {
            match written {
                Ok(written) => entries.extend(written.into_iter().map(Ok)),
                Err(error) => entries.push(Err(error)),
            }
        }
        entries
    }

    /// Writes lots of changes in one commit, each lot all or none, and returns the entries as they are
    /// then.
    pub(crate) async fn write_lots(
        &self,
        lots: Vec<Vec<(PaymentKey, Event)>>,
    ) -> Vec<Result<Vec<Entry>, Unwritten>> {
        let at = self.clock.now();
        let mut requests = Vec::with_capacity(lots.len());
        let mut answers = Vec::with_capacity(lots.len());
        for lot in lots {
            let (done, answer) = oneshot::channel();
            let changes = lot.into_iter().map(|(key, event)| change(key, event, at)).collect();
            requests.push(Request { changes, done: Some(done) });
            answers.push(answer);
        }
        if self.inbox.send(requests).await.is_err() {
            return answers.into_iter().map(|_| Err(Unwritten::Stopped)).collect();
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(answer.await.unwrap_or(Err(Unwritten::Stopped)));
        }
        results
    }

    /// How many lots of changes wait for the scribe.
    pub(crate) fn queued(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// Notes that bytes were sent. Travels with the next commit.
    pub(crate) async fn note_sent(&self, keys: impl Iterator<Item = PaymentKey>) {
        let at = self.clock.now();
        let changes = keys.map(|key| change(key, Event::Sent, at)).collect();
        // A note that is lost costs nothing: signed and sent entries are treated alike.
        _ = self.inbox.send(vec![Request { changes, done: None }]).await;
    }
}

fn change(key: PaymentKey, event: Event, at: UnixTime) -> Advance {
    Advance { key, event, deliver: false, at }
}

struct Task {
    desk: Arc<Desk>,
    lease: Lease,
    inbox: mpsc::Receiver<Vec<Request>>,
    notes: Vec<Advance>,
}

impl Task {
    async fn run(mut self) {
        let mut notes_due = Instant::now();
        loop {
            let first = if self.notes.is_empty() {
                self.inbox.recv().await
            } else {
                match tokio::time::timeout_at(notes_due, self.inbox.recv()).await {
                    Ok(request) => request,
                    Err(_) => {
                        self.commit(Vec::new()).await;
                        continue;
                    }
                }
            };
            let Some(first) = first else { return };
            if self.notes.is_empty() {
                notes_due = Instant::now() + NOTE_DELAY;
            }
            let size = |requests: &[Request]| -> usize {
                requests.iter().map(|request| request.changes.len()).sum()
            };
            let mut requests = first;
            while size(&requests) < COMMIT_MAX
                && let Ok(more) = self.inbox.try_recv()
            {
                requests.extend(more);
            }
            let (notes, firm): (Vec<_>, Vec<_>) =
                requests.into_iter().partition(|request| request.done.is_none());
            self.notes.extend(notes.into_iter().flat_map(|note| note.changes));
            if !firm.is_empty() || self.notes.len() >= NOTES_MAX {
                self.commit(firm).await;
            }
        }
    }

    /// Writes notes and firm requests together; falls back to one by one when one of them is
    /// forbidden, so that it does not hold up the others.
    async fn commit(&mut self, firm: Vec<Request>) {
        // A note about an entry that moves on in this very commit says nothing any more.
        let mut notes = std::mem::take(&mut self.notes);
        let moving: HashSet<&PaymentKey> =
            firm.iter().flat_map(|request| &request.changes).map(|change| &change.key).collect();
        notes.retain(|note| !moving.contains(&note.key));
        let count = notes.len();
        let mut changes = notes;
        changes.extend(firm.iter().flat_map(|request| request.changes.iter().cloned()));
        match self.apply(changes).await {
            Ok(entries) => self.answer(firm, entries.into_iter().skip(count)).await,
            Err(Unwritten::Stopped) => {}
            Err(Unwritten::Forbidden(_)) => {
                for request in firm {
                    match self.apply(request.changes.clone()).await {
                        Ok(entries) => self.answer(vec![request], entries.into_iter()).await,
                        Err(error) => {
                            let payment = request.changes.first().map(|change| &change.key);
                            tracing::error!(?payment, %error, "not written");
                            if let Some(done) = request.done {
                                _ = done.send(Err(error));
                            }
                        }
                    }
                }
            }
        }
    }

    async fn answer(&self, firm: Vec<Request>, mut entries: impl Iterator<Item = Entry>) {
        let of = |request: Request| {
            let entries: Vec<Entry> = entries.by_ref().take(request.changes.len()).collect();
            (request.done, entries)
        };
        let answered: Vec<_> = firm.into_iter().map(of).collect();
        let is_final = |entry: &Entry| matches!(entry.stage, Stage::Final(_));
        if answered.iter().any(|(_, entries)| entries.iter().any(is_final)) {
            self.desk.options.failpoints.pass(Failpoint::AfterCloseBeforeAnswer).await;
        }
        let mut told = 0;
        for (done, entries) in answered {
            for entry in &entries {
                if !is_final(entry) {
                    self.desk.losses.take_back(entry);
                    let caller = entry.new.entered_by.as_deref();
                    self.desk.budgets.take_back(&entry.new.key, caller);
                    continue;
                }
                if told > 0 {
                    self.desk.options.failpoints.pass(Failpoint::AfterTellBeforeOthers).await;
                }
                told += 1;
                // Before anybody is told: who is told may present the next payment at once.
                let now = self.desk.clock.now();
                self.report(entry);
                self.desk.strikes.note(entry, now);
                self.desk.budgets.note(entry, now);
                if let Some(stopped) = self.desk.losses.note(entry, now) {
                    let network = &self.desk.id;
                    tracing::error!(%network, %stopped, "the circuit breaker is open");
                }
                self.desk.metrics.closed(entry, now);
                self.desk.waiters.tell(&Arc::new(entry.clone()));
            }
            if let Some(done) = done {
                _ = done.send(Ok(entries));
            }
        }
    }

    /// Logs how an entry ended.
    fn report(&self, entry: &Entry) {
        let (payment, amount) = (&entry.new.key, entry.new.amount);
        match &entry.stage {
            Stage::Final(Outcome::Settled { transaction, block, .. }) => {
                tracing::info!(%payment, transaction, block, "settled");
            }
            Stage::Final(Outcome::Failed { reason, transaction, .. }) => {
                tracing::info!(%payment, reason, transaction, "failed");
            }
            Stage::Final(Outcome::Reverted { reason, transaction, .. }) => {
                tracing::error!(%payment, %amount, reason, transaction, "reverted after grant: \
                    the chain undid a settlement that was told, and it cannot be had again");
            }
            Stage::Due | Stage::Signed(_) | Stage::Sent(_) => {}
        }
    }

    /// Writes changes until the journal says that they are written, or that they never will be, and has the blocks
    /// watched that closed something.
    async fn apply(&self, changes: Vec<Advance>) -> Result<Vec<Entry>, Unwritten> {
        let closes = changes.iter().any(|change| matches!(change.event, Event::ClosedIn(..)));
        let _closing = match closes {
            true => Some(self.desk.closing.lock().await),
            false => None,
        };
        let entries = self.write_out(changes).await?;
        for entry in entries.iter().filter(|entry| matches!(entry.stage, Stage::Final(_))) {
            if let Some(watch) = &entry.watch {
                self.desk.watched.add(watch.block.clone());
            }
        }
        Ok(entries)
    }

    async fn write_out(&self, mut changes: Vec<Advance>) -> Result<Vec<Entry>, Unwritten> {
        let mut pause = RETRY.0;
        loop {
            for change in &mut changes {
                let closes = matches!(change.event, Event::Closed(_) | Event::ClosedIn(..));
                change.deliver = closes && self.desk.waiters.owned(&change.key);
            }
            match self.desk.journal.advance(&self.lease, changes.clone()).await {
                Ok(entries) => {
                    self.desk.bell.ring();
                    return Ok(entries);
                }
                Err(JournalError::Unavailable(error)) => {
                    tracing::warn!(network = %self.desk.id, %error, "the journal did not answer");
                }
                Err(JournalError::LeaseLost(_)) => {
                    tracing::error!(network = %self.desk.id, "lease lost; settling stops");
                    self.desk.turn(Run::LeaseLost);
                    return Err(Unwritten::Stopped);
                }
                Err(error) => return Err(Unwritten::Forbidden(error.to_string())),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
            // The commit may have happened before the error.
            if let Some(entries) = self.written(&changes).await {
                return Ok(entries);
            }
        }
    }

    /// The entries, when every change is in the journal already, and provably by us: the lease is
    /// ours by the same token before and after, so nobody else wrote in between.
    async fn written(&self, changes: &[Advance]) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(changes.len());
        for change in changes {
            let entry = self.desk.journal.find(&change.key).await.ok()??;
            let is_written = match (&change.event, &entry.stage) {
                (Event::Signed(wanted), Stage::Signed(found) | Stage::Sent(found)) => {
                    wanted.sent == found.sent
                }
                (Event::Sent, Stage::Sent(_)) => true,
                (Event::Closed(wanted), Stage::Final(found)) => wanted == found,
                (Event::ClosedIn(..), Stage::Final(_)) => {
                    let watched = entry.watch.as_ref().map(|watch| &watch.block);
                    matches!(&change.event, Event::ClosedIn(_, block) if watched == Some(block))
                }
                (Event::Reopened, Stage::Due | Stage::Signed(_)) => true,
                _ => false,
            };
            if !is_written {
                return None;
            }
            entries.push(entry);
        }
        let renewed = lease::ask(&self.desk, self.desk.holder.as_ref()?).await.ok()?;
        (renewed == Leased::Granted(self.lease.clone())).then_some(entries)
    }
}

/// Whether a final entry may be told to its owner: marked so in the commit that closed it.
pub(crate) fn told_by_close(entry: &Entry) -> bool {
    entry.delivery == Delivery::Delivered
}
