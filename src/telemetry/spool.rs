//! Finished spans on their way to the backend.
//!
//! A request leaves the facts of a span here and goes on; a thread makes spans of them and sends them in batches. It loses by design: when
//! the backend is slow and the spool is full, spans are dropped and counted, and no request waits.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanExporter;
use tokio::runtime::Handle;

use super::span::Finished;

/// Spans that wait, at most: about 3 MiB.
const ROOM: usize = 8192;
/// Spans of one export, at most (the default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
const BATCH: usize = 512;
/// How long a span waits for others.
const DELAY: Duration = Duration::from_secs(1);

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
    /// Starts the thread. `exporter` is polled on it, with `runtime` around it.
    pub(super) fn start<E: SpanExporter + 'static>(exporter: E, runtime: Handle) -> io::Result<Arc<Self>> {
        let spool = Arc::new(Self::default());
        let sender = Sender { spool: Arc::clone(&spool), exporter, runtime, failing: false };
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
struct Sender<E> {
    spool: Arc<Spool>,
    exporter: E,
    runtime: Handle,
    /// Whether the last export failed; said once.
    failing: bool,
}

impl<E: SpanExporter> Sender<E> {
    fn run(mut self) {
        let scope = InstrumentationScope::builder("tidegate").build();
        let mut batch = Vec::new();
        loop {
            let last = self.spool.take(&mut batch);
            while !batch.is_empty() {
                let some = batch.len().min(BATCH);
                self.send(batch.drain(..some), &scope);
            }
            if last {
                break;
            }
        }
    }

    fn send(&mut self, spans: impl ExactSizeIterator<Item = Finished>, scope: &InstrumentationScope) {
        let count = spans.len();
        let data = spans.map(|span| span.data(scope)).collect();
        let result = self.runtime.block_on(self.exporter.export(data));
        match result {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("spans are sent again");
                }
            }
            Err(error) => {
                self.spool.dropped.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "spans cannot be sent and are dropped; the audit journal is not affected");
                }
            }
        }
    }
}

impl<E> Drop for Sender<E> {
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

    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
    use opentelemetry_sdk::trace::SpanData;

    use super::super::span::tests::finished;
    use super::*;

    /// Says how many spans came, and answers what it is told.
    #[derive(Debug)]
    struct Backend {
        came: Mutex<mpsc::Sender<usize>>,
        answers: Mutex<mpsc::Receiver<bool>>,
    }

    impl SpanExporter for Backend {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.came.lock().unwrap().send(batch.len()).unwrap();
            match self.answers.lock().unwrap().recv() {
                Ok(true) => Ok(()),
                _ => Err(OTelSdkError::InternalFailure("503".into())),
            }
        }
    }

    fn started() -> (Arc<Spool>, mpsc::Receiver<usize>, mpsc::Sender<bool>, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ((came, counts), (answer, answers)) = (mpsc::channel(), mpsc::channel());
        let backend = Backend { came: came.into(), answers: answers.into() };
        let spool = Spool::start(backend, runtime.handle().clone()).unwrap();
        (spool, counts, answer, runtime)
    }

    #[test]
    fn a_full_spool_drops_and_counts_and_nobody_waits() {
        let (spool, counts, answer, _runtime) = started();
        (0..BATCH).for_each(|_| spool.put(finished()));
        assert_eq!(counts.recv().unwrap(), BATCH);
        // The backend is silent; the thread holds a batch.
        (0..ROOM + 3).for_each(|_| spool.put(finished()));
        assert_eq!(spool.dropped(), 3);
        (0..=ROOM / BATCH).for_each(|_| answer.send(true).unwrap());
        assert!(spool.close(Duration::from_secs(60)));
        assert_eq!(counts.iter().sum::<usize>(), ROOM);
        assert_eq!(spool.dropped(), 3);
    }

    #[test]
    fn what_the_backend_refuses_is_counted_and_what_comes_after_the_end_too() {
        let (spool, counts, answer, _runtime) = started();
        spool.put(finished());
        answer.send(false).unwrap();
        assert!(spool.close(Duration::from_secs(60)));
        assert_eq!((counts.recv().unwrap(), spool.dropped()), (1, 1));
        spool.put(finished());
        assert_eq!(spool.dropped(), 2);
    }

    #[test]
    fn a_silent_backend_does_not_hold_up_the_end() {
        let (spool, counts, answer, _runtime) = started();
        spool.put(finished());
        counts.recv().unwrap();
        assert!(!spool.close(Duration::from_millis(1)));
        answer.send(true).unwrap();
    }
}
