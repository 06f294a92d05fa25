//! Legal holds: as long as one stands, retention deletes nothing that it covers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::make_directory;
use super::notes;
use super::record::Event;

/// A reason not to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name: 1 to 64 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Records from this time on are kept; absent: all that are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// When it was set.
    pub added: Timestamp,
    /// Who set it.
    pub actor: String,
}

/// A hold that cannot be set, listed or lifted.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The name is none.
    #[error("`{0}` is no name of a hold: use 1 to 64 letters, digits, `.`, `_` and `-`")]
    Name(String),
    /// There is one of that name.
    #[error("there is a hold `{0}` already; lift it first, or use another name")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no hold `{0}`; `tidegate audit hold list` names those there are")]
    Missing(String),
    /// It is no journal.
    #[error("`{}` holds no journal segment; name the directory that `audit.directory` names", .0.display())]
    NoJournal(PathBuf),
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn file(journal: &Path, name: &str) -> Result<PathBuf, HoldError> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(known) {
        return Err(HoldError::Name(name.chars().take(80).collect()));
    }
    let segments = super::segment::list(journal).map_err(failed("read", journal))?;
    if segments.is_empty() {
        return Err(HoldError::NoJournal(journal.to_owned()));
    }
    Ok(journal.join("holds").join(format!("{name}.json")))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HoldError {
    let path = path.to_owned();
    move |source| HoldError::Io { action, path, source }
}

/// All holds, by name.
///
/// # Errors
/// They cannot be read: then nothing may be deleted.
pub fn list(journal: &Path) -> Result<Vec<Hold>, HoldError> {
    let directory = journal.join("holds");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", &directory)(error)),
    };
    let mut holds = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", &directory))?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "json") {
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let hold = serde_json::from_slice(&bytes).map_err(|error| failed("read", &path)(error.into()))?;
            holds.push(hold);
        }
    }
    holds.sort_by(|a: &Hold, b: &Hold| a.name.cmp(&b.name));
    Ok(holds)
}

/// Sets a hold. It stands when this returns, and is recorded by the gateway.
///
/// # Errors
/// The name is taken or none, or a file cannot be written.
pub fn add(journal: &Path, hold: &Hold) -> Result<(), HoldError> {
    let path = file(journal, &hold.name)?;
    if path.exists() {
        return Err(HoldError::Exists(hold.name.clone()));
    }
    let directory = journal.join("holds");
    let bytes = serde_json::to_vec(hold).map_err(|error| failed("write", &path)(error.into()))?;
    make_directory(&directory)
        .and_then(|()| notes::write_synced(&directory, &format!("{}.json", hold.name), &bytes))
        .map_err(failed("write", &path))?;
    let event = Event::HoldAdded {
        name: hold.name.as_str().into(),
        reason: hold.reason.as_str().into(),
        from: hold.from,
        actor: hold.actor.as_str().into(),
        at: hold.added,
    };
    notes::leave(journal, &event).map_err(failed("write", journal))
}

/// Lifts a hold; that is noted before it is done.
///
/// # Errors
/// There is none of that name, or a file cannot be written.
pub fn remove(
    journal: &Path,
    name: &str,
    reason: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), HoldError> {
    let path = file(journal, name)?;
    if !path.exists() {
        return Err(HoldError::Missing(name.to_owned()));
    }
    let event = Event::HoldRemoved { name: name.into(), reason: reason.into(), actor: actor.into(), at: now };
    notes::leave(journal, &event).map_err(failed("write", journal))?;
    fs::remove_file(&path).map_err(failed("remove", &path))
}
