//! Encrypted connections: to the server that its certificate names, or none.

use std::process::Command;

use pay402_store::PgJournal;

use crate::cluster::Cluster;

const CHILD: &str = "PAY402_STORE_TEST_TLS";

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_opens() {
    let Ok(url) = std::env::var(CHILD) else { return };
    match PgJournal::open(&url, None).await {
        Ok(_) => println!("\nopened"),
        Err(error) => println!("\nrefused: {error}"),
    }
}

/// What became of opening `url` in a process that trusts `roots`, if any beside the system's.
fn opened(url: &str, roots: Option<&std::path::Path>) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["postgres_tls::child_that_opens", "--exact", "--ignored", "--nocapture"]);
    child.env(CHILD, url).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    if let Some(roots) = roots {
        child.env("SSL_CERT_FILE", roots);
    }
    let said = String::from_utf8(child.output().unwrap().stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("opened") || line.starts_with("refused"));
    line.expect("the child came to its end").to_owned()
}

#[test]
fn only_the_server_that_is_trusted_and_named_is_spoken_to() {
    let cluster = Cluster::own();
    let port = cluster.with_tls("localhost");
    let database = cluster.database();
    let url = |host: &str, mode: &str| {
        format!("postgres://postgres@{host}:{port}/{}?sslmode={mode}", database.name())
    };
    let roots = cluster.authority();
    assert_eq!(opened(&url("localhost", "require"), Some(&roots)), "opened");
    assert_eq!(opened(&url("localhost", "verify-full"), Some(&roots)), "opened");
    let encrypted = "SELECT count(*) FROM pg_stat_ssl WHERE ssl AND pid <> pg_backend_pid()";
    assert!(cluster.sql("postgres", encrypted).is_ok());
    let stranger = opened(&url("localhost", "require"), None);
    assert!(stranger.contains("certificate"), "{stranger}");
    let elsewhere = opened(&url("127.0.0.1", "require"), Some(&roots));
    assert!(elsewhere.contains("certificate"), "another name was accepted: {elsewhere}");
    // The server takes nothing but TLS on its port.
    let bare = opened(&url("localhost", "disable"), Some(&roots));
    assert!(bare.contains("refused"), "{bare}");
}
