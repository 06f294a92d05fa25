//! The one source of wall time, so that tests can step it.

use std::fmt;

use jiff::Timestamp;

/// Wall time. Durations and timeouts use the monotonic clock instead.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;
}

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
