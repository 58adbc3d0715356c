//! A node of two network namespaces, its own and a pod's, which the plugins `ptp` and `host-local` connect; then ours, with
//! their result, as a container runtime does it.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use homarus_redirect::netns::Netns;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::ApiServer;

/// Where Debian's containernetworking-plugins are.
const PLUGINS: &str = "/usr/lib/cni";

pub struct Node {
    pub netns: Netns,
    pub pod: Netns,
    pub api: ApiServer,
    folder: TempDir,
}

impl Node {
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes network namespaces: run it as root");
        assert!(Path::new(PLUGINS).join("ptp").exists(), "install containernetworking-plugins");
        let (netns, pod) = (Netns::create().unwrap(), Netns::create().unwrap());
        shell(&netns, "ip link set lo up; sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        shell(&pod, "ip link set lo up; sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
        let api = ApiServer::start(&netns);
        let node = Self { netns, pod, api, folder: TempDir::new().unwrap() };
        node.write_kubeconfig(&node.api.kubeconfig());
        node
    }

    pub fn write_kubeconfig(&self, text: &str) {
        fs::write(self.kubeconfig(), text).unwrap();
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub fn pod_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.pod.as_fd().as_raw_fd())
    }

    /// Connects the pod; gives the result for the next plugin.
    pub fn connect(&self) -> String {
        let ranges = json!([[{ "subnet": "10.78.0.0/24" }], [{ "subnet": "fd78::/64" }]]);
        let routes = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let ipam = json!({ "type": "host-local", "dataDir": self.folder.path(), "ranges": ranges, "routes": routes });
        let config = json!({ "cniVersion": "1.0.0", "name": "pods", "type": "ptp", "ipam": ipam });
        let output = self.call(&Path::new(PLUGINS).join("ptp"), "ADD", &self.pod_path(), &config.to_string());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Our configuration as the runtime hands it on, with what is different in `linkerd`.
    pub fn config(&self, rules: &Value, previous: Option<&str>) -> String {
        let mut linkerd = json!({
            "incoming-proxy-port": 4143, "outgoing-proxy-port": 4140, "proxy-uid": 2102, "ports-to-redirect": [],
            "inbound-ports-to-ignore": ["4191", "4190"], "simulate": false, "use-wait-flag": false, "iptables-mode": "nft",
            "ipv6": true,
        });
        for (key, value) in rules.as_object().unwrap() {
            linkerd[key] = value.clone();
        }
        let config = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "linkerd-cni", "log_level": "debug", "linkerd": linkerd,
            "kubernetes": { "kubeconfig": self.kubeconfig(), "exempt-namespaces": ["linkerd-cni"] },
        });
        let text = config.to_string();
        match (previous, text.strip_suffix('}')) {
            // As text: it is to come back to the byte.
            (Some(previous), Some(open)) => format!("{open},\"prevResult\":{previous}}}"),
            _ => text,
        }
    }

    /// Calls our plugin for the pod of the test.
    pub fn plugin(&self, command: &str, config: &str) -> Output {
        self.plugin_in(command, &self.pod_path(), config)
    }

    pub fn plugin_in(&self, command: &str, netns: &str, config: &str) -> Output {
        let plugin = self.folder.path().join("linkerd-cni");
        if !plugin.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_homarus-redirect"), &plugin).unwrap();
        }
        self.call(&plugin, command, netns, config)
    }

    fn call(&self, plugin: &Path, command: &str, netns: &str, config: &str) -> Output {
        let mut call = Command::new(plugin);
        call.env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "one")
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=app;K8S_POD_NAME=web;K8S_POD_UID=u")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let run = move || {
            let mut child = call.spawn().unwrap();
            child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        self.netns.enter(run).unwrap()
    }

    /// Whether the network validator, started in the pod, is content.
    pub fn is_redirected(&self, listen: &str, connect: &str) -> bool {
        let mut validator = Command::new(env!("CARGO_BIN_EXE_homarus-redirect"));
        validator.args(["validate", "--timeout", "2s", "--listen-addr", listen, "--connect-addr", connect]);
        let output = self.pod.enter(move || validator.output().unwrap()).unwrap();
        match output.status.code() {
            Some(0) => true,
            Some(95) => false,
            _ => panic!("{}", said(&output)),
        }
    }

    pub fn in_pod(&self, script: &str) -> String {
        shell(&self.pod, script)
    }
}

pub fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

fn shell(netns: &Netns, script: &str) -> String {
    let run = || Command::new("sh").args(["-ec", script]).output().unwrap();
    let output = netns.enter(run).unwrap();
    assert!(output.status.success(), "`{script}` failed (is it installed?): {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}
