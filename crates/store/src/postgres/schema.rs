//! The journal's schema in the database: ours or nobody's, and brought to the present format.
//!
//! **Invariant:** nothing is read or written in a schema of another kind or of a later format.

use deadpool_postgres::Client;
use pay402_core::error::Misconfigured;

use super::connect::wrong;
use super::told;

/// Where the journal's tables are. The SQL of a journal names it.
pub(super) const JOURNAL: Schema = Schema {
    name: "pay402_journal",
    migrations: &[
        include_str!("../../migrations/journal-postgres/0001_init.sql"),
        include_str!("../../migrations/journal-postgres/0002_history.sql"),
        include_str!("../../migrations/journal-postgres/0003_leader.sql"),
        include_str!("../../migrations/journal-postgres/0004_packs.sql"),
        include_str!("../../migrations/journal-postgres/0005_hooks.sql"),
        include_str!("../../migrations/journal-postgres/0006_watched.sql"),
        include_str!("../../migrations/journal-postgres/0007_forgotten.sql"),
        include_str!("../../migrations/journal-postgres/0008_costs.sql"),
    ],
};

/// Processes that start at once bring the schema to its format one after the other; the number is
/// ours alone, `402j` in ASCII.
const TURN: &str = "SELECT pg_advisory_xact_lock(875573866)";

/// A schema, and the SQL that leads from each of its formats to the next, from the empty one on.
/// Only forwards: what an earlier program wrote is taken along, what a later one wrote is refused.
#[derive(Debug)]
pub(super) struct Schema {
    pub(super) name: &'static str,
    pub(super) migrations: &'static [&'static str],
}

impl Schema {
    /// Brings the schema to the present format, in one transaction.
    pub(super) async fn open(&self, client: &Client) -> Result<(), Misconfigured> {
        let sql = |error: tokio_postgres::Error| {
            wrong(&format!(
                "cannot hold the journal: {}; its user needs CREATE on it for the first start, and \
                 owns the schema {} afterwards",
                told(&error),
                self.name
            ))
        };
        // Making indexes on a large journal takes longer than a query may.
        let begin =
            "BEGIN; SET LOCAL statement_timeout = '10min'; SET LOCAL lock_timeout = '10min'";
        client.batch_execute(begin).await.map_err(sql)?;
        client.batch_execute(TURN).await.map_err(sql)?;
        let done = match self.format(client).await.map_err(sql)? {
            Found::Nothing => {
                let first = format!(
                    "CREATE SCHEMA {0};
                     CREATE TABLE {0}.migration (
                         format INTEGER PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
                    self.name
                );
                client.batch_execute(&first).await.map_err(sql)?;
                0
            }
            Found::Format(format) => usize::try_from(format)
                .ok()
                .filter(|format| (1..=self.migrations.len()).contains(format))
                .ok_or_else(|| {
                    wrong(&format!(
                        "holds a journal whose format {format} was written by a later pay402 (this \
                         one knows formats up to {}); upgrade pay402",
                        self.migrations.len()
                    ))
                })?,
            Found::Strange => {
                return Err(wrong(&format!(
                    "has a schema {} that is no journal of pay402; name another database",
                    self.name
                )));
            }
        };
        for (index, migration) in self.migrations.iter().enumerate().skip(done) {
            client.batch_execute(migration).await.map_err(sql)?;
            let note = format!("INSERT INTO {}.migration VALUES ({})", self.name, index + 1);
            client.batch_execute(&note).await.map_err(sql)?;
        }
        client.batch_execute("COMMIT").await.map_err(sql)
    }

    /// Checks that the schema is in the present format, and changes nothing.
    pub(super) async fn look(&self, client: &Client) -> Result<(), Misconfigured> {
        let found = self.format(client).await;
        let present = self.migrations.len();
        match found.map_err(|error| wrong(&format!("cannot be read: {}", told(&error))))? {
            Found::Format(format) if usize::try_from(format) == Ok(present) => Ok(()),
            Found::Format(format) => Err(wrong(&format!(
                "holds a journal of format {format}, and this pay402 reads format {present}; have the \
                 facilitator of this version open it first"
            ))),
            Found::Nothing | Found::Strange => {
                Err(wrong("holds no journal; name another database"))
            }
        }
    }

    async fn format(&self, client: &Client) -> Result<Found, tokio_postgres::Error> {
        let table = format!("{}.migration", self.name);
        let row = client
            .query_one(
                "SELECT to_regnamespace($1) IS NOT NULL AS schema,
                        to_regclass($2) IS NOT NULL AS migrations",
                &[&self.name, &table],
            )
            .await?;
        match (row.get("schema"), row.get("migrations")) {
            (false, _) => Ok(Found::Nothing),
            (true, false) => Ok(Found::Strange),
            (true, true) => {
                let query = format!("SELECT coalesce(max(format), 0) FROM {table}");
                Ok(Found::Format(client.query_one(&query, &[]).await?.get(0)))
            }
        }
    }
}

enum Found {
    /// No schema of that name.
    Nothing,
    /// A schema of that name that is not ours.
    Strange,
    /// Ours, in this format.
    Format(i32),
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::cluster::{Cluster, Database};
    use super::super::connect::pool;
    use super::*;

    const ONE: &str = "CREATE TABLE x.one (a INTEGER)";
    const TWO: &str = "ALTER TABLE x.one ADD COLUMN b INTEGER";
    const EARLY: Schema = Schema { name: "x", migrations: &[ONE] };
    const LATE: Schema = Schema { name: "x", migrations: &[ONE, TWO] };

    async fn open(schema: &Schema, database: &Database<'_>) -> Result<(), Misconfigured> {
        let client = pool(&database.url(), None)?.get().await.expect("the server runs");
        schema.open(&client).await
    }

    #[tokio::test]
    async fn a_migration_that_fails_leaves_nothing() {
        let half = Schema { name: "x", migrations: &["CREATE TABLE x.one (a INT); SELECT 1 / 0"] };
        let database = Cluster::shared().database();
        assert!(open(&half, &database).await.is_err());
        let left = database.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'x'");
        assert_eq!(left.as_deref(), Ok("0"));
    }

    #[tokio::test]
    async fn a_schema_of_an_earlier_format_is_brought_on_and_a_later_one_refused() {
        let database = Cluster::shared().database();
        open(&EARLY, &database).await.unwrap();
        database.sql("INSERT INTO x.one VALUES (5)").unwrap();
        for _ in 0..2 {
            open(&LATE, &database).await.unwrap();
            assert_eq!(database.sql("SELECT a, b FROM x.one").as_deref(), Ok("5|"));
            let formats = database.sql("SELECT string_agg(format::text, ' ') FROM x.migration");
            assert_eq!(formats.as_deref(), Ok("1 2"));
        }
        let refused = open(&EARLY, &database).await.unwrap_err();
        assert!(refused.problem.contains("upgrade pay402"), "{refused}");
    }

    #[tokio::test]
    async fn processes_that_start_at_once_make_it_once() {
        // Each takes its time, so that without a turn all of them find nothing.
        const SLOW: &str = "CREATE TABLE x.one (a INTEGER); SELECT pg_sleep(0.05)";
        let database = Cluster::shared().database();
        let pool = pool(&database.url(), None).unwrap();
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let client = pool.get().await.unwrap();
                    Schema { name: "x", migrations: &[SLOW, TWO] }.open(&client).await
                })
            })
            .collect();
        for opened in opening {
            opened.await.unwrap().unwrap();
        }
    }
}
