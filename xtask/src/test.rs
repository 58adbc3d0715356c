//! The stages of a test run, the cheap ones first. Everything is built once, with one set of features; each stage then
//! runs a part of it through `cargo test`, whose output is left as it is.
//!
//! Tests that make namespaces and rules run as root, each program of them in a `sandbox` of its own (the script beside
//! this crate): whatever one leaves behind, even when it is killed, goes with it.

use crate::metadata::{Metadata, host};
use anyhow::{Context, bail};
use std::{
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

/// Test programs of `e2e/` with this name in front want the real cluster.
const ON_THE_CLUSTER: &str = "cluster";

/// Where each test program belongs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    scenarios: Vec<String>,
    embedded: Vec<String>,
    cluster: Vec<String>,
}

/// Builds, then runs every stage. The first that fails ends the run.
pub fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::read(root)?;
    let tests = metadata.members().flat_map(|package| {
        let ours = package.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test"));
        ours.map(|target| (package.folder().starts_with(root.join("e2e")), target.name.clone()))
    });
    let plan = plan(tests)?;
    let runner = format!("CARGO_TARGET_{}_RUNNER", host()?.to_uppercase().replace('-', "_"));
    let stages = Stages { root, runner, sandbox: root.join("xtask/sandbox").display().to_string() };

    let mut times = vec![];
    let mut stage = |name: &'static str, work: &dyn Fn() -> anyhow::Result<()>| {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = work().with_context(|| format!("stage: {name}"));
        times.push((name, start.elapsed()));
        outcome
    };
    stage("build", &|| stages.cargo(&["build", "--workspace", "--all-targets"]))?;
    stage("pure tests", &|| stages.cargo(&["test", "--workspace", "--lib", "--bins"]))?;
    stage("examples in the docs", &|| stages.cargo(&["test", "--workspace", "--doc", "--quiet"]))?;
    stage("scenarios: real sockets, root, namespaces", &|| stages.sandboxed(&plan.scenarios))?;
    if !plan.embedded.is_empty() {
        stage("scenarios on the embedded cluster", &|| stages.sandboxed(&plan.embedded))?;
    }
    if !plan.cluster.is_empty() {
        stage("build the real cluster", &|| succeed(Command::new(root.join("e2e/cluster/cluster")).arg("build")))?;
        stage("scenarios on the real cluster", &|| stages.sandboxed(&plan.cluster))?;
    }
    report(&times);
    Ok(ExitCode::SUCCESS)
}

/// Sorts test programs: whether each is of `e2e/`, and its name.
fn plan(tests: impl Iterator<Item = (bool, String)>) -> anyhow::Result<Plan> {
    let mut plan = Plan::default();
    for (end_to_end, name) in tests {
        let stage = match end_to_end {
            false => &mut plan.scenarios,
            true if name.starts_with(ON_THE_CLUSTER) => &mut plan.cluster,
            true => &mut plan.embedded,
        };
        if !stage.contains(&name) {
            stage.push(name);
        }
    }
    // `cargo test --test NAME` would run both.
    let ends = || plan.embedded.iter().chain(&plan.cluster);
    if let Some(name) = ends().find(|name| plan.scenarios.contains(name)) {
        bail!("two test programs are named {name}, one of them in e2e/: rename one");
    }
    Ok(plan)
}

struct Stages<'a> {
    root: &'a Path,
    runner: String,
    sandbox: String,
}

impl Stages<'_> {
    fn cargo(&self, arguments: &[&str]) -> anyhow::Result<()> {
        succeed(self.command().args(arguments))
    }

    /// Runs test programs by name, each in a sandbox.
    fn sandboxed(&self, tests: &[String]) -> anyhow::Result<()> {
        // The whole workspace is named, though few of it are run: another choice would be another set of features.
        let mut command = self.command();
        command.args(["test", "--workspace"]).env(&self.runner, &self.sandbox);
        tests.iter().for_each(|name| {
            command.args(["--test", name]);
        });
        succeed(&mut command)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(self.root);
        command
    }
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    anyhow::ensure!(status.success(), "{status}: {command:?}");
    Ok(())
}

fn report(times: &[(&str, Duration)]) {
    println!("\n=== done");
    for (name, time) in times {
        println!("{:7.1} s  {name}", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    println!("{:7.1} s  in all", total.as_secs_f64());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn tests<'a>(tests: &'a [(bool, &str)]) -> impl Iterator<Item = (bool, String)> + 'a {
        tests.iter().map(|(end_to_end, name)| (*end_to_end, (*name).to_owned()))
    }

    #[test]
    fn test_programs_find_their_stage() {
        let found =
            plan(tests(&[(false, "admin"), (true, "up"), (true, "cluster_up"), (false, "cluster"), (false, "admin")])).unwrap();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Plan { scenarios: names(&["admin", "cluster"]), embedded: names(&["up"]), cluster: names(&["cluster_up"]) };
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_name_that_two_stages_would_run_is_refused() {
        assert!(plan(tests(&[(false, "faults"), (true, "faults")])).is_err());
    }
}
