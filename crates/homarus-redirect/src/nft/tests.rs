#![allow(clippy::unwrap_used)]
use netlink_packet_netfilter::nftables::TableFlags;
use proptest::prelude::*;
use rustix::io::Errno;

use super::*;

fn table_with(rule: Rule) -> Table {
    Table { family: Family::Ip, name: "t".into(), chains: vec![Chain { name: "c".into(), base: None, rules: vec![rule] }] }
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { matches, action, comment: "why".into() }
}

#[test]
fn refuses_what_nf_tables_could_not_hold() {
    let encode = |table: &Table| encode::replace(table, TableFlags::empty()).map(|operations| operations.len());
    let accept = |condition| table_with(rule(vec![condition], Action::Accept));
    assert_eq!(encode(&accept(Match::OutInterface("lo".into()))), Ok(5), "make, delete, make, chain, rule");
    let net: IpNet = "fd00::/8".parse().unwrap();
    let other_family = |address: String| Invalid::Family { address, family: Family::Ip };
    for (table, error) in [
        (accept(Match::Source(net)), other_family("fd00::/8".into())),
        (accept(Match::Destination(net)), other_family("fd00::/8".into())),
        (table_with(rule(vec![], Action::DestinationNat("[::1]:80".parse().unwrap()))), other_family("::1/128".into())),
        (accept(Match::InInterface("sixteen-letters-".into())), Invalid::Name("sixteen-letters-".into())),
        (accept(Match::OutInterface(String::new())), Invalid::Name(String::new())),
        (accept(Match::OnceIn(0)), Invalid::Never),
        (table_with(rule(vec![], Action::Jump("d".into()))), Invalid::NoSuchChain("d".into())),
        (Table { name: "\"".into(), ..accept(Match::OnceIn(1)) }, Invalid::Name("\"".into())),
    ] {
        assert_eq!(encode(&table), Err(error));
    }
    for comment in ["\"".to_string(), "line\n".to_string(), "x".repeat(MAX_COMMENT_LEN + 1)] {
        let commented = Rule { comment: comment.clone(), ..rule(vec![], Action::Drop) };
        assert_eq!(encode(&table_with(commented)), Err(Invalid::Comment(comment)));
    }
}

#[test]
fn refusals_tell_whose_fault_they_are() {
    let refused = |what: &str, error| NetlinkError::refused(what.to_string(), error);
    for what in [netlink::BATCH, netlink::LISTING] {
        assert!(matches!(refused(what, Errno::PERM), NetlinkError::NotPermitted));
    }
    assert!(matches!(refused("table ip t", Errno::PERM), NetlinkError::Owned { .. }));
    for error in [Errno::OPNOTSUPP, Errno::NOENT, Errno::AFNOSUPPORT] {
        assert!(refused("chain c", error).is_unsupported(), "{error}");
    }
    assert!(matches!(refused("rule r", Errno::INVAL), NetlinkError::Refused { .. }));
    assert!(!refused("rule r", Errno::INVAL).is_unsupported());
}

#[test]
fn writes_a_script_that_replaces_the_table() {
    let mut table = table_with(rule(vec![Match::DestinationPort(Protocol::Tcp, "80-81".parse().unwrap())], Action::Redirect(4143)));
    table.chains[0].base = Some(Base { kind: ChainKind::Nat, hook: Hook::Output, priority: PRIORITY_DESTINATION_NAT });
    let script = "table ip t\n\
                  delete table ip t\n\
                  table ip t {\n\
                  \tchain c {\n\
                  \t\ttype nat hook output priority -100; policy accept;\n\
                  \t\ttcp dport 80-81 counter redirect to :4143 comment \"why\"\n\
                  \t}\n\
                  }\n";
    assert_eq!(table.to_string(), script);
}

proptest! {
    /// The kernel is trusted, the parser of its answers still never panics and always ends.
    #[test]
    fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = netlink::parse(&bytes);
    }

    #[test]
    fn any_answer_of_plausible_shape_is_read_or_refused(
        len in 0_u32..120, kind in prop_oneof![Just(2_u16), Just(3), Just(0x0a00), Just(0x0a03), Just(0x0a06)],
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut answer = len.to_ne_bytes().to_vec();
        answer.extend(kind.to_ne_bytes());
        answer.extend([0; 10]);
        answer.extend(bytes);
        let _ = netlink::parse(&answer);
    }
}
