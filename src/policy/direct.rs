//! Conditions that can be told from a request's facts by looking, without Cedar's evaluator.
//!
//! Most conditions compare an attribute with a literal. Cedar's evaluator copies a value at each step to there; here references are
//! followed. Only what the language says in a sentence is done here: what has the wrong type, is missing, overflows or is not in the
//! list of [`Test`] has no answer here, and is evaluated by Cedar as a whole, which then also words the error. So an answer is never
//! another than Cedar's, which `differential` holds against made-up conditions and Cedar's own tests.

use std::cell::Cell;
use std::sync::Arc;

use cedar_policy_core::ast::{
    BinaryOp, Context, EntityType, EntityUID, EntityUIDEntry, Expr, ExprKind, Literal, PartialValue, Request,
    UnaryOp, Value, ValueKind, Var,
};
use cedar_policy_core::entities::{Dereference, Entities};

use super::wildcards::Wildcards;

/// The request and its entities, as values to look into.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    principal: Value,
    action: Value,
    resource: Value,
    context: Value,
    entities: &'a Entities,
}

impl<'a> Facts<'a> {
    /// None if something of the request is not known.
    pub(super) fn new(request: &Request, entities: &'a Entities) -> Option<Self> {
        let Context::Value(context) = request.context()? else { return None };
        Some(Self {
            principal: entity(request.principal())?,
            action: entity(request.action())?,
            resource: entity(request.resource())?,
            context: Value::record_arc(Arc::clone(context), None),
            entities,
        })
    }

    /// An attribute of a record, or of an entity that is known.
    fn attribute<'v>(&'v self, of: &'v Value, name: &str) -> Option<&'v Value> {
        match of.value_kind() {
            ValueKind::Record(record) => record.get(name),
            ValueKind::Lit(Literal::EntityUID(uid)) => match self.entities.entity(uid) {
                Dereference::Data(entity) => match entity.get(name)? {
                    PartialValue::Value(value) => Some(value),
                    PartialValue::Residual(_) => None,
                },
                Dereference::NoSuchEntity | Dereference::Residual(_) => None,
            },
            _ => None,
        }
    }
}

fn entity(entry: &EntityUIDEntry) -> Option<Value> {
    match entry {
        EntityUIDEntry::Known { euid, .. } => Some(Value::from(Arc::clone(euid))),
        EntityUIDEntry::Unknown { .. } => None,
    }
}

/// What names a value: written in the policy, or found by following attributes.
#[derive(Debug, PartialEq)]
pub(super) enum Operand {
    Literal(Value),
    Variable(Var),
    Attribute(Box<Self>, Box<str>),
}

impl Operand {
    fn read(expression: &Expr) -> Option<Self> {
        match expression.expr_kind() {
            ExprKind::Lit(_) => Some(Self::Literal(literal(expression)?)),
            ExprKind::Set(elements) => {
                let elements = elements.iter().map(literal).collect::<Option<Vec<_>>>()?;
                Some(Self::Literal(Value::set(elements, None)))
            }
            ExprKind::Var(variable) => Some(Self::Variable(*variable)),
            ExprKind::GetAttr { expr, attr } => {
                Some(Self::Attribute(Box::new(Self::read(expr)?), attr.as_str().into()))
            }
            _ => None,
        }
    }

    fn find<'v>(&'v self, look: &Look<'v>) -> Option<&'v Value> {
        let facts = look.facts;
        match self {
            Self::Literal(value) => Some(value),
            Self::Variable(Var::Principal) => Some(&facts.principal),
            Self::Variable(Var::Action) => Some(&facts.action),
            Self::Variable(Var::Resource) => Some(&facts.resource),
            Self::Variable(Var::Context) => Some(&facts.context),
            Self::Attribute(of, name) => look.remembered(self, || facts.attribute(of.find(look)?, name)),
        }
    }
}

fn literal(expression: &Expr) -> Option<Value> {
    match expression.expr_kind() {
        ExprKind::Lit(literal) => Some(Value::new(literal.clone(), None)),
        _ => None,
    }
}

/// A look at a request. It remembers what it found last: policies that stand together often ask for the same.
#[derive(Debug)]
pub(super) struct Look<'v> {
    facts: &'v Facts<'v>,
    last: Cell<Option<(&'v Operand, Option<&'v Value>)>>,
}

impl<'v> Look<'v> {
    pub(super) const fn new(facts: &'v Facts<'v>) -> Self {
        Self { facts, last: Cell::new(None) }
    }

    fn remembered(
        &self,
        operand: &'v Operand,
        find: impl FnOnce() -> Option<&'v Value>,
    ) -> Option<&'v Value> {
        if let Some((known, value)) = self.last.get()
            && known == operand
        {
            return value;
        }
        let value = find();
        self.last.set(Some((operand, value)));
        value
    }
}

/// A condition, as far as it can be told by looking.
#[derive(Debug)]
pub(super) enum Test {
    /// The value is a boolean.
    True(Operand),
    Has(Operand, Box<str>),
    Equal(Operand, Operand),
    Less(Operand, Operand),
    AtMost(Operand, Operand),
    Like(Operand, Wildcards),
    Contains(Operand, Operand),
    In(Operand, Operand),
    Is(Operand, EntityType),
    Not(Box<Self>),
    And(Box<(Self, Self)>),
    Or(Box<(Self, Self)>),
    /// Cedar must say.
    Open,
}

impl Test {
    /// What of a condition can be told here. `Open` where it cannot, also within.
    pub(super) fn read(expression: &Expr) -> Self {
        Self::try_read(expression).unwrap_or(Self::Open)
    }

    fn try_read(expression: &Expr) -> Option<Self> {
        Some(match expression.expr_kind() {
            ExprKind::Lit(_) | ExprKind::GetAttr { .. } => Self::True(Operand::read(expression)?),
            ExprKind::And { left, right } => Self::And(Box::new((Self::try_read(left)?, Self::read(right)))),
            ExprKind::Or { left, right } => Self::Or(Box::new((Self::try_read(left)?, Self::read(right)))),
            ExprKind::UnaryApp { op: UnaryOp::Not, arg } => Self::Not(Box::new(Self::try_read(arg)?)),
            ExprKind::HasAttr { expr, attr } => Self::Has(Operand::read(expr)?, attr.as_str().into()),
            ExprKind::Like { expr, pattern } => Self::Like(Operand::read(expr)?, Wildcards::new(pattern)),
            ExprKind::Is { expr, entity_type } => Self::Is(Operand::read(expr)?, entity_type.clone()),
            ExprKind::BinaryApp { op, arg1, arg2 } => {
                let (left, right) = (Operand::read(arg1)?, Operand::read(arg2)?);
                match op {
                    BinaryOp::Eq => Self::Equal(left, right),
                    BinaryOp::Less => Self::Less(left, right),
                    BinaryOp::LessEq => Self::AtMost(left, right),
                    BinaryOp::Contains => Self::Contains(left, right),
                    BinaryOp::In => Self::In(left, right),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    /// Whether the condition holds; none if Cedar must say.
    pub(super) fn holds<'v>(&'v self, look: &Look<'v>) -> Option<bool> {
        match self {
            Self::True(operand) => match operand.find(look)?.value_kind() {
                ValueKind::Lit(Literal::Bool(value)) => Some(*value),
                _ => None,
            },
            Self::Has(of, name) => match of.find(look)?.value_kind() {
                ValueKind::Record(record) => Some(record.contains_key(&**name)),
                ValueKind::Lit(Literal::EntityUID(uid)) => match look.facts.entities.entity(uid) {
                    Dereference::Data(entity) => Some(entity.get(name).is_some()),
                    Dereference::NoSuchEntity => Some(false),
                    Dereference::Residual(_) => None,
                },
                _ => None,
            },
            Self::Equal(left, right) => Some(left.find(look)? == right.find(look)?),
            Self::Less(left, right) => longs(left, right, look).map(|(left, right)| left < right),
            Self::AtMost(left, right) => longs(left, right, look).map(|(left, right)| left <= right),
            Self::Like(operand, pattern) => match operand.find(look)?.value_kind() {
                ValueKind::Lit(Literal::String(text)) => Some(pattern.matches(text)),
                _ => None,
            },
            Self::Contains(set, element) => match set.find(look)?.value_kind() {
                ValueKind::Set(set) => Some(set.contains(element.find(look)?)),
                _ => None,
            },
            Self::In(inner, outer) => is_in(inner.find(look)?, outer.find(look)?, look.facts.entities),
            Self::Is(operand, kind) => Some(uid(operand.find(look)?)?.entity_type() == kind),
            Self::Not(test) => test.holds(look).map(|holds| !holds),
            Self::And(both) => Some(both.0.holds(look)? && both.1.holds(look)?),
            Self::Or(either) => Some(either.0.holds(look)? || either.1.holds(look)?),
            Self::Open => None,
        }
    }
}

fn longs<'v>(left: &'v Operand, right: &'v Operand, look: &Look<'v>) -> Option<(i64, i64)> {
    match (left.find(look)?.value_kind(), right.find(look)?.value_kind()) {
        (ValueKind::Lit(Literal::Long(left)), ValueKind::Lit(Literal::Long(right))) => Some((*left, *right)),
        _ => None,
    }
}

/// An entity that nobody knows is in nothing but itself.
fn is_in(inner: &Value, outer: &Value, entities: &Entities) -> Option<bool> {
    let inner = uid(inner)?;
    let known = match entities.entity(inner) {
        Dereference::Data(entity) => Some(entity),
        Dereference::NoSuchEntity => None,
        Dereference::Residual(_) => return None,
    };
    let within = |outer: &EntityUID| inner == outer || known.is_some_and(|own| own.is_descendant_of(outer));
    match outer.value_kind() {
        // All must be entities, also those after the one that it is in.
        ValueKind::Set(set) => set.iter().try_fold(false, |found, outer| Some(found | within(uid(outer)?))),
        _ => uid(outer).map(within),
    }
}

fn uid(value: &Value) -> Option<&EntityUID> {
    match value.value_kind() {
        ValueKind::Lit(Literal::EntityUID(uid)) => Some(uid),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Context, Entities, Policy, Request};
    use serde_json::json;

    use super::super::nesting::{MAX_NESTING, MAX_OPERATORS, STACK_BYTES};
    use super::*;

    fn read(condition: &str) -> Test {
        let policy = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy: Policy = policy.parse().unwrap();
        Test::read(policy.as_ref().non_scope_constraints().unwrap())
    }

    fn told(condition: &str) -> Option<bool> {
        told_of(&read(condition))
    }

    /// What is told of a condition, for a request at level 2 of an `ab` who is in team `a`.
    fn told_of(test: &Test) -> Option<bool> {
        let uid = |kind: &str, id: &str| json!({"type": kind, "id": id});
        let entities = json!([
            {"uid": uid("User", "ada"), "parents": [uid("Team", "a")], "attrs": {"clearance": 3}},
            {"uid": uid("Team", "a"), "parents": [], "attrs": {}},
        ]);
        let entities = Entities::from_json_value(entities, None).unwrap();
        let context = json!({"level": 2, "name": "ab", "inner": {"flag": true}, "list": [1, 2]});
        let context = Context::from_json_value(context, None).unwrap();
        let uid = |text: &str| text.parse().unwrap();
        let request =
            Request::new(uid("User::\"ada\""), uid("Action::\"read\""), uid("Doc::\"d\""), context, None);
        let request = request.unwrap();
        let facts = Facts::new(request.as_ref(), entities.as_ref()).unwrap();
        test.holds(&Look::new(&facts))
    }

    #[test]
    fn what_a_look_can_tell_is_told() {
        for condition in [
            "context.level >= 2 && context.level <= 2 && context.level < 3 && 1 < context.level",
            "context.name == \"ab\" && context.name != \"ba\" && context.name like \"a*\"",
            "context.inner.flag || context.level",
            "!(context has absent) && context.inner has flag && principal has clearance",
            "[\"ab\", \"cd\"].contains(context.name) && context.list.contains(context.level)",
            "principal in Team::\"a\" && principal in [Team::\"b\", Team::\"a\"] && principal.clearance == 3",
            "principal is User && action == Action::\"read\" && resource in Doc::\"d\"",
            "!(resource has open || resource in Team::\"a\" || context.list == [1])",
        ] {
            assert_eq!(told(condition), Some(true), "{condition}");
            assert_eq!(told(&format!("!({condition})")), Some(false), "{condition}");
        }
        // The rest is not looked at, as in Cedar.
        assert_eq!(told("context.level > 2 && context.absent"), Some(false));
        assert_eq!(told("context.level == 2 || context.absent"), Some(true));
    }

    #[test]
    fn what_errs_or_is_not_known_here_is_left_to_cedar() {
        for condition in [
            "context.absent",
            "context.level",
            "context.level && true",
            "true && context.level",
            "context.absent && false",
            "context.level < \"3\"",
            "context.level like \"*\"",
            "context.name has length",
            "context.level.contains(1)",
            "context.level in Team::\"a\"",
            "principal in [Team::\"a\", 1]",
            "resource.open",
            "context.level + 1 == 3",
            "context.list.isEmpty()",
            "ip(\"::1\").isLoopback()",
        ] {
            assert_eq!(told(condition), None, "{condition}");
        }
    }

    /// Cedar's evaluator watches its stack; here the bounds on policies must do.
    #[test]
    fn the_deepest_conditions_fit_a_small_stack() {
        fn on<T: Send + 'static>(stack: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
            std::thread::Builder::new().stack_size(stack).spawn(work).unwrap().join().unwrap()
        }
        let chain = vec!["context.level == 2"; MAX_OPERATORS].join(" && ");
        let nots =
            format!("{}(context.level == 3)", "!(".repeat(MAX_NESTING - 1)) + &")".repeat(MAX_NESTING - 1);
        for condition in [chain, nots] {
            let test = on(STACK_BYTES, move || read(&condition));
            assert!(on(1 << 20, move || told_of(&test)).is_some());
        }
    }
}
