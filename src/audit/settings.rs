//! What the operator can say about the journal. Paths are absolute by the time they come here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, Duration};

/// Smallest segment: it must hold its own list of open decisions and some records.
const MIN_SEGMENT: u64 = 1 << 20;
/// Largest segment: a start after a crash reads one segment whole, and shall take less than a second.
const MAX_SEGMENT: u64 = 256 << 20;
/// Smallest number of places.
const MIN_QUEUE: usize = 64;
/// Bytes that one open decision takes in the list at the head of a segment.
const OPEN_ENTRY_BYTES: u64 = 48;
/// Seconds of a day.
const DAY: u64 = 86_400;

/// `[audit]`: where and how the journal is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The journal's directory; it is made if it is missing.
    pub directory: PathBuf,
    /// Size of one segment file, preallocated. From `1MiB` to `256MiB`.
    pub segment_size: ByteSize,
    /// Places for records that are not written yet. Each open request holds two, so half of this is the
    /// number of requests at once. At least 64; a place holds at most 32 KiB.
    pub queue: usize,
    /// The domain under which this organisation's logs are known; with the gateway's name it is the name of the log and of its key.
    pub domain: LogDomain,
    /// The key that signs checkpoints: Ed25519, PKCS#8 in PEM, mode 0600. Absent: `keys/checkpoint.pem` in the
    /// journal's directory, made at the first start.
    pub signing_key: Option<PathBuf>,
    /// The key that signed until now, when `signing_key` is changed: it signs the change too. Absent: the key
    /// stays what it was.
    pub previous_signing_key: Option<PathBuf>,
    /// Whether what identifies a user (id, credential, address, user agent) stands in decisions in the clear, or encrypted under a key
    /// of that user, which `tidegate audit erase` destroys. Addresses of refusals are then cut to their network.
    pub personal: PersonalData,
    /// How long records are kept.
    pub retention: Retention,
}

/// How records hold what identifies a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PersonalData {
    /// In the clear.
    #[default]
    Clear,
    /// Under a key of the user.
    Erasable,
}

/// `[audit.retention]`: how long records are kept. The tree's hashes and checkpoints are kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// How long segments stay as they were written. Older ones are compressed. At least `1d`.
    pub hot: Duration,
    /// How long records are kept; older segments are deleted, unless a legal hold or an export that has not caught up keeps them. At
    /// least `hot`.
    pub keep: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { hot: Duration::secs(90 * DAY), keep: Duration::secs(400 * DAY) }
    }
}

/// A domain as it stands at the front of a log's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^[A-Za-z0-9][A-Za-z0-9.-]{0,99}$"))]
pub struct LogDomain(String);

impl LogDomain {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogDomain {
    fn default() -> Self {
        Self("tidegate.internal".to_owned())
    }
}

impl<'de> Deserialize<'de> for LogDomain {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        if text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.len() <= 100
            && text.chars().all(known)
        {
            return Ok(Self(text));
        }
        Err(serde::de::Error::custom(
            "a domain has letters, digits, dots and hyphens, at most 100: `audit.example.com`",
        ))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("journal"),
            segment_size: ByteSize::mib(64),
            queue: 65_536,
            domain: LogDomain::default(),
            signing_key: None,
            previous_signing_key: None,
            personal: PersonalData::default(),
            retention: Retention::default(),
        }
    }
}

/// Settings that no journal can be kept with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The size of a segment is out of bounds.
    #[error("`{0}` is out of range")]
    SegmentSize(ByteSize),
    /// There are too few places.
    #[error("{0} places are too few")]
    Queue(usize),
    /// The list of open decisions could fill half a segment.
    #[error("{queue} places are too many for segments of `{segment_size}`")]
    QueueForSegment {
        /// The places asked for.
        queue: usize,
        /// The size of a segment.
        segment_size: ByteSize,
        /// The most places for that size.
        most: u64,
    },
    /// Records would be compressed or deleted the day that they are written.
    #[error("`{0}` is too short")]
    Hot(Duration),
    /// Records would be deleted before they are compressed.
    #[error("`{keep}` is shorter than `hot`, which is `{hot}`")]
    Keep {
        /// How long segments stay as they were written.
        hot: Duration,
        /// How long they are kept.
        keep: Duration,
    },
}

impl Settings {
    /// The values that are out of the bounds that the types cannot express, each with its key.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, SettingsError)> {
        let mut wrong = Vec::new();
        let size = self.segment_size.get();
        let whole = (MIN_SEGMENT..=MAX_SEGMENT).contains(&size);
        if !whole {
            wrong.push(("segment_size", SettingsError::SegmentSize(self.segment_size)));
        }
        let most = size / OPEN_ENTRY_BYTES;
        if self.queue < MIN_QUEUE {
            wrong.push(("queue", SettingsError::Queue(self.queue)));
        } else if whole && u64::try_from(self.queue).is_ok_and(|queue| queue > most) {
            let (queue, segment_size) = (self.queue, self.segment_size);
            wrong.push(("queue", SettingsError::QueueForSegment { queue, segment_size, most }));
        }
        let Retention { hot, keep } = self.retention;
        if hot < Duration::secs(DAY) {
            wrong.push(("retention.hot", SettingsError::Hot(hot)));
        }
        if keep < hot {
            wrong.push(("retention.keep", SettingsError::Keep { hot, keep }));
        }
        wrong
    }

    /// Checks the bounds that the types cannot express.
    ///
    /// # Errors
    /// The first value that is out of bounds.
    pub fn check(&self) -> Result<(), SettingsError> {
        self.problems().into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl SettingsError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::SegmentSize(_) => "use `1MiB` to `256MiB`".to_owned(),
            Self::Queue(_) => format!("use at least {MIN_QUEUE}"),
            Self::Hot(_) => "use at least `1d`".to_owned(),
            Self::Keep { hot, .. } => format!("use at least `{hot}`, or a shorter `hot`"),
            Self::QueueForSegment { most, .. } => format!("use at most {most}, or larger segments"),
        }
    }
}
