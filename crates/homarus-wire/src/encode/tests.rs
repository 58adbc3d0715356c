#![allow(clippy::unwrap_used)]
//! What is encoded decodes to the same view.

use super::*;
use crate::decode;
use homarus_model::{
    endpoint::{Endpoint, EndpointUpdate, Http2Params, KeepAlive, ProtocolHint, ServerTls},
    inbound::{self, Authentication, Authorization, DefaultPolicy, ServerPolicy, Suffix},
    network::Network,
    outbound::{self, Backend, ClientPolicy, Dispatcher, Distribution, Ewma, OpaqueRoute, Refusal, RouteBackend},
    profile::Profile,
    route::{
        Filter, GrpcMatch, HeaderMatch, HeaderModifier, HostMatch, HttpMatch, InjectedFailure, PathMatch, PathModifier, Pattern,
        QueryMatch, Ratio, Redirect, Route, Rule, WholeRegex,
    },
};
use prost::Message;
use std::{collections::BTreeMap, sync::Arc};

fn grant() -> Authorization {
    Authorization {
        meta: Meta::default_named("grant"),
        networks: vec![Network { net: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] }],
        authentication: Authentication::TlsAuthenticated {
            identities: ["web.shop.example".parse().unwrap(), "spiffe://root/a".parse().unwrap()].into(),
            suffixes: vec![Suffix::any(), Suffix::of_parts(&["shop", "example"])],
        },
    }
}

fn modifier() -> Arc<HeaderModifier> {
    Arc::new(HeaderModifier {
        add: vec![("a".parse().unwrap(), "1".parse().unwrap())],
        set: vec![("b".parse().unwrap(), "2".parse().unwrap())],
        remove: vec!["c".parse().unwrap()],
    })
}

fn filters() -> Vec<Filter> {
    let path = Some(PathModifier::Prefix("/new".into()));
    let redirect = Redirect { scheme: Some("https".into()), host: None, port: Some(8443), path, status: http::StatusCode::FOUND };
    let fail = InjectedFailure::Http { status: http::StatusCode::FORBIDDEN, message: "no".into(), ratio: Ratio::ALWAYS };
    vec![Filter::RequestHeaders(modifier()), Filter::Redirect(Arc::new(redirect)), Filter::Fail(fail)]
}

fn http_match() -> HttpMatch {
    HttpMatch {
        path: Some(PathMatch::Regex(WholeRegex::new("/a.*").unwrap())),
        headers: vec![HeaderMatch { name: "x".parse().unwrap(), value: Pattern::Exact("y".parse().unwrap()) }],
        query: vec![QueryMatch { name: "q".into(), value: Pattern::Regex(WholeRegex::new("[0-9]").unwrap()) }],
        method: Some(http::Method::PUT),
    }
}

fn route<M, P>(matches: Vec<M>, policy: P) -> Route<M, P> {
    let hosts = vec![HostMatch::parse("a.example"), HostMatch::parse("*.b.example")];
    Route { hosts, rules: vec![Rule { matches, policy }] }
}

#[test]
fn server_policies_come_back() {
    let policy = inbound::RoutePolicy {
        meta: Meta::service("ns", "route", 80),
        authorizations: [grant()].into(),
        filters: filters().into(),
    };
    let grpc = inbound::RoutePolicy { filters: [Filter::RequestHeaders(modifier())].into(), ..policy.clone() };
    let prefix = HttpMatch { path: Some(PathMatch::Prefix("/".into())), ..HttpMatch::default() };
    let routes: Arc<[_]> = [route(vec![http_match(), prefix], policy)].into();
    let rpc = GrpcMatch { service: Some("s".into()), method: None, headers: Vec::new() };
    for protocol in [
        inbound::Protocol::Detect { timeout: inbound::DETECT_TIMEOUT, routes: routes.clone() },
        inbound::Protocol::Http1(routes.clone()),
        inbound::Protocol::Http2(routes),
        inbound::Protocol::Grpc([route(vec![rpc], grpc)].into()),
        inbound::Protocol::Opaque,
        inbound::Protocol::Tls,
    ] {
        let server = homarus_model::meta::Resource {
            group: "policy.linkerd.io".into(),
            kind: "server".into(),
            namespace: "".into(),
            name: "web".into(),
            section: "".into(),
            port: None,
        };
        let view = ServerPolicy { server: Meta::Resource(server), protocol, authorizations: [grant()].into() };
        assert_eq!(decode::server_policy(server_message(&view)).unwrap(), view);
    }
    for name in ["deny", "audit", "all-unauthenticated", "cluster-authenticated"] {
        let policy: DefaultPolicy = name.parse().unwrap();
        let view = policy.server_policy(&["10.0.0.0/8".parse().unwrap()], false);
        assert_eq!(decode::server_policy(server_message(&view)).unwrap(), view, "{name}");
    }
}

fn server_message(view: &ServerPolicy) -> crate::api::inbound::Server {
    server(view)
}

fn endpoint() -> Endpoint {
    Endpoint {
        addr: "10.0.0.1:8080".parse().unwrap(),
        weight: 7,
        tls: Some(ServerTls { id: "spiffe://root/a".parse().unwrap(), server_name: "a.example".parse().unwrap() }),
        hint: ProtocolHint::Http2,
        tagged_transport_port: Some(4143),
        authority_override: Some("web.remote.svc.cluster.local:80".parse_authority()),
        http2: Http2Params {
            keep_alive: Some(KeepAlive {
                interval: Duration::from_secs(10),
                timeout: Duration::from_millis(3500),
                while_idle: true,
            }),
            initial_connection_window: Some(1 << 20),
            initial_stream_window: Some(1 << 16),
        },
        labels: Arc::new(BTreeMap::from([("pod".into(), "web-1".into())])),
    }
}

trait ParseAuthority {
    fn parse_authority(&self) -> homarus_model::Authority;
}
impl ParseAuthority for str {
    fn parse_authority(&self) -> homarus_model::Authority {
        homarus_model::Authority::parse(self, 80).unwrap()
    }
}

#[test]
fn client_policies_come_back() {
    let backend = |dispatcher| Backend { meta: Arc::new(Meta::service("ns", "web", 80)), dispatcher };
    let balance = Dispatcher::Balance { path: "web.ns.svc.cluster.local:80".into(), ewma: Ewma::default() };
    let plain = RouteBackend { filters: Arc::new([]), backend: backend(balance) };
    let failing = RouteBackend { filters: filters().into(), backend: backend(Dispatcher::Fail) };
    let meta = Arc::new(Meta::default_named("http"));
    let random = Distribution::RandomAvailable([(plain.clone(), 3), (failing, 0)].into());
    let policy = outbound::RoutePolicy { meta: meta.clone(), filters: filters().into(), distribution: random };
    let grpc = outbound::RoutePolicy {
        filters: Arc::new([]),
        distribution: Distribution::FirstAvailable([plain.clone()].into()),
        ..policy.clone()
    };
    let routes: Arc<[_]> = [route(vec![http_match()], policy)].into();
    let forbidden = OpaqueRoute { meta: meta.clone(), refuse: Some(Refusal::Forbidden), distribution: Distribution::Empty };
    let open = OpaqueRoute { meta, refuse: None, distribution: Distribution::FirstAvailable([plain].into()) };
    let rpc = GrpcMatch { service: Some("s".into()), method: Some("m".into()), headers: Vec::new() };
    for protocol in [
        outbound::Protocol::Detect {
            timeout: Duration::from_secs(10),
            http1: routes.clone(),
            http2: routes.clone(),
            opaque: open.clone(),
        },
        outbound::Protocol::Http1(routes.clone()),
        outbound::Protocol::Http2(routes),
        outbound::Protocol::Grpc([route(vec![rpc], grpc)].into()),
        outbound::Protocol::Opaque(open),
        outbound::Protocol::Opaque(forbidden),
    ] {
        let view = ClientPolicy { parent: Arc::new(Meta::service("ns", "web", 80)), protocol };
        assert_eq!(decode::client_policy(client_policy(&view)).unwrap(), view);
    }
    let forward = ClientPolicy::forward("egress-fallback", endpoint());
    assert_eq!(decode::client_policy(client_policy(&forward)).unwrap(), forward);
}

#[test]
fn endpoints_come_back() {
    let set_labels = Arc::new(BTreeMap::from([("service".into(), "web".into())]));
    for view in [
        EndpointUpdate::Add { set_labels, endpoints: vec![endpoint(), Endpoint::plain("[fd00::1]:80".parse().unwrap())] },
        EndpointUpdate::Remove(vec!["10.0.0.1:8080".parse().unwrap()]),
        EndpointUpdate::NoEndpoints { exists: true },
    ] {
        assert_eq!(decode::endpoint_update(endpoint_update(&view)).unwrap().update, view);
        if let EndpointUpdate::Add { set_labels, endpoints } = &view {
            let joined = endpoints_added(set_labels, endpoints);
            assert_eq!(crate::api::destination::Update::decode(&*joined).unwrap(), endpoint_update(&view));
        }
    }
}

#[test]
fn profiles_come_back() {
    let service = Profile {
        fqn: Some("web.ns.svc.cluster.local".into()),
        opaque_protocol: true,
        endpoint: None,
        parent: Some(Meta::service("ns", "web", 80)),
        profile: None,
    };
    let decoded = decode::profile(profile(&service)).unwrap();
    assert_eq!(Profile { profile: None, ..decoded }, service);
    let workload = Profile { endpoint: Some(endpoint()), ..Profile::default() };
    assert_eq!(decode::profile(profile(&workload)).unwrap(), workload);
    assert_eq!(profile(&Profile::default()), Default::default());
}
