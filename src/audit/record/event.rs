//! Records of what is no crossing: refusals before anybody was identified, and what happened to the gateway itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Text;
use crate::model::{AuditMode, RecordId, hex};

/// A refusal before anybody was identified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refusal<'a> {
    /// The stable code. A count keeps up to 64 different ones apart.
    pub code: Text<'a>,
    /// The host asked for, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Text<'a>>,
    /// The method, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Text<'a>>,
    /// The path, if it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
    /// The address of whoever connected.
    pub peer: SocketAddr,
    /// The route, if one matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Text<'a>>,
    /// The status that the client got.
    pub status: u16,
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

/// A file of a bundle that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change<'a> {
    /// Its name.
    pub name: Text<'a>,
    /// SHA-256 before, hexadecimal; absent if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Text<'a>>,
    /// SHA-256 now, hexadecimal; absent if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Text<'a>>,
}

/// Changes that an event names.
const MAX_CHANGES: usize = 256;

impl Change<'_> {
    /// How the files of one bundle differ from those of another; both are in order of name. At most 256.
    #[must_use]
    pub fn between(old: &[(String, Vec<u8>)], new: &[(String, Vec<u8>)]) -> Vec<Change<'static>> {
        let hash = |bytes: &Vec<u8>| Text::Owned(hex(digest(&SHA256, bytes).as_ref()));
        let map = |files: &[(String, Vec<u8>)]| -> BTreeMap<String, Text<'static>> {
            files.iter().map(|(name, bytes)| (name.clone(), hash(bytes))).collect()
        };
        let (old, new) = (map(old), map(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
        let change = |name: &String| Change {
            name: Text::Owned(name.clone()),
            old: old.get(name).cloned(),
            new: new.get(name).cloned(),
        };
        differ.take(MAX_CHANGES).map(change).collect()
    }
}

/// What came of a decision, live or of a candidate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ShadowOutcome<'a> {
    /// `allow` or `deny`.
    pub decision: Text<'a>,
    /// The stable code of a denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Text<'a>>,
    /// The cluster that the data goes to, of an Allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Text<'a>>,
    /// The protection, of an Allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<Text<'a>>,
    /// The policies that decide, at most 32.
    #[serde(default)]
    pub policies: Vec<Text<'a>>,
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
        /// The files that differ between the two, at most 256.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<Change<'a>>,
        /// Why the new one was not taken; empty if it was.
        #[serde(default)]
        problems: Vec<Text<'a>>,
    },
    /// A bundle with a manifest is served from here on.
    #[serde(rename = "policy.release")]
    Release {
        /// The bundle.
        bundle: Text<'a>,
        /// Its serial.
        serial: u64,
        /// When it ends, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<super::Time>")]
        expires: Option<Timestamp>,
        /// Name and id of the key that signed it, if a signature was demanded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signer: Option<Text<'a>>,
        /// How many claims are attested as proved.
        attested: u64,
        /// Break-glass: why it is served without the attestation that is demanded.
        #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
        override_reason: Option<Text<'a>>,
    },
    /// The bundle that is served has expired.
    #[serde(rename = "policy.expired")]
    Expired {
        /// The bundle.
        bundle: Text<'a>,
        /// Its serial.
        serial: u64,
        /// When it ended.
        #[schemars(with = "super::Time")]
        expires: Timestamp,
        /// Whether all requests are denied since then.
        denies: bool,
    },
    /// Another candidate is compared with the live bundle, or the one that was is gone.
    #[serde(rename = "shadow.candidate")]
    ShadowCandidate {
        /// The candidate; absent if there is none, or it could not be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        candidate: Option<Text<'a>>,
        /// Why it is not compared; empty if it is.
        #[serde(default)]
        problems: Vec<Text<'a>>,
    },
    /// A candidate would have decided otherwise. Only the live bundle was enforced.
    #[serde(rename = "shadow.divergence")]
    ShadowDivergence {
        /// The live bundle.
        live: Text<'a>,
        /// The candidate.
        candidate: Text<'a>,
        /// In what they differ: `decision`, `destination`, `protection`, `code` or `policies`.
        differs: Text<'a>,
        /// The action.
        action: Text<'a>,
        /// What was decided and done.
        was: Box<ShadowOutcome<'a>>,
        /// What the candidate says.
        would: Box<ShadowOutcome<'a>>,
        /// How many decisions since the last such event.
        divergences: u64,
        /// Some of their crossings, at most three.
        examples: Vec<RecordId>,
        /// The first of them.
        #[schemars(with = "super::Time")]
        from: Timestamp,
        /// The last of them.
        #[schemars(with = "super::Time")]
        to: Timestamp,
    },
    /// How many decisions a candidate was asked about since the last such event.
    #[serde(rename = "shadow.compared")]
    ShadowCompared {
        /// The candidate.
        candidate: Text<'a>,
        /// Decisions that it was asked about.
        compared: u64,
        /// Those of them that differ.
        diverged: u64,
        /// Decisions that found no place in the queue.
        dropped: u64,
        /// Decisions on which its evaluation failed.
        failed: u64,
        /// Divergences that are in no group, for there were too many groups.
        ungrouped: u64,
        /// From when.
        #[schemars(with = "super::Time")]
        from: Timestamp,
        /// Until when.
        #[schemars(with = "super::Time")]
        to: Timestamp,
    },
    /// The listener's certificate, authorities or revocation lists were read again.
    #[serde(rename = "certificates.reload")]
    CertificatesReload {
        /// Who asked: `file`, `signal`, or `clock` when a revocation list had become too old.
        actor: Text<'a>,
        /// Whether other clients are trusted now, so that older connections are drained.
        drained: bool,
        /// The files that differ, at most 256; never the key.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<Change<'a>>,
        /// Why the new ones were not taken; empty if they were.
        #[serde(default)]
        problems: Vec<Text<'a>>,
    },
    /// A certificate ends in 30, 7 or 1 days, or has ended.
    #[serde(rename = "certificate.expiring")]
    CertificateExpiring {
        /// The setting that names its file.
        certificate: Text<'a>,
        /// The bound that was passed, in days; 0: it has ended.
        days: u16,
        /// When the first certificate of the file ends.
        #[schemars(with = "super::Time")]
        not_after: Timestamp,
    },
    /// The list of revoked tokens, subjects, workloads and keys was read again.
    #[serde(rename = "revocations.reload")]
    RevocationsReload {
        /// Who asked: `file` or `signal`.
        actor: Text<'a>,
        /// SHA-256 of the file that is in force, hexadecimal.
        hash: Text<'a>,
        /// How many entries are in force.
        entries: u64,
        /// Why the new file was not taken; empty if it was.
        #[serde(default)]
        problems: Vec<Text<'a>>,
    },
    /// How surely the crossings of a route are recorded differs from the run before.
    #[serde(rename = "mode.changed")]
    ModeChanged {
        /// The route.
        route: Text<'a>,
        /// The mode before; absent if the route is new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<AuditMode>,
        /// The mode now; absent if the route is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new: Option<AuditMode>,
    },
    /// Records left the journal for a reader: through the API, or as an export or report.
    #[serde(rename = "audit.read")]
    AuditRead {
        /// Who: a principal, or `uid:` and the number of the operating system's user.
        actor: Text<'a>,
        /// With what: `api`, `export`, `report`, `verify --export`.
        how: Text<'a>,
        /// What was asked for, as it was written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Text<'a>>,
        /// How many records were given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        records: Option<u64>,
        /// When.
        #[schemars(with = "super::Time")]
        at: Timestamp,
    },
    /// The key over a subject's personal members was destroyed.
    #[serde(rename = "subject.erased")]
    SubjectErased {
        /// The id of the key.
        subject: RecordId,
        /// The tenant.
        tenant: Text<'a>,
        /// Who did it.
        actor: Text<'a>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<Text<'a>>,
        /// When.
        #[schemars(with = "super::Time")]
        at: Timestamp,
    },
    /// Retention deletes nothing from a time on, as long as this hold stands.
    #[serde(rename = "hold.added")]
    HoldAdded {
        /// The name of the hold.
        name: Text<'a>,
        /// Why.
        reason: Text<'a>,
        /// From when on; absent: all records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<super::Time>")]
        from: Option<Timestamp>,
        /// Who set it.
        actor: Text<'a>,
        /// When.
        #[schemars(with = "super::Time")]
        at: Timestamp,
    },
    /// A hold was lifted.
    #[serde(rename = "hold.removed")]
    HoldRemoved {
        /// The name of the hold.
        name: Text<'a>,
        /// Why.
        reason: Text<'a>,
        /// Who lifted it.
        actor: Text<'a>,
        /// When.
        #[schemars(with = "super::Time")]
        at: Timestamp,
    },
    /// A key that seals payloads was made, replaced, retired, or written in the clear.
    #[serde(rename = "sealing.key")]
    SealingKey {
        /// What happened: `make`, `rotate`, `rewrap`, `retire`, `destroy` or `export`.
        change: Text<'a>,
        /// The key and its version.
        key: Text<'a>,
        /// Who did it.
        actor: Text<'a>,
        /// When.
        #[schemars(with = "super::Time")]
        at: Timestamp,
    },
    /// Records are older than they are kept, and their segments are about to be deleted. Their hashes stay in the tree.
    #[serde(rename = "retention.pruned")]
    RetentionPruned {
        /// The number of the first record that goes.
        first: u64,
        /// The number of the first record that stays.
        below: u64,
        /// How many segments go.
        segments: u64,
        /// All records that go were written before this.
        #[schemars(with = "super::Time")]
        before: Timestamp,
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
    /// An export destination refused records for good; they are in its dead-letter file.
    #[serde(rename = "export.rejected")]
    ExportRejected {
        /// The destination.
        destination: Text<'a>,
        /// How many.
        count: u64,
        /// The number of the first.
        first: u64,
        /// The number of the last.
        last: u64,
        /// The status that the first was refused with; 200 if the answer said so in its body.
        status: u16,
    },
    /// Wall time moved against the monotonic clock.
    #[serde(rename = "clock.step")]
    ClockStep {
        /// By how much; negative is backwards.
        milliseconds: i64,
    },
}
