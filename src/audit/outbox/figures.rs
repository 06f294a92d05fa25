//! What an operator watches: how far behind a destination is, since when, and what it refused.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How a destination does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Records are taken.
    Sending = 0,
    /// It cannot be reached or asks to wait; it is tried again.
    Waiting = 1,
    /// It refuses us (401, 403, no collector there): a person must mend it. It is tried again.
    Denied = 2,
    /// The journal cannot be read where the cursor is.
    Unreadable = 3,
}

/// Figures of one destination since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportStats {
    /// How it does.
    pub health: Health,
    /// Records that it has not acknowledged.
    pub lag_records: u64,
    /// How old the oldest of them is, seconds.
    pub lag_seconds: u64,
    /// Records that it acknowledged.
    pub sent: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Records that it refused for good, since there is the destination.
    pub dead_letters: u64,
    /// Records that were removed from the journal before they were sent; never for a required destination.
    pub missed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    health: AtomicU8,
    /// The first record that is not acknowledged.
    pub(super) next: AtomicU64,
    /// When the oldest record of the batch on its way was written, nanoseconds of UTC; 0 if none is.
    pub(super) waiting_since: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) dead_letters: AtomicU64,
    pub(super) missed: AtomicU64,
}

impl Figures {
    pub(super) fn enter(&self, health: Health) {
        self.health.store(health as u8, Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Sending,
            1 => Health::Waiting,
            2 => Health::Denied,
            _ => Health::Unreadable,
        }
    }

    /// `durable` is how far the journal is, `now` the time in nanoseconds of UTC.
    pub(super) fn stats(&self, durable: u64, now: u64) -> ExportStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let since = get(&self.waiting_since);
        ExportStats {
            health: self.health(),
            lag_records: durable.saturating_sub(get(&self.next)),
            lag_seconds: if since == 0 { 0 } else { now.saturating_sub(since) / 1_000_000_000 },
            sent: get(&self.sent),
            failures: get(&self.failures),
            dead_letters: get(&self.dead_letters),
            missed: get(&self.missed),
        }
    }
}
