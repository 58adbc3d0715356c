//! The folders of a host: its network configurations, and the plugins that they name.
//!
//! Every file is written beside its place and renamed into it, so that a runtime never reads half of one. Invariants:
//! - a configuration that can't be read is left as it is, and told; the others are edited all the same;
//! - what was a single plugin is kept under another name, and is what it was when we leave, unless somebody rewrote it;
//! - the program goes last: a runtime that still has the old configuration in memory finds it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::conflist::{self, Edit, NoConfiguration, PLUGIN};

/// The largest configuration that is read. They are a few hundred bytes long.
const MAX_CONFIG_LEN: u64 = 1024 * 1024;
/// Files in a folder that are looked at. There are rarely more than three.
const MAX_CONFIGS: usize = 1024;
/// What a configuration's name ends with, as runtimes see it.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// What is appended to the name of a single plugin's file while its list is in force.
const KEPT: &str = "linkerd-kept";
/// What is appended to the name of a file that is being written.
const UNFINISHED: &str = "install";
/// Configurations are no secret; what a new one is readable by.
const CONFIG_MODE: u32 = 0o644;
/// The kubeconfig holds a token.
const KUBECONFIG_MODE: u32 = 0o600;
const PROGRAM_MODE: u32 = 0o755;

/// What is wrong with a folder or a file of the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The system refused.
    #[error("can't {doing} {path:?}: {error}; the installer must run as root with the host's folder mounted")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Somebody wrote something else there.
    #[error("{path:?} is left alone: {error}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: NoConfiguration,
    },
}

impl HostError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io { doing, path, error }
    }
}

/// What putting our plugin into the configurations came to.
#[derive(Debug, Default)]
pub struct Placed {
    /// Configurations in which ours is the last plugin.
    pub configs: usize,
    /// How many of these had to be written.
    pub written: usize,
    /// Configurations that were left alone.
    pub faults: Vec<HostError>,
}

/// The folders of a host, as they are mounted here.
#[derive(Debug, Clone)]
pub struct Host {
    /// Network configurations.
    pub net_dir: PathBuf,
    /// Plugins.
    pub bin_dir: PathBuf,
    /// The name of the kubeconfig in `net_dir`.
    pub kubeconfig: OsString,
}

impl Host {
    /// Where our program is.
    pub fn program(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.net_dir.join(&self.kubeconfig)
    }

    /// Puts `program` where runtimes look for plugins, over the one that may run at this moment.
    pub fn place_program(&self, program: &Path) -> Result<(), HostError> {
        let place = self.program();
        let mut from = File::open(program).map_err(HostError::io("read", program))?;
        replace(&place, PROGRAM_MODE, |to| io::copy(&mut from, to).map(drop))
    }

    /// Writes the kubeconfig, unless it says that already. Tells whether it was written.
    pub fn place_kubeconfig(&self, text: &str) -> Result<bool, HostError> {
        let place = self.kubeconfig();
        if read(&place).is_ok_and(|there| there == text) {
            return Ok(false);
        }
        replace(&place, KUBECONFIG_MODE, |file| file.write_all(text.as_bytes()))?;
        Ok(true)
    }

    /// Puts `entry` at the end of every configuration.
    pub fn place_entry(&self, entry: &RawValue) -> Result<Placed, HostError> {
        let mut placed = Placed::default();
        for path in self.configurations()? {
            match place_in(&path, entry) {
                Ok(written) => {
                    placed.configs += 1;
                    placed.written += usize::from(written);
                }
                // It went away in between.
                Err(HostError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => placed.faults.push(error),
            }
        }
        Ok(placed)
    }

    /// Whether a pod that starts now meets our plugin: runtimes take the first configuration by name.
    pub fn is_ready(&self) -> Result<(), String> {
        for path in [self.program(), self.kubeconfig()] {
            if !path.is_file() {
                return Err(format!("{path:?} is missing"));
            }
        }
        let configurations = self.configurations().map_err(|error| error.to_string())?;
        let first = configurations.first().ok_or_else(|| format!("no network configuration in {:?} yet", self.net_dir))?;
        let text = read(first).map_err(|error| format!("{first:?}: {error}"))?;
        match conflist::has_entry(&text) {
            true => Ok(()),
            false => Err(format!("{first:?} doesn't end with {PLUGIN}")),
        }
    }

    /// Takes everything of ours away. What fails is told, the rest is done.
    pub fn restore(&self) -> Vec<HostError> {
        let mut faults = Vec::new();
        match self.configurations() {
            Ok(paths) => faults.extend(paths.iter().filter_map(|path| take_from(path).err())),
            Err(error) => faults.push(error),
        }
        faults.extend(self.restore_kept());
        faults.extend([self.kubeconfig(), self.program()].iter().filter_map(|path| remove(path).err()));
        faults
    }

    /// The configurations by name, in the order in which runtimes see them.
    fn configurations(&self) -> Result<Vec<PathBuf>, HostError> {
        let is_one = |path: &PathBuf| {
            let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            ENDINGS.contains(&ending) && path.is_file()
        };
        let mut found: Vec<PathBuf> = self.files()?.into_iter().filter(is_one).collect();
        found.sort();
        Ok(found)
    }

    fn files(&self) -> Result<Vec<PathBuf>, HostError> {
        let failed = || HostError::io("list", &self.net_dir);
        let entries = fs::read_dir(&self.net_dir).map_err(failed())?;
        entries.take(MAX_CONFIGS).map(|entry| Ok(entry.map_err(failed())?.path())).collect()
    }

    /// Gives single plugins their file back, where the list is still the one that we made of it.
    fn restore_kept(&self) -> Vec<HostError> {
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => return vec![error],
        };
        let kept = files.into_iter().filter(|path| path.extension() == Some(OsStr::new(KEPT)));
        kept.filter_map(|kept| restore_one(&kept).err()).collect()
    }
}

fn place_in(path: &Path, entry: &RawValue) -> Result<bool, HostError> {
    let text = read(path).map_err(HostError::io("read", path))?;
    let wrong = |error| HostError::Configuration { path: path.to_path_buf(), error };
    match conflist::with_entry(&text, entry).map_err(wrong)? {
        Edit::None => return Ok(false),
        Edit::Rewrite(text) => write_config(path, &text, path)?,
        Edit::Convert(list) => {
            write_config(&list_beside(path, &text), &list, path)?;
            let kept = appended(path, KEPT);
            fs::rename(path, &kept).map_err(HostError::io("rename", path))?;
        }
    }
    Ok(true)
}

/// The list that takes the place of a single plugin's file; a list that has its name and isn't ours stays.
fn list_beside(path: &Path, text: &str) -> PathBuf {
    let [list, other] = lists_of(path);
    match read(&list) {
        Ok(there) if !is_made_of(&there, text) => other,
        _ => list,
    }
}

/// What a list may be called that takes the place of this file: its own name, and the next one in the order of names.
fn lists_of(path: &Path) -> [PathBuf; 2] {
    let next = appended(path, "conflist");
    match path.extension() == Some(OsStr::new("conf")) {
        true => [path.with_extension("conflist"), next],
        false => [next.clone(), next],
    }
}

fn is_made_of(list: &str, single: &str) -> bool {
    let without = match conflist::without_entry(list) {
        Ok(Edit::Rewrite(text)) => text,
        Ok(_) => list.to_owned(),
        Err(_) => return false,
    };
    conflist::list_of_one(single).is_ok_and(|made| conflist::same(&made, &without))
}

fn restore_one(kept: &Path) -> Result<(), HostError> {
    let original = kept.with_extension("");
    let text = read(kept).map_err(HostError::io("read", kept))?;
    let lists = lists_of(&original);
    let list = lists.iter().find(|list| read(list).is_ok_and(|there| is_made_of(&there, &text)));
    match list {
        Some(list) if !original.exists() => {
            fs::rename(kept, &original).map_err(HostError::io("rename", kept))?;
            remove(list)
        }
        // Somebody wrote a configuration of their own since.
        _ => remove(kept),
    }
}

fn take_from(path: &Path) -> Result<(), HostError> {
    let text = read(path).map_err(HostError::io("read", path))?;
    match conflist::without_entry(&text) {
        Ok(Edit::Rewrite(text)) => write_config(path, &text, path),
        // What can't be read has nothing of ours.
        _ => Ok(()),
    }
}

/// Writes a configuration with the rights of the one that it comes from.
fn write_config(path: &Path, text: &str, like: &Path) -> Result<(), HostError> {
    let mode = fs::metadata(like).map_or(CONFIG_MODE, |about| about.permissions().mode() & 0o777);
    replace(path, mode, |file| file.write_all(text.as_bytes()))
}

fn appended(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_CONFIG_LEN + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_CONFIG_LEN {
        return Err(io::Error::other(format!("longer than {MAX_CONFIG_LEN} bytes")));
    }
    Ok(text)
}

fn remove(path: &Path) -> Result<(), HostError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HostError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn replace(path: &Path, mode: u32, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), HostError> {
    let unfinished = appended(path, UNFINISHED);
    let whole = || {
        remove(&unfinished).map_err(io::Error::other)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
        // Whatever the umask says.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    let outcome = whole();
    if outcome.is_err() {
        let _leftover = fs::remove_file(&unfinished);
    }
    outcome.map_err(HostError::io("write", path))
}

#[cfg(test)]
mod tests;
