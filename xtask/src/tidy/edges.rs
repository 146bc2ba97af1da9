//! Which package may depend on which: ours on ours, and ours on the heavy ones outside.

use std::path::Path;

use serde_json::Value;

use super::Finding;
use crate::{Failure, process};

/// One package of the workspace.
#[derive(Debug)]
pub(super) struct Package {
    /// Without the `pay402-` of its name; the binary is `cli`.
    name: String,
    /// What it needs to build: ours without the prefix, others as they are called.
    needs: Vec<String>,
    /// What only its tests need.
    tests_need: Vec<String>,
}

/// Who may depend on whom, by the architecture. `*` is everything of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("evm", &["core"]),
    ("client", &["core"]),
    ("server", &["core"]),
    ("facilitator", &["core"]),
    ("store", &["core"]),
    ("devchain", &[]),
    ("cli", &["*"]),
    ("e2e", &["*"]),
    ("benches", &["*"]),
    ("campaigns", &["*"]),
    ("xtask", &[]),
];

/// Who alone may depend on a package from outside, and why. `deny.toml` says the same.
const FIREWALLS: &[(&str, &[&str], &str)] = &[
    (
        "alloy",
        &["evm", "devchain", "cli", "e2e", "benches", "campaigns"],
        "roles know no network family",
    ),
    (
        "axum",
        &["facilitator", "devchain", "cli", "e2e", "benches", "campaigns"],
        "the gate is framework-free",
    ),
    ("clap", &["cli"], "arguments are read in one place"),
    ("opentelemetry", &["cli"], "the facilitator speaks `tracing`, whoever listens"),
    ("revm", &["devchain"], "one crate compiles the EVM"),
    ("rusqlite", &["store"], "one crate holds all SQL"),
    ("tokio-postgres", &["store"], "one crate holds all SQL"),
    ("deadpool-postgres", &["store"], "one crate holds all SQL"),
    ("toml", &["cli"], "files are read where things are wired together"),
];

/// What core may never need: it is deterministic.
const NOT_IN_CORE: &[&str] = &["getrandom", "rand", "reqwest", "tokio", "tracing"];

/// The packages of the workspace.
///
/// # Errors
/// When cargo cannot tell.
pub(super) fn packages(root: &Path) -> Result<Vec<Package>, Failure> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let text = process::output(root, "cargo", &arguments)?;
    let metadata: Value = serde_json::from_str(&text)
        .map_err(|error| Failure(format!("cannot read cargo metadata: {error}")))?;
    let packages = metadata["packages"].as_array();
    Ok(packages.into_iter().flatten().map(package).collect())
}

/// Edges between our packages that are not on the list.
pub(super) fn edges(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            let message = format!("{} has no row in the table of allowed edges", package.name);
            findings.push(finding("edges", message));
            continue;
        };
        for need in package.needs.iter().filter(|need| is_ours(need, packages)) {
            if !allowed.contains(&need.as_str()) && !allowed.contains(&"*") {
                let message = format!("{} may not depend on {need}", package.name);
                findings.push(finding("edges", message));
            }
        }
    }
    findings
}

/// Dependencies on packages from outside that belong behind another crate of ours.
pub(super) fn firewalls(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        for (outside, wrappers, why) in FIREWALLS {
            let needs = package.needs.iter().any(|need| need == outside);
            if needs && !wrappers.contains(&package.name.as_str()) {
                let message = format!("{} may not depend on {outside}: {why}", package.name);
                findings.push(finding("firewalls", message));
            }
        }
        let forbidden = |need: &&String| NOT_IN_CORE.contains(&need.as_str());
        for need in package.needs.iter().filter(forbidden) {
            if package.name == "core" {
                let message = format!("core may not depend on {need}: it is deterministic");
                findings.push(finding("firewalls", message));
            }
        }
    }
    findings
}

/// Edges that only tests have: allowed, and worth seeing.
pub(super) fn dev_notes(packages: &[Package]) -> Vec<String> {
    let beyond = |package: &&Package| !matches!(package.name.as_str(), "cli" | "e2e" | "benches");
    let mut notes = Vec::new();
    for package in packages.iter().filter(beyond) {
        let ours = package.tests_need.iter().filter(|need| is_ours(need, packages));
        let ours = ours.filter(|need| **need != package.name);
        let ours: Vec<&str> =
            ours.filter(|need| !package.needs.contains(need)).map(String::as_str).collect();
        if !ours.is_empty() {
            notes.push(format!("the tests of {} also use {}", package.name, ours.join(", ")));
        }
    }
    notes
}

fn package(value: &Value) -> Package {
    let text = |value: &Value| short(value.as_str().unwrap_or_default());
    let dependencies = value["dependencies"].as_array();
    let dependencies: Vec<&Value> = dependencies.into_iter().flatten().collect();
    let named = |dev: bool| -> Vec<String> {
        let kind = dependencies.iter().filter(|d| (d["kind"].as_str() == Some("dev")) == dev);
        kind.map(|d| text(&d["name"])).collect()
    };
    Package { name: text(&value["name"]), needs: named(false), tests_need: named(true) }
}

fn short(name: &str) -> String {
    match name {
        "pay402" => "cli".to_owned(),
        name => name.strip_prefix("pay402-").unwrap_or(name).to_owned(),
    }
}

fn is_ours(name: &str, packages: &[Package]) -> bool {
    packages.iter().any(|package| package.name == name)
}

fn finding(rule: &'static str, message: String) -> Finding {
    Finding { path: "Cargo.toml".into(), line: 0, rule, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str, needs: &[&str], tests_need: &[&str]) -> Package {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Package { name: name.into(), needs: owned(needs), tests_need: owned(tests_need) }
    }

    #[test]
    fn an_edge_between_roles_is_found() {
        let good = [sample("core", &[], &[]), sample("server", &["core", "tokio"], &["evm"])];
        assert_eq!(edges(&good), []);
        let bad = [
            sample("server", &["client"], &[]),
            sample("client", &[], &[]),
            sample("novel", &[], &[]),
        ];
        let found: Vec<String> = edges(&bad).into_iter().map(|finding| finding.message).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "server may not depend on client");
        assert!(found[1].contains("novel has no row"));
    }

    #[test]
    fn a_heavy_dependency_outside_its_crate_is_found() {
        let good = [sample("store", &["rusqlite"], &[]), sample("server", &["http"], &["axum"])];
        assert_eq!(firewalls(&good), []);
        let bad = [sample("client", &["rusqlite"], &[]), sample("core", &["tokio"], &[])];
        assert_eq!(firewalls(&bad).len(), 2);
    }

    #[test]
    fn edges_of_tests_are_told() {
        let packages =
            [sample("server", &["core"], &["core", "evm", "server"]), sample("evm", &[], &[])];
        assert_eq!(dev_notes(&packages), ["the tests of server also use evm"]);
    }

    #[test]
    fn cargo_metadata_is_read() {
        let value: Value = serde_json::from_str(
            r#"{"name":"pay402-store","dependencies":[{"name":"pay402-core","kind":null},
                {"name":"tempfile","kind":"dev"},{"name":"cc","kind":"build"}]}"#,
        )
        .unwrap();
        let package = package(&value);
        assert_eq!(package.name, "store");
        assert_eq!(package.needs, ["core", "cc"]);
        assert_eq!(package.tests_need, ["tempfile"]);
        assert_eq!(short("pay402"), "cli");
    }
}
