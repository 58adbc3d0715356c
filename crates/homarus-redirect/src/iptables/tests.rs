#![allow(clippy::unwrap_used)]
use super::*;
use crate::config::{Config, Request};

fn rules(ports_to_redirect: Vec<i64>, ipv6: bool) -> Rules {
    let list = |text: &str| text.split(',').map(String::from).collect();
    let request = Request {
        incoming_proxy_port: 4143,
        outgoing_proxy_port: 4140,
        proxy_uid: 2102,
        proxy_gid: 2103,
        ports_to_redirect,
        inbound_ports_to_ignore: list("4190,4191,4567-4568"),
        outbound_ports_to_ignore: list("4567"),
        subnets_to_ignore: list("10.0.0.0/8,fd00::/8"),
        ipv6,
    };
    Rules::of(&Config::resolve(&request).unwrap())
}

fn lines(plan: &[Invocation]) -> Vec<String> {
    plan.iter().map(ToString::to_string).collect()
}

#[test]
fn plans_the_commands_of_proxy_init() {
    let plan = plan(&rules(vec![], false), Programs::Legacy, false);
    let expected = "\
iptables-legacy-save -t nat
iptables-legacy -t nat -N PROXY_INIT_REDIRECT
iptables-legacy -t nat -A PROXY_INIT_REDIRECT -p tcp --match multiport --dports 4190,4191,4567:4568 -j RETURN -m comment --comment proxy-init/ignore-port-4190,4191,4567:4568
iptables-legacy -t nat -A PROXY_INIT_REDIRECT -p all -j RETURN -s 10.0.0.0/8 -m comment --comment proxy-init/ignore-subnet-10.0.0.0/8
iptables-legacy -t nat -A PROXY_INIT_REDIRECT -p tcp -j REDIRECT --to-port 4143 -m comment --comment proxy-init/redirect-all-incoming-to-proxy-port
iptables-legacy -t nat -A PREROUTING -j PROXY_INIT_REDIRECT -m comment --comment proxy-init/install-proxy-init-prerouting
iptables-legacy -t nat -N PROXY_INIT_OUTPUT
iptables-legacy -t nat -A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -j RETURN -m comment --comment proxy-init/ignore-proxy-user-id
iptables-legacy -t nat -A PROXY_INIT_OUTPUT -m owner --gid-owner 2103 -j RETURN -m comment --comment proxy-init/ignore-proxy-group-id
iptables-legacy -t nat -A PROXY_INIT_OUTPUT -o lo -j RETURN -m comment --comment proxy-init/ignore-loopback
iptables-legacy -t nat -A PROXY_INIT_OUTPUT -p tcp --match multiport --dports 4567 -j RETURN -m comment --comment proxy-init/ignore-port-4567
iptables-legacy -t nat -A PROXY_INIT_OUTPUT -p tcp -j REDIRECT --to-port 4140 -m comment --comment proxy-init/redirect-all-outgoing-to-proxy-port
iptables-legacy -t nat -A OUTPUT -j PROXY_INIT_OUTPUT -m comment --comment proxy-init/install-proxy-init-output
iptables-legacy-save -t nat";
    assert_eq!(lines(&plan), expected.lines().collect::<Vec<_>>());
}

#[test]
fn each_family_has_its_programs_and_its_subnets() {
    let plan = lines(&plan(&rules(vec![80], true), Programs::Plain, true));
    let of = |program: &'static str| plan.iter().filter(move |line| line.starts_with(program));
    assert!(of("iptables ").any(|line| line.contains("10.0.0.0/8")));
    assert!(!of("iptables ").any(|line| line.contains("fd00::/8")));
    assert!(of("ip6tables ").any(|line| line.contains("fd00::/8")));
    assert!(!of("ip6tables ").any(|line| line.contains("10.0.0.0/8")));
    assert!(of("ip6tables ").any(|line| line.contains("-p tcp --destination-port 80 -j REDIRECT --to-port 4143")));
    assert!(of("ip6tables ").all(|line| line.ends_with("-w 60")));
    assert!(of("ip6tables-save ").all(|line| line.ends_with("nat")));
}

#[test]
fn what_exists_is_flushed_and_jumps_are_kept() {
    let existing = "*nat\n:PREROUTING ACCEPT [0:0]\n:PROXY_INIT_REDIRECT - [0:0]\n\
                    -A PREROUTING -m comment --comment \"x\" -j PROXY_INIT_REDIRECT\nCOMMIT\n";
    let commands = lines(&invocations(&rules(vec![], false), Programs::Legacy, Family::Ip, existing, false));
    assert_eq!(commands[0], "iptables-legacy -t nat -F PROXY_INIT_REDIRECT");
    assert!(!commands.iter().any(|line| line.contains("-A PREROUTING")));
    assert!(commands.contains(&"iptables-legacy -t nat -N PROXY_INIT_OUTPUT".to_string()));
    assert!(commands.iter().any(|line| line.contains("-A OUTPUT")));
}

#[test]
fn groups_hold_fifteen_slots_and_ranges_take_two() {
    let singles: Vec<PortRange> = (1..=16).map(PortRange::single).collect();
    assert_eq!(multiport_groups(&singles), ["1,2,3,4,5,6,7,8,9,10,11,12,13,14,15", "16"]);
    let mut mixed: Vec<PortRange> = (1..=14).map(PortRange::single).collect();
    mixed.push("20-30".parse().unwrap());
    assert_eq!(multiport_groups(&mixed), ["1,2,3,4,5,6,7,8,9,10,11,12,13,14", "20:30"]);
    assert_eq!(multiport_groups(&["5-5".parse().unwrap()]), ["5"]);
    assert!(multiport_groups(&[]).is_empty());
}
