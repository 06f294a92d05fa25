//! One solver after another, and what is asked of it. One that is late is ended and replaced.

use std::time::{Duration, Instant};

use cedar_policy::{Policy, RequestEnv};
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env, err};

use super::invariants::Invariant;
use super::report::Counterexample;
use super::solver::Solver;
use super::witness::{Claimed, confirm};
use super::work::{Answer, Claim, Ladder};
use crate::policy::Bundle;
use crate::policy::schema::describe;

/// What a solver may take beyond its own limit before it is ended.
const GRACE: Duration = Duration::from_secs(2);

/// One solver at a time, and what is asked of it.
pub(super) struct Worker<'a> {
    solver: &'a Solver,
    limit: Duration,
    process: Option<CedarSymCompiler<LocalSolver>>,
}

/// One question.
pub(super) enum Question<'a> {
    Disjoint(&'a CompiledPolicySet, &'a CompiledPolicySet),
    Implies(&'a CompiledPolicySet, &'a CompiledPolicySet),
    NeverErrors(&'a CompiledPolicy),
    NeverMatches(&'a CompiledPolicy),
}

impl<'a> Worker<'a> {
    pub(super) const fn new(solver: &'a Solver, limit: Duration) -> Self {
        Self { solver, limit, process: None }
    }

    /// All claims for one kind of request.
    pub(super) async fn job(
        &mut self,
        bundle: &Bundle,
        name: &str,
        env: &RequestEnv,
        claims: &[Claim<'_>],
    ) -> Vec<(Answer, Duration)> {
        let all =
            CompiledPolicySet::compile(bundle.policy_set(), env, bundle.schema()).map_err(|e| reason(&e));
        let mut answers = Vec::new();
        for claim in claims {
            let began = Instant::now();
            let answer = match (claim, &all) {
                (Claim::Unclear(why), _) | (_, Err(why)) => Answer::Open(why.clone()),
                (Claim::Invariant(invariant, bad), Ok(all)) => {
                    self.invariant(bundle, (name, env), (invariant, bad), all).await
                }
                (Claim::NeverErrors(policies), Ok(_)) => {
                    self.never_errors(bundle, (name, env), policies).await
                }
                (Claim::Ladder(ladder), Ok(_)) => self.ladder(bundle, (name, env), ladder).await,
            };
            answers.push((answer, began.elapsed()));
        }
        answers
    }

    async fn invariant(
        &mut self,
        bundle: &Bundle,
        (name, env): (&str, &RequestEnv),
        (invariant, bad): (&Invariant, &Policy),
        all: &CompiledPolicySet,
    ) -> Answer {
        let compile = |policy: &Policy| {
            CompiledPolicy::compile(policy, env, bundle.schema()).map_err(|error| reason(&error))
        };
        let (any, bad) = match (compile(invariant.policy()), compile(bad)) {
            (Ok(any), Ok(bad)) => (any, bad),
            (Err(why), _) | (_, Err(why)) => return Answer::Open(why),
        };
        let is_about_something = matches!(self.ask(Question::NeverMatches(&bad)).await, Ok(Some(_)));
        let holds = if is_about_something { Answer::Holds } else { Answer::Empty };
        // The larger claim, over requests that cannot be as well, is the shorter text and mostly true.
        let any = any.into_compiled_policyset();
        if matches!(self.ask(Question::Disjoint(all, &any)).await, Ok(None)) {
            return holds;
        }
        let bad = bad.into_compiled_policyset();
        match self.ask(Question::Disjoint(all, &bad)).await {
            Ok(None) => holds,
            Ok(Some(found)) => shown(confirm(bundle, name, &found, Claimed::Allowed(invariant))),
            Err(why) => Answer::Open(why),
        }
    }

    async fn never_errors(
        &mut self,
        bundle: &Bundle,
        (name, env): (&str, &RequestEnv),
        policies: &[(Policy, Policy)],
    ) -> Answer {
        for (policy, of_the_gateway) in policies {
            // Most policies cannot err at all, and that takes no solver.
            let compiled = CompiledPolicy::compile(policy, env, bundle.schema());
            if let Ok(compiled) = &compiled
                && matches!(self.ask(Question::NeverErrors(compiled)).await, Ok(None))
            {
                continue;
            }
            let compiled = match CompiledPolicy::compile(of_the_gateway, env, bundle.schema()) {
                Ok(compiled) => compiled,
                Err(error) => return Answer::Open(reason(&error)),
            };
            match self.ask(Question::NeverErrors(&compiled)).await {
                Ok(None) => {}
                Ok(Some(found)) => return shown(confirm(bundle, name, &found, Claimed::Errors(policy.id()))),
                Err(why) => return Answer::Open(why),
            }
        }
        Answer::Holds
    }

    async fn ladder(&mut self, bundle: &Bundle, (name, env): (&str, &RequestEnv), ladder: &Ladder) -> Answer {
        let compile = |set| CompiledPolicySet::compile(set, env, bundle.schema()).map_err(|e| reason(&e));
        let none = match compile(&ladder.none) {
            Ok(none) => none,
            Err(why) => return Answer::Open(why),
        };
        for (rung, set) in &ladder.better {
            let better = match compile(set) {
                Ok(better) => better,
                Err(why) => return Answer::Open(why),
            };
            match self.ask(Question::Implies(&none, &better)).await {
                Ok(None) => {}
                Ok(Some(found)) => return shown(confirm(bundle, name, &found, Claimed::Lost(*rung))),
                Err(why) => return Answer::Open(why),
            }
        }
        Answer::Holds
    }

    /// The request that refutes it, if there is one.
    pub(super) async fn ask(&mut self, question: Question<'_>) -> Result<Option<Env>, String> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.solver.start(self.limit)?,
        };
        let answer = tokio::time::timeout(self.limit.saturating_add(GRACE), async {
            match question {
                Question::Disjoint(a, b) => process.check_disjoint_with_counterexample_opt(a, b).await,
                Question::Implies(a, b) => process.check_implies_with_counterexample_opt(a, b).await,
                Question::NeverErrors(a) => process.check_never_errors_with_counterexample_opt(a).await,
                Question::NeverMatches(a) => process.check_never_matches_with_counterexample_opt(a).await,
            }
        });
        let late = || format!("no answer within {} ms", self.limit.as_millis());
        match answer.await {
            Ok(Ok(answer)) => {
                self.process = Some(process);
                Ok(answer)
            }
            // It gave up by its own limit, and takes the next question.
            Ok(Err(err::Error::SolverUnknown)) => {
                self.process = Some(process);
                Err(late())
            }
            Ok(Err(error)) => Err(reason(&error)),
            Err(_) => Err(late()),
        }
    }
}

fn shown(confirmed: Result<Counterexample, String>) -> Answer {
    confirmed.map_or_else(Answer::Open, |request| Answer::Fails(Box::new(request)))
}

pub(super) fn reason(error: &err::Error) -> String {
    match error {
        err::Error::PolicyNotWellTyped { errs } => {
            let first = errs.first().map(ToString::to_string).unwrap_or_default();
            format!("a policy does not fit the schema: {first}")
        }
        error => describe(error),
    }
}
