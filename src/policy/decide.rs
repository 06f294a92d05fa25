//! The decision itself, fail-closed in this order: the bundle's expiry, bounds, presence of every named entity, the request against the schema, any error
//! in any policy, and only then Cedar's answer. The first Allow is the permit.

use std::sync::Arc;

use cedar_policy::{EntityUid, PolicyId};
use cedar_policy_core::ast::{Context, EntityUID, EntityUIDEntry, Request};

use super::bundle::Bundle;
use super::context::BaseContext;
use super::engine::{Answer, error_text};
use super::entities::{Digest, Kept, Side, SliceError, entities};
use super::names::resource_kind;
use super::permit::{Denial, DenialReason, Evaluation, Permit};
use super::record::RequestRecord;
use super::request::AuthzRequest;
use super::schema::describe;
use crate::model::{Candidate, Protection, Resource};

/// The most ways to serve one request.
const MAX_CANDIDATES: usize = 8;
/// The most protections tried for each.
const MAX_RUNGS: usize = 3;
/// The most policy errors noted for an evaluation, and the most bytes of each.
const MAX_ERRORS: usize = 16;
const MAX_ERROR_BYTES: usize = 512;

/// A refusal before or within an evaluation.
type Refusal = (DenialReason, String);

/// What all evaluations of one request share.
struct Case<'a> {
    request: &'a AuthzRequest<'a>,
    side: Side<'a>,
    digest: Digest,
    principal: EntityUid,
    action: EntityUid,
    /// The same for Cedar's evaluator.
    variables: (EntityUIDEntry, EntityUIDEntry),
}

/// A candidate with its entities.
struct Placed<'a> {
    candidate: &'a Candidate,
    resource: EntityUid,
    destination: Option<Arc<EntityUID>>,
}

impl Bundle {
    /// Asks Cedar for each candidate in order, for each under each rung that both its ends can do in order, until one is allowed.
    ///
    /// # Errors
    /// A [`Denial`] if none is allowed, or at once if anything is wrong: more than 8 candidates or 3 rungs, an unknown entity, a
    /// request outside the schema, or an error in any policy, even beside an Allow.
    pub fn decide(
        &self,
        request: &AuthzRequest<'_>,
        candidates: &[Candidate],
        rungs: &[Protection],
    ) -> Result<Permit, Denial> {
        let side = Side::new(request.principal, self.master(), self.names());
        let mut record = Box::new(RequestRecord::new(request, &side));
        let principal = self.names().principal(request.principal.kind, &request.principal.id);
        let action = self.names().action(request.action.name());
        let variables = (variable(&principal), variable(&action));
        let case = Case { request, digest: side.digest(), side, principal, action, variables };
        let mut evaluations = Vec::new();
        if let Some(release) = self.release().filter(|release| release.denies_expired)
            && release.is_over(request.now)
        {
            let detail = format!("the bundle with serial {} expired", release.serial).into_boxed_str();
            return Err(self.denied(DenialReason::Expired, evaluations, record, Some(detail)));
        }
        match self.attempt_all(&case, candidates, rungs, (&mut record, &mut evaluations)) {
            Ok(Some((candidate, rung))) => {
                Ok(Permit::new(candidate.clone(), rung, evaluations, Arc::clone(self.shared_hash()), record))
            }
            Ok(None) => Err(self.denied(denial_reason(&evaluations), evaluations, record, None)),
            Err((reason, detail)) => {
                Err(self.denied(reason, evaluations, record, Some(detail.into_boxed_str())))
            }
        }
    }

    fn attempt_all<'c>(
        &self,
        case: &Case<'_>,
        candidates: &'c [Candidate],
        rungs: &[Protection],
        (record, evaluations): (&mut RequestRecord, &mut Vec<Evaluation>),
    ) -> Result<Option<(&'c Candidate, Protection)>, Refusal> {
        let placed = self.place(case, candidates, rungs)?;
        let base = self
            .contexts()
            .base(case.request, self.names())
            .map_err(|error| (DenialReason::InvalidRequest, describe(&error)))?;
        for placed in &placed {
            for rung in rungs.iter().filter(|rung| placed.candidate.can(**rung)) {
                record.attempt(placed.candidate, *rung);
                let answer = self.evaluate(case, &base, placed, *rung)?;
                let evaluation = self.evaluation(placed.candidate, *rung, &answer);
                let (allowed, failed) = (evaluation.allowed, !evaluation.errors.is_empty());
                evaluations.push(evaluation);
                if failed {
                    return Err((DenialReason::PolicyError, "a policy had an error".to_owned()));
                }
                if allowed {
                    return Ok(Some((placed.candidate, *rung)));
                }
            }
        }
        Ok(None)
    }

    /// Checks the bounds, and that everything named by the request or any candidate exists.
    fn place<'c>(
        &self,
        case: &Case<'_>,
        candidates: &'c [Candidate],
        rungs: &[Protection],
    ) -> Result<Vec<Placed<'c>>, Refusal> {
        if candidates.is_empty() || rungs.is_empty() {
            return Err((DenialReason::NoCandidate, "no candidate or no rung".to_owned()));
        }
        if candidates.len() > MAX_CANDIDATES || rungs.len() > MAX_RUNGS {
            let detail = format!("{} candidates, {} rungs", candidates.len(), rungs.len());
            return Err((DenialReason::InvalidRequest, detail));
        }
        let known = |uid: &EntityUid| match self.master().contains(uid) {
            true => Ok(()),
            false => Err((DenialReason::UnknownEntity, uid.to_string())),
        };
        for place in case.request.label.residency.iter() {
            known(&self.names().jurisdiction(place.as_str()))?;
        }
        candidates
            .iter()
            .map(|candidate| {
                if let Resource::Model { cluster, .. } = &candidate.resource {
                    known(&self.names().cluster(cluster))?;
                }
                let resource = self.names().resource(&candidate.resource);
                known(&resource)?;
                let destination = candidate.destination.as_ref().map(|cluster| self.names().cluster(cluster));
                destination.as_ref().map_or(Ok(()), known)?;
                let destination = destination.map(|uid| Arc::new(uid.into()));
                Ok(Placed { candidate, resource, destination })
            })
            .collect()
    }

    fn evaluate(
        &self,
        case: &Case<'_>,
        base: &BaseContext<'_>,
        placed: &Placed<'_>,
        rung: Protection,
    ) -> Result<Answer<'_>, Refusal> {
        let context = base.attempt(placed.destination.as_ref(), rung);
        // All other requests are of a form that was checked when the bundle was loaded.
        if placed.candidate.resource.kind() != resource_kind(case.request.action) {
            self.fits_schema(case, placed, context.clone())?;
        }
        let kept = self.kept(case, placed)?;
        let (principal, action) = case.variables.clone();
        let request = Request::new_unchecked(principal, action, variable(&placed.resource), Some(context));
        Ok(self.engine().answer(request, &kept.policies, &kept.entities))
    }

    fn fits_schema(&self, case: &Case<'_>, placed: &Placed<'_>, context: Context) -> Result<(), Refusal> {
        let (principal, action) = (case.principal.clone(), case.action.clone());
        let resource = placed.resource.clone();
        cedar_policy::Request::new(principal, action, resource, context.into(), Some(self.schema()))
            .map(drop)
            .map_err(|error| (DenialReason::InvalidRequest, describe(&error)))
    }

    /// The entities and policies that this evaluation can reach.
    fn kept(&self, case: &Case<'_>, placed: &Placed<'_>) -> Result<Arc<Kept>, Refusal> {
        let key = case.digest.key(case.request.action, &placed.resource, placed.destination.as_deref());
        let kept = self.slices().get(key, |actions| {
            let destination = placed.destination.as_ref().map(|uid| EntityUid::from(EntityUID::clone(uid)));
            let named: Vec<_> = std::iter::once(&placed.resource).chain(&destination).collect();
            let entities = entities(actions, &case.side, &named, self.master(), self.names())?;
            for uid in [&case.principal, &case.action].into_iter().chain(named) {
                if entities.get(uid).is_none() {
                    return Err(SliceError::Unknown(uid.clone()));
                }
            }
            let policies = self.engine().slice(&case.principal, &case.action, &placed.resource, &entities);
            Ok(Kept { entities, policies })
        });
        kept.map_err(|error| match error {
            SliceError::Unknown(uid) => (DenialReason::UnknownEntity, uid.to_string()),
            SliceError::Entities(_) => (DenialReason::InvalidRequest, describe(&error)),
        })
    }

    fn evaluation(&self, candidate: &Candidate, rung: Protection, answer: &Answer<'_>) -> Evaluation {
        let errors = answer.errors.iter().take(MAX_ERRORS).map(|(id, error)| bounded(error_text(id, error)));
        let errors: Vec<String> = errors.collect();
        let mut policies: Vec<Arc<str>> = answer.reasons.iter().map(|id| self.shared_id(id)).collect();
        policies.sort();
        Evaluation {
            resource: candidate.resource.clone(),
            destination: candidate.destination.clone(),
            protection: rung,
            allowed: answer.allow && errors.is_empty(),
            policies,
            errors,
        }
    }

    fn shared_id(&self, id: &PolicyId) -> Arc<str> {
        self.info(id).map_or_else(|| Arc::from(id.to_string()), |info| Arc::clone(&info.id))
    }

    fn denied(
        &self,
        reason: DenialReason,
        evaluations: Vec<Evaluation>,
        request: Box<RequestRecord>,
        detail: Option<Box<str>>,
    ) -> Denial {
        let mut policies = Vec::new();
        if reason == DenialReason::Forbidden {
            for id in evaluations.iter().flat_map(|evaluation| &evaluation.policies) {
                if !policies.contains(id) {
                    policies.push(Arc::clone(id));
                }
            }
        }
        Denial { reason, policies, evaluations, bundle: Arc::clone(self.shared_hash()), request, detail }
    }
}

fn variable(uid: &EntityUid) -> EntityUIDEntry {
    EntityUIDEntry::known(uid.clone().into(), None)
}

/// Cedar names deciding policies of a Deny only if they are forbids.
fn denial_reason(evaluations: &[Evaluation]) -> DenialReason {
    if evaluations.iter().any(|evaluation| !evaluation.policies.is_empty()) {
        DenialReason::Forbidden
    } else {
        DenialReason::NotPermitted
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_ERROR_BYTES {
        let mut end = MAX_ERROR_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{label, on, request, researcher};
    use super::*;
    use crate::model::{Action, Authn, Level, Principal, PrincipalKind};
    use crate::policy::embedded;

    const NONE: &[Protection] = &[Protection::None];
    const LADDER: &[Protection] = &[Protection::None, Protection::Masked, Protection::Sealed];

    #[test]
    fn an_error_in_a_forbid_denies_although_cedar_says_allow() {
        for (forbid, error) in [
            // Strict validation lets both through: it does not count, and it cannot know which entities there will be.
            ("context.request.bytes + 9223372036854775807 > 0", "overflow"),
            ("Tidegate::Cluster::\"ghost\".peer", "does not exist"),
        ] {
            let bundle = embedded::bundle().unwrap();
            let (who, what) = (researcher(), label(Level::Internal, "EU"));
            assert!(bundle.decide(&request(&who, &what), &[on("eu", "tide-small")], NONE).is_ok());

            let text = format!("forbid (principal, action, resource) when {{ {forbid} }};");
            let bundle = bundle.with_unchecked(&text);
            let candidates = [on("us", "tide-small"), on("eu", "tide-small")];
            let denial = bundle.decide(&request(&who, &what), &candidates, NONE).unwrap_err();
            assert_eq!(denial.reason, DenialReason::PolicyError);
            assert_eq!(denial.reason.code(), "policy_error");
            assert_eq!(denial.evaluations.len(), 1, "the first error ends the decision");
            let errors = &denial.evaluations[0].errors;
            assert!(errors.len() == 1 && errors[0].contains(error), "{errors:?}");
        }
    }

    #[test]
    fn an_erroring_permit_denies_beside_one_that_allows() {
        let bundle = embedded::bundle().unwrap().with_unchecked(
            "permit (principal, action, resource) when { context.request.bytes * 9223372036854775807 > 0 };",
        );
        let (who, what) = (researcher(), label(Level::Internal, "EU"));
        let denial = bundle.decide(&request(&who, &what), &[on("eu", "tide-small")], NONE).unwrap_err();
        assert_eq!(denial.reason, DenialReason::PolicyError);
        assert!(!denial.evaluations[0].allowed);
        assert_eq!(denial.evaluations[0].policies, ["research-models".into()]);
    }

    #[test]
    fn candidates_come_in_order_and_rungs_within_each() {
        let bundle = embedded::bundle().unwrap().with_unchecked(
            "forbid (principal, action, resource) unless { context.protection.sealed && context has destination \
             && context.destination == Tidegate::Cluster::\"eu\" };",
        );
        let (who, what) = (researcher(), label(Level::Internal, "world"));
        let peer =
            |cluster| Candidate { can_open: Some("peer".parse().unwrap()), ..on(cluster, "tide-small") };
        let candidates = [peer("us"), peer("eu")];
        let permit = bundle.decide(&request(&who, &what), &candidates, LADDER).unwrap();
        assert_eq!(permit.protection(), Protection::Sealed);
        assert_eq!(permit.candidate(), &candidates[1]);
        let tried: Vec<_> = permit
            .evaluations()
            .iter()
            .map(|e| (e.destination.as_ref().unwrap().as_str(), e.protection, e.allowed))
            .collect();
        let rungs = LADDER.iter().copied();
        let mut expected: Vec<_> = rungs.clone().map(|rung| ("us", rung, false)).collect();
        expected.extend(rungs.map(|rung| ("eu", rung, rung == Protection::Sealed)));
        assert_eq!(tried, expected);
        assert_eq!(permit.policies(), ["research-models".into()]);
    }

    #[test]
    fn what_is_out_of_bounds_is_never_evaluated() {
        let bundle = embedded::bundle().unwrap();
        let (who, what) = (researcher(), label(Level::Internal, "EU"));
        let request = request(&who, &what);
        let good = on("eu", "tide-small");
        let ask = |candidates: &[Candidate], rungs: &[Protection]| {
            let denial = bundle.decide(&request, candidates, rungs).unwrap_err();
            assert!(denial.evaluations.is_empty());
            denial.reason.code()
        };
        assert_eq!(ask(&[], NONE), "no_candidate");
        assert_eq!(ask(std::slice::from_ref(&good), &[]), "no_candidate");
        assert_eq!(ask(&vec![good.clone(); 9], NONE), "invalid_authorization_request");
        assert_eq!(ask(std::slice::from_ref(&good), &[Protection::None; 4]), "invalid_authorization_request");
        // The second candidate is unknown: the first, which would be allowed, does not count either.
        assert_eq!(ask(&[good, on("eu", "ghost")], NONE), "unknown_entity");
    }

    #[test]
    fn a_slice_is_kept_for_equal_principals_only() {
        let bundle = embedded::bundle().unwrap();
        let what = label(Level::Internal, "EU");
        let key = |who: &Principal| {
            let uid = bundle.names().resource(&on("eu", "tide-small").resource);
            Side::new(who, bundle.master(), bundle.names()).digest().key(Action::Infer, &uid, None)
        };
        let base = researcher();
        assert_eq!(key(&base), key(&base.clone()));
        let changes: [fn(&mut Principal); 7] = [
            |p| p.kind = PrincipalKind::Workload,
            |p| p.id = "https://issuer.example|eve".into(),
            |p| p.tenant = "other".parse().unwrap(),
            |p| p.teams = vec!["marketing".parse().unwrap()],
            |p| p.authn = Authn::ApiKey,
            |p| p.chain.workload = Some("spiffe://x/y".into()),
            |p| p.chain.agent = Some("spiffe://x/y".into()),
        ];
        let mut keys = vec![key(&base)];
        for change in changes {
            let mut other = base.clone();
            change(&mut other);
            assert!(!keys.contains(&key(&other)), "{other:?}");
            keys.push(key(&other));
        }
        // A revoked membership holds at once, although a slice with it is there.
        assert!(bundle.decide(&request(&base, &what), &[on("eu", "tide-small")], NONE).is_ok());
        let mut former = base;
        former.teams.clear();
        let denial = bundle.decide(&request(&former, &what), &[on("eu", "tide-small")], NONE).unwrap_err();
        assert_eq!(denial.reason, DenialReason::NotPermitted);
    }
}
