//! The files that a proxy starts from: `key.p8` and `csr.der` in its identity directory, and `trust-anchors.pem`, the bundle
//! that it was told of while it ran.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use homarus_model::Identity;

use crate::anchors::TrustAnchors;
use crate::csr::{self, MAX_CSR_BYTES};
use crate::key::{Key, KeyError, MAX_KEY_BYTES};
use crate::pem::MAX_PEM_BYTES;

/// The private key, PKCS#8 DER, readable by its owner only.
pub const KEY_FILE: &str = "key.p8";
/// The certificate signing request, DER.
pub const CSR_FILE: &str = "csr.der";
/// The trust anchors of the last time, PEM, after a line that says which ones they took the place of.
pub const ANCHORS_FILE: &str = "trust-anchors.pem";

/// How the first line of [`ANCHORS_FILE`] begins; then comes the fingerprint of the environment's anchors.
const IN_PLACE_OF: &str = "in-place-of: ";
/// The largest [`ANCHORS_FILE`]: the first line, whose fingerprint is a SHA-256 in hexadecimal, and the largest bundle.
const MAX_KEPT_BYTES: usize = IN_PLACE_OF.len() + 64 + 1 + MAX_PEM_BYTES;

/// Why the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system said no.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The key.
    #[error("{path}: {source}")]
    Key {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// The request can't be used; deleting the file makes a new one.
    #[error("{path}: {reason}; delete it and {KEY_FILE} to have both made anew")]
    Csr {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No request can be made.
    #[error(transparent)]
    Make(#[from] csr::MakeError),
}

/// A key and the request that goes with it.
#[derive(Clone, Debug)]
pub struct Files {
    /// The key.
    pub key: Key,
    /// The request, DER.
    pub csr: Vec<u8>,
}

/// Reads key and request from a directory; makes what is missing or empty.
///
/// A key that exists is never replaced. A request is made anew when its key was; one that doesn't fit key or name is an
/// error: someone else wrote it, and `Certify` would refuse it.
pub fn ensure(directory: &Path, name: &Identity) -> Result<Files, FileError> {
    let key_path = directory.join(KEY_FILE);
    let csr_path = directory.join(CSR_FILE);
    let (key, made) = match read(&key_path, MAX_KEY_BYTES)? {
        Some(der) => (Key::from_pkcs8(&der), false),
        None => (Key::generate(), true),
    };
    let key = key.map_err(|source| FileError::Key { path: key_path.clone(), source })?;
    if made {
        write(&key_path, 0o600, key.secret_der())?;
    }
    let csr = match read(&csr_path, MAX_CSR_BYTES)? {
        Some(der) if !made => {
            check(&der, &key, name).map_err(|reason| FileError::Csr { path: csr_path, reason })?;
            der
        }
        _ => {
            let der = csr::make(name, &key)?;
            write(&csr_path, 0o644, &der)?;
            der
        }
    };
    Ok(Files { key, csr })
}

/// Keeps anchors that were told while running, for the next start in the same environment.
pub fn keep_anchors(directory: &Path, anchors: &TrustAnchors, environment: &TrustAnchors) -> Result<(), FileError> {
    let text = format!("{IN_PLACE_OF}{}\n{}", environment.fingerprint(), anchors.pem());
    write(&directory.join(ANCHORS_FILE), 0o644, text.as_bytes())
}

/// The anchors that were kept, if they took the place of these: in another environment they may be older than what it says.
/// What isn't text of that kind was kept by nobody. No error is a reason not to start: the environment's anchors are there.
pub fn kept_anchors(directory: &Path, environment: &TrustAnchors) -> Result<Option<TrustAnchors>, FileError> {
    let Some(bytes) = read(&directory.join(ANCHORS_FILE), MAX_KEPT_BYTES)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let kept = text.split_once('\n').and_then(|(head, pem)| Some((head.strip_prefix(IN_PLACE_OF)?, pem)));
    let kept = kept.filter(|(of, _)| *of == environment.fingerprint());
    Ok(kept.and_then(|(_, pem)| TrustAnchors::from_pem(pem).ok()))
}

fn check(der: &[u8], key: &Key, name: &Identity) -> Result<(), String> {
    let request = csr::Request::parse(der).map_err(|error| error.to_string())?;
    if request.public != key.public().as_ref() {
        return Err(format!("the request is for another key than {KEY_FILE}"));
    }
    request.check_names(name.as_str()).map_err(|error| error.to_string())
}

/// The contents of a file; `None` if it is missing or empty.
fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, FileError> {
    let fail = |source| FileError::Io { action: "read", path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > max {
        return Err(fail(std::io::Error::other(format!("longer than {max} bytes"))));
    }
    Ok((!bytes.is_empty()).then_some(bytes))
}

/// Writes beside the file and renames, so that no one ever reads half of it.
fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), FileError> {
    let fail = |source| FileError::Io { action: "write", path: path.to_owned(), source };
    let unfinished = path.with_extension("new");
    if let Err(error) = std::fs::remove_file(&unfinished)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(fail(error));
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    drop(file);
    std::fs::rename(&unfinished, path).map_err(fail)
}
