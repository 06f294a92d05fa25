//! An answer on its way in: frames pass as they come; silence and resets become typed errors; the place in flight is held to the end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::endpoint::{EndpointId, Lease, Node};
use super::idle::Idle;
use super::upload::Watch;
use crate::message::Body;

/// An upstream's answer; its body holds the endpoint's place in flight until it ends or is dropped.
#[derive(Debug)]
pub struct Answer {
    /// Head and body; the version is the one spoken with the upstream.
    pub response: http::Response<Body>,
}

/// How the body of an answer failed after its head had come.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The upstream was silent within the body.
    #[error("{endpoint} sent nothing for {} ms", limit.as_millis())]
    Idle {
        /// Who.
        endpoint: EndpointId,
        /// The configured bound.
        limit: Duration,
    },
    /// The upstream broke the body off, or sent what is none.
    #[error("{endpoint} broke off its answer")]
    Reset {
        /// Who.
        endpoint: EndpointId,
        /// What HTTP saw.
        #[source]
        source: hyper::Error,
    },
}

impl AnswerError {
    /// The stable code for records.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Idle { .. } => "upstream_timeout",
            Self::Reset { .. } => "upstream_reset",
        }
    }

    /// The status, should the head not have been passed on yet.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Idle { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Reset { .. } => StatusCode::BAD_GATEWAY,
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
struct Download {
    inner: Incoming,
    node: Arc<Node>,
    idle: Idle,
    /// Given back at the end, not only when dropped: a slow client must not keep it.
    lease: Option<Lease>,
    /// The request's body: nobody wants its rest once the answer is over.
    upload: Watch,
    ended: bool,
}

/// Wraps the body of an answer.
pub(super) fn download(inner: Incoming, node: &Arc<Node>, lease: Lease, upload: Watch) -> Body {
    let ended = inner.is_end_stream();
    if ended {
        node.health.ended();
    }
    let lease = (!ended).then_some(lease);
    let idle = Idle::new(node.timeouts.idle.get());
    let node = Arc::clone(node);
    Download { inner, node, idle, lease, upload, ended: false }.map_err(Into::into).boxed_unsync()
}

impl Download {
    /// All of it came.
    fn whole(&mut self) {
        if !self.ended {
            self.node.health.ended();
        }
        self.end();
    }

    /// The endpoint did not keep what its head promised.
    fn broken(&mut self) {
        self.node.health.failed(Instant::now());
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        self.lease = None;
        drop(self.upload.withdraw());
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.end();
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.progress();
                if this.inner.is_end_stream() {
                    this.whole();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(source))) => {
                this.broken();
                Poll::Ready(Some(Err(AnswerError::Reset { endpoint: this.node.id.clone(), source })))
            }
            Poll::Ready(None) => {
                this.whole();
                Poll::Ready(None)
            }
            Poll::Pending if this.idle.poll_expired(cx) => {
                this.broken();
                let limit = this.idle.limit();
                Poll::Ready(Some(Err(AnswerError::Idle { endpoint: this.node.id.clone(), limit })))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
