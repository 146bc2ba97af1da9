//! The facilitator's journal in PostgreSQL beside the one in SQLite: what each commits durably in a
//! second. The server runs on this machine, on a socket, as the tests start it, on the same disk.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pay402_core::journal::{Advance, Event, Holder, Journal, Lease, NewEntry, SignedAs};
use pay402_core::network::{Part, SentAs};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Digest, NetworkId, PaymentKey};
use pay402_store::{PgJournal, SqliteJournal};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::report::{Bench, Round, Unit};
use crate::{Extent, Result};

pub(crate) const NAMES: &[&str] =
    &["journal_enter_rate", "journal_enter_rate_alone", "journal_advance_rate"];

/// Callers that enter payments at once.
const CALLERS: usize = 64;
/// Payments that each of them enters in a round, one after the other.
const EACH: usize = 40;
/// Payments that a single caller enters in a round.
const ALONE: usize = 200;
/// Entries that advance together, as the facilitator's scribe merges them, and batches in a round.
const BATCH: usize = 64;
const BATCHES: usize = 20;
/// Bytes of a sealed plan, and of a sealed transaction.
const SEALED_BYTES: usize = 600;

/// Enters and advances in both, in turns.
pub(crate) async fn run(extent: Extent) -> Result<Vec<Bench>> {
    let cluster = Cluster::own();
    let url = cluster.database().url();
    let folder = tempfile::tempdir()?;
    let postgres = Book::new(Arc::new(PgJournal::open(&url, None).await?)).await?;
    let sqlite =
        Book::new(Arc::new(SqliteJournal::open(folder.path().join("journal.db"))?)).await?;
    let (each, alone) = (extent.count(EACH), extent.count(ALONE));
    let batches = extent.count(BATCHES);
    let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..=extent.rounds {
        let together = in_turn(&postgres, &sqlite, |book| book.enter(round, CALLERS, each)).await?;
        let one = in_turn(&postgres, &sqlite, |book| book.enter(round, 1, alone)).await?;
        let moved = in_turn(&postgres, &sqlite, |book| book.advance(round, batches)).await?;
        // The first round is there to warm up.
        if round > 0 {
            for (all, one) in rounds.iter_mut().zip([together, one, moved]) {
                all.push(one);
            }
        }
    }
    let benches = NAMES.iter().zip(rounds).map(|(name, rounds)| Bench {
        name,
        against: "the same in SQLite",
        unit: Unit::PerSecond,
        rounds,
    });
    Ok(benches.collect())
}

async fn in_turn<'b, F: Future<Output = Result<f64>>>(
    postgres: &'b Book,
    sqlite: &'b Book,
    measure: impl Fn(&'b Book) -> F,
) -> Result<Round> {
    Ok(Round { subject: measure(postgres).await?, reference: measure(sqlite).await? })
}

/// A journal and the lease on its network.
struct Book {
    journal: Arc<dyn Journal>,
    lease: Lease,
}

impl Book {
    async fn new(journal: Arc<dyn Journal>) -> Result<Self> {
        let holder = Holder { name: "bench".into(), url: None };
        let hour = Duration::from_secs(60 * 60);
        let lease = journal.lease(&network(), &holder, UnixTime(0), hour).await?.granted();
        let lease = lease.ok_or("a new journal has a lease to give")?;
        Ok(Self { journal, lease })
    }

    /// Payments entered in a second.
    async fn enter(&self, round: usize, callers: usize, each: usize) -> Result<f64> {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for caller in 0..callers {
            let journal = Arc::clone(&self.journal);
            running.spawn(async move {
                for number in 0..each {
                    let new = entry(&format!("{round} {callers} {caller} {number}"));
                    journal.enter(new).await?;
                }
                Ok::<(), pay402_core::journal::JournalError>(())
            });
        }
        while let Some(done) = running.join_next().await {
            done??;
        }
        Ok((callers * each) as f64 / began.elapsed().as_secs_f64())
    }

    /// Entries of the round's first bench that are signed in a second, [`BATCH`] in a commit.
    async fn advance(&self, round: usize, batches: usize) -> Result<f64> {
        let began = Instant::now();
        for batch in 0..batches {
            let changes = (0..BATCH).map(|number| {
                let nonce = (round * batches + batch) * BATCH + number;
                Advance {
                    key: key(&format!("{round} {CALLERS} {number} {}", batch % 2)),
                    event: Event::Signed(signed(nonce as u64)),
                    deliver: false,
                    at: UnixTime(1_000),
                }
            });
            self.journal.advance(&self.lease, changes.collect()).await?;
        }
        Ok((batches * BATCH) as f64 / began.elapsed().as_secs_f64())
    }
}

fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

fn key(name: &str) -> PaymentKey {
    PaymentKey::new(&network(), "0x036cbd53842c5426634e7929541ec2318f3dcf7e", "0xpayer", name)
}

fn entry(name: &str) -> NewEntry {
    NewEntry {
        key: key(name),
        fingerprint: Digest::of(&[name.as_bytes()]),
        network: network(),
        payer: "0xpayer".into(),
        amount: Amount::from(10_000),
        expires: UnixTime(1_300),
        caller: None,
        entered_by: None,
        plan: vec![7; SEALED_BYTES],
        entered_at: UnixTime(1_000),
    }
}

fn signed(nonce: u64) -> SignedAs {
    let sent = SentAs {
        signer: "0xsigner".into(),
        nonce,
        transaction: format!("0x{nonce:064x}"),
        replaced: Vec::new(),
        part: Part::WHOLE,
    };
    SignedAs { sent, raw: vec![2; SEALED_BYTES], spent: Amount::ZERO }
}
