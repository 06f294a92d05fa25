//! Divergences that say the same, counted together.
//!
//! Bounds: 128 groups between two sums, three examples of each, 16 events a second; what has no group is counted as such.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::record::{Event, ShadowOutcome};
use crate::model::{Action, RecordId};
use crate::policy::shadow::{Differs, Outcome, Question};

/// The most groups at a time.
const MAX_GROUPS: usize = 128;
/// Examples kept of each.
const MAX_EXAMPLES: usize = 3;
/// New groups told at a time.
const MAX_TOLD: usize = 16;
/// Policies named of an outcome.
const MAX_POLICIES: usize = 32;

/// What divergences of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    live: Arc<str>,
    candidate: Arc<str>,
    differs: Differs,
    action: Action,
    was: Outcome,
    would: Outcome,
}

/// One group since it was told last.
#[derive(Debug)]
struct Count {
    divergences: u64,
    examples: Vec<RecordId>,
    from: Timestamp,
    to: Timestamp,
    /// It was in an event before.
    told: bool,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    counts: HashMap<Key, Count>,
    ungrouped: u64,
}

impl Groups {
    /// Counts a divergence.
    pub(super) fn add(
        &mut self,
        id: RecordId,
        question: &Question,
        (differs, would): (Differs, Outcome),
        candidate: &str,
    ) {
        let key = Key {
            live: Arc::clone(question.bundle()),
            candidate: candidate.into(),
            differs,
            action: question.action(),
            was: question.outcome().clone(),
            would,
        };
        let now = Timestamp::now();
        if self.counts.len() >= MAX_GROUPS && !self.counts.contains_key(&key) {
            self.ungrouped += 1;
            return;
        }
        let new = Count { divergences: 0, examples: Vec::new(), from: now, to: now, told: false };
        let count = self.counts.entry(key).or_insert(new);
        if count.divergences == 0 {
            count.from = now;
        }
        count.divergences += 1;
        count.to = now;
        if count.examples.len() < MAX_EXAMPLES {
            count.examples.push(id);
        }
    }

    /// Tells groups that nobody heard of yet, a few at a time.
    pub(super) fn tell_new(&mut self, tell: impl Fn(&Event<'_>)) {
        let new = self.counts.iter_mut().filter(|(_, count)| !count.told && count.divergences > 0);
        new.take(MAX_TOLD).for_each(|(key, count)| tell_one(key, count, &tell));
    }

    /// Tells all that was counted, and forgets the groups. How many divergences had no group.
    pub(super) fn tell_all(&mut self, tell: impl Fn(&Event<'_>)) -> u64 {
        for (key, mut count) in self.counts.drain().filter(|(_, count)| count.divergences > 0) {
            tell_one(&key, &mut count, &tell);
        }
        std::mem::take(&mut self.ungrouped)
    }
}

fn tell_one(key: &Key, count: &mut Count, tell: &impl Fn(&Event<'_>)) {
    tell(&Event::ShadowDivergence {
        live: key.live.as_ref().into(),
        candidate: key.candidate.as_ref().into(),
        differs: key.differs.name().into(),
        action: key.action.name().into(),
        was: Box::new(shown(&key.was)),
        would: Box::new(shown(&key.would)),
        divergences: count.divergences,
        examples: std::mem::take(&mut count.examples),
        from: count.from,
        to: count.to,
    });
    (count.divergences, count.told) = (0, true);
}

fn shown(outcome: &Outcome) -> ShadowOutcome<'_> {
    ShadowOutcome {
        decision: if outcome.allowed { "allow" } else { "deny" }.into(),
        code: outcome.code.map(Cow::Borrowed),
        destination: outcome.destination.as_ref().map(|name| name.as_str().into()),
        protection: outcome.protection.map(|protection| protection.name().into()),
        policies: outcome.policies.iter().take(MAX_POLICIES).map(|id| id.as_ref().into()).collect(),
    }
}
