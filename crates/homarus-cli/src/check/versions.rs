//! Versions: what this program is, what runs, and what should.
//!
//! No server is asked for the newest version: a check tells nobody that a mesh is there. Whoever knows what is newest says so
//! with `--expected-version`; without it, these checks have no meaning and are left out.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::facts::{Answer, Facts, Pass, Problem, unless_empty};
use crate::version;

/// A version beside the expected one.
fn expected(facts: &Facts, running: &str) -> Answer {
    match &facts.expected {
        None => Ok(Pass::Skip),
        Some(latest) if latest == running => Ok(Pass::Yes),
        Some(latest) => Err(Problem(format!("is running version {running} but the latest version is {latest}"))),
    }
}

pub(super) async fn latest_is_known(facts: &Facts) -> Answer {
    Ok(facts.expected.as_ref().map_or(Pass::Skip, |version| Pass::As(format!("{version}, as --expected-version says"))))
}

pub(super) async fn of_cli(facts: &Facts) -> Answer {
    expected(facts, &facts.version)
}

pub(super) async fn control_plane_is_known(facts: &Facts) -> Answer {
    Ok(Pass::As(version::of_control_plane(facts.cluster()?).await?))
}

pub(super) async fn of_control_plane(facts: &Facts) -> Answer {
    expected(facts, &version::of_control_plane(facts.cluster()?).await?)
}

pub(super) async fn control_plane_matches(facts: &Facts) -> Answer {
    let running = version::of_control_plane(facts.cluster()?).await?;
    if running == facts.version {
        return Ok(Pass::Yes);
    }
    Err(Problem(format!("control plane running {running} but cli running {}", facts.version)))
}

/// Pods whose proxy has another version; those pinned by a digest are passed over.
fn others(pods: &[Pod], version: &str) -> Vec<String> {
    let versions = pods.iter().filter_map(|pod| Some((pod, version::proxy_version(pod)?)));
    let others = versions.filter(|(_, running)| !running.is_empty() && running != version);
    others.map(|(pod, running)| format!("{}/{} ({running})", pod.namespace().unwrap_or_default(), pod.name_any())).collect()
}

fn up_to_date(facts: &Facts, pods: &[Pod]) -> Answer {
    match &facts.expected {
        None => Ok(Pass::Skip),
        Some(latest) => unless_empty("some proxies are not running the current version:", &others(pods, latest)),
    }
}

fn as_cli(facts: &Facts, pods: &[Pod]) -> Answer {
    unless_empty("some proxies are not running the version of the cli:", &others(pods, &facts.version))
}

pub(super) async fn control_plane_proxies(facts: &Facts) -> Answer {
    up_to_date(facts, &facts.control_plane_pods().await?)
}

pub(super) async fn control_plane_proxies_match(facts: &Facts) -> Answer {
    as_cli(facts, &facts.control_plane_pods().await?)
}

pub(super) async fn data_plane(facts: &Facts) -> Answer {
    up_to_date(facts, &facts.data_plane_pods().await?)
}

pub(super) async fn data_plane_matches(facts: &Facts) -> Answer {
    as_cli(facts, &facts.data_plane_pods().await?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn proxies_of_other_versions() {
        let pod = |name: &str, image: &str| {
            let containers = json!([{ "name": "linkerd-proxy", "image": image }]);
            serde_json::from_value::<Pod>(
                json!({ "metadata": { "name": name, "namespace": "n" }, "spec": { "containers": containers } }),
            )
            .unwrap()
        };
        let pods = [pod("a", "x/proxy:1"), pod("b", "x/proxy:2"), pod("c", "x/proxy@sha256:0"), Pod::default()];
        assert_eq!(others(&pods, "1"), ["n/b (2)"]);
        assert_eq!(others(&pods, "2"), ["n/a (1)"]);
    }
}
