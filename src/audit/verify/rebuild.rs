//! Makes the tiles of all logs again from the records, where those give the signed root.

use std::path::Path;

use super::{VerifyError, io_error, segments};
use crate::audit::tree::checkpoint::Checkpoint;
use crate::audit::tree::log::LogDirectory;
use crate::audit::tree::note::VerifierKey;
use crate::audit::tree::recover;

/// Writes the tiles of each log again; with a key, only of logs whose checkpoint it signed.
///
/// # Errors
/// The gateway is running, the records are not those that were signed, or a file cannot be read or written.
pub fn rebuild(journal: &Path, key: Option<&VerifierKey>) -> Result<(), VerifyError> {
    segments(journal)?;
    let _lock = crate::audit::journal::lock(journal).map_err(|error| VerifyError::InUse(Box::new(error)))?;
    for log in LogDirectory::list(journal).map_err(io_error("read", journal))? {
        let note = log.read_checkpoint().map_err(io_error("read", &log.checkpoint()))?;
        let (Some(note), Some(head)) =
            (note, recover::head(journal, log.first).map_err(io_error("read", journal))?)
        else {
            continue;
        };
        let keys: Vec<VerifierKey> = key.into_iter().map(|key| key.named(head.name())).collect();
        let wrong = |error: &dyn std::fmt::Display| VerifyError::Tree(error.to_string());
        let checkpoint = Checkpoint::open(&note, &keys).map_err(|error| wrong(&error))?;
        recover::rebuild(journal, &head, &log, &checkpoint).map_err(|error| wrong(&error))?;
    }
    Ok(())
}
