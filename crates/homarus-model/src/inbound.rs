//! Inbound policy: what a server's port speaks, and who may ask it.

use crate::{
    Identity, Meta,
    network::Network,
    route::{Filter, GrpcRoute, HttpRoute},
};
use ipnet::IpNet;
use std::{collections::BTreeSet, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr, str::FromStr, sync::Arc, time::Duration};

/// How long to wait for the first bytes of a connection, unless a policy says otherwise.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The policy of one port.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPolicy {
    /// The Server, or the default that stands in for one.
    pub server: Meta,
    /// What the port speaks.
    pub protocol: Protocol,
    /// Who may connect; each request's route may add its own.
    pub authorizations: Arc<[Authorization]>,
}

/// What a port speaks.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// Find out: HTTP/1, HTTP/2, or opaque.
    Detect {
        /// How long to wait for the client's first bytes.
        timeout: Duration,
        /// Routes of HTTP requests.
        routes: Arc<[HttpRoute<RoutePolicy>]>,
    },
    /// HTTP/1, or HTTP/2 where a meshed client upgraded it.
    Http1(Arc<[HttpRoute<RoutePolicy>]>),
    /// HTTP/2.
    Http2(Arc<[HttpRoute<RoutePolicy>]>),
    /// gRPC over HTTP/2.
    Grpc(Arc<[GrpcRoute<RoutePolicy>]>),
    /// Bytes.
    Opaque,
    /// TLS of the application's own.
    Tls,
}

/// What applies to requests of one route rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePolicy {
    /// The route object or default.
    pub meta: Meta,
    /// Who may send such requests, beside those whom the server allows.
    pub authorizations: Arc<[Authorization]>,
    /// What is done to a request that may pass.
    pub filters: Arc<[Filter]>,
}

/// One grant: clients of some networks with some proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The object or default that grants.
    pub meta: Meta,
    /// Where the client's connection must come from: one of these.
    pub networks: Vec<Network>,
    /// What it must prove.
    pub authentication: Authentication,
}

/// What a client must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing.
    Unauthenticated,
    /// TLS of the mesh, with or without an identity.
    TlsUnauthenticated,
    /// An identity of the mesh.
    TlsAuthenticated {
        /// One of these exactly,
        identities: BTreeSet<Identity>,
        /// or one that ends in one of these.
        suffixes: Vec<Suffix>,
    },
}

/// The end of DNS-like identities: any identity, or those below a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suffix(Option<Arc<str>>);

impl Suffix {
    /// A suffix of these labels; none of them means any identity.
    pub fn of_parts<S: AsRef<str>>(parts: &[S]) -> Self {
        if parts.is_empty() {
            return Self(None);
        }
        let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
        Self(Some(parts.join(".").to_ascii_lowercase().into()))
    }

    /// Matches every identity.
    pub fn any() -> Self {
        Self(None)
    }

    /// The labels of the suffix; none means any identity.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|s| s.split('.'))
    }

    /// Whether the identity ends in `.` and this suffix. URIs only match "any".
    pub fn matches(&self, id: &Identity) -> bool {
        match (&self.0, id) {
            (None, _) => true,
            (Some(suffix), Identity::Dns(name)) => {
                name.as_str().strip_suffix(&**suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
            (Some(_), Identity::Uri(_)) => false,
        }
    }
}

/// What the TLS of a connection says of its client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientTls {
    /// TLS of the mesh ended here; the client showed this identity, or none.
    Terminated(Option<Identity>),
    /// TLS for somebody else, passed through unread.
    Passthru {
        /// The name that the client asked for.
        sni: Arc<str>,
    },
    /// No TLS.
    None(NoTls),
}

/// Why a connection has no TLS of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoTls {
    /// The client sent none.
    NoTlsFromRemote,
    /// The port is opaque: it was not looked for.
    PortSkipped,
    /// Client and server are in one place.
    Loopback,
}

impl NoTls {
    /// The value of the label `no_tls_reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoTlsFromRemote => "no_tls_from_remote",
            Self::PortSkipped => "port_skipped",
            Self::Loopback => "loopback",
        }
    }
}

impl ClientTls {
    /// The client's identity, if it proved one.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Terminated(id) => id.as_ref(),
            _ => None,
        }
    }
}

impl Authorization {
    /// Whether this grant covers a client at `addr` with `tls`.
    pub fn permits(&self, addr: IpAddr, tls: &ClientTls) -> bool {
        if !self.networks.iter().any(|n| n.contains(addr)) {
            return false;
        }
        match (&self.authentication, tls) {
            (Authentication::Unauthenticated, _) => true,
            (Authentication::TlsUnauthenticated, ClientTls::Terminated(_)) => true,
            (Authentication::TlsAuthenticated { identities, suffixes }, ClientTls::Terminated(Some(id))) => {
                identities.contains(id) || suffixes.iter().any(|s| s.matches(id))
            }
            _ => false,
        }
    }

    /// Everything from the machine itself: what the proxy adds to each policy it is told (proxy-traffic §6.1).
    pub fn localhost() -> Self {
        Self {
            meta: Meta::default_named("localhost"),
            networks: vec![
                IpNet::from(IpAddr::from(Ipv4Addr::LOCALHOST)).into(),
                IpNet::from(IpAddr::from(Ipv6Addr::LOCALHOST)).into(),
            ],
            authentication: Authentication::Unauthenticated,
        }
    }
}

/// The first grant that covers the client: the verdict. None: refused.
pub fn authorize<'a>(
    grants: impl IntoIterator<Item = &'a Authorization>,
    addr: IpAddr,
    tls: &ClientTls,
) -> Option<&'a Authorization> {
    grants.into_iter().find(|grant| grant.permits(addr, tls))
}

/// What applies to a port that no Server describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DefaultPolicy {
    /// Nobody.
    Deny,
    /// Any client; every request is logged.
    Audit,
    /// Any client of the named networks that meets the condition.
    Allow {
        /// Only with an identity of the mesh.
        authenticated: bool,
        /// Only from the cluster's networks.
        cluster: bool,
    },
}

/// A text that names no default policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny or audit")]
pub struct InvalidDefaultPolicy;

impl FromStr for DefaultPolicy {
    type Err = InvalidDefaultPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidDefaultPolicy> {
        Ok(match text {
            "deny" => Self::Deny,
            "audit" => Self::Audit,
            "all-unauthenticated" => Self::Allow { authenticated: false, cluster: false },
            "all-authenticated" => Self::Allow { authenticated: true, cluster: false },
            "cluster-unauthenticated" => Self::Allow { authenticated: false, cluster: true },
            "cluster-authenticated" => Self::Allow { authenticated: true, cluster: true },
            _ => return Err(InvalidDefaultPolicy),
        })
    }
}

impl DefaultPolicy {
    /// The name, as in annotations, variables and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::Allow { authenticated: false, cluster: false } => "all-unauthenticated",
            Self::Allow { authenticated: true, cluster: false } => "all-authenticated",
            Self::Allow { authenticated: false, cluster: true } => "cluster-unauthenticated",
            Self::Allow { authenticated: true, cluster: true } => "cluster-authenticated",
        }
    }

    /// Whether it speaks of the cluster's networks.
    pub fn needs_cluster_networks(self) -> bool {
        matches!(self, Self::Allow { cluster: true, .. })
    }

    /// What it grants.
    pub fn authorizations(self, cluster_networks: &[IpNet]) -> Arc<[Authorization]> {
        let meta = Meta::default_named(self.as_str());
        let grant =
            |networks, authentication| -> Arc<[Authorization]> { [Authorization { meta, networks, authentication }].into() };
        match self {
            Self::Deny => Arc::new([]),
            Self::Audit => grant(Network::everywhere(), Authentication::Unauthenticated),
            Self::Allow { authenticated, cluster } => grant(
                if cluster { cluster_networks.iter().copied().map(Network::from).collect() } else { Network::everywhere() },
                if authenticated {
                    Authentication::TlsAuthenticated { identities: BTreeSet::new(), suffixes: vec![Suffix::any()] }
                } else {
                    Authentication::Unauthenticated
                },
            ),
        }
    }

    /// The whole policy of a port without a Server: opaque where detection is off, and under `deny`.
    pub fn server_policy(self, cluster_networks: &[IpNet], opaque: bool) -> ServerPolicy {
        let authorizations = self.authorizations(cluster_networks);
        let protocol = if opaque || self == Self::Deny {
            Protocol::Opaque
        } else {
            Protocol::Detect { timeout: DETECT_TIMEOUT, routes: [HttpRoute::catch_all(RoutePolicy::default_route())].into() }
        };
        ServerPolicy { server: Meta::default_named(self.as_str()), protocol, authorizations }
    }
}

impl RoutePolicy {
    /// The route of requests when a server has none of its own.
    pub fn default_route() -> Self {
        Self { meta: Meta::default_named("default"), authorizations: Arc::new([]), filters: Arc::new([]) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn meshed(id: &str) -> ClientTls {
        ClientTls::Terminated(Some(id.parse().unwrap()))
    }

    #[test]
    fn default_policies_grant_what_they_say() {
        let cluster = ["10.0.0.0/8".parse().unwrap()];
        let (inside, outside): (IpAddr, IpAddr) = ("10.1.1.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let plain = ClientTls::None(NoTls::NoTlsFromRemote);
        let anonymous = ClientTls::Terminated(None);
        let web = meshed("web.ns.serviceaccount.identity.linkerd.cluster.local");
        for (name, plain_in, plain_out, anon_in, web_in, web_out) in [
            ("all-unauthenticated", true, true, true, true, true),
            ("all-authenticated", false, false, false, true, true),
            ("cluster-unauthenticated", true, false, true, true, false),
            ("cluster-authenticated", false, false, false, true, false),
            ("audit", true, true, true, true, true),
            ("deny", false, false, false, false, false),
        ] {
            let policy: DefaultPolicy = name.parse().unwrap();
            assert_eq!(policy.as_str(), name);
            let grants = policy.authorizations(&cluster);
            let allowed = |addr, tls| authorize(grants.iter(), addr, tls).is_some();
            assert_eq!(allowed(inside, &plain), plain_in, "{name}");
            assert_eq!(allowed(outside, &plain), plain_out, "{name}");
            assert_eq!(allowed(inside, &anonymous), anon_in, "{name}");
            assert_eq!(allowed(inside, &web), web_in, "{name}");
            assert_eq!(allowed(outside, &web), web_out, "{name}");
        }
    }

    #[test]
    fn suffixes_need_a_label_before_them() {
        let suffix = Suffix::of_parts(&["ns", "example"]);
        assert!(suffix.matches(&"a.ns.example".parse().unwrap()));
        for no in ["ns.example", "ans.example", "a.ns.example.org", "spiffe://a.ns.example"] {
            assert!(!suffix.matches(&no.parse().unwrap()), "{no}");
        }
        assert!(Suffix::any().matches(&"spiffe://x/y".parse().unwrap()));
    }

    #[test]
    fn passthru_proves_nothing() {
        let grant = Authorization {
            meta: Meta::default_named("t"),
            networks: Network::everywhere(),
            authentication: Authentication::TlsUnauthenticated,
        };
        let addr = "10.0.0.1".parse().unwrap();
        assert!(grant.permits(addr, &ClientTls::Terminated(None)));
        assert!(!grant.permits(addr, &ClientTls::Passthru { sni: "web".into() }));
    }
}
