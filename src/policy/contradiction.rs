//! Conditions of one policy that contradict each other, so that it can never match: only what can be seen in its text.
//!
//! Sound: an expression of a policy has one value for one request, and one that has none (an error) matches nothing either. So two parts
//! that are written alike are the same, whatever they are about.

use std::collections::HashMap;

use serde_json::{Value, json};

/// The deepest expression that is looked at.
const MAX_DEPTH: usize = 200;

/// Two parts that cannot both be as the policy wants them, in Cedar's JSON form.
#[derive(Debug, PartialEq)]
pub(super) struct Contradiction {
    pub(super) one: Value,
    pub(super) other: Value,
}

/// What a policy wants.
#[derive(Default)]
struct Wanted {
    /// Parts that must be true.
    held: Vec<Value>,
    /// Parts that must be false.
    not: Vec<Value>,
}

/// The first contradiction of a policy in Cedar's JSON form.
pub(super) fn contradiction(policy: &Value) -> Option<Contradiction> {
    let mut wanted = Wanted::default();
    for name in ["principal", "resource"] {
        if let Some(entity) = policy.get(name).filter(|part| part.get("op") == Some(&json!("=="))) {
            let entity = json!({ "Value": { "__entity": entity.get("entity") } });
            wanted.held.push(json!({ "==": { "left": { "Var": name }, "right": entity } }));
        }
    }
    for condition in policy.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        let body = condition.get("body").unwrap_or(&Value::Null);
        wanted.add(body, condition.get("kind") == Some(&json!("when")), MAX_DEPTH);
    }
    wanted.opposite().or_else(|| wanted.two_values()).or_else(|| wanted.no_number())
}

impl Wanted {
    /// Takes a condition apart as far as each part must be true, or each must be false.
    fn add(&mut self, body: &Value, holds: bool, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else { return };
        let apart = if holds { "&&" } else { "||" };
        if let Some((left, right)) = sides(body, apart) {
            self.add(left, holds, depth);
            self.add(right, holds, depth);
        } else if let Some(inner) = body.get("!").and_then(|not| not.get("arg")) {
            self.add(inner, !holds, depth);
        } else if let Some((left, right)) = sides(body, "!=") {
            self.add(&json!({ "==": { "left": left, "right": right } }), !holds, depth);
        } else if holds {
            self.held.push(turned(body));
        } else {
            self.not.push(turned(body));
        }
    }

    /// Something that must be false although parts that must be true make it true.
    fn opposite(&self) -> Option<Contradiction> {
        let denied = self.not.iter().find(|denied| self.follows(denied, MAX_DEPTH))?;
        let one = self.held.iter().find(|held| *held == denied).unwrap_or(denied);
        Some(Contradiction { one: one.clone(), other: json!({ "!": { "arg": denied } }) })
    }

    /// Whether something is true, or has an error, if all is true that must be.
    fn follows(&self, body: &Value, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        if let Some((left, right)) = sides(body, "&&") {
            return self.follows(left, depth) && self.follows(right, depth);
        }
        if let Some((left, right)) = sides(body, "||") {
            return self.follows(left, depth) || self.follows(right, depth);
        }
        self.held.contains(&turned(body))
    }

    /// Something that must equal two literals.
    fn two_values(&self) -> Option<Contradiction> {
        let mut first: Vec<(&Value, &Value, &Value)> = Vec::new();
        for held in &self.held {
            let Some((what, literal)) = sides(held, "==").filter(|(_, literal)| is_literal(literal)) else {
                continue;
            };
            match first.iter().find(|(other, ..)| *other == what) {
                Some((_, value, one)) if *value != literal => {
                    return Some(Contradiction { one: (*one).clone(), other: held.clone() });
                }
                Some(_) => {}
                None => first.push((what, literal, held)),
            }
        }
        None
    }

    /// A number that must be above one bound and below a lower one.
    fn no_number(&self) -> Option<Contradiction> {
        let mut least: HashMap<String, (i128, Value)> = HashMap::new();
        let mut most: HashMap<String, (i128, Value)> = HashMap::new();
        let all = self.held.iter().map(|part| (part, true)).chain(self.not.iter().map(|part| (part, false)));
        for (part, holds) in all {
            let Some((what, bounds)) = bounds(part, holds) else { continue };
            let shown = if holds { part.clone() } else { reverse(part) };
            let key = what.to_string();
            if let Some(low) = bounds.0
                && least.get(&key).is_none_or(|(before, _)| low > *before)
            {
                least.insert(key.clone(), (low, shown.clone()));
            }
            if let Some(high) = bounds.1
                && most.get(&key).is_none_or(|(before, _)| high < *before)
            {
                most.insert(key.clone(), (high, shown));
            }
            if let (Some((low, one)), Some((high, other))) = (least.get(&key), most.get(&key))
                && low > high
            {
                return Some(Contradiction { one: one.clone(), other: other.clone() });
            }
        }
        None
    }
}

fn sides<'a>(body: &'a Value, operator: &str) -> Option<(&'a Value, &'a Value)> {
    let both = body.get(operator)?;
    Some((both.get("left")?, both.get("right")?))
}

/// The same with the literal of an equality on the right.
fn turned(body: &Value) -> Value {
    match sides(body, "==") {
        Some((left, right)) if is_literal(left) && !is_literal(right) => {
            json!({ "==": { "left": right, "right": left } })
        }
        _ => body.clone(),
    }
}

/// A literal of which two that are written otherwise are two values.
fn is_literal(expression: &Value) -> bool {
    let simple = |value: &Value| value.is_string() || value.is_i64() || value.is_boolean();
    expression.get("Value").is_some_and(|value| simple(value) || value.get("__entity").is_some())
}

/// The comparison that holds where this one does not.
fn reverse(part: &Value) -> Value {
    let pairs = [("<", ">="), ("<=", ">"), (">", "<="), (">=", "<")];
    let other = pairs.iter().find_map(|(operator, other)| Some(json!({ *other: part.get(operator)? })));
    other.unwrap_or_else(|| part.clone())
}

/// The least and the most that something can be.
type Bounds = (Option<i128>, Option<i128>);

/// What a comparison with a whole number says of the other side: the least and the most that it can be.
fn bounds(part: &Value, holds: bool) -> Option<(&Value, Bounds)> {
    let number = |side: &Value| side.get("Value").and_then(Value::as_i64).map(i128::from);
    for operator in ["<", "<=", ">", ">=", "=="] {
        let Some((left, right)) = sides(part, operator) else { continue };
        let (what, number, turned) = match (number(left), number(right)) {
            (None, Some(number)) => (left, number, false),
            (Some(number), None) => (right, number, true),
            _ => return None,
        };
        let bounds = match (operator, turned, holds) {
            ("==", _, true) => (Some(number), Some(number)),
            ("==", _, false) => return None,
            ("<", false, true) | (">", true, true) | (">=", false, false) | ("<=", true, false) => {
                (None, Some(number - 1))
            }
            ("<=", false, true) | (">=", true, true) | (">", false, false) | ("<", true, false) => {
                (None, Some(number))
            }
            (">", false, true) | ("<", true, true) | ("<=", false, false) | (">=", true, false) => {
                (Some(number + 1), None)
            }
            _ => (Some(number), None),
        };
        return Some((what, bounds));
    }
    None
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn found(policy: &str) -> bool {
        let policy = Policy::parse(None, policy).unwrap_or_else(|error| panic!("{policy}: {error}"));
        let found = contradiction(&policy.to_json().unwrap());
        // The form that the check of a bundle sees, without the text, says the same.
        let bare = Policy::from(policy.as_ref().clone()).to_json().unwrap();
        assert_eq!(found.is_some(), contradiction(&bare).is_some(), "{policy}");
        found.is_some()
    }

    #[test]
    fn what_can_never_match_is_found() {
        for conditions in [
            "when { context.a } unless { context.a }",
            "when { context.a && context.b } unless { context.c || context.b }",
            "when { context.a && context.b } unless { context.b && context.a }",
            "when { context.a && !context.a }",
            "when { context.a } when { !(context.a) }",
            "when { context.a } unless { context.a || context.b }",
            "when { context.x == 1 && context.x == 2 }",
            "when { context.x == \"a\" } when { \"b\" == context.x }",
            "when { context.x == T::\"a\" && context.y && context.x == T::\"b\" }",
            "when { context.x == 1 && context.x != 1 }",
            "when { context.x == 1 } unless { 1 == context.x }",
            "when { context.x > 2 && context.x < 3 }",
            "when { context.x >= 2 && context.x <= 1 }",
            "when { 2 < context.x } unless { context.x >= 3 }",
            "when { context.x == 5 && context.x < 5 }",
            "unless { context.x < 2 } when { context.x <= 1 }",
            "when { context.x < -9223372036854775808 && context.x > -9223372036854775808 }",
        ] {
            assert!(found(&format!("permit (principal, action, resource) {conditions};")), "{conditions}");
        }
        assert!(found("permit (principal == U::\"a\", action, resource) when { principal == U::\"b\" };"));
        assert!(found("forbid (principal, action, resource == R::\"a\") when { resource != R::\"a\" };"));
    }

    #[test]
    fn what_may_match_is_not() {
        for conditions in [
            "",
            "when { context.a } unless { context.b }",
            "when { context.a } unless { context.a && context.b }",
            "when { context.a || !context.a }",
            "unless { context.a } unless { context.b }",
            "when { context.b } unless { context.a && context.b }",
            "when { context.x == 1 && context.y == 2 }",
            "when { context.x == 1 && context.x == 1 }",
            "when { context.x == context.y && context.x == context.z }",
            "when { context.x == 1 || context.x == 2 }",
            "when { if context.a then context.x == 1 else context.x == 2 }",
            "when { context.x >= 2 && context.x <= 2 }",
            "when { context.x > 2 && context.y < 2 }",
            "when { context.x > 2 } unless { context.x < 3 }",
            "unless { context.x > 2 && context.x < 2 }",
            "when { [1, 2].contains(context.x) && context.x == 1 }",
            "when { context.x != 1 && context.x != 2 }",
        ] {
            assert!(!found(&format!("permit (principal, action, resource) {conditions};")), "{conditions}");
        }
        assert!(!found(
            "permit (principal == U::\"a\", action, resource == U::\"b\") when { principal == U::\"a\" };"
        ));
    }
}
