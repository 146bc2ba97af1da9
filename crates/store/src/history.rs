//! What the journals share of their history: a record in columns, and how it is read back.

use pay402_core::PaymentKey;
use pay402_core::history::{Change, Record, Sent};
use pay402_core::journal::{Delivery, Entry, NewEntry};
use pay402_core::time::UnixTime;

use crate::column::{Columns, Money, Net, Whole};
use crate::entry::{delivery_text, read_delivery};

/// Selects records, with what the entry says of its payment. The journals name their tables alike.
macro_rules! records {
    () => {
        $crate::history::records!("")
    };
    ($schema:literal) => {
        concat!(
            "SELECT history.*, entry.key, entry.network, entry.payer, entry.amount
             FROM ",
            $schema,
            "history JOIN ",
            $schema,
            "entry ON entry.seq = history.entry"
        )
    };
}
pub(crate) use records;

/// A record as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub(crate) entry: i64,
    pub(crate) at: Whole,
    pub(crate) change: &'static str,
    pub(crate) delivery: &'static str,
    pub(crate) entered_by: Option<String>,
    pub(crate) transaction: Option<String>,
    pub(crate) signer: Option<String>,
    pub(crate) nonce: Option<Whole>,
    pub(crate) block: Option<Whole>,
    pub(crate) fee: Option<Money>,
    pub(crate) reason: Option<String>,
}

impl Noted {
    /// The entry in row `seq` was just made.
    pub(crate) fn entered(seq: i64, new: &NewEntry) -> Self {
        let entered_by = new.entered_by.clone();
        Self::new(seq, entered_by, Delivery::Waiting, Change::Entered, new.entered_at)
    }

    /// The entry in row `seq`, as it is after `change`.
    pub(crate) fn of(seq: i64, entry: &Entry, change: Change, at: UnixTime) -> Self {
        Self::new(seq, entry.new.entered_by.clone(), entry.delivery, change, at)
    }

    fn new(
        entry: i64,
        entered_by: Option<String>,
        delivery: Delivery,
        change: Change,
        at: UnixTime,
    ) -> Self {
        let mut noted = Self {
            entry,
            at: at.into(),
            change: change.name(),
            delivery: delivery_text(delivery),
            entered_by,
            transaction: None,
            signer: None,
            nonce: None,
            block: None,
            fee: None,
            reason: None,
        };
        match change {
            Change::Entered | Change::Reopened | Change::HandedOver => {}
            Change::Signed(sent) | Change::Replaced(sent) => {
                noted.transaction = Some(sent.transaction);
                noted.signer = Some(sent.signer);
                noted.nonce = Some(Whole(sent.nonce));
            }
            Change::Sent { transaction } => noted.transaction = Some(transaction),
            Change::Settled { transaction, block, fee } => {
                noted.transaction = Some(transaction);
                noted.block = Some(Whole(block));
                noted.fee = Some(Money(fee));
            }
            Change::Failed { reason, transaction, fee }
            | Change::Reverted { reason, transaction, fee } => {
                noted.reason = Some(reason);
                noted.transaction = transaction;
                noted.fee = Some(Money(fee));
            }
        }
        noted
    }
}

/// The record in a row of [`records`], or what is wrong with it.
pub(crate) fn read_record(row: &impl Columns) -> Result<Record, String> {
    let seq: i64 = row.read("seq")?;
    let key: String = row.read("key")?;
    Ok(Record {
        seq: u64::try_from(seq).map_err(|_| "a number below zero".to_owned())?,
        at: row.read::<Whole>("at")?.into(),
        key: PaymentKey::from_stored(&key),
        network: row.read::<Net>("network")?.0,
        payer: row.read("payer")?,
        amount: row.read::<Money>("amount")?.0,
        entered_by: row.read("entered_by")?,
        change: read_change(row).map_err(|problem| format!("{problem} in record {seq}"))?,
        delivery: read_delivery(row)?,
    })
}

fn read_change(row: &impl Columns) -> Result<Change, String> {
    let change: String = row.read("change")?;
    let sent = || {
        Ok::<_, String>(Sent {
            transaction: row.read("transaction_hash")?,
            signer: row.read("signer")?,
            nonce: row.read::<Whole>("nonce")?.0,
        })
    };
    Ok(match change.as_str() {
        "entered" => Change::Entered,
        "signed" => Change::Signed(sent()?),
        "replaced" => Change::Replaced(sent()?),
        "sent" => Change::Sent { transaction: row.read("transaction_hash")? },
        "settled" => Change::Settled {
            transaction: row.read("transaction_hash")?,
            block: row.read::<Whole>("block")?.0,
            fee: row.read::<Money>("fee")?.0,
        },
        "failed" => Change::Failed {
            reason: row.read("reason")?,
            transaction: row.read("transaction_hash")?,
            fee: row.read::<Money>("fee")?.0,
        },
        "reverted" => Change::Reverted {
            reason: row.read("reason")?,
            transaction: row.read("transaction_hash")?,
            fee: row.read::<Money>("fee")?.0,
        },
        "reopened" => Change::Reopened,
        "handed_over" => Change::HandedOver,
        other => return Err(format!("unknown change {other:?}")),
    })
}
