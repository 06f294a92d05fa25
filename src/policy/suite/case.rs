//! One test of policies: a request in the words of the domain, and what must come of it.
//!
//! A case says what matters; what it leaves out comes from the file's defaults, then from [`Facts::default`]. All facts are those that a
//! gateway would have verified: a case cannot say what a request could not be.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::{
    Action, Authn, Candidate, Chain, ClusterName, DatasetName, Label, Level, Origin, Principal,
    PrincipalKind, Protection, Resource, ServiceName, TeamName, TenantName, UpstreamRef,
};
use crate::policy::AuthzRequest;
use crate::policy::request::OwnedRequest;

/// The time at which requests without one are asked.
const NOON: &str = "2026-01-15T12:00:00Z";

/// One value or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// Several.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

/// What is expected of a decision: any of that kind, or one by these policies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Wanted {
    /// `true`: whoever decides.
    Any(bool),
    /// This policy is among those that decide. For a denial also its code, such as `policy_denied`.
    Among(String),
    /// Exactly these policies decide, in any order.
    Exactly(Vec<String>),
}

/// Facts of a request and expectations, as they stand in a test file or on a command line. Each may be left out.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// A person: the id of a `User`, or a short name for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A program: the id of a `Workload`, usually a SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Nobody: a route that wants no identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<bool>,
    /// Teams of the principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team: Option<OneOrMore<TeamName>>,
    /// Its tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// The agent that acts for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// How the principal proved who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authn: Option<Authn>,
    /// The workload that connected, if it is another than the principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Seconds since the credential was issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_age: Option<u32>,
    /// What is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// Models as `cluster/model`, in the order in which they are tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<OneOrMore<String>>,
    /// A dataset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetName>,
    /// A service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The cluster that the data of a dataset or service goes to; `private` is the inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<ClusterName>,
    /// The clusters whose far end holds keys, so that sealing is tried for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_open: Option<OneOrMore<ClusterName>>,
    /// The effective level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The effective residency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<OneOrMore<String>>,
    /// The HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The decoded path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The length of the body in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether the answer is wanted as a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// The bound on generated tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// What the caller says that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// The address that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// It must be allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Wanted>,
    /// It must be denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Wanted>,
    /// The protection under which it must be allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protection: Option<Protection>,
    /// The model that must be chosen, as `cluster/model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

/// A fact that is none, or that is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// No action.
    #[error("it says no `action`")]
    NoAction,
    /// The action goes with another kind of resource.
    #[error("`{action}` wants `{wanted}`, and nothing else of `model`, `dataset` and `service`")]
    Resource {
        /// The action.
        action: &'static str,
        /// The field that it wants.
        wanted: &'static str,
    },
    /// More than one principal, or none.
    #[error("say one of `user`, `workload` and `anonymous`, or a `team`")]
    Principal,
    /// Somebody who proved nothing, or nobody who did.
    #[error("`authn = \"anonymous\"` goes with `anonymous = true`, and no other does")]
    Anonymous,
    /// A text that is no name.
    #[error("`{field}`: `{text}` is none: {why}")]
    Name {
        /// The field.
        field: &'static str,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not exactly one expectation.
    #[error("say either `allow` or `deny`: `true`, a policy, or a list of policies")]
    Expectation,
}

/// A request that was put together from facts; it lends [`AuthzRequest`]s.
#[derive(Debug, Clone)]
pub struct Ask {
    request: OwnedRequest,
    /// The ways to serve it, in order.
    pub candidates: Vec<Candidate>,
}

/// The protections that a gateway tries.
pub const RUNGS: [Protection; 2] = [Protection::None, Protection::Sealed];

impl Facts {
    /// These facts, with what they leave out from `defaults`. A principal, a resource or an expectation is taken as a whole.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        let mut rest = defaults.clone();
        if self.user.is_some() || self.workload.is_some() || self.anonymous.is_some() {
            (rest.user, rest.workload, rest.anonymous, rest.authn) = (None, None, None, None);
        }
        if self.model.is_some() || self.dataset.is_some() || self.service.is_some() {
            (rest.model, rest.dataset, rest.service) = (None, None, None);
        }
        if self.allow.is_some() || self.deny.is_some() {
            (rest.allow, rest.deny) = (None, None);
        }
        Self {
            user: self.user.or(rest.user),
            workload: self.workload.or(rest.workload),
            anonymous: self.anonymous.or(rest.anonymous),
            team: self.team.or(rest.team),
            tenant: self.tenant.or(rest.tenant),
            agent: self.agent.or(rest.agent),
            authn: self.authn.or(rest.authn),
            via: self.via.or(rest.via),
            token_age: self.token_age.or(rest.token_age),
            action: self.action.or(rest.action),
            model: self.model.or(rest.model),
            dataset: self.dataset.or(rest.dataset),
            service: self.service.or(rest.service),
            to: self.to.or(rest.to),
            can_open: self.can_open.or(rest.can_open),
            level: self.level.or(rest.level),
            residency: self.residency.or(rest.residency),
            method: self.method.or(rest.method),
            path: self.path.or(rest.path),
            bytes: self.bytes.or(rest.bytes),
            stream: self.stream.or(rest.stream),
            max_tokens: self.max_tokens.or(rest.max_tokens),
            purpose: self.purpose.or(rest.purpose),
            peer: self.peer.or(rest.peer),
            now: self.now.or(rest.now),
            allow: self.allow.or(rest.allow),
            deny: self.deny.or(rest.deny),
            protection: self.protection.or(rest.protection),
            chosen: self.chosen.or(rest.chosen),
        }
    }

    /// The request.
    ///
    /// # Errors
    /// Something is missing or contradicts itself.
    pub fn ask(&self) -> Result<Ask, FactError> {
        let action = self.action.ok_or(FactError::NoAction)?;
        let now = self.now.or_else(|| NOON.parse().ok()).unwrap_or(Timestamp::UNIX_EPOCH);
        let (method, path) = usual(action);
        let request = OwnedRequest {
            principal: Arc::new(self.principal(now)?),
            action,
            label: self.label()?,
            method: self.method.clone().unwrap_or_else(|| method.to_owned()),
            path: self.path.clone().unwrap_or_else(|| path.to_owned()),
            bytes: self.bytes.unwrap_or(100),
            stream: self.stream.unwrap_or(false),
            max_tokens: self.max_tokens,
            peer: self.peer.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            now,
            purpose: self.purpose.clone(),
        };
        Ok(Ask { request, candidates: self.candidates(action)? })
    }

    fn principal(&self, now: Timestamp) -> Result<Principal, FactError> {
        let teams: Vec<TeamName> = self.team.as_ref().map_or_else(Vec::new, |team| team.as_slice().to_vec());
        let anonymous = self.anonymous == Some(true);
        let (kind, id, authn) = match (&self.user, &self.workload, anonymous) {
            (Some(user), None, false) => (PrincipalKind::User, user.as_str(), Authn::Jwt),
            (None, Some(workload), false) => (PrincipalKind::Workload, workload.as_str(), Authn::Mtls),
            (None, None, true) => (PrincipalKind::Workload, "anonymous", Authn::Anonymous),
            // Somebody of that team.
            (None, None, false) if !teams.is_empty() => (PrincipalKind::User, "somebody", Authn::Jwt),
            _ => return Err(FactError::Principal),
        };
        let authn = self.authn.unwrap_or(authn);
        if (authn == Authn::Anonymous) != anonymous {
            return Err(FactError::Anonymous);
        }
        let tenant = self.tenant.clone().map_or_else(|| name("tenant", "test"), Ok)?;
        let workload = self.via.as_deref().or((authn == Authn::Mtls).then_some(id)).map(Arc::from);
        let age = self.token_age.map(|age| SignedDuration::from_secs(i64::from(age)));
        Ok(Principal {
            kind,
            id: id.into(),
            tenant,
            teams,
            authn,
            chain: Chain { workload, agent: self.agent.as_deref().map(Arc::from) },
            issued_at: age.and_then(|age| now.checked_sub(age).ok()),
            expires_at: None,
            credential: None,
        })
    }

    fn label(&self) -> Result<Label, FactError> {
        let residency = self.residency.iter().flat_map(|residency| residency.as_slice());
        let residency = residency.map(|place| name("residency", place)).collect::<Result<_, _>>()?;
        Ok(Label { level: self.level.unwrap_or(Level::Restricted), residency, origin: Origin::Route })
    }

    fn candidates(&self, action: Action) -> Result<Vec<Candidate>, FactError> {
        match (action, &self.model, &self.dataset, &self.service) {
            (Action::Infer | Action::Embed, Some(models), None, None) => {
                models.as_slice().iter().map(|model| self.model_candidate(model)).collect()
            }
            (Action::Read | Action::List | Action::Write | Action::Delete, None, Some(dataset), None) => {
                Ok(vec![self.candidate(Resource::Dataset(dataset.clone()), self.to.clone())?])
            }
            (Action::Call, None, None, Some(service)) => {
                Ok(vec![self.candidate(Resource::Service(service.clone()), self.to.clone())?])
            }
            _ => Err(FactError::Resource { action: action.name(), wanted: wanted(action) }),
        }
    }

    fn model_candidate(&self, text: &str) -> Result<Candidate, FactError> {
        let Some((cluster, model)) = text.split_once('/') else {
            let why = "write `cluster/model`".to_owned();
            return Err(FactError::Name { field: "model", text: text.to_owned(), why });
        };
        let cluster: ClusterName = name("model", cluster)?;
        let resource = Resource::Model { cluster: cluster.clone(), model: name("model", model)? };
        self.candidate(resource, Some(cluster))
    }

    fn candidate(
        &self,
        resource: Resource,
        destination: Option<ClusterName>,
    ) -> Result<Candidate, FactError> {
        let openers = self.can_open.iter().flat_map(|clusters| clusters.as_slice());
        let mut openers = openers.filter(|cluster| destination.as_ref() == Some(cluster));
        let can_open = openers.next().map(|cluster| name("can_open", cluster.as_str())).transpose()?;
        let upstream = match (&resource, &destination) {
            (Resource::Model { cluster, .. }, _) => UpstreamRef::Cluster(cluster.clone()),
            (Resource::Service(service), _) => UpstreamRef::Service(service.clone()),
            (Resource::Dataset(_), _) => UpstreamRef::Store(name("store", "test")?),
        };
        Ok(Candidate { resource, destination, upstream, can_open })
    }
}

impl Ask {
    /// The request as the engine takes it.
    #[must_use]
    pub fn request(&self) -> AuthzRequest<'_> {
        self.request.as_request()
    }
}

/// Method and path that such a request usually has.
const fn usual(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Infer => ("POST", "/v1/chat/completions"),
        Action::Embed => ("POST", "/v1/embeddings"),
        Action::Read => ("GET", "/store/bucket/key"),
        Action::List => ("GET", "/store/bucket"),
        Action::Write => ("PUT", "/store/bucket/key"),
        Action::Delete => ("DELETE", "/store/bucket/key"),
        Action::Call => ("GET", "/"),
    }
}

const fn wanted(action: Action) -> &'static str {
    match action {
        Action::Infer | Action::Embed => "model",
        Action::Read | Action::List | Action::Write | Action::Delete => "dataset",
        Action::Call => "service",
    }
}

fn name<T>(field: &'static str, text: &str) -> Result<T, FactError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| FactError::Name {
        field,
        text: text.to_owned(),
        why: error.to_string(),
    })
}
