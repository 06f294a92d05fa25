//! The index that searches use: SQLite beside the journal, `<audit.directory>/index/`. Made by whoever searches, never by the gateway.
//!
//! It says where records stand and holds nothing that the journal does not: it may be removed at any time. Each search first reads on from the
//! last record that the index knows, then asks it which records may fit, and takes those from the journal. A record is shown only if its own bytes
//! fit, so a wrong index can hide something and never invent anything; `--no-index` reads everything instead.
//!
//! Readers never meet the gateway's writer: segments are only read. Those who search at the same time wait for each other while they read on.

mod fill;
mod schema;
mod search;

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

pub use self::search::Hit;
use super::filter::Filter;
use super::reader::{ReadError, Reader};

/// The directory of the index, below that of the journal.
pub const DIRECTORY: &str = "index";
/// The database.
const FILE: &str = "journal.sqlite";
/// Held while somebody reads on.
const LOCK: &str = "lock";

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of it cannot be made or opened; searching without it works.
    #[error("cannot use the index `{}`", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is asked for a name that it may not know.
    #[error("names of principals are encrypted in some records, so no index knows them")]
    Personal,
    /// SQLite cannot go on, also with a new file.
    #[error("the index `{}` failed", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

impl IndexError {
    /// Whether the journal can be searched all the same, by reading all of it.
    #[must_use]
    pub const fn allows_scan(&self) -> bool {
        !matches!(self, Self::Read(_))
    }
}

/// Why an index was made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It was damaged.
    Damaged,
    /// Another version of the program made it.
    Version,
    /// The journal is not the one that it knows: a record that it read last is gone or another.
    Stale,
}

impl Renewed {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Damaged => "the index was damaged and is made again",
            Self::Version => "the index is of another version and is made again",
            Self::Stale => {
                "the index does not fit the journal, which was restored or replaced, and is made again"
            }
        }
    }
}

/// An index that knows all records.
#[derive(Debug)]
pub struct Index {
    journal: PathBuf,
    path: PathBuf,
    connection: Connection,
}

/// What is told while an index is brought up to date.
pub trait Watch {
    /// The index is made anew.
    fn renewed(&mut self, why: Renewed);
    /// Somebody else reads on; it is waited for.
    fn waits(&mut self);
    /// A record of so many bytes was read.
    fn read(&mut self, bytes: usize);
}

impl Index {
    /// Opens the index of a journal, makes it if it is not there or of no use, and reads on to the end of the journal.
    ///
    /// # Errors
    /// The journal or the index cannot be read or written.
    pub fn open(journal: &Path, watch: &mut impl Watch) -> Result<Self, IndexError> {
        // A place without a journal gets no index.
        Reader::oldest(journal)?;
        let directory = journal.join(DIRECTORY);
        let _held = lock(&directory, watch)?;
        let path = directory.join(FILE);
        let mut index = match Self::attach(journal, &path) {
            Ok(Ok(index)) => index,
            Ok(Err(why)) => Self::renew(journal, &path, why, watch)?,
            Err(error) if is_damage(&error) => Self::renew(journal, &path, Renewed::Damaged, watch)?,
            Err(source) => return Err(IndexError::Database { path, source }),
        };
        match fill::read_on(&mut index.connection, journal, watch) {
            Err(fill::FillError::Database(error)) if is_damage(&error) => {
                index = Self::renew(journal, &path, Renewed::Damaged, watch)?;
                fill::read_on(&mut index.connection, journal, watch)
            }
            done => done,
        }
        .map_err(|error| match error {
            fill::FillError::Read(error) => error.into(),
            fill::FillError::Database(source) => IndexError::Database { path: path.clone(), source },
        })?;
        Ok(index)
    }

    /// Opens what is there, or says why it is of no use.
    fn attach(journal: &Path, path: &Path) -> rusqlite::Result<Result<Self, Renewed>> {
        let connection = schema::connect(path)?;
        let found = schema::version(&connection)?;
        if found == 0 {
            schema::create(&connection)?;
        } else if found != schema::VERSION {
            return Ok(Err(Renewed::Version));
        }
        if !fill::fits(&connection, journal)? {
            return Ok(Err(Renewed::Stale));
        }
        Ok(Ok(Self { journal: journal.to_owned(), path: path.to_owned(), connection }))
    }

    fn renew(journal: &Path, path: &Path, why: Renewed, watch: &mut impl Watch) -> Result<Self, IndexError> {
        watch.renewed(why);
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(IndexError::Io { path: name.into(), source });
                }
                _ => {}
            }
        }
        let failed = |source| IndexError::Database { path: path.to_owned(), source };
        let connection = schema::connect(path).map_err(failed)?;
        schema::create(&connection).map_err(failed)?;
        Ok(Self { journal: journal.to_owned(), path: path.to_owned(), connection })
    }

    /// The newest `limit` records that fit, oldest first, each with its outcome; and how many fit in all.
    ///
    /// # Errors
    /// The index or the journal cannot be read.
    pub fn search(&self, filter: &Filter, limit: usize) -> Result<(Vec<Hit>, u64), IndexError> {
        let failed = |source| IndexError::Database { path: self.path.clone(), source };
        if filter.principal.is_some() && search::has_personal(&self.connection).map_err(failed)? {
            return Err(IndexError::Personal);
        }
        let (places, total) = search::places(&self.connection, filter, limit).map_err(failed)?;
        Ok((search::fetch(&self.journal, &places, filter)?, total))
    }
}

/// Makes the directory, closed to others, and holds its lock until the file is dropped.
fn lock(directory: &Path, watch: &mut impl Watch) -> Result<File, IndexError> {
    let failed = |source| IndexError::Io { path: directory.to_owned(), source };
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => return Err(failed(source)),
        _ => {}
    }
    let path = directory.join(LOCK);
    let file =
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    if file.try_lock().is_err() {
        watch.waits();
        file.lock().map_err(failed)?;
    }
    Ok(file)
}

/// Whether a file is no index at all or one that was changed under SQLite's hands; everything else is told as it is.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    match error {
        rusqlite::Error::SqliteFailure(error, _) => {
            matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        }
        // A column or table that is not there, or not what it was made as.
        rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::SqlInputError { .. } => true,
        _ => false,
    }
}
