//! The journal for others: exports of records in other formats, and bundles of a period that a stranger can check.
//!
//! Both are directories that appear whole or not at all (`staging`), with a `manifest.json` of all files and their hashes. `export`
//! writes what a filter selects. `bundle` writes every record of a period with the proof that none is missing; `scan` finds
//! and checks the period, `statistics` counts, `agreement` compares the decisions with what their policies say now, `page` and `chart` draw. Takes no lock and may run beside the writer.

pub mod agreement;
pub mod bundle;
mod chart;
pub mod export;
mod page;
mod scan;
mod staging;
mod statistics;

pub use statistics::Statistics;

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::filter::Filter;
use super::reader::ReadError;
use super::tree::tiles::TileError;
use super::verify::VerifyError;

/// What cannot be exported or reported.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The journal cannot be checked.
    #[error(transparent)]
    Verify(#[from] VerifyError),
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
    /// Something is there already.
    #[error("`{}` is there already; name another place, or remove it", .0.display())]
    Exists(PathBuf),
    /// No record is in the period.
    #[error("no record is in the period; `tidegate audit query` shows when there are some")]
    Empty,
    /// The period begins with records that retention deleted.
    #[error("records below {below} were deleted by retention; report from {below} on, or by time")]
    Deleted {
        /// The oldest record that there is.
        below: u64,
    },
    /// All records of the period were deleted.
    #[error(
        "no record of the period is left: those below {below} were deleted by retention, and it ends before the oldest that there is"
    )]
    Gone {
        /// The oldest record that there is.
        below: u64,
    },
    /// The period holds something that is not as it was signed.
    #[error("log `{origin}` is not as it was signed: {what}; `tidegate audit verify` says where")]
    NotAsSigned {
        /// The log.
        origin: String,
        /// What is wrong.
        what: String,
    },
    /// Nothing of the period is under a checkpoint.
    #[error(
        "the records of the period are newer than the last checkpoint; try again in a second, while the gateway runs"
    )]
    NotSigned,
}

impl ReportError {
    /// Whether the answer is no, and not that it could not be found out.
    #[must_use]
    pub const fn is_negative(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Deleted { .. }
                | Self::Gone { .. }
                | Self::NotAsSigned { .. }
                | Self::NotSigned
        )
    }

    fn tile(origin: &str) -> impl Fn(TileError) -> Self {
        move |error| Self::NotAsSigned { origin: origin.to_owned(), what: error.to_string() }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Io { action, path, source }
}

/// The filter as it stands in a manifest: the members that narrow.
#[must_use]
pub fn described(filter: &Filter) -> Value {
    let text = |text: &Option<String>| text.clone().map(Value::from);
    let levels =
        filter.label.map(|label| format!("{}{}", label.level.name(), if label.or_higher { "+" } else { "" }));
    let members = [
        ("principal", text(&filter.principal)),
        ("team", text(&filter.team)),
        ("action", text(&filter.action)),
        ("resource", text(&filter.resource)),
        ("route", text(&filter.route)),
        ("decision", filter.decision.map(|decision| decision.name().into())),
        ("policy", text(&filter.policy)),
        ("label", levels.map(Value::from)),
        ("model", text(&filter.model)),
        ("cluster", text(&filter.cluster)),
        ("from", filter.from.map(|time| time.to_string().into())),
        ("to", filter.to.map(|time| time.to_string().into())),
        ("id", filter.id.as_ref().map(|id| id.as_str().into())),
    ];
    Value::Object(
        members
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<Map<_, _>>(),
    )
}
