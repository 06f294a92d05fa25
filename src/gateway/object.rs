//! An object that a permit wants sealed: what the private store answers is sealed for whoever reads it.
//!
//! Each answer is a message of its own, so a part can be opened without the rest. How the object lies in the store is another question:
//! `stored.rs` answers it before, so what comes here is plaintext.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::inspect::{Operation, StoreCall};
use crate::message::Body;
use crate::model::{RecipientName, UpstreamRef};
use crate::protect::keys::{Direction, Scope};
use crate::protect::{Facts, ObjectFacts};

use super::Snapshot;
use super::attempt::Crossing;
use super::exchange::Exchange;
use super::reject::Reject;
use super::sending::{AnswerSeal, Answered};

/// Seals the store's answer for the reader. A refusal of the store's holds nothing of the object and passes as it is.
///
/// # Errors
/// There is no key, or the store's answer does not say which bytes it holds.
pub(super) async fn seal(
    snapshot: &Snapshot,
    exchange: &Exchange,
    crossing: &Crossing,
    reader: RecipientName,
    response: Response<Body>,
) -> Result<Answered, Reject> {
    if !response.status().is_success() {
        return Ok(Answered { response, seal: None, object: None });
    }
    let (Operation::Store(call), Some(store)) = (&crossing.case.inspected.operation, store(crossing)) else {
        return Err(Reject::internal("an answer that is no object's was to be sealed as one"));
    };
    let Some((range, total)) = bytes(&response) else {
        return Err(Reject::new(
            "object_range_unknown",
            "the store does not say which bytes it answers with",
        ));
    };
    let tenant = crossing.case.principal.tenant.clone();
    let scope = Scope { tenant, recipient: reader, direction: Direction::Answer };
    let version = text(response.headers(), &ETAG).map(str::to_owned);
    let object = object(call, store, (version.as_deref(), range, total));
    let media = text(response.headers(), &CONTENT_TYPE).map(str::to_owned);
    let facts = Facts {
        method: &crossing.case.method,
        path: crossing.case.inspected.path_and_query.as_str(),
        level: crossing.case.inspected.label.level,
        decision: exchange.facts.id,
        content_type: media.as_deref(),
    };
    let seal = snapshot.protector.seal_object(&scope, facts, object).await?;
    let (facts, wire) = (seal.facts().clone(), seal.wire());
    let position = response.headers().get(CONTENT_RANGE).cloned();
    // The store's tag is that of the plaintext, and this message will never be made again.
    let tag = HeaderValue::from_str(&format!("\"{}\"", facts.message_id)).map_err(Reject::internal)?;
    let mut response = seal.whole(response)?;
    response.headers_mut().insert(ETAG, tag);
    if let Some(position) = position {
        response.headers_mut().insert(CONTENT_RANGE, position);
    }
    Ok(Answered { response, seal: Some(AnswerSeal { facts, record: None, wire }), object: None })
}

fn object<'a>(
    call: &'a StoreCall,
    store: &'a str,
    (version, range, total): (Option<&'a str>, Option<(u64, u64)>, u64),
) -> ObjectFacts<'a> {
    ObjectFacts { store, bucket: &call.bucket, key: &call.key, version, range, total }
}

pub(super) fn store(crossing: &Crossing) -> Option<&str> {
    crossing.candidates.iter().find_map(|candidate| match &candidate.upstream {
        UpstreamRef::Store(name) => Some(name.as_str()),
        UpstreamRef::Cluster(_) | UpstreamRef::Service(_) => None,
    })
}

/// The first and last byte, none of an empty object; and how many the whole object has.
pub(super) fn bytes(response: &Response<Body>) -> Option<(Option<(u64, u64)>, u64)> {
    let headers = response.headers();
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let (range, total) = text(headers, &CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
        let fits = first <= last && last < total && length(response) == Some(last - first + 1);
        return fits.then_some((Some((first, last)), total));
    }
    let total = length(response).filter(|_| response.status() == StatusCode::OK)?;
    Some((total.checked_sub(1).map(|last| (0, last)), total))
}

fn length(response: &Response<Body>) -> Option<u64> {
    let declared = || text(response.headers(), &CONTENT_LENGTH)?.parse().ok();
    http_body::Body::size_hint(response.body()).exact().or_else(declared)
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
