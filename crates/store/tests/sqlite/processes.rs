//! Several processes on one file, and processes that die in the middle.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pay402_core::Amount;
use pay402_core::journal::{Entered, Journal, Lease, Leased};
use pay402_core::spend::{Ledger, Spent};
use pay402_core::time::UnixTime;
use pay402_store::{SqliteJournal, SqliteLedger};

use crate::samples::{LASTS, PAYER, asset, entry, holder, key, limit, network, reservation};

const CHILD: &str = "PAY402_STORE_TEST_CHILD";
const PROCESSES: usize = 4;
const RESERVES_EACH: usize = 25;
const FITTING: usize = 60;

/// Starts this very test binary to run one of the ignored tests below on the file at `path`.
fn start(test: &str, name: &str, path: &Path) -> Child {
    start_in(Path::new("."), test, name, path)
}

fn start_in(directory: &Path, test: &str, name: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("processes::{test}"), "--exact", "--ignored", "--nocapture"])
        .env(CHILD, format!("{name} {}", path.display()))
        .current_dir(directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The name and the path that [`start`] gave; `None` when somebody runs the ignored tests by hand.
fn task() -> Option<(String, String)> {
    let task = std::env::var(CHILD).ok()?;
    task.split_once(' ').map(|(name, path)| (name.to_owned(), path.to_owned()))
}

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_reserves() {
    let Some((name, path)) = task() else { return };
    let ledger = SqliteLedger::open(path).unwrap();
    let mut reserved = 0;
    for number in 0..RESERVES_EACH {
        let one = reservation(&format!("{name} {number}"), 10);
        reserved += usize::from(ledger.reserve(&one, &limit(FITTING as u64 * 10)).await.is_ok());
    }
    println!("reserved={reserved}");
}

#[tokio::test]
async fn a_limit_holds_across_processes() {
    let directory = tempfile::tempdir().unwrap();
    // The file is not there yet: its making is a race too.
    let path = directory.path().join("ledger");
    let children: Vec<Child> = (0..PROCESSES)
        .map(|number| start("child_that_reserves", &number.to_string(), &path))
        .collect();
    let mut reserved = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = output.split_once("reserved=").expect("the child came to its end");
        reserved += rest.lines().next().unwrap().parse::<usize>().unwrap();
    }
    assert_eq!(reserved, FITTING, "of {} in {PROCESSES} processes", PROCESSES * RESERVES_EACH);
    let ledger = SqliteLedger::open(&path).unwrap();
    let spent = Spent { posted: Amount::ZERO, reserved: Amount::from(FITTING as u64 * 10) };
    assert_eq!(ledger.spent(PAYER, &asset()).await, Ok(spent));
    assert_eq!(ledger.pending(PAYER, 1000).await.unwrap().len(), FITTING);
}

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_dies() {
    let Some((name, path)) = task() else { return };
    let last: usize = name.parse().unwrap();
    let journal = SqliteJournal::open(path).unwrap();
    for number in 0..=last {
        journal.enter(entry(&number.to_string())).await.unwrap();
    }
    // More is under way when the process ends without a word.
    for number in 0..50 {
        let mut more = Box::pin(journal.enter(entry(&format!("more {number}"))));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(more.as_mut().poll(context)));
        let _ = polled.await;
    }
    std::process::abort();
}

#[tokio::test]
async fn what_was_answered_survives_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    for last in [0, 3, 40] {
        let output = start("child_that_dies", &last.to_string(), &path).wait_with_output().unwrap();
        assert!(!output.status.success(), "it was to die");
        let journal = SqliteJournal::open(&path).unwrap();
        for number in 0..=last {
            let known = journal.find(&key(&number.to_string())).await.unwrap();
            assert!(known.is_some(), "entry {number} of {last} was answered and is gone");
        }
        // And the file goes on.
        let next = journal.enter(entry(&format!("after {last}"))).await;
        assert_eq!(next, Ok(Entered::New));
    }
}

#[tokio::test]
async fn a_name_with_a_meaning_to_sqlite_is_a_file_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    for name in [":memory:", "file:journal?mode=memory", "journal"] {
        let path = Path::new(name);
        let child = start_in(directory.path(), "child_that_dies", "3", path);
        assert!(!child.wait_with_output().unwrap().status.success(), "it was to die");
        let journal = SqliteJournal::open(directory.path().join(path)).unwrap();
        assert!(journal.find(&key("3")).await.unwrap().is_some(), "{name} was no file");
    }
}

#[tokio::test]
#[ignore = "the body of a process that another test starts"]
async fn child_that_leads() {
    let Some((name, path)) = task() else { return };
    let journal = SqliteJournal::open(path).unwrap();
    let leased = journal.lease(&network(), &holder(&name), UnixTime(0), LASTS).await;
    println!("granted={}", leased.unwrap().granted().is_some());
    // Until it is killed.
    std::future::pending::<()>().await;
}

/// Starts a process and waits until it leads.
fn leader(name: &str, path: &Path) -> Child {
    let mut child = start("child_that_leads", name, path);
    let out = BufReader::new(child.stdout.take().unwrap());
    let granted = out.lines().map(Result::unwrap).find(|line| line.contains("granted="));
    assert!(granted.unwrap().ends_with("granted=true"));
    child
}

async fn ask(journal: &SqliteJournal, name: &str, at: UnixTime) -> Leased {
    journal.lease(&network(), &holder(name), at, LASTS).await.unwrap()
}

fn granted(token: u64) -> Leased {
    Leased::Granted(Lease { network: network(), token })
}

#[tokio::test]
async fn a_lease_of_a_process_that_was_killed_is_taken_over_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let now = UnixTime(0);
    let mut child = leader("one", &path);
    let [two, three] = std::array::from_fn(|_| SqliteJournal::open(&path).unwrap());
    assert_eq!(ask(&two, "two", now).await, Leased::Held(holder("one")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ask(&two, "two", now).await, granted(2));
    // That one lives.
    assert_eq!(ask(&three, "three", now).await, Leased::Held(holder("two")));
    assert_eq!(ask(&two, "two", now).await, granted(2));
    drop(two);
    assert_eq!(ask(&three, "three", now).await, granted(3));
}

/// As one that was taken over from who stood still, and one of a release that had no such locks.
#[tokio::test]
async fn a_lease_without_its_lock_runs_out_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let lead = directory.path().join("journal-lead-eip155-84532");
    let end = UnixTime(LASTS.as_secs());
    let [one, two, three] = std::array::from_fn(|_| SqliteJournal::open(&path).unwrap());
    assert_eq!(ask(&one, "one", UnixTime(0)).await, granted(1));
    assert_eq!(ask(&two, "two", end).await, granted(2));
    // The lock is still that of the one before.
    drop(two);
    assert_eq!(ask(&three, "three", end).await, Leased::Held(holder("two")));
    drop(one);
    assert_eq!(std::fs::read_to_string(&lead).unwrap(), "one");
    assert_eq!(ask(&three, "three", end).await, Leased::Held(holder("two")));
    std::fs::remove_file(&lead).unwrap();
    assert_eq!(ask(&three, "three", end).await, Leased::Held(holder("two")));
    let end = end.plus_s(LASTS.as_secs());
    assert_eq!(ask(&three, "three", end).await, granted(3));
    assert_eq!(std::fs::read_to_string(&lead).unwrap(), "three");
}

#[tokio::test]
async fn who_leads_no_more_keeps_nothing_locked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let end = UnixTime(LASTS.as_secs());
    let [one, two, three, four] = std::array::from_fn(|_| SqliteJournal::open(&path).unwrap());
    assert_eq!(ask(&one, "one", UnixTime(0)).await, granted(1));
    assert_eq!(ask(&two, "two", end).await, granted(2));
    // It hears that it has lost it, and the other gets the lock when it renews.
    assert_eq!(ask(&one, "one", end).await, Leased::Held(holder("two")));
    assert_eq!(ask(&two, "two", end).await, granted(2));
    drop(two);
    assert_eq!(ask(&three, "three", end).await, granted(3));
    three.release(&Lease { network: network(), token: 3 }).await.unwrap();
    assert_eq!(ask(&four, "four", end).await, granted(4));
    drop(four);
    assert_eq!(ask(&one, "one, later", end).await, granted(5));
}
