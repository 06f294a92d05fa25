//! The few entities that one decision looks at, out of the many that are known.
//!
//! Policies are valid at level 1, so the principal, the resource, the destination, the chain and their ancestors are all that an evaluation can reach.
//! That slice, and the policies whose scope matches within it, are kept, each under a digest of **everything that went in**: the id, tenant,
//! teams and proof of the principal, the chain, the action, the resource, the destination. A decision is never kept.
//!
//! Nothing in a slice is checked against the schema: the known entities were when the bundle was loaded, and what is made of
//! the principal has no more forms than the load tried ([`super::request::probe`]).

use std::collections::HashSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use cedar_policy::{Entities, EntityUid, Schema};
use cedar_policy_core::ast::{Entity, EntityUID, PartialValue, Value};
use cedar_policy_core::entities::err::EntitiesError;
use cedar_policy_core::entities::{NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use quick_cache::sync::Cache;

use super::engine::Slice;

use super::master::Master;
use super::names::Names;
use crate::model::{Action, Authn, Principal, PrincipalKind, TeamName};

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

    /// The key of the slice for this action, resource and destination.
    pub(super) fn key(
        &self,
        action: Action,
        resource: &EntityUid,
        destination: Option<&EntityUID>,
    ) -> SliceKey {
        let mut digest = self.clone();
        digest.part(action.name());
        digest.part(resource.type_name().basename());
        digest.part(resource.id().unescaped());
        digest.optional(destination.map(|cluster| cluster.eid().as_ref()));
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
    #[error("an entity of the request is not known: {0}")]
    Unknown(EntityUid),
    #[error("the entities do not fit together")]
    Entities(#[from] Box<EntitiesError>),
}

/// What a decision looks at, apart from the request.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) entities: Entities,
    pub(super) policies: Slice,
}

/// The slices of one bundle.
#[derive(Debug)]
pub(super) struct Slices {
    kept: Cache<SliceKey, Arc<Kept>>,
    /// Every slice starts with the schema's actions and their groups: without them no policy about `send` would match.
    actions: Entities,
}

impl Slices {
    /// None yet.
    pub(super) fn new(schema: &Schema) -> Result<Self, Box<EntitiesError>> {
        Ok(Self { kept: Cache::new(MAX_SLICES), actions: schema.action_entities()? })
    }

    /// The slice under a key, made if it is not there. Two at once may both make it: it is the same.
    pub(super) fn get(
        &self,
        key: SliceKey,
        make: impl FnOnce(&Entities) -> Result<Kept, SliceError>,
    ) -> Result<Arc<Kept>, SliceError> {
        if let Some(slice) = self.kept.get(&key) {
            return Ok(slice);
        }
        let slice = Arc::new(make(&self.actions)?);
        self.kept.insert(key, Arc::clone(&slice));
        Ok(slice)
    }
}

/// The entities of a slice: the actions, the principal's side, and what is named, with all that contains it.
pub(super) fn entities(
    actions: &Entities,
    side: &Side<'_>,
    named: &[&EntityUid],
    master: &Master,
    names: &Names,
) -> Result<Entities, SliceError> {
    let mut entities: Vec<Arc<Entity>> =
        principal_entities(side, master, names).into_iter().map(Arc::new).collect();
    let teams: Vec<EntityUid> = side.teams.iter().map(|team| names.team(team.as_str())).collect();
    let mut taken: HashSet<&EntityUid> = HashSet::new();
    for uid in named.iter().copied().chain(&teams) {
        let above = master.get(uid).into_iter().flat_map(|record| &record.ancestors);
        for uid in std::iter::once(uid).chain(above) {
            if let Some(record) = master.get(uid)
                && taken.insert(uid)
            {
                entities.push(Arc::clone(&record.entity));
            }
        }
    }
    // All ancestors are in each entity already: those of the known ones since the load, those of the principal below.
    let closed = TCComputation::AssumeAlreadyComputed;
    let extensions = Extensions::all_available();
    let actions: &cedar_policy_core::entities::Entities = actions.as_ref();
    let all = actions.clone().add_entities(entities, None::<&NoEntitiesSchema>, closed, extensions);
    Ok(all.map_err(Box::new)?.into())
}

/// The principal, and the workload and agent of its chain.
///
/// Of a workload that only connected, nothing but its id is known here: no team, no tenant.
pub(super) fn principal_entities(side: &Side<'_>, master: &Master, names: &Names) -> Vec<Entity> {
    let principal = side.principal;
    let attributes = |tenant: &str, proof: Authn| {
        [("tenant", tenant), ("authn", authn(proof))]
            .map(|(name, value)| (name.into(), PartialValue::from(Value::from(value))))
    };
    let entity = |uid: EntityUid, tenant: &str, proof: Authn, above: HashSet<EntityUID>, parents| {
        Entity::new_with_attr_partial_value(uid.into(), attributes(tenant, proof), above, parents, [])
    };
    let parents: HashSet<EntityUID> =
        side.teams.iter().map(|team| names.team(team.as_str()).into()).collect();
    let above = side.teams.iter().filter_map(|team| master.get(&names.team(team.as_str())));
    let above = above.flat_map(|team| &team.ancestors).map(|uid| uid.clone().into());
    let above = above.filter(|uid| !parents.contains(uid)).collect();
    let uid = names.principal(principal.kind, &principal.id);
    let mut entities = vec![entity(uid, principal.tenant.as_str(), principal.authn, above, parents)];
    if let Some(id) = &principal.chain.workload
        && !(principal.kind == PrincipalKind::Workload && principal.id == *id)
    {
        entities.push(entity(names.workload(id), "", Authn::Mtls, HashSet::new(), HashSet::new()));
    }
    if let Some(id) = &principal.chain.agent {
        entities.push(Entity::with_uid(names.agent(id).into()));
    }
    entities
}
