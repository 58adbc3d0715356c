//! Whom to ask: destinations, policies, identity.

use super::vars::{Invalid, PREFIX, Vars, dns_identity, suffixes, text, time, time_or_none};
use homarus_model::{
    Authority, DnsName, Identity as Name,
    endpoint::ServerTls,
    inbound::{DefaultPolicy, ServerPolicy},
    name::Host,
    network,
    ports::PortSet,
};
use ipnet::IpNet;
use std::{path::PathBuf, sync::Arc, time::Duration};

/// The address of a part of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddr {
    /// As it was given, for the `:authority` of requests.
    pub text: Arc<str>,
    /// What to resolve and connect to.
    pub authority: Authority,
    /// Whom to expect there; none: plaintext, which only the machine itself is spoken to in.
    pub tls: Option<ServerTls>,
}

impl ControlAddr {
    /// Reads `…_ADDR` and `…_NAME`.
    fn read(v: &mut Vars, addr: &str, name: &str) -> Option<Self> {
        let remedy = "give the host:port of the control plane";
        let (text, authority) = v.required(addr, |t| parse(t).map(|a| (Arc::from(t), a)), remedy)?;
        let server = v.opt(name, dns_identity);
        let loopback = is_loopback(&text, &authority);
        if loopback {
            return Some(Self { text, authority, tls: None });
        }
        if !v.is_set(name) {
            v.missing(name, "the control plane isn't on this machine, so the identity of its server must be given");
        }
        let Name::Dns(server_name) = server? else { return None };
        let tls = ServerTls { id: Name::Dns(server_name.clone()), server_name };
        Some(Self { text, authority, tls: Some(tls) })
    }

    /// The address as metrics name it: without the dot at the end of the host.
    pub fn label(&self) -> String {
        self.authority.to_string()
    }
}

fn parse(text: &str) -> Result<Authority, String> {
    // Without a port the default would be 0, which no authority has.
    match Authority::parse(text, 0) {
        Ok(Authority { port: 0, .. }) => Err("the port is missing: expected host:port".into()),
        other => other.map_err(|e| format!("{e}; expected host:port")),
    }
}

/// `localhost.` with the dot, which no search domain can turn into another host, and addresses of the machine itself.
fn is_loopback(text: &str, authority: &Authority) -> bool {
    match &authority.host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(_) => text.starts_with("localhost.:"),
    }
}

/// How long a stream of the control plane may be silent; none: forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Until its first message.
    pub initial: Option<Duration>,
    /// Between messages.
    pub idle: Option<Duration>,
    /// As a whole.
    pub lifetime: Option<Duration>,
}

impl StreamLimits {
    fn read(v: &mut Vars) -> Self {
        let mut limit = |rest: &str| v.or(&format!("CONTROL_STREAM_{rest}"), time_or_none, None);
        let limits = Self { initial: limit("INITIAL_TIMEOUT"), idle: limit("IDLE_TIMEOUT"), lifetime: limit("LIFETIME") };
        let given: Vec<_> = [limits.initial, limits.idle, limits.lifetime].into_iter().flatten().collect();
        if !given.is_sorted() {
            v.invalid("CONTROL_STREAM_INITIAL_TIMEOUT", "the initial timeout, the idle timeout and the lifetime must not decrease");
        }
        limits
    }

    /// What applies to one server: nothing to one on this machine, whose end is seen at once.
    pub fn toward(self, addr: &ControlAddr) -> Self {
        if addr.tls.is_some() { self } else { Self::default() }
    }
}

/// Where to ask about destinations and policies.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Profiles and endpoints.
    pub destination: ControlAddr,
    /// What we say of ourselves there, verbatim.
    pub context_token: String,
    /// Addresses whose profile is asked for.
    pub profile_networks: Arc<[IpNet]>,
    /// Names whose profile is asked for on the way in.
    pub profile_suffixes: Arc<[String]>,
    /// How long an inbound request waits for a profile.
    pub profile_initial_timeout: Duration,
    /// Policies.
    pub policy: ControlAddr,
    /// What we say of ourselves there, verbatim.
    pub workload: String,
    /// How long streams may be silent.
    pub stream_limits: StreamLimits,
}

impl Discovery {
    pub(super) fn read(v: &mut Vars) -> Option<Self> {
        let destination = ControlAddr::read(v, "DESTINATION_SVC_ADDR", "DESTINATION_SVC_NAME");
        let policy = ControlAddr::read(v, "POLICY_SVC_ADDR", "POLICY_SVC_NAME");
        let workload = v.required("POLICY_WORKLOAD", text, "give {\"ns\":…,\"pod\":…} of the workload");
        let context_token = v.or("DESTINATION_CONTEXT", text, String::new());
        let profile_networks = v.or("DESTINATION_PROFILE_NETWORKS", network::parse_list, Vec::new()).into();
        let profile_suffixes = v.or("DESTINATION_PROFILE_SUFFIXES", suffixes, vec!["svc.cluster.local".into()]).into();
        let profile_initial_timeout = v.or("DESTINATION_PROFILE_INITIAL_TIMEOUT", time, Duration::from_millis(500));
        let stream_limits = StreamLimits::read(v);
        Some(Self {
            destination: destination?,
            context_token,
            profile_networks,
            profile_suffixes,
            profile_initial_timeout,
            policy: policy?,
            workload: workload?,
            stream_limits,
        })
    }
}

/// What applies to ports of the workload that discovery hasn't told of.
#[derive(Debug, Clone)]
pub struct InboundPolicy {
    /// Who may connect.
    pub default: DefaultPolicy,
    /// The networks that the default may speak of.
    pub cluster_networks: Arc<[IpNet]>,
    /// Ports to ask about from the start.
    pub ports: PortSet,
    /// Ports that are opaque until discovery says otherwise.
    pub opaque_ports: PortSet,
    /// How long the first connections of a port wait for discovery before the default applies. A variable of ours: pods that the
    /// policy controller itself waits for can't wait for it.
    pub initial_timeout: Duration,
}

impl InboundPolicy {
    pub(super) fn read(v: &mut Vars) -> Self {
        let everyone = DefaultPolicy::Allow { authenticated: false, cluster: false };
        if !v.is_set("INBOUND_DEFAULT_POLICY") {
            v.warn("INBOUND_DEFAULT_POLICY", "is not set: all-unauthenticated applies");
        }
        let default = v.or("INBOUND_DEFAULT_POLICY", str::parse::<DefaultPolicy>, everyone);
        let networks = v.opt("POLICY_CLUSTER_NETWORKS", network::parse_list);
        let needs_networks = default.needs_cluster_networks() || default == DefaultPolicy::Audit;
        if needs_networks && networks.is_none() {
            v.invalid("INBOUND_DEFAULT_POLICY", format_args!("it needs {PREFIX}POLICY_CLUSTER_NETWORKS, which isn't set"));
        }
        Self {
            default,
            cluster_networks: networks.unwrap_or_default().into(),
            ports: v.or("INBOUND_PORTS", PortSet::parse, PortSet::default()),
            opaque_ports: v.or("INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION", PortSet::parse, PortSet::default()),
            initial_timeout: v.or("INBOUND_POLICY_INITIAL_TIMEOUT", time, crate::discover::ANSWER_TIMEOUT),
        }
    }

    /// What applies to a port until discovery has answered.
    pub fn initial(&self, port: u16) -> ServerPolicy {
        self.default.server_policy(&self.cluster_networks, self.opaque_ports.contains(port))
    }
}

/// Who we are, and who says so.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Where key and signing request are.
    pub dir: PathBuf,
    /// Whom we believe.
    pub trust_anchors: TrustAnchorsSource,
    /// What proves to the issuer who we are; read anew each time.
    pub token_file: PathBuf,
    /// The identity.
    pub name: Name,
    /// The name that clients ask for in their handshakes.
    pub server_name: DnsName,
    /// The shortest time between two certificates.
    pub min_refresh: Duration,
    /// The longest time between two certificates.
    pub max_refresh: Duration,
    /// The issuer.
    pub issuer: ControlAddr,
    /// What we say of ourselves there, as in policy requests.
    pub workload: String,
    /// The pod's uid; empty: not known.
    pub instance: String,
}

/// Where trust anchors come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustAnchorsSource {
    /// A PEM bundle, as the environment holds it.
    Text(Arc<str>),
    /// A file with a PEM bundle, which is watched.
    File(PathBuf),
}

impl Identity {
    pub(super) fn read(v: &mut Vars) -> Option<Self> {
        if v.text("IDENTITY_DISABLED").is_some_and(|value| !value.is_empty()) {
            v.invalid("IDENTITY_DISABLED", "a proxy without an identity is no longer supported: unset it");
        }
        for spire in ["IDENTITY_SPIRE_WORKLOAD_API_ADDRESS", "IDENTITY_SPIRE_SOCKET"] {
            if v.text(spire).is_some() {
                v.invalid(spire, "identities from SPIRE are not supported by this version: unset it to use the mesh's issuer");
            }
        }
        let dir = v.required("IDENTITY_DIR", path, "give a directory for key.p8 and csr.der");
        let trust_anchors = trust_anchors(v);
        let token_file = v.required("IDENTITY_TOKEN_FILE", path, "give the file of the service account's token");
        let names = names(v);
        let min_refresh = v.or("IDENTITY_MIN_REFRESH", time, Duration::from_secs(10));
        let max_refresh = v.or("IDENTITY_MAX_REFRESH", time, Duration::from_secs(24 * 3600));
        let issuer = ControlAddr::read(v, "IDENTITY_SVC_ADDR", "IDENTITY_SVC_NAME");
        let (name, server_name) = names?;
        Some(Self {
            dir: dir?,
            trust_anchors: trust_anchors?,
            token_file: token_file?,
            name,
            server_name,
            min_refresh,
            max_refresh,
            issuer: issuer?,
            workload: v.text("POLICY_WORKLOAD").unwrap_or_default(),
            instance: String::new(),
        })
    }

    /// Checks that there is a token: without one, no certificate will ever come.
    pub fn check_token(&self) -> Result<(), Invalid> {
        let reason = match std::fs::metadata(&self.token_file) {
            Ok(file) if file.len() > 0 => return Ok(()),
            Ok(_) => "the file is empty: is the token volume mounted?".into(),
            Err(error) => format!("{error}: is the token volume mounted?"),
        };
        let value = Some(self.token_file.display().to_string());
        Err(Invalid { name: format!("{PREFIX}IDENTITY_TOKEN_FILE"), value, reason })
    }
}

fn path(text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("a path is expected") } else { Ok(text.into()) }
}

fn trust_anchors(v: &mut Vars) -> Option<TrustAnchorsSource> {
    if let Some(file) = v.opt("IDENTITY_TRUST_ANCHORS_FILE", path) {
        // Read, so that it isn't told to be unused.
        let _ = v.text("IDENTITY_TRUST_ANCHORS");
        return Some(TrustAnchorsSource::File(file));
    }
    let text = v.required("IDENTITY_TRUST_ANCHORS", text, "give the PEM bundle of the mesh's trust anchors")?;
    Some(TrustAnchorsSource::Text(text.into()))
}

/// Identity and server name: one variable for both, or one for each.
fn names(v: &mut Vars) -> Option<(Name, DnsName)> {
    let local = v.opt("IDENTITY_LOCAL_NAME", str::parse::<DnsName>);
    let id = v.opt("IDENTITY_SERVER_ID", str::parse::<Name>);
    let server_name = v.opt("IDENTITY_SERVER_NAME", str::parse::<DnsName>);
    if let Some(local) = local {
        return Some((Name::Dns(local.clone()), local));
    }
    if v.is_set("IDENTITY_LOCAL_NAME") {
        return None;
    }
    match (id, server_name) {
        (Some(Name::Dns(id)), Some(name)) if id != name => {
            v.invalid("IDENTITY_SERVER_ID", "a DNS identity must equal the server name");
            None
        }
        (Some(id), Some(name)) => Some((id, name)),
        _ if v.is_set("IDENTITY_SERVER_ID") && v.is_set("IDENTITY_SERVER_NAME") => None,
        _ => {
            v.missing("IDENTITY_LOCAL_NAME", "give the workload's identity (or IDENTITY_SERVER_ID and IDENTITY_SERVER_NAME)");
            None
        }
    }
}
