//! The documents: the changelog has a place for what comes next, every decision has a number of its
//! own, and links between files lead somewhere.

use std::collections::BTreeSet;

use super::Finding;
use super::source::{Source, Tree, find_all};

const CHANGELOG: &str = "CHANGELOG.md";
const DECISIONS: &str = "docs/adr/";

/// The changelog has an `Unreleased` section.
pub(super) fn changelog(tree: &Tree) -> Vec<Finding> {
    let file = tree.files().find(|file| file.path == CHANGELOG);
    let ready = file.is_some_and(|file| file.text.lines().any(|line| line == "## Unreleased"));
    if ready {
        return Vec::new();
    }
    let message = "has no section `## Unreleased`".to_owned();
    vec![Finding { path: CHANGELOG.to_owned(), line: 0, rule: "changelog", message }]
}

/// Decisions are called `NNNN-title.md`, begin with `# NNNN.`, and no two have one number. Numbers
/// may be missing: they are given out before the decisions are merged.
pub(super) fn decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let files = tree.files().filter(|file| file.path.starts_with(DECISIONS));
    let mut numbers = BTreeSet::new();
    for file in files.filter(|file| file.path.ends_with(".md")) {
        let mut wrong = |message| findings.push(finding(file, 0, "decisions", message));
        let name = file.path.trim_start_matches(DECISIONS);
        let number = name.split_once('-').map_or("", |(number, _)| number);
        let numbered = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
        if !numbered {
            wrong("must be called NNNN-title.md".to_owned());
        } else if !numbers.insert(number) {
            wrong(format!("has the number {number} of another decision"));
        } else if !file.text.starts_with(&format!("# {number}. ")) {
            wrong(format!("must begin with `# {number}. `"));
        }
    }
    findings
}

/// Links to files of the repository lead to one.
pub(super) fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().filter(|file| file.path.ends_with(".md")) {
        for at in find_all(&file.text, "](") {
            let rest = &file.text[at + 2..];
            let Some(target) = rest.find(')').map(|end| &rest[..end]) else { continue };
            let path = target.split('#').next().unwrap_or_default();
            let outside = path.contains("://") || path.starts_with("mailto:");
            if path.is_empty() || outside || leads_somewhere(tree, &file.path, path) {
                continue;
            }
            findings.push(finding(file, at, "links", format!("the link to {path} is dead")));
        }
    }
    findings
}

fn leads_somewhere(tree: &Tree, from: &str, path: &str) -> bool {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let target = parts.join("/");
    tree.files().any(|file| {
        file.path == target || file.path.strip_prefix(&target).is_some_and(|r| r.starts_with('/'))
    })
}

fn finding(file: &Source, at: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: file.path.clone(), line: file.line(at), rule, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changelog_without_a_next_release_is_found() {
        assert_eq!(changelog(&Tree::of(&[])).len(), 1);
        assert_eq!(changelog(&Tree::of(&[(CHANGELOG, "# Changes\n## 0.1.0\n")])).len(), 1);
        assert_eq!(changelog(&Tree::of(&[(CHANGELOG, "# Changes\n\n## Unreleased\n")])), []);
    }

    #[test]
    fn decisions_without_a_number_of_their_own_are_found() {
        let good = [("docs/adr/0001-a.md", "# 0001. A\n"), ("docs/adr/0003-b.md", "# 0003. B\n")];
        assert_eq!(decisions(&Tree::of(&good)), []);
        let twice = [("docs/adr/0001-a.md", "# 0001. A\n"), ("docs/adr/0001-b.md", "# 0001. B\n")];
        assert_eq!(decisions(&Tree::of(&twice)).len(), 1);
        assert_eq!(decisions(&Tree::of(&[("docs/adr/0001-a.md", "# A\n")])).len(), 1);
        assert_eq!(decisions(&Tree::of(&[("docs/adr/1-a.md", "# 1. A\n")])).len(), 1);
    }

    #[test]
    fn dead_links_are_found() {
        let text = "[a](../b.md#x) [b](https://example.com/x) [c](../crates/core) [d](#here)\n\
                    [e](missing.md)";
        let tree =
            Tree::of(&[("docs/a.md", text), ("b.md", ""), ("crates/core/src/lib.rs", "//! A.")]);
        let found = links(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 2);
    }
}
