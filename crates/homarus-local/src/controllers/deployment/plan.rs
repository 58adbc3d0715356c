//! What to change now so that a deployment comes nearer to its template and its size.
//!
//! The order of the branches is that of kube-controller-manager: an end, a pause, a change of size, then the strategy.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::sets::{self, Edit, Set};
use super::status;

/// What a decision depends on.
#[derive(Clone, Debug)]
pub(super) struct Seen<'a> {
    pub(super) deployment: &'a Deployment,
    /// Its sets.
    pub(super) sets: Vec<Arc<ReplicaSet>>,
    /// Those of them, by uid, that have pods which haven't ended.
    pub(super) running: &'a [String],
    pub(super) now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    pub(super) create: Option<ReplicaSet>,
    pub(super) delete: Vec<Arc<ReplicaSet>>,
    /// The deployment's revision, if it is to be written down anew.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    /// When a lack of progress is to be noticed.
    pub(super) look_again: Option<Duration>,
}

/// A deployment's wishes, with defaults and percentages resolved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub(super) replicas: i32,
    pub(super) strategy: Strategy,
    pub(super) paused: bool,
    /// How long a rollout may show no progress; none if that doesn't matter.
    pub(super) deadline: Option<Duration>,
    history: Option<usize>,
}

/// How to get from the old pods to the new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    /// All old ones end before the first new one starts.
    Recreate,
    /// A few at a time.
    Rolling {
        /// How many more than wanted there may be.
        surge: i32,
        /// How many of those wanted may be missing.
        unavailable: i32,
    },
}

impl Wishes {
    pub(super) fn of(spec: &DeploymentSpec) -> Wishes {
        let replicas = spec.replicas.unwrap_or(1).max(0);
        let limit = |value: Option<i32>| value.filter(|value| *value != i32::MAX);
        let strategy = match spec.strategy.as_ref() {
            Some(strategy) if strategy.type_.as_deref() == Some("Recreate") => Strategy::Recreate,
            other => {
                let rolling = other.and_then(|strategy| strategy.rolling_update.as_ref());
                let quarter = IntOrString::String("25%".into());
                let part = |value: Option<&IntOrString>, up| share(value.unwrap_or(&quarter), replicas, up);
                let surge = part(rolling.and_then(|rolling| rolling.max_surge.as_ref()), true);
                let unavailable = part(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), false);
                // Both zero would never move; percentages of few pods may come to that.
                let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
                Strategy::Rolling { surge, unavailable: unavailable.min(replicas) }
            }
        };
        Wishes {
            replicas,
            strategy,
            paused: spec.paused.unwrap_or(false),
            deadline: limit(spec.progress_deadline_seconds.or(Some(600)))
                .map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs().into())),
            history: limit(spec.revision_history_limit.or(Some(10))).map(|limit| usize::try_from(limit).unwrap_or(0)),
        }
    }

    fn surge(&self) -> i32 {
        match self.strategy {
            Strategy::Rolling { surge, .. } => surge,
            Strategy::Recreate => 0,
        }
    }

    pub(super) fn max_unavailable(&self) -> i32 {
        match self.strategy {
            Strategy::Rolling { unavailable, .. } => unavailable,
            Strategy::Recreate => 0,
        }
    }

    /// The most pods there may be.
    fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge())
    }
}

/// A number, or a percentage of `total`, rounded up or down.
fn share(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0).clamp(0, 1_000_000);
            let parts = percent * i64::from(total);
            let share = if round_up { (parts + 99) / 100 } else { parts / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// The sets of a deployment, the one of its template apart.
pub(super) struct Sets {
    pub(super) new: Option<Set>,
    /// The oldest first.
    pub(super) old: Vec<Set>,
}

impl Sets {
    fn of(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Sets {
        let mut old: Vec<Set> = sets.into_iter().map(Set::existing).collect();
        old.sort_by_key(Set::created);
        // Of several with the template, the oldest.
        let new = old.iter().position(|set| sets::has_template_of(&set.wanted, deployment)).map(|place| old.remove(place));
        Sets { new, old }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn active(&mut self) -> Vec<&mut Set> {
        self.old.iter_mut().chain(&mut self.new).filter(|set| set.replicas() > 0).collect()
    }

    pub(super) fn replicas(&self) -> i32 {
        self.all().map(Set::replicas).sum()
    }

    pub(super) fn available(&self) -> i32 {
        self.all().map(Set::available).sum()
    }
}

/// Decides what to do about a deployment. None if it can't be read, or selects nothing.
pub(super) fn plan(seen: Seen<'_>) -> Option<Plan> {
    let Seen { deployment, sets, running, now } = seen;
    let spec = deployment.spec.as_ref()?;
    let wishes = Wishes::of(spec);
    let mut sets = Sets::of(deployment, sets);
    let mut report = status::Report::new(deployment, &wishes, now);
    let mut delete = Vec::new();
    let mut rolls = false;
    if deployment.metadata.deletion_timestamp.is_none() {
        report.note_pause();
        let resized = is_resized(&sets, &wishes);
        let revision = sets.old.iter().map(Set::revision).max().unwrap_or(0) + 1;
        if let Some(new) = &mut sets.new {
            new.make_current(deployment, spec, revision);
            report.note_found(&new.name());
        }
        if wishes.paused || resized {
            resize(&mut sets, &wishes);
        } else {
            rolls = true;
            let started = match wishes.strategy {
                Strategy::Recreate => may_start_anew(&mut sets, running),
                Strategy::Rolling { .. } => true,
            };
            if started {
                roll(&mut sets, deployment, spec, &wishes, revision, &mut report);
            }
        }
        if wishes.paused || (rolls && report.was_complete()) {
            delete = superfluous(&sets, &wishes);
        }
    }
    let status = report.finish(&sets, rolls);
    let look_again = if rolls { status::look_again(deployment, &wishes, &status, now) } else { None };
    Some(write_up(deployment, sets, delete, status, look_again))
}

fn write_up(
    deployment: &Deployment,
    sets: Sets,
    delete: Vec<Arc<ReplicaSet>>,
    status: DeploymentStatus,
    look_again: Option<Duration>,
) -> Plan {
    let revision = sets.new.as_ref().and_then(|new| new.wanted.annotations().get(sets::REVISION).cloned());
    Plan {
        revision: revision.filter(|revision| deployment.annotations().get(sets::REVISION) != Some(revision)),
        edits: sets.all().filter_map(Set::edit).collect(),
        create: sets.new.filter(|new| new.current().is_none()).map(|new| new.wanted),
        delete,
        status,
        look_again,
    }
}

/// Whether the size was changed since the sets were last scaled.
fn is_resized(sets: &Sets, wishes: &Wishes) -> bool {
    let active = sets.all().filter(|set| set.replicas() > 0);
    active.filter_map(|set| set.number(sets::DESIRED_REPLICAS)).any(|desired| desired != i64::from(wishes.replicas))
}

/// Brings the sets to a new size without favouring old or new, so that no rollout is hastened by it.
fn resize(sets: &mut Sets, wishes: &Wishes) {
    let (replicas, most) = (wishes.replicas, wishes.most());
    let active = sets.active().len();
    if active <= 1 {
        // The only active one; without any the new one, or the latest.
        let place = sets.old.iter().rposition(|set| set.replicas() > 0 || active == 0);
        let only = match (&mut sets.new, place) {
            (Some(new), _) if new.replicas() > 0 || active == 0 => Some(new),
            (_, Some(place)) => sets.old.get_mut(place),
            (_, None) => None,
        };
        if let Some(only) = only {
            only.scale(replicas);
            only.note_size(replicas, most);
        }
        return;
    }
    if sets.new.as_ref().is_some_and(|new| is_saturated(new, wishes)) {
        for old in sets.old.iter_mut().filter(|old| old.replicas() > 0) {
            old.scale(0);
            old.note_size(replicas, most);
        }
        return;
    }
    if matches!(wishes.strategy, Strategy::Rolling { .. }) {
        share_out(sets, wishes);
    }
}

/// Whether the new set has all the pods wanted, and they are available.
fn is_saturated(new: &Set, wishes: &Wishes) -> bool {
    new.replicas() == wishes.replicas
        && new.number(sets::DESIRED_REPLICAS) == Some(wishes.replicas.into())
        && new.available() == wishes.replicas
}

/// Shares what is to be added or removed among the active sets by their sizes; the largest takes the rest.
fn share_out(sets: &mut Sets, wishes: &Wishes) {
    let allowed = if wishes.replicas > 0 { wishes.most() } else { 0 };
    let missing = allowed - sets.replicas();
    let mut active = sets.active();
    // The largest first; of one size, the newer when adding, the older when removing.
    active.sort_by(|a, b| {
        let by_age = if missing > 0 { b.created().cmp(&a.created()) } else { a.created().cmp(&b.created()) };
        b.replicas().cmp(&a.replicas()).then(by_age)
    });
    let mut left = missing;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let part = proportion(set, wishes, missing, left);
        sizes.push(set.replicas() + part);
        left -= part;
    }
    if let Some(largest) = sizes.first_mut() {
        *largest = (*largest + left).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        set.scale(size);
        set.note_size(wishes.replicas, wishes.most());
    }
}

/// What one set gets of `missing`, of which `left` is not given out yet.
fn proportion(set: &Set, wishes: &Wishes, missing: i32, left: i32) -> i32 {
    if missing == 0 || left == 0 || set.replicas() == 0 {
        return 0;
    }
    let part = if wishes.replicas == 0 {
        -set.replicas()
    } else {
        let before = set
            .number(sets::MAX_REPLICAS)
            .filter(|most| *most > 0)
            .unwrap_or_else(|| set.wanted.status.as_ref().map_or(0, |status| i64::from(status.replicas)).max(1));
        let grown = f64::from(set.replicas()) * f64::from(wishes.most()) / before as f64;
        grown.round() as i32 - set.replicas()
    };
    if missing > 0 { part.clamp(0, left) } else { part.clamp(left, 0) }
}

/// Recreating: ends what is old, and says whether all of it has ended.
fn may_start_anew(sets: &mut Sets, running: &[String]) -> bool {
    let mut over = true;
    for old in &mut sets.old {
        if old.replicas() > 0 {
            old.scale(0);
            over = false;
        }
        over &= old.actual() == 0 && !old.uid().is_some_and(|uid| running.contains(&uid));
    }
    over
}

/// Grows the new set, else shrinks the old ones, within what surge and unavailability allow.
fn roll(
    sets: &mut Sets,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    wishes: &Wishes,
    revision: i64,
    report: &mut status::Report<'_>,
) {
    let others: i32 = sets.old.iter().map(Set::replicas).sum();
    let mut new = match sets.new.take() {
        Some(new) => new,
        None => {
            let mut new = Set::new(deployment, spec);
            new.make_current(deployment, spec, revision);
            new.note_size(wishes.replicas, wishes.most());
            report.note_created(&new.name());
            new
        }
    };
    let before = new.replicas();
    let room = match wishes.strategy {
        Strategy::Rolling { .. } => wishes.most().saturating_sub(others).saturating_sub(before).max(0),
        Strategy::Recreate => i32::MAX,
    };
    let size = if before > wishes.replicas { wishes.replicas } else { before.saturating_add(room).min(wishes.replicas) };
    let exists = new.current().is_some();
    if size != before {
        new.scale(size);
        new.note_size(wishes.replicas, wishes.most());
    }
    sets.new = Some(new);
    if size == before || !exists {
        shrink_old(sets, wishes);
    }
}

/// Shrinks the old sets: first by what isn't available there, then by what is available elsewhere.
fn shrink_old(sets: &mut Sets, wishes: &Wishes) {
    if !matches!(wishes.strategy, Strategy::Rolling { .. }) {
        return;
    }
    let (desired, most) = (wishes.replicas, wishes.most());
    let at_least = wishes.replicas - wishes.max_unavailable();
    let pending = sets.new.as_ref().map_or(0, |new| new.replicas() - new.available());
    let mut may_go = sets.replicas() - at_least - pending;
    if may_go <= 0 {
        return;
    }
    let take = |set: &mut Set, number: i32| {
        set.scale(set.replicas() - number);
        set.note_size(desired, most);
    };
    for old in &mut sets.old {
        let unhealthy = (old.replicas() - old.available()).min(may_go).max(0);
        if unhealthy > 0 {
            take(old, unhealthy);
            may_go -= unhealthy;
        }
    }
    let mut spare = sets.available() - at_least;
    for old in &mut sets.old {
        let go = old.replicas().min(spare);
        if go > 0 {
            take(old, go);
            spare -= go;
        }
    }
}

/// The earliest revisions beyond those to be kept, as far as they are quite over.
fn superfluous(sets: &Sets, wishes: &Wishes) -> Vec<Arc<ReplicaSet>> {
    let Some(kept) = wishes.history else { return Vec::new() };
    let mut old: Vec<&Set> = sets.old.iter().filter(|set| !set.is_ending()).collect();
    old.sort_by_key(|set| (set.revision(), set.created()));
    old.truncate(old.len().saturating_sub(kept));
    let over = |set: &&&Set| set.replicas() == 0 && set.actual() == 0 && set.is_observed();
    old.iter().filter(over).filter_map(|set| set.current().cloned()).collect()
}
