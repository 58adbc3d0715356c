//! The laws of the project that no compiler checks. Each is one sentence beside its code; each finding names the place,
//! what is wrong and what to do. Exceptions are rows of [`allowances`], with a reason; a row that nothing needs any more
//! is a finding too, so that the lists only shrink.

mod allowances;
mod layers;
mod registry;
mod rust;
mod text;

#[cfg(test)]
mod tests;

use crate::metadata::Metadata;
use anyhow::Context;
use std::{fmt, path::Path, process::Command, process::ExitCode};

/// One broken law.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A file that git knows or would add, with its path from the root.
pub struct File {
    path: String,
    text: String,
}

/// Checks every law and prints what is broken.
pub fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let metadata = Metadata::read(root)?;
    let files = files(root)?;
    let mut findings = layers::check(&metadata, root)?;
    findings.extend(registry::check(&metadata, &std::fs::read_to_string(root.join("deny.toml"))?)?);
    findings.extend(rust::check(&files, allowances::LONG_FUNCTIONS, allowances::PASSES));
    findings.extend(text::check(&files, allowances::LONG_FILES));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} files, {} packages, {} findings", files.len(), metadata.packages.len(), findings.len());
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every text file of the work tree that isn't ignored.
fn files(root: &Path) -> anyhow::Result<Vec<File>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("running git ls-files")?;
    anyhow::ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).context("a path that is not UTF-8")?;
    let read = |path: &str| {
        // Gone from the work tree but not yet from the index, or not text: neither has anything to be checked.
        let text = std::fs::read_to_string(root.join(path)).ok()?;
        Some(File { path: path.to_owned(), text })
    };
    Ok(paths.split_terminator('\0').filter_map(read).collect())
}
