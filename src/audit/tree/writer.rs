//! The thread that keeps the tree: takes the leaf hashes that the committer made, and signs the head of what is durable.
//!
//! It is off the path of requests. If it falls far behind (its disk is full), the journal takes no more
//! records: what is forwarded shall be provable. A checkpoint never covers a record that was not synced.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Hash;
use super::checkpoint::Checkpoint;
use super::edge::{Edge, FullTile};
use super::log::{LogDirectory, LogHead, write_vkey};
use super::note::VerifierKey;
use super::recover::Start;
use super::signing::{KeyChange, Keys};
use crate::audit::shared::{Shared, State};
use crate::audit::syncer::Syncer;

/// A checkpoint is due after so many records,
const RECORDS: usize = 1000;
/// or when the first of them is so old,
const AGE: Duration = Duration::from_secs(1);
/// or without any after so long, which shows that silence was silence;
const IDLE: Duration = Duration::from_secs(60);
/// but not sooner than this after the one before: each takes a sync of the disk.
const SPACING: Duration = Duration::from_millis(200);
/// How soon it is tried again after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Leaves that wait for the tree, 32 bytes each; with more, the journal counts as full.
const MAX_BEHIND: usize = 1 << 20;
/// Leaves that are taken into the tree before their tiles are written.
const AT_ONCE: usize = 1 << 15;

/// A checkpoint that was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The signed note.
    pub note: Arc<str>,
    /// The log.
    pub origin: Arc<str>,
    /// How many of its records the checkpoint covers.
    pub size: u64,
    /// The number of the log's first record in the journal.
    pub first: u64,
    /// When it was signed; an idle log is signed again each minute.
    pub at: Timestamp,
}

impl Published {
    /// Whether all records of the journal below this number are covered, by it or by what it continues.
    #[must_use]
    pub const fn covers(&self, below: u64) -> bool {
        self.first.saturating_add(self.size) >= below
    }
}

/// What a turn to the next log gives.
#[derive(Debug)]
pub(crate) struct Turned {
    /// The last checkpoint of the log before.
    pub(crate) previous: Option<String>,
    /// The key that verifies the new one.
    pub(crate) vkey: String,
}

#[derive(Debug, Default)]
struct Inner {
    leaves: Vec<Hash>,
    /// Leaves that the thread has taken and not yet put into the tree.
    taken: usize,
    sleeping: bool,
    turn: Option<LogHead>,
    turned: Option<io::Result<Turned>>,
    closed: bool,
    ended: bool,
}

/// Hands leaves from the committer to the thread.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
    wake: Condvar,
    done: Condvar,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the leaves of records that were written, in order.
    pub(crate) fn push(&self, leaves: &mut Vec<Hash>) {
        let mut inner = self.lock();
        let before = inner.leaves.len();
        inner.leaves.append(leaves);
        let due = before == 0 || (before < RECORDS && inner.leaves.len() >= RECORDS);
        if due && inner.sleeping {
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// Whether the thread is so far behind that no more records may come.
    pub(crate) fn is_behind(&self) -> bool {
        let inner = self.lock();
        inner.leaves.len().saturating_add(inner.taken) >= MAX_BEHIND
    }

    /// Ends the log, all records of which are durable, and opens the next.
    ///
    /// # Errors
    /// A checkpoint cannot be written.
    pub(crate) fn turn(&self, next: LogHead) -> io::Result<Turned> {
        let mut inner = self.lock();
        inner.turned = None;
        inner.turn = Some(next);
        self.wake.notify_one();
        let waiting = |inner: &mut Inner| inner.turned.is_none() && !inner.ended;
        let mut inner = self.done.wait_while(inner, waiting).unwrap_or_else(PoisonError::into_inner);
        inner.turned.take().unwrap_or_else(|| Err(io::Error::other("the thread of the tree has ended")))
    }

    /// Ends the thread after a last checkpoint.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}

/// The log that grows.
#[derive(Debug)]
struct Current {
    head: LogHead,
    directory: LogDirectory,
    edge: Edge,
    /// Tiles that are full and not written yet.
    full: VecDeque<FullTile>,
    pending: VecDeque<Hash>,
}

/// The state of the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    syncer: Arc<Syncer>,
    journal: PathBuf,
    keys: Keys,
    /// Until this record of the journal is covered, the previous key signs too.
    both_until: Option<u64>,
    current: Option<Current>,
    signed_at: Instant,
    dirty_since: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        feed: Arc<Feed>,
        syncer: Arc<Syncer>,
        journal: PathBuf,
        keys: Keys,
    ) -> Self {
        let signed_at = Instant::now();
        let (both_until, current, dirty_since, retry_at) = (None, None, None, None);
        Self { shared, feed, syncer, journal, keys, both_until, current, signed_at, dirty_since, retry_at }
    }

    /// Goes on where a start found the tree. If the previous key signed last, both sign until a checkpoint covers the record
    /// that names the new one; that change is given, to be the first record of the run.
    pub(crate) fn resume(&mut self, start: Start, log_name: &str) -> Option<KeyChange> {
        let size = start.edge.size().saturating_add(u64::try_from(start.pending.len()).unwrap_or(u64::MAX));
        let next_seq = start.log.first.saturating_add(size);
        let change = start.by_previous.then(|| self.keys.change(start.log.name())).flatten();
        if change.is_some() {
            // The last record of the old log and the first of the new one come before it.
            let turns = start.log.has_ended(log_name, self.shared.now());
            self.both_until = Some(next_seq.saturating_add(if turns { 2 } else { 0 }));
        }
        let directory = LogDirectory::of(&self.journal, start.log.first);
        self.dirty_since = (!start.pending.is_empty()).then(Instant::now);
        let (full, pending) = (VecDeque::new(), start.pending);
        self.current = Some(Current { head: start.log, directory, edge: start.edge, full, pending });
        change
    }

    /// The thread: until the feed is closed and what is durable is signed.
    pub(crate) fn run(mut self) {
        let fuse = Fuse { shared: self.shared.clone(), feed: self.feed.clone() };
        loop {
            let (turn, closed) = self.take();
            if let Some(next) = turn {
                let turned = self.turn(next);
                self.feed.lock().turned = Some(turned);
                self.feed.done.notify_all();
            }
            if closed || self.wait().is_zero() {
                self.sign_and_tell();
            }
            if closed {
                break;
            }
        }
        drop(fuse);
    }

    /// Waits until something is due and takes what has come.
    fn take(&mut self) -> (Option<LogHead>, bool) {
        let patience = self.wait();
        let feed = self.feed.clone();
        let mut inner = feed.lock();
        let enough = if self.dirty_since.is_some() { RECORDS } else { 1 };
        inner.sleeping = true;
        let idle = |inner: &mut Inner| inner.leaves.len() < enough && inner.turn.is_none() && !inner.closed;
        let (mut inner, _) =
            feed.wake.wait_timeout_while(inner, patience, idle).unwrap_or_else(PoisonError::into_inner);
        inner.sleeping = false;
        if let Some(current) = &mut self.current {
            current.pending.extend(inner.leaves.drain(..));
            inner.taken = current.pending.len();
            if inner.taken > 0 {
                self.dirty_since.get_or_insert_with(Instant::now);
            }
        }
        (inner.turn.take(), inner.closed)
    }

    /// How long until a checkpoint is due.
    fn wait(&self) -> Duration {
        let Some(current) = &self.current else { return IDLE };
        let now = Instant::now();
        let due = match (self.retry_at, self.dirty_since) {
            (Some(retry), _) => retry,
            (None, Some(since)) if current.pending.len() < RECORDS => since + AGE,
            (None, Some(_)) => self.signed_at + SPACING,
            (None, None) => self.signed_at + IDLE,
        };
        due.saturating_duration_since(now)
    }

    fn sign_and_tell(&mut self) {
        match self.sign() {
            Ok(()) => {
                if self.retry_at.take().is_some() {
                    tracing::warn!("checkpoints of the audit journal are written again");
                }
            }
            Err(error) => {
                if self.retry_at.is_none() {
                    tracing::error!(%error, "a checkpoint of the audit journal could not be written; it is tried again each second");
                }
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Takes all durable leaves into the tree and signs its head.
    fn sign(&mut self) -> io::Result<()> {
        let durable = self.syncer.durable();
        let Some(current) = &mut self.current else { return Ok(()) };
        current.absorb(durable)?;
        self.feed.lock().taken = current.pending.len();
        let covered = current.head.first.saturating_add(current.edge.size());
        let note = self.publish(false)?;
        let Some(current) = &self.current else { return Ok(()) };
        if self.both_until.is_some_and(|seq| covered > seq) {
            current.directory.keep_changeover(current.edge.size(), &note)?;
            // From here on the new key signs alone, beginning with this checkpoint.
            self.both_until = None;
            self.publish(false)?;
        }
        let Some(current) = &self.current else { return Ok(()) };
        self.signed_at = Instant::now();
        self.dirty_since = (!current.pending.is_empty()).then(Instant::now);
        Ok(())
    }

    fn publish(&self, first: bool) -> io::Result<String> {
        let Some(current) = &self.current else { return Err(io::ErrorKind::NotFound.into()) };
        let origin = current.head.origin.clone();
        let checkpoint = Checkpoint { origin, size: current.edge.size(), root: current.edge.root() };
        let signers = self.keys.signers(current.head.name());
        let signing = if self.both_until.is_some() { 2 } else { 1 };
        let note = checkpoint.sign(signers.iter().take(signing));
        if first {
            current.directory.publish_first(&note)?;
        } else {
            current.directory.publish(&note)?;
        }
        self.shared.publish(Published {
            note: note.as_str().into(),
            origin: current.head.origin.as_str().into(),
            size: checkpoint.size,
            first: current.head.first,
            at: self.shared.now(),
        });
        Ok(note)
    }

    /// Ends the log with a checkpoint of all its records, and opens the next with one of none.
    fn turn(&mut self, next: LogHead) -> io::Result<Turned> {
        let mut previous = None;
        if self.current.is_some() {
            self.sign()?;
            let Some(current) = &self.current else { return Err(io::ErrorKind::NotFound.into()) };
            if !current.pending.is_empty() {
                return Err(io::Error::other("records of the log are not durable yet"));
            }
            previous = current.directory.read_checkpoint()?;
        }
        let vkey = self.keys.verifiers(next.name()).first().map(VerifierKey::to_string).unwrap_or_default();
        write_vkey(&self.journal, &vkey)?;
        let directory = LogDirectory::of(&self.journal, next.first);
        let (edge, full, pending) = (Edge::default(), VecDeque::new(), VecDeque::new());
        let before = self.current.replace(Current { head: next, directory, edge, full, pending });
        if let Err(error) = self.publish(true) {
            self.current = before;
            return Err(error);
        }
        Ok(Turned { previous, vkey })
    }
}

impl Current {
    /// Takes the leaves of records below `durable` into the tree and writes the tiles.
    fn absorb(&mut self, durable: u64) -> io::Result<()> {
        let tiles = self.directory.tiles();
        loop {
            while let Some(tile) = self.full.front() {
                tiles.write_full(tile)?;
                self.full.pop_front();
            }
            let next = self.head.first.saturating_add(self.edge.size());
            let count = usize::try_from(durable.saturating_sub(next)).unwrap_or(usize::MAX);
            let count = count.min(self.pending.len()).min(AT_ONCE);
            if count == 0 {
                return tiles.write_edge(&self.edge);
            }
            for leaf in self.pending.drain(..count) {
                self.edge.push(leaf, &mut |tile| self.full.push_back(tile));
            }
        }
    }
}

/// Whatever ends the thread, also a panic: nobody waits for ever.
struct Fuse {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.enter(State::Poisoned);
        }
        self.feed.lock().ended = true;
        self.feed.done.notify_all();
    }
}
