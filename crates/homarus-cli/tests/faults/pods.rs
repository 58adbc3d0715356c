//! The processes of pods, seen from the machine that runs them.

use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Now, in microseconds since 1970: what other processes tell is comparable.
pub fn micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// A process of a container.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pub name: String,
}

impl Process {
    /// All processes of a pod but its process 1, which holds its namespaces and runs nothing of it.
    pub fn of(pod: &Pod) -> Vec<Self> {
        let addr = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).expect("the pod has an address");
        let folders = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        folders.filter(|folder| has_address(folder, &addr)).filter_map(|folder| Self::read(&folder)).collect()
    }

    fn read(folder: &Path) -> Option<Self> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let own = ids.split_whitespace().next_back()?;
        let name = fs::read_to_string(folder.join("comm")).ok()?.trim().to_owned();
        (own != "1").then_some(Self { pid: Pid::from_raw(pid)?, name })
    }

    /// As `kill -9` does.
    pub fn kill(&self) {
        // One that has followed another of the same pod is as dead.
        let _ = kill_process(self.pid, Signal::KILL);
    }

    pub fn ask_to_end(&self) {
        kill_process(self.pid, Signal::TERM).unwrap();
    }

    /// Whether it has ended: its sockets are closed by then, also if nobody has noticed.
    pub fn is_gone(&self) -> bool {
        let stat = fs::read_to_string(PathBuf::from(format!("/proc/{}/stat", self.pid.as_raw_nonzero())));
        let state = stat.ok().and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X'])));
        state.unwrap_or(true)
    }
}

/// Whether a process sees a network that has this address. (The machine's only knows the way there.)
fn has_address(folder: &Path, addr: &str) -> bool {
    let Ok(tree) = fs::read_to_string(folder.join("net/fib_trie")) else { return false };
    let leaf = format!("|-- {addr}");
    let mut lines = tree.lines().skip_while(|line| !line.trim_end().ends_with(&leaf));
    lines.nth(1).is_some_and(|kind| kind.contains("/32 host LOCAL"))
}
