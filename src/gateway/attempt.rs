//! One crossing: decide, admit, prepare, record, send; all of it again for each retry or failover.
//!
//! When another attempt is made is in `again.rs`; it is decided and recorded like the first. Nothing is sent before its
//! decision is in the journal.
//!
//! What only some requests need (keys, sealed objects, refusals) is boxed here and in what is called from here: the future of a request holds room
//! for the largest thing that it may wait for, and is moved as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, Uri};

use crate::inspect::Inspected;
use crate::limit::Slot;
use crate::message::{Body, Connection, Inbound};
use crate::model::{Candidate, Level, Principal, Protection, RecipientName, Resource};
use crate::policy::Permit;
use crate::protect::{self, Expected, Plan, Seal};
use crate::telemetry::DecisionFacts;
use crate::upstream::{Endpoint, UpstreamError};

use super::again::Tries;
use super::exchange::{Exchange, TRACEPARENT};
use super::live::{Case, Ended};
use super::object;
use super::payload::Payload;
use super::record;
use super::reject::Reject;
use super::sending::{AnswerSeal, Answered, Sending};
use super::stored::{self, Failed, Fetched};
use super::{Gateway, Snapshot, sealed};

/// The rungs that can really be done today, cheapest first.
pub(super) const RUNGS: &[Protection] = &[Protection::None, Protection::Sealed];

/// Tries the candidates until one answers, none is left, or trying again would not be safe.
pub(super) async fn run(
    gateway: &Gateway,
    snapshot: &Snapshot,
    exchange: &mut Exchange,
    mut crossing: Crossing,
) -> Result<Response<Body>, Reject> {
    let mut slot = None;
    let entry = gateway.lives.enter(exchange.facts.id, &crossing.case);
    crossing.payload.watched(&entry.live);
    loop {
        crossing.order(&snapshot.upstreams);
        let decided = decide(gateway, snapshot, exchange, &crossing).await?;
        entry.live.permitted(&decided.permit, crossing.revocations);
        let admitted = admit(snapshot, exchange, &crossing, slot.take())?;
        let Some(endpoint) = prepare(snapshot, &decided.permit, &mut crossing).await? else {
            slot = Some(admitted);
            continue;
        };
        crossing.pay(&snapshot.upstreams)?;
        let plan = plan(snapshot, exchange, &crossing, &decided.permit).await?;
        record(gateway, exchange, &crossing, &decided, (&endpoint, plan.as_ref())).await?;
        let sending = Sending::start(exchange, &crossing, &decided.permit, &endpoint);
        let owed = owed(exchange, plan.as_ref());
        let crossing_request = crossing.request(exchange)?;
        let sealed = decided.permit.protection() == Protection::Sealed;
        let (request, kept) = match stored::kept(snapshot, &crossing, crossing_request).await {
            Ok(kept) => kept,
            Err(reject) => {
                let reject = entry.live.verdict().map_or(reject, Ended::reject);
                sending.failed(reject.code());
                return Err(reject);
            }
        };
        let outbound = protect::prepare(decided.permit, request, plan)?;
        // The snapshot is as old as the request's head: what changed while its body came, while it waited for an endpoint or while
        // an earlier attempt failed counts before a byte leaves.
        gateway.look(&entry.live);
        let sent = tokio::select! {
            biased;
            ended = entry.live.ended() => Err(Failed::Refused(ended.reject())),
            sent = stored::send(snapshot, &crossing, &endpoint, outbound, sealed) => sent,
        };
        match sent {
            Ok(fetched)
                if crossing.declined(
                    (gateway, snapshot),
                    exchange,
                    (&endpoint, fetched.response.status()),
                ) =>
            {
                let failure = crossing.failure();
                sending.declined(fetched.response.status(), failure.code());
                exchange.attempt_failed(failure);
            }
            Ok(fetched) => {
                let fetched = fetched.or(kept);
                let (sending, answer) = tokio::select! {
                    biased;
                    ended = entry.live.ended() => return Err(ended.reject()),
                    paid = paid(snapshot, exchange, &crossing, sending, (owed, fetched)) => paid?,
                };
                // What changed while the far side was silent counts before a byte of its answer is passed on.
                gateway.look(&entry.live);
                if let Some(ended) = entry.live.verdict() {
                    sending.failed(ended.code);
                    return Err(ended.reject());
                }
                let stall = snapshot.gate.answer_stall.get();
                return sending.answered(exchange, &crossing, answer, (admitted, stall, entry));
            }
            Err(Failed::Refused(reject)) => {
                sending.failed(reject.code());
                return Err(reject);
            }
            Err(Failed::Send(error)) => {
                if let Some(ended) = entry.live.verdict() {
                    sending.failed(ended.code);
                    return Err(ended.reject());
                }
                sending.failed(error.code());
                let failure = crossing.next(exchange, &endpoint, &error)?;
                exchange.attempt_failed(failure);
            }
        }
        slot = Some(admitted);
    }
}

/// What is to cross, with what is left to try.
#[derive(Debug)]
pub(super) struct Crossing {
    pub(super) case: Arc<Case>,
    /// The ways to serve it that are left, best first.
    pub(super) candidates: Vec<Candidate>,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
    /// The list of revocations that the principal was found not to be on.
    revocations: u64,
    pub(super) tries: Tries,
}

/// A permit, and when and how quickly it was given.
#[derive(Debug)]
struct Decided {
    permit: Permit,
    started: SystemTime,
    took: Duration,
}

impl Crossing {
    /// What is to cross, after inspection.
    pub(super) fn new(
        (principal, connection): (&Arc<Principal>, &Connection),
        inbound: Inbound,
        mut inspected: Inspected,
        (payload, path): (Payload, String),
        revocations: u64,
    ) -> Self {
        let candidates = std::mem::take(&mut inspected.candidates);
        let case = Case {
            principal: Arc::clone(principal),
            certificate: connection.client.clone(),
            peer: connection.peer.ip(),
            method: inbound.method,
            path,
            inspected,
        };
        Self {
            case: Arc::new(case),
            candidates,
            headers: inbound.headers,
            payload,
            revocations,
            tries: Tries::default(),
        }
    }

    /// A fresh request for one attempt; a streamed payload may be there only once.
    fn request(&mut self, exchange: &Exchange) -> Result<Request<Body>, Reject> {
        let mut request = Request::new(self.payload.take(&exchange.sent)?);
        *request.method_mut() = self.case.method.clone();
        *request.uri_mut() = Uri::from(self.case.inspected.path_and_query.clone());
        *request.headers_mut() = self.headers.clone();
        if let Some(parent) = exchange.span().and_then(|span| span.traceparent()) {
            request.headers_mut().insert(TRACEPARENT, parent);
        }
        Ok(request)
    }
}

/// Asks Cedar about the candidates that are left; the first Allow is the permit, a Deny is recorded.
async fn decide(
    gateway: &Gateway,
    snapshot: &Snapshot,
    exchange: &mut Exchange,
    crossing: &Crossing,
) -> Result<Decided, Reject> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    let request = crossing.case.authorization(gateway.clock.now());
    let decision = snapshot.bundle.decide(&request, &crossing.candidates, RUNGS);
    let took = clock.elapsed();
    if let Some(shadow) = gateway.shadow() {
        let ways = (crossing.candidates.as_slice(), RUNGS);
        shadow.offer(exchange.facts.id, &crossing.case.principal, &request, ways, &decision);
    }
    exchange.recorded(false);
    let denial = match decision {
        Ok(permit) => return Ok(Decided { permit, started, took }),
        Err(denial) => denial,
    };
    let last = denial.evaluations.last().map(|evaluation| &evaluation.resource);
    let (code, policies) = (denial.reason.code(), denial.policies.as_slice());
    let shown = Shown { outcome: "deny", code, policies, resource: last };
    let recorded = async {
        let (facts, draft) = exchange.parts()?;
        Ok::<_, Reject>(draft.decision(&record::denied(facts, &denial, &gateway.audit)?).await?)
    };
    let recorded = Box::pin(recorded).await;
    exchange.recorded(recorded.is_ok());
    // Also one that could not be recorded was taken, and is counted.
    observe(gateway, exchange, crossing, started, took, &shown);
    recorded?;
    Err(Reject::denied(&denial))
}

/// Rate and concurrency; a request that was admitted once is not counted again when it is retried.
fn admit(
    snapshot: &Snapshot,
    exchange: &Exchange,
    crossing: &Crossing,
    slot: Option<Slot>,
) -> Result<Slot, Reject> {
    match (slot, &exchange.facts.route) {
        (Some(slot), _) => Ok(slot),
        (None, Some(route)) => Ok(snapshot.limits.admit(&crossing.case.principal, &route.name)?),
        (None, None) => Err(Reject::internal("a request without a route asked to be admitted")),
    }
}

/// Chooses the endpoint, or waits for one; none if the permitted candidate cannot serve but another may.
async fn prepare(
    snapshot: &Snapshot,
    permit: &Permit,
    crossing: &mut Crossing,
) -> Result<Option<Endpoint>, Reject> {
    let candidate = permit.candidate();
    let failure = match snapshot.upstreams.acquire(&candidate.upstream, crossing.tries.endpoints()).await {
        Ok(endpoint)
            if endpoint.is_plaintext_remote()
                && crossing.case.inspected.label.level >= Level::Confidential =>
        {
            Reject::new("plaintext_refused", "data of this level does not leave without TLS")
        }
        Ok(endpoint) => return Ok(Some(endpoint)),
        // Candidates that have room are asked about first: of those that are permitted none has.
        Err(error @ UpstreamError::Overloaded(_)) => return Err(error.into()),
        Err(error) => Reject::from(error),
    };
    crossing.without(candidate, failure)?;
    Ok(None)
}

/// Chooses key and message id of a permit that demands sealing; nothing is sent yet.
async fn plan(
    snapshot: &Snapshot,
    exchange: &Exchange,
    crossing: &Crossing,
    permit: &Permit,
) -> Result<Option<Plan>, Reject> {
    stored::check_range(crossing, permit.protection())?;
    if let Some(plan) = stored::plan(snapshot, crossing).await? {
        return Ok(Some(plan));
    }
    let content_type = crossing.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let facts = protect::Facts {
        method: &crossing.case.method,
        path: crossing.case.inspected.path_and_query.as_str(),
        level: crossing.case.inspected.label.level,
        decision: exchange.facts.id,
        content_type,
    };
    Ok(snapshot.protector.plan(permit, &crossing.case.principal.tenant, facts).await?)
}

/// What a plan owes the answer.
#[derive(Debug)]
enum Owed {
    Nothing,
    /// It comes sealed, and is opened.
    Opening(Expected),
    /// It comes from a private store, and is sealed for whoever reads it.
    Sealing(RecipientName),
}

/// What is to become of the answer; remembers where the digest of the sealed request will be.
fn owed(exchange: &mut Exchange, plan: Option<&Plan>) -> Owed {
    exchange.sealed = plan.and_then(Plan::seal).map(Seal::wire);
    match plan {
        None => Owed::Nothing,
        Some(Plan::Request(_, expected)) => Owed::Opening(expected.clone()),
        Some(Plan::Answer(reader)) => Owed::Sealing(reader.clone()),
        Some(Plan::Rest(_)) => Owed::Nothing,
    }
}

/// Does with the answer what the plan owes it.
async fn paid(
    snapshot: &Snapshot,
    exchange: &Exchange,
    crossing: &Crossing,
    sending: Sending,
    (owed, fetched): (Owed, Fetched),
) -> Result<(Sending, Answered), Reject> {
    let Fetched { response, object, untouched } = fetched;
    let expected = match owed {
        Owed::Sealing(_) if untouched => return Ok((sending, Answered { response, seal: None, object })),
        Owed::Nothing => return Ok((sending, Answered { response, seal: None, object })),
        Owed::Sealing(reader) => {
            return match Box::pin(object::seal(snapshot, exchange, crossing, reader, response)).await {
                Ok(answered) => Ok((sending, Answered { object, ..answered })),
                Err(reject) => {
                    sending.failed(reject.code());
                    Err(reject)
                }
            };
        }
        Owed::Opening(expected) => expected,
    };
    match Box::pin(snapshot.protector.open_answer(&expected, response)).await {
        Ok(opened) => {
            let seal = AnswerSeal { facts: opened.facts, record: Some(opened.decision), wire: opened.wire };
            Ok((sending, Answered { response: opened.response, seal: Some(seal), object: None }))
        }
        Err(error) => {
            sending.failed(error.code());
            Err(Box::pin(sealed::refused(error, exchange.facts.id)).await)
        }
    }
}

/// Writes the permit that is about to be used; returns when it is as durable as the route's mode says.
async fn record(
    gateway: &Gateway,
    exchange: &mut Exchange,
    crossing: &Crossing,
    decided: &Decided,
    (endpoint, plan): (&Endpoint, Option<&Plan>),
) -> Result<(), Reject> {
    let permit = &decided.permit;
    let shown = Shown {
        outcome: "allow",
        code: "",
        policies: permit.policies(),
        resource: Some(&permit.candidate().resource),
    };
    let to = (record::upstream(endpoint), plan);
    let body = crossing.payload.whole().map(|bytes| (&crossing.case.principal.tenant, bytes.as_ref()));
    let recorded = async {
        let (facts, draft) = exchange.parts()?;
        let record = record::permitted(facts, body, permit, to, &gateway.audit)?;
        Ok(draft.decision(&record).await?)
    };
    let recorded = recorded.await;
    exchange.recorded(recorded.is_ok());
    observe(gateway, exchange, crossing, decided.started, decided.took, &shown);
    recorded
}

/// What a decision's metric and span say.
struct Shown<'a> {
    outcome: &'static str,
    code: &'static str,
    policies: &'a [Arc<str>],
    resource: Option<&'a Resource>,
}

fn observe(
    gateway: &Gateway,
    exchange: &Exchange,
    crossing: &Crossing,
    started: SystemTime,
    took: Duration,
    shown: &Shown<'_>,
) {
    let action = crossing.case.inspected.action.name();
    gateway.telemetry.metrics().decided(action, shown.outcome, shown.code, took);
    if let Some(finish) = exchange.finish.as_ref().filter(|finish| finish.span.is_recording()) {
        let facts = DecisionFacts {
            decision: shown.outcome,
            code: shown.code,
            policies: shown.policies.to_vec(),
            action,
            resource: shown.resource.cloned(),
            principal: Arc::clone(&crossing.case.principal),
            bundle: Arc::clone(&exchange.facts.bundle),
            record: finish.record(),
        };
        finish.span.decision((started, took), facts);
    }
}
