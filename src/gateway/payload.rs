//! The request's body between attempts: held whole, or a stream that is there only once.
//!
//! The far side gives a stream back if it took no byte of it; then the next attempt may have it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::inspect;
use crate::message::{self, Body, BoxError};

use super::reject::Reject;

/// A body that attempts draw from.
#[derive(Debug)]
pub(super) enum Payload {
    /// Held whole: any number of attempts.
    Whole(Bytes),
    /// Streams through; none while an attempt has it, or after one took bytes of it. The lock is never contended:
    /// it only lets a stream, which is not `Sync`, be part of what is borrowed across an await.
    Stream(Mutex<Option<Body>>),
}

impl Payload {
    /// The payload of an inspected request; its bytes are counted as they leave.
    pub(super) fn new(payload: inspect::Payload, sent: &Arc<AtomicU64>) -> Self {
        match payload {
            inspect::Payload::Buffered(bytes) => Self::Whole(bytes),
            inspect::Payload::Streaming(body) if body.is_end_stream() => Self::Whole(Bytes::new()),
            inspect::Payload::Streaming(body) => Self::Stream(Mutex::new(Some(counted(body, sent)))),
        }
    }

    /// The bytes, if they are held.
    pub(super) const fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Stream(_) => None,
        }
    }

    /// The body for one attempt.
    pub(super) fn take(&mut self, sent: &Arc<AtomicU64>) -> Result<Body, Reject> {
        sent.store(0, Ordering::Relaxed);
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(message::empty()),
            Self::Whole(bytes) => Ok(counted(message::full(bytes.clone()), sent)),
            Self::Stream(body) => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner).take();
                body.ok_or_else(|| Reject::internal("the request's body was taken by an earlier attempt"))
            }
        }
    }

    /// A stream that came back untouched.
    pub(super) fn give_back(&mut self, body: Option<Body>) {
        if let Self::Stream(place) = self {
            *place.get_mut().unwrap_or_else(PoisonError::into_inner) = body;
        }
    }

    /// Whether another attempt would send the same bytes.
    pub(super) fn is_there(&mut self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Stream(body) => body.get_mut().unwrap_or_else(PoisonError::into_inner).is_some(),
        }
    }
}

fn counted(body: Body, sent: &Arc<AtomicU64>) -> Body {
    message::boxed(Counted { body, sent: Arc::clone(sent) })
}

/// A body whose bytes are counted as they leave.
struct Counted {
    body: Body,
    sent: Arc<AtomicU64>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.sent.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
