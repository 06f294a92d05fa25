//! The `[telemetry]` table of the configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::model::{Duration, Problems};
use crate::net::{Alpn, ClientTls};

/// Where traces and metrics go, and how the operator's log looks.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Base URL of an OTLP/HTTP collector (`http://127.0.0.1:4318`); `/v1/traces` and `/v1/metrics` are
    /// appended. Absent: no export; `/metrics` of the admin listener works all the same.
    pub otlp_endpoint: Option<String>,
    /// CA certificate (PEM) that signed the collector's certificate; required for `https://`, absent for `http://`.
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

impl Settings {
    /// Everything that is wrong with these settings; `place` is where they stand in `file`.
    #[must_use]
    pub fn check(&self, file: &str, place: &str) -> Problems {
        let mut problems = Problems::new();
        let mut note = |key: &str, message: String, hint: &str| {
            problems.push(file, format!("{place}.{key}"), message, hint);
        };
        if let Some(url) = &self.otlp_endpoint {
            let scheme = url.parse::<http::Uri>().ok().and_then(|url| url.scheme_str().map(str::to_owned));
            match (scheme.as_deref(), &self.otlp_ca) {
                (Some("http"), _) | (Some("https"), Some(_)) => {}
                (Some("https"), None) => note(
                    "otlp_ca",
                    "is missing: an `https` collector needs the authorities that are trusted for it"
                        .to_owned(),
                    "name a PEM file; system roots are not used",
                ),
                _ => note(
                    "otlp_endpoint",
                    format!("`{url}` is no URL of a collector"),
                    "write for example `http://127.0.0.1:4318`",
                ),
            }
        }
        if let Some(Err(error)) = self.otlp_ca.as_deref().map(|ca| ClientTls::load(ca, None, Alpn::Http1)) {
            note("otlp_ca", error.describe(), error.hint());
        }
        if self.sample_percent > 100 {
            note("sample_percent", format!("{} is out of range", self.sample_percent), "use 0 to 100");
        }
        if self.metrics_interval < Duration::secs(1) {
            note("metrics_interval", format!("{} is too short", self.metrics_interval), "use at least `1s`");
        }
        if let Err(error) = EnvFilter::try_new(&self.log_filter) {
            let message = format!("`{}` is no filter: {error}", self.log_filter);
            note("log_filter", message, "write for example `info` or `info,tidegate=debug`");
        }
        problems
    }
}

/// The shape of the operator's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}
