//! Advice on a bundle that is valid: policies that do less, or more, than their author may think.
//!
//! What is an error is found when the bundle is loaded. Advice never stops a gateway: it is for the author, and each kind can be
//! answered in the policy, by writing it otherwise or by the annotation that its hint names.

use std::collections::BTreeSet;

use cedar_policy::{Policy, PolicySet};
use serde_json::Value;

use super::anatomy::text_of;
use super::bundle::Bundle;
use super::contradiction::{Contradiction, contradiction};
use super::never;
use super::source::{SCHEMA, is_entities, place};
use crate::model::{Problem, did_you_mean};

/// The deepest expression that is looked at.
const MAX_DEPTH: usize = 200;

/// A policy in Cedar's JSON form, and where it stands.
struct Seen {
    id: String,
    file: String,
    place: String,
    json: Value,
    /// Each `has` for an attribute that nothing declares: where, the text, the attribute.
    undeclared: Vec<(String, String, String)>,
}

impl Seen {
    fn note(&self, origin: &str, message: impl std::fmt::Display, hint: impl Into<String>) -> Problem {
        Problem {
            file: format!("{origin}{}", self.file),
            place: self.place.clone(),
            message: format!("`{}` {message}", self.id),
            hint: hint.into(),
        }
    }

    fn effect(&self) -> &str {
        self.json.get("effect").and_then(Value::as_str).unwrap_or_default()
    }

    fn conditions(&self) -> &[Value] {
        self.json.get("conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn annotation(&self, name: &str) -> bool {
        self.json.get("annotations").and_then(|all| all.get(name)).is_some()
    }

    fn part(&self, name: &str) -> &Value {
        self.json.get(name).unwrap_or(&Value::Null)
    }
}

/// The parts of a policy's scope.
const PARTS: [&str; 3] = ["principal", "action", "resource"];

/// All advice on a bundle, in order of file and line. `directory` is where its files lie, for messages.
#[must_use]
pub fn advise(bundle: &Bundle, directory: &str) -> Vec<Problem> {
    let origin =
        if directory.is_empty() { String::new() } else { format!("{}/", directory.trim_end_matches('/')) };
    let schema = bundle.files().iter().find(|(name, _)| name == SCHEMA);
    let schema = schema.and_then(|(_, bytes)| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let declared = never::declared(schema);
    let all = seen(bundle, &declared);
    let mut found = Vec::new();
    for policy in &all {
        unexplained(policy, &origin, &mut found);
        unscoped(policy, &origin, &mut found);
        absence(policy, &origin, &mut found);
        protection(policy, bundle, &origin, &mut found);
        found.extend(contradictory(policy, &origin));
        absent(policy, &declared, &origin, &mut found);
        found.extend(useless(policy, &all, &origin));
    }
    found
}

/// The policies as they stand in the files: the bundle has checked them, so each parses and has an id.
fn seen(bundle: &Bundle, declared: &BTreeSet<String>) -> Vec<Seen> {
    let mut all = Vec::new();
    let policies = bundle.files().iter().filter(|(name, _)| name.ends_with(".cedar"));
    for (file, bytes) in policies {
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        let Ok(set) = text.parse::<PolicySet>() else { continue };
        let mut policies: Vec<(usize, Policy)> = (set.policies())
            .map(|policy| (policy.as_ref().loc().map_or(0, |loc| loc.start()), policy.clone()))
            .collect();
        policies.sort_by_key(|(start, _)| *start);
        for (start, policy) in policies {
            let Ok(json) = policy.to_json() else { continue };
            let id = policy.annotation("id").unwrap_or_default().to_owned();
            let undeclared = never::undeclared(&policy, declared).into_iter();
            let undeclared = undeclared
                .map(|has| (place(text, has.part.start), has.part.text(text), has.attribute))
                .collect();
            all.push(Seen { id, file: file.clone(), place: place(text, start), json, undeclared });
        }
    }
    all
}

fn unexplained(policy: &Seen, origin: &str, found: &mut Vec<Problem>) {
    for (name, hint) in [
        ("reason", "write `@reason(\"…\")`: the sentence that callers and auditors read"),
        ("owner", "write `@owner(\"…\")`: whom to ask"),
    ] {
        if !policy.annotation(name) {
            found.push(policy.note(origin, format!("has no `@{name}`"), hint));
        }
    }
}

fn unscoped(policy: &Seen, origin: &str, found: &mut Vec<Problem>) {
    let open = |part: &str| is_all(policy.part(part));
    if policy.effect() == "permit" && PARTS.iter().all(|part| open(part)) {
        let message = "permits for every principal, action and resource".to_owned();
        found.push(policy.note(origin, message, "name a team, an action or a resource in its head"));
    }
}

fn is_all(part: &Value) -> bool {
    part.get("op").and_then(Value::as_str) == Some("All")
}

fn contradictory(policy: &Seen, origin: &str) -> Option<Problem> {
    let Contradiction { one, other } = contradiction(&policy.json)?;
    let (one, other) = (text_of(&one), text_of(&other));
    let message = format!("never matches: `{one}` and `{other}` contradict each other");
    Some(policy.note(origin, message, "correct one of them, or remove the policy"))
}

/// A `has` that never holds: where it makes the whole policy impossible, the bundle is refused already.
fn absent(policy: &Seen, declared: &BTreeSet<String>, origin: &str, found: &mut Vec<Problem>) {
    for (place, text, attribute) in &policy.undeclared {
        let message = format!("asks `{text}`, which never holds: `{SCHEMA}` declares no `{attribute}`");
        let usual = || format!("correct the name, or declare it in `{SCHEMA}`");
        let hint = did_you_mean(attribute, declared.iter().map(String::as_str)).unwrap_or_else(usual);
        found.push(Problem { place: place.clone(), ..policy.note(origin, message, hint) });
    }
}

/// A forbid that holds only `when` an optional fact is there does not hold where the fact is missing.
fn absence(policy: &Seen, origin: &str, found: &mut Vec<Problem>) {
    if policy.effect() != "forbid" || policy.annotation("absence") {
        return;
    }
    for condition in policy.conditions() {
        if condition.get("kind").and_then(Value::as_str) != Some("when") {
            continue;
        }
        let mut facts = Vec::new();
        wanted_facts(condition.get("body").unwrap_or(&Value::Null), MAX_DEPTH, &mut facts);
        if let Some(fact) = facts.first() {
            let message = format!("does not forbid where `{fact}` is missing");
            let hint = "write it with `unless`, so that absence denies; if that is meant, say why in `@absence(\"…\")`";
            found.push(policy.note(origin, message, hint));
        }
    }
}

/// What a conjunction wants to be there.
fn wanted_facts(body: &Value, depth: usize, facts: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Some(both) = body.get("&&") {
        for side in ["left", "right"] {
            wanted_facts(both.get(side).unwrap_or(&Value::Null), depth, facts);
        }
    } else if let Some(has) = body.get("has") {
        let attribute = has.get("attr").and_then(Value::as_str).unwrap_or_default();
        facts.push(format!("{}.{attribute}", path_of(has.get("left").unwrap_or(&Value::Null), depth)));
    }
}

/// `context.request` for an access of that form.
fn path_of(expression: &Value, depth: usize) -> String {
    let Some(depth) = depth.checked_sub(1) else { return "…".to_owned() };
    if let Some(name) = expression.get("Var").and_then(Value::as_str) {
        return name.to_owned();
    }
    match expression.get(".") {
        Some(access) => {
            let attribute = access.get("attr").and_then(Value::as_str).unwrap_or_default();
            format!("{}.{attribute}", path_of(access.get("left").unwrap_or(&Value::Null), depth))
        }
        None => "…".to_owned(),
    }
}

/// A permit that asks for what this gateway cannot do, or for a far end that cannot open, never permits.
fn protection(policy: &Seen, bundle: &Bundle, origin: &str, found: &mut Vec<Problem>) {
    if policy.effect() != "permit" {
        return;
    }
    let mut wanted = Vec::new();
    for condition in policy.conditions() {
        if condition.get("kind").and_then(Value::as_str) == Some("when") {
            wanted_protections(condition.get("body").unwrap_or(&Value::Null), MAX_DEPTH, &mut wanted);
        }
    }
    if wanted.iter().any(|name| name == "masked") {
        let message = "wants `context.protection.masked`, which no gateway does yet".to_owned();
        found.push(policy.note(origin, message, "ask for `context.protection.sealed`"));
    }
    let cluster = policy.part("resource").get("entity").filter(|entity| {
        let kind = entity.get("type").and_then(Value::as_str).unwrap_or_default();
        kind.ends_with("::Cluster")
    });
    let id = cluster.and_then(|cluster| cluster.get("id")).and_then(Value::as_str);
    if let Some(id) = id
        && wanted.iter().any(|name| name == "sealed")
        && is_peer(bundle, id) == Some(false)
    {
        let message = format!("wants sealing on `{id}`, which is no peer in entities.json");
        found.push(policy.note(origin, message, "set `peer` there to true, or name another cluster"));
    }
}

/// Whether a cluster of `entities.json` is a peer; nothing if it is not there.
fn is_peer(bundle: &Bundle, id: &str) -> Option<bool> {
    let files = bundle.files().iter().filter(|(name, _)| is_entities(name));
    let mut entities =
        files.flat_map(|(_, bytes)| serde_json::from_slice::<Vec<Value>>(bytes).unwrap_or_default());
    let cluster = entities.find(|entity| {
        let text = |pointer| entity.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        text("/uid/type").ends_with("::Cluster") && text("/uid/id") == id
    })?;
    cluster.pointer("/attrs/peer")?.as_bool()
}

/// The names in `context.protection.NAME` of a conjunction.
fn wanted_protections(body: &Value, depth: usize, wanted: &mut Vec<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Some(both) = body.get("&&") {
        for side in ["left", "right"] {
            wanted_protections(both.get(side).unwrap_or(&Value::Null), depth, wanted);
        }
    } else if let Some(name) = path_of(body, depth).strip_prefix("context.protection.") {
        wanted.push(name.to_owned());
    }
}

/// A policy beside which another, without conditions and with a head that takes in all of its own, decides the same or the opposite.
fn useless(policy: &Seen, all: &[Seen], origin: &str) -> Option<Problem> {
    let covers = |other: &Seen| PARTS.iter().all(|part| takes_in(other.part(part), policy.part(part)));
    for other in all.iter().filter(|other| other.id != policy.id) {
        let same = other.effect() == policy.effect();
        let twin = same
            && other.conditions() == policy.conditions()
            && PARTS.iter().all(|part| other.part(part) == policy.part(part));
        if twin && other.id < policy.id {
            return Some(policy.note(
                origin,
                format!("says the same as `{}`", other.id),
                "remove one of them",
            ));
        }
        if twin || !other.conditions().is_empty() || !covers(other) {
            continue;
        }
        if same {
            let message = format!("changes nothing: `{}` says it for all of its cases", other.id);
            return Some(policy.note(origin, message, "remove it, or narrow the other"));
        }
        if other.effect() == "forbid" {
            let message = format!("never permits: `{}` forbids all of its cases", other.id);
            return Some(policy.note(origin, message, "remove it, or narrow the forbid"));
        }
    }
    None
}

/// Whether one part of a head takes in all that another does; only what can be seen without entities.
fn takes_in(wide: &Value, narrow: &Value) -> bool {
    if is_all(wide) || wide == narrow {
        return true;
    }
    let op = |part: &Value| part.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
    match (op(wide).as_str(), op(narrow).as_str()) {
        // `in X` takes in `== X`.
        ("in", "==") => listed(wide).any(|entity| Some(entity) == narrow.get("entity")),
        ("in", "in") => {
            let mut narrow = listed(narrow).peekable();
            narrow.peek().is_some() && narrow.all(|entity| listed(wide).any(|other| other == entity))
        }
        _ => false,
    }
}

/// The entities of `in X` and `in [X, …]`.
fn listed(part: &Value) -> impl Iterator<Item = &Value> {
    let more = part.get("entities").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    part.get("entity").into_iter().chain(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::embedded;

    fn advice(policies: &str) -> String {
        let mut files: Vec<(String, Vec<u8>)> = (embedded::FILES.iter())
            .filter(|(name, _)| !name.ends_with(".cedar"))
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        files.push(("a.cedar".into(), policies.as_bytes().to_vec()));
        let bundle = Bundle::from_files("p", files).unwrap_or_else(|problems| panic!("{problems}"));
        advise(&bundle, "p").iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn the_shipped_policies_need_none() {
        assert_eq!(advise(&embedded::bundle().unwrap(), "policies"), []);
    }

    #[test]
    fn each_kind_of_advice() {
        let explained = "@owner(\"o\")\n@reason(\"r\")\n";
        let policy = |id: &str, text: &str| format!("@id(\"{id}\")\n{explained}{text}\n");
        let text = [
            policy("open", "permit (principal, action, resource) when { context.data.level == 0 };"),
            "@id(\"unexplained\")\npermit (principal in Tidegate::Team::\"ops\", action, resource);".to_owned(),
            policy("off", "forbid (principal, action, resource) when { context has purpose && context.purpose == \"x\" };"),
            policy("on", "forbid (principal, action, resource) unless { context has purpose && context.purpose != \"x\" };"),
            format!("@absence(\"meant\")\n{}", policy("meant", "forbid (principal, action, resource) when { context.chain has agent && context.chain.agent == Tidegate::Agent::\"a\" };")),
            policy("masked", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"infer\", resource) when { context.protection.masked };"),
            policy("no-peer", "permit (principal in Tidegate::Team::\"clinical\", action == Tidegate::Action::\"infer\", resource in Tidegate::Cluster::\"eu\") when { context.protection.sealed };"),
            policy("wide", "permit (principal in Tidegate::Team::\"research\", action in [Tidegate::Action::\"read\", Tidegate::Action::\"list\"], resource);"),
            policy("narrow", "permit (principal == Tidegate::Team::\"research\", action == Tidegate::Action::\"read\", resource in Tidegate::Store::\"lake\");"),
            policy("narrow-in", "permit (principal in Tidegate::Team::\"research\", action in [Tidegate::Action::\"read\"], resource in Tidegate::Store::\"lake\");"),
            policy("never", "forbid (principal, action == Tidegate::Action::\"delete\", resource);"),
            policy("dead", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"delete\", resource) when { context.data.level == 0 };"),
            policy("both", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"infer\", resource) when { context.data.level <= 1 && context.protection.sealed } unless { context.data.level <= 1 };"),
            policy("two", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"infer\", resource) when { context.data.level == 1 && context.data.level == 2 };"),
            policy("between", "forbid (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"infer\", resource) when { context.data.level > 2 } unless { context.data.level >= 2 };"),
            policy("has", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"embed\", resource)\nunless { context.chain has agnet || context has nonsense };"),
            policy("twin-1", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"write\", resource) when { context.data.level == 0 };"),
            policy("twin-2", "permit (principal in Tidegate::Team::\"ops\", action == Tidegate::Action::\"write\", resource) when { context.data.level == 0 };"),
        ]
        .join("\n");
        insta::assert_snapshot!(advice(
            &text.replace("principal == Tidegate::Team", "principal in Tidegate::Team")
        ));
    }
}
