//! Checks some records: rehashes them and compares them with the tiles, each of which is checked up to the signed root. Reads the
//! segments that hold them and nothing else.

use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::leaves::{self, SegmentLeaves};
use super::{Code, LogReport, Problem, Report, VerifyError, io_error, segments};
use crate::audit::segment::{FrameReader, Head, Listed, Next};
use crate::audit::tree::Hash;
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::{LogDirectory, LogHead};
use crate::audit::tree::note::{NoteError, VerifierKey};
use crate::audit::tree::tiles::Authentic;

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The number of a record.
    Record(u64),
    /// A time: the first record that was written then or later.
    Time(Timestamp),
}

struct Open {
    head: LogHead,
    tree: Option<Authentic>,
    report: LogReport,
}

/// Checks the records from `from` until before `to`.
///
/// # Errors
/// There is no journal, or it cannot be read.
pub fn check(
    journal: &Path,
    (from, to): (Option<Bound>, Option<Bound>),
    key: Option<&VerifierKey>,
    bytes: &AtomicU64,
) -> Result<Report, VerifyError> {
    let all = segments(journal)?;
    let number = |bound: Option<Bound>, none: u64| match bound {
        None => Ok(none),
        Some(Bound::Record(seq)) => Ok(seq),
        Some(Bound::Time(time)) => first_since(&all, time),
    };
    let range = number(from, 0)?..number(to, u64::MAX)?;
    let begin = all.partition_point(|segment| segment.first <= range.start).saturating_sub(1);
    let end = all.partition_point(|segment| segment.first < range.end);
    let chosen = all.get(begin..end).unwrap_or_default();
    let last = all.last().map_or(0, |segment| segment.first);
    let report = Report::new(key.is_some());
    let mut check = Check { journal, range, key, last, open: None, report };
    // What was asked for and is not there any more; whether rightly so, the check of the whole journal says.
    let first = all.first().map_or(0, |segment| segment.first);
    check.report.pruned = first.min(check.range.end).saturating_sub(check.range.start);
    let mut error = None;
    let read = leaves::each(chosen, bytes, |read| match check.take(&read) {
        Ok(()) => ControlFlow::Continue(()),
        Err(wrong) => {
            error = Some(wrong);
            ControlFlow::Break(())
        }
    });
    read.map_err(io_error("read", journal))?;
    if let Some(error) = error {
        return Err(error);
    }
    let mut report = check.report;
    report.logs.extend(check.open.map(|open| open.report));
    report.segments = chosen.len();
    report.bytes = bytes.load(Ordering::Relaxed);
    Ok(report)
}

struct Check<'a> {
    journal: &'a Path,
    range: Range<u64>,
    key: Option<&'a VerifierKey>,
    /// The first record of the newest segment.
    last: u64,
    open: Option<Open>,
    report: Report,
}

impl Check<'_> {
    fn take(&mut self, read: &SegmentLeaves) -> Result<(), VerifyError> {
        if let Some(log) = read.head.as_ref().and_then(|head| head.log.as_ref())
            && self.open.as_ref().is_none_or(|open| open.head != *log)
        {
            self.report.logs.extend(self.open.take().map(|open| open.report));
            self.open = Some(begin(self.journal, log, self.key, &mut self.report)?);
        }
        for (seq, leaf) in (read.segment.first..).zip(&read.leaves) {
            if self.range.contains(&seq) {
                self.compare(read, seq, leaf);
            }
        }
        self.damage(read)
    }

    fn compare(&mut self, read: &SegmentLeaves, seq: u64, leaf: &Hash) {
        self.report.records += 1;
        let Some(open) = &mut self.open else {
            self.report.before_tree += 1;
            return;
        };
        open.report.records += 1;
        let index = seq.saturating_sub(open.head.first);
        if index >= open.report.signed {
            self.report.unsigned += 1;
            return;
        }
        let Some(tree) = &mut open.tree else { return };
        match tree.leaf(index) {
            Ok(stored) if stored == *leaf => {}
            Ok(_) => self.report.add(super::whole::changed(&read.segment, seq, &open.head)),
            Err(error) => self.report.add(Problem::new(Code::TilesDamaged, error.to_string())),
        }
    }

    /// Whether the segment ends where it should; the newest may end anywhere behind its checkpoint.
    fn damage(&mut self, read: &SegmentLeaves) -> Result<(), VerifyError> {
        let seq = read.next_seq();
        let index = self.open.as_ref().map(|open| seq.saturating_sub(open.head.first));
        let signed = self.open.as_ref().is_some_and(|open| index < Some(open.report.signed));
        let newest = read.segment.first == self.last;
        let ends_early = if newest { signed } else { read.broken.is_some() };
        if !ends_early || !self.range.contains(&seq) {
            return Ok(());
        }
        let failed = io_error("read", &read.segment.path);
        let (offset, id) = leaves::locate(&read.segment, seq).map_err(failed)?;
        let reason = read.broken.as_deref().unwrap_or("the journal ends before it");
        let what = format!("record {seq} is damaged: {reason}");
        let (code, file) = (Code::RecordDamaged, Some(read.segment.path.clone()));
        self.report.add(Problem { code, what, seq: Some(seq), index, file, offset: Some(offset), id });
        Ok(())
    }
}

fn begin(
    journal: &Path,
    log: &LogHead,
    key: Option<&VerifierKey>,
    report: &mut Report,
) -> Result<Open, VerifyError> {
    let directory = LogDirectory::of(journal, log.first);
    let path = directory.checkpoint();
    let note = directory.read_checkpoint().map_err(io_error("read", &path))?;
    let keys: Vec<VerifierKey> = key.into_iter().map(|key| key.named(log.name())).collect();
    let mut found = LogReport {
        origin: log.origin.clone(),
        first: log.first,
        records: 0,
        pruned: 0,
        signed: 0,
        root: String::new(),
        key: keys.first().map(VerifierKey::label),
    };
    let checkpoint = match note.as_deref().map(|note| Checkpoint::open(note, &keys)) {
        Some(Ok(checkpoint)) if checkpoint.origin == log.origin => checkpoint,
        other => {
            let (code, what) = match other {
                None => (Code::CheckpointMissing, "it is missing".to_owned()),
                Some(Ok(_)) => (Code::CheckpointChanged, "it is of another log".to_owned()),
                Some(Err(error @ NoteError::OtherKey { .. })) => (Code::WrongKey, error.to_string()),
                Some(Err(error)) => (Code::CheckpointChanged, error.to_string()),
            };
            let what = format!("the checkpoint of log `{}`: {what}", log.origin);
            report.add(Problem::new(code, what).at(&path));
            found.key = None;
            return Ok(Open { head: log.clone(), tree: None, report: found });
        }
    };
    (found.signed, found.root) = (checkpoint.size, checkpoint.root_hex());
    let tree = match Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root) {
        Ok(tree) => Some(tree),
        Err(error) => {
            report.add(Problem::new(Code::TilesDamaged, error.to_string()).at(directory.path()));
            None
        }
    };
    Ok(Open { head: log.clone(), tree, report: found })
}

/// The number of the first record that was written at `time` or later.
fn first_since(segments: &[Listed], time: Timestamp) -> Result<u64, VerifyError> {
    let time = u64::try_from(time.as_nanosecond()).unwrap_or(0);
    let earlier = segments.partition_point(|segment| began(segment).is_some_and(|began| began < time));
    let from = segments.get(earlier.saturating_sub(1)..).unwrap_or_default();
    let mut next = 0;
    for segment in from {
        let read = io_error("read", &segment.path);
        let mut reader = FrameReader::open(&segment.path).map_err(read)?;
        while let Next::Frame(frame) = reader.next().map_err(io_error("read", &segment.path))? {
            if frame.kind.is_record() && frame.time >= time {
                return Ok(frame.seq);
            }
            next = frame.seq.saturating_add(u64::from(frame.kind.is_record()));
        }
    }
    Ok(next)
}

/// The head of a segment; none if it has none that can be read.
pub(crate) fn head(segment: &Listed) -> std::io::Result<Option<Head>> {
    match FrameReader::open(&segment.path)?.next()? {
        Next::Frame(frame) => Ok(serde_json::from_slice(frame.payload).ok()),
        Next::End | Next::Broken(_) => Ok(None),
    }
}

/// When a segment was begun; none if that cannot be read.
fn began(segment: &Listed) -> Option<u64> {
    match FrameReader::open(&segment.path).ok()?.next().ok()? {
        Next::Frame(frame) => serde_json::from_slice::<Head>(frame.payload).ok().map(|_| frame.time),
        Next::End | Next::Broken(_) => None,
    }
}
