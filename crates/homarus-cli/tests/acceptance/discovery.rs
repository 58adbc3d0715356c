//! What the control plane tells: to proxies, to whoever asks it by the CLI, and about itself.

use crate::{
    clients,
    cluster::{Cluster, cluster, eventually},
};
use homarus_wire::api::destination::{GetDestination, destination_client::DestinationClient, update::Update};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Uri},
};

const ENDPOINTS: [&str; 4] = ["diagnostics", "endpoints", "-o", "json"];

/// The endpoints that the CLI tells of an authority.
fn endpoints(authority: &str) -> Vec<Value> {
    serde_json::from_str(&cluster().homarus(&[&ENDPOINTS[..], &["--wait", "1s", authority]].concat()).unwrap()).unwrap()
}

fn pod_names(endpoints: &[Value]) -> BTreeSet<String> {
    endpoints.iter().map(|endpoint| endpoint["pod"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn s39_endpoints_follow_a_rollout_and_no_request_fails() {
    let cluster = cluster();
    cluster.wait_for_deployment("apps", "rolling");
    let authority = "rolling.apps.svc.cluster.local:80";
    let before = eventually("an endpoint", || Some(pod_names(&endpoints(authority))).filter(|names| names.len() == 1));
    let requests = "for i in $(seq 40); do curl -s -m 10 -o /dev/null -w '%{http_code} ' http://rolling.apps; sleep 0.1; done";
    let answers = std::thread::scope(|scope| {
        let requests = scope.spawn(|| clients().friend.run(requests));
        let restart = json!({ "spec": { "template": { "metadata": { "annotations": { "restarted": "once" } } } } });
        let api: Api<Deployment> = cluster.api("apps");
        cluster.ask(api.patch("rolling", &PatchParams::default(), &Patch::Merge(&restart))).unwrap();
        requests.join().unwrap()
    });
    cluster.wait_for_deployment("apps", "rolling");
    let after = eventually("the new endpoint alone", || {
        Some(pod_names(&endpoints(authority))).filter(|names| names.len() == 1 && *names != before)
    });
    assert!(before.is_disjoint(&after));
    assert!(answers.split_whitespace().all(|status| status == "200"), "{answers}");
}

/// The destination controller, as proxies reach it.
async fn destination(cluster: &'static Cluster) -> DestinationClient<Channel> {
    let api: Api<Pod> = cluster.api("linkerd");
    let selector = ListParams::default().labels("linkerd.io/control-plane-component=destination");
    let pod = api.list(&selector).await.unwrap().items.remove(0).name_any();
    let connector = tower::service_fn(move |_: Uri| {
        let (api, pod) = (api.clone(), pod.clone());
        async move {
            let mut forwarder = api.portforward(&pod, &[8086]).await.map_err(std::io::Error::other)?;
            forwarder.take_stream(8086).map(TokioIo::new).ok_or_else(|| std::io::Error::other("no stream"))
        }
    });
    DestinationClient::new(Endpoint::from_static("http://destination.invalid").connect_with_connector(connector).await.unwrap())
}

/// What a subscriber knows, and how often it was told.
#[derive(Clone, Default)]
struct Subscriber(Arc<Mutex<(BTreeSet<SocketAddr>, usize)>>);

impl Subscriber {
    /// Subscribes to an authority, with the context of a proxy.
    fn to(cluster: &'static Cluster, authority: &str, token: &Value) -> Self {
        let subscriber = Self::default();
        let known = subscriber.0.clone();
        let within = Instant::now() + Duration::from_secs(10);
        let request = GetDestination { path: authority.to_owned(), context_token: token.to_string(), ..Default::default() };
        cluster.ask(async move {
            let mut client = destination(cluster).await;
            // A Service is known a moment after it was made; proxies ask again too.
            let mut updates = loop {
                match client.get(request.clone()).await {
                    Ok(updates) => break updates.into_inner(),
                    Err(status) if status.code() == Code::NotFound && Instant::now() < within => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(status) => panic!("{}: {status}", request.path),
                }
            };
            tokio::spawn(async move {
                while let Ok(Some(update)) = updates.message().await {
                    let mut known = known.lock().unwrap();
                    known.1 += 1;
                    let addr = |tcp| SocketAddr::try_from(tcp).unwrap();
                    match update.update {
                        Some(Update::Add(set)) => known.0.extend(set.addrs.into_iter().map(|a| addr(a.addr.unwrap()))),
                        Some(Update::Remove(set)) => known.0.retain(|a| !set.addrs.iter().any(|gone| addr(*gone) == *a)),
                        _ => {}
                    }
                }
            });
        });
        subscriber
    }

    fn wait_for(&self, ips: &[&str]) {
        let wanted: BTreeSet<SocketAddr> = ips.iter().map(|ip| format!("{ip}:8080").parse().unwrap()).collect();
        eventually(&format!("{wanted:?}, not {:?}", self.0.lock().unwrap().0), || {
            (self.0.lock().unwrap().0 == wanted).then_some(())
        });
    }

    fn told(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

/// A Service without a selector, and a slice with these endpoints, each with the zone it is meant for.
fn slice(name: &str, endpoints: &[(&str, Option<&str>)]) {
    let endpoints = endpoints.iter().map(|(ip, zone)| {
        let mut endpoint = json!({ "addresses": [ip], "conditions": { "ready": true } });
        if let Some(zone) = zone {
            endpoint["zone"] = json!(zone);
            endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
        }
        endpoint
    });
    let labels = json!({ "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "scenarios" });
    cluster().apply_all(&[
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "apps" },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": format!("{name}-1"), "namespace": "apps", "labels": labels },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": endpoints.collect::<Vec<_>>(),
        }),
    ]);
}

#[test]
fn s40_concurrent_subscribers_converge_and_an_unrelated_one_hears_nothing() {
    let cluster = cluster();
    slice("shared", &[("10.255.0.1", None)]);
    slice("unrelated", &[("10.255.0.9", None)]);
    let token = json!({ "ns": "apps" });
    let subscribers: Vec<_> = (0..3).map(|_| Subscriber::to(cluster, "shared.apps.svc.cluster.local:80", &token)).collect();
    let unrelated = Subscriber::to(cluster, "unrelated.apps.svc.cluster.local:80", &token);
    subscribers.iter().for_each(|subscriber| subscriber.wait_for(&["10.255.0.1"]));
    unrelated.wait_for(&["10.255.0.9"]);
    let told = unrelated.told();
    for ips in [vec!["10.255.0.1", "10.255.0.2", "10.255.0.3"], vec!["10.255.0.3"], vec!["10.255.0.2", "10.255.0.3"]] {
        slice("shared", &ips.iter().map(|ip| (*ip, None)).collect::<Vec<_>>());
        subscribers.iter().for_each(|subscriber| subscriber.wait_for(&ips));
    }
    assert_eq!(unrelated.told(), told);
    let api: Api<EndpointSlice> = cluster.api("apps");
    cluster.ask(api.delete("shared-1", &Default::default())).unwrap();
    subscribers.iter().for_each(|subscriber| subscriber.wait_for(&[]));
}

#[test]
fn s41_the_context_of_a_proxy_filters_endpoints_by_zone() {
    let cluster = cluster();
    let nodes: Api<Node> = cluster.everywhere();
    let node = cluster.ask(nodes.list(&ListParams::default())).unwrap().items.remove(0).name_any();
    let label = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-1" } } });
    cluster.ask(nodes.patch(&node, &PatchParams::default(), &Patch::Merge(&label))).unwrap();
    slice("zoned", &[("10.255.1.1", Some("zone-1")), ("10.255.1.2", Some("zone-2"))]);
    let subscribe = |token: &Value| Subscriber::to(cluster, "zoned.apps.svc.cluster.local:80", token);
    subscribe(&json!({ "ns": "apps", "nodeName": node })).wait_for(&["10.255.1.1"]);
    // Whoever doesn't say where it is gets all.
    subscribe(&json!({ "ns": "apps" })).wait_for(&["10.255.1.1", "10.255.1.2"]);
}

#[test]
fn a_service_that_stays_on_its_node_is_told_to_that_node_alone() {
    let cluster = cluster();
    cluster.apply_all(&[json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "near", "namespace": "apps" },
        "spec": {
            "selector": { "app": "web" }, "internalTrafficPolicy": "Local",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }],
        },
    })]);
    cluster.wait_for_deployment("apps", "web");
    let nodes: Api<Node> = cluster.everywhere();
    let node = cluster.ask(nodes.list(&ListParams::default())).unwrap().items.remove(0).name_any();
    let subscribe =
        |node: &str| Subscriber::to(cluster, "near.apps.svc.cluster.local:80", &json!({ "ns": "apps", "nodeName": node }));
    let (here, elsewhere) = (subscribe(&node), subscribe("elsewhere"));
    here.wait_for(&[&cluster.address("apps", "web")]);
    assert_eq!(elsewhere.told(), 0, "there is nobody to tell of");
    let anywhere = json!({ "spec": { "internalTrafficPolicy": "Cluster" } });
    let services: Api<Service> = cluster.api("apps");
    cluster.ask(services.patch("near", &PatchParams::default(), &Patch::Merge(&anywhere))).unwrap();
    elsewhere.wait_for(&[&cluster.address("apps", "web")]);
}

#[test]
fn s42_diagnostics_tell_the_endpoints_of_the_control_plane_and_of_an_app() {
    cluster().wait_for_deployment("apps", "web");
    for (authority, pod, namespace) in [
        ("linkerd-dst.linkerd.svc.cluster.local:8086", "linkerd-destination-", "linkerd"),
        ("linkerd-identity.linkerd.svc.cluster.local:8080", "linkerd-identity-", "linkerd"),
        ("linkerd-proxy-injector.linkerd.svc.cluster.local:443", "linkerd-proxy-injector-", "linkerd"),
        ("web.apps.svc.cluster.local:80", "web-", "apps"),
    ] {
        let found = endpoints(authority);
        assert_eq!(found.len(), 1, "{authority}: {found:?}");
        assert!(found[0]["pod"].as_str().unwrap().starts_with(pod), "{found:?}");
        assert_eq!(found[0]["namespace"], namespace);
        assert!(found[0]["port"].as_u64().is_some_and(|port| port > 0) && found[0]["ip"].is_string(), "{found:?}");
    }
}

#[test]
fn s43_a_bad_authority_is_named() {
    let error = cluster().homarus(&[&ENDPOINTS[..], &["foo"]].concat()).unwrap_err();
    assert!(error.contains("Destination API error: Invalid authority: foo"), "{error}");
}

#[test]
fn s44_the_control_plane_has_its_service_accounts() {
    let cluster = cluster();
    let api: Api<ServiceAccount> = cluster.api("linkerd");
    let labels = ListParams::default().labels("linkerd.io/control-plane-ns=linkerd");
    let accounts = cluster.ask(api.list(&labels)).unwrap();
    let names: Vec<_> = accounts.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["linkerd-destination", "linkerd-identity", "linkerd-proxy-injector"]);
    // Each controller has its own.
    let pods: Api<Pod> = cluster.api("linkerd");
    for pod in cluster.ask(pods.list(&ListParams::default())).unwrap() {
        let account = pod.spec.as_ref().unwrap().service_account_name.clone().unwrap();
        assert!(pod.name_any().starts_with(&account), "{} has {account}", pod.name_any());
    }
}
