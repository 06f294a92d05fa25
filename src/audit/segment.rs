//! Segment files: their names, what stands at their head, and reading their frames one by one.
//!
//! A segment is `seg-<first sequence number, 20 digits>.log`. Its first frame says who wrote it and names the segment
//! before; the frames after it list all decisions that were open then, so that a start after a crash finds every
//! decision without an outcome by reading the last segment alone. Then come records. What follows the last frame
//! is zeros or the end of the file.
//!
//! A segment that is no longer hot is `seg-….log.gz`, the same bytes in gzip. If both are there, a crash came between writing the
//! one and removing the other, and the plain one is read.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::frame::{self, Decoded, Frame, FrameError, HEADER_BYTES, Kind};
use super::tree::log::LogHead;
use crate::model::RecordId;

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 * 1024;
/// Open decisions in one frame: 400 take less than 20 KiB.
const OPEN_PER_FRAME: usize = 400;

/// A decision that waits for its outcome: the crossing and the attempt.
pub(crate) type Open = (RecordId, u16);

/// The first frame of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) v: u8,
    pub(crate) gateway: String,
    pub(crate) boot: RecordId,
    /// The number of its first record.
    pub(crate) first: u64,
    /// The segment before, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Previous>,
    /// How many open decisions are listed behind this frame.
    pub(crate) open: usize,
    /// The log that its records belong to; none in a journal from before there was a tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) log: Option<LogHead>,
}

impl Head {
    /// The frames at the head of a segment: itself, then all open decisions.
    pub(crate) fn encode(&self, open: &HashSet<Open>, time: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let payload = serde_json::to_vec(self).unwrap_or_default();
        frame::encode(&mut bytes, self.first, Kind::Segment, time, &payload);
        let open: Vec<&Open> = open.iter().collect();
        for part in open.chunks(OPEN_PER_FRAME) {
            let payload = serde_json::to_vec(part).unwrap_or_default();
            frame::encode(&mut bytes, self.first, Kind::Open, time, &payload);
        }
        bytes
    }
}

/// The segment before: it must be there, and at least so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Payload of a `Durable` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Durable {
    /// All records below this number had been synced.
    pub(crate) below: u64,
}

/// The file name for a first sequence number.
pub(crate) fn name(first: u64) -> String {
    format!("seg-{first:020}.log")
}

/// The ending of compressed segments.
pub(crate) const COMPRESSED: &str = "gz";

/// The first sequence number in a file name, if it is a segment's.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A segment of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
}

impl Listed {
    /// The file name, without the ending that it has when it is compressed.
    pub(crate) fn name(&self) -> String {
        name(self.first)
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == COMPRESSED)
    }

    /// Its size in bytes; of a compressed one that before, as gzip notes it (RFC 1952 section 2.3.1, ISIZE).
    pub(crate) fn bytes(&self) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if !self.is_compressed() {
            return Ok(length);
        }
        let mut size = [0; 4];
        file.read_exact_at(&mut size, length.saturating_sub(4))?;
        Ok(u32::from_le_bytes(size).into())
    }
}

/// All segments of a directory, in order.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(first) = entry.file_name().to_str().and_then(first_of) {
            found.push(Listed { first, path: entry.path() });
        }
    }
    found.sort_unstable_by_key(|segment| (segment.first, segment.is_compressed()));
    found.dedup_by_key(|segment| segment.first);
    Ok(found)
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Zeros or the end of the file.
    End,
    /// Bytes that are no frame, or only a part of one.
    Broken(Broken),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// They are wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The file ends within the frame.
    #[error("the file ends within a record")]
    Short,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Source {
    Plain(File),
    /// Read from front to back; how far that has come.
    Compressed(Box<MultiGzDecoder<BufReader<File>>>, u64),
}

impl Source {
    fn read_at(&mut self, bytes: &mut [u8], place: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(bytes, place),
            Self::Compressed(_, at) if *at != place => Ok(0),
            Self::Compressed(decoder, at) => {
                let count = match decoder.read(bytes) {
                    // What cannot be unpacked is damage like any other, and is not there.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                        ) =>
                    {
                        0
                    }
                    other => other?,
                };
                *at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                Ok(count)
            }
        }
    }
}

/// Reads frames from a file that may still be growing. Holds at most 256 KiB and one frame.
#[derive(Debug)]
pub(crate) struct FrameReader {
    source: Source,
    /// Where in the file `buffer` begins.
    base: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the last frame begins and ends.
    last: usize,
    used: usize,
}

impl FrameReader {
    const fn new(source: Source) -> Self {
        Self { source, base: 0, buffer: Vec::new(), last: 0, used: 0 }
    }

    /// Opens a segment, compressed or not; also one that is being compressed meanwhile.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let unpacked = |path: &Path| {
            let decoder = MultiGzDecoder::new(BufReader::new(File::open(path)?));
            Ok(Self::new(Source::Compressed(Box::new(decoder), 0)))
        };
        if path.extension().is_some_and(|extension| extension == COMPRESSED) {
            return unpacked(path);
        }
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut packed = path.as_os_str().to_owned();
                packed.push(".gz");
                unpacked(Path::new(&packed)).map_err(|_| error)
            }
            other => other.map(|file| Self::new(Source::Plain(file))),
        }
    }

    /// Begins at an offset, which must be that of a frame.
    pub(crate) fn open_at(path: &Path, offset: u64) -> io::Result<Self> {
        let mut reader = Self::open(path)?;
        if let Source::Compressed(decoder, at) = &mut reader.source {
            // From front to back is the only way.
            *at = io::copy(&mut decoder.take(offset), &mut io::sink())?;
        }
        reader.base = offset;
        Ok(reader)
    }

    /// Where the frame begins that `next` gave last.
    pub(crate) fn last_offset(&self) -> u64 {
        self.base.saturating_add(u64::try_from(self.last).unwrap_or(u64::MAX))
    }

    /// Where the next frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.base.saturating_add(u64::try_from(self.used).unwrap_or(u64::MAX))
    }

    /// The next frame. After `End` or `Broken`, a later call looks at the same place of the file again.
    pub(crate) fn next(&mut self) -> io::Result<Next<'_>> {
        let mut needed = HEADER_BYTES;
        loop {
            let whole = self.fill(needed)?;
            match frame::decode(self.buffer.get(self.used..).unwrap_or_default()) {
                Ok(Decoded::Incomplete(size)) if whole && size > needed => needed = size,
                Ok(Decoded::Frame(_, size)) => {
                    self.last = self.used;
                    self.used = self.used.saturating_add(size);
                    return Ok(self.current().map_or(Next::Broken(Broken::Short), Next::Frame));
                }
                Ok(Decoded::End) => return Ok(self.forget(Next::End)),
                Ok(Decoded::Incomplete(_)) => return Ok(self.forget(Next::Broken(Broken::Short))),
                Err(error) => return Ok(self.forget(Next::Broken(error.into()))),
            }
        }
    }

    /// The frame that `next` gave last.
    pub(crate) fn current(&self) -> Option<Frame<'_>> {
        frame::decoded(self.buffer.get(self.last..self.used)?)
    }

    /// Drops what was read ahead: the writer may have filled it since.
    fn forget(&mut self, next: Next<'static>) -> Next<'static> {
        self.base = self.offset();
        self.buffer.clear();
        self.last = 0;
        self.used = 0;
        next
    }

    /// Tries to have `needed` bytes; whether it has them.
    fn fill(&mut self, needed: usize) -> io::Result<bool> {
        let held = self.buffer.len().saturating_sub(self.used);
        if held >= needed {
            return Ok(true);
        }
        self.base = self.offset();
        self.buffer.drain(..self.used);
        self.last = 0;
        self.used = 0;
        let mut length = held;
        self.buffer.resize(needed.max(READ_BYTES), 0);
        while length < needed {
            let place = self.base.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            match self.source.read_at(self.buffer.get_mut(length..).unwrap_or_default(), place) {
                Ok(0) => break,
                Ok(count) => length = length.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(length);
        Ok(length >= needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_numbers_and_nothing_else_is_a_segment() {
        assert_eq!(first_of(&name(42)), Some(42));
        assert_eq!(first_of(&name(u64::MAX)), Some(u64::MAX));
        assert!(name(9) < name(10));
        for wrong in ["seg-1.log", "seg-0000000000000000000x.log", "seg-00000000000000000001.log.tmp", "lock"]
        {
            assert_eq!(first_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_growing_file_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut bytes = Vec::new();
        for seq in 0..50_u64 {
            frame::encode(&mut bytes, seq, Kind::Event, 1, &vec![b'x'; 20_000]);
        }
        let half = bytes.len() / 2;
        std::fs::write(&path, &bytes[..half]).unwrap();
        let mut reader = FrameReader::open(&path).unwrap();
        let mut seen = 0;
        while let Next::Frame(frame) = reader.next().unwrap() {
            assert_eq!(frame.seq, seen);
            seen += 1;
        }
        assert!(seen > 0 && seen < 50);
        bytes.extend([0; 1000]);
        std::fs::write(&path, &bytes).unwrap();
        while let Next::Frame(frame) = reader.next().unwrap() {
            assert_eq!((frame.seq, frame.payload.len()), (seen, 20_000));
            seen += 1;
        }
        assert_eq!(seen, 50);
        assert!(matches!(reader.next().unwrap(), Next::End));
    }
}
