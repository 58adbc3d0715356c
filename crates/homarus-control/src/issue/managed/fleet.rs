//! All proxies of the mesh, and what each stands on: pods as the API server knows them, joined with what subscribers said to
//! whichever replica they are connected to.
//!
//! Replicas write down whom they see while roots change, the leader reads it. A pod is known there by the start of its uid,
//! which keeps ten thousand of them far below what a ConfigMap may hold. Whoever follows says what it likes, under any number of
//! names: a replica's note is bounded ([`MAX_NOTE`]), identities that need least of it come first, and whoever isn't named is only
//! counted, and taken for one that can't follow.
//!
//! A proxy that doesn't run yet, or not just now, counts as well: it will start with the roots of its environment.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use homarus_identity::TrustAnchors;
use homarus_model::identity::Naming;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod, PodSpec};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

use super::plan::{Follows, Member};
use super::store::SEEN;
use crate::issue::followers::{Standing, Subscriber};

const PROXY: &str = "linkerd-proxy";
const IDENTITY_ACCOUNT: &str = "linkerd-identity";
/// How much of a pod's uid is enough to know it.
const UID: usize = 12;
const PAGE: u32 = 500;
/// What a replica wrote that hasn't been renewed for so long is not believed.
const STALE: Duration = Duration::from_secs(60);
/// What one replica may write down, in bytes: three of them fit into a ConfigMap, which holds 1 MiB.
const MAX_NOTE: usize = 320 * 1024;
/// Of how many it writes down why they refuse.
const MAX_REFUSALS: usize = 50;

/// What subscribers say; of their pods' uids only the start is known.
pub(super) type Said = HashMap<Subscriber, Standing>;

/// Whom a replica serves, as it writes it down.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// When it was written, in seconds since the epoch.
    pub(super) at: u64,
    groups: Vec<Group>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<Refusal>,
    /// How many there was no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) unnamed: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
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

/// Why one refuses what it was told last.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    pod: String,
    identity: Option<String>,
    why: String,
}

/// How long something is as it is written down.
fn written(value: &impl Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len())
}

impl Group {
    /// Leaves those for whom there is room; answers what is left of that.
    fn fit(&mut self, room: usize) -> usize {
        let Self { bundle, issuer, identity, pods } = &self;
        let head = Self { bundle: bundle.clone(), issuer: issuer.clone(), identity: identity.clone(), pods: Vec::new() };
        let Some(mut left) = room.checked_sub(written(&head) + 1) else {
            self.pods.clear();
            return room;
        };
        // Each with the comma after it.
        let fits = |pod: &&(String, u64)| left.checked_sub(written(pod) + 1).map(|rest| left = rest).is_some();
        let number = pods.iter().take_while(fits).count();
        self.pods.truncate(number);
        if number == 0 { room } else { left }
    }
}

/// The first of each identity, then the second of each, and so on: no one takes the place of others.
fn refusals(said: &Said) -> Vec<Refusal> {
    let mut of: BTreeMap<&Option<String>, Vec<(&str, &str)>> = BTreeMap::new();
    for (Subscriber { instance, identity }, Standing { refused, .. }) in said.iter().filter(|(_, says)| !says.refused.is_empty()) {
        of.entry(identity).or_default().push((instance, refused));
    }
    let mut all: Vec<_> = Vec::new();
    for (identity, mut pods) in of {
        pods.sort_unstable();
        all.extend(pods.into_iter().take(MAX_REFUSALS).enumerate().map(|(rank, (pod, why))| (rank, identity, pod, why)));
    }
    all.sort_by_key(|(rank, ..)| *rank);
    let refusal = |(_, identity, pod, why): (usize, &Option<String>, &str, &str)| Refusal {
        pod: pod.to_owned(),
        identity: identity.clone(),
        why: why.to_owned(),
    };
    all.into_iter().take(MAX_REFUSALS).map(refusal).collect()
}

fn short(uid: &str) -> String {
    uid.chars().filter(|c| *c != '-').take(UID).collect()
}

/// What subscribers say, in short.
pub(super) fn said(standings: HashMap<Subscriber, Standing>) -> Said {
    let shortened = |subscriber: Subscriber| Subscriber { instance: short(&subscriber.instance), ..subscriber };
    standings.into_iter().map(|(subscriber, standing)| (shortened(subscriber), standing)).collect()
}

/// The notes that nobody renews any more.
pub(super) fn stale(notes: &BTreeMap<String, String>, now: u64) -> Vec<&str> {
    let renewed = |text: &String| serde_json::from_str::<Seen>(text).is_ok_and(|seen| seen.is_fresh(now));
    let stale = notes.iter().filter(|(key, text)| key.starts_with(SEEN) && !renewed(text));
    stale.map(|(key, _)| key.as_str()).collect()
}

impl Seen {
    pub(super) fn new(said: &Said, at: u64) -> Self {
        let mut of: BTreeMap<_, Vec<(String, u64)>> = BTreeMap::new();
        for (Subscriber { instance, identity }, Standing { bundle, issuer, at, .. }) in said {
            of.entry((identity, bundle, issuer)).or_default().push((instance.clone(), *at));
        }
        let groups = of.into_iter().map(|((identity, bundle, issuer), mut pods)| {
            pods.sort_unstable();
            Group { bundle: bundle.clone(), issuer: issuer.clone(), identity: identity.clone(), pods }
        });
        let mut seen = Self { at, groups: groups.collect(), refusals: refusals(said), unnamed: 0 };
        seen.fit(MAX_NOTE);
        seen
    }

    /// Leaves as much as fits into so many bytes.
    fn fit(&mut self, bytes: usize) {
        let mut weights: HashMap<Option<String>, usize> = HashMap::new();
        for group in &self.groups {
            let weight = written(group);
            *weights.entry(group.identity.clone()).or_default() += weight;
        }
        // What is the same for all of an identity keeps its groups together; of these the largest is first.
        self.groups.sort_by_cached_key(|group| {
            (weights.get(&group.identity).copied(), group.identity.clone(), std::cmp::Reverse(group.pods.len()))
        });
        let mut room = bytes.saturating_sub(written(&Self { at: self.at, unnamed: usize::MAX, ..Self::default() }));
        room = room.saturating_sub(written(&self.refusals));
        for group in &mut self.groups {
            let all = group.pods.len();
            room = group.fit(room);
            self.unnamed += all - group.pods.len();
        }
        self.groups.retain(|group| !group.pods.is_empty());
    }

    /// Whether both say the same, whenever.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.groups, &self.refusals, self.unnamed) == (&other.groups, &other.refusals, other.unnamed)
    }

    fn is_fresh(&self, now: u64) -> bool {
        self.at + STALE.as_secs() >= now
    }
}

/// Adds what the other replicas have written down. What a pod said last counts: whoever opens another stream may do so at
/// another replica, and the one before remembers it for a while.
pub(super) fn join(mine: Said, others: impl IntoIterator<Item = Seen>, now: u64) -> Said {
    let mut all = mine;
    for seen in others.into_iter().filter(|seen| seen.is_fresh(now)) {
        let refusals = seen.refusals.into_iter();
        let mut refusals: HashMap<_, _> =
            refusals.map(|Refusal { pod: instance, identity, why }| (Subscriber { instance, identity }, why)).collect();
        for Group { bundle, issuer, identity, pods } in seen.groups {
            for (instance, at) in pods {
                let subscriber = Subscriber { instance, identity: identity.clone() };
                if all.get(&subscriber).is_none_or(|known| known.at < at) {
                    let refused = refusals.remove(&subscriber).unwrap_or_default();
                    let (bundle, issuer) = (bundle.clone(), issuer.clone());
                    all.insert(subscriber, Standing { bundle, issuer, refused, at });
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

/// A pod whose proxy runs, or may run again.
fn member(pod: &Pod, naming: &Naming, said: &Said, believed: &mut Roots, now: SystemTime) -> Option<Member> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    let ending = pod.metadata.deletion_timestamp.as_ref().is_some_and(|at| SystemTime::from(at.0) < now);
    let over = matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    if ending || over {
        return None;
    }
    let named = |container: &&Container| container.name == PROXY;
    let proxy = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(named)?;
    let its = |status: &&ContainerStatus| status.name == PROXY;
    let statuses = status.into_iter().flat_map(|status| [&status.container_statuses, &status.init_container_statuses]);
    let state = statuses.flatten().flatten().find(its).and_then(|status| status.state.as_ref());
    if state.is_some_and(|state| has_ended(state, proxy, spec)) {
        return None;
    }
    let running = state.and_then(|state| state.running.as_ref());
    let started = running.and_then(|running| running.started_at.as_ref()).map_or(now, |at| SystemTime::from(at.0));
    let namespace = pod.namespace().unwrap_or_default();
    let account = spec.service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let speaker = speaker(pod.metadata.uid.as_deref().unwrap_or_default(), account, &namespace, naming);
    // What one said before it ended doesn't count.
    let standing = running.and_then(|_| speaker.iter().find_map(|speaker| said.get(speaker)));
    let refused = standing.map(|standing| standing.refused.clone()).unwrap_or_default();
    let follows = match standing {
        Some(Standing { bundle, issuer, .. }) => Follows::Says { bundle: bundle.clone(), issuer: issuer.clone() },
        None => {
            let variable = proxy.env.iter().flatten().find(|v| v.name == "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS");
            Follows::Silent(variable.and_then(|v| v.value.as_deref()).and_then(|text| believed.of(text)))
        }
    };
    Some(Member { name: format!("{namespace}/{}", pod.name_any()), started, follows, refused })
}

/// Whether a proxy has ended, and kubelet doesn't start it again.
fn has_ended(state: &ContainerState, proxy: &Container, spec: &PodSpec) -> bool {
    let Some(end) = &state.terminated else { return false };
    match proxy.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => true,
        Some("OnFailure") => end.exit_code == 0,
        _ => false,
    }
}

/// As whom a subscriber may speak for a pod of this service account. The identity controller's own proxy comes over loopback,
/// and shows nothing there.
fn speaker(uid: &str, account: &str, namespace: &str, naming: &Naming) -> Vec<Subscriber> {
    let Naming { control_plane_ns, trust_domain } = naming;
    let identity = format!("{account}.{namespace}.serviceaccount.identity.{control_plane_ns}.{trust_domain}");
    let ours = account == IDENTITY_ACCOUNT && *namespace == **control_plane_ns;
    let known = std::iter::once(Some(identity)).chain(ours.then_some(None));
    known.map(|identity| Subscriber { instance: short(uid), identity }).collect()
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

    fn subscriber(instance: &str, identity: Option<&str>) -> Subscriber {
        Subscriber { instance: instance.into(), identity: identity.map(str::to_owned) }
    }

    fn standing(bundle: &str, at: u64) -> Standing {
        Standing { bundle: bundle.into(), issuer: "i".into(), refused: String::new(), at }
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
        let by = |identity: Option<&str>| said(HashMap::from([(subscriber("0f3e2d1c-aaaa-bbbb", identity), standing("b", 0))]));
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
        let mut both = by(Some(WEB));
        both.extend(by(Some(&WEB.replace("web", "api"))));
        both.extend(by(None));
        assert_eq!(read(pod(), &both), says, "nobody else's word takes its place");
    }

    #[test]
    fn proxies_that_will_not_run_again_are_not_counted() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut pod = pod(Value::Null);
            change(&mut pod);
            read(pod, &Said::new())
        };
        let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
        let ends = |policy: &'static str, code: i32| {
            with(&|pod| {
                pod["spec"]["restartPolicy"] = policy.into();
                pod["status"]["initContainerStatuses"][0]["state"] = ended(code);
            })
        };
        let silent = Some(Follows::Silent(None));
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(with(&|pod| pod["status"]["phase"] = phase.into()), None, "{phase}");
        }
        assert_eq!(with(&|pod| pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into()), None);
        assert_eq!(with(&|pod| pod["spec"]["initContainers"] = json!([])), None, "not meshed");
        assert_eq!([ends("Never", 1), ends("OnFailure", 0)], [None, None]);
        assert_eq!([ends("OnFailure", 1), ends("Always", 0)], [silent.clone(), silent.clone()]);
        assert_eq!(with(&|_| {}), silent, "its roots are those of its start");
        assert_eq!(read(pod("nonsense".into()), &Said::new()), silent);
    }

    #[test]
    fn proxies_that_do_not_run_yet_stand_on_their_environment() {
        let root = Pair::root("root", Duration::from_secs(3600), SystemTime::now()).unwrap().certificate;
        let silent = Some(Follows::Silent(Some(vec![root.fingerprint()])));
        let said = said(HashMap::from([(subscriber("0f3e2d1c-aaaa-bbbb", Some(WEB)), standing("b", 0))]));
        let running = pod(root.to_pem().into());
        let mut starting = running.clone();
        starting["status"]["phase"] = "Pending".into();
        assert!(matches!(read(starting.clone(), &said), Some(Follows::Says { .. })), "a sidecar runs before its pod does");
        let mut backing_off = running.clone();
        backing_off["status"]["initContainerStatuses"][0]["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let mut unscheduled = starting;
        unscheduled["status"] = json!({ "phase": "Pending" });
        let mut new = running;
        new["status"] = Value::Null;
        for pod in [backing_off, unscheduled, new] {
            assert_eq!(read(pod.clone(), &said), silent, "{pod}");
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let now = SystemTime::now();
            assert_eq!(member(&pod, &naming(), &Said::new(), &mut Roots::default(), now).unwrap().started, now);
        }
    }

    #[test]
    fn what_a_pod_said_last_counts_to_whomever_it_said_it() {
        let web = |pod: &str| subscriber(pod, Some(WEB));
        let written = |pods: &[(&str, &str, u64)], at| {
            let said: Said = pods.iter().map(|(pod, bundle, at)| (web(pod), standing(bundle, *at))).collect();
            let text = serde_json::to_string(&Seen::new(&said, at)).unwrap();
            serde_json::from_str::<Seen>(&text).unwrap()
        };
        let mine = Said::from([(web("a"), standing("new", 7)), (web("d"), standing("old", 3))]);
        let others = [
            written(&[("a", "old", 5), ("b", "old", 5), ("d", "new", 4)], 1000),
            written(&[("b", "new", 6)], 990),
            written(&[("c", "old", 5)], 900),
        ];
        let all = join(mine, others, 1001);
        let mut all: Vec<_> = all.iter().map(|(pod, standing)| (pod.instance.as_str(), standing.bundle.as_str())).collect();
        all.sort_unstable();
        assert_eq!(all, [("a", "new"), ("b", "new"), ("d", "new")], "and what is old isn't believed");
        assert!(written(&[("a", "x", 1), ("b", "x", 1)], 1).same(&written(&[("b", "x", 1), ("a", "x", 1)], 2)));
        assert!(!written(&[("a", "x", 1)], 1).same(&written(&[("a", "y", 1)], 1)));
    }

    #[test]
    fn why_a_proxy_refuses_goes_along() {
        let web = || subscriber("0f3e2d1c-aaaa-bbbb", Some(WEB));
        let standing = Standing { refused: "the bundle is empty".into(), ..standing("b", 1) };
        let said = said(HashMap::from([(web(), standing.clone())]));
        let written = serde_json::to_string(&Seen::new(&said, 1000)).unwrap();
        let said = join(Said::new(), [serde_json::from_str(&written).unwrap()], 1000);
        assert_eq!(said[&subscriber(&short("0f3e2d1c-aaaa-bbbb"), Some(WEB))], standing);
        let pod: Pod = serde_json::from_value(pod(Value::Null)).unwrap();
        let found = member(&pod, &naming(), &said, &mut Roots::default(), SystemTime::now()).unwrap();
        assert_eq!(found.refused, "the bundle is empty");
        let plain = written_by(&[(web(), Standing { refused: String::new(), ..standing })]);
        assert!(!plain.contains("refus") && !plain.contains("unnamed"), "{plain}");
    }

    fn written_by(said: &[(Subscriber, Standing)]) -> String {
        serde_json::to_string(&Seen::new(&said.iter().cloned().collect(), 1000)).unwrap()
    }

    #[test]
    fn one_that_makes_up_followers_takes_no_room_of_others() {
        let made_up = |i: usize| {
            let unique = |what: &str| format!("{what}{i:0>63}");
            let refused = format!("{i:\"<256}");
            let standing = Standing { bundle: unique("b"), issuer: unique("i"), refused, at: 1_700_000_000_000 };
            (subscriber(&format!("{i:0>12}"), Some(&"x".repeat(253))), standing)
        };
        let honest = |i: usize| (subscriber(&format!("{i:0>12}"), Some(WEB)), standing("b", 1_700_000_000_000));
        let refuses = Standing { refused: "the bundle is empty".into(), ..standing("b", 7) };
        let api = (subscriber("a", Some("api")), refuses);
        let said: Vec<_> = (0..10_000).map(made_up).chain((0..3000).map(honest)).chain([api.clone()]).collect();
        let text = written_by(&said);
        assert!(text.len() <= MAX_NOTE && text.len() > MAX_NOTE - 1000, "{}", text.len());
        let seen: Seen = serde_json::from_str(&text).unwrap();
        let (unnamed, refusals) = (seen.unnamed, seen.refusals.len());
        let all = join(Said::new(), [seen], 1000);
        assert_eq!((all.len() + unnamed, refusals), (13_001, MAX_REFUSALS));
        assert!((0..3000).all(|i| all.contains_key(&honest(i).0)), "all others are named");
        assert_eq!(all[&api.0], api.1, "with their reasons");
    }

    #[test]
    fn of_a_mesh_that_is_too_large_as_many_are_named_as_fit() {
        let web = |i: usize| (subscriber(&format!("{i:0>12}"), Some(WEB)), standing("b", 1_700_000_000_000));
        let text = written_by(&(0..20_000).map(web).collect::<Vec<_>>());
        assert!(text.len() <= MAX_NOTE && text.len() > MAX_NOTE - 200, "{}", text.len());
        let seen: Seen = serde_json::from_str(&text).unwrap();
        let unnamed = seen.unnamed;
        let named = join(Said::new(), [seen], 1000).len();
        assert!(named > 10_000 && named + unnamed == 20_000, "{named}");
    }

    #[test]
    fn notes_that_nobody_renews_are_stale() {
        let note = |at: u64| serde_json::to_string(&Seen::new(&Said::new(), at)).unwrap();
        let notes = [("seen.a", note(940)), ("seen.b", note(939)), ("seen.c", "nonsense".into()), ("status", "{}".into())];
        let notes = BTreeMap::from(notes.map(|(key, text)| (key.to_owned(), text)));
        assert_eq!(stale(&notes, 1000), ["seen.b", "seen.c"]);
    }
}
