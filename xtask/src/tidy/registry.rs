//! What comes from outside: licenses, origins and bans by `deny.toml`, in the words of cargo-deny, whose
//! `cargo deny check` reads the same file. Here because building that tool costs a test run more than its checks.

use super::{Finding, layers::matches};
use crate::metadata::{Metadata, Package};
use anyhow::Context;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Sources {
    #[serde(rename = "allow-registry")]
    registries: BTreeSet<String>,
}

/// Every law on foreign packages. Packages that come in more than one version are told, not refused.
pub fn check(metadata: &Metadata, rules: &str) -> anyhow::Result<Vec<Finding>> {
    let rules: Rules = toml::from_str(rules).context("reading deny.toml")?;
    let foreign: Vec<&Package> = metadata.packages.iter().filter(|package| package.source.is_some()).collect();
    let mut used = BTreeSet::new();
    let mut findings = vec![];
    for package in &foreign {
        findings.extend(license(package, &rules.licenses, &mut used).map(|what| Finding::new(place(package), what)));
        findings.extend(origin(package, &rules.sources).map(|what| Finding::new(place(package), what)));
        let banned = rules.bans.deny.iter().filter(|ban| matches(&ban.name, &package.name));
        findings.extend(banned.map(|ban| Finding::new(place(package), format!("is banned: {}", ban.reason))));
    }
    let unused = rules.licenses.allow.iter().filter(|name| !used.contains(name.as_str()));
    findings.extend(unused.map(|name| Finding::new("deny.toml", format!("no dependency needs {name}: drop it"))));
    tell_duplicates(&foreign);
    Ok(findings)
}

fn place(package: &Package) -> String {
    format!("{} {}", package.name, package.version)
}

/// What is wrong with a package's license. Notes which of the allowed ones it needs.
fn license<'a>(package: &Package, rules: &'a Licenses, used: &mut BTreeSet<&'a str>) -> Option<String> {
    let Some(text) = &package.license else { return Some("names no license".to_owned()) };
    let expression = match spdx::Expression::parse_mode(text, spdx::ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("its license can't be read: {}", error.reason)),
    };
    let accepted = |requirement: &spdx::LicenseReq| {
        let allowed = rules.allow.get(requirement.to_string().as_str());
        used.extend(allowed.map(String::as_str));
        allowed.is_some()
    };
    let mut accepted = accepted;
    (!expression.evaluate(&mut accepted)).then(|| format!("its license is not among those of deny.toml: {text}"))
}

fn origin(package: &Package, rules: &Sources) -> Option<String> {
    let source = package.source.as_deref().unwrap_or_default();
    let registry = source.strip_prefix("registry+").unwrap_or(source);
    (!rules.registries.contains(registry)).then(|| format!("comes from {source}, which deny.toml does not name"))
}

fn tell_duplicates(packages: &[&Package]) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    let many: Vec<String> =
        versions.iter().filter(|(_, v)| v.len() > 1).map(|(name, v)| format!("{name} {}", v.join("/"))).collect();
    if !many.is_empty() {
        println!("note: in more than one version: {}", many.join(", "));
    }
}
