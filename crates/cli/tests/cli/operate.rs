//! What the operator of a facilitator sees: a real process, its probes and figures, and its end.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use alloy::primitives::{B256, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::{Clock as _, SystemClock};
use pay402_core::wire::{Endpoint, encode_facilitator_request};
use pay402_core::{NetworkId, Payment, Presented, Scheme, WireVersion};
use pay402_devchain::{Config, Devchain, Mining, genesis};
use pay402_evm::exact::Eip3009Payload;
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::{Authorization, token_domain};
use pay402_evm::{AssetTable, ExactServer};
use reqwest::StatusCode;
use serde_json::{Map, Value};

use crate::process::{Server, dev_address, dev_key, pay402, run};

pub(crate) const CHAIN_ID: u64 = 84_532;

pub(crate) fn chain(mining: Mining) -> Devchain {
    Devchain::start(Config { chain_id: CHAIN_ID, mining, ..Config::default() })
}

/// `pay402 facilitator` on a node, with more settings for all networks and more sections.
pub(crate) fn facilitator(folder: &Path, rpc: &str, settings: &str, sections: &str) -> Command {
    let path = folder.join("facilitator.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndatabase = \"facilitator.db\"\n{settings}\n[[network]]\n\
         id = \"eip155:{CHAIN_ID}\"\nrpc = \"{rpc}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n{sections}"
    );
    std::fs::write(&path, text).unwrap();
    let mut command = pay402(&["facilitator", "--config", path.to_str().unwrap()]);
    command.env("SIGNER_KEY", dev_key(0)).env("RUST_LOG", "warn");
    command
}

/// A good request to settle the payment with this nonce.
pub(crate) fn request(nonce: u64) -> Value {
    let network = NetworkId::eip155(CHAIN_ID);
    let asset = AssetTable::defaults().default_dollar(&network).unwrap().clone();
    let tariff = Tariff::Atomic { amount: 1_000.into(), asset: asset.info.clone() };
    let server = ExactServer::new(AssetTable::defaults());
    let terms = server.requirements(&network, &tariff, &dev_address(2), 60).unwrap();
    let now = SystemClock.now().0;
    let signer = genesis::dev_signer(1);
    let authorization = Authorization {
        from: signer.address(),
        to: terms.pay_to.parse().unwrap(),
        value: terms.amount.to_u256(),
        valid_after: U256::from(now - 60),
        valid_before: U256::from(now + 60),
        nonce: B256::from(U256::from(nonce)),
    };
    let digest = authorization.digest(&token_domain(&asset.info, CHAIN_ID, asset.token()));
    let signature = signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec();
    let payload = Eip3009Payload { authorization, signature: SignatureBytes::new(signature) };
    let presented = Presented {
        version: WireVersion::V2,
        scheme: Scheme::EXACT,
        network,
        accepted: Some(terms.clone()),
        payload: payload.to_json(),
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    };
    encode_facilitator_request(&Payment::pair(terms, presented).unwrap(), Endpoint::Settle)
}

pub(crate) struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    pub(crate) body: Value,
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    let retry_after = answer.headers().get("retry-after");
    Answer {
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        status: answer.status(),
        body: answer.json().await.unwrap(),
    }
}

async fn read(url: &str, path: &str) -> Answer {
    answer(reqwest::Client::new().get(format!("{url}{path}"))).await
}

pub(crate) async fn settle(url: &str, nonce: u64) -> Answer {
    answer(reqwest::Client::new().post(format!("{url}/settle")).json(&request(nonce))).await
}

async fn metrics(url: &str) -> String {
    let answer = reqwest::get(format!("{url}/metrics")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.text().await.unwrap()
}

fn sample<'a>(metrics: &'a str, series: &str) -> &'a str {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in:\n{metrics}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_those_of_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let canary = "node-api-key-canary";
    let rpc = format!("{}/?key={canary}", node.http_url());
    let facilitator = Server::start(facilitator(folder.path(), &rpc, "", ""));
    let signer = genesis::dev_signer(0).address();
    let provider = chain.provider();
    let before = provider.get_balance(signer).await.unwrap();
    for nonce in 1..=3 {
        assert_eq!(settle(&facilitator.url, nonce).await.body["success"], true);
    }
    let again = settle(&facilitator.url, 1).await;
    assert_eq!(again.body["errorReason"], "duplicate_settlement");
    let text = metrics(&facilitator.url).await;
    let network = format!("network=\"eip155:{CHAIN_ID}\"");
    let told = |outcome: &str, reason: &str| {
        let series = format!(
            "x402_settlements_total{{{network},scheme=\"exact\",outcome=\"{outcome}\",\
             reason=\"{reason}\"}}"
        );
        sample(&text, &series).to_owned()
    };
    assert_eq!(told("settled", ""), "3");
    assert_eq!(told("refused", "duplicate_settlement"), "1");
    // To the last gwei, what the signer has less than before.
    let after = provider.get_balance(signer).await.unwrap();
    let spent = (before - after) / U256::from(1_000_000_000_u64);
    assert!(spent > U256::ZERO);
    let gas = sample(&text, &format!("x402_gas_spent_gwei_total{{{network}}}"));
    assert_eq!(gas, spent.to_string());
    let sent = format!(
        "x402_rpc_calls_total{{{network},node=\"0\",method=\"eth_sendRawTransaction\",outcome=\"answered\"}}"
    );
    assert_eq!(sample(&text, &sent), "3");
    assert!(!text.contains("method=\"other\""), "a method of ours has no label:\n{text}");
    // Neither the node's key, nor who paid, nor who was paid.
    for secret in [canary, &dev_address(1), &dev_address(2)] {
        let found = text.to_lowercase().contains(&secret.to_lowercase());
        assert!(!found, "{secret} in:\n{text}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_facilitator_that_waits_for_its_network_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // A node that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rpc = format!("http://{}", silent.local_addr().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = facilitator(folder.path(), &rpc, "", "");
    let path = folder.path().join("facilitator.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("127.0.0.1:0\"", &format!("127.0.0.1:{port}\""))).unwrap();
    let mut child = command.spawn().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut living = None;
    for _ in 0..500 {
        if let Ok(found) = reqwest::get(format!("{url}/livez")).await {
            living = Some(found.status());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(living, Some(StatusCode::OK));
    let ready = read(&url, "/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body["problems"][0]["part"], "start");
    assert_eq!(settle(&url, 1).await.status, StatusCode::SERVICE_UNAVAILABLE);
    // Asked to stop, it does not wait for the node either.
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_asked_to_stop_leaves_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(Mining::Manual);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let command = facilitator(folder.path(), &node.http_url(), "drain_delay_s = 2", "");
    let mut facilitator = Server::start(command);
    let url = facilitator.url.clone();
    assert_eq!(read(&url, "/readyz").await.body["status"], "ready");
    let settling = |nonce| {
        let url = url.clone();
        tokio::spawn(async move { settle(&url, nonce).await })
    };
    let first = settling(1);
    let is_sent = async |count: &str| {
        let sent = format!(
            "x402_rpc_calls_total{{network=\"eip155:{CHAIN_ID}\",node=\"0\",method=\"eth_sendRawTransaction\",\
             outcome=\"answered\"}} {count}"
        );
        while !metrics(&url).await.contains(&sent) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    is_sent("1").await;

    let ended = tokio::task::spawn_blocking(move || {
        let status = facilitator.terminate(Duration::from_secs(20));
        (status, facilitator)
    });
    // First it is not ready any more, and still takes what comes.
    let not_ready = async {
        loop {
            let answer = read(&url, "/readyz").await;
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let not_ready = tokio::time::timeout(Duration::from_secs(2), not_ready).await.unwrap();
    assert_eq!(not_ready.body["problems"][0]["message"], "it is stopping");
    let second = settling(2);
    tokio::time::timeout(Duration::from_secs(2), is_sent("2")).await.unwrap();
    // Then it refuses, and says when to come again.
    let refused = async {
        for nonce in 100.. {
            let call = tokio::time::timeout(Duration::from_millis(200), settle(&url, nonce)).await;
            if let Ok(answer) = call {
                return answer;
            }
        }
        unreachable!("it never refused")
    };
    let refused = tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.retry_after.as_deref(), Some("1"));
    assert_eq!(refused.body["errorReason"], "unexpected_settle_error");
    assert!(refused.body["errorMessage"].as_str().unwrap().contains("later"), "{}", refused.body);
    // And what it took is told its end.
    chain.set_mining(Mining::Interval(Duration::from_millis(100)));
    for waiting in [first, second] {
        let told = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
        assert_eq!(told.body["success"], true, "{}", told.body);
    }
    // Those whose callers went away while it still took them are finished too.
    let (status, server) = ended.await.unwrap();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", server.stop());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_is_looked_at_without_being_served() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(Mining::Instant);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let canary = "node-api-key-canary";
    let rpc = format!("{}/?key={canary}", node.http_url());
    let ask = |verb: &str, rpc: &str, sections: &str| {
        let mut command = facilitator(folder.path(), rpc, "", sections);
        command.arg(verb);
        let (code, stdout, stderr) = run(command);
        let told: Value = serde_json::from_str(&stdout).unwrap_or_default();
        assert!(!stdout.contains(canary) && !stderr.contains(canary), "{stdout}\n{stderr}");
        let error: Value = serde_json::from_str(&stderr).unwrap_or_default();
        (code, told, error)
    };
    let grade = |told: &Value, part: &str, subject: &str| {
        let findings = told["findings"].as_array().unwrap().iter();
        let mut found = findings.filter(|finding| {
            finding["part"] == part && finding["subject"].as_str().unwrap().contains(subject)
        });
        let finding = found.next().unwrap_or_else(|| panic!("no {part} {subject} in {told}"));
        let text = |field: &str| finding[field].as_str().unwrap().to_owned();
        (text("grade"), text("message"))
    };

    let (code, told, error) = ask("check", &rpc, "");
    assert_eq!((code, &told["ok"], error), (0, &Value::Bool(true), Value::Null), "{told}");
    for (part, subject) in [
        ("listen", "127.0.0.1"),
        ("database", "facilitator.db"),
        ("node", "eip155:84532"),
        ("fee", "gas"),
        ("asset", "USDC"),
        ("contract", "Permit2"),
        ("contract", "Multicall3"),
        ("signer", &dev_address(0)),
    ] {
        assert_eq!(grade(&told, part, subject).0, "ok", "{part} {subject}: {told}");
    }
    assert!(!folder.path().join("facilitator.db").exists(), "looking made a journal");
    let (code, told, _) = ask("signers", &rpc, "");
    let signer = &told["signers"][0];
    assert_eq!((code, &signer["address"]), (0, &dev_address(0).into()));
    assert_eq!(
        (&signer["nonce"], &signer["balance_wei"]),
        (&0.into(), &"10000000000000000000000".into())
    );
    assert!(signer["settlements"].as_u64().unwrap() > 1_000, "{told}");

    // It looks at everything although something is wrong, and ends as the start would.
    let nobody = "0x00000000000000000000000000000000000000aa";
    let token =
        format!("[[network.asset]]\naddress = \"{nobody}\"\nsymbol = \"NONE\"\ndecimals = 6\n");
    let (code, told, error) = ask("check", &rpc, &token);
    assert_eq!((code, &told["ok"], &error["code"]), (3, &Value::Bool(false), &"config".into()));
    assert!(grade(&told, "asset", "NONE").1.contains("has no contract"), "{told}");
    assert_eq!(grade(&told, "asset", "NONE").0, "problem");
    assert_eq!(grade(&told, "asset", "USDC").0, "ok");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("network[0]: ") && message.contains("NONE"), "{message}");
    // Of its signers nothing is wrong.
    assert_eq!(ask("signers", &rpc, &token).0, 0);

    let (code, told, _) = ask("check", &rpc, &format!("factories = [\"{nobody}\"]\n"));
    assert_eq!((code, grade(&told, "contract", "factory").0.as_str()), (0, "warning"));

    let signer = genesis::dev_signer(0).address();
    chain.set_balance(signer, U256::from(1_000_000_000_000_u64));
    let (code, told, _) = ask("check", &rpc, "");
    assert_eq!((code, grade(&told, "signer", "0x").0.as_str()), (0, "warning"), "{told}");
    chain.set_balance(signer, U256::ZERO);
    for verb in ["check", "signers"] {
        let (code, _, error) = ask(verb, &rpc, "");
        assert_eq!(code, 3, "{error}");
        assert!(error["message"].as_str().unwrap().contains(&dev_address(0)), "{error}");
    }
    node.shutdown().await;
    let (code, told, error) = ask("check", &rpc, "");
    assert_eq!((code, &error["retryable"]), (4, &Value::Bool(true)), "{error}");
    assert_eq!(grade(&told, "node", "eip155").0, "problem");

    let other = Devchain::start(Config { chain_id: 1, ..Config::default() });
    let node = other.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (code, told, _) = ask("check", &node.http_url(), "");
    assert_eq!(code, 3);
    let (_, message) = grade(&told, "node", "eip155:84532");
    assert!(message.contains("the node is one of eip155:1;"), "{message}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_packer_is_deployed_where_it_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let chain = chain(Mining::Instant);
    chain.set_code(genesis::PACKER_ADDRESS, alloy::primitives::Bytes::new());
    chain.set_nonce(genesis::PACKER_ADDRESS, 0);
    let node = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let ask = |arguments: &[&str]| {
        let mut command = facilitator(folder.path(), &node.http_url(), "", "");
        command.args(arguments);
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = ask(&["check", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("facilitator setup deploys it"), "{text}");
    let nonces = async || {
        let signer = genesis::dev_signer(0).address();
        chain.provider().get_transaction_count(signer).await.unwrap()
    };
    // It costs money: nobody was asked.
    let (code, text) = ask(&["setup"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--yes") && text.contains(&dev_address(0)), "{text}");
    assert_eq!(nonces().await, 0, "deployed without consent");
    let (code, text) = ask(&["setup", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&told["state"], nonces().await), (&"deployed".into(), 1), "{text}");
    let code = chain.provider().get_code_at(genesis::PACKER_ADDRESS).await.unwrap();
    assert_eq!(code, genesis::PACKER.runtime_code);
    let (code, text) = ask(&["setup"]);
    assert_eq!((code, nonces().await), (Some(0), 1), "{text}");
    assert!(text.contains("\"there\""), "{text}");
    let (_, text) = ask(&["check", "--json"]);
    assert!(!text.contains("setup deploys it"), "{text}");
    node.shutdown().await;
}
