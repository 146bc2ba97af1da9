//! `ci`: what must pass before a change is merged. `.ci/run` does the same in shell.

use std::path::Path;
use std::time::Duration;

use crate::process::Step;
use crate::{Outcome, suites, tidy};

/// Formatting looks at files only.
const FORMAT_LIMIT: Duration = Duration::from_secs(5 * 60);
/// Clippy compiles everything once.
const CLIPPY_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Format, clippy with warnings denied, tidy, tests. Stops at the first failure.
pub(crate) fn run(root: &Path) -> Outcome {
    Step::new(root, "cargo", &["fmt", "--all", "--check"], FORMAT_LIMIT).run()?;
    let clippy = "clippy --workspace --all-targets --all-features --locked -- -D warnings";
    let clippy: Vec<&str> = clippy.split(' ').collect();
    Step::new(root, "cargo", &clippy, CLIPPY_LIMIT).run()?;
    tidy::run(root)?;
    suites::run(root, suites::Extent::Full)
}
