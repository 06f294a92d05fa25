//! One recorded decision, judged by the old and the new policies.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::tally::Unreplayed;
use crate::model::Protection;
use crate::policy::bundle::Bundle;
use crate::policy::replay::{Trial, TrialAnswer, reads_path};

/// Which way a decision changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It is allowed where, or with a protection with which, it was denied.
    Looser,
    /// The reverse.
    Stricter,
}

/// A decision in words that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Decided {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The protection of what is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<&'static str>,
    /// Whether it is only supposed that the far end can open what is sealed: the record does not say.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub supposed: bool,
    /// Where it goes, if both policies allow it and not in the same place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// The stable code of a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The policies that decide, by `@id`.
    pub policies: Vec<Arc<str>>,
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.decision)?;
        if let Some(protection) = self.protection.filter(|name| *name != Protection::None.name()) {
            write!(f, " {protection}")?;
        }
        if self.supposed {
            f.write_str(" (if the far end can open)")?;
        }
        if let Some(place) = &self.place {
            write!(f, " in {place}")?;
        }
        match (&self.code, self.policies.is_empty()) {
            (_, false) => write!(f, " by {}", self.policies.join(", ")),
            (Some(code), true) => write!(f, " ({code})"),
            (None, true) => Ok(()),
        }
    }
}

/// A decision that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) direction: Direction,
    pub(super) action: &'static str,
    pub(super) old: Decided,
    pub(super) new: Decided,
    pub(super) id: String,
    pub(super) principal: String,
    pub(super) teams: Vec<String>,
    pub(super) resource: String,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged(pub(super) Verdict);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is no decision of policies: an outcome, or refused before or after them.
    NoDecision,
    /// It cannot be asked again; the id of the crossing, if it has one, and why in words.
    Unreplayed(Unreplayed, String),
    /// The same decision; `true` if for other reasons.
    Same(bool),
    Flip(Box<Flip>),
}

/// Judges records by two bundles. Shared between threads.
#[derive(Debug)]
pub struct Judge<'a> {
    old: &'a Bundle,
    new: &'a Bundle,
    /// Whether a policy of either may look at the path.
    reads_path: (bool, bool),
}

impl<'a> Judge<'a> {
    /// By these bundles.
    #[must_use]
    pub fn new(old: &'a Bundle, new: &'a Bundle) -> Self {
        Self { old, new, reads_path: (reads_path(old), reads_path(new)) }
    }

    /// Judges a record by its bytes as they stand in the journal.
    ///
    /// What the old policies decide is taken from the record if it was they who decided; else they are asked as well.
    #[must_use]
    pub fn judge(&self, payload: &[u8]) -> Judged {
        Judged(match Trial::of(payload) {
            Ok(trial) => self.try_it(&trial),
            Err(error) => match Unreplayed::of(&error) {
                Some(why) => Verdict::Unreplayed(why, error.to_string()),
                None => Verdict::NoDecision,
            },
        })
    }

    fn try_it(&self, trial: &Trial) -> Verdict {
        let recorded = trial.bundle() == self.old.hash();
        let (old_reads, new_reads) = self.reads_path;
        if trial.has_digested_path() && (new_reads || (old_reads && !recorded)) {
            return Verdict::Unreplayed(Unreplayed::Path, trial.id().to_owned());
        }
        let asked;
        let old = if recorded {
            trial.recorded()
        } else {
            asked = trial.ask(self.old);
            &asked
        };
        let new = trial.ask(self.new);
        let direction = match (old.at, new.at) {
            (old_at, new_at) if old_at == new_at => {
                // What comes after the place at which the asking ended then is not in the record.
                if new.at.is_none() && trial.recorded().broke_off && !new.broke_off {
                    return Verdict::Unreplayed(Unreplayed::BrokenOff, trial.id().to_owned());
                }
                return Verdict::Same(old.code != new.code || old.policies != new.policies);
            }
            (None, _) => Direction::Looser,
            (_, None) => Direction::Stricter,
            (old_at, new_at) if new_at < old_at => Direction::Looser,
            _ => Direction::Stricter,
        };
        Verdict::Flip(Box::new(flip(trial, direction, old, &new)))
    }
}

fn flip(trial: &Trial, direction: Direction, old: &TrialAnswer, new: &TrialAnswer) -> Flip {
    let request = trial.request();
    let elsewhere = old.at.zip(new.at).is_some_and(|((old, _), (new, _))| old != new);
    let told = |answer: &TrialAnswer| decided(trial, answer, elsewhere);
    // What is newly allowed, or no longer.
    let place = match direction {
        Direction::Looser => new.at,
        Direction::Stricter => old.at,
    };
    let candidate = place.and_then(|(place, _)| trial.candidates().get(place));
    let resource = candidate.map(|candidate| {
        let resource = &candidate.resource;
        format!("{} {}", resource.kind(), resource.id())
    });
    let principal = request.principal;
    Flip {
        direction,
        action: request.action.name(),
        old: told(old),
        new: told(new),
        id: trial.id().to_owned(),
        principal: format!("{} {}", principal.kind.name(), principal.id),
        teams: principal.teams.iter().map(|team| team.as_str().to_owned()).collect(),
        resource: resource.unwrap_or_default(),
    }
}

fn decided(trial: &Trial, answer: &TrialAnswer, elsewhere: bool) -> Decided {
    let rung = answer.at.and_then(|(_, rung)| trial.rungs().get(rung)).copied();
    let place = answer.at.and_then(|(place, _)| trial.candidates().get(place));
    let last = answer.at.is_some_and(|(place, _)| place + 1 == trial.candidates().len());
    Decided {
        decision: if answer.at.is_some() { "allow" } else { "deny" },
        protection: rung.map(Protection::name),
        supposed: last && rung == Some(Protection::Sealed) && trial.supposes(),
        place: place.filter(|_| elsewhere).map(|place| place.resource.id()),
        code: answer.code.clone(),
        policies: answer.policies.clone(),
    }
}
