//! State on disk: an append-only log of changes and, now and then, a snapshot that replaces it.
//!
//! Lines of JSON. The first line of a snapshot says the revision. A torn last line is dropped: its request was never
//! answered.
//!
//! # What a crash may cost
//! - Of this process, even by `kill -9`: nothing that was answered. A change is with the kernel before its answer is sent.
//! - Of the machine: what was answered in the last [`SYNC_WITHIN`] or so. The log is synced to the disk behind the requests'
//!   backs, not before each answer: pods' status changes all the time, and none of it is worth a wait for the disk.
//! - A full disk: nothing but what was answered while it was full and this process then lost. The log stays whole, and a
//!   snapshot takes in what is missing as soon as there is room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Change, Name, Store};

/// After so many logged changes a snapshot is taken.
pub const CHANGES_PER_SNAPSHOT: usize = 20_000;

/// The log is synced to the disk so soon after a change.
pub const SYNC_WITHIN: Duration = Duration::from_secs(1);

/// The log of a state folder.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    log: Arc<File>,
    logged: usize,
    /// How long the log is.
    length: u64,
    /// Something that was changed isn't in it.
    behind: bool,
    dirty: SyncSender<()>,
}

/// What can go wrong with the state folder.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder or a file in it can't be used.
    #[error("state folder {folder}: {source}; make it writable for this user or choose another")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line in the middle isn't ours.
    #[error("state file {file}, line {line} is damaged: {source}; move the folder away to start afresh")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Which line.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

/// Makes a folder that only this user can enter.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// Writes a file that only this user can read, at once or not at all.
pub fn private_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(fresh, path)
}

impl Journal {
    /// Opens a state folder and replays what is in it.
    pub fn open(folder: &Path) -> Result<(Journal, Store), JournalError> {
        let at = |source| JournalError::Io { folder: folder.to_owned(), source };
        private_folder(folder).map_err(at)?;
        let mut store = Store::default();
        replay(&folder.join("snapshot"), &mut store)?;
        store.origin = store.revision;
        store.buckets.values_mut().for_each(|b| b.forgotten = store.origin);
        replay(&folder.join("log"), &mut store)?;
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join("log")).map_err(at)?;
        let log = Arc::new(log);
        let dirty = keep_synced(log.clone()).map_err(at)?;
        let mut journal = Journal { folder: folder.to_owned(), log, logged: 0, length: 0, behind: false, dirty };
        // A clean log from here on: a torn last line must not precede a new one.
        journal.snapshot(&store).map_err(at)?;
        Ok((journal, store))
    }

    /// Logs a change, and snapshots when the log has grown long.
    pub fn record(&mut self, bucket: &str, change: &Change, store: &Store) -> io::Result<()> {
        if self.behind || self.logged >= CHANGES_PER_SNAPSHOT {
            return self.snapshot(store);
        }
        let mut line = serde_json::to_vec(&line(bucket, change))?;
        line.push(b'\n');
        if let Err(error) = (&*self.log).write_all(&line) {
            self.behind = true;
            // Part of a line must not precede another.
            self.log.set_len(self.length)?;
            return Err(error);
        }
        self.logged += 1;
        self.length += line.len() as u64;
        // Full: a sync is coming already.
        let _ = self.dirty.try_send(());
        Ok(())
    }

    fn snapshot(&mut self, store: &Store) -> io::Result<()> {
        let fresh = self.folder.join("snapshot.new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        let mut out = BufWriter::new(file);
        writeln!(out, "{}", json!({"revision": store.revision}))?;
        for (bucket, content) in &store.buckets {
            for object in content.objects.values() {
                serde_json::to_writer(&mut out, &json!({"in": &**bucket, "put": object.value}))?;
                out.write_all(b"\n")?;
            }
        }
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(fresh, self.folder.join("snapshot"))?;
        // Replaying the whole log on top of it would change nothing, but only once the new name is sure to be there.
        File::open(&self.folder)?.sync_all()?;
        self.log.set_len(0)?;
        (self.logged, self.length, self.behind) = (0, 0, false);
        Ok(())
    }
}

/// Syncs a log soon after each change, on a thread that ends with the journal.
fn keep_synced(log: Arc<File>) -> io::Result<SyncSender<()>> {
    let (dirty, changes) = sync_channel(1);
    std::thread::Builder::new().name("journal-sync".into()).spawn(move || {
        while changes.recv().is_ok() {
            std::thread::sleep(SYNC_WITHIN);
            if let Err(error) = log.sync_data() {
                tracing::error!(%error, "the disk doesn't take the log of the API's objects");
            }
        }
    })?;
    Ok(dirty)
}

fn line(bucket: &str, change: &Change) -> Value {
    if change.deleted {
        let name = Name::of(&change.after.value);
        return json!({"revision": change.revision, "in": bucket, "remove": [name.namespace, name.name]});
    }
    json!({"revision": change.revision, "in": bucket, "put": change.after.value})
}

fn replay(file: &Path, store: &mut Store) -> Result<(), JournalError> {
    let at = |source| JournalError::Io { folder: file.to_owned(), source };
    let reader = match File::open(file) {
        Ok(open) => BufReader::new(open),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(at(e)),
    };
    let mut lines = reader.split(b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let parsed: Value = match serde_json::from_slice(&line.map_err(at)?) {
            Ok(parsed) => parsed,
            Err(_) if lines.peek().is_none() => break,
            Err(source) => return Err(JournalError::Damaged { file: file.to_owned(), line: number + 1, source }),
        };
        apply(parsed, store);
    }
    Ok(())
}

fn apply(mut line: Value, store: &mut Store) {
    if let Some(bucket) = line["in"].as_str() {
        let bucket: Arc<str> = bucket.into();
        if let Some(gone) = line["remove"].as_array() {
            let text = |i: usize| gone.get(i).and_then(Value::as_str).unwrap_or_default();
            store.bucket(&bucket).objects.remove(&Name::new(text(0), text(1)));
        } else {
            store.restore(&bucket, line["put"].take());
        }
    }
    let revision = line["revision"].as_u64().unwrap_or(0);
    store.revision = store.revision.max(revision);
    // What happened before this start is not remembered: whoever watched then lists again.
    store.origin = store.revision;
    store.buckets.values_mut().for_each(|b| b.forgotten = store.revision);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(journal: &mut Journal, store: &mut Store, name: &str) {
        let bucket: Arc<str> = "/pods".into();
        let change = store.put(&bucket, json!({"metadata": {"name": name}}));
        journal.record(&bucket, &change, store).unwrap();
    }

    #[test]
    fn state_and_revisions_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        let (mut journal, mut store) = Journal::open(&folder).unwrap();
        write(&mut journal, &mut store, "a");
        write(&mut journal, &mut store, "b");
        let gone = store.remove(&"/pods".into(), &Name::new("", "a"), None).unwrap();
        journal.record("/pods", &gone, &store).unwrap();
        drop(journal);
        let (_journal, again) = Journal::open(&folder).unwrap();
        assert_eq!(again.revision(), 3);
        assert_eq!(again.list("/pods", "").count(), 1);
        assert_eq!(again.find("/pods", &Name::new("", "b")).unwrap().revision, 2);
        assert!(again.since("/pods", 2).is_err());
        assert!(again.since("/pods", 3).unwrap().is_empty());
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        for file in fs::read_dir(&folder).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_torn_line_is_dropped_and_a_damaged_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut store) = Journal::open(folder.path()).unwrap();
        write(&mut journal, &mut store, "a");
        drop(journal);
        let log = folder.path().join("log");
        let whole = fs::read(&log).unwrap();
        fs::write(&log, [&whole[..], b"{\"revision\": 2, \"in"].concat()).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap().1.revision(), 1);
        fs::write(&log, [b"nonsense\n", &whole[..]].concat()).unwrap();
        let error = Journal::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    /// A log of some changes, and the revision after each of its lines.
    fn some_log(folder: &Path) -> Vec<u8> {
        let (mut journal, mut store) = Journal::open(folder).unwrap();
        for name in ["a", "b", "c", "a"] {
            write(&mut journal, &mut store, name);
        }
        let gone = store.remove(&"/pods".into(), &Name::new("", "b"), None).unwrap();
        journal.record("/pods", &gone, &store).unwrap();
        fs::read(folder.join("log")).unwrap()
    }

    /// What is in a file of these bytes, without the waits for the disk of a real start.
    fn replayed(bytes: &[u8]) -> Result<Store, JournalError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let mut store = Store::default();
        replay(file.path(), &mut store).map(|()| store)
    }

    #[test]
    fn a_log_cut_off_anywhere_is_all_its_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let whole = some_log(folder.path());
        for cut in 0..=whole.len() {
            let lines = whole[..cut].iter().filter(|b| **b == b'\n').count() as u64;
            let revision = replayed(&whole[..cut]).unwrap().revision();
            // A line that is whole but for its end counts, too.
            assert!(revision == lines || revision == lines + 1, "cut at {cut}: {revision} of {lines}");
        }
    }

    #[test]
    fn a_full_disk_leaves_the_log_whole_and_is_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut store) = Journal::open(folder.path()).unwrap();
        write(&mut journal, &mut store, "a");
        // /dev/full takes nothing, as a disk without room.
        let log = std::mem::replace(&mut journal.log, Arc::new(OpenOptions::new().append(true).open("/dev/full").unwrap()));
        let bucket: Arc<str> = "/pods".into();
        let lost = store.put(&bucket, json!({"metadata": {"name": "lost"}}));
        assert!(journal.record(&bucket, &lost, &store).is_err());
        journal.log = log;
        write(&mut journal, &mut store, "b");
        drop(journal);
        let again = Journal::open(folder.path()).unwrap().1;
        assert_eq!((again.revision(), again.count("/pods")), (3, 3));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn damage_is_named_or_leaves_a_log(at in 0_usize..600, byte in proptest::prelude::any::<u8>()) {
            static LOG: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| some_log(tempfile::tempdir().unwrap().path()));
            let mut bytes = LOG.clone();
            let at = at % bytes.len();
            bytes[at] = byte;
            match replayed(&bytes) {
                Ok(store) => assert!(store.count("/pods") <= 4),
                Err(error) => assert!(error.to_string().contains("line "), "{error}"),
            }
        }

        #[test]
        fn any_bytes_are_a_log_or_named(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = replayed(&bytes);
        }
    }
}
