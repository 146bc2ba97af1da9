//! `pay402 reconcile`: the facilitator's books, proven against the chain or found to be otherwise.
//!
//! Nothing is written but the file that is asked for, nothing is sent, and no key is needed: it runs
//! beside a facilitator that serves, or without one.

mod export;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use alloy::primitives::Address;
use pay402_core::asset::AssetId;
use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::journal::{Forgotten, Journal, JournalError};
use pay402_core::{Amount, NetworkId};
use pay402_evm::address::parse_address;
use pay402_evm::audit::{Audit, Audited, Balance, Balances, Finding, Scope, SignerAudit, Standing};
use pay402_evm::{AssetTable, Rpc};
use serde_json::{Value, json};

use self::export::Format;
use super::config::{self, Config};
use super::{assets_of, looked_at};
use crate::error::CliError;
use crate::terminal::{self, Style};

/// Entries of the journal that are read at a time.
const PAGE_ENTRIES: usize = 5_000;
/// Most entries of one network that are compared: they are held in memory, about a kilobyte each.
const ENTRIES_MAX: usize = 1_000_000;
/// Most findings of one kind and network that are told on a terminal.
const TOLD_MAX: usize = 20;
/// Most of them in JSON.
const TOLD_JSON_MAX: usize = 1_000;
/// Decimal places of a network's own coin.
const COIN_DECIMALS: u8 = 18;

/// What is compared, and how it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The facilitator's configuration file.
    #[arg(long, env = "CONFIG", value_name = "FILE", default_value = "facilitator.toml")]
    config: PathBuf,
    /// Compare this network alone; may be repeated.
    #[arg(long = "network", value_name = "ID")]
    networks: Vec<String>,
    /// Ask the node of this name alone, such as one that keeps old states.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Account for a signer that the books do not name too, or for one from this nonce on, where it was used
    /// elsewhere before; may be repeated.
    #[arg(long = "signer", value_name = "ADDRESS[=NONCE]", value_parser = signer)]
    signers: Vec<(Address, u64)>,
    /// Leave the signers' balances out, for which a node has to know old states.
    #[arg(long)]
    no_balances: bool,
    /// Write double-entry lines to a new file: books.csv, or books.journal for hledger and ledger.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,
    /// Print double-entry lines in place of the figures.
    #[arg(long, value_name = "FORMAT", conflicts_with = "json")]
    print: Option<Format>,
    /// Print JSON on a terminal too.
    #[arg(long)]
    json: bool,
}

/// A network that is compared.
struct Subject {
    id: NetworkId,
    assets: AssetTable,
    /// Those that may be asked, in their order.
    nodes: Vec<Rpc>,
}

/// What came of one network.
struct Outcome {
    subject: Subject,
    audited: Result<Audited, Unavailable>,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let format = match &args.export {
        Some(path) => Some((Format::of(path)?, path)),
        None => None,
    };
    let config = config::read(&args.config)?;
    let subjects = subjects(&config, &args)?;
    let journal = looked_at(&config).await?;
    let scope = Scope {
        balances: if args.no_balances { Balances::LeftOut } else { Balances::Compared },
        signers: args.signers.iter().copied().collect(),
    };
    let mut outcomes = Vec::new();
    for subject in subjects {
        let audited = audit(&subject, &*journal, &scope).await?;
        outcomes.push(Outcome { subject, audited });
    }
    let audited = || {
        let each = outcomes.iter();
        each.filter_map(|it| Some((it.audited.as_ref().ok()?, &it.subject.assets)))
    };
    if let Some((format, path)) = format {
        export::write(format, path, audited())?;
    }
    let verdict = verdict(&outcomes);
    if let Some(format) = args.print {
        // A reader that went away is not an error of ours.
        let _ = export::lines(format, &mut std::io::stdout().lock(), audited());
        if format == Format::Journal {
            terminal::say(&format!("; {}", verdict.summary));
        }
    } else if !args.json && std::io::stdout().is_terminal() {
        say(&outcomes, &verdict);
    } else {
        terminal::say(&told(&outcomes, &verdict).to_string());
    }
    verdict.ended()
}

/// Reads a signer: an address, and from which nonce on.
fn signer(text: &str) -> Result<(Address, u64), String> {
    let (address, nonce) = match text.split_once('=') {
        Some((address, nonce)) => (address, nonce.parse().map_err(|_| "its nonce is no number")?),
        None => (text, 0),
    };
    Ok((parse_address(address).map_err(|error| error.to_string())?, nonce))
}

/// The networks that are asked for, with their nodes.
fn subjects(config: &Config, args: &Args) -> Result<Vec<Subject>, CliError> {
    let mut wanted = Vec::new();
    for text in &args.networks {
        let id = NetworkId::parse_any(text)
            .map_err(|error| CliError::usage(format!("--network {text:?}: {error}")))?;
        if !config.networks.iter().any(|network| network.id == id) {
            return Err(CliError::usage(format!("--network {id}: the configuration has none")));
        }
        wanted.push(id);
    }
    let mut subjects = Vec::new();
    for (index, network) in config.networks.iter().enumerate() {
        let id = network.id.clone();
        if !wanted.is_empty() && !wanted.contains(&id) {
            continue;
        }
        let setting = format!("network[{index}]");
        let mut nodes = Vec::new();
        for node in network.nodes(&setting) {
            let rpc = Rpc::http(&node.setting, &id, node.url)?;
            if args.node.as_ref().is_none_or(|name| *name == node.name) {
                nodes.push(rpc);
            }
        }
        if let Some(name) = args.node.as_ref().filter(|_| nodes.is_empty()) {
            return Err(CliError::usage(format!("--node {name:?}: {id} has no node of that name")));
        }
        let assets = assets_of(&setting, network)?;
        subjects.push(Subject { id, assets, nodes });
    }
    Ok(subjects)
}

/// Audits a network by the first of its nodes that answers to the end.
async fn audit(
    subject: &Subject,
    journal: &dyn Journal,
    scope: &Scope,
) -> Result<Result<Audited, Unavailable>, CliError> {
    let id = &subject.id;
    let mut failed = Unavailable::new(id.to_string(), "it has no node");
    for rpc in &subject.nodes {
        let begun = Audit::begin(id.clone(), rpc.clone(), subject.assets.clone()).await;
        let mut audit = match begun {
            Ok(audit) => audit,
            Err(error) => {
                failed = error;
                continue;
            }
        };
        read_books(&mut audit, journal, id).await?;
        match audit.finish(scope).await {
            Ok(audited) => return Ok(Ok(audited)),
            Err(error) => failed = error,
        }
    }
    Ok(Err(failed))
}

async fn read_books(
    audit: &mut Audit,
    journal: &dyn Journal,
    id: &NetworkId,
) -> Result<(), CliError> {
    let unread = |error: JournalError| CliError::network(error.to_string());
    let (mut after, mut count) = (0, 0);
    loop {
        let page = journal.books(id, after, PAGE_ENTRIES).await.map_err(unread)?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        count += page.len();
        if count > ENTRIES_MAX {
            let problem =
                format!("more than {ENTRIES_MAX} entries of {id} cannot be compared at once");
            return Err(CliError::unproven(problem));
        }
        audit.add(page);
    }
    // After the books: what was deleted while they were read is known to be.
    audit.forget(journal.forgotten(id).await.map_err(unread)?);
    Ok(())
}

/// How the whole ended.
struct Verdict {
    /// How the whole stands.
    standing: Standing,
    /// The first network whose nodes did not answer.
    unanswered: Option<Unavailable>,
    /// One line with figures.
    summary: String,
}

fn verdict(outcomes: &[Outcome]) -> Verdict {
    let audited = || outcomes.iter().filter_map(|outcome| outcome.audited.as_ref().ok());
    let standing = audited().map(Audited::standing).max().unwrap_or(Standing::Unknown);
    let unanswered = outcomes.iter().find_map(|outcome| outcome.audited.as_ref().err().cloned());
    let sum = |of: fn(&Audited) -> u64| audited().map(of).sum::<u64>();
    let whole = match (&unanswered, standing) {
        (Some(_), Standing::Proven) => Standing::Unknown,
        (_, standing) => standing,
    };
    let summary = format!(
        "{}: {} entries on {} networks: {} payments settled, {} transactions; {} contradicted, {} unknown, \
         {} open{}",
        whole.name(),
        sum(|it| it.entries),
        audited().count(),
        sum(|it| it.settled),
        sum(|it| it.transactions),
        sum(|it| it.violations.len() as u64),
        sum(|it| it.unknown.len() as u64),
        sum(|it| it.open),
        match sum(|it| it.forgotten.entries) {
            0 => String::new(),
            deleted => format!("; {deleted} older ones are deleted"),
        },
    );
    Verdict { standing: whole, unanswered, summary }
}

impl Verdict {
    fn ended(self) -> Result<(), CliError> {
        match (self.standing, self.unanswered) {
            (Standing::Contradicted, _) => {
                let error = CliError::contradicted("the chain contradicts the books");
                Err(error.suggest("see the violations; the facilitator need not be stopped"))
            }
            (_, Some(error)) => Err(error.into()),
            (Standing::Unknown, None) => {
                let error = CliError::unproven("the node does not show enough to prove the books");
                Err(error.suggest(
                    "see what is unknown; name a node that keeps old states and receipts (--node), or leave \
                     the balances out (--no-balances)",
                ))
            }
            (Standing::Proven, None) => Ok(()),
        }
    }
}

fn coin(wei: Amount) -> String {
    wei.to_units(COIN_DECIMALS)
}

fn painted(style: Style, standing: Standing) -> String {
    match standing {
        Standing::Proven => style.good(standing.name()),
        Standing::Unknown => style.dim(standing.name()),
        Standing::Contradicted => style.bad(standing.name()),
    }
}

fn say(outcomes: &[Outcome], verdict: &Verdict) {
    let style = terminal::stdout_style();
    for Outcome { subject, audited } in outcomes {
        match audited {
            Ok(audited) => {
                lines(style, audited, &subject.assets).iter().for_each(|it| terminal::say(it))
            }
            Err(error) => terminal::say(&format!("{}  {}", subject.id, error.problem)),
        }
    }
    terminal::say(&verdict.summary);
}

fn lines(style: Style, audited: &Audited, assets: &AssetTable) -> Vec<String> {
    let Audited { network, head, entries, open, settled, uncharged, failed, errands, .. } = audited;
    let mut lines = vec![
        format!("{network}  block {}  {}", head.number, painted(style, audited.standing())),
        format!(
            "  entries   {entries}: {settled} settled by their transfers, {uncharged} of nothing, {errands} \
             errands, {failed} failed, {open} open"
        ),
    ];
    lines.extend(deleted(audited));
    for (token, amount) in &audited.charged {
        let (amount, unit) = units(network, assets, token, *amount);
        lines.push(format!("  charged   {amount} {unit}"));
    }
    lines.push(format!(
        "  gas       {} booked, {} spent, in {} transactions",
        coin(audited.booked),
        coin(audited.spent),
        audited.transactions
    ));
    for signer in &audited.signers {
        let SignerAudit { address, first_nonce, next_nonce, cost, balance, .. } = signer;
        let number = |nonce: &Option<u64>| nonce.map_or("?".to_owned(), |nonce| nonce.to_string());
        let balance = match balance {
            Balance::LeftOut => "balance left out".to_owned(),
            Balance::Unknown => "balance unknown".to_owned(),
            Balance::Compared { received } => format!("received {} beside", coin(*received)),
            Balance::Contradicted { lost } => format!("lost {} for nothing", coin(*lost)),
        };
        lines.push(format!(
            "  signer    {address}  nonces {} to before {}, spent {}, {balance}",
            first_nonce,
            number(next_nonce),
            coin(*cost),
        ));
    }
    for (standing, findings) in
        [(Standing::Contradicted, &audited.violations), (Standing::Unknown, &audited.unknown)]
    {
        let name = painted(style, standing);
        for Finding { what, subject, message } in findings.iter().take(TOLD_MAX) {
            lines.push(format!("  {name}  {:<8}  {subject}: {message}", what.name()));
        }
        if let Some(more) = findings.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
            lines.push(format!("  {name}  and {more} more"));
        }
    }
    lines
}

/// What the books do not have any more, in words; `None` where they have all.
fn deleted(audited: &Audited) -> Option<String> {
    let (Forgotten { entries, entry, fees, .. }, older) = (&audited.forgotten, audited.older);
    (*entries > 0).then(|| {
        format!(
            "  deleted   {entries} entries up to number {entry}, with {} booked; fees of {older} beside them are \
             not compared",
            coin(*fees)
        )
    })
}

/// An amount in the units of its token, and what they are called; atomic units of one that is not configured.
fn units(
    network: &NetworkId,
    assets: &AssetTable,
    token: &str,
    amount: Amount,
) -> (String, String) {
    match assets.find(&AssetId::new(network.clone(), token)) {
        Some(asset) => (amount.to_units(asset.info.decimals), asset.info.symbol.clone()),
        None => (amount.to_string(), token.to_owned()),
    }
}

fn told(outcomes: &[Outcome], verdict: &Verdict) -> Value {
    let networks: Vec<Value> = outcomes.iter().map(network_json).collect();
    json!({ "standing": verdict.standing.name(), "networks": networks, "summary": verdict.summary })
}

fn network_json(Outcome { subject, audited }: &Outcome) -> Value {
    let audited = match audited {
        Ok(audited) => audited,
        Err(error) => return json!({ "network": subject.id.as_str(), "error": error.to_string() }),
    };
    let charged = audited.charged.iter().map(|(token, amount)| {
        let (units, unit) = units(&audited.network, &subject.assets, token, *amount);
        json!({ "token": token, "amount": amount.to_string(), "units": units, "unit": unit })
    });
    let findings = |findings: &[Finding]| -> Vec<Value> {
        let told = |it: &Finding| json!({ "what": it.what.name(), "subject": it.subject, "message": it.message });
        findings.iter().take(TOLD_JSON_MAX).map(told).collect()
    };
    json!({
        "network": audited.network.as_str(), "standing": audited.standing().name(),
        "block": audited.head.number, "block_hash": audited.head.hash,
        "entries": audited.entries, "settled": audited.settled, "uncharged": audited.uncharged,
        "errands": audited.errands, "failed": audited.failed, "open": audited.open,
        "charged": charged.collect::<Vec<_>>(), "transactions": audited.transactions,
        "booked_wei": audited.booked.to_string(), "spent_wei": audited.spent.to_string(),
        "signers": audited.signers.iter().map(signer_json).collect::<Vec<_>>(),
        "contradicted": audited.violations.len(), "violations": findings(&audited.violations),
        "unproven": audited.unknown.len(), "unknown": findings(&audited.unknown),
        "deleted": {
            "entries": audited.forgotten.entries, "through_entry": audited.forgotten.entry,
            "booked_wei": audited.forgotten.fees.to_string(), "fees_not_compared": audited.older,
        },
    })
}

fn signer_json(signer: &SignerAudit) -> Value {
    let (balance, wei) = match &signer.balance {
        Balance::LeftOut => ("left_out", None),
        Balance::Unknown => ("unknown", None),
        Balance::Compared { received } => ("compared", Some(("received_wei", received))),
        Balance::Contradicted { lost } => ("contradicted", Some(("lost_wei", lost))),
    };
    let mut told = json!({
        "address": signer.address, "first_nonce": signer.first_nonce,
        "next_nonce": signer.next_nonce, "transactions": signer.transactions,
        "cost_wei": signer.cost.to_string(), "balance": balance,
    });
    if let Some((name, wei)) = wei {
        told[name] = wei.to_string().into();
    }
    told
}

impl From<export::Unwritten> for CliError {
    fn from(unwritten: export::Unwritten) -> Self {
        Misconfigured::new("--export", unwritten.0).into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pay402_core::network::BlockId;
    use pay402_evm::audit::What;

    use super::*;

    /// An audit by which all is proven.
    pub(super) fn sample() -> Audited {
        Audited {
            network: NetworkId::eip155(84_532),
            head: BlockId { number: 22, hash: "0xhead".into() },
            entries: 1,
            open: 0,
            settled: 1,
            uncharged: 0,
            failed: 0,
            errands: 0,
            charged: BTreeMap::new(),
            transactions: 1,
            booked: Amount::ZERO,
            spent: Amount::ZERO,
            signers: Vec::new(),
            violations: Vec::new(),
            unknown: Vec::new(),
            movements: Vec::new(),
            forgotten: Forgotten::default(),
            older: 0,
        }
    }

    /// What is wrong on one network is not hidden by another, and none that was not asked is proven.
    #[test]
    fn the_worst_network_decides() {
        let finding = || {
            let (subject, message) = ("0x".to_owned(), String::new());
            vec![Finding { what: What::Fee, subject, message }]
        };
        let proven = || Ok(sample());
        let unknown = || Ok(Audited { unknown: finding(), ..sample() });
        let wrong = || Ok(Audited { violations: finding(), ..sample() });
        let silent = || Err(Unavailable::new("rpc", "does not answer"));
        for (audited, standing, code) in [
            (vec![proven(), proven()], Standing::Proven, None),
            (vec![proven(), unknown()], Standing::Unknown, Some(13)),
            (vec![silent(), proven()], Standing::Unknown, Some(4)),
            (vec![silent(), unknown()], Standing::Unknown, Some(4)),
            (vec![silent(), silent()], Standing::Unknown, Some(4)),
            (vec![wrong(), proven()], Standing::Contradicted, Some(1)),
            (vec![silent(), wrong(), unknown()], Standing::Contradicted, Some(1)),
        ] {
            let outcome = |audited| {
                let (id, assets) = (NetworkId::eip155(84_532), AssetTable::empty());
                Outcome { subject: Subject { id, assets, nodes: Vec::new() }, audited }
            };
            let verdict = verdict(&audited.into_iter().map(outcome).collect::<Vec<_>>());
            assert_eq!(verdict.standing, standing, "{}", verdict.summary);
            assert!(verdict.summary.starts_with(standing.name()), "{}", verdict.summary);
            assert_eq!(verdict.ended().err().map(|error| error.exit), code);
        }
    }

    #[test]
    fn a_signer_may_begin_at_a_nonce() {
        let address = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
        let read: Address = address.parse().unwrap();
        assert_eq!(signer(address), Ok((read, 0)));
        assert_eq!(signer(&format!("{address}=17")), Ok((read, 17)));
        for wrong in ["", "0x12", &format!("{address}=x"), &format!("{address}=-1"), "=3"] {
            assert!(signer(wrong).is_err(), "{wrong}");
        }
    }
}
