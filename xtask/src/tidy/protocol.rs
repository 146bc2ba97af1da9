//! What may stand in one place only: branches on a protocol version, header names, and the error
//! texts of RPC nodes.

use super::Finding;
use super::source::{Source, Tree, find_all, find_words};

const WIRE: &str = "crates/core/src/wire/";
const TRANSPORT: &str = "crates/core/src/transport/";
const RPC_ERRORS: &str = "crates/evm/src/network/errors.rs";

/// Files that may branch on a version outside the wire and the transport, each with the reason.
const BRANCHES_ALLOWED: &[(&str, &str)] = &[];

/// Files that may name the field of the version, each with the reason.
const FIELD_ALLOWED: &[(&str, &str)] = &[(
    "crates/facilitator/src/api/mod.rs",
    "GET /verify and GET /settle describe the body's members to people; nothing is read by that name",
)];

/// Files that may name a header outside the transport, each with the reason.
const HEADERS_ALLOWED: &[(&str, &str)] = &[];

const HEADERS: &[&str] = &[
    "payment-required",
    "payment-response",
    "payment-signature",
    "x-payment",
    "pay402-forwarded",
    "pay402-not-leading",
];

/// What nodes write when they do not take a transaction, or when a call fails.
const RPC_TEXTS: &[&str] = &[
    "already known",
    "already imported",
    "execution reverted",
    "exceeds block gas limit",
    "insufficient funds for gas",
    "intrinsic gas too low",
    "known transaction",
    "max fee per gas less than block base fee",
    "nonce too high",
    "nonce too low",
    "replacement transaction underpriced",
    "transaction underpriced",
    "txpool is full",
];

/// Only the wire and the transport branch on the protocol version. Elsewhere a version is held and
/// handed on.
pub(super) fn version_branches(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree, &[WIRE, TRANSPORT], BRANCHES_ALLOWED) {
        let branches = ["WireVersion::V1", "WireVersion::V2"].into_iter().flat_map(|variant| {
            find_words(&file.code, variant)
                .filter(|&at| is_branch(&file.code, at, at + variant.len()))
                .collect::<Vec<_>>()
        });
        let imports =
            find_all(&file.code, "WireVersion::{").chain(find_all(&file.code, "WireVersion::*"));
        for at in branches.chain(imports).filter(|&at| !file.is_test(at)) {
            let message = "branches on the protocol version, which only core::wire and \
                           core::transport may";
            findings.push(finding(file, at, "version branches", message));
        }
        let describes = FIELD_ALLOWED.iter().any(|(path, _)| file.path == *path);
        let named = |at: &usize| !describes && !file.is_test(*at);
        for at in find_all(&file.literals, "x402Version").filter(named) {
            let message = "knows the field of the version, which only core::wire may";
            findings.push(finding(file, at, "version branches", message));
        }
    }
    findings
}

/// Only the transport knows header names.
pub(super) fn header_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree, &[TRANSPORT], HEADERS_ALLOWED) {
        let literals = file.literals.to_ascii_lowercase();
        for header in HEADERS {
            for at in find_all(&literals, header).filter(|&at| !file.is_test(at)) {
                let message = format!("names the header {header}; use core::transport's constant");
                findings.push(finding(file, at, "header names", &message));
            }
        }
    }
    findings
}

/// Error texts of RPC nodes are read in one file. The embedded chain is such a node and writes
/// them.
pub(super) fn rpc_texts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree, &[RPC_ERRORS, "crates/devchain/"], &[]) {
        let literals = file.literals.to_ascii_lowercase();
        for text in RPC_TEXTS {
            for at in find_all(&literals, text).filter(|&at| !file.is_test(at)) {
                let message = format!("knows a node's error text, which only {RPC_ERRORS} may");
                findings.push(finding(file, at, "rpc texts", &message));
            }
        }
    }
    findings
}

/// The Rust files below `crates/`, without those in `folders` and those in the table.
fn ours<'a>(
    tree: &'a Tree,
    folders: &'a [&str],
    allowed: &'a [(&str, &str)],
) -> impl Iterator<Item = &'a Source> {
    tree.rust().filter(move |file| {
        file.path.starts_with("crates/")
            && !folders.iter().any(|folder| file.path.starts_with(folder))
            && !allowed.iter().any(|(path, _)| file.path == *path)
    })
}

/// Whether the variant at `start..end` is matched against rather than built: an arm, an
/// alternative, `if let`, `matches!`, or a comparison.
fn is_branch(code: &str, start: usize, end: usize) -> bool {
    let after = code[end..].trim_start();
    let before = code[..start].trim_end();
    let before = before.trim_end_matches("core::").trim_end_matches("pay402_");
    let before = before.strip_suffix("crate::").unwrap_or(before).trim_end();
    let arm = after.starts_with("=>") || after.starts_with("if ");
    let alternative = after.starts_with('|') && !after.starts_with("||") || before.ends_with('|');
    let compared = [before.ends_with("=="), before.ends_with("!=")].contains(&true)
        || after.starts_with("==")
        || after.starts_with("!=");
    let bound = before.ends_with(" let") || (after.starts_with('=') && !after.starts_with("=="));
    // `matches!(version, WireVersion::V1)`: the pattern is the last thing in the parentheses.
    let call = before.rfind("matches!(").is_some_and(|at| !before[at..].contains([';', ')']));
    arm || alternative || compared || bound || call
}

fn finding(file: &Source, at: usize, rule: &'static str, message: &str) -> Finding {
    Finding { path: file.path.clone(), line: file.line(at), rule, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(found: Vec<Finding>) -> Vec<usize> {
        let mut lines: Vec<usize> = found.into_iter().map(|finding| finding.line).collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn branches_on_the_version_are_found() {
        let bad = "fn f(v: WireVersion) {\n\
                   match v {\nWireVersion::V1 => 1,\ncrate::WireVersion::V2 if x => 2 };\n\
                   if v == WireVersion::V1 {}\n\
                   if let WireVersion::V2 = v {}\n\
                   matches!(v, WireVersion::V1);\n\
                   let n = json[\"x402Version\"];\n\
                   }\nuse WireVersion::*;";
        let tree = Tree::of(&[("crates/server/src/a.rs", bad)]);
        assert_eq!(lines(version_branches(&tree)), [3, 4, 5, 6, 7, 8, 10]);
        let inside = Tree::of(&[("crates/core/src/wire/a.rs", bad), ("crates/x/tests/a.rs", bad)]);
        assert_eq!(version_branches(&inside), []);
    }

    #[test]
    fn holding_a_version_is_no_branch() {
        let good = "fn f() { let a = Kind { version: WireVersion::V2 };\n\
                    for v in [WireVersion::V1, WireVersion::V2] { write(v, || 1); }\n\
                    let b = matches!(c, d); g(WireVersion::V1); // WireVersion::V1 =>\n}";
        let tree = Tree::of(&[("crates/server/src/a.rs", good)]);
        assert_eq!(version_branches(&tree), []);
    }

    #[test]
    fn header_names_are_found() {
        let bad = "const H: &str = \"Payment-Signature\";\n// X-PAYMENT\nlet x = \"X-PAYMENT\";\n\
                   #[cfg(test)] mod tests { const H: &str = \"payment-required\"; }";
        let tree = Tree::of(&[("crates/server/src/a.rs", bad)]);
        assert_eq!(lines(header_names(&tree)), [1, 3]);
        assert_eq!(header_names(&Tree::of(&[("crates/core/src/transport/http.rs", bad)])), []);
    }

    #[test]
    fn error_texts_of_nodes_are_found() {
        let bad = "if text.contains(\"Nonce too low\") {}";
        let tree = Tree::of(&[
            ("crates/evm/src/network/submit.rs", bad),
            ("crates/evm/src/network/errors.rs", bad),
            ("crates/devchain/src/error.rs", bad),
        ]);
        let found = rpc_texts(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "crates/evm/src/network/submit.rs");
    }
}
