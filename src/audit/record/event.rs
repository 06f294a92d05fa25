//! Records of what is no crossing: refusals before anybody was identified, and what happened to the gateway itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Text;

/// A refusal before anybody was identified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refusal<'a> {
    /// The stable code. A count keeps up to 64 different ones apart.
    pub code: Text<'a>,
    /// The status that the client got.
    pub status: u16,
    /// The address of whoever connected.
    pub peer: SocketAddr,
    /// The method, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Text<'a>>,
    /// The host asked for, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Text<'a>>,
    /// The path, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
    /// The route, if one matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Text<'a>>,
    /// The OpenTelemetry trace, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Text<'a>>,
}

/// Refusals that were counted instead of written one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refusals {
    /// How many.
    pub count: u64,
    /// How many of each code.
    pub codes: BTreeMap<String, u64>,
    /// Some of the source networks (/24 or /64), at most 16.
    pub sources: Vec<IpAddr>,
    /// When the counting began.
    #[schemars(with = "super::Time")]
    pub from: Timestamp,
    /// When it ended.
    #[schemars(with = "super::Time")]
    pub to: Timestamp,
}

/// Something that happened to the gateway itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "event")]
pub enum Event<'a> {
    /// The journal was opened.
    #[serde(rename = "start")]
    Start {
        /// The version of the program.
        version: Text<'a>,
    },
    /// The journal was closed in order.
    #[serde(rename = "stop")]
    Stop,
    /// Configuration, policies, keys or certificates were read again.
    #[serde(rename = "reload")]
    Reload {
        /// Who asked: `file`, `signal` or a principal.
        actor: Text<'a>,
        /// The bundle before, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<Text<'a>>,
        /// The bundle that was read, if it could be hashed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new: Option<Text<'a>>,
        /// Why the new one was not taken; empty if it was.
        #[serde(default)]
        problems: Vec<Text<'a>>,
    },
    /// A torn tail, never acknowledged, was cut off at the start.
    #[serde(rename = "recovery.truncated")]
    RecoveryTruncated {
        /// The segment.
        segment: Text<'a>,
        /// Where the cut is.
        offset: u64,
        /// How many bytes were cut off.
        bytes: u64,
    },
    /// Decisions of an earlier run had no outcome; each got one that says `unknown`.
    #[serde(rename = "recovery.orphans")]
    RecoveryOrphans {
        /// How many.
        count: u64,
    },
    /// Requests were refused because they could not be recorded.
    #[serde(rename = "audit.gap")]
    AuditGap {
        /// How many.
        refused: u64,
        /// Why: `no_space` or `queue_full`.
        reason: Text<'a>,
        /// From when.
        #[schemars(with = "super::Time")]
        from: Timestamp,
        /// Until when.
        #[schemars(with = "super::Time")]
        to: Timestamp,
    },
    /// A log begins; its first record.
    #[serde(rename = "log.opened")]
    LogOpened {
        /// The name of the log.
        origin: Text<'a>,
        /// The key that verifies its checkpoints, in the form of a C2SP signed-note verifier key.
        vkey: Text<'a>,
        /// The last checkpoint of the log before, a signed note, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Text<'a>>,
    },
    /// A log ends; its last record.
    #[serde(rename = "log.closed")]
    LogClosed {
        /// The name of the log.
        origin: Text<'a>,
    },
    /// Another key signs checkpoints from here on.
    #[serde(rename = "key.changed")]
    KeyChanged {
        /// The verifier key before.
        old: Text<'a>,
        /// The verifier key from now on.
        new: Text<'a>,
    },
    /// Wall time moved against the monotonic clock.
    #[serde(rename = "clock.step")]
    ClockStep {
        /// By how much; negative is backwards.
        milliseconds: i64,
    },
}
