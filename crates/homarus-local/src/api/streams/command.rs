//! Commands in containers that run (`exec`), and the containers' own processes (`attach`).
//!
//! Each stream of the process is one of the connection's: channels 0 to 4 of WebSocket messages, or SPDY streams told by
//! the header `streamtype`. The end is told on the error stream by a Status (from `v4.channel.k8s.io` on), which carries
//! the exit code.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};

use super::channels::Channels;
use super::spdy::session::{self, Opened};
use super::upgrade::{Carrier, Upgrade};
use super::{CHUNK, Input, Output, tunnel};
use crate::api::node::{CommandOptions, NodeBackend, NodeError, PodRef, Running};

/// How long a client may take to open all streams.
const OPENING: Duration = Duration::from_secs(30);
/// A process may have left others behind that hold its outputs open: they are heard for so long after they said something.
const QUIET: Duration = Duration::from_millis(500);
/// What a client may send for one change of size.
const MAX_SIZE_TEXT: usize = 256;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// What is run, and by whom.
#[derive(Clone)]
pub struct Command {
    /// Who runs the pod.
    pub node: Arc<dyn NodeBackend>,
    /// In which pod.
    pub pod: PodRef,
    /// What.
    pub options: CommandOptions,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").field("pod", &self.pod).field("options", &self.options).finish_non_exhaustive()
    }
}

/// The streams of a process, as far as they were asked for.
#[derive(Debug)]
struct Streams {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    resize: Option<Input>,
    errors: Output,
}

/// Runs until it ends or the client goes.
pub async fn serve(carrier: Carrier, io: Upgrade, command: Command) {
    match carrier {
        Carrier::Channels => over_channels(io, command).await,
        Carrier::Spdy => over_spdy(io, command).await,
        Carrier::Tunnel => tunnel::through(io, |near| over_spdy(near, command)).await,
    }
}

/// Runs over channels.
async fn over_channels(io: impl AsyncRead + AsyncWrite, command: Command) {
    let mut channels = Channels::default();
    let options = &command.options;
    let streams = Streams {
        stdin: options.stdin.then(|| channels.input(STDIN)),
        stdout: options.stdout.then(|| channels.output(STDOUT)),
        stderr: options.separate_stderr().then(|| channels.output(STDERR)),
        resize: options.tty.then(|| channels.input(RESIZE)),
        errors: channels.output(ERROR),
    };
    channels.serve(io, run(command, streams)).await;
}

/// Runs over SPDY, when the client has opened all that it asked for.
async fn over_spdy(io: impl AsyncRead + AsyncWrite, command: Command) {
    const STREAMS: usize = 5;
    let (streams, opened) = mpsc::channel(STREAMS);
    let take = move |opened: Opened| streams.try_send(opened).is_ok();
    let work = async move {
        match tokio::time::timeout(OPENING, gather(opened, &command.options)).await {
            Ok(Some(streams)) => run(command, streams).await,
            _ => tracing::debug!("a client didn't open the streams that it asked for"),
        }
    };
    session::serve(io, take, work).await;
}

async fn gather(mut opened: mpsc::Receiver<Opened>, options: &CommandOptions) -> Option<Streams> {
    let wanted = [
        ("error", true),
        ("stdin", options.stdin),
        ("stdout", options.stdout),
        ("stderr", options.separate_stderr()),
        ("resize", options.tty),
    ];
    let mut missing: Vec<&str> = wanted.into_iter().filter_map(|(name, wanted)| wanted.then_some(name)).collect();
    let mut found = HashMap::new();
    while !missing.is_empty() {
        let stream = opened.recv().await?;
        let kind = stream.headers.get("streamtype")?.clone();
        missing.retain(|name| *name != kind);
        found.insert(kind, stream);
    }
    let mut input = |name: &str| found.remove(name);
    let (stdin, resize) = (input("stdin"), input("resize"));
    Some(Streams {
        stdin: stdin.map(|s| s.input),
        resize: resize.map(|s| s.input),
        stdout: input("stdout").map(|s| s.output),
        stderr: input("stderr").map(|s| s.output),
        errors: input("error")?.output,
    })
}

/// Runs it to its end and tells of that. Dropped before, it kills a command that it started.
async fn run(command: Command, streams: Streams) {
    let Streams { stdin, stdout, stderr, resize, errors } = streams;
    let attached = command.options.command.is_empty();
    let status = match command.node.run(command.pod, command.options).await {
        Err(error) => failure(&error, attached),
        Ok(running) => carry(running, stdin, [stdout.as_ref(), stderr.as_ref()], resize).await,
    };
    for output in [stdout, stderr].into_iter().flatten() {
        output.finish().await;
    }
    let _ = errors.send(status.to_string().as_bytes()).await;
    errors.finish().await;
}

async fn carry(running: Running, stdin: Option<Input>, outputs: [Option<&Output>; 2], resize: Option<Input>) -> Value {
    let Running { stdin: to, stdout, stderr, resize: size, exited, guard } = running;
    let (over_tx, over) = watch::channel(false);
    let [out, err] = outputs;
    let outputs = futures::future::join(pump(stdout, out, over.clone()), pump(stderr, err, over));
    let ended = async {
        let code = exited.await;
        let _ = over_tx.send(true);
        code
    };
    let inputs = futures::future::join(feed(stdin, to), resized(resize, size));
    let told = async { futures::future::join(ended, outputs).await.0 };
    let code = tokio::select! {
        code = told => code,
        // The inputs' end is no end of the process.
        _ = futures::future::join(inputs, std::future::pending::<()>()) => None,
    };
    drop(guard);
    code.map_or_else(|| failure(&NodeError::Failed("the container ended".into()), false), exit)
}

/// From the client to the process, whose input ends with the client's.
async fn feed(input: Option<Input>, to: Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    let (Some(mut input), Some(mut to)) = (input, to) else { return };
    while let Some(Ok(bytes)) = input.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    // What comes now is for nobody, and mustn't hold up the connection.
    drop(input);
}

/// From the process to the client, until its end; what comes from those it left behind is heard while they go on talking.
async fn pump(from: Option<Box<dyn AsyncRead + Send + Unpin>>, to: Option<&Output>, mut over: watch::Receiver<bool>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut chunk = vec![0; CHUNK];
    loop {
        let quiet = async {
            let _ = over.wait_for(|over| *over).await;
            tokio::time::sleep(QUIET).await;
        };
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            () = quiet => return,
        };
        match read {
            Ok(read @ 1..) if to.send(&chunk[..read]).await.is_ok() => {}
            _ => return,
        }
    }
}

/// A terminal's size, as clients say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

async fn resized(input: Option<Input>, resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>) {
    let (Some(mut input), Some(resize)) = (input, resize) else { return };
    let mut text = Vec::new();
    while let Some(Ok(bytes)) = input.recv().await {
        if let Some(Size { width, height }) = last_size(&mut text, &bytes) {
            resize(width, height);
        }
    }
}

/// The last whole size in what came; what is left over stays for the next time.
fn last_size(text: &mut Vec<u8>, bytes: &Bytes) -> Option<Size> {
    text.extend_from_slice(bytes);
    let mut sizes = serde_json::Deserializer::from_slice(text).into_iter::<Size>();
    let mut last = None;
    while let Some(Ok(size)) = sizes.next() {
        last = Some((size, sizes.byte_offset()));
    }
    if let Some((_, read)) = last {
        text.drain(..read);
    }
    if text.len() > MAX_SIZE_TEXT {
        text.clear();
    }
    last.map(|(size, _)| size)
}

/// What is told of a process that ended.
fn exit(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

/// What is told of one that couldn't be run.
fn failure(error: &NodeError, attached: bool) -> Value {
    let what = if attached { "attaching to container" } else { "executing command in container" };
    crate::api::refusal::Refusal::internal(format!("error {what}: {error}")).status()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces() {
        let mut text = Vec::new();
        let mut say = |piece: &'static str| last_size(&mut text, &Bytes::from_static(piece.as_bytes()));
        assert_eq!(say("{\"Width\":80,"), None);
        assert_eq!(say("\"Height\":24}\n{\"Wid"), Some(Size { width: 80, height: 24 }));
        assert_eq!(say("th\":1,\"Height\":2}{\"Width\":3,\"Height\":4}"), Some(Size { width: 3, height: 4 }));
        assert_eq!(say("nonsense"), None);
    }

    #[test]
    fn nonsense_instead_of_a_size_is_not_kept() {
        let mut text = Vec::new();
        for _ in 0..1000 {
            assert_eq!(last_size(&mut text, &Bytes::from_static(b"[[[[[[[[")), None);
            assert!(text.len() <= MAX_SIZE_TEXT);
        }
    }

    #[test]
    fn exit_codes_are_told() {
        assert_eq!(exit(0)["status"], "Success");
        assert_eq!(exit(3).pointer("/details/causes/0/message").unwrap(), "3");
    }
}
