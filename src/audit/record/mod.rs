//! The record types, version 1: what an auditor reads.
//!
//! Records hold no payload, no credential and no secret: digests of payloads, object keys and query values are HMACs
//! under the tenant's journal key (see `keys`). There are no floats, so any language reads the same numbers.
//! Each record is one canonical JSON object with the members of its [`Stamp`]; unknown members are to be ignored by readers.
//! `schema` describes them for others. Types whose records are many declare their members in canonical order, so that nothing moves in writing.

mod decision;
mod entity;
mod event;
mod outcome;
pub mod schema;

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use decision::{
    Decision, Evaluation, Links, Marking, Message, Parameter, Party, Personal, PersonalDecision, Request,
    Upstream, Verdict,
};
pub use entity::{Entity, EntityId};
pub use event::{Change, Event, Refusal, Refusals, ShadowOutcome};
pub use outcome::{Ending, Outcome, Withdrawal};

use crate::model::RecordId;

/// The version of the record format, member `v` of each record.
pub const VERSION: u8 = 1;

type Text<'a> = Cow<'a, str>;

/// How a time stands in a record: RFC 3339, UTC, up to nanoseconds.
#[derive(schemars::JsonSchema)]
#[schemars(transparent, extend("format" = "date-time"))]
#[expect(dead_code, reason = "it only describes")]
struct Time(String);

/// What all records have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stamp<'a> {
    /// Which attempt of the crossing, from 1; 0 is before the first decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u16>,
    /// The run of that instance: a new id with each start.
    pub boot: RecordId,
    /// The gateway instance that wrote it.
    pub gateway: Text<'a>,
    /// The crossing that the record belongs to; none for events and counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RecordId>,
    /// When it happened.
    #[schemars(with = "Time")]
    pub time: Timestamp,
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A decision.
    Decision(Box<Decision<'static>>),
    /// An outcome.
    Outcome(Box<Outcome<'static>>),
    /// A refusal.
    Refusal(Refusal<'static>),
    /// A count of refusals.
    Refusals(Refusals),
    /// An event.
    Event(Event<'static>),
}

/// A payload that is no record of a known version.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is no JSON of the expected shape.
    #[error("the record cannot be read")]
    Json(#[from] serde_json::Error),
    /// A later version wrote it.
    #[error("record version {0} is unknown")]
    Version(u8),
    /// A kind that this version does not have.
    #[error("record kind `{0}` is unknown")]
    Kind(String),
}

impl Record {
    /// Reads a payload.
    ///
    /// # Errors
    /// It is malformed or of an unknown version.
    pub fn parse(payload: &[u8]) -> Result<(Stamp<'static>, Self), RecordError> {
        #[derive(Deserialize)]
        struct Head<'a> {
            v: u8,
            #[serde(borrow)]
            kind: Cow<'a, str>,
        }
        let head: Head<'_> = serde_json::from_slice(payload)?;
        if head.v != VERSION {
            return Err(RecordError::Version(head.v));
        }
        let stamp = serde_json::from_slice(payload)?;
        let record = match head.kind.as_ref() {
            "decision" => Self::Decision(serde_json::from_slice(payload)?),
            "outcome" => Self::Outcome(Box::new(serde_json::from_slice(payload)?)),
            "refusal" => Self::Refusal(serde_json::from_slice(payload)?),
            "refusals" => Self::Refusals(serde_json::from_slice(payload)?),
            "event" => Self::Event(serde_json::from_slice(payload)?),
            other => return Err(RecordError::Kind(other.chars().take(40).collect())),
        };
        Ok((stamp, record))
    }
}
