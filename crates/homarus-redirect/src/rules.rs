//! The rules that follow from a configuration: pure, one list per direction, first match wins.
//!
//! Invariants, those of proxy-init:
//! - inbound: skipped ports, then skipped sources, then the redirect;
//! - outbound: the proxy's user, its group, loopback, skipped ports, then the redirect. Traffic to a skipped subnet is
//!   still redirected outbound;
//! - what no rule names is left alone, and UDP is never named.

use ipnet::IpNet;

use crate::config::{Config, PortRange};
use crate::nft::{Action, Base, Chain, ChainKind, Family, Hook, Match, PRIORITY_DESTINATION_NAT, Protocol, Rule as NftRule, Table};

/// The name of our table, in the families `ip` and `ip6`.
pub const TABLE: &str = "homarus";

/// One before the place where others rewrite destinations. At the same place, the kernel would ask the chain first that
/// was made last; so it is certain that what is to be redirected is redirected, whoever comes before or after us.
const PRIORITY: i32 = PRIORITY_DESTINATION_NAT - 1;

/// One rule for TCP connections of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// Leave connections to these ports alone. Never empty.
    SkipPorts(Vec<PortRange>),
    /// Leave connections from this subnet alone.
    SkipSource(IpNet),
    /// Leave connections of this user alone.
    SkipUser(u32),
    /// Leave connections of this group alone.
    SkipGroup(u32),
    /// Leave connections alone that don't leave the workload.
    SkipLoopback,
    /// Send connections, or those to one port, to the proxy.
    Redirect {
        /// The only port meant; `None` means all.
        only: Option<u16>,
        /// The proxy's port.
        to: u16,
    },
}

/// The rules of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For connections from outside.
    pub inbound: Vec<Rule>,
    /// For connections that the workload opens.
    pub outbound: Vec<Rule>,
    /// Which address families they are for.
    pub families: Vec<Family>,
}

impl Rules {
    /// The rules that follow from `config`.
    pub fn of(config: &Config) -> Self {
        let mut families = vec![Family::Ip];
        families.extend(config.ipv6.then_some(Family::Ip6));
        Self { inbound: inbound(config), outbound: outbound(config), families }
    }

    /// The same rules as tables of nf_tables, one per family. A subnet goes to its own family's table.
    pub fn tables(&self) -> Vec<Table> {
        self.families.iter().map(|family| self.table(*family)).collect()
    }

    fn table(&self, family: Family) -> Table {
        let base = |hook| Some(Base { kind: ChainKind::Nat, hook, priority: PRIORITY });
        Table {
            family,
            name: TABLE.to_string(),
            chains: vec![
                Chain {
                    name: "inbound".to_string(),
                    base: base(Hook::Prerouting),
                    rules: nft_rules(&self.inbound, "incoming", family),
                },
                Chain {
                    name: "outbound".to_string(),
                    base: base(Hook::Output),
                    rules: nft_rules(&self.outbound, "outgoing", family),
                },
            ],
        }
    }
}

fn inbound(config: &Config) -> Vec<Rule> {
    let mut rules = skip_ports(&config.skip_inbound);
    rules.extend(config.skip_sources.iter().copied().map(Rule::SkipSource));
    let to = config.inbound_port.get();
    if config.redirect_only.is_empty() {
        rules.push(Rule::Redirect { only: None, to });
    }
    let listed = config.redirect_only.iter();
    rules.extend(listed.map(|&port| Rule::Redirect { only: Some(port), to }));
    rules
}

fn outbound(config: &Config) -> Vec<Rule> {
    let mut rules = Vec::new();
    rules.extend(config.proxy_uid.map(Rule::SkipUser));
    rules.extend(config.proxy_gid.map(Rule::SkipGroup));
    rules.push(Rule::SkipLoopback);
    rules.extend(skip_ports(&config.skip_outbound));
    rules.push(Rule::Redirect { only: None, to: config.outbound_port.get() });
    rules
}

fn skip_ports(ranges: &[PortRange]) -> Vec<Rule> {
    if ranges.is_empty() {
        return Vec::new();
    }
    vec![Rule::SkipPorts(ranges.to_vec())]
}

fn nft_rules(rules: &[Rule], direction: &str, family: Family) -> Vec<NftRule> {
    rules.iter().flat_map(|rule| nft_rule(rule, direction, family)).collect()
}

/// Comments say what the rule is for, in the words of proxy-init.
fn nft_rule(rule: &Rule, direction: &str, family: Family) -> Vec<NftRule> {
    let tcp_to = |ports| Match::DestinationPort(Protocol::Tcp, ports);
    let single = |condition, action, comment: String| vec![NftRule { matches: vec![condition], action, comment }];
    match rule {
        Rule::SkipPorts(ranges) => {
            ranges.iter().flat_map(|range| single(tcp_to(*range), Action::Return, format!("ignore-port-{range}"))).collect()
        }
        Rule::SkipSource(net) if Family::of(net) != family => Vec::new(),
        Rule::SkipSource(net) => single(Match::Source(*net), Action::Return, format!("ignore-subnet-{net}")),
        Rule::SkipUser(uid) => single(Match::SocketUser(*uid), Action::Return, "ignore-proxy-user-id".into()),
        Rule::SkipGroup(gid) => single(Match::SocketGroup(*gid), Action::Return, "ignore-proxy-group-id".into()),
        Rule::SkipLoopback => single(Match::OutInterface("lo".into()), Action::Return, "ignore-loopback".into()),
        Rule::Redirect { only: None, to } => {
            single(Match::Protocol(Protocol::Tcp), Action::Redirect(*to), format!("redirect-all-{direction}-to-proxy-port"))
        }
        Rule::Redirect { only: Some(port), to } => {
            single(tcp_to(PortRange::single(*port)), Action::Redirect(*to), format!("redirect-port-{port}-to-proxy-port"))
        }
    }
}

#[cfg(test)]
mod tests;
