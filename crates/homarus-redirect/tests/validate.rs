//! The network validator in and out of the mesh. Needs root, iproute2 and nftables.
#![allow(clippy::unwrap_used)]

mod scenario;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use scenario::{Scenario, program, text};

/// The arguments that the injector passes, but for the time.
const VALIDATE: &str = "validate --log-format plain --log-level debug --listen-addr 0.0.0.0:4140";
const VALIDATE6: &str = "validate --connect-addr [fd00::1]:20001 --listen-addr [::]:4140";

#[test]
fn passes_where_rules_are_in_force() {
    let scenario = Scenario::new();
    scenario.init("");
    for arguments in [format!("{VALIDATE} --connect-addr 1.1.1.1:20001"), VALIDATE6.to_string(), "validate".into()] {
        let output = scenario.redirect(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
}

#[test]
fn exits_with_95_where_they_are_not() {
    let scenario = Scenario::new();
    for arguments in [format!("{VALIDATE} --connect-addr 1.1.1.1:20001"), VALIDATE6.to_string()] {
        let output = scenario.redirect(&format!("{arguments} --timeout 500ms"));
        assert_eq!(output.status.code(), Some(95), "{}", text(&output));
        assert!(text(&output).contains("linkerd-cni"), "{}", text(&output));
    }
}

#[test]
fn exits_with_95_when_only_the_other_family_is_redirected() {
    let scenario = Scenario::new();
    scenario.init("--ipv6=false");
    assert_eq!(scenario.redirect("validate").status.code(), Some(0));
    assert_eq!(scenario.redirect(&format!("{VALIDATE6} --timeout 500ms")).status.code(), Some(95));
}

#[test]
fn exits_with_95_when_nothing_answers_in_time() {
    let scenario = Scenario::new();
    scenario.in_peer(
        "nft add table ip t; nft add chain ip t c '{ type filter hook prerouting priority 0; }'; \
                      nft add rule ip t c tcp dport 20001 drop",
    );
    let started = Instant::now();
    let output = scenario.redirect("validate --connect-addr 1.1.1.1:20001 --timeout 300ms");
    assert_eq!(output.status.code(), Some(95), "{}", text(&output));
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn exits_with_95_when_its_port_is_taken() {
    let scenario = Scenario::new();
    scenario.init("");
    scenario.start_proxy();
    let output = scenario.redirect("validate --listen-addr 127.0.0.1:4140");
    assert_eq!(output.status.code(), Some(95), "{}", text(&output));
}

#[test]
fn exits_with_95_when_ended_by_a_signal() {
    let scenario = Scenario::new();
    scenario.in_peer(
        "nft add table ip t; nft add chain ip t c '{ type filter hook prerouting priority 0; }'; \
                      nft add rule ip t c tcp dport 20001 drop",
    );
    for signal in [Signal::TERM, Signal::INT] {
        let start = || {
            let arguments = "validate --connect-addr 1.1.1.1:20001 --timeout 60s";
            Command::new(program()).args(arguments.split(' ')).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut child = scenario.pod.enter(start).unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        lines.find(|line| line.as_ref().unwrap().contains("connecting")).unwrap().unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(95));
    }
}
