//! Test programs beside each other: as many at a time as there are lanes, each in its own process, its output kept in a file
//! and printed whole when it ends. One that fails doesn't keep the others from running: a run tells of everything that is
//! broken.

use anyhow::Context;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    path::Path,
    process::{Command, ExitStatus},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How many run at a time. They wait more than they work: a cluster takes about one core of its own.
pub const LANES: usize = 2;
/// What takes longer hangs, and is killed.
const TIME_LIMIT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(50);

/// A program to run.
pub struct Job {
    /// Unique among the jobs of a run.
    pub name: String,
    pub command: Command,
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
    anyhow::ensure!(status.success(), "{status}");
    Ok(())
}

fn finish(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let end = Instant::now() + TIME_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("killed: it took longer than {} s", TIME_LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
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

    fn shell(name: &str, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { name: name.into(), command }
    }

    #[test]
    fn all_run_though_one_fails_and_the_failures_are_named() {
        let folder = std::env::temp_dir().join(format!("homarus-lanes-{}", std::process::id()));
        let jobs = vec![shell("a/first", "echo bad; exit 3"), shell("second", "true"), shell("third", "kill -9 $$")];
        let said = run(jobs, &folder).unwrap_err().to_string();
        assert!(said.contains("a/first: exit status: 3") && said.contains("third: signal: 9"), "{said}");
        assert!(!said.contains("second"), "{said}");
        assert_eq!(fs::read_to_string(folder.join("a-first.log")).unwrap(), "bad\n");
        run(vec![shell("second", "true")], &folder).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }
}
