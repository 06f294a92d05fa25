//! Reading a part of a sealed object: where frames stand, and opening them out of order.
//!
//! The positions follow from the total length, which nothing authenticates but the final frame: open it first.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::aead::TAG_BYTES;
use super::frame::{FINAL_HEAD, REGULAR_HEAD};
use super::{FrameLength, OpenError, Opener};

/// Where the frames of a message stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    header: u64,
    frame: u64,
    regular: u64,
    rest: u64,
    total: u64,
}

/// The frames that a part of the plaintext is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameSpan {
    /// The number of the first one, from 1.
    pub first: u32,
    /// Where they stand in the message.
    pub bytes: Range<u64>,
    /// Bytes of the first frame's plaintext before the part.
    pub skip: u64,
    /// Bytes of the part.
    pub take: u64,
}

const REGULAR_OVERHEAD: u64 = (REGULAR_HEAD + TAG_BYTES) as u64;
const FINAL_OVERHEAD: u64 = (FINAL_HEAD + TAG_BYTES) as u64;

impl Layout {
    /// The layout of a message of `total` bytes whose header, with its tag, has `header`.
    ///
    /// # Errors
    /// No message has that length: it was truncated, or is another.
    pub fn new(header: u64, frame_length: FrameLength, total: u64) -> Result<Self, OpenError> {
        let frame = u64::from(frame_length.get());
        let truncated = OpenError::Truncated { after: 0 };
        let body =
            total.checked_sub(header).and_then(|body| body.checked_sub(FINAL_OVERHEAD)).ok_or(truncated)?;
        let (regular, rest) = (body / (frame + REGULAR_OVERHEAD), body % (frame + REGULAR_OVERHEAD));
        if rest > frame || regular >= u64::from(u32::MAX) - 1 {
            return Err(truncated);
        }
        Ok(Self { header, frame, regular, rest, total })
    }

    /// Bytes of plaintext; believed only when the final frame has opened.
    #[must_use]
    pub const fn plaintext(&self) -> u64 {
        self.regular * self.frame + self.rest
    }

    /// The final frame: its number, and where it stands.
    #[must_use]
    pub fn final_frame(&self) -> (u32, Range<u64>) {
        let start = self.total - FINAL_OVERHEAD - self.rest;
        (number(self.regular + 1), start..self.total)
    }

    /// The frames of a part of the plaintext; none if it is empty or ends beyond the plaintext.
    #[must_use]
    pub fn frames(&self, part: &Range<u64>) -> Option<FrameSpan> {
        if part.is_empty() || part.end > self.plaintext() {
            return None;
        }
        let (first, last) = (part.start / self.frame, (part.end - 1) / self.frame);
        let start = |index: u64| self.header + index * (self.frame + REGULAR_OVERHEAD);
        let end = if last == self.regular { self.total } else { start(last + 1) };
        Some(FrameSpan {
            first: number(first + 1),
            bytes: start(first)..end,
            skip: part.start - first * self.frame,
            take: part.end - part.start,
        })
    }
}

/// Numbers are below 2^32 as the constructor saw.
fn number(index: u64) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Opener {
    /// Goes on with frame `number`, which is the next that [`Opener::next_frame`] opens.
    pub fn seek(&mut self, number: u32) {
        self.set_next(number);
    }

    /// Opens the final frame alone, which proves the length of the message that `layout` follows from; its plaintext.
    ///
    /// # Errors
    /// It is not the final frame of this message, or not the one that the layout says: the message was truncated or is another.
    pub fn open_final(&mut self, layout: &Layout, frame: &[u8]) -> Result<Bytes, OpenError> {
        let (number, place) = layout.final_frame();
        let truncated = OpenError::Truncated { after: number.saturating_sub(1) };
        if u64::try_from(frame.len()).ok() != Some(place.end - place.start) {
            return Err(truncated);
        }
        self.seek(number);
        let mut input = BytesMut::from(frame);
        let text = self.next_frame(&mut input)?.ok_or(truncated)?;
        if self.is_over() && input.is_empty() { Ok(text) } else { Err(truncated) }
    }
}
