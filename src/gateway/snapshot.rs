//! All that one request sees: built whole, swapped whole, never changed.

use std::sync::Arc;

use crate::identity::Identity;
use crate::inspect::{Catalog, RouteFacts};
use crate::limit::Limits;
use crate::message::{GateSettings, HeldBodies, Target};
use crate::policy::Bundle;
use crate::protect::Protector;
use crate::route::{Route, Table};
use crate::upstream::Upstreams;

/// One consistent version of everything a decision depends on.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Bounds of the gate.
    pub gate: GateSettings,
    /// The room for bodies that are read whole, which a new snapshot of the same process shares.
    pub held: Arc<HeldBodies>,
    /// The routes.
    pub routes: Arc<Table>,
    /// Issuers, trust domains and keys.
    pub identity: Arc<Identity>,
    /// Which cluster serves which model, which key is of which dataset.
    pub catalog: Arc<Catalog>,
    /// Policies, schema and entities.
    pub bundle: Arc<Bundle>,
    /// Rates and concurrency.
    pub limits: Arc<Limits>,
    /// Keys, and the memory of opened messages, which a new snapshot of the same process shares.
    pub protector: Protector,
    /// The far sides.
    pub upstreams: Arc<Upstreams>,
}

impl Snapshot {
    /// What inspection must know of a route.
    pub(super) fn facts(route: &Route) -> RouteFacts<'_> {
        RouteFacts {
            kind: &route.kind,
            floor: &route.floor,
            strip_segments: route.strip_segments,
            objects: route.objects,
            max_body: route.max_body,
        }
    }

    /// The decoded path that is forwarded, and so the one that Cedar sees; none if the prefix is all of it.
    pub(super) fn forwarded_path(route: &Route, target: &Target) -> Option<String> {
        target.path_after(route.strip_segments).map(str::to_owned)
    }
}
