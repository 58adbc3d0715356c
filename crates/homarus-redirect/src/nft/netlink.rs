//! One netlink socket to nf_tables.
//!
//! A batch is one send: the kernel applies all of it or nothing, and answers each operation that it refused. Only the
//! last operation asks for an acknowledgement, so the first answer settles the whole.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableFlags, TableMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::encode::{self, Invalid, Operation};
use super::{Family, Table};

/// How long the kernel may take to answer; it answers from within the send.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// No single answer is longer: an error repeats one operation, a dump comes in parts of half of this.
const ANSWER_BUFFER_LEN: usize = 64 * 1024;
/// Parts of a dump that are read before it counts as endless.
const MAX_DUMP_PARTS: usize = 4096;
/// The kernel's bookkeeping for a message beside its bytes, generously.
const SEND_OVERHEAD: usize = 4096;

/// Why nf_tables did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// CAP_NET_ADMIN is missing. The deployment's fault; retrying doesn't help.
    #[error(
        "not allowed to change the packet filter of this network namespace: CAP_NET_ADMIN is missing. Run as root, or \
         add NET_ADMIN to the container's capabilities and give this program the file capability \
         (setcap cap_net_admin,cap_net_raw+p); where pods may not have it, use the CNI plugin instead"
    )]
    NotPermitted,
    /// The kernel lacks what is needed. The node's fault; retrying doesn't help.
    #[error(
        "this kernel refused {what} ({error}). If nf_tables with nat is missing, load the modules nf_tables, \
         nft_chain_nat and nft_redir on the node, use a kernel that has CONFIG_NF_TABLES, CONFIG_NFT_NAT and \
         CONFIG_NFT_REDIR, or provide the iptables-legacy programs"
    )]
    Unsupported {
        /// What was refused.
        what: String,
        /// The kernel's reason.
        error: Errno,
    },
    /// Another process holds a table of this name with the owner flag. Retry when it has ended.
    #[error("{what} was refused: another process owns a table of this name ({error}); stop it, then try again")]
    Owned {
        /// What was refused.
        what: String,
        /// The kernel's reason.
        error: Errno,
    },
    /// Any other refusal.
    #[error("{what} was refused by the kernel: {error}")]
    Refused {
        /// What was refused.
        what: String,
        /// The kernel's reason.
        error: Errno,
    },
    /// The rules don't fit one message.
    #[error("{len} bytes of rules don't fit the socket's send buffer: shorten the port lists by writing ranges")]
    TooLarge {
        /// Their length.
        len: usize,
    },
    /// The table itself is wrong. The caller's fault.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The socket failed.
    #[error("netlink socket failed while {doing}: {error}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The system's reason.
        error: Errno,
    },
    /// The kernel answered something unexpected.
    #[error("the kernel's answer can't be read: {0}")]
    Answer(String),
}

impl NetlinkError {
    /// Whether it is the kernel that lacks nf_tables, so that other means may do.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }

    fn socket(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |error| match error {
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => Self::Unsupported { what: "a netlink socket".to_string(), error },
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            error => Self::Socket { doing, error },
        }
    }

    pub(super) fn refused(what: String, error: Errno) -> Self {
        match error {
            Errno::PERM if what == BATCH || what == LISTING => Self::NotPermitted,
            Errno::PERM => Self::Owned { what, error },
            Errno::OPNOTSUPP | Errno::NOENT | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT => Self::Unsupported { what, error },
            error => Self::Refused { what, error },
        }
    }
}

pub(super) const BATCH: &str = "a batch of rules";
pub(super) const LISTING: &str = "a list of tables";

/// A socket to the nf_tables of the network namespace in which it was opened, and which it stays with.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

/// Tables that exist as long as this value does, and vanish with the process however it ends.
#[derive(Debug)]
pub struct OwnedTables {
    netlink: Netlink,
}

impl OwnedTables {
    /// Makes `tables` with the owner flag (kernel 5.12 and later): nobody else can change them.
    pub fn hold(tables: &[Table]) -> Result<Self, NetlinkError> {
        let owned = Self { netlink: Netlink::open()? };
        owned.replace(tables)?;
        Ok(owned)
    }

    /// Replaces or adds tables, all of them or none.
    pub fn replace(&self, tables: &[Table]) -> Result<(), NetlinkError> {
        self.netlink.replace_with(tables, TableFlags::Owner)
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread. Needs no right; changing something does.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
            Ok(Self { socket })
        };
        open().map_err(NetlinkError::socket("opening"))
    }

    /// Replaces `tables` whole, all of them or none. What was there under their names is gone; other tables stay.
    pub fn replace(&self, tables: &[Table]) -> Result<(), NetlinkError> {
        self.replace_with(tables, TableFlags::empty())
    }

    /// Removes tables if they exist, all of them or none.
    pub fn remove(&self, names: &[(Family, &str)]) -> Result<(), NetlinkError> {
        let mut operations = Vec::new();
        for (family, name) in names {
            operations.extend(encode::remove(*family, name, TableFlags::empty())?);
        }
        self.apply(operations)
    }

    /// The tables of the families `ip` and `ip6`.
    pub fn tables(&self) -> Result<Vec<(Family, String)>, NetlinkError> {
        let request = NfTablesMessage::GetTable(TableMessage { attributes: vec![] });
        let bytes = wire(request.into(), NetfilterProtoFamily::Unspec, 0, NLM_F_DUMP, 1);
        self.send(&bytes)?;
        let mut tables = Vec::new();
        for _ in 0..MAX_DUMP_PARTS {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(tables),
                    NetlinkPayload::Error(error) => {
                        return Err(NetlinkError::refused(LISTING.to_string(), errno(error.raw_code())));
                    }
                    NetlinkPayload::InnerMessage(message) => tables.extend(listed_table(message)),
                    _ => {}
                }
            }
        }
        Err(NetlinkError::Answer("the list of tables doesn't end".to_string()))
    }

    fn replace_with(&self, tables: &[Table], flags: TableFlags) -> Result<(), NetlinkError> {
        let mut operations = Vec::new();
        for table in tables {
            operations.extend(encode::replace(table, flags)?);
        }
        self.apply(operations)
    }

    fn apply(&self, operations: Vec<Operation>) -> Result<(), NetlinkError> {
        let Some(last) = operations.len().checked_sub(1) else {
            return Ok(());
        };
        let mut names = vec![BATCH.to_string()];
        let mut bytes = batch_mark(ControlMessage::BatchBegin, 0);
        for (index, operation) in operations.into_iter().enumerate() {
            let ack = if index == last { NLM_F_ACK } else { 0 };
            let sequence = sequence_of(names.len());
            bytes.extend(wire(operation.message.into(), protocol_family(operation.family), 0, operation.flags | ack, sequence));
            names.push(operation.what);
        }
        let acknowledged = sequence_of(names.len() - 1);
        bytes.extend(batch_mark(ControlMessage::BatchEnd, sequence_of(names.len())));
        self.send(&bytes)?;
        self.await_verdict(&names, acknowledged)
    }

    /// Reads until the last operation is acknowledged or any is refused; a refusal is answered before.
    fn await_verdict(&self, names: &[String], acknowledged: u32) -> Result<(), NetlinkError> {
        for _ in 0..=names.len() {
            for message in self.receive()? {
                let NetlinkPayload::Error(error) = message.payload else {
                    continue;
                };
                let sequence = message.header.sequence_number;
                if error.code.is_some() {
                    let what = names.get(sequence as usize).cloned().unwrap_or_else(|| BATCH.to_string());
                    return Err(NetlinkError::refused(what, errno(error.raw_code())));
                }
                if sequence == acknowledged {
                    return Ok(());
                }
            }
        }
        Err(NetlinkError::Answer("no acknowledgement came".to_string()))
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let wanted = bytes.len() + SEND_OVERHEAD;
        // Beyond the system's limit only with CAP_NET_ADMIN in the first user namespace; what is allowed will do for
        // all but very long lists, and those fail below with their reason.
        if sockopt::socket_send_buffer_size(&self.socket).is_ok_and(|size| size < wanted) {
            let _refused = sockopt::set_socket_send_buffer_size_force(&self.socket, wanted)
                .or_else(|_| sockopt::set_socket_send_buffer_size(&self.socket, wanted));
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        match rustix::net::sendto(&self.socket, bytes, SendFlags::empty(), &kernel) {
            Ok(_) => Ok(()),
            Err(Errno::MSGSIZE) => Err(NetlinkError::TooLarge { len: bytes.len() }),
            Err(error) => Err(NetlinkError::socket("sending")(error)),
        }
    }

    fn receive(&self) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, NetlinkError> {
        let mut buffer = vec![0; ANSWER_BUFFER_LEN];
        let received = loop {
            match rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty()) {
                // After a loss of further answers the first ones are still there, and they are what counts.
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(error) => return Err(NetlinkError::socket("awaiting the kernel's answer")(error)),
                Ok((received, _)) => break received,
            }
        };
        parse(buffer.get(..received).unwrap_or(&buffer))
    }
}

/// Splits one datagram into messages. Bounded by the datagram: each step takes at least a header.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, NetlinkError> {
    const HEADER_LEN: usize = 16;
    let mut messages = Vec::new();
    while bytes.len() >= HEADER_LEN {
        let message =
            NetlinkMessage::<NetfilterMessage>::deserialize(bytes).map_err(|error| NetlinkError::Answer(error.to_string()))?;
        let len = (message.header.length as usize).next_multiple_of(4).max(HEADER_LEN);
        messages.push(message);
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(messages)
}

fn listed_table(message: NetfilterMessage) -> Option<(Family, String)> {
    let family = match message.header.family {
        NetfilterProtoFamily::IPv4 => Family::Ip,
        NetfilterProtoFamily::IPv6 => Family::Ip6,
        _ => return None,
    };
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message.inner else {
        return None;
    };
    table.attributes.into_iter().find_map(|attribute| match attribute {
        TableAttribute::Name(name) => Some((family, name)),
        _ => None,
    })
}

fn batch_mark(mark: ControlMessage, sequence: u32) -> Vec<u8> {
    let subsystem = u16::from(u8::from(NetfilterSubsystem::NfTables));
    wire(mark.into(), NetfilterProtoFamily::Unspec, subsystem, 0, sequence)
}

fn wire(message: NetfilterMessageInner, family: NetfilterProtoFamily, resource: u16, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

fn protocol_family(family: Family) -> NetfilterProtoFamily {
    match family {
        Family::Ip => NetfilterProtoFamily::IPv4,
        Family::Ip6 => NetfilterProtoFamily::IPv6,
    }
}

/// Operations are numbered by their place; there are far fewer than 2^32.
fn sequence_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn errno(code: i32) -> Errno {
    Errno::from_io_error(&io::Error::from_raw_os_error(code.saturating_abs())).unwrap_or(Errno::INVAL)
}
