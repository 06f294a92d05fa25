//! The endpoints of one upstream: which one is called, and who waits when all have enough to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::budget::Budget;
use super::endpoint::{Endpoint, EndpointId, Node};
use super::error::UpstreamError;
use super::settings::Queue;
use crate::model::UpstreamRef;

/// How an upstream stands for one more attempt, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// An endpoint that is well has a place in flight.
    Ready,
    /// The endpoints that are well have as many requests in flight as they may.
    Full,
    /// No endpoint that is left is well.
    Down,
    /// No endpoint is left.
    Exhausted,
}

/// The endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) upstream: UpstreamRef,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) budget: Budget,
    queue: Queue,
    waiting: AtomicU32,
    shed: AtomicU64,
    /// Tells those who wait that a place in flight was given back.
    freed: Arc<Notify>,
}

/// One who waits.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Group {
    pub(super) fn new(
        upstream: UpstreamRef,
        nodes: Vec<Arc<Node>>,
        queue: Queue,
        freed: Arc<Notify>,
    ) -> Self {
        let (waiting, shed) = (AtomicU32::new(0), AtomicU64::new(0));
        Self { upstream, nodes, budget: Budget::new(), queue, waiting, shed, freed }
    }

    /// The endpoints that may be chosen: those that are well, or all that are left if none is. And whether they are well.
    fn choice(&self, exclude: &[EndpointId], now: Instant) -> (Vec<&Arc<Node>>, bool) {
        let left = || self.nodes.iter().filter(|node| !exclude.contains(&node.id));
        let well: Vec<&Arc<Node>> = left().filter(|node| node.health.is_open(now)).collect();
        if well.is_empty() { (left().collect(), false) } else { (well, true) }
    }

    pub(super) fn standing(&self, exclude: &[EndpointId]) -> Standing {
        match self.choice(exclude, Instant::now()) {
            (nodes, _) if nodes.is_empty() => Standing::Exhausted,
            (_, false) => Standing::Down,
            (nodes, true) if nodes.iter().any(|node| node.has_room()) => Standing::Ready,
            (_, true) => Standing::Full,
        }
    }

    /// See [`Upstreams::select`](super::Upstreams::select); `below(n)` is a random number below `n`.
    pub(super) fn select(
        &self,
        exclude: &[EndpointId],
        below: impl Fn(usize) -> usize,
    ) -> Result<Endpoint, UpstreamError> {
        let now = Instant::now();
        let (open, well) = self.choice(exclude, now);
        if open.is_empty() {
            return Err(UpstreamError::Exhausted(self.upstream.clone()));
        }
        let first = below(open.len());
        // Never the same twice, if there are two.
        let second = (first + 1 + below(open.len().saturating_sub(1))) % open.len();
        let mut drawn: Vec<&Arc<Node>> =
            [open.get(first), open.get(second)].into_iter().flatten().copied().collect();
        drawn.sort_by_key(|node| node.load());
        drawn
            .into_iter()
            .chain(open)
            .find_map(|node| node.lease(now, !well))
            .ok_or_else(|| UpstreamError::Overloaded(self.upstream.clone()))
    }

    /// See [`Upstreams::acquire`](super::Upstreams::acquire).
    pub(super) async fn acquire(
        &self,
        exclude: &[EndpointId],
        below: impl Fn(usize) -> usize,
    ) -> Result<Endpoint, UpstreamError> {
        let overloaded = match self.select(exclude, &below) {
            Err(error @ UpstreamError::Overloaded(_)) => error,
            chosen => return chosen,
        };
        let Some(_waiting) = self.queue_up() else {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return Err(overloaded);
        };
        let deadline = Instant::now() + self.queue.timeout.get();
        loop {
            let freed = self.freed.notified();
            let mut freed = std::pin::pin!(freed);
            // From here on no place is given back unnoticed.
            freed.as_mut().enable();
            match self.select(exclude, &below) {
                Err(UpstreamError::Overloaded(_)) => {}
                chosen => return chosen,
            }
            if timeout_at(deadline, freed).await.is_err() {
                self.shed.fetch_add(1, Ordering::Relaxed);
                return Err(overloaded);
            }
        }
    }

    fn queue_up(&self) -> Option<Waiting<'_>> {
        let more = |count: u32| (count < self.queue.length).then_some(count + 1);
        self.waiting.try_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Waiting(&self.waiting))
    }

    pub(super) fn reading(&self) -> UpstreamReading<'_> {
        let (retries, retries_withheld) = self.budget.reading();
        UpstreamReading {
            upstream: &self.upstream,
            waiting: self.waiting.load(Ordering::Acquire).into(),
            shed: self.shed.load(Ordering::Relaxed),
            retries,
            retries_withheld,
        }
    }
}

/// What metrics say of an upstream.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamReading<'a> {
    /// Which.
    pub upstream: &'a UpstreamRef,
    /// Requests that wait for a place in flight.
    pub waiting: u64,
    /// Requests that found no place in the queue or waited too long, since the start.
    pub shed: u64,
    /// Further attempts after one that failed there, since the start.
    pub retries: u64,
    /// Further attempts that the budget forbade, since the start.
    pub retries_withheld: u64,
}
