//! Campaigns: what takes too long for every run, with processes of the built `pay402` or with its engine.
//!
//! Run by `cargo xtask sim`, `crash`, `cluster`, `replay`, `chaos`, `overdraft`, `storage` and `soak`. Each ends with one line of figures, and
//! with a failure on any violation. A campaign is made of rounds, each in a world of its own and
//! checked at its end; those of the long form can be resumed and shared out.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]
#![allow(clippy::float_arithmetic, reason = "seconds of figures; no money is calculated here")]

#[cfg(unix)]
mod chaos;
#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod crash;
#[cfg(unix)]
#[allow(clippy::unwrap_used, unreachable_pub, reason = "a file of the store's tests")]
#[path = "../../crates/store/tests/sqlite/disk.rs"]
mod disk;
#[cfg(unix)]
mod overdraft;
#[cfg(unix)]
mod payments;
#[cfg(unix)]
#[allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "a file of the store's tests")]
#[path = "../../crates/store/tests/postgres/cluster.rs"]
mod postgres;
#[cfg(unix)]
mod replay;
#[cfg(unix)]
mod replicas;
mod rounds;
mod sim;
#[cfg(unix)]
mod site;
#[cfg(unix)]
mod soak;
#[cfg(unix)]
mod storage;

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

const USAGE: &str = "\
usage: campaigns sim|crash|cluster|replay|chaos|overdraft|storage|soak --bin FILE [--short|--long] [--resume] [--shard I/N] [--seed N]
  --bin FILE    the built pay402
  --short       about a minute; the default
  --long        sim: 100,000 seeds; cluster, chaos: 30 minutes; replay: 20 rounds;
                crash: 25 kills at each failpoint and 1,000 at random moments;
                overdraft: 50 wallets; soak: 20,000 payments;
                storage: 200 runs that lose what was not synced, 20 with a full disk and 20 with a
                journal put back by a minute
  --resume      leave out rounds that a run before this one finished
  --shard I/N   every Nth round, from the Ith on
  --seed N      where the randomness begins; by default 1
  --store sqlite|postgres
                where chaos, crash, overdraft, soak and storage have their journals; by default sqlite
  --only SEED   of sim: this seed alone, told step by step
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match begin(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("campaigns: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
fn begin(arguments: &[String]) -> Result<String> {
    let Some((verb, rest)) = arguments.split_first() else { return Err(USAGE.into()) };
    let plan = rounds::Plan::read(verb, rest)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match verb.as_str() {
        "cluster" => runtime.block_on(cluster::run(&plan)),
        "overdraft" => runtime.block_on(overdraft::run(&plan)),
        "storage" => runtime.block_on(storage::run(&plan)),
        "soak" => runtime.block_on(soak::run(&plan)),
        "crash" => runtime.block_on(crash::run(&plan)),
        "replay" => runtime.block_on(replay::run(&plan)),
        "chaos" => runtime.block_on(chaos::run(&plan)),
        "sim" => sim::run(&plan),
        _ => Err(USAGE.into()),
    }
}

#[cfg(not(unix))]
fn begin(_: &[String]) -> Result<String> {
    Err("processes are frozen and killed by signals, which this system does not have".into())
}
