//! A body that somebody watches as it passes: every byte, and how it ended.
//!
//! Nothing is held back or changed. Whoever sends a body stops asking once its length is reached, so its end is seen with its
//! last frame, not only when it is asked for one more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{Body, BoxError};

/// Watches one body. Of `ended` and `failed` at most one is called, once; neither if the body is dropped unfinished.
pub trait Observer: Send + Unpin + 'static {
    /// Bytes passed.
    fn passed(&mut self, data: &Bytes);

    /// The body came to its end.
    fn ended(&mut self);

    /// The body broke off.
    fn failed(&mut self, error: &BoxError);
}

/// A body with its observer.
#[derive(Debug)]
pub struct Observed<O> {
    inner: Body,
    observer: O,
    over: bool,
}

impl<O: Observer> Observed<O> {
    /// Watches `inner`. One that is over already has ended here and now.
    pub fn new(inner: Body, mut observer: O) -> Self {
        let over = inner.is_end_stream();
        if over {
            observer.ended();
        }
        Self { inner, observer, over }
    }

    /// Ends it here: the body is dropped and its observer told why, unless it was over.
    pub(super) fn cut(mut self, error: &BoxError) {
        self.finish(Some(error));
    }

    fn finish(&mut self, failure: Option<&BoxError>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        match failure {
            None => self.observer.ended(),
            Some(error) => self.observer.failed(error),
        }
    }
}

impl<O: Observer> HttpBody for Observed<O> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => self.finish(None),
            Some(Err(error)) => self.finish(Some(error)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.observer.passed(data);
                }
                if self.inner.is_end_stream() {
                    self.finish(None);
                }
            }
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
