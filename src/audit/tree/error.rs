//! What keeps the tree from being opened, each with what to do about it.

use std::io;
use std::path::PathBuf;

use super::note::NoteError;
use crate::model::SecretFileError;

/// A tree and a journal that do not belong together, or files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The journal is shorter than what was signed.
    #[error(
        "the journal was rolled back: it holds {journal} records of log `{origin}`, but checkpoint `{}` was signed for \
         {checkpoint}; restore the missing segments from a backup, or keep this directory as evidence and move it away \
         to begin a new journal",
        path.display()
    )]
    Rollback {
        /// The log.
        origin: String,
        /// Records of it that the segments hold.
        journal: u64,
        /// Records that the checkpoint covers.
        checkpoint: u64,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A record is not the one that was signed.
    #[error(
        "record {seq} (leaf {index} of log `{origin}`) in segment `{}` is not the one that was signed for; restore the segment \
         from a backup, or keep this directory as evidence and move it away to begin a new journal",
        segment.display()
    )]
    Differs {
        /// The log.
        origin: String,
        /// The record's number in the journal.
        seq: u64,
        /// Its number in the log.
        index: u64,
        /// Where it is.
        segment: PathBuf,
    },
    /// The records give another root than the one that was signed.
    #[error(
        "the {size} records of log `{origin}` do not give the root of checkpoint `{}`; `tidegate audit verify` says more; \
         restore the journal from a backup, or keep this directory as evidence and move it away to begin a new one",
        path.display()
    )]
    Root {
        /// The log.
        origin: String,
        /// Records that the checkpoint covers.
        size: u64,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A checkpoint cannot be used.
    #[error(
        "checkpoint `{}` cannot be used: {reason}; restore it from a backup, set `audit.previous_signing_key` if the key was \
         changed, or keep this directory as evidence and move it away to begin a new journal",
        path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        reason: NoteError,
    },
    /// A log without a checkpoint.
    #[error(
        "checkpoint `{}` is missing, but the journal has records of its log; restore the directory `tree` from a backup, or \
         keep this directory as evidence and move it away to begin a new journal",
        .0.display()
    )]
    Missing(PathBuf),
    /// The signing key file cannot be used.
    #[error(transparent)]
    KeyFile(SecretFileError),
    /// The signing key is gone.
    #[error(
        "signing key `{}` is missing, but it signed checkpoints of this journal; restore it from a backup, or move the journal \
         away to begin a new one",
        .0.display()
    )]
    KeyMissing(PathBuf),
    /// The file holds no key.
    #[error("`{}` holds no Ed25519 key: write one with `openssl genpkey -algorithm ed25519`", .0.display())]
    KeyMalformed(PathBuf),
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

impl TreeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rollback { .. } => "journal_rolled_back",
            Self::Differs { .. } | Self::Root { .. } => "journal_changed",
            Self::Checkpoint { .. } => "checkpoint_unusable",
            Self::Missing(_) => "checkpoint_missing",
            Self::KeyFile(_) | Self::KeyMissing(_) | Self::KeyMalformed(_) => "signing_key_unusable",
            Self::Io { .. } => "journal_io",
        }
    }
}
