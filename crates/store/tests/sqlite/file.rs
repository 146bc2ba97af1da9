//! Opening files: ours, others', damaged ones, and again after they were closed.

use std::path::Path;

use pay402_core::error::Misconfigured;
use pay402_core::grants::{Claimed, GrantState, Grants};
use pay402_core::journal::{Entered, Event, Journal, Leased, Outcome, Stage};
use pay402_core::spend::{Ledger, Limits, Spent, VoidProof};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, U256};
use pay402_store::{SqliteGrants, SqliteJournal, SqliteLedger};
use rusqlite::Connection;

use crate::samples::{
    LASTS, PAYER, asset, change, claim, entry, holder, key, limit, network, plan, reservation,
    settled, signed,
};
use crate::watched::BACK_TO_6;

fn refused(path: &Path) -> Misconfigured {
    SqliteJournal::open(path).map(drop).unwrap_err()
}

/// Changes a file behind our back.
fn tamper(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn a_journal_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.enter(entry("one")).await, Ok(Entered::New));
    assert_eq!(journal.enter(entry("two")).await, Ok(Entered::New));
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let lease = lease.unwrap().granted().unwrap();
    let sign = change("one", Event::Signed(signed(4, vec![1, 2, 3])));
    journal.advance(&lease, vec![sign, change("one", Event::Sent)]).await.unwrap();
    let before = journal.find(&key("one")).await.unwrap();
    drop(journal);

    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.find(&key("one")).await.unwrap(), before);
    assert_eq!(before.unwrap().stage, Stage::Sent(signed(4, vec![1, 2, 3])));
    assert_eq!(journal.next_nonce(&network(), "0xsigner").await, Ok(Some(5)));
    let renewed = journal.lease(&network(), &holder("here"), UnixTime(29), LASTS).await;
    assert_eq!(renewed, Ok(Leased::Granted(lease.clone())), "the lease was forgotten");
    journal.advance(&lease, vec![change("two", Event::Closed(settled()))]).await.unwrap();
    let open = journal.unfinished(&network(), 10).await.unwrap();
    assert_eq!(open.len(), 1);
}

/// Beside whoever writes it, after it was closed, and after a process that left its log behind.
#[tokio::test]
async fn a_journal_is_looked_at_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let missing = SqliteJournal::look(&path).map(drop).unwrap_err();
    assert!(missing.problem.contains("there is no such file"), "{missing}");
    assert!(!path.exists(), "looking made a journal");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.enter(entry("one")).await.unwrap();
    let looking = SqliteJournal::look(&path).unwrap();
    let numbers = async |journal: &SqliteJournal| {
        let books = journal.books(&network(), 0, 10).await.unwrap();
        books.into_iter().map(|booked| booked.seq).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&looking).await, [1]);
    journal.enter(entry("two")).await.unwrap();
    assert_eq!(numbers(&looking).await, [1, 2], "what was committed since is not seen");
    assert!(looking.enter(entry("three")).await.is_err(), "whoever looks entered a payment");
    // As a process that was killed leaves it.
    let copied = directory.path().join("copied");
    for suffix in ["", "-wal"] {
        let of = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(of(&path), of(&copied)).unwrap();
    }
    assert_eq!(numbers(&SqliteJournal::look(&copied).unwrap()).await, [1, 2]);
    drop((looking, journal));
    let before = std::fs::read(&path).unwrap();
    assert_eq!(numbers(&SqliteJournal::look(&path).unwrap()).await, [1, 2]);
    assert_eq!(std::fs::read(&path).unwrap(), before, "looking changed it");
    tamper(&path, BACK_TO_6);
    let early = SqliteJournal::look(&path).map(drop).unwrap_err();
    assert!(early.problem.contains("its format is 6"), "{early}");
}

/// Who closes a file last takes what lies beside it away, while another looks at that.
#[test]
fn a_journal_is_opened_while_another_closes_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let open_and_close = || {
        for _ in 0..1_000 {
            drop(SqliteJournal::open(&path).unwrap());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(open_and_close);
        }
    });
}

#[tokio::test]
async fn claims_are_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grants");
    let grants = SqliteGrants::open(&path).unwrap();
    assert_eq!(grants.claim(claim("one")).await, Ok(Claimed::Granted));
    grants.settling(&key("one"), None, Some(vec![5; 100])).await.unwrap();
    drop(grants);
    let grants = SqliteGrants::open(&path).unwrap();
    let state = grants.state(&key("one")).await;
    assert_eq!(state, Ok(Some(GrantState::Settling { charge: None, sealed: Some(vec![5; 100]) })));
    assert!(matches!(grants.claim(claim("one")).await, Ok(Claimed::Held(_))));
}

/// What the first format held is read as before: the amount of the terms was charged.
#[tokio::test]
async fn claims_of_the_first_format_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("grants");
    drop(SqliteGrants::open(&path).unwrap());
    let made = directory.path().join("first");
    let id = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA application_id", [], |row| row.get::<_, i64>(0));
    let first = include_str!("../../migrations/grants/0001_init.sql");
    let marks = format!("PRAGMA application_id = {}; PRAGMA user_version = 1;", id.unwrap());
    let row = |key: &str, state: &str, transaction: &str, sealed: &str| {
        format!(
            "INSERT INTO claim (key, request, claimed_at, forget_at, state, transaction_hash, sealed)
             VALUES ('{}', zeroblob(32), '{:020}', '{:020}', '{state}', {transaction}, {sealed});",
            crate::samples::key(key),
            1,
            2
        )
    };
    let rows = [
        row("claimed", "claimed", "NULL", "NULL"),
        row("settling", "settling", "NULL", "x'05'"),
        row("delivered", "delivered", "'0xabc'", "x'05'"),
    ];
    tamper(&made, &format!("{first}{marks}{}", rows.concat()));
    make_private(&made);

    let grants = SqliteGrants::open(&made).unwrap();
    let sealed = || Some(vec![5]);
    let states = [
        ("claimed", GrantState::Claimed),
        ("settling", GrantState::Settling { charge: None, sealed: sealed() }),
        (
            "delivered",
            GrantState::Delivered { transaction: "0xabc".into(), charged: None, sealed: sealed() },
        ),
    ];
    for (name, expected) in states {
        assert_eq!(grants.state(&key(name)).await, Ok(Some(expected)), "{name}");
    }
    grants.settling(&key("claimed"), Some(Amount::MAX), None).await.unwrap();
    let charged = GrantState::Settling { charge: Some(Amount::MAX), sealed: None };
    assert_eq!(grants.state(&key("claimed")).await, Ok(Some(charged)));
}

#[tokio::test]
async fn a_ledger_is_there_again_with_its_limits_and_its_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = SqliteLedger::open(&path).unwrap();
    for name in ["posted", "void", "open"] {
        ledger.reserve(&reservation(name, 100), &Limits::default()).await.unwrap();
    }
    ledger.post(&plan("posted"), Amount::from(60), "0xabc", UnixTime(5)).await.unwrap();
    ledger.void(&plan("void"), VoidProof::ChainDead, UnixTime(6)).await.unwrap();
    drop(ledger);

    let ledger = SqliteLedger::open(&path).unwrap();
    let spent = Spent { posted: Amount::from(60), reserved: Amount::from(100) };
    assert_eq!(ledger.spent(PAYER, &asset()).await, Ok(spent));
    assert_eq!(ledger.pending(PAYER, 10).await, Ok(vec![reservation("open", 100)]));
    assert!(ledger.reserve(&reservation("new", 41), &limit(200)).await.is_err());
    ledger.reserve(&reservation("new", 40), &limit(200)).await.unwrap();
    drop(ledger);

    let record = Connection::open(&path).unwrap();
    let mut select = record
        .prepare(
            "SELECT event || ' ' || amount || ' ' || coalesce(transaction_hash, void_proof, '-')
             FROM ledger_event ORDER BY seq",
        )
        .unwrap();
    let lines: Vec<String> =
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let expected = [
        "reserved 100 -",
        "reserved 100 -",
        "reserved 100 -",
        "posted 60 0xabc",
        "void 100 chain_dead",
        "reserved 40 -",
    ];
    assert_eq!(lines, expected);
    for sql in ["DELETE FROM ledger_event", "UPDATE ledger_event SET amount = '0'"] {
        assert!(record.execute(sql, []).is_err(), "the record can be changed: {sql}");
    }
    assert!(record.execute("DELETE FROM reservation", []).is_err());
}

#[tokio::test]
async fn two_handles_on_one_file_see_one_book() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let handles = [SqliteLedger::open(&path).unwrap(), SqliteLedger::open(&path).unwrap()];
    let mut reserved = 0;
    for number in 0..40 {
        let one = reservation(&number.to_string(), 10);
        reserved += usize::from(handles[number % 2].reserve(&one, &limit(255)).await.is_ok());
    }
    assert_eq!(reserved, 25);
    for handle in &handles {
        assert_eq!(handle.pending(PAYER, 100).await.unwrap().len(), 25);
        let spent = Spent { posted: Amount::ZERO, reserved: Amount::new(U256::from(250)) };
        assert_eq!(handle.spent(PAYER, &asset()).await, Ok(spent));
    }
}

#[tokio::test]
async fn an_answer_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let outside = Connection::open(&path).unwrap();
    for number in 1..=20 {
        journal.enter(entry(&number.to_string())).await.unwrap();
        let seen: i64 = outside.query_row("SELECT count(*) FROM entry", [], |r| r.get(0)).unwrap();
        assert_eq!(seen, number, "the answer left before the commit");
    }
}

#[tokio::test]
async fn the_log_does_not_grow_without_rest() {
    let directory = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(directory.path().join("journal")).unwrap();
    for number in 0..1_500 {
        // About 30 KB of log each: without being moved, it would hold 45 MB.
        let mut new = entry(&number.to_string());
        new.plan = vec![1; 4096];
        journal.enter(new).await.unwrap();
    }
    let log = directory.path().join("journal-wal").metadata().unwrap().len();

    assert!(log < 16 << 20, "the log has grown to {log} bytes");
}

#[tokio::test]
async fn another_process_that_writes_for_long_is_unavailable_not_fatal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let outside = Connection::open(&path).unwrap();
    outside.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(journal.find(&key("one")).await, Ok(None), "a writer keeps readers out");
    let refused = journal.enter(entry("one")).await.unwrap_err();
    assert!(refused.to_string().contains("journal is unavailable"), "{refused}");
    outside.execute_batch("ROLLBACK").unwrap();
    assert_eq!(journal.enter(entry("one")).await, Ok(Entered::New));
}

#[test]
fn files_of_other_kinds_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    drop(SqliteLedger::open(&path).unwrap());
    let error = refused(&path);
    assert_eq!(error.key, "journal");
    assert!(error.problem.contains("it is a ledger, not a journal"), "{error}");
    assert!(SqliteGrants::open(&path).unwrap_err().problem.contains("it is a ledger"));

    let strange = directory.path().join("strange");
    tamper(&strange, "CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')");
    make_private(&strange);
    let before = std::fs::read(&strange).unwrap();
    let error = refused(&strange);
    assert!(error.problem.contains("no file of pay402"), "{error}");
    assert_eq!(std::fs::read(&strange).unwrap(), before, "a stranger's file was changed");
}

#[test]
fn later_formats_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    drop(SqliteJournal::open(&path).unwrap());
    for version in ["10", "99", "-1"] {
        tamper(&path, &format!("PRAGMA user_version = {version}"));
        let error = refused(&path);
        assert!(error.problem.contains("upgrade pay402"), "{error}");
    }
    tamper(&path, "PRAGMA user_version = 9");
    drop(SqliteJournal::open(&path).unwrap());
}

#[tokio::test]
async fn a_journal_of_the_first_format_counts_its_failures() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.enter(entry("one")).await.unwrap();
    let lease = journal.lease(&network(), &holder("here"), UnixTime(0), LASTS).await;
    let failed = Outcome::Failed {
        reason: "reverted".into(),
        message: String::new(),
        transaction: None,
        fee: Amount::from(1),
    };
    let change = change("one", Event::Closed(failed));
    journal.advance(&lease.unwrap().granted().unwrap(), vec![change]).await.unwrap();
    drop(journal);
    let back = "DROP INDEX entry_costly_failure; DROP TABLE history; DROP TABLE hook;
                ALTER TABLE lease DROP COLUMN url;
                ALTER TABLE entry DROP COLUMN entered_by; ALTER TABLE entry DROP COLUMN parts;
                ALTER TABLE entry DROP COLUMN part; ALTER TABLE entry DROP COLUMN spent;
                PRAGMA user_version = 1";
    tamper(&path, BACK_TO_6);
    tamper(&path, back);
    let journal = SqliteJournal::open(&path).unwrap();
    assert_eq!(journal.failures(&network(), PAYER, UnixTime(0)).await, Ok(1));
    drop(journal);
    // Counting reads the index, whatever else is in the journal.
    let plan: String = Connection::open(&path)
        .unwrap()
        .query_row(
            "EXPLAIN QUERY PLAN SELECT count(*) FROM entry
             WHERE network = 'n' AND payer = 'p' AND entered_at >= 'x'
               AND stage = 'failed' AND fee <> '0'",
            [],
            |row| row.get("detail"),
        )
        .unwrap();
    assert!(plan.contains("entry_costly_failure"), "{plan}");
}

/// However long the history is, what an hour cost is read from the records of that hour.
#[test]
fn what_a_caller_costs_is_read_through_an_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    drop(SqliteJournal::open(&path).unwrap());
    let plan: String = Connection::open(&path)
        .unwrap()
        .query_row(
            "EXPLAIN QUERY PLAN SELECT history.seq FROM history
             WHERE history.entered_by = 'shop' AND history.at >= 'x' AND history.fee <> '0'",
            [],
            |row| row.get("detail"),
        )
        .unwrap();
    assert!(plan.contains("history_costly (entered_by=? AND at>?)"), "{plan}");
}

#[test]
fn damaged_files_are_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    std::fs::write(&path, "this is a text, and it is long enough to have a header ".repeat(50))
        .unwrap();
    make_private(&path);
    let error = refused(&path);
    assert!(error.problem.contains("restore it from a backup"), "{error}");
    std::fs::remove_file(&path).unwrap();

    drop(SqliteJournal::open(&path).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in &mut bytes[4096..8192] {
        *byte = 0x55;
    }
    std::fs::write(&path, &bytes).unwrap();
    let error = refused(&path);
    assert!(error.problem.contains("restore it from a backup"), "{error}");

    std::fs::write(&path, &bytes[..6000]).unwrap();
    let error = refused(&path);
    assert!(error.problem.contains("restore it from a backup"), "{error}");
}

#[tokio::test]
async fn a_ledger_whose_sums_are_wrong_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = SqliteLedger::open(&path).unwrap();
    ledger.reserve(&reservation("one", 100), &Limits::default()).await.unwrap();
    drop(ledger);
    let forgeries = [
        "UPDATE total SET reserved = '0'",
        "UPDATE total SET posted = '1'",
        "DELETE FROM total",
        "UPDATE total SET payer = '0xother'",
        "UPDATE reservation SET amount = '1'",
    ];
    for forgery in forgeries {
        let copy = directory.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        tamper(&copy, forgery);
        let error = SqliteLedger::open(&copy).unwrap_err();
        assert!(error.problem.contains("sums are not those"), "{forgery}: {error}");
    }
}

#[tokio::test]
async fn sums_that_would_fall_below_zero_are_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let ledger = SqliteLedger::open(&path).unwrap();
    ledger.reserve(&reservation("one", 100), &Limits::default()).await.unwrap();
    tamper(&path, "UPDATE total SET reserved = '99'");
    let posted = ledger.post(&plan("one"), Amount::from(100), "0xabc", UnixTime(1)).await;
    assert!(posted.unwrap_err().problem.contains("below zero"));
    let voided = ledger.void(&plan("one"), VoidProof::ChainDead, UnixTime(1)).await;
    assert!(voided.unwrap_err().problem.contains("below zero"));
    assert_eq!(ledger.pending(PAYER, 10).await.unwrap().len(), 1, "half of it was written");
    tamper(&path, &format!("UPDATE total SET posted = '{}'", U256::MAX));
    assert!(ledger.spent(PAYER, &asset()).await.is_err(), "impossible sums were read");
}

#[tokio::test]
async fn a_damaged_row_is_an_error_not_another_payment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.enter(entry("one")).await.unwrap();
    journal.enter(entry("two")).await.unwrap();
    tamper(&path, &format!("UPDATE entry SET amount = '-5' WHERE key = '{}'", key("one")));
    assert!(journal.find(&key("one")).await.is_err());
    assert!(journal.enter(entry("one")).await.is_err());
    assert!(journal.find(&key("two")).await.unwrap().is_some(), "one row took all down");
}

#[test]
fn a_path_that_cannot_work_names_the_setting() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [directory.path().to_path_buf(), file.join("below")] {
        let error = refused(&path);
        assert_eq!(error.key, "journal");
        assert!(error.problem.starts_with(path.to_str().unwrap()), "{error}");
    }
}

#[cfg(unix)]
fn make_private(path: &Path) {
    set_mode(path, 0o600);
}

#[cfg(not(unix))]
fn make_private(_path: &Path) {}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[tokio::test]
async fn new_files_belong_to_their_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let outer = directory.path().join("outer");
    let path = outer.join("inner").join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    journal.enter(entry("one")).await.unwrap();
    assert_eq!(mode(&outer), 0o700);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let mut files = 0;
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
        files += 1;
    }
    assert_eq!(files, 3, "the file, its log and its index");
}

#[cfg(unix)]
#[test]
fn files_that_others_can_write_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = SqliteJournal::open(&path).unwrap();
    let log = directory.path().join("journal-wal");
    for (file, bad) in [(&path, 0o620), (&path, 0o602), (&path, 0o666), (&log, 0o622)] {
        set_mode(file, bad);
        let error = refused(&path);
        let remedy = format!("chmod 600 '{}'", file.display());
        assert!(error.problem.contains(&remedy), "{bad:o}: {error}");
        set_mode(file, 0o600);
    }
    drop(SqliteJournal::open(&path).unwrap());
    drop(journal);
}
