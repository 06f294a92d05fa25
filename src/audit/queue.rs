//! Encoded records on their way to the committer: a queue whose bound is reserved before anything is put in.
//!
//! Whoever will write takes places first ([`Places`]), so putting a record in cannot fail for lack of room.
//! The committer is woken only when it sleeps. After records that somebody waited for it dozes a little before it sleeps: then records that
//! nobody waits for do not wake it, and those of a worker of the runtime do when that worker has run all tasks that it can (see `round`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Unavailable;
use super::frame::Kind;
use super::round;
use super::segment::Open;

/// Refusals that wait to be written, at most; more are only counted.
const REFUSAL_PLACES: usize = 1024;
/// Events that wait to be written, at most.
const EVENT_PLACES: usize = 256;
/// How long the committer dozes at most: so long may records lie that nobody waits for, and those whose worker never comes to rest.
const DOZE: Duration = Duration::from_millis(1);
/// Records that wake a dozing committer at once, whoever put them in.
const CROWD: usize = 64;

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
    /// Looks by itself in a moment; somebody in a hurry may wake it before.
    Dozing,
}

#[derive(Debug)]
struct Inner {
    entries: Vec<Entry>,
    /// Whether somebody waits for one of them.
    urgent: bool,
    /// Whether somebody waited for one of those that were taken last.
    busy: bool,
    closed: bool,
    sleep: Sleep,
}

/// The queue; many writers, one reader.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    doze: Duration,
}

impl Queue {
    pub(crate) fn new() -> Arc<Self> {
        Self::with_doze(DOZE)
    }

    fn with_doze(doze: Duration) -> Arc<Self> {
        let (urgent, busy, closed, sleep) = (false, false, false, Sleep::Awake);
        let inner = Inner { entries: Vec::new(), urgent, busy, closed, sleep };
        Arc::new(Self { inner: Mutex::new(inner), wake: Condvar::new(), doze })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a record in, unless the queue is closed; then it comes back.
    pub(crate) fn push(self: &Arc<Self>, entry: Entry) -> Result<(), Entry> {
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
            Sleep::Dozing => urgent && (inner.entries.len() >= CROWD || !round::defers(self)),
        };
        if wake {
            self.rouse(inner);
        }
        Ok(())
    }

    fn rouse(&self, mut inner: MutexGuard<'_, Inner>) {
        inner.sleep = Sleep::Awake;
        drop(inner);
        self.wake.notify_one();
    }

    /// Wakes the committer if somebody waits for a record and it still dozes.
    pub(crate) fn hurry(&self) {
        let inner = self.lock();
        if inner.sleep == Sleep::Dozing && inner.urgent {
            self.rouse(inner);
        }
    }

    /// Moves all records into the empty `batch`, after waiting at most `patience` for one. Whether the queue is closed.
    pub(crate) fn take(&self, batch: &mut Vec<Entry>, patience: Duration) -> bool {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.busy) || !inner.entries.is_empty() {
            inner = self.doze(inner);
        }
        if inner.entries.is_empty() && !inner.closed {
            inner = self.sleep(inner, Sleep::Deep, patience);
            if !inner.entries.is_empty() {
                inner = self.doze(inner);
            }
        }
        inner.busy = std::mem::take(&mut inner.urgent);
        std::mem::swap(&mut inner.entries, batch);
        inner.closed
    }

    /// Waits a little, unless somebody waits.
    fn doze<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        if inner.urgent || inner.closed {
            return inner;
        }
        self.sleep(inner, Sleep::Dozing, self.doze)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn entry(awaited: bool) -> (Entry, oneshot::Receiver<Result<Written, Unavailable>>) {
        let (sender, receiver) = oneshot::channel();
        let ack = awaited.then_some(Ack { durable: false, sender, written: None });
        (Entry { kind: Kind::Event, key: None, payload: Vec::new(), place: Place::Own, ack }, receiver)
    }

    fn push(queue: &Arc<Queue>, awaited: bool) {
        queue.push(entry(awaited).0).unwrap();
    }

    /// A queue whose reader sleeps, without one.
    fn sleeping(sleep: Sleep) -> Arc<Queue> {
        let queue = Queue::new();
        queue.lock().sleep = sleep;
        queue
    }

    fn is_awake(queue: &Queue) -> bool {
        queue.lock().sleep == Sleep::Awake
    }

    /// Runs on a thread that says when it parks.
    fn on_a_worker(work: impl FnOnce() + Send + 'static) {
        let worker = std::thread::spawn(|| {
            round::end();
            work();
        });
        worker.join().unwrap();
    }

    #[test]
    fn a_worker_wakes_a_dozing_reader_when_it_parks() {
        on_a_worker(|| {
            let queue = sleeping(Sleep::Dozing);
            push(&queue, true);
            push(&queue, true);
            assert!(!is_awake(&queue));
            round::end();
            assert!(is_awake(&queue));
            // It has nothing more to do, and leaves a reader alone that came back meanwhile.
            queue.lock().sleep = Sleep::Dozing;
            queue.lock().urgent = false;
            round::end();
            assert!(!is_awake(&queue));
        });
    }

    #[test]
    fn a_crowd_wakes_a_dozing_reader() {
        on_a_worker(|| {
            let queue = sleeping(Sleep::Dozing);
            (1..CROWD).for_each(|_| push(&queue, true));
            assert!(!is_awake(&queue));
            push(&queue, true);
            assert!(is_awake(&queue));
        });
    }

    #[test]
    fn who_does_not_park_wakes_at_once_and_whoever_is_asleep_is_woken_at_once() {
        let queue = sleeping(Sleep::Dozing);
        push(&queue, false);
        assert!(!is_awake(&queue), "nobody waits");
        push(&queue, true);
        assert!(is_awake(&queue), "this thread is no worker");
        on_a_worker(|| {
            for awaited in [false, true] {
                let queue = sleeping(Sleep::Deep);
                push(&queue, awaited);
                assert!(is_awake(&queue));
            }
            // One wake-up can wait, the other journal's cannot.
            let (first, second) = (sleeping(Sleep::Dozing), sleeping(Sleep::Dozing));
            push(&first, true);
            push(&second, true);
            assert!(!is_awake(&first) && is_awake(&second));
        });
    }

    /// The reader would doze and sleep for an hour: whatever wake-up is lost, somebody waits for it here.
    #[test]
    fn no_wake_up_is_lost() {
        const HOUR: Duration = Duration::from_secs(3600);
        const TASKS: u64 = 64;
        const RECORDS: u64 = 500;
        let queue = Queue::with_doze(HOUR);
        let reader = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut batch = Vec::new();
                while !queue.take(&mut batch, HOUR) || !batch.is_empty() {
                    for entry in batch.drain(..) {
                        if let Some(mut ack) = entry.ack {
                            ack.written = Some(Written { seq: 0, log: "".into(), leaf_index: 0 });
                            ack.send(Ok(()));
                        }
                    }
                }
            }
        });
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(4).enable_all().on_thread_park(round::end).build().unwrap();
        let done = Arc::new(AtomicU64::new(0));
        let write = |task: u64| {
            let (queue, done) = (queue.clone(), done.clone());
            async move {
                for record in 0..RECORDS {
                    let (entry, written) = entry(true);
                    match (task + record) % 7 {
                        0 => tokio::task::spawn_blocking({
                            let queue = queue.clone();
                            move || queue.push(entry).unwrap()
                        })
                        .await
                        .unwrap(),
                        1 => {
                            tokio::task::yield_now().await;
                            queue.push(entry).unwrap();
                        }
                        _ => queue.push(entry).unwrap(),
                    }
                    written.await.unwrap().unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        runtime.block_on(async {
            let mut tasks: tokio::task::JoinSet<()> = tokio::task::JoinSet::new();
            (0..TASKS).for_each(|task| {
                tasks.spawn(write(task));
            });
            let all = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await;
            assert!(all.is_ok(), "{} of {} were answered", done.load(Ordering::Relaxed), TASKS * RECORDS);
        });
        queue.close();
        reader.join().unwrap();
    }

    /// A thread that was a worker and never parks again leaves its wake-up to the reader's own.
    #[test]
    fn a_dozing_reader_looks_by_itself() {
        let queue = Queue::new();
        queue.lock().busy = true;
        let reader = std::thread::spawn({
            let queue = queue.clone();
            move || {
                let mut batch = Vec::new();
                while batch.is_empty() && !queue.take(&mut batch, Duration::from_secs(3600)) {}
                batch.len()
            }
        });
        on_a_worker(move || push(&queue, true));
        assert_eq!(reader.join().unwrap(), 1);
    }
}
