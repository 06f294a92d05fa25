//! Checks a journal from outside: every record against the tree, the tree against its checkpoints, the checkpoints against a key
//! that the reader brought, and each log against the one before. Takes no lock and may run beside the writer.
//!
//! `whole` reads all of it, `range` some records and the tiles above them, `prove` makes the proof of one record,
//! `rebuild` and `export` write tiles. `leaves` hashes segments in parallel.

pub mod export;
pub(crate) mod leaves;
pub mod prove;
pub mod range;
pub mod rebuild;
pub mod whole;

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::segment::{self, Listed};
use crate::model::RecordId;

/// Problems that are kept; the first of them tells most.
const MAX_PROBLEMS: usize = 50;

/// Something that is not as it was signed, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What is wrong, for people.
    pub what: String,
    /// The record's number in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The record's number in its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where in the file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The crossing that the record belongs to, if its bytes still say so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<RecordId>,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Bytes in a segment are no record.
    RecordDamaged,
    /// A record is well formed but not the one that was signed.
    RecordChanged,
    /// Records are missing before others.
    RecordsMissing,
    /// The journal ends before its checkpoint.
    JournalCut,
    /// The records do not give the signed root.
    RootDiffers,
    /// Tiles are missing or not those of the checkpoint; the records are as signed.
    TilesDamaged,
    /// A log has no checkpoint.
    CheckpointMissing,
    /// A checkpoint is malformed, of another log, or its signature is wrong.
    CheckpointChanged,
    /// A checkpoint is not signed by the key.
    WrongKey,
    /// A log does not begin where the one before ended.
    ChainBroken,
}

impl Problem {
    fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), seq: None, index: None, file: None, offset: None, id: None }
    }

    fn at(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }
}

/// One log, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// Its name.
    pub origin: String,
    /// The number of its first record in the journal.
    pub first: u64,
    /// Records that it has, deleted ones included.
    pub records: u64,
    /// Those of them that retention deleted; their hashes are there.
    pub pruned: u64,
    /// Records that its newest checkpoint covers.
    pub signed: u64,
    /// The root of that checkpoint, hexadecimal.
    pub root: String,
    /// The key that vouches for it: one of the reader's, one that such a key handed over to, or the key of a later log that quotes
    /// its last checkpoint.
    pub key: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the checkpoints were verified by a key that the reader brought. If not, the journal is at best
    /// consistent with itself: whoever can write it could have made it.
    pub trusted: bool,
    /// Segments that were read.
    pub segments: usize,
    /// Bytes of records, with their frames.
    pub bytes: u64,
    /// Records that were hashed.
    pub records: u64,
    /// Records that retention deleted, of which only the hashes were checked.
    pub pruned: u64,
    /// Records newer than the last checkpoint.
    pub unsigned: u64,
    /// Records from before the journal had a tree.
    pub before_tree: u64,
    /// The logs.
    pub logs: Vec<LogReport>,
    /// What is wrong, in the order of the records; empty if nothing is.
    pub problems: Vec<Problem>,
}

impl Report {
    const fn new(trusted: bool) -> Self {
        Self {
            trusted,
            segments: 0,
            bytes: 0,
            records: 0,
            pruned: 0,
            unsigned: 0,
            before_tree: 0,
            logs: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn add(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }
}

/// A check that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
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
    /// There is no journal there.
    #[error("`{}` holds no journal segment; name the directory that `audit.directory` names", .0.display())]
    Missing(PathBuf),
    /// The journal is being written.
    #[error("cannot write tiles: {0}")]
    InUse(Box<super::AuditError>),
    /// A record is not in the journal.
    #[error("no record {0} is in the journal")]
    NoRecord(String),
    /// A record has no checkpoint yet.
    #[error("record {0} is newer than the last checkpoint; try again in a second, while the gateway runs")]
    NotSigned(u64),
    /// The tree cannot give a proof.
    #[error("the tree gives no proof: {0}; `tidegate audit verify` says what is wrong")]
    Tree(String),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Io { action, path, source }
}

/// The bytes of all segments, for a progress bar; preallocated space that holds nothing is among them.
///
/// # Errors
/// They cannot be listed.
pub fn total_bytes(journal: &Path) -> Result<u64, VerifyError> {
    let segments = segments(journal)?;
    Ok(segments.iter().filter_map(|segment| segment.bytes().ok()).sum())
}

fn segments(journal: &Path) -> Result<Vec<Listed>, VerifyError> {
    let segments = segment::list(journal).map_err(io_error("read", journal))?;
    if segments.is_empty() { Err(VerifyError::Missing(journal.to_owned())) } else { Ok(segments) }
}
