//! The environment of an injected proxy, in the order in which Kubernetes must see it (later variables refer to earlier).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::overrides::Settings;
use super::workload::{PodSpec, port_number, ports};
use super::{END_ENTITY_DIR, InjectError, Mesh, PODINFO_DIR, TOKEN_DIR, TOKEN_NAME, opaque};

/// Where kubelets mount the token of a pod's service account.
const KUBE_TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// As good as never.
const NEVER: &str = "365d";

struct Env(Vec<Value>);

impl Env {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(json!({ "name": name, "value": value.into() }));
    }

    /// A variable of the proxy.
    fn proxy(&mut self, name: &str, value: impl Into<String>) {
        self.set(&format!("LINKERD2_PROXY_{name}"), value);
    }

    fn proxy_if_set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.proxy(name, value);
        }
    }

    fn field(&mut self, name: &str, path: &str) {
        self.0.push(json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } }));
    }
}

/// All variables of the proxy container.
pub(super) fn render(mesh: &Mesh<'_>, settings: &Settings, spec: PodSpec<'_>) -> Result<Vec<Value>, InjectError> {
    let mut env = Env(Vec::new());
    let e = &mut env;
    pod_facts(e);
    workers(e, settings);
    logs(e, settings)?;
    control_plane(e, mesh, settings)?;
    timeouts(e, settings);
    listeners(e, settings, spec);
    modes(e, settings);
    tracing(e, mesh, settings)?;
    for (direction, params) in [("INBOUND", &settings.values.proxy.inbound), ("OUTBOUND", &settings.values.proxy.outbound)] {
        transport(e, direction, params);
    }
    let opaque = match &settings.opaque_ports {
        Some(written) => opaque::resolve(written, spec),
        None => settings.values.proxy.opaque_ports.clone(),
    };
    e.proxy_if_set("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", &opaque);
    e.proxy("DESTINATION_CONTEXT", "{\"ns\":\"$(_pod_ns)\", \"nodeName\":\"$(_pod_nodeName)\", \"pod\":\"$(_pod_name)\"}\n");
    identity(e, mesh, settings);
    let proxy = &settings.values.proxy;
    e.proxy_if_set("ACCESS_LOG", &proxy.access_log);
    e.proxy_if_set("SHUTDOWN_GRACE_PERIOD", &proxy.shutdown_grace_period);
    env.0.extend(proxy.additional_env.iter().chain(&proxy.experimental_env).cloned());
    Ok(env.0)
}

fn pod_facts(e: &mut Env) {
    e.field("_pod_name", "metadata.name");
    e.field("_pod_ns", "metadata.namespace");
    e.field("_pod_uid", "metadata.uid");
    e.field("_pod_ip", "status.podIP");
    e.field("_pod_nodeName", "spec.nodeName");
    e.set("_pod_containerName", "linkerd-proxy");
}

fn workers(e: &mut Env, settings: &Settings) {
    let proxy = &settings.values.proxy;
    let workers = &proxy.runtime.workers;
    let least = if proxy.cores.is_empty() { &workers.minimum } else { &proxy.cores };
    e.proxy("CORES", least);
    e.proxy("CORES_MIN", least);
    if proxy.cores.is_empty() {
        e.proxy_if_set("CORES_MAX", &workers.maximum);
        e.proxy_if_set("CORES_MAX_RATIO", &workers.maximum_cpu_ratio);
    }
    e.proxy_if_set("INBOUND_PORTS_REQUIRE_IDENTITY", &proxy.require_identity_on_inbound_ports);
    e.proxy("SHUTDOWN_ENDPOINT_ENABLED", proxy.enable_shutdown_endpoint.to_string());
}

fn logs(e: &mut Env, settings: &Settings) -> Result<(), InjectError> {
    let proxy = &settings.values.proxy;
    let filter = match proxy.log_http_headers.as_str() {
        "insecure" => proxy.log_level.clone(),
        "off" | "" => format!("{},[{{headers}}]=off,[{{request}}]=off", proxy.log_level),
        other => return Err(InjectError::LogHttpHeaders(other.to_owned())),
    };
    e.proxy("LOG", filter);
    e.proxy("LOG_FORMAT", &proxy.log_format);
    Ok(())
}

fn control_plane(e: &mut Env, mesh: &Mesh<'_>, settings: &Settings) -> Result<(), InjectError> {
    let values = &settings.values;
    let networks = &values.cluster_networks;
    homarus_model::network::parse_list(networks)
        .map_err(|error| InjectError::ClusterNetworks { value: networks.clone(), reason: error.to_string() })?;
    e.proxy("DESTINATION_SVC_ADDR", mesh.service("linkerd-dst-headless", 8086, values));
    e.proxy("DESTINATION_PROFILE_NETWORKS", networks);
    e.proxy("POLICY_SVC_ADDR", mesh.service("linkerd-policy", 8090, values));
    e.proxy("POLICY_WORKLOAD", "{\"ns\":\"$(_pod_ns)\", \"pod\":\"$(_pod_name)\"}\n");
    e.proxy("INBOUND_DEFAULT_POLICY", &values.proxy.default_inbound_policy);
    e.proxy("POLICY_CLUSTER_NETWORKS", networks);
    let streams = &values.proxy.control.streams;
    e.proxy("CONTROL_STREAM_INITIAL_TIMEOUT", &streams.initial_timeout);
    e.proxy("CONTROL_STREAM_IDLE_TIMEOUT", &streams.idle_timeout);
    e.proxy("CONTROL_STREAM_LIFETIME", &streams.lifetime);
    Ok(())
}

fn timeouts(e: &mut Env, settings: &Settings) {
    let proxy = &settings.values.proxy;
    e.proxy("INBOUND_CONNECT_TIMEOUT", &proxy.inbound_connect_timeout);
    e.proxy("OUTBOUND_CONNECT_TIMEOUT", &proxy.outbound_connect_timeout);
    e.proxy("OUTBOUND_DISCOVERY_IDLE_TIMEOUT", &proxy.outbound_discovery_cache_unused_timeout);
    e.proxy("INBOUND_DISCOVERY_IDLE_TIMEOUT", &proxy.inbound_discovery_cache_unused_timeout);
    if proxy.disable_outbound_protocol_detect_timeout {
        e.proxy("OUTBOUND_DETECT_TIMEOUT", NEVER);
    }
    if proxy.disable_inbound_protocol_detect_timeout {
        e.proxy("INBOUND_DETECT_TIMEOUT", NEVER);
    }
}

fn listeners(e: &mut Env, settings: &Settings, spec: PodSpec<'_>) {
    let ports = &settings.values.proxy.ports;
    let ipv6 = !settings.values.disable_ipv6;
    let any = if ipv6 { "[::]" } else { "0.0.0.0" };
    let outbound = format!("127.0.0.1:{}", ports.outbound);
    let both = if ipv6 { format!("{outbound},[::1]:{}", ports.outbound) } else { outbound.clone() };
    e.proxy("CONTROL_LISTEN_ADDR", format!("{any}:{}", ports.control));
    e.proxy("ADMIN_LISTEN_ADDR", format!("{any}:{}", ports.admin));
    e.proxy("OUTBOUND_LISTEN_ADDR", outbound);
    e.proxy("OUTBOUND_LISTEN_ADDRS", both);
    e.proxy("INBOUND_LISTEN_ADDR", format!("{any}:{}", ports.inbound));
    e.field("LINKERD2_PROXY_INBOUND_IPS", "status.podIPs");
    e.proxy("INBOUND_PORTS", inbound_ports(spec));
}

/// The ports that the app declares or is probed on, sorted as text (as the reference does).
fn inbound_ports(spec: PodSpec<'_>) -> String {
    let mut found = BTreeSet::new();
    for container in spec.all_containers() {
        found.extend(ports(container).filter_map(port_number).map(|port| port.to_string()));
        for probe in ["livenessProbe", "readinessProbe"] {
            let port = container[probe]["httpGet"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            found.extend(port.filter(|port| *port != 0).map(|port| port.to_string()));
        }
    }
    found.into_iter().collect::<Vec<_>>().join(",")
}

fn modes(e: &mut Env, settings: &Settings) {
    let (values, proxy) = (&settings.values, &settings.values.proxy);
    let services = format!("svc.{}.", values.cluster_domain);
    if proxy.is_gateway {
        e.proxy("INBOUND_GATEWAY_SUFFIXES", &services);
    }
    if proxy.is_ingress {
        e.proxy("INGRESS_MODE", "true");
    }
    e.proxy("DESTINATION_PROFILE_SUFFIXES", if proxy.enable_external_profiles { "." } else { &services });
    e.proxy("INBOUND_ACCEPT_KEEPALIVE", "10000ms");
    e.proxy("OUTBOUND_CONNECT_KEEPALIVE", "10000ms");
    e.proxy("INBOUND_ACCEPT_USER_TIMEOUT", "30s");
    e.proxy("OUTBOUND_CONNECT_USER_TIMEOUT", "30s");
    e.proxy("OUTBOUND_METRICS_HOSTNAME_LABELS", proxy.metrics.hostname_labels.to_string());
}

fn tracing(e: &mut Env, mesh: &Mesh<'_>, settings: &Settings) -> Result<(), InjectError> {
    let tracing = &settings.values.proxy.tracing;
    if !tracing.enabled {
        return Ok(());
    }
    let (collector, account) = (&tracing.collector, &tracing.collector.mesh_identity);
    for (field, value) in [
        ("endpoint", &collector.endpoint),
        ("meshIdentity.serviceAccountName", &account.service_account_name),
        ("meshIdentity.namespace", &account.namespace),
    ] {
        if value.is_empty() {
            return Err(InjectError::Tracing(field));
        }
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    for (key, value) in &tracing.labels {
        attributes.push((key.clone(), scalar(value)));
    }
    attributes.extend(settings.trace_attributes.iter().map(|(k, v)| (k.clone(), v.clone())));
    let lines: String = attributes.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    let identity = mesh.identity(&account.service_account_name, &account.namespace, &settings.values);
    e.proxy("TRACE_ATTRIBUTES_PATH", format!("{PODINFO_DIR}/labels"));
    e.proxy("TRACE_ANNOTATIONS_PATH", format!("{PODINFO_DIR}/annotations"));
    e.proxy("TRACE_PROTOCOL", "opentelemetry");
    e.proxy("TRACE_SERVICE_NAME", &tracing.trace_service_name);
    e.proxy("TRACE_COLLECTOR_SVC_ADDR", &collector.endpoint);
    e.proxy("TRACE_COLLECTOR_SVC_NAME", identity);
    e.proxy("TRACE_EXTRA_ATTRIBUTES", lines);
    Ok(())
}

fn transport(e: &mut Env, direction: &str, params: &super::values::Params) {
    for (scope, protocols) in params {
        for (protocol, settings) in protocols {
            for (param, value) in settings {
                let name = [scope, protocol, param].map(|part| upper_snake(part)).join("_");
                e.proxy(&format!("{direction}_{name}"), scalar(value));
            }
        }
    }
}

fn identity(e: &mut Env, mesh: &Mesh<'_>, settings: &Settings) {
    let values = &settings.values;
    e.field("_pod_sa", "spec.serviceAccountName");
    e.set("_l5d_ns", mesh.control_plane_ns);
    e.set("_l5d_trustdomain", values.trust_domain());
    e.proxy("IDENTITY_DIR", END_ENTITY_DIR);
    e.proxy("IDENTITY_TRUST_ANCHORS", format!("{}\n", values.identity_trust_anchors_pem.trim()));
    let projected = values.identity.service_account_token_projection;
    let token = if projected { format!("{TOKEN_DIR}/{TOKEN_NAME}") } else { KUBE_TOKEN_FILE.to_owned() };
    e.proxy("IDENTITY_TOKEN_FILE", token);
    e.proxy("IDENTITY_SVC_ADDR", mesh.service("linkerd-identity-headless", 8080, values));
    e.proxy("IDENTITY_LOCAL_NAME", mesh.identity("$(_pod_sa)", "$(_pod_ns)", values));
    let control = |account: &str| mesh.identity(account, mesh.control_plane_ns, values);
    e.proxy("IDENTITY_SVC_NAME", control("linkerd-identity"));
    e.proxy("DESTINATION_SVC_NAME", control("linkerd-destination"));
    e.proxy("POLICY_SVC_NAME", control("linkerd-destination"));
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `keepAliveInterval` becomes `KEEP_ALIVE_INTERVAL`.
fn upper_snake(name: &str) -> String {
    let mut upper = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !upper.is_empty() {
            upper.push('_');
        }
        upper.push(c.to_ascii_uppercase());
    }
    upper
}
