#![allow(clippy::unwrap_used)]
//! The rules against the words of proxy-init's behaviour, and a little kernel that walks the tables.

use std::net::IpAddr;
use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::config::{ConfigError, MAX_LIST_ENTRIES, Request};

fn config() -> Config {
    Config {
        inbound_port: NonZeroU16::new(4143).unwrap(),
        outbound_port: NonZeroU16::new(4140).unwrap(),
        proxy_uid: Some(2102),
        proxy_gid: None,
        redirect_only: vec![],
        skip_inbound: vec![],
        skip_outbound: vec![],
        skip_sources: vec![],
        ipv6: true,
    }
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

/// The first packet of a connection.
#[derive(Debug, Clone)]
struct Packet {
    hook: Hook,
    protocol: Protocol,
    port: u16,
    source: IpAddr,
    uid: u32,
    gid: u32,
    out: &'static str,
}

impl Packet {
    fn inbound(port: u16) -> Self {
        Self {
            hook: Hook::Prerouting,
            protocol: Protocol::Tcp,
            port,
            source: "192.168.1.1".parse().unwrap(),
            uid: 0,
            gid: 0,
            out: "",
        }
    }

    fn outbound(port: u16) -> Self {
        Self { hook: Hook::Output, out: "eth0", ..Self::inbound(port) }
    }

    fn family(&self) -> Family {
        Family::of(&IpNet::from(self.source))
    }

    fn meets(&self, condition: &Match) -> bool {
        match condition {
            Match::Protocol(protocol) => self.protocol == *protocol,
            Match::DestinationPort(protocol, ports) => self.protocol == *protocol && ports.contains(self.port),
            Match::Source(net) => net.contains(&self.source),
            Match::SocketUser(uid) => self.uid == *uid,
            Match::SocketGroup(gid) => self.gid == *gid,
            Match::OutInterface(name) => self.out == name,
            other => panic!("redirection never asks for {other:?}"),
        }
    }

    /// The port to which the tables redirect it, as the kernel would: first match wins.
    fn redirected(&self, tables: &[Table]) -> Option<u16> {
        let mut chains = tables.iter().filter(|table| table.family == self.family()).flat_map(|table| &table.chains);
        let chain = chains.find(|chain| chain.base.unwrap().hook == self.hook)?;
        let rule = chain.rules.iter().find(|rule| rule.matches.iter().all(|condition| self.meets(condition)))?;
        match rule.action {
            Action::Redirect(to) => Some(to),
            _ => None,
        }
    }
}

/// The same, in the words of the specification.
fn expected(config: &Config, packet: &Packet) -> Option<u16> {
    let skipped = |ranges: &[PortRange]| ranges.iter().any(|range| range.contains(packet.port));
    if packet.protocol != Protocol::Tcp || (packet.family() == Family::Ip6 && !config.ipv6) {
        return None;
    }
    if packet.hook == Hook::Prerouting {
        let from_skipped = config.skip_sources.iter().any(|net| net.contains(&packet.source));
        let listed = config.redirect_only.is_empty() || config.redirect_only.contains(&packet.port);
        return (!skipped(&config.skip_inbound) && !from_skipped && listed).then_some(config.inbound_port.get());
    }
    let by_proxy = config.proxy_uid == Some(packet.uid) || config.proxy_gid == Some(packet.gid);
    let left_alone = by_proxy || packet.out == "lo" || skipped(&config.skip_outbound);
    (!left_alone).then_some(config.outbound_port.get())
}

fn check(config: &Config, packet: &Packet, to: Option<u16>) {
    let tables = Rules::of(config).tables();
    assert_eq!(packet.redirected(&tables), to, "{packet:?} under {config:?}");
    assert_eq!(expected(config, packet), to, "the specification in this test");
}

#[test]
fn redirects_tcp_of_both_directions_and_families_by_default() {
    check(&config(), &Packet::inbound(80), Some(4143));
    check(&config(), &Packet::outbound(80), Some(4140));
    let source = "fd00::1".parse().unwrap();
    check(&config(), &Packet { source, ..Packet::inbound(80) }, Some(4143));
    check(&config(), &Packet { source, ..Packet::outbound(80) }, Some(4140));
}

#[test]
fn leaves_udp_the_proxy_and_loopback_alone() {
    let protocol = Protocol::Udp;
    check(&config(), &Packet { protocol, ..Packet::inbound(53) }, None);
    check(&config(), &Packet { protocol, ..Packet::outbound(53) }, None);
    check(&config(), &Packet { uid: 2102, ..Packet::outbound(80) }, None);
    check(&config(), &Packet { uid: 2103, ..Packet::outbound(80) }, Some(4140));
    check(&config(), &Packet { out: "lo", ..Packet::outbound(80) }, None);
    let grouped = Config { proxy_uid: None, proxy_gid: Some(7), ..config() };
    check(&grouped, &Packet { gid: 7, ..Packet::outbound(80) }, None);
    check(&grouped, &Packet { uid: 2102, ..Packet::outbound(80) }, Some(4140));
}

#[test]
fn skips_ports_by_direction() {
    let config = Config { skip_inbound: vec![range(4190, 4191)], skip_outbound: vec![PortRange::single(4567)], ..config() };
    for (port, inbound, outbound) in [
        (4189, Some(4143), Some(4140)),
        (4190, None, Some(4140)),
        (4191, None, Some(4140)),
        (4192, Some(4143), Some(4140)),
        (4567, Some(4143), None),
    ] {
        check(&config, &Packet::inbound(port), inbound);
        check(&config, &Packet::outbound(port), outbound);
    }
}

#[test]
fn skips_subnets_by_source_and_inbound_only() {
    let config = Config { skip_sources: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()], ..config() };
    for (source, inbound) in [("10.1.2.3", None), ("11.0.0.1", Some(4143)), ("fd00::1", None), ("fd01::1", Some(4143))] {
        let source = source.parse().unwrap();
        check(&config, &Packet { source, ..Packet::inbound(80) }, inbound);
        check(&config, &Packet { source, ..Packet::outbound(80) }, Some(4140));
    }
}

#[test]
fn redirects_listed_ports_only_and_skips_go_first() {
    let config = Config { redirect_only: vec![80, 81], skip_inbound: vec![PortRange::single(81)], ..config() };
    check(&config, &Packet::inbound(80), Some(4143));
    check(&config, &Packet::inbound(81), None);
    check(&config, &Packet::inbound(82), None);
    check(&config, &Packet::outbound(82), Some(4140));
}

#[test]
fn without_ipv6_there_is_no_ipv6_table() {
    let tables = Rules::of(&Config { ipv6: false, ..config() }).tables();
    assert_eq!(tables.len(), 1);
    assert_eq!(tables[0].family, Family::Ip);
}

fn request() -> Request {
    Request {
        incoming_proxy_port: 4143,
        outgoing_proxy_port: 4140,
        proxy_uid: -1,
        proxy_gid: -1,
        ports_to_redirect: vec![],
        inbound_ports_to_ignore: vec![],
        outbound_ports_to_ignore: vec![],
        subnets_to_ignore: vec![],
        ipv6: true,
    }
}

#[test]
fn resolves_requests_and_names_what_is_wrong() {
    let good = Request {
        proxy_uid: 0,
        proxy_gid: 5,
        inbound_ports_to_ignore: ["80", "x", " 81", "5-3", "90-92", "70000", ""].map(String::from).to_vec(),
        subnets_to_ignore: vec![" 10.1.2.3/8 ".into()],
        ..request()
    };
    let config = Config::resolve(&good).unwrap();
    assert_eq!((config.proxy_uid, config.proxy_gid), (None, Some(5)));
    assert_eq!(config.skip_inbound, [range(80, 80), range(90, 92)], "bad entries are skipped");
    assert_eq!(config.skip_sources, ["10.0.0.0/8".parse().unwrap()]);
    let wrong = |request: Request| Config::resolve(&request).unwrap_err();
    let flag = "incoming-proxy-port";
    for incoming_proxy_port in [-1, 0, 65536] {
        assert_eq!(wrong(Request { incoming_proxy_port, ..request() }), ConfigError::ProxyPort { flag });
    }
    assert_eq!(wrong(Request { ports_to_redirect: vec![80, 65536], ..request() }), ConfigError::PortToRedirect(65536));
    for text in ["10.0.0.1", "10.0.0.0/33", "x/8", ""] {
        let subnets_to_ignore = vec![text.to_string()];
        assert_eq!(wrong(Request { subnets_to_ignore, ..request() }), ConfigError::Subnet(text.to_string()));
    }
    let entries = MAX_LIST_ENTRIES + 1;
    let outbound_ports_to_ignore = vec!["1".to_string(); entries];
    assert_eq!(
        wrong(Request { outbound_ports_to_ignore, ..request() }),
        ConfigError::TooMany { flag: "outbound-ports-to-ignore", entries }
    );
}

fn ranges() -> impl Strategy<Value = Vec<PortRange>> {
    prop::collection::vec((0_u16..40, 0_u16..8), 0..4)
        .prop_map(|ends| ends.into_iter().map(|(first, more)| range(first, first + more)).collect())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..4, 0_u8..4).prop_map(|(a, b)| IpAddr::from([10, a, b, 1])),
        (0_u16..4).prop_map(|a| IpAddr::from([0xfd00, a, 0, 0, 0, 0, 0, 1])),
    ]
}

fn subnet() -> impl Strategy<Value = IpNet> {
    (address(), 8_u8..=32).prop_map(|(address, prefix)| IpNet::new(address, prefix).unwrap().trunc())
}

prop_compose! {
    fn any_config()(
        proxy_uid in prop::option::of(1_u32..4),
        proxy_gid in prop::option::of(1_u32..4),
        redirect_only in prop::collection::vec(0_u16..50, 0..3),
        skip_inbound in ranges(),
        skip_outbound in ranges(),
        skip_sources in prop::collection::vec(subnet(), 0..3),
        ipv6: bool,
    ) -> Config {
        Config { proxy_uid, proxy_gid, redirect_only, skip_inbound, skip_outbound, skip_sources, ipv6, ..config() }
    }
}

prop_compose! {
    fn any_packet()(
        inbound: bool,
        tcp: bool,
        port in 0_u16..50,
        source in address(),
        uid in 0_u32..4,
        gid in 0_u32..4,
        lo: bool,
    ) -> Packet {
        let packet = if inbound { Packet::inbound(port) } else { Packet::outbound(port) };
        let out = if !inbound && lo { "lo" } else { packet.out };
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        Packet { protocol, source, uid, gid, out, ..packet }
    }
}

proptest! {
    #[test]
    fn tables_do_what_the_specification_says(config in any_config(), packet in any_packet()) {
        let tables = Rules::of(&config).tables();
        prop_assert_eq!(packet.redirected(&tables), expected(&config, &packet));
    }

    #[test]
    fn port_ranges_survive_being_written(first: u16, last: u16) {
        match PortRange::new(first, last) {
            Some(range) => prop_assert_eq!(range.to_string().parse(), Ok(range)),
            None => {
                let backwards = format!("{first}-{last}").parse::<PortRange>();
                prop_assert!(backwards.is_err());
            }
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,20}") {
        let _ = text.parse::<PortRange>();
        let _ = crate::parse_duration(&text);
    }
}
