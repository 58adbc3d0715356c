//! What checks ask: the cluster, and what the command line said.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, Client};
use serde_yaml_ng::Value;

use crate::cluster::Cluster;
use crate::command_line::{Check as Args, Globals};
use crate::failure::Failure;
use crate::workloads::{self, CONTROL_PLANE_NS_LABEL};

/// A good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// All is well.
    Yes,
    /// All is well, and this is why: for `-o wide`.
    As(String),
    /// The question has no meaning here.
    Skip,
}

/// A bad answer: what is wrong, in a line or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) String);

/// Any answer.
pub(super) type Answer = Result<Pass, Problem>;

impl From<kube::Error> for Problem {
    fn from(error: kube::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Fails with a head and a list, if there is anything in the list.
pub(super) fn unless_empty(head: &str, list: &[String]) -> Answer {
    if list.is_empty() {
        return Ok(Pass::Yes);
    }
    let items: String = list.iter().map(|item| format!("\n\t* {item}")).collect();
    Err(Problem(format!("{head}{items}")))
}

/// Fails with the names that are missing.
pub(super) fn unless_missing(what: &str, wanted: &[String], found: impl Fn(&str) -> bool) -> Answer {
    let missing: Vec<_> = wanted.iter().filter(|name| !found(name)).cloned().collect();
    if missing.is_empty() { Ok(Pass::Yes) } else { Err(Problem(format!("missing {what}: {}", missing.join(", ")))) }
}

/// What checks ask.
pub(super) struct Facts {
    cluster: Result<Cluster, String>,
    /// The namespace of the control plane.
    pub(super) control_plane_ns: String,
    /// The namespace of the workloads; none means all.
    pub(super) namespace: Option<String>,
    /// The namespace of the CNI plugin.
    pub(super) cni_ns: String,
    /// Whether the CNI plugin is asked about before anything is installed.
    pub(super) cni_asked: bool,
    /// The version that this program goes by.
    pub(super) version: String,
    /// The version that everything should have, if somebody says.
    pub(super) expected: Option<String>,
}

impl Facts {
    pub(super) fn new(cluster: Result<Cluster, Failure>, globals: &Globals, args: &Args) -> Self {
        let control_plane_ns = cluster.as_ref().map_or_else(|_| globals.linkerd_namespace.clone(), |c| c.control_plane_ns.clone());
        Self {
            cluster: cluster.map_err(|failure| failure.to_string()),
            control_plane_ns,
            namespace: args.namespace.clone(),
            cni_ns: globals.cni_namespace.clone(),
            cni_asked: args.linkerd_cni_enabled,
            version: args.cli_version_override.clone().unwrap_or_else(crate::version::ours),
            expected: args.expected_version.clone(),
        }
    }

    pub(super) fn cluster(&self) -> Result<&Cluster, Problem> {
        self.cluster.as_ref().map_err(|problem| Problem(problem.clone()))
    }

    pub(super) fn client(&self) -> Result<Client, Problem> {
        Ok(self.cluster()?.client.clone())
    }

    /// An API of the control plane's namespace.
    pub(super) fn of_control_plane<K>(&self) -> Result<Api<K>, Problem>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Ok(Api::namespaced(self.client()?, &self.control_plane_ns))
    }

    /// The stored values.
    pub(super) async fn values(&self) -> Result<Value, Problem> {
        let maps: Api<ConfigMap> = self.of_control_plane()?;
        let config = maps.get("linkerd-config").await?;
        let text = config.data.as_ref().and_then(|data| data.get("values")).map(String::as_str).unwrap_or_default();
        serde_yaml_ng::from_str(text).map_err(|error| Problem(format!("the values in linkerd-config can't be read: {error}")))
    }

    /// Whether a value is switched on, by its path.
    pub(super) async fn is_on(&self, path: &[&str]) -> Result<bool, Problem> {
        let values = self.values().await?;
        let value = path.iter().try_fold(&values, |value, key| value.get(*key));
        Ok(value.and_then(Value::as_bool) == Some(true))
    }

    /// The pods of the control plane.
    pub(super) async fn control_plane_pods(&self) -> Result<Vec<Pod>, Problem> {
        let selector = "linkerd.io/control-plane-component";
        Ok(workloads::list(&self.client()?, Some(&self.control_plane_ns), Some(selector)).await?)
    }

    /// The pods with a proxy of this control plane, the control plane's own left out.
    pub(super) async fn data_plane_pods(&self) -> Result<Vec<Pod>, Problem> {
        let selector = format!("{CONTROL_PLANE_NS_LABEL}={},!linkerd.io/control-plane-component", self.control_plane_ns);
        Ok(workloads::list(&self.client()?, self.namespace.as_deref(), Some(&selector)).await?)
    }
}
