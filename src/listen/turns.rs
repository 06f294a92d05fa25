//! Whose turn it is on an HTTP/1 connection, and when it rests.
//!
//! The stream's [`Guard`](super::guard::Guard) knows which heads were let through and whether all that was written has left; the service knows which
//! answers have ended. At rest, nothing of a request or an answer is anywhere in between.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// How often a new connection is looked at, and then ever more seldom while it is busy.
const STEPS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Of [`Turns`]: something was read in part, or written and has not left.
const UNSETTLED: u64 = u64::MAX;

/// The requests and answers of one connection, counted. All is written and read by the connection's own task.
#[derive(Debug, Default)]
pub(super) struct Turns {
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many heads were let through when everything had left and nothing was half read.
    settled: AtomicU64,
}

impl Turns {
    /// The turn of the next request, from 1.
    pub(super) fn begin(self: &Arc<Self>) -> Turn {
        Turn { ordinal: self.begun.fetch_add(1, Relaxed) + 1, turns: Arc::clone(self) }
    }

    pub(super) fn settle(&self, heads: u64) {
        self.settled.store(heads, Relaxed);
    }

    pub(super) fn unsettle(&self) {
        self.settled.store(UNSETTLED, Relaxed);
    }

    /// After how many requests the connection rests, if it does.
    fn resting(&self) -> Option<u64> {
        Some(self.settled.load(Relaxed)).filter(|heads| *heads == self.ended.load(Relaxed))
    }
}

/// One request and its answer; over when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// Agrees with the scan's count of heads: there is one request at a time, and one call for each.
    pub(super) ordinal: u64,
    turns: Arc<Turns>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.ended.fetch_add(1, Relaxed);
    }
}

/// Finds out that a connection has been at rest for a while, by looking now and then: a request costs it nothing.
#[derive(Debug)]
pub(super) struct Lull {
    turns: Arc<Turns>,
    look: Pin<Box<Sleep>>,
    step: Duration,
    longest: Duration,
    /// What was seen at the last look, and when that was.
    seen: (Option<u64>, Instant),
}

impl Lull {
    /// Of a connection that may be at rest for `idle`.
    pub(super) fn new(turns: Arc<Turns>, idle: Duration) -> Self {
        let longest = STEPS.1.min(idle / 2);
        let step = STEPS.0.min(longest);
        Self { turns, look: Box::pin(sleep(step)), step, longest, seen: (None, Instant::now()) }
    }

    /// Waits for a lull; since when the connection rests at least.
    pub(super) async fn begun(&mut self) -> Instant {
        loop {
            self.look.as_mut().await;
            let now = Instant::now();
            let (before, since) = std::mem::replace(&mut self.seen, (self.turns.resting(), now));
            if before.is_some() && before == self.seen.0 {
                return since;
            }
            // Under way now, or served others since the last look; else it has only just come to rest, and is looked at again soon.
            let busy = self.seen.0.is_none() || before.is_some();
            if busy {
                self.step = (self.step * 2).min(self.longest);
            }
            self.look.as_mut().reset(now + self.step);
        }
    }
}
