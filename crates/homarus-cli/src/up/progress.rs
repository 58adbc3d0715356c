//! What `up` is doing, for people: a turning wheel on a terminal, a line for each step in a pipe.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;

use indicatif::ProgressBar;

use crate::terminal;

/// Steps, one at a time.
pub(super) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    last: Mutex<String>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { bar: terminal::spinner(""), terminal: std::io::stderr().is_terminal(), last: Mutex::default() }
    }

    /// Begins a step.
    pub(super) fn step(&self, what: &str) {
        self.say(what, true);
    }

    /// Tells more of a step; in a pipe only if it is news.
    pub(super) fn detail(&self, what: &str) {
        self.say(what, false);
    }

    fn say(&self, what: &str, finished: bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == what {
            return;
        }
        what.clone_into(&mut last);
        if self.terminal {
            self.bar.set_message(what.to_owned());
        } else if finished {
            eprintln!("{what} ...");
        } else {
            eprintln!("  {what}");
        }
    }

    /// The last word.
    pub(super) fn done(&self, what: &str) {
        self.bar.finish_and_clear();
        eprintln!("{} {what}", terminal::tick(self.terminal && terminal::colour()));
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
