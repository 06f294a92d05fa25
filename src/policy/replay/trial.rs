//! A recorded decision as a question for other policies: the same request, the same places in the same order.
//!
//! A gateway asks for each place under each protection that its far end can do, cheapest first, until one is allowed; so a record holds a beginning
//! of that list, and the whole list if it was denied. Where it was allowed the record does not say whether more protection was possible there:
//! it is supposed that it was ([`Trial::supposes`]), so that a policy which asks for more is not taken for one that denies. Places after
//! the one that was taken are in no record.

use std::sync::Arc;

use super::ReplayError;
use super::question::{Evaluated, Question, Recorded};
use crate::model::{Candidate, Protection};
use crate::policy::bundle::Bundle;
use crate::policy::permit::DenialReason;
use crate::policy::request::AuthzRequest;

/// All protections, cheapest first.
const LADDER: [Protection; 3] = [Protection::None, Protection::Masked, Protection::Sealed];

/// A recorded decision that can be asked of other policies.
#[derive(Debug)]
pub struct Trial {
    id: String,
    bundle: String,
    question: Question,
    candidates: Vec<Candidate>,
    rungs: Vec<Protection>,
    supposed: bool,
    recorded: Answer,
}

/// What policies make of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct Answer {
    /// The first place that is allowed, and its protection: positions in [`Trial::candidates`] and [`Trial::rungs`].
    pub(in crate::policy) at: Option<(usize, usize)>,
    /// The stable code of a denial.
    pub(in crate::policy) code: Option<String>,
    /// The policies that decide, in order of name.
    pub(in crate::policy) policies: Vec<Arc<str>>,
    /// The asking ended at something unknown or an error, not at the last place.
    pub(in crate::policy) broke_off: bool,
}

impl Trial {
    /// Takes a decision record, as its bytes stand in the journal.
    ///
    /// # Errors
    /// It is no decision, no policy was asked, or it does not hold the whole question; a record whose parts contradict each other is none that a
    /// gateway wrote.
    pub fn of(payload: &[u8]) -> Result<Self, ReplayError> {
        let recorded = serde_json::from_slice(payload).map_err(|error| ("record", error.to_string()));
        Self::from_recorded(recorded?)
    }

    fn from_recorded(recorded: Recorded) -> Result<Self, ReplayError> {
        recorded.decided()?;
        if recorded.is_erased() {
            return Err(ReplayError::Erased);
        }
        let (question, contradictions) = Question::of(&recorded)?;
        if let Some(first) = contradictions.into_iter().next() {
            return Err(ReplayError::Contradiction(first));
        }
        let attempts = recorded.evaluations.iter().map(Evaluated::attempt).collect::<Result<Vec<_>, _>>()?;
        let allowed = recorded.decision.as_deref() == Some("allow");
        let broke_off =
            !allowed && !matches!(recorded.code.as_deref(), Some("policy_denied" | "policy_forbidden"));
        let mut list = List::default();
        for (candidate, protection) in attempts {
            list.add(candidate, protection);
        }
        // An attempt that broke off has left no evaluation.
        if broke_off && let Some((candidate, protection)) = &question.last {
            list.add(candidate.clone(), *protection);
        }
        if list.candidates.is_empty() {
            return Err(ReplayError::NothingTried(recorded.code.unwrap_or_default()));
        }
        let last = recorded.evaluations.len().checked_sub(1);
        let leads = |(position, evaluation): (usize, &Evaluated)| {
            evaluation.allowed == (allowed && Some(position) == last)
        };
        if !recorded.evaluations.iter().enumerate().all(leads) || (allowed && last.is_none()) {
            return Err(ReplayError::Contradiction("the evaluations do not lead to the decision".to_owned()));
        }
        let whole = !allowed && !broke_off;
        let (candidates, rungs, at) = list.complete(whole)?;
        let supposed = !whole && !list.tried.last().is_some_and(|tried| tried.contains(&Protection::Sealed));
        let mut policies: Vec<Arc<str>> = recorded.policies.iter().map(|id| Arc::from(id.as_str())).collect();
        policies.sort();
        Ok(Self {
            id: recorded.id.unwrap_or_default(),
            bundle: recorded.bundle,
            question,
            candidates,
            rungs,
            supposed,
            recorded: Answer {
                at: at.filter(|_| allowed),
                code: recorded.code.filter(|_| !allowed),
                policies,
                broke_off,
            },
        })
    }

    /// The id of the crossing.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The hash of the bundle that decided then.
    #[must_use]
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> AuthzRequest<'_> {
        self.question.request()
    }

    /// Where it could go, in order.
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The protections that are tried for each, in order.
    #[must_use]
    pub fn rungs(&self) -> &[Protection] {
        &self.rungs
    }

    /// Whether it is only supposed that the last place can open what is sealed.
    #[must_use]
    pub const fn supposes(&self) -> bool {
        self.supposed
    }

    /// Whether the path names an object, which the record holds only as a digest.
    #[must_use]
    pub fn has_digested_path(&self) -> bool {
        self.question.has_digested_path()
    }

    /// What was decided then.
    pub(in crate::policy) const fn recorded(&self) -> &Answer {
        &self.recorded
    }

    /// What a bundle decides.
    pub(in crate::policy) fn ask(&self, bundle: &Bundle) -> Answer {
        let (at, code, broke_off, mut policies) =
            match bundle.decide(&self.request(), &self.candidates, &self.rungs) {
                Ok(permit) => {
                    let place = self.candidates.iter().position(|place| place == permit.candidate());
                    let rung = self.rungs.iter().position(|rung| *rung == permit.protection());
                    (place.zip(rung), None, false, permit.policies().to_vec())
                }
                Err(denial) => {
                    let decided =
                        matches!(denial.reason, DenialReason::NotPermitted | DenialReason::Forbidden);
                    (None, Some(denial.reason.code().to_owned()), !decided, denial.policies)
                }
            };
        policies.sort();
        Answer { at, code, policies, broke_off }
    }
}

/// Candidates, rungs, and the positions of the last attempt in both.
type Completed = (Vec<Candidate>, Vec<Protection>, Option<(usize, usize)>);

/// The places of a record, each with the protections that were tried there.
#[derive(Debug, Default)]
struct List {
    candidates: Vec<Candidate>,
    tried: Vec<Vec<Protection>>,
}

impl List {
    fn add(&mut self, candidate: Candidate, protection: Protection) {
        let same = |last: &Candidate| {
            last.resource == candidate.resource && last.destination == candidate.destination
        };
        match self.tried.last_mut() {
            Some(tried) if self.candidates.last().is_some_and(same) => {
                if tried.last() != Some(&protection) {
                    tried.push(protection);
                }
            }
            _ => {
                self.candidates.push(candidate);
                self.tried.push(vec![protection]);
            }
        }
    }

    /// Candidates that can do what was tried, the rungs, and the place of the last attempt. Of a list that is not `whole` the last
    /// candidate is supposed to be able to open.
    fn complete(&self, whole: bool) -> Result<Completed, ReplayError> {
        let tried = |rung: &Protection| self.tried.iter().any(|tried| tried.contains(rung));
        let rungs: Vec<Protection> = LADDER
            .into_iter()
            .filter(|rung| tried(rung) || (!whole && *rung == Protection::Sealed))
            .collect();
        let last = self.candidates.len().saturating_sub(1);
        let mut candidates = Vec::new();
        for (position, (candidate, tried)) in self.candidates.iter().zip(&self.tried).enumerate() {
            let mut candidate = candidate.clone();
            let open = position == last && !whole;
            if !tried.contains(&Protection::Sealed) && !open {
                candidate.can_open = None;
            }
            let expected: Vec<Protection> =
                rungs.iter().copied().filter(|rung| candidate.can(*rung)).collect();
            let in_order = if open { expected.starts_with(tried) } else { expected == *tried };
            if !in_order {
                let reason = "are not in the order in which a gateway asks".to_owned();
                return Err(("evaluations", reason).into());
            }
            candidates.push(candidate);
        }
        let rung = self.tried.last().and_then(|tried| tried.last());
        let at = rung.and_then(|rung| rungs.iter().position(|found| found == rung));
        Ok((candidates, rungs, at.map(|rung| (last, rung))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::on;

    const NONE: Protection = Protection::None;
    const SEALED: Protection = Protection::Sealed;

    fn list(attempts: &[(&str, Protection)]) -> List {
        let mut list = List::default();
        for (cluster, protection) in attempts {
            let can_open = Some("replay".parse().unwrap());
            list.add(Candidate { can_open, ..on(cluster, "m") }, *protection);
        }
        list
    }

    fn shown(attempts: &[(&str, Protection)], whole: bool) -> Option<(Vec<bool>, Vec<Protection>)> {
        let (candidates, rungs, _) = list(attempts).complete(whole).ok()?;
        Some((candidates.iter().map(|place| place.can(SEALED)).collect(), rungs))
    }

    #[test]
    fn what_was_tried_says_what_can_be_done() {
        // Denied everywhere: the list is whole, and only `b` can open.
        let attempts = [("a", NONE), ("b", NONE), ("b", SEALED), ("c", NONE)];
        assert_eq!(shown(&attempts, true), Some((vec![false, true, false], vec![NONE, SEALED])));
        // Allowed unsealed at once: whether `a` could open is not known, and supposed.
        assert_eq!(shown(&[("a", NONE)], false), Some((vec![true], vec![NONE, SEALED])));
        assert_eq!(shown(&[("a", NONE)], true), Some((vec![false], vec![NONE])));
        // Of the places before the last everything is known.
        assert_eq!(shown(&[("a", NONE), ("b", NONE)], false), Some((vec![false, true], vec![NONE, SEALED])));
    }

    #[test]
    fn no_gateway_asks_in_another_order() {
        assert_eq!(shown(&[("a", SEALED), ("a", NONE)], true), None);
        assert_eq!(shown(&[("a", SEALED), ("b", NONE)], false), None);
        assert_eq!(shown(&[("a", NONE), ("b", SEALED)], false), None);
    }
}
