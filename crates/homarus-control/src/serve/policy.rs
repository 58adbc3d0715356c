//! `InboundServerPolicies` and `OutboundPolicies` (control-plane §5.1, §6.1).

use super::{
    Told,
    destination::status,
    feed::feed,
    grpc::{self, Reply, Status},
    hub::{Hub, Kept},
    metrics::Method,
};
use crate::index::views::{
    inbound::InboundKey,
    outbound::{OutboundKey, OutboundTarget},
};
use bytes::Bytes;
use futures::StreamExt;
use homarus_model::{
    Authority,
    facts::Id,
    name::Host,
    workload::{Context, Workload},
};
use homarus_wire::api::{
    inbound::PortSpec,
    outbound::{TrafficSpec, traffic_spec::Target},
};
use std::{net::IpAddr, net::SocketAddr, sync::Arc};

const INBOUND: &str = "io.linkerd.proxy.inbound.InboundServerPolicies";
const OUTBOUND: &str = "io.linkerd.proxy.outbound.OutboundPolicies";
const METHODS: [Method; 4] = [
    Method { service: INBOUND, name: "GetPort", streams: false },
    Method { service: INBOUND, name: "WatchPort", streams: true },
    Method { service: OUTBOUND, name: "Get", streams: false },
    Method { service: OUTBOUND, name: "Watch", streams: true },
];

/// Answers proxies that ask who may connect to a port and where requests go.
pub struct Policies {
    hub: Arc<Hub>,
}

impl Policies {
    /// Answers from this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn answer<K: Kept + Sync>(&self, key: K, streams: bool) -> Result<Reply, Status> {
        if streams {
            return Ok(Reply::Stream(feed(&self.hub, move |_| key.clone()).map_err(status)?.boxed()));
        }
        let view = self.hub.look(&key).map_err(status)?;
        Ok(Reply::One(view.all().into_iter().next().unwrap_or_default()))
    }
}

impl grpc::Service for Policies {
    fn method(&self, path: &str) -> Option<Method> {
        METHODS.into_iter().find(|method| method.is_at(path))
    }

    fn call(&self, method: Method, message: Bytes) -> Result<Reply, Status> {
        if method.service == INBOUND {
            self.answer(inbound_key(&grpc::read(message)?)?, method.streams)
        } else {
            let domain = self.hub.read(|index| index.settings().cluster_domain.clone());
            self.answer(outbound_key(&grpc::read(message)?, &domain)?, method.streams)
        }
    }
}

fn port(number: u32) -> Result<u16, Status> {
    u16::try_from(number).ok().filter(|p| *p != 0).ok_or_else(|| Status::invalid_argument("port must be from 1 to 65535"))
}

fn workload(text: &str) -> Result<Workload, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))
}

fn inbound_key(spec: &PortSpec) -> Result<InboundKey, Status> {
    Ok(InboundKey { workload: workload(&spec.workload)?, port: port(spec.port)? })
}

fn outbound_key(spec: &TrafficSpec, domain: &str) -> Result<OutboundKey, Status> {
    let client = match spec.source_workload.parse::<Workload>() {
        Ok(workload) => workload.namespace,
        // A proxy may tell only its namespace.
        Err(error) => Some(Context::parse(&spec.source_workload).ns)
            .filter(|ns| !ns.is_empty())
            .ok_or_else(|| Status::invalid_argument(error.to_string()))?,
    };
    let target = match &spec.target {
        None => return Err(Status::invalid_argument("a target is required")),
        Some(Target::Addr(addr)) => {
            let ip = addr.ip.and_then(|ip| IpAddr::try_from(ip).ok());
            let ip = ip.ok_or_else(|| Status::invalid_argument("the target has no address"))?;
            OutboundTarget::Addr(SocketAddr::new(ip, port(addr.port)?))
        }
        Some(Target::Authority(authority)) => named(authority, domain)?,
    };
    Ok(OutboundKey { target, client })
}

/// The port of an authority that has none.
const DEFAULT_PORT: u16 = 80;

/// `<name>.<namespace>.svc[.<cluster domain>][.][:port]`.
fn named(authority: &str, domain: &str) -> Result<OutboundTarget, Status> {
    let parsed = Authority::parse(authority, DEFAULT_PORT).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let unknown = || Status::not_found("No such service");
    let Host::Name(name) = &parsed.host else { return Err(unknown()) };
    let name = name.as_str();
    let local = name.strip_suffix(domain).and_then(|n| n.strip_suffix('.')).unwrap_or(name);
    let labels: Vec<&str> = local.split('.').collect();
    match labels[..] {
        [service, namespace, "svc"] => Ok(OutboundTarget::Service(Id::new(namespace, service), parsed.port)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tonic::Code;

    fn key(source: &str, target: Option<Target>) -> Result<OutboundKey, Code> {
        let spec = TrafficSpec { source_workload: source.into(), target };
        outbound_key(&spec, "cluster.local").map_err(|status| status.code())
    }

    #[test]
    fn authorities() {
        let service = |port| OutboundTarget::Service(Id::new("shop", "web"), port);
        for (authority, target) in [
            ("web.shop.svc", Ok(service(80))),
            ("web.shop.svc:8080", Ok(service(8080))),
            ("web.shop.svc.cluster.local", Ok(service(80))),
            ("web.shop.svc.cluster.local.:8080", Ok(service(8080))),
            ("web.shop", Err(Code::NotFound)),
            ("example.com:443", Err(Code::NotFound)),
            ("web.shop.svc.other.domain", Err(Code::NotFound)),
            ("web.shop.svc:0", Err(Code::InvalidArgument)),
            ("web shop", Err(Code::InvalidArgument)),
        ] {
            let found = key("ns:pod", Some(Target::Authority(authority.into()))).map(|key| key.target);
            assert_eq!(found, target, "{authority}");
        }
    }

    #[test]
    fn addresses() {
        let addr = |addr: &str| Some(Target::Addr(addr.parse::<SocketAddr>().unwrap().into()));
        assert_eq!(
            key("{\"ns\":\"shop\",\"pod\":\"p\"}\n", addr("10.0.0.1:80")),
            Ok(OutboundKey { target: OutboundTarget::Addr("10.0.0.1:80".parse().unwrap()), client: "shop".into() })
        );
        assert_eq!(key("garbage", addr("10.0.0.1:80")), Err(Code::InvalidArgument));
        assert_eq!(key("ns:pod", addr("10.0.0.1:0")), Err(Code::InvalidArgument));
        assert_eq!(key("ns:pod", None), Err(Code::InvalidArgument));
        assert_eq!(key("ns:pod", Some(Target::Addr(Default::default()))), Err(Code::InvalidArgument));
    }

    #[test]
    fn ports() {
        let spec = |workload: &str, port| inbound_key(&PortSpec { workload: workload.into(), port }).map_err(|s| s.code());
        assert_eq!(spec("ns:pod", 80).unwrap().port, 80);
        for (workload, port) in [("ns:pod", 0), ("ns:pod", 65536), ("", 80), ("{}", 80)] {
            assert_eq!(spec(workload, port), Err(Code::InvalidArgument), "{workload} {port}");
        }
    }
}
