//! The history in PostgreSQL, where a lower number may be committed after a higher one.
//!
//! **Invariant:** a reader of all never passes a number that may still be committed.
//!
//! A transaction takes its numbers after it has an id of its own. So a number that is missing below
//! one that is seen belongs to a transaction whose id was given before the seeing query's snapshot:
//! as soon as every transaction of that time has ended, what is missing then was undone. Until then
//! readers stop at the gap. As undone transactions are rare, so are gaps that outlast a moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::Client;
use pay402_core::NetworkId;
use pay402_core::history::{Record, Span};
use pay402_core::journal::{Cost, JournalError, LOSS_AGE_S_MAX, Loss};
use pay402_core::time::UnixTime;
use tokio_postgres::Row;

use super::{Outcomes, PgJournal, Stop, read, rows, unavailable};
use crate::column::{Money, Net, Whole};
use crate::entry::{read_cost, read_loss};
use crate::history::{Noted, read_record, records};

/// A query's own view of which transactions have ended: all below `ended`, none from `begun` on.
macro_rules! moment {
    () => {
        "pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS ended,
         pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS begun"
    };
}
const HISTORY: &str = concat!(
    "SELECT told.*, ",
    moment!(),
    " FROM (",
    records!("pay402_journal."),
    " WHERE history.seq > $1 ORDER BY history.seq LIMIT $2) AS told ORDER BY told.seq"
);
/// Also where the last records are forgotten by now.
const END: &str = concat!(
    "SELECT greatest((SELECT coalesce(max(seq), 0) FROM pay402_journal.history),
                     (SELECT coalesce(max(record), 0) FROM pay402_journal.forgotten)) AS seq, ",
    moment!()
);
const OF_CALLER: &str = concat!(
    records!("pay402_journal."),
    " WHERE history.entered_by = $1 AND history.seq > $2 AND history.seq <= $3
     ORDER BY history.seq LIMIT $4"
);
const OF_PAYMENT: &str = concat!(
    records!("pay402_journal."),
    " WHERE history.entry = (SELECT seq FROM pay402_journal.entry WHERE key = $1)
        AND history.seq > $2 AND history.seq <= $3
     ORDER BY history.seq LIMIT $4"
);
/// Through the index of failures that cost a fee: they are few. What is reverted stands among them.
const LOSSES: &str = "
    SELECT entry.key, entry.payer, entry.entered_by, history.at, entry.fee
    FROM pay402_journal.entry
    JOIN pay402_journal.history ON history.seq = (
        SELECT MAX(closed.seq) FROM pay402_journal.history AS closed
        WHERE closed.entry = entry.seq AND closed.change IN ('failed', 'reverted'))
    WHERE entry.network = $1 AND entry.entered_at >= $2 AND history.at >= $3
      AND entry.stage = 'failed' AND entry.fee <> '0'";
/// Through the index of records with a fee, by caller and time. Those that cannot be opened again are added up
/// by the minute, since there may be many.
const COSTS: &str = "
    SELECT history.entered_by, sum(entry.fee::numeric)::text AS fee,
           CASE WHEN watched.entry IS NULL THEN NULL ELSE entry.key END AS key,
           CASE WHEN watched.entry IS NULL
                THEN lpad((div(history.at::numeric, 60) * 60)::text, 20, '0')
                ELSE history.at END AS at
    FROM pay402_journal.history
    JOIN pay402_journal.entry ON entry.seq = history.entry
    LEFT JOIN pay402_journal.watched ON watched.entry = history.entry
    WHERE history.entered_by = ANY($1) AND history.at >= $2 AND history.fee <> '0'
      AND entry.network = $3 AND entry.stage IN ('settled', 'failed')
      AND history.seq = (SELECT MAX(closed.seq) FROM pay402_journal.history AS closed
                         WHERE closed.entry = history.entry AND closed.fee IS NOT NULL)
    GROUP BY 1, 3, 4";
/// Writes records, in the order of the arrays.
pub(super) const RECORD: &str = "
    INSERT INTO pay402_journal.history (entry, at, change, delivery, entered_by, transaction_hash, signer,
                                        nonce, block, fee, reason)
    SELECT noted.entry, noted.at, noted.change, noted.delivery, noted.entered_by, noted.transaction_hash,
           noted.signer, noted.nonce, noted.block, noted.fee, noted.reason
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::text[], $11::text[])
         WITH ORDINALITY AS noted (entry, at, change, delivery, entered_by, transaction_hash, signer,
                                   nonce, block, fee, reason, place)
    ORDER BY noted.place";

/// How long changes under way are waited for, and how often they are looked at.
const END_MAX: Duration = Duration::from_secs(5);
const END_LOOK: Duration = Duration::from_millis(20);

/// Up to which number gaps are known to stay, and from which moment on the next is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Horizon(Arc<Mutex<Gaps>>);

#[derive(Clone, Copy, Debug, Default)]
struct Gaps {
    /// What is missing up to here was undone.
    undone: i64,
    /// What is missing up to the number was undone, once all transactions below the id have ended.
    next: Option<(i64, i64)>,
}

impl Gaps {
    /// What a query tells that saw numbers up to `seen` at a moment.
    fn learn(&mut self, seen: i64, ended: i64, begun: i64) {
        if let Some((seq, all)) = self.next
            && ended >= all
        {
            self.undone = self.undone.max(seq);
            self.next = None;
        }
        if ended >= begun {
            self.undone = self.undone.max(seen);
        } else if self.next.is_none() && seen > self.undone {
            self.next = Some((seen, begun));
        }
    }
}

impl Horizon {
    fn lock(&self) -> MutexGuard<'_, Gaps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows after `after` up to the first gap that may still be filled. `known` is what was known
    /// before the query began: what was learnt since may be about rows that it did not see.
    fn complete(&self, known: Gaps, after: i64, found: &[Row]) -> Outcomes<Vec<Record>> {
        let Some(last) = found.last() else { return Ok(Vec::new()) };
        let (ended, begun) = (read(last, "ended")?, read(last, "begun")?);
        let seen = read(last, "seq")?;
        let mut here = known;
        here.learn(seen, ended, begun);
        self.lock().learn(seen, ended, begun);
        let mut records = Vec::with_capacity(found.len());
        let mut next = after.saturating_add(1);
        for row in found {
            let seq: i64 = read(row, "seq")?;
            if seq != next && seq - 1 > here.undone {
                break;
            }
            records.push(read_record(row).map_err(Stop::Failed)?);
            next = seq.saturating_add(1);
        }
        Ok(records)
    }
}

impl PgJournal {
    pub(super) async fn records_after(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Record>, JournalError> {
        let (after, limit) = (whole(after), i64::try_from(limit).unwrap_or(i64::MAX));
        let horizon = self.horizon.clone();
        self.run(move |client| {
            Box::pin(async move {
                let known = *horizon.lock();
                let found = rows(client, HISTORY, &[&after, &limit]).await?;
                horizon.complete(known, after, &found)
            })
        })
        .await
    }

    pub(super) async fn losses_since(
        &self,
        network: &NetworkId,
        since: UnixTime,
    ) -> Result<Vec<Loss>, JournalError> {
        let network = Net(network.clone());
        let entered = Whole::from(since.minus_s(LOSS_AGE_S_MAX));
        self.run(move |client| {
            Box::pin(async move {
                let found =
                    rows(client, LOSSES, &[&network, &entered, &Whole::from(since)]).await?;
                found.iter().map(|row| read_loss(row).map_err(Stop::Failed)).collect()
            })
        })
        .await
    }

    pub(super) async fn costs_since(
        &self,
        network: &NetworkId,
        callers: &[String],
        since: UnixTime,
    ) -> Result<Vec<Cost>, JournalError> {
        let (network, callers) = (Net(network.clone()), callers.to_vec());
        self.run(move |client| {
            Box::pin(async move {
                let found = rows(client, COSTS, &[&callers, &Whole::from(since), &network]).await?;
                found.iter().map(|row| read_cost(row).map_err(Stop::Failed)).collect()
            })
        })
        .await
    }

    /// Waits until what was under way when the highest number was seen has ended.
    pub(super) async fn records_end(&self) -> Result<u64, JournalError> {
        let (end, mut ended, begun) = self.moment().await?;
        let began = tokio::time::Instant::now();
        while ended < begun {
            if began.elapsed() > END_MAX {
                return Err(unavailable("a transaction on its server does not end"));
            }
            tokio::time::sleep(END_LOOK).await;
            ended = self.moment().await?.1;
        }
        // What is missing below was undone, or is forgotten: who reads up to here need not wait for it.
        self.horizon.lock().learn(end, ended, begun);
        u64::try_from(end).map_err(|_| unavailable("a number below zero"))
    }

    async fn moment(&self) -> Result<(i64, i64, i64), JournalError> {
        self.run(|client| {
            Box::pin(async move {
                let found = rows(client, END, &[]).await?;
                let row = found.first().ok_or_else(|| Stop::Failed("no end".into()))?;
                Ok((read(row, "seq")?, read(row, "ended")?, read(row, "begun")?))
            })
        })
        .await
    }

    pub(super) async fn records_of_caller(
        &self,
        name: &str,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        let name = name.to_owned();
        self.run(move |client| {
            Box::pin(async move { within(client, OF_CALLER, &name, span).await })
        })
        .await
    }

    pub(super) async fn records_of_payment(
        &self,
        key: &str,
        span: Span,
    ) -> Result<Vec<Record>, JournalError> {
        let key = key.to_owned();
        self.run(move |client| {
            Box::pin(async move { within(client, OF_PAYMENT, &key, span).await })
        })
        .await
    }
}

async fn within(client: &Client, sql: &'static str, of: &str, span: Span) -> Outcomes<Vec<Record>> {
    let (after, upto) = (whole(span.after), whole(span.upto));
    let limit = i64::try_from(span.limit).unwrap_or(i64::MAX);
    let found = rows(client, sql, &[&of, &after, &upto, &limit]).await?;
    found.iter().map(|row| read_record(row).map_err(Stop::Failed)).collect()
}

pub(super) fn whole(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Records as columns, each an array.
pub(super) struct Columns<'a> {
    entry: Vec<i64>,
    at: Vec<Whole>,
    change: Vec<&'static str>,
    delivery: Vec<&'static str>,
    entered_by: Vec<Option<&'a str>>,
    transaction: Vec<Option<&'a str>>,
    signer: Vec<Option<&'a str>>,
    nonce: Vec<Option<Whole>>,
    block: Vec<Option<Whole>>,
    fee: Vec<Option<Money>>,
    reason: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(noted: &'a [Noted]) -> Self {
        Self {
            entry: noted.iter().map(|one| one.entry).collect(),
            at: noted.iter().map(|one| one.at).collect(),
            change: noted.iter().map(|one| one.change).collect(),
            delivery: noted.iter().map(|one| one.delivery).collect(),
            entered_by: noted.iter().map(|one| one.entered_by.as_deref()).collect(),
            transaction: noted.iter().map(|one| one.transaction.as_deref()).collect(),
            signer: noted.iter().map(|one| one.signer.as_deref()).collect(),
            nonce: noted.iter().map(|one| one.nonce).collect(),
            block: noted.iter().map(|one| one.block).collect(),
            fee: noted.iter().map(|one| one.fee).collect(),
            reason: noted.iter().map(|one| one.reason.as_deref()).collect(),
        }
    }

    pub(super) fn parameters(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 11] {
        [
            &self.entry,
            &self.at,
            &self.change,
            &self.delivery,
            &self.entered_by,
            &self.transaction,
            &self.signer,
            &self.nonce,
            &self.block,
            &self.fee,
            &self.reason,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_stay_once_whoever_could_fill_them_has_ended() {
        let mut gaps = Gaps::default();
        gaps.learn(10, 100, 103);
        assert_eq!(gaps.undone, 0, "three may still commit");
        // A later number does not put the question off.
        gaps.learn(20, 101, 110);
        gaps.learn(20, 102, 111);
        assert_eq!(gaps.undone, 0);
        gaps.learn(30, 103, 120);
        assert_eq!(gaps.undone, 10, "those of the first moment have ended");
        gaps.learn(40, 119, 130);
        assert_eq!(gaps.undone, 10, "not yet those of the next");
        gaps.learn(40, 121, 130);
        assert_eq!(gaps.undone, 30);
        gaps.learn(50, 140, 140);
        assert_eq!(gaps.undone, 50, "nobody was writing");
    }
}
