//! The end of a crossing: the answer's body as it passes, metered, and the record closed exactly once.
//!
//! The record is closed when the body ends, fails or is dropped, whichever comes first: a caller who hangs up
//! leaves a record too.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::audit::Draft;
use crate::audit::record::{Ending, Outcome};
use crate::limit::Slot;
use crate::message::{Body, BoxError};
use crate::meter::Tap;
use crate::telemetry::{ClientSpan, UpstreamRequest};

use super::exchange::Finish;

/// Everything that lives until the answer's last byte.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) finish: Finish,
    pub(crate) draft: Option<Draft>,
    pub(crate) upstream: Option<UpstreamPart>,
    pub(crate) status: StatusCode,
    pub(crate) request_bytes: Arc<AtomicU64>,
    pub(crate) first_byte: Option<Instant>,
}

/// What belongs to the upstream's side of the answer.
#[derive(Debug)]
pub(crate) struct UpstreamPart {
    pub(crate) name: String,
    pub(crate) operation: &'static str,
    pub(crate) model: Option<String>,
    pub(crate) sent: Instant,
    pub(crate) span: Option<ClientSpan>,
    pub(crate) tap: Option<Tap>,
    pub(crate) slot: Slot,
}

/// A body that closes its record when it ends.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Body,
    bytes: u64,
    completion: Option<Completion>,
}

impl Metered {
    pub(crate) fn new(inner: Body, completion: Completion) -> Self {
        let mut body = Self { inner, bytes: 0, completion: Some(completion) };
        if body.inner.is_end_stream() {
            body.close(Ending::Complete);
        }
        body
    }

    fn close(&mut self, ending: Ending) {
        if let Some(completion) = self.completion.take() {
            completion.close(ending, self.bytes);
        }
    }

    fn passed(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Some(completion) = &mut self.completion {
            completion.first_byte.get_or_insert_with(Instant::now);
            if let Some(tap) = completion.upstream.as_mut().and_then(|part| part.tap.as_mut()) {
                tap.feed(data);
            }
        }
    }
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => self.close(Ending::Complete),
            Some(Err(_)) => self.close(Ending::UpstreamReset),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.passed(data);
                }
                // The server does not ask again once the length is reached.
                if self.inner.is_end_stream() {
                    self.close(Ending::Complete);
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

impl Drop for Metered {
    fn drop(&mut self) {
        self.close(Ending::ClientGone);
    }
}

impl Completion {
    pub(crate) fn close(self, ending: Ending, response_bytes: u64) {
        let tap = self.upstream.as_ref().and_then(|part| part.tap.as_ref());
        let usage = tap.and_then(Tap::usage);
        let telemetry = Arc::clone(&self.finish.telemetry);
        if let Some(part) = self.upstream {
            if let Some(usage) = &usage
                && let Some(model) = &part.model
            {
                telemetry.metrics().tokens_used(part.operation, model, usage);
            }
            if let Some(mut span) = part.span {
                if let Some(usage) = &usage {
                    span.used(usage);
                }
                match ending {
                    Ending::Complete => span.finish(),
                    other => span.failed(other.name()),
                }
            }
            telemetry.metrics().upstream_ended(&UpstreamRequest {
                upstream: &part.name,
                status: self.status.as_u16(),
                duration: part.sent.elapsed(),
            });
            drop(part.slot);
        }
        if let Some(draft) = self.draft {
            let micros = |span: std::time::Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
            draft.close(&Outcome {
                status: Some(self.status.as_u16()),
                request_bytes: self.request_bytes.load(Ordering::Relaxed),
                response_bytes,
                usage,
                duration_us: micros(self.finish.started.elapsed()),
                time_to_first_byte_us: self
                    .first_byte
                    .map(|at| micros(at.duration_since(self.finish.started))),
                ..Outcome::bare(ending)
            });
        }
        self.finish.end(self.status);
    }
}
