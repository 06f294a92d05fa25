//! One sealed object in its store, read in as few pieces as will do: the first bytes, the final frame, the frames of the range.
//!
//! All pieces are of one version of the object, and every head has come before the caller gets a byte.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::inspect::{AtRest, StoreCall};
use crate::message::{
    self, Body, BodyUnopened, BoxError, Observed, Observer, ReadBodyError, collect_bounded,
};
use crate::protect::keys::Scope;
use crate::protect::seal::OpenError;
use crate::protect::{ObjectHeader, ObjectName, Outbound, Reads, SealFacts, StoredFault, StoredObject};
use crate::upstream::{AnswerError, Endpoint};

use super::Snapshot;
use super::attempt::Crossing;
use super::completion::AtRestSeal;
use super::object;
use super::range::ByteRange;
use super::reject::Reject;
use super::stored::{Failed, Fetched, name, scope, scopes, wanted, without_claims};

/// What is read first: the header, which with the usual names has less than 1 KiB.
const FIRST_BYTES: u64 = 2 * 1024;
/// The longest header.
const HEADER_BYTES: u64 = 64 * 1024;
/// The longest final frame: the longest frame, and what stands around it.
const FINAL_BYTES: u64 = 1024 * 1024 + 64;

/// Why reading stopped.
pub(super) enum Stop {
    Failed(Failed),
    /// The store answered that there is nothing to read.
    Answered(Response<Body>),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Failed(Failed::Refused(reject))
    }
}

/// One object in its store.
pub(super) struct Source<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) crossing: &'a Crossing,
    pub(super) endpoint: &'a Endpoint,
    pub(super) reads: Reads,
    pub(super) fetched: Arc<AtomicU64>,
}

/// The beginning of one version of an object.
struct Beginning {
    headers: HeaderMap,
    version: HeaderValue,
    bytes: BytesMut,
    /// Bytes of the whole object.
    total: u64,
}

impl Beginning {
    /// Some bytes of the object, if they are here.
    fn get(&self, part: &Range<u64>) -> Option<Bytes> {
        let (start, end) = (usize::try_from(part.start).ok()?, usize::try_from(part.end).ok()?);
        self.bytes.get(start..end).map(Bytes::copy_from_slice)
    }
}

impl Source<'_> {
    /// The plaintext of the object, or of the range that is asked for.
    pub(super) async fn open(self, call: &StoreCall, at_rest: &AtRest) -> Result<Fetched, Stop> {
        let head = self.crossing.case.method == Method::HEAD;
        let mut beginning = self.beginning().await?;
        let place = name(self.crossing, call)?;
        let header = self.header(&mut beginning, &[scope(at_rest)], Some(place)).await?;
        let facts = header.facts().clone();
        let stored = match header.proven() {
            Ok(stored) => stored,
            Err(header) => {
                let final_frame = self.bytes(&beginning, &header.final_frame()).await?;
                let proven = self.snapshot.protector.prove(*header, &final_frame);
                proven.map_err(|error| unbelieved("object_unopened", error.into()))?
            }
        };
        let range = if head { None } else { self.range(&beginning)? };
        let length = stored.length();
        let part = match range {
            None => 0..length,
            Some(range) => range.of(length).ok_or_else(|| {
                Reject::new("range_not_satisfiable", "the range begins behind the end of the object")
            })?,
        };
        let body = if head { message::empty() } else { self.plaintext(&beginning, stored, &part).await? };
        Ok(self.fetched(beginning.headers, (range.is_some(), part, length), body, facts))
    }

    async fn plaintext(
        &self,
        beginning: &Beginning,
        stored: StoredObject,
        part: &Range<u64>,
    ) -> Result<Body, Stop> {
        let sealed = match stored.needed(part) {
            None => message::empty(),
            Some(needed) => self.body(beginning, &needed).await?,
        };
        Ok(stored.open(part, sealed).await.map_err(|error| unread(&error))?)
    }

    fn fetched(
        self,
        mut headers: HeaderMap,
        (partial, part, length): (bool, Range<u64>, u64),
        body: Body,
        facts: SealFacts,
    ) -> Fetched {
        without_claims(&mut headers);
        headers.remove(CONTENT_RANGE);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(part.end.saturating_sub(part.start)));
        let mut response = Response::new(body);
        if partial {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let text = format!("bytes {}-{}/{length}", part.start, part.end.saturating_sub(1));
            // Digits alone: it is a header's value.
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(CONTENT_RANGE, value);
            }
        }
        *response.headers_mut() = headers;
        let object = Some(AtRestSeal { facts, fetched: Some(self.fetched) });
        Fetched { response, object, untouched: false }
    }

    /// The sealed message as it is, once it is certain that it is one.
    pub(super) async fn untouched(self, at_rest: &AtRest) -> Result<Fetched, Stop> {
        let mut beginning = self.beginning().await?;
        let scopes = scopes(self.crossing, at_rest);
        let header = self.header(&mut beginning, &scopes, None).await?;
        let facts = header.facts().clone();
        let range = self.crossing.headers.get(RANGE).filter(|_| self.is_current(&beginning.version));
        let response = self.ask(self.reads.whole(range, &beginning.version)).await?;
        if response.status().is_success() && response.headers().get(ETAG) != Some(&beginning.version) {
            return Err(changed().into());
        }
        let response = self.counted(response);
        let object = Some(AtRestSeal { facts, fetched: Some(self.fetched) });
        Ok(Fetched { response, object, untouched: true })
    }

    /// The first bytes, under the caller's own conditions; what else the store answers is the answer.
    async fn beginning(&self) -> Result<Beginning, Stop> {
        let answer = self.snapshot.upstreams.send(self.endpoint, self.reads.first(FIRST_BYTES)).await;
        let response = answer.map_err(|error| Stop::Failed(Failed::Send(error)))?.response;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {}
            // Of an object that has bytes the first ones can be had.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let detail = "the object is empty, and so no sealed message";
                return Err(Reject::new("object_unopened", detail).into());
            }
            _ if self.crossing.case.method == Method::HEAD => {
                return Err(Stop::Answered(response.map(|_| message::empty())));
            }
            _ => return Err(Stop::Answered(response)),
        }
        let (range, total) =
            object::bytes(&response).ok_or_else(|| unknown("which bytes it answers with"))?;
        let whole = range.is_none_or(|(first, last)| first == 0 && last + 1 == total.min(FIRST_BYTES));
        let strong = |value: &&HeaderValue| value.as_bytes().starts_with(b"\"");
        let version = response.headers().get(ETAG).filter(strong).cloned();
        let version = version.ok_or_else(|| unknown("which version of the object it has"))?;
        if !whole {
            return Err(unknown("which bytes it answers with").into());
        }
        let (head, body) = self.counted(response).into_parts();
        let bytes = BytesMut::from(&*collected(body, FIRST_BYTES).await?);
        Ok(Beginning { headers: head.headers, version, bytes, total })
    }

    /// The header, believed; more of the object is read if it is longer than what was read first.
    async fn header(
        &self,
        beginning: &mut Beginning,
        scopes: &[Scope],
        place: Option<ObjectName<'_>>,
    ) -> Result<ObjectHeader, Stop> {
        loop {
            let so_far = (&*beginning.bytes, beginning.total, &beginning.version);
            let found = self.snapshot.protector.object_header(so_far, scopes, place).await;
            match found {
                Ok(Some(header)) => return Ok(header),
                Ok(None) => {
                    let read = u64::try_from(beginning.bytes.len()).unwrap_or(u64::MAX);
                    let more = self.bytes(beginning, &(read..beginning.total.min(HEADER_BYTES))).await?;
                    beginning.bytes.extend_from_slice(&more);
                }
                Err(fault) if fault.is_of_the_message() => {
                    return Err(unbelieved("object_unopened", fault).into());
                }
                Err(fault) => return Err(Reject::from_stage(fault.code(), fault).into()),
            }
        }
    }

    /// The range that is asked for; none for the whole object, which also answers a range of another version (RFC 9110 13.1.5).
    fn range(&self, beginning: &Beginning) -> Result<Option<ByteRange>, Reject> {
        Ok(wanted(&self.crossing.headers)?.filter(|_| self.is_current(&beginning.version)))
    }

    /// Whether `If-Range`, if there is one, names this version. A date never does: it is no strong validator.
    fn is_current(&self, version: &HeaderValue) -> bool {
        self.crossing.headers.get(IF_RANGE).is_none_or(|wanted| wanted == version)
    }

    /// Some bytes of the same version, held: at most a frame.
    async fn bytes(&self, beginning: &Beginning, part: &Range<u64>) -> Result<Bytes, Stop> {
        if part.is_empty() || part.end - part.start > FINAL_BYTES {
            let fault = OpenError::Truncated { after: 0 };
            return Err(unbelieved("object_unopened", fault.into()).into());
        }
        match beginning.get(part) {
            Some(bytes) => Ok(bytes),
            None => collected(self.read(beginning, part).await?, part.end - part.start).await,
        }
    }

    /// Some bytes of the same version, as they come.
    async fn body(&self, beginning: &Beginning, part: &Range<u64>) -> Result<Body, Stop> {
        match beginning.get(part) {
            Some(bytes) => Ok(message::full(bytes)),
            None => self.read(beginning, part).await,
        }
    }

    async fn read(&self, beginning: &Beginning, part: &Range<u64>) -> Result<Body, Stop> {
        let response = self.ask(self.reads.part(part, &beginning.version)).await?;
        // A store that does not know `If-Match` must not mix two versions either.
        let same = response.headers().get(ETAG) == Some(&beginning.version);
        match (response.status(), object::bytes(&response)) {
            (StatusCode::PARTIAL_CONTENT, Some((Some((first, last)), total))) => {
                if !same || total != beginning.total {
                    return Err(changed().into());
                }
                if first != part.start || last + 1 != part.end {
                    return Err(unknown("which bytes it answers with").into());
                }
                Ok(self.counted(response).into_body())
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => Err(changed().into()),
            (status, _) if status.is_success() => {
                Err(if same { unknown("which bytes it answers with") } else { changed() }.into())
            }
            _ => Err(Stop::Answered(response)),
        }
    }

    /// Asks for a part of a version that was there a moment ago.
    async fn ask(&self, outbound: Outbound) -> Result<Response<Body>, Stop> {
        let answer = self.snapshot.upstreams.send(self.endpoint, outbound).await;
        let response = answer.map_err(|error| Reject::from(&error))?.response;
        match response.status() {
            StatusCode::PRECONDITION_FAILED | StatusCode::NOT_FOUND => Err(changed().into()),
            _ => Ok(response),
        }
    }

    fn counted(&self, response: Response<Body>) -> Response<Body> {
        let count = Count(Arc::clone(&self.fetched));
        response.map(|body| message::boxed(Observed::new(body, count)))
    }
}

/// Counts what comes of an object.
struct Count(Arc<AtomicU64>);

impl Observer for Count {
    fn passed(&mut self, data: &Bytes) {
        self.0.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn ended(&mut self) {}

    fn failed(&mut self, _: &BoxError) {}
}

async fn collected(body: Body, most: u64) -> Result<Bytes, Stop> {
    match collect_bounded(body, most).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadBodyError::Broken(cause)) => Err(unread(&cause).into()),
        Err(ReadBodyError::Fault(_)) => Err(unknown("which bytes it answers with").into()),
    }
}

fn changed() -> Reject {
    Reject::new("object_changed", "the object was written anew or deleted while parts of it were read")
}

fn unknown(what: &str) -> Reject {
    Reject::new("object_range_unknown", format!("the store does not say {what}"))
}

pub(super) fn unbelieved(code: &str, fault: StoredFault) -> Reject {
    let detail = format!("{fault} ({})", fault.code());
    let mut reject = Reject::from_stage(fault.code(), fault);
    reject.becomes(code, detail);
    reject
}

/// A part that did not come whole, or whose first frame does not open.
fn unread(error: &BoxError) -> Reject {
    if let Some(fault) = error.downcast_ref::<BodyUnopened>() {
        return Reject::new("object_unopened", format!("the object does not open ({}): {fault}", fault.code));
    }
    let code = error.downcast_ref::<AnswerError>().map_or("upstream_reset", AnswerError::code);
    Reject::new(code, "the store's answer broke off")
}
