//! Runs a suite, and says what was not as expected and which policies no case reached.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::{Case, RUNGS, Suite, Wanted};
use crate::model::did_you_mean;
use crate::policy::{
    Anatomy, AnatomyError, Bundle, Denial, DenialReason, Dissected, Effect, Holds, PartKind, Permit, at,
};

/// What became of a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What it is called.
    pub name: String,
    /// The decision in words: `allowed sealed by a, b`.
    pub got: String,
    /// What is not as expected; empty if all is.
    pub problems: Vec<String>,
    /// Names that no entity has: the case may not test what it says.
    pub warnings: Vec<String>,
}

/// How often a policy decided.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyCoverage {
    /// The policy.
    pub id: Arc<str>,
    /// What it does.
    pub effect: Effect,
    /// Its file within the bundle.
    pub file: String,
    /// Its line, from 1.
    pub line: usize,
    /// The cases in which it decided: permits those that were allowed, forbids those that were denied.
    pub decided: usize,
    /// Its conditions.
    pub conditions: Vec<ConditionCoverage>,
}

/// How often a condition of a policy was asked while the policy's head matched.
#[derive(Debug, Clone, Serialize)]
pub struct ConditionCoverage {
    /// A conjunct of a `when`, or an `unless`.
    pub kind: PartKind,
    /// Its text.
    pub text: String,
    /// Times that it held.
    pub held: usize,
    /// Times that it did not.
    pub failed: usize,
    /// Whether it asks if a fact is there that another condition then reads. Strict typing demands it, and the fact may always be there.
    pub guard: bool,
}

impl ConditionCoverage {
    /// Whether cases have shown both that it matters and that it can be met; of a guard, that it can be met.
    #[must_use]
    pub const fn is_covered(&self) -> bool {
        self.held > 0 && (self.failed > 0 || self.guard)
    }
}

/// What became of all cases.
#[derive(Debug, Clone, Serialize)]
pub struct SuiteReport {
    /// The cases, in order.
    pub cases: Vec<CaseReport>,
    /// The policies, in order of file and line.
    pub coverage: Vec<PolicyCoverage>,
}

impl SuiteReport {
    /// Cases that were not as expected.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.problems.is_empty()).count()
    }

    /// Policies that decided at least once.
    #[must_use]
    pub fn covered(&self) -> usize {
        self.coverage.iter().filter(|policy| policy.decided > 0).count()
    }

    /// All conditions of all policies.
    pub fn conditions(&self) -> impl Iterator<Item = &ConditionCoverage> {
        self.coverage.iter().flat_map(|policy| &policy.conditions)
    }

    /// Policies that decided and conditions that are covered, in percent of all of them, rounded down; 100 for none at all.
    #[must_use]
    pub fn coverage_percent(&self) -> usize {
        let conditions = self.conditions().filter(|condition| condition.is_covered()).count();
        let all = self.coverage.len() + self.conditions().count();
        ((self.covered() + conditions) * 100).checked_div(all).unwrap_or(100)
    }
}

impl Suite {
    /// Asks the bundle for each case that is wanted.
    ///
    /// # Errors
    /// The policies cannot be taken apart: those of a bundle always can.
    pub fn run(&self, bundle: &Bundle, wanted: impl Fn(&Case) -> bool) -> Result<SuiteReport, AnatomyError> {
        let anatomy = Anatomy::new(bundle)?;
        let mut seen = Seen::default();
        let mut cases = Vec::new();
        for case in self.cases.iter().filter(|case| wanted(case)) {
            let answer = bundle.decide(&case.ask.request(), &case.ask.candidates, &RUNGS);
            let policies = match &answer {
                Ok(permit) => permit.policies(),
                Err(denial) => &denial.policies,
            };
            for id in policies {
                *seen.decided.entry(Arc::clone(id)).or_default() += 1;
            }
            seen.look(&anatomy, &answer)?;
            cases.push(CaseReport {
                file: case.file.clone(),
                line: case.line,
                name: case.name.clone(),
                got: words(&answer),
                problems: problems(case, &answer, bundle),
                warnings: case.facts.unknown(bundle).iter().map(ToString::to_string).collect(),
            });
        }
        let coverage = anatomy.policies().into_iter().map(|policy| seen.coverage(policy)).collect();
        Ok(SuiteReport { cases, coverage })
    }
}

/// What the cases have shown of the policies.
#[derive(Debug, Default)]
struct Seen {
    decided: HashMap<Arc<str>, usize>,
    /// For each condition of a policy, by its number: how often it held, and how often not.
    conditions: HashMap<(Arc<str>, usize), (usize, usize)>,
}

impl Seen {
    fn look(&mut self, anatomy: &Anatomy, answer: &Result<Permit, Denial>) -> Result<(), AnatomyError> {
        let (request, evaluations) = match answer {
            Ok(permit) => (serde_json::to_value(permit.request()), permit.evaluations()),
            Err(denial) => (serde_json::to_value(&denial.request), denial.evaluations.as_slice()),
        };
        let request = request.unwrap_or_default();
        for evaluation in evaluations {
            for policy in anatomy.reached(&at(&request, evaluation))? {
                for (number, part) in policy.parts.iter().enumerate() {
                    let seen = self.conditions.entry((Arc::clone(&policy.info.id), number)).or_default();
                    match part.holds {
                        Holds::Yes => seen.0 += 1,
                        Holds::No => seen.1 += 1,
                        Holds::Unasked | Holds::Error => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn coverage(&self, policy: Dissected) -> PolicyCoverage {
        let id = &policy.info.id;
        let texts: Vec<String> = policy.parts.iter().map(|part| part.text.clone()).collect();
        let conditions = policy.parts.into_iter().enumerate();
        let conditions =
            conditions.filter(|(_, part)| matches!(part.kind, PartKind::When | PartKind::Unless));
        let conditions = conditions.map(|(number, part)| {
            let key = (Arc::clone(id), number);
            let (held, failed) = self.conditions.get(&key).copied().unwrap_or_default();
            let guard = part.kind == PartKind::When && guards(&part.text, &texts);
            ConditionCoverage { kind: part.kind, text: part.text, held, failed, guard }
        });
        PolicyCoverage {
            id: Arc::clone(id),
            effect: policy.info.effect,
            file: policy.info.file.clone(),
            line: policy.info.line,
            decided: self.decided.get(id).copied().unwrap_or_default(),
            conditions: conditions.collect(),
        }
    }
}

/// Whether a condition is `context has x` and another one of the policy reads `context.x`.
fn guards(condition: &str, all: &[String]) -> bool {
    let Some((of, fact)) = condition.split_once(" has ") else { return false };
    let simple = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b));
    let read = format!("{of}.{fact}");
    simple(&read) && all.iter().any(|text| text.contains(&read))
}

fn words(answer: &Result<Permit, Denial>) -> String {
    match answer {
        Ok(permit) => {
            let protection = permit.protection();
            let to = permit.candidate().resource.id();
            format!("allowed, protection {protection}, {to}, by {}", list(permit.policies()))
        }
        Err(denial) if denial.policies.is_empty() => {
            let detail = denial.detail.as_deref().map_or_else(String::new, |detail| format!(" ({detail})"));
            format!("denied, {}{detail}", denial.reason.code())
        }
        Err(denial) => format!("denied by {}", list(&denial.policies)),
    }
}

fn list(policies: &[Arc<str>]) -> String {
    policies.join(", ")
}

fn problems(case: &Case, answer: &Result<Permit, Denial>, bundle: &Bundle) -> Vec<String> {
    let facts = &case.facts;
    let mut problems = Vec::new();
    let wanted = match (answer, &facts.allow, &facts.deny) {
        (Ok(permit), Some(wanted), None) => {
            if let Some(protection) = facts.protection.filter(|wanted| *wanted != permit.protection()) {
                problems.push(format!("the protection is not {protection}"));
            }
            if let Some(chosen) = facts.chosen.as_ref().filter(|id| **id != permit.candidate().resource.id())
            {
                problems.push(format!("it does not go to {chosen}"));
            }
            unlike(wanted, permit.policies(), None)
        }
        (Err(denial), None, Some(wanted)) => {
            // Anything but a decision of the policies is no denial that a test can want without naming it.
            let code = denial.reason.code();
            let decided = matches!(code, "policy_denied" | "policy_forbidden");
            match wanted {
                Wanted::Any(true) if !decided => Some(format!("it was not decided: {code}")),
                wanted => unlike(wanted, &denial.policies, Some(code)),
            }
        }
        (Ok(_), ..) => Some("it must be denied".to_owned()),
        (Err(_), ..) => Some("it must be allowed".to_owned()),
    };
    problems.extend(wanted);
    problems.extend(unknown(facts.allow.as_ref().or(facts.deny.as_ref()), bundle));
    problems
}

/// What differs between the policies that are wanted and those that decided.
fn unlike(wanted: &Wanted, policies: &[Arc<str>], code: Option<&str>) -> Option<String> {
    match wanted {
        Wanted::Any(true) => None,
        Wanted::Any(false) => {
            Some("`false` is no expectation: say the other of `allow` and `deny`".to_owned())
        }
        Wanted::Among(id) => {
            let found = policies.iter().any(|policy| **policy == **id) || code == Some(id);
            (!found).then(|| format!("`{id}` did not decide"))
        }
        Wanted::Exactly(ids) => {
            let mut wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
            wanted.sort_unstable();
            let mut found: Vec<&str> = policies.iter().map(AsRef::as_ref).collect();
            found.sort_unstable();
            (wanted != found).then(|| format!("exactly {} had to decide", wanted.join(", ")))
        }
    }
}

/// A policy that is expected and does not exist is misspelt, also where the case fails anyway.
fn unknown(wanted: Option<&Wanted>, bundle: &Bundle) -> Option<String> {
    let ids: &[String] = match wanted? {
        Wanted::Any(_) => return None,
        Wanted::Among(id) => std::slice::from_ref(id),
        Wanted::Exactly(ids) => ids,
    };
    let codes = DenialReason::ALL.map(DenialReason::code);
    let missing = ids.iter().find(|id| bundle.policy(id).is_none() && !codes.contains(&id.as_str()))?;
    let policies = bundle.policies();
    let known = policies.iter().map(|policy| policy.id.as_ref()).chain(codes);
    let meant = did_you_mean(missing, known).map_or_else(String::new, |meant| format!("; {meant}"));
    Some(format!("there is no policy `{missing}`{meant}"))
}
