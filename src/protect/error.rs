//! Why nothing was sealed, or opened. Nothing of keys, plaintext or context values is in any of it.

use http::StatusCode;

use super::context::Mismatch;
use super::keys::KeyError;
use super::replay::ReplayError;
use super::seal::{ContextError, OpenError, SealError};
use crate::message::{BodyUnopened, BoxError};

/// A payload that policy wants sealed cannot be: nothing is sent.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The configuration names no keys, or nobody who could open it.
    #[error("the protection that policy demands is not available")]
    NoKeys,
    /// A query would travel in clear.
    #[error("a request with a query cannot be sealed: put what it says into the body")]
    Query,
    /// There is no body that could be sealed.
    #[error("only POST, PUT and PATCH can be sealed: other methods have no body")]
    Method,
    /// The facts that the message is to be bound to are too large.
    #[error("path or media type is too long to be sealed")]
    Context(#[from] ContextError),
    /// The key could not be had.
    #[error("the key that the payload is to be sealed with is not available")]
    Key(#[from] KeyError),
    /// The message could not be made.
    #[error("the payload could not be sealed")]
    Seal(#[from] SealError),
}

impl SealingError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoKeys => "protection_unavailable",
            Self::Query | Self::Method | Self::Context(_) => "not_sealable",
            Self::Key(error) => error.code(),
            Self::Seal(_) => "internal",
        }
    }
}

/// A message that does not open: nothing of it is believed or passed on.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// The configuration names no keys.
    #[error("this gateway has no keys")]
    NoKeys,
    /// The body could not be read.
    #[error("the sealed body could not be read")]
    Body(#[source] BoxError),
    /// The format, the commitment or a tag.
    #[error("the sealed body does not open: {0}")]
    Open(#[from] OpenError),
    /// A frame.
    #[error(transparent)]
    Frame(BodyUnopened),
    /// The key could not be had, or none of ours opens it.
    #[error("the sealed body does not open: {0}")]
    Key(#[from] KeyError),
    /// It was made for another exchange.
    #[error(transparent)]
    Context(#[from] Mismatch),
    /// It was opened before, or might have been.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

impl OpeningError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoKeys => "protection_unavailable",
            Self::Body(_) => "body_broken",
            Self::Open(error) => error.code(),
            Self::Frame(fault) => fault.code,
            Self::Key(error) => error.code(),
            Self::Context(Mismatch::Expired) => "seal_expired",
            Self::Context(_) => "seal_context",
            Self::Replay(ReplayError::Seen) => "seal_replayed",
            Self::Replay(ReplayError::Full) => "replay_full",
        }
    }
}

/// An answer to a sealed request that is not believed.
#[derive(Debug, thiserror::Error)]
pub enum AnswerRefused {
    /// It is not sealed: whoever made it had no key. A gateway of ours answers so before it has opened anything.
    #[error("the peer answered {status} unsealed")]
    NotSealed {
        /// The status on the outside.
        status: StatusCode,
        /// The answer.
        response: Box<http::Response<crate::message::Body>>,
    },
    /// It broke off before anything of it could be believed.
    #[error("the peer's answer broke off")]
    Broken(#[source] BoxError),
    /// It is sealed and does not open, or is no answer to the request.
    #[error("the peer's answer is not believed: {0}")]
    Unopened(#[source] OpeningError),
}

impl From<OpeningError> for AnswerRefused {
    fn from(error: OpeningError) -> Self {
        match error {
            OpeningError::Body(cause) => Self::Broken(cause),
            error => Self::Unopened(error),
        }
    }
}

impl From<BoxError> for AnswerRefused {
    fn from(error: BoxError) -> Self {
        match error.downcast::<BodyUnopened>() {
            Ok(fault) => Self::Unopened(OpeningError::Frame(*fault)),
            Err(other) => Self::Broken(other),
        }
    }
}

impl AnswerRefused {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotSealed { .. } => "peer_answer_not_sealed",
            Self::Broken(_) => "upstream_reset",
            Self::Unopened(_) => "peer_answer_unopened",
        }
    }
}
