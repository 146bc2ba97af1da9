//! `test`: every suite, one after the other, and a summary at the end.
//!
//! Everything is built once, with all features; the suites that follow find it built. A suite that
//! fails does not hide the ones after it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process::{self, Step};
use crate::{Failure, Outcome, campaigns, setup};

/// From nothing, on a small machine.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// All Rust tests together; one test alone is bounded by `.config/nextest.toml`.
const RUST_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Recompiling the contracts.
const CONTRACTS_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The interop matrix has a budget of its own below this.
const INTEROP_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Our Permit2 beside the genuine one.
const PERMIT2_LIMIT: Duration = Duration::from_secs(5 * 60);

/// The campaigns, which run beside one another.
const CAMPAIGN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The flags that every Rust step shares, so that none builds anything again.
const SAME_BUILD: [&str; 3] = ["--workspace", "--all-features", "--locked"];

/// What the tests that need a PostgreSQL server are called.
const ON_POSTGRESQL: &str = "postgres";

/// How much is run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extent {
    /// Everything, after `setup`.
    Full,
    /// What needs Rust alone.
    Quick,
}

#[derive(Debug)]
struct Report {
    suite: &'static str,
    result: Outcome,
    took: Duration,
}

/// Builds, runs the suites and sums up.
pub(crate) fn run(root: &Path, extent: Extent) -> Outcome {
    let began = Instant::now();
    if extent == Extent::Full {
        setup::run(root)?;
    }
    cargo(root, &["build", "--all-targets"], BUILD_LIMIT).run()?;
    let binary = binary(root)?;
    // Where changes are merged these tests run, or fail.
    let postgresql = setup::has_postgresql() || std::env::var_os("CI").is_some();
    let plan = plan(root, extent, &binary, postgresql);
    let reports: Vec<Report> = plan.into_iter().map(|(suite, step)| timed(suite, step)).collect();
    let outcome = summary(&reports, began.elapsed());
    if !postgresql {
        println!(
            "\nATTENTION: the journal in PostgreSQL was NOT TESTED: no server is installed here. \
             `cargo xtask setup` installs Debian's package postgresql."
        );
    }
    outcome
}

/// Runs the tests called `campaign_…`, which are too long for every run and therefore ignored
/// otherwise. What each tried, and from which seed, is in its file.
pub(crate) fn campaign(root: &Path) -> Outcome {
    let arguments = ["test", "--package", "pay402-evm", "--test", "it"];
    let chosen = ["--all-features", "--locked", "--", "--ignored", "--nocapture", "campaign_"];
    Step::new(root, "cargo", &[&arguments[..], &chosen].concat(), CAMPAIGN_LIMIT).run()
}

/// The suites, in the order in which they run.
fn plan(root: &Path, extent: Extent, binary: &Path, postgresql: bool) -> Vec<(&'static str, Step)> {
    let mut suites = Vec::new();
    if process::works("cargo", &["nextest", "--version"]) {
        let filter = format!("not test(/{ON_POSTGRESQL}/)");
        let mut arguments = vec!["nextest", "run", "--no-fail-fast"];
        if !postgresql {
            arguments.extend(["-E", &filter]);
        }
        suites.push(("rust", cargo(root, &arguments, RUST_LIMIT)));
    } else {
        println!("xtask: cargo-nextest is not installed; cargo test runs the same tests, slower");
        let arguments = ["test", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"];
        let mut arguments = [&arguments[..], &SAME_BUILD].concat();
        if !postgresql {
            arguments.extend(["--", "--skip", ON_POSTGRESQL]);
        }
        suites.push(("rust", Step::new(root, "cargo", &arguments, RUST_LIMIT)));
    }
    if process::works("cargo", &["nextest", "--version"])
        && process::works("strace", &["--version"])
    {
        let arguments =
            ["nextest", "run", "--run-ignored", "only", "-E", "test(what_was_answered)"];
        suites.push(("power cut", cargo(root, &arguments, RUST_LIMIT)));
    } else {
        println!("xtask: without cargo-nextest and strace the power-cut test is left out");
    }
    suites.push(("doc tests", cargo(root, &["test", "--doc", "--no-fail-fast"], RUST_LIMIT)));
    if extent == Extent::Full {
        let check = ["contracts/compile.mjs", "--check"];
        suites.push(("contracts", Step::new(root, "node", &check, CONTRACTS_LIMIT)));
        let binary = binary.to_string_lossy();
        let matrix = ["interop/run.mjs", "--bin", &binary, "--chain", "both"];
        suites.push(("interop", Step::new(root, "node", &matrix, INTEROP_LIMIT)));
        let compared = ["interop/permit2.mjs"];
        suites.push(("permit2", Step::new(root, "node", &compared, PERMIT2_LIMIT)));
        let with_server = ["cluster", "replay"].into_iter().filter(|_| postgresql);
        for verb in ["sim"].into_iter().chain(with_server) {
            suites.push((verb, campaigns::step(root, verb, Path::new(&*binary), &["--short"])));
        }
        let chaos = campaigns::step(root, "chaos", Path::new(&*binary), &["--short"]);
        suites.push(("chaos", chaos));
        if process::works("strace", &["--version"]) {
            let storage = campaigns::step(root, "storage", Path::new(&*binary), &["--short"]);
            suites.push(("storage", storage));
        } else {
            println!("xtask: without strace the campaign storage is left out");
        }
        let on_both = [
            ("crash", "crash", "sqlite"),
            ("overdraft", "overdraft", "sqlite"),
            ("soak", "soak", "sqlite"),
            ("crash on postgres", "crash", "postgres"),
            ("overdraft on postgres", "overdraft", "postgres"),
            ("storage on postgres", "storage", "postgres"),
        ];
        for (suite, verb, store) in on_both.into_iter().filter(|it| postgresql || it.2 == "sqlite")
        {
            let arguments = ["--short", "--store", store];
            suites.push((suite, campaigns::step(root, verb, Path::new(&*binary), &arguments)));
        }
    }
    suites
}

fn cargo(root: &Path, arguments: &[&str], limit: Duration) -> Step {
    Step::new(root, "cargo", &[arguments, &SAME_BUILD].concat(), limit)
}

/// Where the build put `pay402`.
pub(crate) fn binary(root: &Path) -> Result<PathBuf, Failure> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let metadata: serde_json::Value =
        serde_json::from_str(&process::output(root, "cargo", &arguments)?)
            .map_err(|error| Failure(format!("cannot read cargo metadata: {error}")))?;
    let target = metadata["target_directory"].as_str();
    let target = target.ok_or_else(|| Failure("cargo metadata names no target folder".into()))?;
    let name = format!("pay402{}", std::env::consts::EXE_SUFFIX);
    Ok(Path::new(target).join("debug").join(name))
}

fn timed(suite: &'static str, step: Step) -> Report {
    let began = Instant::now();
    let result = step.run();
    Report { suite, result, took: began.elapsed() }
}

/// Prints how each suite ended, and the closing line.
fn summary(reports: &[Report], took: Duration) -> Outcome {
    println!("\nsummary");
    for Report { suite, result, took } in reports {
        match result {
            Ok(()) => println!("  ok      {suite} ({} s)", took.as_secs()),
            Err(Failure(why)) => println!("  FAILED  {suite} ({} s): {why}", took.as_secs()),
        }
    }
    let (line, failed) = closing(reports);
    println!("\n{line}; finished in {} s", took.as_secs());
    if failed == 0 { Ok(()) } else { Err("tests failed".into()) }
}

/// The closing line, and how many suites failed.
fn closing(reports: &[Report]) -> (String, usize) {
    let failed = reports.iter().filter(|report| report.result.is_err()).count();
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let passed = reports.len() - failed;
    (format!("test result: {word}. {passed} suites passed; {failed} failed"), failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(suite: &'static str, result: Outcome) -> Report {
        Report { suite, result, took: Duration::from_secs(1) }
    }

    #[test]
    fn one_failure_fails_the_whole() {
        let good = [report("a", Ok(())), report("b", Ok(()))];
        assert_eq!(closing(&good).0, "test result: ok. 2 suites passed; 0 failed");
        let bad = [report("a", Ok(())), report("b", Err("broke".into()))];
        assert_eq!(closing(&bad).0, "test result: FAILED. 1 suites passed; 1 failed");
        assert!(summary(&bad, Duration::ZERO).is_err());
    }

    #[test]
    fn quick_needs_rust_alone() {
        let root = Path::new(".");
        let names = |extent| -> Vec<&str> {
            let plan = plan(root, extent, Path::new("bin"), false);
            plan.into_iter().map(|(name, _)| name).collect()
        };
        // The power-cut test depends on what the machine has.
        let fixed = |extent| -> Vec<&str> {
            names(extent)
                .into_iter()
                .filter(|name| !["power cut", "storage"].contains(name))
                .collect()
        };
        assert_eq!(fixed(Extent::Quick), ["rust", "doc tests"]);
        let rust = ["rust", "doc tests", "contracts", "interop", "permit2"];
        let full = [&rust[..], &["sim", "chaos", "crash", "overdraft", "soak"]].concat();
        assert_eq!(fixed(Extent::Full), full);
        let all = plan(root, Extent::Full, Path::new("bin"), true);
        let server = [
            "cluster",
            "replay",
            "crash on postgres",
            "overdraft on postgres",
            "storage on postgres",
        ];
        for suite in server {
            assert!(all.iter().any(|(name, _)| *name == suite), "{suite}, where there is a server");
        }
    }
}
