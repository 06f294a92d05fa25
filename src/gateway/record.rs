//! From a request's facts to its records: the only place that knows both.
//!
//! Object keys and query values enter a record only as HMACs under the tenant's journal key.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::Version;
use serde_json::Value;

use crate::audit::record::{
    Decision, Evaluation, Links, Marking, Message, Parameter, Party, Refusal, Request, Upstream, Verdict,
};
use crate::audit::{Audit, Unavailable};
use crate::model::RecordId;
use crate::policy::{self, Denial, Permit, RequestRecord};
use crate::protect::keys::Direction;
use crate::protect::{Opened, Plan, SealFacts};
use crate::upstream::Endpoint;

use super::attempt::Crossing;
use super::exchange::Facts;
use super::reject::Reject;

/// The record of an Allow that is about to be acted on.
pub(super) fn permitted<'a>(
    facts: &'a Facts,
    crossing: &'a Crossing,
    permit: &'a Permit,
    (endpoint, plan): (&'a Endpoint, Option<&'a Plan>),
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    let candidate = permit.candidate();
    let digest = crossing
        .payload
        .whole()
        .map(|bytes| audit.digest(&crossing.case.principal.tenant, bytes))
        .transpose()?;
    let known = known(facts, audit)?;
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
            name: endpoint.id().upstream().name().into(),
            endpoint: endpoint.id().address().into(),
            plaintext: endpoint.is_plaintext_remote(),
        }),
        seal: plan.map(planned),
        body_digest: digest.map(Cow::Owned),
        ..known
    })
}

/// The record of Cedar's Deny.
pub(super) fn denied<'a>(
    facts: &'a Facts,
    denial: &'a Denial,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    let last = denial.evaluations.last();
    let known = known(facts, audit)?;
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
    facts: &'a Facts,
    reject: &Reject,
    audit: &Audit,
) -> Result<Decision<'a>, Unavailable> {
    Ok(Decision { decision: Verdict::Reject, code: Some(reject.code().into()), ..known(facts, audit)? })
}

/// The record of a refusal before anybody was identified, or of an anonymous caller.
pub(super) fn refusal<'a>(facts: &'a Facts, reject: &Reject) -> Refusal<'a> {
    Refusal {
        code: reject.code().into(),
        status: reject.status().as_u16(),
        peer: facts.peer,
        method: Some(facts.method.as_str().into()),
        host: facts.target.as_ref().map(|target| target.host.as_str().into()),
        // A path that may name an object is left out: without a tenant there is no key to digest it with.
        path: facts.plain_path().map(Cow::Borrowed),
        route: facts.route.as_ref().map(|route| route.name.as_str().into()),
        trace_id: Some(facts.trace_id.as_str().into()),
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

/// The message that is about to leave.
fn planned(plan: &Plan) -> Message<'_> {
    match plan {
        Plan::Request(seal, _) | Plan::Rest(seal) => message(seal.facts()),
        // Its key is chosen when the answer is there to be described.
        Plan::Answer(recipient) => Message {
            recipient: recipient.as_str().into(),
            key: None,
            message_id: None,
            direction: Direction::Answer.name().into(),
            tenant: None,
            record: None,
        },
    }
}

/// The message that the request came in.
fn came(opened: &Opened) -> Message<'_> {
    let record = Some(opened.decision.to_string().into());
    Message { tenant: Some(opened.tenant.as_str().into()), record, ..message(&opened.facts) }
}

/// The message of an answer; `record` is that of the far side, if it sealed it.
pub(super) fn answer(facts: &SealFacts, record: Option<RecordId>) -> Message<'static> {
    let Message { key, message_id, direction, .. } = message(facts);
    let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
    Message {
        recipient: Cow::Owned(facts.recipient.as_str().to_owned()),
        key: owned(key),
        message_id: owned(message_id),
        direction: Cow::Owned(direction.into_owned()),
        tenant: None,
        record: record.map(|record| record.to_string().into()),
    }
}

fn message(facts: &SealFacts) -> Message<'_> {
    Message {
        recipient: facts.recipient.as_str().into(),
        key: Some(facts.key.as_str().into()),
        message_id: Some(facts.message_id.to_string().into()),
        direction: facts.direction.name().into(),
        tenant: None,
        record: None,
    }
}

/// What is known of every identified request.
fn known<'a>(facts: &'a Facts, audit: &Audit) -> Result<Decision<'a>, Unavailable> {
    let (principal, asked) = (facts.principal.as_deref(), facts.asked.as_ref());
    Ok(Decision {
        decision: Verdict::Reject,
        code: None,
        policies: Cow::Borrowed(&[]),
        route: facts.route.as_ref().map_or("", |route| route.name.as_str()).into(),
        mode: facts.mode(),
        tenant: principal.map_or("", |principal| principal.tenant.as_str()).into(),
        principal: principal.map_or_else(nobody, Party::from),
        chain: principal.map_or_else(Links::default, |principal| Links::from(&principal.chain)),
        action: asked.map(|asked| asked.action.name().into()),
        resource: asked.and_then(|asked| asked.resource.as_ref()).map(Into::into),
        destination: None,
        label: asked.map(|asked| Marking::from(&asked.label)),
        protection: None,
        request: request(facts, audit)?,
        peer: facts.peer,
        context: Cow::Owned(serde_json::Map::new()),
        evaluations: Vec::new(),
        bundle: Cow::Borrowed(&facts.bundle),
        upstream: None,
        seal: None,
        opened: facts.opened.as_deref().map(came),
        body_digest: None,
        trace_id: Some(facts.trace_id.as_str().into()),
    })
}

fn nobody<'a>() -> Party<'a> {
    Party { kind: "".into(), id: "".into(), teams: Cow::Borrowed(&[]), authn: "".into(), credential: None }
}

fn request<'a>(facts: &'a Facts, audit: &Audit) -> Result<Request<'a>, Unavailable> {
    let target = facts.target.as_ref();
    let mut query = Vec::new();
    for (name, value) in target.map_or(&[][..], |target| &target.query) {
        query.push(Parameter { name: name.as_str().into(), digest: digest(facts, value, audit)?.into() });
    }
    Ok(Request {
        method: facts.method.as_str().into(),
        host: target.map_or("", |target| target.host.as_str()).into(),
        path: shown_path(facts, audit)?,
        query,
        bytes: facts.asked.as_ref().map_or(0, |asked| asked.bytes),
        version: if facts.version == Version::HTTP_2 { "2" } else { "1.1" }.into(),
        user_agent: facts.user_agent.as_deref().map(Cow::Borrowed),
    })
}

/// The path; on a store route what follows the bucket names an object and becomes an HMAC.
fn shown_path<'a>(facts: &'a Facts, audit: &Audit) -> Result<Cow<'a, str>, Unavailable> {
    if let Some(path) = facts.plain_path() {
        return Ok(path.into());
    }
    let path = facts.target.as_ref().map_or("", |target| target.path.as_str());
    let (bucket, object) = match facts.asked.as_ref().and_then(|asked| asked.store.as_ref()) {
        Some(call) => (call.bucket.as_str(), call.key.as_str()),
        None => ("", path),
    };
    if object.is_empty() {
        return Ok(format!("/{bucket}").into());
    }
    Ok(format!("/{bucket}/hmac:{}", digest(facts, object, audit)?).into())
}

/// HMAC under the key of the principal's tenant.
fn digest(facts: &Facts, text: &str, audit: &Audit) -> Result<String, Unavailable> {
    match &facts.principal {
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
