//! `pay402 facilitator`: verify and settle for resource servers.

mod caller;
mod config;
mod inspect;
mod keys;
mod nodes;
pub(crate) mod reconcile;
mod setup;
mod sponsor;
mod webhooks;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use pay402_core::asset::AssetId;
use pay402_core::error::Misconfigured;
use pay402_core::journal::Journal;
use pay402_core::network::Network;
use pay402_core::time::{Clock, SystemClock};
use pay402_evm::{
    Asset, AssetTable, EvmNetwork, NodeState, Nodes, Peg, Rpc, RpcEnd, RpcWatch, Settings,
};
use pay402_facilitator::api::{Access, Api, KeyHash, Named, Role};
use pay402_facilitator::failpoint::Failpoints;
use pay402_facilitator::{Engine, NodeStanding, Options, RpcCounts, RpcOutcome, SpanCounts};
use pay402_store::{PgJournal, SqliteJournal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use self::caller::{Caller, CallerRole};
use self::config::{Config, Database, Signer};
use crate::error::CliError;
use crate::telemetry::{self, Telemetry};
use crate::{secret, serve, terminal};

/// How long settlements that callers wait for may take to finish after a signal to stop.
const DRAIN: Duration = Duration::from_secs(25);
/// How long stopping may take, the leases' release included; connections have
/// [`serve::CONNECTION_GRACE`] more.
const STOP_MAX: Duration = Duration::from_secs(27);

/// How long payments are still taken after a signal to stop, unless it is set.
const DRAIN_DELAY_S: u64 = 0;

/// Verify and settle x402 payments.
#[derive(Debug, clap::Args)]
#[command(after_help = r#"A configuration that is enough for local tests:

  listen = "127.0.0.1:4020"
  database = "facilitator.db"

  [[network]]
  id = "eip155:84532"
  rpc = "http://127.0.0.1:8545"
  signer = { env = "FACILITATOR_PRIVATE_KEY" }

Beside them, here with the defaults, for all networks:
  strikes_max = 3             # settlements of one payer that failed at our cost, from which on
  strikes_window_s = 3600     # the payer is refused, until the first was so long ago
  burial_blocks = 64          # how deep a block is beyond doubt; until then what it closed is
                              # watched, and settled again when the chain undoes it
  halt_after_s = 120          # nothing new is accepted when settlements wait and no block comes
  # retain_days = 365         # how long payments are kept that are over for good; for ever without it
  settle_wait_s = 75          # longest that a settle call waits before settlement_pending; shorter
                              # than what cuts servers' calls off (a proxy, a cloud function)
  drain_delay_s = 0           # how long after a signal to stop payments are still taken while
                              # /readyz says 503: as long as a load balancer takes to notice

The signer pays the gas of settlements and needs nothing else. A key file instead:
  signer = { keystore = "signer.json", password_env = "SIGNER_PASSWORD" }
Several take turns, each with a lane of its own; the journal is sealed with the first one's key:
  signers = [{ env = "SIGNER_A" }, { env = "SIGNER_B" }]

A [[network]] may also set, here with the defaults (on Ethereum 2 and 12):
  rpc = ["http://a", "http://b"]  # several nodes, at most 8: the first that is well is asked, and
                              # transactions go to all of them; or each by name:
                              #   [[network.node]]
                              #   name = "own"
                              #   rpc = "http://127.0.0.1:8545"
  confirmations = 1           # blocks, its own included, before a settlement counts
  block_time_s = 2            # payments must leave time for two blocks
  gas_limit_max = 400000      # most gas of one settlement; 600000 more to deploy a wallet
  fee_per_gas_max_gwei = 200  # highest price of gas; payments offer 8 of 9 parts of it, and what
                              # cancels one that has expired may offer all
  signer_min_gwei = 5000000   # what the signer must have for new work to be accepted (0.005 ETH here);
                              # without it, what 20 settlements or a pack may cost at the time
  loss_max_gwei = 50000000    # gas of failed settlements in an hour from which on nothing new is
                              # accepted (0.05 ETH); the same of one payer, and of one caller:
  loss_per_payer_max_gwei = 5000000
  loss_per_caller_max_gwei = 20000000
  failures_in_a_row_max = 20  # from so many on, nothing new is accepted for a minute or longer
  in_flight_per_signer_max = 1024  # transactions of a signer that wait to be mined, from which on
                              # it is given no more; 16 where a node or sequencer keeps no more
  packing = "auto"            # many payments in one transaction where the contract for it is there
                              # (pay402 facilitator setup puts it there); "off" sends each by itself
  pack_wait_ms = 20           # how long a payment that is not the only one due waits for others
  pack_members_max = 50       # most payments of one transaction
  pack_gas_max = 6000000      # most gas of one such transaction
payments of higher value may have to be more certain (the amount is in whole units of the token
behind it, which is named by symbol or address):
  [[network.tier]]
  from = "100.00 USDC"        # what is charged, at the least
  confirmations = 12          # before such a settlement counts
  nodes = 1                   # how many of the network's nodes must show its proof
settling may have to cost less than it pays, which needs what the network's coin is worth in each
token, on a day (without them, anything within the gas limits may be spent):
  [network.guard]
  cost_percent_max = 50       # most that the gas may cost, in hundredths of what is charged
  cost_max_gwei = 1000000     # most that it may cost at all
  least = ["0.001 USDC"]      # the least that is settled, of each token
  rate_age_max_h = 168        # how old a rate may be
  old_rates = "refuse"        # what becomes of payments when it is older; "use" goes on with it
  [[network.rate]]
  coin = "3000.00 USDC"       # what a whole coin was worth
  date = 2026-11-26           # on that day (UTC)
and a token that is not in the default table is added below it:
  [[network.asset]]
  address = "0x..."
  symbol = "XUSD"
  decimals = 6
  name = "X Dollar"           # name and version of its EIP-712 domain; without them it is
  version = "1"               # settled through Permit2
  packs = false               # whether its payments may be packed: its transfers do not depend on
                              # who sends them, and it logs the use of a nonce, then the transfer

Calls into contracts that payers choose are made only where they are allowed:
  factories = ["0x..."]             # may deploy wallets (ERC-6492)
  delegation_managers = ["0x..."]   # may carry out delegations (ERC-7710)
  delegates = ["0x..."]             # code that accounts may have adopted (EIP-7702) to pay by
                                    # themselves; by default AgentAccount

Nothing but payments is sent at the signer's cost, unless it is set:
  [network.sponsor]
  adoptions = true                  # POST /account: accounts adopt a delegate (EIP-7702), and
                                    # have it do what their owner signed, within gas_limit_max
  operations_per_account_max = 8    # of these, for one account in a day
  approvals = true                  # broadcast approvals of Permit2 that payers sign
  advance_wei_max = 100000000000000 # and send who lacks its gas that, once for all, at most this
                                    # much; whoever makes a new key can have it
  approval_gas_max = 100000         # most gas that an approval may ask for

A journal in PostgreSQL instead of a file, for several facilitators with the same signers: all
take calls, one of them leads a network and settles on it, and the others forward to it what
it alone can do. On other machines the database is spoken to by TLS alone; its user needs
CREATE on it.
  database = "postgres://user@host/name"   # ${VAR} is replaced
  database_password_env = "DB_PASSWORD"    # or DB_PASSWORD_FILE, a file with it
  advertise = "http://10.0.0.5:4020"       # where the others reach this one; callers' keys go there
  lease_s = 10                # how long after the leader's crash another one leads

Callers from other machines, or through a proxy, need an API key each:
  [[caller]]
  name = "shop"
  key_sha256 = "..."          # pay402 facilitator keys new shop --out shop.key
  role = "caller"             # "operator" sees what happens to everybody's payments
  payees = ["0x..."]          # whom its payments may pay, and in what; by default all, any number
  assets = ["0x..."]          # of times a minute, whatever gas they cost
  calls_per_minute = 600
  gas_per_hour_max_gwei = 10000000  # gas of what it entered, on each network (0.01 ETH)
  webhook = { url = "https://...", secret_env = "SHOP_WEBHOOK_SECRET" }

A webhook is sent how payments ended, signed as in Standard Webhooks; a caller's, those that the
caller entered; the operator's, all:
  [webhook]
  url = "https://..."
  secret_env = "WEBHOOK_SECRET"        # whsec_ and base64: echo whsec_$(openssl rand -base64 32)
They go to public addresses by HTTPS, unless it is set:
  dangerous_private_webhooks = false   # beside the others: this machine, private networks, HTTP

Where OTEL_EXPORTER_OTLP_ENDPOINT is set, what is done is traced to that collector of OpenTelemetry;
docs/facilitator.md lists the variables that are read."#)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(
        long,
        env = "CONFIG",
        value_name = "FILE",
        default_value = "facilitator.toml",
        global = true
    )]
    config: PathBuf,
    /// Without one, it serves.
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    #[command(flatten)]
    Look(inspect::Verb),
    /// Put the contract that packs payments on each network where it is missing.
    ///
    /// Says what it would cost and asks first, or needs --yes. Run it while no facilitator sends from the same signer.
    Setup(setup::Args),
    /// Make and tell apart API keys of callers.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Send events to webhooks anew.
    #[command(subcommand)]
    Webhooks(webhooks::Verb),
}

impl Args {
    /// Whether it serves, and does not only look or change something and end.
    pub(crate) const fn serves(&self) -> bool {
        self.verb.is_none()
    }
}

/// Runs the subcommand; what it serves is traced where `telemetry` is there.
pub(crate) async fn run(args: Args, telemetry: Option<Telemetry>) -> Result<(), CliError> {
    let Some(telemetry) = telemetry else { return run_traced(args, None).await };
    let counts = telemetry.counts();
    let (ended, end) = oneshot::channel::<()>();
    let exporting = tokio::spawn(telemetry.export(async move { _ = end.await }));
    let done = run_traced(args, Some(counts)).await;
    drop(ended);
    // What cannot be exported within a moment is left behind.
    _ = exporting.await;
    done
}

async fn run_traced(args: Args, spans: Option<Arc<SpanCounts>>) -> Result<(), CliError> {
    if let Some(Verb::Keys(verb)) = &args.verb {
        return keys::run(verb, &args.config);
    }
    let config = config::read(&args.config)?;
    match args.verb {
        Some(Verb::Look(verb)) => return inspect::run(verb, &config).await,
        Some(Verb::Setup(args)) => return setup::run(args, &config).await,
        Some(Verb::Webhooks(verb)) => return webhooks::run(verb, &config).await,
        Some(Verb::Keys(_)) | None => {}
    }
    let access = access(&config)?;
    let mut networks: Vec<Arc<dyn Network>> = Vec::new();
    let mut counts = Vec::new();
    for (index, network) in config.networks.iter().enumerate() {
        networks.push(Arc::new(network_of(index, network, Some(&mut counts))?));
    }
    let webhooks = webhooks::all(&config)?;
    let options = Options { failpoints: Failpoints::from_env()?, webhooks, ..config.options() };
    let journal = journal(&config, &SystemClock).await?;
    let listener = serve::listen(config.listen).await?;
    let address = listener.local_addr().map_err(|error| CliError::general(error.to_string()))?;
    let api = Api::counting(access, named(&config)?, counts);
    let mut router = api.router();
    if let Some(spans) = spans {
        api.trace(spans);
        router = telemetry::traced(router);
    }
    let delay = Duration::from_secs(config.drain_delay_s.unwrap_or(DRAIN_DELAY_S));
    let leaving = leave(api.clone(), delay);
    // From the start on, so that whoever asks is told that it starts.
    let serving = serve::serve_until_stopped(listener, router, leaving, std::future::ready(()));
    let starting = async {
        let engine = Engine::start(networks, journal, Arc::new(SystemClock), options).await?;
        let kinds = engine.kinds().kinds.iter();
        let names: Vec<_> = kinds
            .map(|kind| format!("{} on {} v{}", kind.scheme, kind.network, kind.version.number()))
            .collect();
        api.open(engine.clone());
        terminal::say(&format!(
            "facilitator listening on http://{address}, settling {}",
            names.join(", ")
        ));
        Ok::<_, CliError>(engine)
    };
    let mut serving = pin!(serving);
    let engine = tokio::select! {
        biased;
        started = starting => started?,
        // Asked to stop before it had started, or nothing can be served.
        served = &mut serving => return served,
    };
    tokio::select! {
        served = serving => served,
        // On a file nobody follows: only a new start gets the network back, and this one may hold
        // others that its successor waits for.
        network = engine.taken_over() => {
            _ = tokio::time::timeout(STOP_MAX, engine.stop(DRAIN)).await;
            let problem = format!("another facilitator has taken over settling on {network}");
            Err(CliError::taken_over(problem))
        }
    }
}

/// What happens between the signal to stop and the end of listening: who asks is told that this
/// process is not ready, then new payments are refused and those under way are finished.
async fn leave(api: Api, delay: Duration) {
    api.retire();
    let Some(engine) = api.engine() else { return };
    tokio::time::sleep(delay).await;
    if tokio::time::timeout(STOP_MAX, engine.stop(DRAIN)).await.is_err() {
        terminal::note("the journal does not answer; its lease runs out by itself");
    }
    api.close();
}

async fn journal(config: &Config, clock: &dyn Clock) -> Result<Arc<dyn Journal>, Misconfigured> {
    let opened: Result<Arc<dyn Journal>, _> = match config.database() {
        Database::File(path) => SqliteJournal::open(path).map(|journal| Arc::new(journal) as _),
        Database::Postgres(url) => {
            let password = database_password(config)?;
            match PgJournal::open(&url.0, password.as_deref().map(String::as_str)).await {
                Ok(journal) => journal.check_clock(clock).await.map(|()| Arc::new(journal) as _),
                Err(error) => Err(error),
            }
        }
    };
    opened.map_err(|error| Misconfigured::new("database", error.problem))
}

/// The journal, to be read and left as it is.
async fn looked_at(config: &Config) -> Result<Arc<dyn Journal>, Misconfigured> {
    let opened: Result<Arc<dyn Journal>, _> = match config.database() {
        Database::File(path) => SqliteJournal::look(path).map(|journal| Arc::new(journal) as _),
        Database::Postgres(url) => {
            let password = database_password(config)?;
            let opened = PgJournal::look(&url.0, password.as_deref().map(String::as_str)).await;
            opened.map(|journal| Arc::new(journal) as _)
        }
    };
    opened.map_err(|error| Misconfigured::new("database", error.problem))
}

fn database_password(config: &Config) -> Result<Option<Zeroizing<String>>, Misconfigured> {
    let name = config.database_password_env.as_ref();
    name.map(|name| needed("database_password_env", name)).transpose()
}

/// The secret in an environment variable that a setting names.
fn needed(setting: &str, name: &str) -> Result<Zeroizing<String>, Misconfigured> {
    secret::from_environment(name)?.ok_or_else(|| {
        let problem = format!("needs the environment variable {name} (or {name}_FILE)");
        Misconfigured::new(setting, problem)
    })
}

fn access(config: &Config) -> Result<Access, Misconfigured> {
    let mut keys = Vec::new();
    for (index, caller) in config.callers.iter().enumerate() {
        keys.push(key_hash(index, caller)?);
    }
    let access = if keys.is_empty() { Access::Open } else { Access::Keys(keys) };
    access.check_listen(config.listen).map_err(|error| {
        Misconfigured::new("listen", format!("{} (as [[caller]] with key_sha256)", error.problem))
    })?;
    Ok(access)
}

/// The callers by their names.
fn named(config: &Config) -> Result<Vec<Named>, Misconfigured> {
    let mut named: Vec<Named> = Vec::new();
    for (index, caller) in config.callers.iter().enumerate() {
        let setting = format!("caller[{index}].name");
        let (name, key) = (caller.name.clone(), key_hash(index, caller)?);
        caller::check_name(&setting, &name)?;
        if named.iter().any(|other| other.name == name) {
            let problem = format!("{name:?} is another caller's too; give each its own");
            return Err(Misconfigured::new(setting, problem));
        }
        let role = match caller.role {
            CallerRole::Caller => Role::Caller,
            CallerRole::Operator => Role::Operator,
        };
        named.push(Named { key, name, role, limits: caller.limits(index)? });
    }
    Ok(named)
}

fn key_hash(index: usize, caller: &Caller) -> Result<KeyHash, Misconfigured> {
    KeyHash::parse(&caller.key_sha256).map_err(|error| {
        let setting = format!("caller[{index}].key_sha256");
        Misconfigured::new(setting, format!("of {:?} is {error}", caller.name))
    })
}

/// Tells the counts of one node how questions to it ended, and the log how it stands.
struct Counting {
    counts: Arc<RpcCounts>,
    network: pay402_core::NetworkId,
    node: String,
}

impl RpcWatch for Counting {
    fn ended(&self, method: &'static str, end: RpcEnd) {
        self.counts.add(
            method,
            match end {
                RpcEnd::Answered => RpcOutcome::Answered,
                RpcEnd::Failed => RpcOutcome::Failed,
                RpcEnd::Unanswered => RpcOutcome::Unanswered,
            },
        );
    }

    fn took(&self, time: Duration) {
        self.counts.took(time);
    }

    fn saw(&self, head: u64) {
        self.counts.saw(head);
    }

    fn stands(&self, state: NodeState) {
        let Self { counts, network, node } = self;
        match state {
            NodeState::Well => {
                tracing::info!(%network, node, "the node answers again");
                counts.stands(NodeStanding::Well);
            }
            NodeState::Resting => {
                tracing::warn!(%network, node, "the node keeps failing; it is left alone for a while");
                counts.stands(NodeStanding::Resting);
            }
            NodeState::OtherChain => {
                tracing::error!(%network, node, "the node is on another chain; it is not asked");
                counts.stands(NodeStanding::OtherChain);
            }
        }
    }

    fn disagreed(&self) {
        let Self { counts, network, node } = self;
        tracing::warn!(%network, node, "nodes show a payment differently; it stays open");
        counts.disagreed();
    }
}

fn network_of(
    index: usize,
    network: &config::Network,
    mut counts: Option<&mut Vec<Arc<RpcCounts>>>,
) -> Result<EvmNetwork, Misconfigured> {
    let setting = format!("network[{index}]");
    let assets = assets_of(&setting, network)?;
    let here = assets.clone().only(|asset| asset.info.id.network == network.id);
    let tiers = network.tiers(&setting, &here)?;
    let guard = network.guard(&setting, &here)?;
    let settings = Settings { tiers, guard, ..network.settings(&setting)? };
    let signers = network.signers(&setting)?.into_iter();
    let signers =
        signers.map(|(setting, given)| signer(&setting, given)).collect::<Result<_, _>>()?;
    let clock = Arc::new(SystemClock);
    let id = &network.id;
    let mut reached = Vec::new();
    for nodes::Node { name, setting, url } in network.nodes(&setting) {
        let mut rpc = Rpc::http(&setting, id, url)?;
        if let Some(all) = &mut counts {
            let counts = Arc::new(RpcCounts::new(id, &name));
            all.push(Arc::clone(&counts));
            rpc =
                rpc.watched(Arc::new(Counting { counts, network: id.clone(), node: name.clone() }));
        }
        reached.push((name, rpc));
    }
    let reached = Nodes::new(&format!("{setting}.node"), reached)?;
    EvmNetwork::new(id.clone(), reached, signers, assets, clock, settings)
}

/// The default tokens, and those of a network's configuration.
fn assets_of(setting: &str, network: &config::Network) -> Result<AssetTable, Misconfigured> {
    let mut assets = AssetTable::defaults();
    for (position, asset) in network.assets.iter().enumerate() {
        assets = with_asset(assets, &format!("{setting}.asset[{position}]"), &network.id, asset)?;
    }
    Ok(assets)
}

fn with_asset(
    assets: AssetTable,
    setting: &str,
    network: &pay402_core::NetworkId,
    asset: &config::Asset,
) -> Result<AssetTable, Misconfigured> {
    let Some(details) = asset.details(setting)? else {
        let known = assets.find(&AssetId::new(network.clone(), &asset.address)).is_some();
        let problem = "is not in the default table; add symbol and decimals, and for EIP-3009 name \
                       and version";
        return if known { Ok(assets) } else { Err(Misconfigured::new(setting, problem)) };
    };
    let config::AssetDetails { symbol, decimals, domain, packs } = details;
    let (address, peg) = (&asset.address, Peg::Other);
    let asset = match domain {
        Some(domain) => Asset::eip3009(network, address, symbol, decimals, domain, peg),
        None => Asset::erc20(network, address, symbol, decimals, peg),
    };
    let asset = asset
        .map_err(|error| Misconfigured::new(format!("{setting}.address"), error.to_string()))?;
    Ok(assets.with(if packs { asset.packing() } else { asset }))
}

fn signer(setting: &str, signer: &Signer) -> Result<PrivateKeySigner, Misconfigured> {
    let needed = |name: &str| needed(setting, name);
    match signer {
        Signer::Environment { env } => secret::signer(&format!("{setting}.env"), &needed(env)?),
        Signer::Keystore { keystore, password_env, password_file } => {
            let password = match (password_env, password_file) {
                (Some(name), None) => needed(name)?,
                (None, Some(path)) => secret::from_file(&format!("{setting}.password_file"), path)?,
                _ => {
                    let problem = "needs exactly one of password_env and password_file";
                    return Err(Misconfigured::new(setting, problem));
                }
            };
            let key = pay402_evm::keystore::open_file(setting, keystore, &password)?;
            secret::signer_from(setting, &key)
        }
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "a file of the store's tests")]
#[path = "../../../store/tests/postgres/cluster.rs"]
mod cluster;

#[cfg(all(test, unix))]
mod tests {
    mod postgres {
        use pay402_core::time::{Clock as _, ManualClock, SystemClock};

        use super::super::cluster::Cluster;
        use super::super::{config, journal};

        #[tokio::test]
        async fn it_does_not_start_with_a_clock_far_from_the_databases() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("facilitator.toml");
            let database = Cluster::shared().database();
            let text = format!(
                "listen = \"127.0.0.1:0\"\ndatabase = \"{}\"\n[[network]]\nid = \"eip155:84532\"\n\
                 rpc = \"http://127.0.0.1:1\"\nsigner = {{ env = \"NO_KEY\" }}\n",
                database.url()
            );
            std::fs::write(&path, text).unwrap();
            let config = config::read(&path).unwrap();
            let now = SystemClock.now();
            assert!(journal(&config, &ManualClock::new(now)).await.is_ok());
            for far in [now.plus_s(45), now.minus_s(45)] {
                let refused = journal(&config, &ManualClock::new(far)).await.map(drop).unwrap_err();
                assert_eq!(refused.key, "database");
                assert!(refused.problem.contains("30 s is the most"), "{refused}");
            }
        }
    }
}
