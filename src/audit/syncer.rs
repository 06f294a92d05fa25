//! The thread that syncs: while it waits for the disk, the committer goes on writing.
//!
//! It is the only one that syncs a segment with records in it: the kernel reports a failed write-back once per open
//! file, so a second thread could be told that all is well. After a failure nothing is synced again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Unavailable;
use super::queue::Ack;
use super::shared::{Shared, State, add};
use super::storage::SegmentFile;

/// Written records that nobody waits for are on the disk after so long: what `best_effort` promises.
const PROMISE: Duration = Duration::from_millis(10);
/// How long they wait for a sync at least, however slow the disk is, and at most.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// What the promise leaves to wait, if the next sync may take twice as long as the last.
fn patience(last: Duration) -> Duration {
    PROMISE.saturating_sub(last.saturating_mul(2)).clamp(PATIENCE.0, PATIENCE.1)
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<Arc<dyn SegmentFile>>,
    /// Records below this number are in the file.
    written: u64,
    waiters: Vec<Ack>,
    urgent: bool,
    dirty: Option<Instant>,
    /// How long the last sync took.
    took: Duration,
    /// Jobs handed in, and the last of them that is done.
    submitted: u64,
    completed: u64,
    failed: bool,
    closed: bool,
}

/// Hands jobs from the committer to the syncing thread.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    inner: Mutex<Inner>,
    wake: Condvar,
    done: Condvar,
    durable: AtomicU64,
}

impl Syncer {
    /// Nothing below this number is waiting for its sync.
    pub(crate) fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All records below this number are on the disk.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Records below `written` are in `file` now; those of `waiters` want to hear when they are on the disk.
    pub(crate) fn submit(&self, file: &Arc<dyn SegmentFile>, written: u64, waiters: &mut Vec<Ack>) {
        let mut inner = self.lock();
        if inner.failed {
            drop(inner);
            waiters.drain(..).for_each(|ack| ack.send(Err(Unavailable::Poisoned)));
            return;
        }
        if !inner.file.as_ref().is_some_and(|known| Arc::ptr_eq(known, file)) {
            inner.file = Some(file.clone());
        }
        inner.written = written;
        inner.submitted = inner.submitted.saturating_add(1);
        inner.urgent |= !waiters.is_empty();
        inner.waiters.append(waiters);
        let sleeping = inner.dirty.is_none() || inner.urgent;
        inner.dirty.get_or_insert_with(Instant::now);
        drop(inner);
        if sleeping {
            self.wake.notify_one();
        }
    }

    /// Waits until all that was submitted is on the disk.
    ///
    /// # Errors
    /// A sync failed.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut inner = self.lock();
        if inner.file.is_none() {
            return Ok(());
        }
        inner.submitted = inner.submitted.saturating_add(1);
        let goal = inner.submitted;
        inner.urgent = true;
        self.wake.notify_one();
        let open = |inner: &mut Inner| inner.completed < goal && !inner.failed;
        let inner = self.done.wait_while(inner, open).unwrap_or_else(PoisonError::into_inner);
        if inner.failed { Err(io::Error::other("a sync of the journal failed")) } else { Ok(()) }
    }

    /// Ends the thread; what was submitted is synced first.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// The thread.
    pub(crate) fn run(&self, shared: &Shared) {
        let fuse = Fuse { syncer: self, shared };
        let mut waiters = Vec::new();
        while let Some((file, written, job)) = self.next_job(&mut waiters) {
            let start = Instant::now();
            let result = file.sync();
            let took = start.elapsed();
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            add(&shared.counters.commits, 1);
            add(&shared.counters.commit_nanos, nanos);
            if let Err(error) = result {
                tracing::error!(%error, "syncing the audit journal failed; nothing is forwarded until a restart");
                drop(fuse);
                waiters.drain(..).for_each(|ack| ack.send(Err(shared.refused(Unavailable::Poisoned))));
                return;
            }
            self.durable.store(written, Ordering::Release);
            let mut inner = self.lock();
            (inner.completed, inner.took) = (job, took);
            drop(inner);
            self.done.notify_all();
            waiters.drain(..).for_each(|ack| ack.send(Ok(())));
        }
        std::mem::forget(fuse);
    }

    fn next_job(&self, waiters: &mut Vec<Ack>) -> Option<(Arc<dyn SegmentFile>, u64, u64)> {
        let mut inner = self.lock();
        loop {
            if inner.urgent || (inner.closed && inner.dirty.is_some()) {
                break;
            }
            if inner.closed {
                return None;
            }
            let patience = patience(inner.took);
            match inner.dirty.map(|since| patience.saturating_sub(since.elapsed())) {
                None => inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => {
                    inner = self.wake.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        inner.urgent = false;
        inner.dirty = None;
        std::mem::swap(&mut inner.waiters, waiters);
        inner.file.clone().map(|file| (file, inner.written, inner.submitted))
    }
}

/// Poisons the journal when the thread ends before its time.
struct Fuse<'a> {
    syncer: &'a Syncer,
    shared: &'a Shared,
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        self.shared.enter(State::Poisoned);
        let mut inner = self.syncer.lock();
        inner.failed = true;
        let waiters = std::mem::take(&mut inner.waiters);
        drop(inner);
        self.syncer.done.notify_all();
        waiters.into_iter().for_each(|ack| ack.send(Err(Unavailable::Poisoned)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_is_asked_sooner() {
        let patience = |micros| patience(Duration::from_micros(micros)).as_micros();
        assert_eq!(
            [patience(0), patience(400), patience(1_500), patience(30_000)],
            [8_000, 8_000, 7_000, 1_000]
        );
    }
}
