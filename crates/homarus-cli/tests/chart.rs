//! The charts as this program renders them, held against Helm: for any values both print the same text, or both refuse.
//!
//! Helm comes with the cluster's programs (`e2e/cluster/cluster build`); another one may be in `PATH`.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use homarus_cli::chart::{Capabilities, Chart, ChartError, Name, Overrides, Release, Values, print, render, to_yaml};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Random sets of values for each chart.
const CASES: u32 = 48;
const KUBERNETES: &str = "v1.34.0";

fn helm() -> PathBuf {
    let cached = Path::new(&std::env::var("HOME").unwrap_or_default()).join(".cache/homarus-cluster/bin/helm");
    if cached.exists() { cached } else { PathBuf::from("helm") }
}

/// What a user says: files of values, and flags.
#[derive(Clone, Debug, Default)]
struct Said {
    files: Vec<String>,
    set: Vec<String>,
}

/// What Helm prints, or why it doesn't.
fn by_helm(name: Name, said: &Said) -> Result<String, String> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts").join(name.as_str());
    let mut command = Command::new(helm());
    command.args(["template", "mesh"]).arg(chart).args(["--namespace", "linkerd", "--kube-version", KUBERNETES]);
    let files: Vec<tempfile::NamedTempFile> = said
        .files
        .iter()
        .map(|text| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        })
        .collect();
    for file in &files {
        command.arg("--values").arg(file.path());
    }
    for flag in &said.set {
        command.arg("--set").arg(flag);
    }
    let output = command.output().expect("helm: run `e2e/cluster/cluster build`");
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What this program prints.
fn by_us(name: Name, said: &Said) -> Result<String, ChartError> {
    let chart = Chart::embedded(name)?;
    let files = said.files.iter().map(|text| ("values".to_owned(), text.clone())).collect();
    let overrides = Overrides { files, set: said.set.clone(), ..Overrides::default() };
    let values = chart.accept(overrides.apply(Values::new(), &|_| Err("no files here".to_owned()))?)?;
    let release = Release { name: "mesh".to_owned(), namespace: "linkerd".to_owned(), service: "Helm".to_owned(), upgrades: false };
    let capabilities = Capabilities { version: KUBERNETES.to_owned(), ..Capabilities::default() };
    let manifests = render(&chart, &values, &release, &capabilities)?;
    Ok(format!("{}\n", print(&manifests).trim()))
}

/// What differs, if anything does.
fn difference(name: Name, said: &Said) -> Option<String> {
    match (by_helm(name, said), by_us(name, said)) {
        (Ok(theirs), Ok(ours)) if theirs == ours => None,
        (Err(_), Err(_)) => None,
        (Ok(theirs), Ok(ours)) => {
            let at = theirs.lines().zip(ours.lines()).position(|(theirs, ours)| theirs != ours);
            let at = at.unwrap_or_else(|| theirs.lines().count().min(ours.lines().count()));
            let around = |text: &str| text.lines().skip(at.saturating_sub(3)).take(7).collect::<Vec<_>>().join("\n");
            Some(format!("line {}\nHelm:\n{}\nwe:\n{}", at + 1, around(&theirs), around(&ours)))
        }
        (Ok(_), Err(error)) => Some(format!("Helm renders it, we refuse: {error}")),
        (Err(error), Ok(_)) => Some(format!("we render it, Helm refuses: {error}")),
    }
}

fn agree(name: Name, said: &Said) {
    if let Some(difference) = difference(name, said) {
        panic!("{} with {said:#?}\n{difference}", name.as_str());
    }
}

/// A file with one value at a path.
fn at(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |inner, key| json!({ key: inner }))
}

/// Every path in values, mappings included.
fn paths(values: &Values, before: &[String]) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    for (key, value) in values {
        let path: Vec<String> = before.iter().chain([key]).cloned().collect();
        if let Value::Object(inner) = value {
            found.extend(paths(inner, &path));
        }
        found.push((path, value.clone()));
    }
    found
}

/// Paths that charts know but have no value for.
fn unset(name: Name) -> Vec<(Vec<String>, Value)> {
    let texts: &[&str] = match name {
        Name::ControlPlane => &[
            "tolerations",
            "nodeAffinity",
            "destinationResources",
            "identityResources",
            "proxyInjectorResources",
            "spValidatorResources",
            "heartbeatResources",
            "heartbeatSchedule",
            "destinationProxyResources",
            "proxy.cores",
            "proxy.accessLog",
            "proxy.additionalEnv",
            "proxy.runtime.workers.maximum",
            "proxy.runtime.workers.maximumCPURatio",
            "policyController.additionalArgs",
            "priorityClassName",
        ],
        Name::Cni => &["tolerations", "extraInitContainers", "resources", "podLabels", "repairController.resources"],
        Name::Crds => &["enableHttpRoutes", "enableTlsRoutes", "enableTcpRoutes"],
    };
    texts.iter().map(|text| (text.split('.').map(str::to_owned).collect(), Value::Null)).collect()
}

fn all_paths(name: Name) -> Vec<(Vec<String>, Value)> {
    let mut all = paths(&Chart::embedded(name).unwrap().values, &[]);
    all.extend(unset(name));
    all
}

fn values_of(kind: &Value) -> Vec<Value> {
    match kind {
        Value::Bool(value) => vec![json!(!value)],
        Value::Number(_) => vec![json!(0), json!(1), json!(-1), json!(8080), json!(1_000_000), json!(1.5)],
        Value::String(_) => [
            "",
            "x",
            "a: b",
            "yes",
            "500m",
            "1",
            "kubernetes.io/tls",
            "Always",
            "debug",
            "legacy",
            "{{ x }}",
            "<no value>",
            "a\nb\n",
            " x ",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "a \"quoted\" 'word' # and more",
        ]
        .map(Value::from)
        .to_vec(),
        Value::Array(_) => vec![
            json!([]),
            json!(["x"]),
            json!(["10.0.0.0/8", "a: b"]),
            json!([{ "name": "x" }]),
            json!([{ "key": "k", "operator": "Exists" }]),
        ],
        Value::Object(_) => {
            vec![json!({}), json!({ "k": "v" }), json!({ "cpu": { "request": "100m", "limit": 1 }, "memory": { "limit": "1Gi" } })]
        }
        Value::Null => ["", "x"]
            .map(Value::from)
            .into_iter()
            .chain([json!(3), json!([{ "key": "k" }]), json!({ "cpu": { "limit": 1 } })])
            .collect(),
    }
}

/// One value: mostly of the kind that stands there, now and then something else, or null.
fn one(kind: Value) -> impl Strategy<Value = Value> {
    let every = [json!(true), json!(1), json!(""), json!([]), json!({}), Value::Null];
    let others: Vec<Value> = every.iter().flat_map(values_of).chain([Value::Null]).collect();
    prop_oneof![9 => prop::sample::select(values_of(&kind)), 1 => prop::sample::select(others)]
}

fn said(name: Name) -> impl Strategy<Value = Said> {
    let all = all_paths(name);
    let entry = any::<Index>().prop_flat_map(move |index| {
        let (path, kind) = index.get(&all).clone();
        one(kind).prop_map(move |value| (path.clone(), value))
    });
    (prop::collection::vec(entry.clone(), 0..6), prop::collection::vec(entry, 0..3)).prop_map(|(files, flags)| {
        let files = files.iter().map(|(path, value)| to_yaml(&at(path, value.clone())).unwrap()).collect();
        let flag = |(path, value): &(Vec<String>, Value)| {
            let key = path.iter().map(|key| key.replace('.', "\\.")).collect::<Vec<_>>().join(".");
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (!text.contains(['{', '['])).then(|| format!("{key}={}", text.replace(',', "\\,")))
        };
        Said { files, set: flags.iter().filter_map(flag).collect() }
    })
}

#[test]
fn charts_as_they_are() {
    for name in Name::ALL {
        agree(name, &Said::default());
        by_us(name, &Said::default()).unwrap();
    }
}

#[test]
fn high_availability() {
    let preset = Chart::embedded(Name::ControlPlane).unwrap().preset("values-ha.yaml").unwrap();
    let said = Said { files: vec![to_yaml(&Value::Object(preset)).unwrap()], set: vec!["controllerReplicas=5".to_owned()] };
    agree(Name::ControlPlane, &said);
    assert!(by_us(Name::ControlPlane, &said).unwrap().contains("replicas: 5"));
}

#[test]
fn own_certificates() {
    let pem = "-----BEGIN CERTIFICATE-----\nMIIBaTCCAQ+gAwIBAgIQ\n-----END CERTIFICATE-----\n";
    let tls = json!({ "crtPEM": pem, "keyPEM": "-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----" });
    let identity = json!({ "issuer": { "tls": tls } });
    for values in [
        json!({ "identityTrustAnchorsPEM": pem, "identity": identity, "proxyInjector": tls, "profileValidator": tls, "policyValidator": tls }),
        json!({ "identityTrustAnchorsPEM": pem, "identity": { "issuer": { "scheme": "kubernetes.io/tls" } } }),
        json!({ "identity": { "externalCA": true, "issuer": { "scheme": "kubernetes.io/tls" } } }),
        json!({ "identityTrustAnchorsPEM": pem }),
        json!({ "proxyInjector": { "externalSecret": true, "injectCaFrom": "linkerd/x" } }),
        json!({ "proxyInjector": { "externalSecret": true, "caBundle": pem } }),
        json!({ "proxyInjector": { "externalSecret": true } }),
    ] {
        agree(Name::ControlPlane, &Said { files: vec![to_yaml(&values).unwrap()], set: vec![] });
    }
}

/// The images of a whole copy of Linkerd's values are Linkerd's, and no program of theirs is what these charts start. What somebody
/// chose stays: a registry, or a version of the proxy, which runs under this control plane.
#[test]
fn images_in_a_copy_of_linkerds_values_are_ours() {
    let image = |name: &str, version: &str| json!({ "name": name, "version": version });
    let version = Chart::embedded(Name::ControlPlane).unwrap().metadata["appVersion"].as_str().unwrap().to_owned();
    let plane = |controller: &str, proxy: Value| json!({ "linkerdVersion": "edge-26.8.3", "controllerImage": controller, "proxy": { "image": proxy } });
    let cni = |image: Value| json!({ "image": image });
    for (name, values, wanted) in [
        (
            Name::ControlPlane,
            plane("cr.l5d.io/linkerd/controller", image("cr.l5d.io/linkerd/proxy", "")),
            vec![format!("ghcr.io/homarus-mesh/homarus-proxy:{version}"), format!("ghcr.io/homarus-mesh/homarus:{version}")],
        ),
        (
            Name::ControlPlane,
            plane("mirror.example/controller", image("cr.l5d.io/linkerd/proxy", "edge-26.8.3")),
            vec!["cr.l5d.io/linkerd/proxy:edge-26.8.3".to_owned(), format!("mirror.example/controller:{version}")],
        ),
        (
            Name::Cni,
            cni(image("cr.l5d.io/linkerd/cni-plugin", "v1.6.8")),
            vec![format!("ghcr.io/homarus-mesh/homarus-redirect:{version}")],
        ),
        (Name::Cni, cni(image("mirror.example/cni", "v1.6.8")), vec!["mirror.example/cni:v1.6.8".to_owned()]),
    ] {
        let said = Said { files: vec![to_yaml(&values).unwrap()], set: vec![] };
        agree(name, &said);
        let text = by_us(name, &said).unwrap();
        let images: std::collections::BTreeSet<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert_eq!(
            images.iter().filter(|image| !image.is_empty()).collect::<Vec<_>>(),
            wanted.iter().collect::<Vec<_>>(),
            "{said:?}"
        );
    }
}

#[test]
fn every_value_by_itself() {
    for name in Name::ALL {
        let wrong: Vec<String> = all_paths(name)
            .into_iter()
            .filter_map(|(path, kind)| {
                let value = values_of(&kind).into_iter().nth(1).unwrap_or(json!(kind == json!(false)));
                let said = Said { files: vec![to_yaml(&at(&path, value)).unwrap()], set: vec![] };
                difference(name, &said).map(|difference| format!("{said:?}\n{difference}"))
            })
            .collect();
        assert!(wrong.is_empty(), "{}:\n{}", name.as_str(), wrong.join("\n\n"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_values_of_the_control_plane(said in said(Name::ControlPlane)) {
        prop_assert_eq!(difference(Name::ControlPlane, &said), None);
    }

    #[test]
    fn any_values_of_the_cni_plugin(said in said(Name::Cni)) {
        prop_assert_eq!(difference(Name::Cni, &said), None);
    }

    #[test]
    fn any_values_of_the_custom_resources(said in said(Name::Crds)) {
        prop_assert_eq!(difference(Name::Crds, &said), None);
    }
}
