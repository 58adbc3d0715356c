//! Extensions: programs on the path that check themselves, and namespaces that say they belong to one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
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
use crate::command_line::Check as Args;

/// The label of an extension's namespace.
const LABEL: &str = "linkerd.io/extension";
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

/// What extensions find out about themselves.
pub(super) async fn all(facts: &Facts, args: &Args) -> Vec<Category> {
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (name, program) in programs() {
        if wants_check(&name, &program).await {
            wanted.insert(name);
        }
    }
    let in_cluster = labelled(facts).await.unwrap_or_default();
    wanted.extend(in_cluster.into_keys().map(|extension| format!("linkerd-{extension}")));
    let programs = programs();
    let mut categories = Vec::new();
    for name in wanted {
        match programs.get(&name) {
            Some(program) => categories.extend(check(&name, program, facts, args).await),
            None => {
                let what = format!("Linkerd extension command {name} exists");
                let error = format!("exec: \"{name}\": executable file not found in $PATH");
                categories.push(Category { category_name: name, checks: vec![Finding::failed(&what, "extensions", &error, true)] });
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
            if name.starts_with("linkerd-") && entry.path().is_file() {
                found.entry(name).or_insert_with(|| entry.path());
            }
        }
    }
    found
}

/// Whether a program wants to be asked even if no namespace belongs to it.
async fn wants_check(name: &str, program: &PathBuf) -> bool {
    let asked = Command::new(program).arg("_extension-metadata").stdin(Stdio::null()).kill_on_drop(true).output();
    let Ok(Ok(output)) = timeout(METADATA_TIMEOUT, asked).await else { return false };
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let own_name = metadata["name"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name));
    own_name && metadata["checks"].as_str().is_some_and(|checks| checks.eq_ignore_ascii_case("always"))
}

async fn check(name: &str, program: &PathBuf, facts: &Facts, args: &Args) -> Vec<Category> {
    let mut command = Command::new(program);
    command.arg("check").arg(format!("--linkerd-namespace={}", facts.control_plane_ns));
    if args.proxy {
        command.arg("--proxy=true");
    }
    if let Some(namespace) = &args.namespace {
        command.arg(format!("--namespace={namespace}"));
    }
    command.arg(format!("--wait={}s", args.wait.as_secs())).arg("--output=json");
    let asked = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let limit = args.wait + super::ATTEMPT_TIMEOUT;
    let problem = match timeout(limit, asked).await {
        Ok(Ok(output)) => match read(&output.stdout) {
            Some(categories) => return categories,
            None if !output.stderr.is_empty() => String::from_utf8_lossy(&output.stderr).into_owned(),
            None => format!(
                "invalid extension check output from \"{name}\" (JSON object expected):\n{}",
                String::from_utf8_lossy(&output.stdout)
            ),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} seconds", limit.as_secs()),
    };
    let checks = vec![Finding::failed(&format!("Running: {name} check"), "extensions", problem.trim(), false)];
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
