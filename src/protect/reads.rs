//! Reading an object that is sealed at rest: its header, its final frame, and of the others only those that are wanted.
//!
//! All of it happens under one permit. [`Reads`] is made of the one request that was permitted and makes nothing but reads of the same
//! object; [`ObjectHeader`] and [`StoredObject`] are the steps in which what comes back is believed.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCEPT_ENCODING, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, Method, Request, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::keys::Scope;
use super::object::{ObjectName, StoredFault};
use super::outbound::Outbound;
use super::protector::{Protector, SealFacts};
use super::seal::range::{FrameSpan, Layout};
use super::seal::{Bounds, OpenError, Opener, UnverifiedHeader};
use crate::message::{self, Body, BodyUnopened, BoxError};
use crate::model::UpstreamRef;
use crate::policy::Permit;

/// What makes an answer depend on more than the object and the range.
const CONDITIONS: [HeaderName; 4] = [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
/// Asks for checksums, which would be those of the sealed bytes.
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");

/// Reads of one object, under the permit to read it.
#[derive(Debug)]
pub struct Reads {
    permit: Arc<Permit>,
    uri: Uri,
    headers: HeaderMap,
}

impl Reads {
    /// Reads of the object that a permitted request wants from a store, by GET or HEAD; none of any other request, which is spent.
    #[must_use]
    pub fn of(outbound: Outbound) -> Option<Self> {
        let (permit, request) = outbound.into_parts();
        let store = matches!(permit.candidate().upstream, UpstreamRef::Store(_));
        if !store || !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let (head, _) = request.into_parts();
        let mut headers = head.headers;
        for name in [RANGE, IF_RANGE, ACCEPT_ENCODING, CHECKSUM_MODE] {
            headers.remove(name);
        }
        Some(Self { permit, uri: head.uri, headers })
    }

    /// The first bytes of the object, under the caller's own conditions.
    pub fn first(&self, bytes: u64) -> Outbound {
        self.read(&(0..bytes), self.headers.clone())
    }

    /// Some bytes of that version of it.
    pub fn part(&self, bytes: &Range<u64>, version: &HeaderValue) -> Outbound {
        let mut headers = self.headers.clone();
        for name in CONDITIONS {
            headers.remove(name);
        }
        headers.insert(IF_MATCH, version.clone());
        self.read(bytes, headers)
    }

    /// That version of it as a caller asks for it, with the caller's `Range` if there is one.
    pub fn whole(&self, range: Option<&HeaderValue>, version: &HeaderValue) -> Outbound {
        let mut headers = self.headers.clone();
        for name in CONDITIONS {
            headers.remove(name);
        }
        headers.insert(IF_MATCH, version.clone());
        if let Some(range) = range {
            headers.insert(RANGE, range.clone());
        }
        self.get(headers)
    }

    fn read(&self, bytes: &Range<u64>, mut headers: HeaderMap) -> Outbound {
        let last = bytes.end.saturating_sub(1);
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-{last}", bytes.start)) {
            headers.insert(RANGE, range);
        }
        self.get(headers)
    }

    fn get(&self, headers: HeaderMap) -> Outbound {
        let mut request = Request::new(message::empty());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        Outbound::under(Arc::clone(&self.permit), request)
    }
}

/// The header of an object at rest, believed; its length is not yet.
#[derive(Debug)]
pub struct ObjectHeader {
    opener: Opener,
    layout: Layout,
    facts: SealFacts,
    total: u64,
    version: HeaderValue,
    /// Its final frame was opened before.
    proven: bool,
}

impl Protector {
    /// Reads and believes the header at the beginning of that version of an object, which has `total` bytes: it opens with a key of one of `scopes`, and if
    /// `place` is given it is the message of that object. None if more bytes are needed.
    ///
    /// # Errors
    /// It is no message, opens with none of these keys, was changed, or is another object's.
    pub async fn object_header(
        &self,
        (beginning, total, version): (&[u8], u64, &HeaderValue),
        scopes: &[Scope],
        place: Option<ObjectName<'_>>,
    ) -> Result<Option<ObjectHeader>, StoredFault> {
        let Some((header, used)) = UnverifiedHeader::parse(beginning, &Bounds::default())? else {
            return match u64::try_from(beginning.len()) {
                Ok(length) if length >= total => Err(OpenError::Truncated { after: 0 }.into()),
                _ => Ok(None),
            };
        };
        let (opener, facts) = self.unlock_stored(header, scopes, place).await?;
        let used = u64::try_from(used).unwrap_or(u64::MAX);
        let layout = Layout::new(used, opener.header().frame_length(), total)?;
        let proven = self.lengths().is_proven(&facts.message_id, total, version);
        Ok(Some(ObjectHeader { opener, layout, facts, total, version: version.clone(), proven }))
    }

    /// Believes the length of an object, which its final frame proves, and remembers it: the next read of the same message does without.
    ///
    /// # Errors
    /// It is not the final frame: the object was truncated, or is another.
    pub fn prove(&self, header: ObjectHeader, final_frame: &[u8]) -> Result<StoredObject, OpenError> {
        let ObjectHeader { mut opener, layout, facts, total, version, .. } = header;
        let last = Some(opener.open_final(&layout, final_frame)?);
        self.lengths().remember(facts.message_id, total, version);
        Ok(StoredObject { opener, layout, last })
    }

    /// Lets a body that is sealed already through as it is, once its header is believed: it opens with a key of one of `scopes`.
    ///
    /// # Errors
    /// It is no message, or opens with none of these keys; nothing of it has passed.
    pub async fn kept(&self, mut body: Body, scopes: &[Scope]) -> Result<(Body, SealFacts), StoredFault> {
        let mut first = BytesMut::new();
        loop {
            if let Some((header, _)) = UnverifiedHeader::parse(&first, &Bounds::default())? {
                let (_, facts) = self.unlock_stored(header, scopes, None).await?;
                return Ok((message::boxed(Resumed { first: Some(first.freeze()), inner: body }), facts));
            }
            let Some(frame) = body.frame().await else {
                return Err(OpenError::Truncated { after: 0 }.into());
            };
            if let Ok(data) = frame.map_err(StoredFault::Body)?.into_data() {
                first.extend_from_slice(&data);
            }
        }
    }
}

impl ObjectHeader {
    /// The public facts of the message, for records.
    #[must_use]
    pub const fn facts(&self) -> &SealFacts {
        &self.facts
    }

    /// Where the final frame stands.
    #[must_use]
    pub fn final_frame(&self) -> Range<u64> {
        self.layout.final_frame().1
    }

    /// The object, if a read before has proven that this message has this length.
    ///
    /// # Errors
    /// It is not proven: the header comes back, for [`Protector::prove`].
    pub fn proven(self) -> Result<StoredObject, Box<Self>> {
        if !self.proven {
            return Err(Box::new(self));
        }
        Ok(StoredObject { opener: self.opener, layout: self.layout, last: None })
    }
}

/// An object at rest whose length is believed.
#[derive(Debug)]
pub struct StoredObject {
    opener: Opener,
    layout: Layout,
    /// The plaintext of the final frame, if it was opened now.
    last: Option<Bytes>,
}

impl StoredObject {
    /// Bytes of plaintext.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.layout.plaintext()
    }

    /// Which bytes of the object are needed for a part of its plaintext; none if it is empty or lies in the final frame, which is here.
    #[must_use]
    pub fn needed(&self, part: &Range<u64>) -> Option<Range<u64>> {
        self.layout.frames(part).filter(|span| self.here(span).is_none()).map(|span| span.bytes)
    }

    /// The final frame, if it is all that is wanted and is here.
    fn here(&self, span: &FrameSpan) -> Option<&Bytes> {
        self.last.as_ref().filter(|_| span.first == self.layout.final_frame().0)
    }

    /// A part of the plaintext out of `sealed`, the bytes that [`Self::needed`] says. Its first frame is opened here, so that a
    /// body whose first frame fails is known before anything is said of it; the others are as they are read.
    ///
    /// # Errors
    /// The first frame does not open, or could not be read.
    pub async fn open(mut self, part: &Range<u64>, sealed: Body) -> Result<Body, BoxError> {
        let Some(span) = self.layout.frames(part) else { return Ok(message::empty()) };
        let (skip, take) = (index(span.skip), index(span.take));
        if let Some(last) = self.here(&span) {
            let end = skip.saturating_add(take).min(last.len());
            return Ok(message::full(last.slice(skip.min(end)..end)));
        }
        self.opener.seek(span.first);
        let mut frames = Frames {
            inner: sealed,
            opener: self.opener,
            buffer: BytesMut::new(),
            skip,
            left: span.take,
            first: None,
        };
        frames.first = std::future::poll_fn(|cx| frames.poll_opened(cx)).await?;
        Ok(message::boxed(frames))
    }
}

/// Frames as they come, opened, cut to the part that is wanted.
struct Frames {
    inner: Body,
    opener: Opener,
    buffer: BytesMut,
    /// Bytes of the next frame's plaintext that are before the part.
    skip: usize,
    /// Bytes of the part that are still to come.
    left: u64,
    first: Option<Bytes>,
}

impl Frames {
    fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BoxError>> {
        while self.left > 0 {
            match self.opener.next_frame(&mut self.buffer) {
                Ok(Some(mut plain)) => {
                    let skipped = self.skip.min(plain.len());
                    let mut plain = plain.split_off(skipped);
                    self.skip -= skipped;
                    plain.truncate(index(self.left));
                    self.left = self.left.saturating_sub(u64::try_from(plain.len()).unwrap_or(u64::MAX));
                    if !plain.is_empty() {
                        return Poll::Ready(Ok(Some(plain)));
                    }
                }
                Ok(None) if self.opener.is_over() => {
                    return self.fail(OpenError::Truncated { after: self.opener.frames() });
                }
                Ok(None) => match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                    Some(frame) => {
                        if let Ok(data) = frame?.into_data() {
                            self.buffer.extend_from_slice(&data);
                        }
                    }
                    None => return self.fail(OpenError::Truncated { after: self.opener.frames() }),
                },
                Err(error) => return self.fail(error),
            }
        }
        Poll::Ready(Ok(None))
    }

    fn fail(&mut self, error: OpenError) -> Poll<Result<Option<Bytes>, BoxError>> {
        let frames = self.opener.frames();
        self.left = 0;
        Poll::Ready(Err(BodyUnopened { code: error.code(), frames }.into()))
    }
}

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        Poll::Ready(ready!(self.poll_opened(cx)).map(|plain| plain.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| u64::try_from(first.len()).unwrap_or(u64::MAX));
        SizeHint::with_exact(self.left.saturating_add(first))
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("left", &self.left).finish_non_exhaustive()
    }
}

/// A body whose beginning was read already.
#[derive(Debug)]
struct Resumed {
    first: Option<Bytes>,
    inner: Body,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.inner).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| u64::try_from(first.len()).unwrap_or(u64::MAX));
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(first));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(first));
        }
        hint
    }
}

/// Frames are at most 1 MiB, so what is cut out of one fits.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
