//! A site: one facilitator of the built `pay402` on one chain, with a journal of either kind, which is ended
//! and started again while the chain goes on.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pay402::stack::CHAIN_ID;
use pay402_core::PaymentKey;
use pay402_core::journal::Journal;
use pay402_devchain::{Config, Devchain, Mining, Serving};
use pay402_store::{PgJournal, SqliteJournal};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::Result;
use crate::payments::Payers;
use crate::postgres::{Cluster, Database};
use crate::replicas::{Replica, SIGNERS, books, network};
use crate::rounds::Store;

/// Longest until a process can be sent payments.
const START_MAX: Duration = Duration::from_secs(60);

/// How a site is made.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) block_time: Duration,
    pub(crate) payers: usize,
    /// More lines of the configuration, above its networks.
    pub(crate) lines: String,
}

/// See the module.
pub(crate) struct Site {
    pub(crate) chain: Devchain,
    pub(crate) payers: Payers,
    pub(crate) process: Replica,
    pub(crate) shelf: Shelf,
    _node: Serving,
    folder: Option<TempDir>,
}

/// Where the journal is.
pub(crate) enum Shelf {
    File(PathBuf),
    Database(Database<'static>),
}

impl Shelf {
    pub(crate) async fn open(&self) -> Result<Box<dyn Journal>> {
        Ok(match self {
            Self::File(path) => Box::new(SqliteJournal::look(path)?),
            Self::Database(database) => Box::new(PgJournal::open(&database.url(), None).await?),
        })
    }

    /// Ends the lease of a process that is gone, as time would. Beside a file the next one sees that by itself.
    pub(crate) fn end_lease(&self) {
        if let Self::Database(database) = self {
            // A database that no process was at has no lease yet.
            _ = database.sql("UPDATE pay402_journal.lease SET until = repeat('0', 20)");
        }
    }
}

impl Site {
    /// Makes one. Its process is not started.
    pub(crate) async fn new(bin: &Path, ground: &Ground) -> Result<Self> {
        let is_shared = ground.store == Store::Postgres;
        Self::on(bin, ground, is_shared.then(|| Cluster::shared().database())).await
    }

    /// The same, with its journal in this database, or else in a file.
    pub(crate) async fn on(
        bin: &Path,
        ground: &Ground,
        database: Option<Database<'static>>,
    ) -> Result<Self> {
        let folder = TempDir::new()?;
        let mining = Mining::Interval(ground.block_time);
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, mining, ..Config::default() });
        let node = chain.serve(([127, 0, 0, 1], 0).into()).await?;
        let payers = Payers::new(&chain, ground.payers)?;
        let shelf = match database {
            None => Shelf::File(folder.path().join("disk/journal.db")),
            Some(database) => Shelf::Database(database),
        };
        std::fs::create_dir(folder.path().join("disk"))?;
        let database = match &shelf {
            Shelf::File(path) => path.display().to_string(),
            Shelf::Database(database) => database.url(),
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let signers = (0..SIGNERS.len()).map(|index| format!("{{ env = \"SIGNER_{index}\" }}"));
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndatabase = \"{database}\"\nlease_s = 3\n{}\n\
             [[network]]\nid = \"eip155:{CHAIN_ID}\"\nrpc = \"{}\"\nsigners = [{}]\n\
             block_time_s = 1\n",
            ground.lines,
            node.http_url(),
            signers.collect::<Vec<_>>().join(", "),
        );
        let config = folder.path().join("facilitator.toml");
        std::fs::write(&config, text)?;
        let process = Replica::new(format!("http://127.0.0.1:{port}"), bin, config);
        let folder = Some(folder);
        Ok(Self { chain, payers, process, shelf, _node: node, folder })
    }

    /// Starts the process after one that is gone, and lets it abort at `failpoint`, if one is given.
    pub(crate) fn start(&mut self, failpoint: Option<&str>) -> Result<()> {
        self.shelf.end_lease();
        self.process.start_at(failpoint)
    }

    /// Waits until the process can be sent payments, or has ended.
    pub(crate) async fn until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.process.is_ready().await && !self.process.has_ended() {
            if begun.elapsed() > START_MAX {
                return Err(format!("not ready after {START_MAX:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until everything is final in the journal and the books equal the chain, at most so long after
    /// `since`. Gives how many payments are settled.
    pub(crate) async fn resolved(
        &self,
        payments: &[PaymentKey],
        since: Instant,
        most: Duration,
    ) -> Result<usize> {
        let journal = self.shelf.open().await?;
        loop {
            let unfinished = journal.unfinished(&network(), 1).await?;
            let outcome = match unfinished.first() {
                Some(entry) => Err(format!("{} is unfinished", entry.new.key).into()),
                None => books(&self.chain, &*journal, payments).await,
            };
            if outcome.is_ok() || since.elapsed() > most {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is where, for whoever looks into a violation.
    pub(crate) fn keep(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }
}
