//! The tree of sources, and a lexer that is just good enough to tell code, comments and string
//! literals of Rust apart, and tests from the rest.

use std::fs;
use std::ops::Range;
use std::path::Path;

use crate::Failure;

/// Folders that hold nothing of ours; `.git` is a file where a repository has several work trees.
const SKIPPED: &[&str] =
    &[".git", ".next", ".pay402", ".venv", "__pycache__", "node_modules", "target"];
/// Larger files are data.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Every text file of the repository.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: Vec<Source>,
}

/// One text file.
#[derive(Debug)]
pub(super) struct Source {
    /// From the root, with `/`.
    pub(super) path: String,
    /// As it is.
    pub(super) text: String,
    /// Rust only: comments and the insides of literals blanked. Same length as `text`.
    pub(super) code: String,
    /// Rust only: everything but the insides of string literals blanked. Same length as `text`.
    pub(super) literals: String,
    tests: Vec<Range<usize>>,
}

impl Tree {
    /// Reads the files below `root`.
    ///
    /// # Errors
    /// When a folder or file cannot be read.
    pub(super) fn read(root: &Path) -> Result<Self, Failure> {
        let mut files = Vec::new();
        collect(root, root, &mut files)?;
        files.sort();
        Ok(Self::new(files))
    }

    /// A tree of `(path, text)`, for the tests of the rules.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self::new(files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect())
    }

    fn new(files: Vec<(String, String)>) -> Self {
        let mut files: Vec<Source> =
            files.into_iter().map(|(path, text)| Source::new(path, text)).collect();
        let modules: Vec<String> = files.iter().flat_map(Source::test_modules).collect();
        for file in &mut files {
            let is_test_module = modules.iter().any(|module| {
                file.path == format!("{module}.rs") || file.path.starts_with(&format!("{module}/"))
            });
            if is_test_module || is_test_path(&file.path) {
                file.tests = vec![Range { start: 0, end: file.text.len() }];
            }
        }
        Self { files }
    }

    /// All files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    /// The Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files().filter(|file| file.is_rust())
    }

    /// How many files there are.
    pub(super) const fn len(&self) -> usize {
        self.files.len()
    }
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let is_rust = path.ends_with(".rs");
        let (code, literals) = if is_rust { split(&text) } else { Default::default() };
        let tests = test_items(&code).into_iter().map(|item| item.span).collect();
        Self { path, text, code, literals, tests }
    }

    /// Whether it is Rust.
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether `offset` lies in test code.
    pub(super) fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&offset))
    }

    /// The line of `offset`, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text[..offset].bytes().filter(|&byte| byte == b'\n').count() + 1
    }

    /// Where `#[cfg(test)] mod x;` puts the module, without `.rs`.
    fn test_modules(&self) -> Vec<String> {
        let Some((folder, name)) = self.path.rsplit_once('/') else { return Vec::new() };
        let stem = name.trim_end_matches(".rs");
        let folder = match stem {
            "lib" | "main" | "mod" => folder.to_owned(),
            stem => format!("{folder}/{stem}"),
        };
        let items = test_items(&self.code).into_iter();
        items.filter_map(|item| item.module).map(|name| format!("{folder}/{name}")).collect()
    }
}

/// Where `needle` stands in `text`.
pub(super) fn find_all<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(needle).map(|(offset, _)| offset)
}

/// Where `word` stands in `text` as a whole word.
pub(super) fn find_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let inside = |byte: Option<&u8>| byte.is_some_and(|&b| b.is_ascii_alphanumeric() || b == b'_');
    find_all(text, word).filter(move |&at| {
        let bytes = text.as_bytes();
        !inside(at.checked_sub(1).and_then(|i| bytes.get(i))) && !inside(bytes.get(at + word.len()))
    })
}

fn is_test_path(path: &str) -> bool {
    path.starts_with("e2e/")
        || path.starts_with("interop/")
        || path.starts_with("crates/core/src/conformance/")
        || path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn collect(root: &Path, folder: &Path, into: &mut Vec<(String, String)>) -> Result<(), Failure> {
    let broken = |path: &Path, error| Failure(format!("cannot read {}: {error}", path.display()));
    for entry in fs::read_dir(folder).map_err(|error| broken(folder, error))? {
        let path = entry.map_err(|error| broken(folder, error))?.path();
        let kind = fs::symlink_metadata(&path).map_err(|error| broken(&path, error))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, into)?;
        } else if kind.is_file() && kind.len() <= FILE_BYTES_MAX {
            let bytes = fs::read(&path).map_err(|error| broken(&path, error))?;
            let own = path.strip_prefix(root).expect("the walk starts at the root");
            let own = own.to_string_lossy().replace('\\', "/");
            // What is not UTF-8 is not text.
            if let Ok(text) = String::from_utf8(bytes) {
                into.push((own, text));
            }
        }
    }
    Ok(())
}

/// The code and the string literals of `text`, everything else blanked.
fn split(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let blank: Vec<u8> = bytes.iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }).collect();
    let (mut code, mut literals) = (blank.clone(), blank);
    let mut at = 0;
    while at < bytes.len() {
        let piece = piece(bytes, at);
        let Range { start, end } = piece.inside;
        match piece.kind {
            Kind::Code => code[at..piece.end].copy_from_slice(&bytes[at..piece.end]),
            Kind::Comment => {}
            Kind::Literal => {
                code[at..start].copy_from_slice(&bytes[at..start]);
                code[end..piece.end].copy_from_slice(&bytes[end..piece.end]);
                literals[start..end].copy_from_slice(&bytes[start..end]);
            }
        }
        at = piece.end;
    }
    let kept = |bytes| String::from_utf8(bytes).expect("pieces end at ASCII characters");
    (kept(code), kept(literals))
}

#[derive(Debug)]
enum Kind {
    Code,
    Comment,
    Literal,
}

#[derive(Debug)]
struct Piece {
    kind: Kind,
    end: usize,
    inside: Range<usize>,
}

/// The piece that begins at `at`: a comment, a literal, an identifier, or one byte of code.
fn piece(bytes: &[u8], at: usize) -> Piece {
    let rest = &bytes[at..];
    let plain = |kind, length: usize| Piece { kind, end: at + length, inside: at..at };
    if rest.starts_with(b"//") {
        let length = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        return plain(Kind::Comment, length);
    }
    if rest.starts_with(b"/*") {
        return plain(Kind::Comment, block_comment(rest));
    }
    if let Some((opening, closing, length)) = string(rest).or_else(|| character(rest)) {
        let end = at + length;
        return Piece { kind: Kind::Literal, end, inside: at + opening..end - closing };
    }
    // An identifier in one piece, so that the `r` of `for"` is not read as a raw string's. Bytes
    // above ASCII go with it.
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || !b.is_ascii();
    let length = rest.iter().take_while(|b| word(b)).count().max(1);
    plain(Kind::Code, length)
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The lengths of the opening, of the closing and of the whole of a string literal.
fn string(rest: &[u8]) -> Option<(usize, usize, usize)> {
    let prefix = rest.iter().take_while(|b| matches!(b, b'b' | b'c' | b'r')).count().min(2);
    let raw = rest[..prefix].ends_with(b"r");
    let hashes = match raw {
        true => rest[prefix..].iter().take_while(|&&b| b == b'#').count(),
        false => 0,
    };
    let opening = prefix + hashes + 1;
    if rest.get(opening - 1) != Some(&b'"') {
        return None;
    }
    let mut at = opening;
    while at < rest.len() {
        match rest[at] {
            b'\\' if !raw => at += 1,
            b'"' if rest[at + 1..].iter().take(hashes).filter(|&&b| b == b'#').count()
                == hashes =>
            {
                return Some((opening, 1 + hashes, at + 1 + hashes));
            }
            _ => {}
        }
        at += 1;
    }
    Some((opening, 0, rest.len()))
}

/// The same of a character literal, which `'` may also begin a lifetime instead of.
fn character(rest: &[u8]) -> Option<(usize, usize, usize)> {
    if rest.first() != Some(&b'\'') {
        return None;
    }
    let length = match rest.get(1)? {
        b'\\' => rest[3.min(rest.len())..].iter().position(|&b| b == b'\'')? + 4,
        first => {
            let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|error| error.valid_up_to(), str::len);
            let text = std::str::from_utf8(&rest[1..=width]).ok()?;
            let width = text.chars().next().map_or(1, char::len_utf8);
            (rest.get(1 + width) == Some(&b'\'') && *first != b'\'').then_some(width + 2)?
        }
    };
    Some((1, 1, length))
}

#[derive(Debug)]
struct TestItem {
    span: Range<usize>,
    /// The name, when the item is `mod name;`.
    module: Option<String>,
}

/// The items under `#[cfg(test)]`, or a `cfg` that names `test` without `not`.
fn test_items(code: &str) -> Vec<TestItem> {
    let mut items: Vec<TestItem> = Vec::new();
    for start in find_all(code, "#[cfg(") {
        let Some(length) = code[start..].find(']') else { continue };
        let condition = &code[start..start + length];
        let nested = items.iter().any(|item| item.span.contains(&start));
        if nested || condition.contains("not(") || find_words(condition, "test").next().is_none() {
            continue;
        }
        items.push(item_after(code, start, start + length + 1));
    }
    items
}

/// The item whose attributes began at `start` and go on at `at`.
fn item_after(code: &str, start: usize, at: usize) -> TestItem {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => {
                let words = code[at..offset].split_whitespace().rev();
                let words: Vec<&str> = words.take(2).collect();
                let module = match words[..] {
                    [name, "mod"] => Some(name.to_owned()),
                    _ => None,
                };
                return TestItem { span: start..offset + 1, module };
            }
            b'{' if depth == 0 => {
                return TestItem { span: start..offset + block(&code[offset..]), module: None };
            }
            _ => {}
        }
    }
    TestItem { span: start..code.len(), module: None }
}

/// The length of the block that `code` begins with.
fn block(code: &str) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return offset + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("crates/x/src/a.rs".into(), text.into())
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r####"let a = "x // y"; // "z"
let b = r#"q" /* "#; /* n /* m */ o */ let c = '"'; let d: &'a str = b"w\"v"; let é = 'é';"####;
        let file = source(text);
        assert_eq!(file.code.len(), file.text.len());
        for gone in ['x', 'z', 'q', 'm', 'o', 'w', 'v'] {
            assert!(!file.code.contains(gone), "{gone} in {}", file.code);
        }
        for kept in ["let a", "let b", "let c", "let d: &'a str", "let é"] {
            assert!(file.code.contains(kept), "{kept} not in {}", file.code);
        }
        let literals: Vec<&str> = file.literals.split_whitespace().collect();
        assert_eq!(literals, ["x", "//", "y", "q\"", "/*", "\"", "w\\\"v", "é"]);
    }

    #[test]
    fn tests_are_told_from_the_rest() {
        let text = "fn a() { x }\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests { fn b() { y } }\n\
                    #[cfg(not(test))] fn c() { z }\n#[cfg(any(test, feature = \"f\"))] fn d() { w }";
        let file = source(text);
        let at = |c| text.find(c).unwrap();
        assert!(!file.is_test(at("x ")) && !file.is_test(at("z ")));
        assert!(file.is_test(at("y ")) && file.is_test(at("w ")));
        assert_eq!((file.line(0), file.line(at("y "))), (1, 4));
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_test_code() {
        let tree = Tree::of(&[
            ("crates/x/src/lib.rs", "mod a;\n#[cfg(test)]\nmod fakes;"),
            ("crates/x/src/fakes.rs", "fn f() {}"),
            ("crates/x/src/a.rs", "fn a() {} #[cfg(test)] mod cases;"),
            ("crates/x/src/a/cases.rs", "fn g() {}"),
            ("crates/x/tests/t.rs", "fn h() {}"),
        ]);
        let tests: Vec<&str> =
            tree.files().filter(|file| file.is_test(3)).map(|file| file.path.as_str()).collect();
        assert_eq!(
            tests,
            ["crates/x/src/fakes.rs", "crates/x/src/a/cases.rs", "crates/x/tests/t.rs"]
        );
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(find_words("utils my_utils utils2 (utils)", "utils").count(), 2);
    }
}
