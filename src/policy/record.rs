//! The whole Cedar request as the audit record keeps it: enough to ask the same question again.
//!
//! Field names and shapes are those that Cedar's JSON parser accepts with the schema, so a record can be replayed without a translation.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::entities::{Side, authn};
use super::request::{AuthzRequest, CedarTime, long};
use crate::model::{
    Action, Candidate, ClusterName, Jurisdiction, PrincipalKind, Protection, Resource, TeamName,
};

/// How many unknown teams are named; of the others only the number is kept.
const MAX_UNKNOWN_TEAMS: usize = 32;

/// A request to Cedar with the verified facts about the principal, as of its last evaluation (for a permit, the permitted one).
///
/// Every decision makes one, few are looked at before they are written: facts are kept as they are and become text in the record only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    action: Action,
    context: ContextRecord,
    principal: PrincipalRecord,
    resource: Option<Resource>,
}

/// A [`RequestRecord`] as it is written, with another text as the path: for stores the path names an object, which a record holds only as
/// a digest. Nothing is copied; members stand in canonical order, so that an audit record of it needs no sorting.
#[derive(Debug, Clone)]
pub struct ShownRequest<'a> {
    request: &'a RequestRecord,
    path: Cow<'a, str>,
}

impl Serialize for RequestRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shown(self.context.request.path.as_str().into()).serialize(serializer)
    }
}

impl Serialize for ShownRequest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let RequestRecord { action, context, principal, resource } = self.request;
        let mut members = serializer.serialize_struct("Request", 4)?;
        members.serialize_field("action", action)?;
        members.serialize_field("context", &ShownContext { context, path: &self.path })?;
        members.serialize_field("principal", principal)?;
        if let Some(resource) = resource {
            members.serialize_field("resource", &ResourceUid(resource))?;
        }
        members.end()
    }
}

/// An entity reference, `{"type": …, "id": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Uid {
    id: Arc<str>,
    r#type: &'static str,
}

/// A reference to what is a name elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Named<T> {
    id: T,
    r#type: &'static str,
}

struct ResourceUid<'a>(&'a Resource);

impl Serialize for ResourceUid<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(resource) = self;
        let kind = match resource {
            Resource::Model { .. } => "Tidegate::Model",
            Resource::Dataset(_) => "Tidegate::Dataset",
            Resource::Service(_) => "Tidegate::Service",
        };
        let mut uid = serializer.serialize_struct("Uid", 2)?;
        match resource {
            Resource::Model { cluster, model } => {
                uid.serialize_field("id", &Text(format_args!("{cluster}/{model}")))?;
            }
            Resource::Dataset(name) => uid.serialize_field("id", name)?,
            Resource::Service(name) => uid.serialize_field("id", name)?,
        }
        uid.serialize_field("type", kind)?;
        uid.end()
    }
}

/// Something that is written as the text that it displays.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrincipalRecord {
    attrs: Attributes,
    /// How many more of them there were.
    #[serde(skip_serializing_if = "is_zero")]
    more_unknown_teams: usize,
    parents: Vec<Named<TeamName>>,
    uid: Uid,
    /// Verified groups that `entities.json` does not know: they gave no right.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_teams: Vec<TeamName>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Attributes {
    authn: &'static str,
    tenant: crate::model::TenantName,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ContextRecord {
    chain: ChainRecord,
    data: Data,
    destination: Option<Named<ClusterName>>,
    now: Timestamp,
    peer_address: IpAddr,
    protection: Option<ProtectionRecord>,
    purpose: Option<String>,
    request: Http,
}

struct ShownContext<'a> {
    context: &'a ContextRecord,
    path: &'a str,
}

impl Serialize for ShownContext<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ContextRecord { chain, data, destination, now, peer_address, protection, purpose, request } =
            self.context;
        let mut members = serializer.serialize_struct("Context", 8)?;
        members.serialize_field("chain", chain)?;
        members.serialize_field("data", data)?;
        if let Some(destination) = destination {
            members.serialize_field("destination", destination)?;
        }
        members.serialize_field("now", &Text(CedarTime(*now)))?;
        members.serialize_field("peerAddress", &Text(peer_address))?;
        if let Some(protection) = protection {
            members.serialize_field("protection", protection)?;
        }
        if let Some(purpose) = purpose {
            members.serialize_field("purpose", purpose)?;
        }
        members.serialize_field("request", &ShownHttp { request, path: self.path })?;
        members.end()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Data {
    level: i64,
    origin: &'static str,
    residency: Vec<Named<Jurisdiction>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ProtectionRecord {
    masked: bool,
    sealed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Http {
    bytes: i64,
    max_tokens: Option<i64>,
    method: String,
    path: String,
    stream: bool,
}

struct ShownHttp<'a> {
    request: &'a Http,
    path: &'a str,
}

impl Serialize for ShownHttp<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Http { bytes, max_tokens, method, path: _, stream } = self.request;
        let mut members = serializer.serialize_struct("Http", 5)?;
        members.serialize_field("bytes", bytes)?;
        if let Some(max_tokens) = max_tokens {
            members.serialize_field("maxTokens", max_tokens)?;
        }
        members.serialize_field("method", method)?;
        members.serialize_field("path", self.path)?;
        members.serialize_field("stream", stream)?;
        members.end()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChainRecord {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Uid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Uid>,
}

impl RequestRecord {
    pub(super) fn new(request: &AuthzRequest<'_>, side: &Side<'_>) -> Self {
        Self {
            principal: PrincipalRecord::new(side),
            action: request.action,
            resource: None,
            context: ContextRecord::new(request),
        }
    }

    /// Fills in what one attempt adds.
    pub(super) fn attempt(&mut self, candidate: &Candidate, protection: Protection) {
        self.resource = Some(candidate.resource.clone());
        let cluster = |name: &ClusterName| Named { r#type: "Tidegate::Cluster", id: name.clone() };
        self.context.destination = candidate.destination.as_ref().map(cluster);
        self.context.protection = Some(ProtectionRecord {
            masked: protection == Protection::Masked,
            sealed: protection == Protection::Sealed,
        });
    }

    /// The same with another text as the path, to be written.
    #[must_use]
    pub const fn shown<'a>(&'a self, path: Cow<'a, str>) -> ShownRequest<'a> {
        ShownRequest { request: self, path }
    }
}

impl PrincipalRecord {
    fn new(side: &Side<'_>) -> Self {
        let principal = side.principal;
        let kind = match principal.kind {
            PrincipalKind::User => "Tidegate::User",
            PrincipalKind::Workload => "Tidegate::Workload",
        };
        let unknown = || principal.teams.iter().filter(|team| !side.teams.contains(team));
        Self {
            uid: Uid { r#type: kind, id: Arc::clone(&principal.id) },
            parents: side
                .teams
                .iter()
                .map(|team| Named { r#type: "Tidegate::Team", id: (*team).clone() })
                .collect(),
            attrs: Attributes { tenant: principal.tenant.clone(), authn: authn(principal.authn) },
            unknown_teams: unknown().take(MAX_UNKNOWN_TEAMS).cloned().collect(),
            more_unknown_teams: unknown().skip(MAX_UNKNOWN_TEAMS).count(),
        }
    }
}

impl ContextRecord {
    fn new(request: &AuthzRequest<'_>) -> Self {
        let residency = request.label.residency.iter();
        let chain = &request.principal.chain;
        let uid = |kind, id: &Option<Arc<str>>| Some(Uid { r#type: kind, id: Arc::clone(id.as_ref()?) });
        Self {
            data: Data {
                level: request.label.level.rank(),
                residency: residency
                    .map(|place| Named { r#type: "Tidegate::Jurisdiction", id: place.clone() })
                    .collect(),
                origin: request.label.origin.name(),
            },
            destination: None,
            protection: None,
            request: Http {
                method: request.method.to_owned(),
                path: request.path.to_owned(),
                bytes: long(request.bytes),
                stream: request.stream,
                max_tokens: request.max_tokens.map(long),
            },
            chain: ChainRecord {
                workload: uid("Tidegate::Workload", &chain.workload),
                agent: uid("Tidegate::Agent", &chain.agent),
                token_age: request.token_age(),
            },
            peer_address: request.peer,
            now: request.now,
            purpose: request.purpose.map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::{EntityUid, Request};

    use super::super::fixtures::{label, on, request, researcher};
    use super::*;
    use crate::model::{Chain, Level};
    use crate::policy::embedded;

    /// Asks the recorded question again with Cedar's own JSON parsers.
    #[test]
    fn a_record_can_be_asked_again() {
        let bundle = embedded::bundle().unwrap();
        let mut who = researcher();
        who.teams.push("unheard-of".parse().unwrap());
        who.chain = Chain { workload: Some("spiffe://a/b".into()), agent: Some("bot".into()) };
        who.issued_at = Some("2026-11-24T11:59:00Z".parse().unwrap());
        let what = label(Level::Confidential, "EU");
        let mut asked = request(&who, &what);
        (asked.max_tokens, asked.purpose) = (Some(5), Some("trial"));
        let permit = bundle.decide(&asked, &[on("eu", "tide-small")], &[Protection::None]).unwrap();
        let json = serde_json::to_value(permit.request()).unwrap();
        assert_eq!(
            json["principal"]["parents"],
            serde_json::json!([{"type": "Tidegate::Team", "id": "research"}])
        );
        assert_eq!(json["principal"]["unknownTeams"], serde_json::json!(["unheard-of"]));
        assert_eq!(json["context"]["chain"]["tokenAge"], 60);

        let uid = |value: &serde_json::Value| EntityUid::from_json(value.clone()).unwrap();
        let action = bundle.names().action(json["action"].as_str().unwrap());
        let schema = Some((bundle.schema(), &action));
        let context = cedar_policy::Context::from_json_value(json["context"].clone(), schema).unwrap();
        let destination = Arc::new(bundle.names().cluster(&"eu".parse().unwrap()).into());
        let base = bundle.contexts().base(&asked, bundle.names()).unwrap();
        let built = base.attempt(Some(&destination), Protection::None);
        assert_eq!(context, built.into());
        let again = Request::new(
            uid(&json["principal"]["uid"]),
            action.clone(),
            uid(&json["resource"]),
            context,
            Some(bundle.schema()),
        );
        assert!(again.is_ok(), "{again:?}");
        let hidden = permit.request().shown("hmac:00".into());
        assert_eq!(serde_json::to_value(hidden).unwrap()["context"]["request"]["path"], "hmac:00");
    }
}
