//! The operator's log: `tracing` to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use super::{LogFormat, Settings};

/// What the HTTP/2 library warns of is said by the peer, once a frame (a PING answer that nobody asked for): anybody could fill the disk with it.
/// Connections that are cut are counted and recorded elsewhere. A filter that names `h2` wins, because it comes later.
const BEFORE: &str = "h2=error";

/// Installs the log for the process. A second call changes nothing; a filter that does not parse falls back
/// to `info` and says so.
pub fn init(settings: &Settings) {
    let filter = |own: &str| EnvFilter::try_new(format!("{BEFORE},{own}"));
    let (filter, broken) = match filter(&settings.log_filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("h2=error,info"), Some(error)),
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
