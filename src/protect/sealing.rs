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

/// As many sealed bytes are passed on at once, if the plaintext is there.
const ENOUGH: usize = 64 * 1024;

/// A plaintext body on its way out, sealed.
pub(super) struct Sealing {
    inner: Body,
    state: State,
    /// Sealed bytes that are to be passed on.
    out: BytesMut,
    hasher: Hasher,
    /// Sealed bytes that are still to come, if that is known.
    left: Option<u64>,
}

enum State {
    Frames(Box<Sealer>),
    /// Before the first event: its length fixes that of the frames.
    Waiting(Box<NewMessage>, EventFrames),
    Events(Box<Sealer>, EventFrames),
    /// The plaintext broke off. No final frame closes it: the opener sees that it is not whole.
    Broken(BoxError),
    Over,
}

impl Sealing {
    /// Seals a body of any kind.
    pub(super) fn frames(message: NewMessage, inner: Body, wire: WireDigest) -> Result<Self, SealError> {
        let sealer = Sealer::new(message)?;
        let length = inner.size_hint().exact();
        let left = length.and_then(|length| sealer.sealed_length(length));
        let out = BytesMut::from(&**sealer.header());
        Ok(Self { inner, state: State::Frames(Box::new(sealer)), out, hasher: Hasher::new(wire), left })
    }

    /// Seals a stream of events.
    pub(super) fn events(message: NewMessage, inner: Body, wire: WireDigest) -> Self {
        let state = State::Waiting(Box::new(message), EventFrames::default());
        Self { inner, state, out: BytesMut::new(), hasher: Hasher::new(wire), left: None }
    }

    /// What is ready to be passed on: a short body is one piece, from the header to the final frame.
    fn poll_sealed(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        while !matches!(self.state, State::Broken(_) | State::Over) && self.out.len() < ENOUGH {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Pending if self.out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(None) => self.finish()?,
                Poll::Ready(Some(Err(error))) => self.state = State::Broken(error),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.take(data)?;
                    if self.inner.is_end_stream() {
                        self.finish()?;
                    }
                }
            }
        }
        if !self.out.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.out).freeze())));
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Broken(error) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(None)),
        }
    }

    /// Seals what came, as far as it fills frames or is whole events.
    fn take(&mut self, mut data: Bytes) -> Result<(), BoxError> {
        match &mut self.state {
            State::Frames(sealer) => push(sealer, &mut data, &mut self.out)?,
            State::Waiting(_, events) | State::Events(_, events) => {
                events.push(&data);
                self.take_events()?;
            }
            State::Broken(_) | State::Over => {}
        }
        Ok(())
    }

    fn take_events(&mut self) -> Result<(), BoxError> {
        loop {
            let next = match &mut self.state {
                State::Waiting(_, events) | State::Events(_, events) => events.next_event(),
                State::Frames(_) | State::Broken(_) | State::Over => None,
            };
            let Some(mut event) = next else { return Ok(()) };
            self.start()?;
            if let State::Events(sealer, _) = &mut self.state {
                push(sealer, &mut event, &mut self.out)?;
            }
        }
    }

    /// Makes the sealer of an event stream, once its frame length is known, and puts its header first.
    fn start(&mut self) -> Result<(), BoxError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(mut message, events) => {
                message.frame_length = events.frame_length().unwrap_or(FrameLength::BODY);
                let sealer = Sealer::new(*message)?;
                self.out.extend_from_slice(sealer.header());
                self.state = State::Events(Box::new(sealer), events);
            }
            other => self.state = other,
        }
        Ok(())
    }

    /// The rest of the plaintext and the final frame.
    fn finish(&mut self) -> Result<(), BoxError> {
        self.start()?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Frames(sealer) => append(&mut self.out, sealer.finish()?),
            State::Events(mut sealer, mut events) => {
                if let Some(mut rest) = events.finish() {
                    push(&mut sealer, &mut rest, &mut self.out)?;
                }
                append(&mut self.out, sealer.finish()?);
            }
            State::Waiting(..) | State::Broken(_) | State::Over => {}
        }
        Ok(())
    }
}

fn push(sealer: &mut Sealer, data: &mut Bytes, out: &mut BytesMut) -> Result<(), SealError> {
    while !data.is_empty() {
        if let Some(frame) = sealer.push(data)? {
            append(out, frame);
        }
    }
    Ok(())
}

/// A large frame alone moves nothing.
fn append(out: &mut BytesMut, frame: BytesMut) {
    if out.is_empty() {
        *out = frame;
    } else {
        out.extend_from_slice(&frame);
    }
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
                (self.state, self.out) = (State::Over, BytesMut::new());
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

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use http_body_util::BodyExt as _;

    use super::super::seal::{DataKey, Edk, EncryptionContext, MessageId};
    use super::*;
    use crate::message::{boxed, full};

    /// A message that nobody was given the key of.
    pub(in crate::protect) fn message(data_key: DataKey) -> NewMessage {
        let part = Bytes::from_static(b"x");
        NewMessage {
            message_id: MessageId::random().unwrap(),
            data_key,
            edks: vec![Edk { provider: part.clone(), info: part.clone(), ciphertext: part }],
            context: EncryptionContext::new(),
            required: EncryptionContext::new(),
            frame_length: FrameLength::BODY,
        }
    }

    /// What a plaintext does at each poll: a text comes, or nothing yet.
    struct Script(VecDeque<Option<&'static str>>);

    impl HttpBody for Script {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match self.0.pop_front() {
                Some(Some(text)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(Some(Err("it broke off".into()))),
            }
        }
    }

    fn script<const N: usize>(steps: [Option<&'static str>; N]) -> Body {
        boxed(Script(steps.into()))
    }

    #[tokio::test]
    async fn a_short_body_is_one_piece() {
        let message = message(DataKey::random().unwrap());
        let mut body = Sealing::frames(message, full("short"), WireDigest::default()).unwrap();
        let length = body.size_hint().exact().unwrap();
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(u64::try_from(piece.len()).unwrap(), length);
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn what_is_there_is_passed_on_when_the_plaintext_pauses_or_breaks_off() {
        let events = script([Some("data: 1\n\n"), None, None, Some("data: 2\n\n")]);
        let wire = WireDigest::default();
        let mut body = Sealing::events(message(DataKey::random().unwrap()), events, wire.clone());
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "nothing is there");
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() > second.len(), "the header comes with the first event");
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "it broke off");
        // No final frame, and no digest of what is not whole.
        assert!(body.frame().await.is_none() && wire.get().is_none());
    }
}
