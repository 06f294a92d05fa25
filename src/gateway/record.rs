//! From a request's facts to its records: the only place that knows both.
//!
//! Object keys and query values enter a record only as HMACs under the tenant's journal key.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::Version;
use serde_json::Value;

use crate::audit::record::{
    Decision, Evaluation, Links, Marking, Parameter, Party, Refusal, Request, Upstream, Verdict,
};
use crate::audit::{Audit, Unavailable};
use crate::inspect::Operation;
use crate::model::{RouteKind, UpstreamRef};
use crate::policy::{self, Denial, Permit, RequestRecord};
use crate::upstream::Endpoint;

use super::attempt::Crossing;
use super::exchange::Exchange;
use super::reject::Reject;

/// The record of an Allow that is about to be acted on.
pub(super) fn permitted<'a>(
    exchange: &'a Exchange,
    crossing: &'a Crossing,
    permit: &'a Permit,
    endpoint: &'a Endpoint,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    let candidate = permit.candidate();
    let digest =
        crossing.payload.whole().map(|bytes| audit.digest(&crossing.principal.tenant, bytes)).transpose()?;
    let known = known(exchange, Some(crossing), audit)?;
    Ok(Decision {
        decision: Verdict::Allow,
        policies: Cow::Borrowed(permit.policies()),
        resource: Some((&candidate.resource).into()),
        destination: candidate.destination.as_ref().map(|name| name.as_str().into()),
        protection: Some(permit.protection().name().into()),
        context: cedar_request(permit.request(), &known.request.path),
        evaluations: permit.evaluations().iter().map(evaluation).collect(),
        bundle: permit.bundle().as_ref().into(),
        upstream: Some(Upstream {
            name: name_of(endpoint.id().upstream()).into(),
            endpoint: endpoint.id().address().into(),
            plaintext: endpoint.is_plaintext_remote(),
        }),
        body_digest: digest.map(Cow::Owned),
        ..known
    })
}

/// The record of Cedar's Deny.
pub(super) fn denied<'a>(
    exchange: &'a Exchange,
    crossing: &'a Crossing,
    denial: &'a Denial,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    let last = denial.evaluations.last();
    let known = known(exchange, Some(crossing), audit)?;
    Ok(Decision {
        decision: Verdict::Deny,
        code: Some(denial.reason.code().into()),
        policies: Cow::Borrowed(&denial.policies),
        resource: last.map(|evaluation| (&evaluation.resource).into()),
        destination: last.and_then(|e| e.destination.as_ref()).map(|name| name.as_str().into()),
        protection: last.map(|evaluation| evaluation.protection.name().into()),
        context: cedar_request(&denial.request, &known.request.path),
        evaluations: denial.evaluations.iter().map(evaluation).collect(),
        bundle: denial.bundle.as_ref().into(),
        ..known
    })
}

/// The record of a refusal of an identified principal without a Deny of Cedar's: limits, bodies, unknown models.
pub(super) fn rejected<'a>(
    exchange: &'a Exchange,
    reject: &Reject,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    Ok(Decision {
        decision: Verdict::Reject,
        code: Some(reject.code().into()),
        ..known(exchange, None, audit)?
    })
}

/// The record of a refusal before anybody was identified.
pub(super) fn refusal<'a>(exchange: &'a Exchange, reject: &Reject) -> Refusal<'a> {
    let facts = exchange.request.as_ref();
    Refusal {
        code: reject.code().into(),
        status: reject.status().as_u16(),
        peer: exchange.peer,
        method: Some(exchange.method.as_str().into()),
        host: facts.map(|facts| facts.host.as_str().into()),
        // The path of a store names an object, and without a tenant there is no key to digest it with.
        path: facts.filter(|_| !is_store(exchange)).map(|facts| facts.path.as_str().into()),
        route: exchange.route.as_ref().map(|route| route.name.as_str().into()),
        trace_id: exchange.span().map(|span| span.trace_id().into()),
    }
}

/// The record of bytes or a connection that never became a request.
pub(super) fn connection(peer: SocketAddr, code: &'static str, status: u16) -> Refusal<'static> {
    Refusal {
        code: code.into(),
        status,
        peer,
        method: None,
        host: None,
        path: None,
        route: None,
        trace_id: None,
    }
}

/// What is known of every identified request.
fn known<'a>(
    exchange: &'a Exchange,
    crossing: Option<&'a Crossing>,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    let principal = exchange.principal.as_deref();
    Ok(Decision {
        decision: Verdict::Reject,
        code: None,
        policies: Cow::Borrowed(&[]),
        route: exchange.route.as_ref().map_or("", |route| route.name.as_str()).into(),
        mode: exchange.mode(),
        tenant: principal.map_or("", |principal| principal.tenant.as_str()).into(),
        principal: principal.map_or_else(nobody, Party::from),
        chain: principal.map_or_else(Links::default, |principal| Links::from(&principal.chain)),
        action: crossing.map(|crossing| crossing.inspected.action.name().into()),
        resource: None,
        destination: None,
        label: exchange.label.as_ref().map(Marking::from),
        protection: None,
        request: request(exchange, crossing, audit)?,
        peer: exchange.peer,
        context: Cow::Owned(serde_json::Map::new()),
        evaluations: Vec::new(),
        bundle: Cow::Borrowed(&exchange.bundle),
        upstream: None,
        body_digest: None,
        trace_id: exchange.span().map(|span| span.trace_id().into()),
    })
}

fn nobody<'a>() -> Party<'a> {
    Party { kind: "".into(), id: "".into(), teams: Cow::Borrowed(&[]), authn: "".into(), credential: None }
}

fn request<'a>(
    exchange: &'a Exchange,
    crossing: Option<&'a Crossing>,
    audit: &Audit,
) -> Result<Request<'a>, Unavailable> {
    let facts = exchange.request.as_ref();
    let (host, path) = facts.map_or(("", ""), |facts| (facts.host.as_str(), facts.path.as_str()));
    let mut query = Vec::new();
    for (name, value) in facts.map_or(&[][..], |facts| &facts.query) {
        let digest = digest(exchange, value, audit)?;
        query.push(Parameter { name: name.as_str().into(), digest: digest.into() });
    }
    Ok(Request {
        method: exchange.method.as_str().into(),
        host: host.into(),
        path: shown_path(exchange, crossing, path, audit)?,
        query,
        bytes: crossing.map_or(0, |crossing| crossing.inspected.bytes),
        version: if exchange.version == Version::HTTP_2 { "2" } else { "1.1" }.into(),
        user_agent: exchange.user_agent.as_deref().map(Cow::Borrowed),
    })
}

/// The path; on a store route what follows the bucket names an object and becomes an HMAC.
fn shown_path<'a>(
    exchange: &'a Exchange,
    crossing: Option<&Crossing>,
    path: &'a str,
    audit: &Audit,
) -> Result<Cow<'a, str>, Unavailable> {
    if !is_store(exchange) {
        return Ok(path.into());
    }
    let (bucket, object) = match crossing.map(|crossing| &crossing.inspected.operation) {
        Some(Operation::Store(call)) => (call.bucket.as_str(), call.key.as_str()),
        _ => ("", path),
    };
    if object.is_empty() {
        return Ok(format!("/{bucket}").into());
    }
    Ok(format!("/{bucket}/hmac:{}", digest(exchange, object, audit)?).into())
}

fn is_store(exchange: &Exchange) -> bool {
    exchange.route.as_ref().is_some_and(|route| matches!(route.kind, RouteKind::Store { .. }))
}

/// HMAC under the key of the principal's tenant. Without a principal nothing is digested: such refusals hold neither.
fn digest(exchange: &Exchange, text: &str, audit: &Audit) -> Result<String, Unavailable> {
    match &exchange.principal {
        Some(principal) => audit.digest(&principal.tenant, text.as_bytes()),
        None => Ok(String::new()),
    }
}

/// The whole Cedar request; its path is the one that the record shows.
fn cedar_request(request: &RequestRecord, path: &str) -> Cow<'static, serde_json::Map<String, Value>> {
    match serde_json::to_value(request.clone().with_path(path)) {
        Ok(Value::Object(map)) => Cow::Owned(map),
        _ => Cow::Owned(serde_json::Map::new()),
    }
}

fn evaluation(evaluation: &policy::Evaluation) -> Evaluation<'_> {
    Evaluation {
        resource: (&evaluation.resource).into(),
        destination: evaluation.destination.as_ref().map(|name| name.as_str().into()),
        protection: evaluation.protection.name().into(),
        allowed: evaluation.allowed,
        policies: Cow::Borrowed(&evaluation.policies),
        errors: Cow::Borrowed(&evaluation.errors),
    }
}

/// The configured name alone.
pub(super) fn name_of(upstream: &UpstreamRef) -> &str {
    match upstream {
        UpstreamRef::Cluster(name) => name.as_str(),
        UpstreamRef::Store(name) => name.as_str(),
        UpstreamRef::Service(name) => name.as_str(),
    }
}
