//! From a record back to the questions that were asked of the policies.
//!
//! The record's own Cedar request (`context`) is what is asked again. Everything that the record says a second time, where tables and reports
//! read it, must say the same: a record whose parts contradict each other was not written by a gateway.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::contradictions::contradictions;
use crate::model::{
    Action, Authn, Candidate, Chain, ClusterName, Label, Level, Origin, Principal, PrincipalKind, Protection,
    Resource, TeamName, TenantName, UpstreamRef,
};
use crate::policy::request::{AuthzRequest, OwnedRequest};

/// A member that cannot be what a gateway wrote: its name, and what is wrong.
pub(super) type Wrong = (&'static str, String);

/// A decision record as far as a replay reads it.
#[derive(Debug, Deserialize)]
pub(super) struct Recorded {
    pub(super) kind: String,
    pub(super) id: Option<String>,
    pub(super) decision: Option<String>,
    pub(super) code: Option<String>,
    #[serde(default)]
    pub(super) policies: Vec<String>,
    #[serde(default)]
    pub(super) bundle: String,
    #[serde(default)]
    pub(super) truncated: bool,
    pub(super) tenant: Option<String>,
    pub(super) principal: Option<Party>,
    #[serde(default)]
    pub(super) chain: Links,
    pub(super) action: Option<String>,
    pub(super) resource: Option<Uid>,
    pub(super) destination: Option<String>,
    pub(super) protection: Option<String>,
    pub(super) label: Option<Marking>,
    pub(super) request: Option<Http>,
    pub(super) peer: Option<std::net::SocketAddr>,
    /// Read only where policies were asked: elsewhere it is empty.
    pub(super) context: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) evaluations: Vec<Evaluated>,
    /// What identifies the user was encrypted when it was written.
    pub(super) personal: Option<IgnoredAny>,
}

/// One evaluation as recorded.
#[derive(Debug, Deserialize)]
pub(super) struct Evaluated {
    pub(super) resource: Uid,
    pub(super) destination: Option<String>,
    pub(super) protection: String,
    pub(super) allowed: bool,
    #[serde(default)]
    pub(super) policies: Vec<String>,
    #[serde(default)]
    pub(super) errors: Vec<String>,
}

/// An entity reference; in a record's tables without the namespace, in its Cedar request with it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Uid {
    pub(super) r#type: String,
    pub(super) id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Party {
    pub(super) r#type: String,
    pub(super) id: String,
    #[serde(default)]
    pub(super) teams: Vec<String>,
    pub(super) authn: String,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Links {
    pub(super) workload: Option<String>,
    pub(super) agent: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Marking {
    pub(super) level: Level,
    pub(super) residency: Vec<String>,
    pub(super) origin: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Http {
    pub(super) method: String,
    pub(super) path: String,
}

/// The record's Cedar request; the names are those of `policy::record`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asked {
    pub(super) principal: AskedPrincipal,
    pub(super) action: String,
    pub(super) resource: Option<Uid>,
    pub(super) context: AskedContext,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AskedPrincipal {
    pub(super) uid: Uid,
    #[serde(default)]
    pub(super) parents: Vec<Uid>,
    pub(super) attrs: Attributes,
    #[serde(default)]
    pub(super) unknown_teams: Vec<String>,
    #[serde(default)]
    pub(super) more_unknown_teams: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attributes {
    pub(super) tenant: String,
    pub(super) authn: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AskedContext {
    pub(super) data: Data,
    pub(super) destination: Option<Uid>,
    pub(super) protection: Option<Rung>,
    pub(super) request: AskedHttp,
    #[serde(default)]
    pub(super) chain: AskedChain,
    pub(super) peer_address: std::net::IpAddr,
    pub(super) now: Timestamp,
    pub(super) purpose: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Data {
    pub(super) level: i64,
    pub(super) residency: Vec<Uid>,
    pub(super) origin: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Rung {
    pub(super) masked: bool,
    pub(super) sealed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AskedHttp {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) stream: bool,
    pub(super) max_tokens: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AskedChain {
    pub(super) workload: Option<Uid>,
    pub(super) agent: Option<Uid>,
    pub(super) token_age: Option<i64>,
}

/// What was asked, apart from where it could go.
#[derive(Debug)]
pub(super) struct Question {
    request: OwnedRequest,
    /// The last attempt, if there was one; it has no evaluation of its own if it could not be asked.
    pub(super) last: Option<(Candidate, Protection)>,
}

impl Question {
    /// The question of a record, and each contradiction within the record.
    pub(super) fn of(record: &Recorded) -> Result<(Self, Vec<String>), Wrong> {
        let context = record.context.as_deref().map_or("null", RawValue::get);
        let asked: Asked = serde_json::from_str(context).map_err(|error| ("context", error.to_string()))?;
        let found = contradictions(record, &asked);
        let context = asked.context;
        let action = action(&asked.action)?;
        let chain = Chain {
            workload: context.chain.workload.map(|uid| uid.id.into()),
            agent: context.chain.agent.map(|uid| uid.id.into()),
        };
        let age = context.chain.token_age.unwrap_or_default();
        let issued = context.now.checked_sub(SignedDuration::from_secs(age));
        let issued = issued.map_err(|error| ("context.chain.tokenAge", error.to_string()))?;
        let principal = Principal {
            kind: principal_kind(&asked.principal.uid)?,
            id: Arc::from(asked.principal.uid.id.as_str()),
            tenant: name::<TenantName>("context.principal.attrs.tenant", &asked.principal.attrs.tenant)?,
            teams: teams(&asked.principal, record)?,
            authn: authn(&asked.principal.attrs.authn)?,
            chain,
            issued_at: context.chain.token_age.is_some().then_some(issued),
            expires_at: None,
            credential: None,
        };
        let last = match (&asked.resource, &context.protection) {
            (Some(resource), Some(rung)) => {
                let destination = context.destination.as_ref().map(|uid| uid.id.as_str());
                Some((candidate(resource, destination)?, rung.protection()?))
            }
            _ => None,
        };
        let http = context.request;
        let request = OwnedRequest {
            principal: Arc::new(principal),
            action,
            label: label(&context.data)?,
            method: http.method,
            path: http.path,
            bytes: http.bytes,
            stream: http.stream,
            max_tokens: http.max_tokens,
            peer: context.peer_address,
            now: context.now,
            purpose: context.purpose,
        };
        Ok((Self { request, last }, found))
    }

    /// As the policies are asked.
    pub(super) fn request(&self) -> AuthzRequest<'_> {
        self.request.as_request()
    }

    /// Whether the path names an object, which a record holds only as a digest.
    pub(super) fn has_digested_path(&self) -> bool {
        self.request.path.contains("/hmac:")
    }
}

impl Uid {
    /// Without the namespace.
    pub(super) fn plain(&self) -> Self {
        Self { r#type: self.plain_type().to_owned(), id: self.id.clone() }
    }

    fn plain_type(&self) -> &str {
        self.r#type.rsplit("::").next().unwrap_or(&self.r#type)
    }
}

impl Rung {
    pub(super) fn protection(&self) -> Result<Protection, Wrong> {
        match (self.masked, self.sealed) {
            (false, false) => Ok(Protection::None),
            (true, false) => Ok(Protection::Masked),
            (false, true) => Ok(Protection::Sealed),
            (true, true) => Err(("context.protection", "is both masked and sealed".to_owned())),
        }
    }
}

impl Evaluated {
    /// What was asked.
    pub(super) fn attempt(&self) -> Result<(Candidate, Protection), Wrong> {
        let protections = [Protection::None, Protection::Masked, Protection::Sealed];
        let protection = protections.into_iter().find(|protection| protection.name() == self.protection);
        let protection = protection.ok_or_else(|| unknown("evaluations.protection", &self.protection))?;
        Ok((candidate(&self.resource, self.destination.as_deref())?, protection))
    }
}

/// A way to serve the request as the policies see it; whom to call is no part of the question.
fn candidate(resource: &Uid, destination: Option<&str>) -> Result<Candidate, Wrong> {
    const MEMBER: &str = "resource";
    let id = &resource.id;
    let destination = destination.map(|id| name::<ClusterName>("destination", id)).transpose()?;
    let (resource, upstream) = match resource.plain_type() {
        "Model" => {
            let (cluster, model) = id.split_once('/').ok_or_else(|| unknown(MEMBER, id))?;
            let cluster: ClusterName = name(MEMBER, cluster)?;
            let upstream = UpstreamRef::Cluster(cluster.clone());
            (Resource::Model { cluster, model: name(MEMBER, model)? }, upstream)
        }
        "Dataset" => (Resource::Dataset(name(MEMBER, id)?), UpstreamRef::Store(name(MEMBER, id)?)),
        "Service" => (Resource::Service(name(MEMBER, id)?), UpstreamRef::Service(name(MEMBER, id)?)),
        other => return Err(unknown(MEMBER, other)),
    };
    // What was tried could be done: the recorded evaluations say which rungs there were.
    let can_open = Some(name("recipient", "replay")?);
    Ok(Candidate { resource, destination, upstream, can_open })
}

fn unknown(member: &'static str, text: &str) -> Wrong {
    (member, format!("`{}` is unknown", text.chars().take(80).collect::<String>()))
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(member: &'static str, text: &str) -> Result<T, Wrong> {
    text.parse().map_err(|error: T::Err| (member, error.to_string()))
}

fn action(text: &str) -> Result<Action, Wrong> {
    let found = crate::policy::names::ACTIONS.into_iter().find(|action| action.name() == text);
    found.ok_or_else(|| unknown("context.action", text))
}

fn principal_kind(uid: &Uid) -> Result<PrincipalKind, Wrong> {
    let kinds = [PrincipalKind::User, PrincipalKind::Workload];
    let kind = kinds.into_iter().find(|kind| kind.name() == uid.plain_type());
    kind.ok_or_else(|| unknown("context.principal.uid", &uid.r#type))
}

/// All verified teams: those that the policies knew, and those that they did not, which others may.
fn teams(asked: &AskedPrincipal, record: &Recorded) -> Result<Vec<TeamName>, Wrong> {
    let known = asked.parents.iter().map(|uid| &uid.id).chain(&asked.unknown_teams);
    let mut all: Vec<&String> = known.collect();
    if asked.more_unknown_teams > 0 {
        let more = record.principal.iter().flat_map(|party| &party.teams);
        all.extend(more.filter(|team| !asked.parents.iter().any(|uid| uid.id == **team)));
        all.sort();
        all.dedup();
    }
    all.into_iter().map(|team| name("context.principal.parents", team)).collect()
}

fn authn(text: &str) -> Result<Authn, Wrong> {
    let all = [Authn::Jwt, Authn::Mtls, Authn::ApiKey, Authn::Anonymous];
    let found = all.into_iter().find(|authn| crate::policy::entities::authn(*authn) == text);
    found.ok_or_else(|| unknown("context.principal.attrs.authn", text))
}

fn label(data: &Data) -> Result<Label, Wrong> {
    let levels = [Level::Public, Level::Internal, Level::Confidential, Level::Restricted];
    let level = levels.into_iter().find(|level| level.rank() == data.level);
    let origins = [Origin::Default, Origin::Route, Origin::Dataset, Origin::Detector, Origin::Caller];
    let origin = origins.into_iter().find(|origin| origin.name() == data.origin);
    Ok(Label {
        level: level.ok_or_else(|| unknown("context.data.level", &data.level.to_string()))?,
        residency: data
            .residency
            .iter()
            .map(|uid| name("context.data.residency", &uid.id))
            .collect::<Result<_, _>>()?,
        origin: origin.ok_or_else(|| unknown("context.data.origin", &data.origin))?,
    })
}
