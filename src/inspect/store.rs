//! S3 requests, path-style: exactly five operations, and nothing that changes what they do.
//!
//! The target is written anew from its parts (`/bucket/key`, pairs in order, RFC 3986 unreserved bytes plain and all others as
//! upper-case escapes): the store decodes it to the same bucket, key and values, and a signature over it is canonical.

use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::aws_chunked::{AwsChunked, AwsChunkedFraming};
use super::catalog::{Dataset, is_bucket, is_plain_key};
use super::claimed::{Claim, Claimed};
use super::error::StoreFault;
use super::label::{effective_label, purpose};
use super::plain::take_body;
use super::{Catalog, InspectError, Inspected, Operation, Payload, RouteFacts};
use crate::message::{Inbound, Target, boxed};
use crate::model::{
    Action, Candidate, Jurisdictions, Objects, Placement, RecipientName, Resource, SealedAtRest, StoreName,
    UpstreamRef,
};

/// The longest key, in bytes (S3's own bound).
const MAX_KEY_BYTES: usize = 1024;

/// What stays plain in a query value.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What stays plain in a path.
const PATH: &AsciiSet = &VALUE.remove(b'/');

/// The five operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreOperation {
    /// Reads an object or a range of it.
    GetObject,
    /// Reads an object's metadata.
    HeadObject,
    /// Writes an object.
    PutObject,
    /// Deletes an object.
    DeleteObject,
    /// Lists keys.
    ListObjectsV2,
}

impl StoreOperation {
    /// The name in S3's documentation and in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::PutObject => "PutObject",
            Self::DeleteObject => "DeleteObject",
            Self::ListObjectsV2 => "ListObjectsV2",
        }
    }

    /// The Cedar action.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::GetObject | Self::HeadObject => Action::Read,
            Self::PutObject => Action::Write,
            Self::DeleteObject => Action::Delete,
            Self::ListObjectsV2 => Action::List,
        }
    }

    /// The query parameters that it may have, besides `x-id` (its own name).
    const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::ListObjectsV2 => &[
                "list-type",
                "prefix",
                "delimiter",
                "max-keys",
                "continuation-token",
                "start-after",
                "encoding-type",
                "fetch-owner",
            ],
            _ => &[],
        }
    }
}

/// An S3 call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreCall {
    /// Which operation.
    pub operation: StoreOperation,
    /// The bucket.
    pub bucket: String,
    /// The key; for a listing the prefix.
    pub key: String,
    /// `x-amz-content-sha256`, if the client stated a digest of the payload: 64 lower-case hexadecimal digits, to be signed as they are.
    pub payload_sha256: Option<String>,
    /// How the object is sealed in the store; none if it lies in the clear.
    pub at_rest: Option<AtRest>,
}

/// How an object is sealed in its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtRest {
    /// [`Objects::Pass`] or [`Objects::Open`].
    pub objects: Objects,
    /// Whose key.
    pub key: SealedAtRest,
    /// Whose keys the caller holds, if that is known.
    pub caller: Option<RecipientName>,
}

pub(super) fn inspect(
    inbound: &mut Inbound,
    route: RouteFacts<'_>,
    store: &StoreName,
    catalog: &Catalog,
    jurisdictions: &Jurisdictions,
    reader: &Placement,
) -> Result<(Inspected, Payload), InspectError> {
    let (call, path_and_query) = read_target(&inbound.method, &inbound.target, route.strip_segments)?;
    check_headers(&inbound.headers)?;
    let (payload_sha256, framing) = read_payload_headers(&mut inbound.headers, call.operation)?;
    let bytes = payload_bytes(inbound, call.operation, framing.as_ref(), route.max_body)?;
    let dataset = find_dataset(&call, store, catalog)?;
    let at_rest = at_rest(route.objects, dataset, reader, catalog)?;
    let sealed_here = call.operation == StoreOperation::PutObject
        && at_rest.as_ref().is_some_and(|at_rest| at_rest.objects == Objects::Open);
    let claims = match sealed_here {
        true => Some(take_claims(&mut inbound.headers, payload_sha256.as_deref())?),
        false => None,
    };
    let call = StoreCall { payload_sha256, at_rest, ..call };
    let label = effective_label(route.floor, Some(&dataset.label), &inbound.caller, jurisdictions)?;
    let action = call.operation.action();
    let (destination, can_open) = match action {
        Action::Read | Action::List => (reader.cluster.clone(), sealed_for(reader, catalog)),
        _ => (Some(catalog.inside().clone()), None),
    };
    let can_open = can_open.filter(|_| call.operation == StoreOperation::GetObject);
    let purpose = purpose(&inbound.caller)?;
    let body = match framing {
        Some(framing) => {
            let coded = std::mem::replace(&mut inbound.body, crate::message::empty());
            boxed(AwsChunked::new(coded, framing))
        }
        None => take_body(inbound, route.max_body),
    };
    let body = match claims {
        Some(claims) => boxed(Claimed::new(body, bytes, claims)),
        None => body,
    };
    let inspected = Inspected {
        action,
        candidates: vec![Candidate {
            resource: Resource::Dataset(dataset.name.clone()),
            destination,
            upstream: UpstreamRef::Store(store.clone()),
            can_open,
        }],
        label,
        bytes,
        stream: false,
        max_tokens: None,
        purpose,
        operation: Operation::Store(call),
        path_and_query,
    };
    Ok((inspected, Payload::Streaming(body)))
}

/// How the dataset's objects lie; route and dataset must say the same.
fn at_rest(
    objects: Objects,
    dataset: &Dataset,
    caller: &Placement,
    catalog: &Catalog,
) -> Result<Option<AtRest>, InspectError> {
    match (objects, &dataset.sealed) {
        (Objects::Plain, None) => Ok(None),
        (Objects::Pass | Objects::Open, Some(key)) => {
            Ok(Some(AtRest { objects, key: key.clone(), caller: sealed_for(caller, catalog) }))
        }
        // The configuration is checked for it; a dataset is never written in the clear that is to be sealed.
        _ => Err(InspectError::Unconfigured),
    }
}

/// Takes out of the headers what the client claims of a body that the store will not get as it is: it is verified here instead.
fn take_claims(headers: &mut HeaderMap, payload_sha256: Option<&str>) -> Result<Vec<Claim>, StoreFault> {
    let mut claims: Vec<Claim> = payload_sha256.map(Claim::sha256_hex).into_iter().collect();
    headers.remove("x-amz-sdk-checksum-algorithm");
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-amz-checksum-") || *name == "content-md5")
        .cloned()
        .collect();
    for name in names {
        let value = headers.remove(&name).and_then(|value| value.to_str().ok().map(str::to_owned));
        let claim = value.and_then(|value| Claim::of_header(name.as_str(), value));
        // What cannot be verified may not be dropped: the client counts on it.
        claims.push(claim.ok_or_else(|| StoreFault::Header(name.as_str().chars().take(64).collect()))?);
    }
    Ok(claims)
}

/// Whose keys the reader holds: its own, else those of its cluster.
fn sealed_for(reader: &Placement, catalog: &Catalog) -> Option<RecipientName> {
    let of_cluster = || reader.cluster.as_ref().and_then(|cluster| catalog.can_open(cluster));
    reader.can_open.as_ref().or_else(of_cluster).cloned()
}

/// The operation, and the target in the one form that is sent on.
fn read_target(
    method: &Method,
    target: &Target,
    strip_segments: usize,
) -> Result<(StoreCall, PathAndQuery), InspectError> {
    let path =
        target.path_after(strip_segments).and_then(|path| path.strip_prefix('/')).ok_or(StoreFault::Form)?;
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let operation = match (method, key.is_empty()) {
        (&Method::GET, false) => StoreOperation::GetObject,
        (&Method::HEAD, false) => StoreOperation::HeadObject,
        (&Method::PUT, false) => StoreOperation::PutObject,
        (&Method::DELETE, false) => StoreOperation::DeleteObject,
        (&Method::GET, true) => StoreOperation::ListObjectsV2,
        _ => return Err(StoreFault::Form.into()),
    };
    if !is_bucket(bucket) || key.len() > MAX_KEY_BYTES {
        return Err(StoreFault::Form.into());
    }
    let query = target.query();
    check_parameters(operation, query)?;
    let key = if operation == StoreOperation::ListObjectsV2 { check_listing(query)? } else { key };
    let call = StoreCall {
        operation,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        payload_sha256: None,
        at_rest: None,
    };
    Ok((call, canonical(path, query).ok_or(StoreFault::Form)?))
}

fn check_parameters(operation: StoreOperation, query: &[(String, String)]) -> Result<(), StoreFault> {
    let mut seen: Vec<&str> = Vec::with_capacity(query.len());
    for (name, value) in query {
        let own_name = name == "x-id" && value == operation.name();
        if seen.contains(&name.as_str()) || !(own_name || operation.parameters().contains(&name.as_str())) {
            return Err(StoreFault::Query(name.chars().take(64).collect()));
        }
        seen.push(name);
    }
    Ok(())
}

/// The prefix of a listing whose every value has one reading.
fn check_listing(query: &[(String, String)]) -> Result<&str, StoreFault> {
    let mut version2 = false;
    let mut prefix = "";
    for (name, value) in query {
        let key = value.len() <= MAX_KEY_BYTES && is_plain_key(value);
        let printable = !value.chars().any(char::is_control);
        let valid = match name.as_str() {
            "list-type" => {
                version2 = true;
                value == "2"
            }
            "prefix" => {
                prefix = value;
                key
            }
            "start-after" => key,
            // Opaque, but some stores take a key for one.
            "continuation-token" => printable && value.split('/').all(|part| part != "." && part != ".."),
            "delimiter" => printable && value.len() <= 16,
            "max-keys" => (1..=4).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()),
            "encoding-type" => value == "url",
            "fetch-owner" => value == "true" || value == "false",
            // `x-id`, checked with the names.
            _ => true,
        };
        if !valid {
            return Err(StoreFault::QueryValue(name.clone()));
        }
    }
    if version2 { Ok(prefix) } else { Err(StoreFault::Form) }
}

fn canonical(path: &str, query: &[(String, String)]) -> Option<PathAndQuery> {
    let mut text = format!("/{}", utf8_percent_encode(path, PATH));
    for (index, (name, value)) in query.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.extend(utf8_percent_encode(name, VALUE));
        text.push('=');
        text.extend(utf8_percent_encode(value, VALUE));
    }
    PathAndQuery::try_from(text).ok()
}

/// `x-amz-*` headers of an allow-list only; `x-amz-copy-source`, `-acl`, `-tagging`, `-server-side-encryption*` and all others are refused.
fn check_headers(headers: &HeaderMap) -> Result<(), StoreFault> {
    const KNOWN: &[&str] = &[
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-decoded-content-length",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
        "x-amz-user-agent",
    ];
    for name in headers.keys() {
        let name = name.as_str();
        let known =
            KNOWN.contains(&name) || name.starts_with("x-amz-checksum-") || name.starts_with("x-amz-meta-");
        if (name.starts_with("x-amz-") && !known) || *name == CONTENT_RANGE {
            return Err(StoreFault::Header(name.chars().take(64).collect()));
        }
    }
    Ok(())
}

/// What the headers say about the payload; those that only concern the client's own hop are taken out.
fn read_payload_headers(
    headers: &mut HeaderMap,
    operation: StoreOperation,
) -> Result<(Option<String>, Option<AwsChunkedFraming>), InspectError> {
    let digest = headers.remove("x-amz-content-sha256");
    let digest = digest.as_ref().map(|value| value.to_str().unwrap_or("?"));
    let streaming = matches!(
        digest,
        Some(
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
                | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
                | "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
        )
    );
    let coded = remove_coding(headers)?;
    let hexadecimal =
        |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let payload_sha256 = match digest {
        None | Some("UNSIGNED-PAYLOAD") => None,
        Some(_) if streaming => None,
        Some(text) if hexadecimal(text) && !coded => Some(text.to_owned()),
        Some(_) => return Err(StoreFault::Framing.into()),
    };
    let decoded = headers.remove("x-amz-decoded-content-length");
    let trailer = headers.remove("x-amz-trailer");
    for name in ["x-amz-date", "x-amz-user-agent", "amz-sdk-invocation-id", "amz-sdk-request"] {
        headers.remove(name);
    }
    if !(streaming || coded) {
        let plain = decoded.is_none() && trailer.is_none();
        return if plain { Ok((payload_sha256, None)) } else { Err(StoreFault::Framing.into()) };
    }
    if operation != StoreOperation::PutObject {
        return Err(StoreFault::Framing.into());
    }
    // Announces the trailer, which does not travel on; with it the store would wait for one.
    headers.remove("x-amz-sdk-checksum-algorithm");
    let decoded = decoded.ok_or(InspectError::LengthRequired)?;
    let digits = decoded.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let decoded_bytes = digits.and_then(|text| text.parse().ok()).ok_or(StoreFault::Framing)?;
    let trailer = trailer.map(|value| read_trailer_name(&value)).transpose()?;
    Ok((payload_sha256, Some(AwsChunkedFraming { decoded_bytes, trailer })))
}

fn read_trailer_name(value: &HeaderValue) -> Result<String, StoreFault> {
    let name = value.to_str().map_err(|_| StoreFault::Framing)?.trim().to_ascii_lowercase();
    if name.starts_with("x-amz-checksum-") && !name.contains([',', ' ']) {
        Ok(name)
    } else {
        Err(StoreFault::Framing)
    }
}

/// Takes `aws-chunked` out of `Content-Encoding`; true if it was there. What else is there describes the object and stays.
fn remove_coding(headers: &mut HeaderMap) -> Result<bool, StoreFault> {
    let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(false) };
    let text = value.to_str().map_err(|_| StoreFault::Framing)?;
    let codings = || text.split(',').map(str::trim).filter(|coding| !coding.is_empty());
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("aws-chunked");
    match codings().filter(|coding| is_chunked(coding)).count() {
        0 => return Ok(false),
        1 => {}
        _ => return Err(StoreFault::Framing),
    }
    let rest: Vec<&str> = codings().filter(|coding| !is_chunked(coding)).collect();
    if rest.is_empty() {
        headers.remove(CONTENT_ENCODING);
    } else {
        let value = HeaderValue::try_from(rest.join(", ")).map_err(|_| StoreFault::Framing)?;
        headers.insert(CONTENT_ENCODING, value);
    }
    Ok(true)
}

/// The length of the object that is written; 0 for all other operations, which have no body.
fn payload_bytes(
    inbound: &Inbound,
    operation: StoreOperation,
    framing: Option<&AwsChunkedFraming>,
    max: u64,
) -> Result<u64, InspectError> {
    if operation != StoreOperation::PutObject {
        return if inbound.declared_bytes == Some(0) { Ok(0) } else { Err(InspectError::BodyUnexpected) };
    }
    let bytes = framing.map(|framing| framing.decoded_bytes).or(inbound.declared_bytes);
    let bytes = bytes.ok_or(InspectError::LengthRequired)?;
    if bytes > max { Err(InspectError::too_large(max)) } else { Ok(bytes) }
}

fn find_dataset<'a>(
    call: &StoreCall,
    store: &StoreName,
    catalog: &'a Catalog,
) -> Result<&'a Dataset, InspectError> {
    let dataset = catalog.dataset(store, &call.bucket, &call.key);
    if call.operation == StoreOperation::ListObjectsV2
        && catalog.spans_datasets(store, &call.bucket, &call.key)
    {
        return Err(InspectError::ListSpansDatasets);
    }
    dataset.ok_or(InspectError::DatasetUnknown)
}
