//! The gate: every request is read here once, or refused here.
//!
//! What hyper has resolved before the request gets here cannot be seen any more: with `Transfer-Encoding` and `Content-Length` together the
//! former wins and the latter is gone, equal `Content-Length` fields are one, and a `#fragment` of the target is cut off. In each case policy and
//! upstream see the same single reading.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body as HttpBody;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::{Body, BoxError, CheckedTrailers, IdleTimeout, Limited, boxed, empty};
use super::headers;
use super::{CallerHeaders, Connection, GateError, Inbound, Protocol, Target};
use crate::model::{ByteSize, Duration};

/// The methods that this gateway serves, as `Allow` lists them.
pub(crate) const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Bounds on what a client may send before anybody knows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GateSettings {
    /// The longest request target, with the authority if the client sends one there; longer is 414.
    pub max_uri: ByteSize,
    /// The largest header block: names, values and 4 bytes a line; larger is 431.
    pub max_header_bytes: ByteSize,
    /// The most header lines; more is 431.
    pub max_headers: u16,
    /// The largest body of any route; routes lower it; larger is 413.
    pub max_body: ByteSize,
    /// The longest wait for the next part of a request body.
    pub body_idle: Duration,
    /// How long a body that is read whole (`infer`, `embed`) may take to come; longer is 408. From `100ms` to `1d`.
    pub body_time: Duration,
    /// Bytes of bodies that are read whole, of all requests together, held until the far side took them. When they are spent, 503 for
    /// whoever would hold most: the request that needs more, or the largest whose body has not come whole. At least the largest `max_body` of
    /// a route with `infer` or `embed`.
    pub held_bodies: ByteSize,
    /// How long a client may leave an answer lying before it is cut and the far side is free again; each KiB of it buys a second, at most as
    /// much again. From `100ms` to `1d`.
    pub answer_stall: Duration,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            max_uri: ByteSize::kib(8),
            max_header_bytes: ByteSize::kib(32),
            max_headers: 100,
            max_body: ByteSize::mib(5 * 1024),
            body_idle: Duration::secs(60),
            body_time: Duration::secs(120),
            held_bodies: ByteSize::mib(128),
            answer_stall: Duration::secs(60),
        }
    }
}

/// Reads a request into its one canonical form. The body is not polled.
///
/// # Errors
/// The request is ambiguous, malformed, over a bound, or asks for what this gateway never does.
pub fn gate<B>(
    connection: &Connection,
    request: Request<B>,
    settings: &GateSettings,
) -> Result<Inbound, GateError>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    check_version(connection, parts.version)?;
    check_method(&parts.method)?;
    check_header_size(&headers, settings)?;
    check_header_names(&headers)?;
    check_transfer(&headers)?;
    check_expectation(&headers)?;
    check_host(parts.version, &headers)?;
    let target = Target::parse(&parts.uri, &headers, settings.max_uri.as_usize())?;
    let declared_bytes = declared_bytes(&headers, &body, settings.max_body.get())?;
    if matches!(parts.method, Method::GET | Method::HEAD) && declared_bytes != Some(0) {
        return Err(GateError::BodyUnexpected);
    }
    let caller = CallerHeaders::take_from(&mut headers)?;
    headers::outbound(&mut headers)?;
    let body = if declared_bytes == Some(0) { empty() } else { guarded(body, settings) };
    Ok(Inbound {
        method: parts.method,
        target: Arc::new(target),
        headers,
        caller,
        version: parts.version,
        declared_bytes,
        body,
    })
}

fn check_version(connection: &Connection, version: Version) -> Result<(), GateError> {
    // HTTP/1.0 has no Host, no chunks and no 100: too many readings for too few clients.
    let served = match connection.protocol {
        Protocol::Http1 => Version::HTTP_11,
        Protocol::Http2 => Version::HTTP_2,
    };
    if version == served { Ok(()) } else { Err(GateError::VersionUnsupported) }
}

/// HTTP/1.1 has a `Host` in every request, also where the target names one (RFC 9112 section 3.2).
fn check_host(version: Version, headers: &HeaderMap) -> Result<(), GateError> {
    if version == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(GateError::HostMissing);
    }
    Ok(())
}

fn check_method(method: &Method) -> Result<(), GateError> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => Ok(()),
        Method::CONNECT | Method::TRACE => Err(GateError::MethodNotAllowed { connection: true }),
        _ => Err(GateError::MethodNotAllowed { connection: false }),
    }
}

fn check_header_size(headers: &HeaderMap, settings: &GateSettings) -> Result<(), GateError> {
    if headers.len() > usize::from(settings.max_headers) {
        return Err(GateError::HeaderTooLarge);
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > settings.max_header_bytes.as_usize() { Err(GateError::HeaderTooLarge) } else { Ok(()) }
}

fn check_header_names(headers: &HeaderMap) -> Result<(), GateError> {
    // As many names as lines: none occurs twice.
    let doubles = headers.keys_len() != headers.len();
    for name in headers.keys() {
        if name.as_str().contains('_') {
            return Err(GateError::HeaderUnderscore);
        }
        if doubles && headers::is_single(name.as_str()) && headers.get_all(name).iter().nth(1).is_some() {
            return Err(match *name {
                HOST => GateError::HostAmbiguous,
                CONTENT_LENGTH | TRANSFER_ENCODING => GateError::FramingAmbiguous,
                _ => GateError::HeaderDuplicated(name.as_str().to_owned()),
            });
        }
    }
    Ok(())
}

fn check_transfer(headers: &HeaderMap) -> Result<(), GateError> {
    if headers.contains_key(UPGRADE) || headers.contains_key("http2-settings") {
        return Err(GateError::UpgradeRefused);
    }
    let Some(coding) = headers.get(TRANSFER_ENCODING) else { return Ok(()) };
    if headers.contains_key(CONTENT_LENGTH) {
        return Err(GateError::FramingAmbiguous);
    }
    if coding.as_bytes().eq_ignore_ascii_case(b"chunked") { Ok(()) } else { Err(GateError::TransferCoding) }
}

/// The server itself sends `100 Continue` when the body is first polled, so after the decision.
fn check_expectation(headers: &HeaderMap) -> Result<(), GateError> {
    match headers.get(EXPECT) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(GateError::ExpectationFailed)
        }
        _ => Ok(()),
    }
}

/// The length of the body before it is read: by its framing, by `Content-Length`, or unknown.
fn declared_bytes<B: HttpBody>(headers: &HeaderMap, body: &B, max: u64) -> Result<Option<u64>, GateError> {
    let stated = headers.get(CONTENT_LENGTH).map(|value| {
        let text = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        text.and_then(|text| text.parse::<u64>().ok()).ok_or(GateError::FramingAmbiguous)
    });
    let stated = stated.transpose()?;
    let framed = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    if let (Some(stated), Some(framed)) = (stated, framed)
        && stated != framed
    {
        return Err(GateError::FramingAmbiguous);
    }
    let declared = stated.or(framed);
    if declared.is_some_and(|bytes| bytes > max) {
        return Err(GateError::BodyTooLarge { limit: max });
    }
    Ok(declared)
}

fn guarded<B>(body: B, settings: &GateSettings) -> Body
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let timed = IdleTimeout::new(body, settings.body_idle.get());
    boxed(CheckedTrailers::new(Limited::new(timed, settings.max_body.get())))
}
