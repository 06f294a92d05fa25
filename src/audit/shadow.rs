//! What the journal says of candidates that were compared with the live policies: divergences in groups, with the crossings that show them.
//!
//! Two passes: the events first, then the decisions that they name as examples. Bounds: 1,000 groups, three examples of each.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;

use super::filter::Filter;
use super::frame::Kind;
use super::reader::{ReadError, Reader};
use super::record::{Event, Record, ShadowOutcome};
use super::view::{EntityView, RecordView};
use crate::model::RecordId;

/// Groups that are kept; divergences of more are counted.
const MAX_GROUPS: usize = 1_000;
/// Examples of each group.
const MAX_EXAMPLES: usize = 3;
/// Verdicts on candidates that are kept, the newest.
const MAX_CANDIDATES: usize = 100;

/// What came of the comparison.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Decisions that a candidate was asked about; at least so many, if some are `unsummed`.
    pub compared: u64,
    /// Those of them that differ.
    pub diverged: u64,
    /// Those of them that differ and are in no sum yet: a gateway that runs tells divergences within seconds, and sums once a minute.
    pub unsummed: u64,
    /// Decisions that found no place in the queue.
    pub dropped: u64,
    /// Decisions on which the candidate's evaluation failed.
    pub failed: u64,
    /// Divergences that are in no group.
    pub ungrouped: u64,
    /// Verdicts on candidates, the newest last; at most 100.
    pub candidates: Vec<Candidate>,
    /// Groups, the gravest and then the largest first.
    pub groups: Vec<Group>,
}

/// A folder of candidate policies that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// When.
    pub time: Timestamp,
    /// The gateway instance.
    pub gateway: String,
    /// The bundle; none if there was none, or it could not be read.
    pub bundle: Option<String>,
    /// Why it was not compared; empty if it was.
    pub problems: Vec<String>,
}

/// Divergences that say the same.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// What they have in common.
    #[serde(flatten)]
    pub key: Key,
    /// How many.
    pub divergences: u64,
    /// The first.
    pub from: Timestamp,
    /// The last.
    pub to: Timestamp,
    /// Crossings that show it, at most three.
    pub examples: Vec<Example>,
}

/// What divergences of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// In what live and candidate differ.
    pub differs: String,
    /// The action.
    pub action: String,
    /// What was decided and done.
    pub was: ShadowOutcome<'static>,
    /// What the candidate says.
    pub would: ShadowOutcome<'static>,
    /// The live bundle.
    pub live: String,
    /// The candidate.
    pub candidate: String,
}

/// One crossing.
#[derive(Debug, Clone, Serialize)]
pub struct Example {
    /// Its id.
    pub id: RecordId,
    /// Its decision, if the journal still holds it.
    #[serde(flatten)]
    pub decision: Option<Seen>,
}

/// What an example's decision says.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// When.
    pub time: Timestamp,
    /// Who asked.
    pub who: String,
    /// The teams.
    pub teams: Vec<String>,
    /// The resource: `Model eu/llama`.
    pub resource: String,
    /// The level of the data.
    pub level: Option<String>,
}

/// What is summed while events are read.
#[derive(Default)]
struct Sums {
    report: Report,
    groups: BTreeMap<Key, Group>,
}

/// Reads a journal. `candidate` is the beginning of a bundle's hash; `bytes` counts what was read.
///
/// # Errors
/// The journal cannot be read.
pub fn report(
    journal: &Path,
    (from, to): (Option<Timestamp>, Option<Timestamp>),
    candidate: Option<&str>,
    bytes: &AtomicU64,
) -> Result<Report, ReadError> {
    let window = Filter { from, to, ..Filter::default() };
    let wanted = |hash: &str| candidate.is_none_or(|start| hash.starts_with(start));
    let mut sums = Sums::default();
    let mut reader = Reader::open(journal, from)?;
    while let Some(stored) = reader.read_next()? {
        let read = u64::try_from(stored.payload.len()).unwrap_or_default();
        bytes.fetch_add(read / 2, Ordering::Relaxed);
        if stored.kind != Kind::Event {
            continue;
        }
        // An event of a later version is none that this one knows.
        let Ok((stamp, Record::Event(event))) = Record::parse(stored.payload) else { continue };
        if window.at(stamp.time) {
            sums.take(event, stamp.time, &stamp.gateway, &wanted);
        }
    }
    let mut report = sums.report;
    report.groups = sums.groups.into_values().collect();
    report.count_unsummed();
    let gravity = |group: &Group| {
        let order = ["decision", "destination", "protection", "code", "policies"];
        order.iter().position(|differs| *differs == group.key.differs)
    };
    report.groups.sort_by_key(|group| (gravity(group), std::cmp::Reverse(group.divergences)));
    examples(journal, from, &mut report.groups, bytes)?;
    Ok(report)
}

impl Report {
    /// Counts what is listed already and not in the sums: each is a decision that was compared, and differs.
    fn count_unsummed(&mut self) {
        let grouped = self.groups.iter().fold(0, |sum: u64, group| sum.saturating_add(group.divergences));
        self.unsummed = grouped.saturating_add(self.ungrouped).saturating_sub(self.diverged);
        self.compared = self.compared.saturating_add(self.unsummed);
        self.diverged = self.diverged.saturating_add(self.unsummed);
    }
}

impl Sums {
    fn take(&mut self, event: Event<'static>, time: Timestamp, gateway: &str, wanted: &dyn Fn(&str) -> bool) {
        match event {
            Event::ShadowCandidate { candidate, problems } if candidate.as_deref().is_none_or(wanted) => {
                let candidates = &mut self.report.candidates;
                if candidates.len() >= MAX_CANDIDATES {
                    candidates.remove(0);
                }
                candidates.push(Candidate {
                    time,
                    gateway: gateway.to_owned(),
                    bundle: candidate.map(Into::into),
                    problems: problems.into_iter().map(Into::into).collect(),
                });
            }
            Event::ShadowCompared { candidate, compared, diverged, dropped, failed, ungrouped, .. }
                if wanted(&candidate) =>
            {
                let report = &mut self.report;
                report.compared = report.compared.saturating_add(compared);
                report.diverged = report.diverged.saturating_add(diverged);
                report.dropped = report.dropped.saturating_add(dropped);
                report.failed = report.failed.saturating_add(failed);
                report.ungrouped = report.ungrouped.saturating_add(ungrouped);
            }
            Event::ShadowDivergence {
                live,
                candidate,
                differs,
                action,
                was,
                would,
                divergences,
                examples,
                from,
                to,
            } if wanted(&candidate) => {
                let (differs, action) = (differs.into_owned(), action.into_owned());
                let (live, candidate) = (live.into_owned(), candidate.into_owned());
                let key = Key { differs, action, was: *was, would: *would, live, candidate };
                self.group(&key, divergences, examples, (from, to));
            }
            _ => {}
        }
    }

    fn group(
        &mut self,
        key: &Key,
        divergences: u64,
        examples: Vec<RecordId>,
        (from, to): (Timestamp, Timestamp),
    ) {
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(key) {
            self.report.ungrouped = self.report.ungrouped.saturating_add(divergences);
            return;
        }
        let new = || Group { key: key.clone(), divergences: 0, from, to, examples: Vec::new() };
        let group = self.groups.entry(key.clone()).or_insert_with(new);
        group.divergences = group.divergences.saturating_add(divergences);
        (group.from, group.to) = (group.from.min(from), group.to.max(to));
        let room = MAX_EXAMPLES.saturating_sub(group.examples.len());
        let more = examples.into_iter().take(room).map(|id| Example { id, decision: None });
        group.examples.extend(more);
    }
}

/// Finds the decisions of the examples.
fn examples(
    journal: &Path,
    from: Option<Timestamp>,
    groups: &mut [Group],
    bytes: &AtomicU64,
) -> Result<(), ReadError> {
    let mut open: HashMap<RecordId, Option<Seen>> =
        groups.iter().flat_map(|group| &group.examples).map(|example| (example.id, None)).collect();
    let mut missing = open.len();
    let mut reader = Reader::open(journal, from)?;
    while missing > 0
        && let Some(stored) = reader.read_next()?
    {
        bytes.fetch_add(u64::try_from(stored.payload.len()).unwrap_or_default() / 2, Ordering::Relaxed);
        if !matches!(stored.kind, Kind::Allow | Kind::Refuse) {
            continue;
        }
        let Ok(view) = RecordView::parse(stored.payload) else { continue };
        if let Some(place) = view.id.and_then(|id| open.get_mut(&id)).filter(|place| place.is_none()) {
            *place = Some(seen(&view));
            missing = missing.saturating_sub(1);
        }
    }
    for example in groups.iter_mut().flat_map(|group| &mut group.examples) {
        example.decision = open.get(&example.id).cloned().flatten();
    }
    Ok(())
}

fn seen(view: &RecordView<'_>) -> Seen {
    let principal = view.principal.as_ref();
    let teams = principal.into_iter().flat_map(|who| &who.teams);
    Seen {
        time: view.time,
        who: principal.map(|who| (*who.id).to_owned()).unwrap_or_default(),
        teams: teams.map(|team| (**team).to_owned()).collect(),
        resource: view.resource.as_ref().map(EntityView::shown).unwrap_or_default(),
        level: view.label.as_ref().map(|label| (*label.level).to_owned()),
    }
}
