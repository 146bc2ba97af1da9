//! What the journals share of their books: an entry as an auditor reads it, and what was signed for it.

use pay402_core::PaymentKey;
use pay402_core::books::Booked;
use pay402_core::history::Sent;

use crate::column::{Columns, Hash, Money, Whole};
use crate::entry::{read_outcome, read_watched_block};
use crate::forget::number;

/// Selects the entries of a network with a number above one, and so many. The journals name their tables
/// alike.
macro_rules! booked {
    ($schema:literal, $network:literal, $after:literal, $limit:literal) => {
        concat!(
            "SELECT entry.seq, entry.key, entry.fingerprint, entry.payer, entry.amount, entry.entered_at,
                    entry.stage, entry.transaction_hash, entry.block, entry.fee, entry.reason,
                    entry.message, entry.reverted, watched.block AS watched_block,
                    watched.block_hash AS watched_hash
             FROM ",
            $schema,
            "entry LEFT JOIN ",
            $schema,
            "watched ON watched.entry = entry.seq
             WHERE entry.network = ",
            $network,
            " AND entry.seq > ",
            $after,
            " ORDER BY entry.seq LIMIT ",
            $limit
        )
    };
}
/// Selects what was signed for entries with numbers from one to another.
macro_rules! signed_for {
    ($schema:literal, $from:literal, $to:literal) => {
        concat!(
            "SELECT entry, signer, nonce, transaction_hash FROM ",
            $schema,
            "signed_transaction WHERE entry BETWEEN ",
            $from,
            " AND ",
            $to,
            " ORDER BY seq"
        )
    };
}
pub(crate) use {booked, signed_for};

/// The entry in a row of [`booked`], without what was signed for it.
pub(crate) fn read_booked(row: &impl Columns) -> Result<Booked, String> {
    let stage: String = row.read("stage")?;
    let outcome = match stage.as_str() {
        "due" | "signed" | "sent" => None,
        ended => Some(read_outcome(row, ended)?),
    };
    Ok(Booked {
        seq: number(row.read("seq")?)?,
        key: PaymentKey::from_stored(&row.read::<String>("key")?),
        fingerprint: row.read::<Hash>("fingerprint")?.0,
        payer: row.read("payer")?,
        amount: row.read::<Money>("amount")?.0,
        entered_at: row.read::<Whole>("entered_at")?.into(),
        outcome,
        watched: read_watched_block(row)?,
        signed: Vec::new(),
    })
}

/// The numbers of the first and the last of these.
pub(crate) fn ends(books: &[Booked]) -> Option<(i64, i64)> {
    let whole = |seq| i64::try_from(seq).unwrap_or(i64::MAX);
    Some((whole(books.first()?.seq), whole(books.last()?.seq)))
}

/// Puts what a row of [`signed_for`] tells to its entry among `books`, which are in the order of their
/// numbers. Entries between them may be another network's.
pub(crate) fn put_signed(books: &mut [Booked], row: &impl Columns) -> Result<(), String> {
    let of = number(row.read("entry")?)?;
    let Ok(place) = books.binary_search_by_key(&of, |booked| booked.seq) else { return Ok(()) };
    books[place].signed.push(Sent {
        transaction: row.read("transaction_hash")?,
        signer: row.read("signer")?,
        nonce: row.read::<Whole>("nonce")?.0,
    });
    Ok(())
}
