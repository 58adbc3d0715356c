//! The tree of commands and their flags.

mod install;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use homarus_model::duration;

pub use install::{ControlFlags, Install, InstallCni, OnceFlags, Prune, Uninstall, Upgrade, ValueFlags};
pub use words::{Line, sort};

/// A service mesh in one program.
#[derive(Debug, Parser)]
#[command(
    name = "homarus",
    about = "homarus manages the Homarus service mesh.",
    disable_version_flag = true,
    arg_required_else_help = false
)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do; nothing means help.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Which cluster, as whom, and where the control plane is.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// Namespace of the control plane
    #[arg(short = 'L', long, global = true, default_value = "linkerd", value_parser = namespace, value_name = "NAMESPACE")]
    pub linkerd_namespace: String,
    /// Namespace of the CNI plugin
    #[arg(long, global = true, default_value = "linkerd-cni", hide = true, value_parser = namespace, value_name = "NAMESPACE")]
    pub cni_namespace: String,
    /// Path of the kubeconfig; without one, a `homarus up` on this machine is used
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// User to act as
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to act as; may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// Address of the control plane, instead of forwarding a port
    #[arg(long, global = true, value_name = "HOST:PORT")]
    pub api_addr: Option<String>,
    /// Tell on stderr what is being done
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// What a command is.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the whole mesh on this machine, until Ctrl-C
    Up(Up),
    /// Stop the mesh of this machine and remove its state
    Down(Down),
    /// Show the mesh of this machine
    Status(Status),
    /// Print what installs the control plane
    Install(Box<Install>),
    /// Print what installs the CNI plugin
    InstallCni(Box<InstallCni>),
    /// Print what upgrades the control plane
    Upgrade(Box<Upgrade>),
    /// Print what an upgrade left behind, to be deleted
    Prune(Prune),
    /// Print what belongs to the mesh, to be deleted
    Uninstall(Uninstall),
    /// Check that the control plane and the proxies are well
    Check(Check),
    /// Show success, rate and latency of workloads, measured at their proxies
    Stat(Stat),
    /// Show live who talks to whom, measured at the proxies
    Top(Top),
    /// Put workloads of manifests into the mesh
    Inject(Box<Inject>),
    /// Take workloads of manifests out of the mesh
    Uninject(Uninject),
    /// Show the certificates of pods
    Identity(Identity),
    /// Show which policies hold for workloads
    Authz(Authz),
    /// Write a ServiceProfile
    Profile(Profile),
    /// Look inside the components
    #[command(alias = "dg", subcommand, arg_required_else_help = true)]
    Diagnostics(Diagnostics),
    /// Show the versions of client, control plane and proxies
    Version(Version),
    /// Write the completion script of a shell
    Completion(Completion),
    /// Run a controller of the control plane
    #[command(subcommand, hide = true, arg_required_else_help = true)]
    Controller(Controller),
}

/// A format of what is written to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A format of manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Manifests {
    /// Documents.
    #[default]
    Yaml,
    /// Objects.
    Json,
}

/// Flags of `up`.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Folder of the state, kept for the next `up`
    #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Keep nothing
    #[arg(long)]
    pub ephemeral: bool,
    /// Also run a sample application, and show its traffic
    #[arg(long)]
    pub demo: bool,
    /// Apply manifests once the mesh is ready; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub manifests: Vec<PathBuf>,
    /// How long the control plane may take to become ready
    #[arg(long, default_value = "2m", value_parser = duration::parse_go, value_name = "DURATION")]
    pub wait: Duration,
    /// Folder of homarus-proxy, homarus-redirect and homarus-demo [default: that of this program]
    #[arg(long, value_name = "DIR")]
    pub programs: Option<PathBuf>,
}

/// Where `up` keeps what it must remember.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/homarus";

/// Flags of `down`.
#[derive(Clone, Debug, Args)]
pub struct Down {
    /// Folder of the state
    #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Stop, but keep the state
    #[arg(long)]
    pub keep_state: bool,
}

/// Flags of `status`.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// Folder of the state
    #[arg(long, default_value = DEFAULT_STATE_DIR, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Only what must hold before the control plane is installed
    #[arg(long)]
    pub pre: bool,
    /// Only what must hold before the control plane is installed, but after its CRDs are
    #[arg(long)]
    pub crds: bool,
    /// Also the proxies of the workloads
    #[arg(long)]
    pub proxy: bool,
    /// Also what the CNI plugin needs; only with --pre
    #[arg(long)]
    pub linkerd_cni_enabled: bool,
    /// Namespace of the workloads [default: all]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Version that is the newest, to compare everything with [default: none]
    #[arg(long, value_name = "VERSION")]
    pub expected_version: Option<String>,
    /// Version to take this program for
    #[arg(long, hide = true, value_name = "VERSION")]
    pub cli_version_override: Option<String>,
    /// Format: table, wide, short or json
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: String,
    /// How long to wait for what is still starting
    #[arg(long, default_value = "5m", value_parser = duration::parse_go, value_name = "DURATION")]
    pub wait: Duration,
    /// Check nothing; tell what a hint says, by what follows its #
    #[arg(long, value_name = "HINT")]
    pub explain: Option<String>,
}

/// What `stat` and `top` look at.
#[derive(Clone, Debug, Args)]
pub struct Selection {
    /// TYPE, TYPE/NAME or TYPE NAME...; several TYPE/NAME
    #[arg(value_name = "RESOURCES")]
    pub resources: Vec<String>,
    /// Namespace of the resources [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Resources of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Labels of the resources
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// Flags of `stat`.
#[derive(Clone, Debug, Args)]
pub struct Stat {
    /// What to look at.
    #[command(flatten)]
    pub selection: Selection,
    /// How long to measure
    #[arg(short = 't', long, default_value = "10s", value_parser = duration::parse_go, value_name = "DURATION")]
    pub time_window: Duration,
    /// Only traffic to this resource, as its clients see it
    #[arg(long, value_name = "RESOURCE")]
    pub to: Option<String>,
    /// Namespace of --to
    #[arg(long, value_name = "NAMESPACE")]
    pub to_namespace: Option<String>,
    /// Only traffic from this resource, as it sees it
    #[arg(long, value_name = "RESOURCE")]
    pub from: Option<String>,
    /// Namespace of --from
    #[arg(long, value_name = "NAMESPACE")]
    pub from_namespace: Option<String>,
    /// Also workloads outside of the mesh
    #[arg(long)]
    pub unmeshed: bool,
    /// Format: table, json or wide
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: String,
}

/// Flags of `top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// What to look at.
    #[command(flatten)]
    pub selection: Selection,
    /// Don't tell clients apart
    #[arg(long)]
    pub hide_sources: bool,
    /// Most rows to show
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub rows: usize,
    /// How often to refresh
    #[arg(long, default_value = "1s", value_parser = duration::parse_go, value_name = "DURATION")]
    pub interval: Duration,
    /// End after this many tables [default: never]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `inject`.
#[derive(Clone, Debug, Args)]
pub struct Inject {
    /// File, folder, https URL, or - for standard input
    #[arg(value_name = "CONFIG-FILE")]
    pub source: Option<String>,
    /// Write the proxy into the manifests, rather than annotations that have it injected
    #[arg(long)]
    pub manual: bool,
    /// Don't ask the cluster
    #[arg(long)]
    pub ignore_cluster: bool,
    /// Run the workloads in ingress mode
    #[arg(long)]
    pub ingress: bool,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
    /// What the proxy is to be like.
    #[command(flatten)]
    pub proxy: ProxyFlags,
}

/// Flags that become annotations: each is one value of the injection.
#[derive(Clone, Debug, Default, Args)]
pub struct ProxyFlags {
    /// Registry of the proxy's image
    #[arg(long, env = "LINKERD_DOCKER_REGISTRY", value_name = "REGISTRY")]
    pub registry: Option<String>,
    /// Image of the proxy
    #[arg(long, hide = true, value_name = "IMAGE")]
    pub proxy_image: Option<String>,
    /// Version of the proxy's image
    #[arg(short = 'v', long, value_name = "VERSION")]
    pub proxy_version: Option<String>,
    /// When to pull the proxy's image
    #[arg(long, hide = true, value_name = "POLICY")]
    pub image_pull_policy: Option<String>,
    /// Port of the proxy for traffic to the workload
    #[arg(long, value_name = "PORT")]
    pub inbound_port: Option<String>,
    /// Port of the proxy for traffic from the workload
    #[arg(long, value_name = "PORT")]
    pub outbound_port: Option<String>,
    /// Port of the proxy for control
    #[arg(long, value_name = "PORT")]
    pub control_port: Option<String>,
    /// Port of the proxy for probes and metrics
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<String>,
    /// Ports of the workload that bypass the proxy
    #[arg(long, value_name = "PORTS")]
    pub skip_inbound_ports: Option<String>,
    /// Ports of others that bypass the proxy
    #[arg(long, value_name = "PORTS")]
    pub skip_outbound_ports: Option<String>,
    /// Ports whose protocol isn't detected
    #[arg(long, value_name = "PORTS")]
    pub opaque_ports: Option<String>,
    /// Ports that only meshed clients may use
    #[arg(long, value_name = "PORTS")]
    pub require_identity_on_inbound_ports: Option<String>,
    /// User of the proxy
    #[arg(long, value_name = "UID")]
    pub proxy_uid: Option<String>,
    /// Group of the proxy
    #[arg(long, value_name = "GID")]
    pub proxy_gid: Option<String>,
    /// Log filter of the proxy
    #[arg(long, value_name = "FILTER")]
    pub proxy_log_level: Option<String>,
    /// CPU to reserve for the proxy
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_cpu_request: Option<String>,
    /// Most CPU of the proxy
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_cpu_limit: Option<String>,
    /// Memory to reserve for the proxy
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_memory_request: Option<String>,
    /// Most memory of the proxy
    #[arg(long, value_name = "QUANTITY")]
    pub proxy_memory_limit: Option<String>,
    /// Who may connect where no policy says
    #[arg(long, value_name = "POLICY")]
    pub default_inbound_policy: Option<String>,
    /// A line for each request: apache or json
    #[arg(long, value_name = "FORMAT")]
    pub access_log: Option<String>,
    /// How long a draining proxy may take
    #[arg(long, value_name = "DURATION")]
    pub shutdown_grace_period: Option<String>,
    /// How long the proxy waits before it ends
    #[arg(long, value_name = "SECONDS")]
    pub wait_before_exit_seconds: Option<String>,
    /// Kernel timeout of connections that the peer closed
    #[arg(long, value_name = "DURATION")]
    pub close_wait_timeout: Option<String>,
    /// Profiles for names outside of the cluster
    #[arg(long)]
    pub enable_external_profiles: bool,
    /// Run the proxy as a native sidecar, as it does unless this is `=false`
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub native_sidecar: Option<bool>,
    /// Add the debug container
    #[arg(long)]
    pub enable_debug_sidecar: bool,
}

/// Flags of `uninject`.
#[derive(Clone, Debug, Args)]
pub struct Uninject {
    /// File, folder, https URL, or - for standard input
    #[arg(value_name = "CONFIG-FILE")]
    pub source: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
}

/// Flags of `identity`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Identity {
    /// What to do, if not to show certificates
    #[command(subcommand)]
    pub command: Option<IdentityCommand>,
    /// Names of pods
    #[arg(value_name = "PODS")]
    pub pods: Vec<String>,
    /// Namespace of the pods [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Labels of the pods
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What `identity` does besides.
#[derive(Clone, Debug, Subcommand)]
pub enum IdentityCommand {
    /// Replaces the root of a mesh that makes its own certificates
    Rotate(Rotate),
}

/// Flags of `identity rotate`.
#[derive(Clone, Debug, Args)]
pub struct Rotate {
    /// Only show where it stands
    #[arg(long)]
    pub status: bool,
}

/// Flags of `authz`.
#[derive(Clone, Debug, Args)]
pub struct Authz {
    /// TYPE, TYPE/NAME or TYPE NAME
    #[arg(value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// Namespace of the workloads [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Flags of `profile`.
#[derive(Clone, Debug, Args)]
pub struct Profile {
    /// Name of the Service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// A profile to be filled in
    #[arg(long)]
    pub template: bool,
    /// Routes of an OpenAPI document; - for standard input
    #[arg(long, value_name = "FILE")]
    pub open_api: Option<String>,
    /// Routes of a protobuf definition; - for standard input
    #[arg(long, value_name = "FILE")]
    pub proto: Option<String>,
    /// Namespace of the Service [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Don't ask the cluster
    #[arg(long)]
    pub ignore_cluster: bool,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Manifests,
}

/// Looks inside.
#[derive(Clone, Debug, Subcommand)]
pub enum Diagnostics {
    /// Metrics of the control plane
    #[command(alias = "cp-metrics")]
    ControllerMetrics {
        /// How long it may take
        #[arg(short, long, default_value = "30s", value_parser = duration::parse_go, value_name = "DURATION")]
        wait: Duration,
        /// Format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Metrics of the proxies of TYPE/NAME
    ProxyMetrics {
        /// TYPE/NAME
        #[arg(value_name = "RESOURCE")]
        resource: String,
        /// Namespace of the resource [default: that of the context]
        #[arg(short, long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Hide names and addresses behind hashes
        #[arg(long)]
        obfuscate: bool,
        /// Format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// What the destination controller tells about authorities
    #[command(alias = "ep")]
    Endpoints {
        /// NAME.NAMESPACE.svc.cluster.local:PORT
        #[arg(required = true, value_name = "AUTHORITY")]
        authorities: Vec<String>,
        /// Pod of the destination controller to ask
        #[arg(long, value_name = "POD")]
        destination_pod: Option<String>,
        /// Context token to ask with
        #[arg(long, default_value = "", value_name = "TOKEN")]
        token: String,
        /// How long to collect
        #[arg(long, default_value = "5s", value_parser = duration::parse_go, value_name = "DURATION")]
        wait: Duration,
        /// Format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// What the destination controller tells about an address
    Profile {
        /// IP:PORT or NAME.NAMESPACE.svc.cluster.local:PORT
        #[arg(value_name = "ADDRESS")]
        address: String,
        /// Pod of the destination controller to ask
        #[arg(long, value_name = "POD")]
        destination_pod: Option<String>,
        /// Context token to ask with
        #[arg(long, default_value = "", value_name = "TOKEN")]
        token: String,
    },
    /// What the policy controller tells about a port of a pod or Service
    Policy {
        /// po/NAME or svc/NAME
        #[arg(value_name = "RESOURCE")]
        resource: String,
        /// Port
        port: u16,
        /// Namespace of the resource
        #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
        namespace: String,
        /// Pod of the policy controller to ask
        #[arg(long, value_name = "POD")]
        destination_pod: Option<String>,
        /// Context token to ask with
        #[arg(long, default_value = "default:diagnostics", value_name = "TOKEN")]
        token: String,
        /// Format
        #[arg(short, long, value_enum, default_value_t)]
        output: Manifests,
    },
}

/// Flags of `version`.
#[derive(Clone, Debug, Args)]
pub struct Version {
    /// Only the version numbers
    #[arg(long)]
    pub short: bool,
    /// Only this program's
    #[arg(long)]
    pub client: bool,
    /// Also those of the proxies
    #[arg(long)]
    pub proxy: bool,
    /// Namespace of the proxies [default: all]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `completion`.
#[derive(Clone, Debug, Args)]
pub struct Completion {
    /// bash, zsh or fish
    pub shell: String,
}

/// A controller; see the [planes](homarus_control).
#[derive(Debug, Subcommand)]
pub enum Controller {
    /// Certificates for workloads
    Identity(homarus_control::issue::Args),
    /// Where endpoints are
    Destination(homarus_control::destination::Args),
    /// Who may talk to whom, and how
    #[command(alias = "policy-controller")]
    Policy(homarus_control::policy::Args),
    /// Proxies into pods
    #[command(alias = "injector")]
    ProxyInjector(homarus_control::inject::Args),
    /// What ServiceProfiles may say
    SpValidator(homarus_control::admit::profiles::Args),
    /// The mesh at a glance, into the log
    Heartbeat(homarus_control::heartbeat::Args),
}

/// The rule of Linkerd's own flag.
fn namespace(text: &str) -> Result<String, String> {
    let valid = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if valid { Ok(text.to_owned()) } else { Err(format!("{text} is not a valid namespace")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_agrees_with_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn namespaces_are_names() {
        assert!(namespace("linkerd-2").is_ok());
        assert!(namespace("a b").is_err());
        assert!(namespace("").is_err());
    }
}
