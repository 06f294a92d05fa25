//! Which routes are recorded how surely, from one run to the next: a difference is an event.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::encode::text;
use super::notes::write_synced;
use super::record::Event;
use crate::model::AuditMode;

/// The file that remembers the modes of the last run.
const FILE: &str = "modes.json";

/// Gives an event for each route whose mode is another one than in the last run, and remembers these. The first run has no changes.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn compare(
    journal: &Path,
    now: &BTreeMap<String, AuditMode>,
    mut tell: impl FnMut(&Event<'_>),
) -> io::Result<()> {
    let before: Option<BTreeMap<String, AuditMode>> = match fs::read(journal.join(FILE)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.as_ref() == Some(now) {
        return Ok(());
    }
    if let Some(before) = before {
        let routes: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for route in routes {
            let (old, new) = (before.get(route).copied(), now.get(route).copied());
            if old != new {
                tell(&Event::ModeChanged { route: text(route), old, new });
            }
        }
    }
    write_synced(journal, FILE, &serde_json::to_vec(now)?)
}
