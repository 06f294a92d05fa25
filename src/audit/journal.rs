//! The handle that the gateway holds: opens the journal, gives out drafts, takes what is not awaited.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::committer::{Committer, Segment, Takeover};
use super::draft::Draft;
use super::encode::{encode, text};
use super::frame::Kind;
use super::keys::{Digester, Keys, make_directory};
use super::queue::{Entry, Place};
use super::record::{Ending, Event, Outcome, Refusal};
use super::recovery::{self, Recovered};
use super::refusals::{self, Limiter};
use super::retention::{Pruned, Retention, RetentionError};
use super::settings::PersonalData;
use super::shared::{Shared, State, Stats, add};
use super::storage::{Files, Storage, may_pass};
use super::subjects::{Subjects, coarse};
use super::syncer::Syncer;
use super::tree::Published;
use super::tree::signing::{self, KeyChange};
use super::tree::writer::{Feed, Writer};
use super::upkeep::Upkeep;
use super::{AuditError, Settings, Unavailable, archive, modes};
use crate::model::{AuditMode, Clock, RecordId, SystemClock, TenantName};

/// Who writes the journal.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The name of the gateway instance, in every record.
    pub name: Arc<str>,
    /// The version of the program.
    pub version: &'static str,
}

/// The journal of this gateway. Cheap to clone; the journal ends with [`Audit::close`] or the last clone.
#[derive(Debug, Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    keys: Arc<Keys>,
    directory: PathBuf,
    upkeep: Arc<Upkeep>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.enter(State::Closed);
        self.shared.queue.close();
        wake(&self.threads.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Wakes the thread that only sleeps.
fn wake(threads: &[JoinHandle<()>]) {
    threads.iter().for_each(|thread| thread.thread().unpark());
}

impl Audit {
    /// Opens the journal, recovers it and starts to write. Blocks for the time of reading one segment.
    ///
    /// # Errors
    /// Another process has it open, it is damaged, or it cannot be read or written.
    pub fn open(settings: &Settings, instance: Instance) -> Result<Self, AuditError> {
        let storage = Arc::new(Files::new(settings.directory.clone()));
        Self::open_with(settings, instance, storage, Arc::new(SystemClock))
    }

    /// Like [`Audit::open`], with another way to write and another clock; for tests.
    ///
    /// # Errors
    /// See [`Audit::open`].
    pub fn open_with(
        settings: &Settings,
        instance: Instance,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AuditError> {
        settings.check()?;
        let directory = &settings.directory;
        let failed = |action| {
            let path = directory.clone();
            move |source| AuditError::Io { action, path, source }
        };
        make_directory(directory).map_err(failed("make"))?;
        let lock = lock(directory)?;
        let recovered = recovery::recover(directory)?;
        let (keys, tree) = signing::open(settings, &recovered)?;
        let size = settings.segment_size.get();
        let log_name = format!("{}/{}", settings.domain.as_str(), instance.name);
        let tenants = Arc::new(Keys::new(directory.join("keys")));
        let subjects = (settings.personal == PersonalData::Erasable)
            .then(|| Arc::new(Subjects::new(tenants.clone(), directory)));
        let shared = Arc::new(Shared::new(instance, clock, settings.queue, Limiter::new(size), subjects));
        let syncer = Arc::new(Syncer::new(recovered.next_seq));
        let feed = Arc::new(Feed::default());
        let mut writer = Writer::new(shared.clone(), feed.clone(), syncer.clone(), directory.clone(), keys);
        let change = tree.and_then(|start| writer.resume(start, &log_name));
        let takeover = take_over(&shared, storage.as_ref(), recovered, change.as_ref(), size, log_name)
            .map_err(failed("write"))?;
        let upkeep = Upkeep::new(Retention {
            shared: shared.clone(),
            syncer: syncer.clone(),
            storage: storage.clone(),
            journal: directory.clone(),
            hot: settings.retention.hot.get(),
            keep: settings.retention.keep.get(),
        });
        let committer = Committer::new(shared.clone(), syncer.clone(), storage, feed, takeover);
        let threads = start(shared.clone(), syncer, committer, writer, upkeep.clone(), lock)?;
        let (directory, threads) = (directory.clone(), Mutex::new(threads));
        let inner = Inner { shared, keys: tenants, directory, upkeep, threads };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Opens the record of a crossing and takes the places of its decision and outcome.
    ///
    /// # Errors
    /// The journal cannot be written, or too many crossings are open: answer 503.
    pub fn draft(&self, id: RecordId, mode: AuditMode) -> Result<Draft, Unavailable> {
        Draft::open(&self.inner.shared, id, mode)
    }

    /// Records a refusal before anybody was identified. Not awaited; at most 10 a second and source network (/24 or
    /// /64) and a tenth of each segment are single records, the rest is one count a second.
    pub fn refusal(&self, id: RecordId, source: IpAddr, record: &Refusal<'_>) {
        refuse(&self.inner.shared, id, source, record);
    }

    /// Records an event. Not awaited; more than 256 that wait at once are counted as lost.
    pub fn event(&self, event: &Event<'_>) {
        let shared = &self.inner.shared;
        if shared.places.take(Place::Event, 1) {
            let payload = encode("event", &shared.stamp(None, None), event);
            shared.push(Kind::Event, None, payload, Place::Event);
        } else {
            add(&shared.counters.lost, 1);
        }
    }

    /// HMAC-SHA-256 of `bytes` under the tenant's journal key, hexadecimal. The key is made when it is first needed.
    ///
    /// # Errors
    /// The key cannot be read or made; the reason is in the operator's log.
    pub fn digest(&self, tenant: &TenantName, bytes: &[u8]) -> Result<String, Unavailable> {
        self.inner.keys.digest(tenant, bytes).map_err(|error| {
            tracing::error!(%error, %tenant, "the journal key of a tenant cannot be used");
            self.inner.shared.refused(Unavailable::Key)
        })
    }

    /// Like [`Audit::digest`], of bytes that come one after the other.
    ///
    /// # Errors
    /// See [`Audit::digest`].
    pub fn digester(&self, tenant: &TenantName) -> Result<Digester, Unavailable> {
        self.inner.keys.digester(tenant).map_err(|error| {
            tracing::error!(%error, %tenant, "the journal key of a tenant cannot be used");
            self.inner.shared.refused(Unavailable::Key)
        })
    }

    /// Keeps the files of a policy bundle under its hash, once. Blocks for some writes.
    ///
    /// # Errors
    /// The hash or a name is no plain file name, or a file cannot be written.
    pub fn archive(&self, hash: &str, files: &[(String, Vec<u8>)]) -> Result<(), AuditError> {
        archive::keep(&self.inner.directory.join("bundles"), hash, files)
    }

    /// Tells how surely each route is recorded: what differs from the last run becomes an event. Blocks for a write.
    ///
    /// # Errors
    /// The modes of the last run cannot be read, or these not be kept.
    pub fn modes(&self, routes: &BTreeMap<String, AuditMode>) -> Result<(), AuditError> {
        let directory = &self.inner.directory;
        modes::compare(directory, routes, |event| self.event(event)).map_err(|source| AuditError::Io {
            action: "compare the audit modes of routes in",
            path: directory.clone(),
            source,
        })
    }

    /// Deletes the segments that are older than they are kept, as also happens each hour. Blocks; not for a thread that serves.
    ///
    /// # Errors
    /// Something keeps them, or cannot be read or written; what is not deleted is whole.
    pub fn prune(&self) -> Result<Pruned, RetentionError> {
        self.inner.upkeep.prune()
    }

    /// Figures for metrics and health.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// The newest checkpoint that this run has signed; an idle journal signs again each minute.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Published> {
        self.inner.shared.published()
    }

    /// The id of this run, as it stands in its records.
    #[must_use]
    pub fn boot(&self) -> RecordId {
        self.inner.shared.boot
    }

    /// Ends the journal: drafts are refused, what lies in the queue is written and synced, the lock is released.
    /// Drafts still open lose their outcome, which the next start records as `unknown`.
    pub async fn close(&self) {
        let shared = &self.inner.shared;
        self.event(&Event::Stop);
        shared.enter(State::Closed);
        shared.queue.close();
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        wake(&threads);
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(JoinHandle::join).all(|ended| ended.is_ok())
        });
        if !joined.await.unwrap_or(false) {
            tracing::error!("a thread of the audit journal panicked");
        }
    }
}

/// See [`Audit::refusal`].
pub(crate) fn refuse(shared: &Shared, id: RecordId, source: IpAddr, record: &Refusal<'_>) {
    let admitted = refusals::lock(&shared.limiter).admits(source, Instant::now());
    if admitted && shared.places.take(Place::Refusal, 1) {
        let stamp = shared.stamp(Some(id), None);
        let payload = if shared.subjects.is_some() {
            encode("refusal", &stamp, &Refusal { peer: coarse(record.peer), ..record.clone() })
        } else {
            encode("refusal", &stamp, record)
        };
        if refusals::lock(&shared.limiter).spend(super::frame::frame_bytes(payload.len())) {
            shared.push(Kind::Refusal, None, payload, Place::Refusal);
            return;
        }
        shared.places.give(Place::Refusal, 1);
    }
    refusals::lock(&shared.limiter).count(&record.code, source, shared.now());
}

/// The exclusive lock; it ends with the file.
pub(crate) fn lock(directory: &Path) -> Result<File, AuditError> {
    let path = directory.join("lock");
    let io = |source| AuditError::Io { action: "open", path: path.clone(), source };
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuditError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// What the committer starts with: the last segment, and the records that say what was recovered.
fn take_over(
    shared: &Shared,
    storage: &dyn Storage,
    recovered: Recovered,
    change: Option<&KeyChange>,
    segment_size: u64,
    log_name: String,
) -> std::io::Result<Takeover> {
    let segment = match recovered.tail {
        None => None,
        Some(tail) => {
            let file = storage.open(&tail.name)?;
            let size = match file.allocate(segment_size.max(tail.end)) {
                Ok(()) => segment_size.max(tail.end),
                // The committer tries again, as it does when there is no space later.
                Err(error) if may_pass(&error) => {
                    file.truncate(tail.end)?;
                    tail.end
                }
                Err(error) => return Err(error),
            };
            Some(Segment { file, name: tail.name, first: tail.first, end: tail.end, size })
        }
    };
    let mut first = Vec::new();
    if let Some(KeyChange { old, new }) = change {
        tracing::warn!(%old, %new, "another key signs the checkpoints of the audit journal from now on");
        first.push(shared.own_event(&Event::KeyChanged { old: text(old), new: text(new) }));
    }
    for cut in &recovered.cuts {
        tracing::warn!(segment = %cut.segment, cut.offset, cut.bytes, "a torn end of the audit journal was cut off");
        let (offset, bytes) = (cut.offset, cut.bytes);
        first.push(shared.own_event(&Event::RecoveryTruncated {
            segment: text(&cut.segment),
            offset,
            bytes,
        }));
    }
    let mut orphans: Vec<_> = recovered.open.iter().copied().collect();
    orphans.sort_unstable();
    for key in &orphans {
        let stamp = shared.stamp(Some(key.0), Some(key.1));
        let payload = encode("outcome", &stamp, &Outcome::bare(Ending::Unknown));
        first.push(Entry { kind: Kind::Outcome, key: Some(*key), payload, place: Place::Own, ack: None });
    }
    if !orphans.is_empty() {
        let count = u64::try_from(orphans.len()).unwrap_or(u64::MAX);
        first.push(shared.own_event(&Event::RecoveryOrphans { count }));
    }
    first.push(shared.own_event(&Event::Start { version: text(shared.instance.version) }));
    Ok(Takeover {
        segment,
        previous: recovered.previous,
        next_seq: recovered.next_seq,
        open: recovered.open,
        first,
        segment_size,
        log: recovered.log,
        log_name,
    })
}

/// Starts the threads; the lock lives as long as those that write.
fn start(
    shared: Arc<Shared>,
    syncer: Arc<Syncer>,
    committer: Committer,
    writer: Writer,
    upkeep: Arc<Upkeep>,
    lock: File,
) -> Result<Vec<JoinHandle<()>>, AuditError> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let lock = Arc::new(lock);
    let (held, kept) = (lock.clone(), lock.clone());
    let syncing = thread("audit-sync").spawn(move || syncer.run(&shared)).map_err(AuditError::Thread)?;
    let signing = thread("audit-tree")
        .spawn(move || {
            writer.run();
            drop(held);
        })
        .map_err(AuditError::Thread)?;
    let writing = thread("audit-write")
        .spawn(move || {
            committer.run();
            drop(lock);
        })
        .map_err(AuditError::Thread)?;
    let keeping = thread("audit-upkeep")
        .spawn(move || {
            upkeep.run();
            drop(kept);
        })
        .map_err(AuditError::Thread)?;
    Ok(vec![writing, syncing, signing, keeping])
}
