//! The `[telemetry]` table of the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::Duration;

/// Where traces and metrics go, and how the operator's log looks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Base URL of an OTLP/HTTP collector (`http://127.0.0.1:4318`); `/v1/traces` and `/v1/metrics` are
    /// appended. Absent: no export; `/metrics` of the admin listener works all the same.
    pub otlp_endpoint: Option<String>,
    /// CA certificate (PEM) that signed the collector's certificate; needed for `https://`.
    pub otlp_ca: Option<PathBuf>,
    /// Share of requests that are traced, in percent, 0 to 100. Audit records never depend on it.
    pub sample_percent: u8,
    /// How often metrics are pushed.
    pub metrics_interval: Duration,
    /// The operator's log on standard error: `text` or `json`.
    pub log_format: LogFormat,
    /// Which log lines are written, as `RUST_LOG` writes it: `info`, `tidegate=debug`.
    pub log_filter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            otlp_ca: None,
            sample_percent: 100,
            metrics_interval: Duration::secs(30),
            log_format: LogFormat::Text,
            log_filter: "info".into(),
        }
    }
}

/// The shape of the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}
