#![allow(clippy::unwrap_used)]
mod fake;

use super::{
    endpoints::apply,
    outbound::{Asking, PolicyAnswer, ProfileAnswer, merge, pause},
    *,
};
use crate::config::{StreamLimits, vars::PREFIX};
use fake::{Fake, Script};
use homarus_identity::{TrustAnchors, authority::Pair};
use homarus_model::{
    Meta,
    endpoint::EndpointUpdate,
    inbound::{self as model, Protocol},
    outbound::Dispatcher,
};
use homarus_wire::api::{destination as dst, inbound as ib, meta as m, outbound as ob};
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};
use tonic::{Code, Status};

const DST: &str = "10.0.0.9:80";
const OUTSIDE: &str = "192.0.2.1:80";

/// Long enough for anything here, short enough to fail.
const PATIENCE: Duration = Duration::from_secs(10);

fn config(control: SocketAddr, changes: &[(&str, &str)]) -> Config {
    let addr = control.to_string();
    let mut all: BTreeMap<&str, &str> = [
        ("DESTINATION_SVC_ADDR", &*addr),
        ("POLICY_SVC_ADDR", &addr),
        ("IDENTITY_SVC_ADDR", &addr),
        ("POLICY_WORKLOAD", "me"),
        ("DESTINATION_CONTEXT", "ctx"),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8"),
        ("IDENTITY_DIR", "/nowhere"),
        ("IDENTITY_TRUST_ANCHORS", "x"),
        ("IDENTITY_TOKEN_FILE", "/nowhere"),
        ("IDENTITY_LOCAL_NAME", "web.shop"),
        ("INBOUND_DEFAULT_POLICY", "all-authenticated"),
        ("OUTBOUND_CONNECT_EXP_BACKOFF_MIN", "1ms"),
        ("OUTBOUND_CONNECT_EXP_BACKOFF_MAX", "20ms"),
    ]
    .into();
    all.extend(changes.iter().copied());
    Config::parse(all.into_iter().map(|(k, v)| (format!("{PREFIX}{k}").into(), v.into())).collect()).unwrap()
}

fn to(dialed: &str) -> Authority {
    Authority::parse(dialed, 80).unwrap()
}

fn anchors() -> TrustAnchors {
    let root = Pair::root("root", Duration::from_secs(3600), SystemTime::now()).unwrap();
    TrustAnchors::from_pem(&root.certificate.to_pem()).unwrap()
}

fn discovery(config: &Config) -> Discovery {
    discovery_in(config, &Registry::default())
}

fn discovery_in(config: &Config, registry: &Registry) -> Discovery {
    let dns = Arc::new(Dns::new(None, None, registry.clone()));
    let (_, anchors) = watch::channel(anchors());
    let (_, material) = watch::channel(None);
    Discovery::start(config, Handle::current(), dns, Peers { anchors, material }, registry)
}

fn metrics(registry: &Registry) -> String {
    let mut text = String::new();
    registry.render(&mut text);
    text
}

/// Waits until the value is as wanted.
async fn until<T>(watched: &mut Watched<T>, want: impl Fn(&T) -> bool) -> Arc<T> {
    let found = watched.wait_for(|value| value.as_deref().is_some_and(&want));
    let found = tokio::time::timeout(PATIENCE, found).await.expect("the value didn't come").unwrap();
    found.clone().unwrap()
}

/// Waits until something holds that nobody tells of.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn default_meta(name: &str) -> Option<m::Metadata> {
    Some(m::Metadata { kind: Some(m::metadata::Kind::Default(name.into())) })
}

fn server(name: &str) -> ib::Server {
    ib::Server {
        protocol: Some(ib::ProxyProtocol { kind: Some(ib::proxy_protocol::Kind::Opaque(ib::proxy_protocol::Opaque {})) }),
        labels: [("kind".to_owned(), "server".to_owned()), ("name".to_owned(), name.to_owned())].into(),
        ..Default::default()
    }
}

fn policy(name: &str) -> ob::OutboundPolicy {
    let kind = Some(ob::proxy_protocol::Kind::Opaque(ob::proxy_protocol::Opaque { routes: vec![] }));
    ob::OutboundPolicy { protocol: Some(ob::ProxyProtocol { kind }), metadata: default_meta(name) }
}

fn weighted(ip: u8) -> dst::WeightedAddr {
    let addr = homarus_wire::api::net::TcpAddress { ip: Some(IpAddr::from([10, 0, 0, ip]).into()), port: 8080 };
    let metric_labels = [("pod".to_owned(), format!("web-{ip}"))].into();
    dst::WeightedAddr { addr: Some(addr), metric_labels, ..Default::default() }
}

fn add(ips: &[u8]) -> dst::Update {
    let set = dst::WeightedAddrSet {
        addrs: ips.iter().copied().map(weighted).collect(),
        metric_labels: [("service".to_owned(), "web".to_owned()), ("pod".to_owned(), "of the set".to_owned())].into(),
    };
    dst::Update { update: Some(dst::update::Update::Add(set)) }
}

fn last_octets(set: &EndpointSet) -> Vec<u8> {
    set.endpoints.keys().map(|a| if let IpAddr::V4(ip) = a.ip() { ip.octets()[3] } else { 0 }).collect()
}

// --- pure ---

#[test]
fn profile_and_policy_are_merged_as_the_table_says() {
    let addr: SocketAddr = DST.parse().unwrap();
    let dialed = to(DST);
    let endpoint = Endpoint::plain("10.0.0.10:8080".parse().unwrap());
    let with_endpoint = Arc::new(Profile { endpoint: Some(endpoint.clone()), ..Profile::default() });
    let policy = Arc::new(ClientPolicy::forward("told", endpoint.clone()));
    let profiles = [
        ProfileAnswer::None,
        ProfileAnswer::Known(Arc::default()),
        ProfileAnswer::Known(with_endpoint.clone()),
        ProfileAnswer::Unreadable("p".into()),
    ];
    let invalid = |why: &str| Some(Outbound::Invalid { why: why.into(), opaque: false });
    for profile in &profiles {
        assert_eq!(merge(&dialed, profile, &PolicyAnswer::Pending), None);
        let Some(Outbound::Policy { policy: told, .. }) = merge(&dialed, profile, &PolicyAnswer::Known(policy.clone())) else {
            panic!()
        };
        assert!(Arc::ptr_eq(&told, &policy));
        assert_eq!(merge(&dialed, profile, &PolicyAnswer::Refused("r".into())), Some(Outbound::Refused("r".into())));
        assert_eq!(merge(&dialed, profile, &PolicyAnswer::Unreadable("u".into())), invalid("u"));
    }
    let opaque = ProfileAnswer::Known(Arc::new(Profile { opaque_protocol: true, ..Profile::default() }));
    let answer = merge(&dialed, &opaque, &PolicyAnswer::Unreadable("u".into()));
    assert_eq!(answer, Some(Outbound::Invalid { why: "u".into(), opaque: true }), "no request is looked for on opaque ports");
    let unknown = |profile: &ProfileAnswer| merge(&dialed, profile, &PolicyAnswer::Unknown);
    let forward = |outbound: Option<Outbound>| {
        let Some(Outbound::Policy { policy, .. }) = outbound else { panic!() };
        let Some(opaque) = policy.opaque() else { panic!() };
        let Dispatcher::Forward(to) = opaque.distribution.backends()[0].backend.dispatcher.clone() else { panic!() };
        (policy.parent.name().to_owned(), to.addr)
    };
    assert_eq!(unknown(&ProfileAnswer::Pending), None);
    assert_eq!(forward(unknown(&profiles[0])), ("fallback".into(), addr));
    assert_eq!(forward(unknown(&profiles[1])), ("fallback".into(), addr));
    assert_eq!(forward(unknown(&profiles[2])), ("endpoint".into(), endpoint.addr));
    assert_eq!(unknown(&profiles[3]), invalid("p"), "never without TLS by accident");
}

#[test]
fn names_lead_where_the_control_plane_says_or_nowhere() {
    let dialed = to("web.shop.svc.cluster.local:8080");
    let dispatcher = |outbound: Option<Outbound>| {
        let Some(Outbound::Policy { policy, .. }) = outbound else { panic!("{outbound:?}") };
        policy.opaque().unwrap().distribution.backends()[0].backend.dispatcher.clone()
    };
    let known = |profile: Profile| ProfileAnswer::Known(Arc::new(profile));
    let endpoint = Endpoint::plain("10.0.0.10:8080".parse().unwrap());
    let policy = PolicyAnswer::Known(Arc::new(ClientPolicy::forward("told", endpoint.clone())));
    let service = known(Profile { fqn: Some("web.shop.svc.cluster.local".into()), ..Profile::default() });
    let instance = known(Profile { endpoint: Some(endpoint.clone()), ..Profile::default() });
    for profile in [&ProfileAnswer::None, &service, &instance] {
        assert_eq!(dispatcher(merge(&dialed, profile, &policy)), Dispatcher::Forward(endpoint.clone().into()));
    }
    let unknown = |profile: &ProfileAnswer| merge(&dialed, profile, &PolicyAnswer::Unknown);
    let Dispatcher::Balance { path, .. } = dispatcher(unknown(&service)) else { panic!() };
    assert_eq!(&*path, "web.shop.svc.cluster.local:8080");
    assert_eq!(dispatcher(unknown(&instance)), Dispatcher::Forward(endpoint.into()));
    for nothing in [ProfileAnswer::None, known(Profile::default())] {
        let Some(Outbound::Refused(why)) = unknown(&nothing) else { panic!("{nothing:?}") };
        assert!(why.contains("knows no Service web.shop.svc.cluster.local:8080"), "{why}");
    }
    assert_eq!(unknown(&ProfileAnswer::Pending), None);
}

#[test]
fn endpoints_follow_the_stream() {
    let read = |update| homarus_wire::decode::endpoint_update(update).unwrap().update;
    let addr = |ip: u8| SocketAddr::from(([10, 0, 0, ip], 8080));
    let mut set = EndpointSet::default();
    apply(&mut set, read(add(&[1, 2])), true);
    let first = set.endpoints[&addr(1)].clone();
    assert_eq!((first.labels["service"].as_str(), first.labels["pod"].as_str()), ("web", "web-1"), "its own labels win");
    apply(&mut set, read(add(&[3])), false);
    assert_eq!(last_octets(&set), [1, 2, 3]);
    apply(&mut set, EndpointUpdate::Remove(vec![addr(2), addr(9)]), false);
    assert_eq!(last_octets(&set), [1, 3]);
    apply(&mut set, read(add(&[1, 4])), true);
    assert_eq!(last_octets(&set), [1, 4], "a new stream begins anew");
    assert!(Arc::ptr_eq(&first, &set.endpoints[&addr(1)]), "what didn't change is the same");
    apply(&mut set, EndpointUpdate::NoEndpoints { exists: true }, false);
    assert!(set.exists && set.endpoints.is_empty());
    apply(&mut set, EndpointUpdate::NoEndpoints { exists: false }, false);
    assert!(!set.exists);
}

#[test]
fn an_unreadable_policy_lets_nobody_in() {
    let policy = inbound::invalid();
    assert_eq!(policy.server, Meta::default_named("invalid"));
    assert!(policy.authorizations.is_empty());
}

#[test]
fn subscriptions_are_bounded() {
    let cache: Cache<u16, &str> = Cache::new(1);
    let started = std::cell::Cell::new(0);
    let subscribe = |key| cache.subscribe(key, || "full", |_| started.set(started.get() + 1));
    let (one, again, two) = (subscribe(1), subscribe(1), subscribe(2));
    assert_eq!((started.get(), one.borrow().as_deref(), again.borrow().as_deref()), (1, None, None));
    assert_eq!(two.borrow().as_deref(), Some(&"full"));
}

// --- against a control plane ---

#[tokio::test]
async fn one_subscription_serves_all() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let registry = Registry::default();
    let discovery = discovery_in(&config(fake.addr, &[]), &registry);
    let _profile =
        script.get_profile.stream([dst::DestinationProfile { fully_qualified_name: "web".into(), ..Default::default() }]);
    let driver = script.watch.stream([policy("one")]);
    assert!(!metrics(&registry).contains("control_response_total"));
    let (mut first, mut second) = (discovery.outbound(&to(DST)), discovery.outbound(&to(DST)));
    until(&mut first, |o| matches!(o, Outbound::Policy { profile: Some(p), .. } if p.fqn.as_deref() == Some("web"))).await;
    until(&mut second, |o| matches!(o, Outbound::Policy { .. })).await;
    assert_eq!(script.watch.asked(), ["10.0.0.9:80 me"]);
    assert_eq!(script.get_profile.asked(), ["10.0.0.9:80 ctx"]);

    driver.send(Ok(policy("two"))).await.unwrap();
    until(&mut first, |o| matches!(o, Outbound::Policy { policy, .. } if policy.parent.name() == "two")).await;

    drop((first, second));
    eventually("the subscription ends with its last holder", || discovery.0.outbound.len() == 0).await;
    eventually("the stream is reset", || driver.is_closed()).await;
    let addr = format!("{{addr=\"{}\",tls=\"no_identity\",no_tls_reason=\"loopback\"", fake.addr);
    let text = metrics(&registry);
    assert!(text.contains(&format!("control_request_total{addr}}} ")), "{text}");
    let ended = "status_code=\"200\",classification=\"success\",grpc_status=\"\",error=\"\"}";
    assert!(text.contains(&format!("control_response_total{addr},{ended} 2\n")), "{text}");
    fake.kill();
}

#[tokio::test]
async fn only_addresses_of_the_cluster_have_profiles() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    script.watch.refuse(Code::NotFound);
    let mut outside = discovery.outbound(&to(OUTSIDE));
    let told = until(&mut outside, |_| true).await;
    let Outbound::Policy { policy, profile: None } = &*told else { panic!("{told:?}") };
    assert_eq!(policy.parent.name(), "fallback");
    assert!(script.get_profile.asked().is_empty());
    fake.kill();
}

#[tokio::test]
async fn a_name_that_is_not_known_yet_is_asked_about_again() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    script.watch.refuse(Code::NotFound);
    script.get_profile.refuse(Code::Unknown);
    let mut name = discovery.outbound(&to("web.shop.svc.cluster.local"));
    until(&mut name, |o| matches!(o, Outbound::Refused(why) if why.contains("knows no Service"))).await;
    let _driver = script.watch.stream([policy("told")]);
    let _profile = script.get_profile.stream([dst::DestinationProfile::default()]);
    until(&mut name, |o| matches!(o, Outbound::Policy { policy, .. } if policy.parent.name() == "told")).await;
    assert_eq!(script.watch.asked(), ["web.shop.svc.cluster.local:80 me"; 2]);
    assert_eq!(script.get_profile.asked()[0], "web.shop.svc.cluster.local:80 ctx");
    // Names outside the cluster have no profiles.
    script.watch.refuse(Code::NotFound);
    let asked = script.get_profile.asked().len();
    let mut outside = discovery.outbound(&to("www.example.com"));
    until(&mut outside, |o| matches!(o, Outbound::Refused(_))).await;
    assert!(script.get_profile.asked().iter().skip(asked).all(|asked| !asked.contains("example")));
    fake.kill();
}

#[tokio::test]
async fn a_profile_that_was_known_stays_however_often_its_stream_fails() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    script.watch.refuse(Code::NotFound);
    let profile = dst::DestinationProfile { fully_qualified_name: "web.shop.svc.cluster.local".into(), ..Default::default() };
    let driver = script.get_profile.stream([profile]);
    let mut name = discovery.outbound(&to("web.shop.svc.cluster.local"));
    until(&mut name, |o| matches!(o, Outbound::Policy { profile: Some(_), .. })).await;
    // As tonic calls a connection that breaks.
    script.get_profile.refuse(Code::Unknown);
    script.get_profile.refuse(Code::Unknown);
    driver.send(Err(Status::unknown("transport error"))).await.unwrap();
    eventually("it is asked again and again", || script.get_profile.asked().len() == 4).await;
    assert!(matches!(name.borrow().as_deref(), Some(Outbound::Policy { profile: Some(_), .. })), "{:?}", name.borrow());
    fake.kill();
}

#[test]
fn only_what_may_come_to_be_is_asked_about_often() {
    let (name, addr) = (to("web.shop.svc.cluster.local"), to(DST));
    for code in [Code::NotFound, Code::Unknown] {
        assert_eq!((Asking::after(&name, code), Asking::after(&addr, code)), (Asking::Again, Asking::Done));
    }
    for code in [Code::InvalidArgument, Code::FailedPrecondition, Code::Unimplemented] {
        assert_eq!((Asking::after(&name, code), Asking::after(&addr, code)), (Asking::Seldom, Asking::Done));
    }
    let mut refusals = 0;
    let mut after = |asking| pause(asking, &mut refusals).map(|pause| pause.as_secs());
    let waits: Vec<_> = (0..8).map(|_| after(Asking::Seldom).unwrap()).collect();
    assert!(waits[0] >= 1 && waits[7] == 30 && waits.is_sorted_by(|a, b| b * 2 >= *a), "{waits:?}");
    assert_eq!((after(Asking::Again), after(Asking::Done)), (Some(1), None));
}

#[tokio::test]
async fn refusals_and_nonsense_close() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    script.watch.refuse(Code::FailedPrecondition);
    let mut refused = discovery.outbound(&to("192.0.2.1:1"));
    until(&mut refused, |o| matches!(o, Outbound::Refused(why) if why.contains("as the test says"))).await;
    let driver = script.watch.stream([ob::OutboundPolicy::default()]);
    let mut invalid = discovery.outbound(&to("192.0.2.1:2"));
    until(
        &mut invalid,
        |o| matches!(o, Outbound::Invalid { why, opaque: false } if why.contains("metadata") && why.contains("look at")),
    )
    .await;
    driver.send(Ok(policy("mended"))).await.unwrap();
    until(&mut invalid, |o| matches!(o, Outbound::Policy { .. })).await;
    assert_eq!(script.watch.asked().len(), 2, "neither is asked again");
    fake.kill();
}

#[tokio::test]
async fn endpoints_survive_the_control_plane() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    let _first = script.get.stream([add(&[1, 2])]);
    let mut endpoints = discovery.endpoints(&"web.ns.svc.cluster.local:80".into());
    until(&mut endpoints, |set| last_octets(set) == [1, 2]).await;
    assert_eq!(script.get.asked(), ["web.ns.svc.cluster.local:80 ctx"]);

    let addr = fake.kill();
    assert_eq!(last_octets(endpoints.borrow().as_deref().unwrap()), [1, 2], "what was known stays");
    let _second = script.get.stream([add(&[2, 3])]);
    let fake = Fake::start_on(addr, script.clone()).await;
    until(&mut endpoints, |set| last_octets(set) == [2, 3]).await;
    fake.kill();
}

#[tokio::test]
async fn streams_that_fail_are_opened_again() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    script.get.refuse(Code::Internal);
    drop(script.get.stream([]));
    script.get.refuse(Code::NotFound);
    let nonsense = dst::Update { update: None };
    let driver = script.get.stream([add(&[1]), nonsense]);
    let mut endpoints = discovery.endpoints(&"web:80".into());
    until(&mut endpoints, |set| last_octets(set) == [1]).await;
    assert_eq!(script.get.asked().len(), 4);
    driver.send(Ok(add(&[2]))).await.unwrap();
    until(&mut endpoints, |set| last_octets(set) == [1, 2]).await;
    driver.send(Err(Status::invalid_argument("gone"))).await.unwrap();
    until(&mut endpoints, |set| !set.exists).await;
    assert_eq!(script.get.asked().len(), 4, "what is refused for good is not asked again");
    fake.kill();
}

#[tokio::test]
async fn a_control_plane_that_drains_keeps_its_streams_and_gets_no_new_ones() {
    let (old, new) = (Arc::new(Script::default()), Arc::new(Script::default()));
    let mut going = Fake::start(old.clone());
    let discovery = discovery(&config(going.addr, &[]));
    let driver = old.get.stream([add(&[1])]);
    let mut endpoints = discovery.endpoints(&"one:80".into());
    until(&mut endpoints, |set| last_octets(set) == [1]).await;
    going.drain();
    let coming = Fake::start_on(going.addr, new.clone()).await;
    let _other = new.get.stream([add(&[3])]);
    // A stream that begins before the news has come still goes to the old server, which has nothing for it: ask again.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for other in 2.. {
        let mut others = discovery.endpoints(&format!("service-{other}:80").into());
        let came = others.wait_for(|set| set.as_deref().is_some_and(|set| last_octets(set) == [3]));
        if tokio::time::timeout(Duration::from_millis(200), came).await.is_ok() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "new streams never reach the new server");
    }
    driver.send(Ok(add(&[2]))).await.unwrap();
    until(&mut endpoints, |set| last_octets(set) == [1, 2]).await;
    going.kill();
    coming.kill();
}

#[tokio::test]
async fn nonsense_on_the_wire_is_survived() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let garbage = std::thread::spawn(move || {
        for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 64], b""] {
            let (mut socket, _) = listener.accept().unwrap();
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(answer);
        }
    });
    let discovery = discovery(&config(addr, &[]));
    let mut endpoints = discovery.endpoints(&"web:80".into());
    eventually("three connections are tried", || garbage.is_finished()).await;
    let script = Arc::new(Script::default());
    let _driver = script.get.stream([add(&[1])]);
    let fake = Fake::start_on(addr, script).await;
    until(&mut endpoints, |set| last_octets(set) == [1]).await;
    fake.kill();
}

#[tokio::test]
async fn silent_and_old_streams_are_renewed() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let config = config(fake.addr, &[]);
    let limits = StreamLimits { initial: Some(Duration::from_millis(100)), idle: Some(Duration::from_millis(200)), lifetime: None };
    let control = |addr: &crate::config::ControlAddr| {
        let (_, anchors) = watch::channel(anchors());
        let (_, material) = watch::channel(None);
        let dns = Arc::new(Dns::new(None, None, Registry::default()));
        Arc::new(Control::new(
            "test",
            addr.clone(),
            limits,
            &config.outbound.direction,
            dns,
            Peers { anchors, material },
            &Registry::default(),
        ))
    };
    let (destination, policy) = (control(&config.discovery.destination), control(&config.discovery.policy));
    let discovery = Discovery::with(&config, Handle::current(), destination, policy, &Registry::default());
    // Silent at first: given up, and asked on another connection.
    let _silent = script.get.stream([]);
    let _spoke = script.get.stream([add(&[1])]);
    let _renewed = script.get.stream([add(&[2])]);
    let mut endpoints = discovery.endpoints(&"web:80".into());
    until(&mut endpoints, |set| last_octets(set) == [1]).await;
    until(&mut endpoints, |set| last_octets(set) == [2]).await;
    fake.kill();
}

#[tokio::test]
async fn ports_of_the_workload_are_asked_about_at_once() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let driver = script.watch_port.stream([server("web")]);
    let discovery = discovery(&config(fake.addr, &[("INBOUND_PORTS", "8080"), ("ADMIN_LISTEN_ADDR", "127.0.0.1:8080")]));
    eventually("the port is asked about", || script.watch_port.asked() == ["8080 me"]).await;
    let mut port = discovery.inbound(8080);
    let told = until(&mut port, |p| p.server.name() == "web").await;
    assert_eq!(told.authorizations.last().unwrap(), &model::Authorization::localhost());
    driver.send(Ok(ib::Server::default())).await.unwrap();
    let told = until(&mut port, |p| p.server.name() == "invalid").await;
    assert!(told.authorizations.is_empty());
    fake.kill();
}

#[tokio::test]
async fn a_port_that_nobody_tells_of_gets_the_default() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", "25")]));
    let _admin = script.watch_port.stream([server("admin")]);
    eventually("the admin port is asked about", || script.watch_port.asked() == ["4191 me"]).await;
    script.watch_port.refuse(Code::InvalidArgument);
    let mut port = discovery.inbound(25);
    let told = until(&mut port, |_| true).await;
    assert_eq!((told.server.name(), &told.protocol), ("all-authenticated", &Protocol::Opaque));
    fake.kill();
}

#[tokio::test]
async fn that_the_workload_has_ended_is_heard_and_nothing_else_is_taken_for_it() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let over = || Status::aborted(homarus_wire::WORKLOAD_OVER);
    script.watch_port.refuse(Code::Aborted);
    let driver = script.watch_port.stream([server("web")]);
    let registry = Registry::default();
    let discovery = discovery_in(&config(fake.addr, &[]), &registry);
    let mut port = discovery.inbound(4191);
    until(&mut port, |p| p.server.name() == "web").await;
    let waits = tokio::time::timeout(Duration::from_millis(50), discovery.workload_over()).await;
    assert!(waits.is_err(), "another reason");
    assert!(
        metrics(&registry).contains("homarus_discovery_stream_failures_total{rpc=\"WatchPort\"} 1\n"),
        "{}",
        metrics(&registry)
    );
    // A control plane that is behind may mean the pod that had the name before.
    let second = script.watch_port.stream([server("again")]);
    driver.send(Err(over())).await.unwrap();
    until(&mut port, |p| p.server.name() == "again").await;
    let waits = tokio::time::timeout(Duration::from_millis(50), discovery.workload_over()).await;
    assert!(waits.is_err(), "too early to be believed");
    let third = script.watch_port.stream([server("web")]);
    drop(second);
    until(&mut port, |p| p.server.name() == "web").await;
    tokio::time::pause();
    tokio::time::advance(inbound::TRUST_OVER_AFTER).await;
    tokio::time::resume();
    script.watch_port.refuse_with(over());
    third.send(Err(over())).await.unwrap();
    discovery.workload_over().await;
    assert_eq!(port.borrow().as_ref().unwrap().server.name(), "web", "what was known stays");
    fake.kill();
}

#[tokio::test(start_paused = true)]
async fn ports_wait_three_seconds_for_their_policy() {
    // Nobody listens: the port was free a moment ago.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = tokio::time::Instant::now();
    let discovery = discovery(&config(addr, &[]));
    let mut port = discovery.inbound(8080);
    assert!(port.borrow().is_none(), "the first connections wait");
    let told = until(&mut port, |_| true).await;
    assert_eq!(told.server.name(), "all-authenticated");
    let waited = began.elapsed();
    assert!((ANSWER_TIMEOUT..ANSWER_TIMEOUT + Duration::from_millis(100)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn ports_of_the_control_plane_do_not_wait_for_what_waits_for_them() {
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let began = tokio::time::Instant::now();
    let discovery = discovery(&config(addr, &[("INBOUND_POLICY_INITIAL_TIMEOUT", "0s")]));
    let told = until(&mut discovery.inbound(8080), |_| true).await;
    assert_eq!(told.server.name(), "all-authenticated");
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn endpoints_of_a_policy_are_told_apart_from_none() {
    let script = Arc::new(Script::default());
    let fake = Fake::start(script.clone());
    let discovery = discovery(&config(fake.addr, &[]));
    let none = dst::Update { update: Some(dst::update::Update::NoEndpoints(dst::NoEndpoints { exists: true })) };
    let _driver = script.get.stream([none]);
    let mut endpoints = discovery.endpoints(&"web:80".into());
    assert_eq!(*until(&mut endpoints, |_| true).await, EndpointSet { exists: true, endpoints: BTreeMap::new() });
    fake.kill();
}
