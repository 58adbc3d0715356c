//! The objects that hold the mesh's certificates. The chart renders none of them.
//!
//! | Object | What it holds |
//! |---|---|
//! | Secret `linkerd-identity-root` | `crt.pem`, `key.pem`: the root; `next.crt.pem`, `next.key.pem`: the one that takes its place |
//! | Secret `linkerd-identity-issuer` | `crt.pem`, `key.pem`: the issuer, as everybody expects it |
//! | ConfigMap `linkerd-identity-trust-roots` | `ca-bundle.crt`: the roots to believe |
//! | ConfigMap `linkerd-identity-rotation` | `status`: where a rotation stands; `seen.*`: whom each replica serves; the annotation [`ASKED`] |
//!
//! The first root is only ever created, so that of several replicas one wins. Everything else is applied under a field manager
//! of our own, and the root's Secret on the state that was read: a leader that lost its lease can't undo another's step.
//!
//! None of them has the label `linkerd.io/control-plane-ns`: `prune` lists what has it and isn't rendered, to be deleted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_identity::authority::{Pair, ReadError};
use homarus_identity::{Certificate, TrustAnchors, anchors::BundleError, pem};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::plan::{Bundle, Chain, Roots};

pub(super) const ROOT: &str = "linkerd-identity-root";
pub(super) const ISSUER: &str = "linkerd-identity-issuer";
pub(super) const BUNDLE: &str = "linkerd-identity-trust-roots";
pub(super) const ROTATION: &str = "linkerd-identity-rotation";
/// Who asks for a rotation writes another value here.
pub(super) const ASKED: &str = "homarus.dev/rotate";
/// The rotation that was asked for last and begun, on the root's Secret.
const ANSWERED: &str = "homarus.dev/rotate-answered";
/// When the bundle changed, in seconds since the epoch.
const CHANGED: &str = "homarus.dev/changed";
const MANAGER: &str = "homarus-identity";
/// What of a replica's view of its subscribers is under.
pub(super) const SEEN: &str = "seen.";

/// Why the objects can't be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The API server says no, or isn't there: it is tried again.
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("Secret {ROOT}: {0}; restore it, or delete it to have a new root made")]
    Root(ReadError),
    #[error("Secret {ISSUER}: {0}; delete it to have a new issuer made")]
    Issuer(ReadError),
    #[error("ConfigMap {BUNDLE}: {0}; delete it to have it made anew")]
    Bundle(#[from] BundleError),
}

/// The objects of one mesh.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) secrets: Api<Secret>,
    pub(super) maps: Api<ConfigMap>,
}

/// The roots as they were read.
pub(super) struct StoredRoots {
    pub(super) roots: Roots,
    version: Option<String>,
}

impl Store {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), maps: Api::namespaced(client, namespace) }
    }

    pub(super) async fn roots(&self) -> Result<Option<StoredRoots>, StoreError> {
        let Some(secret) = self.secrets.get_opt(ROOT).await? else { return Ok(None) };
        let pair = |prefix: &str| pair(&secret, prefix).map_err(StoreError::Root);
        let next = match has(&secret, "next.crt.pem") {
            true => Some(pair("next.")?),
            false => None,
        };
        let answered = secret.annotations().get(ANSWERED).cloned().unwrap_or_default();
        let roots = Roots { current: pair("")?, next, answered };
        Ok(Some(StoredRoots { roots, version: secret.resource_version() }))
    }

    /// Creates the first root, unless somebody else was faster.
    pub(super) async fn create_root(&self, root: &Pair, answered: &str) -> Result<bool, StoreError> {
        let roots = Roots { current: root.clone(), next: None, answered: answered.to_owned() };
        let object: Secret = serde_json::from_value(root_object(&roots, None)).map_err(kube::Error::SerdeError)?;
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match self.secrets.create(&params, &object).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes the roots, unless somebody else did since they were read.
    pub(super) async fn write_roots(&self, read: &StoredRoots, roots: &Roots) -> Result<(), StoreError> {
        self.apply_secret(ROOT, root_object(roots, read.version.as_deref())).await
    }

    pub(super) async fn issuer(&self) -> Result<Option<Chain>, StoreError> {
        let Some(secret) = self.secrets.get_opt(ISSUER).await? else { return Ok(None) };
        let own = pair(&secret, "").map_err(StoreError::Issuer)?.certificate;
        let carries_more = pem::certificates(&text(&secret, "crt.pem")).is_ok_and(|all| all.len() > 1);
        Ok(Some(Chain { own, carries_more }))
    }

    /// Changes the issuer; `above` is sent along with its leaves.
    pub(super) async fn write_issuer(&self, issuer: &Pair, above: Option<&Certificate>) -> Result<(), StoreError> {
        let chain: String = std::iter::once(&issuer.certificate).chain(above).map(Certificate::to_pem).collect();
        let data = json!({ "crt.pem": encoded(&chain), "key.pem": encoded(&issuer.key_pem()) });
        self.apply_secret(ISSUER, object("Secret", ISSUER, json!({}), data)).await
    }

    /// Leaves nothing but the issuer itself in its chain.
    pub(super) async fn trim_issuer(&self) -> Result<(), StoreError> {
        let Some(secret) = self.secrets.get_opt(ISSUER).await? else { return Ok(()) };
        let issuer = pair(&secret, "").map_err(StoreError::Issuer)?;
        self.write_issuer(&issuer, None).await
    }

    pub(super) async fn bundle(&self) -> Result<Option<Bundle>, StoreError> {
        let Some(map) = self.maps.get_opt(BUNDLE).await? else { return Ok(None) };
        let pem = map.data.as_ref().and_then(|data| data.get("ca-bundle.crt"));
        let Some(pem) = pem.filter(|pem| !pem.trim().is_empty()) else { return Ok(None) };
        let changed = map.annotations().get(CHANGED).and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        Ok(Some(Bundle { anchors: TrustAnchors::from_pem(pem)?, since: UNIX_EPOCH + Duration::from_secs(changed) }))
    }

    pub(super) async fn publish(&self, roots: &[Certificate], now: SystemTime) -> Result<(), StoreError> {
        let pem: String = roots.iter().map(Certificate::to_pem).collect();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let object = object("ConfigMap", BUNDLE, json!({ CHANGED: seconds.to_string() }), json!({ "ca-bundle.crt": pem }));
        self.apply_map(BUNDLE, MANAGER, object).await
    }

    /// What was asked for, and what the replicas see.
    pub(super) async fn rotation(&self) -> Result<(String, BTreeMap<String, String>), StoreError> {
        let Some(map) = self.maps.get_opt(ROTATION).await? else { return Ok(Default::default()) };
        let asked = map.annotations().get(ASKED).cloned().unwrap_or_default();
        Ok((asked, map.data.unwrap_or_default()))
    }

    pub(super) async fn write_status(&self, status: &Value) -> Result<(), StoreError> {
        let data = json!({ "status": status.to_string() });
        self.apply_map(ROTATION, MANAGER, object("ConfigMap", ROTATION, json!({}), data)).await
    }

    /// Says whom a replica serves; none: it need not be known any more.
    pub(super) async fn write_seen(&self, replica: &str, seen: Option<&str>) -> Result<(), StoreError> {
        let data = match seen {
            Some(seen) => json!({ format!("{SEEN}{replica}"): seen }),
            None => json!({}),
        };
        let manager = format!("{MANAGER}-{replica}");
        self.apply_map(ROTATION, &manager, object("ConfigMap", ROTATION, json!({}), data)).await
    }

    async fn apply_secret(&self, name: &str, object: Value) -> Result<(), StoreError> {
        let params = PatchParams::apply(MANAGER).force();
        self.secrets.patch(name, &params, &Patch::Apply(&object)).await?;
        Ok(())
    }

    async fn apply_map(&self, name: &str, manager: &str, object: Value) -> Result<(), StoreError> {
        self.maps.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(&object)).await?;
        Ok(())
    }
}

fn object(kind: &str, name: &str, annotations: Value, data: Value) -> Value {
    let labels = json!({
        "linkerd.io/control-plane-component": "identity",
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/part-of": "Linkerd",
    });
    let metadata = json!({ "name": name, "labels": labels, "annotations": annotations });
    json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data })
}

fn root_object(roots: &Roots, version: Option<&str>) -> Value {
    let mut data = serde_json::Map::new();
    let pairs = [("", Some(&roots.current)), ("next.", roots.next.as_ref())];
    for (prefix, pair) in pairs.into_iter().filter_map(|(prefix, pair)| Some((prefix, pair?))) {
        data.insert(format!("{prefix}crt.pem"), encoded(&pair.certificate.to_pem()).into());
        data.insert(format!("{prefix}key.pem"), encoded(&pair.key_pem()).into());
    }
    let mut object = object("Secret", ROOT, json!({ ANSWERED: roots.answered }), data.into());
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version.into();
    }
    object
}

fn encoded(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn has(secret: &Secret, key: &str) -> bool {
    secret.data.as_ref().is_some_and(|data| data.contains_key(key))
}

/// What a Secret has under a key, as far as it is text.
pub(super) fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|ByteString(bytes)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

fn pair(secret: &Secret, prefix: &str) -> Result<Pair, ReadError> {
    Pair::from_pem(&text(secret, &format!("{prefix}crt.pem")), &text(secret, &format!("{prefix}key.pem")))
}
