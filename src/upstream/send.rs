//! One attempt: the request goes out as it is, under the endpoint's address and credential, and the head of the answer comes back.
//!
//! The caller's bytes choose neither scheme, host, port nor credential: these come from the configuration.

use std::error::Error;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, EXPECT, HOST, HeaderValue, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, ResponseFuture};
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, download};
use super::endpoint::{Credential, Endpoint, Node};
use super::error::{SendError, SendErrorKind};
use super::pool;
use super::registry::Upstreams;
use super::sigv4::{self, Payload};
use super::upload::{Upload, Watch};
use crate::message::{Body, BoxError};
use crate::model::Clock;
use crate::protect::Outbound;

/// Why there is no answer, before it is known what a retry may do.
pub(super) struct Failure {
    kind: SendErrorKind,
    source: Option<BoxError>,
}

impl Failure {
    fn because(kind: SendErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: Some(source.into()) }
    }
}

impl Upstreams {
    /// Sends a request to the endpoint that was chosen for it and waits for the head of the answer.
    ///
    /// The URI is the endpoint's scheme and authority with the path and query of the request, byte for byte. Redirects are
    /// answers like others. The body streams: no more of it is read than the connection takes.
    ///
    /// # Errors
    /// There is no answer; [`SendError`] says why and whether another attempt is safe.
    pub async fn send(&self, endpoint: &Endpoint, outbound: Outbound) -> Result<Answer, SendError> {
        let node = &endpoint.node;
        let (permit, request) = outbound.into_parts();
        if permit.candidate().upstream != *node.id.upstream() {
            return Err(SendError::new(SendErrorKind::Misdirected, node.id.clone(), (false, None), None));
        }
        let (mut parts, body) = request.into_parts();
        let declared = frame(&mut parts, &body);
        let prepared =
            address(&mut parts, node).and_then(|()| credential(&mut parts, node, &body, &*self.clock));
        if let Err(failure) = prepared {
            return Err(SendError::new(failure.kind, node.id.clone(), (false, None), failure.source));
        }
        // A request whose head has left can have been acted on, unless it announced a body that is still here.
        let harmless = parts.method.is_idempotent() || !body.is_end_stream();
        let (upload, watch) =
            Upload::new(body, declared, node.timeouts.idle.get(), Some(endpoint.lease.clone()));
        let future = node.client.request(http::Request::from_parts(parts, upload));
        match head(future, &watch, node.timeouts.first_byte.get()).await {
            Ok(response) => {
                judge(node, response.status());
                let wrap = |body| download(body, node, endpoint.lease.clone(), watch);
                Ok(Answer { response: response.map(wrap) })
            }
            Err(failure) => {
                if failure.kind.is_the_endpoints() {
                    node.health.failed(Instant::now());
                }
                let body = watch.withdraw();
                let safe =
                    failure.kind != SendErrorKind::Body && (failure.kind.is_before_sending() || harmless);
                let retry = (body.is_some() && safe, body);
                Err(SendError::new(failure.kind, node.id.clone(), retry, failure.source))
            }
        }
    }
}

/// What the head of an answer says of its endpoint.
fn judge(node: &Node, status: StatusCode) {
    if is_unavailable(status) {
        node.health.failed(Instant::now());
    } else {
        node.health.answered();
    }
}

/// Whether an endpoint says that it, or what is behind it, cannot serve at all. Not 500: one caller's odd request must not
/// take an endpoint from the others.
pub(super) const fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// The last change to a request.
pub(super) fn credential(
    parts: &mut Parts,
    node: &Node,
    body: &Body,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    parts.headers.remove(PROXY_AUTHORIZATION);
    match &*node.credential {
        Credential::None => {
            parts.headers.remove(AUTHORIZATION);
        }
        Credential::Bearer(value) => {
            parts.headers.insert(AUTHORIZATION, value.clone());
        }
        Credential::SigV4(signer) => {
            let guarded = !node.address.is_plaintext_remote();
            let payload = if body.is_end_stream() { Payload::Empty } else { Payload::Streaming { guarded } };
            // A clock before 1970 signs what no store accepts.
            let seconds = u64::try_from(clock.now().as_second()).unwrap_or(0);
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            signer
                .sign(parts, node.address.authority(), payload, now)
                .map_err(|error| Failure::because(SendErrorKind::Signature, error))?;
        }
    }
    Ok(())
}

/// Scheme and authority from the configuration, the rest as it is. The client derives `Host` or `:authority` from them.
pub(super) fn address(parts: &mut Parts, node: &Node) -> Result<(), Failure> {
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::builder()
        .scheme(node.address.scheme().clone())
        .authority(node.address.authority().clone())
        .path_and_query(target)
        .build()
        .map_err(|error| Failure::because(SendErrorKind::Protocol, error))?;
    // The versions of the two connections have nothing to do with each other.
    parts.version = Version::HTTP_11;
    parts.headers.remove(HOST);
    // Whether the client is told to go on was decided before; the upstream is not asked.
    parts.headers.remove(EXPECT);
    Ok(())
}

/// Frames the body anew: by its length if that is known, else chunked. The length that was declared, for bodies that do not
/// know their own; [`Upload`] holds the client to it.
fn frame(parts: &mut Parts, body: &Body) -> Option<u64> {
    let number = |value: &HeaderValue| value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let name = if sigv4::is_aws_chunked(parts) { sigv4::DECODED_LENGTH } else { CONTENT_LENGTH };
    let declared = parts.headers.get(name).and_then(number);
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.remove(TRANSFER_ENCODING);
    let length = body.size_hint().exact().or(declared);
    if body.is_end_stream() {
        // Methods that mean something by their content say that it is empty (RFC 9110, 8.6).
        if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        }
    } else if let Some(length) = length {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    } else if matches!(parts.method, Method::GET | Method::HEAD) {
        // For these hyper would drop a body of unknown length without a word.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    declared
}

/// Waits for the head of the answer, at most `limit` from when the upstream last took something.
async fn head(
    future: ResponseFuture,
    watch: &Watch,
    limit: Duration,
) -> Result<http::Response<Incoming>, Failure> {
    let mut future = pin!(future);
    loop {
        let deadline = watch.deadline(limit);
        match timeout_at(deadline, future.as_mut()).await {
            // Upgrades are never asked for.
            Ok(Ok(response)) if response.status().is_informational() => {
                return Err(Failure { kind: SendErrorKind::Protocol, source: None });
            }
            Ok(Ok(response)) if response.headers().len() > pool::MAX_HEADERS => {
                return Err(Failure { kind: SendErrorKind::Protocol, source: None });
            }
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => return Err(classify(error, watch)),
            Err(elapsed) if watch.deadline(limit) <= deadline => {
                return Err(Failure::because(SendErrorKind::Timeout, elapsed));
            }
            Err(_) => {}
        }
    }
}

/// The kind of a client error, and the cause that says most.
fn classify(error: legacy::Error, watch: &Watch) -> Failure {
    if let Some(cause) = watch.take_error() {
        return Failure::because(SendErrorKind::Body, cause);
    }
    let kind = if error.is_connect() {
        if pool::is_tls(&error) { SendErrorKind::Tls } else { SendErrorKind::Connect }
    } else {
        match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
            Some(cause) if cause.is_canceled() => SendErrorKind::Pool,
            Some(cause) if cause.is_parse() => SendErrorKind::Protocol,
            _ => SendErrorKind::Reset,
        }
    };
    Failure::because(kind, error)
}
