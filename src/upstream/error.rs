//! Why an attempt came to nothing, and what may be done about it.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;

use super::endpoint::EndpointId;
use super::upload::UploadError;
use crate::message::{Body, BoxError};
use crate::model::UpstreamRef;

/// No endpoint can be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The configuration has no such upstream.
    #[error("{0} is not configured")]
    Unknown(UpstreamRef),
    /// Every endpoint has been tried.
    #[error("{0} has no endpoint left to try")]
    Exhausted(UpstreamRef),
    /// Every endpoint that is left has as many requests in flight as it may.
    #[error("{0} has no endpoint with a place in flight")]
    Overloaded(UpstreamRef),
}

impl UpstreamError {
    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) | Self::Exhausted(_) => "upstream_unreachable",
            Self::Overloaded(_) => "upstream_overloaded",
        }
    }

    /// The status of the refusal.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Unknown(_) | Self::Exhausted(_) => StatusCode::BAD_GATEWAY,
            Self::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// What stopped an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendErrorKind {
    /// No connection: name, network rules, dialling, or its bound on time.
    Connect,
    /// The TLS handshake failed: certificate, name, version.
    Tls,
    /// A pooled connection was closed before it took the request.
    Pool,
    /// No head of an answer within the bound.
    Timeout,
    /// The connection ended without an answer.
    Reset,
    /// What came is no HTTP answer, or one that was not asked for.
    Protocol,
    /// The request's body failed or stalled: the client's side. [`SendError::source`](Error::source) says how.
    Body,
    /// The request cannot be signed for the store.
    Signature,
    /// The permit is for another upstream than the endpoint: nothing was sent.
    Misdirected,
}

impl SendErrorKind {
    /// The name in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Pool => "pool",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Body => "body",
            Self::Signature => "signature",
            Self::Misdirected => "misdirected",
        }
    }

    /// Whether it speaks against the endpoint: not what a client did, and not that a kept connection had been closed.
    #[must_use]
    pub const fn is_the_endpoints(self) -> bool {
        matches!(self, Self::Connect | Self::Tls | Self::Timeout | Self::Reset | Self::Protocol)
    }

    /// Whether the request has certainly not reached the upstream.
    pub(super) const fn is_before_sending(self) -> bool {
        matches!(self, Self::Connect | Self::Tls | Self::Pool | Self::Signature | Self::Misdirected)
    }
}

/// An attempt that brought no answer.
pub struct SendError {
    kind: SendErrorKind,
    endpoint: EndpointId,
    retryable: bool,
    stalled: bool,
    body: Mutex<Option<Body>>,
    source: Option<BoxError>,
}

impl SendError {
    pub(super) fn new(
        kind: SendErrorKind,
        endpoint: EndpointId,
        (retryable, body): (bool, Option<Body>),
        source: Option<BoxError>,
    ) -> Self {
        let stalled = source
            .as_ref()
            .and_then(|error| error.downcast_ref())
            .is_some_and(|error| matches!(error, UploadError::Stalled(_)));
        Self { kind, endpoint, retryable, stalled, body: Mutex::new(body), source }
    }

    /// What stopped it.
    #[must_use]
    pub const fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// Who was called.
    #[must_use]
    pub const fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// Whether another attempt cannot do anything twice: the connection took no byte of the body, and either the request was
    /// never sent, or it has a body that is still whole, or its method is idempotent (RFC 9110, 9.2.2).
    #[must_use]
    pub const fn retryable(&self) -> bool {
        self.retryable
    }

    /// The whole body, if the connection took nothing of it: what a retry of a streamed request needs. Gives it once.
    #[must_use]
    pub fn take_body(&self) -> Option<Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The stable code of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self.kind {
            SendErrorKind::Connect | SendErrorKind::Tls | SendErrorKind::Pool => "upstream_unreachable",
            SendErrorKind::Timeout => "upstream_timeout",
            SendErrorKind::Reset | SendErrorKind::Protocol => "upstream_reset",
            SendErrorKind::Body if self.stalled => "request_body_timeout",
            SendErrorKind::Body => "request_body_failed",
            SendErrorKind::Signature => "request_not_signable",
            SendErrorKind::Misdirected => "internal_error",
        }
    }

    /// The status of the refusal.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self.kind {
            SendErrorKind::Connect
            | SendErrorKind::Tls
            | SendErrorKind::Pool
            | SendErrorKind::Reset
            | SendErrorKind::Protocol => StatusCode::BAD_GATEWAY,
            SendErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            SendErrorKind::Body if self.stalled => StatusCode::REQUEST_TIMEOUT,
            SendErrorKind::Body | SendErrorKind::Signature => StatusCode::BAD_REQUEST,
            SendErrorKind::Misdirected => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for SendError {
    /// For the operator, not for the client: it names the endpoint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt at {} failed: {}", self.endpoint, self.kind.name())
    }
}

impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("kind", &self.kind)
            .field("endpoint", &self.endpoint)
            .field("retryable", &self.retryable)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Error for SendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| &**error as &(dyn Error + 'static))
    }
}
