//! Where in a policy it is that it can never match: Cedar tells of such a policy, but not of the place.

use std::collections::BTreeSet;

use cedar_policy::{Policy, PolicySet, SchemaFragment, ValidationMode, ValidationWarning, Validator};
use cedar_policy_core::ast::{Annotations, Expr, ExprKind, StaticPolicy};
use serde_json::Value;

/// The deepest part of a schema that is looked at.
const MAX_DEPTH: usize = 200;

/// A part of a policy, by byte offsets in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Part {
    fn of(expression: &Expr) -> Option<Self> {
        expression.source_loc().map(|loc| Self { start: loc.start(), end: loc.end() })
    }

    /// Its text on one line.
    pub(super) fn text(&self, file: &str) -> String {
        file.get(self.start..self.end).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A `has` for an attribute that the schema declares nowhere: it never holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undeclared {
    pub(super) part: Part,
    pub(super) attribute: String,
}

/// All names of attributes in a schema, of whatever type; none if it does not parse.
pub(super) fn declared(schema: &str) -> BTreeSet<String> {
    let fragment = SchemaFragment::from_cedarschema_str(schema).ok();
    let json = fragment.and_then(|(fragment, _)| fragment.to_json_value().ok()).unwrap_or_default();
    let mut names = BTreeSet::new();
    collect(&json, MAX_DEPTH, &mut names);
    names
}

fn collect(json: &Value, depth: usize, names: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for (key, value) in json.as_object().into_iter().flatten() {
        if let Some(attributes) = value.as_object().filter(|_| key == "attributes") {
            names.extend(attributes.keys().cloned());
        }
        collect(value, depth, names);
    }
}

/// The `has` of a policy that never hold, in order of place.
pub(super) fn undeclared(policy: &Policy, declared: &BTreeSet<String>) -> Vec<Undeclared> {
    let condition = policy.as_ref().template().non_scope_constraints();
    let mut found = condition.map_or_else(Vec::new, |condition| undeclared_in(condition, declared));
    found.sort_by_key(|found| found.part.start);
    found
}

fn undeclared_in(condition: &Expr, declared: &BTreeSet<String>) -> Vec<Undeclared> {
    let of = |expression: &Expr| {
        let wanted: Vec<&str> = match expression.expr_kind() {
            ExprKind::HasAttr { attr, .. } => vec![attr.as_str()],
            ExprKind::ExtHasAttr { attrs, .. } => attrs.iter().map(|attr| attr.as_str()).collect(),
            _ => return None,
        };
        let attribute = wanted.into_iter().find(|attribute| !declared.contains(*attribute))?.to_owned();
        Some(Undeclared { part: Part::of(expression)?, attribute })
    };
    condition.subexpressions().filter_map(of).collect()
}

/// The first condition with which, after all before it, a policy can match no valid request; none if its head alone cannot.
pub(super) fn culprit(policy: &Policy, validator: &Validator) -> Option<Part> {
    let condition = policy.as_ref().template().non_scope_constraints()?;
    let parts = conjuncts(condition);
    let never = |count: usize| {
        let some = parts.iter().take(count).map(|part| (*part).clone()).reduce(Expr::and);
        is_never(policy, some, validator)
    };
    if never(0) || !never(parts.len()) {
        return None;
    }
    // More conditions never make a policy match again, so the first is found by halving.
    let (mut can, mut cannot) = (0, parts.len());
    while cannot - can > 1 {
        let middle = can.midpoint(cannot);
        if never(middle) {
            cannot = middle;
        } else {
            can = middle;
        }
    }
    parts.get(can).and_then(|part| Part::of(part))
}

/// The parts of a conjunction, in order; without recursion, for it may be long.
fn conjuncts(condition: &Expr) -> Vec<&Expr> {
    let (mut open, mut parts) = (vec![condition], Vec::new());
    while let Some(expression) = open.pop() {
        match expression.expr_kind() {
            ExprKind::And { left, right } => open.extend([right.as_ref(), left.as_ref()]),
            _ => parts.push(expression),
        }
    }
    parts
}

/// Whether the policy with that condition instead of its own can match no valid request.
fn is_never(policy: &Policy, condition: Option<Expr>, validator: &Validator) -> bool {
    let head = policy.as_ref().template();
    let other = StaticPolicy::new(
        head.id().clone(),
        None,
        Annotations::new(),
        head.effect(),
        head.principal_constraint().clone(),
        head.action_constraint().clone(),
        head.resource_constraint().clone(),
        condition,
    );
    let set = other.ok().and_then(|other| PolicySet::from_policies([Policy::from(other)]).ok());
    set.is_some_and(|set| {
        let result = validator.validate(&set, ValidationMode::Strict);
        result.validation_warnings().any(|warning| matches!(warning, ValidationWarning::ImpossiblePolicy(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::embedded;

    fn schema() -> &'static str {
        embedded::FILES.iter().find(|(name, _)| name.ends_with(".cedarschema")).unwrap().1
    }

    fn policy(conditions: &str) -> (String, Policy) {
        let text =
            format!("permit (principal, action == Tidegate::Action::\"infer\", resource)\n{conditions};");
        let policy = Policy::parse(None, &text).unwrap();
        (text, policy)
    }

    #[test]
    fn the_condition_that_makes_it_impossible_is_found() {
        let validator = Validator::new(schema().parse().unwrap());
        for (conditions, expected) in [
            ("when { context.data.level <= 1 && context has typo }", Some("context has typo")),
            ("when { context has typo && context.data.level <= 1 }", Some("context has typo")),
            ("when { context.data.level <= 1 } when { false } unless { context has purpose }", Some("false")),
            (
                "when { context has purpose } unless { true || context has purpose }",
                Some("unless { true || context has purpose }"),
            ),
            (
                "when { (context has purpose && context.purpose like \"a*\") && principal is Tidegate::Model }",
                Some("principal is Tidegate::Model"),
            ),
            ("when { context.data.level <= 1 }", None),
            ("", None),
        ] {
            let (text, policy) = policy(conditions);
            let found = culprit(&policy, &validator).map(|part| part.text(&text));
            assert_eq!(found.as_deref(), expected, "{conditions}");
        }
        let head = "permit (principal == Tidegate::Model::\"x\", action, resource) when { context.data.level <= 1 };";
        assert_eq!(culprit(&Policy::parse(None, head).unwrap(), &validator), None);
    }

    #[test]
    fn what_no_type_declares_is_never_there() {
        let declared = declared(schema());
        for name in ["purpose", "level", "agent", "tenant", "peer", "destination"] {
            assert!(declared.contains(name), "{name}");
        }
        let told = |conditions: &str| {
            let (text, policy) = policy(conditions);
            let found = undeclared(&policy, &declared);
            found.iter().map(|found| (found.attribute.clone(), found.part.text(&text))).collect::<Vec<_>>()
        };
        assert_eq!(told("when { context has purpose && context.chain has agent }"), []);
        let pair = |attribute: &str, text: &str| (attribute.to_owned(), text.to_owned());
        assert_eq!(
            told(
                "when { context has destination || context.chain has agnet }\nunless { context has purpos }"
            ),
            [pair("agnet", "context.chain has agnet"), pair("purpos", "context has purpos")]
        );
    }
}
