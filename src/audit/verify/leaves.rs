//! Reads whole segments and hashes every record, several segments at once. Holds the hashes of two rounds of segments at most.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit::frame::{Kind, MAX_PAYLOAD};
use crate::audit::segment::{FrameReader, Head, Listed, Next};
use crate::audit::tree::{Hash, leaf_hash};
use crate::model::RecordId;

/// What a segment holds.
#[derive(Debug)]
pub(crate) struct SegmentLeaves {
    pub(crate) segment: Listed,
    /// Its head, if it can be read.
    pub(crate) head: Option<Head>,
    /// The leaf hash of each record until the first that is wrong.
    pub(crate) leaves: Vec<Hash>,
    /// Events about the tree itself: the record's number and its bytes.
    pub(crate) events: Vec<(u64, Vec<u8>)>,
    /// Where the good frames end.
    pub(crate) end: u64,
    /// What stands there, if it is neither zeros nor the end of the file.
    pub(crate) broken: Option<String>,
}

impl SegmentLeaves {
    /// The number of the record that would come next.
    pub(crate) fn next_seq(&self) -> u64 {
        self.segment.first.saturating_add(u64::try_from(self.leaves.len()).unwrap_or(u64::MAX))
    }
}

/// Hashes the segments in order and hands each to `take`, until it breaks. `bytes` counts what was read.
///
/// # Errors
/// A segment cannot be read.
pub(crate) fn each(
    segments: &[Listed],
    bytes: &AtomicU64,
    mut take: impl FnMut(SegmentLeaves) -> ControlFlow<()>,
) -> io::Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let mut ready: Vec<SegmentLeaves> = Vec::new();
        for chunk in segments.chunks(threads) {
            // While these are hashed, the round before is taken.
            let running: Vec<_> =
                chunk.iter().map(|segment| scope.spawn(move || hash(segment, bytes))).collect();
            let stopped = ready.drain(..).any(|done| take(done).is_break());
            for thread in running {
                ready.push(thread.join().map_err(|_| io::Error::other("a hashing thread panicked"))??);
            }
            if stopped {
                return Ok(());
            }
        }
        let _ = ready.into_iter().try_for_each(take);
        Ok(())
    })
}

fn hash(segment: &Listed, bytes: &AtomicU64) -> io::Result<SegmentLeaves> {
    let mut reader = FrameReader::open(&segment.path)?;
    let mut read = SegmentLeaves {
        segment: segment.clone(),
        head: None,
        leaves: Vec::new(),
        events: Vec::new(),
        end: 0,
        broken: None,
    };
    loop {
        let expected = read.next_seq();
        let frame = match reader.next()? {
            Next::Frame(frame) => frame,
            Next::End => break,
            Next::Broken(broken) => {
                read.broken = Some(broken.to_string());
                break;
            }
        };
        if frame.seq != expected {
            read.broken = Some(format!("record {} stands where {expected} should", frame.seq));
            break;
        }
        if frame.kind == Kind::Segment && read.end == 0 {
            read.head = serde_json::from_slice(frame.payload).ok();
        }
        if frame.kind.is_record() {
            read.leaves.push(leaf_hash(frame.payload));
        }
        if frame.kind == Kind::Event && is_about_the_tree(frame.payload) {
            read.events.push((frame.seq, frame.payload.to_vec()));
        }
        let end = reader.offset();
        bytes.fetch_add(end.saturating_sub(read.end), Ordering::Relaxed);
        read.end = end;
    }
    Ok(read)
}

/// A cheap look, so that few events are parsed.
fn is_about_the_tree(payload: &[u8]) -> bool {
    [&b"\"log.opened\""[..], b"\"key.changed\"", b"\"retention.pruned\"", b"\"log.closed\""]
        .iter()
        .any(|name| memchr::memmem::find(payload, name).is_some())
}

/// Where a record of a segment stands, and its crossing if its bytes name one; also of a record that is damaged.
///
/// # Errors
/// The segment cannot be read.
pub(crate) fn locate(segment: &Listed, seq: u64) -> io::Result<(u64, Option<RecordId>)> {
    let mut reader = FrameReader::open(&segment.path)?;
    loop {
        let offset = reader.offset();
        match reader.next()? {
            Next::Frame(frame) if frame.kind.is_record() && frame.seq == seq => {
                return Ok((offset, id_in(frame.payload)));
            }
            Next::Frame(_) => {}
            Next::End | Next::Broken(_) => return Ok((offset, id_at(segment, offset)?)),
        }
    }
}

/// The id in the raw bytes at an offset.
fn id_at(segment: &Listed, offset: u64) -> io::Result<Option<RecordId>> {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::open(&segment.path)?;
    let mut bytes = vec![0; MAX_PAYLOAD];
    let count = file.read_at(&mut bytes, offset)?;
    Ok(id_in(bytes.get(..count).unwrap_or_default()))
}

/// The id of a record's stamp: in canonical JSON `kind` is always the member behind it. Quotes within texts are escaped, so
/// what a caller chose cannot be taken for it.
fn id_in(bytes: &[u8]) -> Option<RecordId> {
    const MEMBER: &[u8] = b"\"id\":\"";
    memchr::memmem::find_iter(bytes, MEMBER).find_map(|at| {
        let rest = bytes.get(at.saturating_add(MEMBER.len())..)?;
        let (text, behind) = rest.split_at_checked(36)?;
        behind.starts_with(b"\",\"kind\":\"").then(|| std::str::from_utf8(text).ok()?.parse().ok())?
    })
}
