//! What a start finds in the directory: where the journal goes on, which decisions have no outcome, what must be cut off.
//!
//! A torn tail is what a crash leaves: bytes that were never known to be durable. It is cut off. Anything wrong before
//! that is damage, and the journal refuses to start. The two are told apart by the `Durable` frames: if one
//! behind the wrong place vouches for records that are not there, they were durable once.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::AuditError;
use super::frame::{self, Decoded, Frame, FrameError, HEADER_BYTES, Kind};
use super::segment::{self, Broken, Durable, FrameReader, Head, Listed, Next, Open, Previous};
use super::tree::log::LogHead;
use super::tree::{Hash, leaf_hash};
use crate::model::RecordId;

/// Heads that a start reads to see that no segment is missing; `verify` reads all.
const CHECKED_HEADS: usize = 256;
/// Largest tail that is looked through: more than the largest segment.
const MAX_TAIL: u64 = 512 << 20;

/// The segment to go on with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) name: String,
    pub(crate) first: u64,
    pub(crate) end: u64,
}

/// Bytes that were cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) segment: String,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// The state of a journal before it goes on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    pub(crate) tail: Option<Tail>,
    pub(crate) previous: Option<Previous>,
    pub(crate) next_seq: u64,
    pub(crate) open: HashSet<Open>,
    pub(crate) cuts: Vec<Cut>,
    /// The log that the last segment belongs to.
    pub(crate) log: Option<LogHead>,
    /// The leaf hashes of the last segment's records.
    pub(crate) leaves: Vec<Hash>,
}

/// Reads the end of the journal and cuts a torn tail off.
///
/// # Errors
/// Something before the tail is damaged, or the files cannot be read or cut.
pub(crate) fn recover(directory: &Path) -> Result<Recovered, AuditError> {
    let io = |source| AuditError::Io { action: "read", path: directory.to_owned(), source };
    let mut segments = segment::list(directory).map_err(io)?;
    check_chain(&segments)?;
    let mut recovered = Recovered::default();
    let mut expected = None;
    while let Some(last) = segments.pop() {
        let scan = scan(&last)?;
        let torn = torn_bytes(&last, &scan)?;
        if scan.is_unborn() {
            // It was just being made: nothing in it was ever acknowledged.
            note(&mut recovered, &last, 0, torn);
            std::fs::remove_file(&last.path).map_err(|source| AuditError::Io {
                action: "remove",
                path: last.path.clone(),
                source,
            })?;
            expected.get_or_insert(last.first);
            recovered.next_seq = last.first;
            continue;
        }
        if expected.is_some_and(|first| first != scan.next_seq) {
            return Err(damaged(&last, scan.end, "records are missing at the end"));
        }
        if torn > 0 {
            note(&mut recovered, &last, scan.end, torn);
            cut(&last, scan.end)?;
        }
        (recovered.previous, recovered.log) =
            scan.head.map_or((None, None), |head| (head.previous, head.log));
        recovered.leaves = scan.leaves;
        recovered.next_seq = scan.next_seq;
        recovered.open = scan.open;
        recovered.tail = Some(Tail { name: last.name(), first: last.first, end: scan.end });
        break;
    }
    Ok(recovered)
}

fn damaged(segment: &Listed, offset: u64, reason: impl Into<Reason>) -> AuditError {
    AuditError::Damaged { segment: segment.path.clone(), offset, reason: reason.into().0 }
}

/// Why a segment is damaged, as text.
struct Reason(String);

impl<T: std::fmt::Display> From<T> for Reason {
    fn from(reason: T) -> Self {
        Self(reason.to_string())
    }
}

fn note(recovered: &mut Recovered, segment: &Listed, offset: u64, bytes: u64) {
    if bytes > 0 {
        recovered.cuts.push(Cut { segment: segment.name(), offset, bytes });
    }
}

fn cut(segment: &Listed, end: u64) -> Result<(), AuditError> {
    OpenOptions::new()
        .write(true)
        .open(&segment.path)
        .and_then(|file| file.set_len(end).and_then(|()| file.sync_all()))
        .map_err(|source| AuditError::Io { action: "cut", path: segment.path.clone(), source })
}

/// Each of the newest segments names the one before it, which must be there and long enough.
fn check_chain(segments: &[Listed]) -> Result<(), AuditError> {
    let newest = segments.get(segments.len().saturating_sub(CHECKED_HEADS)..).unwrap_or_default();
    for pair in newest.windows(2) {
        let [before, after] = pair else { continue };
        let is_last = newest.last() == Some(after);
        let mut reader = open(after)?;
        let head = match reader.next().map_err(|source| read_error(after, source))? {
            Next::Frame(frame) => parse_head(after, &frame)?,
            // Whether the newest may be without a head is for the scan to say.
            _ if is_last => continue,
            Next::End => return Err(damaged(after, 0, "it is empty")),
            Next::Broken(broken) => return Err(damaged(after, 0, broken)),
        };
        let Some(previous) = head.previous else {
            return Err(damaged(after, 0, "it names no segment before it, but there is one"));
        };
        let length = before.bytes().map_err(|source| read_error(before, source))?;
        if previous.name != before.name() {
            return Err(damaged(after, 0, format!("the segment before it, `{}`, is missing", previous.name)));
        }
        if length < previous.bytes {
            return Err(damaged(before, length, format!("it ends before byte {}", previous.bytes)));
        }
    }
    Ok(())
}

fn open(segment: &Listed) -> Result<FrameReader, AuditError> {
    FrameReader::open(&segment.path).map_err(|source| read_error(segment, source))
}

fn read_error(segment: &Listed, source: io::Error) -> AuditError {
    AuditError::Io { action: "read", path: segment.path.clone(), source }
}

fn parse_head(segment: &Listed, frame: &Frame<'_>) -> Result<Head, AuditError> {
    if frame.kind != Kind::Segment {
        return Err(damaged(segment, 0, "it does not begin with a head"));
    }
    let head: Head = serde_json::from_slice(frame.payload).map_err(|error| damaged(segment, 0, error))?;
    if head.first == segment.first && frame.seq == segment.first {
        Ok(head)
    } else {
        Err(damaged(segment, 0, format!("its head says that it begins with record {}", head.first)))
    }
}

#[derive(Debug)]
struct Scan {
    head: Option<Head>,
    /// Where the good frames end.
    end: u64,
    next_seq: u64,
    open: HashSet<Open>,
    leaves: Vec<Hash>,
}

impl Scan {
    /// Whether the segment was not yet all that it is when its first record comes: its head, and the record that opens its
    /// log if it is the first of one.
    fn is_unborn(&self) -> bool {
        let opens = |log: &LogHead| log.first == self.next_seq;
        self.head.as_ref().is_none_or(|head| head.log.as_ref().is_some_and(opens))
    }
}

/// Reads the good frames of a segment.
fn scan(segment: &Listed) -> Result<Scan, AuditError> {
    #[derive(serde::Deserialize)]
    struct Key {
        id: RecordId,
        attempt: u16,
    }
    let mut reader = open(segment)?;
    let mut scan =
        Scan { head: None, end: 0, next_seq: segment.first, open: HashSet::new(), leaves: Vec::new() };
    loop {
        let offset = reader.offset();
        let frame = match reader.next().map_err(|source| read_error(segment, source))? {
            Next::Frame(frame) => frame,
            Next::Broken(Broken::Frame(error @ FrameError::Kind(_))) => {
                return Err(damaged(segment, offset, error));
            }
            Next::End | Next::Broken(_) => return Ok(scan),
        };
        if scan.head.is_none() {
            scan.head = Some(parse_head(segment, &frame)?);
        } else if frame.seq != scan.next_seq {
            let reason = format!("record {} stands where {} should", frame.seq, scan.next_seq);
            return Err(damaged(segment, offset, reason));
        }
        let wrong = |error: serde_json::Error| damaged(segment, offset, error);
        match frame.kind {
            Kind::Open => {
                let listed: Vec<Open> = serde_json::from_slice(frame.payload).map_err(wrong)?;
                scan.open.extend(listed);
            }
            Kind::Allow | Kind::Outcome => {
                let key: Key = serde_json::from_slice(frame.payload).map_err(wrong)?;
                let key = (key.id, key.attempt);
                let _ =
                    if frame.kind == Kind::Allow { scan.open.insert(key) } else { scan.open.remove(&key) };
            }
            _ => {}
        }
        if frame.kind.is_record() {
            scan.leaves.push(leaf_hash(frame.payload));
            scan.next_seq = scan.next_seq.saturating_add(1);
        }
        scan.end = reader.offset();
    }
}

/// How many bytes behind the good frames are a torn tail; zeros are none.
fn torn_bytes(segment: &Listed, scan: &Scan) -> Result<u64, AuditError> {
    let rest = read_tail(&segment.path, scan.end).map_err(|source| read_error(segment, source))?;
    let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let rest = rest.get(..torn).unwrap_or_default();
    if let Some(below) = vouched_for(rest, scan.next_seq) {
        let lost = below.saturating_sub(scan.next_seq);
        let reason = format!("{lost} records from {} on were durable once and are unreadable", scan.next_seq);
        return Err(damaged(segment, scan.end, reason));
    }
    Ok(u64::try_from(torn).unwrap_or(u64::MAX))
}

/// All bytes from `offset` on, or nothing if they are all zero.
fn read_tail(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Vec::new()),
            count if chunk.get(..count).is_some_and(|read| read.iter().all(|byte| *byte == 0)) => {}
            _ => break,
        }
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut rest = Vec::new();
    file.take(MAX_TAIL).read_to_end(&mut rest)?;
    Ok(rest)
}

/// The highest number that a frame in these bytes vouches for, if it is above `next_seq`.
fn vouched_for(bytes: &[u8], next_seq: u64) -> Option<u64> {
    // More records than this cannot have been behind the good ones.
    let highest = next_seq.saturating_add(u64::try_from(bytes.len() / HEADER_BYTES).unwrap_or(u64::MAX));
    let mut found = None;
    let mut rest = bytes;
    while rest.len() >= HEADER_BYTES {
        let seq = rest.get(8..16).and_then(|seq| seq.first_chunk()).map_or(0, |seq| u64::from_le_bytes(*seq));
        let plausible = (next_seq..=highest).contains(&seq);
        let step = match plausible.then(|| frame::decode(rest)) {
            Some(Ok(Decoded::Frame(frame, size))) => {
                if frame.kind == Kind::Durable
                    && let Ok(durable) = serde_json::from_slice::<Durable>(frame.payload)
                {
                    found = found.max(Some(durable.below));
                }
                size
            }
            _ => 1,
        };
        rest = rest.get(step..).unwrap_or_default();
    }
    found.filter(|below| *below > next_seq)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::encode::{encode, tests::stamp};
    use crate::audit::record::{Ending, Outcome, VERSION};

    /// A segment as the committer writes it, and where each frame ends with how many records until there.
    fn segment_bytes(records: u64, durable_every: u64) -> (Vec<u8>, Vec<(usize, u64)>) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        let head = Head {
            v: VERSION,
            gateway: "g".into(),
            boot: RecordId::new(),
            first: 0,
            previous: None,
            open: 0,
            log: None,
        };
        frame::encode(&mut bytes, 0, Kind::Segment, 1, &serde_json::to_vec(&head).unwrap());
        ends.push((bytes.len(), 0));
        for seq in 0..records {
            if seq > 0 && seq % durable_every == 0 {
                let payload = serde_json::to_vec(&Durable { below: seq }).unwrap();
                frame::encode(&mut bytes, seq, Kind::Durable, 1, &payload);
                ends.push((bytes.len(), seq));
            }
            let payload = encode("outcome", &stamp(), &Outcome::bare(Ending::Complete));
            frame::encode(&mut bytes, seq, Kind::Outcome, 1, &payload);
            ends.push((bytes.len(), seq + 1));
        }
        (bytes, ends)
    }

    fn recover_from(bytes: &[u8]) -> Result<Recovered, AuditError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(segment::name(0)), bytes).unwrap();
        let first = recover(dir.path())?;
        let again = recover(dir.path()).unwrap();
        assert_eq!((again.next_seq, &again.tail, again.cuts), (first.next_seq, &first.tail, Vec::new()));
        Ok(first)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_cut_anywhere_leaves_the_records_before_it(records in 0u64..12, at: proptest::sample::Index, zeros in 0usize..3000) {
            let (bytes, ends) = segment_bytes(records, 3);
            let cut = at.index(bytes.len());
            let mut file = bytes[..cut].to_vec();
            file.extend(vec![0; zeros]);
            let recovered = recover_from(&file).unwrap();
            let whole = ends.iter().rev().find(|(end, _)| *end <= cut);
            prop_assert_eq!(recovered.next_seq, whole.map_or(0, |(_, records)| *records));
            prop_assert_eq!(recovered.tail.map(|tail| tail.end), whole.map(|(end, _)| *end as u64));
        }

        #[test]
        fn any_tail_is_cut_off(records in 0u64..12, tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (mut bytes, _) = segment_bytes(records, 3);
            let good = bytes.len() as u64;
            bytes.extend(&tail);
            let recovered = recover_from(&bytes).unwrap();
            prop_assert_eq!(recovered.next_seq, records);
            let torn = tail.iter().rposition(|b| *b != 0).map_or(0, |last| last as u64 + 1);
            prop_assert_eq!(recovered.cuts.iter().map(|cut| (cut.offset, cut.bytes)).collect::<Vec<_>>(),
                if torn == 0 { vec![] } else { vec![(good, torn)] });
        }

        #[test]
        fn a_changed_byte_is_refused_or_cuts_only_what_was_not_durable(at: proptest::sample::Index, change in 1u8..) {
            let (mut bytes, ends) = segment_bytes(12, 3);
            let place = at.index(bytes.len());
            bytes[place] ^= change;
            let whole = ends.iter().rev().find(|(end, _)| *end <= place).map_or(0, |(_, records)| *records);
            match recover_from(&bytes) {
                Err(AuditError::Damaged { offset, .. }) => prop_assert!(offset <= place as u64),
                Err(other) => return Err(TestCaseError::fail(other.to_string())),
                Ok(recovered) => {
                    prop_assert_eq!(recovered.next_seq, whole);
                    prop_assert!(whole >= 9, "records below 9 are vouched for");
                }
            }
        }
    }

    #[test]
    fn a_segment_that_was_just_being_made_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, _) = segment_bytes(4, 3);
        std::fs::write(dir.path().join(segment::name(0)), &bytes).unwrap();
        std::fs::write(dir.path().join(segment::name(4)), vec![0; 5000]).unwrap();
        let recovered = recover(dir.path()).unwrap();
        assert_eq!((recovered.next_seq, recovered.tail.unwrap().first), (4, 0));
        assert_eq!(segment::list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_missing_segment_and_a_missing_end_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, _) = segment_bytes(4, 3);
        std::fs::write(dir.path().join(segment::name(0)), &bytes).unwrap();
        std::fs::write(dir.path().join(segment::name(9)), vec![0; 5000]).unwrap();
        let error = recover(dir.path()).unwrap_err().to_string();
        assert!(error.contains("seg-00000000000000000000.log") && error.contains("missing"), "{error}");
    }
}
