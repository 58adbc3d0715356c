//! The flags of linkerd-await, and how the awaited program runs.
//!
//! Without `--shutdown` this process becomes the program. With it, it stays as its parent, passes SIGTERM on, and ends
//! the proxy after it. A SIGTERM while waiting ends it at once, also as process 1 of a container, where the system would
//! ignore the signal.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use homarus_redirect::parse_duration;
use homarus_redirect::readiness::{await_ready, shut_down};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

/// `EX_UNAVAILABLE` of sysexits.h: the proxy didn't become ready.
const EX_UNAVAILABLE: u8 = 69;
/// `EX_OSERR` of sysexits.h: the program couldn't be run, or ended by a signal.
const EX_OSERR: u8 = 71;
const ENDED_BY_SIGTERM: i32 = 128 + SIGTERM;

/// Arguments of `await`.
#[derive(Debug, Args)]
pub struct AwaitArgs {
    /// The port of the local proxy's admin server
    #[arg(short = 'p', long, default_value_t = 4191)]
    port: u16,
    /// Time to wait after a failed readiness check
    #[arg(short = 'b', long, default_value = "1s", value_parser = parse_duration)]
    backoff: Duration,
    /// Fail when the proxy isn't ready after this time; 0 waits forever
    #[arg(short = 't', long, value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Whether a timeout keeps CMD from running
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true",
          action = clap::ArgAction::Set)]
    timeout_fatal: bool,
    /// Run CMD as a child and shut the proxy down when it has ended
    #[arg(short = 'S', long, requires = "CMD")]
    shutdown: bool,
    /// Say so when disabled by LINKERD_AWAIT_DISABLED or LINKERD_DISABLED
    #[arg(short = 'v', long, env = "LINKERD_AWAIT_VERBOSE", value_parser = FalseyValueParser::new())]
    verbose: bool,
    /// The command to run when the proxy is ready
    #[arg(id = "CMD")]
    cmd: Option<OsString>,
    /// Its arguments
    #[arg(id = "ARGS")]
    args: Vec<OsString>,
}

impl AwaitArgs {
    /// Waits and runs; the exit code is the program's where there is one.
    pub fn run(self) -> ExitCode {
        if let Some(reason) = disabled_reason() {
            if self.verbose {
                eprintln!("Linkerd readiness check skipped: {reason}");
            }
            return self.become_program();
        }
        let program = Arc::new(Mutex::new(Program::Waiting));
        if let Err(error) = pass_sigterm_on(Arc::clone(&program)) {
            eprintln!("signals can't be handled: {error}");
            return ExitCode::from(EX_OSERR);
        }
        let timeout = self.timeout.filter(|timeout| !timeout.is_zero());
        if let Err(error) = await_ready(self.port, self.backoff, timeout) {
            eprintln!("{error}");
            if self.timeout_fatal {
                return ExitCode::from(EX_UNAVAILABLE);
            }
        }
        match &self.cmd {
            Some(cmd) if self.shutdown => self.run_child(cmd, &program),
            _ => self.become_program(),
        }
    }

    fn become_program(&self) -> ExitCode {
        let Some(cmd) = &self.cmd else {
            return ExitCode::SUCCESS;
        };
        let error = Command::new(cmd).args(&self.args).exec();
        eprintln!("Failed to exec child program: {}: {error}", cmd.display());
        ExitCode::from(EX_OSERR)
    }

    fn run_child(&self, cmd: &OsStr, program: &Mutex<Program>) -> ExitCode {
        let status = run_to_end(Command::new(cmd).args(&self.args), program);
        match shut_down(self.port) {
            Ok(status) if (200..300).contains(&status) => {}
            Ok(status) => eprintln!(
                "the proxy refused to shut down (status {status}): set proxy.enableShutdownEndpoint, or the annotation \
                 config.linkerd.io/proxy-admin-shutdown: enabled"
            ),
            Err(error) => eprintln!("the proxy can't be asked to shut down: {error}"),
        }
        match status {
            Ok(status) => ExitCode::from(exit_code(status)),
            Err(error) => {
                eprintln!("Failed to run child program: {}: {error}", cmd.display());
                ExitCode::from(EX_OSERR)
            }
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EX_OSERR)
}

fn disabled_reason() -> Option<String> {
    let names = ["LINKERD_AWAIT_DISABLED", "LINKERD_DISABLED"];
    let mut values = names.into_iter().filter_map(std::env::var_os);
    let reason = values.find(|value| !value.is_empty())?;
    Some(reason.to_string_lossy().into_owned())
}

/// Where the awaited program is, for whoever handles SIGTERM.
#[derive(Debug)]
enum Program {
    /// Not started: SIGTERM ends us.
    Waiting,
    /// Runs: SIGTERM is for it. As long as this is said, its process id isn't given to another.
    Running(Pid),
    /// Has ended: the little that is left to do is done in any case.
    Ended,
}

fn pass_sigterm_on(program: Arc<Mutex<Program>>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM])?;
    let pass_on = move || {
        for _ in signals.forever() {
            match *program.lock().unwrap_or_else(PoisonError::into_inner) {
                Program::Waiting => std::process::exit(ENDED_BY_SIGTERM),
                Program::Running(pid) => {
                    if let Err(error) = kill_process(pid, Signal::TERM) {
                        eprintln!("Failed to forward SIGTERM to child process: {error}");
                    }
                }
                Program::Ended => {}
            }
        }
    };
    thread::Builder::new().name("signals".to_string()).spawn(pass_on).map(drop)
}

fn run_to_end(command: &mut Command, program: &Mutex<Program>) -> io::Result<ExitStatus> {
    let set = |state| *program.lock().unwrap_or_else(PoisonError::into_inner) = state;
    let mut state = program.lock().unwrap_or_else(PoisonError::into_inner);
    let mut child = command.spawn()?;
    let pid = Pid::from_child(&child);
    *state = Program::Running(pid);
    drop(state);
    // The process id is ours until the child is collected, so the state changes between its end and that.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), ended).is_err_and(|error| error == Errno::INTR) {}
    set(Program::Ended);
    child.wait()
}
