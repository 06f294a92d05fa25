//! The evaluation of a request: the policies whose scope matches, each by its conditions alone, combined as Cedar's authorizer does.
//!
//! What is ours is which policies are looked at ([`super::index`]), that their scopes, which the index has decided already, are not
//! evaluated again, and that conditions that can be told by looking are ([`super::direct`]); Cedar's evaluator does the rest. Decision, reasons and errors are those of the plain authorizer over the whole set: tests
//! in `differential` compare them over generated sets and Cedar's own corpus. Nothing of an answer is kept.

use std::cell::LazyCell;
use std::sync::Arc;

use cedar_policy::{AuthorizationError, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet};
use cedar_policy_core::ast::{Expr, Literal, Request, SlotEnv, Value, ValueKind};
use cedar_policy_core::authorizer::AuthorizationError as core;
use cedar_policy_core::evaluator::{EvaluationError, Evaluator};
use cedar_policy_core::extensions::Extensions;
use cedar_policy_core::pst;

use super::direct::{Facts, Look, Test};
use super::index::Index;
use super::schema::describe;

/// A policy made ready.
#[derive(Debug)]
struct Rule {
    id: PolicyId,
    effect: Effect,
    /// `None`: it applies wherever its scope matches.
    conditions: Option<Conditions>,
}

/// What a policy says beyond its scope.
#[derive(Debug)]
struct Conditions {
    expression: Expr,
    /// The same as far as it needs no evaluator.
    test: Test,
}

impl Conditions {
    fn new(expression: Expr) -> Self {
        let expression = bare(expression);
        Self { test: Test::read(&expression), expression }
    }
}

impl Rule {
    fn new(id: &PolicyId, policy: &Policy) -> Self {
        // Conditions hold no slots, so those of a linked policy are those of its template.
        let conditions = policy.as_ref().non_scope_constraints().cloned();
        Self { id: id.clone(), effect: policy.effect(), conditions: conditions.map(Conditions::new) }
    }
}

/// An expression without its places in the file. Evaluation hands these on to each value, by a counter that all threads share, and no
/// answer shows them. Cedar's public syntax tree has none; what it cannot hold stays as it is.
fn bare(expression: Expr) -> Expr {
    pst::Expr::try_from(expression.clone()).map_or(expression, Expr::from)
}

/// Policies of an [`Engine`] whose scope matches a request, by position.
#[derive(Debug, Clone)]
pub(super) struct Slice(Arc<[u32]>);

/// Cedar's answer to one request.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    /// A permit applied and no forbid. Errors do not count here: who enforces must look at them too.
    pub(super) allow: bool,
    /// The permits of an Allow, the forbids of a Deny.
    pub(super) reasons: Vec<&'a PolicyId>,
    /// The policies that could not be evaluated.
    pub(super) errors: Vec<(&'a PolicyId, Box<EvaluationError>)>,
}

/// A set of policies made ready.
#[derive(Debug)]
pub(super) struct Engine {
    index: Index,
    rules: Box<[Rule]>,
    slots: SlotEnv,
}

impl Engine {
    /// Indexes a set.
    pub(super) fn new(policies: &PolicySet) -> Self {
        Self {
            index: Index::new(policies.policies()),
            rules: policies.policies().map(|policy| Rule::new(policy.id(), policy)).collect(),
            slots: SlotEnv::new(),
        }
    }

    /// The policies that can apply. The same for all requests with this principal, action and resource over these entities.
    pub(super) fn slice(
        &self,
        principal: &EntityUid,
        action: &EntityUid,
        resource: &EntityUid,
        entities: &Entities,
    ) -> Slice {
        Slice(self.index.matching(principal, action, resource, entities).into())
    }

    /// Evaluates a request over its slice. Allocates for reasons and errors, not for policies that do not apply.
    pub(super) fn answer(&self, request: Request, slice: &Slice, entities: &Entities) -> Answer<'_> {
        let facts = Facts::new(&request, entities.as_ref());
        let look = facts.as_ref().map(Look::new);
        let cedar = LazyCell::new(|| Evaluator::new(request, entities.as_ref(), Extensions::all_available()));
        let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for rule in slice.0.iter().filter_map(|position| self.rules.get(usize::try_from(*position).ok()?)) {
            let told = match &rule.conditions {
                None => Some(true),
                Some(conditions) => look.as_ref().and_then(|look| conditions.test.holds(look)),
            };
            let applies = told.map_or_else(|| self.applies(&cedar, rule), Ok);
            match applies {
                Ok(false) => {}
                Ok(true) if rule.effect == Effect::Permit => permits.push(&rule.id),
                Ok(true) => forbids.push(&rule.id),
                Err(error) => errors.push((&rule.id, error)),
            }
        }
        let allow = forbids.is_empty() && !permits.is_empty();
        // A permit beside a forbid is no reason for the Deny.
        Answer { allow, reasons: if allow { permits } else { forbids }, errors }
    }

    fn applies(&self, cedar: &Evaluator<'_>, rule: &Rule) -> Result<bool, Box<EvaluationError>> {
        let Some(Conditions { expression, .. }) = &rule.conditions else { return Ok(true) };
        match cedar.interpret(expression, &self.slots)?.value {
            ValueKind::Lit(Literal::Bool(applies)) => Ok(applies),
            // No boolean: Cedar's own error for that, as it comes of the whole policy.
            _ => {
                let whole = Expr::and(Expr::val(true), expression.clone());
                let applies = cedar.interpret(&whole, &self.slots)?;
                Ok(applies == Value::from(true))
            }
        }
    }
}

/// What Cedar says of a policy that it could not evaluate.
pub(super) fn error_text(id: &PolicyId, error: &EvaluationError) -> String {
    let id = id.clone().into();
    let error = core::PolicyEvaluationError { id, error: error.clone() };
    describe(&AuthorizationError::from(error))
}
