//! Routes, the same for all kinds (crds.md §8, §11; control-plane §5.5, §6).

use super::{Age, Id};
use crate::route::{GrpcMatch, HeaderModifier, HostMatch, HttpMatch, Redirect};
use std::sync::Arc;

/// The API group that a route is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteGroup {
    /// `gateway.networking.k8s.io`.
    Gateway,
    /// `policy.linkerd.io`.
    Policy,
}

impl RouteGroup {
    /// The group's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway.networking.k8s.io",
            Self::Policy => "policy.linkerd.io",
        }
    }
}

/// A kind of route, with its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// HTTPRoute.
    Http(RouteGroup),
    /// GRPCRoute.
    Grpc,
}

impl RouteKind {
    /// The kind's group.
    pub fn group(self) -> RouteGroup {
        match self {
            Self::Http(group) => group,
            Self::Grpc => RouteGroup::Gateway,
        }
    }

    /// The kind's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http(_) => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its kind.
    pub kind: RouteKind,
    /// Its name.
    pub id: Id,
    /// When it was created.
    pub age: Age,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// What its status says of that.
    pub accepted: Vec<Acceptance>,
    /// The hosts it is for.
    pub hosts: Vec<HostMatch>,
    /// Its rules.
    pub rules: Rules,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// What kind of object; others are left out.
    pub kind: ParentKind,
    /// Its name.
    pub id: Id,
    /// The one port that is meant.
    pub port: Option<u16>,
    /// The section that is meant.
    pub section: Option<Arc<str>>,
}

/// What kind of object a route is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParentKind {
    /// A Server: the route is for those who are asked.
    Server,
    /// A Service: the route is for those who ask.
    Service,
}

/// A parent that has accepted a route, as the route's status says. Its namespace isn't compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    /// What kind of object.
    pub kind: ParentKind,
    /// Its name.
    pub name: Arc<str>,
    /// The one port that is meant.
    pub port: Option<u16>,
    /// Whether our policy controller says so.
    pub ours: bool,
}

/// The rules of a route.
#[derive(Clone, Debug, PartialEq)]
pub enum Rules {
    /// Of HTTP requests.
    Http(Vec<RouteRule<HttpMatch>>),
    /// Of gRPC requests.
    Grpc(Vec<RouteRule<GrpcMatch>>),
}

/// A rule: matches, and what happens to requests that match.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule<M> {
    /// Alternatives; none means everything.
    pub matches: Vec<M>,
    /// What is done to requests.
    pub filters: Vec<RouteFilter>,
    /// Where they go; nowhere in particular if empty.
    pub backends: Vec<BackendRef>,
}

/// What is done to requests. A rule with a filter of another kind never becomes a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteFilter {
    /// Change headers of the request.
    RequestHeaders(Arc<HeaderModifier>),
    /// Change headers of the response.
    ResponseHeaders(Arc<HeaderModifier>),
    /// Answer with a redirect.
    Redirect(Arc<Redirect>),
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub enum BackendRef {
    /// A port of a Service.
    Service {
        /// The namespace, if it says so; else that of the parent.
        namespace: Option<Arc<str>>,
        /// The name.
        name: Arc<str>,
        /// The port; without one the backend is invalid.
        port: Option<u16>,
        /// The share of requests.
        weight: u32,
        /// What is done to requests that go there, or why that can't be.
        filters: Result<Vec<RouteFilter>, Arc<str>>,
    },
    /// Something that can't be a backend.
    Unsupported {
        /// Its group.
        group: Arc<str>,
        /// Its kind.
        kind: Arc<str>,
        /// The share of requests.
        weight: u32,
    },
}

impl BackendRef {
    /// The share of requests.
    pub fn weight(&self) -> u32 {
        match self {
            Self::Service { weight, .. } | Self::Unsupported { weight, .. } => *weight,
        }
    }
}

impl Route {
    /// The names of the Services that its rules refer to, with their namespace where they say so.
    pub fn backends(&self) -> Vec<(Option<&Arc<str>>, &Arc<str>)> {
        fn of<M>(rules: &[RouteRule<M>]) -> Vec<(Option<&Arc<str>>, &Arc<str>)> {
            let refs = rules.iter().flat_map(|rule| &rule.backends);
            refs.filter_map(|backend| match backend {
                BackendRef::Service { namespace, name, .. } => Some((namespace.as_ref(), name)),
                BackendRef::Unsupported { .. } => None,
            })
            .collect()
        }
        match &self.rules {
            Rules::Http(rules) => of(rules),
            Rules::Grpc(rules) => of(rules),
        }
    }
}
