//! Facilitators on one journal in PostgreSQL, each a process of its own: all take calls, one leads.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::process::{Server, dev_address, dev_key, pay402, run};

/// Longer than a lease.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a facilitator is started, listening on `port`.
fn facilitator(folder: &Path, chain: &str, database: &str, port: u16, more: &str) -> Command {
    let config: PathBuf = folder.join(format!("{port}.toml"));
    let text = format!(
        "listen = \"127.0.0.1:{port}\"\ndatabase = \"{database}\"\n\
         database_password_env = \"DB_PASSWORD\"\n{more}\n[[network]]\nid = \"eip155:84532\"\n\
         rpc = \"{chain}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
    command.env("SIGNER_KEY", dev_key(0)).env("DB_PASSWORD", "hunter2").env("RUST_LOG", "info");
    command
}

#[test]
fn replicas_lead_in_turn_and_settle_whoever_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let database = Cluster::shared().database();
    let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
    let elsewhere = "postgres://me@127.0.0.1:1/books";
    let (code, _, stderr) = run(facilitator(folder.path(), &chain.url, elsewhere, 0, ""));
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("database: the PostgreSQL database cannot be reached"), "{stderr}");
    let mut command = facilitator(folder.path(), &chain.url, elsewhere, 0, "");
    command.env_remove("DB_PASSWORD");
    let (code, _, stderr) = run(command);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("database_password_env: needs"), "{stderr}");

    let replica = || {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let more = format!("advertise = \"http://127.0.0.1:{port}\"\nlease_s = 3");
        let command = facilitator(folder.path(), &chain.url, &database.url(), port, &more);
        (Server::start(command), port)
    };
    let (mut first, first_port) = replica();
    let (mut second, second_port) = replica();
    assert!(leads(first_port) && !leads(second_port));
    for port in [first_port, second_port] {
        assert!(get(port, "/readyz").starts_with("HTTP/1.1 200"), "both can be sent payments");
    }
    let grants = folder.path().join("grants.db");
    let mut command = pay402(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .args(["--facilitator", &second.url, "--pay-to", &dev_address(2)])
        .args(["--price", "$0.001", "--route", "GET /paid"])
        .args(["--database", grants.to_str().unwrap()]);
    let api = Server::start(command);
    let pay = || {
        let mut command = pay402(&["pay", &format!("{}/paid", api.url)]);
        command
            .env("EVM_PRIVATE_KEY", dev_key(1))
            .env("EVM_RPC_URL", &chain.url)
            .env("PAY402_STATE_DIR", folder.path().join("state"));
        let (code, stdout, stderr) = run(command);
        assert_eq!(code, 0, "{stdout}\n{stderr}");
    };
    pay();

    signal(&first, "-STOP");
    until(|| leads(second_port), "nobody took over from the one that is frozen");
    pay();
    signal(&first, "-CONT");
    until(|| get(first_port, "/health").contains("\"following\""), "it does not follow");
    assert!(first.ended(Duration::ZERO).is_none(), "it ended");
    let begun = Instant::now();
    assert!(second.terminate(PATIENCE).expect("it ends when asked").success());
    until(|| leads(first_port), "it does not lead again");
    assert!(begun.elapsed() < Duration::from_secs(3), "the lease was not released");
    assert!(first.terminate(PATIENCE).expect("it ends when asked").success());
    let printed = first.stop() + &second.stop();
    assert!(!printed.contains("hunter2") && !printed.contains("postgres://"), "{printed}");
}

fn until(holds: impl Fn() -> bool, problem: &str) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{problem}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn leads(port: u16) -> bool {
    get(port, "/health").contains("\"status\":\"ok\",\"unfinished\"")
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn signal(server: &Server, name: &str) {
    let status = Command::new("kill").args([name, &server.id().to_string()]).status();
    assert!(status.unwrap().success());
}
