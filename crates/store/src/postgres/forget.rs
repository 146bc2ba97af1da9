//! Forgetting in PostgreSQL.

use deadpool_postgres::Client;
use pay402_core::journal::{Forgotten, Horizon, JournalError, Lease, Looked};
use pay402_core::{NetworkId, PaymentKey};

use super::history::whole;
use super::lease::begin;
use super::{Outcomes, Parameters, PgJournal, Stop, read, rows};
use crate::column::{Money, Whole};
use crate::forget::{Going, added, aged, going, looked, number, read_aged, read_forgotten};

const FORGETTABLE: &str = concat!(
    aged!("pay402_journal."),
    " WHERE entry.network = $1 AND entry.seq > $2 ORDER BY entry.seq LIMIT $3"
);
/// Locked, so that nobody hands one of them over meanwhile.
const LOCKED: &str = concat!(
    aged!("pay402_journal."),
    " WHERE key = ANY ($1) AND entry.network = $2 ORDER BY entry.seq FOR UPDATE OF entry"
);
const SENT: &str = "
    SELECT min(seq) AS sent FROM pay402_journal.hook WHERE network = $1 AND name = ANY ($2)";
const NAME: &str = "INSERT INTO pay402_journal.forgetting (entry) SELECT unnest($1::bigint[])";
const KEEP: &str = "
    INSERT INTO pay402_journal.forgotten AS known (network, entries, entry, record, fees)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (network) DO UPDATE
    SET entries = known.entries + excluded.entries, entry = greatest(known.entry, excluded.entry),
        record = greatest(known.record, excluded.record), fees = excluded.fees";
const KEEP_NONCES: &str = "
    INSERT INTO pay402_journal.forgotten_nonce AS known (network, signer, nonce)
    SELECT network, signer, max(nonce) FROM pay402_journal.signed_transaction
    WHERE entry = ANY ($1::bigint[]) GROUP BY network, signer
    ON CONFLICT (network, signer) DO UPDATE SET nonce = greatest(known.nonce, excluded.nonce)";
/// What goes together with entries, in this order.
const GO: [&str; 4] = [
    "DELETE FROM pay402_journal.signed_transaction WHERE entry = ANY ($1::bigint[])",
    "DELETE FROM pay402_journal.history WHERE entry = ANY ($1::bigint[])",
    "DELETE FROM pay402_journal.entry WHERE seq = ANY ($1::bigint[])",
    "DELETE FROM pay402_journal.forgetting WHERE entry = ANY ($1::bigint[])",
];
const FORGOTTEN: &str =
    "SELECT entries, entry, fees FROM pay402_journal.forgotten WHERE network = $1";
const NONCES: &str = "SELECT signer, nonce FROM pay402_journal.forgotten_nonce WHERE network = $1";
const RECORDS: &str =
    "SELECT coalesce(max(record), 0)::bigint AS record FROM pay402_journal.forgotten";

impl PgJournal {
    pub(super) async fn past_after(
        &self,
        network: &NetworkId,
        (after, limit): (u64, usize),
        horizon: &Horizon,
    ) -> Result<Looked, JournalError> {
        let (network, horizon) = (network.clone(), horizon.clone());
        self.run(move |client| {
            Box::pin(async move {
                let sent = sent(client, &network, &horizon).await?;
                let most = i64::try_from(limit).unwrap_or(i64::MAX);
                let which: Parameters<'_> = &[&network.as_str(), &whole(after), &most];
                let found = rows(client, FORGETTABLE, which).await?;
                let found = found.iter().map(|row| read_aged(row).map_err(Stop::Failed));
                let found = found.collect::<Outcomes<Vec<_>>>()?;
                looked(found, after, limit, (&horizon, sent)).map_err(Stop::Failed)
            })
        })
        .await
    }

    pub(super) async fn past_deleted(
        &self,
        lease: &Lease,
        keys: Vec<PaymentKey>,
        horizon: &Horizon,
    ) -> Result<u64, JournalError> {
        let (lease, horizon) = (lease.clone(), horizon.clone());
        self.run(move |client| {
            Box::pin(async move { forget(client, &lease, &keys, &horizon).await })
        })
        .await
    }

    pub(super) async fn past_known(&self, network: &NetworkId) -> Result<Forgotten, JournalError> {
        let network = network.clone();
        self.run(move |client| Box::pin(async move { forgotten(client, &network).await })).await
    }

    pub(super) async fn past_records(&self) -> Result<u64, JournalError> {
        self.run(|client| {
            Box::pin(async move {
                let found = rows(client, RECORDS, &[]).await?;
                let row = found.first().ok_or_else(|| Stop::Failed("no number".into()))?;
                number(read(row, "record")?).map_err(Stop::Failed)
            })
        })
        .await
    }
}

/// How far the hooks have come that a horizon names; `None` when none of them has begun.
async fn sent(client: &Client, network: &NetworkId, horizon: &Horizon) -> Outcomes<Option<u64>> {
    let found = rows(client, SENT, &[&network.as_str(), &horizon.hooks]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    read::<Option<i64>>(row, "sent")?.map(number).transpose().map_err(Stop::Failed)
}

async fn forget(
    client: &Client,
    lease: &Lease,
    keys: &[PaymentKey],
    horizon: &Horizon,
) -> Outcomes<u64> {
    let network = &lease.network;
    begin(client, lease).await?;
    let sent = sent(client, network, horizon).await?;
    let keys: Vec<&str> = keys.iter().map(PaymentKey::as_str).collect();
    let found = rows(client, LOCKED, &[&keys, &network.as_str()]).await?;
    let found = found.iter().map(|row| read_aged(row).map_err(Stop::Failed));
    let found = found.collect::<Outcomes<Vec<_>>>()?;
    let going = going(found, (horizon, sent)).map_err(Stop::Failed)?;
    let Going { seqs, record, fees } = &going;
    if !seqs.is_empty() {
        let known = forgotten(client, network).await?;
        let fees = Money(added(known.fees, *fees).map_err(Stop::Failed)?);
        let count = i64::try_from(seqs.len()).unwrap_or(i64::MAX);
        let last = seqs.iter().copied().max().unwrap_or_default();
        let sums: Parameters<'_> = &[&network.as_str(), &count, &last, record, &fees];
        change(client, NAME, &[seqs]).await?;
        change(client, KEEP, sums).await?;
        change(client, KEEP_NONCES, &[seqs]).await?;
        for sql in GO {
            change(client, sql, &[seqs]).await?;
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(seqs.len() as u64)
}

async fn change(client: &Client, sql: &str, parameters: Parameters<'_>) -> Outcomes<()> {
    let statement = client.prepare_cached(sql).await?;
    client.execute(&statement, parameters).await?;
    Ok(())
}

async fn forgotten(client: &Client, network: &NetworkId) -> Outcomes<Forgotten> {
    let id = network.as_str();
    let found = rows(client, FORGOTTEN, &[&id]).await?;
    let Some(row) = found.first() else { return Ok(Forgotten::default()) };
    let mut forgotten = read_forgotten(row).map_err(Stop::Failed)?;
    for row in rows(client, NONCES, &[&id]).await? {
        let Whole(nonce) = read(&row, "nonce")?;
        forgotten.nonces.insert(read(&row, "signer")?, nonce);
    }
    Ok(forgotten)
}
