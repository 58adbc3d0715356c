//! The embedded cluster: `homarus up` as its user runs it.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
};

/// Starts it, and gives its kubeconfig once the mesh is up.
///
/// It ends with this process: the thread that started it lives as long, and its end is what the kernel tells.
pub fn start() -> PathBuf {
    // In a sandbox processes have small numbers, the same in each.
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let state = std::env::temp_dir().join(format!("homarus-scenarios-{}-{now}", std::process::id()));
    let (up, is_up) = mpsc::channel();
    std::thread::spawn(move || {
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "INT", env!("CARGO_BIN_EXE_homarus"), "up", "--ephemeral", "--state-dir"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv starts homarus");
        for line in BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok) {
            if let Some(path) = line.strip_prefix("kubeconfig: ") {
                let _ = up.send(PathBuf::from(path));
            }
        }
        eprintln!("the mesh has ended: {:?}", process.wait());
    });
    is_up.recv().expect("the mesh comes up")
}
