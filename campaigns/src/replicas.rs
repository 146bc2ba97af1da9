//! A world of processes: replicas of the built `pay402` on one PostgreSQL database and one chain.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use alloy::providers::Provider as _;
use pay402::books::{Town, compare_town};
use pay402::stack::CHAIN_ID;
use pay402_core::journal::Journal;
use pay402_core::{NetworkId, PaymentKey};
use pay402_devchain::genesis::{self, DEV_ACCOUNTS, USDC_ADDRESS};
use pay402_devchain::{Config, Devchain, Mining, Serving};
use pay402_evm::audit::{Audit, Scope, Standing};
use pay402_evm::{AssetTable, Rpc};
use pay402_facilitator::failpoint;
use pay402_store::PgJournal;
use tempfile::TempDir;

use crate::Result;
use crate::payments::Payers;
use crate::postgres::{Cluster, Database};

/// Which public dev accounts sign, for all replicas.
pub(crate) const SIGNERS: [usize; 5] = [0, 3, 4, 5, 6];
/// Which public dev account is paid.
pub(crate) const PAYEE: usize = 2;
/// The variable with the secret of webhooks, and one that protects nothing.
pub(crate) const HOOK_SECRET: &str = "HOOK_SECRET";
const HOOK_SECRET_DEV: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
/// Replicas.
pub(crate) const REPLICAS: usize = 3;
/// Longest wait for processes to be ready, and for what is unfinished at the end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts nonces of entries that have no transaction in common.
const NONCES_REUSED: &str = "
    WITH by_transaction AS (
        SELECT network, signer, nonce, count(DISTINCT entry) AS sharing
        FROM pay402_journal.signed_transaction
        GROUP BY network, signer, nonce, transaction_hash),
    by_nonce AS (
        SELECT network, signer, nonce, count(DISTINCT entry) AS entries
        FROM pay402_journal.signed_transaction GROUP BY network, signer, nonce)
    SELECT count(*) FROM by_nonce WHERE entries > (
        SELECT max(sharing) FROM by_transaction AS packed
        WHERE packed.network = by_nonce.network AND packed.signer = by_nonce.signer
          AND packed.nonce = by_nonce.nonce)";

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Climate {
    pub(crate) block_time: Duration,
    /// The replicas' `lease_s`.
    pub(crate) lease_s: u64,
    pub(crate) payers: usize,
}

/// Chain, database, payers and replicas.
pub(crate) struct World {
    pub(crate) chain: Devchain,
    pub(crate) payers: Payers,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) journal: PgJournal,
    database: Database<'static>,
    _node: Serving,
    folder: Option<TempDir>,
}

/// One process, or the place of one.
pub(crate) struct Replica {
    pub(crate) url: String,
    bin: PathBuf,
    config: PathBuf,
    child: Option<Child>,
}

impl World {
    pub(crate) async fn start(bin: &Path, climate: Climate) -> Result<Self> {
        let folder = TempDir::new()?;
        let mining = Mining::Interval(climate.block_time);
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, mining, ..Config::default() });
        let node = chain.serve(([127, 0, 0, 1], 0).into()).await?;
        let payers = Payers::new(&chain, climate.payers)?;
        let database = Cluster::shared().database();
        let journal = PgJournal::open(&database.url(), None).await?;
        // Taken all at once, so that each is another one.
        let free: Vec<TcpListener> = (0..REPLICAS)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<std::io::Result<_>>()?;
        let mut replicas = Vec::new();
        for listener in &free {
            let port = listener.local_addr()?.port();
            let signers = (0..SIGNERS.len()).map(|index| format!("{{ env = \"SIGNER_{index}\" }}"));
            let signers = signers.collect::<Vec<_>>().join(", ");
            let url = format!("http://127.0.0.1:{port}");
            let text = format!(
                "listen = \"127.0.0.1:{port}\"\nadvertise = \"{url}\"\ndatabase = \"{}\"\n\
                 lease_s = {}\n[[network]]\nid = \"eip155:{CHAIN_ID}\"\nrpc = \"{}\"\n\
                 signers = [{signers}]\nblock_time_s = 1\n",
                database.url(),
                climate.lease_s,
                node.http_url(),
            );
            let config = folder.path().join(format!("{port}.toml"));
            std::fs::write(&config, text)?;
            replicas.push(Replica::new(url, bin, config));
        }
        drop(free);
        for replica in &mut replicas {
            replica.start()?;
        }
        let folder = Some(folder);
        let mut world = Self { chain, payers, replicas, journal, database, _node: node, folder };
        world.all_ready().await?;
        Ok(world)
    }

    /// Waits until every replica runs and can be sent payments.
    pub(crate) async fn all_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        for replica in &mut self.replicas {
            replica.wake();
            replica.start()?;
            while !replica.is_ready().await {
                if begun.elapsed() > PATIENCE {
                    return Err(format!("{} is not ready", replica.url).into());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Waits until nothing is unfinished in the journal.
    pub(crate) async fn all_finished(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let unfinished = self.journal.unfinished(&network(), 10).await?;
            let Some(first) = unfinished.first() else { return Ok(()) };
            if begun.elapsed() > PATIENCE {
                return Err(format!("unfinished after {PATIENCE:?}: {}", first.new.key).into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Compares journal and chain, and returns how many payments both say were settled.
    pub(crate) async fn books(&self, payments: &[PaymentKey]) -> Result<usize> {
        books(&self.chain, &self.journal, payments).await
    }

    /// How many nonces were recorded for payments that do not share a transaction: those of a pack
    /// do. What the chain says of each signer has to agree: so many transactions, without a gap.
    pub(crate) async fn nonces_reused(&self) -> Result<u64> {
        let reused = self.database.sql(NONCES_REUSED)?.parse()?;
        for index in SIGNERS {
            let signer = DEV_ACCOUNTS[index];
            let mined = self.chain.provider().get_transaction_count(signer).await?;
            let named = signer.to_checksum(None);
            let next = self.journal.next_nonce(&network(), &named).await?.unwrap_or(0);
            if mined != next {
                let said = format!("{named} recorded nonces below {next} and sent {mined}");
                return Err(said.into());
            }
        }
        Ok(reused)
    }

    /// Transactions of the signers that were mined.
    pub(crate) async fn transactions(&self) -> Result<u64> {
        transactions(&self.chain).await
    }

    /// How often another one began to lead.
    pub(crate) fn tenures(&self) -> Result<u64> {
        Ok(self.database.sql("SELECT max(token)::bigint FROM pay402_journal.lease")?.parse()?)
    }

    /// The place of the replica that leads, if one says that it does.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for (place, replica) in self.replicas.iter().enumerate() {
            if replica.child.is_some() && replica.leads().await {
                return Some(place);
            }
        }
        None
    }

    /// Keeps what the processes said, for whoever looks into a violation.
    pub(crate) fn keep(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }
}

impl Replica {
    /// The place of one.
    pub(crate) fn new(url: String, bin: &Path, config: PathBuf) -> Self {
        Self { url, bin: bin.to_owned(), config, child: None }
    }

    /// Starts the process, unless it runs.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.start_at(None)
    }

    /// The same; the process aborts at `failpoint`, if one is given.
    pub(crate) fn start_at(&mut self, failpoint: Option<&str>) -> Result<()> {
        let program = Command::new(&self.bin);
        self.start_as(program, failpoint)
    }

    /// The same, by another program that is given these words before the command.
    pub(crate) fn start_under(&mut self, program: &str, words: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(words).arg(&self.bin);
        self.start_as(command, None)
    }

    fn start_as(&mut self, mut command: Command, failpoint: Option<&str>) -> Result<()> {
        if let Some(child) = &mut self.child {
            match child.try_wait()? {
                None => return Ok(()),
                Some(status) => {
                    return Err(format!("{} ended by itself: {status}", self.url).into());
                }
            }
        }
        let log =
            File::options().create(true).append(true).open(self.config.with_extension("log"))?;
        command.args(["facilitator", "--config"]).arg(&self.config).env_clear();
        command.env("RUST_LOG", "warn,pay402_facilitator=info");
        for (number, index) in SIGNERS.iter().enumerate() {
            command.env(
                format!("SIGNER_{number}"),
                format!("{:#x}", genesis::PUBLIC_DEV_KEYS[*index]),
            );
        }
        if let Some(failpoint) = failpoint {
            command.env(failpoint::VARIABLE, failpoint);
        }
        command.env(HOOK_SECRET, HOOK_SECRET_DEV);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// How the process ended, if it has.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// The process's number, while there is one.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Asks the process to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.signal("-TERM");
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            return Err(format!("{} ended by itself: {status}", self.url).into());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops the process where it is.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub(crate) fn wake(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        if let Some(child) = &self.child {
            // It may have ended: that is noticed elsewhere.
            _ = Command::new("kill").args([name, &child.id().to_string()]).status();
        }
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.read("/readyz").await.is_some()
    }

    async fn leads(&self) -> bool {
        let health = self.read("/health").await.unwrap_or_default();
        health.contains("\"status\":\"ok\",\"unfinished\"")
    }

    async fn read(&self, path: &str) -> Option<String> {
        let client = reqwest::Client::builder().timeout(Duration::from_millis(500)).build().ok()?;
        let answer = client.get(format!("{}{path}", self.url)).send().await.ok()?;
        answer.error_for_status().ok()?.text().await.ok()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already, and a frozen one is killed all the same.
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Compares a journal with the chain, and returns how many payments both say were settled.
pub(crate) async fn books(
    chain: &Devchain,
    journal: &dyn Journal,
    payments: &[PaymentKey],
) -> Result<usize> {
    let town = Town {
        network: network(),
        token: USDC_ADDRESS,
        payee: DEV_ACCOUNTS[PAYEE],
        signers: SIGNERS.map(|index| DEV_ACCOUNTS[index]).to_vec(),
    };
    let coherent = compare_town(&chain.provider(), &town, journal, payments).await?;
    audit(chain, journal).await?;
    Ok(coherent.payments)
}

/// Has the chain prove a journal, to the wei, as `pay402 reconcile` does.
pub(crate) async fn audit(chain: &Devchain, journal: &dyn Journal) -> Result<()> {
    let rpc = Rpc::provided(&network(), &chain.provider());
    let mut audit = Audit::begin(network(), rpc, AssetTable::defaults()).await?;
    audit.add(journal.books(&network(), 0, usize::MAX).await?);
    let audited = audit.finish(&Scope::default()).await?;
    match audited.standing() {
        Standing::Proven if audited.open == 0 => Ok(()),
        standing => {
            let findings = audited.violations.iter().chain(&audited.unknown);
            let told: Vec<String> = findings
                .map(|it| format!("{} {}: {}", it.what.name(), it.subject, it.message))
                .collect();
            let open = audited.open;
            Err(format!("the books are {}, {open} open: {told:?}", standing.name()).into())
        }
    }
}

/// Transactions of the signers that were mined.
pub(crate) async fn transactions(chain: &Devchain) -> Result<u64> {
    let mut sum = 0;
    for index in SIGNERS {
        sum += chain.provider().get_transaction_count(DEV_ACCOUNTS[index]).await?;
    }
    Ok(sum)
}

/// The network that the world is on.
pub(crate) fn network() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

#[cfg(test)]
mod tests {
    mod postgres {
        use super::super::NONCES_REUSED;
        use crate::postgres::Cluster;

        #[tokio::test]
        async fn a_nonce_of_two_payments_is_seen_and_one_of_a_pack_is_not() {
            let database = Cluster::shared().database();
            pay402_store::PgJournal::open(&database.url(), None).await.unwrap();
            let sign = |entry: u8, nonce: u8, hash: &str| {
                let sql = format!(
                    "INSERT INTO pay402_journal.entry (key, fingerprint, network, payer, amount, expires,
                         plan, entered_at, delivery, stage)
                     VALUES ('{entry}', decode(repeat('00', 32), 'hex'), 'n', 'p', '1',
                         repeat('0', 20), '', repeat('0', 20), 'waiting', 'due')
                     ON CONFLICT DO NOTHING;
                     INSERT INTO pay402_journal.signed_transaction
                         (entry, network, signer, nonce, transaction_hash)
                     SELECT seq, 'n', 's', lpad('{nonce}', 20, '0'), '{hash}'
                     FROM pay402_journal.entry WHERE key = '{entry}'"
                );
                database.sql(&sql).unwrap();
                database.sql(NONCES_REUSED).unwrap()
            };
            // By itself, replaced, and three in a pack that is replaced.
            for (entry, nonce, hash) in
                [(1, 1, "a"), (1, 1, "b"), (2, 2, "c"), (3, 2, "c"), (4, 2, "c")]
            {
                assert_eq!(sign(entry, nonce, hash), "0", "{entry} {nonce} {hash}");
            }
            for entry in 2..=4 {
                assert_eq!(sign(entry, 2, "d"), "0");
            }
            assert_eq!(sign(5, 1, "e"), "1", "another payment by the nonce of the first");
            assert_eq!(sign(6, 2, "f"), "2", "another payment by the nonce of a pack");
        }
    }
}
