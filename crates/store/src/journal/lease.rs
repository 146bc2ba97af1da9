//! Leases in SQLite.

use pay402_core::NetworkId;
use pay402_core::journal::{Holder, JournalError, Lease, Leased};
use pay402_core::time::UnixTime;
use rusqlite::{Connection, OptionalExtension};

use super::Outcomes;
use crate::column::Whole;
use crate::entry::{Held, Turn};
use crate::writer::Stop;

/// Takes the lease over, or renews it.
pub(super) fn lease(
    connection: &Connection,
    network: &NetworkId,
    holder: &Holder,
    now: UnixTime,
    until: UnixTime,
) -> Outcomes<Leased> {
    let held = connection
        .prepare_cached("SELECT holder, token, until, url FROM lease WHERE network = ?1")?
        .query_row([network.as_str()], |row| {
            let (Whole(token), until) = (row.get(1)?, row.get::<_, Whole>(2)?.into());
            Ok(Held { holder: Holder { name: row.get(0)?, url: row.get(3)? }, token, until })
        })
        .optional()?;
    let token = match Turn::of(held.as_ref(), &holder.name, now).map_err(Stop::Broken)? {
        Turn::Waits(holder) => return Ok(Leased::Held(holder)),
        Turn::Keeps(token) => token,
        Turn::TakesOver(token) => {
            owe_all(connection, network, now)?;
            token
        }
    };
    connection
        .prepare_cached(
            "INSERT INTO lease (network, holder, token, until, url) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (network) DO UPDATE
             SET holder = excluded.holder, token = excluded.token, until = excluded.until,
                 url = excluded.url",
        )?
        .execute((network.as_str(), &holder.name, Whole(token), Whole::from(until), &holder.url))?;
    Ok(Leased::Granted(Lease { network: network.clone(), token }))
}

/// Those who waited did so in a process that is gone.
fn owe_all(connection: &Connection, network: &NetworkId, at: UnixTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO history (entry, at, change, delivery, entered_by)
             SELECT seq, ?2, 'handed_over', 'owed', entered_by FROM entry
             WHERE network = ?1 AND delivery = 'waiting' ORDER BY seq",
        )?
        .execute((network.as_str(), Whole::from(at)))?;
    connection
        .prepare_cached(
            "UPDATE entry SET delivery = 'owed' WHERE network = ?1 AND delivery = 'waiting'",
        )?
        .execute([network.as_str()])?;
    Ok(())
}

/// Refuses a lease that was taken over.
pub(super) fn check_token(connection: &Connection, lease: &Lease) -> Outcomes<()> {
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
