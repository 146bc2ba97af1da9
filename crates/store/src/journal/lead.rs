//! Who leads a network, beside the journal's file: a lock that ends with the process that has it.
//!
//! A lease by itself says only when its holder has let it run out. That a holder was killed is known at once:
//! each process that leads keeps a file of its network locked, with its name in it, and the system frees the
//! lock when the process ends, however it ends.
//!
//! **Invariant:** a process has written its name into the file and has the lock before the journal says that it
//! holds the lease, and keeps it for as long. So where the journal and the file have the same name and the lock
//! is free, that process has closed the journal. Whatever is not so plain (no file, another name, a system
//! without such locks) says nothing, and the lease runs out by time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pay402_core::NetworkId;

use crate::database::owned;

/// Longest name of a holder that is read, in bytes.
const NAME_BYTES_MAX: u64 = 1_024;

/// The networks that one handle of a journal leads. The locks are taken and given up in transactions that may
/// write, so that no two processes look at the same moment.
#[derive(Debug)]
pub(super) struct Leads {
    /// The journal's file; `None` for one in memory, which nobody else sees.
    journal: Option<PathBuf>,
    locked: Mutex<HashMap<NetworkId, Locked>>,
}

/// The file of a network, locked.
#[derive(Debug)]
struct Locked {
    holder: String,
    file: File,
}

impl Leads {
    pub(super) fn beside(journal: Option<&Path>) -> Self {
        Self { journal: journal.map(Path::to_path_buf), locked: Mutex::default() }
    }

    /// Whether the holder that the journal names is known to have closed it, or to have ended.
    pub(super) fn has_ended(&self, network: &NetworkId, holder: &str) -> bool {
        let Some(path) = self.path(network) else { return false };
        let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) else {
            return false;
        };
        // The lock ends with `file`. One that this very handle has is another's here too.
        file.try_lock().is_ok() && name_in(&mut file).is_ok_and(|name| name == holder)
    }

    /// Locks the network's file for a holder, if nobody has it locked. Without the lock its lease is one that
    /// runs out by time.
    pub(super) fn take(&self, network: &NetworkId, holder: &str) {
        let mut locked = self.lock();
        if locked.get(network).is_some_and(|locked| locked.holder == holder) {
            return;
        }
        let Some(path) = self.path(network) else { return };
        let file = match locked.remove(network) {
            Some(locked) => Ok(locked.file),
            None => take_file(&path),
        };
        if let Ok(mut file) = file
            && put_name(&mut file, holder).is_ok()
        {
            locked.insert(network.clone(), Locked { holder: holder.to_owned(), file });
        }
    }

    /// Gives up what a holder has locked: it does not lead any more.
    pub(super) fn give_up(&self, network: &NetworkId, holder: &str) {
        let mut locked = self.lock();
        if locked.get(network).is_some_and(|locked| locked.holder == holder) {
            locked.remove(network);
        }
    }

    fn path(&self, network: &NetworkId) -> Option<PathBuf> {
        let mut name = OsString::from(self.journal.as_ref()?);
        name.push("-lead-");
        name.push(network.as_str().replace(':', "-"));
        Some(name.into())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NetworkId, Locked>> {
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_file(path: &Path) -> std::io::Result<File> {
    let file =
        owned(OpenOptions::new().read(true).write(true).create(true).truncate(false)).open(path)?;
    file.try_lock()?;
    Ok(file)
}

fn name_in(file: &mut File) -> std::io::Result<String> {
    let mut name = String::new();
    file.take(NAME_BYTES_MAX).read_to_string(&mut name)?;
    Ok(name)
}

fn put_name(file: &mut File, name: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(name.as_bytes())
}
