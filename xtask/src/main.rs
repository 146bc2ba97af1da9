//! Project tasks: `cargo xtask <verb>`.
//!
//! Only the everyday verbs live here; what a verb checks lives in its own module. Nothing here is
//! part of the product, and no crate of ours is a dependency.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]

mod bench;
mod campaigns;
mod checks;
mod deny;
mod fuzz;
mod process;
mod setup;
mod suites;
mod tidy;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <verb>

  setup            install what the tests need besides Rust (npm and pip packages, from lockfiles)
  test [--quick]   every test: Rust, doc tests, contracts, interop; --quick leaves out what needs setup
  campaign         what takes too long for every run: 20,000 mutated payments, each refused or the same
  sim [--short|--long] [--resume] [--shard I/N] [--seed N] [--only SEED]
                   the engine in worlds that a seed decides; --only tells one step by step
  crash [--short|--long] [--seed N] [--resume] [--shard I/N] [--store sqlite|postgres]
                   the facilitator killed at every failpoint and at random moments, and asked again
  overdraft [the same]
                   a wallet with the price of one, and a hundred distinct payments of it at once
  storage [--short|--long] [--resume] [--shard I/N] [--seed N] [--store sqlite|postgres]
                   what was not synced is lost, or the disk is full (with strace, on SQLite alone), or the
                   journal is put back to a copy
  soak [--short|--long] [--store sqlite|postgres]
                   300 or 20,000 payments; all books, logs, balances and gas alike, memory flat
  cluster [--short|--long] [--resume] [--shard I/N] [--seed N]
                   replicas on PostgreSQL under load, one killed every ten seconds, one frozen
  replay [the same]
                   one payment presented by many at every replica: one success, one transaction
  tidy             the rules that neither the compiler nor clippy knows
  ci               what must pass before a change is merged: fmt, clippy, tidy, test
  bench [args]     measure, in release; --json prints one JSON object per line
  chaos [--short|--long] [--seed N] [--resume] [--store sqlite|postgres]
                   a facilitator whose nodes fail, lag and lie, on a chain that reorganises
  fuzz-account [calls] [seed]
                   a random adversary on AgentAccount, in release; a million calls from a new seed
  deny             cargo-deny, if it is installed
";

/// Why a verb stopped. The text says what is wrong and how to mend it.
#[derive(Debug)]
struct Failure(String);

impl<T: Into<String>> From<T> for Failure {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

type Outcome = Result<(), Failure>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(text)) => {
            eprintln!("xtask: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    let root = root();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["setup"] => setup::run(&root),
        ["test"] => suites::run(&root, suites::Extent::Full),
        ["test", "--quick"] => suites::run(&root, suites::Extent::Quick),
        ["campaign"] => suites::campaign(&root),
        ["tidy"] => tidy::run(&root),
        ["ci"] => checks::run(&root),
        ["overdraft", ref rest @ ..] => campaigns::run(&root, "overdraft", rest),
        ["storage", ref rest @ ..] => campaigns::run(&root, "storage", rest),
        ["soak", ref rest @ ..] => campaigns::run(&root, "soak", rest),
        ["crash", ref rest @ ..] => campaigns::run(&root, "crash", rest),
        ["cluster", ref rest @ ..] => campaigns::run(&root, "cluster", rest),
        ["sim", ref rest @ ..] => campaigns::run(&root, "sim", rest),
        ["replay", ref rest @ ..] => campaigns::run(&root, "replay", rest),
        ["bench", ref rest @ ..] => bench::run(&root, rest),
        ["chaos", ref rest @ ..] => campaigns::run(&root, "chaos", rest),
        ["fuzz-account", ref rest @ ..] if rest.len() <= 2 => fuzz::run(&root, rest),
        ["deny"] => deny::run(&root),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(format!("cannot read `{}`\n\n{USAGE}", arguments.join(" ")).into()),
    }
}

/// The workspace's root folder.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().expect("xtask lies in the workspace's root folder").to_owned()
}
