//! The payer's ledger in SQLite. The rules are those of [`pay402_core::spend`].
//!
//! **Invariant:** for each payer and asset, `total.posted` is the sum of what its reservations were
//! charged and `total.reserved` the sum of those that are open. Both are changed in the transaction
//! that changes the reservation, never go below zero or above 2^256 − 1, and are compared with the
//! reservations themselves when the file is opened.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use pay402_core::asset::AssetId;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::spend::{
    Intent, Ledger, Limits, Plan, Quote, Reservation, ReserveError, Spent, VoidProof,
};
use pay402_core::time::UnixTime;
use pay402_core::wire::stored;
use pay402_core::{Amount, Digest, Scheme};
use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::column::{Hash, Money, Net, Whole, read};
use crate::database::{self, LEDGER};
use crate::writer::{Access, Stop, Writer};

/// A [`Ledger`] in one SQLite file. Several processes may share the file, and its limits hold
/// across all of them.
#[derive(Debug)]
pub struct SqliteLedger {
    writer: Writer,
}

impl SqliteLedger {
    /// Opens the ledger at `path`, or makes it: the file with mode `0600`, a missing directory
    /// with `0700`. Its sums are compared with its reservations.
    ///
    /// # Errors
    /// When the file is not a ledger, is of a later format, is damaged, contradicts itself, can be
    /// written by other users, or cannot be used at all. Each says how to mend it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Misconfigured> {
        let path = path.as_ref();
        let connection = database::open(&LEDGER, path)?;
        audit(&connection).map_err(|problem| {
            let problem = format!("{}: {problem}; restore it from a backup", path.display());
            Misconfigured::new(LEDGER.name, problem)
        })?;
        Self::on(connection)
    }

    /// A ledger that ends with the process, for tests.
    ///
    /// # Errors
    /// When the machine cannot start a thread.
    pub fn open_in_memory() -> Result<Self, Misconfigured> {
        Self::on(database::open_in_memory(&LEDGER)?)
    }

    /// Commits so far that wrote something. What is queued together shares one.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    fn on(connection: Connection) -> Result<Self, Misconfigured> {
        Writer::start(&LEDGER, connection).map(|writer| Self { writer })
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn spent(&self, payer: &str, asset: &AssetId) -> Result<Spent, Unavailable> {
        let (payer, asset) = (payer.to_owned(), asset.clone());
        self.writer
            .run(Access::Read, move |connection| read_total(connection, &payer, &asset))
            .await
    }

    async fn reserve(
        &self,
        reservation: &Reservation,
        limits: &Limits,
    ) -> Result<(), ReserveError> {
        let (reservation, limits) = (reservation.clone(), limits.clone());
        self.writer
            .run(Access::Write, move |connection| reserve(connection, &reservation, &limits))
            .await
    }

    async fn post(
        &self,
        plan: &Plan,
        charged: Amount,
        transaction: &str,
        at: UnixTime,
    ) -> Result<(), Unavailable> {
        let (plan, transaction) = (plan.clone(), transaction.to_owned());
        self.writer
            .run(Access::Write, move |connection| {
                post(connection, &plan, charged, &transaction, at)
            })
            .await
    }

    async fn void(&self, plan: &Plan, proof: VoidProof, at: UnixTime) -> Result<(), Unavailable> {
        let plan = plan.clone();
        self.writer.run(Access::Write, move |connection| void(connection, &plan, proof, at)).await
    }

    async fn open(&self, intent: &Digest) -> Result<Option<Reservation>, Unavailable> {
        let intent = *intent;
        self.writer.run(Access::Read, move |connection| find_open(connection, intent)).await
    }

    async fn pending(&self, payer: &str, limit: usize) -> Result<Vec<Reservation>, Unavailable> {
        let payer = payer.to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.writer
            .run(Access::Read, move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT * FROM reservation WHERE payer = ?1 AND state = 'reserved'
                     ORDER BY seq LIMIT ?2",
                )?;
                let mut rows = select.query((&payer, limit))?;
                let mut standing = Vec::new();
                while let Some(row) = rows.next()? {
                    standing.push(read_reservation(row)?);
                }
                Ok(standing)
            })
            .await
    }
}

fn reserve(
    connection: &Connection,
    reservation: &Reservation,
    limits: &Limits,
) -> Result<(), Stop<ReserveError>> {
    // First of all: a retry presents what is open, also when the budget is used up.
    if let Some(open) = find_open(connection, reservation.intent.id)? {
        return Err(Stop::Refused(ReserveError::Open(Box::new(open))));
    }
    let used_nonce = connection
        .prepare_cached("SELECT 1 FROM reservation WHERE nonce = ?1")?
        .exists([reservation.plan.nonce])?;
    if used_nonce {
        return Err(Stop::Broken("this nonce was reserved before; draw a fresh one".into()));
    }
    let (payer, quote) = (&reservation.payer, &reservation.quote);
    let before = read_total(connection, payer, &quote.asset)?;
    let used = sum(before)?;
    let limit = limits.total.unwrap_or(Amount::MAX);
    if used.checked_add(quote.amount).is_none_or(|sum| sum > limit) {
        return Err(Stop::Refused(ReserveError::OverLimit { spent_and_reserved: used, limit }));
    }
    let seq = insert(connection, reservation)?;
    let reserved = add(before.reserved, quote.amount)?;
    write_total(connection, payer, &quote.asset, Spent { reserved, ..before })?;
    let event = LedgerEvent::of("reserved", quote.amount);
    record(connection, seq, &event, reservation.reserved_at)
}

fn insert<E>(connection: &Connection, reservation: &Reservation) -> Result<i64, Stop<E>> {
    let Reservation { intent, payer, quote, plan, reserved_at } = reservation;
    let offer = stored::write_terms(&quote.offer);
    // What cannot be read again could not be presented again.
    if stored::read_terms(&offer).ok().as_ref() != Some(&quote.offer) {
        return Err(Stop::Broken("the offer cannot be stored unchanged".into()));
    }
    connection
        .prepare_cached(
            "INSERT INTO reservation (nonce, valid_after, valid_before, intent, origin, resource,
                 payer, network, asset, amount, scheme, pay_to, symbol, decimals, is_dollar, offer,
                 reserved_at, state)
             VALUES (:nonce, :valid_after, :valid_before, :intent, :origin, :resource,
                 :payer, :network, :asset, :amount, :scheme, :pay_to, :symbol, :decimals,
                 :is_dollar, :offer, :reserved_at, 'reserved')",
        )?
        .execute(named_params! {
            ":nonce": plan.nonce,
            ":valid_after": Whole::from(plan.valid_after),
            ":valid_before": Whole::from(plan.valid_before),
            ":intent": Hash(intent.id),
            ":origin": intent.origin,
            ":resource": intent.resource,
            ":payer": payer,
            ":network": Net(quote.asset.network.clone()),
            ":asset": quote.asset.address,
            ":amount": Money(quote.amount),
            ":scheme": quote.scheme.as_str(),
            ":pay_to": quote.pay_to,
            ":symbol": quote.symbol,
            ":decimals": quote.decimals,
            ":is_dollar": quote.is_dollar,
            ":offer": offer,
            ":reserved_at": Whole::from(*reserved_at),
        })?;
    Ok(connection.last_insert_rowid())
}

/// What closing a reservation has to know about it.
struct Standing {
    seq: i64,
    payer: String,
    asset: AssetId,
    amount: Amount,
    state: String,
    charged: Option<Amount>,
    transaction: Option<String>,
}

fn post(
    connection: &Connection,
    plan: &Plan,
    charged: Amount,
    transaction: &str,
    at: UnixTime,
) -> Result<(), Stop<Unavailable>> {
    let standing = find_plan(connection, plan)?;
    match standing.state.as_str() {
        "reserved" => {}
        "posted"
            if standing.charged == Some(charged)
                && standing.transaction.as_deref() == Some(transaction) =>
        {
            return Ok(());
        }
        state => {
            let problem = format!("a reservation that is {state} cannot be posted otherwise");
            return Err(Stop::Broken(problem));
        }
    }
    if charged > standing.amount {
        let problem = format!("{charged} was charged, but only {} reserved", standing.amount);
        return Err(Stop::Broken(problem));
    }
    connection
        .prepare_cached(
            "UPDATE reservation
             SET state = 'posted', charged = ?2, transaction_hash = ?3, closed_at = ?4
             WHERE seq = ?1",
        )?
        .execute((standing.seq, Money(charged), transaction, Whole::from(at)))?;
    let before = read_total(connection, &standing.payer, &standing.asset)?;
    let after = Spent {
        posted: add(before.posted, charged)?,
        reserved: take_away(before.reserved, standing.amount)?,
    };
    write_total(connection, &standing.payer, &standing.asset, after)?;
    let event =
        LedgerEvent { transaction: Some(transaction), ..LedgerEvent::of("posted", charged) };
    record(connection, standing.seq, &event, at)
}

fn void(
    connection: &Connection,
    plan: &Plan,
    proof: VoidProof,
    at: UnixTime,
) -> Result<(), Stop<Unavailable>> {
    let standing = find_plan(connection, plan)?;
    match standing.state.as_str() {
        "reserved" => {}
        "void" => return Ok(()),
        state => {
            return Err(Stop::Broken(format!("a reservation that is {state} cannot be voided")));
        }
    }
    let proof = match proof {
        VoidProof::NeverSigned => "never_signed",
        VoidProof::ChainDead => "chain_dead",
    };
    connection
        .prepare_cached(
            "UPDATE reservation SET state = 'void', void_proof = ?2, closed_at = ?3 WHERE seq = ?1",
        )?
        .execute((standing.seq, proof, Whole::from(at)))?;
    let before = read_total(connection, &standing.payer, &standing.asset)?;
    let reserved = take_away(before.reserved, standing.amount)?;
    write_total(connection, &standing.payer, &standing.asset, Spent { reserved, ..before })?;
    let event = LedgerEvent { proof: Some(proof), ..LedgerEvent::of("void", standing.amount) };
    record(connection, standing.seq, &event, at)
}

fn find_plan<E>(connection: &Connection, plan: &Plan) -> Result<Standing, Stop<E>> {
    let mut select = connection.prepare_cached(
        "SELECT * FROM reservation WHERE nonce = ?1 AND valid_after = ?2 AND valid_before = ?3",
    )?;
    let validity = (Whole::from(plan.valid_after), Whole::from(plan.valid_before));
    let mut rows = select.query((plan.nonce, validity.0, validity.1))?;
    let Some(row) = rows.next()? else {
        return Err(Stop::Broken("this plan was never reserved".into()));
    };
    Ok(Standing {
        seq: read(row, "seq")?,
        payer: read(row, "payer")?,
        asset: read_asset(row)?,
        amount: read::<Money, _>(row, "amount")?.0,
        state: read(row, "state")?,
        charged: read::<Option<Money>, _>(row, "charged")?.map(|money| money.0),
        transaction: read(row, "transaction_hash")?,
    })
}

fn find_open<E>(connection: &Connection, intent: Digest) -> Result<Option<Reservation>, Stop<E>> {
    let mut select = connection
        .prepare_cached("SELECT * FROM reservation WHERE intent = ?1 AND state = 'reserved'")?;
    let mut rows = select.query([Hash(intent)])?;
    rows.next()?.map(read_reservation).transpose()
}

fn read_reservation<E>(row: &Row<'_>) -> Result<Reservation, Stop<E>> {
    let offer: String = read(row, "offer")?;
    let offer = stored::read_terms(&offer)
        .map_err(|error| Stop::Broken(format!("a stored offer cannot be read: {error}")))?;
    let scheme: String = read(row, "scheme")?;
    Ok(Reservation {
        intent: Intent {
            id: read::<Hash, _>(row, "intent")?.0,
            origin: read(row, "origin")?,
            resource: read(row, "resource")?,
        },
        payer: read(row, "payer")?,
        quote: Quote {
            offer,
            scheme: Scheme::new(&scheme),
            asset: read_asset(row)?,
            symbol: read(row, "symbol")?,
            decimals: read(row, "decimals")?,
            amount: read::<Money, _>(row, "amount")?.0,
            pay_to: read(row, "pay_to")?,
            is_dollar: read(row, "is_dollar")?,
        },
        plan: Plan {
            nonce: read(row, "nonce")?,
            valid_after: read::<Whole, _>(row, "valid_after")?.into(),
            valid_before: read::<Whole, _>(row, "valid_before")?.into(),
        },
        reserved_at: read::<Whole, _>(row, "reserved_at")?.into(),
    })
}

fn read_asset<E>(row: &Row<'_>) -> Result<AssetId, Stop<E>> {
    Ok(AssetId { network: read::<Net, _>(row, "network")?.0, address: read(row, "asset")? })
}

fn read_total<E>(connection: &Connection, payer: &str, asset: &AssetId) -> Result<Spent, Stop<E>> {
    let sums: Option<(Money, Money)> = connection
        .prepare_cached(
            "SELECT posted, reserved FROM total WHERE payer = ?1 AND network = ?2 AND asset = ?3",
        )?
        .query_row((payer, asset.network.as_str(), &asset.address), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let spent = sums
        .map_or_else(Spent::default, |(Money(posted), Money(reserved))| Spent { posted, reserved });
    sum(spent)?;
    Ok(spent)
}

fn write_total<E>(
    connection: &Connection,
    payer: &str,
    asset: &AssetId,
    spent: Spent,
) -> Result<(), Stop<E>> {
    sum(spent)?;
    connection
        .prepare_cached(
            "INSERT INTO total (payer, network, asset, posted, reserved)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (payer, network, asset) DO UPDATE
             SET posted = excluded.posted, reserved = excluded.reserved",
        )?
        .execute((
            payer,
            asset.network.as_str(),
            &asset.address,
            Money(spent.posted),
            Money(spent.reserved),
        ))?;
    Ok(())
}

fn sum<E>(spent: Spent) -> Result<Amount, Stop<E>> {
    add(spent.posted, spent.reserved)
}

fn add<E>(one: Amount, other: Amount) -> Result<Amount, Stop<E>> {
    let sum = one.checked_add(other);
    sum.ok_or_else(|| Stop::Broken("the ledger's sums exceed 2^256 - 1".into()))
}

fn take_away<E>(from: Amount, amount: Amount) -> Result<Amount, Stop<E>> {
    let rest = from.checked_sub(amount);
    rest.ok_or_else(|| Stop::Broken("the ledger's sums would fall below zero".into()))
}

/// A line of the record that is only ever added to.
struct LedgerEvent<'a> {
    event: &'static str,
    amount: Amount,
    transaction: Option<&'a str>,
    proof: Option<&'static str>,
}

impl LedgerEvent<'_> {
    const fn of(event: &'static str, amount: Amount) -> Self {
        Self { event, amount, transaction: None, proof: None }
    }
}

fn record<E>(
    connection: &Connection,
    seq: i64,
    event: &LedgerEvent<'_>,
    at: UnixTime,
) -> Result<(), Stop<E>> {
    connection
        .prepare_cached(
            "INSERT INTO ledger_event (reservation, event, amount, transaction_hash, void_proof, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute((
            seq,
            event.event,
            Money(event.amount),
            event.transaction,
            event.proof,
            Whole::from(at),
        ))?;
    Ok(())
}

/// Adds all reservations up and compares with the running sums, as one snapshot.
fn audit(connection: &Connection) -> Result<(), String> {
    let text = |stop: Stop<Unavailable>| match stop {
        Stop::Sql(error) => error.to_string(),
        Stop::Broken(problem) => problem,
        Stop::Refused(error) => error.to_string(),
    };
    let snapshot = connection.unchecked_transaction().map_err(|error| error.to_string())?;
    let (counted, kept) = (count(&snapshot).map_err(text)?, kept(&snapshot).map_err(text)?);
    if counted == kept { Ok(()) } else { Err("its sums are not those of its reservations".into()) }
}

type Totals = BTreeMap<(String, String, String), (Amount, Amount)>;

fn count(connection: &Connection) -> Result<Totals, Stop<Unavailable>> {
    let mut totals = Totals::new();
    let mut select = connection
        .prepare("SELECT payer, network, asset, state, amount, charged FROM reservation")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (posted, reserved) = totals.entry(key).or_default();
        let state: String = row.get(3)?;
        match state.as_str() {
            "reserved" => *reserved = add(*reserved, read::<Money, _>(row, "amount")?.0)?,
            "posted" => *posted = add(*posted, read::<Money, _>(row, "charged")?.0)?,
            _ => {}
        }
    }
    Ok(totals)
}

fn kept(connection: &Connection) -> Result<Totals, Stop<Unavailable>> {
    let mut totals = Totals::new();
    let mut select =
        connection.prepare("SELECT payer, network, asset, posted, reserved FROM total")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (posted, reserved): (Money, Money) = (row.get(3)?, row.get(4)?);
        let key = (row.get(0)?, row.get(1)?, row.get(2)?);
        totals.insert(key, (posted.0, reserved.0));
    }
    Ok(totals)
}
