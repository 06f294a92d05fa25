//! The fixed words of the Cedar domain: the namespace, and the types that the gateway itself names.
//!
//! Parsed once for each bundle, so that a request only pays for its ids.

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use crate::model::{Action, ClusterName, PrincipalKind, Resource};

/// The namespace of every entity type and action.
pub(super) const NAMESPACE: &str = "Tidegate";

/// All actions that the gateway asks about.
pub(super) const ACTIONS: [Action; 7] =
    [Action::Infer, Action::Embed, Action::Read, Action::List, Action::Write, Action::Delete, Action::Call];

/// Entity types that come from verified facts and never from `entities.json`.
pub(super) const PRINCIPAL_SIDE: [&str; 3] = ["User", "Workload", "Agent"];

/// Whether the action makes data leave the private side.
pub(super) const fn sends(action: Action) -> bool {
    match action {
        Action::Infer | Action::Embed | Action::Read | Action::List | Action::Call => true,
        Action::Write | Action::Delete => false,
    }
}

/// The type of the resources that the action is about.
pub(super) const fn resource_kind(action: Action) -> &'static str {
    match action {
        Action::Infer | Action::Embed => "Model",
        Action::Read | Action::List | Action::Write | Action::Delete => "Dataset",
        Action::Call => "Service",
    }
}

/// The parsed type names.
#[derive(Debug, Clone)]
pub(super) struct Names {
    action: EntityTypeName,
    user: EntityTypeName,
    workload: EntityTypeName,
    agent: EntityTypeName,
    team: EntityTypeName,
    jurisdiction: EntityTypeName,
    cluster: EntityTypeName,
    model: EntityTypeName,
    dataset: EntityTypeName,
    service: EntityTypeName,
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// A type name of the namespace, if the text is an identifier.
pub(super) fn type_name(kind: &str) -> Option<EntityTypeName> {
    format!("{NAMESPACE}::{kind}").parse().ok()
}

impl Names {
    /// `None` never happens: every text is a literal of this file. Kept an option so that nothing can panic.
    pub(super) fn new() -> Option<Self> {
        Some(Self {
            action: type_name("Action")?,
            user: type_name("User")?,
            workload: type_name("Workload")?,
            agent: type_name("Agent")?,
            team: type_name("Team")?,
            jurisdiction: type_name("Jurisdiction")?,
            cluster: type_name("Cluster")?,
            model: type_name("Model")?,
            dataset: type_name("Dataset")?,
            service: type_name("Service")?,
        })
    }

    pub(super) fn action(&self, id: &str) -> EntityUid {
        uid(&self.action, id)
    }

    pub(super) fn principal(&self, kind: PrincipalKind, id: &str) -> EntityUid {
        match kind {
            PrincipalKind::User => uid(&self.user, id),
            PrincipalKind::Workload => self.workload(id),
        }
    }

    pub(super) fn workload(&self, id: &str) -> EntityUid {
        uid(&self.workload, id)
    }

    pub(super) fn agent(&self, id: &str) -> EntityUid {
        uid(&self.agent, id)
    }

    pub(super) fn team(&self, id: &str) -> EntityUid {
        uid(&self.team, id)
    }

    pub(super) fn jurisdiction(&self, id: &str) -> EntityUid {
        uid(&self.jurisdiction, id)
    }

    pub(super) fn cluster(&self, name: &ClusterName) -> EntityUid {
        uid(&self.cluster, name.as_str())
    }

    pub(super) fn resource(&self, resource: &Resource) -> EntityUid {
        let kind = match resource {
            Resource::Model { .. } => &self.model,
            Resource::Dataset(_) => &self.dataset,
            Resource::Service(_) => &self.service,
        };
        uid(kind, &resource.id())
    }
}
