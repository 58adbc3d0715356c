//! Test programs beside each other: as many at a time as there are lanes, each in its own process, its output kept in a file
//! and printed whole when it ends. One that fails doesn't keep the others from running: a run tells of everything that is
//! broken.

use anyhow::Context;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How many run at a time. They wait more than they work: a cluster takes about one core of its own.
pub const LANES: usize = 2;
/// How long a program that was told to end may take to put away what it made.
const GRACE: Duration = Duration::from_secs(30);
/// What `timeout` says of a program that didn't end in time.
const TIMED_OUT: i32 = 124;

/// A program to run.
pub struct Job {
    /// Unique among the jobs of a run.
    name: String,
    limit: Duration,
    command: Command,
}

impl Job {
    /// A program that another runs (a sandbox). What takes longer than the limit hangs, and is told to end: by a program
    /// beside it within the sandbox, since the sandbox is root's and this process may be a user's.
    pub fn new(name: &str, runner: &Path, limit: Duration, program: &Path) -> Self {
        let mut command = Command::new(runner);
        // In the foreground: it alone is told, and once; what it starts while it puts things away goes on.
        command.args(["timeout", "--foreground"]).arg(format!("--kill-after={}", GRACE.as_secs()));
        command.arg(limit.as_secs_f64().to_string()).arg(program).stdin(Stdio::null());
        Self { name: name.to_owned(), limit, command }
    }

    /// To say more of how it runs.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }
}

/// Runs all of them, the first ones first.
///
/// # Errors
/// Names every job that failed, took too long, or couldn't start.
pub fn run(jobs: Vec<Job>, outputs: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(outputs).with_context(|| format!("making {}", outputs.display()))?;
    let waiting = Mutex::new(VecDeque::from(jobs));
    let failures = Mutex::new(vec![]);
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some(job) = next(&waiting) {
                    let name = job.name.clone();
                    if let Err(error) = one(job, outputs) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn next(waiting: &Mutex<VecDeque<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

fn one(mut job: Job, outputs: &Path) -> anyhow::Result<()> {
    let path = outputs.join(format!("{}.log", job.name.replace('/', "-")));
    let output = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    job.command.stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let ended = finish(&mut job.command);
    show(&job.name, start.elapsed(), &path)?;
    let status = ended?;
    anyhow::ensure!(status.code() != Some(TIMED_OUT), "ended: it took longer than {} s", job.limit.as_secs_f64());
    anyhow::ensure!(status.success(), "{status}");
    Ok(())
}

fn finish(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.status().with_context(|| format!("starting {command:?}"))
}

/// In one piece, since another lane prints too.
fn show(name: &str, time: Duration, path: &Path) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n--- {name}: {:.1} s", time.as_secs_f64())?;
    io::copy(&mut File::open(path)?, &mut out)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Far more than any of them takes.
    const AMPLE: Duration = Duration::from_secs(100);

    fn shell(name: &str, limit: Duration, script: &str) -> Job {
        let mut job = Job::new(name, Path::new("env"), limit, Path::new("bash"));
        job.command().args(["-c", script]);
        job
    }

    fn folder(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("homarus-lanes-{name}-{}", std::process::id()))
    }

    #[test]
    fn all_run_though_one_fails_and_the_failures_are_named() {
        let folder = folder("fail");
        let jobs =
            vec![shell("a/first", AMPLE, "echo bad; exit 3"), shell("second", AMPLE, "true"), shell("third", AMPLE, "kill -9 $$")];
        let said = run(jobs, &folder).unwrap_err().to_string();
        assert!(said.contains("a/first: exit status: 3") && said.contains("third: "), "{said}");
        assert!(!said.contains("second"), "{said}");
        assert_eq!(fs::read_to_string(folder.join("a-first.log")).unwrap(), "bad\n");
        run(vec![shell("second", AMPLE, "true")], &folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_that_hangs_is_told_to_end_and_puts_away_what_it_made() {
        let folder = folder("hang");
        let begin = Instant::now();
        let hangs =
            shell("hangs", Duration::from_millis(500), "trap 'sleep 0.3; echo put away' EXIT; echo begun; sleep 10; echo not told");
        let said = run(vec![hangs, shell("second", AMPLE, "true")], &folder).unwrap_err().to_string();
        assert_eq!(said, "hangs: ended: it took longer than 0.5 s");
        assert!(begin.elapsed() < AMPLE, "{:?}", begin.elapsed());
        assert_eq!(fs::read_to_string(folder.join("hangs.log")).unwrap(), "begun\nput away\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn nobody_is_asked_anything() {
        let folder = folder("asks");
        run(vec![shell("asks", AMPLE, "! read -r answer")], &folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
