//! Files that change while a program runs: mounted Secrets and ConfigMaps.
//!
//! Kubelets swap a whole mount by renaming a link, other tools rewrite files in place; both are seen by comparing
//! contents, which needs no inotify (there is a limit on those, and not every file system has them). The files are small
//! and in memory, so looking once in [`INTERVAL`] costs nothing.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often to look.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// The largest file that is read.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// How long files must stay the same before a change counts, so that no one acts on half of it.
const SETTLE: Duration = Duration::from_millis(50);

/// A file that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read {path}: {source}")]
pub struct ReadError {
    /// Which one.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

/// Some files that belong together.
#[derive(Debug)]
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    seen: Option<Vec<Vec<u8>>>,
}

impl WatchedFiles {
    /// Nothing is read yet.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { paths: paths.into_iter().collect(), seen: None }
    }

    /// The contents now, in the order of the paths. What changes from here on is a change.
    pub fn read(&mut self) -> Result<Vec<Vec<u8>>, ReadError> {
        let contents = self.paths.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        self.seen = Some(contents.clone());
        Ok(contents)
    }

    /// The next contents that differ from the last ones. While a file can't be read, nothing has changed.
    pub async fn changed(&mut self) -> Vec<Vec<u8>> {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let before = self.seen.take();
            let Ok(first) = self.read() else {
                self.seen = before;
                continue;
            };
            if before.as_ref() == Some(&first) {
                continue;
            }
            tokio::time::sleep(SETTLE).await;
            match self.read() {
                Ok(second) if second == first => return second,
                _ => self.seen = before,
            }
        }
    }
}

/// Reads a file of at most [`MAX_FILE_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let fail = |source| ReadError { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fail(std::io::Error::other(format!("longer than {MAX_FILE_BYTES} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_swapped_mount_is_one_change() {
        let dir = std::env::temp_dir().join(format!("homarus-watch-{}", std::process::id()));
        let (old, new) = (dir.join("old"), dir.join("new"));
        for (mount, word) in [(&old, "a"), (&new, "b")] {
            std::fs::create_dir_all(mount).unwrap();
            std::fs::write(mount.join("tls.crt"), format!("crt {word}")).unwrap();
            std::fs::write(mount.join("tls.key"), format!("key {word}")).unwrap();
        }
        let link = dir.join("..data");
        std::os::unix::fs::symlink(&old, &link).unwrap();
        let mut files = WatchedFiles::new([link.join("tls.crt"), link.join("tls.key")]);
        assert_eq!(files.read().unwrap(), [b"crt a", b"key a"]);
        assert!(tokio::time::timeout(INTERVAL * 3, files.changed()).await.is_err());

        std::fs::remove_file(&link).unwrap();
        assert!(tokio::time::timeout(INTERVAL * 3, files.changed()).await.is_err());
        std::os::unix::fs::symlink(&new, &link).unwrap();
        let changed = tokio::time::timeout(INTERVAL * 3, files.changed()).await.unwrap();
        assert_eq!(changed, [b"crt b", b"key b"]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(files.read().is_err());
    }
}
