//! The benches of pay402, as ratios: what a payment costs beside what it is built on.
//!
//! Run by `cargo xtask bench [--json] [--brief] [filter]`. Subject and reference are measured in one
//! process, in turns, so that whatever else the machine does falls on both. The reference of a
//! bench is the least that could have been done in its place.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]
#![allow(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "rates and durations; no money is calculated here"
)]

mod bare;
#[cfg(unix)]
#[allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "a file of the store's tests")]
#[path = "../../crates/store/tests/postgres/cluster.rs"]
mod cluster;
mod hostile;
#[cfg(unix)]
mod journal;
mod load;
mod pack;
mod paid;
mod report;
mod settle;
#[cfg(target_os = "linux")]
mod speed;
mod stack;
mod unpaid;
mod verify;

use std::env;
use std::process::ExitCode;

use report::Bench;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

/// How many rounds and requests are enough.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Rounds of subject and reference; odd, so that the median is one of them.
    rounds: usize,
    /// What all counts of requests are divided by.
    divisor: usize,
}

const FULL: Extent = Extent { rounds: 9, divisor: 1 };
const BRIEF: Extent = Extent { rounds: 3, divisor: 20 };

impl Extent {
    /// A count of requests, brought down to this extent.
    fn count(self, full: usize) -> usize {
        (full / self.divisor).max(1)
    }
}

#[derive(Debug)]
struct Options {
    json: bool,
    extent: Extent,
    filter: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = match &*arguments {
        #[cfg(target_os = "linux")]
        [first, address] if first == speed::LIMIT_ARGUMENT => {
            runtime().map_err(Into::into).and_then(|it| it.block_on(speed::serve_limit(address)))
        }
        _ => options(&arguments).and_then(|options| runtime()?.block_on(run(&options))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options> {
    let mut options = Options { json: false, extent: FULL, filter: String::new() };
    for argument in arguments {
        match argument.as_str() {
            "--json" => options.json = true,
            "--brief" => options.extent = BRIEF,
            filter if !filter.starts_with('-') => filter.clone_into(&mut options.filter),
            other => {
                let usage = "usage: cargo xtask bench [--json] [--brief] [filter]";
                return Err(format!("cannot read `{other}`; {usage}").into());
            }
        }
    }
    Ok(options)
}

async fn run(options: &Options) -> Result<()> {
    let mut printed = 0;
    let chosen = |name: &&str| name.contains(&options.filter);
    for (group, names) in [
        ("unpaid", unpaid::NAMES),
        ("verify", verify::NAMES),
        ("settle", settle::NAMES),
        ("pack", pack::NAMES),
        ("paid", paid::NAMES),
    ] {
        if !names.iter().any(chosen) {
            continue;
        }
        let benches: Vec<Bench> = match group {
            "unpaid" => unpaid::run(options.extent).await?,
            "verify" => verify::run(options.extent).await?,
            "settle" => settle::run(options.extent).await?,
            "pack" => pack::run().await?,
            _ => paid::run(options.extent).await?,
        };
        for bench in benches.iter().filter(|bench| chosen(&bench.name)) {
            println!("{}", if options.json { bench.json() } else { bench.text() });
            printed += 1;
        }
    }
    #[cfg(unix)]
    if journal::NAMES.iter().any(chosen) {
        if cluster::is_installed() {
            let benches = journal::run(options.extent).await?;
            for bench in benches.iter().filter(|bench| chosen(&bench.name)) {
                println!("{}", if options.json { bench.json() } else { bench.text() });
                printed += 1;
            }
        } else {
            eprintln!("bench: journal_… is left out: no PostgreSQL here; see `cargo xtask setup`");
        }
    }
    if hostile::NAMES.iter().any(chosen) {
        for line in hostile::run().await? {
            println!("{}", if options.json { line.json() } else { line.text() });
            printed += 1;
        }
    }
    #[cfg(target_os = "linux")]
    if speed::NAMES.iter().any(chosen) {
        if speed::is_installed() {
            for figure in speed::run(options.extent, |name| chosen(&name)).await? {
                println!("{}", if options.json { figure.json() } else { figure.text() });
                printed += 1;
            }
        } else {
            eprintln!("bench: speed_… is left out: no anvil here; see `cargo xtask setup`");
        }
    }
    match printed {
        0 => Err(format!("no bench matches `{}`", options.filter).into()),
        _ => Ok(()),
    }
}
