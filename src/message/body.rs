//! Bodies: one boxed type, bounded in bytes and in waiting.
//!
//! Adapters fail with typed errors; [`BodyFault::find`] recognises them however deeply a client library wrapped them.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use super::headers;

/// Any error of a body.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// The body of every message between listener and upstream.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What is reserved for a buffered body before its bytes arrive: a declared length is only a claim.
pub(super) const FIRST_RESERVE: usize = 64 * 1024;

/// A body of no bytes.
#[must_use]
pub fn empty() -> Body {
    boxed(Empty::new())
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    boxed(Full::new(bytes.into()))
}

/// Any body as [`Body`].
pub fn boxed<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// A body went over its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The bound, in bytes.
    pub limit: u64,
}

/// No part of a body came for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no part of the body came for {} s", after.as_secs_f64())]
pub struct BodyIdle {
    /// How long it was waited for.
    pub after: Duration,
}

/// The bytes of a body break the coding that its headers declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is malformed: {0}")]
pub struct BodyMalformed(pub &'static str);

/// A sealed body does not open. Nothing of the frame that failed, or of any after it, was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed body does not open after {frames} frames ({code})")]
pub struct BodyUnopened {
    /// The stable code.
    pub code: &'static str,
    /// How many frames were opened before.
    pub frames: u32,
}

/// A fault of the sender of a body, found in an error chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Over the bound.
    #[error(transparent)]
    TooLarge(BodyTooLarge),
    /// Silent for too long.
    #[error(transparent)]
    Idle(BodyIdle),
    /// Not in the declared coding.
    #[error(transparent)]
    Malformed(BodyMalformed),
    /// Sealed, and not to be opened.
    #[error(transparent)]
    Unopened(BodyUnopened),
}

impl BodyFault {
    /// The fault behind an error of a body or of a client that sent one; none if the sender is not to blame.
    #[must_use]
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        // Wrappers nest a handful of errors; the bound stops a cyclic chain.
        std::iter::successors(Some(error), |e| behind(*e)).take(16).find_map(|e| {
            let too_large = e.downcast_ref().copied().map(Self::TooLarge);
            let idle = || e.downcast_ref().copied().map(Self::Idle);
            let malformed = || e.downcast_ref().copied().map(Self::Malformed);
            let unopened = || e.downcast_ref().copied().map(Self::Unopened);
            too_large.or_else(idle).or_else(malformed).or_else(unopened)
        })
    }

    /// The status that answers it.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Idle(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Unopened(_) => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "body_too_large",
            Self::Idle(_) => "body_idle",
            Self::Malformed(_) => "body_malformed",
            Self::Unopened(fault) => fault.code,
        }
    }
}

/// The next error of a chain; `io::Error::source` skips the error that it wraps.
fn behind<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref().and_then(std::io::Error::get_ref);
    wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
}

pin_project! {
    /// Fails with [`BodyTooLarge`] before passing on the byte that goes over the bound.
    #[derive(Debug)]
    pub struct Limited<B> {
        #[pin]
        inner: B,
        left: u64,
        limit: u64,
    }
}

impl<B> Limited<B> {
    /// At most `limit` bytes of `inner`; trailers are not counted.
    pub const fn new(inner: B, limit: u64) -> Self {
        Self { inner, left: limit, limit }
    }
}

impl<B> HttpBody for Limited<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Some(frame) = ready!(this.inner.poll_frame(cx)) else { return Poll::Ready(None) };
        let frame = frame.map_err(Into::into)?;
        if let Some(data) = frame.data_ref() {
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(left) = this.left.checked_sub(length) else {
                *this.left = 0;
                return Poll::Ready(Some(Err(BodyTooLarge { limit: *this.limit }.into())));
            };
            *this.left = left;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// Fails with [`BodyIdle`] when the reader waits and nothing comes. Time in which nobody reads does not count.
    #[derive(Debug)]
    pub struct IdleTimeout<B> {
        #[pin]
        inner: B,
        after: Duration,
        waiting: bool,
        // Made at the first wait: most bodies are there at once and need no timer.
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> IdleTimeout<B> {
    /// At most `after` between two frames of `inner`.
    pub const fn new(inner: B, after: Duration) -> Self {
        Self { inner, after, waiting: false, timer: None }
    }
}

impl<B> HttpBody for IdleTimeout<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Poll::Ready(frame) = this.inner.poll_frame(cx) {
            *this.waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(*this.after)));
        if !*this.waiting {
            *this.waiting = true;
            timer.as_mut().reset(Instant::now() + *this.after);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyIdle { after: *this.after }.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// Passes on only the trailers that [`headers::trailers`] lets through.
    #[derive(Debug)]
    pub struct CheckedTrailers<B> {
        #[pin]
        inner: B,
    }
}

impl<B> CheckedTrailers<B> {
    /// Checks the trailers of `inner`.
    pub const fn new(inner: B) -> Self {
        Self { inner }
    }
}

impl<B: HttpBody> HttpBody for CheckedTrailers<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut frame = ready!(self.project().inner.poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::trailers(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadBodyError {
    /// Its sender is to blame.
    #[error(transparent)]
    Fault(BodyFault),
    /// The connection broke.
    #[error("the body ended early")]
    Broken(#[source] BoxError),
}

impl From<BoxError> for ReadBodyError {
    fn from(error: BoxError) -> Self {
        BodyFault::find(error.as_ref()).map_or_else(|| Self::Broken(error), Self::Fault)
    }
}

/// Reads a whole body of at most `max` bytes. Trailers are dropped. A body that comes in one piece is not copied.
///
/// # Errors
/// The body is larger, idle, malformed or broken off.
pub async fn collect_bounded(mut body: Body, max: u64) -> Result<Bytes, ReadBodyError> {
    let too_large = || ReadBodyError::Fault(BodyFault::TooLarge(BodyTooLarge { limit: max }));
    if body.size_hint().lower() > max {
        return Err(too_large());
    }
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        if so_far.saturating_add(data.len()) > max {
            return Err(too_large());
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
                let expected = so_far.saturating_add(data.len()).saturating_add(declared.min(FIRST_RESERVE));
                let mut joined = BytesMut::with_capacity(expected);
                joined.extend_from_slice(&first);
                joined.extend_from_slice(&data);
                rest = Some(joined);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// Reads and forgets what is left of a body, so that its connection can serve the next request after a refusal.
/// True if the body ended within `max` bytes and `within`; otherwise the connection must be closed.
pub async fn drain_bounded(body: Body, max: u64, within: Duration) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > max {
        return false;
    }
    let mut body = Limited::new(body, max);
    let drained = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(within, drained).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    struct Pieces(Vec<&'static str>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.first() {
                None => Poll::Ready(None),
                Some(&"silence") => Poll::Pending,
                Some(_) => Poll::Ready(Some(Ok(Frame::data(self.0.remove(0).into())))),
            }
        }
    }

    fn pieces(list: &[&'static str]) -> Body {
        boxed(Pieces(list.to_vec()))
    }

    #[tokio::test]
    async fn whole_bodies_up_to_the_bound() {
        assert_eq!(collect_bounded(pieces(&["ab", "", "cd", "e"]), 5).await.unwrap(), "abcde");
        assert_eq!(collect_bounded(full("abcde"), 5).await.unwrap(), "abcde");
        assert_eq!(collect_bounded(empty(), 0).await.unwrap(), "");
        for body in [pieces(&["ab", "cd", "e"]), pieces(&["abcde"]), full("abcde")] {
            let error = collect_bounded(body, 4).await.unwrap_err();
            assert!(matches!(error, ReadBodyError::Fault(BodyFault::TooLarge(BodyTooLarge { limit: 4 }))));
        }
    }

    #[tokio::test]
    async fn no_byte_over_the_limit_passes() {
        let mut body = Limited::new(pieces(&["abc", "de"]), 4);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(BodyFault::find(error.as_ref()), Some(BodyFault::TooLarge(BodyTooLarge { limit: 4 })));
    }

    #[tokio::test]
    async fn silence_is_an_error() {
        let after = Duration::from_millis(20);
        let mut body = IdleTimeout::new(pieces(&["abc", "silence"]), after);
        assert!(body.frame().await.unwrap().is_ok());
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(BodyFault::find(error.as_ref()), Some(BodyFault::Idle(BodyIdle { after })));
    }

    #[tokio::test]
    async fn draining_is_bounded() {
        let soon = Duration::from_millis(20);
        assert!(drain_bounded(pieces(&["ab", "cd"]), 4, soon).await);
        assert!(!drain_bounded(pieces(&["ab", "cd"]), 3, soon).await);
        assert!(!drain_bounded(pieces(&["ab", "silence"]), 9, soon).await);
    }

    #[test]
    fn faults_are_found_behind_wrappers() {
        let inner: BoxError = BodyMalformed("no line end").into();
        let wrapped = std::io::Error::other(std::io::Error::other(inner));
        assert_eq!(BodyFault::find(&wrapped), Some(BodyFault::Malformed(BodyMalformed("no line end"))));
    }
}
