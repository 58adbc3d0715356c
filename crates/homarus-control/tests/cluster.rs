//! Destination and policy controllers on a real cluster.
//!
//! `e2e/cluster/cluster up NAME`, then with `KUBECONFIG` as it prints and `kubectl` in `PATH`:
//! `cargo test -p homarus-control --features cluster --test cluster`. The controllers run in this process with the rights
//! of the ServiceAccount that they have in a cluster, no more. Pods are real; their containers only pause.
#![allow(clippy::unwrap_used)]

use homarus_control::{
    external,
    index::Settings,
    serve::{Hub, destination::Destination, grpc, metrics::Calls, policy::Policies},
    watch::{self, kinds::Source},
};
use homarus_daemon::{
    Readiness,
    drain::{self, Signal},
};
use homarus_kube::{
    crds,
    manifests::{KeyPair, Options, control_plane},
};
use homarus_wire::api::{
    destination::{GetDestination, WeightedAddr, destination_client::DestinationClient, tls_identity::Strategy, update::Update},
    inbound::{PortSpec, Server, inbound_server_policies_client::InboundServerPoliciesClient, proxy_protocol::Kind},
    net::TcpAddress,
    outbound::{TrafficSpec, outbound_policies_client::OutboundPoliciesClient, traffic_spec::Target},
};
use kube::{Client, Config, config::KubeConfigOptions};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tonic::{Streaming, transport::Channel};

/// Kubelets take a few seconds for a pod.
const SOON: Duration = Duration::from_secs(90);
const NS: &str = "homarus-control-test";

fn kubectl(args: &[&str], input: Option<&Value>) -> String {
    let mut command = Command::new("kubectl");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("kubectl in PATH, and KUBECONFIG of a cluster (e2e/cluster/cluster up NAME)");
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = input {
        stdin.write_all(input.to_string().as_bytes()).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "kubectl {args:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn apply(objects: &[Value]) {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(&list));
}

/// The custom resources, and what of the control plane isn't a running program: accounts and their rights.
fn install() {
    apply(&crds::all());
    for crd in crds::all() {
        let name = format!("crd/{}", crd["metadata"]["name"].as_str().unwrap());
        kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &name], None);
    }
    let options = Options::new("none".into(), KeyPair::default(), KeyPair::default());
    let rights = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    let objects = control_plane(&options).unwrap().into_iter();
    apply(&objects.filter(|o| rights.contains(&o["kind"].as_str().unwrap())).collect::<Vec<_>>());
}

/// A client that may do what the destination and policy controllers may.
async fn client() -> Client {
    let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await.expect("KUBECONFIG of a cluster");
    config.auth_info.impersonate = Some("system:serviceaccount:linkerd:linkerd-destination".into());
    let groups = ["system:serviceaccounts", "system:serviceaccounts:linkerd", "system:authenticated"];
    config.auth_info.impersonate_groups = Some(groups.map(Into::into).into());
    Client::try_from(config).unwrap()
}

struct Controller {
    hub: Arc<Hub>,
    channel: Channel,
    signal: Signal,
}

async fn start(sources: Vec<Source>, service: fn(Arc<Hub>) -> Arc<dyn grpc::Service>) -> Controller {
    let hub = Hub::new(Settings::default());
    let (signal, drain) = drain::channel();
    let readiness = Readiness::default();
    watch::follow(client().await, hub.clone(), sources, &readiness, watch::Metrics::default(), drain.clone());
    let began = Instant::now();
    while !readiness.waiting_for().is_empty() {
        assert!(began.elapsed() < SOON, "still waiting for {:?}", readiness.waiting_for());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(grpc::serve(listener, service(hub.clone()), Calls::register(&mut Registry::default()), drain));
    Controller { hub, channel: channel.connect().await.unwrap(), signal }
}

/// A meshed Deployment whose containers only pause, and its Service.
fn web(replicas: u32) -> [Value; 2] {
    let pause = |name: &str| json!({ "name": name, "image": "localhost/pause:local", "imagePullPolicy": "Never" });
    let (mut app, mut proxy) = (pause("app"), pause("linkerd-proxy"));
    app["ports"] = json!([{ "name": "http", "containerPort": 8080 }]);
    let listens = [("INBOUND", 4143), ("ADMIN", 4191), ("CONTROL", 4190)];
    let env = listens.map(|(name, port)| {
        json!({
            "name": format!("LINKERD2_PROXY_{name}_LISTEN_ADDR"), "value": format!("0.0.0.0:{port}"),
        })
    });
    proxy["env"] = json!(env);
    let labels = json!({ "app": "web", "linkerd.io/control-plane-ns": "linkerd" });
    let spec = json!({ "containers": [app, proxy], "terminationGracePeriodSeconds": 0 });
    [
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": NS },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": labels }, "spec": spec },
            },
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": NS },
            "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
        }),
    ]
}

fn scale(replicas: u32) {
    kubectl(&["-n", NS, "scale", "deployment/web", &format!("--replicas={replicas}")], None);
}

fn get(path: &str) -> GetDestination {
    GetDestination { path: path.into(), context_token: format!("{{\"ns\":\"{NS}\"}}"), ..Default::default() }
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    tokio::time::timeout(SOON, stream.message()).await.expect("nothing came").unwrap().expect("the stream has ended")
}

fn addr(tcp: &TcpAddress) -> SocketAddr {
    SocketAddr::try_from(*tcp).unwrap()
}

/// Follows endpoints until there are so many.
async fn endpoints(
    stream: &mut Streaming<homarus_wire::api::destination::Update>,
    known: &mut BTreeMap<SocketAddr, WeightedAddr>,
    count: usize,
) {
    while known.len() != count {
        match next(stream).await.update.unwrap() {
            Update::Add(set) => known.extend(set.addrs.into_iter().map(|a| (addr(a.addr.as_ref().unwrap()), a))),
            Update::Remove(set) => set.addrs.iter().for_each(|a| drop(known.remove(&addr(a)))),
            Update::NoEndpoints(_) => panic!("never sent"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_cluster_is_told_to_proxies() {
    install();
    kubectl(&["delete", "namespace", NS, "--ignore-not-found"], None);
    apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NS } })]);
    apply(&web(2));
    let destination = start(watch::kinds::of_destination(), |hub| Arc::new(Destination::new(hub))).await;
    let policy = start(watch::kinds::of_policy(), |hub| Arc::new(Policies::new(hub))).await;
    destination_follows_pods(&destination).await;
    policy_follows_objects(&policy).await;
    routes_are_used_once_accepted(&policy).await;
    external_workloads_get_slices(&destination).await;
    for controller in [destination, policy] {
        controller.hub.close();
        controller.signal.finish(Duration::from_secs(10)).await;
    }
    kubectl(&["delete", "namespace", NS, "--wait=false"], None);
}

async fn destination_follows_pods(controller: &Controller) {
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get(&format!("web.{NS}.svc.cluster.local:80"))).await.unwrap().into_inner();
    let mut known = BTreeMap::new();
    endpoints(&mut stream, &mut known, 2).await;
    let (pod, endpoint) = known.first_key_value().unwrap();
    assert_eq!(endpoint.metric_labels["deployment"], "web");
    let Some(Strategy::DnsLikeIdentity(identity)) = endpoint.tls_identity.clone().unwrap().strategy else { panic!() };
    assert_eq!(identity.name, format!("default.{NS}.serviceaccount.identity.linkerd.cluster.local"));
    assert_eq!(endpoint.protocol_hint.as_ref().unwrap().opaque_transport.as_ref().unwrap().inbound_port, 4143);
    let pod = *pod;
    scale(3);
    endpoints(&mut stream, &mut known, 3).await;

    let mut by_pod = client.get_profile(get(&pod.to_string())).await.unwrap().into_inner();
    let profile = next(&mut by_pod).await;
    assert_eq!(profile.endpoint.unwrap().metric_labels["namespace"], NS);
    let cluster_ip = kubectl(&["-n", NS, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"], None);
    let mut by_service = client.get_profile(get(&format!("{cluster_ip}:80"))).await.unwrap().into_inner();
    assert_eq!(next(&mut by_service).await.fully_qualified_name, format!("web.{NS}.svc.cluster.local"));
    kubectl(&["-n", NS, "annotate", "service", "web", "config.linkerd.io/opaque-ports=80"], None);
    assert!(next(&mut by_service).await.opaque_protocol);
    kubectl(&["-n", NS, "annotate", "service", "web", "config.linkerd.io/opaque-ports-"], None);
    assert!(!next(&mut by_service).await.opaque_protocol);

    scale(1);
    endpoints(&mut stream, &mut known, 1).await;
}

fn policy_object(version: &str, kind: &str, name: &str, spec: Value) -> Value {
    let metadata = json!({ "name": name, "namespace": NS });
    json!({ "apiVersion": format!("policy.linkerd.io/{version}"), "kind": kind, "metadata": metadata, "spec": spec })
}

/// The next policy that is as awaited; more than one change may come between.
async fn awaited(stream: &mut Streaming<Server>, what: &str, holds: impl Fn(&Server) -> bool) -> Server {
    let began = Instant::now();
    loop {
        let server = next(stream).await;
        if holds(&server) {
            println!("{what}: told {:?} after it was applied", began.elapsed());
            return server;
        }
    }
}

async fn policy_follows_objects(controller: &Controller) {
    let pod = kubectl(&["-n", NS, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"], None);
    let mut client = InboundServerPoliciesClient::new(controller.channel.clone());
    let spec = PortSpec { workload: json!({ "ns": NS, "pod": pod }).to_string(), port: 8080 };
    let mut stream = client.watch_port(spec).await.unwrap().into_inner();
    let name = |server: &Server| server.labels["name"].clone();
    assert_eq!(name(&next(&mut stream).await), "all-unauthenticated");

    let server = |version: &str, spec: Value| policy_object(version, "Server", "web", spec);
    let selected = json!({ "podSelector": { "matchLabels": { "app": "web" } }, "port": "http", "proxyProtocol": "HTTP/1" });
    apply(&[server("v1beta3", selected.clone())]);
    let denied = awaited(&mut stream, "Server", |s| s.labels["kind"] == "server").await;
    assert!(denied.authorizations.is_empty());
    assert!(matches!(denied.protocol.unwrap().kind, Some(Kind::Http1(_))));

    apply(&[
        policy_object(
            "v1alpha1",
            "MeshTLSAuthentication",
            "client",
            json!({
                "identityRefs": [{ "kind": "ServiceAccount", "name": "client" }],
            }),
        ),
        policy_object("v1alpha1", "NetworkAuthentication", "cluster", json!({ "networks": [{ "cidr": "10.0.0.0/8" }] })),
        policy_object(
            "v1alpha1",
            "AuthorizationPolicy",
            "web",
            json!({
                "targetRef": { "group": "policy.linkerd.io", "kind": "Server", "name": "web" },
                "requiredAuthenticationRefs": [
                    { "group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "client" },
                    { "group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "cluster" },
                ],
            }),
        ),
    ]);
    let allowed = awaited(&mut stream, "AuthorizationPolicy", |s| s.authorizations.len() == 1).await;
    assert_eq!(allowed.authorizations[0].networks.len(), 1);
    kubectl(&["-n", NS, "delete", "meshtlsauthentication", "client"], None);
    awaited(&mut stream, "a policy whose authentication is gone", |s| s.authorizations.is_empty()).await;

    apply(&[policy_object(
        "v1beta1",
        "ServerAuthorization",
        "web",
        json!({
            "server": { "name": "web" }, "client": { "unauthenticated": true },
        }),
    )]);
    awaited(&mut stream, "ServerAuthorization", |s| s.authorizations.len() == 1).await;

    // What the schema lets pass and we can't read: detected, and still denied but for what is granted.
    let mut odd = selected;
    odd["proxyProtocol"] = "HTTP/9".into();
    apply(&[server("v1beta3", odd)]);
    let detect = |s: &Server| matches!(s.protocol.as_ref().unwrap().kind, Some(Kind::Detect(_)));
    assert_eq!(awaited(&mut stream, "an unreadable protocol", detect).await.authorizations.len(), 1);
    kubectl(&["-n", NS, "delete", "server", "web"], None);
    awaited(&mut stream, "no Server", |s| name(s) == "all-unauthenticated").await;
}

async fn routes_are_used_once_accepted(controller: &Controller) {
    let mut client = OutboundPoliciesClient::new(controller.channel.clone());
    let target = Target::Authority(format!("web.{NS}.svc.cluster.local:80"));
    let spec = TrafficSpec { source_workload: format!("{NS}:client"), target: Some(target) };
    let mut stream = client.watch(spec).await.unwrap().into_inner();
    let before = next(&mut stream).await;
    let parent = json!({ "group": "core", "kind": "Service", "name": "web", "port": 80 });
    apply(&[policy_object(
        "v1beta3",
        "HTTPRoute",
        "slow",
        json!({
            "parentRefs": [parent],
            "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": "/slow" } }],
                "backendRefs": [{ "name": "web", "port": 80, "weight": 1 }, { "name": "none", "port": 80, "weight": 9 }],
            }],
        }),
    )]);
    let status = json!({ "status": { "parents": [{
        "parentRef": parent,
        "controllerName": "linkerd.io/policy-controller",
        "conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }] } });
    let route = "httproutes.policy.linkerd.io/slow";
    kubectl(&["-n", NS, "patch", route, "--subresource=status", "--type=merge", "-p", &status.to_string()], None);
    let routed = next(&mut stream).await;
    let text = format!("{routed:?}");
    assert!(text.contains("Service not found none") && text.contains("/slow"), "{text}");
    kubectl(&["-n", NS, "delete", route], None);
    assert_eq!(next(&mut stream).await, before);
}

async fn external_workloads_get_slices(controller: &Controller) {
    let (signal, drain) = drain::channel();
    let writer = tokio::spawn(external::run(client().await, controller.hub.clone(), "linkerd".into(), drain));
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "vm", "namespace": NS, "labels": { "team": "a" } },
        "spec": { "selector": { "app": "vm" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] },
    });
    let external = |ready: &str| {
        json!({
            "apiVersion": "workload.linkerd.io/v1beta1", "kind": "ExternalWorkload",
            "metadata": { "name": "vm-1", "namespace": NS, "labels": { "app": "vm" } },
            "spec": {
                "meshTLS": { "identity": "spiffe://root.linkerd.cluster.local/vm-1", "serverName": "vm-1.example" },
                "workloadIPs": [{ "ip": "192.0.2.7" }],
                "ports": [{ "name": "http", "port": 8080 }],
            },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    };
    apply(&[service, external("True")]);
    let ready = json!({ "status": external("True")["status"] }).to_string();
    let patch = |status: &str| {
        kubectl(&["-n", NS, "patch", "externalworkload", "vm-1", "--subresource=status", "--type=merge", "-p", status], None)
    };
    patch(&ready);
    let mut client = DestinationClient::new(controller.channel.clone());
    let mut stream = client.get(get(&format!("vm.{NS}.svc.cluster.local:80"))).await.unwrap().into_inner();
    let mut known = BTreeMap::new();
    endpoints(&mut stream, &mut known, 1).await;
    let (address, endpoint) = known.first_key_value().unwrap();
    assert_eq!(address.to_string(), "192.0.2.7:8080");
    assert_eq!(endpoint.metric_labels["external_workload"], "vm-1");
    let labels = "endpointslice.kubernetes.io/managed-by=linkerd-external-workloads-controller,team=a";
    let slices = || kubectl(&["-n", NS, "get", "endpointslices", "-l", labels, "-o", "name"], None);
    assert_eq!(slices().lines().count(), 1);
    patch(&json!({ "status": external("False")["status"] }).to_string());
    endpoints(&mut stream, &mut known, 0).await;
    kubectl(&["-n", NS, "delete", "externalworkload", "vm-1"], None);
    let began = Instant::now();
    while slices().lines().count() > 0 {
        assert!(began.elapsed() < SOON, "the slice stays");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    signal.start();
    writer.await.unwrap();
    let holder = ["-n", "linkerd", "get", "lease", "linkerd-destination-endpoint-write", "-o", "jsonpath={.spec.holderIdentity}"];
    assert_eq!(kubectl(&holder, None), "", "given up");
}
