//! A body that is sealed as it passes: constant memory, and never a byte of the plaintext.
//!
//! Bodies go in frames of 64 KiB. An event stream goes in frames of the size of its first event, each event padded to the border of
//! a frame, so that it can be opened the moment it arrives. Trailers of the plaintext are dropped: nothing would authenticate them.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::seal::events::EventFrames;
use super::seal::{FrameLength, NewMessage, SealError, Sealer};
use super::wire::{Hasher, WireDigest};
use crate::message::{Body, BoxError};

/// A plaintext body on its way out, sealed.
pub(super) struct Sealing {
    inner: Body,
    state: State,
    hasher: Hasher,
    /// Sealed bytes that are still to come, if that is known.
    left: Option<u64>,
}

enum State {
    /// The header is to be sent; then frames.
    Frames(Box<Sealer>, Bytes),
    /// Before the first event: its length fixes that of the frames.
    Waiting(Box<NewMessage>, EventFrames),
    Events(Box<Sealer>, EventFrames),
    Over,
}

impl Sealing {
    /// Seals a body of any kind.
    pub(super) fn frames(message: NewMessage, inner: Body, wire: WireDigest) -> Result<Self, SealError> {
        let sealer = Sealer::new(message)?;
        let length = inner.size_hint().exact();
        let left = length.and_then(|length| sealer.sealed_length(length));
        let header = sealer.header().clone();
        let state = State::Frames(Box::new(sealer), header);
        Ok(Self { inner, state, hasher: Hasher::new(wire), left })
    }

    /// Seals a stream of events.
    pub(super) fn events(message: NewMessage, inner: Body, wire: WireDigest) -> Self {
        let state = State::Waiting(Box::new(message), EventFrames::default());
        Self { inner, state, hasher: Hasher::new(wire), left: None }
    }

    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        loop {
            if let State::Frames(_, header) = &mut self.state
                && !header.is_empty()
            {
                return Poll::Ready(Ok(Some(std::mem::take(header))));
            }
            if matches!(self.state, State::Over) {
                return Poll::Ready(Ok(None));
            }
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                return Poll::Ready(self.finish().map(Some));
            };
            let Ok(data) = frame?.into_data() else { continue };
            let sealed = self.take(data)?;
            if !sealed.is_empty() {
                return Poll::Ready(Ok(Some(sealed)));
            }
        }
    }

    /// Seals what came, as far as it fills frames or is whole events.
    fn take(&mut self, mut data: Bytes) -> Result<Bytes, BoxError> {
        let mut out = BytesMut::new();
        match &mut self.state {
            State::Frames(sealer, _) => push(sealer, &mut data, &mut out)?,
            State::Waiting(_, events) | State::Events(_, events) => {
                events.push(&data);
                self.take_events(&mut out)?;
            }
            State::Over => {}
        }
        Ok(out.freeze())
    }

    fn take_events(&mut self, out: &mut BytesMut) -> Result<(), BoxError> {
        loop {
            let next = match &mut self.state {
                State::Waiting(_, events) | State::Events(_, events) => events.next_event(),
                State::Frames(..) | State::Over => None,
            };
            let Some(mut event) = next else { return Ok(()) };
            self.start(out)?;
            if let State::Events(sealer, _) = &mut self.state {
                push(sealer, &mut event, out)?;
            }
        }
    }

    /// Makes the sealer of an event stream, once its frame length is known, and puts its header first.
    fn start(&mut self, out: &mut BytesMut) -> Result<(), BoxError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(mut message, events) => {
                message.frame_length = events.frame_length().unwrap_or(FrameLength::BODY);
                let sealer = Sealer::new(*message)?;
                out.extend_from_slice(sealer.header());
                self.state = State::Events(Box::new(sealer), events);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// The rest of the plaintext and the final frame.
    fn finish(&mut self) -> Result<Bytes, BoxError> {
        let mut out = BytesMut::new();
        self.start(&mut out)?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Frames(sealer, _) => out.extend_from_slice(&sealer.finish()?),
            State::Events(mut sealer, mut events) => {
                if let Some(mut rest) = events.finish() {
                    push(&mut sealer, &mut rest, &mut out)?;
                }
                out.extend_from_slice(&sealer.finish()?);
            }
            State::Waiting(..) | State::Over => {}
        }
        Ok(out.freeze())
    }
}

fn push(sealer: &mut Sealer, data: &mut Bytes, out: &mut BytesMut) -> Result<(), SealError> {
    while !data.is_empty() {
        if let Some(frame) = sealer.push(data)? {
            out.extend_from_slice(&frame);
        }
    }
    Ok(())
}

impl HttpBody for Sealing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match ready!(self.poll_sealed(cx)) {
            Ok(Some(sealed)) => {
                self.hasher.update(&sealed);
                if matches!(self.state, State::Over) {
                    self.hasher.finish();
                }
                let passed = u64::try_from(sealed.len()).unwrap_or(u64::MAX);
                self.left = self.left.map(|left| left.saturating_sub(passed));
                Poll::Ready(Some(Ok(Frame::data(sealed))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => {
                // A plaintext that broke off is never closed by a final frame: the opener sees that it is not whole.
                self.state = State::Over;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealing").field("left", &self.left).finish_non_exhaustive()
    }
}
