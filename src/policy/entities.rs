//! The few entities that one decision looks at, out of the many that are known.
//!
//! Policies are valid at level 1, so the principal, the resource, the destination, the chain and their ancestors are all that an evaluation can reach.
//! Building that slice is the dear part of a decision, so slices are kept, each under a digest of **everything that went in**: the
//! id, tenant, teams and proof of the principal, the chain, the resource, the destination. A decision is never kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::digest;
use cedar_policy::entities_errors::EntitiesError;
use cedar_policy::{Entities, Entity, EntityAttrEvaluationError, EntityUid, RestrictedExpression, Schema};
use quick_cache::sync::Cache;

use super::master::Master;
use super::names::Names;
use crate::model::{Authn, Principal, PrincipalKind, TeamName};

/// The most slices kept for a bundle, some KiB each.
const MAX_SLICES: usize = 10_000;

/// The principal's side of a request: verified facts, and those of its teams that `entities.json` knows.
///
/// An unknown team is no parent. No policy can name it (a literal that nobody knows is refused at load), so it could give no right;
/// leaving it out keeps every entity of a request a known one. The record still says it.
#[derive(Debug)]
pub(super) struct Side<'a> {
    pub(super) principal: &'a Principal,
    pub(super) teams: Vec<&'a TeamName>,
}

impl<'a> Side<'a> {
    pub(super) fn new(principal: &'a Principal, master: &Master, names: &Names) -> Self {
        let known = |team: &&TeamName| master.contains(&names.team(team.as_str()));
        Self { principal, teams: principal.teams.iter().filter(known).collect() }
    }

    /// Everything of the principal's side that a slice is made of, each part with its length.
    pub(super) fn digest(&self) -> Digest {
        let mut digest = Digest(digest::Context::new(&digest::SHA256));
        let principal = self.principal;
        digest.part(principal.kind.name());
        digest.part(&principal.id);
        digest.part(principal.tenant.as_str());
        digest.part(authn(principal.authn));
        digest.optional(principal.chain.workload.as_deref());
        digest.optional(principal.chain.agent.as_deref());
        digest.count(self.teams.len());
        self.teams.iter().for_each(|team| digest.part(team.as_str()));
        digest
    }
}

/// How the principal was proved, as policies read it.
pub(super) const fn authn(authn: Authn) -> &'static str {
    match authn {
        Authn::Jwt => "jwt",
        Authn::Mtls => "mtls",
        Authn::ApiKey => "api_key",
        Authn::Anonymous => "anonymous",
    }
}

/// An unambiguous digest of a sequence of texts.
#[derive(Clone)]
pub(super) struct Digest(digest::Context);

impl Digest {
    fn count(&mut self, count: usize) {
        self.0.update(&u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes());
    }

    fn part(&mut self, text: &str) {
        self.count(text.len());
        self.0.update(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.0.update(&[u8::from(text.is_some())]);
        self.part(text.unwrap_or(""));
    }

    /// The key of the slice with this resource and destination.
    pub(super) fn key(&self, resource: &EntityUid, destination: Option<&EntityUid>) -> SliceKey {
        let mut digest = self.clone();
        digest.part(resource.type_name().basename());
        digest.part(resource.id().unescaped());
        digest.optional(destination.map(|cluster| cluster.id().unescaped()));
        let mut key = SliceKey([0; 32]);
        key.0.iter_mut().zip(digest.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        key
    }
}

/// SHA-256 of what a slice is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct SliceKey([u8; 32]);

/// Why a slice could not be made. Neither can happen with a bundle that loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum SliceError {
    #[error("the principal's attributes are no values")]
    Attributes(#[from] Box<EntityAttrEvaluationError>),
    #[error("the entities do not fit together")]
    Entities(#[from] Box<EntitiesError>),
}

/// The slices of one bundle.
#[derive(Debug)]
pub(super) struct Slices(Cache<SliceKey, Arc<Entities>>);

impl Slices {
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_SLICES))
    }

    /// The slice under a key, made if it is not there. Two at once may both make it: it is the same.
    pub(super) fn get(
        &self,
        key: SliceKey,
        make: impl FnOnce() -> Result<Entities, SliceError>,
    ) -> Result<Arc<Entities>, SliceError> {
        if let Some(slice) = self.0.get(&key) {
            return Ok(slice);
        }
        let slice = Arc::new(make()?);
        self.0.insert(key, Arc::clone(&slice));
        Ok(slice)
    }
}

/// Builds a slice. With the schema, so that the actions and their groups are in it: without them no policy about `send` would match.
pub(super) fn slice(
    side: &Side<'_>,
    named: &[&EntityUid],
    master: &Master,
    names: &Names,
    schema: &Schema,
) -> Result<Entities, SliceError> {
    let mut entities = principal_entities(side, names)?;
    let teams: Vec<EntityUid> = side.teams.iter().map(|team| names.team(team.as_str())).collect();
    let mut taken: HashSet<&EntityUid> = HashSet::new();
    for uid in named.iter().copied().chain(&teams) {
        let above = master.get(uid).into_iter().flat_map(|record| &record.ancestors);
        for uid in std::iter::once(uid).chain(above) {
            if let Some(record) = master.get(uid)
                && taken.insert(uid)
            {
                entities.push(record.entity.clone());
            }
        }
    }
    Ok(Entities::from_entities(entities, Some(schema)).map_err(Box::new)?)
}

/// The principal, and the workload and agent of its chain.
///
/// Of a workload that only connected, nothing but its id is known here: no team, no tenant.
pub(super) fn principal_entities(
    side: &Side<'_>,
    names: &Names,
) -> Result<Vec<Entity>, Box<EntityAttrEvaluationError>> {
    let principal = side.principal;
    let attributes = |tenant: &str, proof: Authn| {
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        HashMap::from([("tenant".to_owned(), text(tenant)), ("authn".to_owned(), text(authn(proof)))])
    };
    let parents = side.teams.iter().map(|team| names.team(team.as_str())).collect();
    let uid = names.principal(principal.kind, &principal.id);
    let attrs = attributes(principal.tenant.as_str(), principal.authn);
    let mut entities = vec![Entity::new(uid, attrs, parents).map_err(Box::new)?];
    if let Some(id) = &principal.chain.workload
        && !(principal.kind == PrincipalKind::Workload && principal.id == *id)
    {
        let attrs = attributes("", Authn::Mtls);
        entities.push(Entity::new(names.workload(id), attrs, HashSet::new()).map_err(Box::new)?);
    }
    if let Some(id) = &principal.chain.agent {
        entities.push(Entity::new_no_attrs(names.agent(id), HashSet::new()));
    }
    Ok(entities)
}
