//! The kinds of objects that controllers follow (control-plane §1.6, §5).

use homarus_model::facts::{Kind, OwnerKind, RouteGroup, RouteKind};
use kube::core::ApiResource;
use std::fmt;

/// A kind of object to follow.
#[derive(Clone, Debug)]
pub struct Source {
    /// What its objects say.
    pub kind: Kind,
    /// Where they are served.
    pub resource: ApiResource,
    /// Whether only metadata is needed.
    pub metadata_only: bool,
    /// Which of them.
    pub labels: Option<&'static str>,
    /// Whether a cluster may do without the kind.
    pub optional: bool,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.resource.group {
            "" => write!(f, "{} {}", self.resource.plural, self.resource.version),
            group => write!(f, "{}.{group} {}", self.resource.plural, self.resource.version),
        }
    }
}

const POLICY: &str = "policy.linkerd.io";

fn source(kind: Kind, group: &str, version: &str, name: &str, plural: &str) -> Source {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version,
        kind: name.to_owned(),
        plural: plural.to_owned(),
    };
    Source { kind, resource, metadata_only: false, labels: None, optional: false }
}

impl Source {
    fn metadata_only(self) -> Self {
        Self { metadata_only: true, ..self }
    }

    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    fn labelled(self, labels: &'static str) -> Self {
        Self { labels: Some(labels), ..self }
    }
}

fn pods() -> Source {
    source(Kind::Pod, "", "v1", "Pod", "pods")
}

fn services() -> Source {
    source(Kind::Service, "", "v1", "Service", "services")
}

fn external_workloads() -> Source {
    source(Kind::ExternalWorkload, "workload.linkerd.io", "v1beta1", "ExternalWorkload", "externalworkloads")
}

fn servers() -> Source {
    source(Kind::Server, POLICY, "v1beta3", "Server", "servers")
}

/// What the destination controller follows.
pub fn of_destination() -> Vec<Source> {
    vec![
        pods(),
        services(),
        source(Kind::EndpointSlice, "discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        source(Kind::Node, "", "v1", "Node", "nodes").metadata_only(),
        source(Kind::Owner(OwnerKind::ReplicaSet), "apps", "v1", "ReplicaSet", "replicasets").metadata_only(),
        source(Kind::Owner(OwnerKind::Job), "batch", "v1", "Job", "jobs").metadata_only(),
        servers(),
        external_workloads(),
        source(Kind::ServiceProfile, "linkerd.io", "v1alpha2", "ServiceProfile", "serviceprofiles").metadata_only(),
    ]
}

/// What the policy controller follows.
pub fn of_policy() -> Vec<Source> {
    let route = |kind: RouteKind, version: &str, plural: &str| {
        source(Kind::Route(kind), kind.group().as_str(), version, kind.as_str(), plural)
    };
    vec![
        pods().labelled(homarus_kube::objects::CONTROL_PLANE_NS),
        external_workloads(),
        services(),
        servers(),
        source(Kind::ServerAuthorization, POLICY, "v1beta1", "ServerAuthorization", "serverauthorizations"),
        source(Kind::AuthorizationPolicy, POLICY, "v1alpha1", "AuthorizationPolicy", "authorizationpolicies"),
        source(Kind::MeshTlsAuthentication, POLICY, "v1alpha1", "MeshTLSAuthentication", "meshtlsauthentications"),
        source(Kind::NetworkAuthentication, POLICY, "v1alpha1", "NetworkAuthentication", "networkauthentications"),
        route(RouteKind::Http(RouteGroup::Policy), "v1beta3", "httproutes").optional(),
        route(RouteKind::Http(RouteGroup::Gateway), "v1", "httproutes").optional(),
        route(RouteKind::Grpc, "v1", "grpcroutes").optional(),
    ]
}
