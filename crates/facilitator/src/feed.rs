//! The history as it goes on: one reader of the journal for all who follow it.
//!
//! **Invariant:** a follower is told every record of its scope once, in order, from where it asked to
//! begin; one that cannot keep up reads the journal for itself, and nothing is left out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pay402_core::history::{Record, Span};
use pay402_core::journal::{Journal, JournalError};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// Records read at a time.
const PAGE: usize = 256;
/// Records that a follower may be behind before it reads for itself.
const LIVE: usize = 1_024;
/// How often the journal is asked for what other processes wrote.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after the journal did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Rung when this process has changed an entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell(Arc<watch::Sender<()>>);

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.send_replace(());
    }

    /// Hears it from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Whose records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Scope {
    /// Everybody's.
    All,
    /// Those of the payments that the caller of this name entered.
    EnteredBy(String),
}

impl Scope {
    fn covers(&self, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::EnteredBy(name) => record.entered_by.as_ref() == Some(name),
        }
    }
}

/// Why somebody does not follow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFollowing {
    /// The journal did not answer.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The number is above the newest one, which is this.
    #[error("nothing is recorded after {0} yet")]
    Ahead(u64),
    /// Some of the records after it are forgotten; all are there after this number.
    #[error("records up to {0} are forgotten")]
    Forgotten(u64),
}

/// What all followers share.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    pump: AbortHandle,
}

struct Shared {
    journal: Arc<dyn Journal>,
    bell: Bell,
    followed: Notify,
    /// The last number that was sent to those who follow. Changed only together with the sending.
    position: Mutex<u64>,
    live: broadcast::Sender<Arc<Record>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl Feed {
    /// Reads `journal` from now on, while anybody follows. Must be called within a tokio runtime.
    pub(crate) fn start(journal: Arc<dyn Journal>, bell: Bell) -> Self {
        let shared = Arc::new(Shared {
            journal,
            bell,
            followed: Notify::new(),
            position: Mutex::new(0),
            live: broadcast::Sender::new(LIVE),
        });
        let pump = tokio::spawn(pump(Arc::clone(&shared))).abort_handle();
        Self { shared, pump }
    }

    /// Follows from after the record `after`, or from now on.
    pub(crate) async fn follow(
        &self,
        scope: Scope,
        after: Option<u64>,
    ) -> Result<Follower, NotFollowing> {
        let end = self.shared.journal.history_end().await?;
        let (live, upto) = self.shared.join(end);
        let after = match after {
            Some(after) if after > end.max(upto) => return Err(NotFollowing::Ahead(end)),
            Some(after) => {
                self.shared.is_all_there(after).await?;
                after
            }
            None => end,
        };
        let shared = Arc::clone(&self.shared);
        Ok(Follower { shared, scope, after, upto, live, page: VecDeque::new() })
    }
}

impl Shared {
    /// Whether all that was recorded after this number is still there.
    async fn is_all_there(&self, after: u64) -> Result<(), NotFollowing> {
        match self.journal.forgotten_records().await? {
            last if after < last => Err(NotFollowing::Forgotten(last)),
            _ => Ok(()),
        }
    }

    fn position(&self) -> MutexGuard<'_, u64> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where records are sent, and the last number that was sent before.
    fn join(&self, end: u64) -> (broadcast::Receiver<Arc<Record>>, u64) {
        let mut position = self.position();
        if self.live.receiver_count() == 0 {
            // What was recorded while nobody followed is read by whoever wants it.
            *position = (*position).max(end);
        }
        let joined = (self.live.subscribe(), *position);
        drop(position);
        self.followed.notify_one();
        joined
    }
}

async fn pump(shared: Arc<Shared>) {
    let mut news = shared.bell.listen();
    loop {
        if shared.live.receiver_count() == 0 {
            shared.followed.notified().await;
            continue;
        }
        let after = *shared.position();
        match shared.journal.history(after, PAGE).await {
            Ok(records) if records.is_empty() => {
                _ = timeout(LOOK, news.changed()).await;
            }
            Ok(records) => {
                let mut position = shared.position();
                // Somebody joined after everybody had left: these are for nobody.
                if *position != after {
                    continue;
                }
                for record in records {
                    *position = record.seq;
                    _ = shared.live.send(Arc::new(record));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the history cannot be followed");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// One who follows.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    scope: Scope,
    /// The last number that was told, or looked at in vain.
    after: u64,
    /// What has a number up to this is read from the journal, the rest arrives by itself.
    upto: u64,
    live: broadcast::Receiver<Arc<Record>>,
    page: VecDeque<Record>,
}

impl Follower {
    /// The next record, as soon as there is one. May be dropped while it waits.
    ///
    /// # Errors
    /// When the journal did not answer; it may be asked again. When it has forgotten what comes next.
    pub(crate) async fn next(&mut self) -> Result<Arc<Record>, NotFollowing> {
        loop {
            if let Some(record) = self.next_read().await? {
                return Ok(record);
            }
            match self.live.recv().await {
                Ok(record) => {
                    let is_news = record.seq > self.after;
                    if is_news {
                        self.after = record.seq;
                    }
                    if is_news && self.scope.covers(&record) {
                        return Ok(record);
                    }
                }
                // Behind, by what the journal still has.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    (self.live, self.upto) = self.shared.join(0);
                }
                // The feed is gone, and the engine with it.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// What is recorded by now, and nothing after it, is what [`Follower::next_read`] gives from now on.
    ///
    /// # Errors
    /// When the journal did not answer.
    pub(crate) async fn finish(&mut self) -> Result<(), JournalError> {
        self.upto = self.upto.max(self.shared.journal.history_end().await?);
        Ok(())
    }

    /// The next record among those that are read; `None` when the rest arrives by itself.
    ///
    /// # Errors
    /// As [`Follower::next`].
    pub(crate) async fn next_read(&mut self) -> Result<Option<Arc<Record>>, NotFollowing> {
        loop {
            if let Some(record) = self.page.pop_front() {
                self.after = record.seq;
                return Ok(Some(Arc::new(record)));
            }
            if self.after >= self.upto {
                return Ok(None);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), NotFollowing> {
        let span = Span { after: self.after, upto: self.upto, limit: PAGE };
        let page = match &self.scope {
            Scope::All => {
                let mut page = self.shared.journal.history(span.after, PAGE).await?;
                page.retain(|record| record.seq <= span.upto);
                page
            }
            Scope::EnteredBy(name) => self.shared.journal.history_of_caller(name, span).await?,
        };
        // Who reads slowly may be overtaken. What was there when it was read is seen to be gone now.
        self.shared.is_all_there(span.after).await?;
        if page.is_empty() {
            self.after = self.upto;
        }
        self.page = page.into();
        Ok(())
    }
}
