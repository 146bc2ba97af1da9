//! `tidy`: the rules that neither the compiler nor clippy knows.
//!
//! Each rule is a function from the tree of sources to what it found, and each has a test with a
//! sample that breaks it. The rules look at text, not at types: they catch the honest mistake, and
//! leave the rest to review. An exception is a row of the rule's own table, with its reason.

mod documents;
mod edges;
mod evidence;
mod form;
mod protocol;
mod secrets;
mod source;

use std::fmt;
use std::path::Path;

use crate::Outcome;
use source::Tree;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Finding {
    /// The file, from the root; empty when it is no file's.
    path: String,
    /// The line, from 1; 0 for the file as a whole.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, message } = self;
        match line {
            0 => write!(f, "{path}: {message} [{rule}]"),
            line => write!(f, "{path}:{line}: {message} [{rule}]"),
        }
    }
}

/// A rule over the sources.
type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[Rule] = &[
    protocol::version_branches,
    protocol::header_names,
    protocol::rpc_texts,
    evidence::refusals_are_provoked,
    evidence::callers_of_evidence,
    form::long_files,
    form::markers,
    form::names,
    form::module_headers,
    secrets::machine_paths,
    secrets::registry_hosts,
    secrets::private_keys,
    documents::changelog,
    documents::decisions,
    documents::links,
];

/// Runs every rule and prints what was found.
pub(crate) fn run(root: &Path) -> Outcome {
    let tree = Tree::read(root)?;
    let packages = edges::packages(root)?;
    for note in edges::dev_notes(&packages) {
        println!("note: {note}");
    }
    let mut findings = edges::edges(&packages);
    findings.extend(edges::firewalls(&packages));
    findings.extend(RULES.iter().flat_map(|rule| rule(&tree)));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    let rules = RULES.len() + 2;
    if findings.is_empty() {
        println!("tidy: {} files, {rules} rules, nothing found", tree.len());
        return Ok(());
    }
    Err(format!("tidy found {} problems", findings.len()).into())
}
