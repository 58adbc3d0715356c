//! `down`: ends the mesh of this machine, from another terminal.

use std::path::Path;
use std::time::Duration;

use homarus_local::up::{State, StateError, holder, running};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::command_line::Down;
use crate::failure::{Exit, Failure, Outcome};
use crate::terminal;

use super::require_root;

/// How long it may take to end politely.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take after that.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
const PERIOD: Duration = Duration::from_millis(50);

/// Ends what runs, and removes its state.
pub async fn run(args: &Down) -> Outcome {
    require_root("down")?;
    let dir = &args.state_dir;
    if !dir.exists() {
        terminal::print(&format!("There is no mesh in {}.\n", dir.display()))?;
        return Ok(Exit::Ok);
    }
    let was_running = running(dir);
    if was_running {
        end(dir).await?;
    }
    if !args.keep_state && dir.exists() {
        State::take(dir).and_then(State::remove).map_err(|error| match error {
            StateError::Foreign(_) => Failure::new(error).remedy("Nothing was removed."),
            other => Failure::new(other),
        })?;
    }
    let what = match (was_running, args.keep_state) {
        (true, true) => "The mesh has ended; its state is kept.",
        (true, false) => "The mesh has ended, and its state is gone.",
        (false, true) => "No mesh was running; its state is kept.",
        (false, false) => "No mesh was running; its state is gone.",
    };
    terminal::print(&format!("{what}\n"))?;
    Ok(Exit::Ok)
}

async fn end(dir: &Path) -> Result<(), Failure> {
    let unknown = || Failure::new(format!("a mesh runs on {}, but its process is unknown", dir.display()));
    let pid = holder(dir).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).ok_or_else(unknown)?;
    for (signal, patience) in [(Signal::TERM, PATIENCE), (Signal::KILL, LAST_PATIENCE)] {
        match kill_process(pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(Failure::new(format!("cannot end process {}: {error}", pid.as_raw_nonzero()))),
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !running(dir) {
                return Ok(());
            }
            sleep(PERIOD).await;
        }
    }
    Err(Failure::new(format!("process {} does not end", pid.as_raw_nonzero())))
}
