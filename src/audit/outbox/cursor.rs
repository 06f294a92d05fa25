//! How far each destination has got: `export/<name>/cursor` below the journal, a line of JSON.
//!
//! Written aside, synced and renamed, so it is whole or the one before. One that is lost or damaged costs duplicates, never
//! a record: the destination then begins at the oldest record again.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::keys::make_directory;
use super::settings::DestinationName;

/// The folder of all destinations, below the journal.
pub(super) const FOLDER: &str = "export";
/// More than any cursor.
const MAX_BYTES: u64 = 4096;

/// How far a destination has got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The first record that the destination has not acknowledged.
    pub(super) seq: u64,
    /// Whether segments wait for it.
    #[serde(default)]
    pub(super) required: bool,
    /// Records that it refused and that lie in the dead-letter file.
    #[serde(default)]
    pub(super) dead_letters: u64,
}

/// The cursor of one destination.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    folder: PathBuf,
}

impl Cursor {
    pub(super) fn of(journal: &Path, name: &DestinationName) -> Self {
        Self { folder: journal.join(FOLDER).join(name.as_str()) }
    }

    /// Where it and the dead letters lie.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The position; none if there is none yet.
    ///
    /// # Errors
    /// It cannot be read, or is damaged (`InvalidData`).
    pub(super) fn load(&self) -> io::Result<Option<Position>> {
        let file = match File::open(self.folder.join("cursor")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
    }

    /// Keeps a position; it is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn store(&self, position: Position) -> io::Result<()> {
        make_directory(&self.folder)?;
        let mut line = serde_json::to_vec(&position)?;
        line.push(b'\n');
        let partial = self.folder.join(".cursor");
        let mut file = File::create(&partial)?;
        file.write_all(&line)?;
        file.sync_data()?;
        fs::rename(partial, self.folder.join("cursor"))?;
        File::open(&self.folder)?.sync_all()
    }
}

/// The first record that some required destination has not acknowledged: it and all after it must be kept. None if no
/// destination is required. `directory` is the journal's. A cursor or folder that cannot be read keeps everything.
#[must_use]
pub fn required_floor(directory: &Path) -> Option<u64> {
    let mut floor: Option<u64> = None;
    let Ok(cursors) = all(directory) else { return Some(0) };
    for cursor in cursors {
        let seq = match cursor.load() {
            Ok(Some(position)) if !position.required => continue,
            Ok(Some(position)) => position.seq,
            Ok(None) | Err(_) => 0,
        };
        floor = Some(floor.map_or(seq, |floor| floor.min(seq)));
    }
    floor
}

/// Makes the folders say which destinations are required: those of the configuration that are. One that was taken out of the
/// configuration holds nothing back any more; its cursor stays, for the day when it comes back.
///
/// # Errors
/// A cursor cannot be written.
pub(super) fn prepare<'a>(
    journal: &Path,
    wanted: impl Iterator<Item = (&'a DestinationName, bool)>,
) -> io::Result<()> {
    let wanted: Vec<_> = wanted.map(|(name, required)| (Cursor::of(journal, name), required)).collect();
    for cursor in all(journal)? {
        if !wanted.iter().any(|(known, _)| known.folder == cursor.folder) {
            let position = cursor.load().ok().flatten().unwrap_or_default();
            cursor.store(Position { required: false, ..position })?;
        }
    }
    for (cursor, required) in wanted {
        let known = match cursor.load() {
            Ok(known) => known,
            Err(error) => {
                let folder = cursor.folder.display();
                tracing::warn!(%error, %folder, "an export cursor is damaged; the export begins again at the oldest record");
                None
            }
        };
        if known.is_none_or(|position| position.required != required) {
            cursor.store(Position { required, ..known.unwrap_or_default() })?;
        }
    }
    Ok(())
}

/// The cursors that have a folder.
fn all(journal: &Path) -> io::Result<Vec<Cursor>> {
    let entries = match fs::read_dir(journal.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(Cursor { folder: entry.path() });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> DestinationName {
        text.parse().unwrap()
    }

    #[test]
    fn the_slowest_required_destination_holds_segments_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(required_floor(dir.path()), None);
        let (a, b, c) = (name("a"), name("b"), name("c"));
        prepare(dir.path(), [(&a, true), (&b, true), (&c, false)].into_iter()).unwrap();
        assert_eq!(required_floor(dir.path()), Some(0));
        let at = |name, seq, required| {
            let position = Position { seq, required, dead_letters: 0 };
            Cursor::of(dir.path(), name).store(position).unwrap();
        };
        at(&a, 70, true);
        at(&b, 9, true);
        at(&c, 1, false);
        assert_eq!(required_floor(dir.path()), Some(9));
        // What nobody asks for any more holds nothing back, and goes on where it was when it comes back.
        prepare(dir.path(), [(&a, true)].into_iter()).unwrap();
        assert_eq!(required_floor(dir.path()), Some(70));
        prepare(dir.path(), [(&a, false), (&b, true)].into_iter()).unwrap();
        assert_eq!(required_floor(dir.path()), Some(9));
        // Damage keeps everything.
        fs::write(Cursor::of(dir.path(), &b).folder().join("cursor"), "{\"seq\":").unwrap();
        assert_eq!(required_floor(dir.path()), Some(0));
        prepare(dir.path(), [(&b, true)].into_iter()).unwrap();
        assert_eq!(Cursor::of(dir.path(), &b).load().unwrap().unwrap().seq, 0);
    }

    #[test]
    fn a_cursor_of_another_version_is_read_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let cursor = Cursor::of(dir.path(), &name("a"));
        fs::create_dir_all(cursor.folder()).unwrap();
        fs::write(cursor.folder().join("cursor"), r#"{"later":[1],"seq":12}"#).unwrap();
        assert_eq!(cursor.load().unwrap(), Some(Position { seq: 12, required: false, dead_letters: 0 }));
    }

    proptest! {
        #[test]
        fn what_is_stored_is_loaded(seq: u64, required: bool, dead_letters: u64) {
            let dir = tempfile::tempdir().unwrap();
            let cursor = Cursor::of(dir.path(), &name("a"));
            let position = Position { seq, required, dead_letters };
            cursor.store(position).unwrap();
            prop_assert_eq!(cursor.load().unwrap(), Some(position));
            prop_assert_eq!(required_floor(dir.path()), required.then_some(seq));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().unwrap();
            let cursor = Cursor::of(dir.path(), &name("a"));
            fs::create_dir_all(cursor.folder()).unwrap();
            fs::write(cursor.folder().join("cursor"), &bytes).unwrap();
            match cursor.load() {
                Ok(Some(position)) if !position.required => prop_assert_eq!(required_floor(dir.path()), None),
                Ok(Some(position)) => prop_assert_eq!(required_floor(dir.path()), Some(position.seq)),
                _ => prop_assert_eq!(required_floor(dir.path()), Some(0)),
            }
        }
    }
}
