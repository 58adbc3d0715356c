//! The workspace as cargo tells it.

use anyhow::Context;
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages.
#[derive(Deserialize)]
pub struct Metadata {
    /// Every package that a build for this machine may use, ours and foreign.
    pub packages: Vec<Package>,
    workspace_members: Vec<String>,
}

/// One version of one package.
#[derive(Deserialize)]
pub struct Package {
    id: String,
    /// As in its manifest.
    pub name: String,
    /// As in its manifest.
    pub version: String,
    /// An SPDX expression, if it has one.
    pub license: Option<String>,
    /// Where it comes from; none: this repository.
    pub source: Option<String>,
    /// What its manifest asks for.
    pub dependencies: Vec<Dependency>,
    /// Libraries, programs and tests.
    pub targets: Vec<Target>,
    manifest_path: PathBuf,
}

/// A line of a manifest's dependencies.
#[derive(Deserialize)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// None: normal; else `dev` or `build`.
    pub kind: Option<String>,
}

/// Something that a package builds.
#[derive(Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `lib`, `bin`, `test`, ...
    pub kind: Vec<String>,
    /// Features without which it isn't built.
    #[serde(default, rename = "required-features")]
    pub required_features: Vec<String>,
}

impl Metadata {
    /// Asks cargo, for the machine's own target. Packages that only a feature nobody asked for would bring are left out,
    /// though `cargo metadata` tells of them.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let told = cargo(root, &["metadata", "--format-version", "1", "--locked", "--filter-platform", &host()?])?;
        let mut metadata: Self = serde_json::from_str(&told).context("reading cargo metadata")?;
        let built = tree(root, &["--workspace", "--edges", "normal,build,dev"])?;
        metadata.packages.retain(|package| built.contains(&(package.name.clone(), package.version.clone())));
        Ok(metadata)
    }

    /// The workspace's own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The workspace's package of that name.
    pub fn member(&self, name: &str) -> Option<&Package> {
        self.members().find(|package| package.name == name)
    }
}

/// Names and versions of all that a package links: normal dependencies, and theirs.
pub fn linked(root: &Path, package: &str) -> anyhow::Result<BTreeSet<(String, String)>> {
    let tree = tree(root, &["--package", package, "--edges", "normal"])?;
    Ok(tree.into_iter().filter(|(name, _)| name != package).collect())
}

/// Names and versions in a dependency tree, with exactly the features that a build has.
fn tree(root: &Path, arguments: &[&str]) -> anyhow::Result<BTreeSet<(String, String)>> {
    let told = cargo(root, &[&["tree", "--locked", "--prefix", "none", "--format", "{p}"], arguments].concat())?;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned()))
    };
    Ok(told.lines().filter_map(row).collect())
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(arguments).current_dir(root).output().context("running cargo")?;
    anyhow::ensure!(output.status.success(), "cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("cargo's answer is not UTF-8")
}

impl Package {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

/// The target triple of this machine.
pub fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc -vV names no host")
}

/// Where cargo puts what it builds.
pub fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
