//! The custom resources of the mesh, as an API server takes them (crds.md).
//!
//! Those that an installation brings are the chart's own files: their template actions stand in texts of the metadata only,
//! so that each file is YAML before it is rendered, too.

use serde_json::Value;

/// File names and YAML texts of a folder.
macro_rules! crds {
    ($folder:literal: $($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!($folder, $name, ".yaml")))),*] };
}

const OF_THE_CHART: &[(&str, &str)] = crds!(
    "../../../charts/homarus-crds/templates/":
    "authorizationpolicies.policy.linkerd.io",
    "egressnetworks.policy.linkerd.io",
    "externalworkloads.workload.linkerd.io",
    "httplocalratelimitpolicies.policy.linkerd.io",
    "httproutes.policy.linkerd.io",
    "meshtlsauthentications.policy.linkerd.io",
    "networkauthentications.policy.linkerd.io",
    "serverauthorizations.policy.linkerd.io",
    "servers.policy.linkerd.io",
    "serviceprofiles.linkerd.io",
);

/// What extensions bring.
const OF_EXTENSIONS: &[(&str, &str)] = crds!("../crds/": "links.multicluster.linkerd.io");

/// Every CustomResourceDefinition of the mesh. The Gateway API's are not among them: they are the cluster's own.
pub fn all() -> Vec<Value> {
    files().filter_map(|(_, text)| read(text)).collect()
}

fn files() -> impl Iterator<Item = (&'static str, &'static str)> {
    OF_THE_CHART.iter().chain(OF_EXTENSIONS).copied()
}

/// A definition without what only an installation can know. The texts are part of the program; a test reads each.
fn read(text: &str) -> Option<Value> {
    let mut crd: Value = serde_yaml_ng::from_str(text).ok()?;
    let metadata = crd.get_mut("metadata")?.as_object_mut()?;
    metadata.retain(|key, _| key == "name");
    Some(crd)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_file_is_a_definition_with_one_stored_version() {
        for (name, text) in files() {
            let crd = read(text).unwrap();
            assert!(!crd.to_string().contains("{{"), "{name}");
            assert_eq!(crd["kind"], "CustomResourceDefinition", "{name}");
            assert_eq!(crd["metadata"], serde_json::json!({"name": name}));
            let (group, plural) = (crd["spec"]["group"].as_str().unwrap(), crd["spec"]["names"]["plural"].as_str().unwrap());
            assert_eq!(format!("{plural}.{group}"), name);
            let stored = crd["spec"]["versions"].as_array().unwrap().iter().filter(|v| v["storage"] == true).count();
            assert_eq!(stored, 1, "{name}");
        }
        assert_eq!(all().len(), files().count());
    }
}
