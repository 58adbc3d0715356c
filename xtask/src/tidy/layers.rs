//! Who may use whom (ARCHITECTURE.md). The proxy and the controllers meet only in what both read and write; Kubernetes
//! stays out of the proxy, and the runtime out of what decides.

use super::Finding;
use crate::metadata::{Dependency, Metadata, Package, linked};
use anyhow::Context;
use std::path::Path;

/// Crates in reading order, each with the crates of ours it may use. A new crate gets its row here.
const LAYERS: &[(&str, &[&str])] = &[
    ("homarus-model", &[]),
    ("homarus-wire", &["homarus-model"]),
    ("homarus-identity", &["homarus-model"]),
    ("homarus-daemon", &[]),
    ("homarus-proxy", MEETING),
    ("homarus-redirect", &[]),
    ("homarus-kube", &["homarus-model"]),
    ("homarus-control", &["homarus-model", "homarus-wire", "homarus-identity", "homarus-daemon", "homarus-kube"]),
    ("homarus-local", &["homarus-model", "homarus-daemon", "homarus-kube", "homarus-redirect"]),
    (
        "homarus-cli",
        &[
            "homarus-model",
            "homarus-wire",
            "homarus-identity",
            "homarus-daemon",
            "homarus-redirect",
            "homarus-kube",
            "homarus-control",
            "homarus-local",
        ],
    ),
    ("homarus-demo", &[]),
    ("homarus-testkit", &["homarus-model", "homarus-wire", "homarus-identity", "homarus-redirect"]),
    ("bench-tools", &[]),
    ("mock-control", &[]),
    ("xtask", &[]),
];

/// Where the two planes meet, and nowhere else.
const MEETING: &[&str] = &["homarus-model", "homarus-wire", "homarus-identity", "homarus-daemon"];

/// For tests only, in any crate.
const FOR_TESTS: &str = "homarus-testkit";

/// Crates that must not be linked, not even through others: a name, or a prefix with `*`.
const KEPT_OUT: &[(&str, &[&str], &str)] = &[
    ("homarus-proxy", &["kube", "kube-*", "k8s-openapi"], "the proxy knows no Kubernetes"),
    ("homarus-model", &["tokio", "hyper", "tonic"], "the model only decides: no runtime, no I/O"),
    ("homarus-identity", &["tokio", "hyper", "tonic"], "identities are proved without a runtime"),
];

/// Every law on dependencies inside the workspace.
pub fn check(metadata: &Metadata, root: &Path) -> anyhow::Result<Vec<Finding>> {
    let mut findings = reading_order(metadata, &std::fs::read_to_string(root.join("Cargo.toml"))?)?;
    for package in metadata.members() {
        findings.extend(neighbours(metadata, package));
    }
    for (package, patterns, why) in KEPT_OUT {
        let linked = linked(root, package)?.into_iter().map(|(name, _)| name);
        let broken = linked.filter(|name| patterns.iter().any(|pattern| matches(pattern, name)));
        findings
            .extend(broken.map(|name| Finding::new(*package, format!("links {name}: {why} (cargo tree -p {package} -i {name})"))));
    }
    findings.extend(meeting(metadata, root)?);
    Ok(findings)
}

/// Members of the workspace stand in reading order: a crate comes after what it uses.
fn reading_order(metadata: &Metadata, manifest: &str) -> anyhow::Result<Vec<Finding>> {
    let manifest: toml::Table = manifest.parse().context("reading Cargo.toml")?;
    let members =
        manifest.get("workspace").and_then(|workspace| workspace.get("members")?.as_array()).context("no workspace.members")?;
    let named = |path: &toml::Value| {
        let path = path.as_str()?;
        metadata.members().find(|package| package.folder().ends_with(path)).map(|package| package.name.clone())
    };
    let listed: Vec<String> = members.iter().filter_map(named).collect();
    let wanted: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).filter(|name| listed.iter().any(|l| l == name)).collect();
    let mut findings = vec![];
    for name in listed.iter().filter(|name| !LAYERS.iter().any(|(layer, _)| layer == name)) {
        findings.push(Finding::new(
            "Cargo.toml",
            format!("{name} has no row in LAYERS (xtask/src/tidy/layers.rs): say what it may use"),
        ));
    }
    for name in LAYERS.iter().map(|(name, _)| *name).filter(|name| !listed.iter().any(|l| l == name)) {
        findings.push(Finding::new("xtask/src/tidy/layers.rs", format!("{name} is no member of the workspace: drop its row")));
    }
    if findings.is_empty() && listed != wanted {
        findings.push(Finding::new("Cargo.toml", format!("members are not in reading order: {}", wanted.join(", "))));
    }
    Ok(findings)
}

/// A crate asks only for those crates of ours that its row allows.
fn neighbours(metadata: &Metadata, package: &Package) -> Vec<Finding> {
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == package.name) else { return vec![] };
    let ours = package.dependencies.iter().filter(|dependency| metadata.member(&dependency.name).is_some());
    let granted = |dependency: &&Dependency| {
        let tests = dependency.kind.as_deref() == Some("dev");
        allowed.contains(&dependency.name.as_str()) || tests && dependency.name == FOR_TESTS
    };
    let refused = ours.filter(|dependency| !granted(dependency));
    refused.map(|dependency| Finding::new(&package.name, format!("must not use {}", dependency.name))).collect()
}

/// Nothing but [`MEETING`] is linked into both planes.
fn meeting(metadata: &Metadata, root: &Path) -> anyhow::Result<Vec<Finding>> {
    let (proxy, control) = (linked(root, "homarus-proxy")?, linked(root, "homarus-control")?);
    let ours = proxy.intersection(&control).map(|(name, _)| name).filter(|name| metadata.member(name).is_some());
    let astray = ours.filter(|name| !MEETING.contains(&name.as_str()));
    let told = astray.map(|name| {
        Finding::new("homarus-proxy", format!("meets homarus-control in {name}; they may only in {}", MEETING.join(", ")))
    });
    Ok(told.collect())
}

/// Whether a name is meant by a pattern: the name, or a prefix and `*`.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}
