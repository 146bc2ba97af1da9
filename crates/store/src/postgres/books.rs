//! The journal's books in PostgreSQL, and the journal opened only to be read.

use deadpool_postgres::Client;
use pay402_core::NetworkId;
use pay402_core::books::Booked;
use pay402_core::error::Misconfigured;
use pay402_core::journal::JournalError;

use super::history::{Horizon, whole};
use super::{Outcomes, PgJournal, Stop, connect, rows, schema};
use crate::books::{booked, ends, put_signed, read_booked, signed_for};
use crate::column::Net;

const BOOKED: &str = booked!("pay402_journal.", "$1", "$2", "$3");
const SIGNED_FOR: &str = signed_for!("pay402_journal.", "$1", "$2");

impl PgJournal {
    /// Opens the journal in the database that `url` names to read it: nothing is made there, or brought to
    /// another format.
    ///
    /// # Errors
    /// When there is none, it is of another format than this program writes, or the server cannot be reached.
    pub async fn look(url: &str, password: Option<&str>) -> Result<Self, Misconfigured> {
        let pool = connect::pool(url, password)?;
        let client = pool.get().await.map_err(connect::unreached)?;
        schema::JOURNAL.look(&client).await?;
        drop(client);
        Ok(Self { pool, horizon: Horizon::default() })
    }

    pub(super) async fn books_after(
        &self,
        network: &NetworkId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Booked>, JournalError> {
        let network = network.clone();
        self.run(move |client| Box::pin(async move { page(client, network, after, limit).await }))
            .await
    }
}

/// Entries of a network in the order of their numbers. What was signed is read after them: what an entry
/// says of itself was signed before.
async fn page(
    client: &Client,
    network: NetworkId,
    after: u64,
    limit: usize,
) -> Outcomes<Vec<Booked>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let found = rows(client, BOOKED, &[&Net(network), &whole(after), &limit]).await?;
    let books = found.iter().map(|row| read_booked(row).map_err(Stop::Failed));
    let mut books = books.collect::<Outcomes<Vec<_>>>()?;
    let Some((first, last)) = ends(&books) else { return Ok(books) };
    for row in rows(client, SIGNED_FOR, &[&first, &last]).await? {
        put_signed(&mut books, &row).map_err(Stop::Failed)?;
    }
    Ok(books)
}
