//! Two facilitators on one journal in PostgreSQL: one settles, the other stands by.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::process::{Server, dev_key, pay402, run};

/// Longer than a lease.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_standby_takes_over_from_one_that_is_frozen_which_ends_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let database = Cluster::shared().database();
    let chain = Server::start(pay402(&["devchain", "--port", "0", "--chain-id", "84532"]));
    let facilitator = |port: u16, url: &str| {
        let config: PathBuf = folder.path().join(format!("{port}.toml"));
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\ndatabase = \"{url}\"\n\
             database_password_env = \"DB_PASSWORD\"\n[[network]]\nid = \"eip155:84532\"\n\
             rpc = \"{}\"\nsigner = {{ env = \"SIGNER_KEY\" }}\n",
            chain.url
        );
        std::fs::write(&config, text).unwrap();
        let mut command = pay402(&["facilitator", "--config", config.to_str().unwrap()]);
        command.env("SIGNER_KEY", dev_key(0)).env("DB_PASSWORD", "hunter2");
        command.env("RUST_LOG", "info");
        command
    };
    let (code, _, stderr) = run(facilitator(0, "postgres://me@127.0.0.1:1/books"));
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("database: the PostgreSQL database cannot be reached"), "{stderr}");
    let mut command = facilitator(0, "postgres://me@127.0.0.1:1/books");
    command.env_remove("DB_PASSWORD");
    let (code, _, stderr) = run(command);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("database_password_env: needs"), "{stderr}");

    let mut first = Server::start(facilitator(0, &database.url()));
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let standing_by = std::thread::spawn({
        let command = facilitator(port, &database.url());
        move || Server::start(command)
    });
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(!standing_by.is_finished(), "two settle at once");
    assert!(ready(port).starts_with("HTTP/1.1 503"), "it is not ready, and says so");

    signal(&first, "-STOP");
    let mut second = standing_by.join().unwrap();
    assert!(ready(port).starts_with("HTTP/1.1 200"), "it has taken over");
    signal(&first, "-CONT");
    let ended = first.ended(PATIENCE).expect("it goes on beside its successor");
    assert_eq!(ended.code(), Some(1));
    let printed = first.stop();
    assert!(printed.contains("\"code\":\"taken_over\""), "{printed}");
    assert!(second.terminate(PATIENCE).expect("it ends when asked").success());
    let printed = printed + &second.stop();
    assert!(!printed.contains("hunter2") && !printed.contains("postgres://"), "{printed}");
}

/// What a load balancer is told that asks whether to send callers here.
fn ready(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn signal(server: &Server, name: &str) {
    let status = Command::new("kill").args([name, &server.id().to_string()]).status();
    assert!(status.unwrap().success());
}
