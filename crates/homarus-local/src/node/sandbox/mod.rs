//! A pod's namespaces and the processes in them, seen from the node.
//!
//! [`Sandbox::create`] starts the pod's process 1 (this program again, see [`super::entry`]); [`Sandbox::launch`]
//! has it start a container. Every process is a child of that process 1: it goes when the node goes.
//!
//! A pod is no sandbox in the sense of security: its containers see the machine's files and share its kernel.

pub(crate) mod init;
pub(crate) mod launch;
pub(crate) mod passing;
pub(crate) mod rights;
mod root;
pub(crate) mod streams;
pub(crate) mod wire;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, oneshot, watch};

use super::sys::{self, Leave};
use streams::Streams;
use wire::{FromInit, INIT_ARG, LaunchSpec, SandboxSpec, ToInit};

/// How long process 1 may take to make the pod's namespaces.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a container may take from order to exec.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest complaint of a launcher that is read.
const COMPLAINT_MAX: u64 = 16 << 10;

/// What can go wrong between the node and a pod's processes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The namespaces could not be made: the machine's fault (not root, no room); worth trying again.
    #[error("creating the pod's namespaces: {0}")]
    Create(String),
    /// The container could not be started: mostly the spec's fault (a missing program, a bad mount).
    #[error("{0}")]
    Launch(String),
    /// The pod's process 1 is gone, and with it the pod.
    #[error("the pod's process 1 is gone")]
    Gone,
    /// A system call of the node's own failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exited {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

/// Starts processes 1. One thread does it for all pods and lives as long as the node: the kernel counts the thread
/// that made a process as its parent, whose end would be the process's.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    requests: mpsc::UnboundedSender<(OwnedFd, oneshot::Sender<io::Result<Child>>)>,
}

impl Spawner {
    /// Starts the thread. `program` answers to [`INIT_ARG`].
    pub(crate) fn start(program: PathBuf) -> io::Result<Self> {
        let (requests, mut inbox) = mpsc::unbounded_channel::<(OwnedFd, oneshot::Sender<io::Result<Child>>)>();
        std::thread::Builder::new().name("pod-spawner".into()).spawn(move || {
            while let Some((control, answer)) = inbox.blocking_recv() {
                let _ = answer.send(spawn_init(&program, control));
            }
        })?;
        Ok(Self { requests })
    }

    async fn spawn(&self, control: OwnedFd) -> Result<Child, SandboxError> {
        let (answer, child) = oneshot::channel();
        self.requests.send((control, answer)).map_err(|_| SandboxError::Gone)?;
        Ok(child.await.map_err(|_| SandboxError::Gone)??)
    }
}

fn spawn_init(program: &PathBuf, control: OwnedFd) -> io::Result<Child> {
    let own = sys::own("pid")?;
    sys::leave(Leave::ChildPids)?;
    let child = Command::new(program).arg(INIT_ARG).env_clear().stdin(Stdio::from(control)).stdout(Stdio::null()).spawn();
    sys::enter(&own)?;
    child
}

type Waiting = Mutex<HashMap<u64, Entry>>;

#[derive(Debug)]
struct Entry {
    spawned: Option<oneshot::Sender<Result<(), String>>>,
    exited: Option<oneshot::Sender<Exited>>,
}

/// A pod's namespaces with its process 1.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// In truth a `SOCK_SEQPACKET`, for which the standard library has no name: it tells when the other end is gone.
    control: Arc<UnixDatagram>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
    /// The root of process 1, by descriptor: its number may one day be another's.
    root: OwnedFd,
    net: Arc<OwnedFd>,
    killed: mpsc::UnboundedSender<()>,
    gone: watch::Receiver<bool>,
}

/// A process in a pod.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u64,
    /// Resolves when it ended; fails when the whole pod went.
    pub(crate) exited: oneshot::Receiver<Exited>,
    /// The node's end of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Sandbox {
    /// Makes a pod's namespaces.
    pub(crate) async fn create(spawner: &Spawner, spec: &SandboxSpec) -> Result<Self, SandboxError> {
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        let mut child = spawner.spawn(theirs).await?;
        passing::send(&ours, &serde_json::to_vec(spec).map_err(io::Error::from)?, &[])?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(io::Error::from)?;
        let control = Arc::new(UnixDatagram::from_std(ours.into())?);
        let first = tokio::time::timeout(CREATE_TIMEOUT, receive(&control)).await;
        let problem = match first {
            Ok(Ok(Some(FromInit::Ready))) => None,
            Ok(Ok(Some(FromInit::Failed { message }))) => Some(message),
            Ok(Ok(_)) => Some("process 1 ended at once".into()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {CREATE_TIMEOUT:?}")),
        };
        if let Some(message) = problem {
            let _ = child.kill();
            let _ = child.wait();
            return Err(SandboxError::Create(message));
        }
        let net = Arc::new(sys::of(child.id(), "net")?);
        let root = std::fs::File::open(format!("/proc/{}/root", child.id()))?.into();
        let waiting = Arc::new(Waiting::default());
        let (killed, kills) = mpsc::unbounded_channel();
        let (gone_tx, gone) = watch::channel(false);
        tokio::spawn(attend(control.clone(), waiting.clone(), child, kills, gone_tx));
        Ok(Self { control, waiting, next: AtomicU64::new(1), root, net, killed, gone })
    }

    /// The pod's network namespace.
    pub(crate) fn net(&self) -> &Arc<OwnedFd> {
        &self.net
    }

    /// The pod's own root as the node sees it: where volumes are filled. Good for as long as the sandbox is held.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    /// Resolves when the pod's process 1 is gone.
    pub(crate) fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut gone = self.gone.clone();
        async move {
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    /// Starts a process: a container, or one in the container `within`.
    pub(crate) async fn launch(&self, spec: &LaunchSpec, within: Option<u64>, streams: Streams) -> Result<Process, SandboxError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (order, theirs) = UnixStream::pair()?;
        let (spawned_tx, spawned) = oneshot::channel();
        let (exited_tx, exited) = oneshot::channel();
        let entry = Entry { spawned: Some(spawned_tx), exited: Some(exited_tx) };
        self.waiting.lock().insert(id, entry);
        let spec = LaunchSpec { terminal: matches!(streams, Streams::Terminal), ..spec.clone() };
        let (input, outputs) = match streams {
            Streams::Pipes { stdin, stdout, stderr } => (stdin, vec![stdout, stderr]),
            Streams::Terminal => (None, Vec::new()),
        };
        let message = serde_json::to_vec(&ToInit::Spawn { id, within }).map_err(io::Error::from)?;
        let theirs = OwnedFd::from(theirs);
        self.send(&message, &[&theirs].into_iter().chain(&outputs).collect::<Vec<_>>()).await?;
        drop((theirs, outputs));
        let launch = async {
            spawned.await.map_err(|_| SandboxError::Gone)?.map_err(SandboxError::Launch)?;
            let handed = tokio::task::spawn_blocking(move || hand_over(order, &spec, input)).await;
            let (terminal, complaint) = handed.map_err(|_| SandboxError::Gone)??;
            if complaint.is_empty() { Ok(terminal) } else { Err(SandboxError::Launch(complaint)) }
        };
        match tokio::time::timeout(LAUNCH_TIMEOUT, launch).await {
            Ok(Ok(terminal)) => Ok(Process { id, exited, terminal }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.signal(id, 9).await?;
                Err(SandboxError::Launch(format!("no exec within {LAUNCH_TIMEOUT:?}")))
            }
        }
    }

    /// Sends a signal to one process.
    pub(crate) async fn signal(&self, id: u64, signal: i32) -> Result<(), SandboxError> {
        let message = serde_json::to_vec(&ToInit::Signal { id, signal }).map_err(io::Error::from)?;
        self.send(&message, &[]).await
    }

    /// Kills the whole pod.
    pub(crate) fn kill(&self) {
        let _ = self.killed.send(());
    }

    /// Kills the whole pod; resolves when it is gone.
    pub(crate) async fn destroy(&self) {
        self.kill();
        self.gone().await;
    }

    async fn send(&self, bytes: &[u8], fds: &[&OwnedFd]) -> Result<(), SandboxError> {
        let sent = self.control.async_io(Interest::WRITABLE, || passing::send(&*self.control, bytes, fds)).await;
        match sent {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(SandboxError::Gone),
            other => Ok(other?),
        }
    }
}

/// Hands the order over and waits for the exec: its terminal, and its complaint, which is empty when it happened.
fn hand_over(mut order: UnixStream, spec: &LaunchSpec, input: Option<OwnedFd>) -> io::Result<(Option<OwnedFd>, String)> {
    order.set_read_timeout(Some(LAUNCH_TIMEOUT))?;
    passing::send(&order, &[0], &input.iter().collect::<Vec<_>>())?;
    drop(input);
    // A launcher that complains early may not read it all.
    let _ = order.write_all(&serde_json::to_vec(spec)?);
    order.shutdown(Shutdown::Write)?;
    let (mut terminal, mut complaint) = (None, Vec::new());
    if spec.terminal {
        let mut byte = [0];
        let (received, fds) = passing::receive(&order, &mut byte)?;
        terminal = fds.into_iter().next();
        // Without a terminal it is the beginning of the complaint.
        complaint.extend(byte.iter().take(received).filter(|_| terminal.is_none()));
    }
    order.take(COMPLAINT_MAX).read_to_end(&mut complaint)?;
    Ok((terminal, String::from_utf8_lossy(&complaint).into_owned()))
}

async fn receive(control: &UnixDatagram) -> io::Result<Option<FromInit>> {
    let received = control.async_io(Interest::READABLE, || init::receive::<FromInit>(control)).await?;
    Ok(received.map(|(message, _)| message))
}

/// Listens to a pod's process 1 until it is gone.
async fn attend(
    control: Arc<UnixDatagram>,
    waiting: Arc<Waiting>,
    mut child: Child,
    mut kills: mpsc::UnboundedReceiver<()>,
    gone: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            message = receive(&control) => match message {
                Ok(Some(message)) => dispatch(&waiting, message),
                Ok(None) | Err(_) => break,
            },
            // Both an order to kill and the end of the sandbox's owner.
            _ = kills.recv() => break,
        }
    }
    let _ = child.kill();
    let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    waiting.lock().clear();
    let _ = gone.send(true);
}

fn dispatch(waiting: &Waiting, message: FromInit) {
    let mut waiting = waiting.lock();
    match message {
        FromInit::Spawned { id } => {
            if let Some(answer) = waiting.get_mut(&id).and_then(|e| e.spawned.take()) {
                let _ = answer.send(Ok(()));
            }
        }
        FromInit::NotSpawned { id, message } => {
            if let Some(answer) = waiting.remove(&id).and_then(|e| e.spawned) {
                let _ = answer.send(Err(message));
            }
        }
        FromInit::Exited { id, code, signal } => {
            if let Some(answer) = waiting.remove(&id).and_then(|e| e.exited) {
                let _ = answer.send(Exited { code, signal });
            }
        }
        FromInit::Ready | FromInit::Failed { .. } => {}
    }
}
