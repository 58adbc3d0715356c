//! A `homarus up` of its own for these tests, and what a user does with it.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::Pod},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery,
};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How long anything may take that has to happen.
const LIMIT: Duration = Duration::from_secs(150);

static SHARED: Mutex<Weak<Up>> = Mutex::new(Weak::new());
static NAMES: AtomicUsize = AtomicUsize::new(0);

/// A running mesh; it ends when dropped.
pub struct Up {
    process: Mutex<Child>,
    state: tempfile::TempDir,
    runtime: Runtime,
    client: Client,
    /// Held as long as this mesh has the machine.
    _machine: File,
}

/// Tries until there is something, for a bounded time.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    homarus_testkit::poll_every(Duration::from_millis(200), LIMIT, what, attempt)
}

/// The documents of a manifest.
pub fn docs(yaml: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|doc| serde::Deserialize::deserialize(doc).unwrap())
        .filter(|doc: &Value| !doc.is_null())
        .collect()
}

impl Up {
    /// The mesh that tests share as long as one of them needs it.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let up = Arc::new(Self::start());
            *shared = Arc::downgrade(&up);
            up
        })
    }

    /// A new mesh. Two don't fit on one machine, so one waits for the other to end.
    pub fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let machine = File::create(std::env::temp_dir().join("homarus-mesh-tests.lock")).unwrap();
        machine.lock().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_homarus"))
            .args(["up", "--ephemeral", "--state-dir"])
            .arg(state.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, stderr) = (process.stdout.take().unwrap(), process.stderr.take().unwrap());
        std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).for_each(|l| eprintln!("up: {l}")));
        let mut lines = BufReader::new(lines).lines().map_while(Result::ok).inspect(|l| println!("up: {l}"));
        let kubeconfig = lines.find_map(|line| line.strip_prefix("kubeconfig: ").map(str::to_owned)).expect("the mesh comes up");
        std::thread::spawn(move || lines.for_each(drop));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let config = Kubeconfig::read_from(kubeconfig).unwrap();
            Client::try_from(Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap()).unwrap()
        });
        Self { process: Mutex::new(process), state, runtime, client, _machine: machine }
    }

    /// Applies objects, as `kubectl apply --server-side` does.
    pub fn apply(&self, objects: &[Value]) {
        self.runtime.block_on(async {
            for object in objects {
                let parsed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
                let types = parsed.types.clone().unwrap();
                let gvk = GroupVersionKind::try_from(&types).unwrap();
                let (resource, _): (ApiResource, _) = discovery::pinned_kind(&self.client, &gvk).await.unwrap();
                let name = parsed.metadata.name.clone().unwrap();
                let api: Api<DynamicObject> = match &parsed.metadata.namespace {
                    Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                    None => Api::all_with(self.client.clone(), &resource),
                };
                let params = PatchParams::apply("scenario").force();
                api.patch(&name, &params, &Patch::Apply(object)).await.unwrap_or_else(|e| panic!("{} {name}: {e}", gvk.kind));
            }
        });
    }

    /// The objects of a kind in a namespace.
    pub fn api<K: kube::Resource<Scope = NamespaceResourceScope, DynamicType: Default>>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Does what is asked of the API.
    pub fn ask<T>(&self, asked: impl Future<Output = T>) -> T {
        self.runtime.block_on(asked)
    }

    /// Waits until all pods of a deployment are available.
    pub fn wait_for_deployment(&self, namespace: &str, name: &str) {
        let api = self.api::<Deployment>(namespace);
        self.wait_for(&format!("deployment {namespace}/{name}"), || {
            let deployment = self.ask(api.get(name)).ok()?;
            let want = deployment.spec?.replicas.unwrap_or(1);
            (deployment.status?.available_replicas.unwrap_or(0) == want).then_some(())
        });
    }

    /// Runs a script in a pod of its own, and returns what it printed.
    pub fn run(&self, namespace: &str, account: &str, meshed: bool, script: &str) -> String {
        let name = format!("run-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": {"linkerd.io/inject": if meshed { "enabled" } else { "disabled" }}},
            "spec": {
                "serviceAccountName": account,
                "restartPolicy": "Never",
                "containers": [{"name": "script", "image": "script", "command": ["sh", "-c", script]}],
            },
        }))
        .unwrap();
        let api = self.api::<Pod>(namespace);
        self.ask(api.create(&PostParams::default(), &pod)).unwrap();
        self.wait_for(&format!("script {name}"), || {
            let status = self.ask(api.get(&name)).ok()?.status?;
            let script = status.container_statuses?.into_iter().find(|c| c.name == "script")?;
            script.state?.terminated.map(drop)
        });
        let params = kube::api::LogParams { container: Some("script".into()), ..Default::default() };
        self.ask(api.logs(&name, &params)).unwrap().trim().to_owned()
    }

    /// Runs the CLI against this mesh.
    pub fn homarus(&self, arguments: &[&str]) -> Result<String, String> {
        let kubeconfig = self.state.path().join("kubeconfig");
        let output =
            Command::new(env!("CARGO_BIN_EXE_homarus")).arg("--kubeconfig").arg(kubeconfig).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stdout) + &text(output.stderr)) }
    }

    /// As [`eventually`], and fails at once if the mesh has ended.
    pub fn wait_for<T>(&self, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        eventually(what, || {
            let ended = self.process.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the mesh ended while waiting for {what}: {ended:?}");
            attempt()
        })
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let Ok(process) = self.process.get_mut() else { return };
        let pid = process.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = process.kill();
        let _ = process.wait();
    }
}
