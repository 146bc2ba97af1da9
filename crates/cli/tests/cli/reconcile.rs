//! `pay402 reconcile`: beside a facilitator that serves, and after it was stopped.
#![cfg(unix)]

use std::path::Path;

use alloy::primitives::U256;
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionRequest;
use pay402_devchain::{Mining, genesis};
use serde_json::Value;

use crate::operate::{CHAIN_ID, chain, facilitator, settle};
use crate::process::{Server, dev_address, pay402, run};

/// Stands in the node's URL, where keys do.
const CANARY: &str = "node-api-key-canary";
const PAYMENTS: u64 = 3;

struct Told {
    code: i32,
    out: Value,
    error: Value,
}

/// `pay402 reconcile` with these arguments, and with no key of a signer.
fn reconcile(folder: &Path, arguments: &[&str]) -> Told {
    let config = folder.join("facilitator.toml");
    let mut command = pay402(&["reconcile", "--config", config.to_str().unwrap()]);
    command.args(arguments).current_dir(folder);
    let (code, stdout, stderr) = run(command);
    assert!(!stdout.contains(CANARY) && !stderr.contains(CANARY), "{stdout}\n{stderr}");
    let json = |text: &str| serde_json::from_str(text).unwrap_or_default();
    Told { code, out: json(&stdout), error: json(&stderr) }
}

/// The sum of a column's amounts by account and commodity, in the smallest unit there is.
fn balances(csv: &str) -> std::collections::BTreeMap<(String, String), i128> {
    let mut sums = std::collections::BTreeMap::new();
    for line in csv.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let (negative, amount) = match fields[4].strip_prefix('-') {
            Some(amount) => (true, amount),
            None => (false, fields[4]),
        };
        let (whole, rest) = amount.split_once('.').unwrap_or((amount, ""));
        let digits: i128 = format!("{whole}{rest:0<18}").parse().unwrap();
        let key = (fields[3].to_owned(), fields[5].to_owned());
        *sums.entry(key).or_default() += if negative { -digits } else { digits };
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_are_proven_beside_a_facilitator_and_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let rpc = format!("{}/?key={CANARY}", node.http_url());
    let provider = chain.provider();
    let signer = genesis::dev_signer(0).address();
    let before = provider.get_balance(signer).await.unwrap();
    let server = Server::start(facilitator(folder, &rpc, "", ""));
    for nonce in 1..=PAYMENTS {
        assert_eq!(settle(&server.url, nonce).await.body["success"], true);
    }
    let spent = before - provider.get_balance(signer).await.unwrap();

    // While it serves.
    let told = reconcile(folder, &["--export", "books.csv"]);
    assert_eq!((told.code, &told.error), (0, &Value::Null), "{}", told.out);
    let network = &told.out["networks"][0];
    assert_eq!((&told.out["standing"], &network["standing"]), (&"proven".into(), &"proven".into()));
    assert_eq!((&network["settled"], &network["open"]), (&PAYMENTS.into(), &0.into()));
    for figure in ["booked_wei", "spent_wei"] {
        assert_eq!(network[figure], spent.to_string(), "{figure}");
    }
    assert_eq!(network["charged"][0]["units"], "0.003");
    let expected = (&dev_address(0).into(), &"0".into());
    let told_signer = &network["signers"][0];
    assert_eq!((&told_signer["address"], &told_signer["received_wei"]), expected);
    let summary = told.out["summary"].as_str().unwrap();
    assert!(summary.starts_with("proven: 3 entries on 1 networks: 3 payments"), "{summary}");
    let csv = std::fs::read_to_string(folder.join("books.csv")).unwrap();
    let of = |account: String, commodity: &str| {
        balances(&csv)[&(account, format!("{commodity} eip155:{CHAIN_ID}"))]
    };
    let network = format!("eip155:{CHAIN_ID}");
    assert_eq!(of(format!("payees:{network}:{}", dev_address(2)), "USDC"), 3_000_000_000_000_000);
    assert_eq!(of(format!("payers:{network}:{}", dev_address(1)), "USDC"), -3_000_000_000_000_000);
    let wei = i128::try_from(spent).unwrap();
    assert_eq!(of(format!("assets:signers:{network}:{}", dev_address(0)), "coin"), -wei);
    assert_eq!(of(format!("expenses:gas:{network}"), "coin"), wei);
    // What was exported is not written over.
    assert_eq!(reconcile(folder, &["--export", "books.csv"]).code, 3);
    assert_eq!(reconcile(folder, &["--export", "books.journal", "--network", &network]).code, 0);
    let journal = std::fs::read_to_string(folder.join("books.journal")).unwrap();
    assert_eq!(journal.matches(" * payment\n").count(), 3, "{journal}");
    assert_eq!(journal.matches(" * gas\n").count(), 3, "{journal}");

    // Printed, they are the same lines.
    let config = folder.join("facilitator.toml");
    let config = config.to_str().unwrap();
    for (format, exported) in [("csv", &csv), ("journal", &journal)] {
        let command = pay402(&["reconcile", "--config", config, "--print", format]);
        let (code, printed, _) = run(command);
        assert_eq!(code, 0, "{printed}");
        let rest = printed.strip_prefix(exported.as_str()).unwrap_or_else(|| panic!("{printed}"));
        assert_eq!(rest.starts_with("; proven: 3 entries"), format == "journal", "{rest}");
    }

    // As one that was killed leaves it, and with what somebody sent by the signer's key.
    server.stop();
    assert_eq!(reconcile(folder, &[]).code, 0);
    let request = TransactionRequest::default().from(signer).to(signer).value(U256::from(1));
    let sent = provider.send_transaction(request).await.unwrap();
    let stray = sent.get_receipt().await.unwrap().transaction_hash;
    let told = reconcile(folder, &[]);
    assert_eq!((told.code, &told.error["code"]), (1, &"contradicted".into()), "{}", told.out);
    let finding = &told.out["networks"][0]["violations"][0];
    assert_eq!(finding["what"], "nonce");
    assert!(finding["message"].as_str().unwrap().contains(&stray.to_string()), "{finding}");
    // Unless it is said that it was used elsewhere before.
    let told = reconcile(folder, &["--signer", &format!("{signer}={}", PAYMENTS + 1)]);
    assert_eq!(told.code, 0, "{}", told.out);
    assert_eq!(told.out["networks"][0]["signers"][0]["first_nonce"], PAYMENTS + 1);
    node.shutdown().await;
    let told = reconcile(folder, &[]);
    assert_eq!((told.code, &told.error["retryable"]), (4, &Value::Bool(true)), "{}", told.error);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_compared_is_told_from_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let rpc = format!("{}/?key={CANARY}", node.http_url());
    drop(facilitator(folder, &rpc, "", ""));
    // There is no journal, and none is made.
    let told = reconcile(folder, &[]);
    assert_eq!((told.code, &told.error["code"]), (3, &"config".into()), "{}", told.error);
    assert!(told.error["message"].as_str().unwrap().contains("no such file"), "{}", told.error);
    assert!(!folder.join("facilitator.db").exists(), "looking made a journal");
    for (arguments, code) in [
        (&["--network", "eip155:1"][..], 2),
        (&["--network", "x"], 2),
        (&["--node", "archive"], 2),
        (&["--signer", "0x12"], 2),
        (&["--export", "books.txt"], 3),
    ] {
        assert_eq!(reconcile(folder, arguments).code, code, "{arguments:?}");
    }
    node.shutdown().await;
}

mod postgres {
    use super::*;
    use crate::cluster::Cluster;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_changed_in_the_books_is_found_while_it_serves() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let database = Cluster::shared().database();
        let chain = chain(Mining::Instant);
        let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let command = facilitator(folder, &node.http_url(), "", "");
        let config = folder.join("facilitator.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("facilitator.db", &database.url())).unwrap();
        assert_eq!(reconcile(folder, &[]).code, 3, "there is no journal yet");
        let server = Server::start(command);
        for nonce in 1..=PAYMENTS {
            assert_eq!(settle(&server.url, nonce).await.body["success"], true);
        }
        let told = reconcile(folder, &[]);
        assert_eq!((told.code, &told.error), (0, &Value::Null), "{}", told.out);
        let entry = "UPDATE pay402_journal.entry";
        for (change, back, what) in [
            ("fee = (fee::numeric + 1)::text", "fee = (fee::numeric - 1)::text", "fee"),
            ("amount = '999'", "amount = '1000'", "transfer"),
            (
                "transaction_hash = (SELECT transaction_hash FROM pay402_journal.entry WHERE seq = 1)",
                "transaction_hash = (SELECT transaction_hash FROM pay402_journal.signed_transaction
                                     WHERE entry = 2)",
                "transfer",
            ),
        ] {
            database.sql(&format!("{entry} SET {change} WHERE seq = 2")).unwrap();
            let told = reconcile(folder, &["--export", &format!("{}.journal", change.len())]);
            assert_eq!(
                (told.code, &told.error["code"]),
                (1, &"contradicted".into()),
                "{}",
                told.out
            );
            let finding = &told.out["networks"][0]["violations"][0];
            assert_eq!(finding["what"], what, "{change}: {finding}");
            let exported = folder.join(format!("{}.journal", change.len()));
            let exported = std::fs::read_to_string(exported).unwrap();
            assert!(exported.contains(" ! payment\n"), "{change}: {exported}");
            database.sql(&format!("{entry} SET {back} WHERE seq = 2")).unwrap();
        }
        assert_eq!(reconcile(folder, &[]).code, 0);
        // An entry that is gone, with all that was signed for it.
        for table in ["entry", "signed_transaction", "history"] {
            let stays = format!("DROP TRIGGER {table}_goes ON pay402_journal.{table}");
            database.sql(&stays).unwrap();
        }
        for table in ["watched", "history", "signed_transaction"] {
            let of = format!("DELETE FROM pay402_journal.{table} WHERE entry = 2");
            database.sql(&of).unwrap();
        }
        database.sql("DELETE FROM pay402_journal.entry WHERE seq = 2").unwrap();
        let told = reconcile(folder, &["--no-balances"]);
        let finding = &told.out["networks"][0]["violations"][0];
        assert_eq!((told.code, &finding["what"]), (1, &"nonce".into()), "{}", told.out);
        assert!(finding["message"].as_str().unwrap().contains("unbooked transaction"), "{finding}");
        drop(server);
        node.shutdown().await;
    }
}
