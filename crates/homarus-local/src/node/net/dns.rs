//! The DNS server of the pods, on the gateway address.
//!
//! Names of the cluster are answered from the [`Zone`]; all others are passed on to the machine's resolvers as they
//! are, and don't exist where the machine has none. What is malformed gets no more than an error; questions under
//! way are bounded.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use super::Network;
use super::zone::{Answer, Entry, Zone};

const PORT: u16 = 53;
/// Clients must not remember for longer, as endpoints come and go.
const TTL: u32 = 5;
/// Questions passed on and connections at one time; beyond, a client is told to try later.
const UNDER_WAY_MAX: usize = 512;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECTION_IDLE: Duration = Duration::from_secs(10);
const DATAGRAM_MAX: usize = 4096;
/// What a client without EDNS can take.
const PLAIN_MAX: u16 = 512;
/// Aliases are followed this far.
const ALIAS_DEPTH: usize = 8;

/// The server; it ends when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    zone: watch::Sender<Arc<Zone>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Server {
    zone: watch::Receiver<Arc<Zone>>,
    upstream: Vec<SocketAddr>,
    under_way: Semaphore,
}

impl Dns {
    /// Starts the server on the gateway address of `network`.
    pub(crate) fn start(network: &Network, upstream: Vec<SocketAddr>) -> io::Result<Self> {
        let (zone, zones) = watch::channel(Arc::new(Zone::default()));
        let server = Arc::new(Server { zone: zones, upstream, under_way: Semaphore::new(UNDER_WAY_MAX) });
        let udp = UdpSocket::from_std(network.listen_udp(PORT)?)?;
        let tcp = TcpListener::from_std(network.listen_tcp(PORT)?)?;
        let tasks = vec![tokio::spawn(serve_udp(server.clone(), Arc::new(udp))), tokio::spawn(serve_tcp(server, tcp))];
        Ok(Self { zone, tasks })
    }

    /// Replaces the names.
    pub(crate) fn publish(&self, zone: Zone) {
        self.zone.send_if_modified(|old| {
            let changed = **old != zone;
            if changed {
                *old = Arc::new(zone);
            }
            changed
        });
    }
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((read, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier answer.
            continue;
        };
        let question = buffer[..read].to_vec();
        let step = server.answer(&question, true);
        match step {
            Step::Reply(reply) => {
                let _ = socket.send_to(&reply, from).await;
            }
            Step::Silence => {}
            Step::PassOn => {
                let (server, socket) = (server.clone(), socket.clone());
                tokio::spawn(async move {
                    let reply = server.pass_on(&question).await;
                    let _ = socket.send_to(&reply, from).await;
                });
            }
        }
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: others must close some first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            let Ok(_permit) = server.under_way.try_acquire() else { return };
            let _ = serve_connection(&server, stream).await;
        });
    }
}

async fn serve_connection(server: &Server, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(CONNECTION_IDLE, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(CONNECTION_IDLE, stream.read_exact(&mut question)).await??;
        let reply = match server.answer(&question, false) {
            Step::Reply(reply) => reply,
            Step::Silence => return Ok(()),
            Step::PassOn => server.pass_on(&question).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&reply).await?;
    }
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Reply(Vec<u8>),
    /// It is for the machine's resolvers.
    PassOn,
    /// It can't be answered at all.
    Silence,
}

impl Server {
    fn answer(&self, question: &[u8], datagram: bool) -> Step {
        let zone = self.zone.borrow().clone();
        answer(&zone, question, datagram)
    }

    async fn pass_on(&self, question: &[u8]) -> Vec<u8> {
        let Ok(_permit) = self.under_way.try_acquire() else {
            return failure(question, ResponseCode::Refused);
        };
        for upstream in &self.upstream {
            let asked = tokio::time::timeout(UPSTREAM_TIMEOUT, ask(*upstream, question)).await;
            if let Ok(Ok(reply)) = asked {
                return reply;
            }
        }
        let code = if self.upstream.is_empty() { ResponseCode::NXDomain } else { ResponseCode::ServFail };
        failure(question, code)
    }
}

/// Asks a resolver of the machine, from the machine's own network.
async fn ask(upstream: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let own = match upstream.ip() {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut reply = vec![0; DATAGRAM_MAX];
    loop {
        let read = socket.recv(&mut reply).await?;
        // Only the answer to this question, by its number.
        if reply.get(..2) == question.get(..2) {
            reply.truncate(read);
            return Ok(reply);
        }
    }
}

/// The answer of the zone to the bytes of a question. Pure.
pub(super) fn answer(zone: &Zone, question: &[u8], datagram: bool) -> Step {
    let Ok(request) = Message::from_vec(question) else {
        return Step::Silence;
    };
    let meta = &request.metadata;
    let (Some(query), OpCode::Query) = (request.queries.first(), meta.op_code) else {
        return Step::Reply(failure(question, ResponseCode::NotImp));
    };
    if query.query_class() != DNSClass::IN {
        return Step::Reply(failure(question, ResponseCode::Refused));
    }
    let mut reply = Message::response(meta.id, OpCode::Query);
    reply.metadata.recursion_desired = meta.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.add_query(query.clone());
    let text = query.name().to_lowercase().to_ascii();
    match zone.ask(text.trim_end_matches('.')) {
        Answer::Elsewhere => return Step::PassOn,
        Answer::Nothing => {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        Answer::Pointer(name) => {
            if query.query_type() == RecordType::PTR
                && let Ok(target) = Name::from_ascii(format!("{name}."))
            {
                reply.add_answer(Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(target))));
            }
        }
        Answer::Found(entry) => add_records(&mut reply, zone, query.name(), query.query_type(), &entry),
    }
    if reply.answers.is_empty()
        && let Some(soa) = start_of_authority()
    {
        reply.add_authority(soa);
    }
    let room = request.edns.as_ref().map_or(PLAIN_MAX, |e| e.max_payload().max(PLAIN_MAX));
    Step::Reply(fitted(reply, datagram.then_some(room)))
}

fn add_records(reply: &mut Message, zone: &Zone, name: &Name, kind: RecordType, entry: &Entry) {
    if let Some(alias) = &entry.alias {
        add_alias(reply, zone, name, kind, alias);
        return;
    }
    if matches!(kind, RecordType::A | RecordType::ANY) {
        for address in &entry.addresses {
            reply.add_answer(Record::from_rdata(name.clone(), TTL, RData::A(A(*address))));
        }
    }
    if matches!(kind, RecordType::SRV | RecordType::ANY) {
        let weight = u16::try_from(100 / entry.services.len().max(1)).unwrap_or(0);
        for (port, target) in &entry.services {
            let Ok(host) = Name::from_ascii(format!("{target}.")) else { continue };
            let record = SRV::new(0, weight.max(1), *port, host.clone());
            reply.add_answer(Record::from_rdata(name.clone(), TTL, RData::SRV(record)));
            if let Answer::Found(found) = zone.ask(target) {
                for address in found.addresses {
                    let record = Record::from_rdata(host.clone(), TTL, RData::A(A(address)));
                    reply.add_additional(record);
                }
            }
        }
    }
}

/// An alias within the cluster is followed; one that leads outside is for the client to follow.
fn add_alias(reply: &mut Message, zone: &Zone, name: &Name, kind: RecordType, alias: &str) {
    let mut from = name.clone();
    let mut to = alias.trim_end_matches('.').to_lowercase();
    for _ in 0..ALIAS_DEPTH {
        let Ok(target) = Name::from_ascii(format!("{to}.")) else { return };
        let record = RData::CNAME(CNAME(target.clone()));
        reply.add_answer(Record::from_rdata(from, TTL, record));
        let Answer::Found(entry) = zone.ask(&to) else { return };
        let Some(next) = entry.alias.clone() else {
            add_records(reply, zone, &target, kind, &entry);
            return;
        };
        from = target;
        to = next.trim_end_matches('.').to_lowercase();
    }
}

fn start_of_authority() -> Option<Record> {
    let zone = Name::from_ascii("cluster.local.").ok()?;
    let server = Name::from_ascii("ns.dns.cluster.local.").ok()?;
    let contact = Name::from_ascii("hostmaster.cluster.local.").ok()?;
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
}

/// The reply in bytes; what doesn't fit is cut off and said to be, so that the client asks again over TCP.
fn fitted(mut reply: Message, room: Option<u16>) -> Vec<u8> {
    let bytes = reply.to_vec().unwrap_or_default();
    let Some(room) = room.map(usize::from).filter(|room| bytes.len() > *room) else {
        return bytes;
    };
    reply.additionals.clear();
    loop {
        match reply.to_vec() {
            Ok(bytes) if bytes.len() <= room => return bytes,
            Ok(_) if !reply.answers.is_empty() => {
                reply.metadata.truncation = true;
                let keep = reply.answers.len() / 2;
                reply.answers.truncate(keep);
            }
            _ => return Vec::new(),
        }
    }
}

fn failure(question: &[u8], code: ResponseCode) -> Vec<u8> {
    let Ok(request) = Message::from_vec(question) else {
        return Vec::new();
    };
    let mut reply = Message::error_msg(request.metadata.id, request.metadata.op_code, code);
    reply.metadata.recursion_available = true;
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    if let Some(query) = request.queries.first() {
        reply.add_query(query.clone());
    }
    reply.to_vec().unwrap_or_default()
}

/// The machine's resolvers, from the text of its `resolv.conf`, and its search domains.
pub(crate) fn resolvers(text: &str) -> (Vec<SocketAddr>, Vec<String>) {
    const RESOLVERS_MAX: usize = 3;
    let mut servers = Vec::new();
    let mut search = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let ip = words.next().and_then(|w| w.parse::<IpAddr>().ok());
                servers.extend(ip.map(|ip| SocketAddr::new(ip, PORT)));
            }
            Some("search" | "domain") => search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    servers.truncate(RESOLVERS_MAX);
    (servers, search)
}
