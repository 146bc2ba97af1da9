//! A disk that loses what was not synced, by the notes of `strace`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a call that told of an answer begins.
const ANSWERED: &[u8] = b"answered ";

/// A system call that succeeded, its byte strings decoded.
pub(crate) struct Call {
    name: String,
    path: Option<PathBuf>,
    /// The strings among its arguments.
    data: Vec<Vec<u8>>,
    /// The numbers after the last string or path.
    numbers: Vec<usize>,
}

/// Puts calls that were noted in two pieces together, in the order in which they ended.
pub(crate) fn calls_of(notes: &str) -> Vec<Call> {
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
pub(crate) struct Disk {
    files: HashMap<PathBuf, OnDisk>,
    directory: PathBuf,
}

impl Disk {
    /// One with what is in `directory` now, all of it synced.
    pub(crate) fn holding(directory: &Path) -> Self {
        let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let file = |entry: std::fs::DirEntry| {
            let synced = std::fs::read(entry.path()).unwrap();
            (entry.path(), OnDisk { synced, unsynced: Vec::new(), named: true })
        };
        Self { files: files.map(file).collect(), directory: directory.to_path_buf() }
    }

    /// Follows one call. Returns the name of an entry when the call told of its answer.
    pub(crate) fn apply(&mut self, call: &Call) -> Option<String> {
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
    pub(crate) fn cut_power(&self, image: &Path, every: usize) {
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
