//! What is watched in PostgreSQL: rows of their own beside final entries, and their burial.

use deadpool_postgres::Client;
use pay402_core::NetworkId;
use pay402_core::journal::{Entry, Lease, Watch};
use pay402_core::network::BlockId;
use tokio_postgres::types::ToSql;

use super::lease::begin;
use super::{Outcomes, Parameters, beside, entries, entry_of, read, rows};
use crate::column::{Money, Net, Whole};
use crate::entry::{EntryRow, part_of, spent_of};

const WATCHED_BLOCKS: &str = "
    SELECT DISTINCT block, block_hash FROM pay402_journal.watched WHERE network = $1
    ORDER BY block, block_hash";
const WATCHED_IN: &str = concat!(
    entries!(),
    " WHERE watched.network = $1 AND watched.block = $2 AND watched.block_hash = $3
    ORDER BY entry.seq"
);
const BURY: &str = "
    DELETE FROM pay402_journal.watched WHERE entry IN (
        SELECT entry FROM pay402_journal.watched WHERE network = $1 AND block <= $2
        ORDER BY block LIMIT $3)";
pub(super) const WATCH: &str = "
    INSERT INTO pay402_journal.watched (entry, network, block, block_hash, plan, signer, nonce, raw,
                                        transaction_hash, part, parts, spent)
    SELECT now.entry, $1, now.block, now.block_hash, now.plan, now.signer, now.nonce, now.raw,
           now.transaction_hash, now.part, now.parts, now.spent
    FROM unnest($2::bigint[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                $8::bytea[], $9::text[], $10::bigint[], $11::bigint[], $12::text[])
         AS now (entry, block, block_hash, plan, signer, nonce, raw, transaction_hash, part, parts,
                 spent)
    ON CONFLICT (entry) DO UPDATE
    SET block = excluded.block, block_hash = excluded.block_hash";
pub(super) const UNWATCH: &str = "DELETE FROM pay402_journal.watched WHERE entry = ANY ($1)";

/// The blocks that closed watched entries.
pub(super) async fn blocks(client: &Client, network: NetworkId) -> Outcomes<Vec<BlockId>> {
    let found = rows(client, WATCHED_BLOCKS, &[&Net(network)]).await?;
    let block = |row| {
        let Whole(number) = read(row, "block")?;
        Ok(BlockId { number, hash: read(row, "block_hash")? })
    };
    found.iter().map(block).collect()
}

/// The watched entries that a block closed.
pub(super) async fn entries_in(
    client: &Client,
    network: NetworkId,
    block: &BlockId,
) -> Outcomes<Vec<Entry>> {
    let (network, number) = (Net(network), Whole(block.number));
    let found = rows(client, WATCHED_IN, &[&network, &number, &block.hash]).await?;
    found.iter().map(|row| entry_of(row).map(|found| found.entry)).collect()
}

/// Wipes what was kept of entries that were closed in blocks up to `through`.
pub(super) async fn bury(
    client: &Client,
    lease: &Lease,
    through: u64,
    limit: usize,
) -> Outcomes<u64> {
    let id = lease.network.as_str();
    let bury = client.prepare_cached(BURY).await?;
    begin(client, lease).await?;
    let (through, limit) = (Whole(through), i64::try_from(limit).unwrap_or(i64::MAX));
    let which: Parameters<'_> = &[&id, &through, &limit];
    let (buried, committed) =
        tokio::join!(biased; client.execute(&bury, which), client.batch_execute("COMMIT"));
    let buried = buried?;
    committed?;
    Ok(buried)
}

/// What is watched of many entries, each column an array.
#[derive(Default)]
pub(super) struct Watches<'a> {
    pub(super) entry: Vec<i64>,
    block: Vec<Whole>,
    hash: Vec<&'a str>,
    plan: Vec<&'a [u8]>,
    signer: Vec<Option<&'a str>>,
    nonce: Vec<Option<Whole>>,
    raw: Vec<Option<&'a [u8]>>,
    transaction: Vec<Option<&'a str>>,
    part: Vec<Option<i64>>,
    parts: Vec<Option<i64>>,
    spent: Vec<Option<Money>>,
}

impl<'a> Watches<'a> {
    pub(super) fn of(entries: impl Iterator<Item = &'a EntryRow>) -> Self {
        let mut all = Self::default();
        for EntryRow { seq, entry } in entries {
            let Some(Watch { block, signed }) = &entry.watch else { continue };
            let signed = signed.as_ref();
            all.entry.push(*seq);
            all.block.push(Whole(block.number));
            all.hash.push(&block.hash);
            all.plan.push(&entry.new.plan);
            all.signer.push(signed.map(|signed| &*signed.sent.signer));
            all.nonce.push(signed.map(|signed| Whole(signed.sent.nonce)));
            all.raw.push(signed.map(|signed| &*signed.raw));
            all.transaction.push(signed.map(|signed| &*signed.sent.transaction));
            let part = signed.and_then(part_of);
            all.part.push(part.map(|(index, _)| index));
            all.parts.push(part.map(|(_, of)| of));
            all.spent.push(signed.and_then(spent_of));
        }
        all
    }

    pub(super) fn parameters<'p>(&'p self, network: &'p &str) -> [&'p (dyn ToSql + Sync); 12] {
        [
            network,
            &self.entry,
            &self.block,
            &self.hash,
            &self.plan,
            &self.signer,
            &self.nonce,
            &self.raw,
            &self.transaction,
            &self.part,
            &self.parts,
            &self.spent,
        ]
    }
}
