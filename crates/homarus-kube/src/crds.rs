//! The custom resources of the mesh, as an API server takes them (crds.md).

use serde_json::Value;

macro_rules! crds {
    ($($name:literal),* $(,)?) => {
        /// File names and YAML texts.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../crds/", $name, ".yaml")))),*];
    };
}
crds!(
    "authorizationpolicies.policy.linkerd.io",
    "egressnetworks.policy.linkerd.io",
    "externalworkloads.workload.linkerd.io",
    "httplocalratelimitpolicies.policy.linkerd.io",
    "httproutes.policy.linkerd.io",
    "links.multicluster.linkerd.io",
    "meshtlsauthentications.policy.linkerd.io",
    "networkauthentications.policy.linkerd.io",
    "serverauthorizations.policy.linkerd.io",
    "servers.policy.linkerd.io",
    "serviceprofiles.linkerd.io",
);

/// Every CustomResourceDefinition of the mesh. The Gateway API's are not among them: they are the cluster's own.
pub fn all() -> Vec<Value> {
    // The texts are part of the program; a test reads each.
    FILES.iter().filter_map(|(_, text)| serde_yaml_ng::from_str(text).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_file_is_a_definition_with_one_stored_version() {
        for (name, text) in FILES {
            let crd: Value = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(crd["kind"], "CustomResourceDefinition", "{name}");
            assert_eq!(crd["metadata"]["name"], *name);
            let (group, plural) = (crd["spec"]["group"].as_str().unwrap(), crd["spec"]["names"]["plural"].as_str().unwrap());
            assert_eq!(format!("{plural}.{group}"), *name);
            let stored = crd["spec"]["versions"].as_array().unwrap().iter().filter(|v| v["storage"] == true).count();
            assert_eq!(stored, 1, "{name}");
        }
        assert_eq!(all().len(), FILES.len());
    }
}
