//! The far side of sealing: a sealed request becomes a request like others, and whatever is answered to it goes back sealed.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response};

use crate::message::{self, Body, Inbound, Observed, ReadBodyError, collect_bounded};
use crate::model::{Authn, Level, Principal, RecordId, RouteKind};
use crate::protect::{self, AnswerRefused, Opened, OpeningError, SealedAnswer};
use crate::route::Route;
use crate::upstream::AnswerError;

use super::completion::{Closing, SealedEnd};
use super::exchange::{Exchange, stamp};
use super::reject::Reject;
use super::sending::AnswerSeal;
use super::{Snapshot, codes};

/// The most of an unsealed answer that is read for the operator's log, in bytes.
const MAX_PROBLEM_BYTES: u64 = 8 * 1024;

/// Opens the request if it is sealed and the route opens. From here on stages see the plaintext, its media type, and a label that the
/// border's level has raised.
///
/// # Errors
/// It is from nobody whose messages are opened, does not open, or was made for another exchange.
pub(super) async fn open(
    snapshot: &Snapshot,
    route: &Route,
    principal: &Principal,
    inbound: &mut Inbound,
    exchange: &mut Exchange,
) -> Result<(), Reject> {
    if !route.opens || !protect::is_sealed(&inbound.headers) {
        return Ok(());
    }
    let placement = snapshot.identity.placement_of(principal);
    let stores = matches!(route.kind, RouteKind::Store { .. });
    // A job may seal what it writes to a store, with its own key and nobody else's.
    let own = placement.can_open.filter(|_| stores && !placement.peer && inbound.method == Method::PUT);
    // The certificate itself must be the peer's: a token shown over a peer's connection is somebody else's request.
    if principal.authn != Authn::Mtls || !(placement.peer || own.is_some()) {
        return Err(not_a_peer());
    }
    let body = std::mem::replace(&mut inbound.body, message::empty());
    let sent_to = (&inbound.method, inbound.target.path_and_query());
    let (opened, plaintext) = Box::pin(snapshot.protector.open_request(sent_to, body)).await?;
    if own.is_some_and(|own| opened.facts.recipient != own || opened.tenant != principal.tenant) {
        return Err(not_a_peer());
    }
    if stores {
        without_claims(&mut inbound.headers);
    }
    inbound.body = plaintext.body;
    inbound.declared_bytes = plaintext.bytes;
    match plaintext.content_type {
        Some(media) => inbound.headers.insert(CONTENT_TYPE, media),
        None => inbound.headers.remove(CONTENT_TYPE),
    };
    raise(inbound, opened.level);
    // A write's answer holds nothing of the object, and S3 clients take a body in it for an error.
    exchange.opened(opened, placement.peer);
    Ok(())
}

fn not_a_peer() -> Reject {
    Reject::new(
        "seal_not_a_peer",
        "sealed messages are opened only for configured peers, and for jobs that seal with their own key",
    )
}

/// What an S3 client claims of the bytes that it sent is of the sealed ones, whose tags say more.
fn without_claims(headers: &mut HeaderMap) {
    let of_body = |name: &str| {
        name.starts_with("x-amz-checksum-")
            || matches!(name, "content-md5" | "x-amz-content-sha256" | "x-amz-sdk-checksum-algorithm")
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| of_body(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// The border's level counts as if the peer had said it: it raises. A level that the peer itself says and that cannot be read is left
/// for inspection to refuse.
fn raise(inbound: &mut Inbound, level: Level) {
    let said =
        inbound.caller.label.as_ref().map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    match said {
        Some(None) => {}
        Some(Some(said)) if level <= said => {}
        Some(Some(_)) | None => inbound.caller.label = Some(HeaderValue::from_static(level.name())),
    }
}

/// Seals an answer. One that cannot be sealed is replaced by a refusal that says nothing of it.
pub(super) async fn answer(
    snapshot: &Snapshot,
    (opened, closing): (&Opened, Arc<Closing>),
    id: RecordId,
    response: Response<Body>,
) -> Response<Body> {
    match snapshot.protector.seal_answer(opened, id, response).await {
        Ok(SealedAnswer { response, facts, wire }) => {
            let seal = AnswerSeal { facts, record: None, wire };
            response.map(|body| message::boxed(Observed::new(body, SealedEnd::new(closing, seal))))
        }
        Err(error) => {
            let reject = Reject::from(error);
            tracing::warn!(record = %id, code = reject.code(), cause = reject.cause(), "answer not sealed, and so not sent");
            let mut response = reject.response(Some(id));
            stamp(&mut response, id);
            response
        }
    }
}

/// The refusal that answers for a peer's answer which is not believed; what an unsealed one says of itself is for the log alone.
pub(super) async fn refused(error: AnswerRefused, id: RecordId) -> Reject {
    match error {
        AnswerRefused::NotSealed { status, response } => {
            let said = problem(*response).await;
            tracing::warn!(record = %id, %status, said, "a peer answered unsealed");
            let detail = format!("the peer answered with status {} and nothing sealed", status.as_u16());
            Reject::new("peer_answer_not_sealed", detail)
        }
        AnswerRefused::Broken(cause) => {
            let code = cause.downcast_ref::<AnswerError>().map_or("upstream_reset", AnswerError::code);
            Reject::new(code, "the peer's answer broke off")
        }
        AnswerRefused::Unopened(error) => {
            let detail = format!("the peer's answer does not open ({}): {error}", error.code());
            let mut reject = Reject::from(error);
            reject.becomes("peer_answer_unopened", detail);
            reject
        }
    }
}

/// The code of a problem document, if it is one of ours: the answer is not authenticated, so nothing else of it goes into the log.
async fn problem(response: Response<Body>) -> &'static str {
    let read = tokio::time::timeout(
        std::time::Duration::from_secs(1),
        collect_bounded(response.into_body(), MAX_PROBLEM_BYTES),
    );
    let Ok(Ok(body)) = read.await else { return "nothing readable" };
    let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let code = problem.as_ref().and_then(|problem| problem.get("code")).and_then(|code| code.as_str());
    codes::ALL.iter().find(|known| Some(known.name) == code).map_or("nothing known", |known| known.name)
}

impl From<OpeningError> for Reject {
    fn from(error: OpeningError) -> Self {
        match error {
            // The sender's fault in sending (too large, silent, broken off), as with any body.
            OpeningError::Body(cause) => match ReadBodyError::from(cause) {
                ReadBodyError::Fault(fault) => Self::from_stage(fault.code(), fault),
                ReadBodyError::Broken(_) => Self::new("body_broken", "the body ended early"),
            },
            error => Self::from_stage(error.code(), error),
        }
    }
}

impl From<protect::SealingError> for Reject {
    fn from(error: protect::SealingError) -> Self {
        Self::from_stage(error.code(), error)
    }
}
