//! What the journal's backends share: how an entry stands in columns, and the rules by which it and
//! its network's lease change. A backend adds SQL, transactions and locks, and no rule.
//!
//! **Invariant:** an entry changes only by [`step`]. Its own row holds nothing spendable once it is
//! final: what a watched entry keeps is in a row beside it, and that row goes when its block is buried.

use pay402_core::history::Change;
use pay402_core::journal::{
    Advance, Backlog, Cost, Delivery, Entry, Holder, JournalError, Loss, NewEntry, Outcome,
    SignedAs, Stage, Watch, step,
};
use pay402_core::network::{BlockId, Part, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};

use crate::column::{Columns, Hash, Money, Net, Whole, Words};

/// An entry and the number of its row.
#[derive(Clone, Debug)]
pub(crate) struct EntryRow {
    pub(crate) seq: i64,
    pub(crate) entry: Entry,
}

/// The entry after one change by the holder of its network's lease, and what is told of the change.
pub(crate) fn advanced(
    entry: Entry,
    change: Advance,
) -> Result<(Entry, Option<Change>), JournalError> {
    let event = change.event.clone();
    let mut entry = step(entry, change.event)?;
    let is_told = matches!(entry.stage, Stage::Final(_)) && change.deliver;
    if is_told && entry.delivery == Delivery::Waiting {
        entry.delivery = Delivery::Delivered;
    }
    let told = Change::by(&event, &entry.stage);
    Ok((entry, told))
}

/// The plan as it stands in the entry's own row: that of a final entry, while there is one, is among
/// what is watched.
pub(crate) fn plan_of(entry: &Entry) -> &[u8] {
    if entry.watch.is_some() { &[] } else { &entry.new.plan }
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
    pub(crate) reverted: bool,
}

/// The place in a transaction that carries several out, and of how many.
pub(crate) fn part_of(signed: &SignedAs) -> Option<(i64, i64)> {
    let part = Some(signed.sent.part).filter(|part| !part.is_whole());
    part.map(|part| (part.index.into(), part.of.into()))
}

/// What earlier transactions cost; `None` for nothing.
pub(crate) fn spent_of(signed: &SignedAs) -> Option<Money> {
    Some(signed.spent).filter(|spent| !spent.is_zero()).map(Money)
}

pub(crate) fn columns(stage: &Stage) -> StageColumns<'_> {
    match stage {
        Stage::Due => StageColumns { stage: "due", ..StageColumns::default() },
        Stage::Signed(signed) | Stage::Sent(signed) => StageColumns {
            stage: if matches!(stage, Stage::Signed(_)) { "signed" } else { "sent" },
            signed: Some(signed),
            part: part_of(signed),
            spent: spent_of(signed),
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
        Stage::Final(
            outcome @ (Outcome::Failed { reason, message, transaction, fee }
            | Outcome::Reverted { reason, message, transaction, fee }),
        ) => StageColumns {
            stage: "failed",
            transaction: transaction.as_deref(),
            fee: Some(Money(*fee)),
            reason: Some(reason),
            message: Some(message),
            reverted: matches!(outcome, Outcome::Reverted { .. }),
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

/// What a failed entry cost, with the record of its failure, or what is wrong with the row.
pub(crate) fn read_loss(row: &impl Columns) -> Result<Loss, String> {
    let key: String = row.read("key")?;
    Ok(Loss {
        key: PaymentKey::from_stored(&key),
        payer: row.read("payer")?,
        entered_by: row.read("entered_by")?,
        at: row.read::<Whole>("at")?.into(),
        fee: row.read::<Money>("fee")?.0,
    })
}

/// What one entry cost, or several together, or what is wrong with the row.
pub(crate) fn read_cost(row: &impl Columns) -> Result<Cost, String> {
    let key: Option<String> = row.read("key")?;
    Ok(Cost {
        entered_by: row.read("entered_by")?,
        key: key.as_deref().map(PaymentKey::from_stored),
        at: row.read::<Whole>("at")?.into(),
        fee: row.read::<Money>("fee")?.0,
    })
}

/// What two entries cost together, or what is wrong with their rows.
pub(crate) fn sum(a: Amount, b: Amount) -> Result<Amount, String> {
    a.checked_add(b).ok_or_else(|| "fees beyond what can be counted".to_owned())
}

/// The entry in a row, or what is wrong with it.
pub(crate) fn read_entry(row: &impl Columns) -> Result<EntryRow, String> {
    let key: String = row.read("key")?;
    let watch = read_watch(row)?;
    let plan = if watch.is_some() { "watched_plan" } else { "plan" };
    let new = NewEntry {
        key: PaymentKey::from_stored(&key),
        fingerprint: row.read::<Hash>("fingerprint")?.0,
        network: row.read::<Net>("network")?.0,
        payer: row.read("payer")?,
        amount: row.read::<Money>("amount")?.0,
        expires: row.read::<Whole>("expires")?.into(),
        caller: row.read::<Option<Hash>>("caller")?.map(|hash| hash.0),
        entered_by: row.read("entered_by")?,
        plan: row.read(plan)?,
        entered_at: row.read::<Whole>("entered_at")?.into(),
    };
    let delivery = read_delivery(row)?;
    let stage: String = row.read("stage")?;
    let stage = match stage.as_str() {
        "due" => Stage::Due,
        "signed" => Stage::Signed(read_signed(row)?),
        "sent" => Stage::Sent(read_signed(row)?),
        other => Stage::Final(read_outcome(row, other)?),
    };
    Ok(EntryRow { seq: row.read("seq")?, entry: Entry { new, stage, delivery, watch } })
}

/// How an entry ended that is at this stage.
pub(crate) fn read_outcome(row: &impl Columns, stage: &str) -> Result<Outcome, String> {
    match stage {
        "settled" => Ok(Outcome::Settled {
            transaction: row.read("transaction_hash")?,
            block: row.read::<Whole>("block")?.0,
            fee: row.read::<Money>("fee")?.0,
        }),
        "failed" => {
            let (reason, message) = (row.read("reason")?, row.read::<Words>("message")?.0);
            let (transaction, fee) = (row.read("transaction_hash")?, row.read::<Money>("fee")?.0);
            Ok(match row.read("reverted")? {
                true => Outcome::Reverted { reason, message, transaction, fee },
                false => Outcome::Failed { reason, message, transaction, fee },
            })
        }
        other => Err(format!("unknown stage {other:?} of {}", row.read::<String>("key")?)),
    }
}

fn read_signed(row: &impl Columns) -> Result<SignedAs, String> {
    let sent = SentAs {
        part: read_part(row.read("part")?, row.read("parts")?)?,
        signer: row.read("signer")?,
        nonce: row.read::<Whole>("nonce")?.0,
        transaction: row.read("transaction_hash")?,
        replaced: read_replaced(row)?,
    };
    let spent = row.read::<Option<Money>>("spent")?.map_or(Amount::ZERO, |money| money.0);
    Ok(SignedAs { sent, raw: row.read("raw")?, spent })
}

fn read_part(index: Option<i64>, of: Option<i64>) -> Result<Part, String> {
    let no_whole = || "a part of no whole".to_owned();
    match (index, of) {
        (None, None) => Ok(Part::WHOLE),
        (Some(index), Some(of)) => match (index.try_into(), of.try_into()) {
            (Ok(index), Ok(of)) if index < of => Ok(Part { index, of }),
            _ => Err(no_whole()),
        },
        _ => Err(no_whole()),
    }
}

/// The transactions whose place the recorded one was to take; every query brings them along.
fn read_replaced(row: &impl Columns) -> Result<Vec<String>, String> {
    let replaced: Option<String> = row.read("replaced")?;
    Ok(replaced.unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

/// The block that closed a watched entry.
pub(crate) fn read_watched_block(row: &impl Columns) -> Result<Option<BlockId>, String> {
    let Some(Whole(number)) = row.read("watched_block")? else { return Ok(None) };
    Ok(Some(BlockId { number, hash: row.read("watched_hash")? }))
}

/// What is kept of a final entry, when something is; every query brings it along.
fn read_watch(row: &impl Columns) -> Result<Option<Watch>, String> {
    let Some(block) = read_watched_block(row)? else { return Ok(None) };
    let Some(signer) = row.read("watched_signer")? else {
        return Ok(Some(Watch { block, signed: None }));
    };
    let sent = SentAs {
        part: read_part(row.read("watched_part")?, row.read("watched_parts")?)?,
        signer,
        nonce: row.read::<Whole>("watched_nonce")?.0,
        transaction: row.read("watched_transaction")?,
        replaced: read_replaced(row)?,
    };
    let spent = row.read::<Option<Money>>("watched_spent")?.map_or(Amount::ZERO, |money| money.0);
    let signed = SignedAs { sent, raw: row.read("watched_raw")?, spent };
    Ok(Some(Watch { block, signed: Some(signed) }))
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
