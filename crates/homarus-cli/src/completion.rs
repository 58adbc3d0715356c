//! `completion`: a script for a shell, which asks this program what may come next.
//!
//! The script calls the program with `COMPLETE` set and the words so far. Commands and flags are known; namespaces, contexts and
//! the names of resources are asked of the kubeconfig and the cluster that the words so far name. A cluster that doesn't answer
//! soon completes nothing, without a word: somebody is typing.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory, FromArgMatches};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Shells, Zsh};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::config::Kubeconfig;
use kube::{Api, ResourceExt};

use crate::cluster::Cluster;
use crate::command_line::{Cli, Completion};
use crate::failure::{Exit, Failure, Outcome};
use crate::resources::Kind;
use crate::terminal;

/// What tells the program that a shell asks.
const VARIABLE: &str = "COMPLETE";
/// How long somebody may be kept waiting.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most names that are offered.
const MAX_NAMES: u32 = 500;
const SHELLS: [&dyn EnvCompleter; 3] = [&Bash, &Zsh, &Fish];

/// Writes a script that completes commands, flags and names, for the name that this program was called by.
pub fn run(args: &Completion) -> Outcome {
    let shell = SHELLS.into_iter().find(|shell| shell.name() == args.shell);
    let unknown = || Failure::usage(format!("unsupported shell type (must be bash, zsh or fish): {}", args.shell));
    let shell = shell.ok_or_else(unknown)?;
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or("homarus");
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Answers a shell, if one asks.
pub fn answered() -> Result<bool, Failure> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(false);
    }
    let complete = CompleteEnv::with_factory(|| with_names(Cli::command())).shells(Shells(&SHELLS));
    complete.try_complete(std::env::args_os(), None).map_err(Failure::new)
}

/// Commands whose flags and arguments know where their values come from.
fn with_names(command: Command) -> Command {
    command.mut_args(named).mut_subcommands(with_names)
}

/// What an argument means is told by the name of its value.
fn named(arg: Arg) -> Arg {
    let value = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    match (arg.get_id().as_str(), value.as_deref()) {
        ("context", _) => arg.add(ArgValueCompleter::new(contexts)),
        (_, Some("NAMESPACE")) => arg.add(ArgValueCompleter::new(|current: &OsStr| asked(namespaces(), current))),
        (_, Some("RESOURCE" | "RESOURCES")) => {
            arg.add(ArgValueCompleter::new(|current: &OsStr| asked(resources(current.to_os_string()), current)))
        }
        (_, Some("PODS")) => arg.add(ArgValueCompleter::new(|current: &OsStr| asked(names_of(Kind::Pod), current))),
        _ => arg,
    }
}

/// The words that the shell has, this program's name first.
fn words() -> Vec<OsString> {
    std::env::args_os().skip_while(|word| word != "--").skip(1).collect()
}

/// Those of some names that begin as what is typed. Whatever goes wrong, nothing is offered.
fn asked(names: impl Future<Output = Option<Vec<String>>>, current: &OsStr) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let names = runtime.block_on(async { tokio::time::timeout(PATIENCE, names).await.ok().flatten() });
    beginning(names.unwrap_or_default(), current)
}

fn beginning(names: Vec<String>, current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    names.into_iter().filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let file = match value_of(&words(), &["--kubeconfig"]) {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let contexts = file.map(|file| file.contexts.into_iter().map(|context| context.name).collect());
    beginning(contexts.unwrap_or_default(), current)
}

/// The value that a flag was given so far.
fn value_of(words: &[OsString], flags: &[&str]) -> Option<String> {
    let mut words = words.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some((flag, value)) if flags.contains(&flag) => return Some(value.to_owned()),
            None if flags.contains(&&*word) => return words.next().map(|value| value.into_owned()),
            _ => {}
        }
    }
    None
}

/// The cluster that the words so far mean.
async fn cluster() -> Option<Cluster> {
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(words()).ok()?;
    Cluster::connect(&Cli::from_arg_matches(&matches).ok()?.globals).await.ok()
}

async fn namespaces() -> Option<Vec<String>> {
    let namespaces: Api<Namespace> = Api::all(cluster().await?.client);
    let list = namespaces.list_metadata(&ListParams::default().limit(MAX_NAMES)).await.ok()?;
    Some(list.items.iter().map(ResourceExt::name_any).collect())
}

/// `TYPE`, `TYPE/NAME`, or names after a type.
async fn resources(current: OsString) -> Option<Vec<String>> {
    let current = current.to_str()?.to_owned();
    if let Some((kind, _)) = current.split_once('/') {
        let names = names_of(Kind::named(kind).ok()?).await?;
        return Some(names.into_iter().map(|name| format!("{kind}/{name}")).collect());
    }
    let words = words();
    let before = words.iter().rev().skip(1).find(|word| !word.to_string_lossy().starts_with('-'));
    match before.and_then(|word| Kind::named(word.to_str()?).ok()) {
        Some(kind) => names_of(kind).await,
        None => Some(Kind::every().map(|kind| kind.name().to_owned()).collect()),
    }
}

async fn names_of(kind: Kind) -> Option<Vec<String>> {
    let cluster = cluster().await?;
    let namespace = cluster.namespace(value_of(&words(), &["-n", "--namespace"]).as_deref());
    let resource = ApiResource::from_gvk(&group_version_kind(kind));
    let api: Api<DynamicObject> = match kind {
        Kind::Namespace => Api::all_with(cluster.client, &resource),
        _ => Api::namespaced_with(cluster.client, &namespace, &resource),
    };
    let list = api.list_metadata(&ListParams::default().limit(MAX_NAMES)).await.ok()?;
    Some(list.items.iter().map(ResourceExt::name_any).collect())
}

fn group_version_kind(kind: Kind) -> GroupVersionKind {
    let (group, name) = match kind {
        Kind::CronJob => ("batch", "CronJob"),
        Kind::DaemonSet => ("apps", "DaemonSet"),
        Kind::Deployment => ("apps", "Deployment"),
        Kind::Job => ("batch", "Job"),
        Kind::Namespace => ("", "Namespace"),
        Kind::Pod => ("", "Pod"),
        Kind::ReplicaSet => ("apps", "ReplicaSet"),
        Kind::ReplicationController => ("", "ReplicationController"),
        Kind::Service => ("", "Service"),
        Kind::StatefulSet => ("apps", "StatefulSet"),
    };
    GroupVersionKind::gvk(group, "v1", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_values_in_two_ways() {
        let check = |line: &str, wanted: Option<&str>| {
            let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(value_of(&words, &["-n", "--namespace"]).as_deref(), wanted, "{line}");
        };
        check("homarus stat -n shop deploy", Some("shop"));
        check("homarus stat --namespace=shop deploy", Some("shop"));
        check("homarus stat deploy", None);
        check("homarus stat -n", None);
    }

    #[test]
    fn arguments_know_where_their_values_come_from() {
        let command = with_names(Cli::command());
        let knows = |path: &[&str], arg: &str| {
            let command = path.iter().try_fold(&command, |command, name| command.find_subcommand(name));
            let mut args = command.into_iter().flat_map(Command::get_arguments);
            args.find(|known| known.get_id() == arg).is_some_and(|arg| arg.get::<ArgValueCompleter>().is_some())
        };
        assert!(knows(&[], "linkerd_namespace") && knows(&[], "context"));
        assert!(knows(&["stat"], "resources") && knows(&["authz"], "resources") && knows(&["identity"], "pods"));
        assert!(knows(&["check"], "namespace") && knows(&["diagnostics", "policy"], "resource"));
        assert!(!knows(&["check"], "wait"));
    }
}
