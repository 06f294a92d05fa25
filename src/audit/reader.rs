//! Reads the journal from outside, also while it is written. Takes no lock and changes nothing.
//!
//! At the end of the newest segment a record may stand there in part; it is simply not there yet. Anywhere else
//! the same bytes are damage.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::frame::{Frame, Kind};
use super::segment::{self, Broken, FrameReader, Head, Listed, Next};
use super::tree::log::LogHead;

/// A journal that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file operation failed.
    #[error("cannot read the journal `{}`", path.display())]
    Io {
        /// The directory or segment.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no journal there.
    #[error("`{}` holds no journal segment; name the directory that `audit.directory` names", .0.display())]
    Missing(PathBuf),
    /// A segment is damaged.
    #[error("segment `{}` is damaged at offset {offset}: {reason}", segment.display())]
    Damaged {
        /// The segment.
        segment: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// One record as it stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Its number: consecutive from 0 in each journal.
    pub seq: u64,
    /// When it was written, nanoseconds of UTC since 1970.
    pub time: u64,
    /// What it is.
    pub kind: Kind,
    /// Its JSON.
    pub payload: &'a [u8],
}

impl<'a> From<Frame<'a>> for Stored<'a> {
    fn from(frame: Frame<'a>) -> Self {
        Self { seq: frame.seq, time: frame.time, kind: frame.kind, payload: frame.payload }
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the first record of its segment.
    pub segment: u64,
    /// The offset of its frame.
    pub offset: u64,
    /// Its number.
    pub seq: u64,
}

enum Step {
    Record,
    Other,
    Stop(Option<Broken>),
}

/// Reads records in order.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    segment: Listed,
    frames: FrameReader,
    expected: u64,
    /// The segment has ended, for there is a later one; what is in it now is all of it.
    ended: bool,
    /// The log that the segment belongs to.
    log: Option<LogHead>,
}

fn listed(directory: &Path) -> Result<Vec<Listed>, ReadError> {
    segment::list(directory).map_err(|source| ReadError::Io { path: directory.to_owned(), source })
}

impl Reader {
    /// Begins with the oldest record, or with the segment in which records of `since` begin.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read.
    pub fn open(directory: &Path, since: Option<Timestamp>) -> Result<Self, ReadError> {
        let segments = listed(directory)?;
        let since = since.map(|time| u64::try_from(time.as_nanosecond()).unwrap_or(0));
        let later = |segment: &Listed| match since {
            None => true,
            Some(since) => began(segment).is_none_or(|began| began > since),
        };
        let first_later = segments.partition_point(|segment| !later(segment));
        Self::at(directory, segments, first_later.saturating_sub(1))
    }

    /// Begins `back` segments before the end, 1 being the newest. Also says whether that is the whole journal.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read.
    pub fn open_back(directory: &Path, back: usize) -> Result<(Self, bool), ReadError> {
        let segments = listed(directory)?;
        let index = segments.len().saturating_sub(back);
        Self::at(directory, segments, index).map(|reader| (reader, index == 0))
    }

    /// Begins with the segment that holds the record of this number, or with the oldest if that is gone.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read.
    pub(crate) fn open_at(directory: &Path, seq: u64) -> Result<Self, ReadError> {
        let segments = listed(directory)?;
        let later = segments.partition_point(|segment| segment.first <= seq);
        Self::at(directory, segments, later.saturating_sub(1))
    }

    /// The record that was read last, and the log that it is a leaf of.
    pub(crate) fn last(&self) -> Option<(Stored<'_>, Option<&LogHead>)> {
        self.frames.current().map(|frame| (frame.into(), self.log.as_ref()))
    }

    fn at(directory: &Path, segments: Vec<Listed>, index: usize) -> Result<Self, ReadError> {
        let Some(segment) = segments.into_iter().nth(index) else {
            return Err(ReadError::Missing(directory.to_owned()));
        };
        let frames = open(&segment)?;
        let expected = segment.first;
        Ok(Self { directory: directory.to_owned(), segment, frames, expected, ended: false, log: None })
    }

    /// Goes on from a place, which must be that of a record or the end of what was read.
    ///
    /// # Errors
    /// The segment is not there, or cannot be read.
    pub fn resume(directory: &Path, place: Place) -> Result<Self, ReadError> {
        let segment = listed(directory)?.into_iter().find(|segment| segment.first == place.segment);
        let segment = segment.ok_or_else(|| ReadError::Missing(directory.to_owned()))?;
        let frames = FrameReader::open_at(&segment.path, place.offset)
            .map_err(|source| ReadError::Io { path: segment.path.clone(), source })?;
        Ok(Self {
            directory: directory.to_owned(),
            segment,
            frames,
            expected: place.seq,
            ended: false,
            log: None,
        })
    }

    /// Where the record stands that was read last.
    #[must_use]
    pub fn last_place(&self) -> Place {
        let seq = self.expected.saturating_sub(1);
        Place { segment: self.segment.first, offset: self.frames.last_offset(), seq }
    }

    /// Where the next record will stand, or what comes before it.
    #[must_use]
    pub fn next(&self) -> Place {
        Place { segment: self.segment.first, offset: self.frames.offset(), seq: self.expected }
    }

    /// The number of the oldest record that the journal still holds.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read.
    pub fn oldest(directory: &Path) -> Result<u64, ReadError> {
        let segments = listed(directory)?;
        segments.first().map(|segment| segment.first).ok_or_else(|| ReadError::Missing(directory.to_owned()))
    }

    /// The next record; none if there is none now. A later call may give one.
    ///
    /// # Errors
    /// The journal is damaged or cannot be read.
    pub fn read_next(&mut self) -> Result<Option<Stored<'_>>, ReadError> {
        loop {
            match self.step()? {
                Step::Record => break,
                Step::Other => {}
                Step::Stop(broken) if self.ended => self.go_on(broken)?,
                Step::Stop(_) => {
                    if self.successor()?.is_none() {
                        return Ok(None);
                    }
                    // It may have been written to between the look at its end and the look for the next.
                    self.ended = true;
                }
            }
        }
        Ok(self.frames.current().map(Stored::from))
    }

    fn step(&mut self) -> Result<Step, ReadError> {
        let offset = self.frames.offset();
        let frame = match self.frames.next() {
            Ok(Next::Frame(frame)) => frame,
            Ok(Next::End) => return Ok(Step::Stop(None)),
            Ok(Next::Broken(broken)) => return Ok(Step::Stop(Some(broken))),
            Err(source) => return Err(ReadError::Io { path: self.segment.path.clone(), source }),
        };
        if frame.seq != self.expected {
            let reason = format!("record {} stands where {} should", frame.seq, self.expected);
            return Err(ReadError::Damaged { segment: self.segment.path.clone(), offset, reason });
        }
        if frame.kind == Kind::Segment {
            self.log = serde_json::from_slice::<Head>(frame.payload).ok().and_then(|head| head.log);
        }
        if !frame.kind.is_record() {
            return Ok(Step::Other);
        }
        self.expected = self.expected.saturating_add(1);
        Ok(Step::Record)
    }

    fn successor(&self) -> Result<Option<Listed>, ReadError> {
        let segments = listed(&self.directory)?;
        Ok(segments.into_iter().find(|segment| segment.first > self.segment.first))
    }

    /// To the segment after this one, which must have ended well and where the next begins.
    fn go_on(&mut self, broken: Option<Broken>) -> Result<(), ReadError> {
        let offset = self.frames.offset();
        let damaged = |reason| ReadError::Damaged { segment: self.segment.path.clone(), offset, reason };
        if let Some(broken) = broken {
            return Err(damaged(broken.to_string()));
        }
        let Some(next) = self.successor()? else {
            self.ended = false;
            return Ok(());
        };
        if next.first != self.expected {
            return Err(damaged(format!("records {} to {} are missing", self.expected, next.first)));
        }
        self.frames = open(&next)?;
        self.segment = next;
        self.ended = false;
        Ok(())
    }
}

fn open(segment: &Listed) -> Result<FrameReader, ReadError> {
    FrameReader::open(&segment.path).map_err(|source| ReadError::Io { path: segment.path.clone(), source })
}

/// When a segment was begun; none if that cannot be read.
fn began(segment: &Listed) -> Option<u64> {
    match FrameReader::open(&segment.path).ok()?.next().ok()? {
        Next::Frame(frame) => Some(frame.time),
        Next::End | Next::Broken(_) => None,
    }
}
