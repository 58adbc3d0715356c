//! Real programs of Debian's packages, unmodified: each through the mesh, and nothing says so to anyone but `inject`.
//!
//! A program's server runs twice in a namespace of its own, meshed and not; its client comes as a pod for each way to meet
//! them. What the client did is told by what it printed; that the proxies carried it, and whom they took whom for, by their
//! own metrics.

mod client_first;
mod server_first;
mod streams;

use crate::up::Up;
use homarus_testkit::metrics::Metrics;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a client's pod prints once its script has ended. It lives on, and so does its proxy, which has to tell more.
const END: &str = "-- the script ended with ";

/// Who of client and server is meshed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meshed {
    Both,
    Client,
    Server,
    Neither,
}

impl Meshed {
    /// Every way that has to do with the mesh.
    pub const WAYS: [Self; 3] = [Self::Both, Self::Client, Self::Server];

    /// The client's pod.
    pub fn pod(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Client => "client",
            Self::Server => "server",
            Self::Neither => "neither",
        }
    }

    fn client(self) -> &'static str {
        inject(matches!(self, Self::Both | Self::Client))
    }

    /// The Service of the server.
    fn server(self) -> &'static str {
        if matches!(self, Self::Both | Self::Server) { "meshed" } else { "plain" }
    }
}

fn inject(meshed: bool) -> &'static str {
    if meshed { "enabled" } else { "disabled" }
}

/// A program in a namespace of its own.
pub struct Program {
    pub up: Arc<Up>,
    pub namespace: &'static str,
}

impl Program {
    /// Starts its servers and waits until they listen.
    pub fn start(namespace: &'static str, ports: &[u16], script: &str) -> Self {
        let server = |name, meshed| server(namespace, name, ports, script, &json!({ "linkerd.io/inject": inject(meshed) }));
        Self::of(namespace, &[server("meshed", true), server("plain", false)])
    }

    /// Starts these servers, each a Service and a Deployment.
    pub fn of(namespace: &'static str, servers: &[[Value; 2]]) -> Self {
        let up = Up::shared();
        let account = |name: &str| {
            let metadata = json!({ "name": name, "namespace": namespace });
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata })
        };
        up.apply(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })]);
        up.apply(&[account("client"), account("server"), account("friend")]);
        servers.iter().for_each(|server| up.apply(server));
        for [_, deployment] in servers {
            up.wait_for_deployment(namespace, deployment["metadata"]["name"].as_str().unwrap());
        }
        Self { up, namespace }
    }

    /// Starts a client, which finds the name of its server in `$SERVER` and its own in `$HOSTNAME`.
    pub fn begin(&self, name: &str, way: Meshed, script: &str) {
        self.begin_as("client", name, way, script);
    }

    /// The same under another ServiceAccount.
    pub fn begin_as(&self, account: &str, name: &str, way: Meshed, script: &str) {
        let script = format!("(\nset -e\n{script}\n)\necho \"{END}$?\"\nexec sleep infinity");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": name, "annotations": { "linkerd.io/inject": way.client() } },
            "spec": {
                "serviceAccountName": account,
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "script", "image": "script", "command": ["sh", "-c", script],
                    "env": [{ "name": "SERVER", "value": way.server() }],
                }],
            },
        }))
        .unwrap();
        self.up.ask(self.up.api::<Pod>(self.namespace).create(&PostParams::default(), &pod)).unwrap();
    }

    /// What a client printed so far.
    pub fn said(&self, name: &str) -> Option<String> {
        let params = LogParams { container: Some("script".into()), ..LogParams::default() };
        self.up.ask(self.up.api::<Pod>(self.namespace).logs(name, &params)).ok()
    }

    /// Waits for the end of a client's script, which must be a good one, and gives what it printed.
    pub fn end(&self, name: &str) -> String {
        let what = format!("client {name:?} of {}", self.namespace);
        let said = self.up.wait_for(&what, || self.said(name).filter(|said| said.contains(END)));
        let (said, status) = said.split_once(END).unwrap();
        assert_eq!(status.trim(), "0", "{what}:\n{said}");
        said.trim().to_owned()
    }

    /// One client for each way, all at once, and what each printed; the proxies must tell of them.
    pub fn every_way(&self, script: &str) -> Vec<(&'static str, String)> {
        Meshed::WAYS.iter().for_each(|way| self.begin(way.pod(), *way, script));
        let said = Meshed::WAYS.iter().map(|way| (way.pod(), self.end(way.pod()))).collect();
        self.carried();
        said
    }

    /// That the proxies carried the connections of all three clients.
    fn carried(&self) {
        self.proven();
        let of_client = self.metrics("po/client");
        let reason = ("no_tls_reason", "not_provided_by_service_discovery");
        self.opened(&of_client, &[("direction", "outbound"), ("peer", "dst"), ("tls", "no_identity"), reason]);
        let of_server = self.metrics("deploy/meshed");
        let reason = ("no_tls_reason", "no_tls_from_remote");
        self.opened(&of_server, &[("direction", "inbound"), ("peer", "src"), ("tls", "no_identity"), reason]);
    }

    /// That the meshed client and the meshed server only spoke by mutual TLS, and each knew the other's name.
    pub fn proven(&self) {
        let (client, server) = (identity("client", self.namespace), identity("server", self.namespace));
        let of_client = self.metrics("po/both");
        self.opened(&of_client, &[("direction", "outbound"), ("peer", "dst"), ("tls", "true"), ("server_id", server.as_str())]);
        let plain = of_client.sum("tcp_open_total", &[("direction", "outbound"), ("peer", "dst"), ("tls", "no_identity")]);
        assert_eq!(plain, 0.0, "{}: {}", self.namespace, of_client.family("tcp_open_total"));
        let of_server = self.metrics("deploy/meshed");
        self.opened(&of_server, &[("direction", "inbound"), ("peer", "src"), ("tls", "true"), ("client_id", client.as_str())]);
    }

    fn opened(&self, metrics: &Metrics, labels: &[(&str, &str)]) {
        let family = || metrics.family("tcp_open_total");
        assert!(metrics.sum("tcp_open_total", labels) > 0.0, "{}: no connection with {labels:?}:\n{}", self.namespace, family());
    }

    /// That the proxies of the meshed client and the meshed server saw at least so many requests in what they carried.
    pub fn requests(&self, least: f64) {
        let (client, server) = (identity("client", self.namespace), identity("server", self.namespace));
        for (of, direction, id) in
            [("po/both", "outbound", ("server_id", server.as_str())), ("deploy/meshed", "inbound", ("client_id", client.as_str()))]
        {
            let metrics = self.metrics(of);
            let seen = metrics.sum("request_total", &[("direction", direction), ("tls", "true"), id]);
            assert!(seen >= least, "{of} of {}: {seen} requests\n{}", self.namespace, metrics.family("request_total"));
        }
    }

    /// What a proxy counts.
    pub fn metrics(&self, of: &str) -> Metrics {
        Metrics(self.up.homarus(&["diagnostics", "proxy-metrics", "-n", self.namespace, of]).unwrap())
    }

    /// What a container of a server printed.
    pub fn server_said(&self, name: &str, container: &str) -> String {
        let pods = self.up.api::<Pod>(self.namespace);
        let all = self.up.ask(pods.list(&ListParams::default().labels(&format!("app={name}")))).unwrap();
        let params = LogParams { container: Some(container.into()), ..LogParams::default() };
        all.iter().fold(String::new(), |mut said, pod| {
            said += &self.up.ask(pods.logs(pod.metadata.name.as_deref().unwrap(), &params)).unwrap();
            said
        })
    }
}

/// The name that a certificate of a ServiceAccount is for.
pub fn identity(account: &str, namespace: &str) -> String {
    format!("{account}.{namespace}.serviceaccount.identity.linkerd.cluster.local")
}

/// A server and its Service. It is ready once it listens: what asks through its proxy would hear the proxy.
pub fn server(namespace: &str, name: &str, ports: &[u16], script: &str, annotations: &Value) -> [Value; 2] {
    let listens: Vec<_> = ports.iter().map(|port| format!("nc -z 127.0.0.1 {port}")).collect();
    let (labels, metadata) = (json!({ "app": name }), json!({ "name": name, "namespace": namespace }));
    let port = |port: &u16| json!({ "name": format!("p{port}"), "port": port });
    let server = json!({
        "name": "server", "image": "server", "command": ["sh", "-c", script],
        "startupProbe": { "exec": { "command": ["sh", "-c", listens.join(" && ")] }, "periodSeconds": 1, "failureThreshold": 120 },
    });
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "selector": labels, "ports": ports.iter().map(port).collect::<Vec<_>>() },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels, "annotations": annotations },
                    "spec": { "serviceAccountName": "server", "terminationGracePeriodSeconds": 1, "containers": [server] },
                },
            },
        }),
    ]
}
