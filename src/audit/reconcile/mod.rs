//! The journal against what a backend gave back: what is missing there, what only it knows, what differs, what came twice.
//!
//! Records are known by their uid ([`super::formats::uid`]), which their export carries as `log.record.uid`. Checkpoints that the
//! backend kept are compared with the tree: a journal that was rewritten or rolled back since does not give their roots. `read`
//! reads the backend's files. Holds about 100 bytes for each record of the journal.

pub mod read;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::formats;
use super::reader::{ReadError, Reader};
use super::tree::checkpoint::Checkpoint;
use super::tree::log::LogDirectory;

/// Findings of each kind that are kept; all are counted.
const MAX_KEPT: usize = 1_000;
/// What the uid of an exported checkpoint begins with.
const CHECKPOINT: &str = "checkpoint/";

/// What cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The tree cannot be read.
    #[error("cannot read the tree of the journal")]
    Tree(#[source] io::Error),
    /// An export cannot be read.
    #[error("cannot read `{}`", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An export is not of the expected form.
    #[error("`{}`, {place}: {what}", path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: String,
        /// What is wrong, and what is expected.
        what: String,
    },
}

/// One thing that does not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The record.
    pub uid: String,
    /// Its number, if the journal has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was made, if the journal has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The export's file, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// Findings of one kind: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// How many.
    pub count: u64,
    /// The first, at most a thousand.
    pub first: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < MAX_KEPT {
            self.first.push(finding);
        }
    }
}

/// What came of the comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// Records of the journal within the period.
    pub journal: u64,
    /// Of them, those that the export has.
    pub found: u64,
    /// Of those, the ones whose whole content was compared.
    pub compared: u64,
    /// Rows of the export.
    pub rows: u64,
    /// Rows that repeat the uid of another; not a finding, for an export sends at least once.
    pub duplicates: u64,
    /// Rows of records outside the period.
    pub outside: u64,
    /// Rows without a uid: not of our export.
    pub foreign: u64,
    /// Checkpoints in the export.
    pub checkpoints: u64,
    /// In the journal and not in the export: lost on the way or deleted there.
    pub missing: Findings,
    /// In the export and not in the journal: deleted here, or made up there.
    pub unknown: Findings,
    /// In both with another content.
    pub differing: Findings,
    /// Checkpoints whose root the tree does not give: the journal was rewritten or rolled back since.
    pub rewritten: Findings,
}

impl Reconciled {
    /// Whether both agree.
    #[must_use]
    pub const fn agrees(&self) -> bool {
        self.missing.count == 0
            && self.unknown.count == 0
            && self.differing.count == 0
            && self.rewritten.count == 0
    }
}

/// A record of the journal, and whether it was found.
#[derive(Debug)]
struct Known {
    seq: u64,
    time: Timestamp,
    /// The first half of the SHA-256 of its bytes.
    digest: [u8; 16],
    inside: bool,
    seen: bool,
}

/// One row of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The uid, if it has one.
    pub uid: Option<String>,
    /// The record's exact JSON or the checkpoint's note, if it is there.
    pub body: Option<String>,
}

/// Compares the journal with exports. Only records from `from` until before `to` must be in both. `bytes` counts what was read.
///
/// # Errors
/// The journal or an export cannot be read, or an export has another form.
pub fn reconcile(
    journal: &Path,
    exports: &[PathBuf],
    column: Option<&str>,
    (from, to): (Option<Timestamp>, Option<Timestamp>),
    bytes: &AtomicU64,
) -> Result<Reconciled, ReconcileError> {
    let inside = |time: Timestamp| from.is_none_or(|from| time >= from) && to.is_none_or(|to| time < to);
    let mut result = Reconciled::default();
    let mut known = journal_records(journal, inside, bytes)?;
    let logs = LogDirectory::list(journal).map_err(ReconcileError::Tree)?;
    let mut unknown: HashMap<String, ()> = HashMap::new();
    for path in exports {
        read::rows(path, column, |row| {
            result.rows += 1;
            let Some(uid) = row.uid else {
                result.foreign += 1;
                return;
            };
            let file = Some(path.clone());
            if uid.starts_with(CHECKPOINT) {
                result.checkpoints += 1;
                if row.body.is_some_and(|note| is_rewritten(&logs, &note)) {
                    result.rewritten.add(Finding { uid, seq: None, time: None, file });
                }
                return;
            }
            match known.get_mut(&uid) {
                Some(known) => compare(known, row.body.as_deref(), uid, file, &mut result),
                None => match unknown.entry(uid.clone()) {
                    Entry::Occupied(_) => result.duplicates += 1,
                    Entry::Vacant(place) => {
                        place.insert(());
                        result.unknown.add(Finding { uid, seq: None, time: None, file });
                    }
                },
            }
        })?;
    }
    let mut missing: Vec<(String, Known)> = known.into_iter().filter(|(_, known)| known.inside).collect();
    result.journal = u64::try_from(missing.len()).unwrap_or(u64::MAX);
    missing.retain(|(_, known)| !known.seen);
    missing.sort_by_key(|(_, known)| known.seq);
    for (uid, known) in missing {
        result.missing.add(Finding { uid, seq: Some(known.seq), time: Some(known.time), file: None });
    }
    Ok(result)
}

fn compare(
    known: &mut Known,
    body: Option<&str>,
    uid: String,
    file: Option<PathBuf>,
    result: &mut Reconciled,
) {
    let differs = body.map(|body| half(body.as_bytes()) != known.digest);
    if differs == Some(true) {
        result.differing.add(Finding { uid, seq: Some(known.seq), time: Some(known.time), file });
    }
    if std::mem::replace(&mut known.seen, true) {
        result.duplicates += 1;
        return;
    }
    if !known.inside {
        result.outside += 1;
        return;
    }
    result.found += 1;
    result.compared += u64::from(differs.is_some());
}

fn half(bytes: &[u8]) -> [u8; 16] {
    // INVARIANT: a SHA-256 hash has more than 16 bytes.
    digest(&SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default()
}

fn journal_records(
    journal: &Path,
    inside: impl Fn(Timestamp) -> bool,
    bytes: &AtomicU64,
) -> Result<HashMap<String, Known>, ReconcileError> {
    let mut known = HashMap::new();
    let mut reader = Reader::open(journal, None)?;
    while let Some(stored) = reader.read_next()? {
        bytes.fetch_add(u64::try_from(stored.payload.len()).unwrap_or(0), Ordering::Relaxed);
        let written = Timestamp::from_nanosecond(stored.time.into()).unwrap_or(Timestamp::MAX);
        let parsed = serde_json::from_slice::<Value>(stored.payload);
        let (uid, time) = match &parsed {
            Ok(record) => {
                let time = record.get("time").and_then(Value::as_str).and_then(|time| time.parse().ok());
                (formats::uid(stored.seq, record), time.unwrap_or(written))
            }
            Err(_) => (format!("seq/{}", stored.seq), written),
        };
        let (seq, digest) = (stored.seq, half(stored.payload));
        known.insert(uid, Known { seq, time, digest, inside: inside(time), seen: false });
    }
    Ok(known)
}

/// Whether a checkpoint is of a log that does not have it any more. One that cannot be read, or whose early tiles are gone, says nothing.
fn is_rewritten(logs: &[LogDirectory], note: &str) -> bool {
    let Ok(seen) = Checkpoint::open(note, &[]) else { return false };
    let ours = logs.iter().find_map(|log| {
        let now = Checkpoint::open(&log.read_checkpoint().ok()??, &[]).ok()?;
        (now.origin == seen.origin).then_some((log, now))
    });
    let Some((log, now)) = ours else { return true };
    if seen.size > now.size {
        return true;
    }
    matches!(log.tiles().edge(seen.size), Ok(Some(edge)) if edge.root() != seen.root)
}
