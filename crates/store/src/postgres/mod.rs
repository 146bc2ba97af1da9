//! The facilitator's journal in PostgreSQL, for several facilitators that serve together. The
//! rules are those of [`pay402_core::journal`]; what is shared with SQLite is in [`crate::entry`].
//!
//! - **Durable before visible:** an answer leaves only after the server said that the commit is on
//!   its disk, with `synchronous_commit` on. A commit without an answer is
//!   [`Unavailable`]: what became of it is in the database, and the
//!   next connection sees it. So, unlike a file whose commit failed, nothing stops for good.
//! - **Fenced:** a change locks the row of its network's lease and compares the token in its own
//!   transaction. A take-over changes that row, so one of the two comes first.
//! - **One clock for leases:** the server's. Two machines whose clocks differ agree on who has one.
//! - **Fail closed:** a connection on which anything failed is dropped, and its transaction with it.
//! - A caller that goes away takes nothing back: work runs to its end in a task of its own.
//!
//! # Round trips
//!
//! Answers of a server take longer than those of a file, so commands travel together: *entering* a
//! payment is one statement that inserts it or reads the entry it meets, and commits by itself, in
//! one round trip (a second one only when it meets an entry that is being committed at that very
//! moment). *Advancing* any number of entries takes two: begin, lock the lease and read the entries;
//! then write all of them and commit. It cannot be one while [`step`](pay402_core::journal::step),
//! which decides what is written, needs what is read and is not told a second time in SQL.

mod books;
#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "a file of the tests")]
#[path = "../../tests/postgres/cluster.rs"]
mod cluster;
mod connect;
mod delivery;
mod forget;
mod history;
mod hook;
mod lease;
mod schema;
mod stages;
mod watch;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::{Client, Object, Pool};
use pay402_core::books::Booked;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::history::{Record, Span};
use pay402_core::journal::{
    Advance, Backlog, Cost, Delivery, Entered, Entry, Event, Forgotten, Holder, Horizon, Journal,
    JournalError, Lease, Leased, Looked, Loss, NewEntry,
};
use pay402_core::network::{BlockId, SentAs};
use pay402_core::time::{Clock, UnixTime};
use pay402_core::{NetworkId, PaymentKey};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::column::{Columns, Hash, Money, Net, Whole};
use crate::entry::{EntryRow, RELEASED, advanced, count, nonce_after, read_entry};
use crate::history::Noted;
use lease::{CLOCK, LEASE_LOCKED, LEASE_RELEASE, held, lease, time};

/// What the store is called in messages.
const NAME: &str = "journal";
/// Longest that one command may take once it has a connection; the server's own bounds are shorter.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Furthest that this machine's clock may be from the server's, in seconds.
pub const SKEW_S_MAX: u64 = 30;

/// What every query of entries brings along of `$entry`, whose watched row is joined: the transactions
/// whose place the recorded one was to take, and what is watched.
macro_rules! beside {
    ($entry:literal) => {
        concat!(
            "(SELECT string_agg(other.transaction_hash, ' ' ORDER BY other.seq)
              FROM pay402_journal.signed_transaction AS other
              WHERE other.entry = ",
            $entry,
            ".seq AND other.signer = coalesce(",
            $entry,
            ".signer, watched.signer) AND other.nonce = coalesce(",
            $entry,
            ".nonce, watched.nonce) AND other.transaction_hash
                <> coalesce(watched.transaction_hash, ",
            $entry,
            ".transaction_hash)) AS replaced,
             watched.block AS watched_block, watched.block_hash AS watched_hash,
             watched.plan AS watched_plan, watched.signer AS watched_signer,
             watched.nonce AS watched_nonce, watched.raw AS watched_raw,
             watched.transaction_hash AS watched_transaction, watched.part AS watched_part,
             watched.parts AS watched_parts, watched.spent AS watched_spent"
        )
    };
}
/// Selects entries.
macro_rules! entries {
    () => {
        concat!(
            "SELECT entry.*, ",
            beside!("entry"),
            " FROM pay402_journal.entry
              LEFT JOIN pay402_journal.watched ON watched.entry = entry.seq"
        )
    };
}

use {beside, entries};

const ENTER: &str = concat!(
    "
    WITH new AS (
        INSERT INTO pay402_journal.entry (key, fingerprint, network, payer, amount, expires, caller,
                                          plan, entered_at, entered_by, delivery, stage)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'waiting', 'due')
        ON CONFLICT (key) DO NOTHING
        RETURNING *
    ), noted AS (
        INSERT INTO pay402_journal.history (entry, at, change, delivery, entered_by)
        SELECT seq, entered_at, 'entered', delivery, entered_by FROM new
    )
    SELECT new.seq IS NOT NULL AS is_new, known.*, ",
    beside!("known"),
    " FROM (VALUES (1)) AS one
    LEFT JOIN new ON true
    LEFT JOIN pay402_journal.entry AS known ON known.key = $1
    LEFT JOIN pay402_journal.watched ON watched.entry = known.seq"
);
const FIND: &str = concat!(entries!(), " WHERE key = $1");
const UNFINISHED: &str = concat!(
    entries!(),
    " WHERE entry.network = $1 AND stage IN ('due', 'signed', 'sent')
    ORDER BY entry.seq LIMIT $2"
);
const NEWEST: &str = concat!(entries!(), " ORDER BY seq DESC LIMIT $1");
const BACKLOG: &str = "
    SELECT stage, signer, count(*) AS entries, min(entered_at) AS oldest
    FROM pay402_journal.entry WHERE network = $1 AND stage IN ('due', 'signed', 'sent')
    GROUP BY stage, signer";
const HIGHEST_NONCE: &str = "
    SELECT max(nonce) AS highest FROM (
        SELECT max(nonce) AS nonce FROM pay402_journal.signed_transaction
        WHERE network = $1 AND signer = $2
        UNION ALL
        SELECT nonce FROM pay402_journal.forgotten_nonce WHERE network = $1 AND signer = $2
    ) AS known";
const FAILURES: &str = "
    SELECT count(*) AS failures FROM pay402_journal.entry
    WHERE network = $1 AND payer = $2 AND entered_at >= $3 AND stage = 'failed' AND fee <> '0'";
/// An entry of another network is none of the lease's holder.
const ENTRIES_LOCKED: &str =
    concat!(entries!(), " WHERE key = ANY ($1) AND entry.network = $2 FOR UPDATE OF entry");
const RECORD_SIGNED: &str = "
    INSERT INTO pay402_journal.signed_transaction (entry, network, signer, nonce, transaction_hash)
    SELECT signed.entry, $1, signed.signer, signed.nonce, signed.transaction_hash
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[])
         WITH ORDINALITY AS signed (entry, signer, nonce, transaction_hash, place)
    ORDER BY signed.place";
const WRITE_STAGES: &str = "
    UPDATE pay402_journal.entry AS entry
    SET stage = now.stage, delivery = now.delivery, plan = now.plan, signer = now.signer,
        nonce = now.nonce, raw = now.raw, transaction_hash = now.transaction_hash,
        block = now.block, fee = now.fee, reason = now.reason, message = now.message,
        part = now.part, parts = now.parts, spent = now.spent, reverted = now.reverted
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                $7::bytea[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bytea[],
                $13::bigint[], $14::bigint[], $15::text[], $16::boolean[])
         AS now (seq, stage, delivery, plan, signer, nonce, raw, transaction_hash, block, fee,
                 reason, message, part, parts, spent, reverted)
    WHERE entry.seq = now.seq";

/// A [`Journal`] in a PostgreSQL database. Several processes may share it: one of them at a time
/// advances a network's entries, and the others follow it.
#[derive(Clone)]
pub struct PgJournal {
    pool: Pool,
    horizon: history::Horizon,
}

impl std::fmt::Debug for PgJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PgJournal").finish_non_exhaustive()
    }
}

/// Why a command did not do as asked. Whatever it wrote is undone.
enum Stop {
    /// The server failed, or what is stored contradicts itself.
    Failed(String),
    /// The port says no.
    Refused(JournalError),
}

type Outcomes<T> = Result<T, Stop>;
type Running<'a, T> = Pin<Box<dyn Future<Output = Outcomes<T>> + Send + 'a>>;

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Failed(told(&error))
    }
}

impl From<JournalError> for Stop {
    fn from(error: JournalError) -> Self {
        Self::Refused(error)
    }
}

/// An error in words. Its details stay out: the server puts whole rows into them.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn unavailable(problem: impl Into<String>) -> JournalError {
    Unavailable::new(NAME, problem.into()).into()
}

impl PgJournal {
    /// Opens the journal in the database that `url` names, or makes its schema there.
    ///
    /// `url` is `postgres://user@host:port/name`; `password`, where the URL has none, is taken as it
    /// is. Other machines are spoken to by TLS alone. Must be called within a tokio runtime, to which
    /// the connections belong.
    ///
    /// # Errors
    /// When the server cannot be reached, would not keep its commits, or the schema is another's or
    /// of a later format. Each says how to mend it, and none shows the URL.
    pub async fn open(url: &str, password: Option<&str>) -> Result<Self, Misconfigured> {
        let pool = connect::pool(url, password)?;
        let client = pool.get().await.map_err(connect::unreached)?;
        connect::check_server(&client).await?;
        let opened = schema::JOURNAL.open(&client).await;
        // What failed within a transaction must not come back to the pool.
        drop(Object::take(client));
        opened.map(|()| Self { pool, horizon: history::Horizon::default() })
    }

    /// Refuses a clock that is far from the server's. Leases go by the server's alone; but when a
    /// payment was entered, and whether there is time left to settle it, is told by the clock of
    /// whoever settles, and has to mean the same to whoever comes after it.
    ///
    /// # Errors
    /// When they differ by more than [`SKEW_S_MAX`], with the figures; when the server does not
    /// answer.
    pub async fn check_clock(&self, clock: &dyn Clock) -> Result<(), Misconfigured> {
        let asked = self.run(|client| {
            Box::pin(async move {
                let found = rows(client, CLOCK, &[]).await?;
                time(found.first().ok_or_else(|| Stop::Failed("no time".into()))?)
            })
        });
        let there = asked.await.map_err(|error| connect::wrong(&error.to_string()))?;
        let here = clock.now();
        let (ahead, behind) = (here.0.saturating_sub(there.0), there.0.saturating_sub(here.0));
        let (off, way) = if ahead > 0 { (ahead, "ahead of") } else { (behind, "behind") };
        if off <= SKEW_S_MAX {
            return Ok(());
        }
        Err(connect::wrong(&format!(
            "is on a server by whose clock it is {there}, and here it is {here}: this machine's clock \
             is {off} s {way} the server's, and {SKEW_S_MAX} s is the most; set both by NTP",
            there = there.0,
            here = here.0,
        )))
    }

    /// Runs `command` on a connection, in a task of its own, and returns its result.
    async fn run<T, C>(&self, command: C) -> Result<T, JournalError>
    where
        T: Send + 'static,
        C: for<'c> FnOnce(&'c Client) -> Running<'c, T> + Send + 'static,
    {
        let pool = self.pool.clone();
        let running = tokio::spawn(async move {
            let client =
                pool.get().await.map_err(|error| unavailable(connect::refused_by(error)))?;
            let late = || Err(Stop::Failed("no answer in time".into()));
            let done = tokio::time::timeout(ANSWER_MAX, command(&client)).await;
            match done.unwrap_or_else(|_| late()) {
                Ok(answer) => Ok(answer),
                Err(Stop::Refused(error)) => {
                    if client.batch_execute("ROLLBACK").await.is_err() {
                        drop(Object::take(client));
                    }
                    Err(error)
                }
                Err(Stop::Failed(problem)) => {
                    drop(Object::take(client));
                    Err(unavailable(problem))
                }
            }
        });
        running.await.unwrap_or_else(|_| Err(unavailable("its task has stopped")))
    }
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

async fn rows(client: &Client, sql: &str, parameters: Parameters<'_>) -> Outcomes<Vec<Row>> {
    let statement = client.prepare_cached(sql).await?;
    Ok(client.query(&statement, parameters).await?)
}

/// A column of a row.
fn read<T: crate::column::Column>(row: &Row, column: &str) -> Outcomes<T> {
    row.read(column).map_err(Stop::Failed)
}

fn entry_of(row: &Row) -> Outcomes<EntryRow> {
    read_entry(row).map_err(Stop::Failed)
}

#[async_trait]
impl Journal for PgJournal {
    async fn enter(&self, new: NewEntry) -> Result<Entered, JournalError> {
        self.run(move |client| Box::pin(async move { enter(client, &new).await })).await
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<Entry>, JournalError> {
        let key = key.clone();
        self.run(move |client| Box::pin(async move { find(client, &key).await })).await
    }

    async fn lease(
        &self,
        network: &NetworkId,
        holder: &Holder,
        _: UnixTime,
        lasts: Duration,
    ) -> Result<Leased, JournalError> {
        let (network, holder) = (network.clone(), holder.clone());
        self.run(move |client| {
            Box::pin(async move { lease(client, &network, &holder, lasts).await })
        })
        .await
    }

    async fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        let lease = lease.clone();
        self.run(move |client| {
            Box::pin(async move {
                let statement = client.prepare_cached(LEASE_RELEASE).await?;
                let (id, token) = (lease.network.as_str(), Whole(lease.token));
                client.execute(&statement, &[&id, &token, &Whole::from(RELEASED)]).await?;
                Ok(())
            })
        })
        .await
    }

    async fn advance(
        &self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError> {
        let lease = lease.clone();
        self.run(move |client| Box::pin(async move { advance(client, &lease, changes).await }))
            .await
    }

    async fn unfinished(
        &self,
        network: &NetworkId,
        limit: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        let network = Net(network.clone());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(move |client| {
            Box::pin(async move {
                let found = rows(client, UNFINISHED, &[&network, &limit]).await?;
                found.iter().map(|row| entry_of(row).map(|found| found.entry)).collect()
            })
        })
        .await
    }

    async fn newest(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.run(move |client| {
            Box::pin(async move {
                let found = rows(client, NEWEST, &[&limit]).await?;
                found.iter().map(|row| entry_of(row).map(|found| found.entry)).collect()
            })
        })
        .await
    }

    async fn backlog(&self, network: &NetworkId) -> Result<Backlog, JournalError> {
        let network = Net(network.clone());
        self.run(move |client| {
            Box::pin(async move {
                let mut backlog = Backlog::default();
                for row in rows(client, BACKLOG, &[&network]).await? {
                    count(&mut backlog, &row).map_err(Stop::Failed)?;
                }
                Ok(backlog)
            })
        })
        .await
    }

    async fn next_nonce(
        &self,
        network: &NetworkId,
        signer: &str,
    ) -> Result<Option<u64>, JournalError> {
        let (network, signer) = (Net(network.clone()), signer.to_owned());
        self.run(move |client| {
            Box::pin(async move {
                let found = rows(client, HIGHEST_NONCE, &[&network, &signer]).await?;
                let highest = found.first().map(|row| read(row, "highest")).transpose()?;
                nonce_after(highest.flatten()).map_err(Stop::Failed)
            })
        })
        .await
    }

    async fn failures(
        &self,
        network: &NetworkId,
        payer: &str,
        since: UnixTime,
    ) -> Result<u64, JournalError> {
        let (network, payer) = (Net(network.clone()), payer.to_owned());
        self.run(move |client| {
            Box::pin(async move {
                let since = Whole::from(since);
                let found = rows(client, FAILURES, &[&network, &payer, &since]).await?;
                let none = || Stop::Failed("no count".into());
                let count: i64 = read(found.first().ok_or_else(none)?, "failures")?;
                u64::try_from(count).map_err(|_| Stop::Failed("a count below zero".into()))
            })
        })
        .await
    }

    async fn watched_blocks(&self, network: &NetworkId) -> Result<Vec<BlockId>, JournalError> {
        let network = network.clone();
        self.run(move |client| Box::pin(async move { watch::blocks(client, network).await })).await
    }

    async fn watched_in(
        &self,
        network: &NetworkId,
        block: &BlockId,
    ) -> Result<Vec<Entry>, JournalError> {
        let (network, block) = (network.clone(), block.clone());
        self.run(move |client| {
            Box::pin(async move { watch::entries_in(client, network, &block).await })
        })
        .await
    }

    async fn bury(&self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError> {
        let lease = lease.clone();
        self.run(move |client| {
            Box::pin(async move { watch::bury(client, &lease, through, limit).await })
        })
        .await
    }

    async fn forgettable(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
        horizon: &Horizon,
    ) -> Result<Looked, JournalError> {
        self.past_after(network, (after, limit), horizon).await
    }

    async fn forget(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        self.past_deleted(lease, keys, horizon).await
    }

    async fn forgotten(&self, network: &NetworkId) -> Result<Forgotten, JournalError> {
        self.past_known(network).await
    }

    async fn forgotten_records(&self) -> Result<u64, JournalError> {
        self.past_records().await
    }

    async fn losses(
        &self,
        network: &NetworkId,
        since: UnixTime,
    ) -> Result<Vec<Loss>, JournalError> {
        self.losses_since(network, since).await
    }

    async fn costs(
        &self,
        network: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError> {
        self.costs_since(network, callers, since).await
    }

    async fn hand_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
        at: UnixTime,
    ) -> Result<bool, JournalError> {
        self.handed_over(lease, key, (from, to), at).await
    }

    async fn history(&self, after: u64, limit: usize) -> Result<Vec<Record>, JournalError> {
        self.records_after(after, limit).await
    }

    async fn history_end(&self) -> Result<u64, JournalError> {
        self.records_end().await
    }

    async fn history_of_caller(&self, name: &str, span: Span) -> Result<Vec<Record>, JournalError> {
        self.records_of_caller(name, span).await
    }

    async fn hook(&self, name: &str, network: &NetworkId) -> Result<Option<u64>, JournalError> {
        self.hook_at(name, network).await
    }

    async fn move_hook(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        self.hook_moved(lease, name, from, to).await
    }

    async fn replay_hook(&self, name: &str, after: u64) -> Result<u64, JournalError> {
        self.hook_set_back(name, after).await
    }

    async fn history_of_payment(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        self.records_of_payment(key.as_str(), span).await
    }

    async fn books(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError> {
        self.books_after(network, after, limit).await
    }
}

async fn enter(client: &Client, new: &NewEntry) -> Outcomes<Entered> {
    let met = rows(
        client,
        ENTER,
        &[
            &new.key.as_str(),
            &Hash(new.fingerprint),
            &Net(new.network.clone()),
            &new.payer,
            &Money(new.amount),
            &Whole::from(new.expires),
            &new.caller.map(Hash),
            &new.plan,
            &Whole::from(new.entered_at),
            &new.entered_by,
        ],
    )
    .await?;
    let met = met.first().ok_or_else(|| Stop::Failed("no answer to an entry".into()))?;
    if read(met, "is_new")? {
        return Ok(Entered::New);
    }
    if read::<Option<i64>>(met, "seq")?.is_some() {
        return Ok(Entered::Known(Box::new(entry_of(met)?.entry)));
    }
    // Committed by another while the statement ran, which therefore does not see it.
    match find(client, &new.key).await? {
        Some(entry) => Ok(Entered::Known(Box::new(entry))),
        None => Err(Stop::Failed(format!("{} is neither new nor known", new.key))),
    }
}

async fn find(client: &Client, key: &PaymentKey) -> Outcomes<Option<Entry>> {
    let found = rows(client, FIND, &[&key.as_str()]).await?;
    found.first().map(|row| entry_of(row).map(|found| found.entry)).transpose()
}

async fn advance(client: &Client, lease: &Lease, changes: Vec<Advance>) -> Outcomes<Vec<Entry>> {
    let id = lease.network.as_str();
    let locked = client.prepare_cached(LEASE_LOCKED).await?;
    let entries = client.prepare_cached(ENTRIES_LOCKED).await?;
    let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    let (of, which): (Parameters<'_>, Parameters<'_>) = (&[&id], &[&keys, &id]);
    let (begun, fence, found) = tokio::join!(
        biased;
        client.batch_execute("BEGIN"),
        client.query(&locked, of),
        client.query(&entries, which),
    );
    begun?;
    if held(&fence?)?.map(|(held, _)| held.token) != Some(lease.token) {
        return Err(JournalError::LeaseLost(lease.network.clone()).into());
    }
    let mut batch = Batch::default();
    for row in &found? {
        let found = entry_of(row)?;
        if found.entry.watch.is_some() {
            batch.watched.insert(found.seq);
        }
        batch.now.insert(found.entry.new.key.clone(), found);
    }
    let after = changes.into_iter().map(|change| batch.apply(change)).collect::<Outcomes<_>>()?;
    batch.write(client, &lease.network).await?;
    Ok(after)
}

/// Entries that change together, as they are after the changes so far.
#[derive(Default)]
struct Batch {
    now: HashMap<PaymentKey, EntryRow>,
    signed: Vec<(i64, SentAs)>,
    noted: Vec<Noted>,
    /// Those that were watched before the changes.
    watched: HashSet<i64>,
}

impl Batch {
    fn apply(&mut self, change: Advance) -> Outcomes<Entry> {
        let row = self.now.get_mut(&change.key);
        let row = row.ok_or_else(|| JournalError::NoEntry(change.key.clone()))?;
        if let Event::Signed(signed) | Event::Replaced(signed) = &change.event {
            self.signed.push((row.seq, signed.sent.clone()));
        }
        let at = change.at;
        let (entry, told) = advanced(row.entry.clone(), change)?;
        row.entry = entry;
        self.noted.extend(told.map(|told| Noted::of(row.seq, &row.entry, told, at)));
        Ok(row.entry.clone())
    }

    /// Writes all of them, and commits.
    async fn write(&self, client: &Client, network: &NetworkId) -> Outcomes<()> {
        let record = client.prepare_cached(RECORD_SIGNED).await?;
        let write = client.prepare_cached(WRITE_STAGES).await?;
        let note = client.prepare_cached(history::RECORD).await?;
        let signed = |of: fn(&SentAs) -> String| -> Vec<String> {
            self.signed.iter().map(|(_, sent)| of(sent)).collect()
        };
        let of: Vec<i64> = self.signed.iter().map(|(seq, _)| *seq).collect();
        let signers = signed(|sent| sent.signer.clone());
        let nonces: Vec<Whole> = self.signed.iter().map(|(_, sent)| Whole(sent.nonce)).collect();
        let hashes = signed(|sent| sent.transaction.clone());
        let stages = stages::Stages::of(self.now.values());
        let parameters = stages.parameters();
        let id = network.as_str();
        let sent: Parameters<'_> = &[&id, &of, &signers, &nonces, &hashes];
        let watches = watch::Watches::of(self.now.values());
        let watching = watches.parameters(&id);
        let was_watched = |row: &&EntryRow| self.watched.contains(&row.seq);
        let left: Vec<i64> = self
            .now
            .values()
            .filter(|row| row.entry.watch.is_none())
            .filter(was_watched)
            .map(|row| row.seq)
            .collect();
        let leaving: Parameters<'_> = &[&left];
        let watched_now = client.prepare_cached(watch::WATCH).await?;
        let unwatch = client.prepare_cached(watch::UNWATCH).await?;
        // A stage is written before what is watched: an entry moves only while it is watched.
        let noted = history::Columns::of(&self.noted);
        let noted = noted.parameters();
        let (recorded, written, watched, unwatched, noted, committed) = tokio::join!(
            biased;
            client.execute(&record, sent),
            client.execute(&write, &parameters),
            unless(watches.entry.is_empty(), client.execute(&watched_now, &watching)),
            unless(left.is_empty(), client.execute(&unwatch, leaving)),
            client.execute(&note, &noted),
            client.batch_execute("COMMIT"),
        );
        // After an error the server undoes everything, whatever follows it.
        recorded?;
        written?;
        watched?;
        unwatched?;
        noted?;
        committed.map_err(Stop::from)
    }
}

/// Runs a command unless there is nothing for it to do.
async fn unless(
    idle: bool,
    command: impl Future<Output = Result<u64, tokio_postgres::Error>>,
) -> Result<u64, tokio_postgres::Error> {
    if idle { Ok(0) } else { command.await }
}
