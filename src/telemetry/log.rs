//! The operator's log: `tracing` to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::{LogFormat, Settings};

/// Installs the log for the process. A second call changes nothing; a filter that does not parse falls back
/// to `info` and says so.
pub fn init(settings: &Settings) {
    let (filter, broken) = match EnvFilter::try_new(&settings.log_filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(colour);
    let installed = match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if let (Ok(()), Some(error)) = (installed, broken) {
        tracing::warn!(%error, filter = %settings.log_filter, "log filter does not parse, using `info`");
    }
}
