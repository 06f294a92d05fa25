//! The claims as policy sets that a solver can compare.
//!
//! What the gateway makes true of every request ([`GATEWAY`]) is added to each question as a condition, so that no answer rests on a
//! request that cannot be. The rungs of protection are compared by writing each rung's facts into the policies in
//! place of `context.protection`: two sets that are then compared for the same request.

use cedar_policy::{Policy, PolicyId, PolicySet};
use serde_json::{Value, json};

use crate::model::Protection;
use crate::policy::Bundle;

/// What holds of every request by the way that the gateway builds it (`policy::request`): four levels, one protection at most, no
/// negative amounts, a time that a clock can show. Each fact only where the schema has it.
const GATEWAY: &str = "permit (principal, action, resource) when {
  (if context has data then context.data.level >= 0 && context.data.level <= 3 else true) &&
  (if context has protection then !(context.protection.masked && context.protection.sealed) else true) &&
  (if context has request then context.request.bytes >= 0 &&
    (if context.request has maxTokens then context.request.maxTokens >= 0 else true) else true) &&
  (if context has chain then (if context.chain has tokenAge then context.chain.tokenAge >= 0 else true) else true) &&
  (if context has now then
    context.now >= datetime(\"2000-01-01\") && context.now < datetime(\"2200-01-01\") else true)
};";

/// The most nested policy that is rewritten.
const MAX_DEPTH: usize = 400;

/// Why a policy cannot be asked about.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ClaimError {
    /// Cedar's JSON form of it could not be written or read.
    #[error("policy `{id}` cannot be rewritten: {cause}")]
    Rewrite { id: String, cause: String },
    /// The facts of a protection cannot be written into it.
    #[error("policy `{id}` uses `context` as a whole: name the facts that it compares")]
    WholeContext { id: String },
    /// It is nested too deeply.
    #[error("policy `{id}` is nested deeper than {MAX_DEPTH}")]
    Depth { id: String },
}

/// A policy that matches, and has errors, only for requests of the gateway.
pub(super) fn of_the_gateway(policy: &Policy) -> Result<Policy, ClaimError> {
    rewrite(policy, |json| {
        let conditions = conditions(gateway()?)?;
        let own = json.get_mut("conditions").and_then(Value::as_array_mut).ok_or("it has no conditions")?;
        own.splice(0..0, conditions);
        Ok(())
    })
}

/// The policies as they are, and a forbid for what is no request of the gateway.
pub(super) fn only_the_gateway(policies: &PolicySet) -> Result<PolicySet, ClaimError> {
    let id = PolicyId::new("what the gateway never asks");
    let wrong = |cause: String| ClaimError::Rewrite { id: "gateway".to_owned(), cause };
    let mut json = gateway().map_err(wrong)?;
    if let Some(members) = json.as_object_mut() {
        members.insert("effect".to_owned(), "forbid".into());
    }
    for condition in json.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(members) = condition.as_object_mut() {
            members.insert("kind".to_owned(), "unless".into());
        }
    }
    let forbid = Policy::from_json(Some(id), json).map_err(|error| wrong(error.to_string()))?;
    let mut set = policies.clone();
    set.add(forbid).map_err(|error| wrong(error.to_string()))?;
    Ok(set)
}

/// The bundle's policies as if every request came with this protection.
pub(super) fn at(bundle: &Bundle, protection: Protection) -> Result<PolicySet, ClaimError> {
    let set = only_the_gateway(bundle.policy_set())?;
    let facts = json!({ "Record": {
        "masked": { "Value": protection == Protection::Masked },
        "sealed": { "Value": protection == Protection::Sealed },
    } });
    let mut result = PolicySet::new();
    for policy in set.policies() {
        let id = policy.id().to_string();
        let mut outcome = Ok(());
        let policy = rewrite(policy, |json| {
            for condition in json.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(body) = condition.get_mut("body") {
                    outcome = outcome.and(substitute(body, &facts, MAX_DEPTH));
                }
            }
            Ok(())
        })?;
        outcome.map_err(|obstacle| match obstacle {
            Obstacle::WholeContext => ClaimError::WholeContext { id: id.clone() },
            Obstacle::Depth => ClaimError::Depth { id: id.clone() },
        })?;
        result.add(policy).map_err(|error| ClaimError::Rewrite { id, cause: error.to_string() })?;
    }
    Ok(result)
}

fn gateway() -> Result<Value, String> {
    let policy = Policy::parse(None, GATEWAY).map_err(|error| error.to_string())?;
    policy.to_json().map_err(|error| error.to_string())
}

fn conditions(mut policy: Value) -> Result<Vec<Value>, String> {
    let conditions = policy.get_mut("conditions").map(Value::take);
    match conditions {
        Some(Value::Array(conditions)) => Ok(conditions),
        _ => Err("it has no conditions".to_owned()),
    }
}

fn rewrite(
    policy: &Policy,
    change: impl FnOnce(&mut Value) -> Result<(), String>,
) -> Result<Policy, ClaimError> {
    let wrong = |cause: String| ClaimError::Rewrite { id: policy.id().to_string(), cause };
    let mut json = policy.to_json().map_err(|error| wrong(error.to_string()))?;
    change(&mut json).map_err(wrong)?;
    Policy::from_json(Some(policy.id().clone()), json).map_err(|error| wrong(error.to_string()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    WholeContext,
    Depth,
}

/// Writes `facts` in place of `context.protection`.
fn substitute(expression: &mut Value, facts: &Value, depth: usize) -> Result<(), Obstacle> {
    let depth = depth.checked_sub(1).ok_or(Obstacle::Depth)?;
    if is_context(expression) {
        return Err(Obstacle::WholeContext);
    }
    if expression.get("Value").is_some() {
        return Ok(());
    }
    for operator in [".", "has"] {
        let Some(operand) = expression.get(operator) else { continue };
        if operand.get("left").is_some_and(is_context) {
            if operator == "." && operand.get("attr").and_then(Value::as_str) == Some("protection") {
                *expression = facts.clone();
            }
            return Ok(());
        }
    }
    match expression {
        Value::Object(members) => members.values_mut().try_for_each(|inner| substitute(inner, facts, depth)),
        Value::Array(items) => items.iter_mut().try_for_each(|inner| substitute(inner, facts, depth)),
        _ => Ok(()),
    }
}

fn is_context(expression: &Value) -> bool {
    expression.get("Var").and_then(Value::as_str) == Some("context")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_rung(condition: &str) -> Result<String, Obstacle> {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let mut json = Policy::parse(None, text).unwrap().to_json().unwrap();
        let facts = json!({ "Record": { "masked": { "Value": false }, "sealed": { "Value": true } } });
        substitute(&mut json["conditions"][0]["body"], &facts, MAX_DEPTH)?;
        let text = Policy::from_json(None, json).unwrap().to_string();
        let inner = text.split_once("when {").unwrap().1.rsplit_once('}').unwrap().0;
        Ok(inner.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_rung_takes_the_place_of_the_protection() {
        let record = r#"{"masked": false, "sealed": true}"#;
        for (condition, expected) in [
            ("context.protection.sealed", format!("{record}.sealed")),
            ("context[\"protection\"].masked", format!("{record}.masked")),
            ("context.data.level == 3", "context.data.level == 3".to_owned()),
            ("context has protection", "context has protection".to_owned()),
            (
                "context.purpose == \"context.protection.sealed\"",
                "context.purpose == \"context.protection.sealed\"".to_owned(),
            ),
        ] {
            let found = at_rung(condition).unwrap().replace(['(', ')'], "");
            assert_eq!(found, expected, "{condition}");
        }
        assert_eq!(at_rung("context == {a: 1}"), Err(Obstacle::WholeContext));
        assert_eq!(
            at_rung("(if true then context else context).protection.sealed"),
            Err(Obstacle::WholeContext)
        );
    }

    #[test]
    fn what_the_gateway_makes_true_is_valid_for_the_shipped_schema() {
        use cedar_policy::{ValidationMode, Validator};
        let bundle = crate::policy::embedded::bundle().unwrap();
        for set in [
            only_the_gateway(bundle.policy_set()).unwrap(),
            at(&bundle, Protection::None).unwrap(),
            at(&bundle, Protection::Sealed).unwrap(),
        ] {
            let result = Validator::new(bundle.schema().clone()).validate(&set, ValidationMode::Strict);
            assert!(result.validation_passed(), "{result}");
            assert_eq!(set.num_of_policies(), bundle.policy_set().num_of_policies() + 1);
        }
        for policy in bundle.policy_set().policies() {
            let narrowed = of_the_gateway(policy).unwrap();
            assert_eq!((narrowed.id(), narrowed.effect()), (policy.id(), policy.effect()));
        }
    }
}
