//! What must not be in a public repository: paths of somebody's machine, hosts of somebody's
//! package registry, and private keys. Only the keys that every development node publishes may
//! stand here, each marked as a public dev key.

use super::Finding;
use super::source::{Source, Tree, find_all};

/// Folders at the root of a machine under which people and build systems keep their files.
const HOMES: &[&str] = &["builds", "home", "root", "runner", "Users", "work", "workspace"];

/// How the marker of a key that everybody knows begins: `public dev key`, or a longer form of it.
const MARKER: &str = "public dev";
/// How many lines above the key, or below it, the marker may stand.
const NEARBY_LINES: usize = 12;

/// The first eight hexadecimal digits of the keys of the public mnemonic of twelve words ending in
/// `junk`: enough to know them by, not enough to use.
const WELL_KNOWN: &[&str] = &[
    "ac0974be", "59c6995e", "5de4111a", "7c852118", "47e179ec", "8b3a350c", "92db14e4", "4bbbf85c",
    "dbda1821", "2a871d07",
];

/// Words that make 32 bytes of hexadecimal look like a key.
const KEY_WORDS: &[&str] = &["private key", "private_key", "privatekey", "secret", "signer_key"];

/// Absolute paths of a machine.
pub(super) fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        for home in HOMES {
            let path = format!("/{home}/");
            // Only at the beginning of a path: `docs/work/` and `https://host/home/` are none.
            let begins = |&at: &usize| match file.text[..at].chars().next_back() {
                None => true,
                Some(before) => !before.is_alphanumeric() && !"/.-_~}>*".contains(before),
            };
            for at in find_all(&file.text, &path).filter(begins) {
                let message = format!("{path}… is a path of one machine");
                findings.push(finding(file, at, "machine paths", message));
            }
        }
    }
    findings
}

/// Where packages come from is the machine's business: lockfiles carry hashes and no addresses.
pub(super) fn registry_hosts(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let signs: [&str; 6] = [
        concat!("\"resolved\": \"", "http"),
        concat!("--index", "-url"),
        concat!("--extra-index", "-url"),
        concat!("_auth", "Token"),
        concat!("registry", "=http"),
        concat!("artifact", "ory"),
    ];
    for file in tree.files() {
        for sign in signs {
            for at in find_all(&file.text, sign) {
                let message = format!("`{sign}` pins the address of a package registry");
                findings.push(finding(file, at, "registry hosts", message));
            }
        }
    }
    findings
}

/// Private keys, and public ones that are not marked as such.
pub(super) fn private_keys(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        for (at, digits) in hexadecimal_words(&file.text) {
            let known = WELL_KNOWN.contains(&&digits[..8]);
            let line = line_of(&file.text, at).to_ascii_lowercase();
            let suspicious = known || KEY_WORDS.iter().any(|word| line.contains(word));
            if suspicious && !is_marked(file, at) {
                let message = match known {
                    true => "a well-known key: say `public dev key` beside it",
                    false => "looks like a private key; if all know it, say `public dev key`",
                };
                findings.push(finding(file, at, "private keys", message.to_owned()));
            }
        }
    }
    findings
}

/// Words of exactly 64 hexadecimal digits, with or without `0x`, in lower case.
fn hexadecimal_words(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, byte) in text.bytes().chain([b' ']).enumerate() {
        let inside = byte.is_ascii_alphanumeric() || byte == b'_';
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let word = &text[from..at];
                let digits = word.strip_prefix("0x").unwrap_or(word);
                if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    words.push((from, digits.to_ascii_lowercase()));
                }
                start = None;
            }
            _ => {}
        }
    }
    words
}

fn is_marked(file: &Source, at: usize) -> bool {
    let line = file.line(at) - 1;
    let from = line.saturating_sub(NEARBY_LINES);
    let nearby = file.text.lines().skip(from).take(line - from + NEARBY_LINES);
    nearby.map(str::to_ascii_lowercase).any(|text| text.contains(MARKER))
}

fn line_of(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    text[start..].lines().next().unwrap_or_default()
}

fn finding(file: &Source, at: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: file.path.clone(), line: file.line(at), rule, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Tree) -> Vec<Finding>, text: &str) -> usize {
        rule(&Tree::of(&[("a/b.toml", text)])).len()
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        let (home, root) = ("home", "root");
        assert_eq!(found(machine_paths, &format!("at \"/{home}/ann/x\" and /{root}/y")), 2);
        let good = format!("see docs/{home}/x, https://host/{home}/x, ~/{home}/x and a/{root}/");
        assert_eq!(found(machine_paths, &good), 0);
    }

    #[test]
    fn addresses_of_registries_are_found() {
        let bad = format!("\"resolved\": \"{}://mirror/x.tgz\"", "https");
        assert_eq!(found(registry_hosts, &bad), 1);
        assert_eq!(found(registry_hosts, "\"integrity\": \"sha512-x\""), 0);
    }

    #[test]
    fn keys_are_found_unless_they_are_public_and_say_so() {
        let random = "0f".repeat(32);
        let known = format!("{}{}", WELL_KNOWN[0], "00".repeat(28));
        assert_eq!(found(private_keys, &format!("private_key = \"0x{random}\"")), 1);
        assert_eq!(found(private_keys, &format!("x = \"{known}\"")), 1);
        assert_eq!(found(private_keys, &format!("# Public dev key 0\nx = \"0x{known}\"")), 0);
        assert_eq!(found(private_keys, &format!("hash = \"0x{random}\"")), 0);
        let far = "\n".repeat(NEARBY_LINES + 1);
        assert_eq!(found(private_keys, &format!("# public dev key{far}x = \"0x{known}\"")), 1);
    }
}
