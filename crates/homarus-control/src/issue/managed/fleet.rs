//! All proxies of the mesh, and what each stands on: pods as the API server knows them, joined with what subscribers said to
//! whichever replica they are connected to.
//!
//! Replicas write down whom they see while roots change, the leader reads it. A pod is known there by the start of its uid,
//! which keeps ten thousand of them far below what a ConfigMap may hold.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use homarus_identity::TrustAnchors;
use homarus_model::identity::Naming;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

use super::plan::{Follows, Member};
use crate::issue::followers::Standing;

const PROXY: &str = "linkerd-proxy";
const IDENTITY_ACCOUNT: &str = "linkerd-identity";
/// How much of a pod's uid is enough to know it.
const UID: usize = 12;
const PAGE: u32 = 500;
/// What a replica wrote that hasn't been renewed for so long is not believed.
const STALE: Duration = Duration::from_secs(60);

/// What subscribers say, by the start of their pod's uid.
pub(super) type Said = HashMap<String, Standing>;

/// Whom a replica serves, as it writes it down.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// When it was written, in seconds since the epoch.
    pub(super) at: u64,
    groups: Vec<Group>,
}

/// Those who stand on the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    bundle: String,
    issuer: String,
    identity: Option<String>,
    /// With when they said so.
    pods: Vec<(String, u64)>,
}

fn short(uid: &str) -> String {
    uid.chars().filter(|c| *c != '-').take(UID).collect()
}

/// What subscribers say, in short.
pub(super) fn said(standings: HashMap<String, Standing>) -> Said {
    standings.into_iter().map(|(uid, standing)| (short(&uid), standing)).collect()
}

impl Seen {
    pub(super) fn new(said: &Said, at: u64) -> Self {
        let mut groups: BTreeMap<_, Vec<(String, u64)>> = BTreeMap::new();
        for (pod, Standing { bundle, issuer, identity, at }) in said {
            groups.entry((bundle, issuer, identity)).or_default().push((pod.clone(), *at));
        }
        let group = |((bundle, issuer, identity), mut pods): ((&String, &String, &Option<String>), Vec<_>)| {
            pods.sort_unstable();
            Group { bundle: bundle.clone(), issuer: issuer.clone(), identity: identity.clone(), pods }
        };
        Self { at, groups: groups.into_iter().map(group).collect() }
    }

    /// Whether both say the same, whenever.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.groups == other.groups
    }
}

/// Adds what the other replicas have written down. What a pod said last counts: whoever opens another stream may do so at
/// another replica, and the one before remembers it for a while.
pub(super) fn join(mine: Said, others: impl IntoIterator<Item = Seen>, now: u64) -> Said {
    let mut all = mine;
    for seen in others.into_iter().filter(|seen| seen.at + STALE.as_secs() >= now) {
        for Group { bundle, issuer, identity, pods } in seen.groups {
            for (pod, at) in pods {
                if all.get(&pod).is_none_or(|known| known.at < at) {
                    all.insert(pod, Standing { bundle: bundle.clone(), issuer: issuer.clone(), identity: identity.clone(), at });
                }
            }
        }
    }
    all
}

/// Looks at all pods.
pub(super) async fn survey(client: &Client, naming: &Naming, said: &Said, now: SystemTime) -> kube::Result<Vec<Member>> {
    let api = Api::<Pod>::all(client.clone());
    let mut params = ListParams::default().labels(&format!("linkerd.io/control-plane-ns={}", naming.control_plane_ns)).limit(PAGE);
    let (mut members, mut believed) = (Vec::new(), Roots::default());
    loop {
        let page = api.list(&params).await?;
        members.extend(page.items.iter().filter_map(|pod| member(pod, naming, said, &mut believed, now)));
        match page.metadata.continue_.filter(|more| !more.is_empty()) {
            Some(more) => params = params.continue_token(&more),
            None => return Ok(members),
        }
    }
}

/// The roots of environments: nearly all pods have the same text.
#[derive(Default)]
struct Roots(BTreeMap<String, Option<Vec<String>>>);

impl Roots {
    fn of(&mut self, text: &str) -> Option<Vec<String>> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let read = TrustAnchors::from_pem_lossy(text).ok();
        let roots = read.map(|(anchors, _)| anchors.certificates().iter().map(|root| root.fingerprint()).collect());
        self.0.insert(text.to_owned(), roots);
        self.0.get(text).cloned().flatten()
    }
}

/// A pod whose proxy runs.
fn member(pod: &Pod, naming: &Naming, said: &Said, believed: &mut Roots, now: SystemTime) -> Option<Member> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let ending = pod.metadata.deletion_timestamp.as_ref().is_some_and(|at| SystemTime::from(at.0) < now);
    if ending || status.phase.as_deref() != Some("Running") {
        return None;
    }
    let named = |container: &&Container| container.name == PROXY;
    let proxy = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(named)?;
    let runs = |status: &&ContainerStatus| status.name == PROXY;
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let running = statuses.into_iter().find(runs)?.state.as_ref()?.running.as_ref()?;
    let started = running.started_at.as_ref().map_or(now, |at| SystemTime::from(at.0));
    let namespace = pod.namespace().unwrap_or_default();
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let standing = said.get(&short(pod.metadata.uid.as_deref().unwrap_or_default()));
    let follows = match standing.filter(|standing| is_of(standing, account, &namespace, naming)) {
        Some(Standing { bundle, issuer, .. }) => Follows::Says { bundle: bundle.clone(), issuer: issuer.clone() },
        None => {
            let variable = proxy.env.iter().flatten().find(|v| v.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS");
            Follows::Silent(variable.and_then(|v| v.value.as_deref()).and_then(|text| believed.of(text)))
        }
    };
    Some(Member { name: format!("{namespace}/{}", pod.name_any()), started, follows })
}

/// Whether a subscriber may speak for a pod of this service account. The identity controller's own proxy comes over loopback,
/// and shows nothing there.
fn is_of(standing: &Standing, account: &str, namespace: &str, naming: &Naming) -> bool {
    let Naming { control_plane_ns, trust_domain } = naming;
    match &standing.identity {
        Some(identity) => *identity == format!("{account}.{namespace}.serviceaccount.identity.{control_plane_ns}.{trust_domain}"),
        None => account == IDENTITY_ACCOUNT && *namespace == **control_plane_ns,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use homarus_identity::authority::Pair;
    use serde_json::{Value, json};

    const WEB: &str = "web.shop.serviceaccount.identity.linkerd.cluster.local";

    fn naming() -> Naming {
        Naming { control_plane_ns: "linkerd".into(), trust_domain: "cluster.local".into() }
    }

    fn standing(identity: Option<&str>) -> Standing {
        Standing { bundle: "b".into(), issuer: "i".into(), identity: identity.map(str::to_owned), at: 0 }
    }

    fn pod(anchors: Value) -> Value {
        json!({
            "metadata": { "name": "web-0", "namespace": "shop", "uid": "0f3e2d1c-aaaa-bbbb" },
            "spec": { "serviceAccountName": "web", "containers": [], "initContainers": [{ "name": "linkerd-proxy",
                "env": [{ "name": "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", "value": anchors }] }] },
            "status": { "phase": "Running", "initContainerStatuses": [{ "name": "linkerd-proxy", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": { "running": { "startedAt": "2026-11-21T12:00:00Z" } } }] },
        })
    }

    fn read(pod: Value, said: &Said) -> Option<Follows> {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        member(&pod, &naming(), said, &mut Roots::default(), SystemTime::now()).map(|member| member.follows)
    }

    #[test]
    fn a_subscriber_speaks_for_pods_of_its_own_account_only() {
        let root = Pair::root("root", Duration::from_secs(3600), SystemTime::now()).unwrap().certificate;
        let by = |identity: Option<&str>| said(HashMap::from([("0f3e2d1c-aaaa-bbbb".to_owned(), standing(identity))]));
        let silent = Some(Follows::Silent(Some(vec![root.fingerprint()])));
        let says = Some(Follows::Says { bundle: "b".into(), issuer: "i".into() });
        let pod = || pod(root.to_pem().into());
        assert_eq!(read(pod(), &Said::new()), silent);
        assert_eq!(read(pod(), &by(Some(WEB))), says);
        assert_eq!(read(pod(), &by(Some(&WEB.replace("web", "api")))), silent, "somebody else's word");
        assert_eq!(read(pod(), &by(None)), silent, "nobody's word");
        let mut own = pod();
        own["metadata"]["namespace"] = "linkerd".into();
        own["spec"]["serviceAccountName"] = "linkerd-identity".into();
        assert_eq!(read(own, &by(None)), says, "over loopback");
    }

    #[test]
    fn proxies_that_do_not_run_are_not_counted() {
        let mut waiting = pod(Value::Null);
        waiting["status"]["initContainerStatuses"][0]["state"] = json!({ "waiting": {} });
        let mut done = pod(Value::Null);
        done["status"]["phase"] = "Succeeded".into();
        let mut gone = pod(Value::Null);
        gone["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
        let mut unmeshed = pod(Value::Null);
        unmeshed["spec"]["initContainers"] = json!([]);
        for pod in [waiting, done, gone, unmeshed] {
            assert_eq!(read(pod, &Said::new()), None);
        }
        assert_eq!(read(pod(Value::Null), &Said::new()), Some(Follows::Silent(None)), "its roots are those of its start");
        assert_eq!(read(pod("nonsense".into()), &Said::new()), Some(Follows::Silent(None)));
    }

    #[test]
    fn what_a_pod_said_last_counts_to_whomever_it_said_it() {
        let of = |bundle: &str, at: u64| Standing { bundle: bundle.into(), at, ..standing(Some(WEB)) };
        let written = |pods: &[(&str, &str, u64)], at| {
            let said: Said = pods.iter().map(|(pod, bundle, at)| ((*pod).to_owned(), of(bundle, *at))).collect();
            let text = serde_json::to_string(&Seen::new(&said, at)).unwrap();
            serde_json::from_str::<Seen>(&text).unwrap()
        };
        let mine = Said::from([("a".to_owned(), of("new", 7)), ("d".to_owned(), of("old", 3))]);
        let others = [
            written(&[("a", "old", 5), ("b", "old", 5), ("d", "new", 4)], 1000),
            written(&[("b", "new", 6)], 990),
            written(&[("c", "old", 5)], 900),
        ];
        let all = join(mine, others, 1001);
        let mut all: Vec<_> = all.iter().map(|(pod, standing)| (pod.as_str(), standing.bundle.as_str())).collect();
        all.sort_unstable();
        assert_eq!(all, [("a", "new"), ("b", "new"), ("d", "new")], "and what is old isn't believed");
        assert!(written(&[("a", "x", 1), ("b", "x", 1)], 1).same(&written(&[("b", "x", 1), ("a", "x", 1)], 2)));
        assert!(!written(&[("a", "x", 1)], 1).same(&written(&[("a", "y", 1)], 1)));
    }
}
