//! The mesh of one machine, by its commands, with the sample application on it. Needs root, and the programs that pods run
//! beside `homarus`.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_homarus"))
}

fn require_setting() {
    assert!(rustix::process::geteuid().is_root(), "these tests make network namespaces: run them as root");
    let folder = program().parent().unwrap();
    for name in ["homarus-proxy", "homarus-redirect", "homarus-demo"] {
        assert!(folder.join(name).is_file(), "{name} is missing: cargo build -p homarus-proxy -p homarus-redirect -p homarus-demo");
    }
}

struct Mesh {
    child: Child,
    state: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mesh {
    fn up(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let child = Command::new(program())
            .args(["up", "--state-dir"])
            .arg(&state)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, state, _folder: folder }
    }

    fn homarus(&self, line: &str) -> Output {
        let config = self.state.join("kubeconfig");
        Command::new(program()).arg("--kubeconfig").arg(config).args(line.split_whitespace()).output().unwrap()
    }

    fn on_state(&self, command: &str) -> Output {
        Command::new(program()).args([command, "--state-dir"]).arg(&self.state).output().unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_slice(&self.homarus(line).stdout).unwrap_or_default()
    }

    /// Asks until the answer is as wanted.
    fn until(&self, line: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let answer = self.json(line);
            if wanted(&answer) {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "{line}: {answer:#}\n{:?}", self.homarus(line));
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    homarus_testkit::poll_every(Duration::from_millis(100), PATIENCE, what, || wanted().then_some(()));
}

fn link_exists() -> bool {
    Path::new("/sys/class/net/homarus0").exists()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// One scenario, as there is one mesh on a machine at a time.
#[test]
fn one_command_runs_the_mesh_and_leaves_nothing_behind() {
    require_setting();
    assert!(!link_exists(), "another mesh runs on this machine: end it with `homarus down`");
    let mut mesh = Mesh::up(&["--demo", "--ephemeral"]);
    let rows = mesh.until("stat deploy -n emojivoto -t 3s -o json", |rows| {
        let row =
            |name: &str| rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name)).cloned().unwrap_or_default();
        ["emoji", "voting", "web"].iter().all(|name| row(name)["rps"].is_number()) && row("voting")["success"].as_f64() < Some(1.0)
    });
    assert!(rows.as_array().unwrap().iter().all(|row| row["meshed"] == "1/1"), "{rows:#}");

    let checked = mesh.homarus("check --proxy --wait 30s");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    let identity = mesh.homarus("identity -n emojivoto -l app=web-svc");
    let subject = "Subject: CN=web.emojivoto.serviceaccount.identity.linkerd.cluster.local";
    assert!(text(&identity.stdout).contains(subject), "{}{}", text(&identity.stdout), text(&identity.stderr));
    let endpoints = mesh.json("diagnostics endpoints web-svc.emojivoto.svc.cluster.local:80 --wait 1s -o json");
    assert_eq!(endpoints[0]["service"], "web-svc.emojivoto", "{endpoints:#}");
    let policy = mesh.json("diagnostics policy -n emojivoto svc/voting-svc 8080 -o json");
    assert_eq!(policy.pointer("/metadata/Kind/Resource/name"), Some(&Value::from("voting-svc")), "{policy:#}");
    let talk = mesh.json("top deploy -n emojivoto --count 1 --interval 3s -o json");
    assert!(talk.as_array().unwrap().iter().any(|line| line["source"] == "web.emojivoto"), "{talk:#}");

    let second = mesh.on_state("up");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("already runs"), "{}", text(&second.stderr));
    let status = mesh.on_state("status");
    assert!(status.status.success() && text(&status.stdout).contains("7 ready, 7 meshed"), "{}", text(&status.stdout));

    // Politely, then not at all.
    let pid = rustix::process::Pid::from_child(&mesh.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(mesh.child.wait().unwrap().success(), "Ctrl-C is no failure");
    assert!(!link_exists() && !mesh.state.exists(), "nothing is left of an ephemeral mesh");
    assert_eq!(mesh.on_state("status").status.code(), Some(1));

    let mut mesh = Mesh::up(&[]);
    until("a second mesh", || mesh.on_state("status").status.success() && link_exists() && mesh.state.join("api").exists());
    mesh.child.kill().unwrap();
    mesh.child.wait().unwrap();
    until("the kernel takes away what a killed mesh had", || !link_exists());
    assert!(mesh.state.join("api").exists(), "its state is kept");
    assert!(mesh.on_state("down").status.success());
    assert!(!mesh.state.exists(), "and removed by `down`");
}
