//! Evidence: that every refusal is provoked by a test, and who may call the constructors of values
//! that stand for a proof.

use super::Finding;
use super::source::{Tree, find_all, find_words};

const REGISTRY: &str = "crates/core/src/refusal.rs";

/// Constructors of evidence, and the folders that may call them. Tests may.
const CONSTRUCTORS: &[(&str, &[&str])] = &[
    ("Verified::attest(", &["crates/core/src/network.rs", "crates/evm/", "campaigns/src/sim/"]),
    ("Clearance::resume(", &["crates/core/src/spend.rs", "crates/client/"]),
];

/// Every refusal is named in some test outside the registry.
pub(super) fn refusals_are_provoked(tree: &Tree) -> Vec<Finding> {
    let Some(registry) = tree.rust().find(|file| file.path == REGISTRY) else { return Vec::new() };
    let variants = variants(&registry.text);
    let finding = |line, message: String| Finding {
        path: REGISTRY.to_owned(),
        line,
        rule: "refusals",
        message,
    };
    if variants.is_empty() {
        return vec![finding(0, "no refusals found: the rule no longer reads the registry".into())];
    }
    let named_in_a_test = |variant: &str| {
        let name = format!("Refusal::{variant}");
        tree.rust()
            .filter(|file| file.path != REGISTRY)
            .any(|file| find_words(&file.code, &name).any(|at| file.is_test(at)))
    };
    variants
        .into_iter()
        .filter(|(_, variant)| !named_in_a_test(variant))
        .map(|(line, variant)| finding(line, format!("no test provokes Refusal::{variant}")))
        .collect()
}

/// Evidence is built only where the proof is made.
pub(super) fn callers_of_evidence(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (constructor, allowed) in CONSTRUCTORS {
        for file in tree.rust().filter(|f| !allowed.iter().any(|own| f.path.starts_with(own))) {
            for at in find_all(&file.code, constructor).filter(|&at| !file.is_test(at)) {
                findings.push(Finding {
                    path: file.path.clone(),
                    line: file.line(at),
                    rule: "evidence",
                    message: format!("calls {constructor}…), which only {} may", allowed[1]),
                });
            }
        }
    }
    findings
}

/// The rows `Variant = "code"…` of the registry, with their lines.
fn variants(text: &str) -> Vec<(usize, &str)> {
    let table = text.find("\nrefusals! {").map_or("", |at| &text[at..]);
    let before = text.len() - table.len();
    let first = text[..before].matches('\n').count() + 1;
    let rows = table.lines().take_while(|line| *line != "}").enumerate();
    rows.filter_map(|(index, line)| {
        let (variant, _) = line.trim_start().split_once(" = \"")?;
        variant.chars().all(char::is_alphanumeric).then_some((first + index, variant))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "macro_rules! refusals { () => {} }\n\nrefusals! {\n    /// Doc = \"x\".\n    \
                         Early = \"a\" | \"b\", 402;\n    /// Doc.\n    Late = \"c\", 402;\n}\n\
                         #[cfg(test)] mod tests { fn f() { Refusal::Late; } }";

    #[test]
    fn a_refusal_without_a_test_is_found() {
        let tree = Tree::of(&[
            (REGISTRY, TABLE),
            ("crates/evm/src/verify.rs", "fn f() { Refusal::Late }"),
            ("crates/evm/tests/t.rs", "fn f() { Refusal::Early; /* Refusal::Late */ }"),
        ]);
        let found = refusals_are_provoked(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].line, found[0].message.as_str()),
            (7, "no test provokes Refusal::Late")
        );
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_found() {
        assert_eq!(refusals_are_provoked(&Tree::of(&[(REGISTRY, "enum Refusal {}")])).len(), 1);
    }

    #[test]
    fn evidence_built_elsewhere_is_found() {
        let call = "fn f() { Verified::attest(k); Clearance::resume(r); }";
        let tree = Tree::of(&[
            ("crates/evm/src/a.rs", "fn f() { Verified::attest(k) }"),
            ("crates/client/src/a.rs", "fn f() { Clearance::resume(r) }"),
            ("crates/facilitator/src/a.rs", call),
            ("crates/facilitator/tests/a.rs", call),
        ]);
        let found = callers_of_evidence(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|finding| finding.path == "crates/facilitator/src/a.rs"));
    }
}
