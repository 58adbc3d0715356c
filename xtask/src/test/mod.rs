//! The stages of a test run, the cheap ones first. Everything is built once, with one set of features; each stage then
//! runs a part of it.
//!
//! Tests that make namespaces and rules run as root, each program of them in a `sandbox` of its own (the script beside
//! this crate): whatever one leaves behind, even when it is killed, goes with it. So they can run beside each other
//! (`lanes`). Tests that want a real cluster get one each (`on-cluster`).

mod lanes;

use crate::{
    image,
    metadata::{Metadata, Target, target_folder},
};
use anyhow::Context;
use lanes::Job;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// The feature that a test program requires if it can't do without a real cluster.
const CLUSTER: &str = "cluster";

/// Test programs that do more beside a real cluster: they run in both stages.
const ALSO_ON_THE_CLUSTER: &[&str] = &["api_table", "acceptance"];

/// Programs of `e2e/` that belong to a test run, with what they run in and their arguments. The others want more nodes,
/// more time, or programs of others.
const SCRIPTS: &[(&str, &str, &[&str])] =
    &[("e2e/book/book", "on-cluster", &[WITHOUT_CERT_MANAGER]), ("e2e/identity/identity", "sandbox", &[])];

/// It takes longer to build than everything else together.
const WITHOUT_CERT_MANAGER: &str = "--without-cert-manager";

/// No job takes half as long where it works.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Those that take longest begin first, so that the lanes end together.
const LONG: &[&str] = &["lifecycle", "cni_cluster", "scenarios", "mesh", "faults", "acceptance"];

/// Which test programs belong to which stage, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Features that everything is built with.
    features: Vec<String>,
    scenarios: Vec<String>,
    cluster: Vec<String>,
}

/// Builds, then runs every stage. The first that fails ends the run.
pub fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::read(root)?;
    let targets = metadata.members().flat_map(|package| package.targets.iter().map(|target| (package.name.as_str(), target)));
    let plan = plan(targets);
    let stages = Stages { root, plan: &plan };

    let mut times = vec![];
    let mut stage = |name: &'static str, work: &dyn Fn() -> anyhow::Result<()>| {
        println!("\n=== {name}");
        let start = Instant::now();
        let outcome = work().with_context(|| format!("stage: {name}"));
        times.push((name, start.elapsed()));
        outcome
    };
    stage("build", &|| stages.cargo("build", &["--all-targets"]))?;
    stage("pure tests", &|| stages.cargo("test", &["--lib", "--bins"]))?;
    stage("examples in the docs", &|| stages.cargo("test", &["--doc", "--quiet"]))?;
    stage("scenarios: real sockets, root, namespaces", &|| stages.run(stages.jobs("sandbox", &plan.scenarios)?))?;
    if !plan.cluster.is_empty() {
        stage("a real cluster", &|| {
            succeed(Command::new(root.join("xtask/os-packages")).arg(CLUSTER))?;
            let go = Command::new("go").arg("version").output();
            anyhow::ensure!(go.is_ok(), "a cluster is built from Go modules: install Go 1.26 or newer, and have `go` in PATH");
            succeed(Command::new(root.join("e2e/cluster/cluster")).arg("build"))?;
            succeed(Command::new(root.join("e2e/book/book")).args([WITHOUT_CERT_MANAGER, "prepare"]))
        })?;
        stage("images for it", &|| image::for_tests(root))?;
        stage("scenarios on the real cluster", &|| {
            let jobs = SCRIPTS.iter().map(|(script, runner, arguments)| {
                let mut job = stages.job(script, runner, &root.join(script), root);
                job.command().args(*arguments);
                job
            });
            stages.run(jobs.chain(stages.jobs("on-cluster", &plan.cluster)?).collect())
        })?;
    }
    report(&times);
    Ok(ExitCode::SUCCESS)
}

/// Sorts test programs, given with their packages.
fn plan<'a>(targets: impl Iterator<Item = (&'a str, &'a Target)>) -> Plan {
    let mut plan = Plan::default();
    for (package, target) in targets.filter(|(_, target)| target.kind.iter().any(|kind| kind == "test")) {
        let needs_cluster = target.required_features.iter().any(|feature| feature == CLUSTER);
        plan.features.extend(target.required_features.iter().map(|feature| format!("{package}/{feature}")));
        if !needs_cluster {
            plan.scenarios.push(target.name.clone());
        }
        if needs_cluster || ALSO_ON_THE_CLUSTER.contains(&target.name.as_str()) {
            plan.cluster.push(target.name.clone());
        }
    }
    for names in [&mut plan.features, &mut plan.scenarios, &mut plan.cluster] {
        names.sort();
        names.dedup();
        names.sort_by_key(|name| LONG.iter().position(|long| long == name).unwrap_or(LONG.len()));
    }
    plan
}

struct Stages<'a> {
    root: &'a Path,
    plan: &'a Plan,
}

/// A line of what cargo tells while it builds, of a program.
#[derive(Deserialize)]
struct Artifact {
    target: Target,
    manifest_path: PathBuf,
    executable: Option<PathBuf>,
}

impl Stages<'_> {
    /// Always the whole workspace and the same features, though few of it may be run: another choice would be another
    /// build of everything.
    fn cargo(&self, job: &str, arguments: &[&str]) -> anyhow::Result<()> {
        succeed(self.command(job).args(arguments))
    }

    fn run(&self, jobs: Vec<Job>) -> anyhow::Result<()> {
        lanes::run(jobs, &target_folder(self.root).join("test-output"))
    }

    /// Test programs by name, each run by a script beside this crate.
    fn jobs(&self, runner: &str, tests: &[String]) -> anyhow::Result<Vec<Job>> {
        let built = self.built(tests)?;
        let job = |name: &String| {
            let (program, folder) = built.get(name).with_context(|| format!("cargo built no test {name}"))?;
            Ok(self.job(name, runner, program, folder))
        };
        tests.iter().map(job).collect()
    }

    /// As cargo runs tests: in the folder of their package.
    fn job(&self, name: &str, runner: &str, program: &Path, folder: &Path) -> Job {
        let mut job = Job::new(name, &self.root.join("xtask").join(runner), TIME_LIMIT, program);
        job.command().current_dir(folder).env("CARGO_MANIFEST_DIR", folder);
        job
    }

    /// Where test programs are, and the folders of their packages, by name.
    fn built(&self, tests: &[String]) -> anyhow::Result<BTreeMap<String, (PathBuf, PathBuf)>> {
        let mut command = self.command("test");
        command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
        command.args(tests.iter().flat_map(|name| ["--test", name]));
        let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("starting {command:?}"))?;
        anyhow::ensure!(output.status.success(), "{}: {command:?}", output.status);
        let told = String::from_utf8(output.stdout).context("cargo's answer is not UTF-8")?;
        let row = |line: &str| {
            let artifact = serde_json::from_str::<Artifact>(line).ok()?;
            let folder = artifact.manifest_path.parent()?.to_owned();
            (artifact.target.kind == ["test"]).then_some((artifact.target.name, (artifact.executable?, folder)))
        };
        Ok(told.lines().filter_map(row).collect())
    }

    fn command(&self, job: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(self.root).args([job, "--workspace", "--locked"]);
        if !self.plan.features.is_empty() {
            command.args(["--features", &self.plan.features.join(",")]);
        }
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

    fn target(name: &str, kind: &str, features: &[&str]) -> Target {
        serde_json::from_value(serde_json::json!({"name": name, "kind": [kind], "required-features": features})).unwrap()
    }

    #[test]
    fn test_programs_find_their_stage() {
        let targets = [
            ("homarus-local", target("node", "test", &[])),
            ("homarus-control", target("cluster", "test", &["cluster"])),
            ("homarus-local", target("api_table", "test", &[])),
            ("homarus-cli", target("acceptance", "test", &[])),
            ("homarus-daemon", target("admin", "test", &[])),
            ("homarus-cli", target("homarus", "bin", &[])),
        ];
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = plan(targets.iter().map(|(package, target)| (*package, target)));
        assert_eq!(found.features, names(&["homarus-control/cluster"]));
        assert_eq!(found.scenarios, names(&["acceptance", "admin", "api_table", "node"]));
        assert_eq!(found.cluster, names(&["acceptance", "api_table", "cluster"]));
    }
}
