//! What the leader does: look, decide, do one step, say where it stands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use homarus_daemon::metrics::Metrics;
use homarus_identity::authority::{MakeError, Pair};
use homarus_identity::{Certificate, renewal};
use homarus_model::identity::Naming;
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::fleet::{self, Seen};
use super::plan::{self, Follows, Lifetimes, Member, Observed, Roots, Step, Waiting};
use super::store::{Rotation, SEEN, Store, StoreError, StoredRoots, Version};
use crate::issue::followers::Followers;
use crate::issue::service::Log;

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_secs(5);
/// The same while roots change.
const BUSY: Duration = Duration::from_secs(1);
/// The same while people have to do something.
const PEOPLE: Duration = Duration::from_secs(30);
/// How much longer than looking at all pods takes nobody looks again.
const REST: u32 = 10;
/// How long proxies are waited for before an Event names them, and how often it does.
const PATIENCE: Duration = Duration::from_secs(60);
const REMINDER: Duration = Duration::from_secs(600);
/// Proxies that are named, at most.
const MAX_NAMED: usize = 50;

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Make(#[from] MakeError),
    #[error("pods can't be listed: {0}")]
    Pods(#[from] kube::Error),
}

/// Makes and replaces certificates, for as long as this process leads.
#[derive(Clone)]
pub(super) struct Keeper {
    client: Client,
    naming: Naming,
    store: Store,
    lifetimes: Lifetimes,
    followers: Followers,
    log: Log,
    waiting: Gauge,
    memory: Arc<Mutex<Memory>>,
}

/// The objects as they were read: what is written counts only if they are still the same.
struct Read {
    roots: Option<StoredRoots>,
    bundle: Version,
    issuer: Version,
}

/// What is said once.
#[derive(Default)]
struct Memory {
    status: Value,
    waits: Option<(Waiting, Instant)>,
    reminded: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        naming: Naming,
        store: Store,
        lifetimes: Lifetimes,
        followers: Followers,
        log: Log,
        metrics: &Metrics,
    ) -> Self {
        let waiting = Gauge::<i64>::default();
        metrics.register(|registry| {
            let help = "Proxies that the rotation of the mesh's roots waits for, as its leader knows";
            registry.register("homarus_identity_rotation_waiting", help, waiting.clone());
        });
        Self { client, naming, store, lifetimes, followers, log, waiting, memory: Arc::default() }
    }

    pub(super) async fn run(self) {
        *self.memory.lock() = Memory::default();
        loop {
            let wait = match self.turn().await {
                Ok(wait) => wait,
                Err(error) => {
                    warn!(%error, "the mesh's certificates can't be looked after for now");
                    TICK
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Looks, and does what is next. Answers how long nothing more has to be done.
    async fn turn(&self) -> Result<Duration, StepError> {
        let now = SystemTime::now();
        let stored = self.store.roots().await?;
        let rotation = self.store.rotation().await?;
        let (bundle, bundle_version) = self.store.bundle().await?;
        let (issuer, issuer_version) = self.store.issuer().await?;
        let roots = stored.as_ref().map(|stored| stored.roots.clone());
        let read = Read { roots: stored, bundle: bundle_version, issuer: issuer_version };
        let mut seen = Observed { roots, bundle, issuer, asked: rotation.asked.clone(), fleet: None };
        let (mut step, mut took) = (plan::next(&seen, &self.lifetimes, now), Duration::ZERO);
        if matches!(step, Step::Survey) {
            let begun = Instant::now();
            let written = rotation.notes.iter().filter(|(key, _)| key.starts_with(SEEN));
            let others: Vec<Seen> = written.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect();
            let said = fleet::join(fleet::said(self.followers.standings()), others, seconds(now));
            seen.fleet = Some(fleet::survey(&self.client, &self.naming, &said, now).await?);
            (step, took) = (plan::next(&seen, &self.lifetimes, now), begun.elapsed());
        }
        self.forget(&rotation, now).await;
        self.tell(&seen, &step).await;
        let wait = pace(&step, took);
        self.perform(step, read, &seen, now).await?;
        Ok(wait)
    }

    /// Takes away what replicas wrote down that are gone.
    async fn forget(&self, rotation: &Rotation, now: SystemTime) {
        let stale = fleet::stale(&rotation.notes, seconds(now));
        if !stale.is_empty()
            && let Err(error) = self.store.forget(rotation, &stale).await
        {
            debug!(%error, "notes of replicas that are gone can't be taken away for now");
        }
    }

    async fn perform(&self, step: Step, read: Read, seen: &Observed, now: SystemTime) -> Result<(), StepError> {
        let log = |reason: &'static str, message: &str| {
            info!("{message}");
            self.log.normal(reason, message.to_owned());
        };
        match (step, read.roots) {
            (Step::MakeRoot, _) => {
                if self.store.create_root(&self.root(now)?, &seen.asked).await? {
                    log("RootMade", "made a root for this mesh");
                }
            }
            (Step::Publish(roots), _) => {
                self.store.publish(&read.bundle, &roots, now).await?;
                log("RootsPublished", &format!("the mesh believes in {} root(s) now", roots.len()));
            }
            (Step::MakeIssuer { vouched }, Some(stored)) => {
                let (issuer, above) = self.issuer(&stored.roots, vouched, now)?;
                self.store.write_issuer(&read.issuer, &issuer, above.as_ref()).await?;
                log("IssuerMade", "made a new issuer");
            }
            (Step::Begin, Some(stored)) => {
                let roots = Roots { next: Some(self.root(now)?), answered: seen.asked.clone(), ..stored.roots.clone() };
                self.store.write_roots(&stored, &roots).await?;
                log("RootRotationBegan", "made a new root; the old one is dropped when every proxy believes in the new one");
            }
            (Step::Promote, Some(stored)) => {
                let roots = stored.roots.clone();
                let roots = Roots { current: roots.target().clone(), next: None, ..roots };
                self.store.write_roots(&stored, &roots).await?;
                log("RootRotationEnded", "the new root is the only one");
            }
            (Step::Trim, _) => self.store.trim_issuer(&read.issuer).await?,
            (Step::Survey | Step::Wait(..) | Step::Rest, _) => {}
            // The plan makes nothing under a root that isn't there.
            (step, None) => error!(?step, "a step without a root"),
        }
        Ok(())
    }

    /// Roots are told apart by their names, for people.
    fn root(&self, now: SystemTime) -> Result<Pair, MakeError> {
        let day = k8s_openapi::jiff::Timestamp::try_from(now).map(|at| at.strftime("%Y-%m-%d.%H%M%S").to_string());
        let name = format!("root.{}.{} {}", self.naming.control_plane_ns, self.naming.trust_domain, day.unwrap_or_default());
        Pair::root(&name, self.lifetimes.root, now)
    }

    fn issuer(&self, roots: &Roots, vouched: bool, now: SystemTime) -> Result<(Pair, Option<Certificate>), MakeError> {
        let target = roots.target();
        let name = format!("identity.{}.{}", self.naming.control_plane_ns, self.naming.trust_domain);
        let lifetime = self.lifetimes.issuer.min(renewal::left(&target.certificate, now));
        let issuer = target.issuer(&name, lifetime, now)?;
        let above = match vouched {
            true => Some(roots.current.cross_sign(&target.certificate, now)?),
            false => None,
        };
        Ok((issuer, above))
    }

    /// Says where it stands: to `homarus identity rotate`, to who watches metrics, and in Events what needs somebody.
    async fn tell(&self, seen: &Observed, step: &Step) {
        let (waits, names): (_, &[String]) = match step {
            Step::Wait(waits, names) => (Some(*waits), names),
            _ => (None, &[]),
        };
        self.waiting.set(names.len().try_into().unwrap_or(i64::MAX));
        self.warn_of_waiting(waits, names);
        let status = status(seen, step, names);
        if self.memory.lock().status == status {
            return;
        }
        match self.store.write_status(&status).await {
            Ok(()) => self.memory.lock().status = status,
            Err(error) => warn!(%error, "where it stands can't be written down for now"),
        }
    }

    fn warn_of_waiting(&self, waits: Option<Waiting>, names: &[String]) {
        let mut memory = self.memory.lock();
        let Some(waits) = waits.filter(|_| !names.is_empty()) else {
            memory.waits = None;
            return;
        };
        let since = match memory.waits {
            Some((before, since)) if before == waits => since,
            _ => {
                memory.reminded = None;
                memory.waits.insert((waits, Instant::now())).1
            }
        };
        if since.elapsed() < PATIENCE || memory.reminded.is_some_and(|last| last.elapsed() < REMINDER) {
            return;
        }
        memory.reminded = Some(Instant::now());
        drop(memory);
        let what = match waits {
            Waiting::Belief => "to believe in the new root",
            Waiting::Leaves => "to get a certificate of the new issuer",
            Waiting::Restarts => "to be restarted, as they can't follow or don't run: until then the old root is kept",
        };
        self.log.warning("RootRotationWaits", format!("waiting for {} proxies {what}: {}", names.len(), named(names).join(", ")));
    }
}

/// How long nothing more has to be done after a step. Waiting may last for weeks, and looking at all pods has its price.
fn pace(step: &Step, survey: Duration) -> Duration {
    match step {
        Step::Wait(Waiting::Restarts, _) => PEOPLE.max(survey * REST),
        Step::Wait(Waiting::Belief | Waiting::Leaves, _) | Step::Survey => BUSY.max(survey * REST),
        Step::Rest => TICK,
        _ => Duration::ZERO,
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn named(names: &[String]) -> Vec<String> {
    let mut named: Vec<String> = names.iter().take(MAX_NAMED).cloned().collect();
    if names.len() > MAX_NAMED {
        named.push(format!("and {} more", names.len() - MAX_NAMED));
    }
    named
}

/// Who refuses the bundle, and why.
fn refusing(fleet: &[Member]) -> BTreeMap<&str, &str> {
    let refusing = fleet.iter().filter(|member| !member.refused.is_empty());
    refusing.take(MAX_NAMED).map(|member| (member.name.as_str(), member.refused.as_str())).collect()
}

/// Where it stands, as `homarus identity rotate` reads it.
fn status(seen: &Observed, step: &Step, names: &[String]) -> Value {
    let said = |certificate: &Certificate| {
        let ends = k8s_openapi::jiff::Timestamp::try_from(certificate.not_after).map(|at| at.to_string()).unwrap_or_default();
        json!({ "subject": certificate.subject, "sha256": certificate.fingerprint(), "notAfter": ends })
    };
    let phase = match step {
        Step::Wait(Waiting::Belief, _) => "spreading the new root",
        Step::Wait(Waiting::Leaves, _) => "renewing certificates",
        Step::Wait(Waiting::Restarts, _) => "waiting for restarts",
        Step::Rest => "at rest",
        _ => "changing",
    };
    let fleet = seen.fleet.as_deref().unwrap_or_default();
    let told = seen.bundle.as_ref().map(|bundle| bundle.anchors.fingerprint()).unwrap_or_default();
    let signer = seen.issuer.as_ref().map(|issuer| issuer.own.fingerprint()).unwrap_or_default();
    let count = |of: &dyn Fn(&str, &str) -> bool| {
        let says = |member: &&Member| matches!(&member.follows, Follows::Says { bundle, issuer } if of(bundle, issuer));
        fleet.iter().filter(says).count()
    };
    json!({
        "phase": phase,
        "answered": seen.roots.as_ref().map(|roots| roots.answered.as_str()),
        "root": seen.roots.as_ref().map(|roots| said(&roots.current.certificate)),
        "next": seen.roots.as_ref().and_then(|roots| roots.next.as_ref()).map(|next| said(&next.certificate)),
        "issuer": seen.issuer.as_ref().map(|issuer| said(&issuer.own)),
        "proxies": seen.fleet.as_ref().map(|fleet| json!({
            "all": fleet.len(),
            "following": count(&|_, _| true),
            "believing": count(&|bundle, _| bundle == told),
            "renewed": count(&|_, issuer| issuer == signer),
        })),
        "waitingFor": named(names),
        "refusing": refusing(fleet),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_named_with_the_reason() {
        let member = |name: &str, refused: &str| Member {
            name: name.to_owned(),
            started: UNIX_EPOCH,
            follows: Follows::Says { bundle: "old".to_owned(), issuer: "i".to_owned() },
            refused: refused.to_owned(),
        };
        let fleet = Some(vec![member("shop/a", "it is empty"), member("shop/b", "")]);
        let said = status(&Observed { fleet, ..Observed::default() }, &Step::Rest, &[]);
        assert_eq!(said["refusing"], json!({ "shop/a": "it is empty" }));
        assert_eq!(status(&Observed::default(), &Step::Rest, &[])["refusing"], json!({}));
    }

    #[test]
    fn who_waits_long_looks_seldom() {
        let wait = |waiting, survey| pace(&Step::Wait(waiting, Vec::new()), Duration::from_millis(survey));
        assert_eq!(wait(Waiting::Belief, 20), BUSY);
        assert_eq!(wait(Waiting::Leaves, 2500), Duration::from_secs(25));
        assert_eq!(wait(Waiting::Restarts, 2500), PEOPLE);
        assert_eq!((pace(&Step::Rest, Duration::ZERO), pace(&Step::Begin, Duration::ZERO)), (TICK, Duration::ZERO));
    }
}
