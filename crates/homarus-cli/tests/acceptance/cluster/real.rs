//! A real cluster: images loaded, and the control plane applied as plain manifests.

use super::Cluster;
use homarus_identity::authority::Pair;
use homarus_kube::{
    crds,
    manifests::{KeyPair, Options, control_plane},
};
use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Installs the mesh.
pub fn install(cluster: &Cluster) {
    // Another cluster than ours has the images already.
    if let Some(name) = std::env::var_os("HOMARUS_CLUSTER") {
        load_images(&name);
    }
    let options = options();
    cluster.apply_all(&crds::all());
    cluster.apply_all(&control_plane(&options).unwrap());
    for name in ["linkerd-identity", "linkerd-destination", "linkerd-proxy-injector"] {
        cluster.wait_for_deployment("linkerd", name);
    }
    cluster.wait_for_injection();
}

fn load_images(cluster: &std::ffi::OsStr) {
    let folder =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), Into::into).join("test-images");
    let images = std::fs::read_dir(&folder).expect("images (cargo xtask image --test)");
    let loads = images.map(|image| {
        let mut load = Command::new(Path::new(ROOT).join("e2e/cluster/cluster"));
        load.arg("load").arg(image.unwrap().path()).arg(cluster).spawn().unwrap()
    });
    for mut load in loads {
        assert!(load.wait().unwrap().success());
    }
}

/// The options of an installation with images from nowhere.
fn options() -> Options {
    let now = SystemTime::now();
    let root = Pair::root("root.linkerd.cluster.local", YEAR, now).unwrap();
    let issuer = root.issuer("identity.linkerd.cluster.local", YEAR, now).unwrap();
    let injector = Pair::server(&[&Options::injector_name("linkerd")], YEAR, now).unwrap();
    let pem = |pair: &Pair| KeyPair { certificate: pair.certificate.to_pem(), key: pair.key_pem() };
    let mut options = Options::new(root.certificate.to_pem(), pem(&issuer), pem(&injector));
    options.controller_image = format!("localhost/homarus:{}", options.version);
    options.proxy_image = "localhost/homarus-proxy".into();
    options
}
