//! What all handles, drafts and the two threads of one journal share: state, counters, places, queue.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::oneshot;

use super::encode::{encode, text};
use super::frame::Kind;
use super::queue::{Ack, Entry, Place, Places, Queue, Written};
use super::record::{Event, Stamp};
use super::refusals::Limiter;
use super::segment::Open;
use super::subjects::Subjects;
use super::tree::Published;
use super::{Instance, Unavailable};
use crate::model::{Clock, RecordId};

/// Whether records can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// They can.
    Ok,
    /// There is no space; it is tried again every second.
    Full,
    /// The disk failed; only a restart helps.
    Poisoned,
    /// The journal was closed.
    Closed,
}

impl State {
    /// The name in metrics and health answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Poisoned => "poisoned",
            Self::Closed => "closed",
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Full => 1,
            Self::Closed => 2,
            Self::Poisoned => 3,
        }
    }

    const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::Full,
            2 => Self::Closed,
            _ => Self::Poisoned,
        }
    }
}

/// Figures of the journal since its start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Whether records can be written.
    pub state: State,
    /// Records that wait to be written.
    pub queue_depth: usize,
    /// Places that open requests hold.
    pub places_taken: usize,
    /// Records written.
    pub records: u64,
    /// Bytes written, frames included.
    pub bytes: u64,
    /// Writes: each holds all records that had come until then.
    pub writes: u64,
    /// Syncs of the disk.
    pub commits: u64,
    /// Time spent in them.
    pub commit_time: Duration,
    /// Requests refused because they could not be recorded.
    pub refused: u64,
    /// Refusals before identification that were counted instead of written.
    pub aggregated: u64,
    /// Outcomes and events that could not be written at all: the journal was poisoned or closed.
    pub lost: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) records: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) commit_nanos: AtomicU64,
    pub(crate) refused_space: AtomicU64,
    pub(crate) refused_busy: AtomicU64,
    pub(crate) refused_other: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) instance: Instance,
    pub(crate) boot: RecordId,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) places: Places,
    pub(crate) counters: Counters,
    pub(crate) limiter: Mutex<Limiter>,
    /// The keys of users, if what identifies them is encrypted.
    pub(crate) subjects: Option<Arc<Subjects>>,
    state: AtomicU8,
    published: Mutex<Option<Published>>,
}

impl Shared {
    pub(crate) fn new(
        instance: Instance,
        clock: Arc<dyn Clock>,
        places: usize,
        limiter: Limiter,
        subjects: Option<Arc<Subjects>>,
    ) -> Self {
        Self {
            instance,
            boot: RecordId::new(),
            clock,
            queue: Queue::new(),
            places: Places::new(places),
            counters: Counters::default(),
            limiter: Mutex::new(limiter),
            subjects,
            state: AtomicU8::new(State::Ok.byte()),
            published: Mutex::new(None),
        }
    }

    pub(crate) fn state(&self) -> State {
        State::from_byte(self.state.load(Ordering::Acquire))
    }

    /// Goes to another state. A poisoned journal stays so, and a closed one can only be poisoned.
    pub(crate) fn enter(&self, next: State) {
        let final_byte = State::Closed.byte();
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now < final_byte || next.byte() > now).then_some(next.byte())
        });
    }

    /// Whether a decision can be written now; a refusal is counted.
    pub(crate) fn available(&self) -> Result<(), Unavailable> {
        let error = match self.state() {
            State::Ok => return Ok(()),
            State::Full => Unavailable::Full,
            State::Poisoned => Unavailable::Poisoned,
            State::Closed => Unavailable::Closed,
        };
        Err(self.refused(error))
    }

    /// Counts a request that could not be recorded.
    pub(crate) fn refused(&self, error: Unavailable) -> Unavailable {
        let counter = match error {
            Unavailable::Full => &self.counters.refused_space,
            Unavailable::Busy => &self.counters.refused_busy,
            Unavailable::Poisoned | Unavailable::Closed | Unavailable::Key => &self.counters.refused_other,
        };
        add(counter, 1);
        error
    }

    /// What a record begins with.
    pub(crate) fn stamp(&self, id: Option<RecordId>, attempt: Option<u16>) -> Stamp<'_> {
        let gateway = text(&self.instance.name);
        Stamp { id, attempt, time: self.clock.now(), gateway, boot: self.boot }
    }

    /// Puts a record in whose place was taken. What comes too late is counted as lost.
    pub(crate) fn push(&self, kind: Kind, key: Option<Open>, payload: Vec<u8>, place: Place) {
        self.send(Entry { kind, key, payload, place, ack: None });
    }

    /// Like `push`, and says when it is written.
    pub(crate) fn push_awaited(
        &self,
        kind: Kind,
        key: Open,
        payload: Vec<u8>,
        durable: bool,
    ) -> oneshot::Receiver<Result<Written, Unavailable>> {
        let (sender, receiver) = oneshot::channel();
        let ack = Some(Ack { durable, sender, written: None });
        self.send(Entry { kind, key: Some(key), payload, place: Place::Draft, ack });
        receiver
    }

    fn send(&self, entry: Entry) {
        if let Err(entry) = self.queue.push(entry) {
            self.lose(entry);
        }
    }

    /// Gives up a record that cannot be written: its waiter is told, else it is counted.
    pub(crate) fn lose(&self, entry: Entry) {
        self.places.give(entry.place, 1);
        match entry.ack {
            Some(ack) => {
                let error = match self.state() {
                    State::Ok | State::Full => Unavailable::Full,
                    State::Poisoned => Unavailable::Poisoned,
                    State::Closed => Unavailable::Closed,
                };
                ack.send(Err(self.refused(error)));
            }
            None => add(&self.counters.lost, 1),
        }
    }

    /// An event as an entry of the committer's own.
    pub(crate) fn own_event(&self, event: &Event<'_>) -> Entry {
        let payload = encode("event", &self.stamp(None, None), event);
        Entry { kind: Kind::Event, key: None, payload, place: Place::Own, ack: None }
    }

    /// Records an event and blocks until it is on the disk.
    ///
    /// # Errors
    /// It is not surely recorded.
    pub(crate) fn record(&self, event: &impl Serialize) -> Result<(), &'static str> {
        if self.state() != State::Ok {
            return Err("the journal takes no records now");
        }
        if !self.places.take(Place::Event, 1) {
            return Err("too many events wait to be written");
        }
        let (sender, receiver) = oneshot::channel();
        let payload = encode("event", &self.stamp(None, None), event);
        let ack = Some(Ack { durable: true, sender, written: None });
        self.send(Entry { kind: Kind::Event, key: None, payload, place: Place::Event, ack });
        match receiver.blocking_recv() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the journal takes no records now"),
        }
    }

    /// Notes the newest checkpoint.
    pub(crate) fn publish(&self, checkpoint: Published) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(checkpoint);
    }

    /// The newest checkpoint of this run.
    pub(crate) fn published(&self) -> Option<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn stats(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let refused = [&counters.refused_space, &counters.refused_busy, &counters.refused_other];
        Stats {
            state: self.state(),
            queue_depth: self.queue.len(),
            places_taken: self.places.taken(),
            records: get(&counters.records),
            bytes: get(&counters.bytes),
            writes: get(&counters.writes),
            commits: get(&counters.commits),
            commit_time: Duration::from_nanos(get(&counters.commit_nanos)),
            refused: refused.into_iter().map(get).sum(),
            aggregated: super::refusals::lock(&self.limiter).aggregated(),
            lost: get(&counters.lost),
        }
    }
}
