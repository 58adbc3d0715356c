//! One probe of one running container: when it is due, and what its results add up to.

use std::time::Duration;

/// The three questions to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    pub(crate) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As events name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// When to ask, and how often it must be said to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProbePlan {
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
    /// Overrides the pod's grace period when this probe ends the container.
    pub(crate) grace: Option<Duration>,
}

/// A probe under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) plan: ProbePlan,
    next: Duration,
    running: bool,
    last: Option<bool>,
    in_a_row: u32,
    verdict: Option<bool>,
}

impl Probe {
    /// A probe of a container that is running since `since`.
    pub(crate) fn new(plan: ProbePlan, since: Duration) -> Self {
        Self { plan, next: since + plan.initial_delay, running: false, last: None, in_a_row: 0, verdict: None }
    }

    /// What it says so far, if its thresholds were reached.
    pub(crate) fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// When to ask next; never while an answer is awaited.
    pub(crate) fn due(&self) -> Option<Duration> {
        (!self.running).then_some(self.next)
    }

    pub(crate) fn begin(&mut self, now: Duration) {
        self.running = true;
        self.next = now + self.plan.period;
    }

    pub(crate) fn answered(&mut self, well: bool) {
        self.running = false;
        self.in_a_row = if self.last == Some(well) { self.in_a_row + 1 } else { 1 };
        self.last = Some(well);
        let needed = if well { self.plan.success_threshold } else { self.plan.failure_threshold };
        if self.in_a_row >= needed {
            self.verdict = Some(well);
        }
    }
}
