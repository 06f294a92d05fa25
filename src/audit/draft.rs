//! The record of one crossing while it happens: closed exactly once, whatever becomes of the request.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::Unavailable;
use super::encode::encode;
use super::frame::Kind;
use super::queue::{Place, Written};
use super::record::{Decision, Ending, Outcome, Refusal, Verdict};
use super::shared::Shared;
use super::subjects::{Held, Subjects};
use crate::model::{AuditMode, InvalidName, RecordId, TenantName};

/// Places of one attempt: its decision and its outcome.
const PER_ATTEMPT: usize = 2;

/// An open record. Dropping it without [`Draft::close`] writes an outcome that says `aborted`, or `panicked`.
#[derive(Debug)]
pub struct Draft {
    shared: Arc<Shared>,
    id: RecordId,
    mode: AuditMode,
    started: Instant,
    /// Places that are still held.
    places: usize,
    /// The attempt that was decided last; 0 before the first.
    attempt: u16,
    /// Whether an outcome is owed.
    owed: bool,
    /// Where the last decision stands.
    written: Option<Written>,
}

impl Draft {
    /// Takes the places of a first attempt.
    pub(crate) fn open(shared: &Arc<Shared>, id: RecordId, mode: AuditMode) -> Result<Self, Unavailable> {
        let mut draft = Self {
            shared: shared.clone(),
            id,
            mode,
            started: Instant::now(),
            places: 0,
            attempt: 0,
            owed: false,
            written: None,
        };
        draft.reserve_attempt()?;
        draft.owed = true;
        Ok(draft)
    }

    /// The id of the crossing.
    #[must_use]
    pub const fn id(&self) -> RecordId {
        self.id
    }

    /// The attempt that was decided last, from 1; 0 before the first decision.
    #[must_use]
    pub const fn attempt(&self) -> u16 {
        self.attempt
    }

    /// Where the record of the last decision stands in the journal and in its log; none if nothing was recorded.
    #[must_use]
    pub const fn written(&self) -> Option<&Written> {
        self.written.as_ref()
    }

    /// Takes the places of one more attempt, for a retry.
    ///
    /// # Errors
    /// No places are free, or the journal cannot be written: then there must be no further attempt.
    pub fn reserve_attempt(&mut self) -> Result<(), Unavailable> {
        if self.mode == AuditMode::Off {
            return Ok(());
        }
        self.shared.available()?;
        if !self.shared.places.take(Place::Draft, PER_ATTEMPT) {
            return Err(self.shared.refused(Unavailable::Busy));
        }
        self.places = self.places.saturating_add(PER_ATTEMPT);
        Ok(())
    }

    /// Records the decision of the next attempt. When this returns, the record is as safe as the route's mode says.
    /// An earlier attempt without an outcome gets one that says `aborted`.
    ///
    /// # Errors
    /// The decision is not surely recorded: nothing may be sent.
    pub async fn decision<C: Serialize + Sync>(
        &mut self,
        record: &Decision<'_, C>,
    ) -> Result<(), Unavailable> {
        if self.attempt > 0 && self.owed {
            self.outcome(&Outcome::bare(Ending::Aborted));
        }
        // A decision that is not written owes no outcome.
        self.owed = false;
        self.written = None;
        if self.mode == AuditMode::Off {
            self.attempt = self.attempt.saturating_add(1);
            return Ok(());
        }
        if self.places < PER_ATTEMPT {
            self.reserve_attempt()?;
        }
        self.shared.available()?;
        self.attempt = self.attempt.saturating_add(1);
        self.owed = true;
        let kind = if record.decision == Verdict::Allow { Kind::Allow } else { Kind::Refuse };
        let stamp = self.shared.stamp(Some(self.id), Some(self.attempt));
        let payload = match &self.shared.subjects {
            Some(subjects) if record.principal.kind == "User" => {
                let Ok(held) = user_key(subjects, record).await else {
                    self.owed = false;
                    return Err(self.shared.refused(Unavailable::Key));
                };
                match Subjects::protect(&held, (self.id, self.attempt), record) {
                    Ok(record) => encode("decision", &stamp, &record),
                    Err(_) => {
                        self.owed = false;
                        return Err(self.shared.refused(Unavailable::Key));
                    }
                }
            }
            _ => encode("decision", &stamp, record),
        };
        self.places = self.places.saturating_sub(1);
        let durable = self.mode == AuditMode::Required;
        let written = self.shared.push_awaited(kind, (self.id, self.attempt), payload, durable);
        // A sender that is gone means that the committer is: nothing is recorded any more.
        let written = written.await.unwrap_or(Err(Unavailable::Poisoned));
        self.owed = written.is_ok();
        self.written = Some(written?);
        Ok(())
    }

    /// Records how the last attempt ended, once; the request may go on with another one.
    pub fn outcome(&mut self, record: &Outcome<'_>) {
        let owed = std::mem::take(&mut self.owed);
        if !owed || self.mode == AuditMode::Off || self.places == 0 {
            return;
        }
        self.places = self.places.saturating_sub(1);
        let stamp = self.shared.stamp(Some(self.id), Some(self.attempt));
        let payload = encode("outcome", &stamp, record);
        self.shared.push(Kind::Outcome, Some((self.id, self.attempt)), payload, Place::Draft);
    }

    /// Ends the record with the outcome of the last attempt, unless it has one. Cannot fail, for its place was taken
    /// when the draft was opened; not awaited.
    pub fn close(mut self, record: &Outcome<'_>) {
        self.outcome(record);
    }

    /// Ends a record that turned out to be a refusal before identification: limited, see [`super::Audit::refusal`].
    pub fn refuse(mut self, source: IpAddr, record: &Refusal<'_>) {
        self.owed = false;
        super::journal::refuse(&self.shared, self.id, source, record);
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// The key of a decision's user; made off the workers that serve if it is not held, for that takes syncs of the disk.
async fn user_key<C: Sync>(subjects: &Arc<Subjects>, record: &Decision<'_, C>) -> Result<Held, ()> {
    let told = |error: String| {
        tracing::error!(%error, tenant = %record.tenant, "the key of a user cannot be used");
    };
    let tenant: TenantName = record.tenant.parse().map_err(|error: InvalidName| told(error.to_string()))?;
    let user = &record.principal.id;
    let lookup = subjects.lookup(&tenant, user).map_err(|error| told(error.to_string()))?;
    if let Some(held) = subjects.held(&lookup) {
        return Ok(held);
    }
    let subjects = subjects.clone();
    let made = tokio::task::spawn_blocking(move || subjects.key(&tenant, &lookup)).await;
    made.map_err(|error| told(error.to_string()))?.map_err(|error| told(error.to_string()))
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.owed {
            let ending = if std::thread::panicking() { Ending::Panicked } else { Ending::Aborted };
            let duration_us = self.elapsed_us();
            self.outcome(&Outcome { duration_us, ..Outcome::bare(ending) });
        }
        self.shared.places.give(Place::Draft, self.places);
    }
}
