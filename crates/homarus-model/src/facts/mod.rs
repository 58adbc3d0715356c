//! Facts: what the cluster says, reduced to what the control plane has to know.
//!
//! A fact is one object of the cluster, already parsed and checked: what can't be read never becomes a fact. The index
//! (`homarus-control`) turns facts into the views of [`crate::inbound`], [`crate::outbound`], [`crate::endpoint`] and
//! [`crate::profile`]. Facts know nothing of each other; what they name may not exist.

mod policy;
mod route;
mod select;
mod service;
mod workload;

pub use policy::{
    AuthorizationPolicy, IdentityPattern, IdentitySource, MeshTlsAuthentication, NetworkAuthentication, Proof, Server,
    ServerAuthorization, ServerProtocol, ServerSelection, Target, Workloads,
};
pub use route::{Acceptance, BackendRef, Parent, ParentKind, Route, RouteFilter, RouteGroup, RouteKind, RouteRule, Rules};
pub use select::{Expression, Labels, Operator, Selector};
pub use service::{EndpointSlice, Service, ServiceKind, ServicePort, SliceEndpoint, SliceTarget};
pub use workload::{ExternalWorkload, InboundSettings, Node, Owner, OwnerKind, OwnerObject, Phase, Pod, Port, PortRef, ProxyPorts};

use std::{fmt, sync::Arc};

/// The name of an object: its namespace (empty if it has none) and its name in there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Id {
    /// Names an object.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// When an object was created, for "the oldest wins": what has no date comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Age {
    /// Seconds since 1970.
    Since(i64),
    /// It doesn't say.
    Unknown,
}

/// What kind of object a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Node,
    Owner(OwnerKind),
    Pod,
    ExternalWorkload,
    Service,
    EndpointSlice,
    ServiceProfile,
    Server,
    ServerAuthorization,
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    Route(RouteKind),
}

/// What the cluster says of one object.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Fact {
    Node(Node),
    Owner(OwnerObject),
    Pod(Pod),
    ExternalWorkload(ExternalWorkload),
    Service(Service),
    EndpointSlice(EndpointSlice),
    /// Only that it exists: its name is that of the service it describes.
    ServiceProfile(Id),
    Server(Server),
    ServerAuthorization(ServerAuthorization),
    AuthorizationPolicy(AuthorizationPolicy),
    MeshTlsAuthentication(MeshTlsAuthentication),
    NetworkAuthentication(NetworkAuthentication),
    Route(Route),
}

impl Fact {
    /// What kind of object it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Owner(owner) => Kind::Owner(owner.kind),
            Self::Pod(_) => Kind::Pod,
            Self::ExternalWorkload(_) => Kind::ExternalWorkload,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ServiceProfile(_) => Kind::ServiceProfile,
            Self::Server(_) => Kind::Server,
            Self::ServerAuthorization(_) => Kind::ServerAuthorization,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::MeshTlsAuthentication(_) => Kind::MeshTlsAuthentication,
            Self::NetworkAuthentication(_) => Kind::NetworkAuthentication,
            Self::Route(route) => Kind::Route(route.kind),
        }
    }

    /// The object's name.
    pub fn id(&self) -> &Id {
        match self {
            Self::Node(x) => &x.id,
            Self::Owner(x) => &x.id,
            Self::Pod(x) => &x.id,
            Self::ExternalWorkload(x) => &x.id,
            Self::Service(x) => &x.id,
            Self::EndpointSlice(x) => &x.id,
            Self::ServiceProfile(id) => id,
            Self::Server(x) => &x.id,
            Self::ServerAuthorization(x) => &x.id,
            Self::AuthorizationPolicy(x) => &x.id,
            Self::MeshTlsAuthentication(x) => &x.id,
            Self::NetworkAuthentication(x) => &x.id,
            Self::Route(x) => &x.id,
        }
    }
}

/// A change of what the cluster says.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// This holds now, in place of what was known of the same object.
    Apply(Arc<Fact>),
    /// The object is gone.
    Delete(Kind, Id),
}
