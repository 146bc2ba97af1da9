//! The facilitator's journal in SQLite. The rules are those of [`pay402_core::journal`].
//!
//! **Invariant:** an entry's row changes only as [`advanced`] says, in the transaction that compared
//! the lease's token.

mod forget;
mod lead;
mod lease;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pay402_core::books::Booked;
use pay402_core::error::Misconfigured;
use pay402_core::history::{Record, Span};
use pay402_core::journal::{
    Advance, Backlog, Cost, Delivery, Entered, Entry, Event, Forgotten, Holder, Horizon, Journal,
    JournalError, Lease, Leased, Looked, Loss, NewEntry, Watch,
};
use pay402_core::network::{BlockId, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{NetworkId, PaymentKey};
use rusqlite::{Connection, OptionalExtension, named_params};

use crate::books::{self, booked, put_signed, read_booked, signed_for};
use crate::column::{Hash, Money, Net, Whole};
use crate::costs;
use crate::database::{self, JOURNAL};
use crate::entry::{
    EntryRow, advanced, columns, count, delivery_text, nonce_after, part_of, plan_of, read_entry,
    spent_of,
};
use crate::history::{Noted, read_record, records};
use crate::writer::{Access, Stop, Writer};
use forget::{forget, forgettable, forgotten};
use lead::Leads;
use lease::{check_token, lease, release};

pub(crate) type Outcomes<T> = Result<T, Stop<JournalError>>;

/// A [`Journal`] in one SQLite file. Several processes may share the file.
#[derive(Debug)]
pub struct SqliteJournal {
    writer: Writer,
    leads: Arc<Leads>,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or makes it: the file with mode `0600`, a missing directory
    /// with `0700`.
    ///
    /// # Errors
    /// When the file is not a journal, is of a later format, is damaged, can be written by other
    /// users, or cannot be used at all. Each says how to mend it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Misconfigured> {
        Self::on(database::open(&JOURNAL, path.as_ref())?, Some(path.as_ref()))
    }

    /// Opens the journal at `path` to read it, whether a facilitator writes it or none runs. Whatever would
    /// change it fails, and nothing is made.
    ///
    /// # Errors
    /// When there is none, it is of another format than this program writes, or as [`SqliteJournal::open`].
    pub fn look(path: impl AsRef<Path>) -> Result<Self, Misconfigured> {
        Self::on(database::look(&JOURNAL, path.as_ref())?, None)
    }

    /// A journal that ends with the process, for tests.
    ///
    /// # Errors
    /// When the machine cannot start a thread.
    pub fn open_in_memory() -> Result<Self, Misconfigured> {
        Self::on(database::open_in_memory(&JOURNAL)?, None)
    }

    /// Commits so far that wrote something. What is queued together shares one.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn on(connection: Connection, path: Option<&Path>) -> Result<Self, Misconfigured> {
        let writer = Writer::start(&JOURNAL, connection)?;
        Ok(Self { writer, leads: Arc::new(Leads::beside(path)) })
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn enter(&self, new: NewEntry) -> Result<Entered, JournalError> {
        self.writer.run(Access::Write, move |connection| enter(connection, &new)).await
    }

    async fn find(&self, key: &PaymentKey) -> Result<Option<Entry>, JournalError> {
        let key = key.clone();
        self.writer
            .run(Access::Read, move |connection| Ok(find(connection, &key)?.map(|row| row.entry)))
            .await
    }

    async fn lease(
        &self,
        network: &NetworkId,
        holder: &Holder,
        now: UnixTime,
        lasts: Duration,
    ) -> Result<Leased, JournalError> {
        let leads = Arc::clone(&self.leads);
        let (network, holder, until) =
            (network.clone(), holder.clone(), now.plus_s(lasts.as_secs()));
        self.writer
            .run(Access::Write, move |connection| {
                lease(connection, &leads, &network, &holder, now, until)
            })
            .await
    }

    async fn release(&self, lease: &Lease) -> Result<(), JournalError> {
        let (lease, leads) = (lease.clone(), Arc::clone(&self.leads));
        self.writer.run(Access::Write, move |connection| release(connection, &leads, &lease)).await
    }

    async fn advance(
        &self,
        lease: &Lease,
        changes: Vec<Advance>,
    ) -> Result<Vec<Entry>, JournalError> {
        let lease = lease.clone();
        self.writer
            .run(Access::Write, move |connection| {
                check_token(connection, &lease)?;
                changes.into_iter().map(|change| advance(connection, &lease, change)).collect()
            })
            .await
    }

    async fn unfinished(
        &self,
        network: &NetworkId,
        limit: usize,
    ) -> Result<Vec<Entry>, JournalError> {
        let network = Net(network.clone());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(concat!(
                    entries!(),
                    " WHERE entry.network = ?1 AND stage IN ('due', 'signed', 'sent')
                     ORDER BY seq LIMIT ?2",
                ))?;
                let mut rows = select.query((&network, limit))?;
                let mut entries = Vec::new();
                while let Some(row) = rows.next()? {
                    entries.push(read_entry(row).map_err(Stop::Broken)?.entry);
                }
                Ok(entries)
            })
            .await
    }

    async fn newest(&self, limit: usize) -> Result<Vec<Entry>, JournalError> {
        let limit = limit_of(limit);
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection
                    .prepare_cached(concat!(entries!(), " ORDER BY seq DESC LIMIT ?1"))?;
                let mut rows = select.query([limit])?;
                let mut entries = Vec::new();
                while let Some(row) = rows.next()? {
                    entries.push(read_entry(row).map_err(Stop::Broken)?.entry);
                }
                Ok(entries)
            })
            .await
    }

    async fn backlog(&self, network: &NetworkId) -> Result<Backlog, JournalError> {
        let network = Net(network.clone());
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT stage, signer, count(*) AS entries, min(entered_at) AS oldest
                     FROM entry WHERE network = ?1 AND stage IN ('due', 'signed', 'sent')
                     GROUP BY stage, signer",
                )?;
                let mut rows = select.query([&network])?;
                let mut backlog = Backlog::default();
                while let Some(row) = rows.next()? {
                    count(&mut backlog, row).map_err(Stop::Broken)?;
                }
                Ok(backlog)
            })
            .await
    }

    async fn next_nonce(
        &self,
        network: &NetworkId,
        signer: &str,
    ) -> Result<Option<u64>, JournalError> {
        let (network, signer) = (Net(network.clone()), signer.to_owned());
        self.writer
            .run(Access::Read, move |connection| {
                let highest: Option<Whole> = connection
                    .prepare_cached(
                        "SELECT max(nonce) FROM (
                             SELECT max(nonce) AS nonce FROM signed_transaction
                             WHERE network = ?1 AND signer = ?2
                             UNION ALL
                             SELECT nonce FROM forgotten_nonce
                             WHERE network = ?1 AND signer = ?2)",
                    )?
                    .query_row((&network, &signer), |row| row.get(0))?;
                nonce_after(highest).map_err(Stop::Broken)
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
        self.writer
            .run(Access::Read, move |connection| {
                let count: i64 = connection
                    .prepare_cached(
                        "SELECT count(*) FROM entry
                         WHERE network = ?1 AND payer = ?2 AND entered_at >= ?3
                           AND stage = 'failed' AND fee <> '0'",
                    )?
                    .query_row((&network, &payer, Whole::from(since)), |row| row.get(0))?;
                u64::try_from(count).map_err(|_| Stop::Broken("a count below zero".into()))
            })
            .await
    }

    async fn watched_blocks(&self, network: &NetworkId) -> Result<Vec<BlockId>, JournalError> {
        let network = Net(network.clone());
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT DISTINCT block, block_hash FROM watched WHERE network = ?1
                     ORDER BY block, block_hash",
                )?;
                let read = |row: &rusqlite::Row<'_>| {
                    let Whole(number) = row.get(0)?;
                    Ok(BlockId { number, hash: row.get(1)? })
                };
                let blocks = select.query_map([&network], read)?;
                Ok(blocks.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn watched_in(
        &self,
        network: &NetworkId,
        block: &BlockId,
    ) -> Result<Vec<Entry>, JournalError> {
        let (network, block) = (Net(network.clone()), block.clone());
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(concat!(
                    entries!(),
                    " WHERE watched.network = ?1 AND watched.block = ?2
                        AND watched.block_hash = ?3 ORDER BY seq",
                ))?;
                let mut rows = select.query((&network, Whole(block.number), &block.hash))?;
                let mut entries = Vec::new();
                while let Some(row) = rows.next()? {
                    entries.push(read_entry(row).map_err(Stop::Broken)?.entry);
                }
                Ok(entries)
            })
            .await
    }

    async fn bury(&self, lease: &Lease, through: u64, limit: usize) -> Result<u64, JournalError> {
        let lease = lease.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.writer
            .run(Access::Write, move |connection| {
                check_token(connection, &lease)?;
                let buried = connection
                    .prepare_cached(
                        "DELETE FROM watched WHERE entry IN (
                             SELECT entry FROM watched WHERE network = ?1 AND block <= ?2
                             ORDER BY block LIMIT ?3)",
                    )?
                    .execute((lease.network.as_str(), Whole(through), limit))?;
                Ok(u64::try_from(buried).unwrap_or(u64::MAX))
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
        let (network, horizon) = (network.clone(), horizon.clone());
        self.writer
            .run(Access::Read, move |connection| {
                forgettable(connection, &network, (after, limit), &horizon)
            })
            .await
    }

    async fn forget(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        let (lease, horizon) = (lease.clone(), horizon.clone());
        self.writer
            .run(Access::Write, move |connection| forget(connection, &lease, &keys, &horizon))
            .await
    }

    async fn forgotten(&self, network: &NetworkId) -> Result<Forgotten, JournalError> {
        let network = network.clone();
        self.writer.run(Access::Read, move |connection| forgotten(connection, &network)).await
    }

    async fn forgotten_records(&self) -> Result<u64, JournalError> {
        let sql = "SELECT coalesce(max(record), 0) FROM forgotten";
        self.writer.run(Access::Read, move |connection| record_number(connection, sql)).await
    }

    async fn losses(
        &self,
        network: &NetworkId,
        since: UnixTime,
    ) -> Result<Vec<Loss>, JournalError> {
        let network = Net(network.clone());
        self.writer
            .run(Access::Read, move |connection| costs::losses(connection, &network, since))
            .await
    }

    async fn costs(
        &self,
        network: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError> {
        let (network, callers) = (Net(network.clone()), callers.to_vec());
        self.writer
            .run(Access::Read, move |connection| {
                costs::costs(connection, &network, &callers, since)
            })
            .await
    }

    async fn hand_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
        at: UnixTime,
    ) -> Result<bool, JournalError> {
        let (lease, key) = (lease.cloned(), key.clone());
        self.writer
            .run(Access::Write, move |connection| {
                lease.iter().try_for_each(|lease| check_token(connection, lease))?;
                hand_over(connection, &key, from, to, at)
            })
            .await
    }

    async fn history(&self, after: u64, limit: usize) -> Result<Vec<Record>, JournalError> {
        let (after, limit) = (whole(after), limit_of(limit));
        self.writer
            .run(Access::Read, move |connection| {
                let sql =
                    concat!(records!(), " WHERE history.seq > ?1 ORDER BY history.seq LIMIT ?2");
                told(connection, sql, (after, limit))
            })
            .await
    }

    async fn history_end(&self) -> Result<u64, JournalError> {
        let sql = "SELECT max((SELECT coalesce(max(seq), 0) FROM history),
                              (SELECT coalesce(max(record), 0) FROM forgotten))";
        self.writer.run(Access::Read, move |connection| record_number(connection, sql)).await
    }

    async fn history_of_caller(&self, name: &str, span: Span) -> Result<Vec<Record>, JournalError> {
        let name = name.to_owned();
        let sql = concat!(
            records!(),
            " WHERE history.entered_by = ?1 AND history.seq > ?2 AND history.seq <= ?3
             ORDER BY history.seq LIMIT ?4"
        );
        self.within(sql, name, span).await
    }

    async fn hook(&self, name: &str, network: &NetworkId) -> Result<Option<u64>, JournalError> {
        let (name, network) = (name.to_owned(), network.clone());
        self.writer
            .run(Access::Read, move |connection| {
                let seq: Option<i64> = connection
                    .prepare_cached("SELECT seq FROM hook WHERE name = ?1 AND network = ?2")?
                    .query_row((&name, network.as_str()), |row| row.get(0))
                    .optional()?;
                let number = seq.map(u64::try_from).transpose();
                number.map_err(|_| Stop::Broken("a number below zero".into()))
            })
            .await
    }

    async fn move_hook(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        let (lease, name) = (lease.clone(), name.to_owned());
        self.writer
            .run(Access::Write, move |connection| {
                check_token(connection, &lease)?;
                let (network, to) = (lease.network.as_str(), whole(to));
                let changed = match from {
                    None => connection
                        .prepare_cached(
                            "INSERT INTO hook (name, network, seq) VALUES (?1, ?2, ?3)
                             ON CONFLICT DO NOTHING",
                        )?
                        .execute((&name, network, to))?,
                    Some(from) => connection
                        .prepare_cached(
                            "UPDATE hook SET seq = ?3
                             WHERE name = ?1 AND network = ?2 AND seq = ?4",
                        )?
                        .execute((&name, network, to, whole(from)))?,
                };
                Ok(changed == 1)
            })
            .await
    }

    async fn replay_hook(&self, name: &str, after: u64) -> Result<u64, JournalError> {
        let name = name.to_owned();
        self.writer
            .run(Access::Write, move |connection| {
                let changed = connection
                    .prepare_cached("UPDATE hook SET seq = ?2 WHERE name = ?1 AND seq > ?2")?
                    .execute((&name, whole(after)))?;
                Ok(u64::try_from(changed).unwrap_or(u64::MAX))
            })
            .await
    }

    async fn history_of_payment(
        &self,
        key: &PaymentKey,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        let sql = concat!(
            records!(),
            " WHERE history.entry = (SELECT seq FROM entry WHERE key = ?1)
                AND history.seq > ?2 AND history.seq <= ?3
             ORDER BY history.seq LIMIT ?4"
        );
        self.within(sql, key.as_str().to_owned(), span).await
    }

    async fn books(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError> {
        let (network, after, limit) = (Net(network.clone()), whole(after), limit_of(limit));
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(booked!("", "?1", "?2", "?3"))?;
                let mut rows = select.query((&network, after, limit))?;
                let mut books = Vec::new();
                while let Some(row) = rows.next()? {
                    books.push(read_booked(row).map_err(Stop::Broken)?);
                }
                let Some(ends) = books::ends(&books) else { return Ok(books) };
                let mut select = connection.prepare_cached(signed_for!("", "?1", "?2"))?;
                let mut rows = select.query(ends)?;
                while let Some(row) = rows.next()? {
                    put_signed(&mut books, row).map_err(Stop::Broken)?;
                }
                Ok(books)
            })
            .await
    }
}

impl SqliteJournal {
    async fn within(
        &self,
        sql: &'static str,
        of: String,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        let (after, upto, limit) = (whole(span.after), whole(span.upto), limit_of(span.limit));
        self.writer
            .run(Access::Read, move |connection| told(connection, sql, (of, after, upto, limit)))
            .await
    }
}

fn told(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Outcomes<Vec<Record>> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(parameters)?;
    let mut told = Vec::new();
    while let Some(row) = rows.next()? {
        told.push(read_record(row).map_err(Stop::Broken)?);
    }
    Ok(told)
}

/// The one number that a query gives.
fn record_number(connection: &Connection, sql: &str) -> Outcomes<u64> {
    let seq: i64 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    u64::try_from(seq).map_err(|_| Stop::Broken("a number below zero".into()))
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn whole(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Selects entries, with the transactions whose place the recorded one was to take, and with what is
/// watched.
macro_rules! entries {
    () => {
        "SELECT entry.*,
                (SELECT group_concat(other.transaction_hash, ' ') FROM signed_transaction AS other
                 WHERE other.entry = entry.seq
                   AND other.signer = coalesce(entry.signer, watched.signer)
                   AND other.nonce = coalesce(entry.nonce, watched.nonce)
                   AND other.transaction_hash
                       <> coalesce(watched.transaction_hash, entry.transaction_hash)) AS replaced,
                watched.block AS watched_block, watched.block_hash AS watched_hash,
                watched.plan AS watched_plan, watched.signer AS watched_signer,
                watched.nonce AS watched_nonce, watched.raw AS watched_raw,
                watched.transaction_hash AS watched_transaction, watched.part AS watched_part,
                watched.parts AS watched_parts, watched.spent AS watched_spent
         FROM entry LEFT JOIN watched ON watched.entry = entry.seq"
    };
}
use entries;

fn enter(connection: &Connection, new: &NewEntry) -> Outcomes<Entered> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO entry (key, fingerprint, network, payer, amount, expires, caller, entered_by,
                                plan, entered_at, delivery, stage)
             VALUES (:key, :fingerprint, :network, :payer, :amount, :expires, :caller, :entered_by,
                     :plan, :entered_at, 'waiting', 'due')
             ON CONFLICT (key) DO NOTHING",
        )?
        .execute(named_params! {
            ":key": new.key.as_str(),
            ":fingerprint": Hash(new.fingerprint),
            ":network": Net(new.network.clone()),
            ":payer": new.payer,
            ":amount": Money(new.amount),
            ":expires": Whole::from(new.expires),
            ":caller": new.caller.map(Hash),
            ":entered_by": new.entered_by,
            ":plan": new.plan,
            ":entered_at": Whole::from(new.entered_at),
        })?;
    if inserted == 1 {
        note(connection, &Noted::entered(connection.last_insert_rowid(), new))?;
        return Ok(Entered::New);
    }
    match find(connection, &new.key)? {
        Some(row) => Ok(Entered::Known(Box::new(row.entry))),
        None => Err(Stop::Broken(format!("{} is neither new nor known", new.key))),
    }
}

fn find(connection: &Connection, key: &PaymentKey) -> Outcomes<Option<EntryRow>> {
    let mut select = connection.prepare_cached(concat!(entries!(), " WHERE key = ?1"))?;
    let mut rows = select.query([key.as_str()])?;
    rows.next()?.map(|row| read_entry(row).map_err(Stop::Broken)).transpose()
}

/// One change. An entry of another network is none of the lease's holder.
fn advance(connection: &Connection, lease: &Lease, change: Advance) -> Outcomes<Entry> {
    let no_entry = || Stop::Refused(JournalError::NoEntry(change.key.clone()));
    let EntryRow { seq, entry } = find(connection, &change.key)?.ok_or_else(no_entry)?;
    if entry.new.network != lease.network {
        return Err(no_entry());
    }
    if let Event::Signed(signed) | Event::Replaced(signed) = &change.event {
        record_signed(connection, seq, &entry.new.network, &signed.sent)?;
    }
    let was_watched = entry.watch.is_some();
    let at = change.at;
    let (entry, told) = advanced(entry, change).map_err(Stop::Refused)?;
    write_stage(connection, seq, &entry)?;
    match &entry.watch {
        Some(watch) => write_watch(connection, seq, &entry, watch)?,
        None if was_watched => {
            connection.prepare_cached("DELETE FROM watched WHERE entry = ?1")?.execute([seq])?;
        }
        None => {}
    }
    if let Some(told) = told {
        note(connection, &Noted::of(seq, &entry, told, at))?;
    }
    Ok(entry)
}

fn write_watch(
    connection: &Connection,
    seq: i64,
    entry: &Entry,
    watch: &Watch,
) -> rusqlite::Result<()> {
    let signed = watch.signed.as_ref();
    connection
        .prepare_cached(
            "INSERT INTO watched (entry, network, block, block_hash, plan, signer, nonce, raw,
                                  transaction_hash, part, parts, spent)
             VALUES (:entry, :network, :block, :hash, :plan, :signer, :nonce, :raw, :transaction,
                     :part, :parts, :spent)
             ON CONFLICT (entry) DO UPDATE
             SET block = excluded.block, block_hash = excluded.block_hash",
        )?
        .execute(named_params! {
            ":entry": seq,
            ":network": entry.new.network.as_str(),
            ":block": Whole(watch.block.number),
            ":hash": watch.block.hash,
            ":plan": entry.new.plan,
            ":signer": signed.map(|signed| &signed.sent.signer),
            ":nonce": signed.map(|signed| Whole(signed.sent.nonce)),
            ":raw": signed.map(|signed| &signed.raw),
            ":transaction": signed.map(|signed| &signed.sent.transaction),
            ":part": signed.and_then(part_of).map(|(index, _)| index),
            ":parts": signed.and_then(part_of).map(|(_, of)| of),
            ":spent": signed.and_then(spent_of),
        })?;
    Ok(())
}

/// Hands an entry over and records it, if it still is `from`.
fn hand_over(
    connection: &Connection,
    key: &PaymentKey,
    from: Delivery,
    to: Delivery,
    at: UnixTime,
) -> Outcomes<bool> {
    let changed = connection
        .prepare_cached(
            "UPDATE entry SET delivery = ?3 WHERE key = ?1 AND delivery = ?2
               AND (?3 <> 'delivered' OR stage = 'settled')",
        )?
        .execute((key.as_str(), delivery_text(from), delivery_text(to)))?;
    if changed == 1 {
        connection
            .prepare_cached(
                "INSERT INTO history (entry, at, change, delivery, entered_by)
                 SELECT seq, ?2, 'handed_over', delivery, entered_by FROM entry WHERE key = ?1",
            )?
            .execute((key.as_str(), Whole::from(at)))?;
    }
    Ok(changed == 1)
}

fn note(connection: &Connection, noted: &Noted) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO history (entry, at, change, delivery, entered_by, transaction_hash, signer,
                                  nonce, block, fee, reason)
             VALUES (:entry, :at, :change, :delivery, :entered_by, :transaction, :signer, :nonce, :block,
                     :fee, :reason)",
        )?
        .execute(named_params! {
            ":entry": noted.entry,
            ":at": noted.at,
            ":change": noted.change,
            ":delivery": noted.delivery,
            ":entered_by": noted.entered_by,
            ":transaction": noted.transaction,
            ":signer": noted.signer,
            ":nonce": noted.nonce,
            ":block": noted.block,
            ":fee": noted.fee,
            ":reason": noted.reason,
        })?;
    Ok(())
}

fn record_signed(
    connection: &Connection,
    seq: i64,
    network: &NetworkId,
    sent: &SentAs,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO signed_transaction (entry, network, signer, nonce, transaction_hash)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((seq, network.as_str(), &sent.signer, Whole(sent.nonce), &sent.transaction))?;
    Ok(())
}

fn write_stage(connection: &Connection, seq: i64, entry: &Entry) -> rusqlite::Result<()> {
    let columns = columns(&entry.stage);
    connection
        .prepare_cached(
            "UPDATE entry
             SET stage = :stage, delivery = :delivery, plan = :plan, signer = :signer,
                 nonce = :nonce, raw = :raw, part = :part, parts = :parts, spent = :spent,
                 transaction_hash = :transaction, block = :block,
                 fee = :fee, reason = :reason, message = :message, reverted = :reverted
             WHERE seq = :seq",
        )?
        .execute(named_params! {
            ":seq": seq,
            ":stage": columns.stage,
            ":delivery": delivery_text(entry.delivery),
            ":plan": plan_of(entry),
            ":signer": columns.signed.map(|signed| &signed.sent.signer),
            ":nonce": columns.signed.map(|signed| Whole(signed.sent.nonce)),
            ":raw": columns.signed.map(|signed| &signed.raw),
            ":part": columns.part.map(|(index, _)| index),
            ":parts": columns.part.map(|(_, of)| of),
            ":spent": columns.spent,
            ":transaction": columns.transaction,
            ":block": columns.block.map(Whole),
            ":fee": columns.fee,
            ":reason": columns.reason,
            ":message": columns.message,
            ":reverted": columns.reverted,
        })?;
    Ok(())
}
