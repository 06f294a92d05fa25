//! What came of all records: counts, groups of decisions that change alike, and who they are about.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::Serialize;

use super::judge::{Decided, Direction, Flip, Judged, Verdict};
use crate::policy::replay::ReplayError;

/// The most groups; what changes in yet another way is only counted.
const MAX_GROUPS: usize = 1_000;
/// The most names that a group counts one by one.
const MAX_NAMES: usize = 10_000;
/// The names and records that a report shows of a group.
const SHOWN_NAMES: usize = 10;
const SHOWN_RECORDS: usize = 3;

/// Why a record cannot be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreplayed {
    /// It was cut to fit.
    Cut,
    /// Its user is not known any more.
    Erased,
    /// Its parts contradict each other, or are none that a gateway writes.
    Malformed,
    /// The request was denied before any place was tried, so none is recorded.
    NothingTried,
    /// The asking ended at an error; what would have been tried next is not recorded.
    BrokenOff,
    /// It holds the object's key as a digest, and a policy reads it.
    Path,
}

impl Unreplayed {
    /// `None` if the record holds no decision of policies.
    pub(super) const fn of(error: &ReplayError) -> Option<Self> {
        match error {
            ReplayError::NoDecision(_) | ReplayError::NotAsked(_) => None,
            ReplayError::Cut => Some(Self::Cut),
            ReplayError::Erased => Some(Self::Erased),
            ReplayError::NothingTried(_) => Some(Self::NothingTried),
            _ => Some(Self::Malformed),
        }
    }

    /// In words.
    #[must_use]
    pub const fn says(self) -> &'static str {
        match self {
            Self::Cut => "cut when they were written, for they were too large",
            Self::Erased => {
                "what identifies their users was erased, or cannot be read without the journal's keys"
            }
            Self::Malformed => {
                "not as a gateway writes them: `tidegate audit verify` says whether they were changed"
            }
            Self::NothingTried => "denied before any place was tried, such as for something unknown",
            Self::BrokenOff => "ended at an error: what would have been tried next is not recorded",
            Self::Path => "hold the object's key as a digest, and a policy reads `context.request.path`",
        }
    }
}

/// Records that cannot be asked again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Why not.
    pub why: Unreplayed,
    /// How many.
    pub decisions: u64,
    /// The first of them: its id, or what is wrong with it.
    pub example: String,
}

/// A record of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The id of the crossing: `tidegate audit explain ID` tells all about it.
    pub id: String,
    /// Who asked.
    pub principal: String,
    /// For what.
    pub resource: String,
}

/// Names that decisions are about, with how many.
#[derive(Debug, Clone, Default)]
struct Names {
    counts: HashMap<String, u64>,
    more: bool,
}

/// A name with the decisions that are about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Type and id, or a team.
    pub name: String,
    /// How many decisions.
    pub decisions: u64,
}

/// Names as a report has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Affected {
    /// How many different ones there are.
    pub count: usize,
    /// Whether there are more than were counted.
    pub more: bool,
    /// Those with the most decisions, at most 10.
    pub most: Vec<Count>,
}

impl Names {
    fn add(&mut self, name: &str) {
        if let Some(count) = self.counts.get_mut(name) {
            *count = count.saturating_add(1);
        } else if self.counts.len() < MAX_NAMES {
            self.counts.insert(name.to_owned(), 1);
        } else {
            self.more = true;
        }
    }

    fn affected(self) -> Affected {
        let count = self.counts.len();
        let counts = self.counts.into_iter();
        let mut most: Vec<Count> = counts.map(|(name, decisions)| Count { name, decisions }).collect();
        most.sort_by(|a, b| b.decisions.cmp(&a.decisions).then_with(|| a.name.cmp(&b.name)));
        most.truncate(SHOWN_NAMES);
        Affected { count, more: self.more, most }
    }
}

/// Decisions that change alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Which way.
    pub direction: Direction,
    /// What was asked for.
    pub action: &'static str,
    /// What the old policies decide.
    pub old: Decided,
    /// What the new ones decide.
    pub new: Decided,
    /// How many.
    pub decisions: u64,
    /// Who asked.
    pub principals: Affected,
    /// Their teams.
    pub teams: Affected,
    /// What for.
    pub resources: Affected,
    /// The latest of them, at most 3.
    pub examples: Vec<Example>,
}

#[derive(Debug, Default)]
struct Members {
    decisions: u64,
    principals: Names,
    teams: Names,
    resources: Names,
    examples: VecDeque<Example>,
}

type Key = (Direction, &'static str, Decided, Decided);

/// Adds up what becomes of records, which must come in the order of the journal.
#[derive(Debug, Default)]
pub(super) struct Tally {
    replayed: u64,
    otherwise: u64,
    looser: u64,
    stricter: u64,
    unreplayed: BTreeMap<Unreplayed, (u64, String)>,
    groups: BTreeMap<Key, Members>,
    ungrouped: u64,
}

impl Tally {
    pub(super) fn add(&mut self, judged: Judged) {
        match judged.0 {
            Verdict::NoDecision => {}
            Verdict::Unreplayed(why, example) => {
                let counted = self.unreplayed.entry(why).or_insert((0, example));
                counted.0 = counted.0.saturating_add(1);
            }
            Verdict::Same(otherwise) => {
                self.replayed = self.replayed.saturating_add(1);
                self.otherwise = self.otherwise.saturating_add(otherwise.into());
            }
            Verdict::Flip(flip) => self.flip(*flip),
        }
    }

    fn flip(&mut self, flip: Flip) {
        self.replayed = self.replayed.saturating_add(1);
        let count = match flip.direction {
            Direction::Looser => &mut self.looser,
            Direction::Stricter => &mut self.stricter,
        };
        *count = count.saturating_add(1);
        let key = (flip.direction, flip.action, flip.old, flip.new);
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&key) {
            self.ungrouped = self.ungrouped.saturating_add(1);
            return;
        }
        let members = self.groups.entry(key).or_default();
        members.decisions = members.decisions.saturating_add(1);
        members.principals.add(&flip.principal);
        flip.teams.iter().for_each(|team| members.teams.add(team));
        members.resources.add(&flip.resource);
        if members.examples.len() >= SHOWN_RECORDS {
            members.examples.pop_front();
        }
        let Flip { id, principal, resource, .. } = flip;
        members.examples.push_back(Example { id, principal, resource });
    }

    pub(super) fn finish(self) -> Replay {
        let group = |((direction, action, old, new), members): (Key, Members)| Group {
            direction,
            action,
            old,
            new,
            decisions: members.decisions,
            principals: members.principals.affected(),
            teams: members.teams.affected(),
            resources: members.resources.affected(),
            examples: members.examples.into(),
        };
        let mut groups: Vec<Group> = self.groups.into_iter().map(group).collect();
        // A stable sort: groups of equal size stay in the order of their keys.
        groups.sort_by(|a, b| a.direction.cmp(&b.direction).then(b.decisions.cmp(&a.decisions)));
        let unreplayed = self.unreplayed.into_iter();
        Replay {
            replayed: self.replayed,
            otherwise: self.otherwise,
            looser: self.looser,
            stricter: self.stricter,
            groups,
            ungrouped: self.ungrouped,
            unreplayed: unreplayed
                .map(|(why, (decisions, example))| Skipped { why, decisions, example })
                .collect(),
        }
    }
}

/// What came of all records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Decisions that both policies were asked.
    pub replayed: u64,
    /// Decisions that stay, for other reasons: other policies, another code.
    pub otherwise: u64,
    /// Decisions that become looser.
    pub looser: u64,
    /// Decisions that become stricter.
    pub stricter: u64,
    /// Decisions that change alike, those that become looser first, the largest group first.
    pub groups: Vec<Group>,
    /// Decisions that change in yet other ways than the groups, of which there are 1,000 at most.
    pub ungrouped: u64,
    /// Records that could not be asked again.
    pub unreplayed: Vec<Skipped>,
}

impl Replay {
    /// What is left open by records that no gateway writes: they may stand for any decision.
    pub(super) fn unreadable(&self) -> Option<String> {
        let malformed = self.unreplayed.iter().find(|skipped| skipped.why == Unreplayed::Malformed)?;
        let count = malformed.decisions;
        let records =
            if count == 1 { "1 recorded decision is" } else { &format!("{count} recorded decisions are") };
        Some(format!("{records} {}", Unreplayed::Malformed.says()))
    }
}
