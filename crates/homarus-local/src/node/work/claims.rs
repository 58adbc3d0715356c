//! What claims stand for: a folder of the machine each, in the node's own, that outlives pods and `up` itself.
//!
//! A folder is named after the uid of its claim, so that a claim made again under its name is a new, empty one. Folders of
//! claims that are gone are removed; while a pod uses a claim, its controller keeps it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::Context;
use super::volumes::{self, MACHINE, Sources};

/// The folder of the folders, in the node's.
const FOLDER: &str = "claims";

/// Makes a pod's volume lead to the claim of that name.
pub(super) async fn lead_to(sources: Sources<'_>, name: &str, place: &Path, group: Option<u32>) -> Result<(), String> {
    if place.is_symlink() {
        return Ok(());
    }
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    let claim = sources.objects.claim(namespace, name).await;
    let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if !is_bound {
        return Err(format!("persistentvolumeclaim {name:?} is not bound yet"));
    }
    let make = || -> io::Result<()> {
        let folder = sources.state.join(FOLDER).join(claim.uid().unwrap_or_default());
        if !folder.exists() {
            volumes::make_open(&folder, group)?;
        }
        let inside = Path::new(MACHINE).join(folder.strip_prefix("/").unwrap_or(&folder));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        // Only we write where pods' volumes are listed; a container sees what is mounted from there.
        symlink(inside, place)
    };
    make().map_err(|error| error.to_string())
}

/// Removes the folders of claims that are gone, until the node ends.
pub(crate) async fn sweep(context: Arc<Context>) {
    let mut changes = context.objects.claimed();
    let folder = context.config.state.join(FOLDER);
    while changes.changed().await.is_ok() {
        // In this order: whatever has a folder by now had a claim before.
        let folders = folders(&folder);
        if folders.is_empty() {
            continue;
        }
        let known = match Api::<PersistentVolumeClaim>::all(context.client.clone()).list_metadata(&ListParams::default()).await {
            Ok(claims) => claims.items.iter().filter_map(|claim| claim.uid()).collect(),
            Err(error) => {
                tracing::debug!(%error, "cannot tell which claims are gone");
                continue;
            }
        };
        let _ = tokio::task::spawn_blocking(move || remove_others(&folders, &known)).await;
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// One that can't be removed keeps none of the others.
fn remove_others(folders: &[PathBuf], known: &HashSet<String>) {
    let uid = |folder: &Path| folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    for folder in folders.iter().filter(|folder| uid(folder).is_none_or(|uid| !known.contains(&uid))) {
        if let Err(error) = fs::remove_dir_all(folder) {
            tracing::warn!(%error, folder = %folder.display(), "cannot remove the folder of a claim that is gone");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_of_claims_that_are_gone_go() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join(FOLDER);
        assert_eq!(folders(&folder), Vec::<PathBuf>::new());
        for uid in ["a", "b"] {
            fs::create_dir_all(folder.join(uid)).unwrap();
            fs::write(folder.join(uid).join("file"), "kept").unwrap();
        }
        let with_one_that_fails = [vec![folder.join("0")], folders(&folder)].concat();
        remove_others(&with_one_that_fails, &HashSet::from(["a".to_owned()]));
        assert_eq!(fs::read_to_string(folder.join("a/file")).unwrap(), "kept");
        assert!(!folder.join("b").exists());
    }
}
