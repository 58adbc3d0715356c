//! What an installation remembers for the next upgrade: Secret `linkerd-config-overrides`, with every value that differs from the
//! chart's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Map, Value as Json, json};

use crate::chart::{self, Values};
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::inject::source;

/// The Secret's name, and that of its key.
const NAME: &str = "linkerd-config-overrides";

/// The Secret for values.
pub(super) fn secret(namespace: &str, user: &Values, defaults: &Values) -> Result<Json, Failure> {
    let differing = Json::Object(differing(user, defaults));
    let text = chart::to_yaml(&differing).map_err(Failure::new)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": NAME, "namespace": namespace, "labels": { "linkerd.io/control-plane-ns": namespace } },
        "data": { NAME: STANDARD.encode(text) }
    }))
}

/// The values that aren't the chart's; what a null removed stays removed.
fn differing(user: &Values, defaults: &Values) -> Values {
    let mut kept = Map::new();
    for (key, value) in user {
        match (value, defaults.get(key)) {
            (Json::Object(user), Some(Json::Object(defaults))) => {
                let inner = differing(user, defaults);
                if !inner.is_empty() {
                    kept.insert(key.clone(), Json::Object(inner));
                }
            }
            (value, Some(default)) if same(value, default) => {}
            (value, _) => {
                kept.insert(key.clone(), value.clone());
            }
        }
    }
    kept
}

/// On an upgrade a null removes what was stored, so that the chart's value counts again. Where nothing was stored it stays, and
/// removes the chart's.
pub(super) fn forgetting(before: &Values, mut user: Values) -> Values {
    for (key, stored) in before {
        match (user.get_mut(key), stored) {
            (Some(Json::Object(inner)), Json::Object(stored)) => *inner = forgetting(stored, std::mem::take(inner)),
            (Some(Json::Null), stored) if !stored.is_null() => drop(user.remove(key)),
            _ => {}
        }
    }
    user
}

/// Numbers are the same whether they came by a file or by a flag.
fn same(value: &Json, default: &Json) -> bool {
    match (value.as_f64(), default.as_f64()) {
        (Some(value), Some(default)) => value == default,
        _ => value == default,
    }
}

/// The values of an installation, of a cluster or of a dump.
pub(super) async fn find(cluster: Option<&Cluster>, dump: Option<&str>) -> Result<Json, Failure> {
    let data = match (cluster, dump) {
        (_, Some(file)) => of_dump(file).await?,
        (Some(cluster), None) => of_cluster(cluster).await?,
        (None, None) => None,
    };
    let text = data.ok_or_else(missing)?;
    let values = chart::objects(&text).map_err(|what| Failure::new(format!("Secret/{NAME}: {what}")))?;
    Ok(flattened(values.into_iter().next().unwrap_or_else(|| json!({}))))
}

async fn of_cluster(cluster: &Cluster) -> Result<Option<String>, Failure> {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.control_plane_ns);
    let secret = secrets.get_opt(NAME).await?;
    let data = secret.and_then(|secret| secret.data?.remove(NAME));
    Ok(data.map(|data| String::from_utf8_lossy(&data.0).into_owned()))
}

async fn of_dump(file: &str) -> Result<Option<String>, Failure> {
    let text = source::read(Some(file)).await?;
    let objects = chart::objects(&text).map_err(|what| Failure::new(format!("{file}: {what}")))?;
    let items = objects.iter().flat_map(|object| match object["items"].as_array() {
        Some(items) => items.iter().collect(),
        None => vec![object],
    });
    let mut found = items.filter(|object| object["kind"] == "Secret" && object["metadata"]["name"] == NAME);
    let encoded = found.next().and_then(|secret| secret["data"][NAME].as_str().map(str::to_owned));
    let decode =
        |encoded: String| STANDARD.decode(encoded).map_err(|error| Failure::new(format!("{file}: Secret/{NAME}: {error}")));
    Ok(encoded.map(decode).transpose()?.map(|data| String::from_utf8_lossy(&data).into_owned()))
}

fn missing() -> Failure {
    Failure::new(format!("Secret/{NAME} could not be found: installations by Helm have none"))
        .remedy("If you installed with Helm, upgrade with `helm upgrade`; else install with `homarus install`.")
}

/// Old installations kept everything under `global`.
fn flattened(mut values: Json) -> Json {
    let global = values.as_object_mut().and_then(|fields| fields.remove("global"));
    match (values, global) {
        (Json::Object(fields), Some(Json::Object(global))) => Json::Object(chart::over(fields, global)),
        (values, _) => values,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(json: Json) -> Values {
        json.as_object().cloned().unwrap()
    }

    #[test]
    fn only_what_differs_is_kept() {
        let defaults = fields(json!({ "a": 1.0, "b": { "c": 2.0, "d": "x" }, "l": [1], "e": { "f": 1.0 } }));
        let user = fields(json!({ "a": 1, "b": { "c": 3, "d": "x" }, "l": [], "e": { "f": 1 }, "g": null, "h": { "i": 1 } }));
        assert_eq!(Json::Object(differing(&user, &defaults)), json!({ "b": { "c": 3 }, "l": [], "g": null, "h": { "i": 1 } }));
    }

    #[test]
    fn a_null_forgets_what_was_stored() {
        let before = fields(json!({ "a": 1, "b": { "c": 2, "d": 3 }, "e": null }));
        let user = fields(json!({ "a": null, "b": { "c": null, "d": 3 }, "e": null, "f": null }));
        let left = Json::Object(forgetting(&before, user));
        assert_eq!(left, json!({ "b": { "d": 3 }, "e": null, "f": null }));
    }

    #[test]
    fn a_secret_holds_them_as_yaml() {
        let secret = secret("mesh", &fields(json!({ "a": 2 })), &fields(json!({ "a": 1 }))).unwrap();
        assert_eq!(secret["metadata"]["namespace"], json!("mesh"));
        assert_eq!(STANDARD.decode(secret["data"][NAME].as_str().unwrap()).unwrap(), b"a: 2\n");
    }

    #[test]
    fn a_global_level_is_no_level() {
        assert_eq!(flattened(json!({ "global": { "a": 1 }, "b": 2 })), json!({ "a": 1, "b": 2 }));
    }
}
