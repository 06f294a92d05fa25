//! Encoded records on their way to the committer: a queue whose bound is reserved before anything is put in.
//!
//! Whoever will write takes places first ([`Places`]), so putting a record in cannot fail for lack of room.
//! The committer is woken only when it sleeps; records that nobody waits for do not cut its short sleep.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Unavailable;
use super::frame::Kind;
use super::segment::Open;

/// Refusals that wait to be written, at most; more are only counted.
const REFUSAL_PLACES: usize = 1024;
/// Events that wait to be written, at most.
const EVENT_PLACES: usize = 256;
/// How long records that nobody waits for may lie, so that they share a write with others.
const LINGER: Duration = Duration::from_millis(2);

/// Whose place an entry takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A draft's.
    Draft,
    /// A refusal's.
    Refusal,
    /// An event's.
    Event,
    /// The committer's own: it writes at most a handful a second.
    Own,
}

/// Where a record stands: its number in the journal, and the leaf that it is in the tree of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The number of the record in the journal.
    pub seq: u64,
    /// The name of the log: the origin of its checkpoints.
    pub log: Arc<str>,
    /// The index of the leaf in that log.
    pub leaf_index: u64,
}

/// Somebody who waits for a record.
#[derive(Debug)]
pub(crate) struct Ack {
    /// Whether they wait for the sync too.
    pub(crate) durable: bool,
    pub(crate) sender: oneshot::Sender<Result<Written, Unavailable>>,
    /// Known when the record is written.
    pub(crate) written: Option<Written>,
}

impl Ack {
    pub(crate) fn send(self, result: Result<(), Unavailable>) {
        // INVARIANT: who is told of success has been written.
        let result = result.and_then(|()| self.written.ok_or(Unavailable::Poisoned));
        // Whoever waited may have gone; that is their draft's business.
        let _ = self.sender.send(result);
    }
}

/// One encoded record.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// The decision that it opens or closes.
    pub(crate) key: Option<Open>,
    pub(crate) payload: Vec<u8>,
    pub(crate) place: Place,
    pub(crate) ack: Option<Ack>,
}

/// Counters of what may still be put in.
#[derive(Debug)]
pub(crate) struct Places {
    drafts: AtomicUsize,
    refusals: AtomicUsize,
    events: AtomicUsize,
    all: usize,
}

impl Places {
    pub(crate) const fn new(drafts: usize) -> Self {
        Self {
            drafts: AtomicUsize::new(drafts),
            refusals: AtomicUsize::new(REFUSAL_PLACES),
            events: AtomicUsize::new(EVENT_PLACES),
            all: drafts,
        }
    }

    const fn counter(&self, place: Place) -> Option<&AtomicUsize> {
        match place {
            Place::Draft => Some(&self.drafts),
            Place::Refusal => Some(&self.refusals),
            Place::Event => Some(&self.events),
            Place::Own => None,
        }
    }

    /// Takes places; whether there were enough.
    pub(crate) fn take(&self, place: Place, count: usize) -> bool {
        self.counter(place).is_none_or(|free| {
            free.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(count)).is_ok()
        })
    }

    /// Gives places back.
    pub(crate) fn give(&self, place: Place, count: usize) {
        if let Some(free) = self.counter(place) {
            free.fetch_add(count, Ordering::AcqRel);
        }
    }

    /// How many places drafts hold.
    pub(crate) fn taken(&self) -> usize {
        self.all.saturating_sub(self.drafts.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// Waits for anything.
    Deep,
    /// Has something, and waits a little for somebody in a hurry.
    Light,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    urgent: bool,
    closed: bool,
    sleep: Sleep,
}

/// The queue; many writers, one reader.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
}

impl Queue {
    pub(crate) const fn new() -> Self {
        let inner = Inner { entries: Vec::new(), urgent: false, closed: false, sleep: Sleep::Awake };
        Self { inner: Mutex::new(inner), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a record in, unless the queue is closed; then it comes back.
    pub(crate) fn push(&self, entry: Entry) -> Result<(), Entry> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(entry);
        }
        let urgent = entry.ack.is_some();
        inner.urgent |= urgent;
        inner.entries.push(entry);
        let wake = match inner.sleep {
            Sleep::Awake => false,
            Sleep::Deep => true,
            Sleep::Light => urgent,
        };
        if wake {
            inner.sleep = Sleep::Awake;
            drop(inner);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves all records into the empty `batch`, after waiting at most `patience` for one. Whether the queue is closed.
    pub(crate) fn take(&self, batch: &mut Vec<Entry>, patience: Duration) -> bool {
        let mut inner = self.lock();
        if inner.entries.is_empty() && !inner.closed {
            inner = self.sleep(inner, Sleep::Deep, patience);
        }
        if !inner.entries.is_empty() && !inner.urgent && !inner.closed {
            inner = self.sleep(inner, Sleep::Light, LINGER);
        }
        inner.urgent = false;
        std::mem::swap(&mut inner.entries, batch);
        inner.closed
    }

    fn sleep<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        depth: Sleep,
        time: Duration,
    ) -> MutexGuard<'a, Inner> {
        inner.sleep = depth;
        let waiting = |inner: &mut Inner| inner.sleep != Sleep::Awake && !inner.closed;
        let (mut inner, _) =
            self.wake.wait_timeout_while(inner, time, waiting).unwrap_or_else(PoisonError::into_inner);
        inner.sleep = Sleep::Awake;
        inner
    }

    /// Takes no more records; what is in stays for the committer.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Records that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}
