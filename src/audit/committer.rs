//! The thread that writes: the only one that gives out sequence numbers and touches the segments.
//!
//! All that lies in the queue becomes one write. Whoever waits for `best_effort` is answered when the write has
//! returned, whoever waits for `required` when the syncer has synced it. When there is no space, decisions are refused at once
//! and all else is kept (its places are still taken, so it is bounded) until there is; any other error ends the
//! journal until a restart.

mod logs;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::encode::text;
use super::frame::{self, Kind, frame_bytes};
use super::queue::{Ack, Entry, Place, Written};
use super::record::{Event, VERSION};
use super::refusals;
use super::segment::{self, Durable, Head, Open, Previous};
use super::shared::{Shared, State, add};
use super::storage::{SegmentFile, Storage, may_pass, write_all_at};
use super::syncer::Syncer;
use super::tree::log::LogHead;
use super::tree::writer::Feed;
use super::tree::{Hash, leaf_hash};

/// Bytes that are collected for one write.
const WRITE_BYTES: usize = 1 << 20;
/// How often lack of space is tried again, and counts are written.
const TICK: Duration = Duration::from_secs(1);
/// More than any frame that marks what is durable.
const MARKER_BYTES: usize = 64;
/// More than any count of refusals, for its share of the segment.
const REFUSALS_BYTES: usize = 8192;
/// A difference of wall and monotonic clock within a second that is a step and no drift.
const STEP: Duration = Duration::from_secs(1);

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<dyn SegmentFile>,
    pub(crate) name: String,
    /// The number of its first record.
    pub(crate) first: u64,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// How far space is reserved.
    pub(crate) size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ok,
    Full { since: Timestamp },
    Poisoned,
}

/// What the journal is when the committer takes it over.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) segment: Option<Segment>,
    pub(crate) previous: Option<Previous>,
    pub(crate) next_seq: u64,
    pub(crate) open: HashSet<Open>,
    /// Records to write first.
    pub(crate) first: Vec<Entry>,
    pub(crate) segment_size: u64,
    /// The log that the segment belongs to.
    pub(crate) log: Option<LogHead>,
    /// The name under which logs are opened.
    pub(crate) log_name: String,
}

/// The state of the writing thread.
#[derive(Debug)]
pub(crate) struct Committer {
    shared: Arc<Shared>,
    syncer: Arc<Syncer>,
    storage: Arc<dyn Storage>,
    feed: Arc<Feed>,
    segment_size: u64,
    segment: Option<Segment>,
    previous: Option<Previous>,
    next_seq: u64,
    open: HashSet<Open>,
    log_name: String,
    log: Option<LogHead>,
    /// Its name, to be shared with whoever is told where a record is.
    origin: Arc<str>,
    /// The record that opens the log, until it is written.
    opening: Option<Vec<u8>>,
    /// Leaf hashes on their way to the tree.
    leaves: Vec<Hash>,
    /// Frames that are not written yet, and their records.
    buffer: Vec<u8>,
    staged: Vec<Entry>,
    waiters: Vec<Ack>,
    /// Records that wait for space.
    backlog: Vec<Entry>,
    health: Health,
    /// What the last `Durable` frame said.
    marked: u64,
    /// The payload of such a frame.
    marker: Vec<u8>,
    ticked: (Instant, Timestamp),
    tried: Instant,
    reported_space: u64,
    reported_busy: (u64, Timestamp),
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        syncer: Arc<Syncer>,
        storage: Arc<dyn Storage>,
        feed: Arc<Feed>,
        takeover: Takeover,
    ) -> Self {
        let (now, wall) = (Instant::now(), shared.now());
        Self {
            shared,
            syncer,
            storage,
            feed,
            segment_size: takeover.segment_size,
            segment: takeover.segment,
            previous: takeover.previous,
            next_seq: takeover.next_seq,
            open: takeover.open,
            log_name: takeover.log_name,
            origin: takeover.log.as_ref().map_or_else(|| "".into(), |log| log.origin.as_str().into()),
            log: takeover.log,
            opening: None,
            leaves: Vec::new(),
            buffer: Vec::new(),
            staged: Vec::new(),
            waiters: Vec::new(),
            backlog: takeover.first,
            health: Health::Ok,
            marked: takeover.next_seq,
            marker: Vec::new(),
            ticked: (now, wall),
            tried: now,
            reported_space: 0,
            reported_busy: (0, wall),
        }
    }

    /// The thread: until the queue is closed and all of it is written.
    pub(crate) fn run(mut self) {
        let fuse = Fuse { shared: self.shared.clone(), syncer: self.syncer.clone(), feed: self.feed.clone() };
        let mut batch = std::mem::take(&mut self.backlog);
        self.turn_log();
        loop {
            self.commit(&mut batch);
            let closed = self.shared.queue.take(&mut batch, TICK);
            if closed && batch.is_empty() {
                break;
            }
            self.tick(&mut batch);
            self.try_again(&mut batch);
        }
        self.finish();
        drop(fuse);
    }

    fn commit(&mut self, batch: &mut Vec<Entry>) {
        let time = self.time();
        for entry in batch.drain(..) {
            if !self.writable() {
                self.hold(entry);
                continue;
            }
            let ready = self.make_room(frame_bytes(entry.payload.len()));
            if let Err(error) = ready {
                self.fail(&error);
                self.hold(entry);
                continue;
            }
            self.stage(entry, time);
            if self.buffer.len() >= WRITE_BYTES
                && let Err(error) = self.write()
            {
                self.fail(&error);
            }
        }
        if self.writable()
            && let Err(error) = self.write()
        {
            self.fail(&error);
        }
    }

    fn writable(&mut self) -> bool {
        if self.shared.state() == State::Poisoned {
            self.health = Health::Poisoned;
        }
        self.health == Health::Ok
    }

    /// Frames a record; its number is final when it is written.
    fn stage(&mut self, entry: Entry, time: u64) {
        if self.buffer.is_empty() {
            self.mark(time);
        }
        let ahead = u64::try_from(self.staged.len()).unwrap_or(u64::MAX);
        let seq = self.next_seq.saturating_add(ahead);
        frame::encode(&mut self.buffer, seq, entry.kind, time, &entry.payload);
        self.staged.push(entry);
    }

    /// Notes in the journal what is durable, so that a start can tell damage from a torn tail.
    fn mark(&mut self, time: u64) {
        let below = self.syncer.durable();
        if below > self.marked {
            self.marker.clear();
            if serde_json::to_writer(&mut self.marker, &Durable { below }).is_ok() {
                frame::encode(&mut self.buffer, self.next_seq, Kind::Durable, time, &self.marker);
                self.marked = below;
            }
        }
    }

    /// Writes what is staged.
    fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let Some(segment) = &mut self.segment else { return Err(io::ErrorKind::NotFound.into()) };
        write_all_at(segment.file.as_ref(), &self.buffer, segment.end)?;
        let bytes = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        segment.end = segment.end.saturating_add(bytes);
        let file = segment.file.clone();
        self.buffer.clear();
        add(&self.shared.counters.bytes, bytes);
        add(&self.shared.counters.writes, 1);
        if self.staged.is_empty() {
            return Ok(());
        }
        let mut staged = std::mem::take(&mut self.staged);
        add(&self.shared.counters.records, u64::try_from(staged.len()).unwrap_or(u64::MAX));
        for entry in &mut staged {
            self.appended(entry);
        }
        self.syncer.submit(&file, self.next_seq, &mut self.waiters);
        // Hashed while the disk is busy, out of the bytes that were encoded: nobody can slip others in between.
        self.leaves.extend(staged.drain(..).map(|entry| leaf_hash(frame::kept(&entry.payload))));
        self.staged = staged;
        self.feed.push(&mut self.leaves);
        Ok(())
    }

    /// Called for each record in the order of sequence numbers, once it is in the file.
    fn appended(&mut self, entry: &mut Entry) {
        let seq = self.next_seq;
        self.next_seq = seq.saturating_add(1);
        match (entry.kind, entry.key) {
            (Kind::Allow, Some(key)) => {
                self.open.insert(key);
            }
            (Kind::Outcome, Some(key)) => {
                self.open.remove(&key);
            }
            _ => {}
        }
        self.shared.places.give(entry.place, 1);
        if let Some(ack) = &mut entry.ack {
            let first = self.log.as_ref().map_or(0, |log| log.first);
            let leaf_index = seq.saturating_sub(first);
            ack.written = Some(Written { seq, log: self.origin.clone(), leaf_index });
        }
        match entry.ack.take() {
            Some(ack) if ack.durable => self.waiters.push(ack),
            Some(ack) => ack.send(Ok(())),
            None => {}
        }
    }

    fn time(&self) -> u64 {
        u64::try_from(self.shared.now().as_nanosecond()).unwrap_or(0)
    }

    /// Makes sure that so many bytes more fit into the segment.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let needed = u64::try_from(self.buffer.len() + bytes + MARKER_BYTES).unwrap_or(u64::MAX);
        if self.segment.as_ref().is_some_and(|segment| segment.end.saturating_add(needed) <= segment.size) {
            return Ok(());
        }
        self.write()?;
        if self.feed.is_behind() {
            // It would go on and on without a checkpoint.
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.roll()
    }

    /// Ends the segment and begins the next: the old one is on the disk before anything is in the new one.
    fn roll(&mut self) -> io::Result<()> {
        let turns = self.next_log().is_some();
        if turns {
            self.close_log()?;
        }
        if let Some(old) = &mut self.segment {
            if old.size > old.end {
                old.file.truncate(old.end)?;
                old.size = old.end;
            }
            self.syncer.flush()?;
            if old.first < self.next_seq {
                self.previous = Some(Previous { name: old.name.clone(), bytes: old.end });
            } else {
                self.storage.remove(&old.name)?;
            }
            self.segment = None;
        }
        if turns {
            self.open_log()?;
        }
        self.begin()
    }

    /// Begins a segment; if it is the first of a log, the record that opens the log is in it from the start.
    fn begin(&mut self) -> io::Result<()> {
        let first = self.next_seq;
        let name = segment::name(first);
        let mut head = self.head();
        if let Some(opening) = &self.opening {
            frame::encode(&mut head, first, Kind::Event, self.time(), opening);
        }
        let head_bytes = u64::try_from(head.len()).unwrap_or(u64::MAX);
        let size = self.segment_size.max(head_bytes.saturating_mul(2));
        let file = self.storage.create(&name, size)?;
        let begun = write_all_at(file.as_ref(), &head, 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.storage.sync_directory());
        if let Err(error) = begun {
            // A leftover holds no record; the next start removes it.
            let _ = self.storage.remove(&name);
            return Err(error);
        }
        if let Some(opening) = self.opening.take() {
            self.next_seq = first.saturating_add(1);
            add(&self.shared.counters.records, 1);
            self.leaves.push(leaf_hash(frame::kept(&opening)));
            self.feed.push(&mut self.leaves);
            self.syncer.submit(&file, self.next_seq, &mut self.waiters);
        }
        self.segment = Some(Segment { file, name, first, end: head_bytes, size });
        refusals::lock(&self.shared.limiter).new_segment();
        Ok(())
    }

    fn head(&self) -> Vec<u8> {
        let head = Head {
            v: VERSION,
            gateway: self.shared.instance.name.to_string(),
            boot: self.shared.boot,
            first: self.next_seq,
            previous: self.previous.clone(),
            open: self.open.len(),
            log: self.log.clone(),
        };
        head.encode(&self.open, self.time())
    }

    /// Nothing more can be written, for now or for good.
    fn fail(&mut self, error: &io::Error) {
        self.buffer.clear();
        let passes = may_pass(error) && self.cut_back().is_ok();
        if passes {
            tracing::error!(%error, "no space for the audit journal; requests are refused until there is");
            self.health = Health::Full { since: self.shared.now() };
            self.tried = Instant::now();
            self.shared.enter(State::Full);
        } else {
            tracing::error!(%error, "writing the audit journal failed; nothing is forwarded until a restart");
            self.health = Health::Poisoned;
            self.shared.enter(State::Poisoned);
        }
        for entry in std::mem::take(&mut self.staged) {
            self.hold(entry);
        }
    }

    /// Cuts the segment behind the last good frame.
    fn cut_back(&mut self) -> io::Result<()> {
        if let Some(segment) = &mut self.segment {
            segment.file.truncate(segment.end)?;
            segment.size = segment.end;
        }
        Ok(())
    }

    /// Keeps a record until there is space, if nobody waits for it; else gives it up.
    fn hold(&mut self, entry: Entry) {
        if matches!(self.health, Health::Full { .. }) && entry.ack.is_none() {
            self.backlog.push(entry);
        } else {
            self.shared.lose(entry);
        }
    }

    /// Without space, once a second: is there some now? Then what was kept goes first.
    fn try_again(&mut self, batch: &mut Vec<Entry>) {
        let Health::Full { since } = self.health else { return };
        if self.tried.elapsed() < TICK {
            return;
        }
        self.tried = Instant::now();
        if self.feed.is_behind() {
            return;
        }
        if let Err(error) = self.roll() {
            if !may_pass(&error) {
                self.fail(&error);
                std::mem::take(&mut self.backlog).into_iter().for_each(|entry| self.shared.lose(entry));
            }
            return;
        }
        self.health = Health::Ok;
        self.shared.enter(State::Ok);
        let all = self.shared.counters.refused_space.load(std::sync::atomic::Ordering::Relaxed);
        let refused = all.saturating_sub(self.reported_space);
        self.reported_space = all;
        tracing::warn!(refused, "there is space for the audit journal again");
        let gap = Event::AuditGap { refused, reason: text("no_space"), from: since, to: self.shared.now() };
        let mut kept = std::mem::take(&mut self.backlog);
        kept.push(self.shared.own_event(&gap));
        kept.append(batch);
        *batch = kept;
    }

    /// Once a second: counts that are due, and whether the clock stepped.
    fn tick(&mut self, batch: &mut Vec<Entry>) {
        let (before, wall_before) = self.ticked;
        let elapsed = before.elapsed();
        if elapsed < TICK || !self.writable() {
            return;
        }
        let wall = self.shared.now();
        self.ticked = (Instant::now(), wall);
        let moved = wall.as_millisecond().saturating_sub(wall_before.as_millisecond());
        let step = moved.saturating_sub(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
        if u128::from(step.unsigned_abs()) >= STEP.as_millis() {
            batch.push(self.shared.own_event(&Event::ClockStep { milliseconds: step }));
        }
        self.turn_log();
        self.report_busy(batch, wall);
        let due = refusals::lock(&self.shared.limiter).harvest(REFUSALS_BYTES, wall);
        if let Some(counted) = due {
            let payload = super::encode::encode("refusals", &self.shared.stamp(None, None), &counted);
            batch.push(Entry { kind: Kind::Refusals, key: None, payload, place: Place::Own, ack: None });
        }
        if batch.is_empty() && self.segment.as_ref().is_some_and(|s| s.end.saturating_add(64) <= s.size) {
            // Idle: now even the last record is known to be durable.
            self.mark(self.time());
        }
    }

    fn report_busy(&mut self, batch: &mut Vec<Entry>, now: Timestamp) {
        let all = self.shared.counters.refused_busy.load(std::sync::atomic::Ordering::Relaxed);
        let (reported, from) = self.reported_busy;
        self.reported_busy = (all, now);
        let refused = all.saturating_sub(reported);
        if refused > 0 {
            let gap = Event::AuditGap { refused, reason: text("queue_full"), from, to: now };
            batch.push(self.shared.own_event(&gap));
        }
    }

    /// The end in order: all on the disk, the reserved rest of the segment given back.
    fn finish(&mut self) {
        std::mem::take(&mut self.backlog).into_iter().for_each(|entry| self.shared.lose(entry));
        if !self.writable() {
            return;
        }
        if let Some(segment) = &self.segment
            && let Err(error) = segment.file.truncate(segment.end)
        {
            tracing::warn!(%error, "the unused end of the last audit segment could not be given back");
        }
        if let Err(error) = self.syncer.flush() {
            tracing::error!(%error, "the end of the audit journal may not be durable");
        }
    }
}

/// Whatever ends the thread, also a panic: nobody waits for ever.
struct Fuse {
    shared: Arc<Shared>,
    syncer: Arc<Syncer>,
    feed: Arc<Feed>,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.enter(State::Poisoned);
        }
        self.shared.queue.close();
        let mut rest = Vec::new();
        self.shared.queue.take(&mut rest, Duration::ZERO);
        rest.into_iter().for_each(|entry| self.shared.lose(entry));
        self.syncer.close();
        self.feed.close();
    }
}
