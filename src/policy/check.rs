//! From policy files to one checked policy set: every policy has a unique `@id`, passes strict validation at level 1 and the house lint.
//!
//! All mistakes are collected, each with its file, line and column.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use cedar_policy::{
    Effect as CedarEffect, Policy, PolicyId, PolicySet, Schema, ValidationMode, ValidationWarning, Validator,
};

use super::bundle::{Effect, PolicyInfo};
use super::lint::lint;
use super::master::{Master, hint_for};
use super::names::{NAMESPACE, PRINCIPAL_SIDE};
use super::never;
use super::schema::describe;
use super::source::{SCHEMA, Source, help_of, place, place_of};
use crate::model::{Problems, did_you_mean, near};

/// The most policies in a bundle.
const MAX_POLICIES: usize = 10_000;
/// The longest `@id`, in bytes.
const MAX_ID: usize = 128;
/// How many entities a policy may look through from the variables: what lets a decision see only a few entities.
const LEVEL: u32 = 1;
/// What Cedar says where a fact is read that may be absent,
const UNGUARDED: &str = "unable to guarantee safety of access to optional attribute";
/// and of a policy that never matches.
const IMPOSSIBLE: &str = "is impossible";

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
            hint_for(&uid, master.ids(Some(uid.type_name().clone()))),
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
    let validator = Validator::new(schema.clone());
    let result = validator.validate_with_level(policies, ValidationMode::Strict, LEVEL);
    let mut actions: Vec<String> =
        schema.actions().map(|action| action.id().unescaped().to_owned()).collect();
    actions.sort();
    let mut found = Vec::new();
    // What a policy names and nobody knows is why nothing applies to it: that need not be told too.
    let among = |wanted: fn(&str) -> bool| -> HashSet<&PolicyId> {
        let errors = result.validation_errors().filter(|error| wanted(&error.to_string()));
        errors.map(|error| error.policy_id()).collect()
    };
    let misnamed = among(|error| error.contains("unrecognized "));
    // Behind its first mistake Cedar forgets what `has` said of a policy.
    let mistaken = among(|error| !error.contains(UNGUARDED));
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
        let follows = message.contains("unable to find an applicable action") || message.contains(IMPOSSIBLE);
        if follows && misnamed.contains(id) || message.contains(UNGUARDED) && mistaken.contains(id) {
            return;
        }
        let offset = offset.unwrap_or(parsed.start);
        let key = (parsed.file, offset, message.to_owned());
        found.push((key, place(parsed.text, offset), hint(message, help_of(error, usual), usual, &actions)));
    };
    let wrong = "correct it by what `tidegate.cedarschema` declares";
    result.validation_errors().for_each(|error| note(error.policy_id(), error, wrong));
    // A policy that can never apply, or a text that looks like another, is a mistake too.
    let odd = "correct it, or remove it";
    result.validation_warnings().for_each(|warning| note(warning.policy_id(), warning, odd));
    let impossible =
        result.validation_warnings().filter(|w| matches!(w, ValidationWarning::ImpossiblePolicy(_)));
    let impossible: HashSet<&PolicyId> = impossible.map(|warning| warning.policy_id()).collect();
    for parsed in impossible.difference(&misnamed).filter_map(|id| by_id.get(id)) {
        let Some(part) = never::culprit(&parsed.policy, &validator) else { continue };
        found.retain(|(key, ..)| {
            !(key.0 == parsed.file && key.1 == parsed.start && key.2.contains(IMPOSSIBLE))
        });
        let (part, hint) = absent(source, parsed, part, odd);
        let message = format!(
            "the policy never matches: `{}` does not hold for any valid request",
            part.text(parsed.text)
        );
        found.push(((parsed.file, part.start, message), place(parsed.text, part.start), hint));
    }
    found.sort();
    // The same mistake is found once for each action: one line says it.
    found.dedup_by(|next, first| (next.0.0, next.0.1) == (first.0.0, first.0.1));
    for ((file, _, message), place, help) in found {
        problems.push(source.path(file), place, message, help);
    }
}

/// The place within an impossible condition, and what to do: a `has` for what nothing declares says it best.
fn absent(source: &Source, parsed: &Parsed<'_>, part: never::Part, usual: &str) -> (never::Part, String) {
    let declared = never::declared(source.text(SCHEMA, &mut Problems::new()).unwrap_or_default());
    let mut all = never::undeclared(&parsed.policy, &declared).into_iter();
    match all.find(|has| has.part.start >= part.start && has.part.end <= part.end) {
        Some(never::Undeclared { part, attribute }) => {
            let meant = did_you_mean(&attribute, declared.iter().map(String::as_str)).unwrap_or_default();
            (part, format!("`{SCHEMA}` declares no `{attribute}`; {meant}").trim_end_matches("; ").to_owned())
        }
        None => (part, usual.to_owned()),
    }
}

/// What Cedar advises, but for names that are not near to what is there: it takes the nearest, however far, and of actions compares the types too.
fn hint(message: &str, help: String, usual: &str, actions: &[String]) -> String {
    let quoted = |text: &str| {
        text.split_once('`').and_then(|(_, rest)| rest.split_once('`')).map(|(name, _)| name.to_owned())
    };
    // Of `Tidegate::Action::"x"` the id, of `data.level` the last name.
    let id = |name: &str| {
        let name = name.rsplit_once("::").map_or(name, |(_, id)| id).trim_matches('"');
        name.rsplit_once('.').map_or(name, |(_, last)| last).to_owned()
    };
    let Some(wrong) = quoted(message).filter(|_| help.starts_with("did you mean `")) else { return help };
    if message.starts_with("unrecognized action `") {
        // The right name in a wrong namespace is meant too.
        let id = id(&wrong);
        let same = actions.iter().find(|action| **action == id).map(String::as_str);
        let meant = same.or_else(|| near(&id, actions.iter().map(String::as_str)));
        let known = || format!("the actions are {}", actions.join(", "));
        return meant.map_or_else(known, |meant| format!("did you mean `{NAMESPACE}::Action::\"{meant}\"`?"));
    }
    let meant = quoted(&help).unwrap_or_default();
    if near(&id(&wrong), [id(&meant).as_str()]).is_some() { help } else { usual.to_owned() }
}

#[cfg(test)]
mod tests {
    use crate::policy::{Bundle, embedded};

    fn told(policies: &str) -> Vec<String> {
        let mut files: Vec<(String, Vec<u8>)> = (embedded::FILES.iter())
            .filter(|(name, _)| !name.ends_with(".cedar"))
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        files.push(("a.cedar".into(), policies.as_bytes().to_vec()));
        let problems = Bundle::from_files("p", files).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_has_that_never_holds_is_told_at_its_place() {
        let text = "@id(\"a\")\npermit (principal, action == Tidegate::Action::\"infer\", resource)\n\
                    when { context.data.level <= 1 && context has purpos };";
        assert_eq!(
            told(text),
            [
                "p/a.cedar: line 3, column 35: the policy never matches: `context has purpos` does not hold for any valid request \
              (`tidegate.cedarschema` declares no `purpos`; did you mean `purpose`?)"
            ]
        );
    }

    #[test]
    fn of_several_actions_the_misspelt_one_is_named_with_what_was_meant() {
        let policy = |actions: &str| {
            format!(
                "@id(\"a\") permit (principal, action in [{actions}], resource) when {{ context.data.level <= 1 }};"
            )
        };
        for (first, second, column, meant) in [
            ("infr", "embed", 40, "did you mean `Tidegate::Action::\"infer\"`?"),
            ("infer", "embd", 67, "did you mean `Tidegate::Action::\"embed\"`?"),
            ("infer", "summarise", 67, "the actions are call, delete, "),
        ] {
            let told =
                told(&policy(&format!("Tidegate::Action::\"{first}\", Tidegate::Action::\"{second}\"")));
            let [told] = told.as_slice() else { panic!("{told:?}") };
            assert!(
                told.starts_with(&format!("p/a.cedar: line 1, column {column}: unrecognized action")),
                "{told}"
            );
            assert!(told.contains(meant), "{told}");
        }
    }

    #[test]
    fn one_mistake_is_told_once() {
        let text = |action: &str, fact: &str| {
            format!(
                "@id(\"a\") permit (principal, action == Tidegate::Action::\"{action}\", resource)\n\
                 when {{ context has destination && {fact} <= 1 && context.destination == Tidegate::Cluster::\"eu\" }};"
            )
        };
        for (action, fact, says) in [
            ("infer", "context.data.levl", "did you mean `level`?"),
            ("infer", "context.request.method", "expected"),
            ("embedd", "context.data.level", "did you mean `Tidegate::Action::\"embed\"`?"),
        ] {
            let told = told(&text(action, fact));
            assert!(matches!(told.as_slice(), [only] if only.contains(says)), "{told:?}");
        }
        let unguarded = text("infer", "context.data.level").replace("context has destination && ", "");
        assert!(told(&unguarded)[0].contains("optional attribute"), "{:?}", told(&unguarded));
    }

    #[test]
    fn far_names_are_not_suggested() {
        let text = |name: &str| {
            format!(
                "@id(\"a\") permit (principal, action == Tidegate::Action::\"infer\", resource) when {{ context.{name} == 3 }};"
            )
        };
        assert!(
            told(&text("data.levle"))[0].contains("did you mean `level`?"),
            "{:?}",
            told(&text("data.levle"))
        );
        assert!(told(&text("sata"))[0].contains("did you mean `data`?"), "{:?}", told(&text("sata")));
        assert!(
            told(&text("typo"))[0].contains("by what `tidegate.cedarschema` declares"),
            "{:?}",
            told(&text("typo"))
        );
    }
}
