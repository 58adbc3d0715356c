//! What users run in containers (`exec`), and their hold on the containers' own processes (`attach`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::logs::{Said, Stream};
use super::order;
use super::start::Live;
use super::worker::Handle;
use crate::api::node::{CommandOptions, NodeError, Running};
use crate::node::sandbox::Sandbox;
use crate::node::sandbox::streams::{self, Streams};

const SIGKILL: i32 = 9;
/// What of a container's words may be on its way to someone attached.
const PIPE: usize = 64 << 10;

/// Starts a command, or attaches.
pub(crate) async fn run(handle: &Handle, options: CommandOptions) -> Result<Running, NodeError> {
    let (sandbox, live) = {
        let view = handle.view.borrow();
        (view.sandbox.clone(), view.live.get(&options.container).cloned())
    };
    let missing = || NodeError::NotFound(format!("container not found ({:?})", options.container));
    let (sandbox, live) = sandbox.zip(live).ok_or_else(missing)?;
    let answer = if options.command.is_empty() { attach(handle, &live, &options) } else { exec(sandbox, &live, options).await };
    answer.map_err(|e| NodeError::Failed(e.to_string()))
}

async fn exec(sandbox: Arc<Sandbox>, live: &Live, options: CommandOptions) -> io::Result<Running> {
    let mut spec = order::joining(&live.order, options.command);
    if options.tty && !spec.env.iter().any(|(name, _)| name == "TERM") {
        spec.env.push(("TERM".into(), "xterm".into()));
    }
    let (mut input, mut stdout, mut stderr) = (None, None, None);
    let streams = if options.tty {
        Streams::Terminal
    } else {
        let stdin = options.stdin.then(streams::input).transpose()?.map(|(theirs, ours)| {
            input = Some(ours);
            theirs
        });
        Streams::Pipes { stdin, stdout: output(options.stdout, &mut stdout)?, stderr: output(options.stderr, &mut stderr)? }
    };
    let process = sandbox.launch(&spec, Some(live.process), streams).await.map_err(io::Error::other)?;
    let terminal = process.terminal.map(Arc::new);
    if let Some(terminal) = &terminal {
        stdout = Some(Box::new(streams::reader(terminal)?));
        input = options.stdin.then(|| terminal.try_clone()).transpose()?;
    }
    Ok(Running {
        stdin: input.as_ref().map(writer).transpose()?,
        stdout,
        stderr,
        resize: terminal.map(resizer),
        exited: Box::pin(async move { process.exited.await.ok().map(|exited| exited.code) }),
        guard: Some(Box::new(Killed { sandbox, process: process.id })),
    })
}

type Read = Box<dyn AsyncRead + Send + Unpin>;

/// Where the process writes to; the other end is kept if it is wanted.
fn output(wanted: bool, kept: &mut Option<Read>) -> io::Result<OwnedFd> {
    if !wanted {
        return streams::nowhere();
    }
    let (theirs, ours) = streams::output()?;
    *kept = Some(Box::new(ours));
    Ok(theirs)
}

fn writer(end: &OwnedFd) -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    Ok(Box::new(streams::writer(end)?))
}

fn resizer(terminal: Arc<OwnedFd>) -> Box<dyn Fn(u16, u16) + Send + Sync> {
    // A terminal whose process ended has no size to be told.
    Box::new(move |columns, rows| drop(streams::resize(&terminal, columns, rows)))
}

/// Nobody waits for it any more: it ends. (Its children see the end of their terminal or pipes.)
struct Killed {
    sandbox: Arc<Sandbox>,
    process: u64,
}

impl Drop for Killed {
    fn drop(&mut self) {
        let (sandbox, process) = (self.sandbox.clone(), self.process);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = sandbox.signal(process, SIGKILL).await;
            });
        }
    }
}

fn attach(handle: &Handle, live: &Live, options: &CommandOptions) -> io::Result<Running> {
    let run = handle.view.borrow().runs.get(&options.container).copied().unwrap_or(0);
    let pieces = || handle.logs.pieces(&options.container, run);
    let listen = |wanted: bool, stream| wanted.then(pieces).flatten().map(|pieces| Box::new(listen(pieces, stream)) as Read);
    let end = pieces();
    let input = if options.stdin { take_input(live, options)? } else { None };
    Ok(Running {
        stdin: input,
        stdout: listen(options.stdout, Stream::Out),
        stderr: listen(options.separate_stderr(), Stream::Err),
        resize: live.terminal.clone().map(resizer),
        exited: Box::pin(async move {
            if let Some(end) = end {
                ended(end).await;
            }
            Some(0)
        }),
        guard: None,
    })
}

fn take_input(live: &Live, options: &CommandOptions) -> io::Result<Option<Box<dyn AsyncWrite + Send + Unpin>>> {
    let mut input = live.input.lock();
    let writer = input.as_ref().map(writer).transpose()?;
    if live.input_once && !options.tty {
        // The input ends with the first who is attached to it.
        *input = None;
    }
    Ok(writer)
}

/// What comes on one stream, for who reads at their own pace.
fn listen(mut pieces: broadcast::Receiver<Said>, stream: Stream) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(PIPE);
    tokio::spawn(async move {
        loop {
            match pieces.recv().await {
                Ok(said) if said.stream != stream => {}
                Ok(said) => {
                    if far.write_all(&said.bytes).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    near
}

async fn ended(mut pieces: broadcast::Receiver<Said>) {
    while !matches!(pieces.recv().await, Err(RecvError::Closed)) {}
}
