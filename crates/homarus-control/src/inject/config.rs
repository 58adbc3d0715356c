//! The mesh's values and trust anchors as they are mounted now.
//!
//! Both are read at every admission, so that a change counts for the next pod; they are parsed only when they changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use homarus_daemon::watch_files::{ReadError, read};
use homarus_identity::TrustAnchors;
use homarus_identity::anchors::BundleError;
use homarus_kube::injection::values::{Values, ValuesError};
use parking_lot::Mutex;

/// Why no pod can be injected now. The fault of the installation.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("{0}; is ConfigMap linkerd-config mounted?")]
    Read(#[from] ReadError),
    #[error("{0} is not text")]
    NotText(PathBuf),
    #[error(transparent)]
    Values(#[from] ValuesError),
    #[error(transparent)]
    Anchors(#[from] BundleError),
}

/// The mounted files and what they said last.
#[derive(Debug)]
pub(super) struct Config {
    values: PathBuf,
    anchors: PathBuf,
    last: Mutex<Option<Parsed>>,
}

#[derive(Debug)]
struct Parsed {
    contents: [Vec<u8>; 2],
    values: Arc<Values>,
}

impl Config {
    pub(super) fn new(values: &Path, anchors: &Path) -> Self {
        Self { values: values.to_owned(), anchors: anchors.to_owned(), last: Mutex::new(None) }
    }

    /// The values now, with the anchors of now.
    pub(super) fn values(&self) -> Result<Arc<Values>, ConfigError> {
        let contents = [read(&self.values)?, read(&self.anchors)?];
        let mut last = self.last.lock();
        if let Some(parsed) = last.as_ref().filter(|parsed| parsed.contents == contents) {
            return Ok(Arc::clone(&parsed.values));
        }
        let [values, anchors] = &contents;
        let mut values = Values::from_yaml(text(values, &self.values)?)?;
        // A pod with anchors that its proxy can't read would never become ready: better not to admit it.
        values.identity_trust_anchors_pem = TrustAnchors::from_pem(text(anchors, &self.anchors)?)?.pem().to_owned();
        let values = Arc::new(values);
        *last = Some(Parsed { contents, values: Arc::clone(&values) });
        Ok(values)
    }
}

fn text<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a str, ConfigError> {
    std::str::from_utf8(bytes).map_err(|_| ConfigError::NotText(path.to_owned()))
}
