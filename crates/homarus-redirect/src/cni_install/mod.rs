//! The installer of the CNI plugin: one on every node, which keeps the node's folders as they have to be, and takes
//! everything back when it ends.
//!
//! # Life of an installation
//! Copy this program to where runtimes look for plugins; write a kubeconfig with the pod's own token; append our entry to
//! every network configuration ([`mod@host`], [`conflist`]). Then wait for a change, of the folder or of the token, and do the
//! same again: each step looks at what is there and writes only what differs, so no change of our own is taken for another's,
//! and events may be lost without harm. Where the values ask for it, the node is tainted until it is ready ([`taint`]).
//!
//! Invariants: the program and the kubeconfig are there before any configuration names them, and go after none does any more;
//! a node without a configuration is waited for, as are configurations that can't be read.

pub mod conflist;
pub mod host;
pub mod taint;

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::{Access, ApiError};
use host::{Host, HostError};
use taint::Node;

/// What stands in the chart's configuration for the kubeconfig's path.
const KUBECONFIG_PLACE: &str = "__KUBECONFIG_FILEPATH__";
/// After a change, how long nothing else must change before it is looked at: several files are often written at once.
const SETTLING_TIME: Duration = Duration::from_millis(50);
/// Changes that are waited for before looking all the same.
const MAX_SETTLING: usize = 40;
/// How often to look without any event. Events can be lost: a mount may change below us.
const LOOKING_INTERVAL: Duration = Duration::from_secs(30);

/// Why the installer can't go on. It ends, and its pod starts again.
#[derive(Debug, thiserror::Error)]
pub enum InstallerError {
    /// The configuration isn't one.
    #[error("CNI_NETWORK_CONFIG isn't the plugin's configuration: {0}")]
    Entry(String),
    /// The host's folders can't be used.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The pod's account can't be read.
    #[error(transparent)]
    Account(#[from] ApiError),
    /// Changes can't be followed.
    #[error("can't follow the changes of {path:?}: {error}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        error: Errno,
    },
}

/// What wakes the installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Something changed in a folder.
    Changed,
    /// Take everything back and end.
    Stop,
}

/// The pod's account, and where the API is.
#[derive(Debug, Clone)]
pub struct Account {
    /// The folder of the token.
    pub folder: PathBuf,
    /// The API server's roots.
    pub roots: PathBuf,
    /// The API server's address.
    pub host: String,
    /// Its port.
    pub port: String,
}

impl Account {
    /// How to ask the API with the token of this moment.
    pub fn access(&self) -> Result<Access, ApiError> {
        Access::of_account(&self.folder, &self.roots, &self.host, &self.port)
    }
}

/// Our entry as it goes into configurations: the chart's, with the kubeconfig's path on the host, and the installer's own
/// namespace exempt.
pub fn entry(config: &str, kubeconfig: &Path, namespace: &str) -> Result<Box<RawValue>, InstallerError> {
    let wrong = |reason: &dyn std::fmt::Display| InstallerError::Entry(reason.to_string());
    let mut entry: Value = serde_json::from_str(config).map_err(|error| wrong(&error))?;
    if entry["type"] != conflist::PLUGIN {
        return Err(wrong(&format_args!("its type is {}, not {:?}", entry["type"], conflist::PLUGIN)));
    }
    let Some(kubernetes) = entry.get_mut("kubernetes").and_then(Value::as_object_mut) else {
        return Err(wrong(&"it has no \"kubernetes\""));
    };
    let named = kubernetes.get("kubeconfig").and_then(Value::as_str).unwrap_or(KUBECONFIG_PLACE);
    let path = named.replace(KUBECONFIG_PLACE, &kubeconfig.to_string_lossy());
    kubernetes.insert("kubeconfig".to_owned(), path.into());
    if !namespace.is_empty() {
        kubernetes.entry("exempt-namespaces").or_insert_with(|| vec![namespace].into());
    }
    serde_json::value::to_raw_value(&entry).map_err(|error| wrong(&error))
}

/// An installer.
#[derive(Debug)]
pub struct Installer {
    /// The node's folders.
    pub host: Host,
    /// The program that becomes the plugin.
    pub program: PathBuf,
    /// Our entry.
    pub entry: Box<RawValue>,
    /// The pod's account.
    pub account: Account,
    /// The node, if it is tainted until it is ready.
    pub node: Option<Node>,
}

impl Installer {
    /// Installs, keeps it so until told to stop, and takes it back.
    pub fn run(&self, wakes: &Receiver<Wake>) -> Result<(), InstallerError> {
        self.host.place_program(&self.program)?;
        tracing::info!(program = ?self.host.program(), "plugin installed");
        let outcome = self.keep(wakes);
        self.stop();
        outcome
    }

    fn keep(&self, wakes: &Receiver<Wake>) -> Result<(), InstallerError> {
        // An account or folders that are wrong at once will stay so; later, what is there goes on.
        let mut outcome = self.look();
        let mut was_ready = None;
        loop {
            match outcome {
                Err(error) if was_ready.is_none() => return Err(error),
                Err(error) => tracing::error!(%error, "the installation can't be renewed, trying again"),
                Ok(()) => {}
            }
            let ready = self.host.is_ready();
            if was_ready.as_ref() != Some(&ready) {
                match &ready {
                    Ok(()) => tracing::info!("ready: pods of this node are redirected"),
                    Err(reason) => tracing::warn!(reason, "not ready: waiting for the node's network configuration"),
                }
            }
            if let (Ok(()), Some(node)) = (&ready, &self.node) {
                node.release(&self.account);
            }
            was_ready = Some(ready);
            if wait(wakes) == Wake::Stop {
                return Ok(());
            }
            outcome = self.look();
        }
    }

    /// Looks at everything, and writes what isn't as it should be.
    fn look(&self) -> Result<(), InstallerError> {
        if !self.host.program().is_file() {
            self.host.place_program(&self.program)?;
        }
        if self.host.place_kubeconfig(&self.account.access()?.kubeconfig())? {
            tracing::info!("kubeconfig written");
        }
        let placed = self.host.place_entry(&self.entry)?;
        for fault in &placed.faults {
            tracing::warn!(%fault, "a configuration is skipped until it changes");
        }
        if placed.written > 0 {
            tracing::info!(written = placed.written, configs = placed.configs, "network configurations end with the plugin");
        }
        Ok(())
    }

    fn stop(&self) {
        if let Some(node) = &self.node {
            node.hold_back(&self.account);
        }
        for fault in self.host.restore() {
            tracing::error!(%fault, "can't be taken back");
        }
        tracing::info!("everything is taken back");
    }
}

/// Waits for the next reason to look, and for calm.
fn wait(wakes: &Receiver<Wake>) -> Wake {
    match wakes.recv_timeout(LOOKING_INTERVAL) {
        Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
        Err(RecvTimeoutError::Timeout) => return Wake::Changed,
        Ok(Wake::Changed) => {}
    }
    for _ in 0..MAX_SETTLING {
        match wakes.recv_timeout(SETTLING_TIME) {
            Ok(Wake::Changed) => {}
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return Wake::Stop,
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    Wake::Changed
}

/// Wakes whoever listens when something changes in one of the folders, from a thread of its own.
pub fn follow(folders: &[&Path], wakes: Sender<Wake>) -> Result<(), InstallerError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |error| InstallerError::Watch { path, error }
    };
    let watched = folders.first().copied().unwrap_or(Path::new("/"));
    let changes = inotify::init(CreateFlags::CLOEXEC).map_err(failed(watched))?;
    let kinds = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE;
    for folder in folders {
        inotify::add_watch(&changes, *folder, kinds).map_err(failed(folder))?;
    }
    thread::spawn(move || tell(&changes, &wakes));
    Ok(())
}

fn tell(changes: &OwnedFd, wakes: &Sender<Wake>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(changes, &mut buffer);
    loop {
        match events.next() {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "changes can't be followed any more, looking from time to time");
                return;
            }
        }
        if wakes.send(Wake::Changed).is_err() {
            return;
        }
    }
}

/// The host's folders as they are mounted in the container, and the name of the kubeconfig.
pub fn host(prefix: &Path, net_dir: &Path, bin_dir: &Path, kubeconfig: OsString) -> Host {
    let below = |folder: &Path| prefix.join(folder.strip_prefix("/").unwrap_or(folder));
    Host { net_dir: below(net_dir), bin_dir: below(bin_dir), kubeconfig }
}

#[cfg(test)]
mod tests;
