//! A sealed body that is opened as it passes: no byte before the tag of its frame, and an end only after the final frame.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::error::OpeningError;
use super::seal::events::without_padding;
use super::seal::range::Layout;
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
                let frame_length = header.unverified().frame_length();
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
                Some(Layout::new(self.header_bytes, self.frame_length, total)?.plaintext())
            }
            _ => None,
        };
        let Self { buffer, inner, hasher, .. } = self;
        Ok(Opening {
            inner,
            opener,
            buffer,
            hasher,
            events,
            left,
            held: None,
            first: None,
            state: State::Frames,
        })
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
    /// What [`Self::primed`] opened already.
    first: Option<Bytes>,
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
    /// Opens the first frame, so that a body whose first frame fails is known before anything is said of it.
    pub(super) async fn primed(mut self) -> Result<Self, BoxError> {
        match poll_fn(|cx| self.poll_opened(cx)).await {
            Ok(first) => self.first = first,
            Err(error) => return Err(error),
        }
        Ok(self)
    }

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
            frame.truncate(without_padding(&frame));
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
        let opened = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => ready!(self.poll_opened(cx)),
        };
        match opened {
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
        self.state == State::Over && self.first.is_none()
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::super::seal::{DataKey, EncryptionContext};
    use super::super::sealing::Sealing;
    use super::super::sealing::tests::message;
    use super::*;
    use crate::message::{boxed, full};

    const L: usize = 64 * 1024;

    /// The sealed form of `plain`, as one piece, with its key.
    async fn sealed(plain: &[u8]) -> (Bytes, DataKey) {
        let data_key = DataKey::random().unwrap();
        let same = DataKey::from(*data_key.expose());
        let body = Sealing::frames(message(data_key), full(plain.to_vec()), WireDigest::default()).unwrap();
        let hint = body.size_hint().exact().unwrap();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(u64::try_from(bytes.len()).unwrap(), hint, "the length that is declared is the length");
        (bytes, same)
    }

    /// What a reader gets who asks for as many bytes as were declared and no more, as HTTP/1.1 does.
    async fn read(sealed: Bytes, key: DataKey) -> Result<Vec<u8>, BoxError> {
        let wire = WireDigest::default();
        let (header, unopened) = Unopened::read(full(sealed), wire.clone()).await?;
        let opener = header.verify(&key, &EncryptionContext::new())?;
        let mut opening = boxed(unopened.open(opener, false)?.primed().await?);
        let declared = usize::try_from(opening.size_hint().exact().unwrap()).unwrap();
        let mut found = Vec::new();
        while found.len() < declared {
            match opening.frame().await {
                Some(frame) => found.extend(frame?.into_data().unwrap()),
                None => return Err("less than was declared".into()),
            }
        }
        Ok(found)
    }

    #[tokio::test]
    async fn every_length_comes_back() {
        for length in [0, 1, L - 1, L, L + 1, 3 * L, 3 * L + 5] {
            let plain = vec![7; length];
            let (bytes, key) = sealed(&plain).await;
            assert!(read(bytes, key).await.unwrap() == plain, "{length}");
        }
    }

    /// Whoever counts to a declared length never asks for the end, so no prefix may satisfy one.
    #[tokio::test]
    async fn no_prefix_looks_whole_to_a_reader_who_counts() {
        let plain = vec![7; 2 * L];
        let (bytes, key) = sealed(&plain).await;
        let header = bytes.len() - 2 * (L + 32) - 40;
        for cut in [
            bytes.len() - 1,
            bytes.len() - 40,
            bytes.len() - 41,
            bytes.len() - 40 - 32,
            header + L + 32,
            header + L + 32 + 40,
            header + 40,
            header + 39,
            header,
        ] {
            assert!(read(bytes.slice(..cut), DataKey::from(*key.expose())).await.is_err(), "{cut}");
        }
    }
}
