//! Netlink messages: attributes in, acknowledgement out. As much of it as links, addresses, routes and nf_tables need.
//!
//! Synchronous on purpose: a socket belongs to the network namespace of the thread that opened it, so these few
//! requests are made on short-lived threads inside that namespace (see `sys::within`), where no reactor is.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self as protocol, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const EXCL: u16 = 0x200;
pub(super) const REPLACE: u16 = 0x100;
const ERROR: u16 = 2;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Room for the largest batch of Service rules.
const SEND_BUFFER: usize = 16 << 20;
const RECEIVE_BUFFER: usize = 64 << 10;

/// Messages under construction, one after the other.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Messages {
    /// Appends a message; `fill` writes what follows the header.
    pub(super) fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Body<'_>)) {
        self.sequence += 1;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        fill(&mut Body(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of one message.
#[derive(Debug)]
pub(super) struct Body<'a>(&'a mut Vec<u8>);

impl Body<'_> {
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.pad();
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// A number as rtnetlink has it: the machine's byte order.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// A number as nf_tables has it: the network's byte order.
    pub(super) fn number_be(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Body<'_>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(&mut Body(self.0));
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

/// A socket in the calling thread's network namespace.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(protocol::NETFILTER))
    }

    fn open(kind: Option<rustix::net::Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, kind)?;
        rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends the messages in one piece and waits for the first acknowledgement or error. Mark the last message
    /// that can fail with [`ACK`]: an error of any other comes first.
    pub(super) fn send(&self, messages: &Messages) -> io::Result<()> {
        rustix::net::send(&self.0, &messages.bytes, SendFlags::empty())?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let (read, _) = rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
            if let Some(outcome) = outcome(&buffer[..read]) {
                return outcome;
            }
        }
    }
}

/// The first acknowledgement or error in what the kernel sent.
fn outcome(mut bytes: &[u8]) -> Option<io::Result<()>> {
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes(bytes[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes[4..6].try_into().ok()?);
        if kind == ERROR && bytes.len() >= HEADER + 4 {
            let code = i32::from_ne_bytes(bytes[HEADER..HEADER + 4].try_into().ok()?);
            return Some(match code {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            });
        }
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_are_padded_and_lengths_are_not() {
        let mut messages = Messages::default();
        messages.message(7, REQUEST, |body| {
            body.nested(1, |inner| inner.text(2, "ab"));
        });
        let bytes = messages.bytes();
        assert_eq!(bytes.len(), HEADER + 4 + 8);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()), 28);
        assert_eq!(&bytes[HEADER..HEADER + 4], &[12, 0, 1, 0x80]);
        assert_eq!(&bytes[HEADER + 4..], &[7, 0, 2, 0, b'a', b'b', 0, 0]);
    }

    #[test]
    fn an_error_is_the_kernels() {
        let mut reply = vec![0; HEADER + 4];
        reply[0] = 20;
        reply[4] = 2;
        reply[HEADER..].copy_from_slice(&(-17i32).to_ne_bytes());
        let error = outcome(&reply).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(outcome(&reply[..8]).is_none());
    }

    #[test]
    fn what_the_kernel_sends_may_be_anything() {
        use proptest::prelude::*;
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u16..4, at in 0_usize..3)| {
            let mut bytes = bytes;
            // Kinds that exist, mostly, in front.
            if let Some(place) = bytes.get_mut(16 * at + 4..16 * at + 6) {
                place.copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = outcome(&bytes);
        });
        let mut reply = vec![0; HEADER + 4];
        reply[4] = 2;
        reply[HEADER..].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(outcome(&reply).unwrap().is_err());
    }
}
