//! From a request's facts to its records: the only place that knows both.
//!
//! Object keys and query values enter a record only as HMACs under the tenant's journal key.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::Version;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::audit::record::{
    Decision, Evaluation, Links, Marking, Message, Parameter, Party, Refusal, Request, Upstream, Verdict,
};
use crate::audit::{Audit, Unavailable};
use crate::model::{RecordId, TenantName};
use crate::policy::{self, Denial, Permit, ShownRequest};
use crate::protect::keys::Direction;
use crate::protect::{Opened, Plan, SealFacts};
use crate::upstream::Endpoint;

use super::exchange::Facts;
use super::reject::Reject;

/// The context of a record: the whole Cedar request, with the path that the record shows; an empty object if Cedar was not asked.
#[derive(Debug)]
pub(super) struct Context<'a>(Option<ShownRequest<'a>>);

impl Serialize for Context<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(request) => request.serialize(serializer),
            None => serializer.serialize_map(Some(0))?.end(),
        }
    }
}

/// The record of an Allow that is about to be acted on; `body` is a buffered one, and whose it is.
pub(super) fn permitted<'a>(
    facts: &'a Facts,
    body: Option<(&TenantName, &[u8])>,
    permit: &'a Permit,
    (upstream, plan): (Upstream<'a>, Option<&'a Plan>),
    audit: &Audit,
) -> Result<Decision<'a, Context<'a>>, Unavailable> {
    let candidate = permit.candidate();
    let digest = body.map(|(tenant, bytes)| audit.digest(tenant, bytes)).transpose()?;
    let known = known(facts, audit)?;
    Ok(Decision {
        decision: Verdict::Allow,
        policies: Cow::Borrowed(permit.policies()),
        resource: Some((&candidate.resource).into()),
        destination: candidate.destination.as_ref().map(|name| name.as_str().into()),
        protection: Some(permit.protection().name().into()),
        context: Context(Some(permit.request().shown(known.request.path.clone()))),
        evaluations: permit.evaluations().iter().map(evaluation).collect(),
        bundle: permit.bundle().as_ref().into(),
        upstream: Some(upstream),
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
) -> Result<Decision<'a, Context<'a>>, Unavailable> {
    let last = denial.evaluations.last();
    let known = known(facts, audit)?;
    Ok(Decision {
        decision: Verdict::Deny,
        code: Some(denial.reason.code().into()),
        policies: Cow::Borrowed(&denial.policies),
        resource: last.map(|evaluation| (&evaluation.resource).into()),
        destination: last.and_then(|e| e.destination.as_ref()).map(|name| name.as_str().into()),
        protection: last.map(|evaluation| evaluation.protection.name().into()),
        context: Context(Some(denial.request.shown(known.request.path.clone()))),
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
) -> Result<Decision<'a, Context<'a>>, Unavailable> {
    Ok(Decision { decision: Verdict::Reject, code: Some(reject.code().into()), ..known(facts, audit)? })
}

/// The record of a refusal before anybody was identified, or of an anonymous caller.
pub(super) fn refusal<'a>(facts: &'a Facts, reject: &Reject) -> Refusal<'a> {
    Refusal {
        code: reject.code().into(),
        status: reject.status().as_u16(),
        peer: facts.peer,
        method: Some(facts.method.as_str().into()),
        host: facts.target.as_ref().map(|target| target.host().into()),
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

/// The endpoint that is about to be sent to.
pub(super) fn upstream(endpoint: &Endpoint) -> Upstream<'_> {
    Upstream {
        endpoint: endpoint.id().address().into(),
        name: endpoint.id().upstream().name().into(),
        plaintext: endpoint.is_plaintext_remote(),
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
fn known<'a>(facts: &'a Facts, audit: &Audit) -> Result<Decision<'a, Context<'a>>, Unavailable> {
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
        context: Context(None),
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
    for (name, value) in target.map_or(&[][..], |target| target.query()) {
        query.push(Parameter { name: name.as_str().into(), digest: digest(facts, value, audit)?.into() });
    }
    Ok(Request {
        method: facts.method.as_str().into(),
        host: target.map_or("", |target| target.host()).into(),
        path: shown_path(facts, audit)?,
        query,
        bytes: facts.asked.as_ref().map_or(0, |asked| asked.bytes),
        version: if facts.version == Version::HTTP_2 { "2" } else { "1.1" }.into(),
        user_agent: facts.user_agent.as_ref().and_then(|value| value.to_str().ok()).map(Cow::Borrowed),
    })
}

/// The path; on a store route what follows the bucket names an object and becomes an HMAC.
fn shown_path<'a>(facts: &'a Facts, audit: &Audit) -> Result<Cow<'a, str>, Unavailable> {
    if let Some(path) = facts.plain_path() {
        return Ok(path.into());
    }
    let path = facts.target.as_ref().map_or("", |target| target.path());
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::audit::canonical::canonical;
    use crate::audit::record::{Ending, Outcome};
    use crate::audit::{Instance, Settings};
    use crate::gateway::exchange::Asked;
    use crate::message::Target;
    use crate::model::{
        Action, AuditMode, Floor, IdentityRule, Label, Level, Objects, Principal, Protection, Resource,
        RouteKind,
    };
    use crate::policy::fixtures::{self, label, researcher};
    use crate::policy::{AuthzRequest, embedded};
    use crate::route::{PathPattern, Route};
    use crate::telemetry::TraceText;

    /// The payloads of both records, the list of evaluations, and the channel on which the decision is awaited.
    const ALLOCATIONS: u64 = 4;

    fn permit(principal: &Principal, label: &Label) -> Permit {
        let request = AuthzRequest { purpose: Some("trial"), ..fixtures::request(principal, label) };
        let candidate = fixtures::on("eu", "tide-small");
        embedded::bundle().unwrap().decide(&request, &[candidate], &[Protection::None]).unwrap()
    }

    fn route() -> Route {
        Route {
            name: "chat".parse().unwrap(),
            hosts: Vec::new(),
            path: PathPattern::Prefix("/v1/".into()),
            methods: Vec::new(),
            kind: RouteKind::Inference { action: Action::Infer, clusters: Vec::new() },
            floor: Floor::default(),
            identity: IdentityRule::Required,
            audit: AuditMode::BestEffort,
            opens: false,
            objects: Objects::Plain,
            max_body: 1 << 20,
            strip_segments: 0,
        }
    }

    fn target() -> Target {
        let uri = "https://gateway.example/v1/chat/completions".parse().unwrap();
        Target::parse(&uri, &HeaderMap::new(), 1024).unwrap()
    }

    fn facts(principal: Principal, label: Label, resource: Resource) -> Facts {
        Facts {
            id: RecordId::new(),
            peer: "127.0.0.1:4711".parse().unwrap(),
            method: Method::POST,
            version: Version::HTTP_11,
            user_agent: Some(HeaderValue::from_static("curl/8.0")),
            bundle: "00ff".into(),
            trace_id: TraceText::default(),
            target: Some(Arc::new(target())),
            route: Some(Arc::new(route())),
            principal: Some(Arc::new(principal)),
            opened: None,
            answers_sealed: false,
            asked: Some(Asked {
                action: Action::Infer,
                resource: Some(resource),
                label,
                bytes: 100,
                store: None,
            }),
        }
    }

    async fn cross(audit: &Audit, facts: &Facts, permit: &Permit) {
        let mut draft = audit.draft(facts.id, AuditMode::BestEffort).unwrap();
        let upstream = Upstream { endpoint: "127.0.0.1:1".into(), name: "eu".into(), plaintext: true };
        let record = permitted(facts, None, permit, (upstream, None), audit).unwrap();
        draft.decision(&record).await.unwrap();
        draft.close(&Outcome { status: Some(200), ..Outcome::bare(Ending::Complete) });
    }

    #[test]
    fn the_record_of_a_request_takes_few_allocations() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { directory: folder.path().join("journal"), ..Settings::default() };
        let audit = Audit::open(&settings, Instance { name: "border-1".into(), version: "0" }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (who, label) = (researcher(), label(Level::Internal, "EU"));
        let permit = permit(&who, &label);
        let facts = facts(who, label, permit.candidate().resource.clone());
        let crossing = || runtime.block_on(cross(&audit, &facts, &permit));
        // Buffers grow to their size at first, and the queue's now and then.
        (0..64).for_each(|_| crossing());
        let least = (0..64).map(|_| allocation_counter::measure(crossing).count_total).min();
        assert_eq!(least, Some(ALLOCATIONS));
        runtime.block_on(audit.close());
    }

    /// What is written is what a reader makes of it, with the path that the record shows.
    #[test]
    fn a_context_is_the_cedar_request_or_an_empty_object() {
        let (who, label) = (researcher(), label(Level::Internal, "EU"));
        let permit = permit(&who, &label);
        let context = Context(Some(permit.request().shown("/b/hmac:00".into())));
        let mut expected = serde_json::to_value(permit.request()).unwrap();
        *expected.pointer_mut("/context/request/path").unwrap() = "/b/hmac:00".into();
        assert_eq!(serde_json::to_value(&context).unwrap(), expected);
        // Its members come in canonical order, so that nothing of it has to move.
        let written = serde_json::to_vec(&context).unwrap();
        assert_eq!(written, canonical(&written).unwrap());
        assert_eq!(serde_json::to_string(&Context(None)).unwrap(), "{}");
    }
}
