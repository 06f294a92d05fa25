//! Makes what is missing: root keys in files, and the first version of branch keys.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Direction, KEY_BYTES, KeyError, KeyName, KeyState, Keys, KeysSettings, Kind, Scope};
use crate::model::TenantName;

/// A root key file that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make root key `{}`", path.display())]
pub struct RootFileError {
    path: PathBuf,
    source: io::Error,
}

/// Makes the root key files that the settings name and that are not there yet: 32 random bytes in base64, mode 0600.
///
/// # Errors
/// The first one that could not be made.
pub fn make_root_files(settings: &KeysSettings) -> Result<(), RootFileError> {
    for path in settings.roots.values().filter_map(|root| root.file.as_ref()) {
        make_root_file(path).map_err(|source| RootFileError { path: path.clone(), source })?;
    }
    Ok(())
}

fn make_root_file(path: &std::path::Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| io::Error::other("the system's random source failed"))?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(Zeroizing::new(STANDARD.encode(*key)).as_bytes())?;
            file.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl Keys {
    /// Makes the branch keys that have no active version, for these tenants, each recipient with a root key, and each
    /// direction, as far as `wanted`. Gives the names of those made.
    ///
    /// # Errors
    /// A root key cannot be used, or the directory cannot be read or written; the keys made before stay.
    pub async fn make_missing(
        &self,
        tenants: &BTreeSet<TenantName>,
        wanted: impl Fn(&Scope) -> bool,
    ) -> Result<Vec<KeyName>, KeyError> {
        let there: BTreeSet<Scope> = (self.store().list()?.into_iter())
            .filter(|(_, file)| file.state == KeyState::Active)
            .map(|(name, _)| name.scope)
            .collect();
        let mut made = Vec::new();
        for (recipient, known) in &self.0.recipients {
            if !matches!(known.kind, Kind::Branch(_)) {
                continue;
            }
            for tenant in tenants {
                for direction in Direction::ALL {
                    let scope = Scope { tenant: tenant.clone(), recipient: recipient.clone(), direction };
                    if wanted(&scope) && !there.contains(&scope) {
                        made.push(self.make(&scope).await?);
                    }
                }
            }
        }
        Ok(made)
    }
}
