//! The outcome of a decision: a [`Permit`] or a [`Denial`], each with the evaluations that led to it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::record::RequestRecord;
use crate::model::{Candidate, ClusterName, Protection, Resource};

/// One question to Cedar and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evaluation {
    /// What it was about.
    pub resource: Resource,
    /// Where the data would go, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<ClusterName>,
    /// What would be done to the payload.
    pub protection: Protection,
    /// Whether Cedar said Allow and no policy had an error.
    pub allowed: bool,
    /// The policies that decided: the permits of an Allow, the forbids of a Deny; none if no permit matched.
    pub policies: Vec<Arc<str>>,
    /// Policies that could not be evaluated, and why; at most 16. Internal: not for the caller.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// Leave to send one payload to one place under one protection, once.
///
/// Made only in this module's parent, by [`super::Bundle::decide`]. It is no `Clone`: a retry is decided again.
#[derive(Debug)]
#[must_use = "a permit that is not used permitted nothing"]
pub struct Permit {
    candidate: Candidate,
    protection: Protection,
    evaluations: Vec<Evaluation>,
    bundle: Arc<str>,
    request: Box<RequestRecord>,
}

impl Permit {
    /// The only place where a permit comes into being. `evaluations` ends with the Allow.
    pub(super) fn new(
        candidate: Candidate,
        protection: Protection,
        evaluations: Vec<Evaluation>,
        bundle: Arc<str>,
        request: Box<RequestRecord>,
    ) -> Self {
        Self { candidate, protection, evaluations, bundle, request }
    }

    /// What and where to.
    #[must_use]
    pub const fn candidate(&self) -> &Candidate {
        &self.candidate
    }

    /// What must be done to the payload, exactly.
    #[must_use]
    pub const fn protection(&self) -> Protection {
        self.protection
    }

    /// The permits that decided, by their `@id`.
    #[must_use]
    pub fn policies(&self) -> &[Arc<str>] {
        self.evaluations.last().map_or(&[], |last| &last.policies)
    }

    /// All evaluations in order; the last one is the Allow.
    #[must_use]
    pub fn evaluations(&self) -> &[Evaluation] {
        &self.evaluations
    }

    /// The hash of the bundle that decided.
    #[must_use]
    pub const fn bundle(&self) -> &Arc<str> {
        &self.bundle
    }

    /// The request that was permitted, for the record.
    #[must_use]
    pub const fn request(&self) -> &RequestRecord {
        &self.request
    }
}

/// Why a request is denied. Displays as the public reason, serialises as the stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// No permit matched.
    NotPermitted,
    /// A forbid matched; it wins over any permit.
    Forbidden,
    /// A policy could not be evaluated. Whatever the others said does not count.
    PolicyError,
    /// The request names an entity that `entities.json` does not know.
    UnknownEntity,
    /// The request does not fit the schema, or its candidates and rungs are too many.
    InvalidRequest,
    /// There is nowhere to send it.
    NoCandidate,
    /// The bundle has expired, and no newer one is there.
    Expired,
}

impl DenialReason {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NotPermitted,
        Self::Forbidden,
        Self::PolicyError,
        Self::UnknownEntity,
        Self::InvalidRequest,
        Self::NoCandidate,
        Self::Expired,
    ];

    /// The stable code in responses, records and metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotPermitted => "policy_denied",
            Self::Forbidden => "policy_forbidden",
            Self::PolicyError => "policy_error",
            Self::UnknownEntity => "unknown_entity",
            Self::InvalidRequest => "invalid_authorization_request",
            Self::NoCandidate => "no_candidate",
            Self::Expired => "bundle_expired",
        }
    }
}

impl Serialize for DenialReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "no policy permits this",
            Self::Forbidden => "a policy forbids this",
            Self::PolicyError => "the policies could not be evaluated",
            Self::UnknownEntity => "the request names something that the policies do not know",
            Self::InvalidRequest => "the request cannot be decided",
            Self::NoCandidate => "nothing serves this request",
            Self::Expired => "the policies have expired",
        })
    }
}

/// A denied request.
#[derive(Debug)]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// For [`DenialReason::Forbidden`], every forbid that matched in any evaluation; else empty.
    pub policies: Vec<Arc<str>>,
    /// All evaluations in order; empty if the request was denied before any.
    pub evaluations: Vec<Evaluation>,
    /// The hash of the bundle that decided.
    pub bundle: Arc<str>,
    /// The request that was denied, for the record.
    pub request: Box<RequestRecord>,
    /// What exactly was unknown or did not fit. Internal: not for the caller.
    pub detail: Option<Box<str>>,
}
