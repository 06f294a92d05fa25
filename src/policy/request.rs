//! A request as the gateway asks it, and the check that a schema accepts it.
//!
//! Typed from end to end: a field that is missing or of another type than the schema's is found when a bundle is loaded
//! ([`probe`]), not when the first request comes, so a request is not checked against the schema again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use cedar_policy::{Context, EntityId, EntityUid, Request, Schema};
use jiff::Timestamp;

use super::context::Contexts;
use super::entities::{Side, principal_entities};
use super::master::Master;
use super::names::{ACTIONS, Names, resource_kind, type_name};
use super::schema::describe;
use crate::model::{
    Action, Authn, Chain, Label, Level, Origin, Principal, PrincipalKind, Problems, Protection,
};

/// What is asked, apart from where it could go: the same for every candidate and rung.
#[derive(Debug, Clone, Copy)]
pub struct AuthzRequest<'a> {
    /// Who asks.
    pub principal: &'a Principal,
    /// What is asked.
    pub action: Action,
    /// The effective label of the data.
    pub label: &'a Label,
    /// The HTTP method.
    pub method: &'a str,
    /// The decoded path, exactly what is forwarded.
    pub path: &'a str,
    /// The length of the body in bytes; for an unknown length the highest allowed one.
    pub bytes: u64,
    /// Whether the answer is wanted as a stream.
    pub stream: bool,
    /// The client's bound on generated tokens.
    pub max_tokens: Option<u64>,
    /// The address of the TCP connection.
    pub peer: IpAddr,
    /// The time of this decision.
    pub now: Timestamp,
    /// What the caller says that it is for.
    pub purpose: Option<&'a str>,
}

impl AuthzRequest<'_> {
    /// Seconds since the credential was issued; one issued in the future (within the leeway) is new.
    pub(super) fn token_age(&self) -> Option<i64> {
        let issued = self.principal.issued_at?;
        Some(self.now.as_second().saturating_sub(issued.as_second()).max(0))
    }
}

/// A request that owns its facts, to be asked elsewhere or later.
#[derive(Debug, Clone)]
pub(super) struct OwnedRequest {
    /// Who asks.
    pub(super) principal: Arc<Principal>,
    /// What is asked.
    pub(super) action: Action,
    /// The effective label of the data.
    pub(super) label: Label,
    /// The HTTP method.
    pub(super) method: String,
    /// The decoded path.
    pub(super) path: String,
    /// The length of the body in bytes.
    pub(super) bytes: u64,
    /// Whether the answer is wanted as a stream.
    pub(super) stream: bool,
    /// The client's bound on generated tokens.
    pub(super) max_tokens: Option<u64>,
    /// The address of the TCP connection.
    pub(super) peer: IpAddr,
    /// The time of the decision.
    pub(super) now: Timestamp,
    /// What the caller says that it is for.
    pub(super) purpose: Option<String>,
}

impl OwnedRequest {
    /// Copies a request of this principal, who is shared.
    pub(super) fn new(principal: &Arc<Principal>, request: &AuthzRequest<'_>) -> Self {
        Self {
            principal: Arc::clone(principal),
            action: request.action,
            label: request.label.clone(),
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            bytes: request.bytes,
            stream: request.stream,
            max_tokens: request.max_tokens,
            peer: request.peer,
            now: request.now,
            purpose: request.purpose.map(str::to_owned),
        }
    }

    /// As the policies are asked.
    pub(super) fn as_request(&self) -> AuthzRequest<'_> {
        AuthzRequest {
            principal: &self.principal,
            action: self.action,
            label: &self.label,
            method: &self.method,
            path: &self.path,
            bytes: self.bytes,
            stream: self.stream,
            max_tokens: self.max_tokens,
            peer: self.peer,
            now: self.now,
            purpose: self.purpose.as_deref(),
        }
    }
}

/// A Cedar `Long`: what is larger than the largest counts as the largest.
pub(super) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The text of a Cedar `datetime`: milliseconds, UTC.
pub(super) fn datetime(at: Timestamp) -> String {
    CedarTime(at).to_string()
}

/// A time that is displayed as that text.
pub(super) struct CedarTime(pub(super) Timestamp);

impl fmt::Display for CedarTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

/// Checks that the gateway's requests, with all optional facts and with none, are what the schema asks for.
pub(super) fn probe(schema: &Schema, names: &Names, file: &str, problems: &mut Problems) {
    let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for kind in [PrincipalKind::User, PrincipalKind::Workload] {
        // One that is not declared has been reported already.
        let declared = |action: &Action| schema.actions().any(|uid| *uid == names.action(action.name()));
        for action in ACTIONS.into_iter().filter(declared) {
            for full in [false, true] {
                if let Err(message) = probe_one(schema, names, kind, action, full) {
                    found.entry(message).or_default().insert(action.name());
                    break;
                }
            }
        }
    }
    for (message, actions) in found {
        let actions: Vec<_> = actions.into_iter().map(|action| format!("`{action}`")).collect();
        let place = format!("action {}", actions.join(", "));
        let message = format!("does not fit what the gateway asks: {message}");
        problems.push(file, place, message, "copy the changed part from the shipped schema");
    }
}

/// An id that no schema lists, should it declare one of these types by its ids.
const ID: &str = "probe of the gateway";

fn probe_one(
    schema: &Schema,
    names: &Names,
    kind: PrincipalKind,
    action: Action,
    full: bool,
) -> Result<(), String> {
    let chain = Chain { workload: full.then(|| ID.into()), agent: full.then(|| ID.into()) };
    let principal = Principal {
        kind,
        id: ID.into(),
        tenant: "probe".parse().map_err(|error| format!("{error}"))?,
        teams: full.then(|| "probe".parse().ok()).flatten().into_iter().collect(),
        authn: Authn::Jwt,
        chain,
        issued_at: full.then_some(Timestamp::UNIX_EPOCH),
        expires_at: None,
        credential: None,
    };
    let residency = full.then(|| "EU".parse().ok()).flatten().into_iter().collect();
    let label = Label { level: Level::Public, residency, origin: Origin::Route };
    let request = AuthzRequest {
        principal: &principal,
        action,
        label: &label,
        method: "GET",
        path: "/",
        bytes: 0,
        stream: false,
        max_tokens: full.then_some(1),
        peer: IpAddr::from([127, 0, 0, 1]),
        now: Timestamp::UNIX_EPOCH,
        purpose: full.then_some("probe"),
    };
    let destination = full.then(|| "private".parse().ok()).flatten().map(|cluster| names.cluster(&cluster));
    let destination = destination.map(|uid| Arc::new(uid.into()));
    let shared = Contexts::new().ok_or("the names of Cedar's functions do not parse")?;
    let base = shared.base(&request, names).map_err(|error| describe(&error))?;
    let context = Context::from(base.attempt(destination.as_ref(), Protection::None));
    let resource = type_name(resource_kind(action)).ok_or("its resource has no type")?;
    let resource = EntityUid::from_type_name_and_id(resource, EntityId::new("probe"));
    let principal_uid = names.principal(kind, &principal.id);
    let action = names.action(action.name());
    if let Err(error) = Request::new(principal_uid, action.clone(), resource, context.clone(), Some(schema)) {
        // The JSON parser says which fact it is; the request says only that one is wrong.
        let json = context.to_json_value().map_err(|error| describe(&error))?;
        let named = Context::from_json_value(json, Some((schema, &action))).err();
        return Err(named.map_or_else(|| describe(&error), |named| describe(&named)));
    }
    let side = Side { principal: &principal, teams: principal.teams.iter().collect() };
    let entities = principal_entities(&side, &Master::default(), names);
    let entities = entities.into_iter().map(cedar_policy::Entity::from);
    cedar_policy::Entities::from_entities(entities, Some(schema)).map_err(|error| describe(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_cut_to_milliseconds_and_longs_saturate() {
        assert_eq!(datetime("2026-11-24T09:05:07.9999Z".parse().unwrap()), "2026-11-24T09:05:07.999Z");
        assert_eq!(datetime("2026-11-24T09:05:07Z".parse().unwrap()), "2026-11-24T09:05:07.000Z");
        assert_eq!((long(7), long(u64::MAX)), (7, i64::MAX));
    }
}
