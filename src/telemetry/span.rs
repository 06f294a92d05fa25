//! The facts of the three spans of a request, and what they look like to a backend.
//!
//! Names follow the HTTP semantic conventions (stable) and the GenAI ones (development); what has no convention is under `tidegate.*`.
//! A deny is an answer, not an error: the server span's status stays unset. Facts are shared with the request or are plain values, so
//! that making them costs a request next to nothing; the texts of a span are made by the thread that sends it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use http::uri::Authority;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::message::Target;
use crate::model::{ModelName, Principal, RecordId, Resource, RouteName, UpstreamRef, Usage};

/// Where the record of a crossing is: its id, and its place once it is written. The way from a span to its proof.
#[derive(Debug, Clone)]
pub struct RecordFacts {
    /// The record's id.
    pub id: RecordId,
    /// Its place in the journal; none if it was not written, or the route keeps no records.
    pub leaf: Option<LeafFacts>,
}

/// A record's place in the journal and in the tree of its log.
#[derive(Debug, Clone)]
pub struct LeafFacts {
    /// The number of the record in the journal.
    pub seq: u64,
    /// The log: the origin of its checkpoints.
    pub log: Arc<str>,
    /// The index of the leaf in that log.
    pub index: u64,
}

/// What one decision looked like.
#[derive(Debug)]
pub struct DecisionFacts {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The refusal's code; empty for a permit.
    pub code: &'static str,
    /// The deciding policies.
    pub policies: Vec<Arc<str>>,
    /// The Cedar action.
    pub action: &'static str,
    /// The resource; none if Cedar was not asked about any.
    pub resource: Option<Resource>,
    /// The principal.
    pub principal: Arc<Principal>,
    /// The bundle's hash.
    pub bundle: Arc<str>,
    /// Its record.
    pub record: RecordFacts,
}

/// What is known of a finished request.
#[derive(Debug)]
pub struct ServerFacts {
    /// The method, of a closed set.
    pub method: &'static str,
    /// The status that the caller got.
    pub status: u16,
    /// The route, once it was found: the low-cardinality part of the span's name.
    pub route: Option<RouteName>,
    /// What was asked for, once it was read.
    pub target: Option<Arc<Target>>,
    /// Whether the path is sure to name no object.
    pub path_is_plain: bool,
    /// Who connected.
    pub peer: SocketAddr,
    /// The refusal's code, if we answered ourselves.
    pub code: Option<&'static str>,
    /// The record of its last decision.
    pub record: RecordFacts,
}

/// What is known of an attempt when it starts.
#[derive(Debug)]
pub struct AttemptFacts {
    /// `chat`, `embeddings` or the HTTP method.
    pub operation: &'static str,
    /// The model, for a model call.
    pub model: Option<ModelName>,
    /// The far side.
    pub upstream: UpstreamRef,
    /// The endpoint.
    pub endpoint: Authority,
    /// The endpoint's port, also where it is the scheme's own.
    pub port: u16,
    /// The HTTP method.
    pub method: Method,
    /// 0 for the first attempt.
    pub resend: u32,
    /// What was done to the payload.
    pub protection: &'static str,
    /// The record of its decision.
    pub record: RecordFacts,
}

/// An attempt and what became of it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) facts: AttemptFacts,
    /// The upstream's status; none without an answer.
    pub(super) status: Option<u16>,
    pub(super) usage: Option<Usage>,
    /// Why it did not come to its end.
    pub(super) failure: Option<&'static str>,
}

/// Which span of which trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    /// [`SpanId::INVALID`] for the first span of a trace.
    pub(super) parent: SpanId,
}

/// A finished span.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) ids: Ids,
    pub(super) started: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) facts: Facts,
}

#[derive(Debug)]
pub(super) enum Facts {
    /// The request, and the caller's own span.
    Server(ServerFacts, Option<SpanContext>),
    Decision(DecisionFacts),
    Client(Attempt),
}

/// What the three kinds differ in.
struct Shown {
    kind: SpanKind,
    name: Cow<'static, str>,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Finished {
    /// The span as exporters know it.
    pub(super) fn data(self, scope: &InstrumentationScope) -> SpanData {
        let mut links = SpanLinks::default();
        let Shown { kind, name, attributes, status } = match self.facts {
            Facts::Server(facts, caller) => {
                links.links.extend(caller.map(Link::with_context));
                facts.shown()
            }
            Facts::Decision(facts) => facts.shown(),
            Facts::Client(attempt) => attempt.shown(),
        };
        let Ids { trace, span, parent } = self.ids;
        SpanData {
            span_context: SpanContext::new(trace, span, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: kind,
            name,
            start_time: self.started,
            end_time: self.ended,
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status,
            instrumentation_scope: scope.clone(),
        }
    }
}

impl RecordFacts {
    fn put(self, attributes: &mut Vec<KeyValue>) {
        attributes.push(KeyValue::new("tidegate.record", self.id.to_string()));
        if let Some(leaf) = self.leaf {
            attributes.push(KeyValue::new("tidegate.seq", number(leaf.seq)));
            attributes.push(KeyValue::new("tidegate.log", leaf.log));
            attributes.push(KeyValue::new("tidegate.leaf_index", number(leaf.index)));
        }
    }
}

impl ServerFacts {
    fn shown(self) -> Shown {
        let path = self.target.as_deref().filter(|_| self.path_is_plain).map_or("", Target::path);
        let host = self.target.as_deref().map_or("", Target::host);
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method),
            KeyValue::new("url.scheme", "https"),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("server.address", host.to_owned()),
            KeyValue::new("client.address", self.peer.ip().to_string()),
            KeyValue::new("http.response.status_code", i64::from(self.status)),
        ];
        self.record.put(&mut attributes);
        let name = match &self.route {
            Some(route) => {
                attributes.push(KeyValue::new("http.route", route.shared()));
                format!("{} {route}", self.method).into()
            }
            None => self.method.into(),
        };
        attributes.extend(self.code.map(|code| KeyValue::new("tidegate.code", code)));
        let failed = self.status >= 500;
        attributes.extend(failed.then(|| KeyValue::new("error.type", self.status.to_string())));
        let status = if failed { Status::error("") } else { Status::Unset };
        Shown { kind: SpanKind::Server, name, attributes, status }
    }
}

impl DecisionFacts {
    fn shown(self) -> Shown {
        let policies: Vec<StringValue> = self.policies.into_iter().map(Into::into).collect();
        let resource = self.resource.map(|resource| resource.to_string()).unwrap_or_default();
        let principal = format!("{}::\"{}\"", self.principal.kind.name(), self.principal.id);
        let mut attributes = vec![
            KeyValue::new("tidegate.decision", self.decision),
            KeyValue::new("tidegate.action", self.action),
            KeyValue::new("tidegate.resource", resource),
            KeyValue::new("tidegate.principal", principal),
            KeyValue::new("tidegate.policies", Value::Array(Array::String(policies))),
            KeyValue::new("tidegate.bundle", self.bundle),
        ];
        self.record.put(&mut attributes);
        if !self.code.is_empty() {
            attributes.push(KeyValue::new("tidegate.code", self.code));
        }
        Shown { kind: SpanKind::Internal, name: "decide".into(), attributes, status: Status::Unset }
    }
}

impl Attempt {
    /// `chat {model}` by the GenAI conventions, `{method}` otherwise.
    fn shown(self) -> Shown {
        let facts = self.facts;
        let mut attributes = vec![
            KeyValue::new("http.request.method", facts.method.to_string()),
            KeyValue::new("server.address", facts.endpoint.host().to_owned()),
            KeyValue::new("server.port", i64::from(facts.port)),
            KeyValue::new("tidegate.upstream", facts.upstream.shared()),
            KeyValue::new("tidegate.protection", facts.protection),
        ];
        facts.record.put(&mut attributes);
        if facts.resend > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(facts.resend)));
        }
        let name = match facts.model {
            Some(model) => {
                let name = format!("{} {model}", facts.operation);
                attributes.push(KeyValue::new("gen_ai.operation.name", facts.operation));
                attributes.push(KeyValue::new("gen_ai.provider.name", "openai"));
                attributes.push(KeyValue::new("gen_ai.request.model", model.shared()));
                name
            }
            None => facts.method.to_string(),
        };
        let answered =
            self.status.map(|status| KeyValue::new("http.response.status_code", i64::from(status)));
        attributes.extend(answered);
        if let Some(usage) = &self.usage {
            used(usage, &mut attributes);
        }
        attributes.extend(self.failure.map(|kind| KeyValue::new("error.type", kind)));
        let status = match (self.failure, self.status) {
            (Some(kind), _) => Status::error(kind),
            (None, Some(400..)) => Status::error(""),
            (None, _) => Status::Unset,
        };
        Shown { kind: SpanKind::Client, name: name.into(), attributes, status }
    }
}

fn used(usage: &Usage, attributes: &mut Vec<KeyValue>) {
    attributes.push(KeyValue::new("gen_ai.usage.input_tokens", number(usage.input_tokens)));
    attributes.push(KeyValue::new("gen_ai.usage.output_tokens", number(usage.output_tokens)));
    if let Some(cached) = usage.cached_input_tokens {
        attributes.push(KeyValue::new("gen_ai.usage.cache_read.input_tokens", number(cached)));
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        attributes.push(KeyValue::new("gen_ai.usage.reasoning.output_tokens", number(reasoning)));
    }
}

/// OpenTelemetry has signed numbers only.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn facts(status: u16) -> ServerFacts {
        ServerFacts {
            method: "GET",
            status,
            route: Some("models".parse().unwrap()),
            target: None,
            path_is_plain: false,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            code: None,
            record: RecordFacts { id: RecordId::new(), leaf: None },
        }
    }

    pub(crate) fn finished() -> Finished {
        let ids = Ids { trace: TraceId::from(1), span: SpanId::from(2), parent: SpanId::INVALID };
        let now = SystemTime::now();
        Finished { ids, started: now, ended: now, facts: Facts::Server(facts(200), None) }
    }

    #[test]
    fn a_refusal_is_an_answer_and_a_fault_of_ours_is_an_error() {
        assert_eq!(facts(403).shown().status, Status::Unset);
        let failed = facts(503).shown();
        assert_eq!((failed.name.as_ref(), failed.status), ("GET models", Status::error("")));
        assert!(failed.attributes.contains(&KeyValue::new("error.type", "503")));
    }
}
