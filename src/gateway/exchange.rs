//! One request's facts as they become known, and its end if it is refused.
//!
//! Filled step by step; whatever is known when the request ends goes into its record. Dropped unfinished (the
//! caller hung up while we worked), it still ends its span, its metrics and its record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::audit::record::Outcome;
use crate::audit::{Audit, Draft, Unavailable};
use crate::inspect::Inspected;
use crate::message::{Body, Connection, Inbound};
use crate::model::{AuditMode, Label, Principal, RecordId};
use crate::route::Route;
use crate::telemetry::{RequestSpan, ServerFacts, ServerRequest, Telemetry};

use super::record;
use super::reject::Reject;

/// The header that carries the record's id on every answer.
pub(crate) const RECORD_HEADER: &str = "tidegate-record";

/// What is known of one request.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: RecordId,
    pub(crate) peer: SocketAddr,
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) request: Option<RequestFacts>,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) principal: Option<Arc<Principal>>,
    pub(crate) label: Option<Label>,
    pub(crate) draft: Option<Draft>,
    /// The decision that was written last says what happened; only its outcome is owed.
    pub(crate) recorded: bool,
    pub(crate) attempt: u16,
    pub(crate) bundle: String,
    pub(crate) user_agent: Option<String>,
    pub(crate) request_bytes: Arc<AtomicU64>,
    pub(crate) finish: Option<Finish>,
}

/// The request's line and host, as the gate found them.
#[derive(Debug, Clone)]
pub(crate) struct RequestFacts {
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
}

/// What ends with the request: its span and its place in the metrics.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) id: RecordId,
    pub(crate) started: Instant,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) span: RequestSpan,
    pub(crate) method: Method,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) peer: SocketAddr,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) code: Option<&'static str>,
}

impl Exchange {
    pub(crate) fn begin<B>(
        connection: &Connection,
        request: &Request<B>,
        telemetry: Arc<Telemetry>,
        bundle: &str,
    ) -> Self {
        let id = RecordId::new();
        let span = telemetry.request(request.method(), request.headers().get("traceparent"));
        telemetry.metrics().request_began();
        let finish = Finish {
            id,
            started: Instant::now(),
            telemetry,
            span,
            method: request.method().clone(),
            route: None,
            peer: connection.peer,
            path: String::new(),
            host: String::new(),
            code: None,
        };
        Self {
            id,
            peer: connection.peer,
            method: request.method().clone(),
            version: request.version(),
            request: None,
            route: None,
            principal: None,
            label: None,
            draft: None,
            recorded: false,
            attempt: 0,
            bundle: bundle.to_owned(),
            user_agent: request.headers().get(USER_AGENT).and_then(|v| v.to_str().ok()).map(str::to_owned),
            request_bytes: Arc::default(),
            finish: Some(finish),
        }
    }

    pub(crate) fn parsed(&mut self, inbound: &Inbound) {
        let target = &inbound.target;
        if let Some(finish) = &mut self.finish {
            target.path().clone_into(&mut finish.path);
            target.host().clone_into(&mut finish.host);
        }
        self.request = Some(RequestFacts {
            host: target.host().to_owned(),
            path: target.path().to_owned(),
            query: target.query().to_vec(),
        });
    }

    pub(crate) fn routed(&mut self, route: &Arc<Route>) {
        self.route = Some(Arc::clone(route));
        if let Some(finish) = &mut self.finish {
            finish.route = Some(Arc::clone(route));
        }
    }

    /// From here on every refusal is a record of its own, so the places in the journal are reserved now.
    pub(crate) fn identified(
        &mut self,
        principal: &Arc<Principal>,
        audit: &Audit,
    ) -> Result<(), Unavailable> {
        self.principal = Some(Arc::clone(principal));
        self.draft = Some(audit.draft(self.id, self.mode())?);
        Ok(())
    }

    pub(crate) fn inspected(&mut self, inspected: &Inspected) {
        self.label = Some(inspected.label.clone());
    }

    pub(crate) fn mode(&self) -> AuditMode {
        self.route.as_ref().map_or(AuditMode::Required, |route| route.audit)
    }

    pub(crate) fn span(&self) -> Option<&RequestSpan> {
        self.finish.as_ref().map(|finish| &finish.span)
    }

    /// Records the refusal, then answers it. A refusal that cannot be recorded is a 503.
    pub(crate) async fn refuse(mut self, reject: Reject, audit: &Audit) -> Response<Body> {
        let reject = self.record_refusal(reject, audit).await;
        let cause = reject.cause();
        if reject.status().is_server_error() {
            tracing::warn!(record = %self.id, code = reject.code(), cause, "request refused");
        } else {
            tracing::debug!(record = %self.id, code = reject.code(), cause, "request refused");
        }
        let mut response = reject.response(Some(self.id));
        stamp(&mut response, self.id);
        if let Some(mut finish) = self.finish.take() {
            finish.telemetry.metrics().rejected(reject.code());
            finish.code = Some(reject.code());
            finish.end(response.status());
        }
        response
    }

    async fn record_refusal(&mut self, reject: Reject, audit: &Audit) -> Reject {
        let Some(mut draft) = self.draft.take() else {
            // A refusal for want of a journal cannot be in it.
            if reject.code() != "audit_unavailable" {
                audit.refusal(self.id, self.peer.ip(), &record::refusal(self, &reject));
            }
            return reject;
        };
        if !self.recorded {
            let record = match record::rejected(self, &reject, audit) {
                Ok(record) => record,
                Err(error) => return Reject::from(error),
            };
            if let Err(error) = draft.decision(&record).await {
                return Reject::from(error);
            }
        }
        draft.close(&self.refused(&reject));
        reject
    }

    /// The outcome of an attempt that we answered ourselves.
    pub(crate) fn refused(&self, reject: &Reject) -> Outcome<'static> {
        Outcome {
            status: Some(reject.status().as_u16()),
            code: Some(reject.code().into()),
            request_bytes: self.request_bytes.load(Ordering::Relaxed),
            duration_us: self.elapsed_us(),
            ..Outcome::bare(reject.ending())
        }
    }

    /// Closes the record of an attempt that another one follows.
    pub(crate) fn attempt_failed(&mut self, failure: Option<&Reject>) {
        let Some(failure) = failure else { return };
        let outcome = self.refused(failure);
        if let Some(draft) = &mut self.draft {
            draft.outcome(&outcome);
        }
    }

    /// The draft, for one record; whoever takes it puts it back.
    pub(crate) fn take_draft(&mut self) -> Result<Draft, Reject> {
        self.draft.take().ok_or_else(|| Reject::internal("a decision was taken without an open record"))
    }

    pub(crate) fn elapsed_us(&self) -> u64 {
        let elapsed = self.finish.as_ref().map_or(Duration::ZERO, |finish| finish.started.elapsed());
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Exchange {
    /// The caller hung up before there was an answer: 499, as nginx counts it.
    fn drop(&mut self) {
        if let Some(finish) = self.finish.take() {
            finish.end(StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST));
        }
    }
}

impl Finish {
    /// Ends span and metrics.
    pub(crate) fn end(self, status: StatusCode) {
        let route = self.route.as_ref().map(|route| route.name.as_str());
        self.telemetry.metrics().request_ended(&ServerRequest {
            route,
            method: known_method(&self.method),
            status: status.as_u16(),
            duration: self.started.elapsed(),
        });
        let server = ServerFacts {
            status: status.as_u16(),
            path: self.path,
            host: self.host,
            peer: self.peer,
            code: self.code,
        };
        self.span.finish(&self.method, route, self.id, server);
    }
}

/// Puts the record's id on an answer.
pub(crate) fn stamp(response: &mut Response<Body>, id: RecordId) {
    if let Ok(value) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert(RECORD_HEADER, value);
    }
}

/// The method as a metric label: a closed set.
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
