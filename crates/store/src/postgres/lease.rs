//! Leases in PostgreSQL: a row that every change locks, and the server's clock.

use std::time::Duration;

use deadpool_postgres::Client;
use pay402_core::NetworkId;
use pay402_core::journal::{Holder, JournalError, Lease, Leased};
use pay402_core::time::UnixTime;
use tokio_postgres::Row;

use super::{Outcomes, Parameters, Stop, read, rows};
use crate::column::Whole;
use crate::entry::{Held, Turn};

/// A row to lock, also before anybody held the lease; no lease has the token 0.
const LEASE_ROW: &str = "
    INSERT INTO pay402_journal.lease (network, holder, token, until)
    VALUES ($1, '', $2, $2) ON CONFLICT (network) DO NOTHING";
/// The lease and the time, by the server's clock alone: it is the only one that all have in common.
macro_rules! lease {
    () => {
        "SELECT holder, token, until, url,
                floor(extract(epoch FROM clock_timestamp()))::bigint AS now
         FROM pay402_journal.lease WHERE network = $1"
    };
}
const LEASE_FOUND: &str = lease!();
pub(super) const LEASE_LOCKED: &str = concat!(lease!(), " FOR UPDATE");
const LEASE_SET: &str = "
    UPDATE pay402_journal.lease SET holder = $2, token = $3, until = $4, url = $5
    WHERE network = $1";
pub(super) const LEASE_RELEASE: &str =
    "UPDATE pay402_journal.lease SET until = $3 WHERE network = $1 AND token = $2";
pub(super) const CLOCK: &str = "SELECT floor(extract(epoch FROM clock_timestamp()))::bigint AS now";
const OWE_ALL: &str = "
    WITH changed AS (
        UPDATE pay402_journal.entry SET delivery = 'owed'
        WHERE network = $1 AND delivery = 'waiting'
        RETURNING seq, delivery, entered_by
    )
    INSERT INTO pay402_journal.history (entry, at, change, delivery, entered_by)
    SELECT seq, $2, 'handed_over', delivery, entered_by FROM changed ORDER BY seq";

/// The lease as it is stored, if anybody ever had it, and the server's time.
pub(super) fn held(rows: &[Row]) -> Outcomes<Option<(Held, UnixTime)>> {
    let Some(row) = rows.first() else { return Ok(None) };
    let (Whole(token), until) = (read(row, "token")?, read::<Whole>(row, "until")?.into());
    let holder = Holder { name: read(row, "holder")?, url: read(row, "url")? };
    Ok(Some((Held { holder, token, until }, time(row)?)).filter(|(held, _)| held.token > 0))
}

/// The server's time.
pub(super) fn time(row: &Row) -> Outcomes<UnixTime> {
    let seconds = u64::try_from(read::<i64>(row, "now")?);
    seconds.map(UnixTime).map_err(|_| Stop::Failed("the server's clock is before 1970".into()))
}

fn turn(found: Option<&(Held, UnixTime)>, asker: &Holder) -> Outcomes<Turn> {
    let (held, now) = found.map_or((None, UnixTime(0)), |(held, now)| (Some(held), *now));
    Turn::of(held, &asker.name, now).map_err(Stop::Failed)
}

/// Takes the lease over, or renews it.
pub(super) async fn lease(
    client: &Client,
    network: &NetworkId,
    holder: &Holder,
    lasts: Duration,
) -> Outcomes<Leased> {
    let id = network.as_str();
    // Who follows asks often, and is not to stand in the way of who writes.
    let found = held(&rows(client, LEASE_FOUND, &[&id]).await?)?;
    if let Turn::Waits(holder) = turn(found.as_ref(), holder)? {
        return Ok(Leased::Held(holder));
    }
    let row = client.prepare_cached(LEASE_ROW).await?;
    let locked = client.prepare_cached(LEASE_LOCKED).await?;
    let (seed, of): (Parameters<'_>, Parameters<'_>) = (&[&id, &Whole(0)], &[&id]);
    let (begun, there, found) = tokio::join!(
        biased;
        client.batch_execute("BEGIN"),
        client.execute(&row, seed),
        client.query(&locked, of),
    );
    begun?;
    there?;
    let found = found?;
    let now = found.first().ok_or_else(|| Stop::Failed("no lease to lock".into()))?;
    let at = time(now)?;
    let until = Whole::from(at.plus_s(lasts.as_secs()));
    let (token, owed) = match turn(held(&found)?.as_ref(), holder)? {
        Turn::Waits(holder) => {
            client.batch_execute("ROLLBACK").await?;
            return Ok(Leased::Held(holder));
        }
        Turn::Keeps(token) => (token, false),
        Turn::TakesOver(token) => (token, true),
    };
    if owed {
        // Those who waited did so in a process that is gone.
        let owe = client.prepare_cached(OWE_ALL).await?;
        client.execute(&owe, &[&id, &Whole::from(at)]).await?;
    }
    let set = client.prepare_cached(LEASE_SET).await?;
    let stored = Whole(token);
    let now: Parameters<'_> = &[&id, &holder.name, &stored, &until, &holder.url];
    let (written, committed) = tokio::join!(
        biased;
        client.execute(&set, now),
        client.batch_execute("COMMIT"),
    );
    written?;
    committed?;
    Ok(Leased::Granted(Lease { network: network.clone(), token }))
}

/// Begins a transaction in which the lease is locked, and refuses one that was taken over.
pub(super) async fn begin(client: &Client, lease: &Lease) -> Outcomes<()> {
    let id = lease.network.as_str();
    let locked = client.prepare_cached(LEASE_LOCKED).await?;
    let of: Parameters<'_> = &[&id];
    let (begun, fence) =
        tokio::join!(biased; client.batch_execute("BEGIN"), client.query(&locked, of));
    begun?;
    if held(&fence?)?.map(|(held, _)| held.token) != Some(lease.token) {
        return Err(JournalError::LeaseLost(lease.network.clone()).into());
    }
    Ok(())
}
