//! The request's body between attempts: held whole, or a stream that is there only once.
//!
//! The far side gives a stream back if it took no byte of it; then the next attempt may have it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http_body::Body as _;

use crate::audit::{Digester, Unavailable};
use crate::inspect;
use crate::message::{self, Body, BoxError, Observed, Observer};

use super::live::{self, Live};
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
    /// The payload of an inspected request. Its bytes are counted as they leave; a stream's are digested too, for what is
    /// held whole is digested for the decision.
    pub(super) fn new(
        payload: inspect::Payload,
        sent: &Arc<Sent>,
        digester: impl FnOnce() -> Result<Digester, Unavailable>,
    ) -> Result<Self, Unavailable> {
        Ok(match payload {
            inspect::Payload::Buffered(bytes) => Self::Whole(bytes),
            inspect::Payload::Streaming(body) if body.is_end_stream() => Self::Whole(Bytes::new()),
            inspect::Payload::Streaming(body) => {
                Self::Stream(Mutex::new(Some(counted(body, sent, Some(digester()?)))))
            }
        })
    }

    /// The bytes, if they are held.
    pub(super) const fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Stream(_) => None,
        }
    }

    /// A stream goes out under watch: it breaks off when the exchange is ended.
    pub(super) fn watched(&mut self, live: &Arc<Live>) {
        if let Self::Stream(place) = self {
            let place = place.get_mut().unwrap_or_else(PoisonError::into_inner);
            *place = place.take().map(|body| live::request(live, body));
        }
    }

    /// The body for one attempt.
    pub(super) fn take(&mut self, sent: &Arc<Sent>) -> Result<Body, Reject> {
        sent.bytes.store(0, Ordering::Relaxed);
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(message::empty()),
            Self::Whole(bytes) => Ok(counted(message::full(bytes.clone()), sent, None)),
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

/// What left of a request's body.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    bytes: AtomicU64,
    digest: OnceLock<String>,
}

impl Sent {
    /// How many bytes the far side took in the last attempt.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// HMAC of a stream that was sent whole.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.digest.get().map(String::as_str)
    }
}

fn counted(body: Body, sent: &Arc<Sent>, digester: Option<Digester>) -> Body {
    message::boxed(Observed::new(body, Counter { sent: Arc::clone(sent), digester }))
}

/// Counts and digests a body as it leaves.
struct Counter {
    sent: Arc<Sent>,
    /// Taken when the body has ended whole.
    digester: Option<Digester>,
}

impl Observer for Counter {
    fn passed(&mut self, data: &Bytes) {
        self.sent.bytes.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(digester) = &mut self.digester {
            digester.update(data);
        }
    }

    fn ended(&mut self) {
        if let Some(digester) = self.digester.take() {
            // A stream is sent once, so nobody was here before.
            let _ = self.sent.digest.set(digester.finish());
        }
    }

    fn failed(&mut self, _: &BoxError) {}
}
