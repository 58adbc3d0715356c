//! The folder in which a mesh of one machine keeps what it must remember.
//!
//! Invariant: one process at a time has it. The lock is the kernel's, so that it is gone with its holder however that
//! ended; the number beside it only tells people (and `down`) who holds it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const LOCK: &str = "lock";

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another mesh has it.
    #[error("a `homarus up` already runs on {dir}, as process {holder}")]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// Who has it, if that can be told.
        holder: String,
    },
    /// The file system refuses.
    #[error("cannot use {path}: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a folder of ours: it would be removed with everything in it.
    #[error("{0} holds files that are not of a mesh; choose an empty folder")]
    Foreign(PathBuf),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { path, source }
}

/// The folder, held.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    lock: File,
}

impl State {
    /// Takes the folder, which is made if it isn't there.
    pub fn take(dir: &Path) -> Result<Self, StateError> {
        let lock_path = dir.join(LOCK);
        if !lock_path.exists() && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(StateError::Foreign(dir.to_owned()));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        // Others must see that a mesh runs here, but nothing of its keys.
        fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(failed(dir))?;
        let lock = open_lock(&lock_path).map_err(failed(&lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = holder(dir).map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
            return Err(StateError::Taken { dir: dir.to_owned(), holder });
        }
        let state = Self { dir: dir.to_owned(), lock };
        state.sign().map_err(failed(&lock_path))?;
        Ok(state)
    }

    fn sign(&self) -> io::Result<()> {
        let mut lock = &self.lock;
        lock.set_len(0)?;
        lock.seek(io::SeekFrom::Start(0))?;
        writeln!(lock, "{}", std::process::id())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path within it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file that only its owner may read, whole or not at all.
    pub fn write_secret(&self, name: &str, contents: &str) -> Result<PathBuf, StateError> {
        let (path, draft) = (self.path(name), self.path(&format!("{name}.draft")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(contents.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(failed(&path))?;
        Ok(path)
    }

    /// Removes the folder with everything in it, and lets go of it.
    pub fn remove(self) -> Result<(), StateError> {
        fs::remove_dir_all(&self.dir).map_err(failed(&self.dir))
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(path)
}

/// The process that holds a folder; none if nobody does.
pub fn holder(dir: &Path) -> Option<u32> {
    if !running(dir) {
        return None;
    }
    let mut text = String::new();
    File::open(dir.join(LOCK)).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Whether a mesh runs on a folder. Needs no rights.
pub fn running(dir: &Path) -> bool {
    let Ok(lock) = File::open(dir.join(LOCK)) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
}

/// Where a mesh's kubeconfig is.
pub fn kubeconfig(dir: &Path) -> PathBuf {
    dir.join("kubeconfig")
}

/// Where a mesh writes its log.
pub fn log_file(dir: &Path) -> PathBuf {
    dir.join("homarus.log")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        assert!(!running(&dir));
        let state = State::take(&dir).unwrap();
        assert_eq!(holder(&dir), Some(std::process::id()));
        let refused = State::take(&dir).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(state);
        assert!(!running(&dir), "the lock goes with its holder");
        State::take(&dir).unwrap().remove().unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn secrets_are_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let state = State::take(&parent.path().join("state")).unwrap();
        let path = state.write_secret("kubeconfig", "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path, kubeconfig(state.dir()));
    }

    #[test]
    fn folders_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        assert!(matches!(State::take(dir.path()), Err(StateError::Foreign(_))));
    }
}
