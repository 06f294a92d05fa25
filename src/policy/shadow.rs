//! What another bundle would have decided: a question as it was asked on the request path, kept so that it can be asked again elsewhere.
//!
//! The whole outcome is compared: decision, code, where to, under which protection, by which policies. The permit that the other
//! bundle may give never leaves this module, so nothing can be sent by it.

use std::sync::Arc;

use super::bundle::Bundle;
use super::permit::{Denial, Permit};
use super::request::{AuthzRequest, OwnedRequest};
use crate::model::{Action, Candidate, ClusterName, Principal, Protection};

/// A decision that was taken, with all that was asked.
#[derive(Debug)]
pub struct Question {
    request: OwnedRequest,
    candidates: Vec<Candidate>,
    rungs: &'static [Protection],
    bundle: Arc<str>,
    outcome: Outcome,
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Whether it was allowed.
    pub allowed: bool,
    /// The stable code of a denial.
    pub code: Option<&'static str>,
    /// Where the data goes, of an Allow.
    pub destination: Option<ClusterName>,
    /// What is done to the payload, of an Allow.
    pub protection: Option<Protection>,
    /// The policies that decide, in order of `@id`.
    pub policies: Vec<Arc<str>>,
}

/// In what two outcomes differ: the first of these that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Differs {
    /// One allows and the other denies.
    Decision,
    /// Both allow, to different clusters.
    Destination,
    /// Both allow, under different protections.
    Protection,
    /// Both deny, with different codes.
    Code,
    /// Other policies decide.
    Policies,
}

impl Differs {
    /// All, in order.
    pub const ALL: [Self; 5] =
        [Self::Decision, Self::Destination, Self::Protection, Self::Code, Self::Policies];

    /// The name in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Destination => "destination",
            Self::Protection => "protection",
            Self::Code => "code",
            Self::Policies => "policies",
        }
    }
}

impl Outcome {
    fn of(decided: &Result<Permit, Denial>) -> Self {
        let sorted = |policies: &[Arc<str>]| {
            let mut policies = policies.to_vec();
            policies.sort();
            policies
        };
        match decided {
            Ok(permit) => Self {
                allowed: true,
                code: None,
                destination: permit.candidate().destination.clone(),
                protection: Some(permit.protection()),
                policies: sorted(permit.policies()),
            },
            Err(denial) => Self {
                allowed: false,
                code: Some(denial.reason.code()),
                destination: None,
                protection: None,
                policies: sorted(&denial.policies),
            },
        }
    }

    /// In what it differs from another; none if they are equal.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<Differs> {
        if self.allowed != other.allowed {
            Some(Differs::Decision)
        } else if self.destination != other.destination {
            Some(Differs::Destination)
        } else if self.protection != other.protection {
            Some(Differs::Protection)
        } else if self.code != other.code {
            Some(Differs::Code)
        } else {
            (self.policies != other.policies).then_some(Differs::Policies)
        }
    }
}

impl Question {
    /// Keeps what was asked and what came of it. Costs some copies of short texts, no evaluation.
    #[must_use]
    pub fn new(
        principal: &Arc<Principal>,
        request: &AuthzRequest<'_>,
        candidates: &[Candidate],
        rungs: &'static [Protection],
        decided: &Result<Permit, Denial>,
    ) -> Self {
        let bundle = match decided {
            Ok(permit) => permit.bundle(),
            Err(denial) => &denial.bundle,
        };
        Self {
            request: OwnedRequest::new(principal, request),
            candidates: candidates.to_vec(),
            rungs,
            bundle: Arc::clone(bundle),
            outcome: Outcome::of(decided),
        }
    }

    /// What was asked for.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.request.action
    }

    /// The hash of the bundle that decided.
    #[must_use]
    pub const fn bundle(&self) -> &Arc<str> {
        &self.bundle
    }

    /// What came of it.
    #[must_use]
    pub const fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// What another bundle decides, asked the same at the same time of day.
    #[must_use]
    pub fn ask(&self, bundle: &Bundle) -> Outcome {
        let request = self.request.as_request();
        Outcome::of(&bundle.decide(&request, &self.candidates, self.rungs))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{label, on, request, researcher};
    use super::*;
    use crate::model::Level;
    use crate::policy::embedded;

    const LADDER: &[Protection] = &[Protection::None, Protection::Sealed];

    /// What a bundle with more policies says of a request that the shipped one decided.
    fn differs(more: &str, teams: bool) -> Option<Differs> {
        let live = embedded::bundle().unwrap();
        let mut who = researcher();
        if !teams {
            who.teams.clear();
        }
        let (who, what) = (Arc::new(who), label(Level::Internal, "world"));
        let peer = |cluster| Candidate { can_open: Some("p".parse().unwrap()), ..on(cluster, "tide-small") };
        let candidates = [peer("us"), peer("eu")];
        let asked = request(&who, &what);
        let decided = live.decide(&asked, &candidates, LADDER);
        let question = Question::new(&who, &asked, &candidates, LADDER, &decided);
        let candidate = embedded::bundle().unwrap().with_unchecked(more);
        question.outcome().differs(&question.ask(&candidate))
    }

    #[test]
    fn the_whole_outcome_is_compared() {
        let same = "permit (principal, action, resource) when { false };";
        assert_eq!((differs(same, true), differs(same, false)), (None, None));
        for (more, teams, expected) in [
            ("forbid (principal, action, resource);", true, Differs::Decision),
            ("permit (principal, action, resource);", false, Differs::Decision),
            (
                "forbid (principal, action, resource) when { context.destination == Tidegate::Cluster::\"us\" };",
                true,
                Differs::Destination,
            ),
            (
                "forbid (principal, action, resource) unless { context.protection.sealed };",
                true,
                Differs::Protection,
            ),
            ("forbid (principal, action, resource);", false, Differs::Code),
            ("permit (principal, action, resource);", true, Differs::Policies),
            // An error in the candidate is a denial of the candidate, not an Allow.
            (
                "forbid (principal, action, resource) when { context.request.bytes + 9223372036854775807 > 0 };",
                true,
                Differs::Decision,
            ),
        ] {
            assert_eq!(differs(more, teams), Some(expected), "{more}");
        }
    }
}
