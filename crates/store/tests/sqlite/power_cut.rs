//! What was answered survives a power cut, not only a crash: the disk keeps what was synced and
//! loses the rest.
//!
//! A process works on a store while `strace` notes what it writes and syncs. The test then replays
//! the notes into an image of the disk on which only synced bytes last; whenever the process had
//! an answer, the image of that moment is opened and has to know what was answered.

use std::process::Command;

use pay402_core::journal::Journal;
use pay402_store::SqliteJournal;

use crate::disk::{Disk, calls_of};
use crate::samples::{entry, key};

const CHILD: &str = "PAY402_STORE_TEST_POWER";
const ENTRIES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the body of a process that another test starts"]
async fn child_that_answers() {
    use std::io::Write as _;
    let Ok(path) = std::env::var(CHILD) else { return };
    let journal = std::sync::Arc::new(SqliteJournal::open(path).unwrap());
    for round in 0..ENTRIES / 6 {
        let group = (0..6).map(|number| {
            let journal = journal.clone();
            let name = format!("{}", round * 6 + number);
            tokio::spawn(async move {
                journal.enter(entry(&name)).await.unwrap();
                // One system call, so that it stands on one line of the notes.
                std::io::stderr().write_all(format!("answered {name}").as_bytes()).unwrap();
            })
        });
        for one in group.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        if round == 5 {
            // Let the log be moved into the file in between.
            tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
        }
    }
    std::process::abort();
}

#[tokio::test]
#[ignore = "needs strace: cargo nextest run -p pay402-store --run-ignored all power_cut"]
async fn what_was_answered_survives_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let (store, notes) = (directory.path().join("journal"), directory.path().join("notes"));
    let calls = "trace=pwrite64,pwritev,write,writev,fsync,fdatasync,ftruncate,unlink,openat";
    let status = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-o"])
        .arg(&notes)
        .arg(std::env::current_exe().unwrap())
        .args(["power_cut::child_that_answers", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, &store)
        .output()
        .expect("strace is installed")
        .status;
    assert!(!status.success(), "the child was to abort");

    let mut disk = Disk::holding(directory.path());
    let mut answered = Vec::new();
    for call in calls_of(&std::fs::read_to_string(&notes).unwrap()) {
        if let Some(name) = disk.apply(&call) {
            answered.push(name);
            for (lost, survivors) in [("all", 0), ("every other", 2), ("every third", 3)] {
                let image = tempfile::tempdir().unwrap();
                disk.cut_power(image.path(), survivors);
                let journal = SqliteJournal::open(image.path().join("journal")).unwrap();
                for name in &answered {
                    let known = journal.find(&key(name)).await.unwrap();
                    assert!(known.is_some(), "{name} was answered, then lost with {lost} writes");
                }
            }
        }
    }
    assert_eq!(answered.len(), ENTRIES, "the notes are not complete");
}
