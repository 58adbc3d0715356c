//! A pod's spec, reduced to what decides when its containers start, are asked and end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{self as core, Pod};

use super::probe::{ProbeKind, ProbePlan};

const GRACE: Duration = Duration::from_secs(30);

/// When a container that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// A container's part in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to its end before what follows is started.
    Init,
    /// Is started before what follows, and stopped after it.
    Sidecar,
    Main,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerPlan {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) startup: Option<ProbePlan>,
    pub(crate) liveness: Option<ProbePlan>,
    pub(crate) readiness: Option<ProbePlan>,
    pub(crate) post_start: bool,
    pub(crate) pre_stop: bool,
}

impl ContainerPlan {
    pub(crate) fn probe(&self, kind: ProbeKind) -> Option<ProbePlan> {
        match kind {
            ProbeKind::Startup => self.startup,
            ProbeKind::Liveness => self.liveness,
            ProbeKind::Readiness => self.readiness,
        }
    }
}

/// A pod. Init containers come first, in order, then the main ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) containers: Vec<ContainerPlan>,
    pub(crate) restart: Restart,
    pub(crate) grace: Duration,
    pub(crate) active_deadline: Option<Duration>,
}

impl Plan {
    pub(crate) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.iter().flatten().map(|c| {
            let sidecar = c.restart_policy.as_deref() == Some("Always");
            container(c, if sidecar { Role::Sidecar } else { Role::Init })
        });
        let main = spec.containers.iter().map(|c| container(c, Role::Main));
        Self {
            containers: init.chain(main).collect(),
            restart: match spec.restart_policy.as_deref() {
                Some("Never") => Restart::Never,
                Some("OnFailure") => Restart::OnFailure,
                _ => Restart::Always,
            },
            grace: spec.termination_grace_period_seconds.map_or(GRACE, seconds),
            active_deadline: spec.active_deadline_seconds.map(seconds),
        }
    }
}

fn container(container: &core::Container, role: Role) -> ContainerPlan {
    let lifecycle = container.lifecycle.as_ref();
    // The API refuses probes and hooks on init containers that run to their end.
    let lasting = role != Role::Init;
    ContainerPlan {
        name: container.name.clone(),
        role,
        startup: container.startup_probe.as_ref().filter(|_| lasting).map(probe),
        liveness: container.liveness_probe.as_ref().filter(|_| lasting).map(probe),
        readiness: container.readiness_probe.as_ref().filter(|_| lasting).map(probe),
        post_start: lasting && lifecycle.is_some_and(|l| l.post_start.is_some()),
        pre_stop: lasting && lifecycle.is_some_and(|l| l.pre_stop.is_some()),
    }
}

fn probe(probe: &core::Probe) -> ProbePlan {
    let count = |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
    ProbePlan {
        initial_delay: Duration::from_secs(count(probe.initial_delay_seconds, 0).into()),
        period: Duration::from_secs(count(probe.period_seconds, 10).into()),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
        grace: probe.termination_grace_period_seconds.map(seconds),
    }
}

/// Seconds of an API object; nobody waits for less than none.
pub(crate) fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}
