//! The request body on its way out: it knows whether the connection took any of it, and can be taken back until then.
//!
//! Once the answer is over nobody wants the rest of the request: the body is dropped, which ends an HTTP/1.1 connection and
//! resets an HTTP/2 stream, unless that stream just waits for the upstream's window: then it stays, and its place in flight
//! with it, until the upstream opens the window, resets the stream or closes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::endpoint::Lease;
use super::idle::Idle;
use crate::message::{Body, BoxError};

/// What went wrong with a request body; the client's side, not the upstream's.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// The client was silent for too long.
    #[error("no byte of the request body came for {} ms", .0.as_millis())]
    Stalled(Duration),
    /// More or fewer bytes came than were declared.
    #[error("the request body is not as long as declared")]
    Length,
    /// The attempt was given up, or its answer is over: nobody wants the rest.
    #[error("the request body was taken back")]
    Withdrawn,
    /// The body failed; the cause is kept for whoever sent it.
    #[error("the request body failed")]
    Failed,
}

/// The body as the HTTP client sees it.
#[derive(Debug)]
pub(super) struct Upload {
    state: Arc<Mutex<State>>,
    /// A request that is still being sent is in flight, whether or not its answer is over. A check takes no place.
    _lease: Option<Lease>,
}

/// The same body as the sender of the request sees it.
#[derive(Debug, Clone)]
pub(super) struct Watch(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// None once it was taken back.
    body: Option<Body>,
    /// Bytes that are still due, if the length is known.
    due: Option<u64>,
    /// Whether the connection got any byte or trailer.
    taken: bool,
    /// Whether we wait for the client, so that the upstream cannot be blamed.
    client_is_slow: bool,
    /// When the connection last took something.
    last: Instant,
    idle: Idle,
    error: Option<BoxError>,
    /// Whom to wake when the body is taken back.
    waker: Option<Waker>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Poisoned means that a body panicked; its flags are still true.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upload {
    /// `declared` is the length that the client announced, for bodies that do not know their own.
    pub(super) fn new(
        body: Body,
        declared: Option<u64>,
        idle: Duration,
        lease: Option<Lease>,
    ) -> (Self, Watch) {
        let due = body.size_hint().exact().or(declared);
        let state = State {
            body: Some(body),
            due,
            taken: false,
            client_is_slow: false,
            last: Instant::now(),
            idle: Idle::new(idle),
            error: None,
            waker: None,
        };
        let state = Arc::new(Mutex::new(state));
        (Self { state: Arc::clone(&state), _lease: lease }, Watch(state))
    }
}

impl Watch {
    /// Gives up: nothing more can be taken by the connection, which ends if it wanted more. The body, if none of it was taken.
    pub(super) fn withdraw(&self) -> Option<Body> {
        let mut state = lock(&self.0);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        let body = state.body.take();
        body.filter(|_| !state.taken && state.error.is_none())
    }

    /// What the body itself failed with.
    pub(super) fn take_error(&self) -> Option<BoxError> {
        lock(&self.0).error.take()
    }

    /// When an upstream that has not answered has been silent for `limit`; it is not while the client keeps us waiting.
    pub(super) fn deadline(&self, limit: Duration) -> Instant {
        let state = lock(&self.0);
        if state.client_is_slow { Instant::now() + limit } else { state.last + limit }
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(Err(UploadError::Withdrawn.into())));
        };
        let polled = Pin::new(body).poll_frame(cx);
        self.client_is_slow = polled.is_pending();
        match polled {
            Poll::Pending => {
                if self.idle.poll_expired(cx) {
                    return Poll::Ready(Some(Err(self.fail(UploadError::Stalled(self.idle.limit()).into()))));
                }
                match &mut self.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => self.waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.fail(error)))),
            Poll::Ready(Some(Ok(frame))) => {
                self.progress();
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.taken |= length > 0 || frame.is_trailers();
                let length = u64::try_from(length).unwrap_or(u64::MAX);
                match self.due.map(|due| due.checked_sub(length)) {
                    Some(None) => return Poll::Ready(Some(Err(self.fail(UploadError::Length.into())))),
                    Some(Some(due)) => self.due = Some(due),
                    None => {}
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.progress();
                if self.due.is_some_and(|due| due > 0) {
                    return Poll::Ready(Some(Err(self.fail(UploadError::Length.into()))));
                }
                Poll::Ready(None)
            }
        }
    }

    fn progress(&mut self) {
        self.idle.progress();
        self.last = Instant::now();
    }

    /// Keeps the cause for the client's answer and tells the connection only that there is no more.
    fn fail(&mut self, error: BoxError) -> BoxError {
        self.error.get_or_insert(error);
        UploadError::Failed.into()
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        lock(&self.state).poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.body.as_ref().is_some_and(|body| body.is_end_stream() && state.due.is_none_or(|due| due == 0))
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        let hint = || state.body.as_ref().map_or_else(SizeHint::new, HttpBody::size_hint);
        state.due.map_or_else(hint, SizeHint::with_exact)
    }
}
