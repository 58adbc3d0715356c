//! The files of ConfigMap, Secret, downward API and projected volumes: what they are, and how they change.
//!
//! As a kubelet does, all files of a volume are put into a new folder and one symbolic link (`..data`) is swapped:
//! a container sees the old files or the new ones, never some of each.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// All files of one volume together.
pub(crate) const VOLUME_MAX: usize = 16 << 20;
const LINK: &str = "..data";

static VERSION: AtomicU64 = AtomicU64::new(0);

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative, and never upward: checked by [`entry`].
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
}

/// A file at a path that stays within its volume.
pub(crate) fn entry(path: &str, bytes: Vec<u8>, mode: u32) -> Result<Entry, String> {
    let relative = Path::new(path);
    let down = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !down || path.starts_with("..") {
        return Err(format!("path {path:?} leads out of the volume"));
    }
    Ok(Entry { path: relative.into(), bytes, mode, owner: None })
}

/// Writes the files of a volume, replacing those it has.
pub(crate) fn write(volume: &Path, entries: &[Entry], group: Option<u32>) -> io::Result<()> {
    let total: usize = entries.iter().map(|e| e.bytes.len()).sum();
    if total > VOLUME_MAX {
        return Err(io::Error::other(format!("the volume would be larger than {VOLUME_MAX} bytes")));
    }
    fs::create_dir_all(volume)?;
    fs::set_permissions(volume, fs::Permissions::from_mode(0o755))?;
    let number = VERSION.fetch_add(1, Ordering::Relaxed);
    let version = format!("..{}_{number}", jiff::Timestamp::now().as_second());
    let folder = volume.join(&version);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    for entry in entries {
        let path = folder.join(&entry.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &entry.bytes)?;
        chown(&path, entry.owner, group)?;
        let mode = if group.is_some() { entry.mode | 0o040 } else { entry.mode };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let old = fs::read_link(volume.join(LINK)).ok();
    symlink(&version, volume.join("..data_tmp"))?;
    fs::rename(volume.join("..data_tmp"), volume.join(LINK))?;
    link_names(volume, entries)?;
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old))?;
    }
    Ok(())
}

/// The names people use: links through `..data`; those of files that went are removed.
fn link_names(volume: &Path, entries: &[Entry]) -> io::Result<()> {
    let first = |e: &Entry| e.path.components().next().map(|c| PathBuf::from(c.as_os_str()));
    let names: Vec<PathBuf> = entries.iter().filter_map(first).collect();
    for name in &names {
        let place = volume.join(name);
        if place.symlink_metadata().is_err() {
            symlink(Path::new(LINK).join(name), place)?;
        }
    }
    for there in fs::read_dir(volume)? {
        let name = PathBuf::from(there?.file_name());
        let ours = name.to_string_lossy().starts_with("..");
        if !ours && !names.contains(&name) {
            fs::remove_file(volume.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn file(path: &str, text: &str) -> Entry {
        entry(path, text.into(), 0o644).unwrap()
    }

    #[test]
    fn files_are_swapped_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("v");
        write(&volume, &[file("a", "1"), file("sub/b", "2")], None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(volume.join("sub/b")).unwrap(), "2");
        let before = fs::read_link(volume.join("..data")).unwrap();

        write(&volume, &[file("a", "3"), file("c", "4")], None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(volume.join("c")).unwrap(), "4");
        assert!(!volume.join("sub").exists());
        assert_ne!(fs::read_link(volume.join("..data")).unwrap(), before);
        assert!(!volume.join(before).exists());
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for path in ["../x", "/x", "a/../../x", "", "..data"] {
            assert!(entry(path, Vec::new(), 0).is_err(), "{path}");
        }
        assert!(entry("a/b.c", Vec::new(), 0).is_ok());
    }
}
