//! The cluster itself.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;

use super::facts::{Answer, Facts, Pass, Problem};

/// The oldest Kubernetes that is supported.
const MINIMUM: (u32, u32) = (1, 31);

pub(super) async fn initialize(facts: &Facts) -> Answer {
    facts.cluster()?;
    Ok(Pass::Yes)
}

pub(super) async fn query(facts: &Facts) -> Answer {
    facts.client()?.apiserver_version().await?;
    Ok(Pass::Yes)
}

pub(super) async fn version(facts: &Facts) -> Answer {
    let version = facts.client()?.apiserver_version().await?;
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok();
    match (number(&version.major), number(&version.minor)) {
        (Some(major), Some(minor)) if (major, minor) >= MINIMUM => Ok(Pass::Yes),
        (Some(major), Some(minor)) => Err(Problem(format!(
            "Kubernetes is on version [{major}.{minor}], but version [{}.{}] or more recent is required",
            MINIMUM.0, MINIMUM.1
        ))),
        _ => Err(Problem(format!("the API server's version {:?} can't be read", version.git_version))),
    }
}

/// The mesh works without the Gateway API: its own HTTPRoutes say the same. If it is there, it must be recent enough.
pub(super) async fn gateway_api(facts: &Facts) -> Answer {
    let crds: Api<CustomResourceDefinition> = Api::all(facts.client()?);
    let mut found = 0;
    for kind in ["httproutes", "grpcroutes"] {
        let Some(crd) = crds.get_opt(&format!("{kind}.gateway.networking.k8s.io")).await? else { continue };
        found += 1;
        if !crd.spec.versions.iter().any(|version| version.name == "v1" && version.served) {
            return Err(Problem(format!(
                "the {kind}.gateway.networking.k8s.io CRD is missing the v1 version, please upgrade to Gateway API v1.1.1 or later"
            )));
        }
    }
    Ok(if found == 0 { Pass::Skip } else { Pass::Yes })
}
