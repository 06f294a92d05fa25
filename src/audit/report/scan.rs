//! Finds the records of a period: in which logs, between which leaves, under which checkpoints.

use std::ops::Range;
use std::path::Path;

use jiff::Timestamp;

use super::{ReportError, io_error};
use crate::audit::segment::{self, FrameReader, Head, Listed, Next};
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::{LogDirectory, LogHead};
use crate::audit::tree::note::VerifierKey;
use crate::audit::tree::tiles::Authentic;
use crate::audit::verify::range::Bound;
use crate::audit::view::RecordView;

/// The part of a period that lies in one log.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) log: LogHead,
    /// The signed note.
    pub(super) note: String,
    pub(super) checkpoint: Checkpoint,
    /// The key that signed it, if one of those at hand did.
    pub(super) key: Option<VerifierKey>,
    pub(super) tree: Authentic,
    /// The leaves from the first to the last record of the period.
    pub(super) period: Range<u64>,
    /// Those and one on each side, where there is one: that show where the period begins and ends.
    pub(super) window: Range<u64>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) segments: Vec<Listed>,
    pub(super) parts: Vec<Part>,
    /// Records of the period that no checkpoint covers yet.
    pub(super) unsigned: u64,
    /// The oldest record that there is, if the period begins with it and others came before: those were deleted.
    pub(super) deleted_below: Option<u64>,
}

/// Finds the period from `from` until before `to`; with a key, its checkpoints must be signed by it.
///
/// # Errors
/// There is no journal or no such record, or a checkpoint or tile is not as it should be.
pub(super) fn locate(
    journal: &Path,
    (from, to): (Bound, Bound),
    key: Option<&VerifierKey>,
) -> Result<Scan, ReportError> {
    let segments = segment::list(journal).map_err(io_error("read", journal))?;
    let oldest = segments.first().map_or(0, |segment| segment.first);
    if let Bound::Record(first) = from
        && first < oldest
    {
        return Err(ReportError::Deleted { below: oldest });
    }
    let Some(period) = period(&segments, from, to)? else { return Err(empty(&segments, to)?) };
    let mut logs: Vec<LogHead> = Vec::new();
    for segment in &segments {
        logs.extend(opening(segment)?.1.filter(|log| logs.last() != Some(log)));
    }
    let vkey = journal.join("tree/vkey");
    let known = std::fs::read_to_string(&vkey).ok().and_then(|text| text.parse::<VerifierKey>().ok());
    let (mut parts, mut unsigned) = (Vec::new(), 0);
    for (place, log) in logs.iter().enumerate() {
        let end = logs.get(place.saturating_add(1)).map_or(u64::MAX, |next| next.first);
        let inside = period.start.max(log.first)..period.end.min(end);
        if inside.is_empty() {
            continue;
        }
        let inside = inside.start.saturating_sub(log.first)..inside.end.saturating_sub(log.first);
        let there = oldest.saturating_sub(log.first);
        let (part, beyond) = part(journal, log, (inside, there), key, known.as_ref())?;
        unsigned += beyond;
        parts.extend(part);
    }
    if parts.is_empty() {
        return Err(ReportError::NotSigned);
    }
    let deleted_below = (oldest > 0 && period.start == oldest).then_some(oldest);
    Ok(Scan { segments, parts, unsigned, deleted_below })
}

/// Why there is none: nothing happened then, or it was deleted.
fn empty(segments: &[Listed], to: Bound) -> Result<ReportError, ReportError> {
    let Some(oldest) = segments.first().filter(|oldest| oldest.first > 0) else {
        return Ok(ReportError::Empty);
    };
    let before = matches!(to, Bound::Time(time) if time <= opening(oldest)?.0);
    Ok(if before { ReportError::Gone { below: oldest.first } } else { ReportError::Empty })
}

fn part(
    journal: &Path,
    log: &LogHead,
    (inside, there): (Range<u64>, u64),
    key: Option<&VerifierKey>,
    known: Option<&VerifierKey>,
) -> Result<(Option<Part>, u64), ReportError> {
    let directory = LogDirectory::of(journal, log.first);
    let wrong = |what: String| ReportError::NotAsSigned { origin: log.origin.clone(), what };
    let note = directory.read_checkpoint().map_err(io_error("read", &directory.checkpoint()))?;
    let note = note.ok_or_else(|| wrong("its checkpoint is missing".to_owned()))?;
    let asked: Vec<VerifierKey> = key.iter().map(|key| key.named(log.name())).collect();
    let checkpoint = Checkpoint::open(&note, &asked).map_err(|error| wrong(error.to_string()))?;
    if checkpoint.origin != log.origin {
        return Err(wrong(format!("its checkpoint is of log `{}`", checkpoint.origin)));
    }
    let signed = inside.start..inside.end.min(checkpoint.size);
    let beyond = inside.end.saturating_sub(inside.start.max(checkpoint.size));
    if signed.is_empty() {
        return Ok((None, beyond));
    }
    let mut keys = key.into_iter().chain(known).map(|key| key.named(log.name()));
    let key = keys.find(|key| Checkpoint::open(&note, std::slice::from_ref(key)).is_ok());
    let tree = Authentic::open(directory.tiles(), checkpoint.size, &checkpoint.root);
    let tree = tree.map_err(ReportError::tile(&log.origin))?;
    // What retention deleted cannot show where the period begins.
    let window = signed.start.saturating_sub(1).max(there)..signed.end.saturating_add(1).min(checkpoint.size);
    Ok((Some(Part { log: log.clone(), note, checkpoint, key, tree, period: signed, window }), beyond))
}

/// From the first to behind the last record of the period; none if there is none.
fn period(segments: &[Listed], from: Bound, to: Bound) -> Result<Option<Range<u64>>, ReportError> {
    let mut end = segments.len();
    let (mut since, mut until) = (Timestamp::MIN, Timestamp::MAX);
    let mut numbers = 0..u64::MAX;
    let begin = match from {
        Bound::Record(seq) => {
            numbers.start = seq;
            segments.partition_point(|segment| segment.first <= seq).saturating_sub(1)
        }
        Bound::Time(time) => {
            since = time;
            partition(segments, time)?.saturating_sub(2)
        }
    };
    match to {
        Bound::Record(seq) => {
            numbers.end = seq;
            end = segments.partition_point(|segment| segment.first < seq);
        }
        Bound::Time(time) => {
            until = time;
            // One segment more: records in flight may be a little older than those before them.
            end = partition(segments, time)?.saturating_add(1).min(end);
        }
    }
    let mut found: Option<Range<u64>> = None;
    each(segments.get(begin..end).unwrap_or_default(), &numbers, |seq, written, payload| {
        let time = RecordView::parse(payload).map_or(written, |view| view.time);
        if time >= since && time < until {
            let start = found.as_ref().map_or(seq, |found| found.start);
            found = Some(start..seq.saturating_add(1));
        }
        Ok(())
    })?;
    Ok(found)
}

/// How many segments began before a time.
fn partition(segments: &[Listed], time: Timestamp) -> Result<usize, ReportError> {
    let mut count = 0;
    for (place, segment) in segments.iter().enumerate() {
        if opening(segment)?.0 < time {
            count = place.saturating_add(1);
        }
    }
    Ok(count)
}

/// When a segment was begun, and its log.
fn opening(segment: &Listed) -> Result<(Timestamp, Option<LogHead>), ReportError> {
    let mut reader = FrameReader::open(&segment.path).map_err(io_error("read", &segment.path))?;
    let Next::Frame(frame) = reader.next().map_err(io_error("read", &segment.path))? else {
        return Ok((Timestamp::MAX, None));
    };
    let head = serde_json::from_slice::<Head>(frame.payload).ok();
    Ok((at(frame.time), head.and_then(|head| head.log)))
}

fn at(nanoseconds: u64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::MAX)
}

/// Hands each record with a number in `range` to `take`: number, when it was written, bytes. Damage ends a segment, so whoever needs every
/// record counts them.
///
/// # Errors
/// A segment cannot be read, or `take` fails.
pub(super) fn each(
    segments: &[Listed],
    range: &Range<u64>,
    mut take: impl FnMut(u64, Timestamp, &[u8]) -> Result<(), ReportError>,
) -> Result<(), ReportError> {
    let begin = segments.partition_point(|segment| segment.first <= range.start).saturating_sub(1);
    for segment in segments.get(begin..).unwrap_or_default() {
        if segment.first >= range.end {
            break;
        }
        let mut reader = FrameReader::open(&segment.path).map_err(io_error("read", &segment.path))?;
        while let Next::Frame(frame) = reader.next().map_err(io_error("read", &segment.path))? {
            if frame.kind.is_record() && range.contains(&frame.seq) {
                take(frame.seq, at(frame.time), frame.payload)?;
            }
        }
    }
    Ok(())
}
