//! How a running container is ended: stop hook, its turn, SIGTERM, and after the grace period SIGKILL.

use std::time::Duration;

/// Even without grace a container has this long between the signals.
const LEAST: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The stop hook is due, or runs.
    Hook {
        begun: bool,
    },
    /// Others have to end first.
    Turn,
    Term {
        kill_at: Duration,
    },
    Kill,
}

/// A container that is being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    deadline: Duration,
    stage: Stage,
}

/// What to do to it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopAct {
    /// Run its stop hook, which may take this long.
    Hook(Duration),
    Term,
    Kill,
}

impl Stop {
    pub(crate) fn new(hook: bool, grace: Duration, now: Duration) -> Self {
        let stage = if hook && !grace.is_zero() { Stage::Hook { begun: false } } else { Stage::Turn };
        Self { deadline: now + grace, stage }
    }

    /// A second request can only shorten the wait.
    pub(crate) fn hurry(&mut self, grace: Duration, now: Duration) {
        self.deadline = self.deadline.min(now + grace);
        if let Stage::Term { kill_at } = &mut self.stage {
            *kill_at = (*kill_at).min(now + grace.max(LEAST));
        }
    }

    pub(crate) fn hook_done(&mut self) {
        if matches!(self.stage, Stage::Hook { .. }) {
            self.stage = Stage::Turn;
        }
    }

    /// The next thing to do, or when to ask again.
    pub(crate) fn poll(&mut self, turn: bool, now: Duration) -> Result<StopAct, Option<Duration>> {
        match self.stage {
            Stage::Hook { begun: false } => {
                self.stage = Stage::Hook { begun: true };
                return Ok(StopAct::Hook(self.deadline.saturating_sub(now)));
            }
            Stage::Hook { begun: true } if now < self.deadline => return Err(Some(self.deadline)),
            Stage::Turn if !turn && now < self.deadline => return Err(Some(self.deadline)),
            Stage::Hook { .. } | Stage::Turn => {
                let kill_at = self.deadline.max(now + LEAST);
                self.stage = Stage::Term { kill_at };
                return Ok(StopAct::Term);
            }
            Stage::Term { kill_at } if now < kill_at => return Err(Some(kill_at)),
            Stage::Term { .. } => {}
            Stage::Kill => return Err(None),
        }
        self.stage = Stage::Kill;
        Ok(StopAct::Kill)
    }
}
