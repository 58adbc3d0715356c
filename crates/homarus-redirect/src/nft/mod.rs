//! A small vocabulary of nf_tables: as much as redirection and the network of one machine need.
//!
//! A [`Table`] is a value. `Display` writes it as an `nft` script, for people and for simulation; [`Netlink`] applies it,
//! so that the kernel has all of it or nothing. Counters are in every rule: `nft list table ip homarus` shows which rule
//! took a connection.
//!
//! Deliberately absent: sets, maps, and reading rules back. A table is always replaced as a whole.

mod encode;
mod netlink;
mod script;

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::config::PortRange;

pub use self::encode::{Invalid, MAX_COMMENT_LEN, MAX_INTERFACE_LEN, MAX_NAME_LEN};
pub use self::netlink::{Netlink, NetlinkError, OwnedTables};

/// The priority at which destinations are rewritten, the same as that of iptables and kube-proxy.
pub const PRIORITY_DESTINATION_NAT: i32 = -100;
/// The priority at which packets are filtered.
pub const PRIORITY_FILTER: i32 = 0;
/// The priority at which sources are rewritten.
pub const PRIORITY_SOURCE_NAT: i32 = 100;

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The family of a subnet.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::Ip,
            IpNet::V6(_) => Self::Ip6,
        }
    }
}

/// A table: a name in one family, and chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name, unique within the family.
    pub name: String,
    /// Its chains. All are made before their rules, so that they may jump to each other in any order.
    pub chains: Vec<Chain>,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique within the table.
    pub name: String,
    /// Where packets enter it; `None` if only other chains jump to it. What reaches its end is accepted.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// On which way of packets it stands.
    pub hook: Hook,
    /// Its place among the chains of that hook; lower comes first.
    pub priority: i32,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Rewrite addresses; sees only the first packet of a connection.
    Nat,
    /// Accept and drop; sees every packet.
    Filter,
}

/// Where in a packet's way a base chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Came from outside, not yet routed.
    Prerouting,
    /// For this namespace.
    Input,
    /// Through this namespace.
    Forward,
    /// Made in this namespace.
    Output,
    /// About to leave.
    Postrouting,
}

/// Conditions and what to do if all of them hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The conditions.
    pub matches: Vec<Match>,
    /// What to do.
    pub action: Action,
    /// What the rule is for; shown by `nft list`.
    pub comment: String,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The transport protocol.
    Protocol(Protocol),
    /// The transport protocol and its destination port.
    DestinationPort(Protocol, PortRange),
    /// The source address.
    Source(IpNet),
    /// The destination address.
    Destination(IpNet),
    /// The interface the packet came in by.
    InInterface(String),
    /// The interface it leaves by.
    OutInterface(String),
    /// The user of the socket that sent it.
    SocketUser(u32),
    /// The group of the socket that sent it.
    SocketGroup(u32),
    /// By chance, once in so many times.
    OnceIn(u32),
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Let it pass; later chains of the hook still see it.
    Accept,
    /// Drop it without an answer.
    Drop,
    /// Leave this chain.
    Return,
    /// Go through another chain of the table, then on.
    Jump(String),
    /// Rewrite the destination to this port of the machine itself.
    Redirect(u16),
    /// Rewrite the destination.
    DestinationNat(SocketAddr),
    /// Rewrite the source to the address of the interface it leaves by.
    Masquerade,
}

#[cfg(test)]
mod tests;
