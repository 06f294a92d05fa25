//! The record that stands after a crossing: what came of it.

use serde::{Deserialize, Serialize};

use super::{Message, Text};
use crate::model::Usage;

/// How an attempt, or a request without a decision, ended. Its members stand in canonical order, as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Outcome<'a> {
    /// The sealed message of the answer: of a peer's that was opened, or of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Message<'a>>,
    /// The stable code of a failure after the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Text<'a>>,
    /// From the first byte of the request to the end, microseconds.
    pub duration_us: u64,
    /// How.
    pub ending: Ending,
    /// Bytes of a sealed object that were fetched from the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_bytes: Option<u64>,
    /// The sealed message that the object was at rest, if it was opened, or was let through as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<Message<'a>>>,
    /// Bytes of the request body that were sent upstream.
    pub request_bytes: u64,
    /// SHA-256 of the sealed request, if one came or left and was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_ciphertext: Option<Text<'a>>,
    /// HMAC of the request body before protection, if it streamed and was sent whole. A buffered one is in the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<Text<'a>>,
    /// Bytes of the response body that went to the client.
    pub response_bytes: u64,
    /// SHA-256 of the sealed answer, if one came or left and was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_ciphertext: Option<Text<'a>>,
    /// HMAC of the response body, if it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_digest: Option<Text<'a>>,
    /// The status that the client got, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// From the first byte of the request to the first byte of the response, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_byte_us: Option<u64>,
    /// Tokens, for inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Of an exchange that was ended because it was permitted no longer: the decision that ended it. `code` says what changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<Box<Withdrawal<'a>>>,
}

impl Outcome<'_> {
    /// An outcome of which nothing but its kind is known.
    #[must_use]
    pub const fn bare(ending: Ending) -> Self {
        Self {
            ending,
            status: None,
            code: None,
            request_bytes: 0,
            response_bytes: 0,
            usage: None,
            duration_us: 0,
            time_to_first_byte_us: None,
            request_digest: None,
            response_digest: None,
            request_ciphertext: None,
            response_ciphertext: None,
            answer: None,
            object: None,
            withdrawn: None,
            fetched_bytes: None,
        }
    }
}

/// The decision that ended an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Withdrawal<'a> {
    /// The bundle that decided, or was in force.
    pub bundle: Text<'a>,
    /// Policies that could not be evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// The policies that forbade it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<std::sync::Arc<str>>,
    /// The code of the policies' Deny; absent if identity or a revocation ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text<'a>>,
}

/// The ways to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The whole answer was delivered.
    Complete,
    /// The client hung up.
    ClientGone,
    /// The upstream broke off.
    UpstreamReset,
    /// A timeout of ours ended it.
    Timeout,
    /// We answered the refusal that the decision says.
    Refused,
    /// We ended it, or the task was cancelled.
    Aborted,
    /// We ended it, for it was permitted no longer: policies, entities, a token or a revocation changed that.
    Withdrawn,
    /// Our own code failed.
    Panicked,
    /// The gateway died before it knew; written by the next start.
    Unknown,
}

impl Ending {
    /// The name in records and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client_gone",
            Self::UpstreamReset => "upstream_reset",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Aborted => "aborted",
            Self::Withdrawn => "withdrawn",
            Self::Panicked => "panicked",
            Self::Unknown => "unknown",
        }
    }
}
