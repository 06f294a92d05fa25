//! The key directory: one small file for each version of each branch key, holding it wrapped and never plain.
//!
//! Files are written aside, synced and renamed; writers hold a lock on the directory. It may be copied to the far side as it is:
//! without the root key it opens nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::name::{KeyName, Scope};
use crate::model::RecipientName;

/// The largest key file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024;
/// The most key files in a directory.
const MAX_FILES: usize = 100_000;
const SUFFIX: &str = ".key.json";

/// What may be done with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Seals and opens.
    Active,
    /// Opens only: a newer version seals.
    Old,
    /// Does neither; the wrapped key is still there.
    Retired,
    /// The wrapped key is gone. The file stays, so that no other key gets the name.
    Destroyed,
}

impl KeyState {
    /// Whether what was sealed under the version may be opened.
    #[must_use]
    pub const fn opens(self) -> bool {
        matches!(self, Self::Active | Self::Old)
    }

    /// The word in files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Old => "old",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }
}

/// One version of a branch key, as its file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    /// Its name.
    pub name: String,
    /// The root key that wrapped it.
    pub root: RecipientName,
    /// When it was made.
    pub created: Timestamp,
    /// What may be done with it.
    pub state: KeyState,
    /// Wraps that were set aside for gateways, used or not.
    pub wraps: u64,
    /// The branch key, wrapped by the root key; bound to the name. Empty if it was destroyed.
    pub wrapped: String,
}

/// A key directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system said no.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it must be.
    #[error("`{}` is no key file: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Too many files.
    #[error("`{}` has more than {MAX_FILES} files", .0.display())]
    TooMany(PathBuf),
}

/// The directory.
#[derive(Debug, Clone)]
pub struct KeyStore {
    directory: PathBuf,
}

/// The right to write; others wait until it is dropped.
#[derive(Debug)]
pub struct WriteLock(#[expect(dead_code, reason = "held for its lock")] File);

impl KeyStore {
    /// The store in this directory, which need not be there yet.
    #[must_use]
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory (mode 0700) if it is missing, and waits for the right to write.
    ///
    /// # Errors
    /// It cannot be made or locked.
    pub fn lock(&self) -> Result<WriteLock, StoreError> {
        let at = |path: &Path, source| StoreError::Io { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| at(&self.directory, error))?;
        let path = self.directory.join(".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| at(&path, error))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| at(&path, error.into()))?;
        Ok(WriteLock(file))
    }

    /// One version; none if its file is not there.
    ///
    /// # Errors
    /// The file cannot be read, or is not of that name.
    pub fn read(&self, name: &KeyName) -> Result<Option<KeyFile>, StoreError> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { path, source }),
        }
        let (found, file) = read(&path)?;
        if found == *name {
            Ok(Some(file))
        } else {
            Err(StoreError::Malformed { path, why: format!("its name says `{found}`") })
        }
    }

    /// All versions of all keys, sorted by name. Nothing if the directory is not there.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn list(&self) -> Result<Vec<(KeyName, KeyFile)>, StoreError> {
        self.list_where(|name| name.ends_with(SUFFIX))
    }

    fn list_where(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<(KeyName, KeyFile)>, StoreError> {
        let at = |source| StoreError::Io { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(at)?.path();
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
                continue;
            }
            if found.len() >= MAX_FILES {
                return Err(StoreError::TooMany(self.directory.clone()));
            }
            found.push(read(&path)?);
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }

    /// The newest active version for a scope.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn active(&self, scope: &Scope) -> Result<Option<(KeyName, KeyFile)>, StoreError> {
        // Only the files of the scope are read: there may be very many others.
        let start = stem(scope);
        let mut all = self.list_where(|name| name.starts_with(&start) && name.ends_with(SUFFIX))?;
        all.retain(|(name, file)| name.scope == *scope && file.state == KeyState::Active);
        Ok(all.pop())
    }

    /// Writes a version: aside, synced, renamed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, _: &WriteLock, name: &KeyName, file: &KeyFile) -> Result<(), StoreError> {
        let path = self.path(name);
        let aside = path.with_extension("tmp");
        let at = |source| StoreError::Io { path: path.clone(), source };
        let text = serde_json::to_vec_pretty(file).map_err(|error| at(error.into()))?;
        let mut options = OpenOptions::new();
        let mut new = options.create(true).truncate(true).write(true).mode(0o600).open(&aside).map_err(at)?;
        new.write_all(&text).and_then(|()| new.sync_all()).map_err(at)?;
        fs::rename(&aside, &path).map_err(at)?;
        File::open(&self.directory).and_then(|directory| directory.sync_all()).map_err(at)
    }

    /// Destroys a version's key. What was sealed under it opens nowhere again, unless a copy of the file is elsewhere. Its name stays
    /// taken.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn destroy(&self, lock: &WriteLock, name: &KeyName) -> Result<(), StoreError> {
        let path = self.path(name);
        let at = |source| StoreError::Io { path: path.clone(), source };
        let (_, file) = read(&path)?;
        let mut old = OpenOptions::new().write(true).open(&path).map_err(at)?;
        self.write(lock, name, &KeyFile { state: KeyState::Destroyed, wrapped: String::new(), ..file })?;
        // Overwritten last, when nobody can read it any more: a file system that keeps blocks in place then keeps nothing of use.
        let length = old.metadata().map_err(at)?.len().min(MAX_FILE_BYTES);
        let zeros = vec![0; usize::try_from(length).unwrap_or(0)];
        old.write_all(&zeros).and_then(|()| old.sync_all()).map_err(at)
    }

    fn path(&self, name: &KeyName) -> PathBuf {
        self.directory.join(format!("{}{}{SUFFIX}", stem(&name.scope), name.version))
    }
}

/// How the files of a scope begin.
fn stem(scope: &Scope) -> String {
    let [tenant, recipient] = [scope.tenant.as_str(), scope.recipient.as_str()].map(file_part);
    format!("{tenant}~{recipient}~{}~v", scope.direction)
}

/// A name as part of a file's: no separator, no dot at the front.
fn file_part(name: &str) -> String {
    name.chars().fold(String::new(), |mut out, c| {
        match c {
            '/' => out.push_str("%2F"),
            ':' => out.push_str("%3A"),
            c => out.push(c),
        }
        out
    })
}

fn read(path: &Path) -> Result<(KeyName, KeyFile), StoreError> {
    let at = |source| StoreError::Io { path: path.to_owned(), source };
    let malformed = |why: String| StoreError::Malformed { path: path.to_owned(), why };
    if fs::metadata(path).map_err(at)?.len() > MAX_FILE_BYTES {
        return Err(malformed(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    let bytes = fs::read(path).map_err(at)?;
    let file: KeyFile = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    let name: KeyName =
        file.name.parse().map_err(|error: super::name::InvalidKeyName| malformed(error.to_string()))?;
    Ok((name, file))
}
