//! The life of a pod as a state machine: what happened and the time in, what to do out.
//!
//! Times are durations since the pod's worker began; what is only told to people is a wall-clock [`Timestamp`].
//! Invariants: a container is started only in a sandbox that is ready and after all it depends on; nothing is
//! started once the pod is to end; the sandbox is removed only when no container runs.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use super::backoff::Backoff;
use super::plan::{ContainerPlan, Plan, Restart, Role};
use super::probe::{Probe, ProbeKind};
use super::stop::{Stop, StopAct};

/// Until a container that could not be started for a cause outside itself is tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(3);

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// Fill the volumes, make the namespaces, join the network.
    CreateSandbox,
    Start {
        slot: usize,
    },
    PostStart {
        slot: usize,
    },
    PreStop {
        slot: usize,
        within: Duration,
    },
    Probe {
        slot: usize,
        kind: ProbeKind,
    },
    Term {
        slot: usize,
    },
    Kill {
        slot: usize,
    },
    RemoveSandbox,
    /// All is over: the object may go.
    Finish,
    Tell(Told),
}

/// Something that people want to know: an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) slot: Option<usize>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) id: String,
    pub(crate) since: Timestamp,
    pub(crate) started: bool,
    at: Duration,
    hook: Hook,
    probes: [Option<Probe>; 3],
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Due,
    UnderWay,
    Done,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Waiting { reason: &'static str, message: Option<String>, until: Duration },
    Starting,
    Running(Running),
    Ended { ended: Ended, at: Duration },
}

/// One container.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) plan: ContainerPlan,
    pub(crate) state: State,
    /// How it ended the last time.
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: u32,
    ends: u32,
    backoff: Backoff,
    /// What follows may be started.
    passed: bool,
}

impl Container {
    fn new(plan: ContainerPlan) -> Self {
        Self {
            plan,
            state: waiting("ContainerCreating", None, Duration::ZERO),
            last: None,
            restarts: 0,
            ends: 0,
            backoff: Backoff::default(),
            passed: false,
        }
    }

    /// Whether traffic may go to it. An init container is ready when it did its work.
    pub(crate) fn ready(&self) -> bool {
        match (&self.state, self.plan.role) {
            (State::Running(running), Role::Main | Role::Sidecar) => {
                let [_, _, readiness] = &running.probes;
                let well = readiness.as_ref().is_none_or(|p| p.verdict() == Some(true));
                running.started && well
            }
            (State::Ended { ended, .. }, Role::Init) => ended.code == 0,
            _ => false,
        }
    }

    /// Whether what follows may be started.
    pub(crate) fn passed(&self) -> bool {
        self.passed
    }

    fn busy(&self) -> bool {
        matches!(self.state, State::Starting | State::Running(_))
    }

    fn restarts_under(&self, policy: Restart) -> bool {
        let State::Ended { ended, .. } = &self.state else {
            return false;
        };
        match (self.plan.role, policy) {
            (Role::Sidecar, _) | (Role::Main, Restart::Always) => true,
            (Role::Main, Restart::Never) => false,
            (Role::Main, Restart::OnFailure) => ended.code != 0,
            (Role::Init, policy) => ended.code != 0 && policy != Restart::Never,
        }
    }
}

fn waiting(reason: &'static str, message: Option<String>, until: Duration) -> State {
    State::Waiting { reason, message, until }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sandbox {
    Absent { retry: Duration },
    Creating,
    Ready,
    Removing,
    Removed,
}

/// How a pod ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    /// It was not done in time (`activeDeadlineSeconds`).
    Expired,
}

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    plan: Plan,
    pub(crate) containers: Vec<Container>,
    sandbox: Sandbox,
    deletion: Option<Duration>,
    expired: bool,
    finished: bool,
}

/// What [`Machine::poll`] says: what to do, and when to ask again at the latest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) acts: Vec<Act>,
    pub(crate) wake: Option<Duration>,
}

impl Step {
    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn tell(&mut self, warning: bool, reason: &'static str, slot: Option<usize>, message: String) {
        self.acts.push(Act::Tell(Told { warning, reason, message, slot }));
    }
}

impl Machine {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut containers: Vec<_> = plan.containers.iter().cloned().map(Container::new).collect();
        if containers.iter().any(|c| c.plan.role != Role::Main) {
            for container in containers.iter_mut().filter(|c| c.plan.role == Role::Main) {
                container.state = waiting("PodInitializing", None, Duration::ZERO);
            }
        }
        Self {
            plan,
            containers,
            sandbox: Sandbox::Absent { retry: Duration::ZERO },
            deletion: None,
            expired: false,
            finished: false,
        }
    }

    /// Takes up a pod that another run of the node left: what ran then has ended by now, without a witness.
    pub(crate) fn resume(&mut self, before: &core::PodStatus) {
        let all = [&before.init_container_statuses, &before.container_statuses];
        for status in all.into_iter().flatten().flatten() {
            let found = self.containers.iter_mut().find(|c| c.plan.name == status.name);
            let Some(container) = found.filter(|_| status.container_id.is_some()) else {
                continue;
            };
            let count = u32::try_from(status.restart_count).unwrap_or(0);
            container.restarts = count;
            container.ends = count.saturating_add(1);
            let running = status.state.as_ref().and_then(|s| s.running.as_ref());
            let ended = Ended {
                id: status.container_id.as_deref().and_then(|id| id.split("//").nth(1)).unwrap_or_default().into(),
                code: 137,
                signal: None,
                reason: "ContainerStatusUnknown".into(),
                message: Some("The node went away while the container was running".into()),
                started: running.and_then(|r| r.started_at.as_ref()).map(|t| t.0),
                finished: Timestamp::now(),
            };
            container.last = running.is_some().then(|| ended.clone());
            if container.plan.role == Role::Main && running.is_some() {
                container.state = State::Ended { ended, at: Duration::ZERO };
            }
        }
    }

    pub(crate) fn restart_policy(&self) -> Restart {
        self.plan.restart
    }

    /// Whether its namespaces and its network are there.
    pub(crate) fn sandbox_ready(&self) -> bool {
        self.sandbox == Sandbox::Ready
    }

    pub(crate) fn deleting(&self) -> bool {
        self.deletion.is_some()
    }

    /// How the pod ended by itself, if it did.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        if self.expired {
            return Some(Outcome::Expired);
        }
        let stays = |c: &Container| match &c.state {
            State::Ended { ended, .. } if !c.restarts_under(self.plan.restart) => Some(ended.code),
            _ => None,
        };
        let of = |role| self.containers.iter().filter(move |c| c.plan.role == role);
        if of(Role::Init).filter_map(stays).any(|code| code != 0) {
            return Some(Outcome::Failed);
        }
        let codes: Option<Vec<i32>> = of(Role::Main).map(stays).collect();
        let failed = codes?.iter().any(|code| *code != 0);
        Some(if failed { Outcome::Failed } else { Outcome::Succeeded })
    }

    /// What to do now.
    pub(crate) fn poll(&mut self, now: Duration) -> Step {
        let mut step = Step::default();
        if let Some(deadline) = self.plan.active_deadline
            && !self.deleting()
            && self.outcome().is_none()
        {
            if now >= deadline {
                self.expired = true;
                let message = "Pod was active on the node longer than the specified deadline";
                step.tell(true, "DeadlineExceeded", None, message.into());
            } else {
                step.wake_at(deadline);
            }
        }
        for slot in 0..self.containers.len() {
            self.attend(slot, now, &mut step);
        }
        if self.ending() {
            self.wind_down(now, &mut step);
        } else {
            self.go_on(now, &mut step);
        }
        step
    }

    fn ending(&self) -> bool {
        self.deleting() || self.outcome().is_some()
    }

    fn go_on(&mut self, now: Duration, step: &mut Step) {
        match self.sandbox {
            Sandbox::Absent { retry } if now >= retry => {
                self.sandbox = Sandbox::Creating;
                step.acts.push(Act::CreateSandbox);
            }
            Sandbox::Absent { retry } => step.wake_at(retry),
            Sandbox::Ready => self.start_in_order(now, step),
            Sandbox::Creating | Sandbox::Removing | Sandbox::Removed => {}
        }
    }

    fn start_in_order(&mut self, now: Duration, step: &mut Step) {
        for slot in 0..self.containers.len() {
            let container = &self.containers[slot];
            if container.plan.role == Role::Init && container.passed {
                continue;
            }
            self.try_start(slot, now, step);
            let container = &self.containers[slot];
            let next_waits = match container.plan.role {
                Role::Init | Role::Sidecar => !container.passed,
                Role::Main => match &container.state {
                    State::Starting => true,
                    State::Running(running) => running.hook != Hook::Done,
                    State::Waiting { .. } | State::Ended { .. } => false,
                },
            };
            if next_waits {
                return;
            }
        }
    }

    fn try_start(&mut self, slot: usize, now: Duration, step: &mut Step) {
        let policy = self.plan.restart;
        let container = &mut self.containers[slot];
        match &container.state {
            State::Waiting { until, .. } if now < *until => return step.wake_at(*until),
            State::Waiting { .. } => {}
            State::Ended { ended, at } if container.restarts_under(policy) => {
                let until = container.backoff.until(*at, now);
                container.last = Some(ended.clone());
                if let Some(until) = until {
                    let name = &container.plan.name;
                    let delay = container.backoff.delay().as_secs();
                    let message = format!("back-off {delay}s restarting failed container={name}");
                    let told = format!("Back-off restarting failed container {name}");
                    container.state = waiting("CrashLoopBackOff", Some(message), until);
                    step.tell(true, "BackOff", Some(slot), told);
                    return step.wake_at(until);
                }
            }
            State::Ended { .. } | State::Starting | State::Running(_) => return,
        }
        if container.ends > 0 && container.restarts != container.ends {
            container.backoff.raise(now);
        }
        container.restarts = container.ends;
        container.state = State::Starting;
        step.acts.push(Act::Start { slot });
    }

    /// Hooks, probes and the end of one running container.
    fn attend(&mut self, slot: usize, now: Duration, step: &mut Step) {
        let (ending, grace) = (self.ending(), self.plan.grace);
        let turn = !ending || self.has_turn(slot);
        let container = &mut self.containers[slot];
        let State::Running(running) = &mut container.state else {
            return;
        };
        if running.hook == Hook::Due {
            running.hook = Hook::UnderWay;
            step.acts.push(Act::PostStart { slot });
        }
        if running.hook == Hook::Done {
            if running.settle(&container.plan) && container.plan.role == Role::Sidecar {
                container.passed = true;
            }
            running.ask(slot, ending, now, step);
            if running.stop.is_none()
                && !ending
                && let Some((kind, own_grace)) = running.failed_probe()
            {
                let kind = kind.name().to_lowercase();
                let name = &container.plan.name;
                let message = format!("Container {name} failed {kind} probe, will be restarted");
                step.tell(false, "Killing", Some(slot), message);
                let hook = container.plan.pre_stop;
                running.stop = Some(Stop::new(hook, own_grace.unwrap_or(grace), now));
            }
        }
        self.drive_stop(slot, turn, now, step);
    }

    fn drive_stop(&mut self, slot: usize, turn: bool, now: Duration, step: &mut Step) {
        let State::Running(running) = &mut self.containers[slot].state else {
            return;
        };
        let Some(stop) = &mut running.stop else { return };
        match stop.poll(turn, now) {
            Ok(StopAct::Hook(within)) => step.acts.push(Act::PreStop { slot, within }),
            Ok(StopAct::Term) => step.acts.push(Act::Term { slot }),
            Ok(StopAct::Kill) => step.acts.push(Act::Kill { slot }),
            Err(at) => {
                if let Some(at) = at {
                    step.wake_at(at);
                }
                return;
            }
        }
        self.drive_stop(slot, turn, now, step);
    }

    /// A sidecar ends after all that is not one, and after the sidecars that came after it.
    fn has_turn(&self, slot: usize) -> bool {
        if self.containers[slot].plan.role != Role::Sidecar {
            return true;
        }
        self.containers.iter().enumerate().all(|(other, c)| match c.plan.role {
            Role::Init | Role::Main => !c.busy(),
            Role::Sidecar => other <= slot || !c.busy(),
        })
    }

    fn wind_down(&mut self, now: Duration, step: &mut Step) {
        let grace = self.deletion.unwrap_or(self.plan.grace);
        for slot in 0..self.containers.len() {
            let container = &mut self.containers[slot];
            if let State::Running(running) = &mut container.state
                && running.stop.is_none()
            {
                running.stop = Some(Stop::new(container.plan.pre_stop, grace, now));
                let message = format!("Stopping container {}", container.plan.name);
                step.tell(false, "Killing", Some(slot), message);
                let turn = self.has_turn(slot);
                self.drive_stop(slot, turn, now, step);
            }
        }
        if self.containers.iter().any(Container::busy) {
            return;
        }
        match self.sandbox {
            Sandbox::Ready => {
                self.sandbox = Sandbox::Removing;
                step.acts.push(Act::RemoveSandbox);
            }
            Sandbox::Absent { .. } => self.sandbox = Sandbox::Removed,
            Sandbox::Creating | Sandbox::Removing | Sandbox::Removed => {}
        }
        if self.sandbox == Sandbox::Removed && self.deleting() && !self.finished {
            self.finished = true;
            step.acts.push(Act::Finish);
        }
    }
}

impl Running {
    /// Notes that it is started once its startup probe says so; true when it is.
    fn settle(&mut self, plan: &ContainerPlan) -> bool {
        if !self.started {
            let [startup, ..] = &self.probes;
            if startup.as_ref().is_some_and(|p| p.verdict() != Some(true)) {
                return false;
            }
            self.started = true;
            for kind in [ProbeKind::Liveness, ProbeKind::Readiness] {
                // Their delay counts from the container's start; what is past by now is due now.
                if let (None, Some(probe)) = (&self.probes[kind as usize], plan.probe(kind)) {
                    self.probes[kind as usize] = Some(Probe::new(probe, self.at));
                }
            }
        }
        true
    }

    fn ask(&mut self, slot: usize, ending: bool, now: Duration, step: &mut Step) {
        for kind in ProbeKind::ALL {
            let wanted = match kind {
                ProbeKind::Startup => !self.started && !ending,
                ProbeKind::Liveness => self.started && !ending && self.stop.is_none(),
                ProbeKind::Readiness => self.started,
            };
            let Some(probe) = self.probes[kind as usize].as_mut().filter(|_| wanted) else {
                continue;
            };
            match probe.due() {
                Some(due) if due <= now => {
                    probe.begin(now);
                    step.acts.push(Act::Probe { slot, kind });
                }
                Some(due) => step.wake_at(due),
                None => {}
            }
        }
    }

    fn failed_probe(&self) -> Option<(ProbeKind, Option<Duration>)> {
        [ProbeKind::Startup, ProbeKind::Liveness].into_iter().find_map(|kind| {
            let probe = self.probes[kind as usize].as_ref()?;
            (probe.verdict() == Some(false)).then_some((kind, probe.plan.grace))
        })
    }
}

/// What happened.
impl Machine {
    pub(crate) fn sandbox_created(&mut self) {
        self.sandbox = Sandbox::Ready;
    }

    pub(crate) fn sandbox_failed(&mut self, now: Duration) {
        self.sandbox = Sandbox::Absent { retry: now + RETRY };
    }

    /// The sandbox was removed as asked.
    pub(crate) fn sandbox_removed(&mut self) {
        self.sandbox = Sandbox::Removed;
    }

    /// The sandbox went by itself, with all that ran in it: the pod begins anew.
    pub(crate) fn sandbox_lost(&mut self, wall: Timestamp, now: Duration) {
        if !matches!(self.sandbox, Sandbox::Ready) {
            return;
        }
        self.sandbox = Sandbox::Absent { retry: now + RETRY };
        for slot in 0..self.containers.len() {
            let container = &mut self.containers[slot];
            if container.busy() {
                let message = Some("The pod's namespaces went away".into());
                self.ended(slot, 137, Some(9), message, wall, now);
            }
            let container = &mut self.containers[slot];
            container.passed = false;
            if container.plan.role == Role::Init
                && let State::Ended { ended, .. } = &container.state
            {
                container.last = Some(ended.clone());
                container.state = waiting("PodInitializing", None, now);
            }
        }
    }

    pub(crate) fn started(&mut self, slot: usize, id: String, wall: Timestamp, now: Duration) {
        let container = &mut self.containers[slot];
        let hook = if container.plan.post_start { Hook::Due } else { Hook::Done };
        let startup = container.plan.startup.map(|plan| Probe::new(plan, now));
        let readiness = container.plan.readiness.filter(|_| startup.is_none());
        let liveness = container.plan.liveness.filter(|_| startup.is_none());
        container.state = State::Running(Running {
            id,
            since: wall,
            started: false,
            at: now,
            hook,
            probes: [startup, liveness.map(|plan| Probe::new(plan, now)), readiness.map(|plan| Probe::new(plan, now))],
            stop: None,
        });
    }

    /// It can't be started for now, through no doing of its own.
    pub(crate) fn held_up(&mut self, slot: usize, reason: &'static str, message: String, now: Duration) {
        self.containers[slot].state = waiting(reason, Some(message), now + RETRY);
    }

    /// It was started and could not run (no such program): an end like any other.
    pub(crate) fn not_started(&mut self, slot: usize, message: String, wall: Timestamp, now: Duration) {
        self.ended(slot, 128, None, Some(message), wall, now);
        if let State::Ended { ended, .. } = &mut self.containers[slot].state {
            ended.reason = "StartError".into();
        }
    }

    pub(crate) fn ended(
        &mut self,
        slot: usize,
        code: i32,
        signal: Option<i32>,
        message: Option<String>,
        wall: Timestamp,
        now: Duration,
    ) {
        let container = &mut self.containers[slot];
        let (id, started) = match &container.state {
            State::Running(running) => (running.id.clone(), Some(running.since)),
            _ => (String::new(), None),
        };
        let reason = if code == 0 { "Completed" } else { "Error" };
        container.ends += 1;
        container.passed |= container.plan.role == Role::Init && code == 0;
        container.state =
            State::Ended { at: now, ended: Ended { id, code, signal, reason: reason.into(), message, started, finished: wall } };
    }

    pub(crate) fn post_started(&mut self, slot: usize, failure: Option<String>, now: Duration) -> Option<Told> {
        let grace = self.plan.grace;
        let container = &mut self.containers[slot];
        let State::Running(running) = &mut container.state else {
            return None;
        };
        running.hook = Hook::Done;
        let failure = failure?;
        running.stop = Some(Stop::new(container.plan.pre_stop, grace, now));
        Some(Told {
            warning: true,
            reason: "FailedPostStartHook",
            message: format!("PostStartHook failed: {failure}"),
            slot: Some(slot),
        })
    }

    pub(crate) fn pre_stopped(&mut self, slot: usize) {
        if let State::Running(Running { stop: Some(stop), .. }) = &mut self.containers[slot].state {
            stop.hook_done();
        }
    }

    /// A probe's answer; what went wrong is told.
    pub(crate) fn probed(&mut self, slot: usize, kind: ProbeKind, answer: Result<(), String>) -> Option<Told> {
        let State::Running(running) = &mut self.containers[slot].state else {
            return None;
        };
        running.probes[kind as usize].as_mut()?.answered(answer.is_ok());
        let message = answer.err()?;
        Some(Told {
            warning: true,
            reason: "Unhealthy",
            message: format!("{} probe failed: {message}", kind.name()),
            slot: Some(slot),
        })
    }

    /// The pod is to go, within this grace.
    pub(crate) fn delete(&mut self, grace: Duration, now: Duration) {
        let grace = self.deletion.map_or(grace, |old| old.min(grace));
        self.deletion = Some(grace);
        for container in &mut self.containers {
            if let State::Running(Running { stop: Some(stop), .. }) = &mut container.state {
                stop.hurry(grace, now);
            }
        }
    }
}
