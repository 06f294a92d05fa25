//! From policy files to one checked policy set: every policy has a unique `@id`, passes strict validation at level 1 and the house lint.
//!
//! All mistakes are collected, each with its file, line and column.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{Effect as CedarEffect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};

use super::bundle::{Effect, PolicyInfo};
use super::lint::lint;
use super::master::Master;
use super::names::PRINCIPAL_SIDE;
use super::schema::describe;
use super::source::{Source, help_of, place, place_of};
use crate::model::Problems;

/// The most policies in a bundle.
const MAX_POLICIES: usize = 10_000;
/// The longest `@id`, in bytes.
const MAX_ID: usize = 128;
/// How many entities a policy may look through from the variables: what lets a decision see only a few entities.
const LEVEL: u32 = 1;

/// The checked policies.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) policies: PolicySet,
    pub(super) infos: HashMap<PolicyId, Arc<PolicyInfo>>,
    /// Where each stands in its file, annotations included.
    pub(super) spans: HashMap<PolicyId, Range<usize>>,
}

/// One policy and where it stands.
struct Parsed<'a> {
    policy: Policy,
    file: &'a str,
    text: &'a str,
    start: usize,
    end: usize,
    /// Of `start`.
    line: usize,
}

impl Parsed<'_> {
    fn place(&self) -> String {
        place(self.text, self.start)
    }

    /// The place of a quoted text within the policy, or of the policy.
    fn place_of_text(&self, quoted: &str) -> String {
        let inside = self.text.get(self.start..self.end).and_then(|policy| policy.find(quoted));
        place(self.text, self.start + inside.unwrap_or(0))
    }
}

/// Parses and checks all policies. Without a schema or entities (they had problems of their own) what depends on them is left out.
pub(super) fn load(
    source: &Source,
    schema: Option<&Schema>,
    master: Option<&Master>,
    problems: &mut Problems,
) -> Checked {
    let mut all = Vec::new();
    for (file, text) in source.policies(problems) {
        parse(source, file, text, &mut all, problems);
    }
    if all.len() > MAX_POLICIES {
        problems.push(source.path(""), "", format!("has more than {MAX_POLICIES} policies"), "remove some");
    }
    let mut checked = Checked { policies: PolicySet::new(), infos: HashMap::new(), spans: HashMap::new() };
    let mut by_id: BTreeMap<PolicyId, Parsed<'_>> = BTreeMap::new();
    for (number, mut parsed) in all.into_iter().enumerate() {
        let id = match named(&parsed, &by_id, source, problems) {
            Some(id) => PolicyId::new(id),
            // It still takes part in the checks below, under a name that no `@id` can have.
            None => PolicyId::new(format!("policy {number}")),
        };
        parsed.policy = parsed.policy.new_id(id.clone());
        // Made from the tree: a policy that has its text would be parsed from it once more.
        for finding in lint(&Policy::from(parsed.policy.as_ref().clone())) {
            problems.push(source.path(parsed.file), parsed.place(), finding.message, finding.hint);
        }
        if let Some(master) = master {
            check_literals(&parsed, master, source, problems);
        }
        checked.infos.insert(id.clone(), Arc::new(info(&parsed)));
        checked.spans.insert(id.clone(), parsed.start..parsed.end);
        if let Err(error) = checked.policies.add(parsed.policy.clone()) {
            problems.push(
                source.path(parsed.file),
                parsed.place(),
                describe(&error),
                "give each policy its own `@id`",
            );
        }
        by_id.insert(id, parsed);
    }
    if let Some(schema) = schema {
        validate(&checked.policies, schema, &by_id, source, problems);
    }
    checked
}

fn parse<'a>(
    source: &Source,
    file: &'a str,
    text: &'a str,
    all: &mut Vec<Parsed<'a>>,
    problems: &mut Problems,
) {
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            for error in errors.iter() {
                problems.push(
                    source.path(file),
                    place_of(text, error),
                    error,
                    help_of(error, "mend the syntax: https://docs.cedarpolicy.com"),
                );
            }
            return;
        }
    };
    for template in set.templates() {
        let start = template.as_ref().loc().map_or(0, |loc| loc.start());
        problems.push(
            source.path(file),
            place(text, start),
            "is a template, which cannot be analysed",
            "write the principal and resource instead of `?principal` and `?resource`",
        );
    }
    let first = all.len();
    all.extend(set.policies().map(|policy| {
        let (start, end) = policy.as_ref().loc().map_or((0, 0), |loc| (loc.start(), loc.end()));
        Parsed { policy: policy.clone(), file, text, start, end, line: 1 }
    }));
    let Some(new) = all.get_mut(first..) else { return };
    new.sort_by_key(|parsed| parsed.start);
    // One walk through the file, not one for each of its policies.
    let (mut line, mut seen) = (1, 0);
    for parsed in new {
        line += text.get(seen..parsed.start).map_or(0, |between| between.matches('\n').count());
        (parsed.line, seen) = (line, parsed.start);
    }
}

/// The policy's `@id`, if it is well formed and new.
fn named(
    parsed: &Parsed<'_>,
    earlier: &BTreeMap<PolicyId, Parsed<'_>>,
    source: &Source,
    problems: &mut Problems,
) -> Option<String> {
    let file = source.path(parsed.file);
    let Some(id) = parsed.policy.annotation("id") else {
        problems.push(file, parsed.place(), "has no `@id`", "write `@id(\"a-unique-name\")` before it");
        return None;
    };
    let well_formed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(well_formed) {
        let shown: String = id.chars().take(MAX_ID).collect();
        let message = format!("`{shown}` is no policy id");
        problems.push(file, parsed.place(), message, "use 1 to 128 letters, digits and `. _ -`");
        return None;
    }
    if let Some(first) = earlier.get(&PolicyId::new(id)) {
        let message =
            format!("`@id` `{id}` is already used in {}, {}", source.path(first.file), first.place());
        problems.push(file, parsed.place(), message, "give each policy its own");
        return None;
    }
    Some(id.to_owned())
}

fn info(parsed: &Parsed<'_>) -> PolicyInfo {
    let annotation = |key: &str| parsed.policy.annotation(key).map(Arc::from);
    PolicyInfo {
        id: annotation("id").unwrap_or_else(|| Arc::from("")),
        effect: match parsed.policy.effect() {
            CedarEffect::Permit => Effect::Permit,
            CedarEffect::Forbid => Effect::Forbid,
        },
        owner: annotation("owner"),
        reason: annotation("reason"),
        file: parsed.file.to_owned(),
        line: parsed.line,
    }
}

/// An entity that a policy names and nobody knows is a misspelt one: the policy would silently never match.
fn check_literals(parsed: &Parsed<'_>, master: &Master, source: &Source, problems: &mut Problems) {
    for uid in parsed.policy.entity_literals() {
        let kind = uid.type_name().basename();
        if kind == "Action" || PRINCIPAL_SIDE.contains(&kind) || master.contains(&uid) {
            continue;
        }
        problems.push(
            source.path(parsed.file),
            parsed.place_of_text(&format!("\"{}\"", uid.id().escaped())),
            format!("names `{uid}`, which entities.json does not know"),
            "correct the name, or add the entity",
        );
    }
}

fn validate(
    policies: &PolicySet,
    schema: &Schema,
    by_id: &BTreeMap<PolicyId, Parsed<'_>>,
    source: &Source,
    problems: &mut Problems,
) {
    let result = Validator::new(schema.clone()).validate_with_level(policies, ValidationMode::Strict, LEVEL);
    let mut found = Vec::new();
    let mut note = |id: &PolicyId, error: &dyn miette::Diagnostic, usual: &str| {
        let Some(parsed) = by_id.get(id) else { return };
        let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
        let text = error.to_string();
        // The place says which policy it is.
        let message = text
            .split_once("`, ")
            .filter(|(start, _)| start.starts_with("for policy `"))
            .map_or(text.as_str(), |(_, rest)| rest);
        let usual = if message.contains("requires level") {
            "go only one step from `principal`, `resource` or `context`: the gateway loads no more"
        } else {
            usual
        };
        let key = (parsed.file, offset.unwrap_or(parsed.start), message.to_owned());
        found.push((key, place(parsed.text, offset.unwrap_or(parsed.start)), help_of(error, usual)));
    };
    let wrong = "correct it by what `tidegate.cedarschema` declares";
    result.validation_errors().for_each(|error| note(error.policy_id(), error, wrong));
    // A policy that can never apply, or a text that looks like another, is a mistake too.
    let odd = "correct it, or remove it";
    result.validation_warnings().for_each(|warning| note(warning.policy_id(), warning, odd));
    found.sort();
    // The same mistake is found once for each action: one line says it.
    found.dedup_by(|next, first| (next.0.0, next.0.1) == (first.0.0, first.0.1));
    for ((file, _, message), place, help) in found {
        problems.push(source.path(file), place, message, help);
    }
}
