//! Tables as netlink messages (`linux/netfilter/nf_tables.h`).
//!
//! A rule is a little program: expressions load a value into register 1, compare it, and stop at the first comparison
//! that fails. Numbers of the packet are in network order, numbers of the kernel (user, group) in the machine's.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook as HookAttribute, Immediate, InetHookNumber,
    ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute,
    TableFlags, TableMessage, Verdict, VerdictAttribute,
};

use super::{Action, Base, Chain, ChainKind, Family, Hook, Match, Protocol, Rule, Table};
use crate::config::PortRange;

/// The longest name of a table or chain (`NFT_NAME_MAXLEN` with its final zero).
pub const MAX_NAME_LEN: usize = 255;
/// The longest comment that `nft` can show.
pub const MAX_COMMENT_LEN: usize = 128;
/// The longest name of an interface (`IFNAMSIZ` with its final zero).
pub const MAX_INTERFACE_LEN: usize = 15;

const IFNAMSIZ: usize = 16;
const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
const NFT_PAYLOAD_TRANSPORT_HEADER: u32 = 2;
const DESTINATION_PORT_OFFSET: u32 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFT_NAT_DNAT: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFT_NG_RANDOM: u32 = 1;
/// A comment within the user data of a rule: this type, a length, the text and a zero.
const USERDATA_COMMENT: u8 = 0;

/// A table that nf_tables could not hold. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A name is empty, too long, or has characters that `nft` can't read back.
    #[error("{0:?} can't be the name of a table, chain or interface")]
    Name(String),
    /// A comment is too long or has characters that `nft` can't read back.
    #[error("{0:?} can't be the comment of a rule: at most {MAX_COMMENT_LEN} printable characters without quotes")]
    Comment(String),
    /// An address of the other family.
    #[error("{address} doesn't belong into a table of family {family}")]
    Family {
        /// The address or subnet.
        address: String,
        /// The table's family.
        family: Family,
    },
    /// A jump to a chain that the table doesn't have.
    #[error("there is no chain {0:?} to jump to")]
    NoSuchChain(String),
    /// `OnceIn(0)`.
    #[error("once in 0 times can't happen")]
    Never,
}

/// One operation of a batch.
pub(super) struct Operation {
    pub(super) family: Family,
    /// Netlink flags besides `NLM_F_REQUEST`.
    pub(super) flags: u16,
    pub(super) message: NfTablesMessage,
    /// For people: what the kernel refused.
    pub(super) what: String,
}

/// All operations that replace a table, whether it exists or not: it is made if missing, deleted, made anew and filled.
pub(super) fn replace(table: &Table, flags: TableFlags) -> Result<Vec<Operation>, Invalid> {
    let mut operations = remove(table.family, &table.name, flags)?;
    operations.push(new_table(table.family, &table.name, flags));
    for chain in &table.chains {
        operations.push(new_chain(table, chain)?);
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            operations.push(new_rule(table, chain, rule)?);
        }
    }
    Ok(operations)
}

/// The operations that remove a table, whether it exists or not.
pub(super) fn remove(family: Family, name: &str, flags: TableFlags) -> Result<Vec<Operation>, Invalid> {
    check_name(name, MAX_NAME_LEN)?;
    let delete = Operation {
        family,
        flags: 0,
        message: NfTablesMessage::DeleteTable(TableMessage { attributes: vec![TableAttribute::Name(name.to_string())] }),
        what: format!("removing table {family} {name}"),
    };
    Ok(vec![new_table(family, name, flags), delete])
}

fn new_table(family: Family, name: &str, flags: TableFlags) -> Operation {
    Operation {
        family,
        flags: NLM_F_CREATE,
        message: NfTablesMessage::NewTable(TableMessage {
            attributes: vec![TableAttribute::Name(name.to_string()), TableAttribute::Flags(flags)],
        }),
        what: format!("table {family} {name}"),
    }
}

fn new_chain(table: &Table, chain: &Chain) -> Result<Operation, Invalid> {
    check_name(&chain.name, MAX_NAME_LEN)?;
    let mut attributes = vec![ChainAttribute::Table(table.name.clone()), ChainAttribute::Name(chain.name.clone())];
    if let Some(base) = chain.base {
        attributes.extend(base_attributes(base));
    }
    Ok(Operation {
        family: table.family,
        flags: NLM_F_CREATE,
        message: NfTablesMessage::NewChain(ChainMessage { attributes }),
        what: format!("chain {} of table {}", chain.name, table.title()),
    })
}

fn base_attributes(base: Base) -> [ChainAttribute; 3] {
    let hook = match base.hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Input => InetHookNumber::LocalIn,
        Hook::Forward => InetHookNumber::Forward,
        Hook::Output => InetHookNumber::LocalOut,
        Hook::Postrouting => InetHookNumber::PostRouting,
    };
    let kind = match base.kind {
        ChainKind::Nat => "nat",
        ChainKind::Filter => "filter",
    };
    [
        ChainAttribute::Hook(vec![
            HookAttribute::Number(hook.into()),
            // The kernel reads it back as a signed number.
            HookAttribute::Priority(base.priority.cast_unsigned()),
        ]),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type(kind.to_string()),
    ]
}

fn new_rule(table: &Table, chain: &Chain, rule: &Rule) -> Result<Operation, Invalid> {
    let mut expressions = Vec::new();
    for condition in &rule.matches {
        expressions.extend(condition_expressions(condition, table.family)?);
    }
    expressions.push(other("counter", vec![]));
    expressions.extend(action_expressions(&rule.action, table)?);
    let attributes = vec![
        RuleAttribute::Table(table.name.clone()),
        RuleAttribute::Chain(chain.name.clone()),
        RuleAttribute::Expressions(expressions.into_iter().map(ListAttribute::from).collect()),
        RuleAttribute::UserData(comment_bytes(&rule.comment)?),
    ];
    Ok(Operation {
        family: table.family,
        flags: NLM_F_CREATE | NLM_F_APPEND,
        message: NfTablesMessage::NewRule(RuleMessage { attributes }),
        what: format!("rule {:?} of chain {} of table {}", rule.comment, chain.name, table.title()),
    })
}

fn condition_expressions(condition: &Match, family: Family) -> Result<Vec<Expressions>, Invalid> {
    Ok(match condition {
        Match::Protocol(protocol) => is_protocol(*protocol),
        Match::DestinationPort(protocol, ports) => {
            let mut expressions = is_protocol(*protocol);
            expressions.push(load_payload(NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, 2));
            expressions.extend(within(*ports));
            expressions
        }
        Match::Source(net) => in_subnet(net, family, AddressField::Source)?,
        Match::Destination(net) => in_subnet(net, family, AddressField::Destination)?,
        Match::InInterface(name) => is_interface(MetaKey::Iifname, name)?,
        Match::OutInterface(name) => is_interface(MetaKey::Oifname, name)?,
        Match::SocketUser(uid) => meta_is(MetaKey::SocketUserId, uid.to_ne_bytes().to_vec()),
        Match::SocketGroup(gid) => meta_is(MetaKey::SocketGroupId, gid.to_ne_bytes().to_vec()),
        Match::OnceIn(0) => return Err(Invalid::Never),
        Match::OnceIn(times) => {
            let draw = vec![
                number(NFTA_NG_DREG, Register::Reg1.into()),
                number(NFTA_NG_MODULUS, *times),
                number(NFTA_NG_TYPE, NFT_NG_RANDOM),
            ];
            vec![other("numgen", draw), compare(Operator::Equal, vec![0; 4])]
        }
    })
}

fn action_expressions(action: &Action, table: &Table) -> Result<Vec<Expressions>, Invalid> {
    Ok(match action {
        Action::Accept => vec![verdict(Verdict::Other(NF_ACCEPT), None)],
        Action::Drop => vec![verdict(Verdict::Other(NF_DROP), None)],
        Action::Return => vec![verdict(Verdict::Return, None)],
        Action::Jump(chain) => {
            if !table.chains.iter().any(|existing| existing.name == *chain) {
                return Err(Invalid::NoSuchChain(chain.clone()));
            }
            vec![verdict(Verdict::Jump, Some(chain))]
        }
        Action::Redirect(port) => vec![
            load_value(Register::Reg1, port.to_be_bytes().to_vec()),
            other("redir", vec![number(NFTA_REDIR_REG_PROTO_MIN, Register::Reg1.into())]),
        ],
        Action::DestinationNat(to) => destination_nat(*to, table.family)?,
        Action::Masquerade => vec![other("masq", vec![])],
    })
}

fn destination_nat(to: SocketAddr, family: Family) -> Result<Vec<Expressions>, Invalid> {
    check_family(&IpNet::from(to.ip()), family)?;
    let number_of_family = match family {
        Family::Ip => NFPROTO_IPV4,
        Family::Ip6 => NFPROTO_IPV6,
    };
    let nat = vec![
        number(NFTA_NAT_TYPE, NFT_NAT_DNAT),
        number(NFTA_NAT_FAMILY, number_of_family),
        number(NFTA_NAT_REG_ADDR_MIN, Register::Reg1.into()),
        number(NFTA_NAT_REG_PROTO_MIN, Register::Reg2.into()),
    ];
    Ok(vec![
        load_value(Register::Reg1, octets(to.ip())),
        load_value(Register::Reg2, to.port().to_be_bytes().to_vec()),
        other("nat", nat),
    ])
}

fn is_protocol(protocol: Protocol) -> Vec<Expressions> {
    let assigned = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    meta_is(MetaKey::L4Proto, vec![assigned])
}

fn within(ports: PortRange) -> Vec<Expressions> {
    let bytes = |port: u16| port.to_be_bytes().to_vec();
    if ports.is_single() {
        return vec![compare(Operator::Equal, bytes(ports.first()))];
    }
    vec![compare(Operator::GreatherThanEqual, bytes(ports.first())), compare(Operator::LessThanEqual, bytes(ports.last()))]
}

enum AddressField {
    Source,
    Destination,
}

fn in_subnet(net: &IpNet, family: Family, field: AddressField) -> Result<Vec<Expressions>, Invalid> {
    check_family(net, family)?;
    let (offset, len) = match (family, field) {
        (Family::Ip, AddressField::Source) => (12, 4),
        (Family::Ip, AddressField::Destination) => (16, 4),
        (Family::Ip6, AddressField::Source) => (8, 16),
        (Family::Ip6, AddressField::Destination) => (24, 16),
    };
    let mut expressions = vec![load_payload(NFT_PAYLOAD_NETWORK_HEADER, offset, len)];
    if net.prefix_len() < net.max_prefix_len() {
        expressions.push(Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(len),
            Bitwise::Mask(DataAttribute::Value(octets(net.netmask()))),
            Bitwise::Xor(DataAttribute::Value(vec![0; len as usize])),
        ]));
    }
    expressions.push(compare(Operator::Equal, octets(net.network())));
    Ok(expressions)
}

fn is_interface(key: MetaKey, name: &str) -> Result<Vec<Expressions>, Invalid> {
    check_name(name, MAX_INTERFACE_LEN)?;
    let mut padded = name.as_bytes().to_vec();
    padded.resize(IFNAMSIZ, 0);
    Ok(meta_is(key, padded))
}

fn meta_is(key: MetaKey, value: Vec<u8>) -> Vec<Expressions> {
    let load = vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)];
    vec![Expressions::Meta(load), compare(Operator::Equal, value)]
}

fn load_payload(base: u32, offset: u32, len: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

fn load_value(register: Register, value: Vec<u8>) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), Immediate::Data(DataAttribute::Value(value))])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(DataAttribute::Value(value))])
}

fn verdict(code: Verdict, chain: Option<&str>) -> Expressions {
    let mut attributes = vec![VerdictAttribute::Code(code)];
    attributes.extend(chain.map(|chain| VerdictAttribute::Chain(chain.to_string())));
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(attributes)),
    ])
}

/// An expression for which the packet library has no type of its own.
fn other(expression_type: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: expression_type.to_string(), attributes }
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn comment_bytes(comment: &str) -> Result<Vec<u8>, Invalid> {
    let printable = comment.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"');
    let len = u8::try_from(comment.len() + 1).ok();
    match len {
        Some(len) if printable && comment.len() <= MAX_COMMENT_LEN => {
            let mut bytes = vec![USERDATA_COMMENT, len];
            bytes.extend_from_slice(comment.as_bytes());
            bytes.push(0);
            Ok(bytes)
        }
        _ => Err(Invalid::Comment(comment.to_string())),
    }
}

fn check_name(name: &str, max_len: usize) -> Result<(), Invalid> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > max_len || !name.bytes().all(allowed) {
        return Err(Invalid::Name(name.to_string()));
    }
    Ok(())
}

fn check_family(net: &IpNet, family: Family) -> Result<(), Invalid> {
    if Family::of(net) != family {
        return Err(Invalid::Family { address: net.to_string(), family });
    }
    Ok(())
}
