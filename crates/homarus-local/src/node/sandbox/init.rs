//! Process 1 of a pod: it makes the pod's namespaces, starts its processes, reaps them, and dies with the node.
//!
//! It knows nothing of Kubernetes. Two things end it: the control socket closing (the node is gone, however it
//! went) and the signal the kernel sends for its parent's death; the kernel then kills every process of the pod,
//! and the pod's mounts, interfaces and files go with the last of them.
//!
//! It runs on one thread, before any other is started, which is what makes moving between mount namespaces sound.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use super::passing;
use super::wire::{FromInit, LAUNCH_ARG, MESSAGE_MAX, SandboxSpec, ToInit};
use crate::node::sys::{self, Leave};

/// Orphans that nobody waits for are reaped this often; the pod's own processes are at once.
const REAP_INTERVAL: Duration = Duration::from_secs(5);
/// How often what a container left behind is looked for again while it dies.
const SWEEPS_MAX: usize = 100;

struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// The mounts it stands in, and their identity; absent for one that joined another's.
    mounts: Option<(OwnedFd, u64)>,
}

struct Init {
    control: OwnedFd,
    own_mounts: OwnedFd,
    processes: HashMap<u64, Process>,
}

/// The whole life of process 1. The control socket is its standard input.
pub(crate) fn run() -> i32 {
    match live() {
        Ok(()) => 0,
        Err(error) => {
            let message = format!("{error:#}");
            if let Ok(control) = rustix::io::dup(rustix::stdio::stdin()) {
                let _ = report(&control, &FromInit::Failed { message });
            }
            1
        }
    }
}

fn live() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let Some((spec, _)) = receive::<SandboxSpec>(&control)? else {
        return Ok(());
    };
    become_pod(&spec)?;
    let mut init = Init { control, own_mounts: sys::own("mnt")?, processes: HashMap::new() };
    report(&init.control, &FromInit::Ready)?;
    while init.turn()? {}
    Ok(())
}

fn become_pod(spec: &SandboxSpec) -> io::Result<()> {
    sys::leave(if spec.host_network { Leave::PodOnHostNetwork } else { Leave::Pod })
        .map_err(|e| said("making namespaces (needs root)", e))?;
    rustix::system::sethostname(spec.hostname.as_bytes())?;
    lay_ground(&spec.memory_limit).map_err(|e| said("making the pod's root", e))?;
    for (name, value) in &spec.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value).map_err(|e| said(&format!("setting sysctl {name}"), e))?;
    }
    Ok(())
}

/// A root in memory, with the machine's whole tree at `/machine`: following it when something is unmounted there,
/// so that a pod holds no file system of the machine busy, and never telling it of mounts made here.
fn lay_ground(memory_limit: &str) -> io::Result<()> {
    const BASE: &str = "/tmp";
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    tmpfs(BASE, &format!("mode=0755,size={memory_limit}"))?;
    for folder in ["machine", "proc", "volumes", "layer", "ends", "shm"] {
        fs::create_dir(format!("{BASE}/{folder}"))?;
    }
    rustix::process::pivot_root(BASE, format!("{BASE}/machine").as_str())?;
    rustix::process::chdir("/")?;
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", guarded, None)?;
    tmpfs("/shm", "mode=1777,size=64m")
}

fn tmpfs(at: &str, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str()))?;
    Ok(())
}

impl Init {
    /// Waits for one thing to happen and deals with it; false when the node is gone.
    fn turn(&mut self) -> io::Result<bool> {
        let orders = {
            let mut polled = vec![PollFd::new(&self.control, PollFlags::IN)];
            polled.extend(self.processes.values().map(|p| PollFd::new(&p.pidfd, PollFlags::IN)));
            let timeout = Timespec::try_from(REAP_INTERVAL).map_err(io::Error::other)?;
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            !polled[0].revents().is_empty()
        };
        self.reap()?;
        if !orders {
            return Ok(true);
        }
        let Some((order, fds)) = receive::<ToInit>(&self.control)? else {
            return Ok(false);
        };
        match order {
            ToInit::Spawn { id, within } => {
                let answer = match self.spawn(id, within, fds) {
                    Ok(()) => FromInit::Spawned { id },
                    Err(error) => FromInit::NotSpawned { id, message: error.to_string() },
                };
                report(&self.control, &answer)?;
            }
            ToInit::Signal { id, signal } => {
                if let (Some(process), Some(signal)) = (self.processes.get(&id), Signal::from_named_raw(signal)) {
                    let _ = rustix::process::pidfd_send_signal(&process.pidfd, signal);
                }
            }
        }
        Ok(true)
    }

    fn spawn(&mut self, id: u64, within: Option<u64>, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        let order = fds.next().ok_or_else(|| io::Error::other("a start without the socket of its order"))?;
        // A process that gets a terminal has no outputs before.
        let mut output = || fds.next().map_or_else(Stdio::null, Stdio::from);
        let (stdout, stderr) = (output(), output());
        let mounts = match within {
            None => {
                sys::leave(Leave::Mounts)?;
                let mounts = sys::own("mnt")?;
                let identity = fs::metadata("/proc/self/ns/mnt")?.ino();
                Some((mounts, identity))
            }
            Some(other) => {
                let place = self.processes.get(&other).and_then(|p| p.mounts.as_ref());
                let (place, _) = place.ok_or_else(|| io::Error::other("the container is not running"))?;
                sys::enter(place)?;
                None
            }
        };
        let spawned = Command::new("/proc/self/exe")
            .arg(LAUNCH_ARG)
            .env_clear()
            .stdin(Stdio::from(order))
            .stdout(stdout)
            .stderr(stderr)
            .spawn();
        sys::enter(&self.own_mounts)?;
        let child = spawned?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("a child without a process id"))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        self.processes.insert(id, Process { pid, pidfd, mounts });
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let found = self.processes.iter().find(|(_, p)| p.pid == pid);
                    let Some(id) = found.map(|(id, _)| *id) else {
                        continue;
                    };
                    if let Some(Process { mounts: Some((_, identity)), .. }) = self.processes.remove(&id) {
                        kill_all_in(identity);
                    }
                    let signal = status.terminating_signal();
                    let code = status.exit_status().unwrap_or(128 + signal.unwrap_or(0));
                    report(&self.control, &FromInit::Exited { id, code, signal })?;
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A container ends with its first process, as everywhere: what it left running is killed. Its mount namespace
/// tells its processes from others', whatever session or group they made.
fn kill_all_in(mounts: u64) {
    for _ in 0..SWEEPS_MAX {
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let there = fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|m| m.ino());
            if pid != 1 && there.is_ok_and(|ino| ino == mounts) {
                found = true;
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn said(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn report(control: &OwnedFd, message: &FromInit) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    passing::send(control, &bytes, &[])
}

/// Receives one datagram, with descriptors; `None` when the other side is gone.
pub(crate) fn receive<T: serde::de::DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_MAX];
    let (received, fds) = passing::receive(socket, &mut bytes)?;
    if received == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..received])?, fds)))
}
