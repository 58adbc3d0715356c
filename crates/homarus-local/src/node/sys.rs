//! Namespaces: making them, standing in them for a moment, holding them by a descriptor.
//!
//! A namespace lives as long as a process stands in it or a descriptor refers to it. The node binds none to a name,
//! so that even `kill -9` leaves none behind. Namespaces belong to threads: whatever enters one does so on a
//! thread of its own, which ends there and never returns to a pool.
//!
//! The only `unsafe` of this crate is here, because `unshare` could also split descriptor tables (`FILES`), which
//! would break what Rust believes about descriptors. [`leave`] is the one place that calls it, and never with that.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::UnshareFlags;

/// The kinds of namespaces that the node parts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Network alone: the node's own.
    Net,
    /// The children's process ids: the calling thread's next child is process 1 of a new namespace.
    ChildPids,
    /// Mounts alone: a container's.
    Mounts,
    /// All that process 1 of a pod parts with.
    Pod,
    /// The same for a pod on the machine's network.
    PodOnHostNetwork,
}

/// Parts the calling thread from the namespaces it shares with its parent.
#[allow(unsafe_code)]
pub(crate) fn leave(what: Leave) -> io::Result<()> {
    let pod = UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC;
    let flags = match what {
        Leave::Net => UnshareFlags::NEWNET,
        Leave::ChildPids => UnshareFlags::NEWPID,
        Leave::Mounts => UnshareFlags::NEWNS,
        Leave::Pod => pod | UnshareFlags::NEWNET,
        Leave::PodOnHostNetwork => pod,
    };
    // SAFETY: the flags above never contain `FILES`: every thread goes on seeing the same descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Moves the calling thread into the namespace that `ns` refers to.
pub(crate) fn enter(ns: impl AsFd) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(ns.as_fd(), None)?;
    Ok(())
}

/// The calling thread's own namespace of a kind (`net`, `mnt`, `pid_for_children`).
pub(crate) fn own(kind: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/thread-self/ns/{kind}")).map(OwnedFd::from)
}

/// The namespace of a kind that a process stands in.
pub(crate) fn of(pid: u32, kind: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from)
}

/// A new network namespace, held by nothing but the returned descriptor.
pub(crate) fn new_net() -> io::Result<OwnedFd> {
    on_thread(|| {
        leave(Leave::Net)?;
        own("net")
    })
}

/// Runs `work` inside a network namespace, on a thread that ends with it. Keep it short: the caller waits.
pub(crate) fn within<T: Send>(net: &OwnedFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread(|| {
        enter(net)?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
