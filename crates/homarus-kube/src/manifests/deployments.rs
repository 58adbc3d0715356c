//! The controllers' Deployments (control-plane §1.1).

use super::{ManifestError, Options, meta, sidecar};
use crate::injection::values::Values;
use serde_json::{Value, json};

/// The user that controllers run as.
const CONTROLLER_UID: u32 = 2103;
/// How long the token for the API server lives.
const TOKEN_SECONDS: u32 = 3607;
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TRUST_ROOTS: &str = "/var/run/linkerd/identity/trust-roots/";

/// A controller's container.
struct Controller<'a> {
    options: &'a Options,
    name: &'a str,
    args: Vec<String>,
    ports: &'a [(&'a str, u16)],
    /// Port and path of the liveness probe; readiness is `/ready` there.
    admin: (u16, &'a str),
    mounts: Vec<Value>,
}

impl Controller<'_> {
    fn container(self) -> Value {
        let (admin, live) = self.admin;
        let ports = self.ports.iter().map(|(name, port)| json!({ "containerPort": port, "name": name })).collect::<Vec<_>>();
        let mut mounts = self.mounts;
        mounts.push(json!({ "mountPath": SERVICE_ACCOUNT, "name": "kube-api-access", "readOnly": true }));
        json!({
            "name": self.name,
            "image": self.options.controller_image,
            "imagePullPolicy": self.options.image_pull_policy,
            "args": self.args,
            "ports": ports,
            "livenessProbe": { "httpGet": { "path": live, "port": admin }, "initialDelaySeconds": 10, "timeoutSeconds": 1 },
            "readinessProbe": { "httpGet": { "path": "/ready", "port": admin }, "timeoutSeconds": 1 },
            "resources": {},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": CONTROLLER_UID,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "volumeMounts": mounts,
        })
    }
}

fn mount(name: &str, path: &str) -> Value {
    json!({ "mountPath": path, "name": name, "readOnly": true })
}

/// The token, the certificate authority and the namespace: what a controller needs to ask the API server.
fn api_access() -> Value {
    json!({ "name": "kube-api-access", "projected": { "defaultMode": 420, "sources": [
        { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
        { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
        { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } }] } },
    ] } })
}

fn trust_roots() -> Value {
    json!({ "name": "trust-roots", "configMap": { "name": "linkerd-identity-trust-roots" } })
}

fn deployment(options: &Options, component: &str, containers: Vec<Value>, volumes: &[Value]) -> Value {
    let name = format!("linkerd-{component}");
    let labels = json!({
        "linkerd.io/control-plane-component": component,
        "linkerd.io/control-plane-ns": options.namespace,
        "linkerd.io/workload-ns": options.namespace,
        "linkerd.io/proxy-deployment": name,
    });
    let volumes = volumes.iter().cloned().chain([api_access()]).collect::<Vec<_>>();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(options, &name, component),
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels, "annotations": {} },
                "spec": {
                    "automountServiceAccountToken": false,
                    "containers": containers,
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                    "serviceAccountName": name,
                    "volumes": volumes,
                },
            },
        },
    })
}

/// Every Deployment, with its proxy.
pub(super) fn all(options: &Options, document: &Value, values: &Values) -> Result<Vec<Value>, ManifestError> {
    let mut deployments = vec![
        sidecar::add(options, values, sidecar::IDENTITY, identity(options, document, values))?,
        sidecar::add(options, values, sidecar::DESTINATION, destination(options, document, values))?,
        sidecar::add(options, values, sidecar::INJECTOR, injector(options))?,
    ];
    deployments.iter_mut().for_each(probe_often);
    Ok(deployments)
}

/// Makes readiness known within a second: the ten of Kubernetes' default are meant for clusters of thousands of pods, and
/// here somebody waits. Until a failing probe counts it takes a minute.
fn probe_often(deployment: &mut Value) {
    let Some(spec) = deployment.pointer_mut("/spec/template/spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(probe) = container.get_mut("readinessProbe").and_then(Value::as_object_mut) {
                probe.insert("periodSeconds".into(), 1.into());
                probe.insert("failureThreshold".into(), 60.into());
            }
        }
    }
}

fn text<'a>(document: &'a Value, path: &str, default: &'a str) -> &'a str {
    document.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty()).unwrap_or(default)
}

fn identity(options: &Options, document: &Value, values: &Values) -> Value {
    let issuer = |key: &str, default| text(document, &format!("/identity/issuer/{key}"), default).to_owned();
    let container = Controller {
        options,
        name: "identity",
        args: vec![
            "controller".into(),
            "identity".into(),
            format!("-log-level={}", options.log_level),
            format!("-controller-namespace={}", options.namespace),
            format!("-identity-trust-domain={}", values.trust_domain()),
            format!("-identity-issuance-lifetime={}", issuer("issuanceLifetime", "24h0m0s")),
            format!("-identity-clock-skew-allowance={}", issuer("clockSkewAllowance", "20s")),
            format!("-identity-scheme={}", issuer("scheme", "linkerd.io/tls")),
        ],
        ports: &[("ident-grpc", 8080), ("ident-admin", 9990)],
        admin: (9990, "/ping"),
        mounts: vec![mount("identity-issuer", "/var/run/linkerd/identity/issuer"), mount("trust-roots", TRUST_ROOTS)],
    };
    let volumes = [json!({ "name": "identity-issuer", "secret": { "secretName": "linkerd-identity-issuer" } }), trust_roots()];
    deployment(options, "identity", vec![container.container()], &volumes)
}

/// The destination and the policy controller.
fn destination(options: &Options, document: &Value, values: &Values) -> Value {
    let hostname = json!([{ "name": "HOSTNAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
    let destination = Controller {
        options,
        name: "destination",
        args: vec![
            "controller".into(),
            "destination".into(),
            "-addr=:8086".into(),
            format!("-controller-namespace={}", options.namespace),
            "-outbound-transport-mode=transport-header".into(),
            "-enable-h2-upgrade=true".into(),
            format!("-log-level={}", options.log_level),
            "-enable-endpoint-slices=true".into(),
            format!("-cluster-domain={}", values.cluster_domain),
            format!("-identity-trust-domain={}", values.trust_domain()),
            format!("-default-opaque-ports={}", values.proxy.opaque_ports),
            format!("-enable-ipv6={}", !values.disable_ipv6),
            concat!(
                "--meshed-http2-client-params=",
                r#"{"keep_alive":{"interval":{"seconds":10},"timeout":{"seconds":3},"while_idle":true}}"#
            )
            .into(),
        ],
        ports: &[("dest-grpc", 8086), ("dest-admin", 9996)],
        admin: (9996, "/ping"),
        mounts: Vec::new(),
    };
    let probes = document.pointer("/policyController/probeNetworks").and_then(Value::as_array);
    let probes: Vec<_> = probes.into_iter().flatten().filter_map(Value::as_str).collect();
    let policy = Controller {
        options,
        name: "policy",
        args: vec![
            "controller".into(),
            "policy".into(),
            "--admin-addr=0.0.0.0:9990".into(),
            format!("--control-plane-namespace={}", options.namespace),
            "--grpc-addr=0.0.0.0:8090".into(),
            format!("--cluster-networks={}", values.cluster_networks),
            format!("--identity-domain={}", values.trust_domain()),
            format!("--cluster-domain={}", values.cluster_domain),
            format!("--default-policy={}", values.proxy.default_inbound_policy),
            format!("--default-opaque-ports={}", values.proxy.opaque_ports),
            format!("--probe-networks={}", probes.join(",")),
            format!("--log-level={}", options.log_level),
        ],
        ports: &[("policy-grpc", 8090), ("policy-admin", 9990)],
        admin: (9990, "/live"),
        mounts: Vec::new(),
    };
    let containers = [destination, policy].map(|controller| {
        let mut container = controller.container();
        container["env"] = hostname.clone();
        container
    });
    deployment(options, "destination", containers.into(), &[])
}

fn injector(options: &Options) -> Value {
    let container = Controller {
        options,
        name: "proxy-injector",
        args: vec![
            "controller".into(),
            "proxy-injector".into(),
            format!("-log-level={}", options.log_level),
            format!("-linkerd-namespace={}", options.namespace),
        ],
        ports: &[("proxy-injector", 8443), ("injector-admin", 9995)],
        admin: (9995, "/ping"),
        mounts: vec![
            mount("config", "/var/run/linkerd/config"),
            mount("trust-roots", TRUST_ROOTS),
            mount("tls", "/var/run/linkerd/tls"),
        ],
    };
    let volumes = [
        json!({ "name": "config", "configMap": { "name": "linkerd-config" } }),
        trust_roots(),
        json!({ "name": "tls", "secret": { "secretName": "linkerd-proxy-injector-k8s-tls" } }),
    ];
    deployment(options, "proxy-injector", vec![container.container()], &volumes)
}
