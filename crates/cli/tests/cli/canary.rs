//! At TRACE, nothing that could be spent reaches a log; at rest, nothing that could reaches a file.
//!
//! The signature of a payment is read back from the chain, where it is public once it is used, and
//! looked for in everything that the processes printed and stored.

use std::path::Path;

use alloy::consensus::Transaction as _;
use alloy::hex;
use alloy::providers::{Provider as _, ProviderBuilder};

use crate::process::{Market, dev_key, run};

/// Base64 of how every payment header of ours begins: `{"x402Version":2,"payload":`.
const HEADER_BEGINS: &str = "eyJ4NDAyVmVyc2lvbiI6MiwicGF5bG9hZCI6";
/// The word under which the HTTP libraries would log one.
const HEADER_NAMES: [&str; 2] = ["payment-signature: ey", "\"signature\":\"0x"];

/// The spellings in which 32 bytes would turn up.
pub(crate) fn spellings(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hexadecimal = hex::encode(bytes);
    // As text in either case, as the bytes themselves, and as Rust prints a list of bytes.
    let listed = format!("{bytes:?}");
    vec![
        hexadecimal.to_uppercase().into_bytes(),
        hexadecimal.into_bytes(),
        bytes.to_vec(),
        listed.trim_matches(['[', ']']).as_bytes().to_vec(),
    ]
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_signature_or_payment_header_is_logged_or_stored() {
    let folder = tempfile::tempdir().unwrap();
    let market = Market::open(folder.path(), "trace");
    let mut printed = String::new();
    let url = format!("{}/paid", market.api.url);
    // A purchase, one that is refused by rule, one that names no route, one to nobody.
    for arguments in [
        vec![url.as_str()],
        vec![&url, "-d", "{}"],
        vec![&url, "--max-amount", "0.0001"],
        vec!["http://127.0.0.1:1/"],
    ] {
        let mut command = market.pay(folder.path(), &arguments);
        let (_, stdout, stderr) = run({
            command.env("RUST_LOG", "trace");
            command
        });
        printed.push_str(&stdout);
        printed.push_str(&stderr);
    }

    let chain = ProviderBuilder::new().connect_http(market.chain.url.parse().unwrap());
    let mut secrets = Vec::new();
    for index in [0, 1] {
        secrets.extend(spellings(&hex::decode(dev_key(index)).unwrap()));
    }
    let head = chain.get_block_number().await.unwrap();
    assert_eq!(head, 2, "two purchases were made");
    for number in 1..=head {
        let block = chain.get_block_by_number(number.into()).full().await.unwrap().unwrap();
        let transaction = block.transactions.txns().next().unwrap();
        // transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, v, r, s)
        let input = transaction.input();
        assert_eq!(input.len(), 4 + 9 * 32);
        let (r, s) = (&input[4 + 7 * 32..4 + 8 * 32], &input[4 + 8 * 32..]);
        secrets.extend(spellings(r));
        secrets.extend(spellings(s));
    }

    let stored = files(folder.path());
    assert!(stored.iter().any(|(name, _)| name.ends_with("facilitator.db")), "no journal");
    assert!(stored.iter().any(|(name, _)| name.ends_with("ledger.db")), "no ledger");
    assert!(stored.iter().any(|(name, _)| name.ends_with("grants.db")), "no grants");
    let Market { chain, facilitator, api } = market;
    drop(chain);
    let (facilitator, api) = (facilitator.stop(), api.stop());
    assert!(facilitator.contains("TRACE") || facilitator.contains("DEBUG"), "nothing was traced");
    let mut places = stored;
    places.push(("facilitator's log".into(), facilitator.into_bytes()));
    places.push(("API's log".into(), api.into_bytes()));
    places.push(("agent's log".into(), printed.into_bytes()));
    for (place, content) in &places {
        for secret in &secrets {
            let shown = String::from_utf8_lossy(&secret[..4]);
            assert!(!contains(content, secret), "{place} holds a secret that begins {shown}");
        }
        assert!(!contains(content, HEADER_BEGINS.as_bytes()), "{place} holds a payment header");
        for name in HEADER_NAMES {
            assert!(!contains(content, name.as_bytes()), "{place} holds {name}");
        }
    }
}
