//! What the journal's backends share: how an entry stands in columns, and the rules by which it and
//! its network's lease change. A backend adds SQL, transactions and locks, and no rule.
//!
//! **Invariant:** an entry changes only by [`step`].

use pay402_core::journal::{
    Advance, Backlog, Delivery, Entry, Holder, JournalError, NewEntry, Outcome, SignedAs, Stage,
    step,
};
use pay402_core::network::{Part, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};

use crate::column::{Columns, Hash, Money, Net, Whole, Words};

/// An entry and the number of its row.
#[derive(Clone, Debug)]
pub(crate) struct EntryRow {
    pub(crate) seq: i64,
    pub(crate) entry: Entry,
}

/// The entry after one change by the holder of its network's lease.
pub(crate) fn advanced(mut entry: Entry, change: Advance) -> Result<Entry, JournalError> {
    entry.stage = step(entry.stage, change.event)?;
    if let Stage::Final(_) = &entry.stage {
        entry.new.plan.clear();
        if change.deliver && entry.delivery == Delivery::Waiting {
            entry.delivery = Delivery::Delivered;
        }
    }
    Ok(entry)
}

/// A lease as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) holder: Holder,
    pub(crate) token: u64,
    pub(crate) until: UnixTime,
}

/// Until when a lease lasts that was released.
pub(crate) const RELEASED: UnixTime = UnixTime(0);

/// What becomes of a lease that somebody asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// Its holder goes on, with this token.
    Keeps(u64),
    /// The asker has it from now on, with this token. Who waits for an outcome does so in a process
    /// that is gone.
    TakesOver(u64),
    /// Somebody else has it.
    Waits(Holder),
}

impl Turn {
    /// Whose turn it is when `asker` asks, or what is broken.
    pub(crate) fn of(held: Option<&Held>, asker: &str, now: UnixTime) -> Result<Self, String> {
        match held {
            // A renewal that was on its way when the lease was released comes too late.
            Some(held) if held.holder.name == asker && held.until == RELEASED => {
                Ok(Self::Waits(held.holder.clone()))
            }
            Some(held) if held.holder.name == asker => Ok(Self::Keeps(held.token)),
            Some(held) if now < held.until => Ok(Self::Waits(held.holder.clone())),
            Some(held) => {
                let next = held.token.checked_add(1);
                next.map(Self::TakesOver).ok_or_else(|| "lease tokens have run out".to_owned())
            }
            None => Ok(Self::TakesOver(1)),
        }
    }
}

/// One more than the highest recorded nonce.
pub(crate) fn nonce_after(highest: Option<Whole>) -> Result<Option<u64>, String> {
    let Some(Whole(highest)) = highest else { return Ok(None) };
    let next = highest.checked_add(1);
    next.map(Some).ok_or_else(|| "a nonce of 2^64 - 1 is recorded".to_owned())
}

/// What the columns of a stage hold; those of other stages are null.
#[derive(Default)]
pub(crate) struct StageColumns<'a> {
    pub(crate) stage: &'static str,
    pub(crate) signed: Option<&'a SignedAs>,
    /// The place in a transaction that carries several out, and of how many.
    pub(crate) part: Option<(i64, i64)>,
    pub(crate) spent: Option<Money>,
    pub(crate) transaction: Option<&'a str>,
    pub(crate) block: Option<u64>,
    pub(crate) fee: Option<Money>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
}

pub(crate) fn columns(stage: &Stage) -> StageColumns<'_> {
    match stage {
        Stage::Due => StageColumns { stage: "due", ..StageColumns::default() },
        Stage::Signed(signed) | Stage::Sent(signed) => StageColumns {
            stage: if matches!(stage, Stage::Signed(_)) { "signed" } else { "sent" },
            signed: Some(signed),
            part: Some(signed.sent.part)
                .filter(|part| !part.is_whole())
                .map(|part| (part.index.into(), part.of.into())),
            spent: Some(signed.spent).filter(|spent| !spent.is_zero()).map(Money),
            transaction: Some(&signed.sent.transaction),
            ..StageColumns::default()
        },
        Stage::Final(Outcome::Settled { transaction, block, fee }) => StageColumns {
            stage: "settled",
            transaction: Some(transaction),
            block: Some(*block),
            fee: Some(Money(*fee)),
            ..StageColumns::default()
        },
        Stage::Final(Outcome::Failed { reason, message, transaction, fee }) => StageColumns {
            stage: "failed",
            transaction: transaction.as_deref(),
            fee: Some(Money(*fee)),
            reason: Some(reason),
            message: Some(message),
            ..StageColumns::default()
        },
    }
}

/// Adds the unfinished entries of one stage and one signer, as they were counted together.
pub(crate) fn count(backlog: &mut Backlog, row: &impl Columns) -> Result<(), String> {
    let entries: i64 = row.read("entries")?;
    let entries = u64::try_from(entries).map_err(|_| "a count below zero".to_owned())?;
    let oldest: UnixTime = row.read::<Whole>("oldest")?.into();
    backlog.oldest = Some(backlog.oldest.map_or(oldest, |known| known.min(oldest)));
    match row.read::<String>("stage")?.as_str() {
        "due" => backlog.due += entries,
        "signed" => backlog.signed += entries,
        _ => backlog.sent += entries,
    }
    if let Some(signer) = row.read::<Option<String>>("signer")? {
        *backlog.by_signer.entry(signer).or_default() += entries;
    }
    Ok(())
}

/// The entry in a row, or what is wrong with it.
pub(crate) fn read_entry(row: &impl Columns) -> Result<EntryRow, String> {
    let key: String = row.read("key")?;
    let new = NewEntry {
        key: PaymentKey::from_stored(&key),
        fingerprint: row.read::<Hash>("fingerprint")?.0,
        network: row.read::<Net>("network")?.0,
        payer: row.read("payer")?,
        amount: row.read::<Money>("amount")?.0,
        expires: row.read::<Whole>("expires")?.into(),
        caller: row.read::<Option<Hash>>("caller")?.map(|hash| hash.0),
        entered_by: row.read("entered_by")?,
        plan: row.read("plan")?,
        entered_at: row.read::<Whole>("entered_at")?.into(),
    };
    let delivery = read_delivery(row)?;
    let stage: String = row.read("stage")?;
    let stage = match stage.as_str() {
        "due" => Stage::Due,
        "signed" => Stage::Signed(read_signed(row)?),
        "sent" => Stage::Sent(read_signed(row)?),
        "settled" => Stage::Final(Outcome::Settled {
            transaction: row.read("transaction_hash")?,
            block: row.read::<Whole>("block")?.0,
            fee: row.read::<Money>("fee")?.0,
        }),
        "failed" => Stage::Final(Outcome::Failed {
            reason: row.read("reason")?,
            message: row.read::<Words>("message")?.0,
            transaction: row.read("transaction_hash")?,
            fee: row.read::<Money>("fee")?.0,
        }),
        other => return Err(format!("unknown stage {other:?} of {key}")),
    };
    Ok(EntryRow { seq: row.read("seq")?, entry: Entry { new, stage, delivery } })
}

fn read_signed(row: &impl Columns) -> Result<SignedAs, String> {
    // The transactions whose place the recorded one was to take; every query brings them along.
    let replaced: Option<String> = row.read("replaced")?;
    let part = match (row.read::<Option<i64>>("part")?, row.read::<Option<i64>>("parts")?) {
        (None, None) => Some(Part::WHOLE),
        (Some(index), Some(of)) => match (index.try_into(), of.try_into()) {
            (Ok(index), Ok(of)) if index < of => Some(Part { index, of }),
            _ => None,
        },
        _ => None,
    };
    let sent = SentAs {
        part: part.ok_or_else(|| "a part of no whole".to_owned())?,
        signer: row.read("signer")?,
        nonce: row.read::<Whole>("nonce")?.0,
        transaction: row.read("transaction_hash")?,
        replaced: replaced.unwrap_or_default().split_whitespace().map(str::to_owned).collect(),
    };
    let spent = row.read::<Option<Money>>("spent")?.map_or(Amount::ZERO, |money| money.0);
    Ok(SignedAs { sent, raw: row.read("raw")?, spent })
}

pub(crate) fn read_delivery(row: &impl Columns) -> Result<Delivery, String> {
    let delivery: String = row.read("delivery")?;
    match delivery.as_str() {
        "waiting" => Ok(Delivery::Waiting),
        "owed" => Ok(Delivery::Owed),
        "delivered" => Ok(Delivery::Delivered),
        other => Err(format!("unknown delivery {other:?}")),
    }
}

/// How a delivery is spelled.
pub(crate) const fn delivery_text(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Waiting => "waiting",
        Delivery::Owed => "owed",
        Delivery::Delivered => "delivered",
    }
}
