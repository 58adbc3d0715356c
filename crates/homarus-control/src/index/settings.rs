//! What the control plane was started with (control-plane §1.5).

use homarus_model::{endpoint::Http2Params, identity::Naming, inbound::DefaultPolicy, ports::PortSet};
use ipnet::IpNet;
use std::sync::Arc;

/// What views depend on beside facts. It never changes while the program runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What identities are made of.
    pub naming: Naming,
    /// The domain of the cluster's names.
    pub cluster_domain: Arc<str>,
    /// The networks of the cluster.
    pub cluster_networks: Vec<IpNet>,
    /// Where the kubelets' probes come from.
    pub probe_networks: Vec<IpNet>,
    /// What applies to ports without a Server.
    pub default_policy: DefaultPolicy,
    /// The ports that are opaque unless a workload says otherwise.
    pub default_opaque_ports: PortSet,
    /// Whether clients may upgrade HTTP/1 requests to HTTP/2 between proxies.
    pub h2_upgrade: bool,
    /// Whether clients put a transport header before everything they send to meshed endpoints.
    pub transport_header: bool,
    /// Whether endpoints may have IPv6 addresses.
    pub ipv6: bool,
    /// Parameters of HTTP/2 connections between proxies.
    pub meshed_http2: Http2Params,
    /// Whether endpoints in the client's zone weigh more.
    pub zone_weights: bool,
}

/// The networks that a cluster has unless it says otherwise: the private ones.
pub const CLUSTER_NETWORKS: &str = "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,fd00::/8";

/// The ports that are opaque unless somebody says otherwise: SMTP, submission, PostgreSQL's peers of the same sort.
pub const OPAQUE_PORTS: &str = "25,587,3306,4444,5432,6379,9300,11211";

impl Default for Settings {
    fn default() -> Self {
        Self {
            naming: Naming { control_plane_ns: "linkerd".into(), trust_domain: "cluster.local".into() },
            cluster_domain: "cluster.local".into(),
            cluster_networks: homarus_model::network::parse_list(CLUSTER_NETWORKS).unwrap_or_default(),
            probe_networks: Vec::new(),
            default_policy: DefaultPolicy::Allow { authenticated: false, cluster: false },
            default_opaque_ports: PortSet::parse(OPAQUE_PORTS).unwrap_or_default(),
            h2_upgrade: true,
            transport_header: true,
            ipv6: true,
            meshed_http2: Http2Params::default(),
            zone_weights: false,
        }
    }
}

impl Settings {
    /// The full name of a Service.
    pub fn service_name(&self, namespace: &str, name: &str) -> String {
        format!("{name}.{namespace}.svc.{}", self.cluster_domain)
    }
}
