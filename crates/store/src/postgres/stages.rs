//! Where many entries stand, as columns: what one statement writes of all of them.

use tokio_postgres::types::ToSql;

use crate::column::{Money, Whole, Words};
use crate::entry::{EntryRow, columns, delivery_text, plan_of};

/// The columns of many entries, each an array.
#[derive(Default)]
pub(super) struct Stages<'a> {
    seq: Vec<i64>,
    stage: Vec<&'static str>,
    delivery: Vec<&'static str>,
    plan: Vec<&'a [u8]>,
    signer: Vec<Option<&'a str>>,
    nonce: Vec<Option<Whole>>,
    raw: Vec<Option<&'a [u8]>>,
    transaction: Vec<Option<&'a str>>,
    block: Vec<Option<Whole>>,
    fee: Vec<Option<Money>>,
    reason: Vec<Option<&'a str>>,
    message: Vec<Option<Words>>,
    part: Vec<Option<i64>>,
    parts: Vec<Option<i64>>,
    spent: Vec<Option<Money>>,
    reverted: Vec<bool>,
}

impl<'a> Stages<'a> {
    pub(super) fn of(entries: impl Iterator<Item = &'a EntryRow>) -> Self {
        let mut all = Self::default();
        for EntryRow { seq, entry } in entries {
            let columns = columns(&entry.stage);
            all.seq.push(*seq);
            all.stage.push(columns.stage);
            all.delivery.push(delivery_text(entry.delivery));
            all.plan.push(plan_of(entry));
            all.signer.push(columns.signed.map(|signed| &*signed.sent.signer));
            all.nonce.push(columns.signed.map(|signed| Whole(signed.sent.nonce)));
            all.raw.push(columns.signed.map(|signed| &*signed.raw));
            all.transaction.push(columns.transaction);
            all.block.push(columns.block.map(Whole));
            all.fee.push(columns.fee);
            all.reason.push(columns.reason);
            all.message.push(columns.message.map(|message| Words(message.to_owned())));
            all.part.push(columns.part.map(|(index, _)| index));
            all.parts.push(columns.part.map(|(_, of)| of));
            all.spent.push(columns.spent);
            all.reverted.push(columns.reverted);
        }
        all
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 16] {
        [
            &self.seq,
            &self.stage,
            &self.delivery,
            &self.plan,
            &self.signer,
            &self.nonce,
            &self.raw,
            &self.transaction,
            &self.block,
            &self.fee,
            &self.reason,
            &self.message,
            &self.part,
            &self.parts,
            &self.spent,
            &self.reverted,
        ]
    }
}
