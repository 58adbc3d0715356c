//! A real cluster: images loaded, and the control plane installed as its user installs it.

use super::Cluster;
use serde::Deserialize;
use serde_json::Value;
use std::{path::Path, process::Command};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Installs the mesh.
pub fn install(cluster: &Cluster) {
    // Another cluster than ours has the images already.
    if let Some(name) = std::env::var_os("HOMARUS_CLUSTER") {
        load_images(&name);
    }
    // As on the embedded cluster, without the daily job.
    for words in [&["install", "--crds"][..], &["install", "--disable-heartbeat"]] {
        let manifests = cluster.homarus(words).unwrap();
        let documents = serde_yaml_ng::Deserializer::from_str(&manifests);
        let objects: Vec<Value> = documents.map(|document| Value::deserialize(document).unwrap()).collect();
        cluster.apply_all(&objects.into_iter().filter(|object| !object.is_null()).collect::<Vec<_>>());
    }
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
