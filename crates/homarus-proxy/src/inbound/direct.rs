//! Connections to the inbound port itself: TLS of the mesh and a transport header, always (proxy-wire §6.3).

use super::{Connection, Inbound, Way, broken};
use crate::{
    buffers::Buffer,
    detect::{self, tls::Hello},
    fault::{Cause, Fault},
    io::Io,
    net::{self, TcpStream},
};
use bytes::Bytes;
use homarus_model::inbound::{ClientTls, Protocol};
use homarus_wire::transport::{Header, Progress, Session};
use std::{future::poll_fn, net::SocketAddr};

impl Inbound {
    pub(super) async fn direct(&self, tcp: TcpStream, client: SocketAddr, original_dst: SocketAddr) -> Result<Option<Way>, Fault> {
        let limit = self.worker.config.inbound.direction.detect_timeout;
        let work = async {
            let mut io = Io::from(tcp);
            let Some((buffer, resumes)) = self.hello(&mut io).await? else { return Ok(None) };
            let (mut io, peer) = self.end_tls(io, buffer, Some(resumes)).await?;
            let Some(client) = &peer.identity else {
                return Err(refused("direct connections must be mutually authenticated"));
            };
            if !peer.transport_header {
                return Err(refused("direct connections require transport header negotiation"));
            }
            let header = header(&mut io).await?;
            self.headers.connection(&header, client);
            Ok(Some((io, peer, header)))
        };
        let settled = net::timeout(limit, Box::pin(work)).await.unwrap_or_else(|| Err(refused("transport header timed out")));
        let Some((io, peer, header)) = settled? else { return Ok(None) };
        if header.port == self.worker.config.inbound.listen.port() {
            return Err(refused(&format!("inbound connection must not target port {}", header.port)));
        }
        if header.name.is_some() {
            return Err(refused("this workload is not a gateway"));
        }
        let target = SocketAddr::new(original_dst.ip(), header.port);
        let tls = ClientTls::Terminated(peer.identity);
        let connection = Connection { io, client, tls, target, port: self.port(target) };
        self.tunneled(connection, header.session).await.map(Some)
    }

    /// What the header says goes: nothing is detected.
    async fn tunneled(&self, connection: Connection, session: Option<Session>) -> Result<Way, Fault> {
        let policy = connection.port.policy().await?;
        let http_only = matches!(policy.server.protocol, Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Grpc(_));
        match session {
            Some(Session::Http1) => Ok(Way::Http1(connection)),
            Some(Session::Http2) => Ok(Way::Http2(connection)),
            None if http_only => Err(refused("the port speaks HTTP, the connection does not say so")),
            None => self.opaque(connection, &policy, None).await,
        }
    }

    /// A ClientHello for us; none: the client has gone.
    async fn hello(&self, io: &mut Io) -> Result<Option<(Buffer, bool)>, Fault> {
        poll_fn(|cx| io.poll_readable(cx)).await;
        let mut buffer = Buffer::take();
        loop {
            if detect::more(io, &mut buffer).await.map_err(|e| broken(&e))? == 0 {
                return Ok(None);
            }
            match detect::tls::hello(&buffer) {
                Hello::Incomplete => {}
                Hello::For { sni, resumes } if self.is_ours(&sni) => return Ok(Some((buffer, resumes))),
                _ => return Err(refused("direct connections must be mutually authenticated")),
            }
        }
    }
}

/// The transport header; what follows it is put back.
async fn header(io: &mut Io) -> Result<Header, Fault> {
    poll_fn(|cx| io.poll_readable(cx)).await;
    let mut buffer = Buffer::take();
    loop {
        if detect::more(io, &mut buffer).await.map_err(|e| broken(&e))? == 0 {
            return Err(refused("connection ended before its transport header"));
        }
        match Header::decode(&buffer) {
            Ok(Progress::Incomplete) if buffer.room() > 0 => {}
            Ok(Progress::Incomplete) => return Err(refused("transport header too long")),
            Ok(Progress::Done(header, taken)) => {
                io.unread(Bytes::copy_from_slice(&buffer[taken..]));
                return Ok(header);
            }
            Err(error) => return Err(refused(&error.to_string())),
        }
    }
}

fn refused(why: &str) -> Fault {
    Fault::new(Cause::Unexpected(why.to_owned()), "direct connection")
}
