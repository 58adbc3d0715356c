#![allow(clippy::unwrap_used)]

use super::{
    allowances::{Allowance, Pass},
    *,
};

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

/// Findings as they are printed, for one Rust file.
fn rust_findings(path: &str, text: &str) -> Vec<String> {
    rust::check(&[file(path, text)], &[], &[]).iter().map(Finding::to_string).collect()
}

fn text_findings(text: &str) -> Vec<String> {
    text::check(&[file("docs/a.md", text)], &[]).iter().map(Finding::to_string).collect()
}

#[track_caller]
fn finds(findings: &[String], wanted: &str) {
    assert!(findings.iter().any(|finding| finding.contains(wanted)), "no `{wanted}` in {findings:#?}");
}

const PROXY: &str = "crates/homarus-proxy/src/";

#[test]
fn the_proxy_names_each_library_where_it_belongs_only() {
    for (text, at_home) in [
        ("use hyper::body::Incoming;", "http/body.rs"),
        ("fn f() -> h2::Error { todo() }", "http/h2.rs"),
        ("use {std::io, hyper_util::rt};", "http/mod.rs"),
        ("use tokio::{sync::watch, net::TcpStream};", "net.rs"),
        ("use tokio::net;", "net.rs"),
        ("macro_rules! m { () => { tokio::net::lookup_host(a) } }", "net.rs"),
        ("fn f() { let at = std::time::SystemTime::now(); }", "net.rs"),
        ("fn f() { let at = Instant::now(); }", "net.rs"),
        ("use std::time::{Duration, Instant};", "net.rs"),
        ("mod inner { fn f() { tokio::net::f() } }", "net.rs"),
    ] {
        finds(&rust_findings(&format!("{PROXY}forward/mod.rs"), text), "mod.rs:1: names ");
        assert_eq!(rust_findings(&format!("{PROXY}{at_home}"), text), Vec::<String>::new(), "{text}");
        assert_eq!(rust_findings("crates/homarus-local/src/api.rs", text), Vec::<String>::new(), "{text}");
        assert_eq!(rust_findings(&format!("{PROXY}forward/tests.rs"), text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn names_that_only_look_alike_are_left_alone() {
    for text in [
        "use tokio::sync::watch;",
        "use crate::net::Instant;",
        "use std::time::{Duration, SystemTime};",
        "// hyper::body, tokio::net and Instant::now() in a comment",
        "fn f() { log(\"tokio::net\") }",
        "use crate::http::h2::Head;",
        "#[cfg(test)]\nmod tests {\n    fn f() { tokio::net::f() }\n}",
        "use crate::http::{Body, h2::{self, Head}}; fn f() -> h2::Settings {}",
    ] {
        assert_eq!(rust_findings(&format!("{PROXY}forward/mod.rs"), text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_pass_is_for_one_name_in_one_file() {
    let path = format!("{PROXY}secure/certify.rs");
    let pass = Pass { file: &path, name: "SystemTime::now", reason: "certificates end by the wall clock" };
    let check = |text: &str| rust::check(&[file(&path, text)], &[], std::slice::from_ref(&pass)).len();
    assert_eq!(check("fn f() { SystemTime::now(); }"), 0);
    assert_eq!(check("fn f() { SystemTime::now(); tokio::net::f(); }"), 1);
    assert_eq!(check("fn f() {}"), 1, "a pass that nothing needs");
}

#[test]
fn a_crate_is_unsafe_in_one_place_at_most() {
    let places = |paths: &[&str]| {
        let files: Vec<File> = paths.iter().map(|path| file(path, "#[allow(unsafe_code)]\nmod sys {}")).collect();
        rust::check(&files, &[], &[]).len()
    };
    assert_eq!(places(&["crates/a/src/sys.rs", "crates/b/src/sys.rs"]), 0);
    assert_eq!(places(&["crates/a/src/sys.rs", "crates/a/src/net.rs"]), 1);
}

#[test]
fn long_functions_want_a_row() {
    let function = |lines: usize| format!("impl A {{\n    fn long() {{\n{}    }}\n}}\n", "        f();\n".repeat(lines - 2));
    let (short, long) = (function(rust::FUNCTION_LINES), function(rust::FUNCTION_LINES + 1));
    assert_eq!(rust_findings("a.rs", &short), Vec::<String>::new());
    finds(&rust_findings("a.rs", &long), "a.rs:2: fn long has 71 lines");
    let row = |lines| Allowance { place: "a.rs long", lines, reason: "a table" };
    assert_eq!(rust::check(&[file("a.rs", &long)], &[row(71)], &[]), vec![]);
    assert_eq!(rust::check(&[file("a.rs", &long)], &[row(70)], &[]).len(), 1, "longer than its row");
    assert_eq!(rust::check(&[file("a.rs", &short)], &[row(71)], &[]).len(), 1, "a row that nothing needs");
}

#[test]
fn long_files_want_a_row() {
    let text = "//\n".repeat(text::FILE_LINES + 1);
    assert_eq!(text::check(&[file("a.rs", &text)], &[]).len(), 1);
    assert_eq!(text::check(&[file("a.json", &text)], &[]).len(), 0);
    let row = Allowance { place: "a.rs", lines: text::FILE_LINES + 1, reason: "a table" };
    assert_eq!(text::check(&[file("a.rs", &text)], &[row]).len(), 0);
}

#[test]
fn unfinished_work_is_found() {
    finds(&rust_findings("a.rs", "#[ignore] #[test] fn f() {}"), "a.rs:1: a test that never runs");
    finds(&rust_findings("a.rs", "\nfn f() { todo!() }"), "a.rs:2: todo! is unfinished");
    finds(&rust_findings("a.rs", "fn f() {"), "is no Rust");
    finds(&text_findings(concat!("// TO", "DO: later")), "a.md:1: ");
    finds(&text_findings(concat!("FIX", "ME")), "a.md:1: ");
    assert_eq!(text_findings("mastodont FIXMES"), Vec::<String>::new());
}

#[test]
fn modules_are_named_after_concepts() {
    finds(&rust_findings("crates/a/src/utils.rs", ""), "utils.rs says nothing");
    finds(&rust_findings("crates/a/tests/common/mod.rs", ""), "common says nothing");
    finds(&rust_findings("a.rs", "mod helpers { fn f() {} }"), "mod helpers says nothing");
    assert_eq!(rust_findings("crates/a/src/utility.rs", ""), Vec::<String>::new());
}

#[test]
fn paths_of_one_machine_are_found() {
    for (line, wrong) in [
        (concat!("see /wo", "rk/shared"), true),
        (concat!("\"/ro", "ot/.cargo\""), true),
        (concat!("cd /ho", "me/me"), true),
        ("$dir/work/node", false),
        ("k8s.io/work/queue", false),
        ("HOME=/root bash", false),
        ("an overlay with upper/, work/ and root/", false),
    ] {
        assert_eq!(text_findings(line).len(), usize::from(wrong), "{line}");
    }
}

#[test]
fn patterns_are_names_or_prefixes() {
    assert!(layers::matches("kube", "kube") && !layers::matches("kube", "kube-core"));
    assert!(layers::matches("kube-*", "kube-core") && !layers::matches("kube-*", "kubert"));
}

/// What `cargo metadata` would say of one foreign package.
fn foreign(license: &str, source: &str, name: &str) -> Metadata {
    let package = serde_json::json!({
        "id": "x", "name": name, "version": "1.0.0", "license": license, "source": source,
        "dependencies": [], "targets": [], "manifest_path": "Cargo.toml",
    });
    serde_json::from_value(serde_json::json!({"packages": [package], "workspace_members": []})).unwrap()
}

#[test]
fn foreign_packages_are_held_to_deny_toml() {
    let rules = r#"
        licenses.allow = ["MIT", "Apache-2.0 WITH LLVM-exception"]
        bans.deny = [{ crate = "openssl*", reason = "rustls" }]
        sources.allow-registry = ["https://registry"]
    "#;
    let check = |license: &str, source: &str, name: &str| {
        let findings = registry::check(&foreign(license, source, name), rules).unwrap();
        findings.into_iter().filter(|finding| finding.place != "deny.toml").map(|finding| finding.what).collect::<Vec<_>>()
    };
    let registry = "registry+https://registry";
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "Apache-2.0 WITH LLVM-exception AND MIT"] {
        assert_eq!(check(good, registry, "x"), Vec::<String>::new(), "{good}");
    }
    for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0", "whatever"] {
        finds(&check(bad, registry, "x"), "license");
    }
    finds(&check("MIT", "git+https://elsewhere", "x"), "comes from git+https://elsewhere");
    finds(&check("MIT", registry, "openssl-sys"), "is banned: rustls");
}

#[test]
fn a_license_that_nothing_needs_is_dropped() {
    let rules = "licenses.allow = [\"MIT\", \"Zlib\"]\nbans.deny = []\nsources.allow-registry = [\"r\"]";
    let findings = registry::check(&foreign("MIT", "registry+r", "x"), rules).unwrap();
    assert_eq!(findings, vec![Finding::new("deny.toml", "no dependency needs Zlib: drop it")]);
}
