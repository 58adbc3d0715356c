//! Objects of any kind into a cluster, as `kubectl apply --server-side` does it.

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// Who owns the fields.
const FIELD_MANAGER: &str = "homarus";
/// Where objects go that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";
/// How often an object is tried whose kind or namespace isn't known yet.
const ATTEMPTS: u32 = 50;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Applies the documents of a YAML text, in order.
pub(super) async fn text(client: &Client, text: &str) -> Result<(), Failure> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document).map_err(|error| Failure::new(format!("invalid YAML: {error}")))?;
        match object["kind"].as_str() {
            Some("List") => objects.extend(object["items"].as_array().cloned().unwrap_or_default()),
            Some(_) => objects.push(object),
            None if object.is_null() => {}
            None => return Err(Failure::new("a document has no kind")),
        }
    }
    all(client, &objects).await
}

/// Applies objects in order.
pub(super) async fn all(client: &Client, objects: &[Value]) -> Result<(), Failure> {
    for object in objects {
        one(client, object).await?;
    }
    Ok(())
}

async fn one(client: &Client, object: &Value) -> Result<(), Failure> {
    let typed: DynamicObject =
        serde_json::from_value(object.clone()).map_err(|error| Failure::new(format!("not an object: {error}")))?;
    let types = typed.types.clone().unwrap_or_default();
    let name = format!("{} {}", types.kind, typed.name_any());
    let kind = GroupVersionKind::try_from(&types).map_err(|error| Failure::new(error).during(&name))?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match attempt_one(client, &kind, &typed, object).await {
            Ok(()) => return Ok(()),
            // A CRD that was just applied is served a moment later.
            Err(kube::Error::Api(status)) if status.code == 404 && attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Err(kube::Error::Discovery(_)) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(Failure::from(error).during(format!("cannot apply {name}"))),
        }
    }
}

async fn attempt_one(client: &Client, kind: &GroupVersionKind, typed: &DynamicObject, object: &Value) -> Result<(), kube::Error> {
    let (resource, capabilities) = discovery::pinned_kind(client, kind).await?;
    let namespace = typed.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&typed.name_any(), &params, &Patch::Apply(object)).await.map(|_| ())
}
