//! What an image is made of: a bill of materials (CycloneDX 1.6), as scanners look for it in images.
//!
//! Of what is linked into its programs, with exactly the features they are built with; without times and serial numbers, so that
//! the same sources give the same bytes.

use super::{archive::Image, layer::Entry};
use crate::metadata::{Metadata, Package, linked};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

/// Where scanners look.
const FOLDER: &str = "/usr/share/sbom";

/// The packages whose programs are in an image.
fn packages(title: &str) -> &'static [&'static str] {
    match title {
        "homarus" => &["homarus-cli"],
        "homarus-proxy" => &["homarus-proxy", "homarus-redirect"],
        "homarus-redirect" => &["homarus-redirect"],
        _ => &["homarus-demo"],
    }
}

/// Puts its bill into each image.
pub fn add(root: &Path, images: &mut [Image]) -> anyhow::Result<()> {
    let metadata = Metadata::read(root)?;
    for image in images {
        let mut names = BTreeSet::new();
        for package in packages(&image.title) {
            names.extend(linked(root, package)?);
        }
        let parts = metadata.packages.iter().filter(|package| names.contains(&(package.name.clone(), package.version.clone())));
        let bill = bill(&image.title, &image.version, parts);
        let text = serde_json::to_string_pretty(&bill)? + "\n";
        image.entries.push(Entry::file(&format!("{FOLDER}/{}.cdx.json", image.title), &text));
    }
    Ok(())
}

fn bill<'a>(title: &str, version: &str, parts: impl Iterator<Item = &'a Package>) -> Value {
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|package| (&package.name, &package.version));
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": { "type": "container", "name": title, "version": version } },
        "components": parts.into_iter().map(component).collect::<Vec<_>>(),
    })
}

fn component(package: &Package) -> Value {
    let url = format!("pkg:cargo/{}@{}", package.name, package.version);
    let mut component = json!({ "type": "library", "bom-ref": url, "name": package.name, "version": package.version, "purl": url });
    if let Some(license) = &package.license {
        // Old manifests write a slash between alternatives.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    component
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn package(name: &str, license: Option<&str>) -> Package {
        let package = json!({
            "id": name, "name": name, "version": "1.2.3", "license": license, "source": null,
            "dependencies": [], "targets": [], "manifest_path": "Cargo.toml",
        });
        serde_json::from_value(package).unwrap()
    }

    #[test]
    fn a_bill_names_each_part_its_version_and_license() {
        let parts = [package("b", None), package("a", Some("MIT/Apache-2.0"))];
        let bill = bill("image", "1.0.0", parts.iter());
        assert_eq!(bill["metadata"]["component"]["name"], "image");
        let names: Vec<_> = bill["components"].as_array().unwrap().iter().map(|part| part["purl"].as_str().unwrap()).collect();
        assert_eq!(names, ["pkg:cargo/a@1.2.3", "pkg:cargo/b@1.2.3"]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert!(bill["components"][1].get("licenses").is_none());
    }
}
