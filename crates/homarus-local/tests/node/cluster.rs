//! A cluster of one node for one scenario, with nothing in it but what the scenario makes.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use homarus_local::api::node::{LogOptions, NodeBackend as _, PodRef};
use homarus_local::node::{Config, Network, NetworkConfig, Node};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The API that scenarios run on.
mod api;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where scenarios have their objects: the clusters are apart already.
const NAMESPACE: &str = "default";

static NEXT: AtomicU8 = AtomicU8::new(0);

/// Each scenario has networks and names of its own, so they can run at the same time.
pub struct Cluster {
    pub client: Client,
    pub network: Network,
    pub node: Node,
    pub name: String,
    config: Config,
    _api: api::Served,
    state: tempfile::TempDir,
}

pub fn pod_program() -> PathBuf {
    env!("CARGO_BIN_EXE_homarus-pod").into()
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        assert!(rustix::process::geteuid().is_root(), "the node's tests need root: run them with sudo");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Two processes may run tests at the same time.
        let process = u8::try_from(std::process::id() % 100).unwrap();
        let name = format!("hm{process}x{number}");
        let network = Network::create(NetworkConfig {
            pods: Ipv4Net::new(Ipv4Addr::new(10, 100 + process, number, 0), 24).unwrap(),
            services: Ipv4Net::new(Ipv4Addr::new(10, 43, number, 0), 24).unwrap(),
            interface: name.clone(),
        })
        .unwrap();
        let (client, served) = api::serve(&network).await;
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::new(&name, state.path());
        config.pod_program = pod_program();
        configure(&mut config);
        let node = Node::start(config.clone(), network.clone(), client.clone()).unwrap();
        served.set_node(node.backend());
        Self { client, network, node, name, config, _api: served, state }
    }

    /// Starts the node again, as the next run of the program would.
    pub async fn restart(&mut self) {
        let begun = Instant::now();
        self.node = loop {
            match Node::start(self.config.clone(), self.network.clone(), self.client.clone()) {
                Ok(node) => break node,
                // The old one's tasks let their sockets go when they are next scheduled.
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
    }

    /// The node's folder.
    pub fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Makes a pod of this spec, bound to the node.
    pub async fn run(&self, name: &str, spec: Value) -> Pod {
        self.run_labelled(name, json!({}), spec).await
    }

    pub async fn run_labelled(&self, name: &str, labels: Value, mut spec: Value) -> Pod {
        spec["nodeName"] = self.name.clone().into();
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = 1.into();
        }
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container.get("image").is_none() {
                    container["image"] = "none".into();
                }
            }
        }
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec,
        }))
        .unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Waits until a pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> Pod {
        let begun = Instant::now();
        loop {
            let pod = self.pods().get(name).await.unwrap();
            if wanted(&pod) {
                return pod;
            }
            if begun.elapsed() > PATIENCE {
                let status = serde_json::to_string_pretty(&pod.status).unwrap();
                panic!("pod {name} is not {what}: {status}\nevents: {:#?}", self.events(name).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn until_ready(&self, name: &str) -> Pod {
        self.until(name, "ready", |pod| condition(pod, "Ready") == "True").await
    }

    pub async fn until_phase(&self, name: &str, phase: &str) -> Pod {
        self.until(name, phase, |pod| phase_of(pod) == phase).await
    }

    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
        let begun = Instant::now();
        while self.pods().get_opt(name).await.unwrap().is_some() {
            assert!(begun.elapsed() < PATIENCE, "pod {name} does not go");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn log(&self, pod: &str, container: &str) -> String {
        self.log_with(pod, container, LogOptions::default()).await
    }

    pub async fn log_with(&self, pod: &str, container: &str, options: LogOptions) -> String {
        use futures::StreamExt as _;
        let meta = self.pods().get(pod).await.unwrap().metadata;
        let reference = PodRef { namespace: meta.namespace.unwrap(), name: meta.name.unwrap(), uid: meta.uid.unwrap() };
        let options = LogOptions { container: container.into(), ..options };
        let mut text = Vec::new();
        let Ok(mut stream) = self.node.backend().log(reference, options).await else {
            // It has not started, or nobody knows yet that it has.
            return String::new();
        };
        while let Some(chunk) = stream.next().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    /// Waits until a log has something in it.
    pub async fn until_logged(&self, pod: &str, container: &str, wanted: &str) -> String {
        let begun = Instant::now();
        loop {
            let text = self.log(pod, container).await;
            if text.contains(wanted) {
                return text;
            }
            assert!(begun.elapsed() < PATIENCE, "{pod}/{container} never said {wanted:?}: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What was said about a pod: reasons and messages.
    pub async fn events(&self, pod: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), NAMESPACE);
        let events = api.list(&ListParams::default()).await.unwrap();
        let about = events.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(pod));
        about.map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default())).collect()
    }

    pub async fn config_map(&self, name: &str, data: Value) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(body)).await.unwrap();
    }

    pub async fn secret(&self, name: &str, data: Value) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": name}, "stringData": data})).unwrap();
        api.create(&PostParams::default(), &secret).await.unwrap();
    }

    pub async fn service(&self, name: &str, spec: Value) -> Service {
        let api: Api<Service> = Api::namespaced(self.client.clone(), NAMESPACE);
        let service = json!({"metadata": {"name": name}, "spec": spec});
        api.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap()
    }

    /// Says which pods are behind a Service, as a controller would.
    pub async fn endpoints(&self, service: &str, port: u16, addresses: &[String]) {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let endpoints: Vec<_> = addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let body = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{service}-x"), "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints,
        });
        let params = PatchParams::apply("test").force();
        api.patch(&format!("{service}-x"), &params, &Patch::Apply(body)).await.unwrap();
    }
}

pub fn phase_of(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default()
}

pub fn condition(pod: &Pod, kind: &str) -> String {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).map(|c| c.status.clone()).next().unwrap_or_default()
}

pub fn address(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap()
}

pub fn container(pod: &Pod, name: &str) -> ContainerStatus {
    let status = pod.status.clone().unwrap_or_default();
    let all = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    all.into_iter().find(|c| c.name == name).unwrap_or_default()
}

pub fn terminated(status: &ContainerStatus) -> Option<(i32, String, String)> {
    let ended = status.state.clone()?.terminated?;
    Some((ended.exit_code, ended.reason.unwrap_or_default(), ended.message.unwrap_or_default()))
}

pub fn waiting(status: &ContainerStatus) -> Option<(String, String)> {
    let waiting = status.state.clone()?.waiting?;
    Some((waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default()))
}

/// A shell command as a container's command.
pub fn shell(script: &str) -> Value {
    json!(["/bin/sh", "-c", script])
}

/// A server that answers with its host name and its client's address.
pub fn web_server() -> Value {
    let program = r#"
import http.server, os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(500 if self.path != "/" and os.path.exists("/tmp" + self.path) else 200)
        self.end_headers()
        self.wfile.write((socket.gethostname() + " " + self.client_address[0] + "\n").encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"#;
    json!(["/usr/bin/python3", "-c", program])
}
