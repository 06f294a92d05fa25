//! What a request is about: the action, the candidates, the effective label, and the bytes that will travel.
//!
//! Nothing is decided here and no byte is changed: an inference body is buffered (to learn model and bounds) and forwarded as it came,
//! store and service bodies are not even polled, so that a client which waits for `100 Continue` sends nothing before the decision.
//! One file a kind of route: `inference.rs`, `store.rs`, `plain.rs`; `label.rs` fixes the label for all of them.

mod aws_chunked;
mod catalog;
mod checksum;
mod claimed;
mod error;
mod inference;
mod json;
mod label;
mod plain;
mod store;

use bytes::Bytes;
use http::uri::PathAndQuery;

pub use aws_chunked::{AwsChunked, AwsChunkedFraming};
pub use catalog::{Catalog, Dataset, DatasetSettings};
pub use checksum::ChecksumKind;
pub use claimed::{Claim, Claimed};
pub use error::InspectError;
pub use json::{JsonFacts, read_json};
pub use label::effective_label;
pub use store::{AtRest, StoreCall, StoreOperation};

use crate::message::{Body, HeldBodies, Inbound};
use crate::model::{
    Action, Candidate, Floor, Jurisdictions, Label, ModelName, Objects, Placement, RouteKind,
};

/// The most candidates of one request.
pub const MAX_CANDIDATES: usize = 8;

/// What inspection must know of the route.
#[derive(Debug, Clone, Copy)]
pub struct RouteFacts<'a> {
    /// Where it leads.
    pub kind: &'a RouteKind,
    /// The least strict label.
    pub floor: &'a Floor,
    /// How many leading path segments are cut off before forwarding.
    pub strip_segments: usize,
    /// How objects lie in its store.
    pub objects: Objects,
    /// The largest body, in bytes.
    pub max_body: u64,
}

/// An inspected request.
#[derive(Debug)]
pub struct Inspected {
    /// The Cedar action.
    pub action: Action,
    /// The ways to serve it, best first: 1 to [`MAX_CANDIDATES`].
    pub candidates: Vec<Candidate>,
    /// The label that holds for request and answer.
    pub label: Label,
    /// The length of the body in bytes; a body of unknown length counts as the largest that is let through.
    pub bytes: u64,
    /// Whether a stream of events was asked for.
    pub stream: bool,
    /// The most tokens that the answer may have, over all its choices, if the caller bounds them.
    pub max_tokens: Option<u64>,
    /// Why the caller says it asks.
    pub purpose: Option<String>,
    /// What it is, for metering and records.
    pub operation: Operation,
    /// Path and query to forward, the route's prefix cut off.
    pub path_and_query: PathAndQuery,
}

/// The body of an inspected request.
#[derive(Debug)]
pub enum Payload {
    /// Whole in memory: may be sent again to another endpoint.
    Buffered(Bytes),
    /// Not read yet: can be sent once.
    Streaming(Body),
}

/// What a request is, by the kind of its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// An OpenAI-compatible call.
    Inference {
        /// The model asked for.
        model: ModelName,
        /// Whether the answer is a stream of events.
        stream: bool,
        /// Which call.
        kind: InferenceKind,
        /// Whether the caller asked for usage at the end of the stream. The body is never changed, so without it the cluster may not report any.
        usage_in_stream: bool,
    },
    /// An S3 call.
    Store(StoreCall),
    /// A plain HTTP call.
    Plain,
}

/// An OpenAI-compatible call, by the name that the GenAI conventions give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InferenceKind {
    /// `/v1/chat/completions` and other generation.
    Chat,
    /// `/v1/completions`.
    TextCompletion,
    /// `/v1/embeddings`.
    Embeddings,
}

impl InferenceKind {
    /// The value of `gen_ai.operation.name`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Inspects a request of a route and gives its body apart. Takes the body out of `inbound`, and out of its headers what only concerns the gateway.
/// `reader` is the cluster of the workload that asks, if it is known: what it reads goes there. `held` is the room for what is read whole.
///
/// # Errors
/// The request is not of the route's kind, is malformed or over a bound, or names a model or dataset that is not configured.
pub async fn inspect(
    inbound: &mut Inbound,
    route: RouteFacts<'_>,
    catalog: &Catalog,
    jurisdictions: &Jurisdictions,
    reader: &Placement,
    held: &HeldBodies,
) -> Result<(Inspected, Payload), InspectError> {
    if inbound.declared_bytes.is_some_and(|bytes| bytes > route.max_body) {
        return Err(InspectError::too_large(route.max_body));
    }
    match route.kind {
        RouteKind::Inference { action, clusters } => {
            inference::inspect(inbound, route, (*action, clusters), catalog, jurisdictions, held).await
        }
        RouteKind::Store { store } => store::inspect(inbound, route, store, catalog, jurisdictions, reader),
        RouteKind::Service { service } => plain::inspect(inbound, route, service, catalog, jurisdictions),
    }
}
