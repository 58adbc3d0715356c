//! Names of the control plane into addresses (proxy-wire §4).
//!
//! SRV records first: a headless Service answers with one target for each pod, whose first label is the pod's address with
//! dashes. Then A and AAAA. Answers are kept for their TTL, within the operator's bounds; that a name has no address
//! yet isn't kept at all.

use crate::{
    config::ControlAddr,
    observe::{
        Family, Labels, Registry,
        registry::{Half, Kind},
    },
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::ResolverOpts,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
};
use homarus_model::name::Host;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::OnceLock,
    time::Duration,
};

/// Addresses of one name that are used, at most.
const MAX_ADDRS: usize = 256;
/// Answers that are kept: the control plane has three names.
const CACHE_SIZE: u64 = 16;

static RESOLUTIONS: Family = Family {
    name: "control_dns_resolutions",
    help: "Counts the number of DNS resolutions of control plane names",
    kind: Kind::Counter,
    half: Half::Open,
};

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The machine's resolver can't be used.
    #[error("no DNS resolver: {0}; is /etc/resolv.conf readable?")]
    Setup(NetError),
    /// The question failed.
    #[error("failed to resolve {name}: {source}")]
    Lookup {
        /// What was asked.
        name: String,
        /// Why.
        source: NetError,
    },
    /// The answer holds no address.
    #[error("{0} has no addresses: is the control plane running?")]
    Empty(String),
}

/// Resolves names, and remembers the answers. Made at the first name: most proxies of one machine never need it.
#[derive(Debug)]
pub struct Dns {
    ttl: (Option<Duration>, Option<Duration>),
    resolver: OnceLock<TokioResolver>,
    registry: Registry,
}

impl Dns {
    /// A resolver as the machine is configured, with bounds for TTLs.
    pub fn new(min_ttl: Option<Duration>, max_ttl: Option<Duration>, registry: Registry) -> Self {
        Self { ttl: (min_ttl, max_ttl), resolver: OnceLock::new(), registry }
    }

    /// The addresses behind a part of the control plane; `client` is who asks, for the metrics.
    pub async fn resolve(&self, client: &'static str, addr: &ControlAddr) -> Result<Vec<SocketAddr>, DnsError> {
        let port = addr.authority.port;
        let name = match &addr.authority.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, port)]),
            Host::Name(name) if name.as_str() == "localhost" => return Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]),
            // With its dot, if it has one: then search domains don't matter.
            Host::Name(_) => addr.text.rsplit_once(':').map_or(&*addr.text, |(host, _)| host),
        };
        let resolver = self.resolver()?;
        let mut ips = match resolver.lookup(name, RecordType::SRV).await {
            Ok(found) => found.answers().iter().filter_map(|r| srv_ip(&r.data)).collect(),
            Err(_) => Vec::new(),
        };
        self.count(client, "SRV", !ips.is_empty());
        if ips.is_empty() {
            let found = resolver.lookup_ip(name).await;
            self.count(client, "A/AAAA", found.is_ok());
            ips = found.map_err(|source| DnsError::Lookup { name: name.to_owned(), source })?.iter().collect();
        }
        ips.truncate(MAX_ADDRS);
        if ips.is_empty() {
            return Err(DnsError::Empty(name.to_owned()));
        }
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn resolver(&self) -> Result<&TokioResolver, DnsError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver);
        }
        let mut builder = Resolver::builder(TokioRuntimeProvider::default()).map_err(DnsError::Setup)?;
        self.settle(builder.options_mut());
        let resolver = builder.build().map_err(DnsError::Setup)?;
        Ok(self.resolver.get_or_init(|| resolver))
    }

    fn settle(&self, options: &mut ResolverOpts) {
        (options.positive_min_ttl, options.positive_max_ttl) = self.ttl;
        options.cache_size = CACHE_SIZE;
        // What isn't there yet is asked for because it is to come, and whoever asks has a backoff.
        options.negative_max_ttl = Some(Duration::ZERO);
    }

    fn count(&self, client: &'static str, record_type: &'static str, found: bool) {
        let result = if found { "ok" } else { "not_found" };
        let labels = Labels::new().with("client", client).with("record_type", record_type).with("result", result);
        self.registry.counter(&RESOLUTIONS, labels).inc();
    }
}

/// The address in the first label of a target: `10-1-2-3.name.` or `fd00--1.name.`.
fn srv_ip(record: &RData) -> Option<IpAddr> {
    let RData::SRV(srv) = record else { return None };
    label_ip(&String::from_utf8_lossy(srv.target.iter().next()?))
}

fn label_ip(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::from);
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from);
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        proto::{
            op::{Message, ResponseCode},
            rr::{
                Name, Record,
                rdata::{A, SOA, SRV},
            },
        },
    };
    use std::sync::{Arc, Mutex};

    /// A name server that knows `headless.` by SRV and `plain.` by A, and nothing else. Tells what it was asked.
    async fn name_server() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        tokio::spawn(async move {
            let mut buf = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut buf).await {
                let question = Message::from_vec(&buf[..n]).unwrap();
                log.lock().unwrap().push(question.queries[0].to_string());
                let _ = socket.send_to(&answer(question).to_vec().unwrap(), from).await;
            }
        });
        (addr, asked)
    }

    fn answer(question: Message) -> Message {
        let query = question.queries[0].clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        let srv = |target: &str| RData::SRV(SRV::new(0, 0, 8086, target.parse::<Name>().unwrap()));
        let data = match (query.name().to_string().as_str(), query.query_type()) {
            ("headless.", RecordType::SRV) => vec![srv("10-1-2-3.headless."), srv("fd00--1.headless."), srv("web-0.headless.")],
            ("plain.", RecordType::A) => vec![RData::A(A::new(10, 9, 9, 9))],
            _ => vec![],
        };
        if data.is_empty() {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let root = Name::root();
            let authority = SOA::new(root.clone(), root.clone(), 1, 30, 30, 30, 30);
            answer.add_authority(Record::from_rdata(root, 30, RData::SOA(authority)));
        }
        for data in data {
            answer.add_answer(Record::from_rdata(query.name().clone(), 30, data));
        }
        answer.add_query(query);
        answer
    }

    fn addr(text: &str) -> ControlAddr {
        ControlAddr { text: text.into(), authority: homarus_model::Authority::parse(text, 1).unwrap(), tls: None }
    }

    #[tokio::test]
    async fn srv_comes_first() {
        let (server, asked) = name_server().await;
        let mut connection = ConnectionConfig::udp();
        connection.port = server.port();
        let servers = vec![NameServerConfig::new(server.ip(), true, vec![connection])];
        let config = ResolverConfig::from_parts(None, vec![], servers);
        let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        let dns = Dns::new(None, None, Registry::default());
        dns.settle(builder.options_mut());
        dns.resolver.set(builder.build().unwrap()).unwrap();

        let mut found = dns.resolve("policy", &addr("headless.:8090")).await.unwrap();
        found.sort();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.2.3:8090", "[fd00::1]:8090"]);
        let found = dns.resolve("policy", &addr("plain.:1")).await.unwrap();
        assert_eq!(found, ["10.9.9.9:1".parse().unwrap()]);
        assert!(matches!(dns.resolve("policy", &addr("nobody.:1")).await, Err(DnsError::Lookup { .. })));
        assert_eq!(dns.resolve("policy", &addr("localhost.:1")).await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);

        let before = asked.lock().unwrap().len();
        dns.resolve("policy", &addr("headless.:8090")).await.unwrap();
        assert_eq!(asked.lock().unwrap().len(), before, "answers are kept for their time");
        dns.resolve("late", &addr("nobody.:1")).await.unwrap_err();
        assert!(asked.lock().unwrap().len() > before, "but that nobody is there yet isn't");
        let mut text = String::new();
        dns.registry.render(&mut text);
        for line in [
            "control_dns_resolutions_total{client=\"policy\",record_type=\"SRV\",result=\"ok\"} 2\n",
            "control_dns_resolutions_total{client=\"policy\",record_type=\"A/AAAA\",result=\"ok\"} 1\n",
            "control_dns_resolutions_total{client=\"policy\",record_type=\"A/AAAA\",result=\"not_found\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn addresses_stand_in_labels() {
        assert_eq!(label_ip("10-1-2-3"), Some("10.1.2.3".parse().unwrap()));
        assert_eq!(label_ip("fd00--1-2"), Some("fd00::1:2".parse().unwrap()));
        for not in ["", "web-0", "10-1-2", "10-1-2-256"] {
            assert_eq!(label_ip(not), None, "{not}");
        }
    }
}
