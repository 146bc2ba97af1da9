//! Forgetting in SQLite.

use pay402_core::journal::{Forgotten, Horizon, Lease, Looked};
use pay402_core::{NetworkId, PaymentKey};
use rusqlite::{Connection, OptionalExtension};

use super::lease::check_token;
use super::{Outcomes, limit_of, whole};
use crate::column::{Money, Whole};
use crate::forget::{Going, added, aged, going, looked, number, read_aged, read_forgotten};
use crate::writer::Stop;

/// What goes together with the entries that are named in `forgetting`, in this order.
const GO: [&str; 4] = [
    "DELETE FROM signed_transaction WHERE entry IN (SELECT entry FROM forgetting)",
    "DELETE FROM history WHERE entry IN (SELECT entry FROM forgetting)",
    "DELETE FROM entry WHERE seq IN (SELECT entry FROM forgetting)",
    "DELETE FROM forgetting",
];

/// How far the hooks have come that a horizon names; `None` when none of them has begun.
fn sent(connection: &Connection, network: &NetworkId, horizon: &Horizon) -> Outcomes<Option<u64>> {
    let mut least = None;
    for name in &horizon.hooks {
        let seq: Option<i64> = connection
            .prepare_cached("SELECT seq FROM hook WHERE name = ?1 AND network = ?2")?
            .query_row((name, network.as_str()), |row| row.get(0))
            .optional()?;
        let Some(seq) = seq.map(number).transpose().map_err(Stop::Broken)? else { continue };
        least = Some(least.map_or(seq, |least: u64| least.min(seq)));
    }
    Ok(least)
}

/// Looks for what is past.
pub(super) fn forgettable(
    connection: &Connection,
    network: &NetworkId,
    (after, limit): (u64, usize),
    horizon: &Horizon,
) -> Outcomes<Looked> {
    let sent = sent(connection, network, horizon)?;
    let mut select = connection.prepare_cached(concat!(
        aged!(""),
        " WHERE entry.network = ?1 AND entry.seq > ?2 ORDER BY entry.seq LIMIT ?3"
    ))?;
    let mut rows = select.query((network.as_str(), whole(after), limit_of(limit)))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_aged(row).map_err(Stop::Broken)?);
    }
    looked(found, after, limit, (horizon, sent)).map_err(Stop::Broken)
}

/// Deletes those of the entries that are past, and keeps their sums.
pub(super) fn forget(
    connection: &Connection,
    lease: &Lease,
    keys: &[PaymentKey],
    horizon: &Horizon,
) -> Outcomes<u64> {
    check_token(connection, lease)?;
    let network = &lease.network;
    let sent = sent(connection, network, horizon)?;
    let mut select =
        connection.prepare_cached(concat!(aged!(""), " WHERE key = ?1 AND entry.network = ?2"))?;
    let mut found = Vec::new();
    for key in keys {
        let mut rows = select.query((key.as_str(), network.as_str()))?;
        if let Some(row) = rows.next()? {
            found.push(read_aged(row).map_err(Stop::Broken)?);
        }
    }
    let going = going(found, (horizon, sent)).map_err(Stop::Broken)?;
    if going.seqs.is_empty() {
        return Ok(0);
    }
    let mut name = connection.prepare_cached("INSERT INTO forgetting (entry) VALUES (?1)")?;
    for seq in &going.seqs {
        name.execute([seq])?;
    }
    keep_sums(connection, network, &going)?;
    for sql in GO {
        connection.prepare_cached(sql)?.execute([])?;
    }
    Ok(going.seqs.len() as u64)
}

/// Keeps what stays known of what is named in `forgetting`.
fn keep_sums(connection: &Connection, network: &NetworkId, going: &Going) -> Outcomes<()> {
    let Going { seqs, record, fees } = going;
    let known = forgotten(connection, network)?;
    let fees = added(known.fees, *fees).map_err(Stop::Broken)?;
    let last = seqs.iter().copied().max().unwrap_or_default();
    connection
        .prepare_cached(
            "INSERT INTO forgotten (network, entries, entry, record, fees) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (network) DO UPDATE
             SET entries = entries + excluded.entries, entry = max(entry, excluded.entry),
                 record = max(record, excluded.record), fees = excluded.fees",
        )?
        .execute((network.as_str(), limit_of(seqs.len()), last, record, Money(fees)))?;
    connection
        .prepare_cached(
            "INSERT INTO forgotten_nonce (network, signer, nonce)
             SELECT network, signer, max(nonce) FROM signed_transaction
             WHERE entry IN (SELECT entry FROM forgetting) GROUP BY network, signer
             ON CONFLICT (network, signer) DO UPDATE SET nonce = max(nonce, excluded.nonce)",
        )?
        .execute([])?;
    Ok(())
}

/// What is known of the entries that were deleted.
pub(super) fn forgotten(connection: &Connection, network: &NetworkId) -> Outcomes<Forgotten> {
    let mut select = connection
        .prepare_cached("SELECT entries, entry, fees FROM forgotten WHERE network = ?1")?;
    let mut rows = select.query([network.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(Forgotten::default()) };
    let mut forgotten = read_forgotten(row).map_err(Stop::Broken)?;
    let mut select = connection
        .prepare_cached("SELECT signer, nonce FROM forgotten_nonce WHERE network = ?1")?;
    let mut rows = select.query([network.as_str()])?;
    while let Some(row) = rows.next()? {
        let Whole(nonce) = row.get(1)?;
        forgotten.nonces.insert(row.get(0)?, nonce);
    }
    Ok(forgotten)
}
