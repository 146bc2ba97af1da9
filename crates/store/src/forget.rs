//! What the journals share of their forgetting: what decides about an entry in columns, and what is summed up.

use pay402_core::journal::{Aged, Forgotten, Horizon, Looked};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};

use crate::column::{Columns, Money, Whole};
use crate::entry::{read_delivery, read_outcome};

/// Selects what decides whether entries may be forgotten. The journals name their tables alike.
macro_rules! aged {
    ($schema:literal) => {
        concat!(
            "SELECT entry.seq, entry.key, entry.amount, entry.expires, entry.entered_at, entry.delivery,
                    entry.stage, entry.transaction_hash, entry.block, entry.fee, entry.reason,
                    entry.message, entry.reverted,
                    EXISTS (SELECT 1 FROM ",
            $schema,
            "watched WHERE watched.entry = entry.seq) AS watched,
                    (SELECT max(history.seq) FROM ",
            $schema,
            "history WHERE history.entry = entry.seq) AS last_seq,
                    (SELECT max(history.at) FROM ",
            $schema,
            "history WHERE history.entry = entry.seq) AS last_at
             FROM ",
            $schema,
            "entry"
        )
    };
}
pub(crate) use aged;

/// An entry that may be past.
pub(crate) struct Candidate {
    pub(crate) seq: i64,
    key: PaymentKey,
    aged: Aged,
}

/// The entry in a row of [`aged`].
pub(crate) fn read_aged(row: &impl Columns) -> Result<Candidate, String> {
    let stage: String = row.read("stage")?;
    let outcome = match stage.as_str() {
        "due" | "signed" | "sent" => None,
        ended => Some(read_outcome(row, ended)?),
    };
    let last = match (row.read::<Option<i64>>("last_seq")?, row.read::<Option<Whole>>("last_at")?) {
        (Some(seq), Some(at)) => Some((number(seq)?, at.into())),
        _ => None,
    };
    let aged = Aged {
        amount: row.read::<Money>("amount")?.0,
        expires: row.read::<Whole>("expires")?.into(),
        entered_at: row.read::<Whole>("entered_at")?.into(),
        delivery: read_delivery(row)?,
        outcome,
        watched: row.read("watched")?,
        last,
    };
    let key = PaymentKey::from_stored(&row.read::<String>("key")?);
    Ok(Candidate { seq: row.read("seq")?, key, aged })
}

/// Which of the entries that were looked at are past, when at most `limit` were to be.
pub(crate) fn looked(
    found: Vec<Candidate>,
    after: u64,
    limit: usize,
    (horizon, sent): (&Horizon, Option<u64>),
) -> Result<Looked, String> {
    let is_young = |it: &Candidate| it.aged.entered_at >= horizon.before;
    let is_end = found.len() < limit || found.last().is_none_or(is_young);
    let at = found.last().map_or(Ok(after), |last| number(last.seq))?;
    let past = found.into_iter().filter(|it| it.aged.is_past(horizon, sent));
    Ok(Looked { past: past.map(|it| it.key).collect(), at, is_end })
}

/// What goes at once, summed up.
pub(crate) struct Going {
    pub(crate) seqs: Vec<i64>,
    /// The highest number of a record; 0 when there is none.
    pub(crate) record: i64,
    pub(crate) fees: Amount,
}

/// Those of `found` that are past.
pub(crate) fn going(
    found: Vec<Candidate>,
    (horizon, sent): (&Horizon, Option<u64>),
) -> Result<Going, String> {
    let mut going = Going { seqs: Vec::new(), record: 0, fees: Amount::ZERO };
    for Candidate { seq, aged, .. } in found {
        if !aged.is_past(horizon, sent) {
            continue;
        }
        going.seqs.push(seq);
        if let Some((record, UnixTime(_))) = aged.last {
            let record = i64::try_from(record).map_err(|_| "a number above all".to_owned())?;
            going.record = going.record.max(record);
        }
        let fee = aged.outcome.as_ref().map_or(Amount::ZERO, |outcome| outcome.fee());
        going.fees = added(going.fees, fee)?;
    }
    Ok(going)
}

/// Both fees together.
pub(crate) fn added(one: Amount, other: Amount) -> Result<Amount, String> {
    one.checked_add(other).ok_or_else(|| "fees above all that there is".to_owned())
}

/// What is known of forgotten entries, less the nonces, in a row of the table.
pub(crate) fn read_forgotten(row: &impl Columns) -> Result<Forgotten, String> {
    Ok(Forgotten {
        entries: number(row.read("entries")?)?,
        entry: number(row.read("entry")?)?,
        fees: row.read::<Money>("fees")?.0,
        ..Forgotten::default()
    })
}

/// A number that counts something.
pub(crate) fn number(seq: i64) -> Result<u64, String> {
    u64::try_from(seq).map_err(|_| "a number below zero".to_owned())
}
