//! `bench`: builds and runs the measurements of `benches/`.

use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::process::Step;

/// Building in release, with link-time optimisation.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// Every bench is a bounded count of requests; this only catches one that hangs.
const RUN_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Builds first, so that compiling does not count as running, then measures.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Outcome {
    let package = ["--release", "--locked", "--package", "pay402-benches"];
    // Some benches start the program itself: as it is released, so apart from them, whose features would
    // be its own.
    let program = ["build", "--release", "--locked", "--package", "pay402"];
    Step::new(root, "cargo", &program, BUILD_LIMIT).run()?;
    Step::new(root, "cargo", &[&["build"][..], &package].concat(), BUILD_LIMIT).run()?;
    let run = [&["run", "--quiet"][..], &package, &["--"], arguments].concat();
    Step::new(root, "cargo", &run, RUN_LIMIT).run()
}
