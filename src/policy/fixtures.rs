//! A researcher, a label and a request to change at will; for unit tests only.

use crate::model::{
    Action, Candidate, ClusterName, Label, Level, Origin, Principal, PrincipalKind, Resource, UpstreamRef,
};
use crate::policy::AuthzRequest;

pub(crate) fn researcher() -> Principal {
    Principal {
        teams: vec!["research".parse().unwrap()],
        ..Principal::fixture(PrincipalKind::User, "https://issuer.example|ada", "acme")
    }
}

pub(crate) fn label(level: Level, residency: &str) -> Label {
    Label { level, residency: [residency.parse().unwrap()].into_iter().collect(), origin: Origin::Route }
}

pub(crate) fn request<'a>(principal: &'a Principal, label: &'a Label) -> AuthzRequest<'a> {
    AuthzRequest {
        principal,
        action: Action::Infer,
        label,
        method: "POST",
        path: "/v1/chat/completions",
        bytes: 100,
        stream: false,
        max_tokens: None,
        peer: [127, 0, 0, 1].into(),
        now: "2026-11-24T12:00:00Z".parse().unwrap(),
        purpose: None,
    }
}

pub(crate) fn on(cluster: &str, model: &str) -> Candidate {
    let cluster: ClusterName = cluster.parse().unwrap();
    let resource = Resource::Model { cluster: cluster.clone(), model: model.parse().unwrap() };
    Candidate {
        resource,
        destination: Some(cluster.clone()),
        upstream: UpstreamRef::Cluster(cluster),
        can_open: None,
    }
}
