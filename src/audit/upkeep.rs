//! The thread that does what the journal needs now and then: records what other processes noted, and deletes what is older than it is
//! kept. Nothing waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::retention::{Pruned, Retention, RetentionError, take_notes};
use super::shared::State;

/// How often notes are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How long after a start the first pass of retention comes: time for a clock that was wrong to be set, and
/// for an operator to lift a finger.
const FIRST: Duration = Duration::from_mins(10);
/// How often then.
const EVERY: Duration = Duration::from_hours(1);

/// What the thread and the handle share.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// One pass at a time.
    retention: Mutex<Retention>,
}

impl Upkeep {
    pub(crate) fn new(retention: Retention) -> Arc<Self> {
        Arc::new(Self { retention: Mutex::new(retention) })
    }

    /// Deletes what may go now.
    pub(crate) fn prune(&self) -> Result<Pruned, RetentionError> {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner).pass()
    }

    /// The thread: until the journal is closed.
    pub(crate) fn run(&self) {
        let (shared, journal) = {
            let retention = self.retention.lock().unwrap_or_else(PoisonError::into_inner);
            (retention.shared.clone(), retention.journal.clone())
        };
        let mut due = Instant::now() + FIRST;
        let mut told = false;
        while !matches!(shared.state(), State::Closed | State::Poisoned) {
            match take_notes(&shared, &journal) {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::error!(%error, "notes to the audit journal cannot be taken");
                    told = true;
                }
                Err(_) => {}
            }
            if Instant::now() >= due {
                due = Instant::now() + EVERY;
                if let Err(error) = self.prune() {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "old segments of the audit journal were not deleted"
                    );
                }
            }
            std::thread::park_timeout(TICK);
        }
    }
}
