//! OpenAI-compatible calls: the body is read whole, the model gives the candidates, and the same bytes travel on.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::json::read_json;
use super::label::{effective_label, purpose};
use super::{
    Catalog, InferenceKind, InspectError, Inspected, MAX_CANDIDATES, Operation, Payload, RouteFacts,
};
use crate::message::{HeldBodies, Inbound, empty, headers};
use crate::model::{Action, Candidate, ClusterName, Jurisdictions, ModelName, Resource, UpstreamRef};

pub(super) async fn inspect(
    inbound: &mut Inbound,
    route: RouteFacts<'_>,
    (action, clusters): (Action, &[ClusterName]),
    catalog: &Catalog,
    jurisdictions: &Jurisdictions,
    held: &HeldBodies,
) -> Result<(Inspected, Payload), InspectError> {
    check_media(&inbound.headers)?;
    // What the headers alone decide comes before the wait for the body.
    let label = effective_label(route.floor, None, &inbound.caller, jurisdictions)?;
    let purpose = purpose(&inbound.caller)?;
    let path_and_query = inbound.target.forward(route.strip_segments).ok_or(InspectError::Unconfigured)?;
    let body = held.collect(std::mem::replace(&mut inbound.body, empty()), route.max_body).await?;
    let facts = read_json(&body)?;
    let model: ModelName = facts.model.parse().map_err(|_| InspectError::ModelUnknown)?;
    let candidates = candidates(clusters, &model, catalog);
    if candidates.is_empty() {
        return Err(InspectError::ModelUnknown);
    }
    headers::refuse_compression(&mut inbound.headers);
    let inspected = Inspected {
        action,
        candidates,
        label,
        bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
        stream: facts.stream,
        max_tokens: facts.max_answer_tokens(),
        purpose,
        operation: Operation::Inference {
            model,
            stream: facts.stream,
            kind: kind(action, path_and_query.path()),
            usage_in_stream: facts.include_usage,
        },
        path_and_query,
    };
    Ok((inspected, Payload::Buffered(body)))
}

fn candidates(clusters: &[ClusterName], model: &ModelName, catalog: &Catalog) -> Vec<Candidate> {
    let serving = clusters.iter().filter(|cluster| catalog.serves(cluster, model));
    let candidate = |cluster: &ClusterName| Candidate {
        resource: Resource::Model { cluster: cluster.clone(), model: model.clone() },
        destination: Some(cluster.clone()),
        upstream: UpstreamRef::Cluster(cluster.clone()),
        can_open: catalog.can_open(cluster).cloned(),
    };
    serving.take(MAX_CANDIDATES).map(candidate).collect()
}

fn kind(action: Action, path: &str) -> InferenceKind {
    if action == Action::Embed {
        InferenceKind::Embeddings
    } else if path.ends_with("/completions") && !path.ends_with("/chat/completions") {
        InferenceKind::TextCompletion
    } else {
        InferenceKind::Chat
    }
}

/// `application/json`, with no parameter but `charset=utf-8`, and no content coding.
fn check_media(headers: &HeaderMap) -> Result<(), InspectError> {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(InspectError::ContentEncoding);
    }
    let text =
        headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or(InspectError::ContentType)?;
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = |parameter: &str| {
        ["charset=utf-8", "charset=\"utf-8\""].iter().any(|known| known.eq_ignore_ascii_case(parameter))
    };
    if essence && parts.all(utf8) { Ok(()) } else { Err(InspectError::ContentType) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            check_media(&headers).is_ok()
        };
        for text in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert!(check(text), "{text}");
        }
        for text in [
            "",
            "text/json",
            "application/json5",
            "application/json; charset=utf-16",
            "application/json; a=b",
            "application/json, text/plain",
        ] {
            assert!(!check(text), "{text}");
        }
    }

    #[test]
    fn kinds_by_action_and_path() {
        assert_eq!(kind(Action::Infer, "/v1/chat/completions").name(), "chat");
        assert_eq!(kind(Action::Infer, "/v1/completions").name(), "text_completion");
        assert_eq!(kind(Action::Infer, "/v1/responses").name(), "chat");
        assert_eq!(kind(Action::Embed, "/v1/embeddings").name(), "embeddings");
    }
}
