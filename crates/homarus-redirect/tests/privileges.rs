//! As pods run it: an ordinary user with a file capability, or without any. Needs root, iproute2 and nftables.
#![allow(clippy::unwrap_used)]

mod scenario;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::thread::CapabilitySet;
use scenario::{NOBODY, PEER, Place, Scenario, program, text};
use tempfile::TempDir;

const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
const VFS_CAP_FLAGS_EFFECTIVE: u32 = 1;

/// A copy under the name that running pods call, with `cap_net_admin,cap_net_raw+p`, or `+ep`.
fn image(capabilities: CapabilitySet, effective: bool) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("linkerd2-proxy-init");
    // By another process: a fork of another test would keep a descriptor of ours open for writing, and the copy busy.
    assert!(Command::new("cp").arg(program()).arg(&copy).status().unwrap().success());
    let flags = if effective { VFS_CAP_FLAGS_EFFECTIVE } else { 0 };
    let permitted = u32::try_from(capabilities.bits()).unwrap();
    let words = [VFS_CAP_REVISION_2 | flags, permitted, 0, 0, 0];
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    if permitted != 0 {
        rustix::fs::setxattr(&copy, "security.capability", &bytes, XattrFlags::empty()).unwrap();
    }
    (folder, copy)
}

fn as_nobody(program: &PathBuf, arguments: &str) -> Command {
    let mut command = Command::new(program);
    command.args(arguments.split_whitespace()).uid(NOBODY).gid(NOBODY);
    command
}

const ARGUMENTS: &str = "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false \
                         --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102";

#[test]
fn an_ordinary_user_with_the_file_capability_redirects() {
    for effective in [false, true] {
        let scenario = Scenario::new();
        scenario.start_proxy();
        let (_folder, init) = image(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, effective);
        let output = scenario.run(as_nobody(&init, ARGUMENTS));
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(scenario.dial(Place::Pod, PEER, 80), format!("outbound {PEER}:80"));
    }
}

/// As containerd starts it in a pod with `allowPrivilegeEscalation: false`: the process has the capability, and its
/// program may not gain any.
#[test]
fn an_ordinary_user_that_may_not_gain_privileges_redirects() {
    let by_file = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    for in_file in [by_file, CapabilitySet::empty()] {
        let scenario = Scenario::new();
        scenario.start_proxy();
        let (_folder, init) = image(in_file, false);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        command.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin"]);
        command.arg(&init).args(ARGUMENTS.split_whitespace());
        let output = scenario.run(command);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(scenario.dial(Place::Pod, PEER, 80), format!("outbound {PEER}:80"));
    }
}

#[test]
fn a_file_with_the_capability_starts_where_all_are_dropped() {
    let (_folder, init) = image(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, false);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]);
    let output = command.arg(&init).arg("--version").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn an_ordinary_user_passes_the_capability_on_to_programs() {
    let scenario = Scenario::new();
    let (_folder, init) = image(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, false);
    let output = scenario.run(as_nobody(&init, &format!("{ARGUMENTS} --iptables-mode plain")));
    assert!(output.status.success(), "{}", text(&output));
    assert!(scenario.in_pod("iptables-save -t nat").contains("PROXY_INIT_OUTPUT"));
}

#[test]
fn without_the_capability_it_says_what_to_do() {
    let scenario = Scenario::new();
    let (_folder, init) = image(CapabilitySet::empty(), false);
    let output = scenario.run(as_nobody(&init, ARGUMENTS));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("CAP_NET_ADMIN is missing"), "{}", text(&output));
    assert!(text(&output).contains("NET_ADMIN to the container's capabilities"), "{}", text(&output));
    assert_eq!(scenario.in_pod("nft list ruleset"), "");
}

#[test]
fn kernel_settings_that_are_read_only_are_explained() {
    let scenario = Scenario::new();
    // As in containers that aren't privileged.
    let read_only = "mount -o bind,ro /proc/sys /proc/sys; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", read_only, "sh"]).arg(program());
    command.arg("init").args(ARGUMENTS.split_whitespace()).args(["--timeout-close-wait-secs", "60"]);
    let output = scenario.run(command);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("proxyInit.runAsRoot"), "{}", text(&output));
}

#[test]
fn it_acts_by_the_name_it_was_started_under() {
    let folder = tempfile::tempdir().unwrap();
    for (name, own_flag) in [
        ("linkerd2-proxy-init", "--incoming-proxy-port"),
        ("linkerd2-network-validator", "--connect-addr"),
        ("linkerd-await", "--backoff"),
        ("homarus-redirect", "validate"),
    ] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(program(), &link).unwrap();
        let output = Command::new(&link).arg("--help").output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert!(text(&output).contains(own_flag), "{name}: {}", text(&output));
    }
}
