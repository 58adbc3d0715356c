//! Which cluster a command is about, and how it is reached.
//!
//! In this order: `--kubeconfig`; `$KUBECONFIG`, or `~/.kube/config`; the cluster whose pod this is; the `homarus up` that
//! runs on this machine. So a machine that knows no cluster needs no flag to look at its own.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::command_line::{DEFAULT_STATE_DIR, Globals};
use crate::failure::{Failure, causes};

/// A cluster that commands can talk to.
#[derive(Clone)]
pub struct Cluster {
    /// Its API.
    pub client: Client,
    /// Where resources are looked for if nothing is said.
    pub default_namespace: String,
    /// Where the control plane is.
    pub control_plane_ns: String,
    /// The address of the control plane's API, if ports are not to be forwarded.
    pub api_addr: Option<String>,
}

impl Cluster {
    /// Finds the cluster and prepares to talk to it; nothing is asked yet.
    pub async fn connect(globals: &Globals) -> Result<Self, Failure> {
        let mut config = find(globals).await?;
        config.auth_info.impersonate = globals.impersonate.clone().or(config.auth_info.impersonate);
        if !globals.impersonate_groups.is_empty() {
            config.auth_info.impersonate_groups = Some(globals.impersonate_groups.clone());
        }
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| unusable(&causes(&error)))?;
        Ok(Self { client, default_namespace, control_plane_ns: control_plane_ns(globals), api_addr: globals.api_addr.clone() })
    }

    /// The cluster of a kubeconfig that is at hand.
    pub async fn of_kubeconfig(path: PathBuf) -> Result<Self, Failure> {
        let nothing = Globals {
            linkerd_namespace: "linkerd".to_owned(),
            cni_namespace: "linkerd-cni".to_owned(),
            kubeconfig: Some(path),
            context: None,
            impersonate: None,
            impersonate_groups: Vec::new(),
            api_addr: None,
            verbose: false,
        };
        Self::connect(&nothing).await
    }

    /// The namespace that a flag names, or the default one.
    pub fn namespace(&self, flag: Option<&str>) -> String {
        flag.map_or_else(|| self.default_namespace.clone(), str::to_owned)
    }
}

/// The environment counts only while the flag isn't used.
fn control_plane_ns(globals: &Globals) -> String {
    match std::env::var("LINKERD_NAMESPACE") {
        Ok(name) if globals.linkerd_namespace == "linkerd" && !name.is_empty() => name,
        _ => globals.linkerd_namespace.clone(),
    }
}

async fn find(globals: &Globals) -> Result<Config, Failure> {
    let options = KubeConfigOptions { context: globals.context.clone(), cluster: None, user: None };
    if let Some(path) = &globals.kubeconfig {
        let file = Kubeconfig::read_from(path).map_err(|error| unusable(&causes(&error)))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&causes(&error)));
    }
    if configured() {
        let file = Kubeconfig::read().map_err(|error| unusable(&causes(&error)))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&causes(&error)));
    }
    if let Ok(config) = Config::incluster() {
        return Ok(config);
    }
    let local = PathBuf::from(DEFAULT_STATE_DIR);
    if homarus_local::up::running(&local) {
        let file = homarus_local::up::kubeconfig(&local);
        let file = Kubeconfig::read_from(&file).map_err(|error| unusable(&causes(&error)))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&causes(&error)));
    }
    Err(Failure::new("no Kubernetes cluster is configured, and no `homarus up` runs on this machine")
        .remedy("Name a cluster with --kubeconfig or $KUBECONFIG, or start one here with `sudo homarus up`."))
}

/// Whether there is a kubeconfig in one of the usual places.
fn configured() -> bool {
    match std::env::var_os("KUBECONFIG") {
        Some(list) if !list.is_empty() => true,
        _ => std::env::home_dir().is_some_and(|home| home.join(".kube/config").exists()),
    }
}

fn unusable(reason: &str) -> Failure {
    Failure::new(format!("the kubeconfig can't be used: {reason}"))
        .remedy("Check the file that --kubeconfig or $KUBECONFIG names, and --context.")
}
