//! What happened in a period, counted. Integers only; maps are bounded, and what is beyond is counted under `(others)`.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::audit::record::{Ending, Verdict};
use crate::audit::view::RecordView;
use crate::model::{RecordId, Usage};

/// Names in one map.
const MAX_NAMES: usize = 20_000;
/// Decisions that wait for their outcome.
const MAX_OPEN: usize = 1_000_000;
/// Denials and open decisions that are listed one by one.
const MAX_LISTED: usize = 1_000;
const OTHERS: &str = "(others)";

/// How often each decision was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Decisions {
    /// Permitted.
    pub allow: u64,
    /// Not permitted by policy.
    pub deny: u64,
    /// Refused before or after the policies.
    pub reject: u64,
}

impl Decisions {
    const fn add(&mut self, verdict: Verdict, count: u64) {
        let place = match verdict {
            Verdict::Allow => &mut self.allow,
            Verdict::Deny => &mut self.deny,
            Verdict::Reject => &mut self.reject,
        };
        *place = place.saturating_add(count);
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.allow.saturating_add(self.deny).saturating_add(self.reject)
    }
}

/// The work of one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Answers with a usage.
    pub calls: u64,
    /// Tokens of prompts, cached ones included.
    pub input: u64,
    /// Tokens of answers, reasoning included.
    pub output: u64,
    /// Prompt tokens out of the cluster's cache.
    pub cached_input: u64,
    /// Answer tokens that were reasoning.
    pub reasoning: u64,
}

impl Tokens {
    fn add(&mut self, usage: &Usage) {
        let plus = |place: &mut u64, count: u64| *place = place.saturating_add(count);
        plus(&mut self.calls, 1);
        plus(&mut self.input, usage.input_tokens);
        plus(&mut self.output, usage.output_tokens);
        plus(&mut self.cached_input, usage.cached_input_tokens.unwrap_or(0));
        plus(&mut self.reasoning, usage.reasoning_tokens.unwrap_or(0));
    }
}

/// A crossing that is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The number of its record.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
    /// The crossing.
    pub id: Option<RecordId>,
    /// Who asked.
    pub who: String,
    /// For what.
    pub what: String,
    /// The code of a refusal, or the policies.
    pub why: String,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Records.
    pub records: u64,
    /// When the first and the last of them were made.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Decisions; an attempt each.
    pub decisions: Decisions,
    /// Requests refused before anybody was identified, counted ones included.
    pub refused: u64,
    /// How crossings ended.
    pub endings: BTreeMap<String, u64>,
    /// Events of the gateway.
    pub events: BTreeMap<String, u64>,
    /// By the level of the data.
    pub labels: BTreeMap<String, Decisions>,
    /// By where the data may be; data with several jurisdictions counts for each.
    pub residency: BTreeMap<String, Decisions>,
    /// By where the data went or would have gone.
    pub destinations: BTreeMap<String, Decisions>,
    /// By the protection that was decided.
    pub protections: BTreeMap<String, Decisions>,
    /// By the principal.
    pub principals: BTreeMap<String, Decisions>,
    /// By the policy that decided.
    pub policies: BTreeMap<String, Decisions>,
    /// By the code of denials, rejections and refusals.
    pub codes: BTreeMap<String, u64>,
    /// Tokens by model.
    pub models: BTreeMap<String, Tokens>,
    /// Tokens by team; of somebody in several teams for each.
    pub teams: BTreeMap<String, Tokens>,
    /// Bytes of request bodies that left.
    pub sent_bytes: u64,
    /// Bytes of answers.
    pub received_bytes: u64,
    /// Permitted decisions of the period without an outcome anywhere in the journal.
    pub open: u64,
    /// The first of them.
    pub open_listed: Vec<Listed>,
    /// The first denials and rejections of identified principals.
    pub denials_listed: Vec<Listed>,
    /// The policy bundles that decided, by hash.
    pub bundles: BTreeMap<String, u64>,
    /// Decisions by minute since 1970.
    #[serde(skip)]
    pub(super) minutes: BTreeMap<i64, Decisions>,
    #[serde(skip)]
    waiting: HashMap<(RecordId, u16), Waiting>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Waiting {
    listed: Listed,
    model: Option<String>,
    teams: Vec<String>,
}

/// What only outcomes have.
#[derive(Debug, Default, Deserialize)]
struct Ended {
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    request_bytes: u64,
    #[serde(default)]
    response_bytes: u64,
}

fn named<T: Default>(map: &mut BTreeMap<String, T>, name: &str, add: impl FnOnce(&mut T)) {
    let name = if map.len() < MAX_NAMES || map.contains_key(name) { name } else { OTHERS };
    if let Some(value) = map.get_mut(name) {
        return add(value);
    }
    add(map.entry(name.to_owned()).or_default());
}

impl Statistics {
    /// Counts a record of the period.
    pub(super) fn add(&mut self, seq: u64, payload: &[u8], view: Option<&RecordView<'_>>) {
        self.records = self.records.saturating_add(1);
        let Some(view) = view else { return };
        let (first, last) = self.span.unwrap_or((view.time, view.time));
        self.span = Some((first.min(view.time), last.max(view.time)));
        match &*view.kind {
            "decision" => self.decision(seq, view),
            "outcome" => self.outcome(view, payload),
            "refusal" | "refusals" => self.refusal(view),
            "event" => {
                named(&mut self.events, view.event.as_deref().unwrap_or("unknown"), |count| *count += 1)
            }
            _ => {}
        }
    }

    /// Takes a record from behind the period: only whether it ends a decision of the period is of interest. Whether some are still open.
    pub(super) fn close(&mut self, payload: &[u8]) -> bool {
        if let Ok(view) = RecordView::parse(payload)
            && view.kind == "outcome"
            && let Some(key) = view.id.zip(view.attempt)
        {
            self.waiting.remove(&key);
        }
        !self.waiting.is_empty()
    }

    /// Says which decisions have no outcome.
    pub(super) fn finish(&mut self) {
        self.open = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
        self.open_listed = self.waiting.drain().map(|(_, waiting)| waiting.listed).collect();
        self.open_listed.sort_by_key(|listed| listed.seq);
        self.open_listed.truncate(MAX_LISTED);
    }

    fn decision(&mut self, seq: u64, view: &RecordView<'_>) {
        let Some(verdict) = view.decision else { return };
        self.decisions.add(verdict, 1);
        self.minute(view.time, verdict, 1);
        let count = |map: &mut BTreeMap<String, Decisions>, name: &str| {
            named(map, name, |found| found.add(verdict, 1))
        };
        let label = view.label.as_ref();
        count(&mut self.labels, label.map_or("(none)", |label| &*label.level));
        for place in label.iter().flat_map(|label| &label.residency) {
            count(&mut self.residency, place);
        }
        if label.is_some_and(|label| label.residency.is_empty()) {
            count(&mut self.residency, "(nowhere)");
        }
        count(&mut self.destinations, view.destination().or_else(|| view.upstream()).unwrap_or("(unknown)"));
        count(&mut self.protections, view.protection.as_deref().unwrap_or("(undecided)"));
        count(&mut self.principals, view.principal.as_ref().map_or("(unidentified)", |party| &*party.id));
        view.policies.iter().for_each(|policy| count(&mut self.policies, policy));
        if let Some(code) = view.code.as_deref() {
            named(&mut self.codes, code, |count| *count += 1);
        }
        if let Some(bundle) = view.bundle.as_deref() {
            named(&mut self.bundles, bundle, |count| *count += 1);
        }
        let listed = listed(seq, view);
        if verdict != Verdict::Allow {
            if self.denials_listed.len() < MAX_LISTED {
                self.denials_listed.push(listed);
            }
        } else if let Some(key) = view.id.zip(view.attempt)
            && self.waiting.len() < MAX_OPEN
        {
            let teams = view
                .principal
                .iter()
                .flat_map(|party| &party.teams)
                .map(|team| (**team).to_owned())
                .collect();
            let model = view
                .resource
                .as_ref()
                .filter(|resource| resource.kind == "Model")
                .map(|model| (*model.id).to_owned());
            self.waiting.insert(key, Waiting { listed, model, teams });
        }
    }

    fn outcome(&mut self, view: &RecordView<'_>, payload: &[u8]) {
        let ending = view.ending.map_or("unknown", Ending::name);
        named(&mut self.endings, ending, |count| *count += 1);
        let ended: Ended = serde_json::from_slice(payload).unwrap_or_default();
        self.sent_bytes = self.sent_bytes.saturating_add(ended.request_bytes);
        self.received_bytes = self.received_bytes.saturating_add(ended.response_bytes);
        let decided = view.id.zip(view.attempt).and_then(|key| self.waiting.remove(&key));
        let Some(usage) = ended.usage else { return };
        let model = decided.as_ref().and_then(|decided| decided.model.as_deref());
        named(&mut self.models, model.unwrap_or("(decided before the period)"), |tokens: &mut Tokens| {
            tokens.add(&usage)
        });
        for team in decided.iter().flat_map(|decided| &decided.teams) {
            named(&mut self.teams, team, |tokens: &mut Tokens| tokens.add(&usage));
        }
    }

    fn refusal(&mut self, view: &RecordView<'_>) {
        let count = view.count.unwrap_or(1);
        self.refused = self.refused.saturating_add(count);
        self.minute(view.time, Verdict::Reject, count);
        named(&mut self.codes, view.code.as_deref().unwrap_or("(counted)"), |found| *found += count);
    }

    fn minute(&mut self, time: Timestamp, verdict: Verdict, count: u64) {
        self.minutes.entry(time.as_second().div_euclid(60)).or_default().add(verdict, count);
    }
}

fn listed(seq: u64, view: &RecordView<'_>) -> Listed {
    let action = view.action().unwrap_or("request");
    let what = match (&view.resource, &view.request) {
        (Some(resource), _) => format!("{action} {}", resource.shown()),
        (None, Some(request)) => format!("{} {}{}", &*request.method, &*request.host, &*request.path),
        (None, None) => action.to_owned(),
    };
    let policies = view.policies.iter().map(|policy| (**policy).to_owned());
    let why: Vec<String> = view.code.iter().map(|code| (**code).to_owned()).chain(policies).collect();
    let who = view.principal.as_ref().map_or_else(String::new, |party| (*party.id).to_owned());
    Listed { seq, time: view.time, id: view.id, who, what, why: why.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::encode::{encode, tests::decision, tests::stamp};
    use crate::audit::record::{Decision, Outcome};

    #[test]
    fn decisions_tokens_and_what_has_not_ended_are_counted() {
        let mut found = Statistics::default();
        let add = |found: &mut Statistics, seq: u64, payload: &[u8]| {
            found.add(seq, payload, RecordView::parse(payload).ok().as_ref());
        };
        let (ended, open) = (stamp(), stamp());
        let usage = Usage { input_tokens: 5, output_tokens: 7, ..Usage::default() };
        add(&mut found, 0, &encode("decision", &ended, &decision()));
        add(&mut found, 1, &encode("decision", &open, &decision()));
        let denied = Decision { decision: Verdict::Deny, code: Some("policy_denied".into()), ..decision() };
        add(&mut found, 2, &encode("decision", &stamp(), &denied));
        add(
            &mut found,
            3,
            &encode(
                "outcome",
                &ended,
                &Outcome { usage: Some(usage), request_bytes: 9, ..Outcome::bare(Ending::Complete) },
            ),
        );
        let mut later = found.clone();
        found.finish();
        assert_eq!(found.decisions, Decisions { allow: 2, deny: 1, reject: 0 });
        assert_eq!((found.records, found.open, found.sent_bytes), (4, 1, 9));
        assert_eq!(found.open_listed[0].id, open.id);
        assert_eq!(found.denials_listed[0].why, "policy_denied, chat-for-research");
        assert_eq!(found.models["eu/llama"], Tokens { calls: 1, input: 5, output: 7, ..Tokens::default() });
        assert_eq!(found.teams["research"].output, 7);
        assert!(!later.close(&encode("outcome", &open, &Outcome::bare(Ending::Unknown))));
        later.finish();
        assert_eq!(later.open, 0);
    }
}
