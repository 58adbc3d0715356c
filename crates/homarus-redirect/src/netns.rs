//! Network namespaces: making one, and doing something inside one.
//!
//! A namespace belongs to a thread, so whatever happens in another one happens on a thread of its own, which ends with
//! it. Sockets stay with the namespace in which they were made, and programs started inside inherit it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Why a namespace can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It can't be opened.
    #[error("network namespace {path:?} can't be opened: {error}")]
    Open {
        /// Its path.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// It can't be made or entered.
    #[error("can't {doing} a network namespace: {error}; that needs CAP_SYS_ADMIN")]
    Change {
        /// Make or enter.
        doing: &'static str,
        /// The system's reason.
        error: io::Error,
    },
    /// What was to happen inside panicked.
    #[error("the thread inside the network namespace panicked")]
    Panicked,
}

/// A network namespace. It exists as long as this value or anything inside it does.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new, empty one; its loopback interface is down.
    pub fn create() -> Result<Self, NetnsError> {
        let create = || {
            unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        };
        let made = thread::scope(|scope| scope.spawn(create).join());
        match made {
            Ok(Ok(file)) => Ok(Self { file }),
            Ok(Err(error)) => Err(NetnsError::Change { doing: "make", error }),
            Err(_) => Err(NetnsError::Panicked),
        }
    }

    /// The one at `path`, such as `/proc/<pid>/ns/net` or `/run/netns/<name>`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|error| NetnsError::Open { path: path.to_path_buf(), error })?;
        Ok(Self { file })
    }

    /// Does `work` inside, on a thread of its own, and gives back what it returns.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|error| NetnsError::Change { doing: "enter", error: error.into() })?;
            Ok(work())
        };
        let joined = thread::scope(|scope| scope.spawn(inside).join());
        joined.unwrap_or(Err(NetnsError::Panicked))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Gives the calling thread a network namespace of its own.
#[allow(unsafe_code)]
fn unshare_network() -> io::Result<()> {
    // SAFETY: the call is unsafe for `FILES` alone, which would part the thread from the process's file descriptors.
    // `NEWNET` changes nothing that memory safety rests on.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}
