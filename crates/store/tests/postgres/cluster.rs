//! PostgreSQL servers for tests: thrown away afterwards, on a socket in a folder of their own.
//!
//! Test runners start many processes. They share one server, which the first of them starts: each
//! holds a shared lock on a file while it lives, and a watcher stops the server and removes its files
//! once it can have that lock alone. A test that stops its server has a server of its own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A server.
#[derive(Debug)]
pub struct Cluster {
    /// Holds its data, its log and its socket.
    folder: PathBuf,
    /// Whether it ends with this value.
    is_own: bool,
}

/// What servers are told beside where they are. Durability is as in production: the journal asks.
const SETTINGS: &str = "-c listen_addresses='' -c max_connections=300 -c shared_buffers=64MB \
                        -c unix_socket_permissions=0700";

/// Whether there is a server to start.
pub fn is_installed() -> bool {
    installed().is_some()
}

/// The folder with the server's programs, where they are installed.
fn installed() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = debian.map(|version| version.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    // By number: 9 is older than 15.
    found.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
        version.and_then(|name| name.parse::<u32>().ok())
    });
    if let Some(newest) = found.pop() {
        return Some(newest);
    }
    let asked = Command::new("pg_config").arg("--bindir").output();
    let elsewhere = PathBuf::from(String::from_utf8_lossy(&asked.ok()?.stdout).trim());
    elsewhere.join("initdb").exists().then_some(elsewhere)
}

fn programs() -> PathBuf {
    installed().expect(
        "PostgreSQL's server programs are not installed, and this test needs them: run `cargo \
         xtask setup`, or install Debian's package postgresql. `cargo xtask test` leaves these \
         tests out where they are missing",
    )
}

/// Cargo's target folder, in which this program is.
fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

/// Whether this process is root, as whom PostgreSQL refuses to run.
fn is_root() -> bool {
    let said = Command::new("id").arg("-u").output().expect("id works");
    said.stdout.trim_ascii() == b"0"
}

/// One of PostgreSQL's programs, run by a user that it accepts.
fn program(name: &str) -> Command {
    let path = programs().join(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    // What a user set for another server means nothing here.
    for variable in ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGOPTIONS"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).current_dir("/");
    command
}

fn done(command: &mut Command) {
    let said = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [&said.stdout[..], &said.stderr].concat();
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&text));
}

impl Cluster {
    /// The server that all tests share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<(Cluster, File)> = OnceLock::new();
        &SHARED.get_or_init(Self::join).0
    }

    /// A server of its own.
    pub fn own() -> Self {
        let cluster = Self { folder: made_folder(), is_own: true };
        cluster.initialise();
        cluster.start();
        cluster
    }

    fn join() -> (Self, File) {
        let place = target().join("tmp/postgres");
        std::fs::create_dir_all(&place).unwrap();
        let file =
            |name: &str| File::options().create(true).append(true).open(place.join(name)).unwrap();
        let users = file("users");
        users.lock_shared().unwrap();
        let starting = file("starting");
        starting.lock().unwrap();
        let named = place.join("where");
        let there = std::fs::read_to_string(&named).unwrap_or_default();
        let cluster = Self { folder: PathBuf::from(there), is_own: false };
        if UnixStream::connect(cluster.socket()).is_err() {
            let cluster = Self { folder: made_folder(), is_own: false };
            cluster.initialise();
            cluster.start();
            std::fs::write(&named, cluster.folder.to_str().unwrap()).unwrap();
            cluster.watch(&place);
            return (cluster, users);
        }
        (cluster, users)
    }

    /// Starts what ends the server after its last user.
    #[allow(clippy::zombie_processes, reason = "it outlives this process")]
    fn watch(&self, place: &Path) {
        let stop = program("pg_ctl");
        let words = std::iter::once(stop.get_program()).chain(stop.get_args());
        let stop: Vec<_> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
        let (users, data) = (place.join("users"), self.data());
        let script = format!(
            "while sleep 4; do flock --nonblock '{}' sh -c \"{} -D '{}' -m immediate stop; \
             rm -rf '{}' '{}'\" && exit; done",
            users.display(),
            stop.join(" "),
            data.display(),
            self.folder.display(),
            place.join("where").display(),
        );
        let mut watcher = Command::new("sh");
        watcher.args(["-c", &script]).current_dir("/").process_group(0);
        watcher.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        watcher.spawn().unwrap();
    }

    /// Where its files are.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    fn initialise(&self) {
        let mut initdb = program("initdb");
        initdb.arg("-D").arg(self.data());
        initdb.args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        done(initdb.args(["--locale=C", "--no-instructions"]));
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) {
        self.start_with("");
    }

    /// The same, with more settings.
    pub fn start_with(&self, settings: &str) {
        let options = format!("{SETTINGS} -k '{}' {settings}", self.folder.display());
        let mut start = program("pg_ctl");
        start.arg("-D").arg(self.data()).arg("-l").arg(self.folder.join("log"));
        // The server keeps what it inherits open for good.
        start.stdout(Stdio::null()).stderr(Stdio::null());
        let status = start.args(["-w", "-o", &options, "start"]).status().unwrap();
        let log = || std::fs::read_to_string(self.folder.join("log"));
        assert!(status.success(), "the server did not start: {:?}", log());
    }

    /// Stops the server at once, as a crash would: it has to recover when it starts again.
    pub fn stop(&self) {
        let mut stop = program("pg_ctl");
        stop.arg("-D").arg(self.data());
        done(stop.args(["-m", "immediate", "-w", "stop"]));
    }

    /// Starts the server anew so that it takes TLS, and nothing else, on a port of this machine, with
    /// a certificate for `name`. Returns the port.
    pub fn with_tls(&self, name: &str) -> u16 {
        let file = |name: &str| self.folder.join(name);
        let make = |arguments: &[&str], key: &str, certificate: PathBuf| {
            let mut make = Command::new("openssl");
            make.args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ]);
            make.args(["-nodes", "-days", "2", "-subj", "/CN=pay402 test"]).args(arguments);
            make.current_dir(&self.folder).arg("-keyout").arg(key).arg("-out").arg(certificate);
            done(&mut make);
        };
        make(&[], "authority-key.pem", self.authority());
        let named = format!("subjectAltName=DNS:{name}");
        let signed = ["-CA", "authority.pem", "-CAkey", "authority-key.pem"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &named];
        make(&[signed, leaf].concat(), "key.pem", file("certificate.pem"));
        if is_root() {
            done(Command::new("chown").arg("postgres").arg(file("key.pem")));
        }
        let only_tls = "local all all trust\nhostssl all all all trust\n";
        std::fs::write(self.data().join("pg_hba.conf"), only_tls).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        self.stop();
        // The socket's name ends in the port; under its old name it is found as before.
        let files = self.folder.display();
        self.start_with(&format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c ssl=on -c ssl_key_file='{files}/key.pem' \
             -c ssl_cert_file='{files}/certificate.pem'"
        ));
        std::os::unix::fs::symlink(self.folder.join(format!(".s.PGSQL.{port}")), self.socket())
            .unwrap();
        port
    }

    /// The certificate of the authority that vouches for [`Cluster::with_tls`].
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// Runs SQL as the server's owner, and returns what it says.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = program("psql");
        psql.arg("-h").arg(&self.folder).args(["-U", "postgres", "-d", database]);
        psql.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let said = psql.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
    }

    /// A new, empty database.
    pub fn database(&self) -> Database<'_> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("test_{}_{number}", std::process::id());
        self.sql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        Database { cluster: self, name }
    }
}

impl Cluster {
    /// Ends a server of its own, with its files.
    pub fn end(&self) {
        _ = program("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "stop"]).output();
        _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_own {
            self.end();
        }
    }
}

/// A folder that the server's user owns, with a name short enough for a socket.
fn made_folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("pay402-pg-").tempdir_in("/tmp").unwrap().keep();
    if is_root() {
        done(Command::new("chown").arg("postgres:postgres").arg(&folder));
    }
    folder
}

/// A database of one test. It goes with the server: to drop one, the server writes everything out.
#[derive(Debug)]
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Database<'_> {
    /// Its URL.
    pub fn url(&self) -> String {
        let host = self.cluster.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{host}/{}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs SQL in it behind our back.
    pub fn sql(&self, sql: &str) -> Result<String, String> {
        self.cluster.sql(&self.name, sql)
    }
}
