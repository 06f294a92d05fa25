//! The record that stands before a crossing: the whole question, the answer and why.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entity, Text};
use crate::model::{AuditMode, Authn, Chain, Label, Level, Principal, RecordId, Residency, TeamName};

/// One decision: who asked for what, what was decided and why. Written before anything is sent.
///
/// `id`, attempt, time, gateway and boot are added by the draft that writes it. `C` is the context: a map where a record is read, and for
/// a writer whatever writes itself as that object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(bound = "C: schemars::JsonSchema + Serialize + Default")]
pub struct Decision<'a, C = Cow<'a, serde_json::Map<String, serde_json::Value>>> {
    /// The Cedar action, if it got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Text<'a>>,
    /// HMAC of the request body before protection, if it was buffered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<Text<'a>>,
    /// SHA-256 of the policy bundle, hexadecimal.
    pub bundle: Text<'a>,
    /// The workload and agent behind the request.
    #[serde(default)]
    pub chain: Links<'a>,
    /// The stable code of a denial or rejection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Text<'a>>,
    /// The whole Cedar context of the deciding evaluation.
    #[serde(default)]
    pub context: C,
    /// What was decided.
    pub decision: Verdict,
    /// Where the data would go, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Text<'a>>,
    /// Every candidate and protection that was tried, in order.
    #[serde(default)]
    pub evaluations: Vec<Evaluation<'a>>,
    /// The effective label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Marking<'a>>,
    /// How surely the route's crossings are recorded.
    pub mode: AuditMode,
    /// The sealed message that the request came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Message<'a>>,
    /// The address of whoever connected.
    pub peer: SocketAddr,
    /// The policies that decided, by `@id`.
    #[serde(default)]
    pub policies: Cow<'a, [Arc<str>]>,
    /// Who asked.
    pub principal: Party<'a>,
    /// The protection of the deciding evaluation: `none`, `masked` or `sealed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Text<'a>>,
    /// The request as it was seen.
    pub request: Request<'a>,
    /// The Cedar resource of the deciding evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<Entity<'a>>,
    /// The route that matched.
    pub route: Text<'a>,
    /// The sealed message that the attempt leaves in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Message<'a>>,
    /// The tenant.
    pub tenant: Text<'a>,
    /// The OpenTelemetry trace, hexadecimal; set also if the trace was not sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Text<'a>>,
    /// The endpoint that the attempt goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream<'a>>,
}

impl<'a, C> Decision<'a, C> {
    /// The same with another context.
    #[must_use]
    pub fn with_context<D>(&self, context: D) -> Decision<'a, D> {
        Decision {
            action: self.action.clone(),
            body_digest: self.body_digest.clone(),
            bundle: self.bundle.clone(),
            chain: self.chain.clone(),
            code: self.code.clone(),
            context,
            decision: self.decision,
            destination: self.destination.clone(),
            evaluations: self.evaluations.clone(),
            label: self.label.clone(),
            mode: self.mode,
            opened: self.opened.clone(),
            peer: self.peer,
            policies: self.policies.clone(),
            principal: self.principal.clone(),
            protection: self.protection.clone(),
            request: self.request.clone(),
            resource: self.resource.clone(),
            route: self.route.clone(),
            seal: self.seal.clone(),
            tenant: self.tenant.clone(),
            trace_id: self.trace_id.clone(),
            upstream: self.upstream.clone(),
        }
    }
}

/// Members of a decision that identify its user, encrypted under a key that can be destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Personal<'a> {
    /// The id of the subject's key; the principal's id is `subject:` and this.
    pub subject: RecordId,
    /// AES-256-GCM of a JSON object from JSON pointer (RFC 6901) to the member's value, with `<id>/<attempt>` of the
    /// record as additional data: nonce, ciphertext and tag in base64.
    pub sealed: Text<'a>,
}

/// A decision as it is written: with `audit.personal = "erasable"` what identifies its user is encrypted.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct PersonalDecision<'a> {
    /// The decision; the encrypted members are absent, or say less.
    #[serde(flatten)]
    pub decision: Decision<'a>,
    /// Those members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub personal: Option<Personal<'a>>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Cedar permits it and it goes on.
    Allow,
    /// Cedar does not permit it.
    Deny,
    /// Refused without Cedar or after it: limits, malformed body, unknown model.
    Reject,
}

impl Verdict {
    /// The name in records and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
        }
    }
}

/// The principal, with the facts that its entity was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Party<'a> {
    /// How it was proved: `jwt`, `mtls`, `api_key` or `anonymous`.
    pub authn: Text<'a>,
    /// SHA-256 of the credential's id, hexadecimal; never the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Text<'a>>,
    /// The entity id.
    pub id: Text<'a>,
    /// The parents of the entity.
    #[serde(default)]
    pub teams: Cow<'a, [TeamName]>,
    /// The entity type: `User` or `Workload`.
    #[serde(rename = "type")]
    pub kind: Text<'a>,
}

impl<'a> From<&'a Principal> for Party<'a> {
    fn from(principal: &'a Principal) -> Self {
        Self {
            kind: principal.kind.name().into(),
            id: Cow::Borrowed(&principal.id),
            teams: Cow::Borrowed(&principal.teams),
            authn: match principal.authn {
                Authn::Jwt => "jwt",
                Authn::Mtls => "mtls",
                Authn::ApiKey => "api_key",
                Authn::Anonymous => "anonymous",
            }
            .into(),
            credential: principal.credential.as_deref().map(Cow::Borrowed),
        }
    }
}

/// The parties behind the request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Links<'a> {
    /// The agent that acts for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Text<'a>>,
    /// The workload that connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Text<'a>>,
}

impl<'a> From<&'a Chain> for Links<'a> {
    fn from(chain: &'a Chain) -> Self {
        Self {
            workload: chain.workload.as_deref().map(Cow::Borrowed),
            agent: chain.agent.as_deref().map(Cow::Borrowed),
        }
    }
}

/// The effective label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Marking<'a> {
    /// How sensitive, by name.
    pub level: Level,
    /// Who fixed the level.
    pub origin: Text<'a>,
    /// Where it may be.
    pub residency: Cow<'a, Residency>,
}

impl<'a> From<&'a Label> for Marking<'a> {
    fn from(label: &'a Label) -> Self {
        Self {
            level: label.level,
            residency: Cow::Borrowed(&label.residency),
            origin: label.origin.name().into(),
        }
    }
}

/// The request as the gateway saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Request<'a> {
    /// The declared or buffered size of the body, or the bound of one that declares none.
    pub bytes: u64,
    /// The host asked for, lower case.
    pub host: Text<'a>,
    /// The method.
    pub method: Text<'a>,
    /// The decoded path. Object keys of a store stand in it as HMACs.
    pub path: Text<'a>,
    /// The query, each value as its HMAC.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Parameter<'a>>,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Text<'a>>,
    /// The HTTP version: `1.1` or `2`.
    pub version: Text<'a>,
}

/// One pair of a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Parameter<'a> {
    /// HMAC of the decoded value.
    pub digest: Text<'a>,
    /// The decoded name.
    pub name: Text<'a>,
}

/// The public facts of a sealed message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Message<'a> {
    /// `request`, `answer` or `rest`.
    pub direction: Text<'a>,
    /// The branch key and its version: `t/TENANT/RECIPIENT/DIRECTION/vN`; absent if it is not chosen before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Text<'a>>,
    /// Its id, hexadecimal; absent as the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Text<'a>>,
    /// Who can open it.
    pub recipient: Text<'a>,
    /// The record of the gateway that sealed it, if it came from another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Text<'a>>,
    /// The tenant, if it came from another gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Text<'a>>,
}

/// One evaluation of a candidate with a protection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Evaluation<'a> {
    /// Whether Cedar allowed it.
    pub allowed: bool,
    /// Where the data would go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Text<'a>>,
    /// What Cedar could not evaluate; any makes the decision a denial.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub errors: Cow<'a, [String]>,
    /// The policies that decided it.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub policies: Cow<'a, [Arc<str>]>,
    /// `none`, `masked` or `sealed`.
    pub protection: Text<'a>,
    /// The resource.
    pub resource: Entity<'a>,
}

/// The endpoint of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Upstream<'a> {
    /// The endpoint, as configured: `https://host:port`.
    pub endpoint: Text<'a>,
    /// The cluster, store or service.
    pub name: Text<'a>,
    /// Whether it is reached without TLS over a network; loopback is none.
    pub plaintext: bool,
}
