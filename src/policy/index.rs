//! Which policies of a set apply to a request, found by their scopes instead of by asking each of them.
//!
//! A policy is `principal scope && action scope && resource scope && conditions`, evaluated from the left, and stops at the first
//! part that is false. A scope only compares ids and types and looks up ancestors: it cannot error, whatever the request and the entities
//! are. So a policy whose scope does not match is false, its conditions are never reached, and it can add neither a
//! reason nor an error: leaving it out changes no answer. This is the slicing theorem of Cedar's Lean model (`PolicySlice`).
//!
//! The index is exact, not a filter: what it returns are all policies whose scope matches, and no other. Hence the
//! [engine](super::engine) evaluates their conditions alone. Ids and types that no scope names are not in it, so a principal with a
//! hundred teams costs no more than the few of them that policies speak of.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Entities, EntityTypeName, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};

/// One of the parts of a scope, as a set of entities.
enum Part {
    Any,
    Is(EntityTypeName),
    Eq(EntityUid),
    In(EntityUid),
    IsIn(EntityTypeName, EntityUid),
}

impl From<PrincipalConstraint> for Part {
    fn from(constraint: PrincipalConstraint) -> Self {
        match constraint {
            PrincipalConstraint::Any => Self::Any,
            PrincipalConstraint::Is(kind) => Self::Is(kind),
            PrincipalConstraint::Eq(uid) => Self::Eq(uid),
            PrincipalConstraint::In(uid) => Self::In(uid),
            PrincipalConstraint::IsIn(kind, uid) => Self::IsIn(kind, uid),
        }
    }
}

impl From<ResourceConstraint> for Part {
    fn from(constraint: ResourceConstraint) -> Self {
        match constraint {
            ResourceConstraint::Any => Self::Any,
            ResourceConstraint::Is(kind) => Self::Is(kind),
            ResourceConstraint::Eq(uid) => Self::Eq(uid),
            ResourceConstraint::In(uid) => Self::In(uid),
            ResourceConstraint::IsIn(kind, uid) => Self::IsIn(kind, uid),
        }
    }
}

/// What a part of a scope is found under; entities and types stand by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Any,
    Is(u32),
    Eq(u32),
    In(u32),
}

/// The type that a principal or resource must have besides its key: the `is` of `is … in …`.
type Kind = Option<u32>;

/// One entity of a request: the keys under which policies about it stand, and its type.
struct Place {
    keys: Vec<Key>,
    kind: Kind,
}

/// A policy of the index, by its place in the order that it was given.
#[derive(Debug, Clone, Copy)]
struct Row {
    position: u32,
    principal: Kind,
    resource: Kind,
}

/// Policies by the keys of their principal.
type Rows = HashMap<Key, Vec<Row>>;

/// The scopes of a set of policies.
#[derive(Debug, Default)]
pub(super) struct Index {
    uids: HashMap<EntityUid, u32>,
    kinds: HashMap<EntityTypeName, u32>,
    /// By action and resource.
    rows: HashMap<(Key, Key), Rows>,
}

fn number<T: std::hash::Hash + Eq>(numbers: &mut HashMap<T, u32>, item: T) -> u32 {
    let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    *numbers.entry(item).or_insert(next)
}

impl Index {
    /// Indexes policies, which count from 0 in the order given. A policy made from a template stands under what it was linked to.
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut index = Self::default();
        for (position, policy) in (0..).zip(policies) {
            let (principal, principal_kind) = index.part(policy.principal_constraint().into());
            let (resource, resource_kind) = index.part(policy.resource_constraint().into());
            let row = Row { position, principal: principal_kind, resource: resource_kind };
            for action in index.actions(policy.action_constraint()) {
                index.rows.entry((action, resource)).or_default().entry(principal).or_default().push(row);
            }
        }
        index
    }

    fn part(&mut self, part: Part) -> (Key, Kind) {
        match part {
            Part::Any => (Key::Any, None),
            Part::Is(kind) => (Key::Is(number(&mut self.kinds, kind)), None),
            Part::Eq(uid) => (Key::Eq(number(&mut self.uids, uid)), None),
            Part::In(uid) => (Key::In(number(&mut self.uids, uid)), None),
            Part::IsIn(kind, uid) => {
                let kind = number(&mut self.kinds, kind);
                (Key::In(number(&mut self.uids, uid)), Some(kind))
            }
        }
    }

    /// `action in []` matches nothing and has no key.
    fn actions(&mut self, constraint: ActionConstraint) -> Vec<Key> {
        match constraint {
            ActionConstraint::Any => vec![Key::Any],
            ActionConstraint::Eq(uid) => vec![Key::Eq(number(&mut self.uids, uid))],
            ActionConstraint::In(uids) => {
                uids.into_iter().map(|uid| Key::In(number(&mut self.uids, uid))).collect()
            }
        }
    }

    fn place(&self, uid: &EntityUid, entities: &Entities) -> Place {
        let kind = self.kinds.get(uid.type_name()).copied();
        let own = self.uids.get(uid).copied();
        let mut keys = vec![Key::Any];
        keys.extend(kind.map(Key::Is));
        // An entity is in itself, also one that nobody knows; only a known one has ancestors.
        keys.extend(own.into_iter().flat_map(|uid| [Key::Eq(uid), Key::In(uid)]));
        let above = entities.ancestors(uid).into_iter().flatten();
        keys.extend(above.filter_map(|uid| self.uids.get(uid)).map(|uid| Key::In(*uid)));
        Place { keys, kind }
    }

    /// The positions of all policies whose scope matches, in order and each once.
    pub(super) fn matching(
        &self,
        principal: &EntityUid,
        action: &EntityUid,
        resource: &EntityUid,
        entities: &Entities,
    ) -> Box<[u32]> {
        let (principal, action, resource) =
            (self.place(principal, entities), self.place(action, entities), self.place(resource, entities));
        let fits = |wanted: Kind, place: &Place| wanted.is_none() || wanted == place.kind;
        let mut found = Vec::new();
        for action in &action.keys {
            for rows in resource.keys.iter().filter_map(|resource| self.rows.get(&(*action, *resource))) {
                let rows = principal.keys.iter().filter_map(|key| rows.get(key)).flatten();
                let rows =
                    rows.filter(|row| fits(row.principal, &principal) && fits(row.resource, &resource));
                found.extend(rows.map(|row| row.position));
            }
        }
        // `action in [a, b]` stands under both, and a request may be in both groups.
        found.sort_unstable();
        found.dedup();
        found.into()
    }
}
