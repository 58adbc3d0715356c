//! Awaiting the proxy, with a stand-in for its admin server on loopback.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// An admin server that answers `/ready` with 503 so many times, then with 200; tells each request line.
fn admin(address: &str, mut not_ready: usize) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, received) = channel();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            BufReader::new(&connection).read_line(&mut line).unwrap();
            let ready = !line.starts_with("GET /ready") || not_ready == 0;
            not_ready = not_ready.saturating_sub(1);
            let status = if ready { "200 OK" } else { "503 Service Unavailable" };
            let _client_may_be_gone = write!(connection, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            if requests.send(line.trim_end().to_string()).is_err() {
                return;
            }
        }
    });
    (port, received)
}

fn command(port: u16, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homarus-redirect"));
    command.args(["await", "--backoff", "10ms", "--port", &port.to_string()]);
    command.args(arguments.split_whitespace());
    for name in ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED", "LINKERD_AWAIT_VERBOSE"] {
        command.env_remove(name);
    }
    command
}

fn run(port: u16, arguments: &str) -> Output {
    command(port, arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn requests(received: &Receiver<String>) -> Vec<String> {
    received.try_iter().collect()
}

#[test]
fn waits_until_ready_on_either_loopback_address() {
    for address in ["127.0.0.1", "::1"] {
        let (port, received) = admin(address, 3);
        let output = run(port, "--timeout=2m");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(requests(&received), ["GET /ready HTTP/1.1"; 4]);
    }
}

#[test]
fn a_timeout_exits_with_69_and_runs_nothing() {
    let started = Instant::now();
    let output = run(closed_port(), "-t 100ms -- echo ran");
    assert_eq!(output.status.code(), Some(69));
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(stderr(&output).contains("linkerd-proxy failed to become ready within 100ms"), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_silent_proxy_counts_as_not_ready() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = run(silent.local_addr().unwrap().port(), "-t 100ms");
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("timed out"), "{}", stderr(&output));
}

#[test]
fn a_timeout_that_is_not_fatal_runs_the_program() {
    let output = run(closed_port(), "-t 50ms --timeout-fatal=false -- echo ran");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"ran\n");
}

#[test]
fn becomes_the_program_and_gives_its_exit_code() {
    let (port, _received) = admin("127.0.0.1", 0);
    let child = command(port, "").args(["--", "sh", "-c", "echo $$; exit 7"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, format!("{pid}\n").as_bytes(), "the same process");
}

#[test]
fn a_program_that_cannot_run_exits_with_71() {
    let (port, received) = admin("127.0.0.1", 0);
    for arguments in ["-- /nonexistent", "-S -- /nonexistent"] {
        let output = run(port, arguments);
        assert_eq!(output.status.code(), Some(71));
        assert!(stderr(&output).contains("/nonexistent"), "{}", stderr(&output));
    }
    let ready = "GET /ready HTTP/1.1";
    assert_eq!(requests(&received), [ready, ready, "POST /shutdown HTTP/1.1"]);
}

#[test]
fn with_shutdown_the_proxy_is_told_when_the_program_has_ended() {
    let (port, received) = admin("127.0.0.1", 1);
    let output = run(port, "--shutdown -- false");
    assert_eq!(output.status.code(), Some(1));
    let ready = "GET /ready HTTP/1.1";
    assert_eq!(requests(&received), [ready, ready, "POST /shutdown HTTP/1.1"]);
    assert_eq!(run(port, "--shutdown").status.code(), Some(2), "nothing to run");
}

#[test]
fn with_shutdown_sigterm_reaches_the_program() {
    let (port, received) = admin("127.0.0.1", 0);
    let script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done";
    let mut child = command(port, "-S").args(["--", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "up\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(requests(&received), ["GET /ready HTTP/1.1", "POST /shutdown HTTP/1.1"]);
}

#[test]
fn sigterm_ends_the_waiting() {
    let (port, received) = admin("127.0.0.1", usize::MAX);
    let mut child = command(port, "-S -- echo ran").stdout(Stdio::piped()).spawn().unwrap();
    received.recv().unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn is_bypassed_when_disabled_and_says_so_when_asked() {
    for name in ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED"] {
        let output = command(closed_port(), "-S -v -- echo ran").env(name, "not in the mesh").output().unwrap();
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ran\n"[..]));
        assert!(stderr(&output).contains("not in the mesh"), "{}", stderr(&output));
        let output = command(closed_port(), "-t 50ms").env(name, "").output().unwrap();
        assert_eq!(output.status.code(), Some(69), "empty means enabled");
    }
    let disabled = || {
        let mut command = command(closed_port(), "");
        command.env("LINKERD_DISABLED", "reason");
        command
    };
    assert!(disabled().output().unwrap().stderr.is_empty());
    let output = disabled().env("LINKERD_AWAIT_VERBOSE", "1").output().unwrap();
    assert!(stderr(&output).contains("reason"));
}
