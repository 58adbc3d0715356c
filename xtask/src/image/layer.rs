//! What lies in an image: entries, and the tar file of a layer made of them.

use anyhow::Context;
use std::{collections::BTreeSet, io};
use tar::{Builder, EntryType, Header};

/// The version of the attribute with one's file capabilities, and that they are effective at once (capabilities(7)).
const CAPABILITIES_V2_EFFECTIVE: u32 = 0x0200_0001;
const CAPABILITIES_ATTRIBUTE: &str = "SCHILY.xattr.security.capability";

/// A file, link or folder, by its absolute path.
pub enum Entry {
    File { path: String, mode: u32, bytes: Vec<u8>, capabilities: u32 },
    Link { path: String, to: String },
    Folder { path: String, mode: u32 },
}

impl Entry {
    /// A file that can be executed.
    pub fn program(path: &str, bytes: Vec<u8>) -> Self {
        Self::File { path: path.into(), mode: 0o755, bytes, capabilities: 0 }
    }

    /// A file that can be read.
    pub fn file(path: &str, text: &str) -> Self {
        Self::File { path: path.into(), mode: 0o644, bytes: text.into(), capabilities: 0 }
    }

    /// A symbolic link.
    pub fn link(path: &str, to: &str) -> Self {
        Self::Link { path: path.into(), to: to.into() }
    }

    /// With capabilities that the program gets where its container may have them.
    pub fn with(self, wanted: u32) -> Self {
        match self {
            Self::File { path, mode, bytes, .. } => Self::File { path, mode, bytes, capabilities: wanted },
            other => other,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &str {
        match self {
            Self::File { path, .. } | Self::Link { path, .. } | Self::Folder { path, .. } => path,
        }
    }
}

/// The tar file of a layer: folders come before what they hold.
pub fn tar(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    let mut folders: BTreeSet<&str> = entries.iter().filter(|e| !matches!(e, Entry::File { .. })).map(Entry::path).collect();
    for entry in entries {
        for (at, _) in entry.path().match_indices('/').skip(1) {
            let folder = &entry.path()[..at];
            if folders.insert(folder) {
                append(&mut tar, folder, EntryType::Directory, 0o755, &[], None)?;
            }
        }
        let path = entry.path();
        match entry {
            Entry::Folder { mode, .. } => append(&mut tar, path, EntryType::Directory, *mode, &[], None),
            Entry::Link { to, .. } => append(&mut tar, path, EntryType::Symlink, 0o777, &[], Some(to)),
            Entry::File { mode, bytes, capabilities, .. } => {
                if *capabilities != 0 {
                    let value = attribute(*capabilities);
                    tar.append_pax_extensions([(CAPABILITIES_ATTRIBUTE, value.as_slice())])?;
                }
                append(&mut tar, path, EntryType::Regular, *mode, bytes, None)
            }
        }
        .with_context(|| path.to_owned())?;
    }
    Ok(tar.into_inner()?)
}

fn append(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, bytes: &[u8], link: Option<&str>) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let path = path.trim_start_matches('/');
    match link {
        Some(to) => tar.append_link(&mut header, path, to),
        None => tar.append_data(&mut header, path, bytes),
    }
}

/// Permitted and inheritable, and effective (`+eip`).
fn attribute(capabilities: u32) -> Vec<u8> {
    [CAPABILITIES_V2_EFFECTIVE, capabilities, capabilities, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Read;

    #[test]
    fn a_layer_holds_what_was_written() {
        let entries = [
            Entry::Folder { path: "/tmp".into(), mode: 0o1777 },
            Entry::program("/usr/lib/a", b"program".to_vec()).with(1 << 12),
            Entry::link("/usr/lib/b", "a"),
            Entry::file("/etc/c", "text"),
        ];
        let bytes = tar(&entries).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let attributes = entry.pax_extensions().unwrap().into_iter().flatten().count();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
            seen.push((path, entry.header().mode().unwrap(), text, attributes));
        }
        let expected = [
            ("tmp", 0o1777, "", 0),
            ("usr", 0o755, "", 0),
            ("usr/lib", 0o755, "", 0),
            ("usr/lib/a", 0o755, "program", 1),
            ("usr/lib/b", 0o777, "", 0),
            ("etc", 0o755, "", 0),
            ("etc/c", 0o644, "text", 0),
        ];
        assert_eq!(seen, expected.map(|(path, mode, text, n)| (path.to_owned(), mode, text.to_owned(), n)));
    }
}
