//! Rules for policies beyond what the schema can say, checked on Cedar's JSON form of a policy.
//!
//! A level or residency is read from `context.data` only, where the strictest of all claims stands. There is no arithmetic: it overflows,
//! an overflow is an error, and an error in any policy denies the whole request.

use cedar_policy::Policy;
use serde_json::Value;

/// Attributes that only `context.data` may be asked for.
const LABEL_ATTRIBUTES: [&str; 2] = ["level", "residency"];

/// The deepest expression that is looked at; a deeper one is refused.
const MAX_DEPTH: usize = 200;

/// A broken rule: what is wrong, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// All broken rules of one policy.
pub(super) fn lint(policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    match policy.to_json() {
        Ok(json) => {
            for condition in json.get("conditions").and_then(Value::as_array).into_iter().flatten() {
                walk(condition.get("body").unwrap_or(&Value::Null), MAX_DEPTH, &mut findings);
            }
        }
        Err(error) => findings.push(Finding {
            message: format!("cannot be looked into: {error}"),
            hint: "write it more simply",
        }),
    }
    findings.dedup();
    findings
}

fn walk(expression: &Value, depth: usize, findings: &mut Vec<Finding>) {
    let Some(depth) = depth.checked_sub(1) else {
        findings.push(Finding {
            message: format!("is nested deeper than {MAX_DEPTH}"),
            hint: "split it into several policies",
        });
        return;
    };
    match expression {
        Value::Array(items) => items.iter().for_each(|item| walk(item, depth, findings)),
        Value::Object(fields) => {
            for (operator, operand) in fields {
                match operator.as_str() {
                    "Value" | "Var" => {}
                    // The keys of a record are the author's words, not operators.
                    "Record" => operand
                        .as_object()
                        .into_iter()
                        .flat_map(serde_json::Map::values)
                        .for_each(|field| walk(field, depth, findings)),
                    _ => {
                        findings.extend(finding(operator, operand));
                        walk_operands(operand, depth, findings);
                    }
                }
            }
        }
        _ => {}
    }
}

/// Operands are named (`left`, `arg`, `if` …), and these names are no operators themselves.
fn walk_operands(operand: &Value, depth: usize, findings: &mut Vec<Finding>) {
    match operand {
        Value::Object(named) => named.values().for_each(|value| walk(value, depth, findings)),
        other => walk(other, depth, findings),
    }
}

fn finding(operator: &str, operand: &Value) -> Option<Finding> {
    match operator {
        "." | "has" => {
            let attribute = operand.get("attr").and_then(Value::as_str)?;
            let on_resource = operand.get("left").is_some_and(|left| mentions_resource(left, MAX_DEPTH));
            (on_resource && LABEL_ATTRIBUTES.contains(&attribute)).then(|| Finding {
                message: format!("reads `{attribute}` from the resource"),
                hint: "read it from `context.data`, where the strictest of all claims stands",
            })
        }
        "+" | "-" | "*" => Some(arithmetic(operator)),
        "neg" => operand.get("arg").is_some_and(|arg| arg.get("Value").is_none()).then(|| arithmetic("-")),
        _ => None,
    }
}

fn arithmetic(operator: &str) -> Finding {
    Finding {
        message: format!("computes with `{operator}`, which can overflow, and an error denies every request"),
        hint: "compare only; the gateway computes",
    }
}

fn mentions_resource(expression: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return true };
    match expression {
        Value::Object(fields) => fields.iter().any(|(operator, operand)| match operator.as_str() {
            "Var" => operand.as_str() == Some("resource"),
            "Value" => false,
            _ => mentions_resource(operand, depth),
        }),
        Value::Array(items) => items.iter().any(|item| mentions_resource(item, depth)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(condition: &str) -> Vec<String> {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        lint(&Policy::parse(None, text).unwrap()).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_label_is_read_from_the_context_only() {
        for bad in [
            "resource.level < 2",
            "resource has residency",
            "resource[\"level\"] == 1",
            "(if context.x then resource else principal).level == 1",
            "[1, 2].contains(resource.level)",
            "{a: resource.level}.a == 1",
        ] {
            let found = messages(bad);
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            assert!(found[0].contains("from the resource"), "{bad}: {found:?}");
        }
        for good in [
            "context.data.level < 2",
            "principal.level == 1",
            "resource.owner == principal",
            "\"resource.level\" == context.x",
        ] {
            assert_eq!(messages(good), [""; 0], "{good}");
        }
    }

    #[test]
    fn policies_do_not_compute() {
        for bad in ["context.a + 1 > 2", "context.a * 2 > 2", "context.a - 1 > 2", "-context.a > 2"] {
            let found = messages(bad);
            assert!(found.len() == 1 && found[0].starts_with("computes"), "{bad}: {found:?}");
        }
        assert_eq!(messages("context.a > -1"), [""; 0]);
    }
}
