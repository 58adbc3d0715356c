//! From a container's spec to the order that its launcher gets: program, environment, root and rights.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::env;
use super::images::{ImageError, Images};
use super::volumes;
use crate::node::sandbox::rights;
use crate::node::sandbox::wire::{LaunchSpec, MountSpec, Rights, RootSpec};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where the pod's own root has the file that a container may leave its last words in.
pub(crate) const ENDS: &str = "/ends";
const LAST_WORDS_PATH: &str = "/dev/termination-log";

/// Why a container can't be ordered. The spec's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{0}")]
    Config(String),
}

impl OrderError {
    /// The reason as containers that wait show it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Image(_) => "ImagePullBackOff",
            Self::Config(_) => "CreateContainerConfigError",
        }
    }
}

/// What of the node goes into every order.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) lowers: Vec<PathBuf>,
    pub(crate) hidden: Vec<PathBuf>,
    pub(crate) dns_server: Ipv4Addr,
    pub(crate) domain: String,
    /// The machine's own `resolv.conf`.
    pub(crate) resolv_conf: String,
    pub(crate) search: Vec<String>,
}

/// Makes the order for one container. `environment` is complete but for what every container has.
pub(crate) fn order(
    pod: &Pod,
    container: &Container,
    environment: Vec<(String, String)>,
    images: &Images,
    setting: &Setting,
    address: Option<Ipv4Addr>,
) -> Result<LaunchSpec, OrderError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let image = container.image.as_deref().unwrap_or_default();
    let known: BTreeMap<_, _> = environment.iter().cloned().collect();
    let expanded = |list: Option<&Vec<String>>| -> Vec<String> {
        let expand = |template: &String| env::expand(template, |name| known.get(name).cloned());
        list.into_iter().flatten().map(expand).collect()
    };
    let (command, args) = (expanded(container.command.as_ref()), expanded(container.args.as_ref()));
    let (argv, files) = images.resolve(image, &command, &args)?;
    let default_user = images.row(image).and_then(|row| row.user);
    let rights = rights_of(&spec, container, default_user)?;
    let context = container.security_context.clone().unwrap_or_default();
    let mut mounts = mounts(&spec, container, &known)?;
    mounts.extend(files.into_iter().map(|file| MountSpec {
        source: Path::new("/machine").join(file.machine.strip_prefix("/").unwrap_or(&file.machine)),
        sub_path: None,
        target: file.inside,
        read_only: true,
        create: false,
    }));
    let hostname = hostname(pod);
    Ok(LaunchSpec {
        argv,
        env: with_defaults(environment, &hostname, rights.uid),
        cwd: container.working_dir.clone().unwrap_or_default(),
        root: Some(RootSpec {
            lowers: setting.lowers.clone(),
            hidden: setting.hidden.clone(),
            mounts,
            files: vec![
                ("/etc/hosts".into(), hosts(pod, &hostname, address, &setting.domain)),
                ("/etc/hostname".into(), format!("{hostname}\n")),
                ("/etc/resolv.conf".into(), resolv_conf(pod, setting)),
                ("/etc/nsswitch.conf".into(), nsswitch()),
            ],
            read_only: context.read_only_root_filesystem == Some(true),
            privileged: context.privileged == Some(true),
        }),
        rights,
        terminal: false,
    })
}

/// The order for another process in a container that runs.
pub(crate) fn joining(container: &LaunchSpec, argv: Vec<String>) -> LaunchSpec {
    LaunchSpec { argv, root: None, ..container.clone() }
}

fn with_defaults(environment: Vec<(String, String)>, hostname: &str, uid: u32) -> Vec<(String, String)> {
    let home = if uid == 0 { "/root" } else { "/" };
    let defaults = [("PATH", PATH), ("HOSTNAME", hostname), ("HOME", home)];
    let missing: Vec<_> = defaults
        .into_iter()
        .filter(|(name, _)| !environment.iter().any(|(n, _)| n == name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    missing.into_iter().chain(environment).collect()
}

/// The pod's host name.
pub(crate) fn hostname(pod: &Pod) -> String {
    const LONGEST: usize = 63;
    let own = pod.spec.as_ref().and_then(|s| s.hostname.clone());
    let name = own.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let cut: String = name.chars().take(LONGEST).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn rights_of(spec: &PodSpec, container: &Container, default_user: Option<u32>) -> Result<Rights, OrderError> {
    let shared = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let number = |value: i64| u32::try_from(value).map_err(|_| OrderError::Config(format!("{value} is no user or group")));
    let user = own.run_as_user.or(shared.run_as_user).map(number).transpose()?;
    let uid = user.or(default_user).unwrap_or(0);
    let gid = own.run_as_group.or(shared.run_as_group).map(number).transpose()?.unwrap_or(0);
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) && uid == 0 {
        let name = &container.name;
        let message = format!("container has runAsNonRoot and would run as root: set runAsUser (container {name:?})");
        return Err(OrderError::Config(message));
    }
    let privileged = own.privileged == Some(true);
    let asked = own.capabilities.unwrap_or_default();
    let (add, drop) = (asked.add.unwrap_or_default(), asked.drop.unwrap_or_default());
    let (capabilities, ambient) = rights::capabilities(privileged, &add, &drop).map_err(|e| OrderError::Config(e.to_string()))?;
    let groups = shared.fs_group.iter().chain(shared.supplemental_groups.iter().flatten());
    Ok(Rights {
        uid,
        gid,
        groups: groups.map(|g| number(*g)).collect::<Result<_, _>>()?,
        capabilities,
        ambient,
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
    })
}

fn mounts(spec: &PodSpec, container: &Container, environment: &BTreeMap<String, String>) -> Result<Vec<MountSpec>, OrderError> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name);
        let volume = volume.ok_or_else(|| {
            let (name, container) = (&mount.name, &container.name);
            OrderError::Config(format!("container {container:?} mounts volume {name:?}, which the pod doesn't have"))
        })?;
        let own = mount.sub_path.clone().filter(|p| !p.is_empty());
        let expression = mount.sub_path_expr.as_deref().filter(|p| !p.is_empty());
        let sub_path = own.or_else(|| expression.map(|e| env::expand(e, |n| environment.get(n).cloned())));
        if sub_path.as_deref().is_some_and(|p| p.split('/').any(|part| part == "..") || p.starts_with('/')) {
            return Err(OrderError::Config(format!("subPath of volume {:?} leads out of it", mount.name)));
        }
        let files =
            volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some();
        mounts.push(MountSpec {
            source: volumes::source(volume),
            sub_path: sub_path.map(PathBuf::from),
            target: Path::new("/").join(&mount.mount_path),
            // What is written there would be lost at the next change.
            read_only: files || mount.read_only == Some(true),
            create: !files,
        });
    }
    mounts.push(MountSpec {
        source: Path::new(ENDS).join(&container.name),
        sub_path: None,
        target: container.termination_message_path.as_deref().unwrap_or(LAST_WORDS_PATH).into(),
        read_only: false,
        create: false,
    });
    Ok(mounts)
}

fn hosts(pod: &Pod, hostname: &str, address: Option<Ipv4Addr>, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(address) = address {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
            Some(sub) => {
                text += &format!("{address}\t{hostname}.{sub}.{namespace}.svc.{domain}\t{hostname}\n");
            }
            None => text += &format!("{address}\t{hostname}\n"),
        }
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text += &format!("{}\t{names}\n", alias.ip);
    }
    text
}

/// Names are looked up in files, then by DNS; whatever else the machine uses isn't there.
fn nsswitch() -> String {
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n".into()
}

/// `/etc/resolv.conf` by the pod's DNS policy.
fn resolv_conf(pod: &Pod, setting: &Setting) -> String {
    const SEARCH_MAX: usize = 32;
    const SERVERS_MAX: usize = 3;
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = &setting.domain;
    let own = spec.dns_config.clone().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    if policy == "Default" && spec.dns_config.is_none() {
        return setting.resolv_conf.clone();
    }
    let mut servers = Vec::new();
    let mut search = Vec::new();
    let mut options: BTreeMap<String, Option<String>> = BTreeMap::new();
    if policy != "None" {
        servers.push(setting.dns_server.to_string());
        search = ["svc.", ""].map(|prefix| format!("{prefix}{domain}")).to_vec();
        search.insert(0, format!("{namespace}.svc.{domain}"));
        search.extend(setting.search.iter().cloned());
        options.insert("ndots".into(), Some("5".into()));
    }
    servers.extend(own.nameservers.into_iter().flatten());
    search.extend(own.searches.into_iter().flatten());
    let named = own.options.into_iter().flatten();
    options.extend(named.filter_map(|o| o.name.map(|name| (name, o.value))));
    let mut text = String::new();
    if !search.is_empty() {
        search.truncate(SEARCH_MAX);
        text += &format!("search {}\n", search.join(" "));
    }
    for server in servers.iter().take(SERVERS_MAX) {
        text += &format!("nameserver {server}\n");
    }
    if !options.is_empty() {
        let written = options.iter().map(|(name, value)| match value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
        text += &format!("options {}\n", written.collect::<Vec<_>>().join(" "));
    }
    text
}
