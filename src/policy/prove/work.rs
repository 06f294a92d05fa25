//! Asks the solver: every claim for every kind of request, spread over processes.
//!
//! A job is one kind of request with all claims, so that the policies are translated once for it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cedar_policy::{Policy, PolicySet, RequestEnv};
use tokio::runtime::Runtime;

use super::cache::Cache;
use super::claims::{ClaimError, at, of_the_gateway};
use super::invariants::{Invariant, Invariants};
use super::report::{Counterexample, Finding, Kind, Report, Verdict};
use super::solver::Solver;
use super::worker::Worker;
use crate::model::Protection;
use crate::policy::Bundle;
use crate::policy::schema::describe;

/// Changes whenever the same question would be asked otherwise.
const FORM: &str = "tidegate proofs 3, cedar 4.14.1, symcc 0.8.1";
/// The protections that must allow what no protection allows.
const BETTER: [Protection; 2] = [Protection::Masked, Protection::Sealed];

/// How to prove.
#[derive(Debug, Clone)]
pub struct Options {
    /// Solvers that run at once; at least one.
    pub jobs: usize,
    /// How long one question may take.
    pub limit: Duration,
    /// Where answers are remembered.
    pub cache: Option<Cache>,
}

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// A thread or its runtime could not be had.
    #[error("cannot run the solvers")]
    Runtime(#[source] std::io::Error),
    /// Answers could not be remembered.
    #[error("cannot remember the answers")]
    Cache(#[source] std::io::Error),
}

/// One claim, ready to be asked.
#[expect(clippy::large_enum_variant, reason = "a handful exist at a time")]
pub(super) enum Claim<'a> {
    Invariant(&'a Invariant, Policy),
    /// Each policy as it is, and for requests of the gateway only.
    NeverErrors(Vec<(Policy, Policy)>),
    Ladder(Box<Ladder>),
    /// It cannot be asked.
    Unclear(String),
}

/// The bundle as if under each protection.
pub(super) struct Ladder {
    pub(super) none: PolicySet,
    pub(super) better: Vec<(Protection, PolicySet)>,
}

/// The answer for one kind of request.
pub(super) enum Answer {
    Holds,
    /// It holds, and no request was found that it is about.
    Empty,
    Fails(Box<Counterexample>),
    Open(String),
}

/// Asks all claims about a bundle. `progress` is told how many of how many kinds of request are done.
///
/// # Errors
/// The solvers could not be run, or answers not be remembered. What a solver does not answer is no error but not proved.
pub fn run(
    bundle: &Bundle,
    invariants: &Invariants,
    solver: &Solver,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Report, ProveError> {
    let environments = environments(bundle);
    let mut claims: Vec<(Finding, String)> = blank(invariants, environments.len())
        .map(|(finding, text)| {
            let key = Cache::key(&[FORM, env!("CARGO_PKG_VERSION"), solver.version(), bundle.hash(), &text]);
            (finding, key)
        })
        .collect();
    let mut open = Vec::new();
    for (index, (finding, key)) in claims.iter_mut().enumerate() {
        match options.cache.as_ref().and_then(|cache| cache.get(key)) {
            // Words and places may have changed since.
            Some(known) => {
                finding.verdict = known.verdict;
                finding.milliseconds = known.milliseconds;
                finding.cached = true;
            }
            None => open.push(index),
        }
    }
    let asked: Vec<Claim<'_>> = open.iter().map(|index| claim(bundle, invariants, *index)).collect();
    let answers = if asked.is_empty() {
        BTreeMap::new()
    } else {
        ask_all(bundle, &environments, &asked, (solver, options, progress))?
    };
    for (position, index) in open.iter().enumerate() {
        let Some((finding, key)) = claims.get_mut(*index) else { continue };
        (finding.verdict, finding.milliseconds) = sum(&environments, &answers, position);
        if let Some(cache) = &options.cache {
            cache.put(key, finding).map_err(ProveError::Cache)?;
        }
    }
    let claims = claims.into_iter().map(|(finding, _)| finding).collect();
    Ok(Report { bundle: bundle.hash().to_owned(), solver: solver.version().to_owned(), claims })
}

/// All kinds of request, by name.
pub(super) fn environments(bundle: &Bundle) -> Vec<(String, RequestEnv)> {
    let named = bundle.schema().request_envs().map(|env| {
        let (principal, resource) =
            (env.principal().basename().to_owned(), env.resource().basename().to_owned());
        (format!("{principal} {} {resource}", env.action().id().unescaped()), env)
    });
    let mut all: Vec<_> = named.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The findings without answers, each with the text that its answer depends on: first the invariants, then what is built in.
fn blank(invariants: &Invariants, environments: usize) -> impl Iterator<Item = (Finding, String)> {
    let finding = move |id: &str, kind, says: &str, place: String, sha256| Finding {
        id: id.to_owned(),
        kind,
        says: says.to_owned(),
        place,
        sha256,
        environments,
        verdict: Verdict::NotProved { open_for: Vec::new(), why: "it was not asked".to_owned() },
        milliseconds: 0,
        cached: false,
    };
    let own = invariants.all.iter().map(move |invariant| {
        let place = format!("{}:{}", invariant.file, invariant.line);
        let found = finding(&invariant.id, Kind::Invariant, &invariant.says, place, Some(invariant.sha256()));
        (found, invariant.canonical())
    });
    let built_in = [
        ("never-errors", "no policy ever has an error"),
        ("protection-never-costs", "what is allowed with no protection is allowed masked and sealed"),
    ];
    own.chain(
        built_in.map(|(id, says)| (finding(id, Kind::BuiltIn, says, String::new(), None), id.to_owned())),
    )
}

/// The claim in the order of [`blank`].
fn claim<'a>(bundle: &Bundle, invariants: &'a Invariants, index: usize) -> Claim<'a> {
    let unclear = |error: ClaimError| Claim::Unclear(describe(&error));
    if let Some(invariant) = invariants.all.get(index) {
        return of_the_gateway(invariant.policy())
            .map_or_else(unclear, |policy| Claim::Invariant(invariant, policy));
    }
    if index == invariants.all.len() {
        let pair = |policy: &Policy| Ok((policy.clone(), of_the_gateway(policy)?));
        let policies: Result<Vec<_>, _> = bundle.policy_set().policies().map(pair).collect();
        return policies.map_or_else(unclear, Claim::NeverErrors);
    }
    let ladder = || -> Result<Ladder, ClaimError> {
        let better = BETTER.into_iter().map(|rung| Ok((rung, at(bundle, rung)?)));
        Ok(Ladder { none: at(bundle, Protection::None)?, better: better.collect::<Result<_, _>>()? })
    };
    ladder().map_or_else(unclear, |ladder| Claim::Ladder(Box::new(ladder)))
}

/// What came of a claim over all kinds of request.
fn sum(
    environments: &[(String, RequestEnv)],
    answers: &BTreeMap<(usize, usize), (Answer, Duration)>,
    claim: usize,
) -> (Verdict, u64) {
    let (mut fails, mut counterexample, mut open, mut why) = (Vec::new(), None, Vec::new(), None);
    let mut empty = true;
    let mut time = Duration::ZERO;
    for (index, (name, _)) in environments.iter().enumerate() {
        match answers.get(&(claim, index)) {
            Some((answer, took)) => {
                time += *took;
                empty &= matches!(answer, Answer::Empty);
                match answer {
                    Answer::Holds | Answer::Empty => {}
                    Answer::Fails(request) => {
                        fails.push(name.clone());
                        counterexample.get_or_insert_with(|| request.clone());
                    }
                    Answer::Open(reason) => {
                        open.push(name.clone());
                        why.get_or_insert_with(|| reason.clone());
                    }
                }
            }
            None => open.push(name.clone()),
        }
    }
    let verdict = match (counterexample, open.is_empty()) {
        (Some(counterexample), _) => Verdict::Disproved { fails_for: fails, counterexample },
        (None, true) if empty => {
            let open_for = environments.iter().map(|(name, _)| name.clone()).collect();
            // Whoever empties a claim would have it proved by that.
            Verdict::NotProved { open_for, why: "it describes no request that there can be".to_owned() }
        }
        (None, true) => Verdict::Proved,
        (None, _) => {
            Verdict::NotProved { open_for: open, why: why.unwrap_or_else(|| "it was not asked".to_owned()) }
        }
    };
    (verdict, u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

type Answers = BTreeMap<(usize, usize), (Answer, Duration)>;

fn ask_all(
    bundle: &Bundle,
    environments: &[(String, RequestEnv)],
    claims: &[Claim<'_>],
    asking: (&Solver, &Options, &(dyn Fn(usize, usize) + Sync)),
) -> Result<Answers, ProveError> {
    let answers = Mutex::new(BTreeMap::new());
    spread(environments, asking, |runtime, worker, index, (name, env)| {
        let found = runtime.block_on(worker.job(bundle, name, env, claims));
        let found = found.into_iter().enumerate().map(|(claim, answer)| ((claim, index), answer));
        answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(found);
    })?;
    Ok(answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Does a job for each kind of request, spread over solvers.
pub(super) fn spread(
    environments: &[(String, RequestEnv)],
    (solver, options, progress): (&Solver, &Options, &(dyn Fn(usize, usize) + Sync)),
    job: impl Fn(&Runtime, &mut Worker<'_>, usize, &(String, RequestEnv)) + Sync,
) -> Result<(), ProveError> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<(), ProveError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ProveError::Runtime)?;
        let mut worker = Worker::new(solver, options.limit);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(environment) = environments.get(index) else { return Ok(()) };
            job(&runtime, &mut worker, index, environment);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, environments.len());
        }
    };
    std::thread::scope(|scope| {
        let jobs = options.jobs.clamp(1, environments.len().max(1));
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(ProveError::Runtime(std::io::Error::other("a thread died"))))
        })
    })
}
