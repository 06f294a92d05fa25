//! One log of a journal: a tree with its own name that begins with a record and ends with a month, or when the instance is
//! renamed. The next log begins with the last checkpoint of the one before, so the logs of a journal are one chain.
//!
//! ```text
//! tree/vkey                         the key that verifies the checkpoints
//! tree/boot                         the run of the machine that last opened it
//! tree/log-<first record>/checkpoint
//! tree/log-<first record>/changeover/<size>   a checkpoint that two keys signed: the second was new then
//! tree/log-<first record>/tile/...
//! tree/log-<first record>/kept/<record>       the bytes of a record about the tree, whose segment was deleted
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::note::MAX_BYTES;
use super::tiles::Tiles;
use crate::audit::keys::make_directory;

/// Which log a segment belongs to; stands in the segment's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// The name of the log: `<domain>/<instance>/<when it was opened>`.
    pub origin: String,
    /// The number of its first record in the journal; its leaf has index 0.
    pub first: u64,
    /// When it was opened.
    pub opened: Timestamp,
}

impl LogHead {
    /// A log that is opened now, under the name of an instance. The time makes its name unique.
    #[must_use]
    pub fn open(name: &str, first: u64, now: Timestamp) -> Self {
        Self { origin: format!("{name}/{}", now.strftime("%Y%m%dT%H%M%SZ")), first, opened: now }
    }

    /// The name of the instance, which is also that of its key.
    #[must_use]
    pub fn name(&self) -> &str {
        self.origin.rsplit_once('/').map_or(self.origin.as_str(), |(name, _)| name)
    }

    /// Whether the next log is due: the instance has another name, or a month of UTC has passed. A clock that goes
    /// backwards ends nothing.
    #[must_use]
    pub fn has_ended(&self, name: &str, now: Timestamp) -> bool {
        let month = |time: Timestamp| time.strftime("%Y%m").to_string();
        self.name() != name || month(self.opened) < month(now)
    }
}

/// The directory of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDirectory {
    /// The number of the log's first record in the journal.
    pub first: u64,
    path: PathBuf,
}

impl LogDirectory {
    /// The directory of the log that begins with this record.
    #[must_use]
    pub fn of(journal: &Path, first: u64) -> Self {
        Self { first, path: journal.join("tree").join(format!("log-{first:020}")) }
    }

    /// All logs of a journal, in order.
    ///
    /// # Errors
    /// The directory is there but cannot be read.
    pub fn list(journal: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(journal.join("tree")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("log-"));
            found.extend(digits.and_then(|digits| digits.parse().ok()).map(|first| Self::of(journal, first)));
        }
        found.sort_unstable_by_key(|log| log.first);
        Ok(found)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of its newest checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("checkpoint")
    }

    /// The records about the tree itself that were kept when their segments were deleted: each a file, named by its number.
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.path.join("kept")
    }

    /// The kept records: number and exact bytes.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn kept_records(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let entries = match fs::read_dir(self.kept()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Some(seq) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) {
                found.push((seq, fs::read(&path)?));
            }
        }
        found.sort_unstable_by_key(|(seq, _)| *seq);
        Ok(found)
    }

    /// The tiles.
    #[must_use]
    pub fn tiles(&self) -> Tiles {
        Tiles::new(self.path.clone())
    }

    /// The newest checkpoint, if there is one.
    ///
    /// # Errors
    /// It cannot be read or is too large.
    pub fn read_checkpoint(&self) -> io::Result<Option<String>> {
        read_note(&self.checkpoint())
    }

    /// The checkpoints that two keys signed, by size.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn changeovers(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path.join("changeover")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut paths =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort_by_key(|path| path.file_name().map(|name| (name.len(), name.to_owned())));
        paths.iter().filter_map(|path| read_note(path).transpose()).collect()
    }

    /// Makes this the newest checkpoint; it is whole and on the disk, or the one before is still there.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn publish(&self, note: &str) -> io::Result<()> {
        make_directory(&self.path)?;
        write_synced(&self.path, "checkpoint", note)
    }

    /// Like `publish`, and the directories that lead to it are on the disk too: for the first of a log.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn publish_first(&self, note: &str) -> io::Result<()> {
        self.publish(note)?;
        self.path.ancestors().take(3).try_for_each(|directory| File::open(directory)?.sync_all())
    }

    /// Keeps a checkpoint that two keys signed.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn keep_changeover(&self, size: u64, note: &str) -> io::Result<()> {
        let directory = self.path.join("changeover");
        make_directory(&directory)?;
        write_synced(&directory, &size.to_string(), note)
    }

    /// Removes a log that holds no record.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)
    }
}

/// Writes the verifier key where people look for it: `tree/vkey`.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_vkey(journal: &Path, vkey: &str) -> io::Result<()> {
    let directory = journal.join("tree");
    make_directory(&directory)?;
    let line = format!("{vkey}\n");
    if fs::read_to_string(directory.join("vkey")).is_ok_and(|known| known == line) {
        return Ok(());
    }
    write_synced(&directory, "vkey", &line)
}

fn write_synced(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let partial = directory.join(format!(".{name}"));
    let mut file = File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(partial, directory.join(name))
}

/// A note's file, if it is there.
///
/// # Errors
/// It cannot be read or is too large.
pub fn read_note(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > u64::try_from(MAX_BYTES).unwrap_or(u64::MAX) => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a checkpoint"))
        }
        Ok(_) => fs::read_to_string(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_ends_with_its_month_or_name_and_not_when_the_clock_goes_back() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let log = LogHead::open("a.internal/border-1", 7, time("2026-11-24T15:41:21.5Z"));
        assert_eq!(
            (log.origin.as_str(), log.name()),
            ("a.internal/border-1/20261124T154121Z", "a.internal/border-1")
        );
        assert!(!log.has_ended("a.internal/border-1", time("2026-11-30T23:59:59Z")));
        assert!(log.has_ended("a.internal/border-1", time("2026-12-01T00:00:00Z")));
        assert!(log.has_ended("a.internal/border-1", time("2027-01-01T00:00:00Z")));
        assert!(!log.has_ended("a.internal/border-1", time("2025-12-31T00:00:00Z")));
        assert!(log.has_ended("a.internal/border-2", time("2026-11-24T15:41:22Z")));
    }

    #[test]
    fn logs_are_listed_in_order_and_their_files_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(LogDirectory::list(dir.path()).unwrap(), []);
        let logs = [3, 20, 100].map(|first| LogDirectory::of(dir.path(), first));
        for log in logs.iter().rev() {
            assert_eq!(log.read_checkpoint().unwrap(), None);
            log.publish_first("one").unwrap();
            log.publish("two").unwrap();
        }
        write_vkey(dir.path(), "a+b+c").unwrap();
        assert_eq!(LogDirectory::list(dir.path()).unwrap(), logs);
        assert_eq!(logs[1].read_checkpoint().unwrap().as_deref(), Some("two"));
        for size in [9, 10] {
            logs[1].keep_changeover(size, &size.to_string()).unwrap();
        }
        assert_eq!(logs[1].changeovers().unwrap(), ["9", "10"]);
    }
}
