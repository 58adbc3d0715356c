//! Links, addresses and routes, in the calling thread's network namespace (rtnetlink(7)).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use ipnet::Ipv4Net;

use super::netlink::{ACK, CREATE, EXCL, Messages, Netlink, REPLACE, REQUEST};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const INET: u8 = 2;
const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
/// `struct ifinfomsg`, all unset.
const IFINFO: [u8; 16] = [0; 16];

/// Makes a pair of linked interfaces, `name` here and `peer` in another namespace.
pub(super) fn add_veth(name: &str, peer: &str, mtu: u32, peer_net: &OwnedFd) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.message(NEWLINK, REQUEST | ACK | CREATE | EXCL, |body| {
        body.raw(&IFINFO);
        body.text(IFLA_IFNAME, name);
        body.number(IFLA_MTU, mtu);
        body.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |other| {
                    other.raw(&IFINFO);
                    other.text(IFLA_IFNAME, peer);
                    other.number(IFLA_MTU, mtu);
                    other.number(IFLA_NET_NS_FD, peer_net.as_raw_fd().unsigned_abs());
                });
            });
        });
    });
    Netlink::route()?.send(&messages)
}

/// Removes an interface; that it is gone already is fine.
pub(super) fn remove(name: &str) -> io::Result<()> {
    let Ok(index) = index(name) else {
        return Ok(());
    };
    let mut messages = Messages::default();
    messages.message(DELLINK, REQUEST | ACK, |body| {
        body.raw(&ifinfo(index, 0));
    });
    Netlink::route()?.send(&messages)
}

/// Brings an interface up.
pub(super) fn up(name: &str) -> io::Result<()> {
    let index = index(name)?;
    let mut messages = Messages::default();
    messages.message(NEWLINK, REQUEST | ACK, |body| {
        body.raw(&ifinfo(index, IFF_UP));
    });
    Netlink::route()?.send(&messages)
}

fn ifinfo(index: u32, flags: u32) -> [u8; 16] {
    let mut info = IFINFO;
    info[4..8].copy_from_slice(&index.to_ne_bytes());
    info[8..12].copy_from_slice(&flags.to_ne_bytes());
    info[12..16].copy_from_slice(&flags.to_ne_bytes());
    info
}

/// Gives an interface an address of its own, without a subnet.
pub(super) fn address(name: &str, address: Ipv4Addr) -> io::Result<()> {
    const LOCAL: u16 = 2;
    const ADDRESS: u16 = 1;
    let index = index(name)?;
    let mut messages = Messages::default();
    messages.message(NEWADDR, REQUEST | ACK | CREATE | REPLACE, |body| {
        let [a, b, c, d] = index.to_ne_bytes();
        body.raw(&[INET, 32, 0, 0, a, b, c, d]);
        body.attribute(LOCAL, &address.octets());
        body.attribute(ADDRESS, &address.octets());
    });
    Netlink::route()?.send(&messages)
}

/// A route out of an interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) to: Ipv4Net,
    pub(super) dev: &'a str,
    /// The neighbour that takes it on; none where the destination itself is the neighbour.
    pub(super) via: Option<Ipv4Addr>,
    /// The address that this side speaks from.
    pub(super) src: Ipv4Addr,
}

/// Adds a route; that one to the same network is there already is an error.
pub(super) fn route(route: Route<'_>) -> io::Result<()> {
    const MAIN: u8 = 254;
    const BOOT: u8 = 3;
    const UNIVERSE: u8 = 0;
    const LINK: u8 = 253;
    const UNICAST: u8 = 1;
    const ONLINK: u32 = 4;
    let index = index(route.dev)?;
    let scope = if route.via.is_some() { UNIVERSE } else { LINK };
    let flags = if route.via.is_some() { ONLINK } else { 0 };
    let mut messages = Messages::default();
    messages.message(NEWROUTE, REQUEST | ACK | CREATE | EXCL, |body| {
        let length = route.to.prefix_len();
        body.raw(&[INET, length, 0, 0, MAIN, BOOT, scope, UNICAST]);
        body.raw(&flags.to_ne_bytes());
        if length > 0 {
            body.attribute(1, &route.to.network().octets());
        }
        body.number(4, index);
        if let Some(via) = route.via {
            body.attribute(5, &via.octets());
        }
        body.attribute(7, &route.src.octets());
    });
    Netlink::route()?.send(&messages)
}

fn index(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}
