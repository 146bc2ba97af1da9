//! The way to a PostgreSQL server: the URL, encryption, bounds on waiting, and what every session is
//! set to.
//!
//! **Invariants:** a commit on a connection from here survives a power cut of the server; nothing
//! waits without a bound; the URL, which may hold a password, is in no message.

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime,
};
use pay402_core::error::Misconfigured;
use rustls::crypto::aws_lc_rs;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{NAME, told};

/// Connections of one process. Commits that wait on several of them share the server's writes.
const CONNECTIONS_MAX: usize = 16;
/// Longest that connecting to one address may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest that a caller waits for a connection, the making of one included.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a silent connection is trusted, and how often it is asked then.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Oldest server whose behaviour is relied upon, as `server_version_num`: 14.
const SERVER_VERSION_MIN: i32 = 140_000;

/// What every session is set to, whatever the server, the role or the URL say.
///
/// - `synchronous_commit`: an answer may follow a commit only when it is on the disk (and on those
///   standbys that the server waits for). `remote_apply` waits for more and is left alone.
/// - A process that is stopped in the middle of a transaction loses it, and with it the lock on the
///   lease that its successor waits for.
const SESSION: &str = "
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') <> 'remote_apply';
    SET statement_timeout = '10s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '5s';
    SET default_transaction_isolation = 'read committed';
    SET client_min_messages = warning";

/// Connections to the server that `url` names, made when they are needed.
pub(super) fn pool(url: &str, password: Option<&str>) -> Result<Pool, Misconfigured> {
    let config = configured(url, password)?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match config.get_ssl_mode() {
        SslMode::Disable => Manager::from_config(config, NoTls, recycling),
        _ => Manager::from_config(config, verified_tls()?, recycling),
    };
    Pool::builder(manager)
        .max_size(CONNECTIONS_MAX)
        .wait_timeout(Some(WAIT_MAX))
        .create_timeout(Some(WAIT_MAX))
        .recycle_timeout(Some(WAIT_MAX))
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SESSION).await.map_err(HookError::Backend) })
        }))
        .build()
        .map_err(|error| wrong(&format!("no connections can be kept: {error}")))
}

/// What connections are made with. Its own `sslmode` is `disable` or `require`, nothing between.
fn configured(url: &str, password: Option<&str>) -> Result<Config, Misconfigured> {
    // Certificates are verified in any case, so these two ask for nothing more.
    let plain = ["verify-full", "verify-ca"].iter().fold(url.to_owned(), |url, mode| {
        url.replace(&format!("sslmode={mode}"), "sslmode=require")
    });
    // The parser's own words quote what it could not read, which may be the password.
    let mut config: Config = plain.parse().map_err(|_| {
        wrong(
            "is no URL of a database: postgres://user@host:5432/name, with what is special in a \
             password percent-encoded, and of the options only those that the client knows",
        )
    })?;
    let hosts = config.get_hosts();
    let unnamed = hosts.iter().any(|host| matches!(host, Host::Tcp(name) if name.is_empty()));
    if unnamed || (hosts.is_empty() && config.get_hostaddrs().is_empty()) {
        return Err(wrong("names no host; write postgres://user@host/name"));
    }
    if [config.get_user(), config.get_dbname()].iter().any(|name| name.is_none_or(str::is_empty)) {
        return Err(wrong("names no user, or no database; write postgres://user@host/name"));
    }
    if let Some(password) = password {
        if config.get_password().is_some() {
            return Err(wrong("holds a password, and another one is given; give one of them"));
        }
        config.password(password);
    }
    let near = is_near(&config);
    match config.get_ssl_mode() {
        SslMode::Disable if !near => {
            return Err(wrong(
                "would send what it says unencrypted to another machine; use sslmode=require (the \
                 default there), or a tunnel that ends on this one",
            ));
        }
        // "Prefer" lets whoever sits between choose: here TLS is used or it is not.
        SslMode::Prefer if near => config.ssl_mode(SslMode::Disable),
        SslMode::Disable => &mut config,
        _ => config.ssl_mode(SslMode::Require),
    };
    config
        .application_name("pay402")
        .connect_timeout(CONNECT_MAX)
        .tcp_user_timeout(SILENCE_MAX)
        .keepalives_idle(SILENCE_MAX)
        .keepalives_interval(SILENCE_MAX / 4)
        .keepalives_retries(3)
        // Of several hosts, the one that takes writes.
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    Ok(config)
}

/// Whether every address is on this machine: then nobody sits between.
fn is_near(config: &Config) -> bool {
    let near = |host: &Host| match host {
        Host::Tcp(name) if name == "localhost" => true,
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            address.is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    // An address, where it is given, is what is connected to; the host is only its name then.
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(near),
        addresses => addresses.iter().all(std::net::IpAddr::is_loopback),
    }
}

/// TLS that trusts what this machine trusts, as the client of RPC nodes does. `SSL_CERT_FILE` names
/// another list.
fn verified_tls() -> Result<MakeRustlsConnect, Misconfigured> {
    let provider = std::sync::Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| wrong(&format!("TLS cannot be set up: {error}")))?;
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

/// Refuses a server that would not keep what it says it keeps.
pub(super) async fn check_server(client: &tokio_postgres::Client) -> Result<(), Misconfigured> {
    let row = client
        .query_one(
            "SELECT current_setting('fsync') AS fsync,
                    current_setting('synchronous_commit') AS synchronous_commit,
                    current_setting('server_encoding') AS encoding,
                    current_setting('server_version_num')::int AS version",
            &[],
        )
        .await
        .map_err(|error| wrong(&told(&error)))?;
    let setting = |name: &str| row.get::<_, String>(name);
    if setting("fsync") != "on" {
        return Err(wrong(
            "is on a server with fsync = off, which loses commits in a power cut; set fsync = on",
        ));
    }
    if !matches!(setting("synchronous_commit").as_str(), "on" | "remote_apply") {
        return Err(wrong(
            "is behind something that keeps sessions from being set up (synchronous_commit did not \
             turn on); connect to the server itself, or let the pooler pool by session",
        ));
    }
    if setting("encoding") != "UTF8" {
        return Err(wrong(&format!(
            "is encoded in {}; make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            setting("encoding")
        )));
    }
    if row.get::<_, i32>("version") < SERVER_VERSION_MIN {
        return Err(wrong("is on a server older than PostgreSQL 14; upgrade the server"));
    }
    Ok(())
}

/// What is wrong with the database, never with its URL in it.
pub(super) fn wrong(problem: &str) -> Misconfigured {
    Misconfigured::new(NAME, format!("the PostgreSQL database {problem}"))
}

/// Why there is no connection, at the start.
pub(super) fn unreached(error: PoolError) -> Misconfigured {
    wrong(&format!(
        "cannot be reached: {}; check that the server runs, and user, password and name",
        refused_by(error)
    ))
}

/// Why there is no connection.
pub(super) fn refused_by(error: PoolError) -> String {
    match error {
        PoolError::Backend(error) => told(&error),
        PoolError::Timeout(_) => "no connection in time".into(),
        PoolError::PostCreateHook(HookError::Backend(error)) => told(&error),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        configured(url, None).map(drop).expect_err(url).to_string()
    }

    #[test]
    fn another_machine_is_spoken_to_by_tls_alone() {
        let mode = |url: &str| configured(url, None).unwrap().get_ssl_mode();
        for near in [
            "postgres://me@localhost/books",
            "postgres://me@127.0.0.1:5433/books",
            "postgres://me@[::1]/books",
            "postgres://me@%2Frun%2Fpostgresql/books",
            "postgres://me@localhost/books?sslmode=prefer",
            "postgres://me@db.example.com/books?hostaddr=127.0.0.1",
        ] {
            assert_eq!(mode(near), SslMode::Disable, "{near}");
        }
        for far in [
            "postgres://me@db.example.com/books",
            "postgres://me@10.0.0.5/books",
            "postgres://me@localhost,db.example.com/books",
            "postgres://me@localhost/books?hostaddr=10.0.0.5",
        ] {
            assert_eq!(mode(far), SslMode::Require, "{far}");
            let joint = if far.contains('?') { '&' } else { '?' };
            assert_eq!(mode(&format!("{far}{joint}sslmode=prefer")), SslMode::Require, "{far}");
            let bare = refused(&format!("{far}{joint}sslmode=disable"));
            assert!(bare.contains("use sslmode=require"), "{bare}");
        }
        assert_eq!(mode("postgres://me@localhost/books?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://me@localhost/books?sslmode=verify-full"), SslMode::Require);
    }

    #[test]
    fn nothing_of_a_url_is_shown() {
        for url in [
            "postgres://me:hunter2@localhost/books?hunter2=1",
            "postgres://me:hunter2@localhost/books?sslmode=hunter2",
            "postgres://me:hunter2@localhost:hunter2/books",
            "postgres://me:hunter2@/books?sslmode=disable",
            "postgres://:hunter2@localhost/books",
            "postgres://me:hunter2@localhost",
            "postgres://me:hunter2@db.example.com/books?sslmode=disable",
            "host=localhost password=hunter2 unknown=hunter2",
        ] {
            let error = refused(url);
            assert!(!error.contains("hunter2") && !error.contains("localhost"), "{error}");
        }
        let both = configured("postgres://me:a@localhost/books", Some("b")).map(drop).unwrap_err();
        assert!(both.problem.contains("give one of them"), "{both}");
        let odd = configured("postgres://me@localhost/books", Some("p@ss/ word?")).unwrap();
        assert_eq!(odd.get_password(), Some("p@ss/ word?".as_bytes()));
        assert!(!format!("{odd:?}").contains("p@ss"), "the client prints passwords");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_session_is_set_up_whatever_the_server_says() {
        let database = crate::postgres::cluster::Cluster::shared().database();
        for (setting, value) in [
            ("synchronous_commit", "off"),
            ("default_transaction_isolation", "serializable"),
            ("statement_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ] {
            let set = format!("ALTER DATABASE {} SET {setting} = '{value}'", database.name());
            database.sql(&set).unwrap();
        }
        let client = pool(&database.url(), None).unwrap().get().await.unwrap();
        for (setting, value) in [
            ("synchronous_commit", "on"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "10s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "5s"),
        ] {
            let row = client.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), value, "{setting}");
        }
        check_server(&client).await.unwrap();
        client.batch_execute("SET synchronous_commit = off").await.unwrap();
        let refused = check_server(&client).await.unwrap_err();
        assert!(refused.problem.contains("synchronous_commit did not turn on"), "{refused}");
    }
}
