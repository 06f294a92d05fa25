//! One request's facts as they become known, its open record, and its end if it is refused.
//!
//! Filled step by step; whatever is known when the request ends goes into its record. Dropped unfinished (the
//! caller hung up while we worked), it still ends its span, its metrics and its record.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::audit::record::{Ending, Outcome};
use crate::audit::{Audit, Draft, Unavailable, Written};
use crate::inspect::{Inspected, StoreCall};
use crate::message::{Body, Connection, Inbound, Target};
use crate::model::{Action, AuditMode, Authn, Label, Principal, RecordId, Resource, RouteKind};
use crate::protect::{Opened, WireDigest};
use crate::route::Route;
use crate::telemetry::{
    LeafFacts, RecordFacts, RequestSpan, ServerFacts, ServerRequest, Telemetry, TraceText,
};

use super::completion::Closing;
use super::payload::Sent;
use super::record;
use super::reject::Reject;

/// The header that carries the record's id on every answer.
const RECORD_HEADER: HeaderName = HeaderName::from_static("tidegate-record");
/// W3C Trace Context, section 3.2.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The caller went away before there was an answer; nginx's code for it.
const CLIENT_GONE: u16 = 499;

/// One request from its head to its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) facts: Facts,
    /// Open from identification on.
    pub(crate) draft: Option<Draft>,
    /// The decision that was written last says what happened; only its outcome is owed.
    pub(crate) recorded: bool,
    pub(crate) sent: Arc<Sent>,
    /// Where the crossing waits for the end of its sealed answer.
    pub(crate) closing: Arc<Closing>,
    /// The sealed message that the last attempt left in.
    pub(crate) sealed: Option<WireDigest>,
    /// Taken by whoever ends the request.
    pub(crate) finish: Option<Finish>,
}

/// What is known of the request.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) id: RecordId,
    pub(crate) peer: SocketAddr,
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) user_agent: Option<HeaderValue>,
    pub(crate) bundle: Arc<str>,
    pub(crate) trace_id: TraceText,
    pub(crate) target: Option<Arc<Target>>,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) principal: Option<Arc<Principal>>,
    /// The sealed message that the request came in, once it was opened.
    pub(crate) opened: Option<Arc<Opened>>,
    /// Whether what is answered to it goes back sealed.
    pub(crate) answers_sealed: bool,
    pub(crate) asked: Option<Asked>,
}

/// What inspection found.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) action: Action,
    pub(crate) resource: Option<Resource>,
    pub(crate) label: Label,
    pub(crate) bytes: u64,
    pub(crate) store: Option<StoreCall>,
}

/// What ends with the request: its span and its place in the metrics.
#[derive(Debug)]
pub(crate) struct Finish {
    id: RecordId,
    pub(crate) started: Instant,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) span: RequestSpan,
    method: Method,
    route: Option<Arc<Route>>,
    peer: SocketAddr,
    target: Option<Arc<Target>>,
    /// Whether the path is sure to name no object.
    path_is_plain: bool,
    code: Option<&'static str>,
    /// Where the last decision is recorded.
    written: Option<Written>,
}

impl Exchange {
    pub(crate) fn begin<B>(
        connection: &Connection,
        request: &Request<B>,
        telemetry: Arc<Telemetry>,
        bundle: &Arc<str>,
    ) -> Self {
        let (id, method) = (RecordId::new(), request.method().clone());
        let span = telemetry.request(known_method(&method), request.headers().get(TRACEPARENT));
        telemetry.metrics().request_began();
        let facts = Facts {
            id,
            peer: connection.peer,
            method: method.clone(),
            version: request.version(),
            user_agent: request.headers().get(USER_AGENT).cloned(),
            bundle: Arc::clone(bundle),
            trace_id: span.trace_id(),
            target: None,
            route: None,
            principal: None,
            opened: None,
            answers_sealed: false,
            asked: None,
        };
        let finish = Finish {
            id,
            started: Instant::now(),
            telemetry,
            span,
            method,
            route: None,
            peer: connection.peer,
            target: None,
            path_is_plain: false,
            code: None,
            written: None,
        };
        Self {
            facts,
            draft: None,
            recorded: false,
            sent: Arc::default(),
            closing: Arc::default(),
            sealed: None,
            finish: Some(finish),
        }
    }

    pub(crate) fn parsed(&mut self, inbound: &Inbound) {
        self.facts.target = Some(Arc::clone(&inbound.target));
        if let Some(finish) = &mut self.finish {
            finish.target = Some(Arc::clone(&inbound.target));
        }
    }

    pub(crate) fn routed(&mut self, route: &Arc<Route>) {
        self.facts.route = Some(Arc::clone(route));
        let path_is_plain = !self.facts.is_store();
        if let Some(finish) = &mut self.finish {
            finish.route = Some(Arc::clone(route));
            finish.path_is_plain = path_is_plain;
        }
    }

    /// From here on every refusal is a record of its own, so the places in the journal are reserved now.
    pub(crate) fn identified(
        &mut self,
        principal: &Arc<Principal>,
        audit: &Audit,
    ) -> Result<(), Unavailable> {
        self.facts.principal = Some(Arc::clone(principal));
        self.draft = Some(audit.draft(self.facts.id, self.facts.mode())?);
        Ok(())
    }

    /// The request came sealed and was opened.
    pub(crate) fn opened(&mut self, opened: Opened, answers_sealed: bool) {
        self.facts.opened = Some(Arc::new(opened));
        self.facts.answers_sealed = answers_sealed;
    }

    /// The digest of the sealed request: of the one that came, or else of the one that left.
    pub(crate) fn request_ciphertext(&self) -> Option<WireDigest> {
        self.facts.opened.as_ref().map(|opened| opened.wire.clone()).or_else(|| self.sealed.clone())
    }

    pub(crate) fn inspected(&mut self, inspected: &Inspected) {
        let store = match &inspected.operation {
            crate::inspect::Operation::Store(call) => Some(call.clone()),
            _ => None,
        };
        self.facts.asked = Some(Asked {
            action: inspected.action,
            resource: inspected.candidates.first().map(|candidate| candidate.resource.clone()),
            label: inspected.label.clone(),
            bytes: inspected.bytes,
            store,
        });
    }

    pub(crate) fn span(&self) -> Option<&RequestSpan> {
        self.finish.as_ref().map(|finish| &finish.span)
    }

    /// The facts beside the open record.
    pub(crate) fn parts(&mut self) -> Result<(&Facts, &mut Draft), Reject> {
        match &mut self.draft {
            Some(draft) => Ok((&self.facts, draft)),
            None => Err(Reject::internal("a decision was taken without an open record")),
        }
    }

    /// Whether the decision that was taken last is in the journal; then its spans say where.
    pub(crate) fn recorded(&mut self, recorded: bool) {
        self.recorded = recorded;
        let written = self.draft.as_ref().filter(|_| recorded).and_then(Draft::written).cloned();
        if let Some(finish) = &mut self.finish {
            finish.written = written;
        }
    }

    /// The attempt that was recorded last, from 1; 0 before the first.
    pub(crate) fn attempt(&self) -> u16 {
        self.draft.as_ref().map_or(0, Draft::attempt)
    }

    /// Records the refusal, then answers it. A refusal that cannot be recorded is a 503.
    pub(crate) async fn refuse(mut self, reject: Reject, audit: &Audit) -> Response<Body> {
        let reject = self.record_refusal(reject, audit).await;
        let (record, code, cause) = (self.facts.id, reject.code(), reject.cause());
        if reject.status().is_server_error() || code == "policy_error" {
            tracing::warn!(%record, code, cause, "request refused");
        } else {
            tracing::debug!(%record, code, cause, "request refused");
        }
        let mut response = reject.response(Some(record));
        stamp(&mut response, record);
        if let Some(mut finish) = self.finish.take() {
            finish.telemetry.metrics().rejected(code);
            finish.code = Some(code);
            finish.end(response.status());
        }
        response
    }

    async fn record_refusal(&mut self, reject: Reject, audit: &Audit) -> Reject {
        let Some(mut draft) = self.draft.take() else {
            // A refusal for want of a journal cannot be in it.
            if reject.code() != "audit_unavailable" {
                audit.refusal(self.facts.id, self.facts.peer.ip(), &record::refusal(&self.facts, &reject));
            }
            return reject;
        };
        if self.recorded || reject.code() == "audit_unavailable" {
            draft.close(&self.refused(&reject));
            return reject;
        }
        if self.facts.is_anonymous() {
            // Nobody answers for an anonymous caller, so their refusals are limited like those before identification.
            draft.refuse(self.facts.peer.ip(), &record::refusal(&self.facts, &reject));
            return reject;
        }
        let record = match record::rejected(&self.facts, &reject, audit) {
            Ok(record) => record,
            Err(error) => return Reject::from(error),
        };
        if let Err(error) = draft.decision(&record).await {
            return Reject::from(error);
        }
        if let Some(finish) = &mut self.finish {
            finish.written = draft.written().cloned();
        }
        draft.close(&self.refused(&reject));
        reject
    }

    /// The outcome of an attempt that we answered ourselves, or that another one follows.
    pub(crate) fn refused(&self, reject: &Reject) -> Outcome<'static> {
        Outcome {
            status: Some(reject.status().as_u16()),
            code: Some(reject.code().into()),
            withdrawn: reject.ended().map(|ended| Box::new(ended.facts())),
            ..self.outcome(reject.ending())
        }
    }

    fn outcome(&self, ending: Ending) -> Outcome<'static> {
        let elapsed = self.finish.as_ref().map_or(Duration::ZERO, |finish| finish.started.elapsed());
        Outcome {
            request_bytes: self.sent.bytes(),
            request_digest: self.sent.digest().map(|digest| digest.to_owned().into()),
            request_ciphertext: digest_of(self.request_ciphertext().as_ref()),
            duration_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            ..Outcome::bare(ending)
        }
    }

    /// Closes the record of an attempt that another one follows.
    pub(crate) fn attempt_failed(&mut self, failure: &Reject) {
        let outcome = self.refused(failure);
        if let Some(draft) = &mut self.draft {
            draft.outcome(&outcome);
        }
    }
}

impl Drop for Exchange {
    /// The caller hung up before there was an answer, or a stage panicked beyond catching.
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take() {
            if draft.attempt() == 0 {
                let gone = Reject::new("client_gone", "the client went away");
                draft.refuse(self.facts.peer.ip(), &record::refusal(&self.facts, &gone));
            } else {
                let ending = if std::thread::panicking() { Ending::Panicked } else { Ending::ClientGone };
                draft.close(&self.outcome(ending));
            }
        }
        if let Some(finish) = self.finish.take() {
            finish.end(StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST));
        }
    }
}

impl Facts {
    pub(crate) fn mode(&self) -> AuditMode {
        self.route.as_ref().map_or(AuditMode::Required, |route| route.audit)
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.principal.as_ref().is_some_and(|principal| principal.authn == Authn::Anonymous)
    }

    /// The message that the answer is to be sealed behind.
    pub(crate) fn owed_sealed(&self) -> Option<&Arc<Opened>> {
        self.opened.as_ref().filter(|_| self.answers_sealed)
    }

    /// Whether the path names an object, which records and spans hold only as a digest.
    pub(crate) fn is_store(&self) -> bool {
        self.route.as_ref().is_some_and(|route| matches!(route.kind, RouteKind::Store { .. }))
    }

    /// The path if it is sure to name no object: before routing nobody knows.
    pub(crate) fn plain_path(&self) -> Option<&str> {
        let sure = self.route.is_some() && !self.is_store();
        self.target.as_ref().filter(|_| sure).map(|target| target.path())
    }
}

/// What spans say of a record.
fn place(id: RecordId, written: Option<&Written>) -> RecordFacts {
    let leaf = |written: &Written| LeafFacts {
        seq: written.seq,
        log: Arc::clone(&written.log),
        index: written.leaf_index,
    };
    RecordFacts { id, leaf: written.map(leaf) }
}

impl Finish {
    /// The record of the last decision, for spans.
    pub(crate) fn record(&self) -> RecordFacts {
        place(self.id, self.written.as_ref())
    }

    /// Ends span and metrics.
    pub(crate) fn end(self, status: StatusCode) {
        let route = self.route.as_ref().map(|route| &route.name);
        let method = known_method(&self.method);
        self.telemetry.metrics().request_ended(&ServerRequest {
            route,
            method,
            status: status.as_u16(),
            duration: self.started.elapsed(),
        });
        let record = self.record();
        self.span.finish(ServerFacts {
            method,
            status: status.as_u16(),
            route: route.cloned(),
            target: self.target,
            path_is_plain: self.path_is_plain,
            peer: self.peer,
            code: self.code,
            record,
        });
    }
}

/// What a record says of a sealed body.
pub(crate) fn digest_of(wire: Option<&WireDigest>) -> Option<Cow<'static, str>> {
    wire.and_then(WireDigest::get).map(|digest| digest.to_owned().into())
}

/// Puts the record's id on an answer.
pub(crate) fn stamp(response: &mut Response<Body>, id: RecordId) {
    response.headers_mut().insert(RECORD_HEADER, id.into());
}

/// The method as a metric label and span name: a closed set, whatever a caller sends.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}
