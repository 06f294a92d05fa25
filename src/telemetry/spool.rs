//! Finished spans on their way to the backend.
//!
//! A request leaves the facts of a span here and goes on; a thread makes spans of them and sends them in batches. It loses by design: when
//! the backend is slow and the spool is full, spans are dropped and counted, and no request waits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::span::Finished;
use crate::message::BoxError;

/// Spans that wait, at most: about 3 MiB.
const ROOM: usize = 8192;
/// Spans of one export, at most (the default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);

/// Where spans are sent, a batch at a time. Called on a thread of its own.
pub(super) trait Backend: Send + 'static {
    /// Sends the spans; how many of them the backend refused.
    fn send(&mut self, spans: &[Finished]) -> Result<u64, BoxError>;
}

#[derive(Debug, Default)]
struct Inner {
    spans: Vec<Finished>,
    closed: bool,
    /// All is sent, or given up.
    ended: bool,
}

/// A bounded queue with a thread behind it.
#[derive(Debug, Default)]
pub(super) struct Spool {
    inner: Mutex<Inner>,
    filled: Condvar,
    ended: Condvar,
    dropped: AtomicU64,
}

impl Spool {
    /// Starts the thread.
    pub(super) fn start(backend: impl Backend) -> io::Result<Arc<Self>> {
        let spool = Arc::new(Self::default());
        let sender = Sender { spool: Arc::clone(&spool), backend, failing: false };
        std::thread::Builder::new().name("spans".into()).spawn(move || sender.run())?;
        Ok(spool)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a span, or drops it if there is no room.
    pub(super) fn put(&self, span: Finished) {
        let mut inner = self.lock();
        if inner.closed || inner.spans.len() >= ROOM {
            drop(inner);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        inner.spans.push(span);
        let full = inner.spans.len() == BATCH;
        drop(inner);
        if full {
            self.filled.notify_one();
        }
    }

    /// Spans that were not sent since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more spans, and waits until the others are sent, at most so long. Whether they were.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut inner = self.lock();
        inner.closed = true;
        self.filled.notify_all();
        let waited = self.ended.wait_timeout_while(inner, patience, |inner| !inner.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    /// Moves all spans into the empty `batch` when there are enough or they have waited. Whether no more will come.
    fn take(&self, batch: &mut Vec<Finished>) -> bool {
        let waiting = |inner: &mut Inner| inner.spans.len() < BATCH && !inner.closed;
        let waited = self.filled.wait_timeout_while(self.lock(), DELAY, waiting);
        let (mut inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut inner.spans, batch);
        inner.closed
    }
}

/// The thread's own.
struct Sender<B> {
    spool: Arc<Spool>,
    backend: B,
    /// Whether the last batch could not be sent; said once.
    failing: bool,
}

impl<B: Backend> Sender<B> {
    fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            let last = self.spool.take(&mut waiting);
            waiting.chunks(BATCH).for_each(|batch| self.send(batch));
            waiting.clear();
            if last {
                break;
            }
        }
    }

    fn send(&mut self, batch: &[Finished]) {
        let lost = match self.backend.send(batch) {
            Ok(refused) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("spans are sent again");
                }
                refused
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        error,
                        "spans cannot be sent and are dropped; the journal has the records"
                    );
                }
                u64::try_from(batch.len()).unwrap_or(u64::MAX)
            }
        };
        self.spool.dropped.fetch_add(lost, Ordering::Relaxed);
    }
}

impl<B> Drop for Sender<B> {
    /// Also when it ends before its time: whoever closes the spool must not wait for it.
    fn drop(&mut self) {
        let mut inner = self.spool.lock();
        (inner.closed, inner.ended) = (true, true);
        self.spool.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::span::tests::{finished, server};
    use super::*;

    /// Says how many spans came, and answers what it is told.
    struct Told {
        came: mpsc::Sender<usize>,
        answers: mpsc::Receiver<Option<u64>>,
    }

    impl Backend for Told {
        fn send(&mut self, spans: &[Finished]) -> Result<u64, BoxError> {
            self.came.send(spans.len()).unwrap();
            self.answers.recv().ok().flatten().ok_or_else(|| "503".into())
        }
    }

    fn started() -> (Arc<Spool>, mpsc::Receiver<usize>, mpsc::Sender<Option<u64>>) {
        let ((came, counts), (answer, answers)) = (mpsc::channel(), mpsc::channel());
        (Spool::start(Told { came, answers }).unwrap(), counts, answer)
    }

    fn put(spool: &Spool) {
        spool.put(finished(server(200)));
    }

    #[test]
    fn a_full_spool_drops_and_counts_and_nobody_waits() {
        let (spool, counts, answer) = started();
        (0..BATCH).for_each(|_| put(&spool));
        assert_eq!(counts.recv().unwrap(), BATCH);
        // The backend is silent; the thread holds a batch.
        (0..ROOM + 3).for_each(|_| put(&spool));
        assert_eq!(spool.dropped(), 3);
        (0..=ROOM / BATCH).for_each(|_| answer.send(Some(0)).unwrap());
        assert!(spool.close(Duration::from_secs(60)));
        assert_eq!(counts.iter().sum::<usize>(), ROOM);
        assert_eq!(spool.dropped(), 3);
    }

    #[test]
    fn what_the_backend_refuses_is_counted_and_what_comes_after_the_end_too() {
        for (answered, lost) in [(None, 1), (Some(1), 1), (Some(0), 0)] {
            let (spool, counts, answer) = started();
            put(&spool);
            answer.send(answered).unwrap();
            assert!(spool.close(Duration::from_secs(60)));
            assert_eq!((counts.recv().unwrap(), spool.dropped()), (1, lost));
            put(&spool);
            assert_eq!(spool.dropped(), lost + 1);
        }
    }

    #[test]
    fn a_silent_backend_does_not_hold_up_the_end() {
        let (spool, counts, answer) = started();
        put(&spool);
        counts.recv().unwrap();
        assert!(!spool.close(Duration::from_millis(1)));
        answer.send(Some(0)).unwrap();
    }
}
