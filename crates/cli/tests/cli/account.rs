//! `pay402 account`: adopting, session keys, and paying with one. What is asserted of the chain is
//! what `status` reads from it.

use std::path::Path;
use std::process::Command;

use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use pay402_devchain::genesis::{USDC_ADDRESS, usdc_balance_slot};
use serde_json::Value;

use crate::process::{Market, Server, dev_address, dev_key, pay402, run};

/// A chain, a facilitator that sends for accounts, and an API that sells by ERC-7710.
pub(crate) struct Town {
    pub(crate) chain: Server,
    facilitator: Server,
    api: Server,
    folder: tempfile::TempDir,
    /// Everything that was printed.
    printed: std::cell::RefCell<String>,
}

impl Town {
    pub(crate) fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
        let config = folder.path().join("facilitator.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndatabase = \"facilitator.db\"\n[[network]]\n\
             id = \"eip155:84532\"\nrpc = \"{}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n\
             [network.sponsor]\nadoptions = true\n",
            chain.url
        );
        std::fs::write(&config, text).unwrap();
        let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
        command.env("SIGNER_KEY", dev_key(0));
        let facilitator = Server::start(command);
        let mut command = pay402(&["serve", "--listen", "127.0.0.1:0", "--method", "erc7710"]);
        command.args(["--facilitator", &facilitator.url, "--pay-to", &dev_address(2)]).args([
            "--price",
            "$0.001",
            "--route",
            "GET /paid",
        ]);
        let api = Server::start(command);
        Self { chain, facilitator, api, folder, printed: std::cell::RefCell::default() }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// `pay402 account` with the owner's key.
    pub(crate) fn account(&self, arguments: &[&str]) -> (i32, Value) {
        let mut command = pay402(&["account"]);
        command
            .args(arguments)
            .env("EVM_PRIVATE_KEY", dev_key(1))
            .env("EVM_RPC_URL", &self.chain.url);
        self.run(command)
    }

    /// `pay402 pay` with the session key in a file, and without the owner's.
    pub(crate) fn pay(&self, key_file: &str) -> (i32, Value) {
        self.pay_from(&dev_address(1), &["--session-key", key_file])
    }

    fn preview(&self, key_file: &str) -> (i32, Value) {
        self.pay_from(&dev_address(1), &["--session-key", key_file, "--dry-run"])
    }

    fn pay_from(&self, account: &str, arguments: &[&str]) -> (i32, Value) {
        let mut command = pay402(&["pay", &format!("{}/paid", self.api.url)]);
        command
            .args(arguments)
            .env("PAY402_ACCOUNT", account)
            .env("EVM_RPC_URL", &self.chain.url)
            .env("PAY402_STATE_DIR", self.folder.path().join("state"));
        self.run(command)
    }

    /// The result, or the error.
    fn run(&self, command: Command) -> (i32, Value) {
        let (code, stdout, stderr) = run(command);
        self.printed.borrow_mut().push_str(&format!("{stdout}{stderr}"));
        let text = if code == 0 { &stdout } else { &stderr };
        let line = text.lines().last().unwrap_or_default();
        (code, serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {stdout}{stderr}")))
    }
}

fn is_transaction(value: &Value) -> bool {
    value.as_str().is_some_and(|hash| hash.len() == 66)
}

#[test]
fn an_agent_pays_with_a_session_key_until_its_budget_ends_or_it_is_revoked() {
    let town = Town::open();
    let key_file = town.path("agent.key");
    let (code, before) = town.account(&["status"]);
    assert_eq!((code, &before["adopted"], &before["delegate"]), (0, &false.into(), &Value::Null));
    let (code, refused) = town.account(&["session", "list", "--account", &dev_address(1)]);
    assert_eq!((code, &refused["sessions"]), (0, &Value::Array(Vec::new())), "{refused}");

    let limits = ["--cap", "0.001", "--budget", "0.002", "--window", "1d", "--expires", "30d"];
    let payee = ["--payee", &dev_address(2)];
    let adopt = ["adopt", "--self-funded", "--new-key", &key_file];
    let (code, adopted) = town.account(&[&adopt[..], &limits, &payee].concat());
    assert_eq!((code, &adopted["adopted"]), (0, &true.into()), "{adopted}");
    assert!(is_transaction(&adopted["transaction"]), "{adopted}");
    let key = adopted["session"]["key"].as_str().unwrap().to_owned();
    assert_eq!(adopted["session"]["key_file"], key_file.as_str());

    for _ in 0..2 {
        let (code, answer) = town.pay(&key_file);
        assert_eq!((code, &answer["ok"]), (0, &true.into()), "{answer}");
    }
    let (code, denied) = town.pay(&key_file);
    assert_eq!((code, &denied["code"]), (11, &"policy_denied".into()), "{denied}");
    assert_eq!(denied["details"]["rule"], "session_budget");
    assert_eq!(denied["details"]["remaining"], "0");
    assert_eq!(denied["payment"]["status"], "not_sent");

    let (code, preview) = town.preview(&key_file);
    assert_eq!((code, &preview["within_budget"]), (0, &false.into()), "{preview}");
    assert_eq!(preview["offers"][0]["rule"], "session_budget", "{preview}");

    let (code, status) = town.account(&["status"]);
    assert_eq!((code, &status["adopted"], &status["epoch"]), (0, &true.into(), &0.into()));
    let session = &status["sessions"][0];
    assert_eq!((&session["key"], &session["state"]), (&key.as_str().into(), &"active".into()));
    assert_eq!(session["payees"][0], dev_address(2).to_lowercase());
    let token = &session["tokens"][0];
    assert_eq!((&token["symbol"], &token["cap"]), (&"USDC".into(), &"1000".into()), "{token}");
    assert_eq!((&token["budget"], &token["remaining"]), (&"2000".into(), &"0".into()), "{token}");
    assert_eq!(status["balances"][0]["amount"], (1_000_000_000_000_u64 - 2_000).to_string());

    let (code, revoked) = town.account(&["session", "revoke", &key, "--self-funded"]);
    assert!(code == 0 && is_transaction(&revoked["transaction"]), "{revoked}");
    let (code, denied) = town.pay(&key_file);
    assert_eq!((code, &denied["details"]["rule"]), (11, &"session_key".into()), "{denied}");
    assert!(denied["message"].as_str().unwrap().contains("revoked"), "{denied}");
    let (code, again) = town.account(&["session", "revoke", &key, "--self-funded"]);
    assert_eq!((code, &again["transaction"]), (0, &Value::Null), "{again}");

    // Another key, and then none at all.
    let add = ["session", "add", "--self-funded", "--any-payee"];
    let (code, refused) = town.account(&[&add[..], &limits, &["--key", &key]].concat());
    assert_eq!((code, &refused["code"]), (5, &"session_exists".into()), "{refused}");
    let second = town.path("second.key");
    let (code, added) = town.account(&[&add[..], &limits, &["--new-key", &second]].concat());
    assert_eq!((code, &added["session"]["any_payee"]), (0, &true.into()), "{added}");
    assert_eq!(town.pay(&second).0, 0);
    let (code, _) = town.account(&["session", "revoke", "--all", "--self-funded"]);
    assert_eq!(code, 0);
    let (code, denied) = town.pay(&second);
    assert_eq!((code, &denied["details"]["rule"]), (11, &"session_key".into()), "{denied}");
    let (_, status) = town.account(&["status"]);
    assert_eq!((&status["epoch"], &status["sessions"]), (&1.into(), &Value::Array(Vec::new())));

    let printed = town.printed.borrow();
    for file in [&key_file, &second] {
        let secret = std::fs::read_to_string(file).unwrap();
        let digits = secret.trim().trim_start_matches("0x");
        assert!(digits.len() == 64 && !printed.contains(digits), "a session key was printed");
    }
    assert!(!printed.contains(&dev_key(1)[2..]), "the root key was printed");
}

/// Asks the chain's node, also for what only the embedded chain can do.
pub(crate) fn ask(chain: &Server, method: &str, params: &Value) -> Value {
    let call = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let request = reqwest::Client::new().post(&chain.url).body(call.to_string());
    let request = request.header("content-type", "application/json");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() });
    let mut answer: Value = serde_json::from_str(&answer).unwrap();
    assert!(answer.get("result").is_some(), "{method}: {answer}");
    answer["result"].take()
}

/// Gives an account USDC.
fn give_usdc(chain: &Server, account: Address, amount: u64) {
    let slot = usdc_balance_slot(account);
    let params = serde_json::json!([USDC_ADDRESS, slot, B256::from(U256::from(amount))]);
    ask(chain, "anvil_setStorageAt", &params);
}

#[test]
fn a_facilitator_sends_for_an_owner_who_has_tokens_and_no_gas() {
    let town = Town::open();
    let owner = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap();
    let address = owner.address().to_checksum(None);
    give_usdc(&town.chain, owner.address(), 50_000);
    let account = |arguments: &[&str]| {
        let mut command = pay402(&["account"]);
        command
            .args(arguments)
            .env("EVM_PRIVATE_KEY", format!("0x{}", "11".repeat(32)))
            .env("EVM_RPC_URL", &town.chain.url)
            .env("FACILITATOR_URL", &town.facilitator.url);
        town.run(command)
    };
    let pay = |file: &str| town.pay_from(&address, &["--session-key", file]);
    let key_file = town.path("agent.key");
    let session = ["--new-key", &key_file, "--cap", "0.01", "--budget", "0.05", "--any-payee"];
    let (code, adopted) = account(&[&["adopt"][..], &session].concat());
    assert_eq!((code, &adopted["adopted"]), (0, &true.into()), "{adopted}");
    assert!(is_transaction(&adopted["transaction"]), "{adopted}");
    let (code, again) = account(&["adopt"]);
    assert_eq!((code, &again["adopted"], &again["transaction"]), (0, &false.into(), &Value::Null));

    let (code, answer) = pay(&key_file);
    assert_eq!((code, &answer["ok"]), (0, &true.into()), "{answer}");
    let (_, status) = account(&["status"]);
    assert_eq!((&status["wei"], &status["balances"][0]["amount"]), (&"0".into(), &"49000".into()));
    assert_eq!(status["sessions"][0]["tokens"][0]["remaining"], "49000");

    let second = town.path("second.key");
    let add = ["session", "add", "--cap", "0.01", "--budget", "0.05", "--any-payee"];
    let (code, added) = account(&[&add[..], &["--new-key", &second]].concat());
    assert_eq!(code, 0, "{added}");
    let key = adopted["session"]["key"].as_str().unwrap();
    let (code, revoked) = account(&["session", "revoke", key]);
    assert!(code == 0 && is_transaction(&revoked["transaction"]), "{revoked}");
    assert_eq!(pay(&key_file).1["details"]["rule"], "session_key");
    assert_eq!(pay(&second).0, 0);
    let (_, status) = account(&["status"]);
    assert_eq!((&status["wei"], &status["balances"][0]["amount"]), (&"0".into(), &"48000".into()));
}

#[test]
fn a_facilitator_that_sends_nothing_for_accounts_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let market = Market::open(folder.path(), "warn");
    let key_file = folder.path().join("agent.key");
    let mut command = pay402(&["account", "adopt", "--cap", "1", "--budget", "1", "--any-payee"]);
    command
        .args(["--new-key", key_file.to_str().unwrap(), "--facilitator", &market.facilitator.url])
        .env("EVM_PRIVATE_KEY", dev_key(1))
        .env("EVM_RPC_URL", &market.chain.url);
    let (code, _, stderr) = run(command);
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!((code, &error["code"]), (5, &"not_sponsored".into()), "{error}");
    assert_eq!(error["details"]["reason"], "sponsoring_not_offered");
    assert!(error["suggestion"].as_str().unwrap().contains("--self-funded"), "{error}");
    assert!(!key_file.exists(), "the key of no session was left behind");
}

#[test]
fn what_cannot_work_says_what_to_do_and_leaves_no_key_behind() {
    let town = Town::open();
    let key_file = town.path("agent.key");
    let session = ["--new-key", &key_file, "--cap", "0.1", "--budget", "1", "--any-payee"];
    let own = |first: &[&str], rest: &[&str]| -> (i32, Value) {
        town.account(&[first, &["--self-funded"], rest].concat())
    };
    let cases = [
        (town.account(&["adopt"]), 2, "usage", "--self-funded"),
        (own(&["adopt"], &["--cap", "1"]), 2, "usage", "session add --help"),
        (own(&["session", "add"], &session), 5, "not_adopted", "pay402 account adopt"),
        (own(&["session", "revoke", "--all"], &[]), 5, "not_adopted", "nothing to revoke"),
        (own(&["adopt"], &["-n", "eip155:1"]), 3, "config", ""),
        (own(&["adopt"], &[&session[..], &["--token", "DAI"]].concat()), 2, "usage", "USDC"),
        (own(&["adopt"], &[&session[..], &["--decimals", "18"]].concat()), 2, "usage", ""),
        (
            own(
                &["adopt"],
                &[&session[..2], &["--cap", "2", "--budget", "1", "--any-payee"]].concat(),
            ),
            2,
            "usage",
            "",
        ),
    ];
    for ((code, error), expected, name, remedy) in cases {
        assert_eq!((code, &error["code"]), (expected, &name.into()), "{error}");
        let said = error["suggestion"].as_str().unwrap_or_default();
        assert!(said.contains(remedy), "{remedy}: {error}");
        assert!(!Path::new(&key_file).exists(), "{error}");
    }

    // An account without a coin for gas, and a facilitator that sends nothing for it.
    let poor = "0x1111111111111111111111111111111111111111111111111111111111111111";
    let adopt = |road: &[&str]| {
        let mut command = pay402(&["account", "adopt"]);
        command.args(road).args(session).env("EVM_PRIVATE_KEY", poor);
        town.run({
            command.env("EVM_RPC_URL", &town.chain.url);
            command
        })
    };
    let (code, error) = adopt(&["--self-funded"]);
    assert_eq!((code, &error["code"]), (5, &"insufficient_funds".into()), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("--facilitator"), "{error}");
    let (code, error) = adopt(&["--facilitator", &town.api.url]);
    assert_eq!((code, &error["code"]), (5, &"not_sponsored".into()), "{error}");
    let (code, error) = adopt(&["--facilitator", "http://127.0.0.1:1"]);
    assert_eq!((code, &error["code"]), (4, &"network".into()), "{error}");
    // Nothing was granted in these either, and for the last one that is not for us to know.
    assert!(error["suggestion"].as_str().unwrap().contains(&key_file), "{error}");
    let kept = std::fs::read_to_string(&key_file).unwrap();
    // A file that was there before is not this call's to remove.
    let (code, error) = adopt(&["--self-funded"]);
    assert_eq!((code, &error["code"]), (5, &"insufficient_funds".into()), "{error}");
    assert_eq!(std::fs::read_to_string(&key_file).unwrap(), kept);
}

#[test]
fn a_session_key_needs_its_account_and_a_node() {
    let folder = tempfile::tempdir().unwrap();
    let pay = |environment: &[(&str, &str)]| {
        let mut command = pay402(&["pay", "http://127.0.0.1:1/"]);
        command.env("PAY402_STATE_DIR", folder.path()).envs(environment.iter().copied());
        let (code, _, stderr) = run(command);
        (code, serde_json::from_str::<Value>(&stderr).unwrap())
    };
    let (account, key) =
        (("PAY402_ACCOUNT", &*dev_address(1)), ("PAY402_SESSION_KEY", &*dev_key(3)));
    for (environment, named) in [
        (&[account][..], "PAY402_SESSION_KEY"),
        (&[key], "PAY402_ACCOUNT"),
        (&[account, key], "--rpc-url"),
        (&[account, ("PAY402_SESSION_KEY", "0x12")], "PAY402_SESSION_KEY"),
    ] {
        let (code, error) = pay(environment);
        assert_eq!((code, &error["code"]), (3, &"config".into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains(named), "{named}: {error}");
    }
}
