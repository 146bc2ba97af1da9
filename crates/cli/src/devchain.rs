//! `pay402 devchain`: the embedded chain on a JSON-RPC port.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use pay402_devchain::{Config, Devchain, Mining, genesis};

use crate::error::CliError;
use crate::{serve, terminal};

/// An Ethereum chain for development: HTTP and WebSocket on one port, all in memory.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, default_value_t = 8545)]
    port: u16,
    /// Chain id; 84532 makes it look like Base Sepolia to x402 clients.
    #[arg(long, default_value_t = pay402_devchain::DEFAULT_CHAIN_ID)]
    chain_id: u64,
    /// Seconds between blocks; without it every transaction is mined at once.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    block_time: Option<u64>,
}

pub(crate) async fn run(args: Args) -> Result<(), CliError> {
    let mining = match args.block_time {
        Some(seconds) => Mining::Interval(Duration::from_secs(seconds)),
        None => Mining::Instant,
    };
    let chain = Devchain::start(Config { chain_id: args.chain_id, mining, ..Config::default() });
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.port);
    let serving = chain
        .serve(address)
        .await
        .map_err(|error| CliError::network(format!("cannot listen on {address}: {error}")))?;
    terminal::say(&format!("devchain {} listening on {}", args.chain_id, serving.http_url()));
    terminal::note(&format!(
        "USDC at {}. Public dev keys, worth nothing anywhere else:",
        genesis::USDC_ADDRESS
    ));
    for (index, key) in genesis::PUBLIC_DEV_KEYS.iter().enumerate() {
        let address = genesis::dev_signer(index).address();
        terminal::note(&format!("  ({index}) {address} {key:#x}"));
    }
    terminal::note("Ctrl-C ends it; nothing is kept.");
    serve::until_asked_to_stop().await;
    serving.shutdown().await;
    Ok(())
}
