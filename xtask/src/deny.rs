//! `deny`: licences, advisories, bans and sources, by `deny.toml`. Not part of `ci`: cargo-deny
//! and its advisory database are not on every machine.

use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::process::{self, Step};

/// Fetching the advisories and walking the lock file.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Runs cargo-deny when there is one.
pub(crate) fn run(root: &Path) -> Outcome {
    if !process::works("cargo", &["deny", "--version"]) {
        println!("deny: cargo-deny is not installed, so nothing was checked");
        println!("deny: `cargo install --locked cargo-deny`, then run this again");
        return Ok(());
    }
    let arguments = ["deny", "--workspace", "--all-features", "--locked", "check"];
    Step::new(root, "cargo", &arguments, LIMIT).run()
}
