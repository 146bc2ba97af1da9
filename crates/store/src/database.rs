//! Opening a store's file: permissions, the kind of store it is, durability, migrations.
//!
//! **Invariant:** a connection that leaves here is to a file of the right kind and version, that
//! only its owner can write, and commits on it survive a power cut (`synchronous=FULL`).

use std::fs::{File, Metadata, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pay402_core::error::Misconfigured;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// How long a store waits for another process that is writing.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Largest file that is read through for damage when it is opened, in bytes; a larger one would
/// keep the process from starting for seconds.
const CHECKED_BYTES_MAX: u64 = 64 << 20;
/// Size the write-ahead log is cut back to after it has grown, in bytes.
const LOG_BYTES_KEPT: i64 = 4 << 20;

/// One of the stores.
#[derive(Debug)]
pub(crate) struct StoreKind {
    /// What it is called in messages, and the setting that names its file.
    pub(crate) name: &'static str,
    /// Marks its files.
    pub(crate) application_id: i32,
    /// The SQL that leads from each version to the next, from the empty file on.
    pub(crate) migrations: &'static [&'static str],
}

pub(crate) const JOURNAL: StoreKind = StoreKind {
    name: "journal",
    application_id: i32::from_be_bytes(*b"402j"),
    migrations: &[
        include_str!("../migrations/journal/0001_init.sql"),
        include_str!("../migrations/journal/0002_failures.sql"),
        include_str!("../migrations/journal/0003_history.sql"),
        include_str!("../migrations/journal/0004_leader.sql"),
        include_str!("../migrations/journal/0005_packs.sql"),
        include_str!("../migrations/journal/0006_hooks.sql"),
        include_str!("../migrations/journal/0007_watched.sql"),
        include_str!("../migrations/journal/0008_forgotten.sql"),
        include_str!("../migrations/journal/0009_costs.sql"),
    ],
};

pub(crate) const GRANTS: StoreKind = StoreKind {
    name: "grants",
    application_id: i32::from_be_bytes(*b"402g"),
    migrations: &[
        include_str!("../migrations/grants/0001_init.sql"),
        include_str!("../migrations/grants/0002_charge.sql"),
    ],
};

pub(crate) const LEDGER: StoreKind = StoreKind {
    name: "ledger",
    application_id: i32::from_be_bytes(*b"402l"),
    migrations: &[include_str!("../migrations/ledger/0001_init.sql")],
};

const KINDS: [&StoreKind; 3] = [&JOURNAL, &GRANTS, &LEDGER];

/// Opens the file at `path`, or makes it.
pub(crate) fn open(kind: &StoreKind, path: &Path) -> Result<Connection, Misconfigured> {
    let path = &plain(path);
    let at = Place { kind, path };
    at.make_owned_file()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error: rusqlite::Error| at.damaged_or(&error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    // A stranger's file is not touched: what it is comes first.
    at.look_first(&connection)?;
    let mode = patiently(|| make_durable(&connection)).map_err(sql)?;
    if mode != "wal" {
        return Err(at.wrong(&format!(
            "its file system keeps SQLite from using a write-ahead log (journal mode {mode}); \
             put it on a local disk"
        )));
    }
    at.migrate(&mut connection)?;
    at.check_health(&connection)?;
    Ok(connection)
}

/// Opens the file at `path` to look at it, beside a process that writes it or without one: nothing is made,
/// brought to another format, or written.
pub(crate) fn look(kind: &StoreKind, path: &Path) -> Result<Connection, Misconfigured> {
    let path = &plain(path);
    let at = Place { kind, path };
    if !path.exists() {
        return Err(at.wrong("there is no such file; name the one that the facilitator writes"));
    }
    at.check_owned(path, path.metadata())?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error: rusqlite::Error| at.damaged_or(&error);
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sql)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(sql)?;
    connection.pragma_update(None, "cell_size_check", true).map_err(sql)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(sql)?;
    at.look_first(&connection)?;
    let (_, version, _) = patiently(|| state(&connection)).map_err(sql)?;
    if version != formats(kind) {
        return Err(at.wrong(&format!(
            "its format is {version}, and this pay402 reads format {}; have the facilitator of this version \
             open it first",
            formats(kind)
        )));
    }
    Ok(connection)
}

/// SQLite takes `:memory:` and `file:…` for more than names. A path that starts with a directory is
/// always one.
fn plain(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_path_buf() } else { Path::new(".").join(path) }
}

/// A store that ends with the process, for tests.
pub(crate) fn open_in_memory(kind: &StoreKind) -> Result<Connection, Misconfigured> {
    let at = Place { kind, path: Path::new(":memory:") };
    let sql = |error: rusqlite::Error| at.damaged_or(&error);
    let mut connection = Connection::open_in_memory().map_err(sql)?;
    make_durable(&connection).map_err(sql)?;
    at.migrate(&mut connection)?;
    Ok(connection)
}

/// Sets what a connection needs and returns the journal mode that it got.
fn make_durable(connection: &Connection) -> rusqlite::Result<String> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Without these two macOS leaves synced writes in the drive's own cache.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let ignored = |_row: &rusqlite::Row<'_>| Ok(());
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES_KEPT, ignored)?;
    // The writer moves the log itself: SQLite would not tell it of a sync that failed.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, ignored)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
}

/// Tries again while another process holds a lock, for at most [`BUSY_TIMEOUT`]: changing the
/// journal mode does not wait by itself.
fn patiently<T>(mut attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if is_busy(&error) && start.elapsed() < BUSY_TIMEOUT => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// A kind of store and where it is.
struct Place<'a> {
    kind: &'a StoreKind,
    path: &'a Path,
}

impl Place<'_> {
    fn wrong(&self, problem: &str) -> Misconfigured {
        Misconfigured::new(self.kind.name, format!("{}: {problem}", self.path.display()))
    }

    fn io(&self, what: &str, error: &std::io::Error) -> Misconfigured {
        self.wrong(&format!("{what}: {error}; name a file that this user can write"))
    }

    fn damaged_or(&self, error: &rusqlite::Error) -> Misconfigured {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                self.damaged(&error.to_string())
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => self.wrong(
                "another process holds it locked; end that process, or give this one its own file",
            ),
            _ => self.wrong(&format!("{error}; name a file that this user can read and write")),
        }
    }

    fn damaged(&self, problem: &str) -> Misconfigured {
        self.wrong(&format!(
            "it is damaged or no database ({problem}); restore it from a backup together with its \
             -wal file. Do not start with an empty one: what it holds is not known elsewhere"
        ))
    }

    /// The file, with `0600`, in a directory that is made with `0700` when it is not there.
    fn make_owned_file(&self) -> Result<(), Misconfigured> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.exists() {
            make_owned_directory(parent)
                .map_err(|error| self.io("its directory cannot be made", &error))?;
        }
        match owned(OpenOptions::new().write(true).create_new(true)).open(self.path) {
            // The name of the new file has to survive a power cut too.
            Ok(file) => file
                .sync_all()
                .and_then(|()| sync_directory(parent))
                .map_err(|error| self.io("it cannot be synced to disk", &error))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(self.io("it cannot be made", &error)),
        }
        let name = self.path.as_os_str();
        self.check_owned(self.path, self.path.metadata())?;
        for suffix in ["-wal", "-shm"] {
            let mut beside = name.to_owned();
            beside.push(suffix);
            let beside = PathBuf::from(beside);
            // Who closes the file last takes these away, at any moment.
            match beside.metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                metadata => self.check_owned(&beside, metadata)?,
            }
        }
        Ok(())
    }

    fn check_owned(
        &self,
        file: &Path,
        metadata: std::io::Result<Metadata>,
    ) -> Result<(), Misconfigured> {
        let metadata = metadata.map_err(|error| self.io("it cannot be inspected", &error))?;
        if !metadata.is_file() {
            return Err(self.wrong("it is no regular file; name a file"));
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            const OTHERS_WRITE: u32 = 0o022;
            let mode = metadata.permissions().mode();
            if mode & OTHERS_WRITE != 0 {
                return Err(self.wrong(&format!(
                    "other users can write it (mode {:o}); run: chmod 600 '{}'",
                    mode & 0o777,
                    file.display()
                )));
            }
        }
        Ok(())
    }

    /// Looks at the file as it is at one moment: another process may be making it.
    fn look_first(&self, connection: &Connection) -> Result<(), Misconfigured> {
        let moment = patiently(|| connection.unchecked_transaction());
        let moment = moment.map_err(|error| self.damaged_or(&error))?;
        self.check_kind(&moment)
    }

    /// Refuses files of other kinds, of strangers and of the future. Changes nothing. To be called
    /// in a transaction.
    fn check_kind(&self, connection: &Connection) -> Result<(), Misconfigured> {
        let sql = |error: rusqlite::Error| self.damaged_or(&error);
        let (id, version, tables) = patiently(|| state(connection)).map_err(sql)?;
        if id == self.kind.application_id {
            return match usize::try_from(version) {
                Ok(version) if version <= self.kind.migrations.len() => Ok(()),
                _ => Err(self.wrong(&format!(
                    "its format {version} was written by a later pay402 (this one knows formats \
                     up to {}); upgrade pay402",
                    self.kind.migrations.len()
                ))),
            };
        }
        if id == 0 && version == 0 && tables == 0 {
            return Ok(());
        }
        let what = KINDS.iter().find(|other| other.application_id == id);
        let what = what.map_or("no file of pay402".to_owned(), |other| format!("a {}", other.name));
        Err(self.wrong(&format!("it is {what}, not a {}; name another file", self.kind.name)))
    }

    /// Brings the file to the present format, in one transaction.
    fn migrate(&self, connection: &mut Connection) -> Result<(), Misconfigured> {
        let sql = |error: rusqlite::Error| self.damaged_or(&error);
        // Others may be opening the file at the same moment: look again under the lock.
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        self.check_kind(&transaction)?;
        let (_, version, _) = state(&transaction).map_err(sql)?;
        let done = usize::try_from(version).unwrap_or(usize::MAX);
        for migration in self.kind.migrations.iter().skip(done) {
            transaction.execute_batch(migration).map_err(sql)?;
        }
        if done < self.kind.migrations.len() {
            transaction
                .pragma_update(None, "application_id", self.kind.application_id)
                .map_err(sql)?;
            transaction.pragma_update(None, "user_version", formats(self.kind)).map_err(sql)?;
        }
        transaction.commit().map_err(sql)
    }

    fn check_health(&self, connection: &Connection) -> Result<(), Misconfigured> {
        let small = self.path.metadata().is_ok_and(|file| file.len() <= CHECKED_BYTES_MAX);
        if !small {
            return Ok(());
        }
        let sql = |error: rusqlite::Error| self.damaged_or(&error);
        let check = || connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        let verdict: String = patiently(check).map_err(sql)?;
        if verdict == "ok" { Ok(()) } else { Err(self.damaged(&verdict)) }
    }
}

/// The version of the format that this program writes.
fn formats(kind: &StoreKind) -> i64 {
    i64::try_from(kind.migrations.len()).expect("migrations are few")
}

/// The mark of the kind, the version of the format, and how many things are in the file.
fn state(connection: &Connection) -> rusqlite::Result<(i32, i64, i64)> {
    let one = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let id = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    Ok((id, one("PRAGMA user_version")?, one("SELECT count(*) FROM sqlite_schema")?))
}

#[cfg(unix)]
pub(crate) fn owned(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
pub(crate) fn owned(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

fn make_owned_directory(directory: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    let outer = directory.ancestors().find(|outer| outer.exists()).map(Path::to_path_buf);
    builder.create(directory)?;
    // Each new name stands in the directory above it, up to the one that was there.
    for above in directory.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        sync_directory(above)?;
        if outer.as_deref() == Some(above) {
            break;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragma(connection: &Connection, name: &str) -> i64 {
        connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_writer_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let connection = open(&JOURNAL, &directory.path().join("journal")).unwrap();
        assert_eq!(pragma(&connection, "synchronous"), 2, "FULL: every commit is synced");
        assert_eq!(pragma(&connection, "secure_delete"), 1);
        assert_eq!(pragma(&connection, "foreign_keys"), 1);
        assert_eq!(pragma(&connection, "fullfsync"), 1);
        assert_eq!(pragma(&connection, "wal_autocheckpoint"), 0, "the writer does it");
        let mode: String =
            connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn names_that_sqlite_reads_otherwise_are_files() {
        assert_eq!(plain(Path::new(":memory:")), Path::new("./:memory:"));
        assert_eq!(plain(Path::new("file:x?mode=memory")), Path::new("./file:x?mode=memory"));
        assert_eq!(plain(Path::new("/var/lib/x")), Path::new("/var/lib/x"));
        let directory = tempfile::tempdir().unwrap();
        let odd = directory.path().join("file:x?mode=memory&vfs=none#1%41");
        drop(open(&JOURNAL, &odd).unwrap());
        assert!(odd.metadata().unwrap().len() > 0, "it is not in the file that was named");
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing() {
        const HALF: StoreKind = StoreKind {
            name: "half",
            application_id: 1,
            migrations: &["CREATE TABLE one (a); CREATE TABLE one (a);"],
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("half");
        assert!(open(&HALF, &path).is_err());
        let connection = Connection::open(&path).unwrap();
        assert_eq!(state(&connection).unwrap(), (0, 0, 0));
    }

    #[test]
    fn a_file_of_an_earlier_format_is_brought_on() {
        const ONE: &str = "CREATE TABLE one (a INTEGER) STRICT";
        const TWO: &str = "ALTER TABLE one ADD COLUMN b INTEGER";
        const EARLY: StoreKind = StoreKind { name: "x", application_id: 7, migrations: &[ONE] };
        const LATE: StoreKind = StoreKind { name: "x", application_id: 7, migrations: &[ONE, TWO] };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let early = open(&EARLY, &path).unwrap();
        early.execute("INSERT INTO one (a) VALUES (5)", []).unwrap();
        drop(early);
        for _ in 0..2 {
            let late = open(&LATE, &path).unwrap();
            let row = late.query_row("SELECT a, b FROM one", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
            });
            assert_eq!(row.unwrap(), (5, None));
            assert_eq!(pragma(&late, "user_version"), 2);
        }
        let refused = open(&EARLY, &path).unwrap_err();
        assert!(refused.problem.contains("upgrade pay402"), "{refused}");
    }
}
