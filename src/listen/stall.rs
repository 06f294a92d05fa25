//! HTTP/2 streams whose client takes nothing of the answer.
//!
//! A client that opens no window and answers PINGs keeps its connection alive, and the library asks for no more of the answer's body: the
//! body can neither go on nor fail. So each stream's task is watched from outside, and ended when an answer has lain for too long, which
//! resets the stream (RFC 9113 section 6.4) and frees what it holds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::serve::{AnswerBody, BoxError};

/// Bytes that buy a second: the library asks for more only when all that it has was taken.
const BYTES_A_SECOND: u64 = 1024;

tokio::task_local! {
    /// The stream that the current task serves.
    static STREAM: Arc<Progress>;
}

/// Runs each stream as a task of its own, until it ends or its client takes nothing for `limit`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    pub(super) limit: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let limit = self.limit;
        tokio::spawn(async move {
            let progress = Arc::<Progress>::default();
            tokio::select! {
                biased;
                _ = STREAM.scope(Arc::clone(&progress), stream) => {}
                () = progress.stalled(limit) => {}
            }
        });
    }
}

/// Since when the client has not taken what it was offered, and until when it may leave it lying.
#[derive(Debug, Default)]
struct Progress {
    offered: Mutex<Option<Offer>>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    at: Instant,
    bytes: u64,
}

impl Progress {
    fn offer(&self, bytes: u64) {
        let offer = Offer { at: Instant::now(), bytes };
        // The watch sleeps towards the end of the offer before and looks again then, at most `limit` late; only one that waits for a
        // first offer must be woken.
        if self.lock().replace(offer).is_none() {
            self.changed.notify_one();
        }
    }

    /// The client took all, and waits for us.
    fn taken(&self) {
        *self.lock() = None;
    }

    /// Returns when an offer has lain for `limit`, and a second more for each KiB of it, at most as much again.
    async fn stalled(&self, limit: Duration) {
        loop {
            let offered = *self.lock();
            let Some(Offer { at, bytes }) = offered else {
                self.changed.notified().await;
                continue;
            };
            let earned = Duration::from_millis(bytes.saturating_mul(1000) / BYTES_A_SECOND);
            let end = at + limit.saturating_add(earned.min(limit));
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Offer>> {
        // Nothing is left half done under this lock.
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pin_project! {
    /// The body of an answer that tells the stream's watch how it goes.
    pub(super) struct Watched {
        #[pin]
        body: AnswerBody,
        progress: Option<Arc<Progress>>,
    }
}

impl Watched {
    /// Watches a body on behalf of the stream whose task this is.
    pub(super) fn new(body: AnswerBody) -> Self {
        Self { body, progress: STREAM.try_with(Arc::clone).ok() }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if let Some(progress) = this.progress {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    progress.offer(u64::try_from(bytes).unwrap_or(u64::MAX));
                }
                Poll::Ready(_) => {}
                Poll::Pending => progress.taken(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
