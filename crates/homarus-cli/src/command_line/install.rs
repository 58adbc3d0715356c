//! Flags of `install`, `upgrade`, `prune` and `uninstall`.

use clap::{ArgAction, Args};

use super::{Manifests, ProxyFlags};

/// Flags of `install`.
#[derive(Clone, Debug, Args)]
pub struct Install {
    /// Only the custom resources, which have to be installed first
    #[arg(long)]
    pub crds: bool,
    /// Don't ask the cluster
    #[arg(long)]
    pub ignore_cluster: bool,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
    /// Values as Helm takes them.
    #[command(flatten)]
    pub values: ValueFlags,
    /// What can't be changed later.
    #[command(flatten)]
    pub once: OnceFlags,
    /// What the control plane is to be like.
    #[command(flatten)]
    pub control: ControlFlags,
    /// What the proxies are to be like.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// Flags of `upgrade`.
#[derive(Clone, Debug, Args)]
pub struct Upgrade {
    /// Only the custom resources
    #[arg(long)]
    pub crds: bool,
    /// Render even if proxies that run now don't trust the new issuer
    #[arg(long)]
    pub force: bool,
    /// Dump of the cluster's ConfigMaps and Secrets to read instead of the cluster; - for standard input
    #[arg(long, value_name = "FILE")]
    pub from_manifests: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
    /// Values as Helm takes them.
    #[command(flatten)]
    pub values: ValueFlags,
    /// What the control plane is to be like.
    #[command(flatten)]
    pub control: ControlFlags,
    /// What the proxies are to be like.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// Flags of `uninstall`.
#[derive(Clone, Debug, Args)]
pub struct Uninstall {
    /// Even if extensions or injected pods are left
    #[arg(short, long)]
    pub force: bool,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
}

/// Flags of `prune`.
#[derive(Clone, Debug, Args)]
pub struct Prune {
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
}

/// Values as Helm takes them.
#[derive(Clone, Debug, Default, Args)]
pub struct ValueFlags {
    /// File or https URL with values; may be given several times
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<String>,
    /// Values: key1=val1,key2=val2; may be given several times
    #[arg(long, value_name = "VALUES", allow_hyphen_values = true)]
    pub set: Vec<String>,
    /// Values that are texts, whatever they look like
    #[arg(long, value_name = "VALUES", allow_hyphen_values = true)]
    pub set_string: Vec<String>,
    /// Values from files: key1=path1
    #[arg(long, value_name = "VALUES")]
    pub set_file: Vec<String>,
    /// Values in JSON: key1=json1
    #[arg(long, value_name = "VALUES")]
    pub set_json: Vec<String>,
}

/// What can't be changed later.
#[derive(Clone, Debug, Default, Args)]
pub struct OnceFlags {
    /// DNS domain of the cluster [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// The last part of every identity [default: the cluster's domain]
    #[arg(long, value_name = "DOMAIN")]
    pub identity_trust_domain: Option<String>,
    /// Something else provides the issuer's Secret, of type kubernetes.io/tls
    #[arg(long)]
    pub identity_external_issuer: bool,
    /// Something else provides the ConfigMap of the trust anchors
    #[arg(long)]
    pub identity_external_ca: bool,
}

/// What the control plane is to be like.
#[derive(Clone, Debug, Default, Args)]
pub struct ControlFlags {
    /// Redirection is done by the CNI plugin
    #[arg(long)]
    pub linkerd_cni_enabled: bool,
    /// Several replicas on several nodes
    #[arg(long)]
    pub ha: bool,
    /// Log level of the controllers
    #[arg(long, value_name = "LEVEL")]
    pub controller_log_level: Option<String>,
    /// Replicas of each controller
    #[arg(long, value_name = "N")]
    pub controller_replicas: Option<u32>,
    /// User of the controllers
    #[arg(long, value_name = "UID")]
    pub controller_uid: Option<i64>,
    /// Group of the controllers
    #[arg(long, value_name = "GID", allow_negative_numbers = true)]
    pub controller_gid: Option<i64>,
    /// Don't carry HTTP/1 between proxies over HTTP/2
    #[arg(long)]
    pub disable_h2_upgrade: bool,
    /// No heartbeat
    #[arg(long)]
    pub disable_heartbeat: bool,
    /// Ask for EndpointSlices [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub enable_endpoint_slices: Option<bool>,
    /// How long certificates of proxies are valid
    #[arg(long, value_name = "DURATION")]
    pub identity_issuance_lifetime: Option<String>,
    /// How far clocks may be apart
    #[arg(long, value_name = "DURATION")]
    pub identity_clock_skew_allowance: Option<String>,
    /// File with the roots to trust [default: the mesh makes one]
    #[arg(long, value_name = "FILE")]
    pub identity_trust_anchors_file: Option<String>,
    /// File with the issuer's certificate
    #[arg(long, value_name = "FILE")]
    pub identity_issuer_certificate_file: Option<String>,
    /// File with the issuer's key
    #[arg(long, value_name = "FILE")]
    pub identity_issuer_key_file: Option<String>,
}

/// Flags of `install-cni`.
#[derive(Clone, Debug, Default, Args)]
pub struct InstallCni {
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
    /// Values as Helm takes them.
    #[command(flatten)]
    pub values: ValueFlags,
    /// Version of the control plane, for compatibility
    #[arg(short = 'v', long, hide = true, value_name = "VERSION")]
    pub linkerd_version: Option<String>,
    /// Registry of the plugin's image
    #[arg(long, env = "LINKERD_DOCKER_REGISTRY", value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Image of the plugin
    #[arg(long, value_name = "IMAGE")]
    pub cni_image: Option<String>,
    /// Version of the plugin's image
    #[arg(long, value_name = "VERSION")]
    pub cni_image_version: Option<String>,
    /// Log level of the plugin
    #[arg(long, value_name = "LEVEL")]
    pub cni_log_level: Option<String>,
    /// User of the proxy
    #[arg(long, value_name = "UID", allow_negative_numbers = true)]
    pub proxy_uid: Option<i64>,
    /// Group of the proxy
    #[arg(long, value_name = "GID", allow_negative_numbers = true)]
    pub proxy_gid: Option<i64>,
    /// Port of the proxy for traffic to the workload
    #[arg(long, value_name = "PORT")]
    pub inbound_port: Option<u16>,
    /// Port of the proxy for traffic from the workload
    #[arg(long, value_name = "PORT")]
    pub outbound_port: Option<u16>,
    /// Port of the proxy for control
    #[arg(long, value_name = "PORT")]
    pub control_port: Option<u16>,
    /// Port of the proxy for probes and metrics
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// Ports of workloads that bypass the proxy
    #[arg(long, value_name = "PORTS")]
    pub skip_inbound_ports: Option<String>,
    /// Ports of others that bypass the proxy
    #[arg(long, value_name = "PORTS")]
    pub skip_outbound_ports: Option<String>,
    /// The only ports of workloads that are redirected [default: all]
    #[arg(long, value_name = "PORTS")]
    pub redirect_ports: Option<String>,
    /// Where nodes have their network configurations
    #[arg(long, value_name = "DIR")]
    pub dest_cni_net_dir: Option<String>,
    /// Where nodes have their CNI plugins
    #[arg(long, value_name = "DIR")]
    pub dest_cni_bin_dir: Option<String>,
    /// Priority class of the installer's pods
    #[arg(long, value_name = "NAME")]
    pub priority_class_name: Option<String>,
    /// Have iptables wait for its lock, where it is used
    #[arg(long)]
    pub use_wait_flag: bool,
}
