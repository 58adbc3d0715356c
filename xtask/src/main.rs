//! Project chores that want more than a line of the Makefile.
//!
//! ```text
//! cargo xtask tidy               the laws of the project that no compiler checks
//! cargo xtask test               build once, then every test, the cheap ones first
//! cargo xtask image              container images, without Docker
//! ```

mod image;
mod metadata;
mod test;
mod tidy;

use anyhow::bail;
use std::{path::PathBuf, process::ExitCode};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = root()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(&root),
        ["test"] => test::run(&root),
        ["image", "--test"] => image::for_tests(&root).map(|()| ExitCode::SUCCESS),
        ["image", ref more @ ..] => image::run(&root, more).map(|()| ExitCode::SUCCESS),
        _ => bail!("cargo xtask tidy | test | image [--test | REGISTRY [FOLDER]]"),
    }
}

/// The folder of the workspace: the parent of this crate's.
fn root() -> anyhow::Result<PathBuf> {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    match PathBuf::from(here).parent() {
        Some(root) => Ok(root.to_owned()),
        None => bail!("xtask is not inside a workspace"),
    }
}
