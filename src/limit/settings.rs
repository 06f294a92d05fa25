//! What an operator says about limits.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Duration;

/// How much one principal may do on one route. What is left out is not limited.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Requests that may start in each `per`, evenly spread. Absent: no limit.
    #[serde(default)]
    pub rate: Option<NonZeroU32>,
    /// The time that `rate` counts for. From `1s` to `1d`.
    #[serde(default = "second")]
    pub per: Duration,
    /// Requests that may start at once after a pause. Absent: as many as `rate`.
    #[serde(default)]
    pub burst: Option<NonZeroU32>,
    /// Requests that may be under way at once, until the last byte of the answer. Absent: no limit.
    #[serde(default)]
    pub concurrency: Option<NonZeroU32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rate: None, per: second(), burst: None, concurrency: None }
    }
}

const fn second() -> Duration {
    Duration::secs(1)
}
