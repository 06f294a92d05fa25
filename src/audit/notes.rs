//! Events that another process has to tell, such as an export on the command line: it leaves them as files, and whoever writes the
//! journal records them within a second, or at its next start.
//!
//! A note is removed once its record is on the disk. A crash in between records it twice; both records name the note.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::keys::make_directory;
use super::record::Event;
use crate::model::RecordId;

/// Notes that are looked at in one go.
const AT_ONCE: usize = 64;
/// Most bytes of a note.
const MAX_BYTES: u64 = 16 * 1024;

/// An event that was left as a note.
#[derive(Debug, Serialize)]
pub(crate) struct Noted<'a> {
    #[serde(flatten)]
    pub(crate) event: &'a Event<'a>,
    /// The note.
    pub(crate) note: RecordId,
}

/// A note that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) path: PathBuf,
    pub(crate) note: RecordId,
    pub(crate) event: Event<'static>,
}

fn directory(journal: &Path) -> PathBuf {
    journal.join("notes")
}

/// Leaves an event to be recorded; when this returns, the note is on the disk.
///
/// # Errors
/// It cannot be written.
pub fn leave(journal: &Path, event: &Event<'_>) -> io::Result<()> {
    let directory = directory(journal);
    make_directory(&directory)?;
    let id = RecordId::new();
    write_synced(&directory, &format!("{id}.json"), &serde_json::to_vec(event)?)
}

/// Who runs this process, as the actor of an event.
#[must_use]
pub fn actor() -> String {
    format!("uid:{}", rustix::process::getuid().as_raw())
}

/// Writes a file so that its name stands for all of it, on the disk.
pub(crate) fn write_synced(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let partial = directory.join(format!(".{name}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(partial, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// The oldest notes. One that cannot be read, or tells what only the gateway can know, is set aside.
pub(crate) fn waiting(journal: &Path) -> io::Result<Vec<Waiting>> {
    let entries = match fs::read_dir(directory(journal)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| id(path).is_some());
    paths.sort_unstable();
    let mut found = Vec::new();
    for path in paths.into_iter().take(AT_ONCE) {
        match read(&path) {
            Some((note, event)) => found.push(Waiting { path, note, event }),
            None => {
                tracing::error!(note = %path.display(), "a note to the audit journal cannot be recorded; it is set aside");
                fs::rename(&path, path.with_extension("bad"))?;
            }
        }
    }
    Ok(found)
}

fn id(path: &Path) -> Option<RecordId> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

fn read(path: &Path) -> Option<(RecordId, Event<'static>)> {
    if fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let event: Event<'static> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let may = matches!(
        event,
        Event::AuditRead { .. }
            | Event::SubjectErased { .. }
            | Event::HoldAdded { .. }
            | Event::HoldRemoved { .. }
            | Event::SealingKey { .. }
    );
    id(path).zip(may.then_some(event))
}
