//! How long a container that ended waits until it is started again.

use std::time::Duration;

/// The second restart waits this long.
const FIRST: Duration = Duration::from_secs(10);
/// No restart waits longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);

/// The delay of one container. The first restart is at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    delay: Duration,
    raised_at: Duration,
}

impl Backoff {
    /// Until when a container that ended at `ended` has to wait, if it has to.
    pub(crate) fn until(&self, ended: Duration, now: Duration) -> Option<Duration> {
        let until = ended + self.delay;
        (!self.forgotten(now) && now < until).then_some(until)
    }

    /// How long the wait is.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// Notes a restart: the next one waits longer.
    pub(crate) fn raise(&mut self, now: Duration) {
        self.delay = if self.delay.is_zero() || self.forgotten(now) { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.raised_at = now;
    }

    /// What ran well for long enough starts over.
    fn forgotten(&self, now: Duration) -> bool {
        now.saturating_sub(self.raised_at) > LONGEST * 2
    }
}
