//! Who may be told that a payment succeeded, in PostgreSQL.

use pay402_core::PaymentKey;
use pay402_core::journal::{Delivery, JournalError, Lease};
use pay402_core::time::UnixTime;

use super::{PgJournal, read, rows};
use crate::column::Whole;
use crate::entry::delivery_text;

/// The lease is locked, so that a take-over comes before this or after it.
const HAND_OVER: &str = "
    WITH held AS (
        SELECT token FROM pay402_journal.lease WHERE network = $5 AND token = $6 FOR SHARE
    ),
    changed AS (
        UPDATE pay402_journal.entry SET delivery = $3 WHERE key = $1 AND delivery = $2
          AND ($3 <> 'delivered' OR stage = 'settled')
          AND ($5 IS NULL OR EXISTS (SELECT FROM held))
        RETURNING seq, delivery, entered_by
    ),
    noted AS (
        INSERT INTO pay402_journal.history (entry, at, change, delivery, entered_by)
        SELECT seq, $4, 'handed_over', delivery, entered_by FROM changed
    )
    SELECT EXISTS (SELECT FROM changed) AS moved, EXISTS (SELECT FROM held) AS held";

impl PgJournal {
    pub(super) async fn handed_over(
        &self,
        lease: Option<&Lease>,
        key: &PaymentKey,
        (from, to): (Delivery, Delivery),
        at: UnixTime,
    ) -> Result<bool, JournalError> {
        let (lease, key) = (lease.cloned(), key.clone());
        self.run(move |client| {
            Box::pin(async move {
                let (from, to, at) = (delivery_text(from), delivery_text(to), Whole::from(at));
                let network = lease.as_ref().map(|lease| lease.network.as_str());
                let token = lease.as_ref().map(|lease| Whole(lease.token));
                let key = key.as_str();
                let found =
                    rows(client, HAND_OVER, &[&key, &from, &to, &at, &network, &token]).await?;
                let row = found.first().expect("a row of two answers");
                match lease {
                    Some(lease) if !read::<bool>(row, "held")? => {
                        Err(JournalError::LeaseLost(lease.network).into())
                    }
                    Some(_) | None => read(row, "moved"),
                }
            })
        })
        .await
    }
}
