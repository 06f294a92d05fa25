//! The three spans of a request: server, decision, client.
//!
//! Names follow the HTTP semantic conventions (stable) and the GenAI ones (development); what has no
//! convention is under `tidegate.*`. A deny is an answer, not an error: the server span's status stays unset.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, StringValue};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use crate::model::{RecordId, Usage};

/// The server span of one request.
#[derive(Debug)]
pub struct RequestSpan {
    tracer: SdkTracer,
    span: Span,
}

/// Where the record of a crossing is: its id, and its place once it is written. The way from a span to its proof.
#[derive(Debug, Clone, Copy)]
pub struct RecordFacts<'a> {
    /// The record's id.
    pub id: RecordId,
    /// Its place in the journal; none if it was not written, or the route keeps no records.
    pub leaf: Option<LeafFacts<'a>>,
}

/// A record's place in the journal and in the tree of its log.
#[derive(Debug, Clone, Copy)]
pub struct LeafFacts<'a> {
    /// The number of the record in the journal.
    pub seq: u64,
    /// The log: the origin of its checkpoints.
    pub log: &'a str,
    /// The index of the leaf in that log.
    pub index: u64,
}

impl RecordFacts<'_> {
    fn put(&self, attributes: &mut Vec<KeyValue>) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        attributes.push(KeyValue::new("tidegate.record", self.id.to_string()));
        if let Some(leaf) = &self.leaf {
            attributes.push(KeyValue::new("tidegate.seq", number(leaf.seq)));
            attributes.push(KeyValue::new("tidegate.log", leaf.log.to_owned()));
            attributes.push(KeyValue::new("tidegate.leaf_index", number(leaf.index)));
        }
    }
}

/// What one decision looked like, for its span.
#[derive(Debug)]
pub struct DecisionFacts<'a> {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The refusal's code; empty for a permit.
    pub code: &'static str,
    /// The deciding policies.
    pub policies: &'a [std::sync::Arc<str>],
    /// The Cedar action.
    pub action: &'static str,
    /// The resource.
    pub resource: String,
    /// The principal, `User::"…"`.
    pub principal: String,
    /// The bundle's hash.
    pub bundle: &'a str,
    /// Its record.
    pub record: RecordFacts<'a>,
}

/// What the server span says about a finished request.
#[derive(Debug)]
pub struct ServerFacts {
    /// The method, of a closed set.
    pub method: &'static str,
    /// The status that the caller got.
    pub status: u16,
    /// The decoded path; empty if it was refused before it was known, or may name an object.
    pub path: String,
    /// The host asked for.
    pub host: String,
    /// Who connected.
    pub peer: std::net::SocketAddr,
    /// The refusal's code, if we answered ourselves.
    pub code: Option<&'static str>,
}

/// What the client span says about an attempt when it starts.
#[derive(Debug)]
pub struct AttemptFacts<'a> {
    /// `chat`, `embeddings` or the HTTP method.
    pub operation: &'static str,
    /// The model, for a model call.
    pub model: Option<&'a str>,
    /// The configured name of the far side.
    pub upstream: &'a str,
    /// The endpoint's host.
    pub endpoint: &'a str,
    /// The endpoint's port.
    pub port: u16,
    /// The HTTP method.
    pub method: &'a str,
    /// 0 for the first attempt.
    pub resend: u32,
    /// What was done to the payload.
    pub protection: &'static str,
    /// The record of its decision.
    pub record: RecordFacts<'a>,
}

impl RequestSpan {
    pub(super) fn start(tracer: SdkTracer, method: &'static str, traceparent: Option<&HeaderValue>) -> Self {
        let mut builder = SpanBuilder::from_name(method).with_kind(SpanKind::Server);
        if let Some(caller) = traceparent.and_then(parse_traceparent) {
            builder = builder.with_links(vec![Link::with_context(caller)]);
        }
        let span = tracer.build_with_context(builder, &Context::new());
        Self { tracer, span }
    }

    /// The trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.span.span_context().trace_id().to_string()
    }

    /// A `traceparent` value that makes an upstream's spans children of this request.
    #[must_use]
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let context = self.span.span_context();
        let value =
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        HeaderValue::from_str(&value).ok()
    }

    /// Whether anybody will see what is put on it.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.span.is_recording()
    }

    /// Emits the span of a decision, with when it began and how long it took.
    pub fn decision(&self, (started, took): (SystemTime, Duration), facts: &DecisionFacts<'_>) {
        let policies: Vec<StringValue> = facts.policies.iter().map(|id| id.to_string().into()).collect();
        let mut attributes = vec![
            KeyValue::new("tidegate.decision", facts.decision),
            KeyValue::new("tidegate.action", facts.action),
            KeyValue::new("tidegate.resource", facts.resource.clone()),
            KeyValue::new("tidegate.principal", facts.principal.clone()),
            KeyValue::new("tidegate.policies", opentelemetry::Value::Array(policies.into())),
            KeyValue::new("tidegate.bundle", facts.bundle.to_owned()),
        ];
        facts.record.put(&mut attributes);
        if !facts.code.is_empty() {
            attributes.push(KeyValue::new("tidegate.code", facts.code));
        }
        let builder = SpanBuilder::from_name("decide")
            .with_kind(SpanKind::Internal)
            .with_start_time(started)
            .with_attributes(attributes);
        self.tracer.build_with_context(builder, &self.context()).end_with_timestamp(started + took);
    }

    /// Starts the client span of one attempt: `chat {model}` by the GenAI conventions, `{method}` otherwise.
    #[must_use]
    pub fn client(&self, facts: &AttemptFacts<'_>) -> ClientSpan {
        let mut attributes = vec![
            KeyValue::new("http.request.method", facts.method.to_owned()),
            KeyValue::new("server.address", facts.endpoint.to_owned()),
            KeyValue::new("server.port", i64::from(facts.port)),
            KeyValue::new("tidegate.upstream", facts.upstream.to_owned()),
            KeyValue::new("tidegate.protection", facts.protection),
        ];
        facts.record.put(&mut attributes);
        if facts.resend > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(facts.resend)));
        }
        let name = match facts.model {
            Some(model) => {
                attributes.push(KeyValue::new("gen_ai.operation.name", facts.operation));
                attributes.push(KeyValue::new("gen_ai.provider.name", "openai"));
                attributes.push(KeyValue::new("gen_ai.request.model", model.to_owned()));
                format!("{} {model}", facts.operation)
            }
            None => facts.method.to_owned(),
        };
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Client).with_attributes(attributes);
        ClientSpan { span: self.tracer.build_with_context(builder, &self.context()) }
    }

    /// Ends the span. `route` is the low-cardinality part of its name.
    pub fn finish(mut self, route: Option<&str>, record: &RecordFacts<'_>, facts: ServerFacts) {
        if self.span.is_recording() {
            let mut attributes = vec![
                KeyValue::new("http.request.method", facts.method),
                KeyValue::new("url.scheme", "https"),
                KeyValue::new("url.path", facts.path),
                KeyValue::new("server.address", facts.host),
                KeyValue::new("client.address", facts.peer.ip().to_string()),
                KeyValue::new("http.response.status_code", i64::from(facts.status)),
            ];
            record.put(&mut attributes);
            if let Some(route) = route {
                self.span.update_name(format!("{} {route}", facts.method));
                attributes.push(KeyValue::new("http.route", route.to_owned()));
            }
            if let Some(code) = facts.code {
                attributes.push(KeyValue::new("tidegate.code", code));
            }
            if facts.status >= 500 {
                attributes.push(KeyValue::new("error.type", facts.status.to_string()));
                self.span.set_status(Status::error(""));
            }
            self.span.set_attributes(attributes);
        }
        self.span.end();
    }

    fn context(&self) -> Context {
        Context::new().with_remote_span_context(self.span.span_context().clone())
    }
}

/// The client span of one attempt; ends when the answer's body ends.
#[derive(Debug)]
pub struct ClientSpan {
    span: Span,
}

impl ClientSpan {
    /// Notes the upstream's status.
    pub fn answered(&mut self, status: http::StatusCode) {
        self.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_client_error() || status.is_server_error() {
            self.span.set_status(Status::error(""));
        }
    }

    /// Notes the tokens that the call used.
    pub fn used(&mut self, usage: &Usage) {
        let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new("gen_ai.usage.input_tokens", tokens(usage.input_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", tokens(usage.output_tokens)),
        ];
        if let Some(cached) = usage.cached_input_tokens {
            attributes.push(KeyValue::new("gen_ai.usage.cache_read.input_tokens", tokens(cached)));
        }
        if let Some(reasoning) = usage.reasoning_tokens {
            attributes.push(KeyValue::new("gen_ai.usage.reasoning.output_tokens", tokens(reasoning)));
        }
        self.span.set_attributes(attributes);
    }

    /// Ends the span as failed.
    pub fn failed(mut self, kind: &'static str) {
        self.span.set_attribute(KeyValue::new("error.type", kind));
        self.span.set_status(Status::error(kind));
        self.span.end();
    }

    /// Ends the span.
    pub fn finish(mut self) {
        self.span.end();
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
}
