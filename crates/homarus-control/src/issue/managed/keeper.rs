//! What the leader does: look, decide, do one step, say where it stands.

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
use super::store::{SEEN, Store, StoreError, StoredRoots};
use crate::issue::followers::Followers;
use crate::issue::service::Log;

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_secs(5);
/// The same while roots change.
const BUSY: Duration = Duration::from_secs(1);
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
        let (asked, notes) = self.store.rotation().await?;
        let mut seen = Observed {
            roots: stored.as_ref().map(|stored| stored.roots.clone()),
            bundle: self.store.bundle().await?,
            issuer: self.store.issuer().await?,
            asked,
            fleet: None,
        };
        let mut step = plan::next(&seen, &self.lifetimes, now);
        if matches!(step, Step::Survey) {
            let written = notes.iter().filter(|(key, _)| key.starts_with(SEEN));
            let others: Vec<Seen> = written.filter_map(|(_, text)| serde_json::from_str(text).ok()).collect();
            let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let said = fleet::join(fleet::said(self.followers.standings()), others, seconds);
            seen.fleet = Some(fleet::survey(&self.client, &self.naming, &said, now).await?);
            step = plan::next(&seen, &self.lifetimes, now);
        }
        self.tell(&seen, &step).await;
        self.perform(step, stored, &seen, now).await
    }

    async fn perform(
        &self,
        step: Step,
        stored: Option<StoredRoots>,
        seen: &Observed,
        now: SystemTime,
    ) -> Result<Duration, StepError> {
        let log = |reason: &'static str, message: &str| {
            info!("{message}");
            self.log.normal(reason, message.to_owned());
        };
        match (step, stored) {
            (Step::MakeRoot, _) => {
                if self.store.create_root(&self.root(now)?, &seen.asked).await? {
                    log("RootMade", "made a root for this mesh");
                }
            }
            (Step::Publish(roots), _) => {
                self.store.publish(&roots, now).await?;
                log("RootsPublished", &format!("the mesh believes in {} root(s) now", roots.len()));
            }
            (Step::MakeIssuer { vouched }, Some(stored)) => {
                let (issuer, above) = self.issuer(&stored.roots, vouched, now)?;
                self.store.write_issuer(&issuer, above.as_ref()).await?;
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
            (Step::Trim, _) => self.store.trim_issuer().await?,
            (Step::Survey | Step::Wait(..), _) => return Ok(BUSY),
            (Step::Rest, _) => return Ok(TICK),
            // The plan makes nothing under a root that isn't there.
            (step, None) => error!(?step, "a step without a root"),
        }
        Ok(Duration::ZERO)
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
            Err(error) => debug!(%error, "where it stands can't be written down for now"),
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
            _ => memory.waits.insert((waits, Instant::now())).1,
        };
        if since.elapsed() < PATIENCE || memory.reminded.is_some_and(|last| last.elapsed() < REMINDER) {
            return;
        }
        memory.reminded = Some(Instant::now());
        drop(memory);
        let what = match waits {
            Waiting::Belief => "to believe in the new root",
            Waiting::Leaves => "to get a certificate of the new issuer",
            Waiting::Restarts => "to be restarted, as they can't follow while they run: until then the old root is kept",
        };
        self.log.warning("RootRotationWaits", format!("waiting for {} proxies {what}: {}", names.len(), named(names).join(", ")));
    }
}

fn named(names: &[String]) -> Vec<String> {
    let mut named: Vec<String> = names.iter().take(MAX_NAMED).cloned().collect();
    if names.len() > MAX_NAMED {
        named.push(format!("and {} more", names.len() - MAX_NAMED));
    }
    named
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
    })
}
