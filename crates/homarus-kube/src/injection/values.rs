//! The Helm values that injection depends on, as ConfigMap `linkerd-config` keeps them.
//!
//! Only what is read here is named; everything else in the document is ignored. Defaults are the chart's, so that an empty
//! document gives a working proxy.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// The largest document that is read: a ConfigMap can't be larger.
pub const MAX_VALUES_BYTES: usize = 1024 * 1024;

/// Values that can't be read; the fault of whoever installed or edited them.
#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    /// Not YAML, or of the wrong shape.
    #[error("the values of ConfigMap linkerd-config can't be read: {0}")]
    Unreadable(#[from] serde_yaml_ng::Error),
    /// Too long.
    #[error("the values of ConfigMap linkerd-config are longer than {MAX_VALUES_BYTES} bytes")]
    TooLong,
}

macro_rules! values {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl Default for $name {
            fn default() -> Self { Self { $($field: $default,)* } }
        }
    };
}

values! {
    /// The root of the document.
    Values {
        /// Suffix of the names of Services.
        #[serde(deserialize_with = "text")]
        cluster_domain: String = "cluster.local".into(),
        /// Networks inside of the cluster.
        #[serde(deserialize_with = "text")]
        cluster_networks: String = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8".into(),
        /// When to pull images.
        #[serde(deserialize_with = "text")]
        image_pull_policy: String = "IfNotPresent".into(),
        /// Version of everything that has no version of its own.
        #[serde(deserialize_with = "text")]
        linkerd_version: String = env!("CARGO_PKG_VERSION").into(),
        /// Whether IPv6 is left alone.
        #[serde(rename = "disableIPv6")]
        disable_ipv6: bool = true,
        /// Whether a CNI plugin redirects, rather than an init container.
        cni_enabled: bool = false,
        /// The trust anchors, PEM.
        #[serde(rename = "identityTrustAnchorsPEM", deserialize_with = "text")]
        identity_trust_anchors_pem: String = String::new(),
        /// The trust domain; the cluster domain if empty.
        #[serde(deserialize_with = "text")]
        identity_trust_domain: String = String::new(),
        /// Identity.
        identity: Identity = Identity::default(),
        /// The proxy.
        proxy: Proxy = Proxy::default(),
        /// The init container.
        proxy_init: ProxyInit = ProxyInit::default(),
        /// What replaces the init container with CNI.
        network_validator: NetworkValidator = NetworkValidator::default(),
        /// The debug container.
        debug_container: DebugContainer = DebugContainer::default(),
        /// The injector itself.
        proxy_injector: ProxyInjector = ProxyInjector::default(),
    }
}

values! {
    /// For whom the injector's webhook is called.
    ProxyInjector {
        /// Namespaces, as a Kubernetes label selector.
        namespace_selector: Value = json!({ "matchExpressions": [
            { "key": "config.linkerd.io/admission-webhooks", "operator": "NotIn", "values": ["disabled"] },
            { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "cert-manager"] },
        ] }),
        /// Pods and Services, as a Kubernetes label selector.
        object_selector: Value = json!({ "matchExpressions": [
            { "key": "linkerd.io/control-plane-component", "operator": "DoesNotExist" },
            { "key": "linkerd.io/cni-resource", "operator": "DoesNotExist" },
        ] }),
    }
}

values! {
    /// Identity.
    Identity {
        /// Whether pods get a token made for identity only.
        service_account_token_projection: bool = true,
    }
}

values! {
    /// An image.
    Image {
        /// Its name, without version.
        #[serde(deserialize_with = "text")]
        name: String = String::new(),
        /// Its version; the mesh's version if empty.
        #[serde(deserialize_with = "text")]
        version: String = String::new(),
        /// When to pull it; the mesh's policy if empty.
        #[serde(deserialize_with = "text")]
        pull_policy: String = String::new(),
    }
}

values! {
    /// The ports of a proxy.
    Ports {
        /// Admin server.
        admin: u16 = 4191,
        /// Tap server.
        control: u16 = 4190,
        /// Traffic toward the workload.
        inbound: u16 = 4143,
        /// Traffic from the workload.
        outbound: u16 = 4140,
    }
}

values! {
    /// Request and limit of one resource.
    Resource {
        /// At most.
        #[serde(deserialize_with = "text")]
        limit: String = String::new(),
        /// At least.
        #[serde(deserialize_with = "text")]
        request: String = String::new(),
    }
}

values! {
    /// The resources of a container.
    Resources {
        /// CPU.
        cpu: Resource = Resource::default(),
        /// Memory.
        memory: Resource = Resource::default(),
        /// Disk.
        #[serde(rename = "ephemeral-storage")]
        ephemeral_storage: Resource = Resource::default(),
    }
}

values! {
    /// Worker threads.
    Workers {
        /// At least.
        #[serde(deserialize_with = "text")]
        minimum: String = "1".into(),
        /// At most.
        #[serde(deserialize_with = "text")]
        maximum: String = String::new(),
        /// At most, as a part of the node's CPUs.
        #[serde(rename = "maximumCPURatio", deserialize_with = "text")]
        maximum_cpu_ratio: String = String::new(),
    }
}

values! {
    /// The runtime of a proxy.
    Runtime {
        /// Worker threads.
        workers: Workers = Workers::default(),
    }
}

values! {
    /// Streams to the control plane.
    Streams {
        /// Until the first message.
        #[serde(deserialize_with = "text")]
        initial_timeout: String = "3s".into(),
        /// Between messages.
        #[serde(deserialize_with = "text")]
        idle_timeout: String = "5m".into(),
        /// In all.
        #[serde(deserialize_with = "text")]
        lifetime: String = "1h".into(),
    }
}

values! {
    /// Control-plane clients.
    Control {
        /// Streams.
        streams: Streams = Streams::default(),
    }
}

values! {
    /// A probe.
    Probe {
        /// Before the first.
        initial_delay_seconds: u32 = 0,
        /// Of each.
        timeout_seconds: u32 = 1,
    }
}

values! {
    /// The probe of a starting proxy.
    StartupProbe {
        /// Before the first.
        initial_delay_seconds: u32 = 0,
        /// Between two.
        period_seconds: u32 = 1,
        /// How many may fail.
        failure_threshold: u32 = 120,
    }
}

values! {
    /// Labels of metrics.
    ProxyMetrics {
        /// Host names in outbound metrics.
        hostname_labels: bool = false,
    }
}

/// Settings of the transport: scope, protocol, parameter.
pub type Params = BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>>;

fn http2_keep_alive() -> Params {
    let http2 = [("keepAliveInterval", "10s"), ("keepAliveTimeout", "3s")];
    let http2 = http2.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    BTreeMap::from([("server".to_owned(), BTreeMap::from([("http2".to_owned(), http2)]))])
}

values! {
    /// The proxy.
    Proxy {
        /// Its image, which the init container shares.
        image: Image = Image { name: "cr.l5d.io/linkerd/proxy".into(), ..Image::default() },
        /// Its log filter.
        #[serde(deserialize_with = "text")]
        log_level: String = "warn,linkerd=info,hickory=error".into(),
        /// Its log format.
        #[serde(deserialize_with = "text")]
        log_format: String = "plain".into(),
        /// Whether headers are logged.
        #[serde(rename = "logHTTPHeaders", deserialize_with = "switch")]
        log_http_headers: String = "off".into(),
        /// Its ports.
        ports: Ports = Ports::default(),
        /// Worker threads, as they were set before there was `runtime`.
        #[serde(deserialize_with = "text")]
        cores: String = String::new(),
        /// Worker threads.
        runtime: Runtime = Runtime::default(),
        /// What it may use.
        resources: Resources = Resources::default(),
        /// Its user.
        uid: i64 = 2102,
        /// Its group, if not negative.
        gid: i64 = -1,
        /// Replaces its security context.
        security_context: BTreeMap<String, Value> = BTreeMap::new(),
        /// Its capabilities; else those of the app.
        capabilities: Option<Value> = None,
        /// Whether it is a native sidecar.
        native_sidecar: bool = true,
        /// Whether the app waits for it.
        r#await: bool = true,
        /// Sleep before its end.
        wait_before_exit_seconds: u32 = 0,
        /// How long draining may take.
        #[serde(deserialize_with = "text")]
        shutdown_grace_period: String = String::new(),
        /// Whether it ends on request.
        enable_shutdown_endpoint: bool = false,
        /// Who may connect by default.
        #[serde(deserialize_with = "text")]
        default_inbound_policy: String = "all-unauthenticated".into(),
        /// Ports for meshed clients only.
        #[serde(deserialize_with = "text")]
        require_identity_on_inbound_ports: String = String::new(),
        /// Ports without detection.
        #[serde(deserialize_with = "text")]
        opaque_ports: String = "25,587,3306,4444,5432,6379,9300,11211".into(),
        /// Connecting to others.
        #[serde(deserialize_with = "text")]
        outbound_connect_timeout: String = "1000ms".into(),
        /// Connecting to the app.
        #[serde(deserialize_with = "text")]
        inbound_connect_timeout: String = "100ms".into(),
        /// How long unused discovery results are kept.
        #[serde(deserialize_with = "text")]
        outbound_discovery_cache_unused_timeout: String = "5s".into(),
        /// How long unused policies are kept.
        #[serde(deserialize_with = "text")]
        inbound_discovery_cache_unused_timeout: String = "90s".into(),
        /// Wait for ever for a client's first bytes.
        disable_outbound_protocol_detect_timeout: bool = false,
        /// The same for inbound connections.
        disable_inbound_protocol_detect_timeout: bool = false,
        /// Control-plane clients.
        control: Control = Control::default(),
        /// Parameters of inbound connections.
        inbound: Params = http2_keep_alive(),
        /// Parameters of outbound connections.
        outbound: Params = http2_keep_alive(),
        /// Labels of metrics.
        metrics: ProxyMetrics = ProxyMetrics::default(),
        /// Profiles for names outside of the cluster.
        enable_external_profiles: bool = false,
        /// Whether it is a multicluster gateway.
        is_gateway: bool = false,
        /// Whether it stands behind an ingress controller.
        is_ingress: bool = false,
        /// Whether it lives.
        liveness_probe: Probe = Probe { initial_delay_seconds: 10, timeout_seconds: 1 },
        /// Whether it is ready.
        readiness_probe: Probe = Probe { initial_delay_seconds: 2, timeout_seconds: 1 },
        /// Whether it has started.
        startup_probe: StartupProbe = StartupProbe::default(),
        /// A line for each request.
        #[serde(deserialize_with = "text")]
        access_log: String = String::new(),
        /// More variables.
        additional_env: Vec<Value> = Vec::new(),
        /// Still more variables.
        experimental_env: Vec<Value> = Vec::new(),
        /// Tracing.
        tracing: Tracing = Tracing::default(),
    }
}

values! {
    /// Where traces go.
    Tracing {
        /// Whether there are any.
        enabled: bool = false,
        /// The name of the service in traces.
        #[serde(deserialize_with = "text")]
        trace_service_name: String = "linkerd-proxy".into(),
        /// Who collects them.
        collector: Collector = Collector::default(),
        /// Attributes of all spans.
        labels: BTreeMap<String, Value> = BTreeMap::from([
            ("k8s.pod.ip".into(), "$(_pod_ip)".into()),
            ("k8s.pod.uid".into(), "$(_pod_uid)".into()),
            ("k8s.container.name".into(), "$(_pod_containerName)".into()),
        ]),
    }
}

values! {
    /// A collector of traces.
    Collector {
        /// Its address.
        #[serde(deserialize_with = "text")]
        endpoint: String = String::new(),
        /// Who it is.
        mesh_identity: MeshIdentity = MeshIdentity::default(),
    }
}

values! {
    /// A service account.
    MeshIdentity {
        /// Its name.
        #[serde(deserialize_with = "text")]
        service_account_name: String = String::new(),
        /// Its namespace.
        #[serde(deserialize_with = "text")]
        namespace: String = String::new(),
    }
}

values! {
    /// The init container.
    ProxyInit {
        /// `nft` or `legacy`.
        #[serde(deserialize_with = "text")]
        iptables_mode: String = "nft".into(),
        /// Inbound ports that bypass the proxy.
        #[serde(deserialize_with = "text")]
        ignore_inbound_ports: String = "4567,4568".into(),
        /// Outbound ports that bypass the proxy.
        #[serde(deserialize_with = "text")]
        ignore_outbound_ports: String = "4567,4568".into(),
        /// Networks whose traffic bypasses the proxy.
        #[serde(deserialize_with = "text")]
        skip_subnets: String = String::new(),
        /// Log filter.
        #[serde(deserialize_with = "text")]
        log_level: String = String::new(),
        /// Log format.
        #[serde(deserialize_with = "text")]
        log_format: String = String::new(),
        /// conntrack's timeout, if not 0.
        close_wait_timeout_secs: u64 = 0,
        /// Whether it may do everything.
        privileged: bool = false,
        /// Whether it is root.
        run_as_root: bool = false,
        /// Its user.
        run_as_user: i64 = 65534,
        /// Its group.
        run_as_group: i64 = 65534,
        /// Where iptables locks.
        xt_mount_path: MountPath = MountPath::default(),
    }
}

values! {
    /// A mounted volume.
    MountPath {
        /// The volume.
        #[serde(deserialize_with = "text")]
        name: String = "linkerd-proxy-init-xtables-lock".into(),
        /// Where it is mounted.
        #[serde(deserialize_with = "text")]
        mount_path: String = "/run".into(),
    }
}

values! {
    /// What proves that traffic is redirected.
    NetworkValidator {
        /// Log filter.
        #[serde(deserialize_with = "text")]
        log_level: String = "debug".into(),
        /// Log format.
        #[serde(deserialize_with = "text")]
        log_format: String = "plain".into(),
        /// What it connects to.
        #[serde(deserialize_with = "text")]
        connect_addr: String = String::new(),
        /// What it listens on.
        #[serde(deserialize_with = "text")]
        listen_addr: String = String::new(),
        /// How long it tries.
        #[serde(deserialize_with = "text")]
        timeout: String = "10s".into(),
        /// Replaces its security context.
        security_context: BTreeMap<String, Value> = BTreeMap::new(),
    }
}

values! {
    /// The debug container.
    DebugContainer {
        /// Its image.
        image: Image = Image { name: "cr.l5d.io/linkerd/debug".into(), ..Image::default() },
    }
}

impl Values {
    /// Reads the document of ConfigMap `linkerd-config`, key `values`.
    pub fn from_yaml(text: &str) -> Result<Self, ValuesError> {
        if text.len() > MAX_VALUES_BYTES {
            return Err(ValuesError::TooLong);
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        // An older level that everything was below.
        let mut document: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
        if let Some(global) = document.get("global").and_then(|global| global.as_mapping()).cloned()
            && let Some(root) = document.as_mapping_mut()
        {
            root.extend(global);
        }
        prune_nulls(&mut document);
        Ok(serde_yaml_ng::from_value(document)?)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        if self.identity_trust_domain.is_empty() { &self.cluster_domain } else { &self.identity_trust_domain }
    }

    /// The version of an image.
    pub(super) fn version<'a>(&'a self, image: &'a Image) -> &'a str {
        if image.version.is_empty() { &self.linkerd_version } else { &image.version }
    }
}

/// In Helm, a value set to null is one that isn't set.
fn prune_nulls(value: &mut serde_yaml_ng::Value) {
    match value {
        serde_yaml_ng::Value::Mapping(map) => {
            map.retain(|_, value| !value.is_null());
            map.iter_mut().for_each(|(_, value)| prune_nulls(value));
        }
        serde_yaml_ng::Value::Sequence(list) => list.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// Any scalar as text: people write `cpu: 1` and `version: 2.14` without quotes.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(yes) => Ok(yes.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(serde::de::Error::custom("expected a text or a number")),
    }
}

/// `off` without quotes is a boolean to some YAML writers.
fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = text(deserializer)?;
    Ok(if text == "false" { "off".into() } else { text })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_as_people_write_them() {
        let values = Values::from_yaml(
            "proxy:\n  cores: 2\n  logHTTPHeaders: off\n  image: {version: 1.5}\n  resources: {cpu: {limit: 1}}\n  gid:\n  unknown: [1]\n",
        )
        .unwrap();
        assert_eq!(values.proxy.cores, "2");
        assert_eq!(values.proxy.log_http_headers, "off");
        assert_eq!(values.proxy.image.version, "1.5");
        assert_eq!(values.proxy.resources.cpu.limit, "1");
        assert_eq!(values.proxy.gid, -1);
        assert_eq!(values.proxy.uid, 2102);
        assert_eq!(values.trust_domain(), "cluster.local");
        assert_eq!(Values::from_yaml("").unwrap().proxy.ports.inbound, 4143);
        assert_eq!(Values::from_yaml("global:\n  clusterDomain: x.y\n").unwrap().cluster_domain, "x.y");
        for bad in ["proxy: 1", "proxy:\n  uid: x", ": ["] {
            assert!(Values::from_yaml(bad).is_err(), "{bad}");
        }
    }
}
