//! The `[policy]` tables: where policies come from, what is demanded of them, and what is compared with them.

use std::num::NonZeroU16;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, Duration};
use crate::policy::release::Expired;

/// The `[policy]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The folder of `*.cedar`, `tidegate.cedarschema`, `entities.json` and `*.entities.json`; not read with `[policy.remote]`.
    #[serde(default = "PolicySettings::default_directory")]
    pub directory: PathBuf,
    /// How often the folder's contents are compared with what is loaded; SIGHUP compares at once.
    #[serde(default = "PolicySettings::default_poll")]
    pub poll: Duration,
    /// Keys of which one must have signed the bundle, each as `tidegate policy bundle` prints it. With none, no signature is demanded.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether a bundle must carry an attestation that its claims were proved. No solver is run.
    #[serde(default)]
    pub attestation: AttestationRule,
    /// Invariants, by `@id`, that must be among the attested claims, besides those about every bundle; `id@sha256` also says which words were proved.
    #[serde(default)]
    pub claims: Vec<String>,
    /// What becomes of requests when the bundle that is served has expired.
    #[serde(default)]
    pub expired: Expired,
    /// Where the highest serial that was served is kept, and the last good of what is fetched. Absent: `policy` in the journal's directory.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// The policies come packed from a URL. Absent: from `directory`.
    #[serde(default)]
    pub remote: Option<RemoteSettings>,
    /// One more file of entities, from a URL; no signature covers it. Absent: none.
    #[serde(default)]
    pub entities: Option<RemoteSettings>,
    /// A candidate that is asked what the live policies are asked, and never enforced. Absent: none.
    #[serde(default)]
    pub shadow: Option<ShadowSettings>,
}

/// Whether a bundle must be attested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttestationRule {
    /// It is not looked at.
    #[default]
    Ignored,
    /// A bundle without it is refused, unless it is overridden by a signed reason.
    Required,
}

/// A file that comes from a URL.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteSettings {
    /// Its URL; `http` only on this machine. Redirects are not followed.
    pub url: String,
    /// PEM file: the authorities that the server's certificate must come from. Absent: only for `http`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How often it is asked for, by its ETag.
    #[serde(default = "RemoteSettings::default_poll")]
    pub poll: Duration,
    /// Time for one exchange.
    #[serde(default = "RemoteSettings::default_timeout")]
    pub timeout: Duration,
    /// Bytes of the file at most.
    #[serde(default = "RemoteSettings::default_max_bytes")]
    pub max_bytes: ByteSize,
}

impl RemoteSettings {
    const fn default_poll() -> Duration {
        Duration::secs(30)
    }

    const fn default_timeout() -> Duration {
        Duration::secs(10)
    }

    const fn default_max_bytes() -> ByteSize {
        ByteSize::mib(32)
    }
}

/// The `[policy.shadow]` table.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowSettings {
    /// The folder of the candidate, looked at as often as the live one. As long as it does not exist nothing is compared.
    pub directory: PathBuf,
    /// Decisions that may wait for the candidate, about 1 KiB each; what finds no place is not compared, and counted. From 1.
    #[serde(default = "ShadowSettings::default_queue")]
    pub queue: NonZeroU16,
}

impl ShadowSettings {
    const fn default_queue() -> NonZeroU16 {
        // A tenth of a second at 20,000 decisions a second.
        NonZeroU16::MIN.saturating_add(2_047)
    }
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            directory: Self::default_directory(),
            poll: Self::default_poll(),
            keys: Vec::new(),
            attestation: AttestationRule::default(),
            claims: Vec::new(),
            expired: Expired::default(),
            state: None,
            remote: None,
            entities: None,
            shadow: None,
        }
    }
}

impl PolicySettings {
    fn default_directory() -> PathBuf {
        PathBuf::from("policies")
    }

    const fn default_poll() -> Duration {
        Duration::secs(1)
    }
}
