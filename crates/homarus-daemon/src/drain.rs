//! Ending politely.
//!
//! One [`Signal`] belongs to whoever decides that the program ends; clones of its [`Drain`] belong to
//! everything that must finish first. Dropping a `Drain` says "I am done". Both work across threads and
//! runtimes: nothing here spawns or holds a timer except the call that waits.

use std::time::Duration;

use tokio::sync::watch;

/// Makes a signal and the first of its listeners.
pub fn channel() -> (Signal, Drain) {
    let (tx, rx) = watch::channel(false);
    (Signal { tx }, Drain { rx })
}

/// Tells every [`Drain`] that the program is ending.
#[derive(Debug)]
pub struct Signal {
    tx: watch::Sender<bool>,
}

/// Held by everything that must finish before the program ends.
#[derive(Clone, Debug)]
pub struct Drain {
    rx: watch::Receiver<bool>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every [`Drain`] was dropped.
    Finished,
    /// The grace period was over first.
    TimedOut,
}

impl Signal {
    /// Another listener of this signal.
    pub fn drain(&self) -> Drain {
        Drain { rx: self.tx.subscribe() }
    }

    /// Tells all listeners to finish, without waiting for them.
    pub fn start(&self) {
        self.tx.send_replace(true);
    }

    /// Tells all listeners to finish and waits until they have, at most for `grace`.
    pub async fn finish(self, grace: Duration) -> Drained {
        self.start();
        match tokio::time::timeout(grace, self.tx.closed()).await {
            Ok(()) => Drained::Finished,
            Err(_) => Drained::TimedOut,
        }
    }
}

impl Drain {
    /// Resolves when the program is ending; also when the [`Signal`] is gone without a word.
    pub async fn signaled(&mut self) {
        let _ = self.rx.wait_for(|draining| *draining).await;
    }

    /// As [`Drain::signaled`], and keeps the program alive for as long as the returned value lives.
    pub async fn into_signaled(mut self) -> Self {
        self.signaled().await;
        self
    }

    /// Whether the program is ending.
    pub fn is_signaled(&self) -> bool {
        *self.rx.borrow()
    }
}

/// Why the program was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `SIGTERM`, as kubelets send it.
    Terminate,
    /// `SIGINT`, as Ctrl-C sends it.
    Interrupt,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// Listens for `SIGTERM` and `SIGINT`; the handlers are in place when this returns.
///
/// Must be called inside a tokio runtime with I/O enabled.
pub fn requests() -> std::io::Result<Requests> {
    use tokio::signal::unix::{SignalKind, signal};
    Ok(Requests { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

/// The requests to end that the operating system delivers.
#[derive(Debug)]
pub struct Requests {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Requests {
    /// The next request. A second one usually means: now.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Terminate,
            _ = self.interrupt.recv() => Request::Interrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_every_listener() {
        let (signal, drain) = channel();
        let second = signal.drain();
        let work = async move {
            let held = drain.into_signaled().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(held);
            drop(second);
        };
        let began = tokio::time::Instant::now();
        let (drained, ()) = tokio::join!(signal.finish(Duration::from_secs(10)), work);
        assert_eq!(drained, Drained::Finished);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn leaves_after_the_grace_period() {
        let (signal, drain) = channel();
        assert!(!drain.is_signaled());
        assert_eq!(signal.finish(Duration::from_secs(1)).await, Drained::TimedOut);
        assert!(drain.is_signaled());
    }

    #[tokio::test]
    async fn a_lost_signal_ends_the_wait() {
        let (signal, mut drain) = channel();
        drop(signal);
        drain.signaled().await;
    }

    #[tokio::test]
    async fn hears_the_operating_system() {
        let mut requests = requests().unwrap();
        let pid = std::process::id().to_string();
        let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(sent.success());
        let request = tokio::time::timeout(Duration::from_secs(5), requests.next()).await.unwrap();
        assert_eq!(request, Request::Terminate);
    }
}
