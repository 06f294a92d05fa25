//! A sealed body that is opened as it passes: no byte before the tag of its frame, and an end only after the final frame.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::error::OpeningError;
use super::seal::range::Layout;
use super::seal::sse::strip_padding;
use super::seal::{Bounds, FrameLength, OpenError, Opener, UnverifiedHeader};
use super::wire::{Hasher, WireDigest};
use crate::message::{Body, BodyUnopened, BoxError};

/// The rest of a sealed body whose header was read; nothing of it is believed yet.
pub(super) struct Unopened {
    header_bytes: u64,
    frame_length: FrameLength,
    /// Sealed bytes in all, if that is known.
    total: Option<u64>,
    buffer: BytesMut,
    inner: Body,
    hasher: Hasher,
}

impl Unopened {
    /// Reads the header, bounded in bytes; in time by the body itself.
    pub(super) async fn read(
        mut inner: Body,
        wire: WireDigest,
    ) -> Result<(UnverifiedHeader, Self), OpeningError> {
        let total = inner.size_hint().exact();
        let mut hasher = Hasher::new(wire);
        let mut buffer = BytesMut::new();
        loop {
            if let Some((header, used)) = UnverifiedHeader::parse(&buffer, &Bounds::default())? {
                let header_bytes = u64::try_from(used).unwrap_or(u64::MAX);
                let buffer = buffer.split_off(used.min(buffer.len()));
                let frame_length = header.frame_length();
                return Ok((header, Self { header_bytes, frame_length, total, buffer, inner, hasher }));
            }
            let Some(frame) = inner.frame().await else {
                return Err(OpenError::Truncated { after: 0 }.into());
            };
            let Ok(data) = frame.map_err(OpeningError::Body)?.into_data() else { continue };
            hasher.update(&data);
            buffer.extend_from_slice(&data);
        }
    }

    /// The body, once the header was verified. `events`: padding between events is taken away.
    pub(super) fn open(self, opener: Opener, events: bool) -> Result<Opening, OpenError> {
        let left = match self.total {
            // What padding there is shows only as it is opened.
            Some(total) if !events => {
                Some(Layout::new(self.header_bytes, self.frame_length, total)?.plaintext_len())
            }
            _ => None,
        };
        let Self { buffer, inner, hasher, .. } = self;
        Ok(Opening { inner, opener, buffer, hasher, events, left, held: None, state: State::Frames })
    }
}

/// The plaintext of a sealed body.
pub(super) struct Opening {
    inner: Body,
    opener: Opener,
    buffer: BytesMut,
    hasher: Hasher,
    events: bool,
    /// Plaintext that is still to come, if its length is known.
    left: Option<u64>,
    /// The plaintext that completes the length, kept until the final frame was opened: whoever counts to a length asks for no more
    /// once it is reached, and would take a message for whole that was cut.
    held: Option<Bytes>,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Frames,
    /// The final frame was opened, and nothing follows it.
    Over,
    Failed,
}

impl Opening {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        while self.state == State::Frames {
            let opened = self.opener.next_frame(&mut self.buffer).map_err(|error| self.broken(&error))?;
            if let Some(frame) = opened {
                if let Some(plain) = self.release(frame)? {
                    return Poll::Ready(Ok(Some(plain)));
                }
                continue;
            }
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                self.opener.finish(&self.buffer).map_err(|error| self.broken(&error))?;
                self.end();
                break;
            };
            if let Ok(data) = frame?.into_data() {
                self.hasher.update(&data);
                self.buffer.extend_from_slice(&data);
            }
        }
        Poll::Ready(Ok(self.held.take()))
    }

    /// What of an opened frame may be passed on now.
    fn release(&mut self, mut frame: Bytes) -> Result<Option<Bytes>, BodyUnopened> {
        if self.events {
            frame.truncate(strip_padding(&frame));
        }
        if self.opener.is_over() && self.buffer.is_empty() && self.inner.is_end_stream() {
            self.end();
        }
        let Some(left) = self.left else { return Ok(Some(frame).filter(|frame| !frame.is_empty())) };
        let length = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        let so_far = self.held.as_ref().map_or(0, |held| u64::try_from(held.len()).unwrap_or(u64::MAX));
        let over = self.opener.is_over();
        // The length was computed from that of the whole message: frames that say otherwise belong to another one.
        if so_far.saturating_add(length) > left || (over && so_far.saturating_add(length) != left) {
            let (code, frames) = ("seal_truncated", self.opener.frames());
            return Err(BodyUnopened { code, frames });
        }
        if over {
            return Ok(self.held.take().or(Some(frame)).filter(|plain| !plain.is_empty()));
        }
        if length == left {
            self.held = Some(frame);
            return Ok(None);
        }
        Ok(Some(frame).filter(|frame| !frame.is_empty()))
    }

    fn end(&mut self) {
        self.state = State::Over;
        self.hasher.finish();
    }

    fn broken(&self, error: &OpenError) -> BodyUnopened {
        BodyUnopened { code: error.code(), frames: self.opener.frames() }
    }
}

impl HttpBody for Opening {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(self.poll_opened(cx)) {
            Ok(Some(plain)) => {
                let passed = u64::try_from(plain.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(passed));
                Poll::Ready(Some(Ok(Frame::data(plain))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => {
                self.state = State::Failed;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening")
            .field("left", &self.left)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
