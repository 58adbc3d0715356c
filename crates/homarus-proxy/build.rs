//! What the linker is told, where it is known to understand: how to lay out a program whose memory is mostly itself.
//!
//! - Relative relocations are packed (`DT_RELR`). A static position-independent program carries an entry of 24 bytes for each
//!   pointer in its tables, and reads them all when it starts; packed they are a few kilobytes.
//! - What runs of the C libraries stands together (`link-order.txt`, made by `bench/order.py`). Most of them never runs, but the
//!   kernel maps a program in runs of sixteen pages, and an idle proxy would hold it all. A name that no longer exists costs
//!   nothing but its place.

use std::{env, fs, path::PathBuf, process::Command};

/// The first glibc whose start-up code knows packed relocations.
const PACKED_SINCE: (u32, u32) = (2, 36);
/// The first compiler that brings a linker which orders functions, and links with it if no other is asked for.
const ORDERED_SINCE: u32 = 90;
const ORDER: &str = "link-order.txt";
const LOCK: &str = "../../Cargo.lock";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let native = env::var("HOST").ok() == env::var("TARGET").ok();
    let glibc = env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "gnu");
    if !native || !glibc {
        return;
    }
    if libc_version().is_some_and(|version| version >= PACKED_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") && own_linker() {
        order();
    }
}

/// Of the machine that links, as `glibc 2.36`.
fn libc_version() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether the compiler's own linker is used.
fn own_linker() -> bool {
    let asked = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("linker") || flags.contains("fuse-ld"));
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    x86 && !asked && compiler().is_some_and(|minor| minor >= ORDERED_SINCE)
}

/// The 95 of `rustc 1.95.0 (...)`.
fn compiler() -> Option<u32> {
    let said = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?.stdout;
    String::from_utf8(said).ok()?.split('.').nth(1)?.parse().ok()
}

/// Hands the order to the linker, with the names as this version of the library has them.
fn order() {
    println!("cargo::rerun-if-changed={ORDER}");
    println!("cargo::rerun-if-changed={LOCK}");
    let names = fs::read_to_string(ORDER).unwrap_or_default();
    let lock = fs::read_to_string(LOCK).unwrap_or_default();
    let version = lock.split_once("name = \"aws-lc-sys\"\nversion = \"").and_then(|(_, rest)| rest.split_once('"'));
    let version = version.map_or_else(String::new, |(version, _)| version.replace('.', "_"));
    let file = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(ORDER);
    let names = names.lines().filter(|line| !line.starts_with('#'));
    let names: String = names.map(|name| name.replace("aws_lc_*", &format!("aws_lc_{version}")) + "\n").collect();
    if fs::write(&file, names).is_ok() {
        println!("cargo::rustc-link-arg-bins=-Wl,--no-warn-symbol-ordering,--symbol-ordering-file={}", file.display());
    }
}
