//! `pay402 account`: lets the key of an agent pay from a person's account, within limits that the
//! chain enforces.
//!
//! The person's own key, the root, signs here and nowhere else; a facilitator sends what it signed,
//! or the root pays the gas itself. What is reported as done was read from the chain.

mod chain;
mod road;
mod session;
mod show;

use std::path::PathBuf;

use alloy::primitives::{Address, Bytes};
use alloy::signers::local::PrivateKeySigner;
use pay402_core::NetworkId;
use pay402_core::error::Malformed;
use pay402_core::time::UnixTime;
use pay402_evm::account::state::{self, Delegate, KeyState, Policy, Standing};
use pay402_evm::account::{AGENT_ACCOUNT, RootOperation, relay};
use pay402_evm::address::parse_address;
use serde_json::json;
use url::Url;

use self::chain::Chain;
use self::road::{Errand, Road};
use self::session::Granted;
use crate::error::{CliError, exit};
use crate::{secret, terminal};

/// How long what the root signs may wait to be sent, in seconds.
const OPERATION_S: u64 = 600;

/// Let an agent's key pay from your account, within limits that the chain enforces.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Your account adopts a contract (EIP-7702) that knows session keys. A session key pays only the\n\
payees, tokens and amounts that you allowed it, and you can revoke it at any time. The account keeps\n\
its address and tokens, and your own key keeps working as before.\n\n\
Example, with a facilitator that pays the gas:\n  \
export EVM_PRIVATE_KEY_FILE=root.key EVM_RPC_URL=http://127.0.0.1:8545\n  \
pay402 account adopt --facilitator http://127.0.0.1:4020 --new-key agent.key \\\n    \
--token USDC --cap 0.10 --budget 1.00 --window 1d --expires 30d --payee 0xTheShop\n  \
pay402 pay --account 0xYourAccount --session-key agent.key http://127.0.0.1:4021/weather\n\n\
Exit codes: 0 done, 2 usage, 3 configuration, 4 network, 5 refused, 8 signing,\n\
13 sent but not seen on the chain yet.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the account an agent account, and grant a session key in the same transaction if you like.
    Adopt(Adopt),
    /// Grant, list and revoke session keys.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Show what the account is, and what its session keys may still spend.
    Status(Look),
}

#[derive(Debug, clap::Subcommand)]
enum SessionCommand {
    /// Grant a key what it may pay.
    Add(Add),
    /// List the session keys with their limits and what is left of them.
    List(Look),
    /// Revoke one key, or all of them; nothing that it signed is paid any more.
    Revoke(Revoke),
}

/// Where the chain is, and how results are printed.
#[derive(Debug, clap::Args)]
struct Common {
    /// JSON-RPC node of the network.
    #[arg(long, env = "EVM_RPC_URL", value_name = "URL", hide_env_values = true)]
    rpc_url: Url,
    /// Refuse to go on unless the node is of this network: a CAIP-2 id or a name.
    #[arg(short = 'n', long, env = "EVM_NETWORK", value_name = "NETWORK")]
    network: Option<NetworkId>,
    /// Print JSON, for programs. It is printed anyway when standard output is not a terminal.
    #[arg(long)]
    json: bool,
}

/// The root key, and who sends what it signs.
#[derive(Debug, clap::Args)]
struct Root {
    /// Encrypted key file of the root (Web3 Secret Storage v3); the password comes from
    /// PAY402_PASSWORD or PAY402_PASSWORD_FILE. Without it the key is read from EVM_PRIVATE_KEY or
    /// the file named by EVM_PRIVATE_KEY_FILE.
    #[arg(long, value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// Facilitator that sends it and pays the gas; its API key comes from FACILITATOR_API_KEY.
    #[arg(long, env = "FACILITATOR_URL", value_name = "URL", hide_env_values = true)]
    facilitator: Option<Url>,
    /// Send it from the account itself, which pays the gas.
    #[arg(long)]
    self_funded: bool,
}

#[derive(Debug, clap::Args)]
struct Adopt {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    session: session::Args,
    /// Replace another contract that the account runs now.
    #[arg(long)]
    replace: bool,
    /// Send nothing: keep what is signed in this new file. `pay402 pay --adoption FILE` brings it along
    /// with the first payment, in the same transaction.
    #[arg(long, value_name = "FILE", conflicts_with = "self_funded")]
    save: Option<PathBuf>,
    /// How long the session that --save keeps may wait for its first payment.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = session::seconds)]
    good_for: u64,
}

#[derive(Debug, clap::Args)]
struct Add {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    root: Root,
    #[command(flatten)]
    session: session::Args,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    root: Root,
    /// The address of the key.
    #[arg(value_name = "KEY", value_parser = address, required_unless_present = "all")]
    key: Option<Address>,
    /// Revoke every key, and all that was signed and is not paid yet.
    #[arg(long, conflicts_with = "key")]
    all: bool,
}

/// What to look at.
#[derive(Debug, clap::Args)]
struct Look {
    #[command(flatten)]
    common: Common,
    /// The account; without it that of the root key.
    #[arg(long, env = "PAY402_ACCOUNT", value_name = "ADDRESS", value_parser = address)]
    account: Option<Address>,
    /// Encrypted key file of the root, to know the account by.
    #[arg(long, value_name = "FILE")]
    keystore: Option<PathBuf>,
    /// Show this key whether or not its registration is found. May be repeated.
    #[arg(long = "key", value_name = "ADDRESS", value_parser = address)]
    keys: Vec<Address>,
    /// Show limits for this token, beside those that are known. May be repeated.
    #[arg(long = "token", value_name = "ADDRESS", value_parser = address)]
    tokens: Vec<Address>,
    /// First block to look for registrations in.
    #[arg(long, value_name = "BLOCK", default_value_t = 0)]
    from_block: u64,
}

fn address(text: &str) -> Result<Address, String> {
    parse_address(text).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    match args.command {
        Command::Adopt(args) => adopt(args).await,
        Command::Session(SessionCommand::Add(args)) => add(args).await,
        Command::Session(SessionCommand::Revoke(args)) => revoke(args).await,
        Command::Session(SessionCommand::List(args)) => look(args, show::Part::Sessions).await,
        Command::Status(args) => look(args, show::Part::Account).await,
    }
}

/// The root key with its account as the chain shows it.
struct Office {
    chain: Chain,
    root: PrivateKeySigner,
    road: Road,
    standing: Standing,
}

impl Office {
    async fn open(common: &Common, root: &Root) -> Result<Self, CliError> {
        let road = Road::of(root.facilitator.as_ref(), root.self_funded)?;
        Self::open_on(road, common, root).await
    }

    async fn open_on(road: Road, common: &Common, root: &Root) -> Result<Self, CliError> {
        let signer = secret::account(root.keystore.as_deref())?;
        let chain = Chain::connect(common).await?;
        let standing = state::standing(&chain.rpc, signer.address()).await?;
        Ok(Self { chain, root: signer, road, standing })
    }

    /// Refuses unless the agent account's code is on the chain.
    fn check_deployed(&self) -> Result<(), CliError> {
        if self.standing.is_deployed {
            return Ok(());
        }
        let network = &self.chain.network;
        let message =
            format!("the agent account's code is not on {network}: nothing is at {AGENT_ACCOUNT}");
        Err(CliError::refused("not_deployed", message)
            .suggest("anyone can deploy it there, see docs/agent-account.md"))
    }

    fn account(&self) -> Address {
        self.root.address()
    }

    /// Refuses unless the account has adopted.
    fn check_adopted(&self) -> Result<(), CliError> {
        if self.standing.delegate == Delegate::AgentAccount {
            return Ok(());
        }
        let (account, network) = (self.account(), &self.chain.network);
        let message = format!("{account} is not an agent account on {network}");
        Err(CliError::refused("not_adopted", message)
            .suggest("adopt first: `pay402 account adopt`, with the same session options"))
    }

    /// Refuses a revocation that the account, as it is, would not carry out. It need not run the
    /// agent account that this program knows: an older one has the same storage and operations.
    async fn check_revocable(
        &self,
        operation: &RootOperation,
        key: Option<Address>,
    ) -> Result<(), CliError> {
        let (rpc, account, network) = (&self.chain.rpc, self.account(), &self.chain.network);
        let (epoch, delegate) = (self.standing.epoch, self.standing.delegate);
        if delegate == Delegate::AgentAccount {
            return Ok(());
        }
        let known = match key {
            Some(key) => {
                let policies = state::policies(rpc, account, epoch, &[key]).await?;
                policies.first().map(|policy| (key, policy.state))
            }
            None => self.registered().await?.map(|key| (key, KeyState::Registered)),
        };
        let message = match delegate {
            Delegate::Other(other) => {
                match relay::rehearse(rpc, account, (epoch, known), operation).await? {
                    None => return Ok(()),
                    Some(why) => format!(
                        "{account} runs {other} on {network}, which does not take the revocation: {why}"
                    ),
                }
            }
            Delegate::None | Delegate::AgentAccount | Delegate::Contract => {
                format!("{account} is not an agent account on {network}")
            }
        };
        let is_registered = known.is_some_and(|(_, state)| state == KeyState::Registered);
        let advice = match (is_registered, delegate) {
            (false, _) => "no session key of it is registered: there is nothing to revoke",
            (true, Delegate::Other(_)) => {
                "a key is registered in the account. Whether it still pays is up to the contract that \
                 the account runs now; should the account adopt this one, revoke first thing after"
            }
            (true, _) => {
                "a key is registered in the account, and pays nothing as long as the account runs no \
                 code. Should it ever adopt again, revoke first thing after"
            }
        };
        Err(CliError::refused("not_adopted", message).suggest(advice))
    }

    /// A session key that the account's storage has, as far as the logs of its registrations go.
    async fn registered(&self) -> Result<Option<Address>, CliError> {
        let (rpc, account, now) = (&self.chain.rpc, self.account(), &self.standing);
        let history = state::registrations(rpc, account, 0, now.block).await?;
        let keys: Vec<Address> = history.registrations.iter().map(|one| one.key).collect();
        let policies = state::policies(rpc, account, now.epoch, &keys).await?;
        let is_registered = |policy: &Policy| policy.state == KeyState::Registered;
        Ok(keys
            .into_iter()
            .zip(&policies)
            .find(|(_, policy)| is_registered(policy))
            .map(|(key, _)| key))
    }

    fn deadline(&self) -> UnixTime {
        self.standing.time.plus_s(match &self.road {
            Road::Kept { good_for_s, .. } => *good_for_s,
            Road::Facilitator { .. } | Road::SelfFunded => OPERATION_S,
        })
    }

    /// The operation that grants the session; `None` where an earlier call granted it, or one that
    /// differs in its beginning alone.
    async fn grant(&self, granted: &Granted) -> Result<Option<RootOperation>, CliError> {
        let (epoch, time) = (self.standing.epoch, self.standing.time);
        if self.policy(granted, epoch).await?.state != KeyState::Unknown {
            self.find_earlier(granted).await?;
            return Ok(None);
        }
        let account = self.chain.agent_account(self.account());
        let sessions = std::slice::from_ref(granted.session());
        RootOperation::register(account, sessions, epoch, self.deadline(), time)
            .map(Some)
            .map_err(|error| malformed(&error))
    }

    /// What is stored of the session's key.
    async fn policy(&self, granted: &Granted, epoch: u64) -> Result<Policy, CliError> {
        let (rpc, key) = (&self.chain.rpc, granted.session().key);
        let known = state::policies(rpc, self.account(), epoch, &[key]).await?;
        known.first().copied().ok_or_else(|| CliError::network("the node answered too little"))
    }

    /// Notes the session that the key has already, if it is what was asked for and has not ended.
    async fn find_earlier(&self, granted: &Granted) -> Result<(), CliError> {
        let (account, now) =
            (self.account(), state::standing(&self.chain.rpc, self.account()).await?);
        let (key, policy) = (granted.session().key, self.policy(granted, now.epoch).await?);
        if policy.state == KeyState::Registered && now.time < policy.expiry {
            let history = state::registrations(&self.chain.rpc, account, 0, now.block).await?;
            let mut found = history.registrations.into_iter();
            let found = found.find(|one| (one.key, one.epoch) == (key, now.epoch));
            let earlier = found.and_then(|one| one.session).filter(|one| granted.asks_for(one));
            if let Some(earlier) = earlier {
                granted.note_earlier(earlier);
                return Ok(());
            }
        }
        let what = match policy.state {
            KeyState::Registered if now.time >= policy.expiry => "has expired",
            KeyState::Registered => "is registered already, and not with these limits",
            KeyState::Unknown | KeyState::Revoked => "is revoked",
        };
        let message = format!("the key {key} {what}; a key has one session for ever");
        Err(CliError::refused("session_exists", message)
            .suggest("grant another key: --new-key with a new file makes one"))
    }

    /// Has an errand carried out and waits until the chain shows it done.
    async fn carry_out(
        &self,
        errand: &Errand,
        is_done: impl AsyncFn(&Standing) -> Result<bool, CliError>,
    ) -> Result<Option<String>, CliError> {
        let sent = self.road.carry_out(&self.chain, &self.root, &self.standing, errand).await;
        let transaction = match sent {
            Ok(transaction) => transaction,
            // Somebody may have sent what the root signed before us.
            Err(error) if error.exit == exit::REFUSED && self.is_done_now(&is_done).await? => None,
            Err(error) => return Err(error),
        };
        if !matches!(self.road, Road::Kept { .. }) {
            self.chain.wait(self.account(), transaction.as_deref(), is_done).await?;
        }
        Ok(transaction)
    }

    async fn is_done_now(
        &self,
        is_done: &impl AsyncFn(&Standing) -> Result<bool, CliError>,
    ) -> Result<bool, CliError> {
        is_done(&state::standing(&self.chain.rpc, self.account()).await?).await
    }

    /// Has a session granted, adopting first if that is needed. A key that was made for it is kept
    /// before it is granted anything, and goes again when it certainly was not.
    async fn carry_out_grant(
        &self,
        granted: &Granted,
        adopts: bool,
    ) -> Result<Option<String>, CliError> {
        let operation = self.grant(granted).await?;
        if operation.is_none() && !adopts {
            return Ok(None);
        }
        granted.keep_key()?;
        let key = granted.session().key;
        let is_done = async |now: &Standing| {
            if now.delegate != Delegate::AgentAccount {
                return Ok(false);
            }
            let found = state::policies(&self.chain.rpc, self.account(), now.epoch, &[key]).await?;
            Ok(found.first().is_some_and(|policy| policy.state == KeyState::Registered))
        };
        let done = self.carry_out(&Errand { adopts, operation }, is_done).await;
        let transaction = done.map_err(|error| granted.drop_key(error))?;
        // An earlier call for the same key may have come first after all: what it granted counts.
        let (session, policy) =
            (granted.session(), self.policy(granted, self.standing.epoch).await?);
        let is_ours = (policy.valid_after, policy.expiry) == (session.valid_after, session.expiry);
        if policy.state == KeyState::Registered && !is_ours {
            self.find_earlier(granted).await?;
        }
        Ok(transaction)
    }
}

fn malformed(error: &Malformed) -> CliError {
    // The session is the only one of its operation, and has one token.
    let field = error.field.replace("sessions[0].", "").replace("tokens[0].", "");
    CliError::usage(format!("--{field} {}", error.problem))
}

async fn adopt(args: Adopt) -> Result<(), CliError> {
    let office = match args.save.clone() {
        Some(file) => {
            let road = Road::Kept { file, good_for_s: args.good_for };
            Office::open_on(road, &args.common, &args.root).await?
        }
        None => Office::open(&args.common, &args.root).await?,
    };
    let session = match args.session.is_given() {
        true => Some(args.session.session(&office.chain, &office.standing).await?),
        false => None,
    };
    office.check_deployed()?;
    let adopts = match office.standing.delegate {
        Delegate::AgentAccount => false,
        Delegate::None => true,
        Delegate::Other(_) if args.replace => true,
        Delegate::Other(other) => {
            let message = format!("{} runs another contract already: {other}", office.account());
            return Err(CliError::refused("other_delegate", message)
                .suggest("--replace replaces it; what that contract stored stays behind"));
        }
        Delegate::Contract => {
            let message =
                format!("{} is a contract; only an account with a key can adopt", office.account());
            return Err(CliError::refused("contract", message));
        }
    };
    if let Some(file) = &args.save
        && (session.is_none() || !adopts)
    {
        let message = match adopts {
            true => {
                "--save keeps a session for the first payment; say what it may pay: --cap, --budget"
            }
            false => "--save: the account is an agent account already; use `session add`",
        };
        return Err(CliError::usage(format!("{message} ({} was not written)", file.display())));
    }
    if adopts && terminal::stderr_is_terminal() {
        trust_model();
    }
    let transaction = match &session {
        Some(granted) => office.carry_out_grant(granted, adopts).await?,
        None if adopts => {
            let is_done = async |now: &Standing| Ok(now.delegate == Delegate::AgentAccount);
            office.carry_out(&Errand { adopts, operation: None }, is_done).await?
        }
        None => None,
    };
    let (account, network) = (office.account(), &office.chain.network);
    let mut value = json!({
        "account": account, "network": network, "delegate": AGENT_ACCOUNT,
        "adopted": adopts && args.save.is_none(), "transaction": transaction,
    });
    let mut lines = vec![match (adopts, &args.save) {
        (true, Some(file)) => {
            value["saved"] = json!(file);
            format!(
                "signed, and not sent: {account} becomes an agent account on {network} with the first \
                 payment that brings {} along",
                file.display()
            )
        }
        (true, None) => format!("{account} is an agent account on {network}"),
        (false, _) => format!("{account} was an agent account on {network} already"),
    }];
    if let Some(granted) = &session {
        value["session"] = granted.json();
        lines.extend(granted.lines(account, args.save.as_deref()));
    }
    lines.extend(transaction.map(|hash| format!("transaction {hash}")));
    show::print(args.common.json, &value, &lines);
    Ok(())
}

/// What the owner should know before signing, in two lines.
fn trust_model() {
    let style = terminal::stderr_style();
    terminal::note(&style.dim(
        "Your key stays the root of the account: it alone grants and revokes, and it works as before.",
    ));
    terminal::note(&style.dim(
        "Whoever has a session key can spend up to its limits, which the chain enforces; keep the root \
         key away from the agent.",
    ));
}

async fn add(args: Add) -> Result<(), CliError> {
    let office = Office::open(&args.common, &args.root).await?;
    office.check_deployed()?;
    office.check_adopted()?;
    let granted = args.session.session(&office.chain, &office.standing).await?;
    let transaction = office.carry_out_grant(&granted, false).await?;
    let mut value = json!({
        "account": office.account(), "network": office.chain.network, "transaction": transaction,
    });
    value["session"] = granted.json();
    let mut lines = granted.lines(office.account(), None);
    lines.extend(transaction.map(|hash| format!("transaction {hash}")));
    show::print(args.common.json, &value, &lines);
    Ok(())
}

async fn revoke(args: Revoke) -> Result<(), CliError> {
    let office = Office::open(&args.common, &args.root).await?;
    let account = office.chain.agent_account(office.account());
    let (epoch, time, deadline) = (office.standing.epoch, office.standing.time, office.deadline());
    let (rpc, address) = (&office.chain.rpc, office.account());
    let is_revoked = async |key: Address| -> Result<bool, CliError> {
        let found = state::policies(rpc, address, epoch, &[key]).await?;
        Ok(found.first().is_some_and(|policy| policy.state == KeyState::Revoked))
    };
    let (operation, said) = match args.key {
        Some(key) => {
            let operation = RootOperation::revoke(account, key, epoch, deadline, time);
            (operation, format!("revoked {key}: nothing that it signs is paid any more"))
        }
        None => {
            let operation = RootOperation::revoke_all(account, epoch, deadline, time);
            let said = "revoked every session key, and all that was signed and is not paid yet";
            (operation, said.to_owned())
        }
    };
    let operation = operation.map_err(|error| malformed(&error))?;
    let transaction = match args.key {
        Some(key) if is_revoked(key).await? => None,
        Some(key) => {
            office.check_revocable(&operation, Some(key)).await?;
            let is_done = async |_: &Standing| is_revoked(key).await;
            let errand = Errand { adopts: false, operation: Some(operation) };
            office.carry_out(&errand, is_done).await?
        }
        None => {
            office.check_revocable(&operation, None).await?;
            let is_done = async |now: &Standing| Ok(now.epoch > epoch);
            let errand = Errand { adopts: false, operation: Some(operation) };
            office.carry_out(&errand, is_done).await?
        }
    };
    let value = json!({
        "account": address, "network": office.chain.network,
        "revoked": args.key.map_or_else(|| json!("all"), |key| json!(key)),
        "transaction": transaction,
    });
    let mut lines = vec![said];
    lines.extend(transaction.map(|hash| format!("transaction {hash}")));
    show::print(args.common.json, &value, &lines);
    Ok(())
}

async fn look(args: Look, part: show::Part) -> Result<(), CliError> {
    let account = match args.account {
        Some(account) => account,
        None => secret::account(args.keystore.as_deref())
            .map_err(|error| {
                CliError::from(error).suggest("or name the account: --account ADDRESS")
            })?
            .address(),
    };
    let chain = Chain::connect(&args.common).await?;
    let found = show::look_up(&chain, account, &args.keys, &args.tokens, args.from_block).await?;
    let (value, lines) = (found.json(part), found.lines(part));
    show::print(args.common.json, &value, &lines);
    Ok(())
}

/// The call data of an operation as the road wants it.
async fn call_data(
    operation: Option<&RootOperation>,
    root: &PrivateKeySigner,
) -> Result<Option<Bytes>, CliError> {
    match operation {
        Some(operation) => Ok(Some(operation.sign(root).await?)),
        None => Ok(None),
    }
}
