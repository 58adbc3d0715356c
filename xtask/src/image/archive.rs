//! An image as one file: a tar of an OCI image layout (image-spec v1.1), which `ctr images import`, `skopeo` and `crane` read.

use super::layer::{self, Entry};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    io::Write,
    process::{Command, Stdio},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What the same bytes must have as their time.
const EPOCH: &str = "1970-01-01T00:00:00Z";
const PATH: &str = "PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin";

/// An image.
pub struct Image {
    /// Its name, without registry and version.
    pub title: String,
    /// The whole names under which it is known.
    pub references: Vec<String>,
    pub version: String,
    pub user: u32,
    pub entrypoint: String,
    pub entries: Vec<Entry>,
}

/// A blob and what names it.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn of(bytes: Vec<u8>) -> anyhow::Result<Self> {
        Ok(Self { digest: sha256(&bytes)?, bytes })
    }

    fn json(value: &Value) -> anyhow::Result<Self> {
        Self::of(serde_json::to_vec(value)?)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.bytes.len() })
    }

    fn entry(self) -> Entry {
        Entry::File { path: format!("/blobs/sha256/{}", self.digest), mode: 0o644, bytes: self.bytes, capabilities: 0 }
    }
}

impl Image {
    /// The bytes of its archive.
    pub fn archive(&self) -> anyhow::Result<Vec<u8>> {
        let layer = Blob::of(layer::tar(&self.entries)?)?;
        let config = Blob::json(&self.config(&layer))?;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)],
        }))?;
        let named = self.references.iter().map(|reference| {
            let mut descriptor = manifest.descriptor(MANIFEST);
            let tag = reference.rsplit(':').next().unwrap_or_default();
            descriptor["annotations"] = json!({ "io.containerd.image.name": reference, "org.opencontainers.image.ref.name": tag });
            descriptor
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": named.collect::<Vec<_>>() });
        layer::tar(&[
            Entry::file("/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
            Entry::file("/index.json", &index.to_string()),
            manifest.entry(),
            config.entry(),
            layer.entry(),
        ])
    }

    fn config(&self, layer: &Blob) -> Value {
        json!({
            "created": EPOCH,
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "User": self.user.to_string(),
                "Entrypoint": [self.entrypoint],
                "Env": [PATH],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": self.title,
                    "org.opencontainers.image.version": self.version,
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                    "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)] },
            "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
        })
    }
}

/// As images name it. What is built here runs here.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// By the program of that name: an unoptimized build of our own takes seconds for what that does at once.
fn sha256(bytes: &[u8]) -> anyhow::Result<String> {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting sha256sum")?;
    child.stdin.take().context("sha256sum takes no input")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let digest = text.split_whitespace().next().filter(|digest| digest.len() == 64);
    digest.map(str::to_owned).context("sha256sum gave no digest")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{collections::BTreeMap, io::Read};

    #[test]
    fn every_digest_leads_to_its_blob() {
        let image = Image {
            title: "a".into(),
            references: vec!["r.example/a:1".into(), "r.example/b:1".into()],
            version: "1".into(),
            user: 7,
            entrypoint: "/a".into(),
            entries: vec![Entry::program("/a", b"a".to_vec())],
        };
        let bytes = image.archive().unwrap();
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let read = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let index = read("index.json");
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "r.example/b:1");
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        let config = read(&blob(&manifest["config"]["digest"]));
        assert_eq!((&config["config"]["User"], &config["config"]["Entrypoint"][0]), (&json!("7"), &json!("/a")));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(files[&blob(&manifest["layers"][0]["digest"])].len() as u64, manifest["layers"][0]["size"].as_u64().unwrap());
        assert_eq!(sha256(b"").unwrap(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
