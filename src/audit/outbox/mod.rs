//! Records leave for OpenTelemetry collectors: out of the journal, through a cursor, at least once.

mod cursor;
mod headers;
mod settings;

pub use cursor::required_floor;
pub use settings::{DestinationName, ExportSettings, InvalidDestination};
pub(crate) use settings::{check, resolve};
