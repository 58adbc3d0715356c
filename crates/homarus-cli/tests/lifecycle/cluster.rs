//! A real cluster, and the programs that its user has: `homarus`, `kubectl` and `helm`.

use homarus_identity::authority::Pair;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// How long anything may take that has to happen.
const LIMIT: Duration = Duration::from_secs(120);
const PERIOD: Duration = Duration::from_millis(250);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Kinds that the charts install. Of what the cluster itself changes, only the generation is compared.
const KINDS: &str = "ns,sa,svc,cm,secret,deploy,cronjob,role,rolebinding,clusterrole,clusterrolebinding,crd,\
                     mutatingwebhookconfiguration,validatingwebhookconfiguration";

/// Tries until there is something, for a bounded time.
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    homarus_testkit::poll_every(PERIOD, LIMIT, what, attempt)
}

/// A cluster that `xtask/on-cluster` has started.
pub struct Cluster {
    name: String,
}

/// What a program said that has failed.
#[derive(Debug)]
pub struct Said {
    pub out: String,
    pub err: String,
}

impl Cluster {
    pub fn start() -> Self {
        let name = std::env::var("HOMARUS_CLUSTER").expect("run this by xtask/on-cluster");
        Self { name }
    }

    pub fn load_images(&self) {
        let folder =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), Into::into).join("test-images");
        let images = std::fs::read_dir(&folder).expect("images (cargo xtask image --test)");
        let paths = images.map(|image| image.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "tar"));
        let load = |path: PathBuf| {
            let mut load = Command::new(Path::new(ROOT).join("e2e/cluster/cluster"));
            load.arg("load").arg(path).arg(&self.name).spawn().unwrap()
        };
        for mut load in paths.map(load).collect::<Vec<_>>() {
            assert!(load.wait().unwrap().success());
        }
    }

    pub fn homarus(&self, words: &[&str]) -> Result<String, Said> {
        self.homarus_with(words, "")
    }

    pub fn homarus_with(&self, words: &[&str], input: &str) -> Result<String, Said> {
        run(env!("CARGO_BIN_EXE_homarus"), words, input)
    }

    pub fn kubectl(&self, words: &[&str]) -> String {
        self.kubectl_with(words, "")
    }

    pub fn kubectl_with(&self, words: &[&str], input: &str) -> String {
        run("kubectl", words, input).unwrap_or_else(|said| panic!("kubectl {words:?}: {}{}", said.out, said.err))
    }

    pub fn try_kubectl_with(&self, words: &[&str], input: &str) -> Result<String, Said> {
        run("kubectl", words, input)
    }

    pub fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[words, &["-o", "json"]].concat())).unwrap()
    }

    pub fn helm(&self, words: &[&str]) -> String {
        run("helm", words, "").unwrap_or_else(|said| panic!("helm {words:?}: {}{}", said.out, said.err))
    }

    pub fn apply(&self, manifests: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], manifests)
    }

    pub fn try_apply(&self, manifests: &str) -> Result<String, String> {
        run("kubectl", &["apply", "-f", "-"], manifests).map_err(|said| said.err)
    }

    /// As GitOps tools do.
    pub fn apply_by_server(&self, manifests: &str) {
        self.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifests);
    }

    pub fn wait_for_control_plane(&self) {
        for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
            self.kubectl(&["-n", "linkerd", "rollout", "status", "deploy", name, "--timeout=120s"]);
        }
    }

    /// Every object of the installation, with what tells whether somebody has changed it.
    pub fn versions(&self) -> Vec<String> {
        let list = self.json(&["get", KINDS, "-A", "-l", "linkerd.io/control-plane-ns"]);
        let mut versions: Vec<String> = list["items"].as_array().unwrap().iter().map(version).collect();
        versions.sort();
        assert!(versions.len() > 40, "{versions:?}");
        versions
    }

    /// What an uninstallation has left.
    pub fn remains(&self) -> Vec<String> {
        let list = self.json(&["get", KINDS, "-A", "-l", "linkerd.io/control-plane-ns"]);
        let mut remains: Vec<String> = list["items"].as_array().unwrap().iter().map(version).collect();
        let crds = self.json(&["get", "crd"]);
        let ours = |crd: &&Value| {
            crd["metadata"]["name"].as_str().is_some_and(|name| name.contains("linkerd.io") || name.contains("gateway"))
        };
        remains.extend(crds["items"].as_array().unwrap().iter().filter(ours).map(version));
        remains
    }
}

/// A Deployment's status and a CronJob's change by themselves, and so do the conditions of custom resources.
fn version(object: &Value) -> String {
    let (kind, metadata) = (&object["kind"], &object["metadata"]);
    let by_itself = matches!(kind.as_str(), Some("Deployment" | "CronJob" | "CustomResourceDefinition"));
    let version = if by_itself { &metadata["generation"] } else { &metadata["resourceVersion"] };
    format!("{kind} {} {} {version} {}", metadata["namespace"], metadata["name"], metadata["uid"])
}

fn run(program: &str, words: &[&str], input: &str) -> Result<String, Said> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    // What is written is longer than a pipe; who doesn't read it fails for reasons of its own.
    let input = input.to_owned();
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    if output.status.success() { Ok(out) } else { Err(Said { out, err }) }
}

/// A root and an issuer of the user's own.
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub fn make() -> Self {
        let now = SystemTime::now();
        let folder = tempfile::tempdir().unwrap();
        let root = Pair::root("root.linkerd.cluster.local", YEAR, now).unwrap();
        let issuer = root.issuer("identity.linkerd.cluster.local", YEAR, now).unwrap();
        let files =
            [("ca.crt", root.certificate.to_pem()), ("issuer.crt", issuer.certificate.to_pem()), ("issuer.key", issuer.key_pem())];
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    /// As Helm takes them.
    pub fn flags(&self) -> Vec<String> {
        let file = |key: &str, name: &str| ["--set-file".to_owned(), format!("{key}={}", self.folder.path().join(name).display())];
        [
            file("identityTrustAnchorsPEM", "ca.crt"),
            file("identity.issuer.tls.crtPEM", "issuer.crt"),
            file("identity.issuer.tls.keyPEM", "issuer.key"),
        ]
        .concat()
    }
}
