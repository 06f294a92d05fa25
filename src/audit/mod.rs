//! What crossed, and why: an append-only journal with one decision record before each crossing and one outcome after it.
//!
//! [`Audit`] is the handle, [`Draft`] the record of one request. Encoded records go through a bounded queue to one thread
//! that writes them (`committer`) and one that syncs (`syncer`). The files: `frame` is the byte layout, `segment` the
//! files of frames, `recovery` what a start makes of them, `reader` how others read them while they are written.
//!
//! There is no way to go on unrecorded: whatever keeps a decision out of the journal is [`Unavailable`], and the request
//! is refused. Records hold no payloads, credentials or secrets. Nothing here decides anything.

mod archive;
pub mod canonical;
mod committer;
pub mod crossing;
mod draft;
mod encode;
#[cfg(test)]
mod faults;
pub mod filter;
pub mod formats;
pub mod frame;
pub mod holds;
pub mod index;
mod journal;
mod keys;
pub mod lines;
mod modes;
pub mod notes;
pub mod outbox;
mod queue;
pub mod reader;
pub mod reconcile;
pub mod record;
mod recovery;
mod refusals;
pub mod report;
mod retention;
pub mod round;
mod segment;
pub mod sentence;
mod settings;
pub mod shadow;
mod shared;
pub mod storage;
pub mod subjects;
mod syncer;
pub mod tree;
mod upkeep;
pub mod verify;
pub mod view;

use std::io;
use std::path::PathBuf;

pub use draft::Draft;
pub use journal::{Audit, Instance};
pub use keys::Digester;
pub use queue::Written;
pub use retention::{Pruned, RetentionError};
pub use settings::{PersonalData, Retention, Settings, SettingsError};
pub use shared::{State, Stats};
pub use tree::{Published, TreeError};

/// A crossing that cannot be recorded and so must not happen: status 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unavailable {
    /// No space is left; it is tried again every second.
    #[error("the audit journal has no space left")]
    Full,
    /// The disk failed; only a restart helps.
    #[error("the audit journal failed and waits for a restart")]
    Poisoned,
    /// All places are taken.
    #[error("too many requests wait for the audit journal")]
    Busy,
    /// The gateway is about to end.
    #[error("the audit journal is closed")]
    Closed,
    /// The tenant's journal key cannot be used.
    #[error("the journal key of the tenant cannot be used")]
    Key,
}

impl Unavailable {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(self) -> &'static str {
        "audit_unavailable"
    }
}

/// A journal that cannot be opened or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The settings make no sense.
    #[error("audit settings: {0}")]
    Settings(#[from] SettingsError),
    /// Another process writes it.
    #[error("the journal `{}` is in use by another process", directory.display())]
    Locked {
        /// The journal.
        directory: PathBuf,
    },
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
    /// Something before the tail is wrong: somebody or something changed the journal.
    #[error(
        "the journal is damaged: segment `{}`, offset {offset}: {reason}; keep a copy and restore the segment \
         from a backup, or move the journal away to begin a new one",
        segment.display()
    )]
    Damaged {
        /// The segment.
        segment: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A name in the archive is no plain file name.
    #[error("`{0}` is no plain file name")]
    Name(String),
    /// Its tree, checkpoint or signing key says something else than the segments.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A thread could not be started.
    #[error("cannot start a thread of the audit journal")]
    Thread(#[source] io::Error),
}
