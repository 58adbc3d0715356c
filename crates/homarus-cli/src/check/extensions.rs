//! Extensions: programs on the path that check themselves, and namespaces that say they belong to one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::facts::{Answer, Facts, Problem, unless_empty};
use super::report::{Category, Finding, Verdict};
use crate::command_line::{Check as Args, Globals};

/// The label of an extension's namespace.
const LABEL: &str = "linkerd.io/extension";
/// The hint about extensions.
pub(super) const ANCHOR: &str = "extensions";
/// How the names of extensions' programs begin.
const PREFIXES: [&str; 2] = ["linkerd-", "homarus-"];
/// Programs of the mesh itself, which must not be started for a question.
const OURS: [&str; 3] = ["homarus-proxy", "homarus-redirect", "homarus-demo"];
/// How long a program may take to say whether it is an extension.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

async fn labelled(facts: &Facts) -> Result<BTreeMap<String, Vec<String>>, Problem> {
    let namespaces: Api<Namespace> = Api::all(facts.client()?);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for namespace in namespaces.list(&ListParams::default().labels(LABEL)).await? {
        let extension = namespace.labels().get(LABEL).cloned().unwrap_or_default();
        found.entry(extension).or_default().push(namespace.name_any());
    }
    Ok(found)
}

/// An extension has one namespace.
pub(super) async fn namespaces(facts: &Facts) -> Answer {
    let found = labelled(facts).await?;
    let several = found.iter().filter(|(_, namespaces)| namespaces.len() > 1);
    let several: Vec<_> = several.map(|(extension, of)| format!("{extension}: {}", of.join(", "))).collect();
    unless_empty("some extensions have more than one namespace:", &several)
}

/// What extensions find out about themselves, in the order of their names.
pub(super) async fn all(facts: &Facts, globals: &Globals, args: &Args) -> Vec<Category> {
    let programs = programs();
    let asked = programs.iter().map(|(name, program)| async { (name.clone(), wants_check(name, program).await) });
    let willing = futures::future::join_all(asked).await;
    let mut wanted: BTreeSet<String> = willing.into_iter().filter(|(_, wants)| *wants).map(|(name, _)| name).collect();
    let in_cluster = labelled(facts).await.unwrap_or_default();
    wanted.extend(in_cluster.into_keys().map(|extension| {
        let names = PREFIXES.map(|prefix| format!("{prefix}{extension}"));
        names.iter().find(|name| programs.contains_key(*name)).unwrap_or(&names[0]).clone()
    }));
    let mut categories = Vec::new();
    for name in wanted {
        match programs.get(&name) {
            Some(program) => categories.extend(check(&name, program, &flags(facts, globals, args), args.wait).await),
            None => {
                let what = format!("Linkerd extension command {name} exists");
                let error = format!("exec: \"{name}\": executable file not found in $PATH");
                categories.push(Category { category_name: name, checks: vec![Finding::failed(&what, ANCHOR, &error, true)] });
            }
        }
    }
    categories
}

/// Programs on the path whose names are those of extensions; the first of a name wins.
fn programs() -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let named = PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !OURS.contains(&name.as_str());
            if named && is_program(&entry.path()) {
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// Whether a program wants to be asked even if no namespace belongs to it.
async fn wants_check(name: &str, program: &Path) -> bool {
    let asked = Command::new(program).arg("_extension-metadata").stdin(Stdio::null()).kill_on_drop(true).output();
    let Ok(Ok(output)) = timeout(METADATA_TIMEOUT, asked).await else { return false };
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let own_name = metadata["name"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name));
    own_name && metadata["checks"].as_str().is_some_and(|checks| checks.eq_ignore_ascii_case("always"))
}

/// What we were told, told on.
fn flags(facts: &Facts, globals: &Globals, args: &Args) -> Vec<String> {
    let given = [
        ("api-addr", globals.api_addr.clone()),
        ("context", globals.context.clone()),
        ("as", globals.impersonate.clone()),
        ("as-group", Some(globals.impersonate_groups.join(","))),
        ("kubeconfig", globals.kubeconfig.as_ref().map(|path| path.display().to_string())),
        ("linkerd-namespace", Some(facts.control_plane_ns.clone())),
        ("verbose", globals.verbose.then(|| "true".to_owned())),
        ("namespace", args.namespace.clone()),
        ("proxy", args.proxy.then(|| "true".to_owned())),
        ("wait", Some(format!("{}s", args.wait.as_secs()))),
        ("output", Some("json".to_owned())),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    given.map(|(name, value)| format!("--{name}={value}")).collect()
}

async fn check(name: &str, program: &Path, flags: &[String], wait: Duration) -> Vec<Category> {
    let said = format!("{name} check {}", flags.join(" "));
    let mut command = Command::new(program);
    let asked = command.arg("check").args(flags).stdin(Stdio::null()).kill_on_drop(true).output();
    let limit = wait + super::ATTEMPT_TIMEOUT;
    let problem = match timeout(limit, asked).await {
        Ok(Ok(output)) => match read(&output.stdout) {
            Some(categories) => return categories,
            None if !output.stderr.is_empty() => String::from_utf8_lossy(&output.stderr).into_owned(),
            None => format!(
                "invalid extension check output from \"{said}\" (JSON object expected):\n{}",
                String::from_utf8_lossy(&output.stdout)
            ),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} seconds", limit.as_secs()),
    };
    let checks = vec![Finding::failed(&format!("Running: {said}"), ANCHOR, problem.trim(), false)];
    vec![Category { category_name: name.to_owned(), checks }]
}

/// The report of an extension.
fn read(output: &[u8]) -> Option<Vec<Category>> {
    let report: Value = serde_json::from_slice(output).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let categories = report["categories"].as_array()?.iter().map(|category| {
        let checks = category["checks"].as_array().into_iter().flatten().map(|check| Finding {
            description: text(&check["description"]).unwrap_or_default(),
            hint: text(&check["hint"]).filter(|hint| !hint.is_empty()),
            error: text(&check["error"]).filter(|error| !error.is_empty()),
            result: match check["result"].as_str() {
                Some("success") => Verdict::Success,
                Some("warning") => Verdict::Warning,
                _ => Verdict::Error,
            },
            detail: None,
        });
        Category { category_name: text(&category["categoryName"]).unwrap_or_default(), checks: checks.collect() }
    });
    Some(categories.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reports_of_extensions() {
        let report = br#"{"success":false,"categories":[{"categoryName":"linkerd-smi","checks":[
            {"description":"a","result":"success"},{"description":"b","hint":"h","error":"e","result":"error"}]}]}"#;
        let categories = read(report).unwrap();
        assert_eq!(categories[0].category_name, "linkerd-smi");
        assert_eq!(categories[0].checks[1].error.as_deref(), Some("e"));
        assert_eq!(categories[0].checks[0].result, Verdict::Success);
        assert!(read(b"nonsense").is_none());
        assert!(read(b"[]").is_none());
    }
}
