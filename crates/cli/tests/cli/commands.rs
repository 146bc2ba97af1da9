//! Exit codes, output for programs, and the demo.

use serde_json::Value;

use crate::process::{Market, Server, dev_address, dev_key, pay402, run};

fn error(stderr: &str) -> Value {
    let line = stderr.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON error: {stderr}"))
}

#[test]
fn the_demo_is_true_from_its_first_step_to_its_last() {
    let (code, stdout, stderr) = run(pay402(&["demo", "--json"]));
    assert_eq!(code, 0, "{stderr}");
    let story: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(story["ok"], true, "{stdout}");
    let steps = story["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "asked",
            "rule_checked",
            "signed",
            "verified",
            "settled",
            "delivered",
            "balances",
            "overspend_refused",
            "budget_exhausted",
            "books"
        ]
    );
    assert!(steps[4]["transaction"].as_str().unwrap().len() == 66, "{}", steps[4]);
    assert_eq!(steps[7]["rule"], "max_per_payment");
    assert_eq!(steps[8]["rule"], "total_budget");

    let (code, stdout, _) = run(pay402(&["demo"]));
    assert_eq!(code, 0);
    assert!(stdout.contains("10 steps, all true"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn buying_in_processes_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let market = Market::open(folder.path(), "warn");
    let url = format!("{}/paid", market.api.url);
    let pay = |arguments: &[&str]| {
        let mut all = vec![url.as_str()];
        all.extend(arguments);
        run(market.pay(folder.path(), &all))
    };

    let (code, stdout, stderr) = pay(&["--dry-run"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let preview: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&preview["within_budget"], &preview["offers"][0]["amount"]),
        (&true.into(), &"1000".into())
    );

    let (code, stdout, stderr) = pay(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["ok"], true);
    let receipt: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(receipt["payment"]["status"], "settled", "{receipt}");

    let (code, stdout, _) = pay(&["-d", "{\"question\":1}", "-H", "x-extra: 1"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["received"]["question"], 1);

    let (code, stdout, stderr) = pay(&["--max-amount", "0.0009"]);
    let why = error(&stderr);
    assert_eq!((code, stdout.as_str(), &why["code"]), (6, "", &"over_max".into()), "{why}");
    assert_eq!(why["payment"]["status"], "not_sent");
    assert_eq!(why["details"]["limit"], "900");

    // Two payments of $0.001 are in the ledger: a budget of $0.002 is used up, for good.
    let (code, _, stderr) = pay(&["--max-spend", "0.002"]);
    let why = error(&stderr);
    assert_eq!((code, &why["details"]["rule"]), (11, &"total_budget".into()), "{why}");
    // It holds for one token, and says so.
    assert!(why["message"].as_str().unwrap().contains("USDC on eip155:84532"), "{why}");
    assert!(why["suggestion"].as_str().unwrap().contains("this token on this network"), "{why}");

    let (code, _, stderr) = pay(&["-n", "eip155:8453"]);
    assert_eq!(code, 11, "{stderr}");

    let missing = format!("{}/nothing", market.api.url);
    let (code, stdout, stderr) = run(market.pay(folder.path(), &["--fail", &missing]));
    assert_eq!((code, stdout.as_str(), &error(&stderr)["code"]), (22, "", &"http_failed".into()));

    let (code, _, stderr) = run(market.pay(folder.path(), &["http://127.0.0.1:1/"]));
    let why = error(&stderr);
    assert_eq!((code, &why["code"], &why["retryable"]), (4, &"network".into(), &true.into()));
}

#[test]
fn a_proxy_in_the_environment_sees_nothing_of_what_stays_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let market = Market::open(folder.path(), "warn");
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let at = format!("http://{}", proxy.local_addr().unwrap());
    let mut command = market.pay(folder.path(), &[&format!("{}/paid", market.api.url)]);
    command.envs(["HTTP_PROXY", "http_proxy", "ALL_PROXY"].map(|name| (name, &at)));
    let (code, _, stderr) = run(command);
    assert_eq!(code, 0, "{stderr}");
    let seen = proxy.accept().map(|(_, from)| from).map_err(|error| error.kind());
    assert_eq!(seen, Err(std::io::ErrorKind::WouldBlock), "the proxy was connected to");
}

/// The public PBKDF2 vector of the Web3 Secret Storage definition; its password is `testpassword`.
const PUBLIC_KEY_FILE: &str = r#"{"crypto":{"cipher":"aes-128-ctr",
    "cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
    "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
    "kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
    "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
    "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
    "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
const PUBLIC_KEY_ADDRESS: &str = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b";

#[test]
fn a_facilitator_signs_with_an_encrypted_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
    let key_file = folder.path().join("signer.json");
    std::fs::write(&key_file, PUBLIC_KEY_FILE).unwrap();
    let config = folder.path().join("facilitator.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndatabase = \"x.db\"\n[[network]]\nid = \"base-sepolia\"\n\
         rpc = \"{}\"\nsigner = {{ keystore = \"signer.json\", password_env = \"PASSWORD\" }}\n",
        chain.url
    );
    std::fs::write(&config, text).unwrap();
    let facilitator = |password: &str| {
        let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
        command.env("PASSWORD", password);
        command
    };
    let refused = |expected: &str, password: &str| {
        let (code, _, stderr) = run(facilitator(password));
        let message = error(&stderr)["message"].as_str().unwrap().to_owned();
        assert!(code == 3 && message.contains(expected), "{expected}: {code} {message}");
    };
    set_mode(&key_file, 0o644);
    refused("chmod 600", "testpassword");
    set_mode(&key_file, 0o600);
    refused("wrong password", "another");
    // The key opens, and its account has nothing to pay gas with.
    refused(PUBLIC_KEY_ADDRESS, "testpassword");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"anvil_setBalance","params":["{PUBLIC_KEY_ADDRESS}","0xde0b6b3a7640000"]}}"#
    );
    let fund = reqwest::Client::new().post(&chain.url).body(call);
    let fund = fund.header("content-type", "application/json");
    assert!(runtime.block_on(fund.send()).unwrap().status().is_success());
    let started = Server::start(facilitator("testpassword"));
    let supported = runtime.block_on(async {
        let answer = reqwest::get(format!("{}/supported", started.url)).await.unwrap();
        answer.text().await.unwrap()
    });
    assert!(supported.contains(PUBLIC_KEY_ADDRESS), "{supported}");
}

/// A way to the facilitator at `target` that remembers the proof in each settlement it passes on.
async fn recording(
    target: String,
    seen: std::sync::Arc<std::sync::Mutex<Vec<[Option<String>; 2]>>>,
) -> String {
    let pass_on = async move |request: axum::extract::Request| {
        let (parts, body) = request.into_parts();
        let proof = ["authorization", "idempotency-key"]
            .map(|name| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned()));
        if parts.uri.path() == "/settle" {
            seen.lock().unwrap().push(proof);
        }
        let url = format!("{target}{}", parts.uri.path());
        let mut call = reqwest::Client::new().request(parts.method, url).headers(parts.headers);
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        if !body.is_empty() {
            call = call.body(body);
        }
        let answer = call.send().await.unwrap();
        (answer.status(), answer.bytes().await.unwrap())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(pass_on);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

#[test]
fn a_server_proves_itself_to_a_facilitator_that_wants_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
    let config = folder.path().join("facilitator.toml");
    let key = "key-of-the-shop";
    let hash = pay402_facilitator::api::KeyHash::of(key);
    let hash: String = hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndatabase = \"x.db\"\n[[network]]\nid = \"base-sepolia\"\n\
         rpc = \"{}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n[[caller]]\nname = \"shop\"\n\
         key_sha256 = \"{hash}\"\n",
        chain.url
    );
    std::fs::write(&config, text).unwrap();
    let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
    command.env("SIGNER_KEY", dev_key(0));
    let facilitator = Server::start(command);
    let seen = std::sync::Arc::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let way = runtime.block_on(recording(facilitator.url.clone(), std::sync::Arc::clone(&seen)));

    let key_file = folder.path().join("api.key");
    std::fs::write(&key_file, format!("{key}\n")).unwrap();
    set_mode(&key_file, 0o600);
    let grants = folder.path().join("grants.db");
    let serve = || {
        let mut command = pay402(&["serve", "--listen", "127.0.0.1:0", "--facilitator", &way]);
        command.args(["--pay-to", &dev_address(2), "--database", grants.to_str().unwrap()]);
        command
    };
    let buy = |api: &Server| {
        let mut command = pay402(&["pay", &format!("{}/paid", api.url)]);
        command.env("EVM_PRIVATE_KEY", dev_key(1)).env("EVM_RPC_URL", &chain.url);
        command.env("PAY402_STATE_DIR", folder.path().join("state"));
        run(command)
    };
    let mut command = serve();
    command.env("FACILITATOR_API_KEY_FILE", &key_file);
    let (code, _, stderr) = buy(&Server::start(command));
    assert_eq!(code, 0, "{stderr}");
    let settled = seen.lock().unwrap().clone();
    let [Some(bearer), Some(id)] = settled[0].clone() else { panic!("{settled:?}") };
    assert_eq!((bearer.as_str(), id.len()), ("Bearer key-of-the-shop", 64));

    let mut command = serve();
    command.env("FACILITATOR_API_KEY", " ");
    let (code, _, stderr) = run(command);
    assert!(code == 3 && stderr.contains("FACILITATOR_API_KEY"), "{code}: {stderr}");
}

#[test]
fn keys_are_made_for_callers_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("facilitator.toml");
    let keys = |arguments: &[&str]| {
        let mut command = pay402(&["facilitator", "keys"]);
        command.args(arguments).args(["--config", config.to_str().unwrap()]);
        command
    };
    let out = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Before there is a configuration.
    let (code, shop, stderr) = run(keys(&["new", "shop \"1\"", "--out", &out("shop.key")]));
    assert_eq!(code, 0, "{stderr}");
    let key = std::fs::read_to_string(out("shop.key")).unwrap();
    assert_eq!(key.trim().len(), 64);
    assert!(!format!("{shop}{stderr}").contains(key.trim()), "the key is printed");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(out("shop.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let (code, _, stderr) = run(keys(&["new", "other", "--out", &out("shop.key")]));
    assert!(code == 3 && stderr.contains("--out"), "{code}: {stderr}");
    assert_eq!(std::fs::read_to_string(out("shop.key")).unwrap(), key, "a key was overwritten");

    let network = "listen = \"127.0.0.1:0\"\ndatabase = \"x.db\"\n[[network]]\n\
                   id = \"base-sepolia\"\nrpc = \"http://127.0.0.1:1\"\n\
                   signer = { env = \"SIGNER_KEY\" }\n";
    std::fs::write(&config, format!("{network}{shop}")).unwrap();
    let (code, watcher, stderr) =
        run(keys(&["new", "watcher", "--operator", "--out", &out("watcher.key")]));
    assert_eq!(code, 0, "{stderr}");
    std::fs::write(&config, format!("{network}{shop}{watcher}")).unwrap();
    let (code, _, stderr) = run(keys(&["new", "watcher", "--out", &out("again.key")]));
    assert!(code == 3 && stderr.contains("watcher"), "{code}: {stderr}");
    assert!(!folder.path().join("again.key").exists());

    let (code, listed, stderr) = run(keys(&["list"]));
    assert_eq!(code, 0, "{stderr}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let hash = pay402_facilitator::api::KeyHash::of(key.trim());
    let begins: String = hash.as_bytes()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(listed["callers"][0]["name"], "shop \"1\"");
    assert_eq!(listed["callers"][0]["key_sha256_begins"], begins);
    assert_eq!(listed["callers"][1]["role"], "operator");

    let whose = |file: &str| {
        let mut command = keys(&["whose"]);
        command.env("FACILITATOR_API_KEY_FILE", out(file));
        run(command)
    };
    assert_eq!(whose("shop.key").1.trim(), "shop \"1\"");
    assert_eq!(whose("watcher.key").1.trim(), "watcher");
    let mut command = keys(&["whose"]);
    command.env("FACILITATOR_API_KEY", "key of nobody");
    let (code, _, stderr) = run(command);
    assert!(code == 5 && !stderr.contains("nobody"), "{code}: {stderr}");
}

#[cfg(unix)]
#[test]
fn a_signal_to_stop_is_obeyed_whatever_is_half_sent() {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    let folder = tempfile::tempdir().unwrap();
    let mut market = Market::open(folder.path(), "warn");
    for server in [&mut market.facilitator, &mut market.api] {
        let address = server.url.trim_start_matches("http://");
        let open = |sent: &str| {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            socket.write_all(sent.as_bytes()).unwrap();
            socket
        };
        // Answered, and left open with the head of the next request half-sent.
        let mut half = open("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_ne!(half.read(&mut [0; 256]).unwrap(), 0);
        half.write_all(b"POST /settle HTTP/1.1\r\nHo").unwrap();
        let _never_finished = open("POST /settle HTTP/1.1\r\nHost: x\r\nContent-Le");
        std::thread::sleep(Duration::from_millis(100));
        let status = server.terminate(Duration::from_secs(5));
        assert!(status.is_some_and(|status| status.success()), "{status:?} of {}", server.url);
    }
}

#[cfg(unix)]
fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn mistakes_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (code, _, stderr) = run(pay402(&["pay"]));
    assert_eq!((code, &error(&stderr)["code"]), (2, &"usage".into()));

    let (code, _, stderr) = run(pay402(&["pay", "http://127.0.0.1:1/", "--max-amount", "1,000"]));
    assert_eq!((code, &error(&stderr)["code"]), (2, &"usage".into()), "{stderr}");

    let mut command = pay402(&["pay", "http://127.0.0.1:1/"]);
    command.env("HOME", folder.path());
    let (code, _, stderr) = run(command);
    assert_eq!(code, 3);
    assert!(error(&stderr)["message"].as_str().unwrap().contains("EVM_PRIVATE_KEY"), "{stderr}");

    let good = "listen = \"127.0.0.1:0\"\ndatabase = \"x.db\"\n[[network]]\nid = \"eip155:84532\"\n\
                rpc = \"http://127.0.0.1:1/secret-path\"\nsigner = { env = \"SIGNER_KEY\" }\n";
    for (name, text, named) in [
        ("none.toml", "", "listen"),
        ("typo.toml", &good.replace("database", "databse"), "databse"),
        ("open.toml", &good.replace("127.0.0.1:0", "0.0.0.0:0"), "caller"),
        ("network.toml", &good.replace("eip155:84532", "eip155:0"), "not a network"),
        ("dead.toml", good, "network[0].rpc"),
    ] {
        let path = write(name, text);
        let mut command = pay402(&["facilitator", "--config", &path]);
        command.env("SIGNER_KEY", dev_key(0));
        let (code, _, stderr) = run(command);
        let message = error(&stderr)["message"].as_str().unwrap().to_owned();
        assert_eq!(code, 3, "{name}: {stderr}");
        assert!(message.contains(named), "{name}: {message}");
        assert!(!message.contains("secret-path"), "{name}: {message}");
    }

    // What cannot be sold is said before a facilitator is asked.
    for routes in [&["GET /a", "GET /a"][..], &["GET /:id"], &["GET /a?b=1"]] {
        let mut command = pay402(&["serve", "--facilitator", "http://127.0.0.1:1", "--listen"]);
        command.args(["127.0.0.1:0", "--pay-to", &dev_address(2)]);
        command.args(routes.iter().flat_map(|route| ["--route", route]));
        let (code, _, stderr) = run(command);
        assert_eq!((code, &error(&stderr)["code"]), (2, &"usage".into()), "{stderr}");
        assert!(error(&stderr)["message"].as_str().unwrap().contains("--route"), "{stderr}");
    }

    // An API key goes to nobody in the clear.
    let far = "http://198.51.100.7:4020";
    let payee = dev_address(2);
    let serve = ["serve", "--facilitator", far, "--listen", "127.0.0.1:0", "--pay-to", &payee];
    let adopt = ["account", "adopt", "--facilitator", far, "--rpc-url", "http://127.0.0.1:1"];
    for arguments in [&serve[..], &adopt] {
        let mut command = pay402(arguments);
        command.env("FACILITATOR_API_KEY", "hunter2").env("EVM_PRIVATE_KEY", dev_key(1));
        let (code, _, stderr) = run(command);
        let message = error(&stderr)["message"].as_str().unwrap().to_owned();
        assert!(code == 3 && message.contains("facilitator: is not encrypted"), "{stderr}");
        assert!(message.contains("https://") && !stderr.contains("hunter2"), "{stderr}");
    }

    // A server whose facilitator is not there sells nothing, and gives nothing away.
    let mut command = pay402(&["serve", "--facilitator", "http://127.0.0.1:1", "--listen"]);
    command.args(["127.0.0.1:0", "--pay-to", &dev_address(2)]);
    let (code, stdout, stderr) = run(command);
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    assert!(error(&stderr)["message"].as_str().unwrap().starts_with("facilitator"), "{stderr}");
}
