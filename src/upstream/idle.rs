//! Silence in a stream, measured only while we wait for the other side.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// A bound on silence. The timer is set once and moved only when it fires, so that a busy stream pays nothing for it.
#[derive(Debug)]
pub(super) struct Idle {
    limit: Duration,
    /// When the wait began; none while frames come.
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) const fn new(limit: Duration) -> Self {
        Self { limit, since: None, sleep: None }
    }

    pub(super) const fn limit(&self) -> Duration {
        self.limit
    }

    /// A frame came.
    pub(super) const fn progress(&mut self) {
        self.since = None;
    }

    /// Nothing came: whether that has lasted too long. Wakes the task when it will have.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = *self.since.get_or_insert_with(Instant::now) + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(()) if sleep.deadline() >= deadline => return true,
                Poll::Ready(()) => sleep.as_mut().reset(deadline),
            }
        }
    }
}
