//! The end of a crossing: the answer's body as it passes, metered, and the record closed exactly once.
//!
//! The record is closed when the body ends, fails or is dropped, whichever comes first: a caller who hangs up
//! leaves a record too. When it ends, its last bytes are on their way first ([`Owed`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use tokio::runtime::Handle;

use crate::audit::Draft;
use crate::audit::record::{Ending, Outcome};
use crate::limit::Slot;
use crate::message::{BodyUnopened, BoxError, ClientStalled, Observer};
use crate::meter::Tap;
use crate::model::{ModelName, UpstreamRef, Usage};
use crate::protect::{SealFacts, WireDigest};
use crate::telemetry::{ClientSpan, Telemetry, UpstreamRequest};
use crate::upstream::AnswerError;

use super::exchange::{Finish, digest_of};
use super::live::Live;
use super::payload::Sent;
use super::record;
use super::sending::AnswerSeal;

/// Everything that lives until the answer's last byte.
#[derive(Debug)]
pub(super) struct Completion {
    pub(crate) draft: Option<Draft>,
    pub(crate) upstream: UpstreamPart,
    pub(crate) tap: Option<Tap>,
    pub(crate) slot: Slot,
    /// Says if it was ended before its end.
    pub(crate) live: Arc<Live>,
    pub(crate) status: StatusCode,
    pub(crate) sent: Arc<Sent>,
    /// Where the digest of the sealed request is.
    pub(crate) sealed: Option<WireDigest>,
    /// The sealed message that the answer came in.
    pub(crate) answer: Option<AnswerSeal>,
    /// The sealed message that the object is at rest.
    pub(crate) object: Option<AtRestSeal>,
    /// Where to leave all this when the plaintext has ended, if the answer is sealed behind it.
    pub(crate) closing: Option<Arc<Closing>>,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) finish: Finish,
}

/// The sealed message that an object is at rest, and what of it was fetched.
#[derive(Debug, Clone)]
pub(crate) struct AtRestSeal {
    pub(crate) facts: SealFacts,
    /// Bytes of it that came from the store; none when it is written.
    pub(crate) fetched: Option<Arc<AtomicU64>>,
}

/// The upstream's side of an attempt: its span and its place in the metrics.
#[derive(Debug)]
pub(crate) struct UpstreamPart {
    pub(crate) upstream: UpstreamRef,
    pub(crate) operation: &'static str,
    pub(crate) model: Option<ModelName>,
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
            upstream: &self.upstream,
            status,
            duration: self.sent.elapsed(),
        });
        match failure {
            None => self.span.finish(),
            Some(kind) => self.span.failed(kind),
        }
    }
}

/// Meters an answer as it passes and closes its record when it ends, fails or is dropped.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes: u64,
    completion: Option<Completion>,
}

impl Meter {
    /// Meters what `completion` belongs to.
    pub(crate) const fn new(completion: Completion) -> Self {
        Self { bytes: 0, completion: Some(completion) }
    }

    fn close(&mut self, ending: Ending, code: Option<&'static str>) {
        if let Some(completion) = self.completion.take() {
            completion.close(ending, code, self.bytes);
        }
    }
}

/// A crossing whose plaintext answer has ended while its sealed form is still leaving.
#[derive(Debug, Default)]
pub(crate) struct Closing(Mutex<Option<(Completion, u64)>>);

impl Closing {
    fn put(&self, completion: Completion, bytes: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((completion, bytes));
    }

    fn close(&self, ending: Ending, seal: &mut Option<AnswerSeal>) {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut completion, bytes)) = left {
            completion.answer = seal.take();
            completion.close(ending, None, bytes);
        }
    }
}

/// Watches the sealed form of an answer leave, and then closes the record of the crossing.
#[derive(Debug)]
pub(crate) struct SealedEnd {
    closing: Arc<Closing>,
    seal: Option<AnswerSeal>,
}

impl SealedEnd {
    /// Closes what is left in `closing`.
    pub(crate) const fn new(closing: Arc<Closing>, seal: AnswerSeal) -> Self {
        Self { closing, seal: Some(seal) }
    }
}

impl Observer for SealedEnd {
    fn passed(&mut self, _: &Bytes) {}

    fn ended(&mut self) {
        self.closing.close(Ending::Complete, &mut self.seal);
    }

    fn failed(&mut self, _: &BoxError) {
        self.closing.close(Ending::Aborted, &mut self.seal);
    }
}

impl Drop for SealedEnd {
    fn drop(&mut self) {
        self.closing.close(Ending::ClientGone, &mut self.seal);
    }
}

impl Observer for Meter {
    fn passed(&mut self, data: &Bytes) {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if let Some(completion) = &mut self.completion {
            completion.first_byte.get_or_insert_with(Instant::now);
            if let Some(tap) = &mut completion.tap {
                tap.feed(data);
            }
        }
    }

    fn ended(&mut self) {
        if let Some(mut completion) = self.completion.take() {
            match completion.closing.take() {
                Some(closing) => closing.put(completion, self.bytes),
                None => Owed::leave(completion, self.bytes),
            }
        }
    }

    fn failed(&mut self, error: &BoxError) {
        let fault = error.downcast_ref::<AnswerError>();
        let unopened = error.downcast_ref::<BodyUnopened>();
        let stalled = error.is::<ClientStalled>();
        let ending = match (fault, unopened) {
            (Some(AnswerError::Idle { .. }), _) => Ending::Timeout,
            // We ended it: what follows cannot be believed.
            (None, Some(_)) => Ending::Aborted,
            (None, None) if stalled => Ending::Timeout,
            _ => Ending::UpstreamReset,
        };
        let code = fault.map(AnswerError::code).or(unopened.map(|fault| fault.code));
        self.close(ending, code.or(stalled.then_some("client_too_slow")));
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let ending = if std::thread::panicking() { Ending::Panicked } else { Ending::ClientGone };
        self.close(ending, None);
    }
}

/// A whole answer whose record is still to be closed, which is done by dropping this.
struct Owed(Option<(Completion, u64)>);

impl Owed {
    /// Leaves it to a task of its own, so that the last bytes of an answer do not wait for the record of it; a runtime that takes no
    /// more tasks drops it here and now.
    fn leave(mut completion: Completion, bytes: u64) {
        // The next request of the same caller must find the place free.
        completion.slot.free();
        let owed = Self(Some((completion, bytes)));
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn(async move { drop(owed) }));
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some((completion, bytes)) = self.0.take() {
            completion.close(Ending::Complete, None, bytes);
        }
    }
}

impl Completion {
    fn close(self, ending: Ending, code: Option<&'static str>, response_bytes: u64) {
        let ended = self.live.verdict().filter(|_| ending != Ending::Complete).cloned();
        let (ending, code) = match &ended {
            Some(ended) => (Ending::Withdrawn, Some(ended.code)),
            None => (ending, code),
        };
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
                request_ciphertext: digest_of(self.sealed.as_ref()),
                response_ciphertext: digest_of(self.answer.as_ref().map(|answer| &answer.wire)),
                answer: self.answer.as_ref().map(|answer| record::answer(&answer.facts, answer.record)),
                object: self.object.as_ref().map(|object| Box::new(record::answer(&object.facts, None))),
                fetched_bytes: self
                    .object
                    .and_then(|object| object.fetched)
                    .map(|fetched| fetched.load(Ordering::Relaxed)),
                usage,
                withdrawn: ended.map(|ended| Box::new(ended.facts())),
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
