//! How far webhooks have come, in PostgreSQL.

use pay402_core::NetworkId;
use pay402_core::journal::{JournalError, Lease};

use super::history::whole;
use super::{PgJournal, Stop, read, rows};
use crate::column::Whole;

const AT: &str = "SELECT seq FROM pay402_journal.hook WHERE name = $1 AND network = $2";
/// The lease is locked, so that a take-over comes before this or after it.
const BEGIN: &str = "
    WITH held AS (SELECT token FROM pay402_journal.lease WHERE network = $2 FOR UPDATE),
    moved AS (
        INSERT INTO pay402_journal.hook (name, network, seq)
        SELECT $1, $2, $3 FROM held WHERE token = $4
        ON CONFLICT DO NOTHING
        RETURNING seq
    )
    SELECT token, EXISTS (SELECT FROM moved) AS moved FROM held";
const MOVE: &str = "
    WITH held AS (SELECT token FROM pay402_journal.lease WHERE network = $2 FOR UPDATE),
    moved AS (
        UPDATE pay402_journal.hook AS hook SET seq = $3 FROM held
        WHERE held.token = $4 AND hook.name = $1 AND hook.network = $2 AND hook.seq = $5
        RETURNING hook.seq
    )
    SELECT token, EXISTS (SELECT FROM moved) AS moved FROM held";
const SET_BACK: &str = "UPDATE pay402_journal.hook SET seq = $2 WHERE name = $1 AND seq > $2";

impl PgJournal {
    pub(super) async fn hook_at(
        &self,
        name: &str,
        network: &NetworkId,
    ) -> Result<Option<u64>, JournalError> {
        let (name, network) = (name.to_owned(), network.clone());
        self.run(move |client| {
            Box::pin(async move {
                let found = rows(client, AT, &[&name, &network.as_str()]).await?;
                let Some(row) = found.first() else { return Ok(None) };
                let seq: i64 = read(row, "seq")?;
                u64::try_from(seq).map(Some).map_err(|_| Stop::Failed("a number below zero".into()))
            })
        })
        .await
    }

    pub(super) async fn hook_moved(
        &self,
        lease: &Lease,
        name: &str,
        from: Option<u64>,
        to: u64,
    ) -> Result<bool, JournalError> {
        let (lease, name) = (lease.clone(), name.to_owned());
        self.run(move |client| {
            Box::pin(async move {
                let (id, to, token) = (lease.network.as_str(), whole(to), Whole(lease.token));
                let found = match from.map(whole) {
                    None => rows(client, BEGIN, &[&name, &id, &to, &token]).await?,
                    Some(from) => rows(client, MOVE, &[&name, &id, &to, &token, &from]).await?,
                };
                match found.first() {
                    Some(row) if read::<Whole>(row, "token")? == token => read(row, "moved"),
                    _ => Err(JournalError::LeaseLost(lease.network.clone()).into()),
                }
            })
        })
        .await
    }

    pub(super) async fn hook_set_back(&self, name: &str, after: u64) -> Result<u64, JournalError> {
        let name = name.to_owned();
        self.run(move |client| {
            Box::pin(async move {
                let statement = client.prepare_cached(SET_BACK).await?;
                Ok(client.execute(&statement, &[&name, &whole(after)]).await?)
            })
        })
        .await
    }
}
