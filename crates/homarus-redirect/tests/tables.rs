//! The whole vocabulary of nf_tables, judged by `nft`; and tables that vanish with their owner. Needs root and nftables.
#![allow(clippy::unwrap_used)]

mod scenario;

use homarus_redirect::netns::Netns;
use homarus_redirect::nft::{
    Action, Base, Chain, ChainKind, Family, Hook, Match, Netlink, NetlinkError, OwnedTables, PRIORITY_DESTINATION_NAT,
    PRIORITY_FILTER, PRIORITY_SOURCE_NAT, Protocol, Rule, Table,
};
use scenario::{PEER, Place, Scenario};

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    let comment = "why, in words: 10.0.0.0/8".to_string();
    Rule { matches, action, comment }
}

fn chain(name: &str, base: Option<(ChainKind, Hook, i32)>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_string(), base: base.map(|(kind, hook, priority)| Base { kind, hook, priority }), rules }
}

/// One of everything.
fn everything(family: Family) -> Table {
    let (net, host, backend) = match family {
        Family::Ip => ("10.1.0.0/16", "10.2.3.4/32", "10.0.0.9:80"),
        Family::Ip6 => ("fd01::/18", "fd02::4/128", "[fd00::9]:80"),
    };
    let (net, host) = (net.parse().unwrap(), host.parse().unwrap());
    let ports = |text: &str| text.parse().unwrap();
    let services = vec![
        rule(vec![Match::Protocol(Protocol::Tcp), Match::OnceIn(3)], Action::DestinationNat(backend.parse().unwrap())),
        rule(vec![Match::Protocol(Protocol::Udp)], Action::DestinationNat(backend.parse().unwrap())),
    ];
    let prerouting = vec![
        rule(vec![Match::Destination(net), Match::DestinationPort(Protocol::Tcp, ports("80"))], Action::Jump("services".into())),
        rule(vec![Match::Source(host), Match::DestinationPort(Protocol::Udp, ports("53-55"))], Action::Return),
        rule(vec![Match::Protocol(Protocol::Tcp)], Action::Redirect(4143)),
    ];
    let output = vec![
        rule(vec![Match::SocketUser(2102)], Action::Return),
        rule(vec![Match::SocketGroup(77), Match::OutInterface("lo".into())], Action::Return),
    ];
    let filter = vec![
        rule(vec![Match::InInterface("homarus0".into()), Match::Source(net)], Action::Accept),
        rule(vec![Match::OutInterface("homarus0".into())], Action::Drop),
    ];
    let postrouting = vec![rule(vec![Match::Source(net)], Action::Masquerade)];
    let nat = |hook, priority| Some((ChainKind::Nat, hook, priority));
    Table {
        family,
        name: "everything".into(),
        chains: vec![
            chain("services", None, services),
            chain("prerouting", nat(Hook::Prerouting, PRIORITY_DESTINATION_NAT), prerouting),
            chain("output", nat(Hook::Output, -150), output),
            chain("input", nat(Hook::Input, PRIORITY_SOURCE_NAT), vec![]),
            chain("forward", Some((ChainKind::Filter, Hook::Forward, PRIORITY_FILTER)), filter),
            chain("postrouting", nat(Hook::Postrouting, PRIORITY_SOURCE_NAT), postrouting),
        ],
    }
}

fn replace(netns: &Netns, tables: &[Table]) -> Result<(), NetlinkError> {
    netns.enter(|| Netlink::open()?.replace(tables)).unwrap()
}

#[test]
fn nft_reads_from_the_kernel_what_it_would_have_written() {
    for family in [Family::Ip, Family::Ip6] {
        let scenario = Scenario::new();
        let table = everything(family);
        scenario.in_pod(&format!("nft -f - <<'END'\n{table}END"));
        let by_nft = scenario.in_pod("nft -s list ruleset");
        replace(&scenario.pod, std::slice::from_ref(&table)).unwrap();
        assert_eq!(scenario.in_pod("nft -s list ruleset"), by_nft);
    }
}

#[test]
fn a_batch_with_one_bad_rule_changes_nothing() {
    let scenario = Scenario::new();
    let good = everything(Family::Ip);
    replace(&scenario.pod, std::slice::from_ref(&good)).unwrap();
    let before = scenario.in_pod("nft list ruleset");
    let mut bad = everything(Family::Ip6);
    // The kernel knows no masquerading before routing.
    bad.chains[1].rules.push(rule(vec![], Action::Masquerade));
    let error = replace(&scenario.pod, &[everything(Family::Ip), bad]).unwrap_err();
    assert!(error.to_string().contains("chain prerouting of table ip6 everything"), "{error}");
    assert_eq!(scenario.in_pod("nft list ruleset"), before);
}

#[test]
fn tables_are_listed_and_removed_also_when_missing() {
    let scenario = Scenario::new();
    let netlink = scenario.pod.enter(Netlink::open).unwrap().unwrap();
    assert_eq!(netlink.tables().unwrap(), []);
    netlink.replace(&[everything(Family::Ip), everything(Family::Ip6)]).unwrap();
    let name = "everything".to_string();
    assert_eq!(netlink.tables().unwrap(), [(Family::Ip, name.clone()), (Family::Ip6, name.clone())]);
    netlink.remove(&[(Family::Ip, "everything"), (Family::Ip, "missing")]).unwrap();
    assert_eq!(netlink.tables().unwrap(), [(Family::Ip6, name)]);
    netlink.remove(&[]).unwrap();
}

#[test]
fn owned_tables_vanish_with_their_owner_and_nobody_else_changes_them() {
    let scenario = Scenario::new();
    let table = everything(Family::Ip);
    let hold = || OwnedTables::hold(std::slice::from_ref(&table));
    let owned = scenario.pod.enter(hold).unwrap().unwrap();
    assert!(scenario.in_pod("nft list tables").contains("everything"));
    let error = replace(&scenario.pod, std::slice::from_ref(&table)).unwrap_err();
    assert!(matches!(error, NetlinkError::Owned { .. }), "{error}");
    owned.replace(&[table.clone(), everything(Family::Ip6)]).unwrap();
    assert_eq!(scenario.in_pod("nft list tables").lines().count(), 2);
    drop(owned);
    assert_eq!(scenario.in_pod("nft list tables"), "");
}

#[test]
fn destinations_are_translated_and_chance_is_a_third() {
    let scenario = Scenario::new();
    let [one, two] = [0, 1].map(|_| scenario.serve(Place::Peer, &[PEER]));
    let to = |port: u16| Action::DestinationNat(format!("{PEER}:{port}").parse().unwrap());
    let service = Match::Destination("10.96.0.1/32".parse().unwrap());
    let port = Match::DestinationPort(Protocol::Tcp, "80".parse().unwrap());
    let rules = vec![rule(vec![service.clone(), port.clone(), Match::OnceIn(3)], to(one)), rule(vec![service, port], to(two))];
    let base = Some((ChainKind::Nat, Hook::Output, PRIORITY_DESTINATION_NAT));
    let table = Table { family: Family::Ip, name: "services".into(), chains: vec![chain("output", base, rules)] };
    replace(&scenario.pod, &[table]).unwrap();
    let answers: Vec<String> = (0..300).map(|_| scenario.dial(Place::Pod, "10.96.0.1", 80)).collect();
    let count = |port| answers.iter().filter(|answer| **answer == format!("direct {port}")).count();
    assert_eq!(count(one) + count(two), 300, "{answers:?}");
    // Eight standard deviations around 100.
    assert!((35..=165).contains(&count(one)), "{}", count(one));
}
