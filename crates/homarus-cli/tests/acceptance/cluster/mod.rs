//! A cluster with the mesh and the shared applications in it, and what a user does with it.
//!
//! There is one for the whole run: the embedded one, or, if `KUBECONFIG_ORACLE` names it, a real one. Scenarios know the
//! difference only where the clusters differ by design.

mod embedded;
mod real;
mod shell;

use homarus_testkit::metrics::Metrics;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::{Value, json};
use std::{
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

pub use shell::Shell;

/// How long anything may take that has to happen: a busy machine starts a dozen pods in a minute.
const LIMIT: Duration = Duration::from_secs(150);
/// How often to look.
const PERIOD: Duration = Duration::from_millis(100);

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);

/// The cluster of this run.
pub fn cluster() -> &'static Cluster {
    &CLUSTER
}

/// Tries until there is something, for a bounded time.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    homarus_testkit::poll_every(PERIOD, LIMIT, what, attempt)
}

/// A running mesh.
pub struct Cluster {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    /// Whether it is a real one.
    pub real: bool,
}

impl Cluster {
    fn start() -> Self {
        let began = Instant::now();
        let oracle = std::env::var_os("KUBECONFIG_ORACLE").map(PathBuf::from);
        let real = oracle.is_some();
        let kubeconfig = oracle.unwrap_or_else(embedded::start);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(connect(&kubeconfig));
        let cluster = Self { runtime, client, kubeconfig, real };
        if real {
            real::install(&cluster);
        }
        println!("the mesh is up after {:.1} s", began.elapsed().as_secs_f64());
        cluster.apply(include_str!("../apps.yml"));
        cluster.apply(include_str!("../policies.yml"));
        cluster
    }

    /// Runs what asks the API.
    pub fn ask<T>(&self, question: impl Future<Output = T>) -> T {
        self.runtime.block_on(question)
    }

    /// Objects of a kind in a namespace.
    pub fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType: Default>>(
        &self,
        namespace: &str,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Objects of a kind that is in no namespace, or those of all namespaces.
    pub fn everywhere<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// Applies a manifest: a document or a `List`.
    pub fn apply(&self, yaml: &str) {
        let document: Value = serde_yaml_ng::from_str(yaml).unwrap();
        match document["items"].as_array() {
            Some(items) => self.apply_all(items),
            None => self.apply_all(&[document]),
        }
    }

    /// Applies objects in their order, as `kubectl apply --server-side` does.
    pub fn apply_all(&self, objects: &[Value]) {
        for object in objects {
            // A kind or a namespace that was just made is known a moment later.
            let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
            let mut last = String::new();
            let applied = (0..100).any(|_| match self.ask(apply(&self.client, object)) {
                Ok(()) => true,
                Err(error) => {
                    last = error.to_string();
                    std::thread::sleep(PERIOD);
                    false
                }
            });
            assert!(applied, "{what}: {last}");
        }
    }

    /// Says how an object stands, in the place of whoever else would.
    pub fn patch_status(&self, namespace: &str, name: &str, resource: &kube::core::ApiResource, status: &Value) {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, resource);
        self.ask(api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))).unwrap();
    }

    /// Waits until all pods of a deployment are available and none is of an older template.
    pub fn wait_for_deployment(&self, namespace: &str, name: &str) {
        let api: Api<Deployment> = self.api(namespace);
        eventually(&format!("deployment {namespace}/{name}"), || {
            let deployment = self.ask(api.get(name)).ok()?;
            let wanted = deployment.spec?.replicas.unwrap_or(1);
            let status = deployment.status?;
            let seen = status.observed_generation >= deployment.metadata.generation;
            let counts = [status.available_replicas, status.updated_replicas, status.replicas];
            (seen && counts.iter().all(|count| *count == Some(wanted))).then_some(())
        });
    }

    /// The running pods with a label `app`.
    pub fn pods(&self, namespace: &str, app: &str) -> Vec<Pod> {
        let api: Api<Pod> = self.api(namespace);
        let pods = self.ask(api.list(&ListParams::default().labels(&format!("app={app}")))).unwrap();
        pods.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// The address of the one pod with a label `app`, once it runs.
    pub fn address(&self, namespace: &str, app: &str) -> String {
        eventually(&format!("an address of {namespace}/{app}"), || ip(self.pods(namespace, app).first()?))
    }

    /// The address of a pod, once it runs.
    pub fn pod_address(&self, namespace: &str, name: &str) -> String {
        let api: Api<Pod> = self.api(namespace);
        eventually(&format!("an address of {namespace}/{name}"), || ip(&self.ask(api.get(name)).ok()?))
    }

    /// What a container has logged.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        let params = LogParams { container: Some(container.into()), ..LogParams::default() };
        let api: Api<Pod> = self.api(namespace);
        self.ask(api.logs(pod, &params)).unwrap()
    }

    /// The metrics of the proxies of a resource, as `TYPE/NAME`.
    pub fn metrics(&self, namespace: &str, resource: &str) -> Metrics {
        Metrics(self.homarus(&["diagnostics", "proxy-metrics", "-n", namespace, resource]).unwrap())
    }

    /// Runs the CLI against this cluster.
    pub fn homarus(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_homarus"));
        let output = command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stdout) + &text(output.stderr)) }
    }

    /// Waits until the webhook meshes what asks for it: it isn't asked by force.
    fn wait_for_injection(&self) {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "probe", "annotations": { "linkerd.io/inject": "enabled" } },
            "spec": { "containers": [{ "name": "probe", "image": "probe" }] },
        }))
        .unwrap();
        let (api, dry): (Api<Pod>, _) = (self.api("default"), PostParams { dry_run: true, ..PostParams::default() });
        eventually("injection", || {
            let made = self.ask(api.create(&dry, &pod)).ok()?;
            made.metadata.annotations?.contains_key("linkerd.io/proxy-version").then_some(())
        });
    }
}

/// The address of a pod that runs.
fn ip(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    status.pod_ip.clone().filter(|_| status.phase.as_deref() == Some("Running"))
}

async fn connect(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn apply(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let parsed: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    let kind = GroupVersionKind::try_from(&parsed.types.clone().unwrap_or_default()).unwrap();
    let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), &parsed.namespace().unwrap_or_default(), &resource),
    };
    let params = PatchParams::apply("scenarios").force();
    api.patch(&parsed.name_any(), &params, &Patch::Apply(object)).await.map(drop)
}
