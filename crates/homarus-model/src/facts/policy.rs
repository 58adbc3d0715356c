//! Servers and who may ask them (crds.md §1-5; control-plane §5).

use super::{Age, Id, Labels, PortRef, RouteGroup, RouteKind, Selector};
use crate::{Identity, inbound::DefaultPolicy, network::Network};
use std::sync::Arc;

/// A Server: a port of some workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub id: Id,
    /// When it was created.
    pub age: Age,
    /// Its labels.
    pub labels: Labels,
    /// The workloads.
    pub workloads: Workloads,
    /// The port.
    pub port: PortRef,
    /// What is spoken there.
    pub protocol: ServerProtocol,
    /// Who may connect beside those whom policies name.
    pub access: DefaultPolicy,
}

/// The workloads that a Server is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workloads {
    /// Pods.
    Pods(Selector),
    /// External workloads.
    External(Selector),
}

/// What is spoken at a Server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ServerProtocol {
    /// Find out.
    Unknown,
    Http1,
    Http2,
    Grpc,
    Opaque,
    Tls,
}

/// A name that clients may prove.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdentityPattern {
    /// Any identity.
    Any,
    /// Those that end in `.` and this.
    Suffix(Arc<str>),
    /// This one.
    Exact(Identity),
    /// That of a service account.
    ServiceAccount(Id),
    /// Those of all service accounts of a namespace.
    Namespace(Arc<str>),
}

/// A ServerAuthorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAuthorization {
    /// Its name.
    pub id: Id,
    /// The Servers it is about.
    pub servers: ServerSelection,
    /// Where clients come from; none means the cluster's networks.
    pub networks: Vec<Network>,
    /// What they prove.
    pub proof: Proof,
}

/// The Servers that a ServerAuthorization is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSelection {
    /// This one.
    Name(Arc<str>),
    /// Those with these labels.
    Selector(Selector),
}

/// What a client has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    Unauthenticated,
    /// TLS of the mesh, with any identity or none.
    Tls,
    /// One of these.
    Identities(Vec<IdentityPattern>),
}

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its name.
    pub id: Id,
    /// What it is about.
    pub target: Target,
    /// Who is meant; none means everybody.
    pub clients: Option<IdentitySource>,
    /// Where they come from; none means anywhere.
    pub networks: Option<Id>,
}

/// What an AuthorizationPolicy is about, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A Server.
    Server(Arc<str>),
    /// Every Server of the namespace.
    Namespace,
    /// A route.
    Route(RouteGroup, RouteKind, Arc<str>),
}

/// What says who is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// A MeshTLSAuthentication.
    MeshTls(Id),
    /// A service account.
    ServiceAccount(Id),
}

/// A MeshTLSAuthentication: some identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshTlsAuthentication {
    /// Its name.
    pub id: Id,
    /// The identities; at least one.
    pub identities: Vec<IdentityPattern>,
}

/// A NetworkAuthentication: some networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAuthentication {
    /// Its name.
    pub id: Id,
    /// The networks.
    pub networks: Vec<Network>,
}
