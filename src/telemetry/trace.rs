//! The spans of a request while it lasts: server, decision, client.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _,
};

use super::span::{Attempt, AttemptFacts, DecisionFacts, Facts, Finished, Ids, ServerFacts};
use super::spool::Spool;
use crate::model::Usage;

/// Where spans go, and which traces are wanted.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) spool: Arc<Spool>,
    pub(super) sampler: Sampler,
}

/// The server span of one request.
#[derive(Debug)]
pub struct RequestSpan {
    /// None if nobody will see the trace.
    spool: Option<Arc<Spool>>,
    trace: TraceId,
    span: SpanId,
    /// The caller's own span.
    caller: Option<SpanContext>,
    started: SystemTime,
}

/// The id of a trace as text: 32 lower-case hexadecimal digits. By default that of no trace, all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceText([u8; 32]);

impl From<TraceId> for TraceText {
    fn from(id: TraceId) -> Self {
        let mut text = [b'0'; 32];
        // INVARIANT: it fits.
        let _ = write!(text.as_mut_slice(), "{id}");
        Self(text)
    }
}

impl Default for TraceText {
    fn default() -> Self {
        TraceId::INVALID.into()
    }
}

impl TraceText {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // INVARIANT: they are ASCII.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl RequestSpan {
    pub(super) fn start(
        destination: Option<&Destination>,
        method: &'static str,
        traceparent: Option<&HeaderValue>,
    ) -> Self {
        let ids = RandomIdGenerator::default();
        let trace = ids.new_trace_id();
        let wanted = |destination: &&Destination| {
            let sampled = destination.sampler.should_sample(None, trace, method, &SpanKind::Server, &[], &[]);
            sampled.decision == SamplingDecision::RecordAndSample
        };
        let spool = destination.filter(wanted).map(|destination| Arc::clone(&destination.spool));
        let caller = traceparent.filter(|_| spool.is_some()).and_then(parse_traceparent);
        Self { spool, trace, span: ids.new_span_id(), caller, started: SystemTime::now() }
    }

    /// The trace id.
    #[must_use]
    pub fn trace_id(&self) -> TraceText {
        self.trace.into()
    }

    /// A `traceparent` value that makes an upstream's spans children of this request (W3C Trace Context, section 3.2).
    #[must_use]
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let mut text = [b'0'; 55];
        let sampled = u8::from(self.spool.is_some());
        write!(text.as_mut_slice(), "00-{}-{}-{sampled:02x}", self.trace, self.span).ok()?;
        HeaderValue::from_bytes(&text).ok()
    }

    /// Whether anybody will see what is put on it.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.spool.is_some()
    }

    fn child(&self) -> Ids {
        Ids { trace: self.trace, span: RandomIdGenerator::default().new_span_id(), parent: self.span }
    }

    /// Emits the span of a decision, with when it began and how long it took.
    pub fn decision(&self, (started, took): (SystemTime, Duration), facts: DecisionFacts) {
        if let Some(spool) = &self.spool {
            let (ids, ended) = (self.child(), started + took);
            spool.put(Finished { ids, started, ended, facts: Facts::Decision(facts) });
        }
    }

    /// Starts the client span of one attempt.
    #[must_use]
    pub fn client(&self, facts: AttemptFacts) -> ClientSpan {
        let attempt = Attempt { facts, status: None, usage: None, failure: None };
        let open = |spool: &Arc<Spool>| Open {
            spool: Arc::clone(spool),
            ids: self.child(),
            started: SystemTime::now(),
            attempt,
        };
        ClientSpan { open: self.spool.as_ref().map(open) }
    }

    /// Ends the span.
    pub fn finish(self, facts: ServerFacts) {
        if let Some(spool) = &self.spool {
            let ids = Ids { trace: self.trace, span: self.span, parent: SpanId::INVALID };
            let facts = Facts::Server(facts, self.caller);
            spool.put(Finished { ids, started: self.started, ended: SystemTime::now(), facts });
        }
    }
}

/// The client span of one attempt; ends when the answer's body ends.
#[derive(Debug)]
pub struct ClientSpan {
    /// None if nobody will see it.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    spool: Arc<Spool>,
    ids: Ids,
    started: SystemTime,
    attempt: Attempt,
}

impl ClientSpan {
    /// Notes the upstream's status.
    pub fn answered(&mut self, status: http::StatusCode) {
        if let Some(open) = &mut self.open {
            open.attempt.status = Some(status.as_u16());
        }
    }

    /// Notes the tokens that the call used.
    pub fn used(&mut self, usage: &Usage) {
        if let Some(open) = &mut self.open {
            open.attempt.usage = Some(*usage);
        }
    }

    /// Ends the span as failed.
    pub fn failed(mut self, kind: &'static str) {
        if let Some(open) = &mut self.open {
            open.attempt.failure = Some(kind);
        }
        self.finish();
    }

    /// Ends the span.
    pub fn finish(self) {
        if let Some(Open { spool, ids, started, attempt }) = self.open {
            spool.put(Finished { ids, started, ended: SystemTime::now(), facts: Facts::Client(attempt) });
        }
    }
}

/// `version-traceid-parentid-flags` (W3C Trace Context, section 3.2); anything else is ignored.
fn parse_traceparent(value: &HeaderValue) -> Option<SpanContext> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known = version == "00" && parts.next().is_none();
    if !known || !lower_hex(trace, 32) || !lower_hex(span, 16) || !lower_hex(flags, 2) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_traceparent_is_linked() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(parse_traceparent(&HeaderValue::from_static(good)).is_some());
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse_traceparent(&HeaderValue::from_static(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_sent_upstream_names_this_span() {
        let span = RequestSpan::start(None, "GET", None);
        let value = span.traceparent().unwrap();
        let context = parse_traceparent(&value).unwrap();
        assert_eq!((context.trace_id(), context.span_id()), (span.trace, span.span));
        assert!(!context.is_sampled() && !span.is_recording());
        assert_eq!(span.trace_id().as_str(), span.trace.to_string());
    }
}
