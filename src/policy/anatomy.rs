//! Why a policy did or did not match: its head and its conditions, each asked by itself.
//!
//! For authors and tests, not for the data path: a situation is rebuilt from the request as a record holds it, and each part of each
//! policy is asked of Cedar as a permit of its own: together with those before it, as Cedar does, and behind one that does not hold alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, Policy, PolicyId, PolicySet, Request, Schema,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::bundle::{Bundle, PolicyInfo};
use super::permit::Evaluation;
use super::schema::describe;
use super::source::is_entities;

/// The deepest conjunction that is taken apart.
const MAX_DEPTH: usize = 200;

/// A request that cannot be looked at again.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be asked again: {0}")]
pub struct AnatomyError(String);

fn wrong(error: impl std::fmt::Display) -> AnatomyError {
    AnatomyError(error.to_string())
}

/// How a part of a policy stands to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// It was not asked, or cannot be: a part before it does not match.
    Unasked,
    /// It has an error.
    Error,
}

/// What a part is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PartKind {
    /// The head's principal.
    Principal,
    /// The head's action.
    Action,
    /// The head's resource.
    Resource,
    /// One conjunct of a `when`.
    When,
    /// An `unless`.
    Unless,
}

/// A part of a policy.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// What it is of.
    pub kind: PartKind,
    /// Its text.
    pub text: String,
    /// Whether it holds.
    pub holds: Holds,
}

/// A policy before one request.
#[derive(Debug, Clone, Serialize)]
pub struct Dissected {
    /// The policy.
    #[serde(flatten)]
    pub info: Arc<PolicyInfo>,
    /// Whether all of it matches.
    pub matches: bool,
    /// Its parts, in order; a head that takes in everything has none.
    pub parts: Vec<Part>,
}

/// One part, ready to be asked.
#[derive(Debug)]
struct Probe {
    kind: PartKind,
    text: String,
    policies: PolicySet,
}

#[derive(Debug)]
struct Body {
    info: Arc<PolicyInfo>,
    head: Vec<Probe>,
    conditions: Vec<Condition>,
}

/// A condition, ready to be asked.
#[derive(Debug)]
struct Condition {
    /// With all conditions before it, as Cedar asks it.
    after: Probe,
    alone: Probe,
}

/// The policies of a bundle, taken apart.
#[derive(Debug)]
pub struct Anatomy {
    bodies: Vec<Body>,
    schema: Schema,
    entities: Entities,
}

impl Anatomy {
    /// Takes the policies of a bundle apart.
    ///
    /// # Errors
    /// A policy has no form that can be: none that a bundle holds.
    pub fn new(bundle: &Bundle) -> Result<Self, AnatomyError> {
        let schema = bundle.schema().clone();
        let mut all: Vec<Value> = Vec::new();
        for (_, bytes) in bundle.files().iter().filter(|(name, _)| is_entities(name)) {
            all.append(&mut serde_json::from_slice(bytes).map_err(wrong)?);
        }
        let entities = Entities::from_json_value(Value::from(all), Some(&schema));
        let entities = entities.map_err(|error| wrong(describe(&error)))?;
        let mut bodies = Vec::new();
        for (file, bytes) in bundle.files().iter().filter(|(name, _)| name.ends_with(".cedar")) {
            let text = std::str::from_utf8(bytes).map_err(wrong)?;
            let set: PolicySet = text.parse().map_err(|_| wrong(format!("`{file}` does not parse")))?;
            for policy in set.policies() {
                let info = policy.annotation("id").and_then(|id| bundle.policy(id));
                let info = info.ok_or_else(|| wrong(format!("`{file}` has a policy without an id")))?;
                bodies.push(Body::of(policy, Arc::clone(info))?);
            }
        }
        bodies.sort_by(|a, b| (&a.info.file, a.info.line).cmp(&(&b.info.file, b.info.line)));
        Ok(Self { bodies, schema, entities })
    }

    /// How each policy stands to a request as a record holds it (its `request` member), in order of file and line.
    ///
    /// # Errors
    /// The record is not as this program writes it, or does not fit the bundle's schema.
    pub fn dissect(&self, request: &Value) -> Result<Vec<Dissected>, AnatomyError> {
        self.ask(request, true)
    }

    /// The same for the policies whose head matches: the conditions of the others say nothing of this request.
    ///
    /// # Errors
    /// As [`Self::dissect`].
    pub fn reached(&self, request: &Value) -> Result<Vec<Dissected>, AnatomyError> {
        self.ask(request, false)
    }

    /// Every policy, with its parts unasked, in order of file and line.
    #[must_use]
    pub fn policies(&self) -> Vec<Dissected> {
        self.bodies.iter().map(|body| body.dissect(|_| Holds::Unasked, false)).collect()
    }

    fn ask(&self, request: &Value, all: bool) -> Result<Vec<Dissected>, AnatomyError> {
        let (request, entities) = self.situation(request)?;
        let authorizer = Authorizer::new();
        let ask = |probe: &Probe| {
            let response = authorizer.is_authorized(&request, &probe.policies, &entities);
            match (response.decision(), response.diagnostics().errors().next().is_some()) {
                (Decision::Allow, _) => Holds::Yes,
                (Decision::Deny, true) => Holds::Error,
                (Decision::Deny, false) => Holds::No,
            }
        };
        let wanted = |body: &&Body| all || body.head.iter().all(|probe| ask(probe) == Holds::Yes);
        Ok(self.bodies.iter().filter(wanted).map(|body| body.dissect(ask, all)).collect())
    }

    fn situation(&self, record: &Value) -> Result<(Request, Entities), AnatomyError> {
        let principal = record.get("principal").ok_or_else(|| wrong("it has no principal"))?;
        let member = |name: &str| principal.get(name).cloned().unwrap_or_default();
        let entity = json!({ "uid": member("uid"), "parents": member("parents"), "attrs": member("attrs") });
        let principal =
            Entity::from_json_value(entity, Some(&self.schema)).map_err(|error| wrong(describe(&error)))?;
        let uid = |value: Option<&Value>| {
            EntityUid::from_json(value.cloned().unwrap_or_default()).map_err(|error| wrong(describe(&error)))
        };
        let action = record.get("action").and_then(Value::as_str).unwrap_or_default();
        let action = uid(Some(&json!({ "type": "Tidegate::Action", "id": action })))?;
        let resource = uid(record.get("resource"))?;
        let context = record.get("context").cloned().unwrap_or_default();
        let context = Context::from_json_value(context, Some((&self.schema, &action)))
            .map_err(|error| wrong(describe(&error)))?;
        let request = Request::new(principal.uid(), action, resource, context, Some(&self.schema))
            .map_err(|error| wrong(describe(&error)))?;
        let entities = self.entities.clone().upsert_entities([principal], Some(&self.schema));
        Ok((request, entities.map_err(|error| wrong(describe(&error)))?))
    }
}

/// The request of one evaluation: what the record holds of the last one, with what differed then.
#[must_use]
pub fn at(request: &Value, evaluation: &Evaluation) -> Value {
    let mut request = request.clone();
    let kind = format!("Tidegate::{}", evaluation.resource.kind());
    let protection = evaluation.protection;
    if let Some(members) = request.as_object_mut() {
        members.insert("resource".to_owned(), json!({ "type": kind, "id": evaluation.resource.id() }));
    }
    if let Some(context) = request.get_mut("context").and_then(Value::as_object_mut) {
        context.insert(
            "protection".to_owned(),
            json!({
                "masked": protection == crate::model::Protection::Masked,
                "sealed": protection == crate::model::Protection::Sealed,
            }),
        );
        match &evaluation.destination {
            Some(cluster) => {
                let cluster = json!({ "type": "Tidegate::Cluster", "id": cluster });
                context.insert("destination".to_owned(), cluster)
            }
            None => context.remove("destination"),
        };
    }
    request
}

impl Body {
    fn of(policy: &Policy, info: Arc<PolicyInfo>) -> Result<Self, AnatomyError> {
        let json = policy.to_json().map_err(|error| wrong(describe(&error)))?;
        let mut head = Vec::new();
        for (name, kind) in [
            ("principal", PartKind::Principal),
            ("action", PartKind::Action),
            ("resource", PartKind::Resource),
        ] {
            let part = json.get(name).cloned().unwrap_or_default();
            if part.get("op").and_then(Value::as_str) == Some("All") {
                continue;
            }
            let policy = permit(&[(name, part)], &[])?;
            head.push(Probe { kind, text: head_text(&policy, name), policies: set(policy)? });
        }
        let mut conditions = Vec::new();
        let mut asked: Vec<Value> = Vec::new();
        for (kind, body) in conjuncts(&json) {
            let word = if kind == PartKind::When { "when" } else { "unless" };
            let condition = json!({ "kind": word, "body": body });
            let text = condition_text(&permit(&[], std::slice::from_ref(&condition))?);
            let alone = set(permit(&[], std::slice::from_ref(&condition))?)?;
            asked.push(condition);
            let after = Probe { kind, text: text.clone(), policies: set(permit(&[], &asked)?)? };
            conditions.push(Condition { after, alone: Probe { kind, text, policies: alone } });
        }
        Ok(Self { info, head, conditions })
    }

    /// `on`: what stands behind a condition that does not hold is asked too, by itself. It is part of no decision, and has no side
    /// effect: what can be told of it is true. What has an error alone hangs on a part before it, such as `context has x`.
    fn dissect(&self, ask: impl Fn(&Probe) -> Holds, on: bool) -> Dissected {
        let part = |probe: &Probe, holds: Holds| Part { kind: probe.kind, text: probe.text.clone(), holds };
        let mut parts: Vec<Part> = self.head.iter().map(|probe| part(probe, ask(probe))).collect();
        let mut go_on = true;
        for condition in &self.conditions {
            let holds = match (go_on, on) {
                (true, _) => ask(&condition.after),
                (false, false) => Holds::Unasked,
                (false, true) => match ask(&condition.alone) {
                    Holds::Error => Holds::Unasked,
                    told => told,
                },
            };
            go_on &= holds == Holds::Yes;
            parts.push(part(&condition.after, holds));
        }
        let matches = parts.iter().all(|part| part.holds == Holds::Yes);
        Dissected { info: Arc::clone(&self.info), matches, parts }
    }
}

/// The conjuncts of all `when`s and each `unless`, in order.
fn conjuncts(policy: &Value) -> Vec<(PartKind, Value)> {
    let mut found = Vec::new();
    for condition in policy.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let body = condition.get("body").cloned().unwrap_or_default();
        if condition.get("kind").and_then(Value::as_str) == Some("when") {
            take_apart(body, MAX_DEPTH, &mut found);
        } else {
            found.push((PartKind::Unless, body));
        }
    }
    found
}

fn take_apart(body: Value, depth: usize, found: &mut Vec<(PartKind, Value)>) {
    let sides = body.get("&&").map(|both| [both.get("left").cloned(), both.get("right").cloned()]);
    match (sides, depth.checked_sub(1)) {
        (Some([Some(left), Some(right)]), Some(depth)) => {
            take_apart(left, depth, found);
            take_apart(right, depth, found);
        }
        _ => found.push((PartKind::When, body)),
    }
}

/// A permit with these parts of a head and these conditions.
fn permit(head: &[(&str, Value)], conditions: &[Value]) -> Result<Policy, AnatomyError> {
    let all = json!({ "op": "All" });
    let mut policy = BTreeMap::from([
        ("effect", json!("permit")),
        ("principal", all.clone()),
        ("action", all.clone()),
        ("resource", all),
        ("conditions", Value::from(conditions.to_vec())),
    ]);
    policy.extend(head.iter().cloned());
    let policy = serde_json::to_value(policy).map_err(wrong)?;
    Policy::from_json(Some(PolicyId::new("part")), policy).map_err(|error| wrong(describe(&error)))
}

fn set(policy: Policy) -> Result<PolicySet, AnatomyError> {
    PolicySet::from_policies([policy]).map_err(|error| wrong(describe(&error)))
}

/// The text of an expression in Cedar's JSON form, on one line; empty for one that is none.
pub(super) fn text_of(expression: &Value) -> String {
    let condition = json!({ "kind": "when", "body": expression });
    permit(&[], &[condition]).map_or_else(|_| String::new(), |policy| condition_text(&policy))
}

/// `principal in Tidegate::Team::"research"` of a permit that says no more.
fn head_text(policy: &Policy, name: &str) -> String {
    let text = policy.to_cedar().unwrap_or_default();
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let inside = words.split_once('(').map_or(words.as_str(), |(_, rest)| rest);
    let inside = inside.rsplit_once(')').map_or(inside, |(head, _)| head);
    // The other two parts are a word each, so what is left is this one.
    let others = ["principal", "action", "resource"].into_iter().filter(|other| *other != name);
    let mut parts: Vec<&str> = inside.split(", ").collect();
    for other in others {
        parts.retain(|part| part.trim() != other);
    }
    parts.join(", ").trim().to_owned()
}

/// What stands in the braces of a permit with one condition.
fn condition_text(policy: &Policy) -> String {
    let text = policy.to_cedar().unwrap_or_default();
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let inside = words.split_once('{').map_or(words.as_str(), |(_, rest)| rest);
    inside.rsplit_once('}').map_or(inside, |(body, _)| body).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Level, Protection};
    use crate::policy::embedded;
    use crate::policy::fixtures::{label, on, request, researcher};

    #[test]
    fn each_part_is_asked_by_itself() {
        let bundle = embedded::bundle().unwrap();
        let anatomy = Anatomy::new(&bundle).unwrap();
        let (who, what) = (researcher(), label(Level::Restricted, "EU"));
        let denial = bundle.decide(&request(&who, &what), &[on("eu", "tide-small")], &[Protection::None]);
        let denial = denial.unwrap_err();
        let record = serde_json::to_value(&denial.request).unwrap();
        assert_eq!(at(&record, &denial.evaluations[0]), record);
        let policies = anatomy.dissect(&record).unwrap();
        assert_eq!(policies.len(), bundle.policies().len());
        let shown: String = policies
            .iter()
            .filter(|policy| {
                ["restricted-only-sealed", "research-models", "clinical-models", "no-endless-generation"]
                    .contains(&&*policy.info.id)
            })
            .flat_map(|policy| {
                let parts = policy
                    .parts
                    .iter()
                    .map(|part| format!("  {:?} {:?} {}\n", part.kind, part.holds, part.text));
                std::iter::once(format!("{} {}\n", policy.info.id, policy.matches)).chain(parts)
            })
            .collect();
        insta::assert_snapshot!(shown);
    }

    /// What matches by its parts is what decides.
    #[test]
    fn the_parts_agree_with_the_decision() {
        let bundle = embedded::bundle().unwrap();
        let anatomy = Anatomy::new(&bundle).unwrap();
        let who = researcher();
        for level in [Level::Public, Level::Internal, Level::Confidential, Level::Restricted] {
            for (place, cluster) in [("EU", "eu"), ("EU", "us"), ("world", "us")] {
                let what = label(level, place);
                let answer =
                    bundle.decide(&request(&who, &what), &[on(cluster, "tide-small")], &[Protection::None]);
                let (record, evaluation) = match &answer {
                    Ok(permit) => (serde_json::to_value(permit.request()), permit.evaluations().last()),
                    Err(denial) => (serde_json::to_value(&denial.request), denial.evaluations.last()),
                };
                let policies = anatomy.dissect(&at(&record.unwrap(), evaluation.unwrap())).unwrap();
                let effect = if answer.is_ok() {
                    crate::policy::Effect::Permit
                } else {
                    crate::policy::Effect::Forbid
                };
                let mut matching: Vec<_> = policies
                    .iter()
                    .filter(|p| p.matches && p.info.effect == effect)
                    .map(|p| Arc::clone(&p.info.id))
                    .collect();
                matching.sort();
                assert_eq!(matching, evaluation.unwrap().policies, "{level} {place} {cluster}");
            }
        }
    }
}
