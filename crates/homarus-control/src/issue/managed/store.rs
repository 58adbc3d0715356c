//! The objects that hold the mesh's certificates. The chart renders none of them.
//!
//! | Object | What it holds |
//! |---|---|
//! | Secret `linkerd-identity-root` | `crt.pem`, `key.pem`: the root; `next.crt.pem`, `next.key.pem`: the one that takes its place |
//! | Secret `linkerd-identity-issuer` | `crt.pem`, `key.pem`: the issuer, as everybody expects it |
//! | ConfigMap `linkerd-identity-trust-roots` | `ca-bundle.crt`: the roots to believe |
//! | ConfigMap `linkerd-identity-rotation` | `status`: where a rotation stands; `seen.*`: whom each replica serves; the annotation [`ASKED`] |
//!
//! Roots, issuer and bundle are created where none was read, and else applied on the version that was read, under a field manager
//! of our own. So of several replicas one wins, and a leader that lost its lease can't undo another's step.
//!
//! None of them has the label `linkerd.io/control-plane-ns`: `prune` lists what has it and isn't rendered, to be deleted.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_identity::authority::{Pair, ReadError};
use homarus_identity::{Certificate, TrustAnchors, anchors::BundleError, pem};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
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

/// The version of an object as it was read; none: it wasn't there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(Option<String>);

impl Version {
    fn of(object: &impl Resource) -> Self {
        Self(object.meta().resource_version.clone())
    }
}

/// The roots as they were read.
pub(super) struct StoredRoots {
    pub(super) roots: Roots,
    version: Version,
}

/// The object of a rotation as it was read.
#[derive(Default)]
pub(super) struct Rotation {
    /// What was asked for last; empty: nothing.
    pub(super) asked: String,
    /// What is written there.
    pub(super) notes: BTreeMap<String, String>,
    version: Version,
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
        Ok(Some(StoredRoots { roots, version: Version::of(&secret) }))
    }

    /// Creates the first root, unless somebody else was faster.
    pub(super) async fn create_root(&self, root: &Pair, answered: &str) -> Result<bool, StoreError> {
        let roots = Roots { current: root.clone(), next: None, answered: answered.to_owned() };
        match write(&self.secrets, ROOT, root_object(&roots), &Version::default()).await {
            Ok(()) => Ok(true),
            Err(StoreError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes the roots, unless somebody else did since they were read.
    pub(super) async fn write_roots(&self, read: &StoredRoots, roots: &Roots) -> Result<(), StoreError> {
        write(&self.secrets, ROOT, root_object(roots), &read.version).await
    }

    pub(super) async fn issuer(&self) -> Result<(Option<Chain>, Version), StoreError> {
        let Some(secret) = self.secrets.get_opt(ISSUER).await? else { return Ok(Default::default()) };
        let own = pair(&secret, "").map_err(StoreError::Issuer)?.certificate;
        let carries_more = pem::certificates(&text(&secret, "crt.pem")).is_ok_and(|all| all.len() > 1);
        Ok((Some(Chain { own, carries_more }), Version::of(&secret)))
    }

    /// Changes the issuer, unless somebody else did since it was read; `above` is sent along with its leaves.
    pub(super) async fn write_issuer(&self, read: &Version, issuer: &Pair, above: Option<&Certificate>) -> Result<(), StoreError> {
        let chain: String = std::iter::once(&issuer.certificate).chain(above).map(Certificate::to_pem).collect();
        let data = json!({ "crt.pem": encoded(&chain), "key.pem": encoded(&issuer.key_pem()) });
        write(&self.secrets, ISSUER, object("Secret", ISSUER, json!({}), data), read).await
    }

    /// Leaves nothing but the issuer itself in its chain, unless somebody else changed it since it was read.
    pub(super) async fn trim_issuer(&self, read: &Version) -> Result<(), StoreError> {
        let Some(secret) = self.secrets.get_opt(ISSUER).await? else { return Ok(()) };
        let issuer = pair(&secret, "").map_err(StoreError::Issuer)?;
        self.write_issuer(read, &issuer, None).await
    }

    pub(super) async fn bundle(&self) -> Result<(Option<Bundle>, Version), StoreError> {
        let Some(map) = self.maps.get_opt(BUNDLE).await? else { return Ok(Default::default()) };
        let version = Version::of(&map);
        let pem = map.data.as_ref().and_then(|data| data.get("ca-bundle.crt"));
        let Some(pem) = pem.filter(|pem| !pem.trim().is_empty()) else { return Ok((None, version)) };
        let changed = map.annotations().get(CHANGED).and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
        let since = UNIX_EPOCH + Duration::from_secs(changed);
        Ok((Some(Bundle { anchors: TrustAnchors::from_pem(pem)?, since }), version))
    }

    /// Changes the bundle, unless somebody else did since it was read.
    pub(super) async fn publish(&self, read: &Version, roots: &[Certificate], now: SystemTime) -> Result<(), StoreError> {
        let pem: String = roots.iter().map(Certificate::to_pem).collect();
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let object = object("ConfigMap", BUNDLE, json!({ CHANGED: seconds.to_string() }), json!({ "ca-bundle.crt": pem }));
        write(&self.maps, BUNDLE, object, read).await
    }

    /// What was asked for, and what the replicas see.
    pub(super) async fn rotation(&self) -> Result<Rotation, StoreError> {
        let Some(map) = self.maps.get_opt(ROTATION).await? else { return Ok(Rotation::default()) };
        let (asked, version) = (map.annotations().get(ASKED).cloned().unwrap_or_default(), Version::of(&map));
        Ok(Rotation { asked, notes: map.data.unwrap_or_default(), version })
    }

    /// Takes notes away, unless something was written since they were read.
    pub(super) async fn forget(&self, read: &Rotation, notes: &[&str]) -> Result<(), StoreError> {
        let data: BTreeMap<&str, ()> = notes.iter().map(|note| (*note, ())).collect();
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patch = json!({ "metadata": { "resourceVersion": read.version.0 }, "data": data });
        self.maps.patch(ROTATION, &params, &Patch::Merge(&patch)).await?;
        Ok(())
    }

    pub(super) async fn write_status(&self, status: &Value) -> Result<(), StoreError> {
        let data = json!({ "status": status.to_string() });
        self.note(MANAGER, object("ConfigMap", ROTATION, json!({}), data)).await
    }

    /// Says whom a replica serves; none: it need not be known any more.
    pub(super) async fn write_seen(&self, replica: &str, seen: Option<&str>) -> Result<(), StoreError> {
        let data = match seen {
            Some(seen) => json!({ format!("{SEEN}{replica}"): seen }),
            None => json!({}),
        };
        // Nothing but the note, so that the API server forgets the replica as well when that is gone.
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": ROTATION }, "data": data });
        self.note(&format!("{MANAGER}-{replica}"), object).await
    }

    async fn note(&self, manager: &str, object: Value) -> Result<(), StoreError> {
        self.maps.patch(ROTATION, &PatchParams::apply(manager).force(), &Patch::Apply(&object)).await?;
        Ok(())
    }
}

/// Writes an object on the version that was read: the API server refuses if there is another, or one where there was none.
async fn write<K>(api: &Api<K>, name: &str, mut object: Value, read: &Version) -> Result<(), StoreError>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    match &read.0 {
        Some(version) => {
            object["metadata"]["resourceVersion"] = version.as_str().into();
            api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
        }
        None => {
            let object: K = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            api.create(&params, &object).await?;
        }
    }
    Ok(())
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

fn root_object(roots: &Roots) -> Value {
    let mut data = serde_json::Map::new();
    let pairs = [("", Some(&roots.current)), ("next.", roots.next.as_ref())];
    for (prefix, pair) in pairs.into_iter().filter_map(|(prefix, pair)| Some((prefix, pair?))) {
        data.insert(format!("{prefix}crt.pem"), encoded(&pair.certificate.to_pem()).into());
        data.insert(format!("{prefix}key.pem"), encoded(&pair.key_pem()).into());
    }
    object("Secret", ROOT, json!({ ANSWERED: roots.answered }), data.into())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use http_body_util::BodyExt;
    use kube::client::Body;
    use parking_lot::Mutex;

    use super::*;

    /// The one object of an API server: what becomes of a write is decided by its version alone.
    fn api_server(has: Option<&'static str>) -> (Store, Arc<Mutex<Vec<Value>>>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let log = written.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let log = log.clone();
            async move {
                let creates = request.method() == http::Method::POST;
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let object: Value = serde_json::from_slice(&body).unwrap();
                let good = if creates { has.is_none() } else { object["metadata"]["resourceVersion"].as_str() == has };
                let (code, answer) = match good {
                    true => (200, json!({ "metadata": object["metadata"] })),
                    false => (409, json!({ "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409 })),
                };
                if good {
                    log.lock().push(object);
                }
                let response = http::Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
                response.map_err(std::io::Error::other)
            }
        });
        (Store::new(Client::new(service, "linkerd"), "linkerd"), written)
    }

    #[tokio::test]
    async fn nothing_is_written_on_another_version_than_was_read() {
        let now = SystemTime::now();
        let root = Pair::root("root", Duration::from_secs(3600), now).unwrap();
        let roots = Roots { current: root.clone(), next: None, answered: String::new() };
        let version = |version: Option<&str>| Version(version.map(str::to_owned));
        for (has, read, good) in
            [(None, None, true), (Some("7"), Some("7"), true), (Some("8"), Some("7"), false), (Some("7"), None, false)]
        {
            let (store, written) = api_server(has);
            let read = version(read);
            let results = [
                store.publish(&read, std::slice::from_ref(&root.certificate), now).await.is_ok(),
                store.write_issuer(&read, &root, None).await.is_ok(),
                store.write_roots(&StoredRoots { roots: roots.clone(), version: read.clone() }, &roots).await.is_ok(),
            ];
            assert_eq!((results, written.lock().len()), ([good; 3], if good { 3 } else { 0 }), "{has:?} {read:?}");
        }
        assert!(api_server(None).0.create_root(&root, "").await.unwrap());
        assert!(!api_server(Some("1")).0.create_root(&root, "").await.unwrap(), "somebody else was faster");
    }

    #[tokio::test]
    async fn notes_are_forgotten_by_their_keys() {
        let (store, written) = api_server(Some("7"));
        let read = |version: &str| Rotation { version: Version(Some(version.to_owned())), ..Rotation::default() };
        store.forget(&read("7"), &["seen.a", "seen.b"]).await.unwrap();
        assert_eq!(written.lock()[0]["data"], json!({ "seen.a": null, "seen.b": null }));
        assert!(store.forget(&read("6"), &["seen.a"]).await.is_err(), "it may have been renewed");
    }
}
