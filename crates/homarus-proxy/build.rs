//! Packs the program's relative relocations (`DT_RELR`) where the C library that is linked in can unpack them.
//!
//! A static position-independent program carries an entry of 24 bytes for each pointer in its tables, and reads them all
//! when it starts; packed they are a few kilobytes. That is 4 % of the file and as much of an idle proxy's memory.

use std::{env, process::Command};

/// The first glibc whose start-up code knows them.
const KNOWN_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let native = env::var("HOST").ok() == env::var("TARGET").ok();
    let glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if native && glibc && libc_version().is_some_and(|version| version >= KNOWN_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Of the machine that links, as `glibc 2.36`.
fn libc_version() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
