//! The facts of the three spans of a request, and what they look like to a backend.
//!
//! Names follow the HTTP semantic conventions (stable) and the GenAI ones (development); what has no convention is under `tidegate.*`.
//! A deny is an answer, not an error: the server span's status stays unset. Facts are shared with the request or are plain values, so
//! that making them costs a request next to nothing; a span is made of them by the thread that sends it.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Method;
use http::uri::Authority;
use opentelemetry::trace::{SpanContext, SpanId, TraceId};

use super::otlp::Attributes;
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

/// Whose side of the request a span shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Internal,
    Server,
    Client,
}

/// How it ended; unset is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Unset,
    /// With a description, or none.
    Error(&'static str),
}

impl Facts {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Server(..) => Kind::Server,
            Self::Decision(_) => Kind::Internal,
            Self::Client(_) => Kind::Client,
        }
    }

    /// The span's name, of low cardinality.
    pub(super) const fn name(&self) -> Name<'_> {
        Name(self)
    }

    /// The caller's own span, which is linked and not continued.
    pub(super) const fn caller(&self) -> Option<&SpanContext> {
        match self {
            Self::Server(_, caller) => caller.as_ref(),
            _ => None,
        }
    }

    pub(super) const fn status(&self) -> Status {
        match self {
            Self::Server(ServerFacts { status: 500.., .. }, _) => Status::Error(""),
            Self::Client(Attempt { failure: Some(kind), .. }) => Status::Error(kind),
            Self::Client(Attempt { status: Some(400..), .. }) => Status::Error(""),
            _ => Status::Unset,
        }
    }

    pub(super) fn put(&self, attributes: &mut Attributes<'_>) {
        match self {
            Self::Server(facts, _) => facts.put(attributes),
            Self::Decision(facts) => facts.put(attributes),
            Self::Client(attempt) => attempt.put(attributes),
        }
    }
}

/// `{method} {route}`, `decide`, and `chat {model}` by the GenAI conventions, or `{method}` where there is none.
pub(super) struct Name<'a>(&'a Facts);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Facts::Server(ServerFacts { method, route: Some(route), .. }, _) => write!(f, "{method} {route}"),
            Facts::Server(facts, _) => f.write_str(facts.method),
            Facts::Decision(_) => f.write_str("decide"),
            Facts::Client(Attempt { facts, .. }) => match &facts.model {
                Some(model) => write!(f, "{} {model}", facts.operation),
                None => f.write_str(facts.method.as_str()),
            },
        }
    }
}

impl RecordFacts {
    fn put(&self, attributes: &mut Attributes<'_>) {
        attributes.shown("tidegate.record", self.id);
        if let Some(leaf) = &self.leaf {
            attributes.number("tidegate.seq", leaf.seq);
            attributes.text("tidegate.log", &leaf.log);
            attributes.number("tidegate.leaf_index", leaf.index);
        }
    }
}

impl ServerFacts {
    fn put(&self, attributes: &mut Attributes<'_>) {
        let target = self.target.as_deref();
        attributes.text("http.request.method", self.method);
        attributes.text("url.scheme", "https");
        attributes.text("url.path", target.filter(|_| self.path_is_plain).map_or("", Target::path));
        attributes.text("server.address", target.map_or("", Target::host));
        attributes.shown("client.address", self.peer.ip());
        attributes.number("http.response.status_code", self.status);
        self.record.put(attributes);
        if let Some(route) = &self.route {
            attributes.text("http.route", route.as_str());
        }
        if let Some(code) = self.code {
            attributes.text("tidegate.code", code);
        }
        if self.status >= 500 {
            attributes.shown("error.type", self.status);
        }
    }
}

impl DecisionFacts {
    fn put(&self, attributes: &mut Attributes<'_>) {
        let principal = &self.principal;
        attributes.text("tidegate.decision", self.decision);
        attributes.text("tidegate.action", self.action);
        match &self.resource {
            Some(resource) => attributes.shown("tidegate.resource", resource),
            None => attributes.text("tidegate.resource", ""),
        }
        attributes
            .shown("tidegate.principal", format_args!("{}::\"{}\"", principal.kind.name(), principal.id));
        attributes.list("tidegate.policies", self.policies.iter().map(AsRef::as_ref));
        attributes.text("tidegate.bundle", &self.bundle);
        self.record.put(attributes);
        if !self.code.is_empty() {
            attributes.text("tidegate.code", self.code);
        }
    }
}

impl Attempt {
    fn put(&self, attributes: &mut Attributes<'_>) {
        let facts = &self.facts;
        attributes.text("http.request.method", facts.method.as_str());
        attributes.text("server.address", facts.endpoint.host());
        attributes.number("server.port", facts.port);
        attributes.text("tidegate.upstream", facts.upstream.name());
        attributes.text("tidegate.protection", facts.protection);
        facts.record.put(attributes);
        if facts.resend > 0 {
            attributes.number("http.request.resend_count", facts.resend);
        }
        if let Some(model) = &facts.model {
            attributes.text("gen_ai.operation.name", facts.operation);
            attributes.text("gen_ai.provider.name", "openai");
            attributes.text("gen_ai.request.model", model.as_str());
        }
        if let Some(status) = self.status {
            attributes.number("http.response.status_code", status);
        }
        if let Some(usage) = &self.usage {
            used(usage, attributes);
        }
        if let Some(kind) = self.failure {
            attributes.text("error.type", kind);
        }
    }
}

fn used(usage: &Usage, attributes: &mut Attributes<'_>) {
    attributes.number("gen_ai.usage.input_tokens", usage.input_tokens);
    attributes.number("gen_ai.usage.output_tokens", usage.output_tokens);
    if let Some(cached) = usage.cached_input_tokens {
        attributes.number("gen_ai.usage.cache_read.input_tokens", cached);
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        attributes.number("gen_ai.usage.reasoning.output_tokens", reasoning);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderMap;
    use opentelemetry::trace::{TraceFlags, TraceState};

    use super::*;
    use crate::model::PrincipalKind;

    fn record() -> RecordFacts {
        let leaf = LeafFacts { seq: 7, log: "border-1".into(), index: 7 };
        RecordFacts { id: RecordId::new(), leaf: Some(leaf) }
    }

    pub(crate) fn server(status: u16) -> Facts {
        let uri = "https://gateway.example/v1/chat/completions".parse().unwrap();
        let facts = ServerFacts {
            method: "POST",
            status,
            route: Some("chat".parse().unwrap()),
            target: Some(Arc::new(Target::parse(&uri, &HeaderMap::new(), 1024).unwrap())),
            path_is_plain: true,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            code: None,
            record: record(),
        };
        let (trace, span, flags) = (TraceId::from(3), SpanId::from(4), TraceFlags::SAMPLED);
        Facts::Server(facts, Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)))
    }

    pub(crate) fn principal() -> Arc<Principal> {
        Arc::new(Principal::fixture(PrincipalKind::User, "https://issuer.example|ada", "acme"))
    }

    pub(crate) fn decision() -> Facts {
        Facts::Decision(DecisionFacts {
            decision: "allow",
            code: "",
            policies: vec!["a".into(), "b".into()],
            action: "infer",
            resource: None,
            principal: principal(),
            bundle: "00ff".into(),
            record: record(),
        })
    }

    /// One that broke off after twelve tokens.
    pub(crate) fn attempt() -> Facts {
        let facts = AttemptFacts {
            operation: "chat",
            model: Some("tide-small".parse().unwrap()),
            upstream: UpstreamRef::Cluster("eu".parse().unwrap()),
            endpoint: Authority::from_static("gpu.example:8443"),
            port: 8443,
            method: Method::POST,
            resend: 1,
            protection: "none",
            record: record(),
        };
        let usage = Usage { input_tokens: 3, output_tokens: 12, ..Usage::default() };
        Facts::Client(Attempt {
            facts,
            status: Some(200),
            usage: Some(usage),
            failure: Some("upstream_reset"),
        })
    }

    /// A span of a microsecond.
    pub(crate) fn finished(facts: Facts) -> Finished {
        let ids = Ids { trace: TraceId::from(1), span: SpanId::from(2), parent: SpanId::INVALID };
        let started = UNIX_EPOCH + Duration::from_secs(1);
        Finished { ids, started, ended: started + Duration::from_micros(1), facts }
    }

    #[test]
    fn a_refusal_is_an_answer_and_a_fault_of_ours_is_an_error() {
        assert_eq!(server(403).status(), Status::Unset);
        assert_eq!(server(503).status(), Status::Error(""));
    }
}
