//! What is asked, and what is done to the payload on the way.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The Cedar action of a request (`Tidegate::Action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A completion asked of a model; the prompt leaves.
    Infer,
    /// An embedding asked of a model; the text leaves.
    Embed,
    /// Bytes of a dataset are read out of a private store.
    Read,
    /// Keys of a dataset are listed.
    List,
    /// Bytes are written into a private store.
    Write,
    /// An object of a private store is deleted.
    Delete,
    /// A plain HTTP service is called.
    Call,
}

impl Action {
    /// The name in policies, records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Embed => "embed",
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Call => "call",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rung of the protection ladder, cheapest first. Facts for Cedar, then done exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// The payload leaves as it is.
    None,
    /// Detected personal data is masked before it leaves.
    Masked,
    /// The payload leaves encrypted under a key of the recipient.
    Sealed,
}

impl Protection {
    /// The name in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Masked => "masked",
            Self::Sealed => "sealed",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How surely a crossing is recorded before the first byte leaves; fixed per route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditMode {
    /// The decision is written and fsynced: survives power loss.
    #[default]
    Required,
    /// The decision is written, fsync follows within 10 ms: survives kill -9.
    BestEffort,
    /// Nothing is recorded; for liveness routes only.
    Off,
}

impl AuditMode {
    /// The name in configuration and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best_effort",
            Self::Off => "off",
        }
    }
}

/// Whether a route wants to know who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdentityRule {
    /// No credential, no answer.
    #[default]
    Required,
    /// Every caller is `Workload::"anonymous"`; credentials are not looked at.
    None,
}
