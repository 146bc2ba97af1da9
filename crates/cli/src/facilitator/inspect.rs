//! `pay402 facilitator check` and `signers`: the same configuration, looked at instead of served.
//!
//! Nothing is sent, nothing is written, and a facilitator that runs with the same file is not
//! disturbed.

use std::io::IsTerminal as _;

use pay402_core::error::{Misconfigured, Unavailable};
use pay402_core::network::Network as _;
use pay402_core::{Amount, NetworkId};
use pay402_evm::network::survey::{Finding, Grade, SignerFound, Survey};
use pay402_facilitator::api::Access;
use serde_json::{Value, json};

use super::config::{Config, Database};
use super::{access, network_of};
use crate::error::CliError;
use crate::terminal::{self, Style};

/// Decimal places of a network's own coin.
const COIN_DECIMALS: u8 = 18;

/// What to look at.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::Subcommand)]
pub(crate) enum Verb {
    /// Say what is right and wrong with the configuration, its nodes, assets, contracts and signers.
    ///
    /// Exit code 0 when it would start, 3 when it would not, 4 when a node does not answer.
    Check(Output),
    /// List the signers with what they hold and how many settlements that pays for.
    ///
    /// Exit codes as of check.
    Signers(Output),
}

/// How it is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::Args)]
pub(crate) struct Output {
    /// Print JSON on a terminal too.
    #[arg(long)]
    json: bool,
}

impl Verb {
    /// Whether it is told to a person.
    fn is_plain(self) -> bool {
        let (Self::Check(output) | Self::Signers(output)) = self;
        !output.json && std::io::stdout().is_terminal()
    }
}

/// What became of looking at one network.
type Looked = (NetworkId, Result<Survey, Unavailable>);

pub(super) async fn run(verb: Verb, config: &Config) -> Result<(), CliError> {
    // Before any node is asked, as at the start.
    let access = access(config)?;
    super::named(config)?;
    super::webhooks::all(config)?;
    let mut networks = Vec::new();
    for (index, network) in config.networks.iter().enumerate() {
        networks.push(network_of(index, network, None)?);
    }
    let mut looked: Vec<Looked> = Vec::new();
    for network in &networks {
        let id = network.id().clone();
        looked.push((id, network.survey().await));
    }
    match verb {
        Verb::Check(_) => {
            let own = own_findings(config, &access);
            if verb.is_plain() {
                say_findings(&own, &looked);
            } else {
                say_json(&findings_json(&own, &looked));
            }
        }
        Verb::Signers(_) if verb.is_plain() => say_signers(&looked),
        Verb::Signers(_) => say_json(&signers_json(&looked)),
    }
    verdict(verb, &looked)
}

fn own_findings(config: &Config, access: &Access) -> Vec<Finding> {
    let callers = match access {
        Access::Open => "programs on this machine, without a key".to_owned(),
        Access::Keys(keys) => format!("holders of API keys ({})", keys.len()),
    };
    let finding = |part, subject: String, message: String| Finding {
        part,
        subject,
        grade: Grade::Good,
        message,
    };
    let (database, state) = match config.database() {
        Database::File(path) if path.exists() => (path.display().to_string(), "is there"),
        Database::File(path) => (path.display().to_string(), "is made at the first start"),
        // Its URL holds a password, perhaps.
        Database::Postgres(_) => ("PostgreSQL".to_owned(), "is asked at the start, not here"),
    };
    vec![
        finding("listen", config.listen.to_string(), format!("for {callers}")),
        finding("database", database, state.into()),
    ]
}

/// The error to end with: that of a network on which nothing could be settled.
fn verdict(verb: Verb, looked: &[Looked]) -> Result<(), CliError> {
    for (index, (id, survey)) in looked.iter().enumerate() {
        let Ok(survey) = survey else { continue };
        let counts = |finding: &&Finding| {
            let asked = matches!(verb, Verb::Check(_)) || matches!(finding.part, "node" | "signer");
            finding.grade == Grade::Problem && asked
        };
        let wrong = survey.findings.iter().find(counts);
        if let Some(Finding { subject, message, .. }) = wrong {
            let setting = format!("network[{index}]");
            let subject =
                if *subject == id.as_str() { String::new() } else { format!(" {subject}:") };
            let error = Misconfigured::new(setting, format!("{id}:{subject} {message}"));
            return Err(error.into());
        }
    }
    match looked.iter().find_map(|(_, survey)| survey.as_ref().err()) {
        Some(error) => Err(CliError::from(error.clone())),
        None => Ok(()),
    }
}

fn word(grade: Grade) -> &'static str {
    match grade {
        Grade::Good => "ok",
        Grade::Warning => "warning",
        Grade::Problem => "problem",
    }
}

fn painted(style: Style, grade: Grade) -> String {
    let padded = format!("{:<7}", word(grade));
    match grade {
        Grade::Good => style.good(&padded),
        Grade::Warning => style.dim(&padded),
        Grade::Problem => style.bad(&padded),
    }
}

fn lines(style: Style, network: &str, findings: &[Finding]) -> Vec<String> {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let line = |Finding { part, subject, grade, message }: &Finding| {
        let grade = painted(style, *grade);
        format!("{grade}  {network:<14}  {part:<8}  {subject:<width$}  {message}")
    };
    findings.iter().map(line).collect()
}

fn say_findings(own: &[Finding], looked: &[Looked]) {
    let style = terminal::stdout_style();
    let say = |network: &str, findings: &[Finding]| {
        lines(style, network, findings).iter().for_each(|line| terminal::say(line));
    };
    say("", own);
    for (id, survey) in looked {
        match survey {
            Ok(survey) => say(id.as_str(), &survey.findings),
            Err(error) => say(id.as_str(), &[unanswered(id, error)]),
        }
    }
}

fn unanswered(id: &NetworkId, error: &Unavailable) -> Finding {
    let (subject, message) = (id.to_string(), error.problem.clone());
    Finding { part: "node", subject, grade: Grade::Problem, message }
}

fn findings_json(own: &[Finding], looked: &[Looked]) -> Value {
    let told = |network: Option<&NetworkId>, finding: &Finding| {
        json!({
            "network": network.map(NetworkId::as_str), "part": finding.part,
            "subject": finding.subject, "grade": word(finding.grade), "message": finding.message,
        })
    };
    let mut findings: Vec<Value> = own.iter().map(|finding| told(None, finding)).collect();
    for (id, survey) in looked {
        match survey {
            Ok(survey) => findings.extend(survey.findings.iter().map(|f| told(Some(id), f))),
            Err(error) => findings.push(told(Some(id), &unanswered(id, error))),
        }
    }
    let good = findings.iter().all(|finding| finding["grade"] != word(Grade::Problem));
    json!({ "ok": good, "findings": findings })
}

fn say_signers(looked: &[Looked]) {
    terminal::say(&format!("{:<14}  {:<42}  {:>8}  balance", "network", "signer", "nonce"));
    for (id, survey) in looked {
        for SignerFound { address, balance, nonce, settlements } in signers(survey) {
            let balance = Amount::new(*balance).to_units(COIN_DECIMALS);
            let pays = settlements.map(|count| format!(" (about {count} settlements)"));
            let pays = pays.unwrap_or_default();
            terminal::say(&format!(
                "{:<14}  {address:<42}  {nonce:>8}  {balance}{pays}",
                id.as_str()
            ));
        }
    }
}

fn signers_json(looked: &[Looked]) -> Value {
    let all = looked.iter().flat_map(|(id, survey)| {
        signers(survey).iter().map(|signer| {
            json!({
                "network": id.as_str(), "address": signer.address, "nonce": signer.nonce,
                "balance_wei": signer.balance.to_string(), "settlements": signer.settlements,
            })
        })
    });
    json!({ "signers": all.collect::<Vec<_>>() })
}

fn signers(survey: &Result<Survey, Unavailable>) -> &[SignerFound] {
    survey.as_ref().map_or(&[], |survey| &survey.signers)
}

fn say_json(value: &Value) {
    terminal::say(&value.to_string());
}
