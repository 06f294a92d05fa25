//! Root keys: each wraps branch keys, bound to their names, and does nothing else. Asked when a branch key is made or first used,
//! never for a request.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::settings::RootSettings;
use super::transit::{Transit, TransitError};
use crate::model::{Secret, SecretFileError};
use crate::net::ClientError;
use crate::protect::seal::{Edk, EncryptionContext, aes_edk};

/// The length of branch and root keys in bytes.
pub const KEY_BYTES: usize = 32;
/// A branch key in memory; zeroed when dropped.
pub type BranchKey = Zeroizing<[u8; KEY_BYTES]>;

/// The namespace of the wrapped form in key files.
const NAMESPACE: &str = "tidegate-root";

/// A root key that cannot be used. Nothing here shows key material.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file does not hold a key.
    #[error("root key file `{}` does not hold 32 bytes in base64", .0.display())]
    Malformed(PathBuf),
    /// The key service.
    #[error(transparent)]
    Transit(#[from] TransitError),
    /// The hardware module.
    #[cfg(feature = "pkcs11")]
    #[error(transparent)]
    Pkcs11(#[from] super::pkcs11::Pkcs11Error),
    /// The wrapped key was made by another root key, for another name, or was changed.
    #[error("the wrapped key does not open: it is of another root key or another name, or was changed")]
    Refused,
    /// The cipher or the random source failed.
    #[error("the key could not be wrapped")]
    Crypto,
    /// This build cannot use it.
    #[error("this build cannot use that kind of root key")]
    Unsupported,
}

/// A root key.
#[derive(Debug)]
pub(super) enum Root {
    File(PathBuf),
    Transit(Box<Transit>),
    #[cfg(feature = "pkcs11")]
    Pkcs11(std::sync::Arc<super::pkcs11::Pkcs11>),
    /// A configuration that `check` has already complained about.
    Unsupported,
}

impl Root {
    pub(super) fn new(settings: &RootSettings) -> Result<Self, ClientError> {
        Ok(match (&settings.file, &settings.transit, &settings.pkcs11) {
            (Some(file), _, _) => Self::File(file.clone()),
            (None, Some(transit), _) => Self::Transit(Box::new(Transit::new(transit)?)),
            #[cfg(feature = "pkcs11")]
            (None, None, Some(module)) => Self::Pkcs11(super::pkcs11::Pkcs11::new(module).into()),
            _ => Self::Unsupported,
        })
    }

    /// Wraps a branch key for the text of a key file.
    pub(super) async fn wrap(&self, name: &str, key: &BranchKey) -> Result<String, RootError> {
        match self {
            Self::File(path) => {
                let edk =
                    aes_edk::wrap(&*read(path)?, NAMESPACE, name, &(**key).into(), &EncryptionContext::new());
                let edk = edk.map_err(|_| RootError::Crypto)?;
                Ok(format!("{}.{}", STANDARD.encode(&edk.info), STANDARD.encode(&edk.ciphertext)))
            }
            Self::Transit(transit) => Ok(transit.encrypt(name, key).await?),
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(module) => {
                let (module, name, key) = (std::sync::Arc::clone(module), name.to_owned(), key.clone());
                let wrapped = tokio::task::spawn_blocking(move || module.encrypt(&name, &key)).await;
                Ok(wrapped.map_err(|_| RootError::Crypto)??)
            }
            Self::Unsupported => Err(RootError::Unsupported),
        }
    }

    /// Opens what [`Self::wrap`] made under the same name.
    pub(super) async fn unwrap(&self, name: &str, wrapped: &str) -> Result<BranchKey, RootError> {
        match self {
            Self::File(path) => {
                let decode = |text: &str| STANDARD.decode(text).map_err(|_| RootError::Refused);
                let (info, ciphertext) = wrapped.split_once('.').ok_or(RootError::Refused)?;
                let edk = Edk {
                    provider: NAMESPACE.into(),
                    info: decode(info)?.into(),
                    ciphertext: decode(ciphertext)?.into(),
                };
                let key = aes_edk::unwrap(&*read(path)?, NAMESPACE, name, &edk, &EncryptionContext::new());
                key.map(|key| Zeroizing::new(*key.expose())).ok_or(RootError::Refused)
            }
            Self::Transit(transit) => Ok(transit.decrypt(name, wrapped).await?),
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(module) => {
                let (module, name, wrapped) =
                    (std::sync::Arc::clone(module), name.to_owned(), wrapped.to_owned());
                let key = tokio::task::spawn_blocking(move || module.decrypt(&name, &wrapped)).await;
                Ok(key.map_err(|_| RootError::Crypto)??)
            }
            Self::Unsupported => Err(RootError::Unsupported),
        }
    }
}

/// The key of a file, read for each use: it is used rarely and lies in memory not longer than that.
fn read(path: &Path) -> Result<BranchKey, RootError> {
    let secret = Secret::read(path)?;
    let text = secret.expose_text().ok_or_else(|| RootError::Malformed(path.to_owned()))?;
    let mut key = BranchKey::default();
    match STANDARD.decode_slice(text, &mut *key) {
        Ok(KEY_BYTES) => Ok(key),
        _ => Err(RootError::Malformed(path.to_owned())),
    }
}
