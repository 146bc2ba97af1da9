//! A journal that fails when it is told to, over the real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::books::Booked;
use pay402_core::error::Unavailable;
use pay402_core::history::{Record, Span};
use pay402_core::journal::{
    Advance, Backlog, Cost, Delivery, Entered, Entry, Forgotten, Holder, Horizon, Journal,
    JournalError, Lease, Leased, Looked, Loss, NewEntry,
};
use pay402_core::network::BlockId;
use pay402_core::time::UnixTime;
use pay402_core::{NetworkId, PaymentKey};

/// How late an answer is.
pub const LINGERS: Duration = Duration::from_millis(150);

#[derive(Default)]
pub struct Faults {
    /// Nothing works.
    pub down: AtomicBool,
    /// `enter` works and then says that it did not.
    pub enter_lies: AtomicBool,
    /// `enter` works, says that it did not, and then nothing works.
    pub enter_goes_down: AtomicBool,
    /// So many calls of `advance` work and then say that they did not.
    pub advance_lies: AtomicUsize,
    /// `advance` works late.
    pub advance_dawdles: AtomicBool,
    /// `advance` works, and says so late.
    pub advance_lingers: AtomicBool,
    /// `hand_over` fails.
    pub hand_over_fails: AtomicBool,
    /// `enter` fails; reading works.
    pub enter_fails: AtomicBool,
    /// Which `find` from now on fails, counted from 1; none at 0.
    pub find_fails: AtomicUsize,
    /// Whoever began to wait finds the entry only when it is final.
    pub finds_late: AtomicBool,
    /// Questions about the backlog are never answered.
    pub backlog_hangs: AtomicBool,
    /// How often the backlog was asked for.
    pub backlogs: AtomicUsize,
}

pub struct Flaky {
    pub journal: Arc<dyn Journal>,
    pub faults: Arc<Faults>,
}

fn error() -> JournalError {
    Unavailable::new("journal", "out of order").into()
}

impl Flaky {
    fn works(&self) -> Result<(), JournalError> {
        if self.faults.down.load(Ordering::SeqCst) { Err(error()) } else { Ok(()) }
    }
}

#[async_trait]
impl Journal for Flaky {
    async fn enter(&self, new: NewEntry) -> Result<Entered, JournalError> {
        self.works()?;
        if self.faults.enter_fails.load(Ordering::SeqCst) {
            return Err(error());
        }
        let entered = self.journal.enter(new).await?;
        if self.faults.enter_goes_down.swap(false, Ordering::SeqCst) {
            self.faults.down.store(true, Ordering::SeqCst);
            return Err(error());
        }
        if self.faults.enter_lies.load(Ordering::SeqCst) { Err(error()) } else { Ok(entered) }
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<Entry>, JournalError> {
        self.works()?;
        let left = &self.faults.find_fails;
        let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if counted == Ok(1) {
            return Err(error());
        }
        let mut found = self.journal.find(key).await?;
        // A close that is for whoever waits marks the entry as delivered.
        let is_waited_for = |entry: &Entry| entry.delivery == Delivery::Waiting;
        while self.faults.finds_late.load(Ordering::SeqCst)
            && found.as_ref().is_some_and(is_waited_for)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
            found = self.journal.find(key).await?;
        }
        Ok(found)
    }

    async fn lease(
        &self,
        network: &NetworkId,
        holder: &Holder,
        now: UnixTime,
        lasts: Duration,
    ) -> Result<Leased, JournalError> {
        self.works()?;
        self.journal.lease(network, holder, now, lasts).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        self.works()?;
        self.journal.release(lease).await
    }

    async fn advance(
        &self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError> {
        self.works()?;
        if self.faults.advance_dawdles.load(Ordering::SeqCst) {
            tokio::time::sleep(LINGERS).await;
        }
        let entries = self.journal.advance(lease, changes).await?;
        if self.faults.advance_lingers.load(Ordering::SeqCst) {
            tokio::time::sleep(LINGERS).await;
        }
        let lies = &self.faults.advance_lies;
        match lies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(error()),
            Err(_) => Ok(entries),
        }
    }

    async fn unfinished(
        &self,
        network: &NetworkId,
        limit: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        self.works()?;
        self.journal.unfinished(network, limit).await
    }

    async fn newest(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        self.works()?;
        self.journal.newest(limit).await
    }

    async fn backlog(&self, network: &NetworkId) -> Result<Backlog, JournalError> {
        self.faults.backlogs.fetch_add(1, Ordering::SeqCst);
        self.works()?;
        if self.faults.backlog_hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut backlog = self.journal.backlog(network).await?;
        // A payer sends an approval of its own.
        backlog.by_signer.insert("0xpayer".into(), 1);
        Ok(backlog)
    }

    async fn next_nonce(
        &self,
        network: &NetworkId,
        signer: &str,
    ) -> Result<Option<u64>, JournalError> {
        self.works()?;
        self.journal.next_nonce(network, signer).await
    }

    async fn failures(
        &self,
        network: &NetworkId,
        payer: &str,
        since: UnixTime,
    ) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.failures(network, payer, since).await
    }

    async fn watched_blocks(&self, network: &NetworkId) -> Result<Vec<BlockId>, JournalError> {
        self.works()?;
        self.journal.watched_blocks(network).await
    }

    async fn watched_in(
        &self,
        network: &NetworkId,
        block: &BlockId,
    ) -> Result<Vec<Entry>, JournalError> {
        self.works()?;
        self.journal.watched_in(network, block).await
    }

    async fn bury(&self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.bury(lease, through, limit).await
    }

    async fn forgettable(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
        horizon: &Horizon,
    ) -> Result<Looked, JournalError> {
        self.works()?;
        self.journal.forgettable(network, after, limit, horizon).await
    }

    async fn forget(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.forget(lease, keys, horizon).await
    }

    async fn forgotten(&self, network: &NetworkId) -> Result<Forgotten, JournalError> {
        self.works()?;
        self.journal.forgotten(network).await
    }

    async fn forgotten_records(&self) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.forgotten_records().await
    }

    async fn losses(
        &self,
        network: &NetworkId,
        since: UnixTime,
    ) -> Result<Vec<Loss>, JournalError> {
        self.works()?;
        self.journal.losses(network, since).await
    }

    async fn costs(
        &self,
        network: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError> {
        self.works()?;
        self.journal.costs(network, callers, since).await
    }

    async fn hand_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
        at: UnixTime,
    ) -> Result<bool, JournalError> {
        self.works()?;
        if self.faults.hand_over_fails.load(Ordering::SeqCst) {
            return Err(error());
        }
        self.journal.hand_over(lease, key, from, to, at).await
    }

    async fn history(&self, after: u64, limit: usize) -> Result<Vec<Record>, JournalError> {
        self.works()?;
        self.journal.history(after, limit).await
    }

    async fn history_end(&self) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.history_end().await
    }

    async fn history_of_caller(&self, name: &str, span: Span) -> Result<Vec<Record>, JournalError> {
        self.works()?;
        self.journal.history_of_caller(name, span).await
    }

    async fn hook(&self, name: &str, network: &NetworkId) -> Result<Option<u64>, JournalError> {
        self.works()?;
        self.journal.hook(name, network).await
    }

    async fn move_hook(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        self.works()?;
        self.journal.move_hook(lease, name, from, to).await
    }

    async fn replay_hook(&self, name: &str, after: u64) -> Result<u64, JournalError> {
        self.works()?;
        self.journal.replay_hook(name, after).await
    }

    async fn history_of_payment(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        self.works()?;
        self.journal.history_of_payment(key, span).await
    }

    async fn books(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError> {
        self.works()?;
        self.journal.books(network, after, limit).await
    }
}
