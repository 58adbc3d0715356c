//! `io.linkerd.proxy.destination.Destination` (control-plane §2, §3).

use super::{
    feed::feed,
    grpc::{self, Reply, Status},
    hub::Hub,
    metrics::Method,
};
use crate::index::{
    Absence, Settings,
    views::{
        endpoints::EndpointsKey,
        profile::{ProfileKey, ProfileTarget},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use homarus_model::{facts::Id, workload::Context};
use homarus_wire::api::destination::GetDestination;
use std::{net::IpAddr, net::SocketAddr, sync::Arc};

const SERVICE: &str = "io.linkerd.proxy.destination.Destination";
const GET: Method = Method { service: SERVICE, name: "Get", streams: true };
const GET_PROFILE: Method = Method { service: SERVICE, name: "GetProfile", streams: true };

/// Answers proxies that ask where a Service's endpoints are and what an address is.
pub struct Destination {
    hub: Arc<Hub>,
}

impl Destination {
    /// Answers from this hub.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn endpoints(&self, request: &GetDestination) -> Result<Reply, Status> {
        let settings = self.hub.read(|index| index.settings().clone());
        let Target::Name { service, hostname, port } = target(&request.path, &settings)? else {
            return Err(Status::invalid_argument("IP queries not supported by Get API"));
        };
        let Context { node_name, .. } = Context::parse(&request.context_token);
        let key = move |index: &crate::index::Index| EndpointsKey {
            place: index.place(&service, &node_name),
            service: service.clone(),
            hostname: hostname.clone(),
            port,
        };
        Ok(Reply::Stream(feed(&self.hub, key).map_err(status)?.boxed()))
    }

    fn profile(&self, request: &GetDestination) -> Result<Reply, Status> {
        let settings = self.hub.read(|index| index.settings().clone());
        let target = match target(&request.path, &settings)? {
            Target::Addr(addr) => ProfileTarget::Addr(addr),
            Target::Name { service, hostname: None, port } => ProfileTarget::Service(service, port),
            Target::Name { service, hostname: Some(hostname), port } => ProfileTarget::Instance(hostname, service, port),
        };
        let key = ProfileKey { target, client: Context::parse(&request.context_token).ns };
        Ok(Reply::Stream(feed(&self.hub, move |_| key.clone()).map_err(status)?.boxed()))
    }
}

impl grpc::Service for Destination {
    fn method(&self, path: &str) -> Option<Method> {
        [GET, GET_PROFILE].into_iter().find(|method| method.is_at(path))
    }

    fn call(&self, method: Method, message: Bytes) -> Result<Reply, Status> {
        let request = grpc::read(message)?;
        if method == GET { self.endpoints(&request) } else { self.profile(&request) }
    }
}

/// What a path names.
#[derive(Debug, PartialEq)]
enum Target {
    Addr(SocketAddr),
    Name { service: Id, hostname: Option<Arc<str>>, port: u16 },
}

/// The longest DNS name with a port, and some more.
const MAX_PATH_BYTES: usize = 300;

fn target(path: &str, settings: &Settings) -> Result<Target, Status> {
    if path.len() > MAX_PATH_BYTES {
        return Err(Status::invalid_argument(format!("Invalid authority: it has more than {MAX_PATH_BYTES} bytes")));
    }
    Target::parse(path, settings).map_err(invalid(path))
}

/// The port of a path that has none.
const DEFAULT_PORT: u16 = 80;

impl Target {
    /// `name`, `name:port`, `1.2.3.4:port` or `[::1]:port`, where the name is exactly a Service's or its endpoint's full one.
    fn parse(path: &str, settings: &Settings) -> Result<Self, &'static str> {
        let (host, port) = match path.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|p| *p != 0).ok_or("the port is not a number from 1 to 65535")?),
            None => (path, DEFAULT_PORT),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Addr(SocketAddr::new(ip, port)));
        }
        let local = host.strip_suffix(&*settings.cluster_domain).and_then(|h| h.strip_suffix(".svc."));
        let labels: Vec<&str> = local.ok_or("not the name of a Service of this cluster")?.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return Err("the name has an empty label");
        }
        match labels[..] {
            [name, namespace] => Ok(Self::Name { service: Id::new(namespace, name), hostname: None, port }),
            [hostname, name, namespace] => {
                Ok(Self::Name { service: Id::new(namespace, name), hostname: Some(hostname.into()), port })
            }
            _ => Err("not <service>.<namespace>.svc.<cluster domain>"),
        }
    }
}

/// What is wrong with a path, in the words that tools look for: the name alone, then the reason.
fn invalid(path: &str) -> impl Fn(&'static str) -> Status {
    let host = path.rsplit_once(':').map_or(path, |(host, _)| host);
    move |problem| Status::invalid_argument(format!("Invalid authority: {host}: {problem}"))
}

/// Why there is no view, as proxies understand it: some codes are final for them, with others they ask again.
pub(super) fn status(absence: Absence) -> Status {
    match absence {
        Absence::NotFound(message) => Status::not_found(message),
        Absence::Invalid(message) => Status::invalid_argument(message),
        Absence::Ambiguous(message) => Status::failed_precondition(message),
        Absence::Over(message) => Status::aborted(message),
        Absence::Busy(message) => Status::unavailable(message),
        Absence::Rekey => Status::unavailable("the Service has just changed; ask again"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_not_understood_is_named() {
        assert_eq!(invalid("foo:80")("no Service").message(), "Invalid authority: foo: no Service");
        assert_eq!(invalid("foo")("no Service").message(), "Invalid authority: foo: no Service");
    }

    #[test]
    fn too_long_a_path_is_not_told_back() {
        let path = |length: usize| format!("{}.shop.svc.cluster.local", "a".repeat(length - ".shop.svc.cluster.local".len()));
        assert!(target(&path(MAX_PATH_BYTES), &Settings::default()).is_ok());
        let status = target(&path(MAX_PATH_BYTES + 1), &Settings::default()).unwrap_err();
        assert_eq!(status.code(), grpc::Code::InvalidArgument);
        assert_eq!(status.message(), "Invalid authority: it has more than 300 bytes");
    }

    #[test]
    fn paths() {
        let settings = Settings::default();
        let name = |hostname: Option<&str>, port| {
            Ok(Target::Name { service: Id::new("shop", "web"), hostname: hostname.map(Into::into), port })
        };
        for (path, target) in [
            ("web.shop.svc.cluster.local", name(None, 80)),
            ("web.shop.svc.cluster.local:8080", name(None, 8080)),
            ("web-0.web.shop.svc.cluster.local:1", name(Some("web-0"), 1)),
            ("10.0.0.1:8080", Ok(Target::Addr("10.0.0.1:8080".parse().unwrap()))),
            ("[fd00::1]:8080", Ok(Target::Addr("[fd00::1]:8080".parse().unwrap()))),
        ] {
            assert_eq!(Target::parse(path, &settings), target, "{path}");
        }
        for path in [
            "",
            "web.shop.svc.cluster.local.",
            "web.shop.svc.cluster.local:0",
            "web.shop.svc.cluster.local:65536",
            "web.shop.svc.cluster.local:http",
            "web.shop.svc.other.domain:80",
            "Web.shop.SVC.cluster.local:80",
            "a.b.web.shop.svc.cluster.local:80",
            ".shop.svc.cluster.local:80",
            "shop.svc.cluster.local:80",
        ] {
            assert!(Target::parse(path, &settings).is_err(), "{path}");
        }
    }
}
