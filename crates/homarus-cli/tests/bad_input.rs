//! What `install` and `upgrade` are given and can't use: each is named with its remedy, and nothing is printed that could be applied.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use homarus_cli::chart::{Capabilities, Chart, Name, Release, render};
use homarus_identity::authority::Pair;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn homarus(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homarus"));
    // A machine that knows no cluster.
    command.env("KUBECONFIG", "").env("HOME", "/nonexistent").env_remove("KUBERNETES_SERVICE_HOST");
    command.args(words).output().unwrap()
}

/// Refused: nothing on standard output, and both texts on the other.
fn refused(words: &[&str], names: &str, remedy: &str) {
    let output = homarus(words);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!output.status.success(), "{words:?}");
    assert_eq!(out, "", "{words:?}");
    assert!(err.contains(names), "{words:?}: {err}");
    assert!(err.contains(remedy), "{words:?}: {err}");
}

fn install(more: &[&str], names: &str, remedy: &str) {
    refused(&[&["install", "--ignore-cluster"], more].concat(), names, remedy);
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn values_with_a_wrong_type_or_an_unknown_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| write(folder.path(), "values.yaml", text);
    let schema = "Correct these keys";
    install(&["-f", &file("controllerReplicas: many\n")], "controllerReplicas", schema);
    install(&["-f", &file("proxy:\n  cores: [1]\n")], "cores", schema);
    install(&["-f", &file("controllerReplica: 3\n")], "controllerReplica", schema);
    install(&["-f", &file("proxy:\n  imgae: {}\n")], "imgae", schema);
    install(&["-f", &file("- a\n")], "not a mapping of values", "Values are YAML with a mapping at the top");
    install(&["-f", &file("a: [\n")], "values.yaml", "Values are YAML");
    install(&["-f", "/nonexistent/values.yaml"], "/nonexistent/values.yaml", "No such file");
    install(&["--set", "controllerReplicas"], "controllerReplicas", "The form is key.of.value=text");
    install(&["--set", "identityTrustDomain=Not_A_Domain"], "identityTrustDomain", "Change it");
    install(
        &["--set", "proxy.resources.memory.limit=1Mi,proxy.resources.memory.request=1Gi"],
        "proxy.resources.memory.limit",
        "Change it",
    );
    install(&["--set", "proxyInjector.externalSecret=true"], "externalSecret is not enough", "caBundle");
    install(&["--set", "identityTrustAnchorsPEM=x"], "trust anchor", "PEM");
    install(&["--controller-log-level", "loud"], "--controller-log-level must be one of", "info");
    install(&["--default-inbound-policy", "x"], "--default-inbound-policy must be one of", "all-authenticated");
    install(&["--skip-inbound-ports", "1-x"], "is not a valid port nor port-range", "1-x");
}

#[test]
fn certificates_that_cannot_be_used() {
    let now = SystemTime::now();
    let folder = tempfile::tempdir().unwrap();
    let given = |root: &Pair, issuer: &Pair| {
        let file = |name: &str, text: String| write(folder.path(), name, &text);
        [
            "--identity-trust-anchors-file".to_owned(),
            file("root.crt", root.certificate.to_pem()),
            "--identity-issuer-certificate-file".to_owned(),
            file("issuer.crt", issuer.certificate.to_pem()),
            "--identity-issuer-key-file".to_owned(),
            file("issuer.key", issuer.key_pem()),
        ]
    };
    let check = |root: &Pair, issuer: &Pair, names: &str, remedy: &str| {
        let words = given(root, issuer);
        install(&words.each_ref().map(String::as_str), names, remedy);
    };
    let root = Pair::root("root", 100 * DAY, now).unwrap();
    let past = now - 60 * DAY;
    let expired = root.issuer("issuer", 30 * DAY, past).unwrap();
    check(&root, &expired, "expired", "openssl verify");
    let expired_root = Pair::root("root", 30 * DAY, past).unwrap();
    check(&expired_root, &expired_root.issuer("issuer", 100 * DAY, past).unwrap(), "no root is valid now", "Make a new root");
    check(&root, &Pair::root("other", DAY, now).unwrap(), "doesn't chain to the trust anchors", "openssl verify");
    check(&root, &root.server_under(&["a"], DAY, now).unwrap(), "is not a CA certificate", "openssl verify");
    let words = given(&root, &root.issuer("issuer", DAY, now).unwrap());
    let words = words.each_ref().map(String::as_str);
    assert!(homarus(&[&["install", "--ignore-cluster"], &words[..]].concat()).status.success());
    install(
        &words[..2].iter().chain(&words[4..]).copied().collect::<Vec<_>>(),
        "a certificate file must be specified",
        "credentials",
    );
    install(&words[..4], "a private key file must be specified", "credentials");
    install(&words[2..], "a trust anchors file must be specified", "credentials");
    // Another algorithm than proxies can use.
    let rsa = folder.path().join("rsa.key");
    let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&rsa).arg("2048").output().expect("openssl");
    assert!(made.status.success());
    let rsa = rsa.display().to_string();
    install(&[&words[..5], &[rsa.as_str()]].concat(), "its key is RSA", "ECDSA P-256");
    let nonsense = write(folder.path(), "nonsense", "nonsense");
    install(&[&words[..5], &[nonsense.as_str()]].concat(), "no private key", "ECDSA P-256");
    install(&["--identity-trust-anchors-file", "/nonexistent/a"], "cannot read /nonexistent/a", "PEM");
}

#[test]
fn an_api_server_that_cannot_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                  users: [{name: a, user: {}}]\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n";
    let file = write(folder.path(), "kubeconfig", nobody);
    for command in [&["install"][..], &["install", "--crds"], &["upgrade"], &["prune"], &["uninstall"]] {
        let words = [&["--kubeconfig", file.as_str()], command].concat();
        refused(&words, "cannot reach the Kubernetes API", "kubectl cluster-info");
    }
    refused(&["--kubeconfig", "/nonexistent/k", "install"], "the kubeconfig can't be used", "--kubeconfig or $KUBECONFIG");
}

/// Whatever keys the values hold, the ConfigMap that every account of the namespace may read holds none of them.
#[test]
fn no_private_key_is_in_the_configuration() {
    let now = SystemTime::now();
    let root = Pair::root("root", DAY, now).unwrap();
    let issuer = root.issuer("issuer", DAY, now).unwrap();
    let webhook = |name: &str| {
        let pair = Pair::server(&[name], DAY, now).unwrap();
        json!({ "crtPEM": pair.certificate.to_pem(), "keyPEM": pair.key_pem(), "caBundle": pair.certificate.to_pem() })
    };
    let values = json!({
        "identityTrustAnchorsPEM": root.certificate.to_pem(),
        "identity": { "issuer": { "tls": { "crtPEM": issuer.certificate.to_pem(), "keyPEM": issuer.key_pem() } } },
        "proxyInjector": webhook("linkerd-proxy-injector.linkerd.svc"),
        "profileValidator": webhook("linkerd-sp-validator.linkerd.svc"),
        "policyValidator": webhook("linkerd-policy-validator.linkerd.svc"),
    });
    let chart = Chart::embedded(Name::ControlPlane).unwrap();
    for service in ["CLI", "Helm"] {
        let values = chart.accept(values.as_object().unwrap().clone()).unwrap();
        let release =
            Release { name: "homarus".to_owned(), namespace: "linkerd".to_owned(), service: service.to_owned(), upgrades: false };
        let manifests = render(&chart, &values, &release, &Capabilities::default()).unwrap();
        let (secrets, others): (Vec<Value>, Vec<Value>) =
            manifests.into_iter().map(|manifest| manifest.object).partition(|object| object["kind"] == "Secret");
        let config = others.iter().find(|object| object["metadata"]["name"] == "linkerd-config").unwrap().to_string();
        assert!(config.contains("BEGIN CERTIFICATE"), "what is public is there");
        for object in &others {
            let text = object.to_string();
            assert!(!text.contains("PRIVATE KEY") && !text.contains("keyPEM"), "{text}");
        }
        assert_eq!(secrets.len(), 4, "keys are in Secrets");
    }
}
