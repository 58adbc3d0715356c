//! Container images around our static binaries, without Docker: one OCI archive each.
//!
//! | image | holds | runs as |
//! |---|---|---|
//! | `homarus-proxy` | the proxy, redirection, validator and await, where running charts expect them | 2102 |
//! | `homarus` | controllers and CLI | 2103 |
//! | `homarus-redirect` | redirection and CNI | 65534 |
//! | `homarus-demo` | the sample applications, also under the names of their originals | 65534 |
//!
//! The same files give the same bytes: no clock, no names of this machine, entries in the order they are written here. A
//! layer isn't compressed: whoever pushes it to a registry may do so. Each has a bill of its materials inside (`sbom`).
//!
//! Only the init program carries file capabilities, so that pods whose containers drop all capabilities still start.

mod archive;
mod borrowed;
mod layer;
mod sbom;

use crate::metadata::{host, target_folder};
use anyhow::{Context, bail, ensure};
use archive::Image;
use layer::Entry;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where charts of running clusters look for the proxy's programs.
const LINKERD: &str = "/usr/lib/linkerd";
/// CAP_NET_ADMIN and CAP_NET_RAW, as redirection needs them.
const NETWORK_CAPABILITIES: u32 = 1 << 12 | 1 << 13;
const PROGRAMS: [&str; 4] = ["homarus", "homarus-proxy", "homarus-redirect", "homarus-demo"];
const NOBODY: u32 = 65534;
/// The registry of images that tests load into a cluster.
const LOCAL: &str = "localhost";
/// The registry that charts name. Images of tests are known there as well, so that what tests install is what users install.
const DISTRIBUTED: &str = "ghcr.io/homarus-mesh";

/// Where tests find their images, below the target folder.
const TEST_IMAGES: &str = "test-images";

/// `cargo xtask image`: images for distribution.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let (registry, out) = match arguments {
        [] => (LOCAL, target_folder(root).join("images")),
        [registry] => (*registry, target_folder(root).join("images")),
        [registry, out] => (*registry, PathBuf::from(out)),
        _ => bail!("cargo xtask image [REGISTRY [FOLDER]]"),
    };
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(root).args(["build", "--release", "--locked"]);
    build.args(["-p", "homarus-cli", "-p", "homarus-proxy", "-p", "homarus-redirect", "-p", "homarus-demo"]);
    ensure!(build.status()?.success(), "building the programs failed");
    let programs = Programs::read(&target_folder(root).join(host()?).join("release"))?;
    let mut images = ours(&programs, registry, env!("CARGO_PKG_VERSION"));
    sbom::add(root, &mut images)?;
    write(&out, &images)
}

/// `cargo xtask image --test`: the same around the binaries of the test profile, which must have been built, and an image
/// of programs of this machine that tests run in pods. With `LINKERD2_PROXY_BIN` also one of that proxy.
pub fn for_tests(root: &Path) -> anyhow::Result<()> {
    let programs = Programs::read(&target_folder(root).join(host()?).join("debug"))?;
    let mut images = ours(&programs, LOCAL, env!("CARGO_PKG_VERSION"));
    sbom::add(root, &mut images)?;
    for image in &mut images {
        let distributed = format!("{DISTRIBUTED}/{}:{}", image.title, image.version);
        image.references.push(distributed);
    }
    images.extend(originals(&programs));
    images.push(borrowed::programs(LOCAL)?);
    if let Some(proxy) = std::env::var_os("LINKERD2_PROXY_BIN") {
        images.push(borrowed::linkerd2_proxy(LOCAL, Path::new(&proxy), init(&programs))?);
    }
    write(&target_folder(root).join(TEST_IMAGES), &images)
}

fn write(folder: &Path, images: &[Image]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // An archive that an earlier version of this made is not to be loaded by anybody. The folder is the caller's: whatever
    // else lies there stays.
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") && path.is_file() {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    for image in images {
        let path = folder.join(format!("{}.tar", image.title));
        fs::write(&path, image.archive()?).with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Our programs, without symbols.
struct Programs(Vec<Vec<u8>>);

impl Programs {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let stripped = folder.join("stripped");
        let one = |name: &str| -> anyhow::Result<Vec<u8>> {
            let program = folder.join(name);
            ensure!(program.is_file(), "{} is not there: build it first", program.display());
            let status = Command::new("strip").arg("-o").arg(&stripped).arg(&program).status().context("starting strip")?;
            ensure!(status.success(), "strip {}: {status}", program.display());
            let bytes = fs::read(&stripped)?;
            fs::remove_file(&stripped)?;
            Ok(bytes)
        };
        Ok(Self(PROGRAMS.iter().map(|name| one(name)).collect::<anyhow::Result<_>>()?))
    }

    fn named(&self, name: &str) -> Vec<u8> {
        let at = PROGRAMS.iter().position(|program| *program == name);
        at.map(|at| self.0[at].clone()).unwrap_or_default()
    }
}

fn ours(programs: &Programs, registry: &str, version: &str) -> Vec<Image> {
    let image = |title: &str, user: u32, entrypoint: &str, entries: Vec<Entry>| Image {
        title: title.into(),
        references: vec![format!("{registry}/{title}:{version}")],
        version: version.into(),
        user,
        entrypoint: entrypoint.into(),
        entries,
    };
    let redirect = programs.named("homarus-redirect");
    let homarus = "/usr/local/bin/homarus";
    let init_program = format!("{LINKERD}/linkerd2-proxy-init");
    vec![
        image("homarus-proxy", 2102, &format!("{LINKERD}/linkerd2-proxy-identity"), proxy(programs)),
        image("homarus", 2103, homarus, vec![Entry::program(homarus, programs.named("homarus"))]),
        image(
            "homarus-redirect",
            NOBODY,
            &init_program,
            vec![
                init(programs),
                Entry::program("/usr/local/bin/homarus-redirect", redirect),
                // Where charts look for the installer of the CNI plugin, which installs itself as the plugin.
                Entry::link("/usr/bin/linkerd2-cni-install", "../local/bin/homarus-redirect"),
                Entry::link(&format!("{LINKERD}/linkerd-cni-repair-controller"), "../../local/bin/homarus-redirect"),
            ],
        ),
        demo(programs, image("homarus-demo", NOBODY, "/usr/local/bin/homarus-demo", vec![])),
    ]
}

fn proxy(programs: &Programs) -> Vec<Entry> {
    let at = |name: &str| format!("{LINKERD}/{name}");
    vec![
        Entry::program(&at("linkerd2-proxy"), programs.named("homarus-proxy")),
        Entry::link(&at("linkerd2-proxy-identity"), "linkerd2-proxy"),
        init(programs),
        // A file of its own: one with capabilities can't be executed where all of them are dropped.
        Entry::program(&at("linkerd-await"), programs.named("homarus-redirect")),
        Entry::link(&at("linkerd2-network-validator"), "linkerd-await"),
    ]
}

fn init(programs: &Programs) -> Entry {
    Entry::program(&format!("{LINKERD}/linkerd2-proxy-init"), programs.named("homarus-redirect")).with(NETWORK_CAPABILITIES)
}

/// The program takes its role from its name; a manifest of the original names it as `command`.
fn demo(programs: &Programs, image: Image) -> Image {
    let names = ["web", "emoji-svc", "voting-svc", "vote-bot"];
    let mut entries = vec![Entry::program("/usr/local/bin/homarus-demo", programs.named("homarus-demo"))];
    entries.extend(names.map(|name| Entry::link(&format!("/usr/local/bin/emojivoto-{name}"), "homarus-demo")));
    Image { entries, ..image }
}

/// The sample application under the images' names of its original, so that its manifests can be applied to a cluster as they are.
fn originals(programs: &Programs) -> Vec<Image> {
    let names = ["web", "emoji-svc", "voting-svc"];
    let image = |name: &str| {
        let image = Image {
            title: format!("emojivoto-{name}"),
            references: vec![format!("docker.l5d.io/buoyantio/emojivoto-{name}:v11")],
            version: "v11".into(),
            user: NOBODY,
            entrypoint: format!("/usr/local/bin/emojivoto-{name}"),
            entries: Vec::new(),
        };
        demo(programs, image)
    };
    names.map(image).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn images() -> Vec<Image> {
        ours(&Programs(PROGRAMS.map(|name| name.as_bytes().to_vec()).into()), "registry.example", "1.2.3")
    }

    #[test]
    fn each_runs_as_somebody_and_only_init_may_change_the_network() {
        for image in images() {
            assert_ne!(image.user, 0, "{}", image.title);
            for entry in &image.entries {
                let powerful = matches!(entry, Entry::File { capabilities: 1.., .. });
                assert_eq!(powerful, entry.path().ends_with("proxy-init"), "{}", entry.path());
            }
        }
    }

    #[test]
    fn entrypoints_are_in_their_image() {
        for image in images() {
            assert!(image.entries.iter().any(|entry| entry.path() == image.entrypoint), "{}", image.title);
            assert_eq!(image.references, [format!("registry.example/{}:1.2.3", image.title)]);
        }
        for image in originals(&Programs(PROGRAMS.map(|name| name.as_bytes().to_vec()).into())) {
            assert!(image.entries.iter().any(|entry| entry.path() == image.entrypoint), "{}", image.title);
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        for (one, other) in images().iter().zip(images()) {
            assert!(one.archive().unwrap() == other.archive().unwrap(), "{}", one.title);
        }
    }
}
