//! What containers write: into files with a bound, and out of them as `kubectl logs` asks.
//!
//! Lines have the format of container runtimes (`<time> <stream> F|P <text>`). Each run of a container has its own
//! file; the run before the last one is kept (`--previous`), older ones are not. A file that grows too long is
//! turned over once, so a run keeps between one and two times [`FILE_MAX`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, watch};

use crate::api::node::{LogOptions, LogStream, NodeError};

/// A file is turned over when it got this long.
pub(crate) const FILE_MAX: u64 = 10 << 20;
/// A longer line is written in parts.
const LINE_MAX: usize = 16 << 10;
/// Chunks that a slow reader may be behind.
const CHUNKS_MAX: usize = 16;

/// Pieces that who is attached may be behind.
const PIECES_MAX: usize = 64;

/// What is known of a file while it is written to: its version goes up with each write, and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    version: u64,
    closed: bool,
}

/// A piece of what a container writes, as it comes.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) stream: Stream,
    pub(crate) bytes: Bytes,
}

/// Where it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// A file that is being written.
#[derive(Debug, Clone)]
struct Live {
    progress: watch::Receiver<Progress>,
    pieces: broadcast::WeakSender<Said>,
}

/// The logs of one pod.
#[derive(Debug)]
pub(crate) struct PodLogs {
    folder: PathBuf,
    live: Mutex<HashMap<PathBuf, Live>>,
}

impl PodLogs {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, live: Mutex::default() }
    }

    fn path(&self, container: &str, run: u32) -> PathBuf {
        self.folder.join(container).join(format!("{run}.log"))
    }

    /// Starts to write down what a run of a container says.
    pub(crate) fn record(
        &self,
        container: &str,
        run: u32,
        stdout: pipe::Receiver,
        stderr: Option<pipe::Receiver>,
    ) -> io::Result<()> {
        let path = self.path(container, run);
        fs::create_dir_all(self.folder.join(container))?;
        if let Some(old) = run.checked_sub(2) {
            let old = self.path(container, old);
            self.live.lock().remove(&old);
            let _ = fs::remove_file(turned_over(&old));
            let _ = fs::remove_file(old);
        }
        let (progress, receiver) = watch::channel(Progress { version: 0, closed: false });
        let file = File::options().create(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        let pieces = broadcast::Sender::new(PIECES_MAX);
        self.live.lock().insert(path.clone(), Live { progress: receiver, pieces: pieces.downgrade() });
        let writer = Arc::new(Mutex::new(Writer { path, file, length, progress, pieces }));
        let out = tokio::spawn(copy(Stream::Out, stdout, writer.clone()));
        let err = stderr.map(|stderr| tokio::spawn(copy(Stream::Err, stderr, writer.clone())));
        tokio::spawn(async move {
            let _ = out.await;
            if let Some(err) = err {
                let _ = err.await;
            }
            writer.lock().progress.send_modify(|p| p.closed = true);
        });
        Ok(())
    }

    /// What a run says from now on, as it comes. Who is too slow misses some of it.
    pub(crate) fn pieces(&self, container: &str, run: u32) -> Option<broadcast::Receiver<Said>> {
        let live = self.live.lock();
        let pieces = live.get(&self.path(container, run))?.pieces.upgrade()?;
        Some(pieces.subscribe())
    }

    /// Resolves when all that a run said is written down, or after a moment.
    pub(crate) async fn settled(&self, container: &str, run: u32) {
        const MOMENT: std::time::Duration = std::time::Duration::from_millis(500);
        let live = self.live.lock().get(&self.path(container, run)).cloned();
        if let Some(mut live) = live {
            let _ = tokio::time::timeout(MOMENT, live.progress.wait_for(|p| p.closed)).await;
        }
    }

    /// The last lines of a run, at most so many bytes: what an error left behind.
    pub(crate) fn last_words(&self, container: &str, run: u32, most: usize) -> String {
        let lines = read_all(&self.path(container, run)).unwrap_or_default();
        let mut words = String::new();
        for line in lines.iter().rev() {
            if words.len() + line.text.len() > most {
                break;
            }
            words.insert_str(0, &String::from_utf8_lossy(&line.text));
        }
        words
    }

    /// The lines asked for, as they come. `run` is the container's current one.
    pub(crate) fn read(&self, run: u32, options: LogOptions) -> Result<LogStream, NodeError> {
        let container = options.container.clone();
        let none_before = || NodeError::NotReady(format!("previous terminated container {container:?} not found"));
        let run = match run.checked_sub(u32::from(options.previous)) {
            Some(run) => run,
            None => return Err(none_before()),
        };
        let path = self.path(&container, run);
        if !path.exists() {
            let waits = || NodeError::NotReady(format!("container {container:?} is waiting to start"));
            return Err(if options.previous { none_before() } else { waits() });
        }
        let live = self.live.lock().get(&path).map(|live| live.progress.clone()).filter(|_| options.follow);
        let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
        tokio::spawn(async move {
            if let Err(error) = stream(&path, live, &options, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed())
    }

    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn turned_over(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
    progress: watch::Sender<Progress>,
    pieces: broadcast::Sender<Said>,
}

impl Writer {
    fn line(&mut self, stream: &str, full: bool, text: &[u8]) -> io::Result<()> {
        let tag = if full { 'F' } else { 'P' };
        let mut line = format!("{:.9} {stream} {tag} ", Timestamp::now()).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.length += line.len() as u64;
        if self.length > FILE_MAX {
            fs::rename(&self.path, turned_over(&self.path))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.length = 0;
        }
        self.progress.send_modify(|p| p.version += 1);
        Ok(())
    }
}

async fn copy(stream: Stream, mut from: pipe::Receiver, to: Arc<Mutex<Writer>>) {
    let mut held: Vec<u8> = Vec::new();
    let mut chunk = vec![0; LINE_MAX];
    loop {
        let read = from.read(&mut chunk).await.unwrap_or(0);
        held.extend_from_slice(&chunk[..read]);
        let mut writer = to.lock();
        if read > 0 && writer.pieces.receiver_count() > 0 {
            let _ = writer.pieces.send(Said { stream, bytes: Bytes::copy_from_slice(&chunk[..read]) });
        }
        let stream = stream.name();
        let mut start = 0;
        while let Some(length) = held[start..].iter().position(|b| *b == b'\n') {
            // A full disk must not end the container.
            let _ = writer.line(stream, true, &held[start..start + length]);
            start += length + 1;
        }
        held.drain(..start);
        while held.len() >= LINE_MAX {
            let _ = writer.line(stream, false, &held[..LINE_MAX]);
            held.drain(..LINE_MAX);
        }
        if read == 0 {
            if !held.is_empty() {
                let _ = writer.line(stream, false, &held);
            }
            return;
        }
    }
}

/// One line as it was written down; its text ends with a line feed if the container wrote one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    time: Timestamp,
    text: Vec<u8>,
}

fn parse(raw: &[u8]) -> Option<Line> {
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let _stream = parts.next()?;
    let full = parts.next()? == b"F";
    let mut text = parts.next()?.to_vec();
    if full {
        text.push(b'\n');
    }
    Some(Line { time, text })
}

fn lines_of(bytes: &[u8]) -> Vec<Line> {
    bytes.split(|b| *b == b'\n').filter_map(parse).collect()
}

fn read_all(path: &Path) -> io::Result<Vec<Line>> {
    let mut bytes = fs::read(turned_over(path)).unwrap_or_default();
    bytes.extend(fs::read(path)?);
    Ok(lines_of(&bytes))
}

/// Writes lines to a reader, with what it wants and no more.
struct Reader<'a> {
    options: &'a LogOptions,
    left: u64,
    to: &'a mpsc::Sender<io::Result<Bytes>>,
}

impl Reader<'_> {
    /// False when the reader has enough.
    async fn give(&mut self, lines: &[Line]) -> bool {
        let mut out = Vec::new();
        for line in lines {
            if self.options.timestamps {
                out.extend_from_slice(format!("{:.9} ", line.time).as_bytes());
            }
            out.extend_from_slice(&line.text);
        }
        let keep = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        out.truncate(keep);
        self.left -= out.len() as u64;
        let sent = out.is_empty() || self.to.send(Ok(out.into())).await.is_ok();
        sent && self.left > 0
    }
}

async fn stream(
    path: &Path,
    live: Option<watch::Receiver<Progress>>,
    options: &LogOptions,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut reader = Reader { options, left: options.limit_bytes.unwrap_or(u64::MAX), to };
    let mut file = File::open(path)?;
    let mut bytes = fs::read(turned_over(path)).unwrap_or_default();
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    bytes.extend_from_slice(&tail);
    let since = options.since.unwrap_or(Timestamp::MIN);
    let mut lines = lines_of(&bytes);
    lines.retain(|line| line.time >= since);
    let skip = options.tail_lines.map_or(0, |tail| lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX)));
    if !reader.give(&lines[skip..]).await {
        return Ok(());
    }
    let Some(mut live) = live else { return Ok(()) };
    follow(path, &mut file, &mut live, &mut reader).await
}

async fn follow(path: &Path, file: &mut File, live: &mut watch::Receiver<Progress>, reader: &mut Reader<'_>) -> io::Result<()> {
    loop {
        let closed = live.borrow_and_update().closed;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Only whole lines: the rest is read again with what follows.
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let back = i64::try_from(bytes.len() - whole).unwrap_or(0);
        file.seek(SeekFrom::Current(-back))?;
        if !reader.give(&lines_of(&bytes[..whole])).await {
            return Ok(());
        }
        if whole == 0 {
            let turned = file.metadata()?.ino();
            if fs::metadata(path).is_ok_and(|m| m.ino() != turned) {
                *file = File::open(path)?;
                continue;
            }
            if closed {
                return Ok(());
            }
            tokio::select! {
                changed = live.changed() => if changed.is_err() { return Ok(()) },
                () = reader.to.closed() => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pipe_pair() -> (File, pipe::Receiver) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (File::from(writer), pipe::Receiver::from_owned_fd(reader).unwrap())
    }

    async fn text_of(mut stream: LogStream) -> String {
        let mut text = Vec::new();
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_long_log_is_turned_over_and_a_follower_misses_nothing() {
        const LINES: usize = 1500;
        let folder = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(folder.path().join("pod"));
        let ((mut out, out_end), (_, err_end)) = (pipe_pair(), pipe_pair());
        logs.record("c", 0, out_end, Some(err_end)).unwrap();
        let options = LogOptions { container: "c".into(), follow: true, ..LogOptions::default() };
        let follower = tokio::spawn(text_of(logs.read(0, options.clone()).unwrap()));
        let writer = tokio::task::spawn_blocking(move || {
            let filler = "x".repeat(15_000);
            for number in 0..LINES {
                writeln!(out, "{number} {filler}").unwrap();
            }
        });
        writer.await.unwrap();
        let text = follower.await.unwrap();
        let numbers = text.lines().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
        assert!(numbers.eq(0..LINES), "lines were lost or came twice");
        let files = fs::read_dir(folder.path().join("pod/c")).unwrap();
        let lengths: Vec<u64> = files.map(|f| f.unwrap().metadata().unwrap().len()).collect();
        assert!(lengths.len() == 2 && lengths.iter().all(|l| *l <= FILE_MAX + 20_000), "{lengths:?}");
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_put_together_again() {
        let folder = tempfile::tempdir().unwrap();
        let logs = PodLogs::new(folder.path().join("pod"));
        let ((mut out, out_end), (_, err_end)) = (pipe_pair(), pipe_pair());
        logs.record("c", 0, out_end, Some(err_end)).unwrap();
        let long = "y".repeat(40_000);
        out.write_all(long.as_bytes()).unwrap();
        drop(out);
        logs.settled("c", 0).await;
        let options = LogOptions { container: "c".into(), ..LogOptions::default() };
        assert_eq!(text_of(logs.read(0, options.clone()).unwrap()).await, long);
        let previous = LogOptions { previous: true, ..options };
        assert!(matches!(logs.read(0, previous), Err(NodeError::NotReady(_))));
    }
}
