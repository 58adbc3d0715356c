#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::mpsc;
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const BRIDGE: &str = r#"{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;

#[test]
fn the_chart_s_entry_gets_path_and_exemption() {
    let text = json!({ "type": "linkerd-cni", "kubernetes": { "kubeconfig": KUBECONFIG_PLACE }, "linkerd": { "ipv6": true } });
    let entry = entry(&text.to_string(), Path::new("/etc/cni/net.d/k"), "linkerd-cni").unwrap();
    let read: Value = serde_json::from_str(entry.get()).unwrap();
    assert_eq!(read["kubernetes"], json!({ "kubeconfig": "/etc/cni/net.d/k", "exempt-namespaces": ["linkerd-cni"] }));
    assert_eq!(read["linkerd"], json!({ "ipv6": true }));
}

#[test]
fn what_is_no_entry_is_refused() {
    for text in ["", "{}", r#"{"type": "bridge", "kubernetes": {}}"#, r#"{"type": "linkerd-cni"}"#] {
        assert!(entry(text, Path::new("/k"), "").is_err(), "{text:?}");
    }
}

#[test]
fn folders_of_the_host_are_below_the_prefix() {
    let host = host(Path::new("/host"), Path::new("/etc/cni/net.d"), Path::new("/opt/cni/bin"), "k".into());
    assert_eq!((host.net_dir, host.bin_dir), ("/host/etc/cni/net.d".into(), "/host/opt/cni/bin".into()));
}

struct Machine {
    folders: TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folders: TempDir::new().unwrap() };
        for folder in ["net.d", "bin", "account"] {
            fs::create_dir(machine.at(folder)).unwrap();
        }
        fs::write(machine.at("program"), "program").unwrap();
        fs::write(machine.at("account/ca.crt"), "PEM").unwrap();
        machine.rotate("first");
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folders.path().join(path)
    }

    /// As kubelet does: the whole folder is exchanged by a rename.
    fn rotate(&self, token: &str) {
        fs::write(self.at("account/token.new"), token).unwrap();
        fs::rename(self.at("account/token.new"), self.at("account/token")).unwrap();
    }

    fn installer(&self) -> Installer {
        let text = json!({ "type": "linkerd-cni", "kubernetes": {} }).to_string();
        Installer {
            host: host(Path::new("/"), &self.at("net.d"), &self.at("bin"), "kubeconfig".into()),
            program: self.at("program"),
            entry: entry(&text, Path::new("/k"), "linkerd-cni").unwrap(),
            account: Account {
                folder: self.at("account"),
                roots: self.at("account/ca.crt"),
                host: "10.0.0.1".into(),
                port: "443".into(),
            },
            node: None,
        }
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_default()
    }
}

fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whatever_others_write_ends_with_ours_until_it_stops() {
    let machine = Machine::new();
    let installer = machine.installer();
    let (wake, wakes) = mpsc::channel();
    follow(&[&machine.at("net.d"), &machine.at("account")], wake.clone()).unwrap();
    thread::scope(|scope| {
        let installer = &installer;
        let running = scope.spawn(move || installer.run(&wakes));
        eventually("the kubeconfig comes before any configuration", || machine.read("net.d/kubeconfig").contains("first"));
        assert!(installer.host.is_ready().is_err());
        fs::write(machine.at("net.d/10-a.conflist"), BRIDGE).unwrap();
        eventually("a new configuration", || installer.host.is_ready().is_ok());
        fs::write(machine.at("net.d/10-a.conflist"), BRIDGE.replace("bridge", "ptp")).unwrap();
        eventually("one that was rewritten", || {
            let text = machine.read("net.d/10-a.conflist");
            text.contains("ptp") && conflist::has_entry(&text)
        });
        fs::write(machine.at("net.d/05-b.conf"), r#"{"type": "loopback"}"#).unwrap();
        eventually("a single plugin", || conflist::has_entry(&machine.read("net.d/05-b.conflist")));
        machine.rotate("second");
        eventually("a new token", || machine.read("net.d/kubeconfig").contains("second"));
        fs::remove_file(installer.host.program()).unwrap();
        fs::write(machine.at("net.d/nudge"), "").unwrap();
        eventually("a program that was removed", || installer.host.program().is_file());
        wake.send(Wake::Stop).unwrap();
        running.join().unwrap().unwrap();
    });
    let mut left: Vec<_> = fs::read_dir(machine.at("net.d")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["05-b.conf", "10-a.conflist", "nudge"]);
    assert!(!conflist::has_entry(&machine.read("net.d/10-a.conflist")));
    assert!(!installer.host.program().exists());
}

#[test]
fn without_an_account_it_ends_and_leaves_nothing() {
    let machine = Machine::new();
    fs::write(machine.at("net.d/10-a.conflist"), BRIDGE).unwrap();
    fs::remove_file(machine.at("account/token")).unwrap();
    let installer = machine.installer();
    let (_wake, wakes) = mpsc::channel();
    assert!(matches!(installer.run(&wakes), Err(InstallerError::Account(_))));
    assert_eq!(machine.read("net.d/10-a.conflist"), BRIDGE);
    assert!(!installer.host.program().exists());
}
