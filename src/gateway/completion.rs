//! The end of a crossing: the answer's body as it passes, metered, and the record closed exactly once.
//!
//! The record is closed when the body ends, fails or is dropped, whichever comes first: a caller who hangs up
//! leaves a record too.

use std::pin::Pin;
use std::sync::Arc;
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
use crate::model::Usage;
use crate::telemetry::{ClientSpan, Telemetry, UpstreamRequest};
use crate::upstream::AnswerError;

use super::exchange::Finish;
use super::payload::Sent;

/// Everything that lives until the answer's last byte.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) draft: Option<Draft>,
    pub(crate) upstream: UpstreamPart,
    pub(crate) tap: Option<Tap>,
    pub(crate) slot: Slot,
    pub(crate) status: StatusCode,
    pub(crate) sent: Arc<Sent>,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) finish: Finish,
}

/// The upstream's side of an attempt: its span and its place in the metrics.
#[derive(Debug)]
pub(crate) struct UpstreamPart {
    pub(crate) name: String,
    pub(crate) operation: &'static str,
    pub(crate) model: Option<String>,
    pub(crate) sent: Instant,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) span: ClientSpan,
}

impl UpstreamPart {
    /// Ends it; `failure` says why it did not come to its end, `status` is 0 without an answer.
    pub(crate) fn end(mut self, status: u16, failure: Option<&'static str>, usage: Option<&Usage>) {
        let metrics = self.telemetry.metrics();
        if let Some(usage) = usage {
            self.span.used(usage);
            if let Some(model) = &self.model {
                metrics.tokens_used(self.operation, model, usage);
            }
        }
        metrics.upstream_ended(&UpstreamRequest {
            upstream: &self.name,
            status,
            duration: self.sent.elapsed(),
        });
        match failure {
            None => self.span.finish(),
            Some(kind) => self.span.failed(kind),
        }
    }
}

/// A body that closes its record when it ends.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Body,
    bytes: u64,
    completion: Option<Completion>,
}

impl Metered {
    /// `bodiless` answers (HEAD, 204, 304) are whole with their head: the server never asks for their body.
    pub(crate) fn new(inner: Body, completion: Completion, bodiless: bool) -> Self {
        let mut body = Self { inner, bytes: 0, completion: Some(completion) };
        if bodiless || body.inner.is_end_stream() {
            body.close(Ending::Complete, None);
        }
        body
    }

    fn close(&mut self, ending: Ending, code: Option<&'static str>) {
        if let Some(completion) = self.completion.take() {
            completion.close(ending, code, self.bytes);
        }
    }

    fn failed(&mut self, error: &BoxError) {
        let fault = error.downcast_ref::<AnswerError>();
        let ending = match fault {
            Some(AnswerError::Idle { .. }) => Ending::Timeout,
            _ => Ending::UpstreamReset,
        };
        self.close(ending, fault.map(AnswerError::code));
    }

    fn passed(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Some(completion) = &mut self.completion {
            completion.first_byte.get_or_insert_with(Instant::now);
            if let Some(tap) = &mut completion.tap {
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
            None => self.close(Ending::Complete, None),
            Some(Err(error)) => self.failed(error),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.passed(data);
                }
                // The server does not ask again once the length is reached.
                if self.inner.is_end_stream() {
                    self.close(Ending::Complete, None);
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
        let ending = if std::thread::panicking() { Ending::Panicked } else { Ending::ClientGone };
        self.close(ending, None);
    }
}

impl Completion {
    fn close(self, ending: Ending, code: Option<&'static str>, response_bytes: u64) {
        let usage = self.tap.as_ref().and_then(Tap::usage);
        let failure = if ending == Ending::Complete { None } else { Some(ending.name()) };
        self.upstream.end(self.status.as_u16(), failure, usage.as_ref());
        drop(self.slot);
        if let Some(draft) = self.draft {
            let since = |at: Instant| micros(at.duration_since(self.finish.started));
            draft.close(&Outcome {
                status: Some(self.status.as_u16()),
                code: code.map(Into::into),
                request_bytes: self.sent.bytes(),
                request_digest: self.sent.digest().map(Into::into),
                response_bytes,
                usage,
                duration_us: since(Instant::now()),
                time_to_first_byte_us: self.first_byte.map(since),
                ..Outcome::bare(ending)
            });
        }
        self.finish.end(self.status);
    }
}

fn micros(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
