//! Images of programs that are not ours, for tests alone: what runs in pods of a real cluster is the same that runs on this
//! machine. Each program comes with the libraries that `ldd` names.

use super::{LINKERD, archive::Image, layer::Entry};
use anyhow::{Context, ensure};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What scenarios run, and the few programs that their scripts use.
const PROGRAMS: &[&str] =
    &["sh", "cat", "curl", "grep", "head", "mkdir", "nc", "nginx", "openssl", "sed", "seq", "sleep", "socat", "tail", "timeout"];
/// Where programs are that a user's `PATH` may lack.
const FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Makes key and signing request as `linkerd2-proxy-identity` does, which starts this proxy in its own image.
const IDENTITY: &str = r#"#!/bin/sh
set -e
cd "$LINKERD2_PROXY_IDENTITY_DIR"
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | openssl pkcs8 -topk8 -nocrypt -outform DER -out key.p8
printf '[req]\ndistinguished_name=name\n[name]\n' > request.cnf
openssl req -new -config request.cnf -key key.p8 -keyform DER -outform DER -out csr.der \
  -subj / -addext "subjectAltName=DNS:$LINKERD2_PROXY_IDENTITY_LOCAL_NAME"
exec /usr/lib/linkerd/linkerd2-proxy
"#;

/// Programs of this machine.
pub fn programs(registry: &str) -> anyhow::Result<Image> {
    Ok(Image {
        title: "test-programs".into(),
        references: vec![format!("{registry}/test-programs:local")],
        version: "local".into(),
        user: 0,
        entrypoint: "/usr/bin/sh".into(),
        entries: files()?,
    })
}

/// A linkerd2-proxy, with our redirection.
pub fn linkerd2_proxy(registry: &str, proxy: &Path, init: Entry) -> anyhow::Result<Image> {
    let mut entries = files()?;
    let there: Vec<String> = entries.iter().map(|entry| entry.path().to_owned()).collect();
    let mut libraries = BTreeMap::new();
    add_libraries(proxy, &mut libraries)?;
    entries
        .extend(libraries.into_iter().filter(|(path, _)| !there.contains(path)).map(|(path, bytes)| Entry::program(&path, bytes)));
    let bytes = fs::read(proxy).with_context(|| proxy.display().to_string())?;
    entries.push(Entry::program(&format!("{LINKERD}/linkerd2-proxy"), bytes));
    entries.push(Entry::program(&format!("{LINKERD}/linkerd2-proxy-identity"), IDENTITY.into()));
    entries.push(init);
    Ok(Image {
        title: "linkerd2-proxy".into(),
        references: vec![format!("{registry}/linkerd2-proxy:interop")],
        version: "interop".into(),
        user: 2102,
        entrypoint: format!("{LINKERD}/linkerd2-proxy-identity"),
        entries,
    })
}

fn files() -> anyhow::Result<Vec<Entry>> {
    let mut entries = vec![
        Entry::Folder { path: "/tmp".into(), mode: 0o1777 },
        Entry::file("/etc/passwd", "root:x:0:0:root:/:/bin/sh\nproxy:x:2102:2102::/:/bin/sh\n"),
        Entry::file("/etc/group", "root:x:0:\nproxy:x:2102:\n"),
        Entry::file("/etc/nsswitch.conf", "hosts: files dns\n"),
        Entry::link("/bin", "usr/bin"),
    ];
    let mut libraries = BTreeMap::new();
    for name in PROGRAMS {
        let program = find(name)?;
        add_libraries(&program, &mut libraries)?;
        entries.push(Entry::program(&format!("/usr/bin/{name}"), fs::read(&program)?));
    }
    entries.extend(libraries.into_iter().map(|(path, bytes)| Entry::program(&path, bytes)));
    Ok(entries)
}

fn find(name: &str) -> anyhow::Result<PathBuf> {
    let found = FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed: xtask/os-packages test"))
}

fn add_libraries(program: &Path, libraries: &mut BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    let output = Command::new("ldd").arg(program).output().context("starting ldd")?;
    ensure!(output.status.success(), "ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    for path in named_libraries(&String::from_utf8_lossy(&output.stdout)) {
        if !libraries.contains_key(path) {
            libraries.insert(path.to_owned(), fs::read(path).with_context(|| path.to_owned())?);
        }
    }
    Ok(())
}

/// The paths in what `ldd` prints.
fn named_libraries(printed: &str) -> impl Iterator<Item = &str> {
    printed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_has_a_path() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                       \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3c)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f3d)\n";
        let paths: Vec<_> = named_libraries(printed).collect();
        assert_eq!(paths, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
