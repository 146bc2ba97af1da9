//! The resource server's claims in SQLite. The rules are those of [`pay402_core::grants`].
//!
//! **Invariant:** one row per payment, inserted and committed before its request is granted; a
//! delivered row never changes again and leaves only when it is forgotten.

use std::path::Path;

use async_trait::async_trait;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::grants::{Claim, Claimed, GrantState, Grants, Held};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, PaymentKey};
use rusqlite::{Connection, Row, named_params};

use crate::column::{Hash, Money, Whole, read};
use crate::database::{self, GRANTS};
use crate::writer::{Access, Stop, Writer};

/// Most claims that one call of [`Grants::prune`] forgets, so that claiming never waits long for
/// it. Call again while it returns this many.
pub const PRUNE_ROWS_MAX: u64 = 10_000;

type Answer<T> = Result<T, Stop<Unavailable>>;

/// [`Grants`] in one SQLite file. Several processes may share the file.
#[derive(Debug)]
pub struct SqliteGrants {
    writer: Writer,
}

impl SqliteGrants {
    /// Opens the claims at `path`, or makes the file with mode `0600` and a missing directory with
    /// `0700`.
    ///
    /// # Errors
    /// When the file is of another kind or a later format, is damaged, can be written by other
    /// users, or cannot be used at all. Each says how to mend it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Misconfigured> {
        Self::on(database::open(&GRANTS, path.as_ref())?)
    }

    /// Claims that end with the process, for tests.
    ///
    /// # Errors
    /// When the machine cannot start a thread.
    pub fn open_in_memory() -> Result<Self, Misconfigured> {
        Self::on(database::open_in_memory(&GRANTS)?)
    }

    /// Commits so far that wrote something. What is queued together shares one.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn on(connection: Connection) -> Result<Self, Misconfigured> {
        Writer::start(&GRANTS, connection).map(|writer| Self { writer })
    }
}

#[async_trait]
impl Grants for SqliteGrants {
    async fn claim(&self, claim: Claim) -> Result<Claimed, Unavailable> {
        self.writer.run(Access::Write, move |connection| take(connection, &claim)).await
    }

    async fn settling(
        &self,
        key: &PaymentKey,
        charge: Option<Amount>,
        sealed: Option<Vec<u8>>,
    ) -> Result<(), Unavailable> {
        let key = key.clone();
        self.writer
            .run(Access::Write, move |connection| {
                let changed = connection
                    .prepare_cached(
                        "UPDATE claim SET state = 'settling', charge = ?2, sealed = ?3
                         WHERE key = ?1 AND state IN ('claimed', 'settling')",
                    )?
                    .execute((key.as_str(), charge.map(Money), sealed))?;
                if changed == 1 {
                    return Ok(());
                }
                let problem = format!("{key} is not claimed, or delivered already");
                Err(Stop::Refused(Unavailable::new(GRANTS.name, problem)))
            })
            .await
    }

    async fn deliver(&self, key: &PaymentKey, transaction: &str) -> Result<(), Unavailable> {
        let (key, transaction) = (key.clone(), transaction.to_owned());
        self.writer
            .run(Access::Write, move |connection| deliver(connection, &key, &transaction))
            .await
    }

    async fn release(&self, key: &PaymentKey) -> Result<(), Unavailable> {
        let key = key.clone();
        self.writer
            .run(Access::Write, move |connection| {
                connection
                    .prepare_cached("DELETE FROM claim WHERE key = ?1 AND state <> 'delivered'")?
                    .execute([key.as_str()])?;
                Ok(())
            })
            .await
    }

    async fn state(&self, key: &PaymentKey) -> Result<Option<GrantState>, Unavailable> {
        let key = key.clone();
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached("SELECT * FROM claim WHERE key = ?1")?;
                let mut rows = select.query([key.as_str()])?;
                rows.next()?.map(read_state).transpose()
            })
            .await
    }

    async fn prune(&self, now: UnixTime) -> Result<u64, Unavailable> {
        self.writer
            .run(Access::Write, move |connection| {
                let forgotten = connection
                    .prepare_cached(
                        "DELETE FROM claim WHERE id IN
                         (SELECT id FROM claim WHERE forget_at < ?1 ORDER BY forget_at LIMIT ?2)",
                    )?
                    .execute((Whole::from(now), PRUNE_ROWS_MAX.cast_signed()))?;
                Ok(forgotten as u64)
            })
            .await
    }
}

fn take(connection: &Connection, claim: &Claim) -> Answer<Claimed> {
    let inserted = connection
        .prepare_cached(
            "INSERT INTO claim (key, request, proof, claimed_at, forget_at, state)
             VALUES (:key, :request, :proof, :claimed_at, :forget_at, 'claimed')
             ON CONFLICT (key) DO NOTHING",
        )?
        .execute(named_params! {
            ":key": claim.key.as_str(),
            ":request": Hash(claim.request),
            ":proof": claim.proof.map(Hash),
            ":claimed_at": Whole::from(claim.claimed_at),
            ":forget_at": Whole::from(claim.forget_at),
        })?;
    if inserted == 1 {
        return Ok(Claimed::Granted);
    }
    let mut select = connection.prepare_cached("SELECT * FROM claim WHERE key = ?1")?;
    let mut rows = select.query([claim.key.as_str()])?;
    match rows.next()? {
        Some(row) => read_held(row, claim).map(Claimed::Held),
        None => Err(Stop::Broken(format!("{} is neither free nor held", claim.key))),
    }
}

fn read_held(row: &Row<'_>, claim: &Claim) -> Answer<Held> {
    let request: Hash = read(row, "request")?;
    let proof: Option<Hash> = read(row, "proof")?;
    let same_proof = match (proof, claim.proof) {
        (Some(Hash(first)), Some(now)) => first == now,
        _ => false,
    };
    Ok(Held { same_request: request.0 == claim.request, same_proof, state: read_state(row)? })
}

fn read_state(row: &Row<'_>) -> Answer<GrantState> {
    let state: String = read(row, "state")?;
    match state.as_str() {
        "claimed" => Ok(GrantState::Claimed),
        "settling" => {
            Ok(GrantState::Settling { charge: read_charge(row)?, sealed: read(row, "sealed")? })
        }
        "delivered" => Ok(GrantState::Delivered {
            transaction: read(row, "transaction_hash")?,
            charged: read_charge(row)?,
            sealed: read(row, "sealed")?,
        }),
        other => Err(Stop::Broken(format!("a claim has the unknown state {other:?}"))),
    }
}

fn read_charge(row: &Row<'_>) -> Answer<Option<Amount>> {
    read::<Option<Money>, _>(row, "charge").map(|charge| charge.map(|Money(amount)| amount))
}

/// The first delivery stands; a claim that is not there cannot be delivered.
fn deliver(connection: &Connection, key: &PaymentKey, transaction: &str) -> Answer<()> {
    let changed = connection
        .prepare_cached(
            "UPDATE claim SET state = 'delivered', transaction_hash = ?2
             WHERE key = ?1 AND state <> 'delivered'",
        )?
        .execute((key.as_str(), transaction))?;
    let known = changed == 1
        || connection
            .prepare_cached("SELECT 1 FROM claim WHERE key = ?1")?
            .exists([key.as_str()])?;
    if known {
        return Ok(());
    }
    Err(Stop::Refused(Unavailable::new(GRANTS.name, format!("{key} is not claimed"))))
}
