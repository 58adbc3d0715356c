//! Tables as `nft` scripts.

use std::fmt;

use super::{Action, Base, Chain, ChainKind, Family, Hook, Match, Protocol, Rule, Table};

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        })
    }
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, hook, priority } = self;
        write!(f, "type {kind} hook {hook} priority {priority}; policy accept;")
    }
}

impl Table {
    /// How the table is called in scripts and messages: `ip homarus`.
    pub fn title(&self) -> String {
        format!("{} {}", self.family, self.name)
    }
}

impl fmt::Display for Table {
    /// A script that replaces the table, whether it exists or not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = self.title();
        writeln!(f, "table {title}")?;
        writeln!(f, "delete table {title}")?;
        writeln!(f, "table {title} {{")?;
        for chain in &self.chains {
            write_chain(f, chain, self.family)?;
        }
        writeln!(f, "}}")
    }
}

fn write_chain(f: &mut fmt::Formatter<'_>, chain: &Chain, family: Family) -> fmt::Result {
    writeln!(f, "\tchain {} {{", chain.name)?;
    if let Some(base) = chain.base {
        writeln!(f, "\t\t{base}")?;
    }
    for rule in &chain.rules {
        f.write_str("\t\t")?;
        write_rule(f, rule, family)?;
    }
    writeln!(f, "\t}}")
}

fn write_rule(f: &mut fmt::Formatter<'_>, rule: &Rule, family: Family) -> fmt::Result {
    for condition in &rule.matches {
        match condition {
            Match::Protocol(protocol) => write!(f, "meta l4proto {protocol}"),
            Match::DestinationPort(protocol, ports) => write!(f, "{protocol} dport {ports}"),
            Match::Source(net) => write!(f, "{family} saddr {net}"),
            Match::Destination(net) => write!(f, "{family} daddr {net}"),
            Match::InInterface(name) => write!(f, "iifname \"{name}\""),
            Match::OutInterface(name) => write!(f, "oifname \"{name}\""),
            Match::SocketUser(uid) => write!(f, "meta skuid {uid}"),
            Match::SocketGroup(gid) => write!(f, "meta skgid {gid}"),
            Match::OnceIn(times) => write!(f, "numgen random mod {times} 0"),
        }?;
        f.write_str(" ")?;
    }
    f.write_str("counter ")?;
    match &rule.action {
        Action::Accept => f.write_str("accept"),
        Action::Drop => f.write_str("drop"),
        Action::Return => f.write_str("return"),
        Action::Jump(chain) => write!(f, "jump {chain}"),
        Action::Redirect(port) => write!(f, "redirect to :{port}"),
        Action::DestinationNat(to) => write!(f, "dnat to {to}"),
        Action::Masquerade => f.write_str("masquerade"),
    }?;
    writeln!(f, " comment \"{}\"", rule.comment)
}
