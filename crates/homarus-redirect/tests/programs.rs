//! The `iptables` programs as the other means. Needs root, iproute2, nftables and iptables.
#![allow(clippy::unwrap_used)]

mod scenario;

use std::process::Command;

use scenario::{PEER, PEER6, POD, POD6, PROXY_UID, Place, Scenario, program, text};

const PORTS: &str = "init -p 4143 -o 4140 -u 2102 --inbound-ports-to-ignore 4190 --outbound-ports-to-ignore 6000-6001";

fn check_redirection(scenario: &Scenario) {
    scenario.start_proxy();
    scenario.serve_at(Place::Peer, &[PEER, PEER6], 6001);
    scenario.serve_at(Place::Pod, &[POD, POD6], 4190);
    for (pod, peer) in [(POD, PEER), (POD6, PEER6)] {
        assert!(scenario.dial(Place::Pod, peer, 6002).starts_with("outbound"));
        assert_eq!(scenario.dial(Place::Pod, peer, 6001), "direct 6001");
        assert!(scenario.dial(Place::Peer, pod, 80).starts_with("inbound"));
        assert_eq!(scenario.dial(Place::Peer, pod, 4190), "direct 4190");
        assert_eq!(scenario.dial_as(PROXY_UID, 1, peer, 6001), "direct 6001");
    }
}

#[test]
fn the_programs_set_the_same_rules_and_a_second_run_keeps_them() {
    let scenario = Scenario::new();
    let first = scenario.redirect(&format!("{PORTS} --iptables-mode plain -w"));
    assert!(first.status.success(), "{}", text(&first));
    let rules = scenario.in_pod("iptables-save -t nat | grep ^-A; ip6tables-save -t nat | grep ^-A");
    assert!(rules.contains("proxy-init/redirect-all-outgoing-to-proxy-port"), "{rules}");
    assert!(!scenario.in_pod("nft list tables").contains("homarus"), "asked for programs, so no netlink");
    let second = scenario.redirect(&format!("{PORTS} --iptables-mode plain -w"));
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(scenario.in_pod("iptables-save -t nat | grep ^-A; ip6tables-save -t nat | grep ^-A"), rules);
    check_redirection(&scenario);
}

#[test]
fn missing_programs_are_replaced_by_netlink_with_a_warning() {
    let scenario = Scenario::new();
    let mut command = Command::new(program());
    command.args(PORTS.split(' ')).args(["--iptables-mode", "legacy"]).env("PATH", "/nonexistent");
    let output = scenario.run(command);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("not on the PATH"), "{}", text(&output));
    assert!(scenario.in_pod("nft list tables").contains("table ip homarus"));
    check_redirection(&scenario);
}

#[test]
fn the_injectors_program_names_mean_netlink() {
    let scenario = Scenario::new();
    let names = "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save";
    let output = scenario.redirect(&format!("{PORTS} {names} --log-level debug --log-format json"));
    assert!(output.status.success(), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).lines().all(|line| line.starts_with('{')), "{}", text(&output));
    assert_eq!(scenario.in_pod("nft list tables"), "table ip homarus\ntable ip6 homarus\n");
    check_redirection(&scenario);
}

#[test]
fn simulation_prints_the_commands() {
    let output = Command::new(program())
        .args(PORTS.split(' '))
        .args(["--iptables-mode", "legacy", "--simulate", "--ipv6=false"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("iptables-legacy-save -t nat\niptables-legacy -t nat -N PROXY_INIT_REDIRECT\n"));
    assert!(!printed.contains("ip6tables"));
}
