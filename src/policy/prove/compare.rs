//! Two bundles compared for every request that there can be: is any allowed by the one and not by the other?
//!
//! Asked for each kind of request, both ways. A kind that no changed policy can apply to is not asked: its policies are the same. What is
//! compared are the policies, over any entities: that the entities themselves are others is not seen here.

use std::collections::BTreeSet;
use std::sync::Mutex;

use cedar_policy::{Entities, EntityUid, Policy, PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet};
use serde_json::Value;

use super::claims::{of_the_gateway, only_the_gateway};
use super::report::{Compared, Counterexample, Relation};
use super::solver::Solver;
use super::witness::{Side, differs};
use super::work::{Options, ProveError, environments, spread};
use super::worker::{Question, Worker, reason};
use crate::policy::Bundle;
use crate::policy::schema::describe;
use crate::policy::source::SCHEMA;

/// Both bundles and what differs.
struct Pair<'a> {
    old: &'a Bundle,
    new: &'a Bundle,
    /// The policies of the old and the new one, for requests of the gateway only.
    narrow: Result<(PolicySet, PolicySet), String>,
    /// Policies that only one of them has.
    changed: Vec<Changed>,
    /// The actions stand in other groups: `action in …` means another thing, and nothing can be compared.
    regrouped: bool,
    /// Kinds of request that the old one has.
    known: BTreeSet<String>,
    nothing: PolicySet,
}

/// A policy that only one of the bundles has.
struct Changed {
    policy: Policy,
    /// The same for requests of the gateway only.
    narrow: Result<Policy, String>,
    /// The kinds of request that it can apply to, if that can be known.
    kinds: Option<BTreeSet<RequestEnv>>,
}

/// Compares the policies of two bundles for each kind of request, in order of name. `progress` is told how many of how many are done.
///
/// # Errors
/// The solvers could not be run. What a solver does not answer is no error but unknown.
pub fn compare(
    (old, new): (&Bundle, &Bundle),
    solver: &Solver,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Compared>, ProveError> {
    let pair = Pair::of(old, new);
    let kinds = environments(new);
    let found = Mutex::new(Vec::new());
    spread(&kinds, (solver, options, progress), |runtime, worker, _, (name, env)| {
        let compared = runtime.block_on(pair.compare(worker, name, env));
        found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(compared);
    })?;
    let mut found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let now: BTreeSet<&String> = kinds.iter().map(|(name, _)| name).collect();
    found.extend(pair.known.iter().filter(|name| !now.contains(name)).map(|name| gone(name)));
    found.sort_by(|a, b| a.environment.cmp(&b.environment));
    Ok(found)
}

/// A kind of request that there is no more: nothing of it is allowed.
fn gone(name: &str) -> Compared {
    let why = "there is no such request any more".to_owned();
    Compared { why: Some(why), ..Compared::new(name, Relation::Stricter) }
}

impl<'a> Pair<'a> {
    fn of(old: &'a Bundle, new: &'a Bundle) -> Self {
        let narrow = |bundle: &Bundle| only_the_gateway(bundle.policy_set()).map_err(|e| describe(&e));
        let (before, after) = (meanings(old.policy_set()), meanings(new.policy_set()));
        let only = |bundle: &Bundle, other: &BTreeSet<String>| {
            let policies = bundle.policy_set().policies();
            policies.filter(|policy| !other.contains(&meaning(policy))).cloned().collect::<Vec<_>>()
        };
        let text = |bundle: &'a Bundle| bundle.files().iter().find(|(name, _)| name == SCHEMA);
        let same_schema = text(old) == text(new);
        // A policy of the one schema need not be valid in the other, and would seem not to apply.
        let kinds = |policy: &Policy| policy.get_valid_request_envs(new.schema()).collect();
        let changed = |policy: Policy| Changed {
            narrow: of_the_gateway(&policy).map_err(|error| describe(&error)),
            kinds: same_schema.then(|| kinds(&policy)),
            policy,
        };
        Self {
            old,
            new,
            narrow: narrow(old).and_then(|old| Ok((old, narrow(new)?))),
            changed: only(old, &after).into_iter().chain(only(new, &before)).map(changed).collect(),
            regrouped: !same_schema && regrouped(old.schema(), new.schema()),
            known: environments(old).into_iter().map(|(name, _)| name).collect(),
            nothing: PolicySet::new(),
        }
    }

    /// The policies that only one bundle has and that can apply to this kind of request.
    fn changed(&self, env: &RequestEnv) -> Vec<&Changed> {
        let applies = |changed: &&Changed| changed.kinds.as_ref().is_none_or(|kinds| kinds.contains(env));
        self.changed.iter().filter(applies).collect()
    }

    async fn compare(&self, worker: &mut Worker<'_>, name: &str, env: &RequestEnv) -> Compared {
        match self.ask(worker, name, env).await {
            Ok(compared) => compared,
            Err(why) => Compared { why: Some(why), ..Compared::new(name, Relation::Unknown) },
        }
    }

    async fn ask(&self, worker: &mut Worker<'_>, name: &str, env: &RequestEnv) -> Result<Compared, String> {
        if self.regrouped {
            return Err("the schema puts actions into other groups, so policies mean other things".to_owned());
        }
        let changed = self.changed(env);
        let is_new = !self.known.contains(name);
        if changed.is_empty() && !is_new {
            return Ok(Compared::new(name, Relation::Equivalent));
        }
        for changed in changed {
            self.never_errs(worker, env, changed).await?;
        }
        let looser = self.allows_more(worker, (name, env, is_new), Side::New).await?;
        let stricter = match is_new {
            true => None,
            false => self.allows_more(worker, (name, env, is_new), Side::Old).await?,
        };
        let relation = match (&looser, &stricter) {
            (None, None) => Relation::Equivalent,
            (Some(_), None) => Relation::Looser,
            (None, Some(_)) => Relation::Stricter,
            (Some(_), Some(_)) => Relation::Both,
        };
        Ok(Compared { looser, stricter, ..Compared::new(name, relation) })
    }

    /// An error denies in the gateway, and a solver leaves the policy out: both are the same only without errors.
    async fn never_errs(
        &self,
        worker: &mut Worker<'_>,
        env: &RequestEnv,
        Changed { policy, narrow, .. }: &Changed,
    ) -> Result<(), String> {
        let compiled = CompiledPolicy::compile(policy, env, self.new.schema());
        if let Ok(compiled) = &compiled
            && matches!(worker.ask(Question::NeverErrors(compiled)).await, Ok(None))
        {
            return Ok(());
        }
        let narrow = narrow.as_ref().map_err(Clone::clone)?;
        let compiled = CompiledPolicy::compile(narrow, env, self.new.schema()).map_err(|e| reason(&e))?;
        match worker.ask(Question::NeverErrors(&compiled)).await? {
            None => Ok(()),
            Some(_) => Err(format!("policy `{}` can have an error, which denies everything", policy.id())),
        }
    }

    /// A request that the bundle of this side allows and the other denies.
    async fn allows_more(
        &self,
        worker: &mut Worker<'_>,
        (name, env, is_new): (&str, &RequestEnv, bool),
        side: Side,
    ) -> Result<Option<Box<Counterexample>>, String> {
        let compile = |set: &PolicySet| {
            CompiledPolicySet::compile(set, env, self.new.schema()).map_err(|error| reason(&error))
        };
        let before = if is_new { &self.nothing } else { self.old.policy_set() };
        let (old, new) = (compile(before)?, compile(self.new.policy_set())?);
        let question = |old, new| match side {
            Side::New => Question::Implies(new, old),
            Side::Old => Question::Implies(old, new),
        };
        // The larger claim, over requests that cannot be as well, is the shorter text and mostly true.
        if matches!(worker.ask(question(&old, &new)).await, Ok(None)) {
            return Ok(None);
        }
        let (before, after) = self.narrow.as_ref().map_err(Clone::clone)?;
        let before = if is_new { &self.nothing } else { before };
        let (old, new) = (compile(before)?, compile(after)?);
        match worker.ask(question(&old, &new)).await? {
            None => Ok(None),
            Some(found) => {
                let old = (!is_new).then_some(self.old);
                differs((old, self.new), name, &found, side).map(|request| Some(Box::new(request)))
            }
        }
    }
}

/// Whether an action that both schemas have is in other groups.
fn regrouped(old: &Schema, new: &Schema) -> bool {
    let (Ok(before), Ok(after)) = (old.action_entities(), new.action_entities()) else { return true };
    let groups = |actions: &Entities, action: &EntityUid| -> Option<BTreeSet<EntityUid>> {
        Some(actions.ancestors(action)?.cloned().collect())
    };
    old.actions().any(|action| {
        let now = groups(&after, action);
        now.is_some() && now != groups(&before, action)
    })
}

/// A policy without what decides nothing: its id and annotations.
fn meaning(policy: &Policy) -> String {
    // One that has no JSON form is like no other.
    let Ok(mut json) = policy.to_json() else { return format!("{}: {policy}", policy.id()) };
    if let Value::Object(members) = &mut json {
        members.remove("annotations");
    }
    json.to_string()
}

fn meanings(policies: &PolicySet) -> BTreeSet<String> {
    policies.policies().map(meaning).collect()
}
