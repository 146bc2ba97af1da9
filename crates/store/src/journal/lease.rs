//! Leases in SQLite: a row, and beside the file a lock that ends with the process that has the lease.

use pay402_core::NetworkId;
use pay402_core::journal::{Holder, JournalError, Lease, Leased};
use pay402_core::time::UnixTime;
use rusqlite::{Connection, OptionalExtension};

use super::Outcomes;
use super::lead::Leads;
use crate::column::Whole;
use crate::entry::{Held, RELEASED, Turn};
use crate::writer::Stop;

/// Takes the lease over, or renews it.
pub(super) fn lease(
    connection: &Connection,
    leads: &Leads,
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
    // Of a process that is gone it has run out, whatever the time.
    let is_gone = |held: &&Held| {
        let (name, until) = (&held.holder.name, held.until);
        name != &holder.name && now < until && leads.has_ended(network, name)
    };
    let gone = held.as_ref().filter(is_gone);
    let now_or_until = gone.map_or(now, |gone| gone.until);
    let token = match Turn::of(held.as_ref(), &holder.name, now_or_until).map_err(Stop::Broken)? {
        Turn::Waits(leader) => {
            leads.give_up(network, &holder.name);
            return Ok(Leased::Held(leader));
        }
        Turn::Keeps(token) => token,
        Turn::TakesOver(token) => {
            owe_all(connection, network, now)?;
            token
        }
    };
    leads.take(network, &holder.name);
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

/// Lets a lease run out now, unless it was taken over.
pub(super) fn release(connection: &Connection, leads: &Leads, lease: &Lease) -> Outcomes<()> {
    let network = lease.network.as_str();
    let holder = connection
        .prepare_cached(
            "UPDATE lease SET until = ?3 WHERE network = ?1 AND token = ?2 RETURNING holder",
        )?
        .query_row((network, Whole(lease.token), Whole::from(RELEASED)), |row| row.get(0))
        .optional()?;
    if let Some::<String>(holder) = holder {
        leads.give_up(&lease.network, &holder);
    }
    Ok(())
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
