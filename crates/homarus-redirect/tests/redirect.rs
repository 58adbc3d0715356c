//! Redirection with real sockets in network namespaces. Needs root, iproute2 and nftables.
#![allow(clippy::unwrap_used)]

mod scenario;

use std::net::UdpSocket;
use std::time::Duration;

use scenario::{FAR, FAR6, PEER, PEER6, POD, POD6, PROXY_UID, Place, Scenario, text};

/// Rules as `init` sets them with these arguments, and the stand-in for the proxy.
fn meshed(arguments: &str) -> Scenario {
    let scenario = Scenario::new();
    scenario.start_proxy();
    scenario.init(arguments);
    scenario
}

#[test]
fn outbound_connections_reach_the_proxy_with_their_original_destination() {
    let scenario = meshed("");
    let port = scenario.serve(Place::Peer, &[PEER, PEER6]);
    assert_eq!(scenario.dial(Place::Pod, PEER, port), format!("outbound {PEER}:{port}"));
    assert_eq!(scenario.dial(Place::Pod, PEER6, port), format!("outbound [{PEER6}]:{port}"));
    let nowhere = "192.0.2.2";
    assert_eq!(scenario.dial(Place::Pod, nowhere, 1404), format!("outbound {nowhere}:1404"));
}

#[test]
fn inbound_connections_reach_the_proxy_with_their_original_destination() {
    let scenario = meshed("");
    let port = scenario.serve(Place::Pod, &[POD, POD6]);
    assert_eq!(scenario.dial(Place::Peer, POD, port), format!("inbound {POD}:{port}"));
    assert_eq!(scenario.dial(Place::Peer, POD6, port), format!("inbound [{POD6}]:{port}"));
    assert_eq!(scenario.dial(Place::Peer, POD, 9), format!("inbound {POD}:9"), "nobody need listen there");
}

#[test]
fn the_proxys_own_connections_are_left_alone() {
    let scenario = meshed("--proxy-gid 77");
    let port = scenario.serve(Place::Peer, &[PEER, PEER6]);
    for address in [PEER, PEER6] {
        assert_eq!(scenario.dial_as(PROXY_UID, 1, address, port), format!("direct {port}"));
        assert_eq!(scenario.dial_as(1, 77, address, port), format!("direct {port}"));
        assert!(scenario.dial_as(PROXY_UID + 1, 1, address, port).starts_with("outbound"));
    }
}

#[test]
fn loopback_is_left_alone_also_by_the_pods_own_address() {
    let scenario = meshed("");
    let port = scenario.serve(Place::Pod, &["127.0.0.1", "::1", POD, POD6]);
    for address in ["127.0.0.1", "::1", POD, POD6] {
        assert_eq!(scenario.dial(Place::Pod, address, port), format!("direct {port}"), "{address}");
    }
}

#[test]
fn skipped_ports_and_ranges_are_left_alone_in_their_direction_only() {
    let scenario = meshed("--inbound-ports-to-ignore 4190,5000-5002,bad --outbound-ports-to-ignore 6000-6001,6003");
    for (port, inbound_skipped, outbound_skipped) in [
        (4190, true, false),
        (4999, false, false),
        (5000, true, false),
        (5001, true, false),
        (5002, true, false),
        (5003, false, false),
        (6000, false, true),
        (6001, false, true),
        (6002, false, false),
        (6003, false, true),
    ] {
        scenario.serve_at(Place::Pod, &[POD, POD6], port);
        scenario.serve_at(Place::Peer, &[PEER, PEER6], port);
        let kind = |skipped, redirected| if skipped { "direct" } else { redirected };
        for (pod, peer) in [(POD, PEER), (POD6, PEER6)] {
            let answer = scenario.dial(Place::Peer, pod, port);
            assert!(answer.starts_with(kind(inbound_skipped, "inbound")), "to {pod}:{port}: {answer}");
            let answer = scenario.dial(Place::Pod, peer, port);
            assert!(answer.starts_with(kind(outbound_skipped, "outbound")), "to {peer}:{port}: {answer}");
        }
    }
}

#[test]
fn skipped_subnets_are_left_alone_inbound_by_source_and_redirected_outbound() {
    let scenario = meshed("--subnets-to-ignore 10.88.0.0/16,fd88::/16");
    let port = scenario.serve(Place::Pod, &[POD, POD6]);
    assert_eq!(scenario.dial_from(FAR, POD, port), format!("direct {port}"));
    assert_eq!(scenario.dial_from(FAR6, POD6, port), format!("direct {port}"));
    assert_eq!(scenario.dial_from(PEER, POD, port), format!("inbound {POD}:{port}"));
    assert_eq!(scenario.dial_from(PEER6, POD6, port), format!("inbound [{POD6}]:{port}"));
    assert_eq!(scenario.dial(Place::Pod, FAR, port), format!("outbound {FAR}:{port}"));
    assert_eq!(scenario.dial(Place::Pod, FAR6, port), format!("outbound [{FAR6}]:{port}"));
}

#[test]
fn only_listed_ports_are_redirected_inbound() {
    let scenario = meshed("--ports-to-redirect 8080,8081 --inbound-ports-to-ignore 8081");
    for port in [8080, 8081, 8082] {
        scenario.serve_at(Place::Pod, &[POD], port);
    }
    assert_eq!(scenario.dial(Place::Peer, POD, 8080), format!("inbound {POD}:8080"));
    assert_eq!(scenario.dial(Place::Peer, POD, 8081), "direct 8081");
    assert_eq!(scenario.dial(Place::Peer, POD, 8082), "direct 8082");
    let port = scenario.serve(Place::Peer, &[PEER]);
    assert_eq!(scenario.dial(Place::Pod, PEER, port), format!("outbound {PEER}:{port}"));
}

#[test]
fn ipv6_is_left_alone_when_switched_off() {
    let scenario = meshed("--ipv6=false");
    let port = scenario.serve(Place::Peer, &[PEER, PEER6]);
    assert_eq!(scenario.dial(Place::Pod, PEER, port), format!("outbound {PEER}:{port}"));
    assert_eq!(scenario.dial(Place::Pod, PEER6, port), format!("direct {port}"));
    let port = scenario.serve(Place::Pod, &[POD6]);
    assert_eq!(scenario.dial(Place::Peer, POD6, port), format!("direct {port}"));
}

#[test]
fn udp_is_never_touched() {
    let scenario = meshed("");
    let bind = |address: &str| UdpSocket::bind((address, 0)).unwrap();
    let echo = scenario.peer.enter(|| bind(PEER)).unwrap();
    let client = scenario.pod.enter(|| bind(POD)).unwrap();
    client.send_to(b"hello", echo.local_addr().unwrap()).unwrap();
    echo.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 16];
    let (len, from) = echo.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..len], from), (&b"hello"[..], client.local_addr().unwrap()));
}

#[test]
fn a_second_run_replaces_the_first_and_nothing_else() {
    let scenario = meshed("--outbound-ports-to-ignore 6000");
    let first = scenario.listed("ip homarus");
    let first6 = scenario.listed("ip6 homarus");
    scenario.in_pod("nft add table ip other; nft add chain ip other c '{ type nat hook output priority -100; }'");
    let other = scenario.listed("ip other");
    scenario.init("--outbound-ports-to-ignore 6000");
    assert_eq!(scenario.listed("ip homarus"), first);
    assert_eq!(scenario.listed("ip6 homarus"), first6);
    scenario.init("--outbound-ports-to-ignore 6001");
    assert_eq!(scenario.listed("ip homarus"), first.replace("6000", "6001"));
    assert_eq!(scenario.listed("ip other"), other);
    assert_eq!(scenario.in_pod("nft list tables").lines().count(), 3);
}

#[test]
fn other_nat_tables_go_on_beside_ours_whoever_comes_first() {
    let translate = |scenario: &Scenario, backend| {
        // As kube-proxy and iptables do: another table, at the usual priority.
        scenario.in_pod(&format!(
            "nft add table ip nat; nft add chain ip nat OUTPUT '{{ type nat hook output priority -100; }}'; \
             nft add rule ip nat OUTPUT ip daddr 10.96.0.1 tcp dport 80 dnat to {PEER}:{backend}"
        ));
    };
    for ours_first in [true, false] {
        let scenario = Scenario::new();
        scenario.start_proxy();
        let backend = scenario.serve(Place::Peer, &[PEER]);
        if ours_first {
            scenario.init("");
        }
        translate(&scenario, backend);
        if !ours_first {
            scenario.init("");
        }
        let left_alone = scenario.dial_as(PROXY_UID, 1, "10.96.0.1", 80);
        assert_eq!(left_alone, format!("direct {backend}"), "what we leave, they translate");
        assert_eq!(scenario.dial(Place::Pod, "10.96.0.1", 80), "outbound 10.96.0.1:80", "what we take is ours");
    }
}

#[test]
fn the_simulated_script_is_what_is_set_and_simulating_sets_nothing() {
    let scenario = Scenario::new();
    let arguments = "-p 4143 -o 4140 -u 2102 -g 7 --inbound-ports-to-ignore 4190-4191,25 \
                     --subnets-to-ignore 10.0.0.0/8,fd00::/16 --ports-to-redirect 80";
    let simulated = scenario.redirect(&format!("init {arguments} --simulate"));
    assert!(simulated.status.success(), "{}", text(&simulated));
    assert_eq!(scenario.in_pod("nft list ruleset"), "");
    let script = String::from_utf8(simulated.stdout).unwrap();
    scenario.in_pod(&format!("nft -f - <<'END'\n{script}END"));
    let by_nft = scenario.in_pod("nft -s list ruleset");
    assert!(scenario.redirect(&format!("init {arguments}")).status.success());
    assert_eq!(scenario.in_pod("nft -s list ruleset"), by_nft, "nft makes of the script what we make by netlink");
    assert!(by_nft.contains("tcp dport 4190-4191 counter return comment \"ignore-port-4190-4191\""), "{by_nft}");
}

#[test]
fn another_namespace_can_be_named() {
    let scenario = Scenario::new();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&scenario.peer));
    let netns = format!("/proc/{}/fd/{fd}", std::process::id());
    scenario.init(&format!("--netns {netns} --timeout-close-wait-secs 61"));
    assert_eq!(scenario.in_pod("nft list ruleset"), "");
    assert!(scenario.in_peer("nft list tables").contains("table ip homarus"));
    let setting = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    assert_eq!(scenario.in_peer(setting), "61\n");
    assert_ne!(scenario.in_pod(setting), "61\n");
    let output = scenario.redirect("init -p 1 -o 2 --netns /nonexistent");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("/nonexistent"), "{}", text(&output));
}

#[test]
fn long_port_lists_fit() {
    let scenario = Scenario::new();
    scenario.start_proxy();
    let odd: Vec<String> = (0..512).map(|n| (10_001 + 2 * n).to_string()).collect();
    let odd = odd.join(",");
    scenario.init(&format!("--inbound-ports-to-ignore {odd} --outbound-ports-to-ignore {odd}"));
    scenario.serve_at(Place::Peer, &[PEER], 11_023);
    assert_eq!(scenario.dial(Place::Pod, PEER, 11_023), "direct 11023", "the last of the list");
    assert_eq!(scenario.dial(Place::Pod, PEER, 11_022), format!("outbound {PEER}:11022"));
}

#[test]
fn wrong_arguments_are_named_and_set_nothing() {
    let scenario = Scenario::new();
    for (arguments, complaint) in [
        ("init -o 4140", "--incoming-proxy-port must be a valid TCP port number"),
        ("init -p 4143", "--outgoing-proxy-port must be a valid TCP port number"),
        ("init -p 1 -o 2 --subnets-to-ignore 10.0.0.300/8", "10.0.0.300/8"),
        ("init -p 1 -o 2 --iptables-mode ebpf", "--iptables-mode valid values"),
        ("init -p 1 -o 2 --firewall-bin-path /bin/sh", "--firewall-bin-path valid values"),
    ] {
        let output = scenario.redirect(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(complaint), "{}", text(&output));
    }
    assert_eq!(scenario.in_pod("nft list ruleset"), "");
}
