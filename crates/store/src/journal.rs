//! The facilitator's journal in SQLite. The rules are those of [`pay402_core::journal`].
//!
//! **Invariant:** an entry's row changes only by [`step`], in the transaction that compared the
//! lease's token.

use std::path::Path;

use async_trait::async_trait;
use pay402_core::error::Misconfigured;
use pay402_core::journal::{
    Advance, Backlog, Delivery, Entered, Entry, Event, Journal, JournalError, Lease, NewEntry,
    Outcome, SignedAs, Stage, step,
};
use pay402_core::network::SentAs;
use pay402_core::time::UnixTime;
use pay402_core::{NetworkId, PaymentKey};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::column::{Hash, Money, Net, Whole, read};
use crate::database::{self, JOURNAL};
use crate::writer::{Access, Stop, Writer};

type Outcomes<T> = Result<T, Stop<JournalError>>;

/// A [`Journal`] in one SQLite file. Several processes may share the file.
#[derive(Debug)]
pub struct SqliteJournal {
    writer: Writer,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or makes it: the file with mode `0600`, a missing directory
    /// with `0700`.
    ///
    /// # Errors
    /// When the file is not a journal, is of a later format, is damaged, can be written by other
    /// users, or cannot be used at all. Each says how to mend it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Misconfigured> {
        Self::on(database::open(&JOURNAL, path.as_ref())?)
    }

    /// A journal that ends with the process, for tests.
    ///
    /// # Errors
    /// When the machine cannot start a thread.
    pub fn open_in_memory() -> Result<Self, Misconfigured> {
        Self::on(database::open_in_memory(&JOURNAL)?)
    }

    /// Commits so far that wrote something. What is queued together shares one.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn on(connection: Connection) -> Result<Self, Misconfigured> {
        Writer::start(&JOURNAL, connection).map(|writer| Self { writer })
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
        holder: &str,
        now: UnixTime,
        until: UnixTime,
    ) -> Result<Option<Lease>, JournalError> {
        let (network, holder) = (network.clone(), holder.to_owned());
        self.writer
            .run(Access::Write, move |connection| lease(connection, &network, &holder, now, until))
            .await
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
                    " WHERE network = ?1 AND stage IN ('due', 'signed', 'sent')
                     ORDER BY seq LIMIT ?2",
                ))?;
                let mut rows = select.query((&network, limit))?;
                let mut entries = Vec::new();
                while let Some(row) = rows.next()? {
                    entries.push(read_entry(row)?.entry);
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
                    count(&mut backlog, row)?;
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
                        "SELECT max(nonce) FROM signed_transaction
                         WHERE network = ?1 AND signer = ?2",
                    )?
                    .query_row((&network, &signer), |row| row.get(0))?;
                let Some(Whole(highest)) = highest else { return Ok(None) };
                let next = highest.checked_add(1);
                next.map(Some).ok_or_else(|| Stop::Broken("a nonce of 2^64 - 1 is recorded".into()))
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

    async fn hand_over(
        &self,
        key: &PaymentKey,
        from: Delivery,
        to: Delivery,
    ) -> Result<bool, JournalError> {
        let key = key.clone();
        self.writer
            .run(Access::Write, move |connection| {
                let changed = connection
                    .prepare_cached(
                        "UPDATE entry SET delivery = ?3 WHERE key = ?1 AND delivery = ?2",
                    )?
                    .execute((key.as_str(), delivery_text(from), delivery_text(to)))?;
                Ok(changed == 1)
            })
            .await
    }
}

/// Selects entries, with the transactions whose place the recorded one was to take.
macro_rules! entries {
    () => {
        "SELECT *, (SELECT group_concat(other.transaction_hash, ' ') FROM signed_transaction AS other
                    WHERE other.entry = entry.seq AND other.signer = entry.signer
                      AND other.nonce = entry.nonce
                      AND other.transaction_hash <> entry.transaction_hash) AS replaced
         FROM entry"
    };
}
use entries;

/// An entry and the number of its row.
struct EntryRow {
    seq: i64,
    entry: Entry,
}

fn enter(connection: &Connection, new: &NewEntry) -> Outcomes<Entered> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO entry (key, fingerprint, network, payer, amount, expires, caller, plan,
                                entered_at, delivery, stage)
             VALUES (:key, :fingerprint, :network, :payer, :amount, :expires, :caller, :plan,
                     :entered_at, 'waiting', 'due')
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
            ":plan": new.plan,
            ":entered_at": Whole::from(new.entered_at),
        })?;
    if inserted == 1 {
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
    rows.next()?.map(read_entry).transpose()
}

fn lease(
    connection: &Connection,
    network: &NetworkId,
    holder: &str,
    now: UnixTime,
    until: UnixTime,
) -> Outcomes<Option<Lease>> {
    let held: Option<(String, Whole, Whole)> = connection
        .prepare_cached("SELECT holder, token, until FROM lease WHERE network = ?1")?
        .query_row([network.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let token = match held {
        Some((by, Whole(token), _)) if by == holder => token,
        Some((_, _, Whole(end))) if now.0 < end => return Ok(None),
        Some((_, Whole(token), _)) => {
            owe_all(connection, network)?;
            token.checked_add(1).ok_or_else(|| Stop::Broken("lease tokens have run out".into()))?
        }
        None => {
            owe_all(connection, network)?;
            1
        }
    };
    connection
        .prepare_cached(
            "INSERT INTO lease (network, holder, token, until) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (network) DO UPDATE
             SET holder = excluded.holder, token = excluded.token, until = excluded.until",
        )?
        .execute((network.as_str(), holder, Whole(token), Whole::from(until)))?;
    Ok(Some(Lease { network: network.clone(), token }))
}

/// Those who waited did so in a process that is gone.
fn owe_all(connection: &Connection, network: &NetworkId) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE entry SET delivery = 'owed' WHERE network = ?1 AND delivery = 'waiting'",
        )?
        .execute([network.as_str()])?;
    Ok(())
}

fn check_token(connection: &Connection, lease: &Lease) -> Outcomes<()> {
    let token: Option<Whole> = connection
        .prepare_cached("SELECT token FROM lease WHERE network = ?1")?
        .query_row([lease.network.as_str()], |row| row.get(0))
        .optional()?;
    if token == Some(Whole(lease.token)) {
        Ok(())
    } else {
        Err(Stop::Refused(JournalError::LeaseLost(lease.network.clone())))
    }
}

/// One change. An entry of another network is none of the lease's holder.
fn advance(connection: &Connection, lease: &Lease, change: Advance) -> Outcomes<Entry> {
    let no_entry = || Stop::Refused(JournalError::NoEntry(change.key.clone()));
    let EntryRow { seq, mut entry } = find(connection, &change.key)?.ok_or_else(no_entry)?;
    if entry.new.network != lease.network {
        return Err(no_entry());
    }
    if let Event::Signed(signed) | Event::Replaced(signed) = &change.event {
        record_signed(connection, seq, &entry.new.network, &signed.sent)?;
    }
    let illegal = |error| Stop::Refused(JournalError::Illegal(error));
    entry.stage = step(entry.stage, change.event).map_err(illegal)?;
    if let Stage::Final(_) = &entry.stage {
        entry.new.plan.clear();
        if change.deliver && entry.delivery == Delivery::Waiting {
            entry.delivery = Delivery::Delivered;
        }
    }
    write_stage(connection, seq, &entry)?;
    Ok(entry)
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

/// What the columns of a stage hold; those of other stages are null.
#[derive(Default)]
struct StageColumns<'a> {
    stage: &'static str,
    signed: Option<&'a SignedAs>,
    transaction: Option<&'a str>,
    block: Option<u64>,
    fee: Option<Money>,
    reason: Option<&'a str>,
    message: Option<&'a str>,
}

fn columns(stage: &Stage) -> StageColumns<'_> {
    match stage {
        Stage::Due => StageColumns { stage: "due", ..StageColumns::default() },
        Stage::Signed(signed) | Stage::Sent(signed) => StageColumns {
            stage: if matches!(stage, Stage::Signed(_)) { "signed" } else { "sent" },
            signed: Some(signed),
            transaction: Some(&signed.sent.transaction),
            ..StageColumns::default()
        },
        Stage::Final(Outcome::Settled { transaction, block, fee }) => StageColumns {
            stage: "settled",
            transaction: Some(transaction),
            block: Some(*block),
            fee: Some(Money(*fee)),
            ..StageColumns::default()
        },
        Stage::Final(Outcome::Failed { reason, message, transaction, fee }) => StageColumns {
            stage: "failed",
            transaction: transaction.as_deref(),
            fee: Some(Money(*fee)),
            reason: Some(reason),
            message: Some(message),
            ..StageColumns::default()
        },
    }
}

fn write_stage(connection: &Connection, seq: i64, entry: &Entry) -> rusqlite::Result<()> {
    let columns = columns(&entry.stage);
    connection
        .prepare_cached(
            "UPDATE entry
             SET stage = :stage, delivery = :delivery, plan = :plan, signer = :signer,
                 nonce = :nonce, raw = :raw, transaction_hash = :transaction, block = :block,
                 fee = :fee, reason = :reason, message = :message
             WHERE seq = :seq",
        )?
        .execute(named_params! {
            ":seq": seq,
            ":stage": columns.stage,
            ":delivery": delivery_text(entry.delivery),
            ":plan": entry.new.plan,
            ":signer": columns.signed.map(|signed| &signed.sent.signer),
            ":nonce": columns.signed.map(|signed| Whole(signed.sent.nonce)),
            ":raw": columns.signed.map(|signed| &signed.raw),
            ":transaction": columns.transaction,
            ":block": columns.block.map(Whole),
            ":fee": columns.fee,
            ":reason": columns.reason,
            ":message": columns.message,
        })?;
    Ok(())
}

fn read_entry(row: &Row<'_>) -> Outcomes<EntryRow> {
    let key: String = read(row, "key")?;
    let new = NewEntry {
        key: PaymentKey::from_stored(&key),
        fingerprint: read::<Hash, _>(row, "fingerprint")?.0,
        network: read::<Net, _>(row, "network")?.0,
        payer: read(row, "payer")?,
        amount: read::<Money, _>(row, "amount")?.0,
        expires: read::<Whole, _>(row, "expires")?.into(),
        caller: read::<Option<Hash>, _>(row, "caller")?.map(|hash| hash.0),
        plan: read(row, "plan")?,
        entered_at: read::<Whole, _>(row, "entered_at")?.into(),
    };
    let delivery: String = read(row, "delivery")?;
    let delivery = match delivery.as_str() {
        "waiting" => Delivery::Waiting,
        "owed" => Delivery::Owed,
        "delivered" => Delivery::Delivered,
        other => return Err(Stop::Broken(format!("unknown delivery {other:?} of {key}"))),
    };
    let stage: String = read(row, "stage")?;
    let stage = match stage.as_str() {
        "due" => Stage::Due,
        "signed" => Stage::Signed(read_signed(row)?),
        "sent" => Stage::Sent(read_signed(row)?),
        "settled" => Stage::Final(Outcome::Settled {
            transaction: read(row, "transaction_hash")?,
            block: read::<Whole, _>(row, "block")?.0,
            fee: read::<Money, _>(row, "fee")?.0,
        }),
        "failed" => Stage::Final(Outcome::Failed {
            reason: read(row, "reason")?,
            message: read(row, "message")?,
            transaction: read(row, "transaction_hash")?,
            fee: read::<Money, _>(row, "fee")?.0,
        }),
        other => return Err(Stop::Broken(format!("unknown stage {other:?} of {key}"))),
    };
    Ok(EntryRow { seq: read(row, "seq")?, entry: Entry { new, stage, delivery } })
}

/// Adds the entries of one stage and one signer.
fn count(backlog: &mut Backlog, row: &Row<'_>) -> Outcomes<()> {
    let entries = u64::try_from(row.get::<_, i64>("entries")?)
        .map_err(|_| Stop::Broken("a count below zero".into()))?;
    let oldest = row.get::<_, Whole>("oldest")?.into();
    backlog.oldest = Some(backlog.oldest.map_or(oldest, |known| known.min(oldest)));
    match row.get::<_, String>("stage")?.as_str() {
        "due" => backlog.due += entries,
        "signed" => backlog.signed += entries,
        _ => backlog.sent += entries,
    }
    if let Some(signer) = row.get::<_, Option<String>>("signer")? {
        *backlog.by_signer.entry(signer).or_default() += entries;
    }
    Ok(())
}

fn read_signed(row: &Row<'_>) -> Outcomes<SignedAs> {
    let replaced: Option<String> = read(row, "replaced")?;
    let sent = SentAs {
        signer: read(row, "signer")?,
        nonce: read::<Whole, _>(row, "nonce")?.0,
        transaction: read(row, "transaction_hash")?,
        replaced: replaced.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    };
    Ok(SignedAs { sent, raw: read(row, "raw")? })
}

const fn delivery_text(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Waiting => "waiting",
        Delivery::Owed => "owed",
        Delivery::Delivered => "delivered",
    }
}
