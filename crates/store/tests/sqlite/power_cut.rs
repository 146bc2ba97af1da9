//! What was answered survives a power cut, not only a crash: the disk keeps what was synced and
//! loses the rest.
//!
//! A process works on a store while `strace` notes what it writes and syncs. The test then replays
//! the notes into an image of the disk on which only synced bytes last; whenever the process had
//! an answer, the image of that moment is opened and has to know what was answered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use pay402_core::journal::Journal;
use pay402_store::SqliteJournal;

use crate::samples::{entry, key};

const CHILD: &str = "PAY402_STORE_TEST_POWER";
const ANSWERED: &[u8] = b"answered ";
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

    let mut disk = Disk { files: HashMap::new(), directory: directory.path().to_path_buf() };
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

/// A system call that succeeded, its byte strings decoded.
struct Call {
    name: String,
    path: Option<PathBuf>,
    /// The strings among its arguments.
    data: Vec<Vec<u8>>,
    /// The numbers after the last string or path.
    numbers: Vec<usize>,
}

/// Puts calls that were noted in two pieces together, in the order in which they ended.
fn calls_of(notes: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, String> = HashMap::new();
    let mut calls = Vec::new();
    for line in notes.lines() {
        let (process, rest) = line.split_once(' ').expect("a process and its call");
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(process, start.trim_end().to_owned());
            continue;
        }
        let whole = match rest.split_once(" resumed>") {
            Some((_, end)) if rest.starts_with("<... ") => {
                begun.remove(process).expect("it was begun") + end
            }
            _ => rest.to_owned(),
        };
        calls.extend(read_call(&whole));
    }
    calls
}

fn read_call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let path = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let path = path.map(|(path, _)| PathBuf::from(String::from_utf8(unhex(path)).unwrap()));
    let data = arguments.split('"').skip(1).step_by(2).map(unhex).collect();
    let tail = arguments.rsplit(['"', '>']).next()?;
    let numbers = tail.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    Some(Call { name: name.to_owned(), path, data, numbers })
}

fn unhex(text: &str) -> Vec<u8> {
    let bytes = text.split("\\x").skip(1);
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => content.resize(*length, 0),
        Change::Write { at, bytes } => {
            content.resize(content.len().max(at + bytes.len()), 0);
            content[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}

#[derive(Default)]
struct OnDisk {
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    /// Whether the name would be found again: its directory was synced since the file was made.
    named: bool,
}

/// A disk that loses what was not synced.
struct Disk {
    files: HashMap<PathBuf, OnDisk>,
    directory: PathBuf,
}

impl Disk {
    /// Follows one call. Returns the name of an entry when the call told of its answer.
    fn apply(&mut self, call: &Call) -> Option<String> {
        if call.name == "write" {
            let said = call.data.first()?.strip_prefix(ANSWERED)?;
            return Some(String::from_utf8(said.to_vec()).unwrap());
        }
        if call.name == "openat" {
            let path = PathBuf::from(String::from_utf8(call.data.first()?.clone()).ok()?);
            if path.parent() == Some(&self.directory) && path.exists() {
                self.files.entry(path).or_default();
            }
            return None;
        }
        let path = call.path.as_ref()?;
        if *path == self.directory && call.name == "fsync" {
            self.files.values_mut().for_each(|file| file.named = true);
        }
        let file = self.files.get_mut(path)?;
        match call.name.as_str() {
            "pwrite64" => {
                let at = *call.numbers.last().expect("an offset");
                let bytes = call.data.first().expect("bytes").clone();
                file.unsynced.push(Change::Write { at, bytes });
            }
            "ftruncate" => {
                file.unsynced.push(Change::Length(*call.numbers.last().expect("a length")));
            }
            "fsync" | "fdatasync" => {
                for change in file.unsynced.drain(..) {
                    apply(&mut file.synced, &change);
                }
            }
            other => panic!("{other} on a store's file is not understood"),
        }
        None
    }

    /// Writes what is left after the power was cut: what was synced, and, unless `every` is 0, each
    /// `every`th of the later writes, which the disk may have done of its own accord.
    fn cut_power(&self, image: &Path, every: usize) {
        for (path, file) in &self.files {
            let name = path.file_name().expect("a file");
            // The index is shared memory: it is made anew from the log.
            if !file.named || name.to_string_lossy().ends_with("-shm") {
                continue;
            }
            let mut content = file.synced.clone();
            if every > 0 {
                let survivors = file.unsynced.iter().step_by(every);
                survivors.for_each(|change| apply(&mut content, change));
            }
            let copy = image.join(name);
            std::fs::write(&copy, content).unwrap();
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let private = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(&copy, private).unwrap();
            }
        }
    }
}
