//! A request as Cedar sees it: the one place that builds its context.
//!
//! Typed from end to end: a field that is missing or of another type than the schema's is found when a bundle is loaded
//! ([`probe`]), not when the first request comes. What differs between attempts (destination, protection) is added last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cedar_policy::{Context, ContextCreationError, Request, RestrictedExpression, Schema};
use jiff::Timestamp;

use super::entities::{Side, principal_entities};
use super::names::{ACTIONS, Names, resource_kind, type_name};
use super::schema::describe;
use crate::model::{
    Action, Authn, Chain, ClusterName, Label, Level, Origin, Principal, PrincipalKind, Problems, Protection,
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

/// A Cedar `Long`: what is larger than the largest counts as the largest.
pub(super) fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The text of a Cedar `datetime`: milliseconds, UTC.
pub(super) fn datetime(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The part of the context that all attempts of a request share.
pub(super) struct BaseContext(Vec<(String, RestrictedExpression)>);

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn record(
    fields: impl IntoIterator<Item = (&'static str, RestrictedExpression)>,
) -> Result<RestrictedExpression, Box<ContextCreationError>> {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).map_err(|error| Box::new(error.into()))
}

impl BaseContext {
    pub(super) fn new(request: &AuthzRequest<'_>, names: &Names) -> Result<Self, Box<ContextCreationError>> {
        let entity = RestrictedExpression::new_entity_uid;
        let long = RestrictedExpression::new_long;
        let residency =
            request.label.residency.iter().map(|place| entity(names.jurisdiction(place.as_str())));
        let data = record([
            ("level", long(request.label.level.rank())),
            ("residency", RestrictedExpression::new_set(residency)),
            ("origin", text(request.label.origin.name())),
        ])?;
        let http = [
            ("method", text(request.method)),
            ("path", text(request.path)),
            ("bytes", long(self::long(request.bytes))),
            ("stream", RestrictedExpression::new_bool(request.stream)),
        ];
        let max_tokens = request.max_tokens.map(|tokens| ("maxTokens", long(self::long(tokens))));
        let chain = &request.principal.chain;
        let chain = [
            chain.workload.as_deref().map(|id| ("workload", entity(names.workload(id)))),
            chain.agent.as_deref().map(|id| ("agent", entity(names.agent(id)))),
            request.token_age().map(|age| ("tokenAge", long(age))),
        ];
        // Room for `destination` and `protection`.
        let mut pairs = Vec::with_capacity(8);
        pairs.push(("data".to_owned(), data));
        pairs.push(("request".to_owned(), record(http.into_iter().chain(max_tokens))?));
        pairs.push(("chain".to_owned(), record(chain.into_iter().flatten())?));
        pairs.push(("peerAddress".to_owned(), RestrictedExpression::new_ip(request.peer.to_string())));
        pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(datetime(request.now))));
        pairs.extend(request.purpose.map(|purpose| ("purpose".to_owned(), text(purpose))));
        Ok(Self(pairs))
    }

    /// The whole context of one attempt.
    pub(super) fn attempt(
        &self,
        destination: Option<&ClusterName>,
        protection: Protection,
        names: &Names,
    ) -> Result<Context, Box<ContextCreationError>> {
        let mut pairs = self.0.clone();
        if let Some(cluster) = destination {
            let cluster = RestrictedExpression::new_entity_uid(names.cluster(cluster));
            pairs.push(("destination".to_owned(), cluster));
        }
        let fact = |rung| RestrictedExpression::new_bool(protection == rung);
        let protection =
            record([("masked", fact(Protection::Masked)), ("sealed", fact(Protection::Sealed))])?;
        pairs.push(("protection".to_owned(), protection));
        Context::from_pairs(pairs).map_err(Box::new)
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

fn probe_one(
    schema: &Schema,
    names: &Names,
    kind: PrincipalKind,
    action: Action,
    full: bool,
) -> Result<(), String> {
    let chain = Chain { workload: full.then(|| "w".into()), agent: full.then(|| "a".into()) };
    let principal = Principal {
        kind,
        id: "probe".into(),
        tenant: "probe".parse().map_err(|error| format!("{error}"))?,
        teams: Vec::new(),
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
    let destination = full.then(|| "private".parse().ok()).flatten();
    let context = BaseContext::new(&request, names)
        .and_then(|base| base.attempt(destination.as_ref(), Protection::None, names))
        .map_err(|error| describe(&error))?;
    let resource = type_name(resource_kind(action)).ok_or("its resource has no type")?;
    let resource =
        cedar_policy::EntityUid::from_type_name_and_id(resource, cedar_policy::EntityId::new("probe"));
    let principal_uid = names.principal(kind, &principal.id);
    let action = names.action(action.name());
    if let Err(error) = Request::new(principal_uid, action.clone(), resource, context.clone(), Some(schema)) {
        // The JSON parser says which fact it is; the request says only that one is wrong.
        let json = context.to_json_value().map_err(|error| describe(&error))?;
        let named = Context::from_json_value(json, Some((schema, &action))).err();
        return Err(named.map_or_else(|| describe(&error), |named| describe(&named)));
    }
    let side = Side { principal: &principal, teams: Vec::new() };
    let entities = principal_entities(&side, names).map_err(|error| describe(&error))?;
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
