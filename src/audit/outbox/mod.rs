//! Records leave for OpenTelemetry collectors: out of the journal, through a cursor, at least once.
//!
//! Each destination has a thread with a runtime of its own, so whatever a collector does, no request waits for it: the journal's
//! segments are the queue, and memory holds one batch. `source` reads them, `message` makes log records, `post` sends and judges the
//! answer, `worker` is the loop, `cursor` says how far it is, `dead` keeps what is refused, `figures` what an operator watches.
//!
//! Only records that are synced leave: what a power loss may still take must not be anywhere else.

mod cursor;
mod dead;
mod figures;
mod headers;
mod message;
mod post;
mod settings;
mod source;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

pub use cursor::required_floor;
pub use figures::{ExportStats, Health};
pub use settings::{Compression, DestinationName, ExportSettings, InvalidDestination};
pub(crate) use settings::{check, resolve};

use cursor::{Cursor, Position};
use dead::DeadLetters;
use figures::Figures;
use message::Sender;
use post::Post;
use source::{Bounds, Source};
use worker::{Pace, Stop, Worker};

use super::{Audit, Instance};

/// An outbox that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The files of a destination cannot be used.
    #[error("destination `{name}`: {why}")]
    Destination {
        /// The destination.
        name: DestinationName,
        /// What is wrong.
        why: String,
    },
    /// The cursors cannot be read or written.
    #[error("the cursors of the audit export cannot be kept")]
    Cursor(#[source] std::io::Error),
    /// The system gives no thread or runtime.
    #[error("cannot start a thread of the audit export")]
    Thread(#[source] std::io::Error),
}

/// All destinations of a journal. Dropping it ends the threads, in the middle of whatever they do.
#[derive(Debug)]
pub struct Outbox {
    stop: watch::Sender<Stop>,
    threads: Vec<JoinHandle<()>>,
    figures: Arc<[(DestinationName, Arc<Figures>)]>,
    audit: Audit,
}

/// Reads the figures of all destinations.
#[derive(Debug, Clone)]
pub struct Watch {
    figures: Arc<[(DestinationName, Arc<Figures>)]>,
    audit: Audit,
}

impl Watch {
    /// The figures of each destination.
    pub fn stats(&self) -> impl Iterator<Item = (&str, ExportStats)> {
        let durable = self.audit.durable();
        let now = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0);
        self.figures.iter().map(move |(name, figures)| (name.as_str(), figures.stats(durable, now)))
    }
}

impl Outbox {
    /// Starts a thread for each destination; it goes on where its cursor is. `journal` is the journal's directory.
    ///
    /// # Errors
    /// A file that the settings name cannot be used, or a cursor cannot be kept.
    pub fn start(
        audit: &Audit,
        journal: &Path,
        instance: &Instance,
        destinations: &BTreeMap<DestinationName, ExportSettings>,
    ) -> Result<Self, OutboxError> {
        let wanted = destinations.iter().map(|(name, settings)| (name, settings.required));
        cursor::prepare(journal, wanted).map_err(OutboxError::Cursor)?;
        let (stop, stopped) = watch::channel(Stop::No);
        let sender = Sender { instance: instance.name.clone(), version: instance.version };
        let mut workers = Vec::new();
        for (name, settings) in destinations {
            workers.push(worker(audit, journal, (name, settings), &sender, stopped.clone())?);
        }
        let figures = workers.iter().map(|worker| (worker.name.clone(), worker.figures.clone())).collect();
        let threads = workers.into_iter().map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { stop, threads, figures, audit: audit.clone() })
    }

    /// What reads the figures.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { figures: self.figures.clone(), audit: self.audit.clone() }
    }

    /// After the journal was closed: sends what is left of it, for at most `grace`. What a destination does not take until then
    /// is sent by the next start.
    pub async fn close(self, grace: Duration) {
        self.stop.send_replace(Stop::By(Instant::now() + grace));
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the audit export panicked");
        }
    }
}

fn worker(
    audit: &Audit,
    journal: &Path,
    (name, settings): (&DestinationName, &ExportSettings),
    sender: &Sender,
    stop: watch::Receiver<Stop>,
) -> Result<Worker, OutboxError> {
    let cursor = Cursor::of(journal, name);
    let kept = cursor.load().map_err(OutboxError::Cursor)?.unwrap_or_default();
    let mut position = Position { required: settings.required, ..kept };
    if position.seq > audit.durable() {
        tracing::error!(destination = %name, cursor = position.seq, records = audit.durable(), "the journal has fewer records than were exported; all are exported again");
        position.seq = 0;
    }
    let post = Post::open(settings.clone())
        .map_err(|error| OutboxError::Destination { name: name.clone(), why: error.to_string() })?;
    let figures = Arc::new(Figures::default());
    figures.next.store(position.seq, Ordering::Relaxed);
    figures.dead_letters.store(position.dead_letters, Ordering::Relaxed);
    Ok(Worker {
        name: name.clone(),
        audit: audit.clone(),
        sender: sender.clone(),
        source: Source::new(journal.to_owned(), position.seq),
        post,
        dead: DeadLetters::new(cursor.folder().join("dead-letters.jsonl")),
        cursor,
        position,
        figures,
        stop,
        bounds: Bounds { records: settings.batch_records, bytes: settings.batch_bytes.as_usize() },
        delay: settings.delay.get(),
        retry_max: settings.retry_max.get(),
        pace: Pace::new(position.seq),
    })
}

fn spawn(worker: Worker) -> Result<JoinHandle<()>, OutboxError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(OutboxError::Thread)?;
    std::thread::Builder::new()
        .name("audit-export".to_owned())
        .spawn(move || runtime.block_on(worker.run()))
        .map_err(OutboxError::Thread)
}
