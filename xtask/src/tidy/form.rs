//! The form of files: how long they are, what they are called, and what may not be left in them.

use super::Finding;
use super::source::{Source, Tree, find_words};

/// Longer files say in their header why.
const LINES_MAX: usize = 800;
/// How far down the header may say so.
const HEADER_LINES: usize = 40;
const LONG_BECAUSE: &str = "Long because ";
/// Hand-written sources.
const SOURCES: &[&str] = &[".rs", ".mjs", ".py", ".sol"];

/// Words that a name of ours may not be made of.
const BANNED_IN_TYPES: &[&str] = &["Helper", "Helpers", "Manager", "Util", "Utils"];
const BANNED_MODULES: &[&str] = &["common", "helper", "helpers", "types", "util", "utils"];

/// Files too long to be read in one go.
pub(super) fn long_files(tree: &Tree) -> Vec<Finding> {
    let sources = tree.files().filter(|file| SOURCES.iter().any(|end| file.path.ends_with(end)));
    sources
        .filter_map(|file| {
            let lines = file.text.lines().count();
            let excused = file.text.lines().take(HEADER_LINES).any(|l| l.contains(LONG_BECAUSE));
            (lines > LINES_MAX && !excused).then(|| Finding {
                path: file.path.clone(),
                line: 0,
                rule: "long files",
                message: format!(
                    "{lines} lines: split it, or say `{LONG_BECAUSE}…` in its header (at most \
                     {LINES_MAX} otherwise)"
                ),
            })
        })
        .collect()
}

/// Nothing unfinished stays behind.
pub(super) fn markers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().filter(|file| SOURCES.iter().any(|end| file.path.ends_with(end))) {
        // Words in string literals are text, such as those of this very rule.
        let without_literals = |at: usize| !file.is_rust() || !is_literal(file, at);
        for marker in ["FIXME", "XXX", "TODO"] {
            for at in find_words(&file.text, marker).filter(|&at| without_literals(at)) {
                findings.push(finding(file, at, "markers", format!("{marker} left behind")));
            }
        }
        for name in ["todo", "unimplemented", "dbg"] {
            let called = |&at: &usize| file.code[at + name.len()..].starts_with('!');
            for at in find_words(&file.code, name).filter(called) {
                findings.push(finding(file, at, "markers", format!("{name}! left behind")));
            }
        }
    }
    findings
}

/// Names that say nothing.
pub(super) fn names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for keyword in ["fn", "struct", "enum", "trait", "type", "mod"] {
            for at in find_words(&file.code, keyword) {
                let name = name_after(&file.code, at + keyword.len());
                if is_banned(keyword, name) {
                    let message = format!("{keyword} {name} says nothing: name what it does");
                    findings.push(finding(file, at, "names", message));
                }
            }
        }
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| BANNED_MODULES.contains(part)) {
            let message = format!("a file or folder called {part} becomes a drawer");
            findings.push(finding(file, 0, "names", message));
        }
    }
    findings
}

/// Every file says what lives in it; a file of tests need not.
pub(super) fn module_headers(tree: &Tree) -> Vec<Finding> {
    let missing = tree.rust().filter(|file| !file.is_test(0) && !file.text.starts_with("//!"));
    missing
        .map(|file| {
            let message = "begins without `//!`: what lives here, what does not, which invariant";
            finding(file, 0, "module headers", message.to_owned())
        })
        .collect()
}

fn is_banned(keyword: &str, name: &str) -> bool {
    match keyword {
        "fn" => name.starts_with("get_"),
        "mod" => BANNED_MODULES.contains(&name),
        _ => words(name).iter().any(|word| BANNED_IN_TYPES.contains(word)),
    }
}

fn name_after(code: &str, at: usize) -> &str {
    let rest = code[at..].trim_start();
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    &rest[..end]
}

/// The words of a name in camel case.
fn words(name: &str) -> Vec<&str> {
    let mut starts: Vec<usize> =
        name.char_indices().filter(|(_, c)| c.is_uppercase()).map(|(at, _)| at).collect();
    starts.push(name.len());
    starts.windows(2).map(|pair| &name[pair[0]..pair[1]]).collect()
}

fn is_literal(file: &Source, at: usize) -> bool {
    !file.literals[at..].starts_with(char::is_whitespace)
}

fn finding(file: &Source, at: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: file.path.clone(), line: file.line(at), rule, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_without_a_reason_is_found() {
        let long = "//! A.\n".repeat(LINES_MAX + 1);
        let excused = format!("//! Long because it is one table.\n{long}");
        let tree = Tree::of(&[
            ("crates/x/src/a.rs", &long),
            ("crates/x/src/b.rs", &excused),
            ("docs/c.md", &long),
        ]);
        let found = long_files(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "crates/x/src/a.rs");
    }

    #[test]
    fn what_was_left_behind_is_found() {
        let bad = "fn f() { todo!() }\n// FIXME later\nfn g() { dbg!(1); unimplemented !() }\n\
                   // XXX\nlet ok = \"TODO\"; let fine = XXXL; undbg!();";
        let tree = Tree::of(&[("crates/x/src/a.rs", bad), ("interop/a.mjs", "// TODO: more")]);
        let found: Vec<(String, usize)> =
            markers(&tree).into_iter().map(|finding| (finding.message, finding.line)).collect();
        let expected = [("FIXME", 2), ("XXX", 4), ("todo!", 1), ("dbg!", 3), ("TODO", 1)];
        let expected = expected.map(|(marker, line)| (format!("{marker} left behind"), line));
        assert_eq!(found, expected);
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        let bad = "fn get_price() {}\nstruct NonceManager;\nmod utils;\ntrait TestHelper {}\n\
                   fn budget_of() {}\nstruct Managers;\nfn f() { x.get_mut(); } // fn get_it";
        let tree = Tree::of(&[("crates/x/src/a.rs", bad), ("crates/x/tests/common/mod.rs", "")]);
        let mut found: Vec<(String, usize)> =
            names(&tree).into_iter().map(|finding| (finding.path, finding.line)).collect();
        found.sort();
        let here = "crates/x/src/a.rs".to_owned();
        let drawer = "crates/x/tests/common/mod.rs".to_owned();
        assert_eq!(
            found,
            [(here.clone(), 1), (here.clone(), 2), (here.clone(), 3), (here, 4), (drawer, 1)]
        );
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        let tree = Tree::of(&[
            ("a/src/a.rs", "//! A."),
            ("a/src/b.rs", "use x;\n//! B."),
            ("a/tests/c.rs", "use x;"),
        ]);
        assert_eq!(module_headers(&tree).len(), 1);
    }
}
