#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::{
    destination as dst, http_route as hr, http_types as ht, inbound as ib, meta as m, net, opaque_route as or, outbound as ob,
};
use homarus_model::{
    endpoint::{EndpointUpdate, ProtocolHint},
    inbound::{self, Authentication, Protocol},
    outbound::{self, Dispatcher, Distribution, Refusal},
    route::{Filter, HostMatch, PathMatch},
};
use std::{collections::HashMap, net::IpAddr, time::Duration};

fn default_meta(name: &str) -> Option<m::Metadata> {
    Some(m::Metadata { kind: Some(m::metadata::Kind::Default(name.into())) })
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn seconds(n: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: n, nanos: 0 })
}

fn anyone() -> ib::Authz {
    use ib::authn::{Permit, PermitUnauthenticated};
    let all = net::IpNetwork { ip: Some(IpAddr::from([0, 0, 0, 0]).into()), prefix_len: 0 };
    ib::Authz {
        networks: vec![ib::Network { net: Some(all), except: vec![] }],
        authentication: Some(ib::Authn { permit: Some(Permit::Unauthenticated(PermitUnauthenticated {})) }),
        metadata: default_meta("all"),
        ..Default::default()
    }
}

fn prefix(path: &str) -> hr::HttpRouteMatch {
    let kind = Some(hr::path_match::Kind::Prefix(path.into()));
    hr::HttpRouteMatch { path: Some(hr::PathMatch { kind }), ..Default::default() }
}

fn server() -> ib::Server {
    use ib::proxy_protocol::{Detect, Kind};
    let route = ib::HttpRoute {
        metadata: default_meta("default"),
        authorizations: vec![anyone()],
        rules: vec![ib::http_route::Rule { matches: vec![prefix("/")], filters: vec![] }],
        ..Default::default()
    };
    ib::Server {
        protocol: Some(ib::ProxyProtocol {
            kind: Some(Kind::Detect(Detect { timeout: seconds(7), http_routes: vec![route], http_local_rate_limit: None })),
        }),
        authorizations: vec![anyone()],
        labels: labels(&[("group", "policy.linkerd.io"), ("kind", "server"), ("name", "web")]),
        ..Default::default()
    }
}

fn detect_of(server: &mut ib::Server) -> &mut ib::proxy_protocol::Detect {
    match &mut server.protocol.as_mut().unwrap().kind {
        Some(ib::proxy_protocol::Kind::Detect(detect)) => detect,
        _ => unreachable!(),
    }
}

fn rule_of(server: &mut ib::Server) -> &mut ib::http_route::Rule {
    &mut detect_of(server).http_routes[0].rules[0]
}

/// Breaks a good server in one place and says which field the error must name; none: it must still be read.
fn check_server(field: Option<&str>, break_it: impl FnOnce(&mut ib::Server)) {
    let mut message = server();
    break_it(&mut message);
    match (server_policy(message), field) {
        (Err(error), Some(field)) => assert_eq!(error.field(), field, "{error}"),
        (Ok(_), None) => {}
        (result, _) => panic!("{field:?}: {result:?}"),
    }
}

#[test]
fn a_server_is_read() {
    let policy = server_policy(server()).unwrap();
    assert_eq!((policy.server.kind(), policy.server.name()), ("server", "web"));
    assert_eq!(policy.authorizations.len(), 1);
    let Protocol::Detect { timeout, routes } = policy.protocol else { panic!() };
    assert_eq!(timeout, Duration::from_secs(7));
    assert_eq!(routes[0].rules[0].policy.authorizations[0].authentication, Authentication::Unauthenticated);
    assert_eq!(routes[0].rules[0].matches[0].path, Some(PathMatch::Prefix("/".into())));
}

#[test]
fn every_server_protocol_is_read() {
    use ib::proxy_protocol::{Grpc, Http1, Http2, Kind, Opaque, Tls};
    let read = |kind| {
        let policy = server_policy(ib::Server { protocol: Some(ib::ProxyProtocol { kind: Some(kind) }), ..server() });
        policy.unwrap().protocol
    };
    assert_eq!(read(Kind::Opaque(Opaque {})), Protocol::Opaque);
    assert_eq!(read(Kind::Tls(Tls {})), Protocol::Tls);
    // Without routes there is one for everything, which leaves the decision to the server's own grants.
    let of_default = |policy: &inbound::RoutePolicy| policy.meta.name() == "default" && policy.authorizations.is_empty();
    assert!(matches!(read(Kind::Http1(Http1::default())), Protocol::Http1(r) if of_default(&r[0].rules[0].policy)));
    assert!(matches!(read(Kind::Http2(Http2::default())), Protocol::Http2(r) if of_default(&r[0].rules[0].policy)));
    assert!(matches!(read(Kind::Grpc(Grpc::default())), Protocol::Grpc(r) if of_default(&r[0].rules[0].policy)));
}

#[test]
fn server_errors_name_the_field() {
    check_server(None, |_| {});
    check_server(Some("labels.name"), |s| s.labels.clear());
    check_server(Some("protocol"), |s| s.protocol = None);
    check_server(Some("protocol"), |s| s.protocol = Some(ib::ProxyProtocol { kind: None }));
    check_server(Some("protocol.detect.timeout"), |s| detect_of(s).timeout = seconds(-1));
    check_server(None, |s| detect_of(s).timeout = None);
    check_server(Some("protocol.detect.http_routes[0].metadata"), |s| detect_of(s).http_routes[0].metadata = None);
    check_server(Some("authorizations[0].authentication"), |s| s.authorizations[0].authentication = None);
    check_server(Some("authorizations[0].networks[0].net"), |s| s.authorizations[0].networks[0].net = None);
    check_server(Some("authorizations[0].networks[0].net"), |s| {
        s.authorizations[0].networks[0].net.as_mut().unwrap().prefix_len = 33;
    });
    check_server(Some("authorizations[0].labels.name"), |s| s.authorizations[0].metadata = None);
    check_server(Some("protocol.detect.http_routes[0].rules[0].matches[0].path"), |s| {
        rule_of(s).matches[0].path = Some(hr::PathMatch { kind: None });
    });
}

#[test]
fn regexes_are_bounded() {
    let with_regex = |source: &str| {
        let kind = Some(hr::path_match::Kind::Regex(source.into()));
        let mut message = server();
        rule_of(&mut message).matches[0].path = Some(hr::PathMatch { kind });
        server_policy(message)
    };
    assert!(with_regex("/a/[0-9]+").is_ok());
    for bad in ["(", "a)|(b", &"a".repeat(route::MAX_REGEX_BYTES + 1), "\\w{100}{100}{100}"] {
        let error = with_regex(bad).unwrap_err();
        assert_eq!(error.field(), "protocol.detect.http_routes[0].rules[0].matches[0].path.regex");
    }
}

#[test]
fn unknown_filters_stay_so() {
    let mut message = server();
    rule_of(&mut message).filters.push(ib::http_route::Filter { kind: None });
    let Protocol::Detect { routes, .. } = server_policy(message).unwrap().protocol else { panic!() };
    assert_eq!(*routes[0].rules[0].policy.filters, [Filter::Unknown]);
}

#[test]
fn filters_are_checked() {
    use ib::http_route::{Filter as F, filter::Kind};
    let filter = |kind| move |s: &mut ib::Server| rule_of(s).filters.push(F { kind: Some(kind) });
    let at = |field: &str| format!("protocol.detect.http_routes[0].rules[0].filters[0].{field}");
    let fail = |status, ratio| Kind::FailureInjector(hr::HttpFailureInjector { status, message: "m".into(), ratio });
    check_server(None, filter(fail(503, None)));
    check_server(Some(&at("failure_injector.status")), filter(fail(99, None)));
    let never = Some(hr::Ratio { numerator: 1, denominator: 0 });
    check_server(Some(&at("failure_injector.ratio")), filter(fail(503, never)));
    let redirect = |r| Kind::Redirect(r);
    check_server(None, filter(redirect(hr::RequestRedirect::default())));
    check_server(Some(&at("redirect.port")), filter(redirect(hr::RequestRedirect { port: 65_536, ..Default::default() })));
    check_server(Some(&at("redirect.host")), filter(redirect(hr::RequestRedirect { host: "a b".into(), ..Default::default() })));
    let header = |name: &str| ht::headers::Header { name: name.into(), value: b"v".to_vec() };
    let modifier = |name| {
        let add = Some(ht::Headers { headers: vec![header(name)] });
        Kind::RequestHeaderModifier(hr::RequestHeaderModifier { add, ..Default::default() })
    };
    check_server(None, filter(modifier("x-a")));
    check_server(Some(&at("request_header_modifier.add.headers[0].name")), filter(modifier("x a")));
}

#[test]
fn names_in_labels_come_in_three_forms() {
    let read = |pairs: &[(&str, &str)]| server_policy(ib::Server { labels: labels(pairs), ..server() }).unwrap().server;
    assert_eq!(read(&[("name", "default:deny")]).to_string(), "default.deny");
    assert_eq!(read(&[("kind", "default"), ("name", "deny"), ("group", "")]).to_string(), "default.deny");
    let old = read(&[("name", "web")]);
    assert_eq!((old.group(), old.kind(), old.name()), ("policy.linkerd.io", "server", "web"));
}

#[test]
fn clients_of_the_mesh() {
    use ib::authn::{Permit, PermitMeshTls, permit_mesh_tls as mesh};
    let read = |clients| {
        let permit = Some(Permit::MeshTls(PermitMeshTls { clients }));
        let authz = ib::Authz { authentication: Some(ib::Authn { permit }), ..anyone() };
        server_policy(ib::Server { authorizations: vec![authz], ..server() })
    };
    let identities = |names: &[&str], suffixes: &[&[&str]]| {
        let identities = names.iter().map(|n| ib::Identity { name: (*n).into() }).collect();
        let parts = |s: &&[&str]| ib::IdentitySuffix { parts: s.iter().map(|p| (*p).into()).collect() };
        let suffixes = suffixes.iter().map(parts).collect();
        read(Some(mesh::Clients::Identities(mesh::PermitClientIdentities { identities, suffixes })))
    };
    let client = |id: &str| inbound::ClientTls::Terminated(Some(id.parse().unwrap()));
    let allows =
        |policy: &inbound::ServerPolicy, id: &str| policy.authorizations[0].permits("10.0.0.1".parse().unwrap(), &client(id));

    let some = identities(&["web.ns", "no such name!"], &[&["other"]]).unwrap();
    assert!(allows(&some, "web.ns") && allows(&some, "a.other"));
    assert!(!allows(&some, "db.ns"));
    assert!(!allows(&identities(&["no such name!"], &[]).unwrap(), "web.ns"), "an unreadable name is nobody's");
    assert!(!allows(&identities(&[], &[&[""]]).unwrap(), "web.ns"), "an empty label is no wildcard");
    assert!(allows(&identities(&[], &[&[]]).unwrap(), "web.ns"));
    assert_eq!(read(None).unwrap_err().field(), "authorizations[0].authentication.meshTLS.clients");
}

#[test]
fn hosts_are_turned_around() {
    let suffix = hr::host_match::Suffix { reverse_labels: vec!["org".into(), "Example".into()] };
    let hosts = vec![
        hr::HostMatch { r#match: Some(hr::host_match::Match::Suffix(suffix)) },
        hr::HostMatch { r#match: Some(hr::host_match::Match::Exact("Web.".into())) },
    ];
    assert_eq!(route::hosts(hosts).unwrap(), [HostMatch::parse("*.example.org"), HostMatch::parse("web")]);
    let error = route::hosts(vec![hr::HostMatch { r#match: None }]).unwrap_err();
    assert_eq!(error.field(), "hosts[0]");
}

fn backend(kind: Option<ob::backend::Kind>) -> ob::Backend {
    ob::Backend { metadata: default_meta("b"), kind, ..Default::default() }
}

fn balancer(path: &str) -> ob::backend::Kind {
    use ob::backend::{BalanceP2c, EndpointDiscovery, balance_p2c as p2c, endpoint_discovery as ed};
    ob::backend::Kind::Balancer(BalanceP2c {
        discovery: Some(EndpointDiscovery { kind: Some(ed::Kind::Dst(ed::DestinationGet { path: path.into() })) }),
        load: Some(p2c::Load::PeakEwma(p2c::PeakEwma { default_rtt: seconds(0), decay: seconds(10) })),
    })
}

fn http_route(backend: ob::Backend, weights: Option<u32>) -> ob::HttpRoute {
    use ob::http_route::{Distribution as D, RouteBackend, Rule, WeightedRouteBackend, distribution as d};
    let backend = RouteBackend { backend: Some(backend), ..Default::default() };
    let kind = match weights {
        None => d::Kind::FirstAvailable(d::FirstAvailable { backends: vec![backend] }),
        Some(weight) => {
            d::Kind::RandomAvailable(d::RandomAvailable { backends: vec![WeightedRouteBackend { backend: Some(backend), weight }] })
        }
    };
    let rule = Rule { matches: vec![prefix("/")], backends: Some(D { kind: Some(kind) }), ..Default::default() };
    ob::HttpRoute { metadata: default_meta("http"), hosts: vec![], rules: vec![rule] }
}

fn opaque_route(filters: Vec<ob::opaque_route::Filter>) -> ob::OpaqueRoute {
    use ob::opaque_route::{Distribution as D, RouteBackend, Rule, distribution as d};
    let backends = vec![RouteBackend { backend: Some(backend(None)), filters: vec![] }];
    let kind = Some(d::Kind::FirstAvailable(d::FirstAvailable { backends }));
    ob::OpaqueRoute { metadata: default_meta("opaque"), rules: vec![Rule { backends: Some(D { kind }), filters }] }
}

fn policy(kind: ob::proxy_protocol::Kind) -> ob::OutboundPolicy {
    ob::OutboundPolicy { protocol: Some(ob::ProxyProtocol { kind: Some(kind) }), metadata: default_meta("svc") }
}

fn http1(route: ob::HttpRoute) -> ob::OutboundPolicy {
    policy(ob::proxy_protocol::Kind::Http1(ob::proxy_protocol::Http1 { routes: vec![route], failure_accrual: None }))
}

fn opaque(routes: Vec<ob::OpaqueRoute>) -> ob::OutboundPolicy {
    policy(ob::proxy_protocol::Kind::Opaque(ob::proxy_protocol::Opaque { routes }))
}

#[test]
fn a_client_policy_is_read() {
    let read = client_policy(http1(http_route(backend(Some(balancer("web.ns.svc.cluster.local:80"))), None))).unwrap();
    let outbound::Protocol::Http1(routes) = read.protocol else { panic!() };
    let Distribution::FirstAvailable(backends) = &routes[0].rules[0].policy.distribution else { panic!() };
    let Dispatcher::Balance { path, ewma } = &backends[0].backend.dispatcher else { panic!() };
    assert_eq!(&**path, "web.ns.svc.cluster.local:80");
    assert_eq!((ewma.default_rtt, ewma.decay), (Duration::from_millis(1), Duration::from_secs(10)));
}

#[test]
fn client_policy_errors_name_the_field() {
    let error = |message| client_policy(message).unwrap_err();
    assert_eq!(error(ob::OutboundPolicy::default()).field(), "metadata");
    assert_eq!(error(http1(ob::HttpRoute::default())).field(), "protocol.http1.routes[0].metadata");
    let tls = error(policy(ob::proxy_protocol::Kind::Tls(ob::proxy_protocol::Tls::default())));
    assert_eq!(tls.to_string(), "protocol.tls: TLSRoute is not supported by this version");
    let zero = error(http1(http_route(backend(None), Some(0))));
    assert_eq!(zero.field(), "protocol.http1.routes[0].rules[0].backends.random_available");
    let long = error(http1(http_route(backend(Some(balancer(&"a".repeat(300)))), None)));
    let at = "protocol.http1.routes[0].rules[0].backends.first_available.backends[0].backend.balancer.discovery.dst.path";
    assert_eq!(long.field(), at);
    assert_eq!(error(opaque(vec![opaque_route(vec![]), opaque_route(vec![])])).field(), "protocol.opaque.routes");
    let detect = policy(ob::proxy_protocol::Kind::Detect(ob::proxy_protocol::Detect::default()));
    assert_eq!(error(detect).field(), "protocol.detect.http1");
}

#[test]
fn a_backend_without_a_kind_fails() {
    let read = client_policy(http1(http_route(backend(None), Some(3)))).unwrap();
    let outbound::Protocol::Http1(routes) = read.protocol else { panic!() };
    let Distribution::RandomAvailable(backends) = &routes[0].rules[0].policy.distribution else { panic!() };
    assert_eq!((&backends[0].0.backend.dispatcher, backends[0].1), (&Dispatcher::Fail, 3));
}

#[test]
fn opaque_connections_are_refused() {
    use ob::opaque_route::{Filter, filter::Kind};
    let refusal = |kinds: Vec<Option<Kind>>| {
        let filters = kinds.into_iter().map(|kind| Filter { kind }).collect();
        let outbound::Protocol::Opaque(route) = client_policy(opaque(vec![opaque_route(filters)])).unwrap().protocol else {
            panic!()
        };
        route.refuse
    };
    let broken = || Some(Kind::Invalid(or::Invalid { message: "why".into() }));
    assert_eq!(refusal(vec![]), None);
    assert_eq!(refusal(vec![Some(Kind::Forbidden(or::Forbidden {})), broken()]), Some(Refusal::Forbidden));
    assert_eq!(refusal(vec![broken()]), Some(Refusal::Invalid("why".into())));
    assert!(matches!(refusal(vec![None]), Some(Refusal::Invalid(_))));
    let nowhere = client_policy(opaque(vec![])).unwrap();
    assert!(matches!(nowhere.opaque().unwrap().refuse, Some(Refusal::Invalid(_))));
}

fn addr(port: u32) -> net::TcpAddress {
    net::TcpAddress { ip: Some(IpAddr::from([10, 0, 0, 1]).into()), port }
}

fn dns_like(name: &str) -> dst::tls_identity::DnsLikeIdentity {
    dst::tls_identity::DnsLikeIdentity { name: name.into() }
}

fn weighted(tls: Option<dst::TlsIdentity>) -> dst::WeightedAddr {
    let opaque_transport = Some(dst::protocol_hint::OpaqueTransport { inbound_port: 4143 });
    let protocol = Some(dst::protocol_hint::Protocol::H2(dst::protocol_hint::H2 {}));
    dst::WeightedAddr {
        addr: Some(addr(8080)),
        weight: 10_000,
        tls_identity: tls,
        protocol_hint: Some(dst::ProtocolHint { protocol, opaque_transport }),
        ..Default::default()
    }
}

#[test]
fn endpoints_are_read() {
    use dst::tls_identity::Strategy;
    let identity = |strategy, server_name| weighted(Some(dst::TlsIdentity { strategy: Some(strategy), server_name }));
    let web = endpoint(identity(Strategy::DnsLikeIdentity(dns_like("web.ns")), None)).unwrap();
    assert_eq!(web.tls.unwrap().server_name.as_str(), "web.ns");
    assert_eq!((web.hint, web.tagged_transport_port), (ProtocolHint::Http2, Some(4143)));

    let uri = || Strategy::UriLikeIdentity(dst::tls_identity::UriLikeIdentity { uri: "spiffe://root/web".into() });
    assert_eq!(endpoint(identity(uri(), None)).unwrap_err().field(), "tls_identity.server_name");
    let web = endpoint(identity(uri(), Some(dns_like("web.ns")))).unwrap().tls.unwrap();
    assert_eq!((web.id.as_str(), web.server_name.as_str()), ("spiffe://root/web", "web.ns"));

    let mut gateway = weighted(None);
    gateway.authority_override = Some(dst::AuthorityOverride { authority_override: "web.ns.svc:8080".into() });
    assert_eq!(endpoint(gateway).unwrap().authority_override.unwrap().to_string(), "web.ns.svc:8080");
}

#[test]
fn an_unreadable_identity_is_never_plaintext() {
    let broken = weighted(Some(dst::TlsIdentity::default()));
    assert_eq!(endpoint(broken.clone()).unwrap_err().field(), "tls_identity.strategy");
    let set = dst::WeightedAddrSet { addrs: vec![broken, weighted(None)], metric_labels: labels(&[("service", "web")]) };
    let read = endpoint_update(dst::Update { update: Some(dst::update::Update::Add(set)) }).unwrap();
    assert_eq!(read.unreadable[0].field(), "add.addrs[0].tls_identity.strategy");
    let EndpointUpdate::Add { set_labels, endpoints } = read.update else { panic!() };
    assert_eq!((endpoints.len(), set_labels.get("service").map(String::as_str)), (1, Some("web")));
}

#[test]
fn updates_are_read() {
    let update = |update| endpoint_update(dst::Update { update });
    assert_eq!(update(None).unwrap_err().field(), "update");
    let removed = dst::AddrSet { addrs: vec![addr(1), addr(0), addr(70_000)] };
    let read = update(Some(dst::update::Update::Remove(removed))).unwrap();
    assert_eq!(read.update, EndpointUpdate::Remove(vec!["10.0.0.1:1".parse().unwrap()]));
    assert_eq!(
        read.unreadable.iter().map(DecodeError::field).collect::<Vec<_>>(),
        ["remove.addrs[1].port", "remove.addrs[2].port"]
    );
    let none = update(Some(dst::update::Update::NoEndpoints(dst::NoEndpoints { exists: true }))).unwrap();
    assert_eq!(none.update, EndpointUpdate::NoEndpoints { exists: true });
}

#[test]
fn profiles_are_read() {
    let read = profile(dst::DestinationProfile::default()).unwrap();
    assert_eq!(read, homarus_model::profile::Profile::default());
    let message = dst::DestinationProfile {
        fully_qualified_name: "web.ns.svc.cluster.local".into(),
        opaque_protocol: true,
        endpoint: Some(weighted(None)),
        ..Default::default()
    };
    let read = profile(message).unwrap();
    assert_eq!((read.fqn.as_deref(), read.opaque_protocol), (Some("web.ns.svc.cluster.local"), true));
    assert!(read.endpoint.is_some());
    let broken = dst::DestinationProfile { endpoint: Some(weighted(Some(Default::default()))), ..Default::default() };
    assert_eq!(profile(broken).unwrap_err().field(), "endpoint.tls_identity.strategy");
}

mod hostile {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    /// Good messages of all four kinds, encoded.
    fn good() -> [Vec<u8>; 4] {
        let add = dst::WeightedAddrSet { addrs: vec![weighted(None)], metric_labels: labels(&[("service", "web")]) };
        [
            server().encode_to_vec(),
            http1(http_route(backend(Some(balancer("web:80"))), Some(3))).encode_to_vec(),
            dst::Update { update: Some(dst::update::Update::Add(add)) }.encode_to_vec(),
            dst::DestinationProfile { endpoint: Some(weighted(None)), ..Default::default() }.encode_to_vec(),
        ]
    }

    /// Reads as all kinds; whatever it says, nothing panics, and an error names a field.
    fn read(bytes: &[u8]) -> Result<(), TestCaseError> {
        let errors = [
            ib::Server::decode(bytes).ok().and_then(|m| server_policy(m).err()),
            ob::OutboundPolicy::decode(bytes).ok().and_then(|m| client_policy(m).err()),
            dst::Update::decode(bytes).ok().and_then(|m| endpoint_update(m).err()),
            dst::DestinationProfile::decode(bytes).ok().and_then(|m| profile(m).err()),
        ];
        for error in errors.into_iter().flatten() {
            prop_assert!(!error.field().is_empty(), "{error}");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn bytes(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            read(&bytes)?;
        }

        #[test]
        fn broken_messages(which in 0..4usize, changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut bytes = good()[which].clone();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            read(&bytes)?;
        }
    }
}
