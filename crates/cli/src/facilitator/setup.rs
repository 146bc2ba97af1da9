//! `pay402 facilitator setup`: puts on each network what the facilitator would like to find there.

use std::io::{BufRead as _, IsTerminal as _};

use pay402_core::Amount;
use pay402_evm::network::pack::PACKER;
use pay402_evm::network::setup::PackerFound;
use serde_json::json;

use super::config::Config;
use super::network_of;
use crate::error::CliError;
use crate::terminal;

/// Decimal places of a network's own coin.
const COIN_DECIMALS: u8 = 18;

/// What to put there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::Args)]
pub(crate) struct Args {
    /// Deploy without asking.
    #[arg(long)]
    yes: bool,
    /// Print JSON on a terminal too.
    #[arg(long)]
    json: bool,
}

/// Whether somebody pays for a deployment.
enum Consent {
    Given,
    Refused,
    /// There is nobody to ask.
    Unasked,
}

pub(super) async fn run(args: Args, config: &Config) -> Result<(), CliError> {
    let plain = !args.json && std::io::stdout().is_terminal();
    let say = |network: &str, state: &str, transaction: Option<&str>, words: &str| {
        let line = match plain {
            true => format!("{network}: {words}"),
            false => json!({
                "network": network, "packer": PACKER.to_checksum(None), "state": state,
                "transaction": transaction,
            })
            .to_string(),
        };
        terminal::say(&line);
    };
    for (index, configured) in config.networks.iter().enumerate() {
        let network = network_of(index, configured, None)?;
        let id = configured.id.as_str();
        match network.find_packer().await? {
            PackerFound::There => {
                say(id, "there", None, &format!("the packer is at {PACKER} already"));
            }
            PackerFound::NoDeployer => {
                say(
                    id,
                    "no_deployer",
                    None,
                    "there is no CREATE2 deployer; nothing is packed here",
                );
            }
            PackerFound::Missing { gas, wei, payer } => {
                let coins = Amount::new(wei).to_units(COIN_DECIMALS);
                let question = format!(
                    "{id}: deploying the packer at {PACKER} takes {gas} gas, at most {coins} of the \
                     network's coin, paid by {payer}"
                );
                match consent(args.yes, &question)? {
                    Consent::Given => {}
                    Consent::Refused => {
                        say(id, "missing", None, "not deployed; payments go one by one here");
                        continue;
                    }
                    Consent::Unasked => {
                        let problem = format!("{question}; give --yes to have it deployed");
                        return Err(CliError::usage(problem));
                    }
                }
                let hash = network.deploy_packer(gas).await?;
                let words = format!("deployed the packer at {PACKER} by {hash}");
                say(id, "deployed", Some(&hash), &words);
            }
        }
    }
    Ok(())
}

fn consent(yes: bool, question: &str) -> Result<Consent, CliError> {
    if yes {
        return Ok(Consent::Given);
    }
    if !std::io::stdin().is_terminal() {
        return Ok(Consent::Unasked);
    }
    terminal::note(&format!("{question}. Deploy it? [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| CliError::general(error.to_string()))?;
    Ok(match answer.trim() {
        "y" | "Y" | "yes" => Consent::Given,
        _ => Consent::Refused,
    })
}
