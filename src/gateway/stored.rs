//! Objects that are sealed at rest: read in as few pieces as will do, kept as they are, or sealed as they are written.
//!
//! ```text
//! route `open`   GET, HEAD   first bytes ─► header ─► final frame ─► frames of the range ─► plaintext
//!                PUT         plaintext ─► claims verified ─► sealed with the dataset's key
//! route `pass`   GET         as it is; under a permit that wants it sealed, only once its header is believed
//!                PUT         as it is, once its header is believed
//! ```
//!
//! All reads of an object are of one version of it (`If-Match`), under one permit and one record; every head has come before the caller
//! gets a byte. An object that is written anew meanwhile is a refusal.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName, RANGE};
use http::{HeaderMap, Request, Response};

use crate::inspect::{AtRest, Operation, StoreCall, StoreOperation};
use crate::message::{Body, ReadBodyError};
use crate::model::{Objects, Protection};
use crate::protect::keys::{Direction, Scope};
use crate::protect::{ObjectName, Outbound, Plan, Reads, StoredFault};
use crate::upstream::{Endpoint, SendError};

use super::Snapshot;
use super::attempt::Crossing;
use super::completion::AtRestSeal;
use super::object;
use super::range::{self, ByteRange};
use super::reject::Reject;
use super::source::{Source, Stop, unbelieved};

/// Headers of the store's that speak of the sealed bytes.
const OF_SEALED_BYTES: [&str; 3] = ["content-md5", "x-amz-checksum-type", "x-amz-mp-parts-count"];

/// An attempt that brought nothing.
pub(super) enum Failed {
    /// No answer: perhaps another attempt is safe.
    Send(SendError),
    /// A refusal of ours.
    Refused(Reject),
}

/// What came back.
pub(super) struct Fetched {
    pub(super) response: Response<Body>,
    /// The message that the object is at rest.
    pub(super) object: Option<AtRestSeal>,
    /// It is a sealed message as it is: nothing is to be done to it.
    pub(super) untouched: bool,
}

impl Fetched {
    const fn plain(response: Response<Body>) -> Self {
        Self { response, object: None, untouched: false }
    }

    /// With the message that was written, if one was.
    pub(super) fn or(self, written: Option<AtRestSeal>) -> Self {
        Self { object: self.object.or(written), ..self }
    }
}

/// The call, and how its object is sealed; none if it lies in the clear.
fn at_rest(crossing: &Crossing) -> Option<(&StoreCall, &AtRest)> {
    match &crossing.case.inspected.operation {
        Operation::Store(call) => call.at_rest.as_ref().map(|at_rest| (call, at_rest)),
        _ => None,
    }
}

/// Refuses what no one message, or no one piece of an object, could answer, before the store is asked.
///
/// # Errors
/// Several ranges are asked for (RFC 9110 14.2), whose answer has parts.
pub(super) fn check_range(crossing: &Crossing, protection: Protection) -> Result<(), Reject> {
    let objects = at_rest(crossing).map_or(Objects::Plain, |(_, at_rest)| at_rest.objects);
    let one = match objects {
        Objects::Plain => protection == Protection::Sealed,
        Objects::Pass => false,
        Objects::Open => true,
    };
    if one { wanted(&crossing.headers).map(|_| ()) } else { Ok(()) }
}

pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<ByteRange>, Reject> {
    let Some(field) = object::text(headers, &RANGE) else { return Ok(None) };
    range::parse(field).map_err(|range::Several| {
        Reject::new(
            "range_not_satisfiable",
            "what is sealed is read one range at a time: ask for each by itself",
        )
    })
}

/// The plan of an object that is sealed as it is written.
///
/// # Errors
/// There is no key to be had.
pub(super) async fn plan(snapshot: &Snapshot, crossing: &Crossing) -> Result<Option<Plan>, Reject> {
    let Some((call, at_rest)) = at_rest(crossing) else { return Ok(None) };
    if call.operation != StoreOperation::PutObject || at_rest.objects != Objects::Open {
        return Ok(None);
    }
    let name = name(crossing, call)?;
    let media = object::text(&crossing.headers, &CONTENT_TYPE);
    let plan = Box::pin(snapshot.protector.plan_at_rest(&scope(at_rest), name, media)).await?;
    Ok(Some(plan))
}

/// The key that a dataset's objects are sealed with.
pub(super) fn scope(at_rest: &AtRest) -> Scope {
    let key = &at_rest.key;
    Scope { tenant: key.tenant.clone(), recipient: key.recipient.clone(), direction: Direction::Rest }
}

/// The keys of which one must open a message that is passed as it is: the dataset's, or the caller's own.
pub(super) fn scopes(crossing: &Crossing, at_rest: &AtRest) -> Vec<Scope> {
    let mut scopes = vec![scope(at_rest)];
    if let Some(caller) = &at_rest.caller {
        let tenant = &crossing.case.principal.tenant;
        let own = |direction| Scope { tenant: tenant.clone(), recipient: caller.clone(), direction };
        scopes.extend([own(Direction::Rest), own(Direction::Request)]);
    }
    scopes
}

pub(super) fn name<'a>(crossing: &'a Crossing, call: &'a StoreCall) -> Result<ObjectName<'a>, Reject> {
    let store = object::store(crossing).ok_or_else(|| Reject::internal("an object without a store"))?;
    Ok(ObjectName { store, bucket: &call.bucket, key: &call.key })
}

/// Lets through only sealed messages where objects are kept as such.
///
/// # Errors
/// The body is no sealed message, or none of the expected keys opens it.
pub(super) async fn kept(
    snapshot: &Snapshot,
    crossing: &Crossing,
    request: Request<Body>,
) -> Result<(Request<Body>, Option<AtRestSeal>), Reject> {
    let Some((call, at_rest)) = at_rest(crossing) else { return Ok((request, None)) };
    if call.operation != StoreOperation::PutObject || at_rest.objects != Objects::Pass {
        return Ok((request, None));
    }
    let (head, body) = request.into_parts();
    match Box::pin(snapshot.protector.kept(body, &scopes(crossing, at_rest))).await {
        Ok((body, facts)) => Ok((Request::from_parts(head, body), Some(AtRestSeal { facts, fetched: None }))),
        Err(StoredFault::Body(cause)) => Err(match ReadBodyError::from(cause) {
            ReadBodyError::Fault(fault) => Reject::from_stage(fault.code(), fault),
            ReadBodyError::Broken(_) => Reject::new("body_broken", "the body ended early"),
        }),
        Err(fault) if fault.is_of_the_message() => Err(unbelieved("object_not_sealed", fault)),
        Err(fault) => Err(Reject::from_stage(fault.code(), fault)),
    }
}

/// Sends a request; an object that is sealed at rest comes back as the route says.
///
/// # Errors
/// There is no answer, or the object is not believed.
pub(super) async fn send(
    snapshot: &Snapshot,
    crossing: &Crossing,
    endpoint: &Endpoint,
    outbound: Outbound,
    sealed: bool,
) -> Result<Fetched, Failed> {
    let reads = |call: &StoreCall, at_rest: &AtRest| match at_rest.objects {
        Objects::Open => matches!(call.operation, StoreOperation::GetObject | StoreOperation::HeadObject),
        Objects::Pass => sealed && call.operation == StoreOperation::GetObject,
        Objects::Plain => false,
    };
    let stored = at_rest(crossing);
    let Some((call, at_rest)) = stored.filter(|(call, at_rest)| reads(call, at_rest)) else {
        let mut answer = snapshot.upstreams.send(endpoint, outbound).await.map_err(Failed::Send)?;
        if stored.is_some_and(|(_, at_rest)| at_rest.objects == Objects::Open) {
            without_claims(answer.response.headers_mut());
        }
        return Ok(Fetched::plain(answer.response));
    };
    let Some(reads) = Reads::of(outbound) else {
        return Err(Failed::Refused(Reject::internal(
            "a request that reads nothing was to be read in parts",
        )));
    };
    let source = Source { snapshot, crossing, endpoint, reads, fetched: Arc::default() };
    let read = match at_rest.objects {
        Objects::Open => Box::pin(source.open(call, at_rest)).await,
        _ => Box::pin(source.untouched(at_rest)).await,
    };
    match read {
        Ok(fetched) => Ok(fetched),
        Err(Stop::Answered(response)) => Ok(Fetched::plain(response)),
        Err(Stop::Failed(failed)) => Err(failed),
    }
}

/// Takes away what the store says of the sealed bytes, for the caller gets others.
pub(super) fn without_claims(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("x-amz-checksum-") || OF_SEALED_BYTES.contains(&name)
        })
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}
