//! What a served release leaves behind: its serial, so that no older one is served after it, and events for auditors.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::audit::Audit;
use crate::audit::record::Event;
use crate::config::Config;
use crate::model::{Clock as _, SystemClock};
use crate::policy::Bundle;
use crate::policy::release::Last;

/// Remembers the serial of a bundle that is about to be served, if it has one. Durable when it returns.
///
/// # Errors
/// It cannot be written.
pub(super) fn remember(config: &Config, bundle: &Bundle) -> io::Result<()> {
    let Some(release) = bundle.release() else { return Ok(()) };
    let last = Last { serial: release.serial, bundle: bundle.own_hash().to_owned() };
    put(&config.last_release_file(), &serde_json::to_vec(&last)?)
}

/// Writes a file that appears whole and durable, or not at all, in a folder that only its owner may enter.
///
/// # Errors
/// It cannot be written.
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    File::open(folder)?.sync_all()
}

/// Records that a release is served, and shouts if nothing proves it.
pub(super) fn announce(audit: &Audit, bundle: &Bundle) {
    let Some(release) = bundle.release() else { return };
    if let Some(reason) = &release.override_reason {
        let (serial, bundle) = (release.serial, bundle.hash());
        tracing::warn!(serial, bundle, %reason, "break-glass: policies are served without an attestation");
    }
    audit.event(&Event::Release {
        bundle: bundle.hash().into(),
        serial: release.serial,
        expires: release.expires,
        signer: release.signer.as_deref().map(Into::into),
        attested: u64::try_from(release.attested).unwrap_or(u64::MAX),
        override_reason: release.override_reason.as_deref().map(Into::into),
    });
}

/// Raises the alarm when the served bundle expires, once for each release.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    told: Option<u64>,
}

impl Expiry {
    /// Looks at the bundle that is served.
    pub(super) fn look(&mut self, audit: &Audit, bundle: &Bundle) {
        let Some(release) = bundle.release() else { return };
        let Some(expires) = release.expires.filter(|_| release.is_over(SystemClock.now())) else { return };
        if self.told.replace(release.serial) == Some(release.serial) {
            return;
        }
        let (serial, denies) = (release.serial, release.denies_expired);
        tracing::error!(serial, %expires, denies, "the policies expired");
        audit.event(&Event::Expired { bundle: bundle.hash().into(), serial, expires, denies });
    }
}
