//! What entries cost us, read from the journal in SQLite.

use std::collections::BTreeMap;

use pay402_core::Amount;
use pay402_core::journal::{Cost, LOSS_AGE_S_MAX, Loss};
use pay402_core::time::UnixTime;
use rusqlite::Connection;

use crate::column::{Net, Whole};
use crate::entry::{read_cost, read_loss, sum};
use crate::journal::Outcomes;
use crate::writer::Stop;

/// What entries cost that failed or were reverted at `since` or later.
pub(crate) fn losses(
    connection: &Connection,
    network: &Net,
    since: UnixTime,
) -> Outcomes<Vec<Loss>> {
    // Through the index of failures that cost a fee: they are few. What is reverted stands among them.
    let mut select = connection.prepare_cached(
        "SELECT entry.key AS key, entry.payer AS payer, entry.entered_by AS entered_by,
                history.at AS at, entry.fee AS fee
         FROM entry JOIN history ON history.seq = (
             SELECT MAX(closed.seq) FROM history AS closed
             WHERE closed.entry = entry.seq AND closed.change IN ('failed', 'reverted'))
         WHERE entry.network = ?1 AND entry.entered_at >= ?2 AND history.at >= ?3
           AND entry.stage = 'failed' AND entry.fee <> '0'",
    )?;
    let entered = since.minus_s(LOSS_AGE_S_MAX);
    let mut rows = select.query((network, Whole::from(entered), Whole::from(since)))?;
    let mut losses = Vec::new();
    while let Some(row) = rows.next()? {
        losses.push(read_loss(row).map_err(Stop::Broken)?);
    }
    Ok(losses)
}

/// What entries of these callers cost that were closed at `since` or later. Those that cannot be opened again
/// are added up here, since there may be many.
pub(crate) fn costs(
    connection: &Connection,
    network: &Net,
    callers: &[String],
    since: UnixTime,
) -> Outcomes<Vec<Cost>> {
    // Through the index of records with a fee, by caller and time.
    let mut select = connection.prepare_cached(
        "SELECT history.entered_by AS entered_by, history.at AS at, entry.fee AS fee,
                CASE WHEN watched.entry IS NULL THEN NULL ELSE entry.key END AS key
         FROM history JOIN entry ON entry.seq = history.entry
              LEFT JOIN watched ON watched.entry = history.entry
         WHERE history.entered_by = ?1 AND history.at >= ?2 AND history.fee <> '0'
           AND entry.network = ?3 AND entry.stage IN ('settled', 'failed')
           AND history.seq = (SELECT MAX(closed.seq) FROM history AS closed
                              WHERE closed.entry = history.entry AND closed.fee IS NOT NULL)",
    )?;
    let mut costs = Vec::new();
    for caller in callers {
        let mut minutes: BTreeMap<UnixTime, Amount> = BTreeMap::new();
        let mut rows = select.query((caller, Whole::from(since), network))?;
        while let Some(row) = rows.next()? {
            let cost = read_cost(row).map_err(Stop::Broken)?;
            if cost.key.is_some() {
                costs.push(cost);
                continue;
            }
            let minute = minutes.entry(cost.at.minute()).or_default();
            *minute = sum(*minute, cost.fee).map_err(Stop::Broken)?;
        }
        costs.extend(minutes.into_iter().map(|(at, fee)| Cost {
            entered_by: caller.clone(),
            key: None,
            at,
            fee,
        }));
    }
    Ok(costs)
}
