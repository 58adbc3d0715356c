//! `kubectl` and `helm`, told by the words of their command lines.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Runs `kubectl`, and expects it to work.
pub fn kubectl(words: &str) -> String {
    told("kubectl", &words.split(' ').collect::<Vec<_>>(), "")
}

/// Runs `kubectl` with something to read.
pub fn kubectl_with(words: &str, input: &str) -> String {
    told("kubectl", &words.split(' ').collect::<Vec<_>>(), input)
}

/// Runs `helm`, in the folder of the charts.
pub fn helm(words: &str) -> String {
    told("helm", &words.split(' ').collect::<Vec<_>>(), "")
}

/// An object.
pub fn get(words: &str) -> Value {
    serde_json::from_str(&kubectl(&format!("get -o json {words}"))).unwrap()
}

/// Runs a script in a container.
pub fn exec(namespace: &str, pod: &str, container: &str, script: &str) -> String {
    told("kubectl", &["exec", "-n", namespace, pod, "-c", container, "--", "/bin/sh", "-ec", script], "")
}

/// Runs a script in a container; what went wrong is an answer, too.
pub fn try_exec(namespace: &str, pod: &str, container: &str, script: &str) -> Result<String, String> {
    let output = run("kubectl", &["exec", "-n", namespace, pod, "-c", container, "--", "/bin/sh", "-ec", script], "");
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn told(program: &str, words: &[&str], input: &str) -> String {
    let output = run(program, words, input);
    assert!(output.status.success(), "{program} {words:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn run(program: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(words)
        .current_dir(Path::new(ROOT).join("charts"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so; gives what is.
pub fn eventually<T>(what: &str, patience: Duration, find: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = find() {
            return found;
        }
        if Instant::now() > deadline {
            let pods = kubectl("get pods -A -o wide");
            let events = kubectl("get events -A --sort-by=.lastTimestamp");
            let last: Vec<&str> = events.lines().rev().take(20).collect();
            panic!("{what} didn't come about\n{pods}\n{}", last.join("\n"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}
