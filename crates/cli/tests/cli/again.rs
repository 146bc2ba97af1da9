//! `pay402 account` repeated, where nobody knows how the first call ended; and revoking from accounts
//! that are not as this program would have them.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use alloy::consensus::{SignableTransaction as _, TxEip1559};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, Bytes};
use alloy::signers::SignerSync as _;
use pay402_devchain::genesis::{AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS, dev_signer};
use serde_json::{Value, json};

use crate::account::{Town, ask};
use crate::process::{dev_address, dev_key};

const LIMITS: [&str; 5] = ["--cap", "0.001", "--budget", "0.002", "--any-payee"];

/// A facilitator that takes one request and answers this, or nothing.
fn facilitator(answer: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the process of the test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut read = [0; 1];
            assert!(stream.read(&mut read).is_ok());
            if let Some(answer) = answer {
                // The whole request has to be read, or closing resets the connection.
                stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
                while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    url
}

impl Town {
    fn own(&self, first: &[&str], rest: &[&str]) -> (i32, Value) {
        self.account(&[first, &["--self-funded"], rest].concat())
    }

    fn sessions(&self) -> Vec<Value> {
        self.account(&["session", "list"]).1["sessions"].as_array().unwrap().clone()
    }
}

#[test]
fn repeating_a_call_whose_end_is_unknown_grants_one_session() {
    let town = Town::open();
    let key_file = town.path("agent.key");
    let session = [&LIMITS[..], &["--new-key", &key_file]].concat();
    let busy = "HTTP/1.1 503 X\r\nconnection: close\r\ncontent-length: 80\r\n\r\n\
                {\"success\":false,\"errorReason\":\"unexpected_settle_error\",\"errorMessage\":\"later\"}";
    for (answer, said) in [(None, "did not answer"), (Some(busy), "may have taken it: later")] {
        let url = facilitator(answer);
        let adopt = ["adopt", "--facilitator", &url];
        let (code, error) = town.account(&[&adopt[..], &session].concat());
        assert_eq!((code, &error["code"]), (13, &"outcome_unknown".into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        let advice = error["suggestion"].as_str().unwrap();
        assert!(advice.contains("does no harm") && advice.contains(&key_file), "{error}");
    }
    let kept = std::fs::read_to_string(&key_file).unwrap();

    let (code, first) = town.own(&["adopt"], &session);
    assert_eq!((code, &first["session"]["key_file"]), (0, &key_file.as_str().into()), "{first}");
    let key = first["session"]["key"].as_str().unwrap().to_owned();
    ask(&town.chain, "evm_increaseTime", &json!([3]));
    ask(&town.chain, "evm_mine", &json!([]));
    let with_address = [&LIMITS[..], &["--key", &key]].concat();
    for (command, session) in [
        (&["adopt"][..], &session),
        (&["session", "add"], &session),
        (&["session", "add"], &with_address),
    ] {
        let (code, again) = town.own(command, session);
        assert_eq!((code, &again["transaction"]), (0, &Value::Null), "{again}");
        // What is said was granted is what the chain has.
        for name in ["key", "valid_after", "expires_at", "tokens"] {
            assert_eq!(again["session"][name], first["session"][name], "{name}: {again}");
        }
    }
    assert_eq!(town.sessions().len(), 1);
    assert_eq!(town.pay(&key_file).0, 0);
    assert_eq!(std::fs::read_to_string(&key_file).unwrap(), kept);

    // Another policy for the same key is another request.
    let payee = dev_address(2);
    let others = [
        ["--cap", "0.002", "--budget", "0.002", "--any-payee"].to_vec(),
        ["--cap", "0.001", "--budget", "0.003", "--any-payee"].to_vec(),
        ["--cap", "0.001", "--budget", "0.002", "--payee", &payee].to_vec(),
        [&LIMITS[..], &["--window", "2d"]].concat(),
        [&LIMITS[..], &["--expires", "31d"]].concat(),
    ];
    for other in others {
        let (code, error) = town.own(&["session", "add", "--new-key", &key_file], &other);
        assert_eq!((code, &error["code"]), (5, &"session_exists".into()), "{other:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains("not with these limits"), "{error}");
    }
    assert_eq!(town.own(&["session", "revoke", &key], &[]).0, 0);
    let (code, error) = town.own(&["adopt"], &session);
    assert_eq!((code, &error["code"]), (5, &"session_exists".into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("is revoked"), "{error}");
    assert_eq!(std::fs::read_to_string(&key_file).unwrap(), kept);
}

#[test]
fn a_file_that_is_there_is_taken_only_if_it_is_a_key_and_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let town = Town::open();
    let file = town.path("a.file");
    for (text, mode, named) in [
        ("not a key", 0o600, "holds no session key"),
        (&*dev_key(5), 0o644, "chmod 600"),
        (&dev_key(1), 0o600, "root key"),
    ] {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (_, error) = town.own(&["adopt", "--new-key", &file], &LIMITS);
        assert!(error["message"].as_str().unwrap().contains(named), "{named}: {error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
    std::fs::write(&file, dev_key(5)).unwrap();
    let (code, adopted) = town.own(&["adopt", "--new-key", &file], &LIMITS);
    assert_eq!((code, &adopted["session"]["key"]), (0, &dev_address(5).to_lowercase().into()));
}

#[test]
fn a_pending_transaction_is_named_with_its_nonce_and_what_to_do() {
    let town = Town::open();
    let key_file = town.path("agent.key");
    ask(&town.chain, "evm_setAutomine", &json!([false]));
    let owner = dev_signer(1);
    let transaction = TxEip1559 {
        chain_id: 84_532,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        to: owner.address().into(),
        ..TxEip1559::default()
    };
    let signature = owner.sign_hash_sync(&transaction.signature_hash()).unwrap();
    let raw = Bytes::from(transaction.into_signed(signature).encoded_2718());
    ask(&town.chain, "eth_sendRawTransaction", &json!([raw]));

    let session = [&LIMITS[..], &["--new-key", &key_file]].concat();
    let (code, error) = town.own(&["adopt"], &session);
    assert_eq!((code, &error["code"]), (5, &"pending_transaction".into()), "{error}");
    assert!(error["message"].as_str().unwrap().contains("nonce 0 "), "{error}");
    let advice = error["suggestion"].as_str().unwrap();
    assert!(advice.contains("10 % higher") && advice.contains("--facilitator"), "{error}");
    assert!(!std::path::Path::new(&key_file).exists(), "nothing was sent for this key");
    ask(&town.chain, "evm_setAutomine", &json!([true]));
    ask(&town.chain, "evm_mine", &json!([]));
    assert_eq!(town.own(&["adopt"], &session).0, 0);
}

/// Makes `account` run what is at `delegate`, as if it had delegated there.
fn delegate(town: &Town, account: &str, delegate: Address) {
    let code = Bytes::from([&[0xef, 0x01, 0x00], delegate.as_slice()].concat());
    ask(&town.chain, "anvil_setCode", &json!([account, code]));
}

#[test]
fn keys_are_revoked_from_an_account_that_runs_an_older_agent_account() {
    let town = Town::open();
    let older = Address::repeat_byte(0x42);
    ask(&town.chain, "anvil_setCode", &json!([older, AGENT_ACCOUNT.runtime_code]));
    let key_file = town.path("agent.key");
    let session = [&LIMITS[..], &["--new-key", &key_file]].concat();
    let (code, adopted) = town.own(&["adopt"], &session);
    assert_eq!(code, 0, "{adopted}");
    let key = adopted["session"]["key"].as_str().unwrap().to_owned();
    let owner = dev_address(1);
    delegate(&town, &owner, older);
    // Not even the present version has to be on the chain.
    ask(&town.chain, "anvil_setCode", &json!([AGENT_ACCOUNT_ADDRESS, "0x"]));

    let (code, error) = town.own(&["session", "add", "--key", &dev_address(6)], &LIMITS);
    assert_eq!((code, &error["code"]), (5, &"not_deployed".into()), "{error}");
    let (code, revoked) = town.own(&["session", "revoke", &key], &[]);
    assert!(code == 0 && revoked["transaction"].is_string(), "{revoked}");
    let listed = |account: &Town| account.sessions()[0]["state"].clone();
    assert_eq!(listed(&town), "revoked");
    let (code, all) = town.own(&["session", "revoke", "--all"], &[]);
    assert!(code == 0 && all["transaction"].is_string(), "{all}");
    assert_eq!(town.account(&["status"]).1["epoch"], 1);
}

#[test]
fn what_does_not_take_a_revocation_is_told_apart_before_anything_is_sent() {
    let town = Town::open();
    let key_file = town.path("agent.key");
    let session = [&LIMITS[..], &["--new-key", &key_file]].concat();
    let (code, adopted) = town.own(&["adopt"], &session);
    assert_eq!(code, 0, "{adopted}");
    let key = adopted["session"]["key"].as_str().unwrap().to_owned();
    let (owner, other) = (dev_address(1), Address::repeat_byte(0x43));
    let nonce = || ask(&town.chain, "eth_getTransactionCount", &json!([owner, "latest"]));
    let before = nonce();
    // Takes every call and does nothing; answers every call with 0, or with 1; refuses every call.
    for code in ["0x00", "0x60205ff3", "0x60015f5260205ff3", "0x5f5ffd"] {
        ask(&town.chain, "anvil_setCode", &json!([other, code]));
        delegate(&town, &owner, other);
        for arguments in [&["session", "revoke", &key][..], &["session", "revoke", "--all"]] {
            let (exit, error) = town.own(arguments, &[]);
            assert_eq!((exit, &error["code"]), (5, &"not_adopted".into()), "{code}: {error}");
            let advice = error["suggestion"].as_str().unwrap();
            assert!(advice.contains("a key is registered"), "{error}");
            assert!(!advice.contains("account adopt`"), "{error}");
        }
    }
    ask(&town.chain, "anvil_setCode", &json!([owner, "0x"]));
    let (exit, error) = town.own(&["session", "revoke", &key], &[]);
    assert_eq!((exit, &error["code"]), (5, &"not_adopted".into()), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("pays nothing"), "{error}");
    assert_eq!(nonce(), before);
}
