//! Streams of views over real sockets, with facts told directly.
#![allow(clippy::unwrap_used)]

use homarus_control::{
    index::{
        Settings,
        views::{endpoints::EndpointsKey, inbound::InboundKey, profile::ProfileKey},
    },
    serve::{Census, Hub, destination::Destination, grpc, metrics::Calls, policy::Policies},
};
use homarus_daemon::drain::{self, Signal};
use homarus_model::{facts::*, inbound::DefaultPolicy};
use homarus_wire::api::{
    destination::{GetDestination, Update, destination_client::DestinationClient, update},
    inbound::{PortSpec, inbound_server_policies_client::InboundServerPoliciesClient},
    outbound::{TrafficSpec, outbound_policies_client::OutboundPoliciesClient, traffic_spec::Target},
};
use prometheus_client::registry::Registry;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tonic::{Code, Streaming, transport::Channel};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(10);

struct Controller {
    hub: Arc<Hub>,
    channel: Channel,
    addr: SocketAddr,
    registry: Registry,
    signal: Signal,
}

async fn serve(service: fn(Arc<Hub>) -> Arc<dyn grpc::Service>) -> Controller {
    let hub = Hub::new(Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (signal, drain) = drain::channel();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Census::of_destination(&hub)));
    let calls = Calls::register(&mut registry);
    tokio::spawn(grpc::serve(listener, service(hub.clone()), calls, drain));
    let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    Controller { hub, channel, addr, registry, signal }
}

async fn destination() -> Controller {
    serve(|hub| Arc::new(Destination::new(hub))).await
}

async fn policies() -> Controller {
    serve(|hub| Arc::new(Policies::new(hub))).await
}

impl Controller {
    fn tell(&self, facts: impl IntoIterator<Item = Fact>) {
        self.hub.apply(facts.into_iter().map(|fact| Change::Apply(Arc::new(fact))));
    }

    fn delete(&self, kind: Kind, namespace: &str, name: &str) {
        self.hub.apply([Change::Delete(kind, Id::new(namespace, name))]);
    }
}

fn pod(n: u16) -> Pod {
    let [a, b] = n.to_be_bytes();
    Pod {
        id: Id::new("shop", format!("web-{n}")),
        labels: [("app".into(), "web".into())].into(),
        service_account: "default".into(),
        node: "node".into(),
        ips: vec![[10, 1, a, b].into()],
        host_ips: Vec::new(),
        phase: Phase::Running,
        terminating: false,
        owner: None,
        ports: Vec::new(),
        probes: Default::default(),
        control_plane_ns: Some("linkerd".into()),
        proxy: Some(ProxyPorts { inbound: 4143, admin: 4191, control: 4190 }),
        skipped: Default::default(),
        settings: Default::default(),
    }
}

fn service() -> Fact {
    Fact::Service(Service {
        id: Id::new("shop", "web"),
        labels: Default::default(),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec!["10.2.0.1".parse().unwrap()],
        ports: vec![ServicePort { port: 80, name: "".into(), target: PortRef::Number(8080), app_protocol: None }],
        opaque: None,
        internal_traffic_local: false,
        selector: None,
        families: (true, true),
    })
}

/// A slice of the pods with these numbers.
fn slice(pods: impl IntoIterator<Item = u16>) -> Fact {
    let endpoint = |n| {
        let Pod { id, ips, .. } = pod(n);
        let target = SliceTarget::Pod(id);
        SliceEndpoint { addresses: ips, ready: true, hostname: None, zone: None, for_zones: None, target }
    };
    Fact::EndpointSlice(EndpointSlice {
        id: Id::new("shop", "web-1"),
        service: Some("web".into()),
        ports: vec![("".into(), 8080)],
        endpoints: pods.into_iter().map(endpoint).collect(),
        gateway: None,
        remote_name: None,
        target_cluster: None,
    })
}

fn get(path: &str) -> GetDestination {
    GetDestination { path: path.into(), context_token: "{\"ns\":\"client\",\"nodeName\":\"node\"}\n".into(), ..Default::default() }
}

async fn next<T>(stream: &mut Streaming<T>) -> Option<T> {
    tokio::time::timeout(SOON, stream.message()).await.expect("nothing came").unwrap()
}

/// How many endpoints an update adds, and how many it removes.
fn counts(update: Update) -> (usize, usize) {
    match update.update.unwrap() {
        update::Update::Add(set) => (set.addrs.len(), 0),
        update::Update::Remove(set) => (0, set.addrs.len()),
        update::Update::NoEndpoints(_) => panic!("never sent"),
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, poll).await.unwrap_or_else(|_| panic!("{what} never came true"));
}

#[tokio::test]
async fn endpoints_are_told_as_changes() {
    let controller = destination().await;
    controller.tell([service(), slice([1, 2]), Fact::Pod(pod(1)), Fact::Pod(pod(2)), Fact::Pod(pod(3))]);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    assert_eq!(counts(next(&mut stream).await.unwrap()), (2, 0));
    controller.tell([slice([1, 2, 3])]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
    controller.tell([slice([1])]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (0, 2));
    // What is the same isn't told.
    controller.tell([slice([1]), Fact::Pod(pod(2))]);
    // A Service that goes leaves the stream open, for when it comes back.
    controller.delete(Kind::Service, "shop", "web");
    assert_eq!(counts(next(&mut stream).await.unwrap()), (0, 1));
    controller.tell([service()]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
}

#[tokio::test]
async fn a_service_that_becomes_local_keeps_its_stream() {
    let controller = destination().await;
    let far = Pod { node: "far".into(), ..pod(2) };
    controller.tell([service(), slice([1, 2]), Fact::Pod(pod(1)), Fact::Pod(far)]);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    assert_eq!(counts(next(&mut stream).await.unwrap()), (2, 0));
    let Fact::Service(local) = service() else { panic!() };
    controller.tell([Fact::Service(Service { internal_traffic_local: true, ..local })]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (0, 1));
    controller.tell([service()]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
}

#[tokio::test]
async fn a_slow_subscriber_gets_the_latest_and_never_a_queue() {
    const CHANGES: u16 = 2_000;
    let controller = destination().await;
    controller.tell([service(), slice([0])]);
    controller.tell((0..=CHANGES).map(|n| Fact::Pod(pod(n))));
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
    for n in 1..=CHANGES {
        controller.tell([slice([n])]);
    }
    let (mut messages, mut known) = (0, 1i64);
    let mut last = None;
    while last != Some(CHANGES) {
        match next(&mut stream).await.unwrap().update.unwrap() {
            update::Update::Add(set) => {
                known += i64::try_from(set.addrs.len()).unwrap();
                let pod = &set.addrs.last().unwrap().metric_labels["pod"];
                last = pod.strip_prefix("web-").unwrap().parse().ok();
            }
            update::Update::Remove(set) => known -= i64::try_from(set.addrs.len()).unwrap(),
            update::Update::NoEndpoints(_) => panic!("never sent"),
        }
        messages += 1;
    }
    let removed = counts(next(&mut stream).await.unwrap()).1;
    assert_eq!(known - i64::try_from(removed).unwrap(), 1, "only the last endpoint is left");
    assert!(messages < usize::from(CHANGES) / 2, "{messages} messages for {CHANGES} changes nobody read");
}

#[tokio::test]
async fn what_can_not_be_answered_says_why() {
    let controller = destination().await;
    controller.tell([service()]);
    let mut client = DestinationClient::new(controller.channel.clone());
    for (path, code) in [
        ("none.shop.svc.cluster.local:80", Code::NotFound),
        ("web.shop.svc.cluster.local.:80", Code::InvalidArgument),
        ("10.2.0.1:80", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        assert_eq!(client.get(get(path)).await.unwrap_err().code(), code, "{path}");
    }
    let mut policies = OutboundPoliciesClient::new(controller.channel.clone());
    let unknown = policies.get(TrafficSpec::default()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented, "another controller's method");
    // A service without endpoints: nothing is sent, the stream is open.
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    controller.tell([slice([1]), Fact::Pod(pod(1))]);
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
}

/// Clients count small frames that nobody has read yet, and end a connection that brings too many of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_subscribers_of_one_connection_are_told_a_small_change() {
    const SUBSCRIBERS: usize = 1_000;
    let controller = destination().await;
    controller.tell([service(), slice([1]), Fact::Pod(pod(1))]);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut streams = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
        assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
        streams.push(tokio::spawn(async move { counts(next(&mut stream).await.unwrap()) }));
    }
    controller.delete(Kind::Service, "shop", "web");
    for told in streams {
        assert_eq!(told.await.unwrap(), (0, 1));
    }
}

#[tokio::test]
async fn profiles_follow_what_has_the_address() {
    let controller = destination().await;
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get_profile(get("10.1.0.1:8080")).await.unwrap().into_inner();
    let bare = next(&mut stream).await.unwrap().endpoint.unwrap();
    assert!(bare.tls_identity.is_none());
    controller.tell([Fact::Pod(pod(1))]);
    assert!(next(&mut stream).await.unwrap().endpoint.unwrap().tls_identity.is_some());
    controller.tell([service()]);
    let mut stream = client.get_profile(get("10.2.0.1:80")).await.unwrap().into_inner();
    let profile = next(&mut stream).await.unwrap();
    assert_eq!(profile.fully_qualified_name, "web.shop.svc.cluster.local");
    assert!(profile.retry_budget.is_some() && profile.parent_ref.is_some() && profile.profile_ref.is_some());
    let nothing = client.get_profile(get("10.2.0.1:81")).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(nothing, Default::default());
}

#[tokio::test]
async fn inbound_policies_change_at_once_and_end_with_the_pod() {
    let controller = policies().await;
    controller.tell([Fact::Pod(pod(1))]);
    let mut client = InboundServerPoliciesClient::new(controller.channel.clone());
    let spec = |workload: &str, port| PortSpec { workload: workload.into(), port };
    let web = "{\"ns\":\"shop\", \"pod\":\"web-1\"}\n";
    let mut stream = client.watch_port(spec(web, 8080)).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap().labels["name"], "all-unauthenticated");
    controller.tell([Fact::Server(Server {
        id: Id::new("shop", "web"),
        age: Age::Since(0),
        labels: Default::default(),
        workloads: Workloads::Pods(Selector::of_labels([("app", "web")])),
        port: PortRef::Number(8080),
        protocol: ServerProtocol::Http1,
        access: DefaultPolicy::Deny,
    })]);
    let server = next(&mut stream).await.unwrap();
    assert_eq!((server.labels["kind"].as_str(), server.authorizations.len()), ("server", 0));
    let once = client.get_port(spec(web, 8080)).await.unwrap().into_inner();
    assert_eq!(once, server);
    for (workload, port, code) in
        [("shop:none", 80, Code::NotFound), (web, 0, Code::InvalidArgument), ("", 80, Code::InvalidArgument)]
    {
        assert_eq!(client.get_port(spec(workload, port)).await.unwrap_err().code(), code, "{workload}");
        assert_eq!(client.watch_port(spec(workload, port)).await.unwrap_err().code(), code, "{workload}");
    }
    controller.delete(Kind::Pod, "shop", "web-1");
    assert!(next(&mut stream).await.is_none(), "ends well");
}

#[tokio::test]
async fn outbound_policies_by_address_and_name() {
    let controller = policies().await;
    controller.tell([service()]);
    let mut client = OutboundPoliciesClient::new(controller.channel.clone());
    let spec = |target| TrafficSpec { source_workload: "client:pod".into(), target: Some(target) };
    let addr = |addr: &str| spec(Target::Addr(addr.parse::<SocketAddr>().unwrap().into()));
    let by_addr = client.get(addr("10.2.0.1:80")).await.unwrap().into_inner();
    let by_name = client.get(spec(Target::Authority("web.shop.svc".into()))).await.unwrap().into_inner();
    assert_eq!(by_addr, by_name);
    assert_eq!(client.get(addr("10.1.0.1:80")).await.unwrap_err().code(), Code::NotFound);
    let mut stream = client.watch(addr("10.2.0.1:80")).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap(), by_addr);
    controller.delete(Kind::Service, "shop", "web");
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn subscribers_that_leave_leave_nothing() {
    let controller = destination().await;
    controller.tell([service(), slice([1]), Fact::Pod(pod(1))]);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(client.get(get("web.shop.svc.cluster.local:80")).await.unwrap());
        streams.push(client.get(get("web.shop.svc.cluster.local:81")).await.unwrap());
    }
    let profile = client.get_profile(get("10.2.0.1:80")).await.unwrap();
    assert_eq!((controller.hub.views::<EndpointsKey>(), controller.hub.views::<ProfileKey>()), (2, 1));
    let scrape = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &controller.registry).unwrap();
        text
    };
    let asked = "endpoints_subscribers{cluster=\"local\",namespace=\"shop\",service=\"web\",port=\"80\"";
    assert!(scrape().lines().any(|line| line.starts_with(asked) && line.ends_with(" 3")), "{}", scrape());
    assert!(scrape().contains("pod_cache_size{cluster=\"local\"} 1"), "{}", scrape());
    drop((streams, profile));
    until("nobody is subscribed", || controller.hub.views::<EndpointsKey>() == 0 && controller.hub.views::<ProfileKey>() == 0)
        .await;
    assert_eq!(controller.hub.views::<InboundKey>(), 0);
    let text = scrape();
    assert!(!text.contains("endpoints_subscribers{"), "{text}");
    assert!(text.contains("grpc_code=\"Canceled\""), "{text}");
    let started = "grpc_server_started_total{grpc_service=\"io.linkerd.proxy.destination.Destination\",grpc_method=\"Get\",\
                   grpc_type=\"server_stream\"} 6";
    assert!(text.contains(started), "{text}");
}

#[tokio::test]
async fn a_drain_ends_streams_well() {
    let controller = destination().await;
    controller.tell([service(), slice([1]), Fact::Pod(pod(1))]);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    next(&mut stream).await.unwrap();
    controller.signal.start();
    controller.hub.close();
    assert!(next(&mut stream).await.is_none());
}

#[tokio::test]
async fn who_comes_too_late_is_told_to_ask_again() {
    let controller = destination().await;
    controller.tell([service(), slice([1]), Fact::Pod(pod(1))]);
    controller.hub.close();
    let mut client = DestinationClient::new(controller.channel.clone());
    // Not that there is no such Service, which proxies would believe.
    assert_eq!(client.get(get("web.shop.svc.cluster.local:80")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(client.get_profile(get("10.1.0.1:8080")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn hostile_bytes_cost_only_their_own_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let controller = destination().await;
    controller.tell([service(), slice([1]), Fact::Pod(pod(1))]);
    for garbage in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff"] {
        let mut socket = tokio::net::TcpStream::connect(controller.addr).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SOON, socket.read_to_end(&mut answer)).await.expect("the connection ends");
    }
    let mut client = DestinationClient::new(controller.channel.clone());
    let huge = client.get(get(&"a".repeat(100_000))).await.unwrap_err();
    assert_eq!(huge.code(), Code::ResourceExhausted);
    let mut stream = client.get(get("web.shop.svc.cluster.local:80")).await.unwrap().into_inner();
    assert_eq!(counts(next(&mut stream).await.unwrap()), (1, 0));
}
