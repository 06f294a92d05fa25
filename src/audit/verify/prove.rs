//! Makes the proof of one record.

use std::path::Path;

use super::{VerifyError, io_error, segments};
use crate::audit::frame::Kind;
use crate::audit::segment::{FrameReader, Head, Listed, Next};
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::{LogDirectory, LogHead};
use crate::audit::tree::proof::inclusion;
use crate::audit::tree::proof_file::ProofFile;
use crate::audit::tree::tiles::Authentic;
use crate::audit::tree::{Hash, leaf_hash};
use crate::model::RecordId;

/// Which record is to be proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The record with this number.
    Seq(u64),
    /// The first record of a crossing: its decision, or its refusal.
    Crossing(RecordId),
    /// The outcome of a crossing's last attempt that is there.
    Outcome(RecordId),
}

struct Found {
    seq: u64,
    record: Vec<u8>,
    log: LogHead,
}

/// The crossing that a record names.
#[derive(serde::Deserialize)]
struct Stamped {
    id: Option<RecordId>,
}

/// Proves a record under the newest checkpoint of its log.
///
/// # Errors
/// It is not there, not signed yet, or journal and tree do not belong together.
pub fn prove(journal: &Path, wanted: Wanted) -> Result<ProofFile, VerifyError> {
    let found = find(journal, wanted)?;
    let index = found.seq.saturating_sub(found.log.first);
    let directory = LogDirectory::of(journal, found.log.first);
    let note = directory.read_checkpoint().map_err(io_error("read", &directory.checkpoint()))?;
    let note = note.ok_or_else(|| VerifyError::Tree("its checkpoint is missing".to_owned()))?;
    let tree = |error: &dyn std::fmt::Display| VerifyError::Tree(error.to_string());
    let checkpoint = Checkpoint::open(&note, &[]).map_err(|error| tree(&error))?;
    if index >= checkpoint.size {
        return Err(VerifyError::NotSigned(found.seq));
    }
    let opened = Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root);
    let mut authentic = opened.map_err(|error| tree(&error))?;
    let leaf: Hash = authentic.leaf(index).map_err(|error| tree(&error))?;
    if leaf != leaf_hash(&found.record) {
        return Err(tree(&format!("record {} is not the one that was signed", found.seq)));
    }
    let hashes = inclusion(&mut authentic, index).map_err(|error| tree(&error))?;
    Ok(ProofFile { record: found.record, index, hashes, note })
}

fn find(journal: &Path, wanted: Wanted) -> Result<Found, VerifyError> {
    let all = segments(journal)?;
    let missing = || {
        VerifyError::NoRecord(match wanted {
            Wanted::Seq(seq) => format!("number {seq}"),
            Wanted::Crossing(id) => format!("of crossing `{id}`"),
            Wanted::Outcome(id) => format!("that is an outcome of crossing `{id}`"),
        })
    };
    if let Wanted::Seq(seq) = wanted {
        let at = all.partition_point(|segment| segment.first <= seq).checked_sub(1).ok_or_else(missing)?;
        let segment = all.get(at).ok_or_else(missing)?;
        return search(segment, |frame_seq, _, _| frame_seq == seq, true)?.ok_or_else(missing);
    }
    let (Wanted::Crossing(id) | Wanted::Outcome(id)) = wanted else { return Err(missing()) };
    let text = id.to_string();
    let outcome = matches!(wanted, Wanted::Outcome(_));
    let matches = |_: u64, kind: Kind, payload: &[u8]| {
        let right = if outcome { kind == Kind::Outcome } else { true };
        // A cheap look first; what a caller chose may name any id, so the stamp decides.
        right
            && memchr::memmem::find(payload, text.as_bytes()).is_some()
            && serde_json::from_slice::<Stamped>(payload).is_ok_and(|stamped| stamped.id == Some(id))
    };
    let mut last = None;
    for segment in &all {
        if let Some(found) = search(segment, matches, !outcome)? {
            if !outcome {
                return Ok(found);
            }
            last = Some(found);
        }
    }
    last.ok_or_else(missing)
}

/// The first, or last, record of a segment that matches.
fn search(
    segment: &Listed,
    matches: impl Fn(u64, Kind, &[u8]) -> bool,
    first: bool,
) -> Result<Option<Found>, VerifyError> {
    let failed = || io_error("read", &segment.path);
    let mut reader = FrameReader::open(&segment.path).map_err(failed())?;
    let (mut log, mut found) = (None, None);
    while let Next::Frame(frame) = reader.next().map_err(failed())? {
        if frame.kind == Kind::Segment {
            log = serde_json::from_slice::<Head>(frame.payload).ok().and_then(|head| head.log);
        }
        if frame.kind.is_record() && matches(frame.seq, frame.kind, frame.payload) {
            let Some(log) = log.clone() else {
                return Err(VerifyError::Tree(format!(
                    "record {} is from before there was a tree",
                    frame.seq
                )));
            };
            found = Some(Found { seq: frame.seq, record: frame.payload.to_vec(), log });
            if first {
                break;
            }
        }
    }
    Ok(found)
}
