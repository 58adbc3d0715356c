//! The program as scripts use it: words in, text and exit codes out. No cluster is needed.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn homarus() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homarus"));
    // A machine that knows no cluster.
    command.env("KUBECONFIG", "").env("HOME", "/nonexistent").env_remove("KUBERNETES_SERVICE_HOST").env("PATH", "/nonexistent");
    command
}

fn run(line: &str, input: &str) -> Output {
    let mut child = homarus()
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn check(line: &str, code: i32, out: &str, err: &str) {
    let output = run(line, "");
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{line}\n{stdout}\n{stderr}");
    assert!(stdout.contains(out), "{line}: {stdout}");
    assert!(stderr.contains(err), "{line}: {stderr}");
    assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "no colour in a pipe: {line}");
}

#[test]
fn help_and_versions() {
    check("", 0, "Usage: homarus", "");
    check("--help", 0, "Run the whole mesh on this machine", "");
    check("check --help", 0, "--proxy", "");
    check("version --client", 0, "Client version: ", "");
    check("version --client --short", 0, env!("CARGO_PKG_VERSION"), "");
    check("version --client -ojson", 0, "\"client\"", "");
}

#[test]
fn what_is_not_understood_is_2() {
    check("nonsense", 2, "", "unknown command \"nonsense\"");
    check("--verbose nonsense", 2, "", "Cannot accept flags before Linkerd extension name");
    check("check --nonsense", 2, "", "--nonsense");
    check(
        "check --pre --proxy",
        2,
        "",
        "Validation error when executing check command: --pre and --proxy flags are mutually exclusive",
    );
    check("check -o yaml", 2, "", "Invalid output type 'yaml'. Supported output types are: json, table, short");
    check("completion tcsh", 2, "", "unsupported shell type (must be bash, zsh or fish): tcsh");
    check("-L a_b version", 2, "", "a_b is not a valid namespace");
    check("inject", 2, "", "please specify a kubernetes resource file");
    check("inject http://example.com/x --ignore-cluster", 2, "", "only HTTPS URLs are allowed");
}

#[test]
fn without_a_cluster_a_remedy_is_told() {
    // A mesh that happens to run on this machine would be used: name a file that isn't there.
    check("stat deploy --kubeconfig /nonexistent/config", 1, "", "--kubeconfig or $KUBECONFIG");
    check("check --kubeconfig /nonexistent/config --wait 0s", 1, "× can initialize the client", "");
    check("check --kubeconfig /nonexistent/config -o json", 1, "\"success\": false", "");
    let remedy = if rustix::process::geteuid().is_root() { "name their folder with --programs" } else { "Run `sudo homarus up`" };
    check("up --state-dir /nonexistent/state --programs /nonexistent", 1, "", remedy);
}

#[test]
fn manifests_go_in_and_come_back() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  template:\n    spec:\n      containers:\n      - image: web\n        name: web\n---\n";
    let injected = run("inject --ignore-cluster --manual -", deployment);
    assert!(injected.status.success());
    let yaml = String::from_utf8(injected.stdout).unwrap();
    assert!(yaml.contains("name: linkerd-proxy"), "{yaml}");
    assert_eq!(String::from_utf8(injected.stderr).unwrap(), "\ndeployment \"web\" injected\n\n");
    let back = run("uninject -", &yaml);
    assert_eq!(String::from_utf8(back.stdout).unwrap(), deployment);
}

#[test]
fn a_link_named_linkerd_is_us_and_controllers_are_called_as_charts_do() {
    let folder = tempfile::tempdir().unwrap();
    let link = |name: &str| {
        let path = folder.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_homarus"), &path).unwrap();
        path
    };
    let output = |path: &Path, args: &[&str]| Command::new(path).args(args).output().unwrap();
    assert!(output(&link("linkerd"), &["version", "--client"]).status.success());
    let policy = output(&link("linkerd-policy-controller"), &["--help"]);
    assert!(String::from_utf8(policy.stdout).unwrap().contains("--grpc-addr"));
    let identity = run("identity -log-level=info -identity-scheme= -identity-trust-domain=", "");
    assert!(identity.status.success(), "identity is disabled without scheme and trust domain: {identity:?}");
}

#[test]
fn shells_get_their_scripts() {
    for (shell, mark) in [("bash", "complete "), ("zsh", "#compdef homarus"), ("fish", "complete ")] {
        check(&format!("completion {shell}"), 0, mark, "");
        check(&format!("completion {shell}"), 0, "COMPLETE", "");
    }
}

#[test]
fn shells_are_told_what_may_come_next() {
    let ask = |words: &[&str]| {
        let output = homarus().env("COMPLETE", "fish").arg("--").args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert!(ask(&["homarus", "che"]).contains(&"check".to_owned()));
    assert!(ask(&["homarus", "check", "--pro"]).contains(&"--proxy".to_owned()));
    // Types of resources are known without a cluster; names are not, and nobody is told of an error.
    assert!(ask(&["homarus", "stat", "dep"]).contains(&"deployment".to_owned()));
    assert_eq!(ask(&["homarus", "stat", "deploy/"]), Vec::<String>::new());
}

#[test]
fn policies_and_profiles() {
    check("profile --ignore-cluster --template -n shop web", 0, "name: web.shop.svc.cluster.local", "");
    check("profile --ignore-cluster web", 2, "", "You must specify exactly one of --template or --open-api or --proto");
    check("profile --ignore-cluster --template -n shop Web", 2, "", "invalid service \"Web\"");
    let proto = run("profile --ignore-cluster -n shop --proto - -o json web", "package a; service B { rpc C (D) returns (E); }");
    let profile: serde_json::Value = serde_json::from_slice(&proto.stdout).unwrap();
    assert_eq!(profile["spec"]["routes"][0]["condition"]["pathRegex"], r"/a\.B/C");
    let api = run("profile --ignore-cluster -n shop --open-api - web", "paths: {/a: {get: {}}}");
    assert!(String::from_utf8(api.stdout).unwrap().contains("name: GET /a"));
    check("check --explain l5d-existence-ns", 0, "### `control plane Namespace exists`", "");
    check("check --explain nonsense", 2, "", "no check has the hint");
}

/// A folder with programs, as scripts.
fn programs(scripts: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in scripts {
        // By another process: a fork of another test would keep a descriptor of ours open for writing, and the script busy.
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"]);
        assert!(shell.arg(folder.path().join(name)).arg(script).status().unwrap().success());
    }
    folder
}

#[test]
fn extensions_check_themselves_whatever_the_core_finds() {
    let metadata =
        |name: &str| format!(r#"[ "$1" = _extension-metadata ] && echo '{{"name":"{name}","checks":"always"}}' && exit"#);
    let hello = format!(
        "{}\necho \"{{\\\"success\\\":true,\\\"categories\\\":[{{\\\"categoryName\\\":\\\"hello\\\",\\\"checks\\\":[{{\\\"description\\\":\\\"$*\\\",\\\"result\\\":\\\"success\\\"}}]}}]}}\"",
        metadata("linkerd-hello")
    );
    let broken = format!("{}\necho nonsense", metadata("homarus-broken"));
    let folder = programs(&[("linkerd-hello", &hello), ("homarus-broken", &broken), ("linkerd-quiet", "exit 0")]);
    let line = "check --proxy -n shop --kubeconfig /nonexistent/config --wait 0s -o json";
    let output = homarus().env("PATH", folder.path()).args(line.split(' ')).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |name: &str| report["categories"].as_array().unwrap().iter().find(|category| category["categoryName"] == name);
    let flags =
        "--kubeconfig=/nonexistent/config --linkerd-namespace=linkerd --namespace=shop --proxy=true --wait=0s --output=json";
    assert_eq!(of("hello").unwrap()["checks"][0]["description"], format!("check {flags}"));
    let broken = &of("homarus-broken").unwrap()["checks"][0];
    assert_eq!(broken["description"], format!("Running: homarus-broken check {flags}"));
    assert!(broken["error"].as_str().unwrap().starts_with("invalid extension check output from"), "{broken}");
    assert!(of("linkerd-quiet").is_none() && of("kubernetes-api").is_some());
}

#[test]
fn other_words_are_the_programs_of_extensions() {
    let folder = programs(&[("linkerd-hello", "echo \"hello $*\""), ("homarus-bye", "echo bye; exit 3")]);
    let run = |words: &[&str]| homarus().env("PATH", folder.path()).args(words).output().unwrap();
    let hello = run(&["hello", "a", "--b"]);
    assert_eq!((hello.status.code(), hello.stdout.as_slice()), (Some(0), &b"hello a --b\n"[..]));
    let bye = run(&["bye"]);
    assert_eq!((bye.status.code(), bye.stdout.as_slice()), (Some(1), &b"bye\n"[..]));
    assert_eq!(String::from_utf8(bye.stderr).unwrap(), "Error: exit status 3\n");
}
