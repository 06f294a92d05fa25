//! Plain HTTP services: the body streams, only the label is fixed.

use http::Method;

use super::label::{effective_label, purpose};
use super::{Catalog, InspectError, Inspected, Operation, Payload, RouteFacts};
use crate::message::{Body, Inbound, Limited, boxed, empty};
use crate::model::{Action, Candidate, Jurisdictions, Resource, ServiceName, UpstreamRef};

pub(super) fn inspect(
    inbound: &mut Inbound,
    route: RouteFacts<'_>,
    service: &ServiceName,
    catalog: &Catalog,
    jurisdictions: &Jurisdictions,
) -> Result<(Inspected, Payload), InspectError> {
    let destination = catalog.service(service).ok_or(InspectError::Unconfigured)?.clone();
    let label = effective_label(route.floor, None, &inbound.caller, jurisdictions)?;
    let path_and_query = inbound.target.forward(route.strip_segments).ok_or(InspectError::Unconfigured)?;
    // Only what has a body can be sealed.
    let sealable = matches!(inbound.method, Method::POST | Method::PUT | Method::PATCH);
    let can_open = catalog.can_open(&destination).filter(|_| sealable).cloned();
    let inspected = Inspected {
        action: Action::Call,
        candidates: vec![Candidate {
            resource: Resource::Service(service.clone()),
            destination: Some(destination),
            upstream: UpstreamRef::Service(service.clone()),
            can_open,
        }],
        label,
        bytes: inbound.declared_bytes.unwrap_or(route.max_body),
        stream: false,
        max_tokens: None,
        purpose: purpose(&inbound.caller)?,
        operation: Operation::Plain,
        path_and_query,
    };
    Ok((inspected, Payload::Streaming(take_body(inbound, route.max_body))))
}

/// Takes the body out, bounded by `limit` bytes. A declared length has been checked and is enforced by the framing.
pub(super) fn take_body(inbound: &mut Inbound, limit: u64) -> Body {
    let body = std::mem::replace(&mut inbound.body, empty());
    if http_body::Body::size_hint(&body).exact().is_some_and(|bytes| bytes <= limit) {
        body
    } else {
        boxed(Limited::new(body, limit))
    }
}
