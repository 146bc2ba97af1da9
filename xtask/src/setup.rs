//! `setup`: what the tests need besides Rust. Running it again does nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::process::{self, Step};
use crate::{Failure, Outcome};

/// Longest time for one installation.
const INSTALL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Notes in `contracts/node_modules` which lockfile it was made from.
const STAMP: &str = "node_modules/.installed-from";

/// Checks the tools and installs the packages.
pub(crate) fn run(root: &Path) -> Outcome {
    tools()?;
    contracts(&root.join("contracts"))?;
    debian(root, "strace", || process::works("strace", &["--version"]));
    debian(root, "postgresql", has_postgresql);
    Step::new(root, "node", &["interop/setup.mjs"], INSTALL_LIMIT).run()
}

/// Node, npm and Python, each with what to do when it is missing.
fn tools() -> Outcome {
    let needed: [(&str, &[&str], &str); 3] = [
        (
            "node",
            &["-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)"],
            "Node 20 or newer",
        ),
        ("npm", &["--version"], "npm, which comes with Node"),
        (
            "python3",
            &["-c", "import sys, venv; sys.exit(sys.version_info < (3, 11))"],
            "Python 3.11 or newer with venv",
        ),
    ];
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(program, arguments, _)| !process::works(program, arguments))
        .map(|(_, _, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "needed on the path: {}. Without them, `cargo xtask test --quick` runs what Rust alone can.",
        missing.join("; ")
    )
    .into())
}

/// What some tests need beside Rust and is a package of Debian's, where it can be installed: strace,
/// which the power-cut test watches the disk with, and PostgreSQL's server, on which the journal is
/// tested. Without them these tests are left out, and `test` says so.
fn debian(root: &Path, package: &str, is_there: fn() -> bool) {
    if is_there() || !process::works("apt-get", &["--version"]) {
        return;
    }
    let arguments = ["install", "--yes", "--quiet", "--no-install-recommends", package];
    let update = Step::new(root, "apt-get", &["update", "--quiet"], INSTALL_LIMIT).run();
    if update.and_then(|()| Step::new(root, "apt-get", &arguments, INSTALL_LIMIT).run()).is_err() {
        println!("setup: {package} could not be installed");
    }
}

/// Whether the programs of a PostgreSQL server are installed: where Debian puts them, which is not
/// on the path, or where `pg_config` says.
pub(crate) fn has_postgresql() -> bool {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = debian.map(|version| version.path().join("bin")).collect();
    if let Ok(bin) = process::output(Path::new("."), "pg_config", &["--bindir"]) {
        folders.push(bin.trim().into());
    }
    folders.iter().any(|bin| bin.join("initdb").exists())
}

/// The Solidity compiler, from npm, for comparing the committed artefacts.
fn contracts(folder: &Path) -> Outcome {
    let lock = fs::read_to_string(folder.join("package-lock.json"))
        .map_err(|error| Failure(format!("cannot read contracts/package-lock.json: {error}")))?;
    let stamp = folder.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == lock) {
        println!("setup: contracts/node_modules is up to date");
        return Ok(());
    }
    let arguments = ["ci", "--no-fund", "--no-audit", "--loglevel=error"];
    Step::new(folder, "npm", &arguments, INSTALL_LIMIT).run()?;
    fs::write(&stamp, lock)
        .map_err(|error| Failure(format!("cannot write {}: {error}", stamp.display())))
}
