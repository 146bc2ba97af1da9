//! `fuzz-account`: the long form of the random adversary on `AgentAccount`, for releases.
//!
//! The test suite runs a short form on fixed seeds; this one starts where nobody has looked. A failure prints its
//! episode, which as the seed of a short run shows it again.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

use crate::process::Step;
use crate::{Failure, Outcome};

/// Building in release.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// A million calls take minutes; ten million may run overnight.
const RUN_LIMIT: Duration = Duration::from_secs(12 * 60 * 60);
/// Calls, unless told otherwise.
const CALLS: u64 = 1_000_000;

/// `arguments` are the number of calls and the first episode, both optional.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Outcome {
    let number = |at: usize| arguments.get(at).map(|text| parse(text)).transpose();
    let calls = number(0)?.unwrap_or(CALLS);
    // Half of the range, so that no episode's number overflows.
    let seed = number(1)?.unwrap_or_else(|| RandomState::new().hash_one(calls) >> 1);
    let test = ["--release", "--locked", "--package", "pay402-devchain", "--test", "agent_account"];
    Step::new(root, "cargo", &[&["test", "--no-run"][..], &test].concat(), BUILD_LIMIT).run()?;
    let only = ["--", "--ignored", "--nocapture", "fuzz::"];
    Step::new(root, "cargo", &[&["test"][..], &test, &only].concat(), RUN_LIMIT)
        .with("PAY402_FUZZ_CALLS", &calls.to_string())
        .with("PAY402_FUZZ_SEED", &seed.to_string())
        .run()
}

fn parse(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure(format!("`{text}` is not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers() {
        assert_eq!(parse("400").unwrap(), 400);
        assert!(parse("-1").is_err());
        assert!(run(Path::new("."), &["many"]).is_err());
    }
}
