//! `sim`, `crash`, `overdraft`, `storage`, `soak`, `cluster`, `replay` and `chaos`: build `pay402` and the driver in `campaigns/`, and run it.

use std::path::Path;
use std::time::Duration;

use crate::process::Step;
use crate::{Outcome, suites};

/// From nothing, on a small machine.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// The longest form takes half an hour and its checks; this only catches one that hangs.
const RUN_LIMIT: Duration = Duration::from_secs(3 * 60 * 60);

/// Runs the campaign `verb`. What it prints last is its line of figures.
pub(crate) fn run(root: &Path, verb: &str, arguments: &[&str]) -> Outcome {
    let packages = ["--package", "pay402", "--package", "pay402-campaigns"];
    let build = [&["build", "--locked", "--all-features"][..], &packages].concat();
    Step::new(root, "cargo", &build, BUILD_LIMIT).run()?;
    step(root, verb, &suites::binary(root)?, arguments).run()
}

/// One campaign, with `pay402` and the driver built beside it.
pub(crate) fn step(root: &Path, verb: &str, bin: &Path, arguments: &[&str]) -> Step {
    let driver = bin.with_file_name(format!("pay402-campaigns{}", std::env::consts::EXE_SUFFIX));
    let (bin, driver) = (bin.to_string_lossy(), driver.to_string_lossy());
    let own = [verb, "--bin", &bin];
    Step::new(root, &driver, &[&own[..], arguments].concat(), RUN_LIMIT)
}
