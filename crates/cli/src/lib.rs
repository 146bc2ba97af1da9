//! The `pay402` command: the only place where roles, networks and stores are wired together.
//!
//! It is a library so that end-to-end tests and benchmarks drive the very same wiring: [`stack`]
//! puts all roles into one process, [`books`] compares what they remember with the chain.
//!
//! One file per subcommand. Results go to standard output, everything else to standard error; an
//! error is one sentence for people, or one JSON object when standard error is not a terminal.

mod account;
#[cfg(feature = "devchain")]
pub mod books;
#[cfg(feature = "devchain")]
mod demo;
#[cfg(feature = "devchain")]
mod devchain;
mod error;
mod facilitator;
mod logging;
mod pay;
mod sale;
mod secret;
mod serve;
#[cfg(feature = "devchain")]
pub mod stack;
mod telemetry;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::CliError;
use crate::telemetry::Telemetry;

/// Software that pays software: sell, buy and settle over HTTP 402.
#[derive(Debug, Parser)]
#[command(name = "pay402", version, about, max_term_width = 100)]
#[command(
    after_help = "Start with `pay402 demo`: a whole paid request on a chain inside this program."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole paid request: chain, facilitator, paid API and agent in one process.
    #[cfg(feature = "devchain")]
    Demo(demo::Args),
    /// Fetch a URL and pay for it when it asks, within the owner's limits.
    Pay(pay::Args),
    /// Let an agent's key pay from your account, within limits that the chain enforces.
    Account(account::Args),
    /// Sell a small example resource, to try clients against.
    Serve(serve::Args),
    /// Verify and settle payments for resource servers.
    Facilitator(facilitator::Args),
    /// Prove a facilitator's books against the chain, gas to the wei.
    ///
    /// Each settled payment by its transfer in the logs, what was booked by what transactions cost, every
    /// nonce and the balance of the signers. Exit code 0 when all of it is proven, 1 when the chain
    /// contradicts the books, 13 when a node does not show enough to tell, 4 when none answers.
    Reconcile(facilitator::reconcile::Args),
    /// Run the embedded chain on a JSON-RPC port.
    #[cfg(feature = "devchain")]
    Devchain(devchain::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // clap prints help and version to standard output, usage errors to standard error.
        Err(usage) if usage.use_stderr() && !terminal::stderr_is_terminal() => {
            let first = usage.to_string();
            let first = first.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return CliError::usage(first).report();
        }
        Err(usage) => {
            let code = usage.exit_code();
            // Nothing is left to report to when standard error is closed.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(error::exit::USAGE));
        }
    };
    let telemetry = match &cli.command {
        Command::Facilitator(args) if args.serves() => telemetry::from_environment(),
        _ => Ok(None),
    };
    let telemetry = match telemetry {
        Ok(telemetry) => telemetry,
        Err(error) => return CliError::from(error).report(),
    };
    logging::start(telemetry.as_ref().map(|telemetry| telemetry.layer()));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::general(format!("cannot start: {error}")).report(),
    };
    let done = runtime.block_on(run(cli.command, telemetry));
    // Settlements that are under way are recorded; they need no more than this to finish cleanly.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

async fn run(command: Command, telemetry: Option<Telemetry>) -> Result<(), CliError> {
    match command {
        #[cfg(feature = "devchain")]
        Command::Demo(args) => demo::run(args).await,
        Command::Pay(args) => pay::run(args).await,
        Command::Account(args) => account::run(args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Facilitator(args) => facilitator::run(args, telemetry).await,
        Command::Reconcile(args) => facilitator::reconcile::run(args).await,
        #[cfg(feature = "devchain")]
        Command::Devchain(args) => devchain::run(args).await,
    }
}
